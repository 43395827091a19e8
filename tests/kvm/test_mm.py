"""Address spaces: what is mapped, what is touched, what is pinned, what is shared."""

from __future__ import annotations

from errno import EBUSY, EFAULT, EINVAL, ENOMEM, EPERM
from typing import Any

import pytest
from bare_kernel import BareKernel, Device
from hypothesis import given
from hypothesis import strategies as st

from sevlab.kvm.fd import KvmError
from sevlab.kvm.frames import Frames
from sevlab.kvm.mm import MMAP_MIN, PAGE, TASK_SIZE, Backing, Mm


@pytest.fixture
def frames() -> Frames:
    return BareKernel().frames


@pytest.fixture
def mm(frames: Frames) -> Mm:
    return Mm(frames)


def refused(function: Any, *args: Any, **kw: Any) -> int:
    with pytest.raises(KvmError) as no:
        function(*args, **kw)
    return no.value.errno or 0


# ------------------------------------------------------------------- mappings


def test_fresh_memory_is_zero_and_costs_nothing_until_it_is_written(mm: Mm) -> None:
    free = mm.frames.free
    va = mm.mmap(1 << 30)
    assert mm.read(va + (1 << 29), 100) == bytes(100)
    assert mm.frames.free == free

    mm.write(va + (1 << 29), b"x")
    assert mm.frames.free == free - 1


def test_a_length_is_rounded_up_to_pages(mm: Mm) -> None:
    va = mm.mmap(1)
    mm.write(va + PAGE - 1, b"x")

    assert refused(mm.write, va + PAGE, b"x") == EFAULT


def test_two_mappings_never_touch_so_that_running_over_the_end_is_found_out(mm: Mm) -> None:
    one, two = mm.mmap(PAGE), mm.mmap(PAGE)

    assert abs(one - two) >= 2 * PAGE


def test_a_large_mapping_lies_on_a_large_boundary(mm: Mm) -> None:
    mm.mmap(PAGE)

    assert mm.mmap(4 << 20) % (2 << 20) == 0


def test_an_address_that_was_unmapped_is_not_used_again(mm: Mm) -> None:
    stale = mm.mmap(PAGE)
    mm.munmap(stale, PAGE)
    mm.mmap(PAGE)

    assert refused(mm.read, stale, 1) == EFAULT


def test_at_maps_exactly_there_in_place_of_what_was(mm: Mm) -> None:
    va = mm.mmap(3 * PAGE)
    mm.write(va, b"a" * 3 * PAGE)

    assert mm.mmap(PAGE, at=va + PAGE) == va + PAGE
    assert mm.read(va + PAGE - 1, PAGE + 2) == b"a" + bytes(PAGE) + b"a"


TOP = TASK_SIZE - PAGE


@pytest.mark.parametrize(
    ("length", "at", "code"),
    [
        (0, None, EINVAL),
        (-5, None, EINVAL),
        (1 << 47, None, ENOMEM),
        (1 << 70, None, ENOMEM),
        (PAGE, 0x20001, EINVAL),
        (PAGE, -PAGE, ENOMEM),
        (PAGE, 0, EPERM),
        (PAGE, MMAP_MIN - PAGE, EPERM),
        (PAGE, TOP + PAGE, ENOMEM),
        (2 * PAGE, TOP, ENOMEM),
        (PAGE, MMAP_MIN, 0),
        (PAGE, TOP, 0),
    ],
)
def test_what_mmap_refuses(mm: Mm, length: int, at: int | None, code: int) -> None:
    if code:
        assert refused(mm.mmap, length, at=at) == code
    else:
        assert mm.mmap(length, at=at) == at


@pytest.mark.parametrize(
    ("va", "length", "code"),
    [(1, PAGE, EINVAL), (0x10000, 0, EINVAL), (TOP, 2 * PAGE, EINVAL), (-PAGE, PAGE, EINVAL), (0, 1 << 60, EINVAL)],
)
def test_what_munmap_refuses(mm: Mm, va: int, length: int, code: int) -> None:
    assert refused(mm.munmap, va, length) == code


def test_munmap_of_nothing_is_no_error(mm: Mm) -> None:
    assert mm.munmap(0x10000, 1 << 30) is None


def test_unmapping_the_middle_leaves_both_ends_and_frees_the_middle(mm: Mm) -> None:
    free = mm.frames.free
    va = mm.mmap(4 * PAGE)
    mm.write(va, bytes(range(4)) * PAGE)
    mm.munmap(va + PAGE, 2 * PAGE)

    assert mm.read(va + PAGE - 4, 4) == mm.read(va + 3 * PAGE, 4) == bytes(range(4))
    assert refused(mm.read, va + PAGE, 1) == refused(mm.read, va + 3 * PAGE - 1, 1) == EFAULT
    assert mm.frames.free == free - 2


def test_when_all_is_unmapped_every_frame_is_back(mm: Mm) -> None:
    free = mm.frames.free
    for _ in range(3):
        mm.write(mm.mmap(10 * PAGE), b"x" * 7 * PAGE)
    mm.teardown()

    assert mm.frames.free == free


def test_who_looks_on_is_told_before_the_frames_go(mm: Mm) -> None:
    va = mm.mmap(4 * PAGE)
    mm.write(va, b"still here")
    told = []
    mm.notifiers.append(lambda start, n: told.append((start, n, mm.read(va, 5))))
    mm.munmap(va - PAGE, 3 * PAGE)

    assert told == [(va, 2 * PAGE, b"still")]


def test_a_file_is_kept_by_its_mappings_also_when_they_are_split(mm: Mm) -> None:
    file = Device(backing=Backing(mm.frames, 3, shared=True))
    va = mm.mmap(3 * PAGE, backing=file.memory, file=file)
    file.put()
    mm.munmap(va + PAGE, PAGE)
    assert (file.refs, file.released) == (2, 0)

    mm.munmap(va, PAGE)
    assert file.released == 0
    mm.munmap(va + 2 * PAGE, PAGE)
    assert file.released == 1


# ----------------------------------------------------------------------- bytes


def test_bytes_go_over_page_and_run_boundaries(mm: Mm) -> None:
    va = mm.mmap(4 * PAGE)
    for page in (2, 0, 3, 1):  # first touches out of order: no two pages are neighbours in memory
        mm.write(va + page * PAGE, b"?")
    data = bytes(range(251)) * 50
    mm.write(va + 1000, data)

    assert mm.read(va + 1000, len(data)) == data
    assert len(mm.find(va).backing._extents) == 4  # type: ignore[union-attr]


def test_a_read_over_touched_and_untouched_pages_is_zero_where_nothing_was(mm: Mm) -> None:
    va = mm.mmap(3 * PAGE)
    mm.write(va + PAGE, b"y" * PAGE)

    assert mm.read(va + 10, 3 * PAGE - 20) == bytes(PAGE - 10) + b"y" * PAGE + bytes(PAGE - 10)


@pytest.mark.parametrize("n", [1, PAGE, PAGE + 1])
def test_a_read_with_a_hole_in_it_is_efault(mm: Mm, n: int) -> None:
    va = mm.mmap(PAGE)

    assert refused(mm.read, va + PAGE - n + 1, n) == EFAULT


def test_a_write_that_meets_a_hole_has_written_what_lies_before(mm: Mm) -> None:
    va = mm.mmap(2 * PAGE)

    assert refused(mm.write, va + PAGE, b"z" * 2 * PAGE) == EFAULT
    assert mm.read(va + PAGE, PAGE) == b"z" * PAGE


def test_a_fault_says_at_which_address(mm: Mm) -> None:
    va = mm.mmap(PAGE)
    with pytest.raises(KvmError, match=f"{va + PAGE:#x}: nothing is mapped there"):
        mm.read(va + 5, PAGE)

    with pytest.raises(KvmError, match="0x123: nothing is mapped there"):
        mm.read(0x123, 4)


@pytest.mark.parametrize("va", [0, 0xFFFF, 1 << 63, (1 << 64) - 4, 1 << 80])
def test_a_wild_pointer_is_efault_in_every_way_of_using_it(mm: Mm, va: int) -> None:
    for use in (lambda: mm.read(va, 8), lambda: mm.write(va, bytes(8)), lambda: mm.page(va), lambda: mm.pin(va, 8)):
        assert refused(use) == EFAULT


def test_nothing_read_or_written_is_no_fault_anywhere(mm: Mm) -> None:
    assert mm.read(0, 0) == b""
    assert mm.write(0, b"") is None


def test_beyond_the_end_of_a_file_there_is_nothing_although_it_is_mapped(mm: Mm) -> None:
    va = mm.mmap(4 * PAGE, backing=Backing(mm.frames, 2, shared=True))
    mm.write(va, b"x" * 2 * PAGE)

    for use in (
        lambda: mm.read(va + 2 * PAGE, 1),
        lambda: mm.write(va + PAGE, b"x" * (PAGE + 1)),
        lambda: mm.pin(va, 3 * PAGE),
        lambda: mm.page(va + 3 * PAGE),
    ):
        assert refused(use) == EFAULT


def test_translate_tells_where_a_page_lies_and_touches_nothing(mm: Mm) -> None:
    va = mm.mmap(2 * PAGE)
    mm.write(va, b"here")
    assert mm.dram.read(mm.translate(va + 1), 3) == b"ere"

    free = mm.frames.free
    assert refused(mm.translate, va + PAGE) == refused(mm.translate, va + 2 * PAGE) == EFAULT
    assert mm.frames.free == free


def test_when_frames_run_out_a_first_touch_is_enomem_and_changes_nothing(mm: Mm) -> None:
    va = mm.mmap(1 << 30)
    mm.write(va, b"kept")
    free = mm.frames.free

    for use in (lambda: mm.write(va + PAGE, bytes(128 << 20)), lambda: mm.pin(va, 128 << 20)):
        assert refused(use) == ENOMEM
        assert mm.frames.free == free
    assert mm.read(va, 4) == b"kept"


# ------------------------------------------------------------------------ laws

AREA = 16  # pages
BASE = 0x4000_0000

ACTIONS = st.one_of(
    st.tuples(st.just("map"), st.integers(0, AREA - 1), st.integers(1, AREA)),
    st.tuples(st.just("unmap"), st.integers(0, AREA - 1), st.integers(1, AREA)),
    st.tuples(st.just("write"), st.integers(0, AREA * PAGE), st.integers(1, 3 * PAGE)),
    st.tuples(st.just("pin"), st.integers(0, AREA * PAGE), st.integers(1, 3 * PAGE)),
    st.tuples(st.just("release"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("move"), st.integers(0, AREA - 1), st.just(0)),
)


class Model:
    """What an address space should be: a bytearray for each mapped page."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}

    def write(self, at: int, data: bytes) -> bool:
        for i, byte in enumerate(data):
            if (at + i) // PAGE not in self.pages:
                return False
            self.pages[(at + i) // PAGE][(at + i) % PAGE] = byte
        return True


@given(st.lists(ACTIONS, max_size=30))
def test_law_an_address_space_reads_as_it_was_written_and_leaves_nothing_behind(script: list[tuple[str, int, int]]) -> None:
    frames = BareKernel().frames
    mm, model, pins, free = Mm(frames), Model(), [], frames.free
    for turn, (what, a, b) in enumerate(script):
        try:
            match what:
                case "map":
                    mm.mmap(b * PAGE, at=BASE + a * PAGE)
                    model.pages.update({page: bytearray(PAGE) for page in range(a, a + b)})
                case "unmap":
                    mm.munmap(BASE + a * PAGE, b * PAGE)
                    for page in range(a, a + b):
                        model.pages.pop(page, None)
                case "write":
                    data = bytes([turn + 1]) * b
                    whole = model.write(a, data)
                    mm.write(BASE + a, data)
                    assert whole
                case "pin":
                    pins.append(mm.pin(BASE + a, b))
                case "release":
                    pins[a % len(pins)].release() if pins else None
                case "move":
                    mm.move(BASE + a * PAGE)
        except KvmError as no:
            assert no.errno == EFAULT or (what == "move" and no.errno == EBUSY)

    for page in range(2 * AREA):
        if page in model.pages:
            assert mm.read(BASE + page * PAGE, PAGE) == model.pages[page]
        else:
            assert refused(mm.read, BASE + page * PAGE, 1) == EFAULT
    mm.teardown()
    for pin in pins:
        pin.release()
    assert frames.free == free
    assert frames.pages.pinned() == 0
    assert frames.pages.counts()["host"] == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["write", "fork", "end"]), st.integers(0, 7)), max_size=20))
def test_law_forks_are_isolated_and_a_memfd_is_not(script: list[tuple[int, str, int]]) -> None:
    frames = BareKernel().frames
    free = frames.free
    backing = Backing(frames, 8, shared=True).hold()
    first = Mm(frames)
    private, common = first.mmap(8 * PAGE), first.mmap(8 * PAGE, backing=backing)
    family = [(first, {})]
    shared: dict[int, int] = {}
    for turn, (who, what, page) in enumerate(script, 1):
        if not family:
            break
        mm, mine = family[who % len(family)]
        if what == "write":
            mm.write(private + page * PAGE, bytes([turn]))
            mm.write(common + page * PAGE, bytes([turn]))
            mine[page] = shared[page] = turn
        elif what == "fork":
            family.append((mm.fork(), dict(mine)))
        else:
            mm.teardown()
            family.remove((mm, mine))

    for mm, mine in family:
        for page in range(8):
            assert mm.read(private + page * PAGE, 1)[0] == mine.get(page, 0)
            assert mm.read(common + page * PAGE, 1)[0] == shared.get(page, 0)
        mm.teardown()
    backing.drop()
    assert frames.free == free
