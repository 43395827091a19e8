"""Tiles of a real search: the steps of each outcome, who waits for whom, and what cannot be followed."""

from __future__ import annotations

import pytest

from sevlab import designs, lab
from sevlab.lab.collision import NAIVE, opposite
from sevlab.lab.sequence_schedules import Way, ways


def test_the_steps_of_a_schedule_that_hangs_end_with_each_call_waiting_for_what_the_other_has() -> None:
    story = lab.schedules(opposite(NAIVE))

    assert [(line["n"], line["source"], line["label"]) for line in story.lines] == [
        (2, "call 1", "takes kvm->lock of VM 1"),
        (4, "call 2", "takes kvm->lock of VM 2"),
        (4, "call 2", "waits for kvm->lock of VM 1"),
        (4, "call 1", "waits for kvm->lock of VM 2"),
        (4, "KVM", "nobody can go on"),
    ]
    assert repr(story).startswith("2 outcomes of 28 schedules")


@pytest.mark.parametrize("design", [NAIVE, designs.LINUX_6_1], ids=lambda design: design.name)
def test_every_line_of_every_outcome_is_made_by_the_call_whose_digit_stands_there(design: designs.Design) -> None:
    made = pytest.importorskip("sevlab_widgets.lanes")
    found = opposite(design)
    picture = lab.schedules(found).widget
    assert [tile.letter for tile in picture.schedules] == [tile.letter for tile in found.outcomes]
    for tile in found.outcomes:
        picture.got_pick("", tile.schedule)
        steps = [line for line in picture.lines if line.lock != made.AWAITED and line.source != "KVM"]
        assert ("nobody can go on" in [line.label for line in picture.lines]) is tile.deadlock
        assert steps and all(line.source == f"call {tile.schedule[line.n - 1]}" for line in steps)
        answers = {line.source: line.answer for line in steps if line.answer}
        ended = {f"call {n}": end for n, end in enumerate(tile.ends, 1) if not end.startswith("waits")}
        assert answers == ended
        held = [line.label.partition(" ")[2].removeprefix("back ") for line in steps if line.lock]
        assert (len(held) % 2 == 0 and all(held.count(name) % 2 == 0 for name in held)) is not tile.deadlock
    picture.close()


def test_a_schedule_that_nobody_can_follow_is_told_in_the_picture() -> None:
    pytest.importorskip("sevlab_widgets")
    picture = lab.schedules(opposite(NAIVE)).widget
    said: list[str] = []
    picture.post = lambda fields, *_, **__: said.append(fields.get("say", ""))  # what would go to the browser
    shown = list(picture.lines)

    picture.got_pick("", "113")

    assert said[0].startswith("The schedule raised ValueError: step 3") and picture.lines == shown
    picture.close()


def test_where_nobody_has_a_way_to_go_there_is_no_line() -> None:
    assert ways([], lambda schedule: []).lines == []
    assert ways([Way("A", ("done",), 1, "1")], lambda schedule: [], first="1").describe().startswith("Nothing has happened")
