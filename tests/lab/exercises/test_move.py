"""Lab move's exercises: each diagnosis is spoken to whom it is meant for."""

from __future__ import annotations

from typing import Any

import pytest
from lab.exercises.verdicts import said

from sevlab.abi.kvm import KVM_SEV_LAUNCH_START, kvm_sev_launch_start
from sevlab.lab.attempt import attempt
from sevlab.lab.exercises import find
from sevlab.lab.exercises.move_cgroup import CgroupCase
from sevlab.lab.exercises.move_errno import MOVES, ErrnoCase
from sevlab.lab.exercises.move_fd0 import Fd0Case
from sevlab.lab.grading import NOT_YET, PASSED, Verdict, judge

SEEDS = (7, 8, 1234)


# ------------------------------------------------------------- move.errno


@pytest.mark.parametrize(
    ("change", "diagnosis"),
    [
        ({"x <- x": "EBUSY"}, "itself"),
        ({"dead <- SEV": "EINVAL", "plain <- dead": "EIO"}, "dead"),
        ({"plain with 2 vCPUs <- SEV with 4": "EINVAL"}, "counts"),
        ({"plain <- mirror": "EINVAL"}, ""),
    ],
)
def test_each_wrong_errno_has_its_sentence(change: dict[str, str], diagnosis: str) -> None:
    found = said("move.errno", lambda case, good: good | change)
    assert (found.outcome, found.diagnosis) == (NOT_YET, diagnosis)
    assert [row.what for row in found.rows if not row.ok] == [name for name in ErrnoCase(7).moves if name in change]


def test_twelve_names_are_asked_for_and_a_number_0_will_do() -> None:
    assert said("move.errno", lambda case, good: {"x <- x": "EINVAL"}).diagnosis == "wants"
    assert said("move.errno", lambda case, good: good | {"x <- x": ["EINVAL"]}).diagnosis == "wants"
    assert said("move.errno", lambda case, good: {n: 0 if e == "0" else e for n, e in good.items()}).outcome == PASSED


def test_neighbours_have_another_order_of_the_same() -> None:
    one, other = ErrnoCase(7).moves, ErrnoCase(8).moves
    assert one != other and set(one) == set(other) == set(MOVES)


# ------------------------------------------------------------- move.cgroup


@pytest.mark.parametrize(
    ("key", "pair", "diagnosis"),
    [("V11", (0, 0), "lost"), ("V11", (0, 1), "lost"), ("6.1", (1, 0), "creator"), ("6.1", (1, 1), "")],
)
def test_each_wrong_pair_has_its_sentence(key: str, pair: tuple[int, int], diagnosis: str) -> None:
    def change(case: CgroupCase, good: dict[str, Any]) -> dict[str, Any]:
        return good | {key: [good[key][0], (case.a + pair[0], case.b + pair[1]), good[key][2]]}

    found = said("move.cgroup", change)
    assert (found.outcome, found.diagnosis) == (NOT_YET, diagnosis)


def test_who_lets_the_full_one_in_is_told() -> None:
    assert said("move.cgroup", lambda case, good: good | {"6.1, b full": "0"}).diagnosis == "full"


@pytest.mark.parametrize("answer", [{}, {"V11": [], "6.1": [], "V11, b full": "0", "6.1, b full": "0"}])
def test_three_pairs_each_are_asked_for(answer: dict[str, Any]) -> None:
    assert said("move.cgroup", lambda case, good: answer).diagnosis == "wants"


# ------------------------------------------------------------- move.fd0


@pytest.fixture
def moved() -> Fd0Case:
    return Fd0Case(7)


def checked(case: Fd0Case) -> Verdict:
    return judge(find("move.fd0"), case, "done")


def test_closing_0_and_opening_the_device_is_as_good(moved: Fd0Case) -> None:
    moved.new.process.close(0)
    assert moved.new.process.open("/dev/sev", "r+") == 0
    assert checked(moved).outcome == PASSED


def test_nothing_done_is_left_to_the_table_however_often_it_is_checked(moved: Fd0Case) -> None:
    for _ in range(2):
        found = checked(moved)
        assert (found.outcome, found.diagnosis) == (NOT_YET, "")


def test_opened_again_it_is_another_number(moved: Fd0Case) -> None:
    fd = moved.new.process.open("/dev/sev", "r+")
    assert checked(moved).says == f"You got descriptor {fd}. The kernel looks up number 0."


def test_asked_again_it_says_the_same(moved: Fd0Case) -> None:
    attempt(moved.new.status)
    assert checked(moved).diagnosis == "asked"


def test_started_again_it_is_told_that_the_guest_exists(moved: Fd0Case) -> None:
    attempt(moved.new.sev_op, KVM_SEV_LAUNCH_START, kvm_sev_launch_start(policy=1))
    assert checked(moved).diagnosis == "started"
