"""Programs as measured bytes: what the digest covers, what it refuses, and how a page is found again."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from hw.cells import digest_of

from sevlab.hw.isa import cpuid, hlt, load, store
from sevlab.hw.measure import encode
from sevlab.hw.program import ARGS_ROOM, PAGE, ImageHeader, Program, Programs, program
from sevlab.wire import Wire, u32

WHERE = 0x1000

GLOBAL = 0


class Layout(Wire):
    magic: Annotated[bytes, 4] = b""  # 0x00
    length: u32 = 0  # 0x04


class Colour(enum.IntEnum):
    RED = 1


def helper(n: int) -> bytes:
    return deeper(n) + b"!"


def deeper(n: int) -> bytes:
    return bytes(n)


@program
async def hello() -> None:
    """A page to begin with."""
    await store(WHERE, helper(3))
    await hlt()


GUEST = "async def guest():\n    await store(WHERE, helper(1))\n"


def names(where: int = 1, body: str = "return bytes(n)") -> dict[str, Any]:
    return {"WHERE": where, "helper": _function(f"def helper(n):\n    {body}\n")}


def _function(source: str) -> Any:
    import linecache

    name = f"<helper {source}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    space: dict[str, Any] = {}
    exec(compile(source, name, "exec"), space)
    return space["helper"]


# ------------------------------------------------------------------ the digest


def test_the_same_program_has_the_same_digest_wherever_it_is_written_down() -> None:
    indented = "if True:\n" + "".join("    " + line for line in GUEST.splitlines(keepends=True))

    assert (
        digest_of(GUEST, **names())
        == digest_of(GUEST, **names())
        == digest_of("\n\n" + GUEST, **names())
        == digest_of(indented, **names())
    )


@pytest.mark.parametrize(
    ("source", "around"),
    [
        (GUEST.replace("helper(1)", "helper(2)"), names()),
        (GUEST + "    await hlt()\n", names()),
        (GUEST.replace("(WHERE", "( WHERE"), names()),
        (GUEST.replace("    await", "    # a comment\n    await"), names()),
        (GUEST, names(where=2)),
        (GUEST, names(where=True)),
        (GUEST, names(body="return bytes(n + 0)")),
        (GUEST.replace("async def guest()", "async def guest(n=1)"), names()),
    ],
    ids=["operand", "instruction", "space", "comment", "constant", "kind of constant", "a function's body", "default"],
)
def test_any_word_that_changes_changes_the_digest(source: str, around: dict[str, Any]) -> None:
    assert digest_of(source, **around) != digest_of(GUEST, **names())


def test_a_function_that_a_function_calls_is_measured_too() -> None:
    def digest(inner: Callable[[int], bytes]) -> bytes:
        def outer(n: int) -> bytes:
            return inner(n)

        async def guest() -> None:
            await store(0, outer(1))

        return Program(guest).digest

    def one(n: int) -> bytes:
        return bytes(n)

    def two(n: int) -> bytes:
        return bytes(n + 1)

    assert digest(one) == digest(one) != digest(two)


def test_what_a_program_closes_over_is_measured() -> None:
    def digest(text: bytes) -> bytes:
        async def guest() -> None:
            await store(0, text)

        return Program(guest).digest

    assert digest(b"one") == digest(b"one") != digest(b"two")


def test_a_program_that_calls_itself_or_another_program_has_a_digest() -> None:
    async def down(n: int) -> None:
        if n:
            await down(n - 1)

    async def caller() -> None:
        await hello()

    assert len({Program(down).digest, Program(caller).digest, hello.digest}) == 3


def test_the_decorator_is_no_part_of_the_program() -> None:
    assert digest_of("@mark\n" + GUEST, mark=lambda f: f, **names()) == digest_of(GUEST, **names())


def test_the_handler_of_vc_is_measured_with_the_program() -> None:
    async def guest() -> None:
        await hlt()

    async def one(instruction: Any) -> None:
        await hlt()

    async def two(instruction: Any) -> None:
        await cpuid(1)

    assert len({Program(guest).digest, Program(guest, vc=one).digest, Program(guest, vc=two).digest}) == 3


def test_layouts_and_enumerations_are_constants() -> None:
    async def guest() -> None:
        found = Layout.unpack(await load(0, Layout.SIZE))
        await store(0, bytes([found.length == Colour.RED]))

    assert Program(guest).digest == Program(guest).digest


def test_the_program_that_runs_is_the_one_that_was_measured() -> None:
    global GLOBAL
    GLOBAL = 1

    async def guest() -> int:
        return GLOBAL

    measured = Program(guest)
    assert measured.digest
    GLOBAL = 2

    with pytest.raises(StopIteration) as end:
        measured.function().send(None)
    assert end.value.value == 1
    assert Program(guest).digest != measured.digest


# ------------------------------------------------------------------ constants as bytes

ALIKE = [
    0,
    1,
    -1,
    True,
    False,
    None,
    "",
    "0",
    "1",
    "None",
    b"",
    b"0",
    b"1",
    0.0,
    1.0,
    (),
    (0,),
    ((0,),),
    (0, 0),
    ("0",),
    frozenset(),
    frozenset([0]),
]


def test_different_constants_are_different_bytes() -> None:
    assert len({encode(value) for value in ALIKE}) == len(ALIKE)


def test_what_stands_together_cannot_be_taken_for_something_else() -> None:
    assert encode(("a", "b")) != encode(("ab",)) and encode((b"i1:0", 0)) != encode((b"", b"i1:0", 0))


def test_a_set_is_the_same_in_any_order() -> None:
    assert encode(frozenset("abc")) == encode(frozenset("cba"))


def test_a_member_of_an_enumeration_is_its_number() -> None:
    assert encode(Colour.RED) == encode(1)


# ------------------------------------------------------------------ images


def test_an_image_is_one_page_that_names_its_program() -> None:
    image = hello.image()
    header = ImageHeader.unpack(image)

    assert len(image) == PAGE
    assert header.magic == b"sevlab program\0\0" and header.name.rstrip(b"\0") == b"hello" and header.digest == hello.digest
    assert not any(image[ImageHeader.SIZE :])


def test_arguments_are_bytes_of_the_image_and_so_measured() -> None:
    assert len({hello.image(), hello.image(1), hello.image(2), hello.image(b"1"), hello.image(1, 1), hello.image((1, 1))}) == 6


def test_arguments_that_do_not_fit_the_page_are_refused() -> None:
    assert len(hello.image(bytes(ARGS_ROOM - 16))) == PAGE
    with pytest.raises(ValueError, match="do not fit a program's page"):
        hello.image(bytes(ARGS_ROOM))


def test_a_program_knows_how_many_arguments_it_takes() -> None:
    async def two(a: int, b: int = 1) -> None:
        await hlt()

    async def any_number(*all: int) -> None:
        await hlt()

    assert (hello.arity, Program(two).arity, Program(any_number).arity) == (0, 2, None)


# ------------------------------------------------------------------ the programs of a host


def test_a_program_is_found_by_its_page_and_by_nothing_else() -> None:
    programs = Programs()
    page = programs.add(hello)

    assert programs.find(page) == (hello, ())
    for at in (0, 20, 70, 0x60, 0x800, PAGE - 1):
        changed = bytearray(page)
        changed[at] ^= 1
        assert programs.find(bytes(changed)) is None


def test_arguments_come_back_with_the_program() -> None:
    programs = Programs()

    assert programs.find(programs.add(hello, args=(1, b"x"))) == (hello, (1, b"x"))


def test_a_stand_in_is_found_by_the_foreign_page() -> None:
    programs, foreign = Programs(), bytes(range(256)) * 16
    programs.add(hello, page=foreign, args=(0x810000, 16))

    assert programs.find(foreign) == (hello, (0x810000, 16))
    assert programs.find(hello.image()) is None


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE + 1])
def test_a_stand_in_stands_for_one_page(size: int) -> None:
    with pytest.raises(ValueError, match="stands for one page"):
        Programs().add(hello, page=bytes(size))


def test_a_plain_coroutine_function_is_taken_as_a_program() -> None:
    async def guest() -> None:
        await hlt()

    programs = Programs()

    assert programs.find(programs.add(guest)) is not None


def test_the_catalogue_is_asked_once_and_only_when_a_page_is_not_known() -> None:
    asked: list[int] = []
    programs = Programs()
    other = b"\1" * PAGE

    def catalogue() -> Any:
        asked.append(1)
        yield other, hello, (7,)

    programs.catalogue = catalogue
    page = programs.add(hello)

    assert programs.find(page) == (hello, ()) and not asked
    assert programs.find(b"\2" * PAGE) is None and programs.find(other) == (hello, (7,)) and len(asked) == 1


def test_the_catalogue_does_not_take_the_place_of_what_was_registered() -> None:
    programs, page = Programs(), b"\1" * PAGE
    programs.catalogue = lambda: [(page, hello, (1,))]
    programs.add(hello, page=page, args=(2,))

    assert programs.find(bytes(PAGE)) is None
    assert programs.find(page) == (hello, (2,))
