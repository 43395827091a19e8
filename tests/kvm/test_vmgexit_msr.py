"""The GHCB MSR protocol: every request there can be, on the kernels that know it and those that do not."""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL

import pytest
from kvm.guests import Guest
from kvm.vmgexits import by_msr
from sev_rig import Rig, refuses

from sevlab.abi.ghcb import cpuid_request, sev_info, terminate
from sevlab.abi.kvm import (
    KVM_EXIT_AP_RESET_HOLD,
    KVM_EXIT_HLT,
    KVM_EXIT_SYSTEM_EVENT,
    kvm_cpuid_entry2,
    kvm_run_system_event,
)
from sevlab.hw.isa import hlt, program, rdmsr, store
from sevlab.kvm import designs
from sevlab.kvm.vmgexit_msr import REQUESTS, VmgexitMsrEnter, VmgexitMsrExit

ALWAYS = {0x002, 0x004, 0x100}
V2 = {0x006, 0x010, 0x012, 0x014, 0x080}
SNP_ONLY = {0x010, 0x012, 0x014}
C_BIT = 47  # Rome
NO_REQUESTS = sorted({1, 3, 5, 7, 0x11, 0x16, 0x81} | set(range(8, 0x1000, 97)) - ALWAYS - V2)


def ask(rig: Rig, *requests: int) -> Guest:
    return Guest(rig, by_msr, tuple(requests), kind="es")


def response(guest: Guest) -> int:
    assert guest.run() == KVM_EXIT_HLT
    return int.from_bytes(guest.read(0x1000, 8), "little")


def test_the_table_of_requests_is_the_specifications() -> None:
    assert set(REQUESTS) == ALWAYS | V2 and {info for info, row in REQUESTS.items() if row.v2} == V2


@pytest.mark.parametrize("design, newest", [(designs.LINUX_5_13, 1), (designs.LINUX_6_1, 1), (designs.LINUX_6_12, 1)])
def test_the_version_is_there_before_anybody_asks(make_rig: Callable[..., Rig], design: designs.Design, newest: int) -> None:
    @program
    async def first() -> None:
        await store(0x1000, (await rdmsr(0xC001_0130)).to_bytes(8, "little"), c=False)
        await hlt()

    guest = Guest(make_rig(design), first, kind="es")

    assert response(guest) == sev_info(newest, 1, C_BIT)  # KVM_SEV_ES_INIT keeps version 1 on 6.12 too


def test_the_version_can_be_asked_for(rig: Rig) -> None:
    assert response(ask(rig, 2)) == sev_info(1, 1, C_BIT)


@pytest.mark.parametrize("register", range(4))
def test_cpuid_gives_one_register_of_subleaf_0(rig: Rig, register: int) -> None:
    guest = ask(rig, cpuid_request(7, register))
    guest.set_cpuid(kvm_cpuid_entry2(7, 0, 1, eax=10, ebx=11, ecx=12, edx=13), kvm_cpuid_entry2(7, 1, 1, eax=99))

    assert response(guest) == (10 + register) << 32 | register << 30 | 5


def test_cpuid_of_a_leaf_that_nobody_set_is_zero(rig: Rig) -> None:
    assert response(ask(rig, cpuid_request(0x1234_5678, 1))) == 1 << 30 | 5


@pytest.mark.parametrize("info", NO_REQUESTS)
@pytest.mark.parametrize("design", [designs.LINUX_6_1, designs.LINUX_6_12], ids=lambda design: design.name)
def test_what_is_no_request_stays_as_it_is(make_rig: Callable[..., Rig], design: designs.Design, info: int) -> None:
    request = 0x1234 << 12 | info

    assert response(ask(make_rig(design), request)) == request


@pytest.mark.parametrize("info", sorted(V2))
def test_what_came_with_version_2_is_no_request_before(rig: Rig, info: int) -> None:
    assert response(ask(rig, 7 << 12 | info)) == 7 << 12 | info


def test_the_features_of_version_2(make_rig: Callable[..., Rig]) -> None:
    assert response(ask(make_rig(designs.LINUX_6_12), 0x080)) == 3 << 12 | 0x081


@pytest.mark.parametrize("info", sorted(SNP_ONLY))
def test_a_request_of_sev_snp_ends_any_other_guest(make_rig: Callable[..., Rig], info: int) -> None:
    guest = ask(make_rig(designs.LINUX_6_12), 5 << 12 | info)

    assert guest.run() == KVM_EXIT_SYSTEM_EVENT and guest.detail(kvm_run_system_event).data[0] == 5 << 12 | info


def test_a_hold_by_the_msr_is_user_spaces_without_an_irqchip_and_nobody_called_means_zero(make_rig: Callable[..., Rig]) -> None:
    guest = ask(make_rig(designs.LINUX_6_12), 0x006)

    assert guest.run() == KVM_EXIT_AP_RESET_HOLD
    assert response(guest) == 0x007


# ------------------------------------------------------------------ the end of a guest


@pytest.mark.parametrize("reason_set, reason", [(0, 0), (0, 1), (1, 5), (15, 255)])
def test_a_termination_is_a_system_event_with_the_whole_number(rig: Rig, reason_set: int, reason: int) -> None:
    guest = ask(rig, terminate(reason_set, reason))

    assert guest.run() == KVM_EXIT_SYSTEM_EVENT
    event = guest.detail(kvm_run_system_event)
    assert (event.type, event.ndata, event.data[0]) == (6, 1, terminate(reason_set, reason))
    assert rig.kernel.dmesg[-1] == f"SEV-ES guest requested termination: {reason_set:#x}:{reason:#x}"


def test_before_5_19_a_termination_ended_the_run(make_rig: Callable[..., Rig]) -> None:
    with refuses(EINVAL):
        ask(make_rig(designs.LINUX_5_13), terminate(0, 0)).run()


def test_a_guest_that_gave_up_is_not_dead_for_its_host(rig: Rig) -> None:
    guest = ask(rig, terminate(0, 0))
    guest.run()

    assert response(guest) == terminate(0, 0)


def test_every_request_is_two_rows_of_the_trace(rig: Rig) -> None:
    guest = ask(rig, 2)
    guest.run()

    (entered,), (left,) = rig.rows(VmgexitMsrEnter), rig.rows(VmgexitMsrExit)
    assert (entered["ghcb_gpa"], left["ghcb_gpa"], left["result"]) == (2, sev_info(1, 1, C_BIT), 1)
