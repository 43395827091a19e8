"""Lab `es`: sealed guests that ask, park and are called; each answer is another one where the machine is another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sevlab import Host, designs, lab, vmm
from sevlab.abi.boot import RESET_BLOCK
from sevlab.abi.ghcb import Ghcb
from sevlab.lab import es

NUMBERS = ("sw_exit_code", "sw_exit_info_1", "sw_exit_info_2")
DEATH = "it ends, and says why"


@pytest.fixture
def hosts() -> Iterator[Any]:
    made: list[Host] = []

    def make(design: designs.Design = designs.LINUX_6_1) -> Host:
        made.append(Host("rome", design, seed=3))
        return made[-1]

    yield make
    for host in made:
        host.close()


def launch(host: Host, program: Any, policy: int = 5, **how: Any) -> Any:
    vm = vmm.launch(host, program=program, policy=policy, **how)
    vm.finish()
    return vm


def cpuid(leaf: int, *more: str, **fields: int) -> Ghcb:
    return Ghcb(sw_exit_code=0x72, rax=leaf, rcx=0, **fields).mark(*NUMBERS, "rax", "rcx", *more)


# ------------------------------------------------------------------ registers


def test_a_plain_guest_shows_all_and_a_sealed_one_what_it_has_shown_before(hosts: Any) -> None:
    host = hosts()
    plain, sealed = launch(host, es.clerk, 1), launch(host, es.clerk)
    for vm in (plain, sealed):
        assert vm.run().name == "HLT"

    assert es.shown(es.registers(plain)).says == "all" and es.shown(es.registers(sealed)).says == "those of the request"
    assert es.where_it_runs(es.registers(plain), es.registers(sealed)).says == "0, and nothing about where it runs"
    assert es.where_it_runs(es.registers(plain), es.registers(plain)).says == "0, and where it runs"
    assert es.registers(sealed)["rax"] == f"{host.chip.signature:#x}"


def test_a_kernel_with_vm_types_refuses_to_say(hosts: Any) -> None:
    vm = launch(hosts(designs.LINUX_6_12), es.clerk)
    vm.run()

    assert es.refused_registers(lab.attempt(vm.vcpus[0].registers)).says == "EINVAL"
    assert set(es.registers(vm).values()) == {"EINVAL"}


def test_what_is_measured_is_the_reset_vector_and_the_signature(hosts: Any) -> None:
    page = es.measured(hosts(), 0xFFFF_FFF0)

    assert (page.cs.base, page.rip, page.rdx) == (0xFFFF0000, 0xFFF0, 0x830F10)
    assert "0x830f10" in str(es.area(page))


def test_the_host_reads_a_plain_guest_s_save_area_and_of_a_sealed_one_the_bytes_on_the_bus(hosts: Any) -> None:
    host = hosts()
    plain, sealed = launch(host, es.clerk, 1), launch(host, es.clerk)
    for vm in (plain, sealed):
        vm.run()

    assert es.save_area(host, plain).rip == 0xFFF0
    bus = es.save_area(host, sealed)
    assert bus.rip != 0xFFF0 and bus.pack()[0x1F0:0x200] == host.probe(es.sealed_area(host, sealed) + 0x1F0, 16)
    lines = str(es.area(es.save_area(host, plain), bus, ("plain", "sealed"))).splitlines()
    assert lines[2].split()[3:5] == ["plain", "sealed"]


@pytest.mark.parametrize(("touched", "says"), [(True, "it is not entered"), (False, "it runs on")])
def test_a_sealed_area_that_was_touched_is_not_entered(hosts: Any, touched: bool, says: str) -> None:
    host = hosts()
    vm = launch(host, es.clerk)
    vm.run()
    if touched:
        at = es.sealed_area(host, vm) + 0x1F0
        host.dram.write(at, lab.flip(host.probe(at, 16)))

    assert es.tampered(vm.run()).says == says


# ------------------------------------------------------------------ requests


def test_a_guest_vouches_for_the_fields_that_it_has_marked() -> None:
    lines = str(es.vouched(cpuid(1, rbx=0xBAD))).splitlines()

    assert [line.split()[3:5] for line in lines if " rax " in line or " rbx " in line] == [["●", "G"], ["○", "G"]]
    assert not any(" rdx " in line for line in lines)


def test_after_the_answer_the_kernel_vouches_for_its_own_and_the_leftover_is_gone(hosts: Any) -> None:
    request = cpuid(1, rbx=0xBAD)
    reply = es.exchange(hosts(), request)
    lines = [line.split() for line in str(es.answered(reply, request)).splitlines()]

    assert next(line for line in lines if "rbx" in line)[3:] == ["●", "K", f"{reply.rbx:#x}", "0xbad"]
    assert next(line for line in lines if "sw_exit_code" in line)[3:5] == ["○", "G"]


@pytest.mark.parametrize(
    ("request_", "refused"),
    [
        (cpuid(1), None),
        (cpuid(0xD), "info2 4  a field that it needs lacks its bit"),
        (cpuid(0xD, "xcr0", xcr0=1), None),
        (Ghcb(sw_exit_code=0x99).mark(*NUMBERS), "info2 6  KVM knows no such exit code"),
        (Ghcb(sw_exit_code=0x72), "info2 4  exit code, info1 or info2 lacks its bit"),
    ],
    ids=["whole", "short", "mended", "unknown", "no bits"],
)
def test_the_ladder_of_a_request_refuses_where_the_kernel_does(hosts: Any, request_: Ghcb, refused: str | None) -> None:
    found = [line for line in es.checks(request_, designs.LINUX_6_1).describe().splitlines() if "<- refused" in line]
    said = es.ask(hosts(), request_)

    assert (found == []) == (refused is None) == (said == (0, 0))
    if refused:
        assert refused in found[0] and f"info2 {said[1]} " in found[0]


def test_the_first_rung_is_the_page_s_use() -> None:
    assert "info2 2  the usage field is not 0  <- refused" in es.checks(Ghcb(ghcb_usage=1), designs.LINUX_6_1).describe()


def test_below_the_rung_that_refuses_nobody_asks() -> None:
    [_, rows] = es.checks(Ghcb(sw_exit_code=0x72), designs.LINUX_6_1).columns[0]

    assert [row["state"] for row in rows] == ["passed", "refused", "unasked", "unasked"]


@pytest.mark.parametrize(
    ("design", "says"), [(designs.LINUX_6_1, "a polite code"), (designs.LINUX_5_13, "its run ends")], ids=["6.1", "5.13"]
)
def test_a_missing_register_is_a_code_since_5_16_and_before_that_the_end(hosts: Any, design: Any, says: str) -> None:
    assert es.missing(es.ask(hosts(design), cpuid(0xD))).says == says


def test_a_request_that_is_whole_is_answered(hosts: Any) -> None:
    assert es.ask(hosts(), cpuid(1)) == (0, 0)
    assert es.missing(es.ask(hosts(), cpuid(0xD, "xcr0", xcr0=1))).says == "an answer"


# ------------------------------------------------------------------ the second processor


@pytest.mark.parametrize("vector", [0x42, 0x9A])
def test_the_old_way_obeys_the_vector_and_a_sealed_processor_does_not(hosts: Any, vector: int) -> None:
    host = hosts()
    old, sealed = es.classically(host, vector), es.parked(host, 2, vector)

    assert es.starts_at(host, old, vector, "classic_ap").says == "where the vector says"
    assert es.starts_at(host, sealed, vector, "ap_reset").says == "where it was measured"
    assert es.first_fetch(host, "ap_reset") == RESET_BLOCK


def test_parked_aps_hold_through_stray_interrupts_and_come_when_they_are_called(hosts: Any) -> None:
    host = hosts()
    vm = es.parked(host)
    before = es.states(vm)
    assert es.parked_states(before).says == "AP_RESET_HOLD" and before[0] == "HALTED"
    es.disturb(vm)
    assert es.stray(before, es.states(vm), vm.read(es.SAID, 1)[0]).says == "parked again"

    assert [es.call(vm, turn) for turn in (1, 2)] == [1, 2]
    assert es.stray(before, es.states(vm), vm.read(es.SAID, 1)[0]).says == "their work"


def test_the_host_knows_the_tables_address_and_not_what_it_says(hosts: Any) -> None:
    host = hosts()

    assert es.table_kept(*es.table_of(host, es.parked(host, 2))).says == "its address"


def test_only_a_hold_that_user_space_can_see_outlives_its_vmm() -> None:
    rows = [es.replaced(design, processors=2).row for design in (es.POSTED_HOLD, designs.LINUX_6_1)]

    assert [row["what the new VMM sees"] for row in rows] == ["HALTED", "AP_RESET_HOLD"]
    assert es.review(rows).says == "linux-6.1" and "never existed" in es.POSTED_HOLD.imaginary


# ------------------------------------------------------------------ lies


@pytest.mark.parametrize("gpa", [0x2000, 0x4_0000, 0x80B000])
def test_a_foreign_table_ends_the_guest(hosts: Any, gpa: int) -> None:
    host = hosts()

    assert es.caught(es.foreign_table(host, es.parked(host, 2), gpa), host.dmesg).says == DEATH


def test_the_table_that_the_guest_has_named_does_not(hosts: Any) -> None:
    host = hosts()
    vm = es.parked(host, 2)
    kept = host.kernel.vm_of(vm.process, vm.fd).sev.ap_jump_table

    assert es.caught(es.foreign_table(host, vm, kept), host.dmesg).says == "nothing"


def test_a_false_call_and_an_impossible_exception_end_the_guest(hosts: Any) -> None:
    for lie in (es.false_call, es.impossible):
        host = hosts()
        assert es.caught(lie(es.parked(host, 2)), host.dmesg).says == DEATH


def test_that_an_ap_never_runs_again_is_noticed_by_nobody(hosts: Any) -> None:
    vm = es.parked(hosts())
    vm.vcpus[2].started = False

    assert es.never(es.call(vm), es.states(vm)).says == "nothing"


def test_a_number_that_comes_back_to_a_register_comes_back_on_the_bus(hosts: Any) -> None:
    host = hosts()
    numbers = (7, 200, 7, 31)
    blocks = es.observed(host, launch(host, es.teller, args=(numbers,)), 4)

    assert es.returned(numbers, blocks).says == "when one comes back"
    assert es.returned((1, 2, 3), blocks[1:]).says == "nothing"


def test_the_lens_of_a_save_area_keeps_the_guest_s_eye_closed(hosts: Any) -> None:
    host = hosts()
    vm = launch(host, es.teller, args=((7, 200),))
    vm.run()
    bus, before = host.probe(es.sealed_area(host, vm) + 0x1F0, 16).hex(" "), len(host.journal.looks)

    assert bus in repr(es.area_lens(host, vm)) and len(host.journal.looks) == before


# ------------------------------------------------------------------ what a machine's buttons do


def test_a_pressed_call_has_every_ap_work_and_park_again(hosts: Any) -> None:
    vm = es.parked(hosts())
    es.press(vm, "INIT, SIPI", "qemu 1")
    es.press(vm, "INIT, SIPI", "qemu 2")

    assert vm.read(es.SAID, 1)[0] == 2 and es.states(vm)[1:] == ["AP_RESET_HOLD"] * 3


def test_a_pressed_interrupt_changes_nothing_for_long(hosts: Any) -> None:
    vm = es.parked(hosts())
    es.press(vm, "interrupt", "qemu 2")

    assert es.states(vm)[2] == "AP_RESET_HOLD" and vm.read(es.SAID, 1)[0] == 0


@pytest.mark.parametrize(
    ("command", "token", "says"),
    [("HLT", "qemu 0", "HLT is the guest's"), ("interrupt", "old 0", "old 0 is none of"), ("interrupt", "of qemu", "none of")],
)
def test_what_no_host_can_do_is_said(hosts: Any, command: str, token: str, says: str) -> None:
    with pytest.raises(LookupError, match=says):
        es.press(es.parked(hosts(), 2), command, token)
