"""Swap: bytes that leave their frame and come back to another. What the review of 2017 feared, done by an honest kernel."""

from __future__ import annotations

from errno import EBUSY, EFAULT

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab import Host, vmm
from sevlab.hw.isa import hlt, load, program, store
from sevlab.hw.pages import FREE, MOVED, STALE
from sevlab.vmm import ram

PAGE = 0x1000


@program
async def keeper() -> None:
    """Keep a line in memory that nobody registered; after a while, say what stands there."""
    await store(0x4000_0000, b"a line in a BAR.")
    await hlt()
    await store(0x6000, await load(0x4000_0000, 16), c=False)
    await hlt()


def test_a_process_never_notices_that_its_page_was_away() -> None:
    with Host(seed=1) as host:
        qemu = host.process("qemu")
        hva = qemu.mmap(4 * PAGE)
        qemu.write(hva, b"one" + bytes(PAGE) + b"two")
        before = host.hpa(qemu, hva)
        gone = host.swap_out(qemu, hva, 4 * PAGE)

        assert gone[0] == (hva, before)
        assert len(gone) == 2  # the other two were never touched
        assert host.pages.state(before >> 12) in (MOVED, FREE)
        assert qemu.read(hva, 3) == b"one"


def test_a_guest_whose_memory_nobody_registered_reads_noise_after_a_swap() -> None:
    with Host(seed=3) as host:
        vm = vmm.launch(host, program=keeper)
        vm.finish()
        block = ram.add_block(vm, PAGE)
        ram.show(vm, block, 0x4000_0000)
        vm.run()
        host.swap_out(vm.process, block.hva)
        vm.process.write(vm.process.mmap(PAGE), b"another takes the frame")
        vm.run()

        assert vm.read(0x6000, 16) != b"a line in a BAR."
        assert host.pages.state(host.hpa(vm.process, block.hva) >> 12) == STALE


def test_a_page_that_comes_back_to_its_own_frame_is_legible_again() -> None:
    with Host(seed=3) as host:
        vm = vmm.launch(host, program=keeper)
        vm.finish()
        block = ram.add_block(vm, PAGE)
        ram.show(vm, block, 0x4000_0000)
        vm.run()
        host.swap_out(vm.process, block.hva)
        vm.run()

        assert vm.read(0x6000, 16) == b"a line in a BAR."


def test_a_pinned_page_stays() -> None:
    with Host(seed=3) as host:
        vm = vmm.launch(host, program=keeper)
        assert host.swap_out(vm.process, vm.slots[0].hva, 4 * PAGE) == []
        with pytest.raises(OSError) as no:
            vm.process.mm.swap_out(vm.slots[0].hva)

        assert no.value.errno == EBUSY


def test_what_is_not_mapped_or_was_never_touched_cannot_be_swapped_out() -> None:
    with Host(seed=1) as host:
        qemu = host.process("qemu")
        hva = qemu.mmap(PAGE)
        assert host.swap_out(qemu, hva) == []
        for address in (hva, hva + 64 * PAGE):
            with pytest.raises(OSError) as no:
                qemu.mm.swap_out(address)
            assert no.value.errno == EFAULT
        with pytest.raises(OSError) as no:
            host.swap_out(qemu, hva, 64 * PAGE)

        assert no.value.errno == EFAULT


def test_a_child_has_the_pages_that_were_away_at_the_fork() -> None:
    with Host(seed=1) as host:
        qemu = host.process("qemu")
        hva = qemu.mmap(PAGE)
        qemu.write(hva, b"before")
        host.swap_out(qemu, hva)
        child = qemu.fork()
        qemu.write(hva, b"after.")

        assert (child.read(hva, 6), qemu.read(hva, 6)) == (b"before", b"after.")


def test_a_process_that_dies_takes_its_swapped_pages_with_it() -> None:
    with Host(seed=1) as host:
        free = host.kernel.frames.free
        qemu = host.process("qemu")
        hva = qemu.mmap(8 * PAGE)
        qemu.write(hva, bytes(8 * PAGE))
        host.swap_out(qemu, hva, 4 * PAGE)
        qemu.kill()

        assert host.kernel.frames.free == free


ACT = st.tuples(st.sampled_from(["write", "read", "swap", "move", "memfd"]), st.integers(0, 7), st.binary(min_size=1, max_size=8))


@given(st.lists(ACT, max_size=40))
def test_no_script_of_writes_moves_and_swaps_changes_what_a_process_reads(script: list[tuple[str, int, bytes]]) -> None:
    with Host(seed=1, memory=16 << 20) as host:
        one, two = host.process("one"), host.process("two")
        fd = one.memfd(8 * PAGE)
        hva = one.mmap(8 * PAGE, fd=fd)
        there = two.mmap(8 * PAGE, fd=one.send_fd(fd, two))
        model = bytearray(8 * PAGE)
        for what, page, data in script:
            at = page * PAGE
            if what == "write":
                one.write(hva + at, data)
                model[at : at + len(data)] = data
            elif what == "memfd":
                two.write(there + at, data)
                model[at : at + len(data)] = data
            elif what == "swap":
                host.swap_out(one, hva + at)
            elif what == "move":
                host.compact(one, hva + at)
            else:
                assert one.read(hva + at, 8) == two.read(there + at, 8) == bytes(model[at : at + 8])

        assert one.read(hva, 8 * PAGE) == two.read(there, 8 * PAGE) == bytes(model)
