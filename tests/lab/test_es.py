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

    assert es.shown(plain).says == "all" and es.shown(sealed).says == "those of the request"
    assert es.where_it_runs(plain, sealed).says == "0, and nothing about where it runs"
    assert es.where_it_runs(plain, plain).says == "0, and where it runs"
    assert es.registers(sealed)["rax"] == f"{host.chip.signature:#x}"


def test_a_kernel_with_vm_types_refuses_to_say(hosts: Any) -> None:
    vm = launch(hosts(designs.LINUX_6_12), es.clerk)
    vm.run()

    assert es.refused_registers(vm).says == "EINVAL"
    assert set(es.registers(vm).values()) == {"EINVAL"}


def test_what_is_measured_is_the_reset_vector_and_the_signature(hosts: Any) -> None:
    text = str(es.measured(hosts(), 0xFFFF_FFF0))

    assert all(word in text for word in ("0xffff0000", "0xfff0", "0x830f10"))


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

    assert [line.split()[3] for line in lines if line.startswith(("rax", "rbx"))] == ["●", "·"]


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

    assert es.table_kept(host, es.parked(host, 2)).says == "its address"


def test_only_a_hold_that_user_space_can_see_outlives_its_vmm() -> None:
    rows = [es.replaced(design, processors=2) for design in (es.POSTED_HOLD, designs.LINUX_6_1)]

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
