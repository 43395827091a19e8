"""The seam `ap_boot`: the hold as posted in December 2020 and as merged, and the review's two questions.

`IMAGINARY` is 6.1 with the posted hold: it never existed, and says so. It is what lets the review's first question be
run at all, since a VMM can be replaced under a guest only since 2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from errno import EINVAL, ESRCH
from typing import Any

import pytest
from sev_rig import refuses

from sevlab import Host, designs, vmm
from sevlab.abi.kvm import KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, KVM_GET_MP_STATE, KVM_NMI, KVM_SET_MP_STATE, kvm_mp_state
from sevlab.guest.ghcb import open_ghcb
from sevlab.guest.smp import (
    AP_RESET,
    AP_WORK,
    CALLED,
    DONE,
    GHCBS,
    JUMP_TABLE,
    PAGE,
    RESET_PAGE,
    TRAMPOLINE,
    gather,
    jump_table,
    on_vc,
    set_jump_table,
    start_others,
    x2apic_on,
)
from sevlab.hw.isa import hlt, load, program, store
from sevlab.kvm.designs.ap_boot import NEVER
from sevlab.kvm.lapic import INIT_MODE, STARTUP
from sevlab.vmm.mirror import bare, enable

IMAGINARY = replace(designs.LINUX_6_1, name="6.1 with v5's hold", ap_boot=designs.HLT_LOOP_FLAG)
HALTED, HOLD = 3, 9
GO, SAID = 0x2000, 0x2010
ANSWERS = {
    "posted": designs.HLT_LOOP_FLAG,
    "linux-5.13": designs.RESET_HOLD_511,
    "linux-6.1": designs.RESET_HOLD,
    "linux-6.1-fixed": designs.RESET_HOLD,
    "linux-6.12": designs.RESET_HOLD_KIND,
}
VCPUS = 3


@program(vc=on_vc)
async def boss(processors: int) -> None:
    """Firmware and OS in one: its APs park, and each time the host raises GO it calls them, and says when they have come."""
    await open_ghcb(GHCBS)
    await x2apic_on()
    await store(RESET_PAGE, AP_RESET.ljust(PAGE, b"\0"), c=True)
    await store(TRAMPOLINE, AP_WORK.ljust(PAGE, b"\0"), c=True)
    await store(JUMP_TABLE, b"\0\0" + (TRAMPOLINE >> 4).to_bytes(2, "little"), c=True)
    await store(DONE, bytes(processors), c=True)
    await store(CALLED, bytes(processors), c=True)
    await set_jump_table(GHCBS, JUMP_TABLE)
    await start_others()
    await gather(DONE, processors, 1)
    turn = 1
    while True:
        while (await load(GO, 1, c=False))[0] < turn:
            await hlt()
        await store(CALLED, bytes([turn]) * processors, c=True)
        await start_others()
        await gather(DONE, processors, turn + 1)
        await store(SAID, bytes([turn]) + (await jump_table(GHCBS)).to_bytes(8, "little"), c=False)
        turn += 1


@pytest.fixture
def parked() -> Iterator[Any]:
    """parked(design) -> (host, vm): a guest whose APs are held."""
    made: list[Host] = []

    def make(design: designs.Design, vcpus: int = VCPUS) -> tuple[Host, vmm.Vm]:
        host = Host("rome", design, seed=3)
        made.append(host)
        vm = vmm.launch(host, program=boss, args=(vcpus,), policy=5, vcpus=vcpus, irqchip=True, shared=True)
        vm.finish()
        assert vm.run().name == "INTR"
        return host, vm

    yield make
    for host in made:
        host.close()


def states(vm: vmm.Vm) -> list[int]:
    found = []
    for vcpu in vm.vcpus:
        state = kvm_mp_state()
        vcpu.ioctl(KVM_GET_MP_STATE, state)
        found.append(state.mp_state)
    return found


def call(vm: vmm.Vm, turn: int = 1) -> int:
    """The host has the guest call its APs; how many calls the guest says have been answered."""
    vm.write(GO, bytes([turn]))
    vm.vcpus[0].ioctl(KVM_NMI)
    vm.run()
    return vm.read(SAID, 1)[0]


def kernel_vm(host: Host, vm: vmm.Vm) -> Any:
    return host.kernel.vm_of(vm.process, vm.fd)


def sipi(host: Host, vm: vmm.Vm, number: int) -> None:
    """INIT and SIPI for one AP, taken at once by asking for its state."""
    for message in (INIT_MODE, STARTUP):
        kernel_vm(host, vm).vcpus[number].lapic.accept(message)
    vm.vcpus[number].ioctl(KVM_GET_MP_STATE, kvm_mp_state())


# ------------------------------------------------------------------ the contract


@pytest.mark.parametrize("name", ANSWERS)
def test_each_preset_has_its_kernels_answer(name: str) -> None:
    assert designs.by_name(name).ap_boot is ANSWERS[name]


@pytest.mark.parametrize("answer", [*ANSWERS.values(), designs.RESET_HOLD_UNCHECKED], ids=repr)
def test_every_answer_wakes_a_parked_ap_and_parks_it_again(parked: Any, answer: Any) -> None:
    _host, vm = parked(replace(designs.LINUX_6_1, ap_boot=answer))

    assert [call(vm, turn) for turn in (1, 2, 3)] == [1, 2, 3]
    assert len(set(states(vm)[1:])) == 1


@pytest.mark.parametrize("answer", [*ANSWERS.values()], ids=repr)
def test_a_wake_up_by_an_interrupt_is_no_call(parked: Any, answer: Any) -> None:
    _host, vm = parked(replace(designs.LINUX_6_1, ap_boot=answer))
    before = states(vm)
    for vcpu in vm.vcpus[1:]:
        vcpu.ioctl(KVM_NMI)
    vm.run()

    assert states(vm) == before and call(vm) == 1


# ------------------------------------------------------------------ "This value needs to be communicated to userspace"


@pytest.mark.parametrize(("design", "state"), [(IMAGINARY, HALTED), (designs.LINUX_6_1, HOLD)], ids=["posted", "merged"])
def test_only_as_merged_does_user_space_see_that_an_ap_is_held(parked: Any, design: designs.Design, state: int) -> None:
    _host, vm = parked(design)

    assert states(vm) == [HALTED, state, state]  # the first has executed HLT


@pytest.mark.parametrize("design", [IMAGINARY, designs.POSTED], ids=lambda design: design.name)
def test_as_posted_user_space_cannot_say_that_an_ap_is_held(parked: Any, design: designs.Design) -> None:
    _host, vm = parked(design)

    with refuses(EINVAL) as box:
        vm.vcpus[1].ioctl(KVM_SET_MP_STATE, kvm_mp_state(HOLD))
    assert "no state of an x86 vCPU" in box.why and states(vm)[1] == HALTED


@pytest.mark.parametrize("design", [designs.LINUX_5_13, designs.LINUX_6_1, designs.LINUX_6_12], ids=lambda design: design.name)
def test_as_merged_it_can(parked: Any, design: designs.Design) -> None:
    _host, vm = parked(design)
    vm.vcpus[0].ioctl(KVM_SET_MP_STATE, kvm_mp_state(HOLD))

    assert states(vm) == [HOLD] * 3


@pytest.mark.parametrize(("design", "survives"), [(IMAGINARY, False), (designs.LINUX_6_1, True)], ids=["posted", "merged"])
def test_a_parked_ap_survives_a_new_vmm_only_when_user_space_can_see_it(
    parked: Any, design: designs.Design, survives: bool
) -> None:
    """On the posted design the AP wakes to "not yet" (info2 = 0) and holds again."""
    host, vm = parked(design)
    before = states(vm)
    vm = vmm.move(vm, to=host.process("qemu-2", memlock=1 << 30))
    assert states(vm) == before

    assert call(vm) == survives
    assert states(vm) == before


def test_the_lost_hold_comes_back_with_the_next_one(parked: Any) -> None:
    """The flag is set again by the hold after the false start: "for ever" lasts until somebody sends INIT-SIPI once more."""
    host, vm = parked(IMAGINARY)
    vm = vmm.move(vm, to=host.process("qemu-2", memlock=1 << 30))
    assert call(vm) == 0

    for number in range(1, VCPUS):
        sipi(host, vm, number)
    vm.run()

    assert vm.read(SAID, 1) == b"\1"


def test_a_guest_whose_aps_were_never_parked_moves_on_either_design(parked: Any) -> None:
    for design in (IMAGINARY, designs.LINUX_6_1):
        host, vm = parked(design, vcpus=1)
        vm = vmm.move(vm, to=host.process("qemu-2", memlock=1 << 30))

        assert call(vm) == 1


def test_a_design_that_never_existed_says_so() -> None:
    assert IMAGINARY.imaginary == designs.POSTED.imaginary == NEVER
    assert "never existed" in NEVER and "December 2020" in NEVER
    assert {design.imaginary for name, design in designs.DESIGNS.items() if name != "posted"} == {""}
    assert replace(IMAGINARY, move=designs.ABSENT).imaginary == ""  # the posted hold without the later move might have been


# ------------------------------------------------------------------ "Do you have any plans for migration of this value?"


@pytest.mark.parametrize(
    ("design", "kept"), [(designs.LINUX_6_1, 0), (designs.LINUX_6_1_FIXED, JUMP_TABLE)], ids=["as is", "mended"]
)
def test_the_tables_address_is_lost_at_a_move_as_shipped(parked: Any, design: designs.Design, kept: int) -> None:
    host, vm = parked(design)
    vm = vmm.move(vm, to=host.process("qemu-2", memlock=1 << 30))

    assert kernel_vm(host, vm).sev.ap_jump_table == kept
    assert call(vm) == 1  # the APs have the table itself: it is in their memory
    assert int.from_bytes(vm.read(SAID + 1, 8), "little") == kept


@pytest.mark.parametrize("design", [designs.LINUX_6_1, designs.LINUX_6_1_FIXED], ids=["as is", "mended"])
def test_a_mirror_has_no_table_of_its_own_or_of_its_owners(parked: Any, design: designs.Design) -> None:
    host, vm = parked(design)
    mirror = bare(vm, vm.process)
    enable(mirror, vm, KVM_CAP_VM_COPY_ENC_CONTEXT_FROM)

    assert kernel_vm(host, mirror).sev.ap_jump_table == 0
    assert kernel_vm(host, vm).sev.ap_jump_table == JUMP_TABLE


# ------------------------------------------------------------------ a SIPI for a vCPU that is not parked


@pytest.mark.parametrize("answer", [designs.RESET_HOLD_511, designs.RESET_HOLD, designs.RESET_HOLD_KIND], ids=repr)
def test_an_unparked_vcpu_goes_on_as_if_no_sipi_had_come(parked: Any, answer: Any) -> None:
    host, vm = parked(replace(designs.LINUX_6_1, ap_boot=answer))
    kernel_vm(host, vm).vcpus[1].ghcb = None

    sipi(host, vm, 1)

    assert states(vm)[1] == 0


def test_before_its_fix_such_a_sipi_was_the_end_of_the_hosts_thread(parked: Any) -> None:
    """a3ba26ecfb56: a second INIT-SIPI to an AP whose GHCB is not mapped wrote through a null pointer."""
    host, vm = parked(replace(designs.LINUX_6_1, ap_boot=designs.RESET_HOLD_UNCHECKED))
    kernel_vm(host, vm).vcpus[1].ghcb = None

    with refuses(ESRCH):
        sipi(host, vm, 1)
    assert "NULL pointer" in host.dmesg[-1] and vm.process.dead


def test_as_posted_the_flag_outlives_the_hold_and_does_the_same(parked: Any) -> None:
    """An interrupt ends the wait, the flag stays, the GHCB is unmapped: the next SIPI writes through a null pointer."""
    host, vm = parked(IMAGINARY)
    vcpu = kernel_vm(host, vm).vcpus[1]
    assert vcpu.ap_hlt_loop
    vcpu.ghcb = None

    with refuses(ESRCH):
        sipi(host, vm, 1)
    assert "svm->ghcb" in host.dmesg[-1]
