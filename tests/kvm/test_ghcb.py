"""The snapshot, and CVE-2023-4155: what a second vCPU can do between check and use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from kvm.guests import Guest
from kvm.vmgexits import GHCB, request
from sev_rig import Rig, refuses

from sevlab.abi.kvm import KVM_EXIT_INTERNAL_ERROR, KVM_RUN, kvm_run_internal
from sevlab.hw.isa import hlt, load, program, store, vmgexit, wrmsr
from sevlab.kvm import designs
from sevlab.kvm.call import Call

FETCHES_TWICE = replace(designs.LINUX_6_1, ghcb=replace(designs.GHCB_6_1, snapshot=False))
CODE, BITMAP = 0x390, 0x3F0


@program
async def victim_and_attacker(pieces: tuple[tuple[int, bytes], ...]) -> None:
    """vCPU 0 asks an honest request. (The attacker is a second vCPU of the same guest: here, the VMM's own pen.)"""
    await wrmsr(0xC001_0130, 0x3000)
    for offset, data in pieces:
        await store(0x3000 + offset, data, c=False)
    await vmgexit()
    await store(0x1000, await load(0x3398, 16, c=False), c=False)
    await hlt()


def stopped_at_use(rig: Rig) -> tuple[Guest, Call]:
    """A guest whose request was checked, and is about to be used."""
    guest = Guest(rig, victim_and_attacker, request(0x72, rax=1, rcx=0), kind="es")
    call = rig.qemu.begin(guest.fds[0], KVM_RUN)
    while call.state != "done" and guest.vcpu().ghcb is None:
        call.step()
    return guest, call


def scribble(guest: Guest, offset: int, data: bytes) -> None:
    guest.qemu.write(guest.memory + GHCB + offset, data)


def test_with_two_fetches_the_use_is_not_what_was_checked(make_rig: Callable[..., Rig]) -> None:
    guest, call = stopped_at_use(make_rig(FETCHES_TWICE))

    scribble(guest, CODE, (0x3333).to_bytes(8, "little"))
    call.finish()

    assert guest.reason() == KVM_EXIT_INTERNAL_ERROR and guest.detail(kvm_run_internal).data[0] == 0x3333


def test_with_two_fetches_a_checked_register_is_not_there_any_more(make_rig: Callable[..., Rig]) -> None:
    guest, call = stopped_at_use(make_rig(FETCHES_TWICE))

    scribble(guest, BITMAP, bytes(16))
    call.finish()

    assert guest.regs().rcx == 0 and guest.read(0x1000, 16) == bytes(16)  # answered as if all had been well


def test_with_two_fetches_the_handler_calls_itself_until_the_kernel_falls_over(make_rig: Callable[..., Rig]) -> None:
    guest, call = stopped_at_use(make_rig(FETCHES_TWICE))
    honest = request(0x72, rax=1, rcx=0)

    with refuses(3):  # ESRCH: the process is gone
        while call.state != "done":
            scribble(guest, CODE, (0x403).to_bytes(8, "little"))
            call.step()  # used: VMGEXIT within VMGEXIT ...
            for offset, data in honest:
                scribble(guest, offset, data)
            call.step()  # ... where it is checked again, and found honest
        call.finish()


@pytest.mark.parametrize("design", [designs.LINUX_6_1, designs.LINUX_6_12], ids=lambda design: design.name)
def test_with_a_snapshot_there_is_no_between(make_rig: Callable[..., Rig], design: designs.Design) -> None:
    guest, call = stopped_at_use(make_rig(design))

    assert call.state == "done" and guest.read(0x1000, 16) == bytes(16)


def test_kernels_of_2021_fetch_twice(make_rig: Callable[..., Rig]) -> None:
    assert designs.POSTED.ghcb == designs.LINUX_5_13.ghcb
    _, call = stopped_at_use(make_rig(designs.LINUX_5_13))

    assert call.state != "done"
    call.finish()


def test_with_two_fetches_an_undisturbed_request_is_answered_all_the_same(make_rig: Callable[..., Rig]) -> None:
    guest, call = stopped_at_use(make_rig(FETCHES_TWICE))
    call.finish()

    assert guest.read(0x1000, 16) == bytes(16)


def test_the_bitmap_is_cleared_once_it_was_read(make_rig: Callable[..., Rig]) -> None:
    guest = Guest(make_rig(), victim_and_attacker, request(0x7B, 0x3F8 << 16 | 1 << 4, rax=0x41), kind="es")
    guest.run()

    valid = int.from_bytes(guest.read(GHCB + BITMAP, 16), "little")
    assert valid == 1 << 115 | 1 << 116  # of all that the guest vouched for nothing is left but KVM's own zeros
