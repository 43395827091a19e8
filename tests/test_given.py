"""What a caller hands over: a signature is a promise, and what breaks it is told so in one sentence."""

from __future__ import annotations

import enum
from typing import Any

import numpy
import pytest

from sevlab.given import checked, having, number, shown


class Later(enum.IntEnum):
    """A number that is more than one."""

    ONE = 1


class Thing:
    """A class of this module."""


@checked
def takes(
    at: int,
    data: bytes = b"",
    name: str | None = None,
    thing: Thing | None = None,
    *,
    free: Any = None,
    most: list[int] | None = None,
) -> tuple[Any, ...]:
    """A function with a signature."""
    return at, data, name, thing, free, most


@pytest.mark.parametrize(
    "args",
    [
        (1,),
        (True,),
        (Later.ONE,),
        (numpy.uint64(7),),
        (1, bytearray(b"x")),
        (1, memoryview(b"x")),
        (1, b"", None),
        (1, b"", "x", Thing()),
    ],
    ids=["a number", "a truth", "a member", "numpy's", "a bytearray", "a view", "None", "a class of ours"],
)
def test_what_a_signature_lets_in_comes_through_as_it_is(args: tuple[Any, ...]) -> None:
    assert takes(*args)[: len(args)] == args


@pytest.mark.parametrize(
    ("args", "kw", "sentence"),
    [
        (("1",), {}, "at is a number, not '1'"),
        ((1.0,), {}, "at is a number, not 1.0"),
        ((None,), {}, "at is a number, not None"),
        ((1, 5), {}, "data is bytes, not 5"),
        ((1, [1]), {}, "data is bytes, not [1]"),
        ((1, b"", 3), {}, "name is a text, not 3"),
        ((1,), {"name": b"x"}, "name is a text, not b'x'"),
        ((1,), {"thing": 4}, "thing is a Thing, not 4"),
    ],
)
def test_another_kind_is_refused_by_the_name_of_the_argument(args: tuple[Any, ...], kw: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TypeError) as told:
        takes(*args, **kw)
    assert str(told.value) == sentence


def test_a_text_in_the_place_of_bytes_is_not_quoted_since_it_may_be_a_key() -> None:
    with pytest.raises(TypeError, match=r"^data is bytes, not str$"):
        takes(1, "00112233")  # type: ignore[arg-type]


def test_what_a_signature_cannot_say_in_a_word_is_the_function_s_own_affair() -> None:
    assert takes(1, free=3, most=5)[-2:] == (3, 5)  # type: ignore[arg-type]


def test_too_many_or_unknown_arguments_are_python_s_to_refuse() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        takes(1, b"", None, None, 5)  # type: ignore[misc]
    with pytest.raises(TypeError, match="unexpected keyword"):
        takes(1, colour="red")  # type: ignore[call-arg]


def test_a_class_defined_below_the_function_is_known_when_it_is_called() -> None:
    names: dict[str, Any] = {"checked": checked}
    exec("from __future__ import annotations\n@checked\ndef f(x: Below): return x\nclass Below: pass\n", names)

    assert names["f"](made := names["Below"]()) is made
    with pytest.raises(TypeError, match="x is a Below, not 3"):
        names["f"](3)


def test_a_checked_function_keeps_its_name_and_its_words() -> None:
    assert (takes.__name__, takes.__doc__) == ("takes", "A function with a signature.")


@pytest.mark.parametrize(
    ("value", "bounds", "error", "sentence"),
    [
        (-1, {"least": 0}, ValueError, "n is at least 0, not -1"),
        (4, {"least": 5, "most": 9}, ValueError, "n is a number from 5 to 9, not 4"),
        (1 << 33, {"least": 0, "most": 0xFFFF_FFFF}, ValueError, "n is a number from 0 to 0xffffffff, not 0x200000000"),
        ("3", {}, TypeError, "n is a number, not '3'"),
        (2.5, {"least": 0}, TypeError, "n is a number, not 2.5"),
    ],
)
def test_a_number_has_a_kind_and_a_range(value: Any, bounds: dict[str, int], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as told:
        number("n", value, **bounds)
    assert str(told.value) == sentence


def test_the_ends_of_a_range_are_in_it() -> None:
    assert [number("n", value, 5, 9) for value in (5, 9)] == [5, 9]


def test_what_lacks_an_attribute_is_not_the_thing() -> None:
    assert having("x", b"abc", ("hex", "find"), "bytes") == b"abc"
    with pytest.raises(TypeError, match=r"^x is a list, not 5$"):
        having("x", 5, ("append",), "a list")


def test_a_long_value_is_quoted_by_its_beginning() -> None:
    assert shown("a" * 100) == f"'{'a' * 47}..."
