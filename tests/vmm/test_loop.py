"""The run loop: ports, an empty bus, start-up messages, and when it stops."""

from __future__ import annotations

import pytest

from sevlab import Host, guest, vmm
from sevlab.hw.isa import hlt, inp, load, out, pause, program, rdmsr, store, ud2, wrmsr

ICR = 0xFEE0_0300


@pytest.fixture
def host():
    with Host("naples", seed=2) as machine:
        yield machine


def run(host, code, *args, **how):
    vm = vmm.launch(host, program=code, args=args, **how)
    vm.finish()
    return vm, vm.run()


@program
async def reads_a_port_that_is_not_there():
    for size in (1, 2, 4):
        await out(0x402, await inp(0x60, size))
    await hlt()


def test_a_port_without_a_device_reads_as_ones_and_forgets(host):
    vm, last = run(host, reads_a_port_that_is_not_there)

    assert (last.name, bytes(vm.console)) == ("HLT", b"\xff" * 7)


@program
async def reads_memory_that_is_not_there():
    await store(0xD000_0000, b"\x12\x34")
    await out(0xE9, await load(0xD000_0000, 2))
    await hlt()


def test_memory_without_a_device_reads_as_ones_and_forgets(host):
    vm, last = run(host, reads_memory_that_is_not_there)

    assert (last.name, bytes(vm.console)) == ("HLT", b"\xff\xff")


@program
async def halts():
    await hlt()


@program
async def starts_the_others(page, target, shorthand):
    await store(0x9000, page + bytes(0x1000 - len(page)))
    await store(ICR + 0x10, (target << 24).to_bytes(4, "little"))
    await store(ICR, (0x500 | shorthand << 18).to_bytes(4, "little"))
    await store(ICR, (0x600 | shorthand << 18 | 0x09).to_bytes(4, "little"))
    await hlt()


@program
async def speaks():
    await out(0xE9, b"a")
    await hlt()


@pytest.mark.parametrize(
    ("target", "shorthand", "started"), [(1, 0, [True, True, False]), (2, 0, [True, False, True]), (0, 3, [True] * 3)]
)
def test_a_start_up_message_starts_the_processor_it_names(host, target, shorthand, started):
    host.register(speaks)
    vm = vmm.launch(host, program=starts_the_others, args=(speaks.image()[:0x64], target, shorthand), vcpus=3)
    vm.finish()
    last = vm.run()

    assert last.name == "HLT"
    assert [vcpu.started for vcpu in vm.vcpus] == started
    assert bytes(vm.console) == b"a" * (sum(started) - 1)


def test_processors_that_nobody_started_do_not_run(host):
    vm, last = run(host, halts, vcpus=4)

    assert last.vcpu == 0 and [vcpu.waiting for vcpu in vm.vcpus] == ["HLT", "", "", ""]


@program
async def waits_for_ever():
    while True:
        await pause()


@program
async def faults():
    await out(0xE9, b"!")
    await ud2()


def test_an_exception_without_a_handler_ends_the_guest(host):
    vm, last = run(host, faults)

    assert (last.name, bytes(vm.console)) == ("SHUTDOWN", b"!")


@program
async def never_stops_talking():
    while True:
        await out(0xE9, b".")


def test_the_loop_ends_after_its_rounds(host):
    vm = vmm.launch(host, program=never_stops_talking)
    vm.finish()
    last = vm.run(rounds=25)

    assert (last.name, len(vm.console)) == ("IO", 25)


def test_a_guest_that_only_waits_is_stopped_as_by_a_signal(host):
    _, last = run(host, waits_for_ever)

    assert last.name == "INTR"


# ------------------------------------------------------------------ interrupt controllers in the kernel


@program
async def waits_for_the_other(page):
    """Start vCPU 1 by x2APIC and spin until it has spoken: in turns, or never."""
    await store(0x9000, page + bytes(0x1000 - len(page)))
    await store(0xA000, b"\0")
    await wrmsr(0x1B, await rdmsr(0x1B) | 1 << 10)
    for message in (0x4500, 0x4609, 0x4609):
        await wrmsr(0x830, 1 << 32 | message)
    while await load(0xA000, 1) == b"\0":
        await pause()
    await out(0xE9, b"b")
    await hlt()


@program
async def speaks_and_stores():
    await out(0xE9, b"a")
    await store(0xA000, b"\1")
    await hlt()


def test_two_vcpus_take_turns_even_where_one_spins_for_the_other(host):
    host.register(speaks_and_stores)
    args = (speaks_and_stores.image()[:0x64],)
    vm = vmm.launch(host, program=waits_for_the_other, args=args, vcpus=2, irqchip=True)
    vm.finish()
    last = vm.run()

    assert (last.name, bytes(vm.console)) == ("INTR", b"ab")
    assert [vcpu.waiting for vcpu in vm.vcpus] == ["INTR", "INTR"]


def test_processors_that_nobody_starts_wait_in_the_kernel(host):
    vm = vmm.launch(host, program=halts, vcpus=3, irqchip=True)
    vm.finish()
    last = vm.run()

    assert (last.vcpu, last.name) == (0, "INTR") and "halted" in last.detail
    assert all(vcpu.started and vcpu.call is None for vcpu in vm.vcpus)


def test_a_guest_that_spins_for_a_processor_that_never_comes_is_stopped(host):
    vm = vmm.launch(host, program=waits_for_ever, vcpus=2, irqchip=True)
    vm.finish()

    assert vm.run().name == "INTR"


@program
async def stops_at_once() -> None:
    """Meet an instruction that is none, without a handler for it."""
    await ud2()


def test_vms_of_several_processes_take_turns_and_one_that_needs_somebody_stands_still() -> None:
    with Host(seed=1) as host:
        counting = vmm.launch(host, program=guest.counter)
        broken = vmm.launch(host, program=stops_at_once, name="other")
        for vm in (counting, broken):
            vm.finish()
        first, second = vmm.together(counting, broken)

        assert second.name == "SHUTDOWN"
        assert first.name in ("HLT", "INTR")
        assert vmm.together(counting)[0].name == first.name


def test_no_vm_at_all_is_no_exit() -> None:
    assert vmm.together() == []
