"""A host that touches the sealed save area of a vCPU: which of it KVM_RUN cannot enter any more."""

from __future__ import annotations

import pytest
from kvm.guests import Guest
from kvm.vmgexits import by_msr
from sev_rig import Rig

from sevlab.abi.ghcb import terminate
from sevlab.abi.kvm import (
    KVM_EXIT_FAIL_ENTRY,
    KVM_EXIT_HLT,
    KVM_EXIT_SYSTEM_EVENT,
)
from sevlab.abi.vmsa import Vmsa
from sevlab.hw.isa import hlt, program
from sevlab.hw.savearea import CRC_COVERS

PAGE = 4096


@program
async def rest() -> None:
    while True:
        await hlt()


def vmsa(guest: Guest) -> int:
    return guest.vcpu().vmsa_pfn * PAGE


@pytest.mark.parametrize("at", [0x178, 0x1F8, 0xD0, CRC_COVERS - 16])
def test_a_written_save_area_is_a_failed_entry(rig: Rig, at: int) -> None:
    guest = Guest(rig, rest, kind="es")
    guest.run()
    old = rig.soc.dram.read(vmsa(guest) + at, 1)
    rig.soc.dram.write(vmsa(guest) + at, bytes([old[0] ^ 1]))

    assert guest.run() == KVM_EXIT_FAIL_ENTRY


def test_a_replayed_save_area_is_a_failed_entry(rig: Rig) -> None:
    guest = Guest(rig, by_msr, (2, 7 << 32 | 4), kind="es")
    guest.run()
    old = rig.soc.dram.read(vmsa(guest), PAGE)
    guest.run()
    rig.soc.dram.write(vmsa(guest), old)

    assert guest.run() == KVM_EXIT_FAIL_ENTRY


def test_the_measured_page_put_back_is_a_failed_entry(rig: Rig) -> None:
    guest = Guest(rig, by_msr, (2,), kind="es")
    measured = rig.soc.dram.read(vmsa(guest), PAGE)
    guest.run()
    rig.soc.dram.write(vmsa(guest), measured)

    assert guest.run() == KVM_EXIT_FAIL_ENTRY


def test_two_vcpus_cannot_be_given_each_others_state(rig: Rig) -> None:
    guest = Guest(rig, rest, kind="es", vcpus=2)
    one, two = (guest.vcpu(n).vmsa_pfn * PAGE for n in (0, 1))
    pages = rig.soc.dram.read(one, PAGE), rig.soc.dram.read(two, PAGE)
    rig.soc.dram.write(one, pages[1])
    rig.soc.dram.write(two, pages[0])

    assert [guest.run(0), guest.run(1)] == [KVM_EXIT_FAIL_ENTRY] * 2


def test_what_the_host_can_do_is_run_one_vcpus_state_under_anothers_name(rig: Rig) -> None:
    guest = Guest(rig, by_msr, (2,), kind="es", vcpus=2)
    guest.vcpu(1).vmcb.vmsa_hpa = vmsa(guest)

    assert guest.run(1) == KVM_EXIT_HLT  # the guest's own processor, entered through another control block


def test_the_measured_page_is_what_the_first_entry_finds(rig: Rig) -> None:
    guest = Guest(rig, rest, kind="es")
    measured = Vmsa.unpack(guest.vcpu().vmsa_page())
    inside = Vmsa.unpack(rig.soc.engine.read(guest.vcpu().vmcb.asid, vmsa(guest), PAGE))
    inside.fw_crc_block = 0

    assert inside.pack() == measured.pack()


def test_a_guest_that_ends_itself_says_the_same_when_it_is_run_again(rig: Rig) -> None:
    guest = Guest(rig, by_msr, (terminate(1, 2), terminate(1, 2)), kind="es")

    assert guest.run() == KVM_EXIT_SYSTEM_EVENT
    assert guest.run() == KVM_EXIT_HLT and guest.run() == KVM_EXIT_SYSTEM_EVENT
