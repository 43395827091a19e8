"""The #VC handler: what it shows, what it gives back, and what it does about a host that lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kvm.guests import Guest
from kvm.vmgexits import GHCB
from sev_rig import Rig

from sevlab.abi.ghcb import VALID_BITS, Ghcb, terminate
from sevlab.abi.kvm import (
    KVM_EXIT_HLT,
    KVM_EXIT_IO,
    KVM_EXIT_MMIO,
    KVM_EXIT_SYSTEM_EVENT,
    kvm_cpuid_entry2,
    kvm_run_io,
    kvm_run_mmio,
    kvm_run_system_event,
)
from sevlab.guest.ghcb import open_ghcb
from sevlab.guest.vc import handle_vc, vc_handler
from sevlab.hw.isa import (
    Fault,
    Program,
    cpuid,
    hlt,
    inp,
    ins,
    load,
    out,
    outs,
    program,
    rdmsr,
    store,
    vmmcall,
    wbinvd,
    wrmsr,
)
from sevlab.kvm import designs, vmgexit
from sevlab.kvm.ghcb import Mapped

GAVE_UP = terminate(0, 0)


def run(rig: Rig, guest_program: Program, **named: Any) -> Guest:
    guest = Guest(rig, guest_program, kind="es", **named)
    guest.set_cpuid(kvm_cpuid_entry2(1, eax=10, ebx=11, ecx=12, edx=13), kvm_cpuid_entry2(0xD, 1, 1, eax=7))
    return guest


def gave_up(guest: Guest) -> int:
    """The guest ends: the number it gives as its reason."""
    assert guest.run() == KVM_EXIT_SYSTEM_EVENT
    return int(guest.detail(kvm_run_system_event).data[0])


def shown(guest: Guest) -> set[str]:
    """Which registers the host could read in the request (those of the page that are not zero)."""
    page = Ghcb.unpack(guest.read(GHCB, 4096))
    return {name for name in VALID_BITS if name not in ("valid_bitmap",) and not name.startswith("sw_") and getattr(page, name)}


# ------------------------------------------------------------------ what it gives back


@pytest.mark.parametrize("design", [designs.LINUX_6_1, designs.LINUX_6_12], ids=lambda design: design.name)
def test_cpuid_before_and_after_there_is_a_ghcb(make_rig: Callable[..., Rig], design: designs.Design) -> None:
    @program(vc=handle_vc)
    async def asks() -> None:
        early = await cpuid(1)
        version = await open_ghcb(0x3000)
        await store(0x1000, bytes(early) + bytes(await cpuid(1)) + bytes([version]), c=False)
        await hlt()

    guest = run(make_rig(design), asks)

    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 9) == bytes((10, 11, 12, 13)) * 2 + b"\1"


def test_a_register_keeps_what_was_written(rig: Rig) -> None:
    @program(vc=handle_vc)
    async def writes() -> None:
        await open_ghcb(0x3000)
        await wrmsr(0xC000_0081, 0x1234_5678_9ABC_DEF0)
        await store(0x1000, (await rdmsr(0xC000_0081)).to_bytes(8, "little"), c=False)
        await hlt()

    guest = run(rig, writes)

    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 8) == (0x1234_5678_9ABC_DEF0).to_bytes(8, "little")


@pytest.mark.parametrize("write", [False, True])
def test_a_register_that_is_not_there_is_a_fault_in_the_guest(rig: Rig, write: bool) -> None:
    @program(vc=handle_vc)
    async def probes() -> None:
        await open_ghcb(0x3000)
        try:
            await (wrmsr(0x1234, 1) if write else rdmsr(0x1234))
        except Fault as fault:
            await store(0x1000, bytes([fault.vector]), c=False)
        await hlt()

    guest = run(rig, probes)

    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 1) == bytes([13])


def test_ports_and_devices_are_user_spaces(rig: Rig) -> None:
    @program(vc=handle_vc)
    async def talks() -> None:
        await open_ghcb(0x3000)
        await out(0x3F8, 0x4142, 2)
        found = await inp(0x60, 2)
        await store(0xFED0_0000, b"to device 10", c=False)
        await store(0x1000, found + await load(0xFED0_0100, 9, c=False), c=False)
        await hlt()

    guest = run(rig, talks)

    assert guest.run() == KVM_EXIT_IO and guest.qemu.read(guest.pages[0] + 0x1000, 2) == b"BA"
    assert guest.run() == KVM_EXIT_IO and guest.detail(kvm_run_io).direction == 0
    guest.qemu.write(guest.pages[0] + 0x1000, b"in")
    assert guest.run() == KVM_EXIT_MMIO and guest.detail(kvm_run_mmio).data == b"to devic"
    assert guest.run() == KVM_EXIT_MMIO and guest.detail(kvm_run_mmio).data[:4] == b"e 10"
    for piece in (b"12345678", b"9"):
        assert guest.run() == KVM_EXIT_MMIO
        guest.qemu.write(guest.pages[0] + 40, piece.ljust(8, b"\0"))
    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 11) == b"in123456789"


def test_strings_go_in_chunks_of_the_pages_own_buffer(rig: Rig) -> None:
    @program(vc=handle_vc)
    async def speaks() -> None:
        await open_ghcb(0x3000)
        await outs(0x3F8, b"ab" * 1100, 2)
        await store(0x1000, await ins(0x60, 3, 1), c=False)
        await hlt()

    guest = run(rig, speaks)

    counts = [guest.run() and guest.detail(kvm_run_io).count for _ in range(3)]
    guest.qemu.write(guest.pages[0] + 0x1000, b"xyz")
    assert counts == [1016, 84, 3] and guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 3) == b"xyz"


def test_a_hypercall_and_a_flush(rig: Rig) -> None:
    @program(vc=handle_vc)
    async def calls() -> None:
        await open_ghcb(0x3000)
        await wbinvd()
        await store(0x1000, (await vmmcall(99, 1, 2)).to_bytes(8, "little"), c=False)
        await hlt()

    guest = run(rig, calls)

    assert guest.run() == KVM_EXIT_HLT and int.from_bytes(guest.read(0x1000, 8), "little") == (1 << 64) - 1000


# ------------------------------------------------------------------ what it shows

SHOWN = {
    "cpuid": (lambda: cpuid(1, 5), {"rax", "rcx"}),
    "cpuid 0xD": (lambda: cpuid(0xD, 1), {"rax", "rcx", "xcr0"}),
    "rdmsr": (lambda: rdmsr(0x277), {"rcx"}),
    "wrmsr": (lambda: wrmsr(0xC000_0081, 1 << 40 | 1), {"rcx", "rax", "rdx"}),
    "out": (lambda: out(0x3F8, 7), {"rax"}),
    "in": (lambda: inp(0x60), set()),
    "outs": (lambda: outs(0x3F8, b"abc"), set()),
    "wbinvd": (wbinvd, set()),
    "vmmcall": (lambda: vmmcall(3, 1), {"rax", "rbx"}),
    "mmio": (lambda: load(0xFED0_0000, 4, c=False), set()),
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_request_shows_its_operands_and_nothing_else(rig: Rig, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    real = vmgexit._decide

    def watch(vcpu: Any, ghcb: Mapped, depth: int) -> int:
        bits = {name for name in VALID_BITS if ghcb.now.valid(name) and not name.startswith("sw_")} - {"cpl"}
        seen.append(bits)
        return real(vcpu, ghcb, depth)

    monkeypatch.setattr(vmgexit, "_decide", watch)
    guest = run(rig, NAMED[name])
    guest.run()

    assert seen == [SHOWN[name][1]]
    assert shown(guest) <= SHOWN[name][1] | {"protocol_version", "rbx", "rdx", "rax", "rcx"}


@program(vc=handle_vc)
async def does_cpuid() -> None:
    await open_ghcb(0x3000)
    await cpuid(1, 5)
    await hlt()


@program(vc=handle_vc)
async def does_xstate() -> None:
    await open_ghcb(0x3000)
    await cpuid(0xD, 1)
    await hlt()


@program(vc=handle_vc)
async def does_rdmsr() -> None:
    await open_ghcb(0x3000)
    await rdmsr(0x277)
    await hlt()


@program(vc=handle_vc)
async def does_wrmsr() -> None:
    await open_ghcb(0x3000)
    await wrmsr(0xC000_0081, 1 << 40 | 1)
    await hlt()


@program(vc=handle_vc)
async def does_out() -> None:
    await open_ghcb(0x3000)
    await out(0x3F8, 7)
    await hlt()


@program(vc=handle_vc)
async def does_in() -> None:
    await open_ghcb(0x3000)
    await inp(0x60)
    await hlt()


@program(vc=handle_vc)
async def does_outs() -> None:
    await open_ghcb(0x3000)
    await outs(0x3F8, b"abc")
    await hlt()


@program(vc=handle_vc)
async def does_wbinvd() -> None:
    await open_ghcb(0x3000)
    await wbinvd()
    await hlt()


@program(vc=handle_vc)
async def does_vmmcall() -> None:
    await open_ghcb(0x3000)
    await vmmcall(3, 1)
    await hlt()


@program(vc=handle_vc)
async def does_mmio() -> None:
    await open_ghcb(0x3000)
    await load(0xFED0_0000, 4, c=False)
    await hlt()


NAMED = {
    "cpuid": does_cpuid, "cpuid 0xD": does_xstate, "rdmsr": does_rdmsr, "wrmsr": does_wrmsr, "out": does_out, "in": does_in,
    "outs": does_outs, "wbinvd": does_wbinvd, "vmmcall": does_vmmcall, "mmio": does_mmio,
}  # fmt: skip


# ------------------------------------------------------------------ a host that lies


def lies(monkeypatch: pytest.MonkeyPatch, info_1: int, info_2: int, bitmap: int | None = None) -> None:
    """A kernel that answers every request like this."""
    real = Mapped.unmap

    def unmap(self: Mapped) -> None:
        vcpu, hpa = self.vcpu, self.hpa
        real(self)
        vcpu.vm.kernel.soc.host.write(hpa + 0x398, info_1.to_bytes(8, "little") + info_2.to_bytes(8, "little"))
        if bitmap is not None:
            vcpu.vm.kernel.soc.host.write(hpa + 0x3F0, bitmap.to_bytes(16, "little"))

    monkeypatch.setattr(Mapped, "unmap", unmap)


@pytest.mark.parametrize(
    "info_1, info_2",
    [
        (2, 4), (3, 0), (0xFFFF_FFFF, 0),  # no answer that there is
        (1, 0x8000_030E), (1, 0x8000_0300), (1, 0x8000_031D),  # #PF, #DE, #VC: not a host's to give
        (1, 0x0000_030D), (1, 0x8000_000D), (1, 0x8000_040D),  # not valid, or an interrupt's type
    ],
)  # fmt: skip
def test_an_impossible_answer_ends_the_guest(rig: Rig, monkeypatch: pytest.MonkeyPatch, info_1: int, info_2: int) -> None:
    lies(monkeypatch, info_1, info_2)

    assert gave_up(run(rig, does_cpuid)) == GAVE_UP


@pytest.mark.parametrize("field", ["rax", "rbx", "rcx", "rdx"])
def test_an_answer_that_the_host_does_not_vouch_for_ends_the_guest(rig: Rig, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    all_four = sum(1 << VALID_BITS[name] for name in ("rax", "rbx", "rcx", "rdx"))
    lies(monkeypatch, 0, 0, all_four & ~(1 << VALID_BITS[field]))

    assert gave_up(run(rig, does_cpuid)) == GAVE_UP


def test_a_guest_that_gave_up_gives_up_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    lies(monkeypatch, 3, 0)
    guest = run(rig, does_cpuid)

    assert [gave_up(guest) for _ in range(3)] == [GAVE_UP] * 3


@pytest.mark.parametrize("offer", [0, 2, 0x0003_0003_2F00_0001, 0x0000_0000_2F00_0001, 0x0001_0002_2F00_0001])
def test_a_version_that_is_none_ends_the_guest(rig: Rig, monkeypatch: pytest.MonkeyPatch, offer: int) -> None:
    from sevlab.kvm import vmgexit_msr

    monkeypatch.setattr(vmgexit_msr, "version_response", lambda vcpu: offer)

    assert gave_up(run(rig, does_cpuid)) == terminate(0, 1)


def test_before_there_is_a_ghcb_all_but_cpuid_ends_the_guest(rig: Rig) -> None:
    @program(vc=handle_vc)
    async def hasty() -> None:
        await out(0x3F8, 1)

    assert gave_up(run(rig, hasty)) == GAVE_UP


def test_an_answer_by_the_msr_protocol_that_is_none_ends_the_guest(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from sevlab.kvm import vmgexit_msr

    @program(vc=handle_vc)
    async def early() -> None:
        await cpuid(1)

    monkeypatch.setitem(vmgexit_msr.REQUESTS, 4, vmgexit_msr.REQUESTS[0x100]._replace(handler=lambda vcpu: 0))

    assert gave_up(run(rig, early)) == GAVE_UP


@pytest.mark.parametrize("c", [True, None])
def test_private_memory_that_the_host_took_away_ends_the_guest(rig: Rig, c: bool | None) -> None:
    @program(vc=handle_vc)
    async def reads() -> None:
        await open_ghcb(0x3000)
        await load(0x7000_0000, 8, c=c)

    assert gave_up(run(rig, reads)) == GAVE_UP


def test_a_ghcb_of_the_hosts_choosing_is_used_by_the_trusting_and_ends_the_careful(rig: Rig) -> None:
    async def body() -> None:
        await open_ghcb(0x3000)
        await hlt()
        await store(0x1000, bytes([(await cpuid(1))[0]]), c=False)
        await hlt()

    for handler, careful in ((handle_vc, False), (vc_handler(0x3000), True)):
        guest = run(rig, Program(body, vc=handler))
        assert guest.run() == KVM_EXIT_HLT
        guest.vcpu().vmcb.ghcb_gpa = 0x6000  # the host's own field
        if careful:
            assert gave_up(guest) == GAVE_UP and not any(guest.read(0x6000, 4096))
        else:
            assert guest.run() == KVM_EXIT_HLT and any(guest.read(0x6000, 4096))  # what lay there is lost


def test_what_es_cannot_notice_is_that_the_host_says_something_false_in_good_form(rig: Rig) -> None:
    guest = run(rig, does_and_tells)
    guest.set_cpuid(kvm_cpuid_entry2(1, eax=66))

    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 1) == b"B"


@program(vc=handle_vc)
async def does_and_tells() -> None:
    await open_ghcb(0x3000)
    await store(0x1000, bytes([(await cpuid(1))[0]]), c=False)
    await hlt()
