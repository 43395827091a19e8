"""The VM's descriptor: whom it serves, slots and faults, vCPUs in the making, regions, and its end."""

from __future__ import annotations

from collections.abc import Callable
from errno import EBADF, EBUSY, EEXIST, EFAULT, EINVAL, EIO, ENOMEM, ENOTTY
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sev_rig import Rig, refuses

from sevlab.abi.kvm import (
    KVM_CAP_EXIT_HYPERCALL,
    KVM_CAP_MP_STATE,
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
    KVM_CHECK_EXTENSION,
    KVM_CREATE_IRQCHIP,
    KVM_CREATE_VCPU,
    KVM_ENABLE_CAP,
    KVM_GET_MP_STATE,
    KVM_GET_REGS,
    KVM_HC_MAP_GPA_RANGE,
    KVM_MAX_VCPUS,
    KVM_MEMORY_ENCRYPT_REG_REGION,
    KVM_MEMORY_ENCRYPT_UNREG_REGION,
    KVM_RUN,
    KVM_SET_USER_MEMORY_REGION,
    kvm_enable_cap,
    kvm_enc_region,
    kvm_userspace_memory_region,
)
from sevlab.abi.sev import Cmd, Handle
from sevlab.hw.soc import Wbinvd
from sevlab.kvm import designs
from sevlab.kvm.ladder import ladder
from sevlab.kvm.vm import IOCTLS, Vm, VmGone, create_vcpu, reg_region, unreg_region

PAGE = 4096
NOWHERE = 0x6660_0000


# ------------------------------------------------------------------ whom it serves

ALL = [*IOCTLS, 0xAE99, 0, 0xFFFFFFFF]


@pytest.mark.parametrize("nr", ALL, ids=hex)
def test_a_childs_memory_is_not_the_one_that_the_vm_serves(rig: Rig, nr: int) -> None:
    vm = rig.vm()
    child = rig.qemu.fork()

    with refuses(EIO):
        child.ioctl(vm, nr, NOWHERE)


@pytest.mark.parametrize("nr", ALL, ids=hex)
def test_a_dead_vm_serves_nobody(rig: Rig, nr: int) -> None:
    vm = rig.vm()
    rig.file(vm).dead = True

    with refuses(EIO):
        rig.qemu.ioctl(vm, nr, NOWHERE)


@given(st.integers(0, 0xFFFFFFFF).filter(lambda nr: nr not in IOCTLS))
def test_a_number_that_a_vm_does_not_know_is_enotty(nr: int) -> None:
    rig, vm = shared()

    with refuses(ENOTTY):
        rig.qemu.ioctl(vm, nr, NOWHERE)


@cache
def shared() -> tuple[Rig, int]:
    """One machine with one VM, for laws that change nothing in it."""
    rig = Rig()
    return rig, rig.vm()


def test_a_vcpu_serves_whom_its_vm_serves(rig: Rig) -> None:
    vm = rig.vm()
    vcpu, child = rig.vcpu(vm), rig.qemu.fork()
    with refuses(EIO):
        child.ioctl(vcpu, KVM_GET_MP_STATE, 0)
    rig.file(vm).dead = True

    for nr in (KVM_RUN, KVM_GET_REGS, 0xAE99):
        with refuses(EIO):
            rig.qemu.ioctl(vcpu, nr, 0)


@pytest.mark.parametrize("nr", [nr for nr, row in IOCTLS.items() if row.arg], ids=hex)
def test_a_structure_that_is_not_there_is_efault(rig: Rig, nr: int) -> None:
    with refuses(EFAULT):
        rig.qemu.ioctl(rig.vm(), nr, NOWHERE)


# ------------------------------------------------------------------ capabilities


@pytest.mark.parametrize("design", designs.DESIGNS.values(), ids=lambda d: d.name)
@pytest.mark.parametrize("cap", [KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM])
def test_a_capability_is_not_claimed_where_it_cannot_be_enabled(make_rig: Any, design: designs.Design, cap: int) -> None:
    rig = make_rig(design)
    vm = rig.vm()
    claimed = rig.qemu.ioctl(vm, KVM_CHECK_EXTENSION, cap)

    answer = design.mirror if cap == KVM_CAP_VM_COPY_ENC_CONTEXT_FROM else design.move
    assert claimed == (0 if answer in (designs.ABSENT, designs.MOVE_V11) else 1)  # V11 had it and forgot to say so
    if answer is designs.ABSENT:
        with refuses(EINVAL):
            rig.qemu.ioctl(vm, KVM_ENABLE_CAP, kvm_enable_cap(cap=cap, args=(rig.kvm, 0, 0, 0)))


def test_flags_are_met_before_an_unknown_capability_and_both_are_einval(rig: Rig) -> None:
    vm = rig.vm()
    for cap, flags in ((KVM_CAP_EXIT_HYPERCALL, 1), (0xFFFF, 0), (KVM_CAP_MP_STATE, 0)):
        with refuses(EINVAL):
            rig.qemu.ioctl(vm, KVM_ENABLE_CAP, kvm_enable_cap(cap, flags))


def test_user_space_may_ask_to_see_one_hypercall_and_no_other(rig: Rig) -> None:
    vm = rig.vm()
    with refuses(EINVAL):
        rig.qemu.ioctl(vm, KVM_ENABLE_CAP, kvm_enable_cap(cap=KVM_CAP_EXIT_HYPERCALL, args=(1 << 12 | 1, 0, 0, 0)))
    assert rig.file(vm).hypercall_exits == 0
    rig.qemu.ioctl(vm, KVM_ENABLE_CAP, kvm_enable_cap(cap=KVM_CAP_EXIT_HYPERCALL, args=(1 << 12, 0, 0, 0)))

    assert rig.file(vm).hypercall_exits == 1 << KVM_HC_MAP_GPA_RANGE


def test_5_13_does_not_know_hypercall_exits(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(designs.LINUX_5_13)
    vm = rig.vm()
    assert rig.qemu.ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_EXIT_HYPERCALL) == 0

    with refuses(EINVAL):
        rig.qemu.ioctl(vm, KVM_ENABLE_CAP, kvm_enable_cap(cap=KVM_CAP_EXIT_HYPERCALL))


def test_a_users_own_capability_is_a_legal_answer(make_rig: Callable[..., Rig]) -> None:
    class Mine:
        extension = 1

        def enable(self, vm: Any, caller: Any, source_fd: int) -> int:
            return source_fd

    rig = make_rig(designs.replace(designs.LINUX_6_1, mirror=Mine()))
    vm = rig.vm()

    assert rig.qemu.ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_VM_COPY_ENC_CONTEXT_FROM) == 1
    args = ((7 << 32) + 5, 0, 0, 0)  # cut to 32 bits
    assert rig.qemu.ioctl(vm, KVM_ENABLE_CAP, kvm_enable_cap(cap=KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, args=args)) == 5


# ------------------------------------------------------------------ vCPUs


@pytest.mark.parametrize("vcpu_id", [4 * KVM_MAX_VCPUS, 1 << 31, 0xFFFFFFFF])
def test_a_vcpu_id_beyond_the_last_is_einval(rig: Rig, vcpu_id: int) -> None:
    with refuses(EINVAL):
        rig.vcpu(rig.vm(), vcpu_id)


def test_a_vcpu_id_twice_is_eexist_and_leaves_no_trace(rig: Rig) -> None:
    vm = rig.vm()
    rig.vcpu(vm, 5)
    frames, refs = rig.kernel.frames.free, rig.file(vm).refs

    with refuses(EEXIST):
        rig.vcpu(vm, 5)
    file = rig.file(vm)
    assert (file.created, len(file.vcpus), file.refs, rig.kernel.frames.free) == (1, 1, refs, frames)


def test_the_last_vcpu_is_the_last(rig: Rig) -> None:
    vm = rig.vm()
    rig.file(vm).created = KVM_MAX_VCPUS

    with refuses(EINVAL):
        rig.vcpu(vm)
    rig.file(vm).created = 0


def test_a_vcpu_is_counted_before_it_can_be_seen(rig: Rig) -> None:
    vm = rig.vm()
    call, seen = rig.qemu.begin(vm, KVM_CREATE_VCPU, 0), []
    while call.step() != "done":
        seen.append((rig.file(vm).created, len(rig.file(vm).vcpus)))
    call.finish()

    assert (1, 0) in seen
    assert (rig.file(vm).created, len(rig.file(vm).vcpus)) == (1, 1)


def test_two_at_once_with_one_id_and_one_of_them_wins(rig: Rig) -> None:
    vm = rig.vm()
    calls = [rig.qemu.begin(vm, KVM_CREATE_VCPU, 3) for _ in range(2)]
    for _ in range(3):
        for call in calls:
            call.step()
    assert rig.file(vm).created == 2
    calls[1].finish()

    with refuses(EEXIST):
        calls[0].finish()
    assert (rig.file(vm).created, [vcpu.index for vcpu in rig.file(vm).vcpus]) == (1, [0])


def test_the_index_is_the_order_of_becoming_visible(rig: Rig) -> None:
    vm = rig.vm()
    for vcpu_id in (9, 2, 5):
        rig.vcpu(vm, vcpu_id)

    assert [(vcpu.index, vcpu.id) for vcpu in rig.file(vm).vcpus] == [(0, 9), (1, 2), (2, 5)]


def test_a_vm_made_encrypted_gives_its_vcpus_key_and_save_area(rig: Rig) -> None:
    plain, es = rig.init(), rig.init(es=True)
    rig.vcpu(plain)
    rig.vcpu(es)
    one, two = rig.file(plain).vcpus[0].vmcb, rig.file(es).vcpus[0].vmcb

    assert (one.sev, one.es, one.asid, one.vmsa_hpa) == (True, False, 100, 0)
    assert (two.sev, two.es, two.asid, bool(two.vmsa_hpa)) == (True, True, 1, True)


def test_an_interrupt_controller_comes_once_and_before_the_vcpus(rig: Rig) -> None:
    vm, other = rig.vm(), rig.vm()
    rig.qemu.ioctl(vm, KVM_CREATE_IRQCHIP)
    rig.vcpu(vm)
    with refuses(EEXIST):  # and there is a vCPU
        rig.qemu.ioctl(vm, KVM_CREATE_IRQCHIP)
    rig.vcpu(other)

    with refuses(EINVAL):
        rig.qemu.ioctl(other, KVM_CREATE_IRQCHIP)


# ------------------------------------------------------------------ its end


def test_closing_the_vm_while_a_vcpu_is_open_frees_nothing(rig: Rig) -> None:
    vm = rig.started()
    vcpu = rig.vcpu(vm)
    rig.qemu.close(vm)
    assert rig.kernel.asids.used() == {100: 1}
    assert list(rig.psp.guests) == [1]
    rig.qemu.close(vcpu)

    assert rig.kernel.asids.used() == rig.psp.guests == {}
    assert len(rig.rows(VmGone)) == 1


def test_the_end_goes_in_the_kernels_order(rig: Rig) -> None:
    vm, hva = rig.started(policy=4), rig.memory(bytes(PAGE))
    rig.vcpu(vm)
    rig.register(vm, hva, PAGE)
    rig.trace._buffers.clear()
    rig.qemu.kill()

    wanted = ("Wbinvd", "PagesUnpinned", "KeyRemoved", "GuestStateChanged", "AsidFreed", "PageFlushed", "VmGone")
    assert [row["kind"] for row in rig.rows() if row["kind"] in wanted] == list(wanted)


def test_a_killed_process_leaves_a_vm_that_another_holds(rig: Rig) -> None:
    other = rig.kernel.process("libvirt")
    vm = rig.started()
    sent = rig.qemu.send_fd(vm, other)
    rig.qemu.kill()
    assert rig.kernel.asids.used() == {100: 1}
    with refuses(EIO):
        other.ioctl(sent, KVM_CHECK_EXTENSION, KVM_CAP_MP_STATE)
    other.close(sent)

    assert rig.kernel.asids.used() == {}


def test_an_ordinary_vm_ends_without_a_word_to_the_firmware(rig: Rig) -> None:
    vm = rig.vm()
    rig.vcpu(vm)
    before = len(rig.rows(Wbinvd))
    rig.qemu.close(vm)

    assert len(rig.rows(Wbinvd)) == before


def test_a_vm_that_is_gone_is_told_of_nothing_any_more(rig: Rig) -> None:
    vm, hva = rig.vm(), rig.memory(bytes(PAGE))
    rig.slot(vm, hva, PAGE)
    mm = rig.qemu.task.mm
    assert len(mm.notifiers) == 1
    rig.qemu.close(vm)

    assert mm.notifiers == []
    rig.qemu.munmap(hva, PAGE)


def test_firmware_that_refuses_at_the_end_is_not_listened_to(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = rig.started()
    monkeypatch.setattr(rig.psp, "mailbox", lambda cmd, hpa=0: 0x13)
    rig.qemu.close(vm)
    monkeypatch.undo()

    assert rig.kernel.asids.used() == {}
    rig.kernel.ccp.attempt(Cmd.DEACTIVATE, Handle(1))
    rig.kernel.ccp.attempt(Cmd.DECOMMISSION, Handle(1))


@given(st.lists(st.tuples(st.sampled_from("ives+-krc"), st.integers(0, 3)), max_size=25))
def test_law_whatever_was_done_everything_is_given_back(script: list[tuple[str, int]]) -> None:
    rig = Rig(memory=32 << 20, memlock=6 * PAGE)
    hva, vms = rig.memory(bytes(8 * PAGE)), []
    acts: dict[str, Callable[[int, int], Any]] = {
        "i": lambda vm, k: rig.op(vm, k % 2),
        "v": lambda vm, k: rig.vcpu(vm, k),
        "e": lambda vm, k: rig.start(vm, 4 * (k % 2)),
        "s": lambda vm, k: rig.slot(vm, hva, k * PAGE),
        "+": lambda vm, k: rig.register(vm, hva, k * PAGE),
        "-": lambda vm, k: rig.unregister(vm, hva, k * PAGE),
        "k": lambda vm, k: rig.update(vm, hva, k * PAGE),
        "r": lambda vm, k: rig.op(vm, 4 + k),
        "c": lambda vm, k: rig.qemu.close(vms.pop(vms.index(vm))),
    }
    for act, k in script:
        if not vms or (act == "i" and len(vms) < 3):
            vms.append(rig.vm())
        try:
            acts[act](vms[k % len(vms)], k)
        except OSError as no:
            assert no.errno in (EBADF, EBUSY, EEXIST, EFAULT, EINVAL, EIO, ENOMEM, ENOTTY)
        for vm in vms:
            sev = rig.file(vm).sev
            assert sev.pages_locked == sum(region.pin.count for region in sev.regions)
    rig.close()
    rig.check_balance()


def test_the_ladders_are_the_kernels() -> None:
    def codes(handler: Any) -> list[str]:
        return [rung.code for rung in ladder(handler)]

    assert codes(reg_region) == ["EFAULT", "ENOTTY", "EINVAL", "EINVAL, ENOMEM"]
    assert codes(unreg_region) == ["EFAULT", "EINVAL", "ENOTTY", "EINVAL"]
    assert codes(create_vcpu) == ["EINVAL", "EINVAL", "ENOMEM", "EEXIST"]
    assert [rung.code for rung in ladder(Vm.ioctl)] == ["EIO", "ENOTTY"]


def test_structures_of_the_table_are_those_of_the_ioctls() -> None:
    assert IOCTLS[KVM_SET_USER_MEMORY_REGION].arg is kvm_userspace_memory_region
    assert IOCTLS[KVM_MEMORY_ENCRYPT_REG_REGION].arg is IOCTLS[KVM_MEMORY_ENCRYPT_UNREG_REGION].arg is kvm_enc_region
