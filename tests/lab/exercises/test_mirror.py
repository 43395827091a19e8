"""Lab mirror's exercises: each diagnosis is spoken to whom it is meant for."""

from __future__ import annotations

from typing import Any

import pytest
from lab.exercises.verdicts import said

from sevlab.lab.exercises.mirror import PaysCase, ReadersCase
from sevlab.lab.grading import NOT_YET

SEEDS = (7, 8, 1234)


@pytest.mark.parametrize(
    ("id", "change", "diagnosis", "says"),
    [
        ("mirror.table", {"regions": "shared"}, "regions", "The mirror's list is empty"),
        ("mirror.table", {"charge": "own"}, "charge", "misc.current of both"),
        ("mirror.table", {"handle": "own"}, "handle", "Both name firmware guest 1;"),
        ("mirror.table", {"vCPUs": "shared"}, "", ""),
        ("mirror.readers", {"mirror": "noise"}, "mirror", "Another gpa, but the same frame"),
        ("mirror.readers", {"stranger": "ciphertext"}, "stranger", "The engine does decrypt"),
        ("mirror.readers", {"VMM": "noise"}, "VMM", "The VMM's pointer reads"),
        ("mirror.readers", {"primary": "noise"}, "", ""),
    ],
)
def test_each_wrong_entry_has_its_sentence(id: str, change: dict[str, str], diagnosis: str, says: str) -> None:
    found = said(id, lambda case, good: good | change)
    assert (found.outcome, found.diagnosis) == (NOT_YET, diagnosis) and found.says.startswith(says)


@pytest.mark.parametrize("id", ["mirror.table", "mirror.readers"])
def test_the_words_offered_are_asked_for(id: str) -> None:
    assert said(id, lambda case, good: {}).diagnosis == "wants"
    assert said(id, lambda case, good: dict.fromkeys(good, "perhaps")).says.startswith("Each is one of")


def test_the_strangers_bytes_are_in_the_sentence_and_come_from_the_seed() -> None:
    one, other = ReadersCase(7), ReadersCase(8)
    assert one.hex != other.hex
    assert one.hex in said("mirror.readers", lambda case, good: good | {"stranger": "ciphertext"}).says


@pytest.mark.parametrize(
    ("place", "a", "b", "diagnosis"),
    [(1, 1, 1, "mirror"), (2, 0, 1, "survivor"), (2, 0, 0, "owner"), (0, 5, 5, "")],
)
def test_each_wrong_pair_has_its_sentence(place: int, a: int, b: int, diagnosis: str) -> None:
    def change(case: PaysCase, good: list[Any]) -> list[Any]:
        return [*good[:place], (case.a + a, case.b + b), *good[place + 1 :]]

    found = said("mirror.pays", change)
    assert (found.outcome, found.diagnosis) == (NOT_YET, diagnosis)


@pytest.mark.parametrize("answer", [[(1, 0)], {"a": 1}, [1, 2, 3, 4]])
def test_four_pairs_are_asked_for(answer: Any) -> None:
    assert said("mirror.pays", lambda case, good: answer).says.startswith("A list of four pairs")


def test_neighbours_have_other_numbers() -> None:
    assert len({(PaysCase(seed).a, PaysCase(seed).b) for seed in range(8)}) > 3
