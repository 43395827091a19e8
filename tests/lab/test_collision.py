"""Two moves in opposite directions: naive locks hang in some schedules, flags that are tried in none."""

from __future__ import annotations

import pytest

from sevlab import designs, lab
from sevlab.lab import move as answers
from sevlab.lab.collision import NAIVE, drawn, opposite, outcomes


def test_naive_locks_hang_in_some_schedules_and_every_one_is_drawn() -> None:
    found = opposite(NAIVE)
    assert answers.hangs(found).says == "in some schedules"
    said = drawn(found).text
    assert said.startswith("B  hangs\n     1122 1212 1221")
    assert all(schedule in said.split() for schedule in found.every)
    assert answers.flags(found).says == "in some schedules"


def test_flags_that_are_tried_never_hang_and_then_nothing_is_stuck() -> None:
    found = opposite(designs.LINUX_6_1)
    assert answers.flags(found).says == answers.hangs(found).says == "never"
    assert "EBUSY" in outcomes(found).text and "hangs" not in drawn(found).text


@pytest.mark.parametrize(("design", "said"), [(NAIVE, "without a flag before them"), (designs.LINUX_6_1, "")])
def test_the_picture_of_a_kernel_that_never_existed_says_so(design: designs.Design, said: str) -> None:
    pytest.importorskip("sevlab_widgets", reason="sevlab is not installed here (make setup)")
    banner = lab.schedules(opposite(design)).widget.imaginary
    assert said in banner and bool(said) == bool(banner)
