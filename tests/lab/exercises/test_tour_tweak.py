"""The exercises of labs tour and tweak: each diagnosis is spoken to whom it is meant for."""

from __future__ import annotations

from typing import Any

import pytest

from sevlab.lab.bus import bus
from sevlab.lab.exercises import find
from sevlab.lab.grading import NOT_YET, PASSED, judge
from sevlab.lab.tweak import xor


def test_neighbours_have_other_numbers() -> None:
    assert find("tour.bus").setup(7)._password != find("tour.bus").setup(8)._password
    assert find("tweak.move").setup(7).q != find("tweak.move").setup(8).q


def said(id: str, answer: Any, seed: int = 7) -> tuple[str, str]:
    exercise = find(id)
    case = exercise.setup(seed)
    found = judge(exercise, case, answer(case) if callable(answer) else answer, seed)
    return found.outcome, found.diagnosis


@pytest.mark.parametrize(
    ("answer", "diagnosis"),
    [
        (lambda case: b"password=" + case._password, "padding"),
        (lambda case: case._password.ljust(32, b"\0"), "padding"),
        (lambda case: bus(case.host, case.b, case.first, 16), "neighbour"),
        (lambda case: case.host.hpa(case.a.process, case.a.hva(case.first)), "address"),
        (b"no idea", ""),
    ],
)
def test_who_reads_the_bus_wrongly_is_told_how(answer: Any, diagnosis: str) -> None:
    assert said("tour.bus", answer) == (NOT_YET, diagnosis)


@pytest.mark.parametrize(
    ("answer", "diagnosis"),
    [
        ({"private": "EFAULT", "shared": "plaintext"}, "fault"),
        ({"private": "plaintext", "shared": "plaintext"}, "key"),
        ({"private": "zeros", "shared": "plaintext"}, "erased"),
        ({"private": "ciphertext", "shared": "zeros"}, ""),
        ({"private": "noise", "shared": "plaintext"}, "wants"),
        ("ciphertext", "wants"),
    ],
)
def test_who_takes_the_pointer_for_something_else_is_told_what_it_is(answer: Any, diagnosis: str) -> None:
    assert said("tour.pointer", answer) == (NOT_YET, diagnosis)


@pytest.mark.parametrize(
    ("answer", "diagnosis"),
    [
        (lambda case: case.m, "unmoved"),
        (lambda case: xor(case.m, case.t_q), "one tweak"),
        (lambda case: xor(case.m, case.t_p), "one tweak"),
        ("noise", "noise"),
        (bytes(16), ""),
    ],
)
def test_who_moves_sixteen_bytes_wrongly_is_told_which_step(answer: Any, diagnosis: str) -> None:
    assert said("tweak.move", answer) == (NOT_YET, diagnosis)


# ------------------------------------------------------------- tour.parties

PARTIES = {"slot": "kernel", "made": "psp", "keeps": "engine", "private": "guest", "stop": {"kernel", "vmm"}}


@pytest.mark.parametrize(
    ("answer", "diagnosis"),
    [
        (PARTIES | {"made": "kernel"}, "kernel"),
        (PARTIES | {"private": "vmm"}, "vmm"),
        (PARTIES | {"stop": "vmm"}, "alone"),
        (PARTIES | {"stop": {"vmm"}}, "alone"),
        (PARTIES | {"keeps": "psp"}, ""),
        (PARTIES | {"stop": {"kernel", "vmm", "owner"}}, ""),
        (PARTIES | {"stop": set()}, "wants"),
        (PARTIES | {"slot": "AMD"}, "wants"),
        (PARTIES | {"slot": {"kernel"}}, "wants"),
        (PARTIES | {"stop": [{}]}, "wants"),
        ({"slot": "kernel"}, "wants"),
        ("the guest", "wants"),
    ],
)
def test_who_gives_a_deed_to_another_party_is_told_whose_it_was(answer: Any, diagnosis: str) -> None:
    assert said("tour.parties", answer) == (NOT_YET, diagnosis)


def test_a_list_of_those_who_can_stop_it_will_do() -> None:
    assert said("tour.parties", PARTIES | {"stop": ["vmm", "kernel"]}) == (PASSED, "")


def test_the_search_for_the_key_is_not_counted_as_the_readers_look() -> None:
    exercise = find("tour.parties")
    case = exercise.setup(7)
    judge(exercise, case, PARTIES | {"made": "kernel"}, 7)

    assert judge(exercise, case, PARTIES, 7).xrays == 0


def test_a_wrong_password_is_not_answered_with_the_right_one() -> None:
    case = find("tour.bus").setup(7)

    [row] = find("tour.bus").check(case, b"a guess").rows
    assert not row.ok and case._password.decode() not in row.machine
    [row] = find("tour.bus").check(case, case._password).rows
    assert row.ok and case._password.decode() in row.machine
