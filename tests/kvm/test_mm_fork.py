"""Memory that two address spaces share, and what a fork copies."""

from __future__ import annotations

from errno import EINVAL, ENOMEM
from typing import Any

import pytest
from bare_kernel import BareKernel, Device

from sevlab.kvm.fd import KvmError
from sevlab.kvm.frames import Frames
from sevlab.kvm.mm import PAGE, Backing, Mm


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


def test_two_address_spaces_share_a_backing_and_the_last_one_frees_it(mm: Mm) -> None:
    free = mm.frames.free
    other = Mm(mm.frames)
    backing = Backing(mm.frames, 2, shared=True)
    here, there = mm.mmap(2 * PAGE, backing=backing), other.mmap(2 * PAGE, backing=backing)
    mm.write(here + 10, b"hello")
    assert other.read(there + 10, 5) == b"hello"
    assert mm.translate(here) == other.translate(there)

    mm.teardown()
    assert other.read(there + 10, 5) == b"hello"
    other.teardown()
    assert mm.frames.free == free


def test_shared_memory_outlives_its_mappings_as_long_as_it_is_held(mm: Mm) -> None:
    free = mm.frames.free
    backing = Backing(mm.frames, 1, shared=True).hold()
    va = mm.mmap(PAGE, backing=backing)
    mm.write(va, b"kept")
    mm.munmap(va, PAGE)
    assert mm.read(mm.mmap(PAGE, backing=backing), 4) == b"kept"

    mm.teardown()
    backing.drop()
    assert mm.frames.free == free


def test_a_backing_shows_its_raw_bytes_where_its_frames_are_neighbours(mm: Mm) -> None:
    backing = Backing(mm.frames, 4, shared=True)
    va = mm.mmap(4 * PAGE, backing=backing)
    backing.view(0, 2)[PAGE : PAGE + 3] = b"raw"
    assert mm.read(va + PAGE, 3) == b"raw"

    mm.frames.take(1)
    assert refused(backing.view, 0, 4) == EINVAL


def test_untouched_pages_that_shall_be_neighbours_are_found_a_place(mm: Mm) -> None:
    ((first, _),) = mm.frames.take(8)
    for pfn in (first + 1, first + 3, first + 5):
        mm.frames.give(pfn, 1)
    backing = Backing(mm.frames, 3, shared=True)

    assert len(backing.view(0, 3)) == 3 * PAGE
    assert backing.page(0) == first + 8


def test_fork_copies_private_pages_and_shares_the_others(mm: Mm) -> None:
    shared = Backing(mm.frames, 1, shared=True)
    private, common = mm.mmap(3 * PAGE), mm.mmap(PAGE, backing=shared)
    mm.write(private + PAGE, b"mine")
    mm.write(common, b"ours")
    child = mm.fork()
    mm.write(private + PAGE, b"MINE")
    mm.write(common, b"OURS")
    child.write(private, b"child")

    assert (child.read(private + PAGE, 4), child.read(common, 4)) == (b"mine", b"OURS")
    assert mm.read(private, 5) == bytes(5)
    assert child.translate(private + PAGE) != mm.translate(private + PAGE)


def test_the_child_of_a_fork_maps_elsewhere_what_it_maps_later(mm: Mm) -> None:
    va = mm.mmap(PAGE)
    child = mm.fork()

    assert child.mmap(PAGE) < va - PAGE


def test_a_fork_of_unmapped_but_pinned_memory_copies_none_of_it(mm: Mm) -> None:
    va = mm.mmap(4 * PAGE)
    pin = mm.pin(va, 4 * PAGE)
    mm.munmap(va + PAGE, 3 * PAGE)
    free = mm.frames.free
    child = mm.fork()

    assert mm.frames.free == free - 1
    child.teardown()
    mm.teardown()
    pin.release()


def test_a_fork_without_the_memory_for_it_is_enomem_and_leaves_nothing(mm: Mm) -> None:
    file = Device(backing=Backing(mm.frames, 1, shared=True))
    mm.mmap(PAGE, backing=file.memory, file=file)
    mm.write(mm.mmap(40 << 20), bytes(40 << 20))
    free, refs = mm.frames.free, file.refs

    assert refused(mm.fork) == ENOMEM
    assert (mm.frames.free, file.refs) == (free, refs)
