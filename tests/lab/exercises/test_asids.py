"""Lab asids's exercises: each diagnosis is spoken to whom it is meant for."""

from __future__ import annotations

from typing import Any

import pytest
from lab.exercises.verdicts import said

from sevlab.lab.exercises.asids_cgroups import CgroupsCase
from sevlab.lab.exercises.asids_hostile import DEEDS, HostileCase
from sevlab.lab.exercises.asids_next import NextCase
from sevlab.lab.grading import NOT_YET

SEEDS = (7, 8, 1234)


# ------------------------------------------------------------- asids.next


@pytest.mark.parametrize("seed", range(6))
def test_law_counting_says_what_the_machine_says_and_each_broken_rule_shows(seed: int) -> None:
    case = NextCase(seed)
    assert case.play() == case.run() and "EBUSY" in case.run()
    assert all(case.play(**{rule: True}) != case.run() for rule in ("reuse", "own_kind", "borrow"))


def test_neighbours_have_another_script() -> None:
    assert NextCase(7).script == NextCase(7).script != NextCase(8).script


def test_a_slot_reused_before_the_flush_is_named_with_the_step_that_gave_it_back() -> None:
    case = NextCase(7)
    found = said("asids.next", lambda case, _: case.play(reuse=True))
    first = next(n for n, (a, b) in enumerate(zip(case.play(reuse=True), case.play(), strict=True), 1) if a != b)
    slot = case.play(reuse=True)[first - 1]
    assert (found.outcome, found.diagnosis) == (NOT_YET, "reused")
    assert found.says.startswith(f"Slot {slot} was given back at step {case.freed(slot, first)} but not flushed")


def test_a_flush_that_cleans_one_kind_is_told() -> None:
    assert said("asids.next", lambda case, _: case.play(own_kind=True)).diagnosis == "one kind"


def test_who_borrows_is_told() -> None:
    assert said("asids.next", lambda case, _: case.play(borrow=True)).diagnosis == "borrowed"


@pytest.mark.parametrize("answer", [[1, 2], "EBUSY", {1: 1}])
def test_ten_are_asked_for(answer: Any) -> None:
    assert said("asids.next", lambda case, _: answer).says.startswith("This should be a list of ten")


def test_another_mistake_is_left_to_the_table() -> None:
    found = said("asids.next", lambda case, good: [*good[:-1], "ENOMEM"])
    assert (found.outcome, found.says) == (NOT_YET, "") and [row.ok for row in found.rows].count(False) == 1


# ------------------------------------------------------------- asids.hostile


def test_the_deactivated_slot_is_the_seeds() -> None:
    assert len({HostileCase(seed).slot for seed in range(8)}) > 2


def test_what_the_reader_does_meanwhile_changes_no_truth() -> None:
    case = HostileCase(7)
    before = case.statuses()
    case.host.asids.soc.wbinvd()
    assert list(before.values()) == [15, 14, 12] and case.statuses() == before


@pytest.mark.parametrize(
    ("change", "diagnosis"),
    [
        ({DEEDS[0]: 0}, "no check"),
        ({DEEDS[0]: 14, DEEDS[1]: 15}, "exchanged"),
        ({DEEDS[2]: 13}, "invalid"),
        ({DEEDS[2]: 1}, ""),
    ],
)
def test_each_wrong_status_has_its_sentence(change: dict[str, int], diagnosis: str) -> None:
    found = said("asids.hostile", lambda case, good: good | change)
    assert (found.outcome, found.diagnosis) == (NOT_YET, diagnosis)


def test_three_numbers_are_asked_for() -> None:
    assert said("asids.hostile", lambda case, good: {DEEDS[0]: 15}).diagnosis == "wants"
    assert said("asids.hostile", lambda case, good: good | {DEEDS[0]: "DFFLUSH_REQUIRED"}).says == "Give each status as its number."


# ------------------------------------------------------------- asids.cgroups


@pytest.mark.parametrize("seed", range(6))
def test_law_the_books_are_the_machines(seed: int) -> None:
    case = CgroupsCase(seed)
    assert case.play() == case.run()


def test_who_counts_events_at_one_level_only_is_told() -> None:
    def one_level(case: CgroupsCase, good: Any) -> Any:
        return good[0], good[1] | {"/t": good[1]["/t"] - good[1]["/t/a"] - good[1]["/t/b"]}

    assert said("asids.cgroups", one_level).diagnosis == "one level"


def test_who_blames_the_tenant_below_is_told() -> None:
    def blamed(case: CgroupsCase, good: Any) -> Any:
        return good[0], good[1] | {
            path: sum(good[0] != 0 and case.launches[n - 1] == path for n in good[0]) for path in ("/t/a", "/t/b")
        }

    assert said("asids.cgroups", blamed).diagnosis == "blamed"


def test_who_charges_the_refused_is_told() -> None:
    assert said("asids.cgroups", lambda case, good: case.play(charged=True)).diagnosis == "charged"


@pytest.mark.parametrize("answer", [({1}, {}), ([1], {"/t": 1, "/t/a": 1, "/t/b": 1}), 5])
def test_a_set_and_a_dict_are_asked_for(answer: Any) -> None:
    assert said("asids.cgroups", lambda case, good: answer).diagnosis == "wants"
