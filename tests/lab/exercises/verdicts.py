"""What the tests of all exercises ask for: the verdict on an answer that went astray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sevlab.lab.exercises import find
from sevlab.lab.grading import Verdict, judge


def said(id: str, change: Callable[[Any, Any], Any], seed: int = 7) -> Verdict:
    """The verdict on the reference answer after `change(case, answer)`."""
    exercise = find(id)
    case = exercise.setup(seed)
    return judge(exercise, case, change(case, exercise.reference(case)), seed)
