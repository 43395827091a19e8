"""Lab es's exercises: each diagnosis is spoken to whom it is meant for."""

from __future__ import annotations

from typing import Any

import pytest
from lab.exercises.verdicts import said

from sevlab.abi.ghcb import VALID_BITS, Ghcb
from sevlab.abi.kvm import KVM_GET_MP_STATE, KVM_SET_MP_STATE, kvm_mp_state
from sevlab.guest.ghcb import open_ghcb
from sevlab.guest.smp import GHCBS, ICR, INIT, OTHERS, RESET_PAGE, STARTUP, on_vc, x2apic_on
from sevlab.hw.isa import hlt, program, store, wrmsr
from sevlab.lab.exercises import find
from sevlab.lab.exercises.es import EXERCISES, DecodeCase, MissingCase
from sevlab.lab.exercises.es_ghost import GhostCase
from sevlab.lab.grading import NOT_ATTEMPTED, NOT_YET, PASSED, RAISED, Verdict, judge
from sevlab.lab.sealed import ask

SEEDS = (7, 8, 1234)
RESET = 0x80B004


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.id)
@pytest.mark.parametrize("answer", ["a sentence", 4, {}, [], (1, 2, 3), b"", 1.5])
def test_an_answer_of_another_kind_is_told_what_is_asked_for(exercise: Any, answer: Any) -> None:
    found = judge(exercise, exercise.setup(7), answer)
    assert (found.outcome, found.diagnosis) == (NOT_YET, "wants") and found.says


# ------------------------------------------------------------- es.decode


@pytest.mark.parametrize("seed", range(8))
def test_every_seed_s_page_is_a_request_that_is_answered_and_has_leftovers(seed: int) -> None:
    from sevlab import Host

    case = DecodeCase(seed)
    with Host(seed=3, memory=1 << 30) as host:
        assert ask(host, case.request) == (0, 0)
    assert len(case.stale()) == 2


def test_neighbours_have_another_page() -> None:
    assert len({DecodeCase(seed).page for seed in range(8)}) == 8


@pytest.mark.parametrize("seed", SEEDS)
def test_a_register_without_its_bit_is_told_the_offset_and_the_bit(seed: int) -> None:
    [name, _] = DecodeCase(seed).stale()

    def change(case: DecodeCase, good: dict[str, Any]) -> dict[str, Any]:
        return good | {"registers": good["registers"] | {name: case.stale()[name]}}

    found = said("es.decode", change, seed)
    assert found.diagnosis == "stale" and f"bit {VALID_BITS[name]} is not set" in found.says
    assert [row.machine for row in found.rows if row.what == name] == ["not shown"]


def test_a_bit_for_each_byte_finds_no_register() -> None:
    found = said("es.decode", lambda case, good: good | {"registers": {}})
    assert found.diagnosis == "bytes" and found.says == "One bit stands for eight bytes: offset / 8."


@pytest.mark.parametrize("by", [8, -8, 0x3F0 - 0x390])
def test_fields_read_from_their_neighbours_place_are_shifted(by: int) -> None:
    def change(case: DecodeCase, good: dict[str, Any]) -> dict[str, Any]:
        return good | {"exit": int.from_bytes(case.page[0x390 + by : 0x398 + by], "little")}

    assert said("es.decode", change).diagnosis == "shifted"


def test_a_number_that_stands_nowhere_is_left_to_the_table() -> None:
    found = said("es.decode", lambda case, good: good | {"exit": 0x1234_5678_9ABC})
    assert (found.outcome, found.diagnosis) == (NOT_YET, "") and not found.rows[0].ok


@pytest.mark.parametrize("registers", [{"rax": "1"}, {"xmm0": 1}, ["rax"]])
def test_registers_are_names_and_numbers(registers: Any) -> None:
    assert said("es.decode", lambda case, good: good | {"registers": registers}).diagnosis == "wants"


# ------------------------------------------------------------- es.missing


def test_the_request_is_refused_as_the_question_says() -> None:
    for seed in SEEDS:
        case = MissingCase(seed)
        assert case.ask(case.request) == (2, 4) and case.lacking() == "xcr0"


@pytest.mark.parametrize(
    ("name", "diagnosis", "says"),
    [
        ("rbx", "answers", "Those are answers"),
        ("rdx", "answers", "Those are answers"),
        ("rcx", "rcx", "Set already"),
        ("4", "result", "info1 = 2 means"),
        (4, "result", "info1 = 2 means"),
        ("rsi", "", ""),
    ],
)
def test_each_wrong_name_has_its_sentence(name: Any, diagnosis: str, says: str) -> None:
    found = said("es.missing", lambda case, good: (name, good[1]))
    assert (found.outcome, found.diagnosis) == (NOT_YET, diagnosis) and found.says.startswith(says)


def test_named_but_not_shown_is_not_enough() -> None:
    exercise = find("es.missing")
    case = exercise.setup(7)
    assert judge(exercise, case, ("xcr0", case.request)).diagnosis == "unmarked"
    case.request.xcr0 = 1  # the field without its bit
    assert judge(exercise, case, ("xcr0", case.request)).diagnosis == "unmarked"


def test_another_question_that_is_answered_is_not_this_one() -> None:
    other = Ghcb(sw_exit_code=0x72, rax=1).mark("sw_exit_code", "sw_exit_info_1", "sw_exit_info_2", "rax", "rcx", "xcr0")
    found = said("es.missing", lambda case, good: ("xcr0", other))
    assert found.outcome == NOT_YET and [row.what for row in found.rows if not row.ok] == ["the question"]


# ------------------------------------------------------------- es.boot


def bsp_that(*, places: int = RESET_PAGE, init: bool = True, startup: bool = True) -> Any:
    @program(vc=on_vc)
    async def bsp(vector: int, code: bytes) -> None:
        await open_ghcb(GHCBS)
        await x2apic_on()
        await store(places or vector << 12, code.ljust(4096, b"\0"), c=True)
        if init:
            await wrmsr(ICR, OTHERS | INIT)
        if startup:
            await wrmsr(ICR, OTHERS | STARTUP | vector)
        while True:
            await hlt()

    return bsp


def test_the_routine_of_another_bsp_runs_too() -> None:
    assert judge(find("es.boot"), find("es.boot").setup(7), (RESET, bsp_that())).outcome == PASSED


@pytest.mark.parametrize(
    ("answer", "diagnosis", "says"),
    [
        ((0x42 << 12, bsp_that()), "vector", "So it was, before ES. The save area was measured with CS:IP = 0x80b004;"),
        ((RESET, bsp_that(init=False)), "init", "mp_state stays UNINITIALIZED"),
        ((RESET, bsp_that(startup=False)), "", ""),
        ((RESET, bsp_that(places=0)), "elsewhere", "The AP runs the firmware's reset code."),
        ((RESET + 1, bsp_that()), "", ""),
    ],
    ids=["vector", "no INIT", "no SIPI", "code at the vector", "next to it"],
)
def test_each_wrong_way_to_boot_has_its_sentence(answer: Any, diagnosis: str, says: str) -> None:
    found = judge(find("es.boot"), find("es.boot").setup(7), answer)
    assert (found.outcome, found.diagnosis) == (NOT_YET, diagnosis), found
    assert found.says.startswith(says)


def test_a_program_that_raises_is_the_reader_s_own_error() -> None:
    @program(vc=on_vc)
    async def broken(vector: int, code: bytes) -> None:
        raise ZeroDivisionError("mine")

    found = judge(find("es.boot"), find("es.boot").setup(7), (RESET, broken))
    assert found.outcome == RAISED and "ZeroDivisionError: mine" in found.says


# ------------------------------------------------------------- es.ghost


def state_of(vcpu: Any) -> int:
    state = kvm_mp_state()
    vcpu.ioctl(KVM_GET_MP_STATE, state)
    return int(state.mp_state)


def ghost(answer: Any) -> Verdict:
    return judge(find("es.ghost"), find("es.ghost").setup(7), answer)


def reference() -> Any:
    return find("es.ghost").reference(None)


def test_the_aps_are_what_they_are_said_to_be_and_both_seeds_differ() -> None:
    case = GhostCase(7)
    names = {0: 9, 1: 3, 2: 0}
    assert [state_of(vcpu) for vcpu in case.vm.vcpus[1:]] == [names[role] for role in case.roles]
    assert [state_of(vcpu) for vcpu in case.posted.vcpus[1:]] == [0 if role == 2 else 3 for role in case.roles]
    assert len({tuple(GhostCase(seed).roles) for seed in range(6)}) > 2


def test_halted_taken_for_parked_names_both_aps() -> None:
    found = ghost(lambda vm, vcpu: state_of(vcpu) in (3, 9) if state_of(vcpu) != 3 or vm is None else True)
    assert found.diagnosis == "halted" and "both say HALTED" in found.says


def test_registers_say_nothing_of_a_sealed_vcpu() -> None:
    found = ghost(lambda vm, vcpu: vcpu.registers()[0].rip == 0)
    assert found.diagnosis == "registers"


def test_who_looks_behind_the_descriptors_is_right_and_has_not_passed() -> None:
    def parked(vm: Any, vcpu: Any) -> bool | None:
        known = bool(vm.process.kernel.design.ap_boot.states)
        state = state_of(vcpu)
        return None if state == 3 and not known else state == 9

    found = ghost(parked)
    assert (found.outcome, found.diagnosis) == (NOT_YET, "xray")
    assert found.says.startswith("Right, and no VMM has those eyes. Entry ")


def test_a_test_that_changes_the_state_is_told_so() -> None:
    def parked(vm: Any, vcpu: Any) -> bool | None:
        if state_of(vcpu) != 3:
            return state_of(vcpu) == 9
        try:
            vcpu.ioctl(KVM_SET_MP_STATE, kvm_mp_state(9))
        except OSError:
            return None
        return False

    assert ghost(parked).diagnosis == "changed"


def test_who_never_knows_is_told_where_it_can_be_known() -> None:
    def parked(vm: Any, vcpu: Any) -> None:
        state_of(vcpu)

    assert ghost(parked).diagnosis == "shy"


def test_an_empty_function_was_not_attempted_and_one_that_raises_is_the_reader_s() -> None:
    assert ghost(lambda vm, vcpu: None).outcome == NOT_ATTEMPTED
    assert ghost(lambda vm, vcpu: vm.nothing).outcome == RAISED
