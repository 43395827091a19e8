"""The word beside a figure says how it stands to its goal, and only what falls short fails the run."""

from __future__ import annotations

import pytest
from benchmarks.harness import SLACK, Figure, absent


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(0.5, "ok"), (2.0, "ok"), (2.001, "near"), (2.0 * SLACK, "near"), (2.0 * SLACK + 0.001, "short"), (9.0, "short")],
)
def test_ok_is_at_or_under_the_goal_and_near_within_the_slack_above_it(ratio: float, verdict: str) -> None:
    figure = Figure("a thing / its limit", 2.0, ratio)

    assert figure.verdict == verdict
    assert f"  {verdict} " in str(figure)


def test_a_figure_without_its_peer_is_neither_good_nor_bad() -> None:
    figure = absent("a thing / its limit", 2.0, "no such program here")

    assert figure.verdict == "absent" and "no such program here" in str(figure)
