"""What KVM does with each exit: handled in the kernel, or user space's, and what user space's answer brings about."""

from __future__ import annotations

from collections.abc import Callable
from errno import EINTR, EINVAL

import pytest
from kvm.guests import Guest
from sev_rig import Rig, refuses

from sevlab.abi.kvm import (
    KVM_EXIT_FAIL_ENTRY,
    KVM_EXIT_HLT,
    KVM_EXIT_SHUTDOWN,
    KVM_MP_STATE_HALTED,
    KVM_MP_STATE_RUNNABLE,
    KVM_NMI,
    KVM_RUN,
    kvm_cpuid_entry2,
    kvm_run_fail_entry,
    kvm_run_io,
)
from sevlab.hw import vmcb as codes
from sevlab.hw.isa import Fault, cpuid, hlt, ins, outs, pause, program, rdmsr, store, vmmcall, wbinvd, wrmsr
from sevlab.kvm import designs
from sevlab.kvm.call import Blocked
from sevlab.kvm.exits import EXITS, HANDLERS
from sevlab.kvm.intercepts import PIO_PAGE
from sevlab.kvm.vcpu import VmExit

KINDS = ("plain", "sev")


@program
async def rest() -> None:
    while True:
        await hlt()


# ------------------------------------------------------------------ the table


def test_every_code_that_the_processor_can_say_has_a_row() -> None:
    said = {getattr(codes, name) for name in vars(codes) if name.startswith("EXIT_")}

    assert said == set(EXITS) == set(HANDLERS)


def test_every_exit_is_a_row_of_the_trace(rig: Rig) -> None:
    @program
    async def guest() -> None:
        await cpuid(1)
        await hlt()

    Guest(rig, guest).run()

    assert [row["code"] for row in rig.rows(VmExit)] == [codes.EXIT_CPUID, codes.EXIT_HLT]


# ------------------------------------------------------------------ CPUID


@program
async def asks(leaf: int, subleaf: int) -> None:
    answer = await cpuid(leaf, subleaf)
    await store(0x1000, b"".join(value.to_bytes(4, "little") for value in answer), c=False)
    await hlt()


LEAVES = (
    kvm_cpuid_entry2(1, 0, 0, 0x830F10, 2, 3, 4),
    kvm_cpuid_entry2(4, 0, 1, 5, 6, 7, 8),
    kvm_cpuid_entry2(4, 1, 1, 9, 10, 11, 12),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("leaf", "subleaf", "answer"),
    [
        (1, 0, (0x830F10, 2, 3, 4)),
        (1, 7, (0x830F10, 2, 3, 4)),
        (4, 0, (5, 6, 7, 8)),
        (4, 1, (9, 10, 11, 12)),
        (4, 2, (0, 0, 0, 0)),
        (0x8000001F, 0, (0, 0, 0, 0)),
    ],
)
def test_cpuid_is_what_user_space_set_and_zero_elsewhere(
    rig: Rig, kind: str, leaf: int, subleaf: int, answer: tuple[int, ...]
) -> None:
    guest = Guest(rig, asks, leaf, subleaf, kind=kind)
    guest.set_cpuid(*LEAVES)

    assert guest.run() == KVM_EXIT_HLT
    assert guest.read(0x1000, 16) == b"".join(value.to_bytes(4, "little") for value in answer)


def test_without_any_leaf_cpuid_is_zero(rig: Rig) -> None:
    guest = Guest(rig, asks, 1, 0)

    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 16) == bytes(16)


# ------------------------------------------------------------------ HLT


@pytest.mark.parametrize("kind", [*KINDS, "es"])
def test_without_an_irqchip_hlt_is_user_spaces(rig: Rig, kind: str) -> None:
    guest = Guest(rig, rest, kind=kind)

    assert [guest.run(), guest.run()] == [KVM_EXIT_HLT] * 2
    assert guest.mp_state() == KVM_MP_STATE_RUNNABLE


def test_with_an_irqchip_hlt_waits_in_the_kernel(rig: Rig) -> None:
    guest = Guest(rig, rest, irqchip=True)

    with pytest.raises(Blocked) as blocked:
        guest.run()

    assert blocked.value.errno == EINTR and "no interrupt is pending" in blocked.value.why
    assert guest.mp_state() == KVM_MP_STATE_HALTED
    assert guest.reason() == 10  # KVM_EXIT_INTR


def test_an_interrupt_ends_the_wait_and_the_guest_goes_on_behind_its_hlt(rig: Rig) -> None:
    @program
    async def guest_program() -> None:
        await hlt()
        await store(0x1000, b"woken", c=False)
        while True:
            await hlt()

    guest = Guest(rig, guest_program, irqchip=True)
    with pytest.raises(Blocked):
        guest.run()

    guest.ioctl(KVM_NMI)
    with pytest.raises(Blocked):
        guest.run()

    assert guest.read(0x1000, 5) == b"woken"


# ------------------------------------------------------------------ MSRs and hypercalls


@pytest.mark.parametrize("msr", [0x174, 0x277, 0xC000_0081, 0xC000_0100, 0xC000_0102])
def test_a_register_keeps_what_the_guest_wrote(rig: Rig, msr: int) -> None:
    @program
    async def guest_program(msr: int) -> None:
        await wrmsr(msr, 0x12345678_9ABCDEF0)
        await store(0x1000, (await rdmsr(msr)).to_bytes(8, "little"), c=False)
        await hlt()

    guest = Guest(rig, guest_program, msr)

    assert guest.run() == KVM_EXIT_HLT and int.from_bytes(guest.read(0x1000, 8), "little") == 0x12345678_9ABCDEF0


def test_time_passes_by_the_virtual_clock(rig: Rig) -> None:
    @program
    async def guest_program() -> None:
        await store(0x1000, (await rdmsr(0x10)).to_bytes(8, "little") + (await rdmsr(0x10)).to_bytes(8, "little"), c=False)
        await hlt()

    guest = Guest(rig, guest_program)
    guest.run()
    first, second = (int.from_bytes(guest.read(at, 8), "little") for at in (0x1000, 0x1008))

    assert 0 < first < second <= rig.trace.now


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("msr", [0x1234, 0xC001_0130, 0xC001_0131])
def test_a_register_that_is_not_there_is_a_general_protection_fault(rig: Rig, msr: int, write: bool) -> None:
    @program
    async def guest_program() -> None:
        try:
            await (wrmsr(msr, 1) if write else rdmsr(msr))
        except Fault as fault:
            await store(0x1000, bytes([fault.vector]), c=False)
        await hlt()

    guest = Guest(rig, guest_program)

    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 1) == b"\x0d"


def test_a_hypercall_that_nobody_knows_answers_so(rig: Rig) -> None:
    @program
    async def guest_program() -> None:
        await store(0x1000, (await vmmcall(12, 1, 2, 3)).to_bytes(8, "little") + (await vmmcall(1)).to_bytes(8, "little"), c=False)
        await hlt()

    guest = Guest(rig, guest_program)
    guest.run()

    assert guest.read(0x1000, 16) == (-1000).to_bytes(8, "little", signed=True) + bytes(8)


# ------------------------------------------------------------------ the ends


def test_a_triple_fault_is_shutdown_and_the_vcpu_is_reset(rig: Rig) -> None:
    @program
    async def guest_program() -> None:
        await store(0x1000, b"x", c=False)

    guest = Guest(rig, guest_program)
    assert [guest.run(), guest.run()] == [KVM_EXIT_SHUTDOWN] * 2, "out of reset it begins anew, and ends as before"
    assert guest.regs().rip == 0xFFF0


def test_a_changed_page_of_an_encrypted_guest_shuts_it_down(rig: Rig) -> None:
    guest = Guest(rig, rest, kind="sev")
    assert guest.run() == KVM_EXIT_HLT

    guest.qemu.write(guest.top, b"x")

    assert guest.run() == KVM_EXIT_SHUTDOWN


def test_an_encrypted_guest_whose_program_was_never_encrypted_shuts_down(rig: Rig) -> None:
    guest = Guest(rig, rest, kind="sev")
    guest.qemu.write(guest.top, rest.image())

    assert guest.run() == KVM_EXIT_SHUTDOWN


@program
async def falls() -> None:
    await rdmsr(0x10)


def test_on_6_1_the_shutdown_of_a_sealed_guest_has_no_exit_reason(rig: Rig) -> None:
    guest = Guest(rig, falls, kind="es")

    for _ in range(2):
        with refuses(EINVAL) as box:
            guest.run()
        assert "until 6.10" in box.why


def test_on_6_12_it_is_shutdown(make_rig: Callable[..., Rig]) -> None:
    guest = Guest(make_rig(designs.LINUX_6_12), falls, kind="es")

    assert [guest.run(), guest.run()] == [KVM_EXIT_SHUTDOWN] * 2


def test_an_es_vcpu_whose_state_was_never_encrypted_is_not_entered(rig: Rig) -> None:
    guest = Guest(rig, rest, kind="es", seal=False)

    assert guest.run() == KVM_EXIT_FAIL_ENTRY
    assert guest.detail(kvm_run_fail_entry).hardware_entry_failure_reason == 0xFFFF_FFFF
    assert rig.kernel.dmesg[-1] == "set kvm_amd.dump_invalid_vmcb=1 to dump internal KVM state."


def test_a_string_of_port_io_comes_a_page_at_a_time(rig: Rig) -> None:
    @program
    async def guest_program() -> None:
        await outs(0x3F8, b"x" * 0x1001)
        await store(0x1000, await ins(0x60, 3, 2), c=False)
        await hlt()

    guest = Guest(rig, guest_program)

    assert [guest.run() and guest.detail(kvm_run_io).count for _ in range(3)] == [0x1000, 1, 3]
    guest.qemu.write(guest.pages[0] + PIO_PAGE, b"abcdef")
    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 6) == b"abcdef"


def test_wbinvd_is_the_kernels(rig: Rig) -> None:
    @program
    async def guest_program() -> None:
        await wbinvd()
        await hlt()

    assert Guest(rig, guest_program).run() == KVM_EXIT_HLT


def test_a_guest_that_only_computes_is_interrupted_in_the_end(rig: Rig) -> None:
    @program
    async def guest_program() -> None:
        while True:
            await pause()

    guest = Guest(rig, guest_program)

    with pytest.raises(Blocked) as blocked:
        guest.ioctl(KVM_RUN)

    assert blocked.value.errno == EINTR and "the guest computes" in blocked.value.why
    assert guest.reason() == 10 and len(guest.vcpu().vmcb.thread.log) == 32 * 10_000  # type: ignore[union-attr]


def test_so_is_one_that_only_asks_the_kernel(rig: Rig) -> None:
    @program
    async def guest_program() -> None:
        while True:
            await cpuid(1)

    with pytest.raises(Blocked):
        Guest(rig, guest_program).run()
