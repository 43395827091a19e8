"""What an honest host does to memory: NUMA balancing, and the search for pages that are alike."""

from __future__ import annotations

from errno import EFAULT

import pytest

from sevlab import Host, vmm
from sevlab.hw.isa import hlt, program, store

PAGE = 0x1000


@program
async def twins() -> None:
    """Write the same page twice, in private memory."""
    await store(0x10_0000, b"the same words. " * 256)
    await store(0x10_1000, b"the same words. " * 256)
    await hlt()


def test_balancing_takes_pages_to_the_other_half_of_memory_and_back() -> None:
    with Host(seed=1, memory=64 << 20) as host:
        qemu = host.process("qemu")
        hva = qemu.mmap(4 * PAGE)
        qemu.write(hva, b"one".ljust(PAGE) + b"two")
        there = host.balance(qemu, hva, 4 * PAGE)
        back = host.balance(qemu, hva, 4 * PAGE)

        assert [new >= 32 << 20 for _, _, new in there] == [True, True]  # two were never touched
        assert [new < 32 << 20 for _, _, new in back] == [True, True]
        assert qemu.read(hva, 3) + qemu.read(hva + PAGE, 3) == b"onetwo"


def test_a_pinned_guest_is_not_balanced() -> None:
    with Host(seed=1, memory=256 << 20) as host:
        vm = vmm.launch(host, program=twins)

        assert host.balance(vm.process, vm.slots[0].hva, 8 * PAGE) == []


def test_balancing_what_is_not_mapped_is_efault() -> None:
    with Host(seed=1) as host, pytest.raises(OSError) as no:
        host.balance(host.process("qemu"), 0x5000_0000)

    assert no.value.errno == EFAULT


def test_equal_pages_of_a_process_are_found_and_those_of_a_guest_never() -> None:
    with Host(seed=1) as host:
        qemu = host.process("qemu")
        hva = qemu.mmap(3 * PAGE)
        qemu.write(hva, b"a" * PAGE + b"b" * PAGE + b"a" * PAGE)
        vm = vmm.launch(host, program=twins)
        vm.finish()
        vm.run()

        assert host.same_pages(qemu, hva, 3 * PAGE) == [[hva, hva + 2 * PAGE]]
        assert host.same_pages(vm.process, vm.hva(0x10_0000), 2 * PAGE) == []


def test_a_look_for_equal_pages_is_no_entry_and_balancing_is_one() -> None:
    with Host(seed=1) as host:
        qemu = host.process("qemu")
        hva = qemu.mmap(PAGE)
        qemu.write(hva, b"x")
        before = host.n
        host.same_pages(qemu, hva, PAGE)
        looked = host.n
        host.balance(qemu, hva)

        assert (looked, host.n) == (before, before + 1)
        past = host.at(host.n)
        assert past.hpa(past.processes["qemu"], hva) == host.hpa(qemu, hva)
