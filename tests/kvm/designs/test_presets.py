"""The presets: each is one kernel, and has at each seam what that kernel had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from errno import EINVAL

import pytest
from sev_rig import Rig, refuses

from sevlab.abi.kvm import KVM_CHECK_EXTENSION, KVM_ENABLE_CAP, kvm_enable_cap
from sevlab.kvm import designs

Make = Callable[..., Rig]

ANSWERS = {
    "posted": (designs.MIRROR_5_13, designs.MOVE_V11, 1, 0),
    "linux-5.13": (designs.MIRROR_5_13, designs.ABSENT, 1, 0),
    "linux-6.1": (designs.MIRROR, designs.MOVE, 1, 1),
    "linux-6.1-fixed": (designs.MIRROR, designs.MOVE, 1, 1),
    "linux-6.12": (designs.MIRROR, designs.MOVE, 1, 1),
}


def test_there_are_these_presets() -> None:
    assert set(ANSWERS) == set(designs.DESIGNS)


@pytest.mark.parametrize("name", ANSWERS)
def test_each_preset_has_its_kernels_answers(make_rig: Make, name: str) -> None:
    design = designs.by_name(name)
    mirror, move, says_197, says_206 = ANSWERS[name]
    assert (design.mirror, design.move) == (mirror, move)
    rig = make_rig(design)
    assert [rig.qemu.ioctl(rig.vm(), KVM_CHECK_EXTENSION, cap) for cap in (197, 206)] == [says_197, says_206]


@pytest.mark.parametrize("name", ANSWERS)
def test_a_vm_of_each_preset_is_launched_and_leaves_nothing(make_rig: Make, name: str) -> None:
    rig = make_rig(designs.by_name(name))
    vm = rig.started()
    assert rig.status(vm).state == 1


def test_quirks_are_as_is_but_in_the_fixed_one() -> None:
    assert {name for name, design in designs.DESIGNS.items() if design.quirks is designs.MENDED} == {"linux-6.1-fixed"}


@pytest.mark.parametrize("seam", ["mirror", "move"])
@pytest.mark.parametrize("source", [400, 0, 3])
def test_where_a_seam_is_absent_the_number_is_no_capability(make_rig: Make, seam: str, source: int) -> None:
    rig = make_rig(replace(designs.LINUX_6_1, **{seam: designs.ABSENT}))
    cap = 197 if seam == "mirror" else 206
    vm = rig.vm()
    assert rig.qemu.ioctl(vm, KVM_CHECK_EXTENSION, cap) == 0
    with refuses(EINVAL):
        rig.qemu.ioctl(vm, KVM_ENABLE_CAP, kvm_enable_cap(cap, args=(source, 0, 0, 0)))


def test_every_answer_says_its_name() -> None:
    for design in designs.DESIGNS.values():
        for field in fields(design):
            assert "object at" not in repr(getattr(design, field.name))


def test_a_design_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no design"):
        designs.by_name("linux-2.6")
