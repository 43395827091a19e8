"""INIT, ES_INIT, INIT2: what is asked, in which order, and what is left after a refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import EBUSY, EFAULT, EINVAL, ENOTTY
from typing import Any

import pytest
from sev_rig import UNTOUCHED, Rig, refuses

from sevlab.abi.kvm import (
    KVM_SEV_ES_INIT,
    KVM_SEV_INIT,
    KVM_SEV_INIT2,
    KVM_SEV_VMSA_DEBUG_SWAP,
    KVM_X86_DEFAULT_VM,
    KVM_X86_SEV_ES_VM,
    KVM_X86_SEV_VM,
    kvm_sev_init,
)
from sevlab.abi.sev import Cmd
from sevlab.hw.chips import ROME
from sevlab.kvm import designs
from sevlab.kvm.ladder import ladder
from sevlab.kvm.sev_init import guest_init, guest_init2, guest_init_default
from sevlab.psp.firmware import CommandDone

SMALL = replace(ROME, name="small", max_asid=3, min_asid=3)  # SEV-ES: 1 and 2, SEV: 3
NO_ES = replace(ROME, name="no ES", min_asid=1)
NO_SEV = replace(ROME, name="no SEV", max_asid=0)
ONLY_ES = replace(ROME, name="only ES", max_asid=4, min_asid=5)
NOWHERE = 0x6660_0000

OLDER = [design for design in designs.DESIGNS.values() if not design.init.has_vm_types]
OLD = pytest.mark.parametrize("design", OLDER, ids=lambda d: d.name)
EVERY = pytest.mark.parametrize("design", designs.DESIGNS.values(), ids=lambda d: d.name)
IDS = pytest.mark.parametrize("id", [KVM_SEV_INIT, KVM_SEV_ES_INIT], ids=["INIT", "ES_INIT"])


# ------------------------------------------------------------------ INIT and ES_INIT


@EVERY
@IDS
def test_init_takes_a_slot_and_makes_no_firmware_context(make_rig: Callable[..., Rig], design: designs.Design, id: int) -> None:
    rig = make_rig(design)
    vm = rig.vm()
    rig.op(vm, id, NOWHERE)  # the data is not looked at
    sev = rig.file(vm).sev

    assert (sev.active, sev.es, sev.handle, sev.fd) == (True, id == KVM_SEV_ES_INIT, 0, 0)
    assert sev.asid == (1 if sev.es else 100)
    assert rig.psp.guests == {}


@OLD
def test_init_twice_is_ebusy_but_a_vcpu_is_met_first(make_rig: Callable[..., Rig], design: designs.Design) -> None:
    rig = make_rig(design)
    vm = rig.init()
    with refuses(EBUSY):
        rig.op(vm, KVM_SEV_INIT)
    rig.vcpu(vm)

    with refuses(EINVAL):
        rig.op(vm, KVM_SEV_INIT)


@EVERY
@IDS
def test_a_vm_with_a_vcpu_stays_what_it_is(make_rig: Callable[..., Rig], design: designs.Design, id: int) -> None:
    rig = make_rig(design, SMALL)
    rig.kernel.asids.states[1:4] = b"\1\1\1"  # nor is there a slot
    vm = rig.vm()
    rig.vcpu(vm)

    with refuses(EINVAL):
        rig.op(vm, id)
    assert rig.last.error == UNTOUCHED
    assert not rig.file(vm).sev.active
    rig.kernel.asids.states[1:4] = bytes(3)


def test_out_of_slots_is_ebusy_and_the_vm_can_try_again_later(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(chip=SMALL)
    first, second = rig.init(), rig.vm()
    for _ in range(2):
        with refuses(EBUSY):
            rig.op(second, KVM_SEV_INIT)
        assert not rig.file(second).sev.active
        assert rig.kernel.root_cgroup.current["sev"] == 1
    rig.qemu.close(first)

    rig.op(second, KVM_SEV_INIT)
    assert rig.file(second).sev.asid == 3


@pytest.mark.parametrize(
    "design, code",
    [(designs.LINUX_5_13, EBUSY), (designs.LINUX_6_1, EBUSY), (designs.LINUX_6_12, ENOTTY)],
    ids=["5.13", "6.1", "6.12"],
)
def test_a_machine_without_plain_slots_says_why_in_newer_kernels(make_rig: Any, design: designs.Design, code: int) -> None:
    rig = make_rig(design, ONLY_ES)

    with refuses(code) as no:
        rig.init()
    assert "no slot of this kind at all" in no.why
    rig.init(es=True)  # which this machine has


@EVERY
def test_es_init_where_there_is_no_es_is_enotty_before_the_vm_is_asked(make_rig: Any, design: designs.Design) -> None:
    rig = make_rig(design, NO_ES)
    vm = rig.init()
    rig.vcpu(vm)

    with refuses(ENOTTY):
        rig.op(vm, KVM_SEV_ES_INIT)
    assert rig.last.error == UNTOUCHED
    with refuses(EINVAL):
        rig.op(vm, KVM_SEV_INIT)


def test_over_misc_max_is_ebusy_in_both_kernels(make_rig: Callable[..., Rig]) -> None:
    for design in (designs.LINUX_6_1, designs.LINUX_6_12):
        rig = make_rig(design, cgroups={"/a": {"sev": 1}}, cgroup="/a")
        rig.init()
        with refuses(EBUSY):
            rig.init()
        assert rig.kernel.root_cgroup.find("/a").events["sev"] == 1


def test_after_init_destroying_the_vm_asks_nothing_of_the_firmware(rig: Rig) -> None:
    vm, before = rig.init(), len(rig.rows(CommandDone))
    rig.qemu.close(vm)

    assert len(rig.rows(CommandDone)) == before


# ------------------------------------------------------------------ VM types


@OLD
@pytest.mark.parametrize("vm_type", [1, 2, 3, 4, 63, 64, 1 << 32])
def test_before_6_10_there_is_one_type_of_vm(make_rig: Callable[..., Rig], design: designs.Design, vm_type: int) -> None:
    with refuses(EINVAL):
        make_rig(design).vm(vm_type)


@pytest.mark.parametrize("vm_type", [1, 4, 5, 64, 1 << 32])
def test_types_that_this_machine_has_not_are_refused(make_rig: Callable[..., Rig], vm_type: int) -> None:
    with refuses(EINVAL):
        make_rig(designs.LINUX_6_12).vm(vm_type)


@IDS
@pytest.mark.parametrize("vm_type", [KVM_X86_SEV_VM, KVM_X86_SEV_ES_VM])
def test_the_old_commands_are_for_the_default_type_and_say_einval_where_they_said_ebusy(
    make_rig: Callable[..., Rig], id: int, vm_type: int
) -> None:
    rig = make_rig(designs.LINUX_6_12)
    with refuses(EINVAL):
        rig.op(rig.vm(vm_type), id)
    vm = rig.init()

    with refuses(EINVAL):
        rig.op(vm, id)


def test_the_old_commands_pin_the_ghcb_version_so_that_measurements_hold(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(designs.LINUX_6_12, "milan")

    assert rig.file(rig.init(es=True)).sev.ghcb_version == 1
    assert rig.file(rig.init()).sev.ghcb_version == 0
    assert rig.file(rig.init(es=True)).sev.vmsa_features == 0


# ------------------------------------------------------------------ INIT2


def typed(make_rig: Callable[..., Rig], vm_type: int = KVM_X86_SEV_ES_VM, chip: Any = "milan") -> tuple[Rig, int]:
    rig = make_rig(designs.LINUX_6_12, chip)
    return rig, rig.vm(vm_type)


@OLD
def test_init2_is_an_unknown_id_before_6_10(make_rig: Callable[..., Rig], design: designs.Design) -> None:
    rig = make_rig(design)

    with refuses(EINVAL):
        rig.op(rig.vm(), KVM_SEV_INIT2, kvm_sev_init())


@pytest.mark.parametrize("vm_type, asid, ghcb", [(KVM_X86_SEV_VM, 100, 0), (KVM_X86_SEV_ES_VM, 1, 2)])
def test_init2_makes_what_the_vm_was_created_as(make_rig: Callable[..., Rig], vm_type: int, asid: int, ghcb: int) -> None:
    rig, vm = typed(make_rig, vm_type)
    assert rig.file(vm).sev.need_init
    rig.op(vm, KVM_SEV_INIT2, kvm_sev_init(pad1=1, pad2=(1,) * 8))  # pads are not looked at

    sev = rig.file(vm).sev
    assert (sev.active, sev.need_init, sev.es) == (True, False, vm_type == KVM_X86_SEV_ES_VM)
    assert (sev.asid, sev.ghcb_version) == (asid, ghcb)
    assert rig.last.error == UNTOUCHED


@pytest.mark.parametrize("vm_type", [KVM_X86_SEV_VM, KVM_X86_SEV_ES_VM])
@pytest.mark.parametrize("flag", range(32))
def test_no_flag_is_known(make_rig: Callable[..., Rig], vm_type: int, flag: int) -> None:
    rig, vm = typed(make_rig, vm_type)

    with refuses(EINVAL):
        rig.op(vm, KVM_SEV_INIT2, kvm_sev_init(flags=1 << flag))


def test_a_feature_is_accepted_exactly_where_the_attribute_offers_it(make_rig: Callable[..., Rig]) -> None:
    for chip, offered in (("rome", 0), ("milan", KVM_SEV_VMSA_DEBUG_SWAP)):
        for vm_type, supported in ((KVM_X86_SEV_VM, 0), (KVM_X86_SEV_ES_VM, offered)):
            rig = make_rig(designs.LINUX_6_12, chip)
            for bit in range(64):
                vm, init = rig.vm(vm_type), kvm_sev_init(vmsa_features=1 << bit)
                if supported >> bit & 1:
                    rig.op(vm, KVM_SEV_INIT2, init)
                    assert rig.file(vm).sev.vmsa_features == 1 << bit
                else:
                    with refuses(EINVAL):
                        rig.op(vm, KVM_SEV_INIT2, init)
                rig.qemu.close(vm)


@pytest.mark.parametrize("vm_type, version", [(3, 0), (3, 1), (3, 2), (3, 3), (2, 0), (2, 1), (2, 2)])
def test_the_ghcb_version_is_one_that_the_kernel_speaks(make_rig: Callable[..., Rig], vm_type: int, version: int) -> None:
    rig, vm = typed(make_rig, vm_type)
    init = kvm_sev_init(ghcb_version=version)
    if version <= (2 if vm_type == KVM_X86_SEV_ES_VM else 0):
        rig.op(vm, KVM_SEV_INIT2, init)
        assert rig.file(vm).sev.ghcb_version == (version or (2 if vm_type == 3 else 0))
    else:
        with refuses(EINVAL):
            rig.op(vm, KVM_SEV_INIT2, init)


def test_the_ladder_of_init2_is_climbed_from_the_top(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(designs.LINUX_6_12, "milan")
    with refuses(EINVAL):  # no type, and a pointer to nowhere
        rig.op(rig.vm(KVM_X86_DEFAULT_VM), KVM_SEV_INIT2, NOWHERE)
    vm = rig.vm(KVM_X86_SEV_ES_VM)
    rig.vcpu(vm)
    with refuses(EFAULT):  # a pointer to nowhere, and a vCPU
        rig.op(vm, KVM_SEV_INIT2, NOWHERE)
    with refuses(EINVAL) as no:  # a vCPU, and a flag
        rig.op(vm, KVM_SEV_INIT2, kvm_sev_init(flags=1))
    assert "created_vcpus" in no.why
    vm = rig.vm(KVM_X86_SEV_ES_VM)
    with refuses(EINVAL) as no:  # a flag, and a feature
        rig.op(vm, KVM_SEV_INIT2, kvm_sev_init(flags=1, vmsa_features=1))
    assert "data->flags" in no.why
    with refuses(EINVAL) as no:  # a feature, and a GHCB version
        rig.op(vm, KVM_SEV_INIT2, kvm_sev_init(vmsa_features=1, ghcb_version=9))
    assert "vmsa_features" in no.why


def test_init2_twice_is_einval_since_the_vm_needs_none(make_rig: Callable[..., Rig]) -> None:
    rig, vm = typed(make_rig)
    rig.op(vm, KVM_SEV_INIT2, kvm_sev_init())

    with refuses(EINVAL) as no:
        rig.op(vm, KVM_SEV_INIT2, kvm_sev_init())
    assert "need_init" in no.why


def test_init2_that_finds_no_slot_leaves_a_vm_that_still_needs_it(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(designs.LINUX_6_12, SMALL)
    rig.init()
    vm = rig.vm(KVM_X86_SEV_VM)

    with refuses(EBUSY):
        rig.op(vm, KVM_SEV_INIT2, kvm_sev_init())
    assert rig.file(vm).sev.need_init
    assert not rig.file(vm).sev.active


def test_a_machine_that_has_no_es_has_no_es_type(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(designs.LINUX_6_12, NO_ES)
    rig.vm(KVM_X86_SEV_VM)

    with refuses(EINVAL):
        rig.vm(KVM_X86_SEV_ES_VM)


# ------------------------------------------------------------------ the ladders


def test_the_rules_stand_in_the_kernels_order() -> None:
    def codes(handler: Any) -> list[str]:
        return [rung.code for rung in ladder(handler)]

    asid, up = "EBUSY, ENOTTY, EINVAL", "EIO, ETIMEDOUT, ENODEV"
    assert codes(guest_init) == ["EINVAL", "EBUSY", "EBUSY", up]
    assert codes(guest_init_default) == ["EINVAL", "EINVAL", "EINVAL", asid, up]
    assert codes(guest_init2) == ["EINVAL", "EINVAL", "EFAULT", *["EINVAL"] * 6, asid, up]


def test_init_names_the_kernels_own_variable_at_each_rung() -> None:
    assert [rung.note.split(":")[0] for rung in ladder(guest_init)][:2] == ["kvm->created_vcpus", "sev->active"]


def test_the_platform_is_brought_up_only_after_a_slot_was_found(make_rig: Callable[..., Rig]) -> None:
    release = replace(designs.V6_1, init_on_probe=False)
    rig = make_rig(replace(designs.LINUX_6_1, release=release), cgroups={"/a": {"sev": 0}}, cgroup="/a")

    with refuses(EBUSY):
        rig.init()
    assert [row["cmd"] for row in rig.rows(CommandDone)] == [Cmd.PLATFORM_STATUS]
