"""What holds of every exercise of every lab."""

from __future__ import annotations

from typing import Any

import pytest

from sevlab.lab.exercises import LABS, of_lab
from sevlab.lab.grading import LEVELS, NOT_ATTEMPTED, PASSED, judge

SEEDS = (7, 8, 1234)
Every = pytest.mark.parametrize("exercise", [one for lab in LABS for one in of_lab(lab)], ids=lambda one: one.id)


@Every
def test_the_reference_answer_passes_under_every_seed(exercise: Any) -> None:
    for seed in SEEDS if exercise.kind != "fresh" else SEEDS[:1]:  # a fresh check takes three seeds of its own
        case = exercise.setup(seed)
        found = judge(exercise, case, exercise.reference(case), seed)
        assert found.outcome == PASSED and all(row.ok for row in found.rows), found


@Every
def test_an_exercise_is_complete(exercise: Any) -> None:
    case = exercise.setup(7)
    assert exercise.minutes and exercise.level in LEVELS and exercise.hints and len(exercise.diagnoses) >= 3
    assert exercise.solution and not any("case._" in line for line in exercise.solution)
    assert exercise.ask.format(**{name: getattr(case, name) for name in dir(case) if name[0] != "_"})
    assert all(hasattr(case, name) for name in case.gives)
    assert judge(exercise, case, ...).outcome == NOT_ATTEMPTED
