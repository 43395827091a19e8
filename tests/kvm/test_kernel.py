"""The booted kernel: what its log says, its designs, its processes, and that it can be built of any chip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from errno import EINVAL, ENOENT, ENOTTY
from typing import Any

import pytest
from sev_rig import Rig, refuses

from sevlab.hw import pages
from sevlab.hw.chips import CHIPS, NAPLES, ROME
from sevlab.kvm import Row, designs
from sevlab.kvm.kernel import Kernel, Logged
from sevlab.kvm.sev_commands import COMMANDS
from sevlab.kvm.sev_dev import SevDev
from sevlab.kvm.system import System

EVERY = pytest.mark.parametrize("design", designs.DESIGNS.values(), ids=lambda d: d.name)


# ------------------------------------------------------------------ boot


@pytest.mark.parametrize(
    "chip, lines",
    [
        (NAPLES, ["SEV enabled (ASIDs 6 - 15)", "SEV-ES enabled (ASIDs 1 - 5)"]),
        (ROME, ["SEV enabled (ASIDs 100 - 509)", "SEV-ES enabled (ASIDs 1 - 99)"]),
        (replace(ROME, min_asid=1), ["SEV enabled (ASIDs 1 - 509)", "SEV-ES disabled (ASIDs 0 - 0)"]),
        (replace(ROME, min_asid=510), ["SEV unusable (ASIDs 510 - 509)", "SEV-ES enabled (ASIDs 1 - 509)"]),
        (replace(ROME, max_asid=0, min_asid=1), ["SEV disabled (ASIDs 1 - 0)", "SEV-ES disabled (ASIDs 0 - 0)"]),
        (replace(ROME, features=0), []),
    ],
    ids=["naples", "rome", "no ES", "only ES", "no slots", "no SEV"],
)
def test_the_log_says_what_the_machine_can_do(make_rig: Callable[..., Rig], chip: Any, lines: list[str]) -> None:
    assert make_rig(chip=chip).kernel.dmesg == ["SEV API:0.24 build:15", *lines]


@pytest.mark.parametrize("api, line", [((0, 16, 1), "SEV API:0.16 build:1"), ((1, 55, 25), "SEV API:1.55 build:25")])
def test_the_log_names_the_firmware(make_rig: Callable[..., Rig], api: tuple[int, int, int], line: str) -> None:
    assert make_rig(api=api).kernel.dmesg[0] == line


def test_every_line_of_the_log_is_a_row_of_the_trace(rig: Rig) -> None:
    rig.kernel.log("hello")

    assert [row["line"] for row in rig.rows(Logged)] == rig.kernel.dmesg


def test_the_capacity_of_the_cgroups_is_the_chips(make_rig: Callable[..., Rig]) -> None:
    for chip in CHIPS.values():
        root = make_rig(chip=chip).kernel.root_cgroup
        assert root.read("misc.capacity") == f"sev {chip.max_asid - chip.min_asid + 1}\nsev_es {chip.min_asid - 1}\n"


def test_where_there_is_no_sev_es_its_resource_is_not_offered(make_rig: Callable[..., Rig]) -> None:
    assert make_rig(chip=replace(ROME, min_asid=1)).kernel.root_cgroup.read("misc.capacity") == "sev 509\n"


def test_the_firmware_has_its_megabyte_and_the_kernel_says_whose_it_is(rig: Rig) -> None:
    assert rig.psp.tmr % (1 << 20) == 0
    assert rig.soc.pages.counts()["firmware"] == 256
    assert rig.soc.pages.state(rig.psp.tmr >> 12) == pages.FIRMWARE


@EVERY
def test_every_design_boots_on_every_chip(make_rig: Callable[..., Rig], design: designs.Design) -> None:
    for chip in CHIPS:
        kernel = make_rig(design, chip).kernel
        assert kernel.name == design.name
        assert kernel.sev_enabled and kernel.sev_es_enabled


def test_a_machine_without_the_feature_says_enotty_to_every_vm(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(chip=replace(ROME, features=0))

    with refuses(ENOTTY):
        rig.init()


# ------------------------------------------------------------------ processes and devices


def test_a_process_of_an_unknown_cgroup_is_enoent_and_a_name_twice_einval(rig: Rig) -> None:
    with refuses(ENOENT):
        rig.kernel.process("p", cgroup="/nobody")
    with refuses(EINVAL):
        rig.kernel.process("qemu")
    assert list(rig.kernel.processes) == ["qemu"]


def test_the_devices_know_how_they_were_opened(rig: Rig) -> None:
    files = [rig.qemu.task.fget(rig.qemu.open("/dev/sev", mode)) for mode in ("r", "r+")]

    assert [file.writable for file in files if isinstance(file, SevDev)] == [False, True]
    assert isinstance(rig.qemu.task.fget(rig.kvm), System)
    with refuses(ENOENT):
        rig.qemu.open("/dev/sgx")


@pytest.mark.parametrize("fd", [0, 3, 4, 99])
def test_a_descriptor_that_is_no_vm_is_told_so_by_a_value_error(rig: Rig, fd: int) -> None:
    with pytest.raises(ValueError, match=f"descriptor {fd} of qemu is no VM"):
        rig.kernel.vm_of(rig.qemu, fd)


def test_two_kernels_share_nothing(make_rig: Callable[..., Rig]) -> None:
    one, two = make_rig(), make_rig()
    one.started()

    assert two.kernel.asids.used() == {} and two.kernel.vms == {} and two.psp.guests == {}


def test_the_same_seed_is_the_same_machine(make_rig: Callable[..., Rig]) -> None:
    def digest(rig: Rig) -> Any:
        hva = rig.memory(bytes(range(256)) * 16)
        vm = rig.started()
        rig.update(vm, hva, 4096)
        return rig.measure(vm), rig.qemu.read(hva, 4096), rig.trace.rows()

    assert digest(make_rig()) == digest(make_rig())


# ------------------------------------------------------------------ designs


def test_the_presets_have_the_names_of_the_command_line() -> None:
    assert list(designs.DESIGNS) == ["posted", "linux-5.13", "linux-6.1", "linux-6.1-fixed", "linux-6.12"]
    assert designs.by_name("linux-6.12") is designs.LINUX_6_12
    assert designs.by_name(designs.POSTED) is designs.POSTED
    with pytest.raises(ValueError, match=r"no design 'linux-7'; there are posted"):
        designs.by_name("linux-7")


def test_a_design_is_a_value_and_one_seam_can_be_exchanged() -> None:
    odd = replace(designs.LINUX_6_1, quirks=designs.MENDED)

    assert odd.init is designs.LINUX_6_1.init
    assert odd != designs.LINUX_6_1
    with pytest.raises(FrozenInstanceError):
        odd.name = "x"  # type: ignore[misc]


@EVERY
def test_every_answer_of_a_seam_shows_itself(design: designs.Design) -> None:
    for field in fields(design):
        answer = getattr(design, field.name)
        assert answer == design.name or " object at 0x" not in repr(answer)


def test_6_1_and_its_fixed_twin_differ_in_their_quirks_alone() -> None:
    one, two = designs.LINUX_6_1, designs.LINUX_6_1_FIXED

    assert [field.name for field in fields(one) if getattr(one, field.name) != getattr(two, field.name)] == ["name", "quirks"]


@EVERY
def test_the_commands_of_a_design_are_rows(design: designs.Design) -> None:
    assert all(isinstance(row, Row) for row in design.init.commands.values())
    assert not set(design.init.commands) & set(COMMANDS)


def test_what_an_unknown_kernel_does_not_have_it_does_not_serve(make_rig: Callable[..., Rig]) -> None:
    class NoInit(designs.Init):
        commands: dict[int, Row] = {}

    rig = make_rig(replace(designs.LINUX_6_1, init=NoInit()))

    with refuses(EINVAL):
        rig.init()


def test_a_kernel_is_built_without_a_gate_of_its_hosts_too(rig: Rig) -> None:
    assert isinstance(rig.kernel, Kernel)
    assert repr(rig.kernel) == "<Kernel: linux-6.1, 1 processes, 0 VMs>"
