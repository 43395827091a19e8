"""A call that a reader breaks: each fault is found by the rung that is named after it, and by none above."""

from __future__ import annotations

import pytest

from sevlab import designs
from sevlab.lab.breaking import CALLS, HAS_VCPU, MEANT, NEWER_API, NOT_SEV, WRAP, breakable
from sevlab.lab.ladders import Rungs


def numbers(rungs: Rungs, *words: str) -> frozenset[int]:
    """The numbers of the rungs that say these words."""
    said = [row["words"] for row in rungs.columns[0][1]]
    return frozenset(said.index(one) for one in words)


def outcome(rungs: Rungs, *words: str, column: int = 0) -> tuple[str, str, str] | None:
    """Which rung refused, its answer and the firmware's, with these rungs made wrong; None: none did."""
    assert rungs.broken is not None
    rows = rungs.broken(numbers(rungs, *words))[column][1]
    return next(((row["words"], row["code"], row["fw"]) for row in rows if row["state"] == "refused"), None)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_with_nothing_wrong_passes_every_rung(name: str) -> None:
    rungs = breakable(name)
    assert rungs.broken is not None
    [(_, rows)] = rungs.broken(frozenset())

    assert {row["state"] for row in rows} == {"passed"}


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name, call in CALLS.items() for fault in sorted(call.faults)])
def test_each_fault_is_refused_by_its_own_rung(name: str, fault: str) -> None:
    found = outcome(breakable(name), fault)

    assert found is not None and found[0] == fault


def test_of_two_faults_the_upper_one_answers() -> None:
    rungs = breakable("LAUNCH_START")

    assert outcome(rungs, WRAP, NOT_SEV) == (NOT_SEV, "ENOTTY", "")
    assert outcome(rungs, MEANT, WRAP) == (WRAP, "EIO", "BAD_MEASUREMENT")
    assert outcome(rungs, NEWER_API) == (NEWER_API, "EIO", "POLICY_FAILURE")


def test_5_13_has_no_rung_for_a_destination_with_a_vcpu() -> None:
    rungs = breakable("COPY_ENC_CONTEXT_FROM", beside=designs.LINUX_5_13)

    assert outcome(rungs, HAS_VCPU) == (HAS_VCPU, "EINVAL", "")
    assert outcome(rungs, HAS_VCPU, column=1) is None
    assert HAS_VCPU not in [row["words"] for row in rungs.columns[1][1]]


def test_all_of_copy_can_be_broken_and_of_launch_start_what_lies_with_the_caller() -> None:
    copy, start = breakable("COPY_ENC_CONTEXT_FROM"), breakable("LAUNCH_START")

    assert copy.breakable == frozenset(range(len(copy.columns[0][1])))
    assert start.breakable == numbers(start, *CALLS["LAUNCH_START"].faults)


def test_a_rung_that_is_the_machine_s_own_cannot_be_broken() -> None:
    rungs = breakable("LAUNCH_START")
    assert rungs.broken is not None

    with pytest.raises(ValueError, match=r"this kernel has no SEV.* machine's own state"):
        rungs.broken(numbers(rungs, "this kernel has no SEV"))


def test_a_call_that_nobody_prepared_is_refused_with_those_there_are() -> None:
    with pytest.raises(LookupError, match="LAUNCH_MEASURE cannot be broken here; there are LAUNCH_START"):
        breakable("LAUNCH_MEASURE")


def test_the_picture_makes_the_call_and_says_whether_the_guess_was_right() -> None:
    pytest.importorskip("sevlab_widgets")
    rungs = breakable("COPY_ENC_CONTEXT_FROM", beside=designs.LINUX_5_13)
    rungs.widget.got_call("", sorted(numbers(rungs, HAS_VCPU)), "EINVAL")

    assert rungs.widget.says().startswith("You guessed EINVAL, and so it is.")
    assert "linux-5.13: every rung passed." in rungs.widget.says()
