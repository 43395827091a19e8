"""A day to plan: counting says what the machine says, and the bars of the picture are the machine's."""

from __future__ import annotations

from typing import Any

import pytest

from sevlab.lab import asids as answers
from sevlab.lab.bookings import SLOTS, Booking, Plan, day, flushes_of, par, play


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("how", ["first", "last"])
def test_law_counting_alone_says_what_the_machine_says(seed: int, how: str) -> None:
    bookings = day(seed)
    plan = {one.name: getattr(one, how) for one in bookings}
    played = play(bookings, plan)
    counted = flushes_of(bookings, plan)
    played.host.close()
    assert (counted is None) is bool(played.refused)
    assert counted in (None, played.flushes)


def test_a_plan_for_more_guests_than_slots_is_refused_on_the_machine_and_by_counting() -> None:
    bookings = [Booking(name, 0, 0, 9) for name in "ABCDE"[: SLOTS + 1]]
    plan = dict.fromkeys("ABCDE", 0)
    played = play(bookings, plan)
    played.host.close()
    assert played.refused == ("E",) and flushes_of(bookings, plan) is None
    assert repr(played) == "0 flushes, refused: E"
    with pytest.raises(ValueError, match="empty"):
        par(bookings)


@pytest.mark.parametrize("start", [{}, {"A": 4}, {"A": 0}])
def test_a_guest_outside_its_window_is_refused_by_name(start: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="A must start between 1 and 3"):
        play([Booking("A", 1, 3, 2)], start)


def test_par_is_below_what_the_earliest_starts_give_on_the_labs_day() -> None:
    bookings = day(seed=24, guests=10)
    assert (par(bookings), flushes_of(bookings, {one.name: one.first for one in bookings})) == (2, 3)
    assert answers.fewest(bookings).says == "2"


def test_the_day_comes_from_the_seed() -> None:
    assert day(1) == day(1) != day(2)


# ------------------------------------------------------------- the game


def crowd(last: int = 0) -> list[Booking]:
    """As many guests as there are slots and one more, who may come up to `last` ticks later."""
    return [Booking(name, 0, 0, 2) for name in "ABCD"[:SLOTS]] + [Booking("E", 0, 2 + last, 2)]


def test_everybody_starts_as_early_as_possible_and_who_moves_is_played_again() -> None:
    plan = Plan(day(seed=24, guests=10))
    before = plan.starts
    name = next(one.name for one in plan.bookings.values() if one.last > one.first)

    assert plan.move(name, before[name] + 1) == before[name] + 1
    assert plan.starts == before | {name: before[name] + 1}
    assert plan.flushes == flushes_of(list(plan.bookings.values()), plan.starts)


@pytest.mark.parametrize(("to", "tick"), [(-5, 1), (2, 2), (99, 3)])
def test_nobody_is_moved_out_of_the_window(to: int, tick: int) -> None:
    plan = Plan([Booking("A", 1, 3, 2)])
    assert plan.move("A", to) == tick and plan.starts == {"A": tick}


def test_a_move_after_which_somebody_would_be_refused_changes_nothing() -> None:
    plan = Plan(crowd(), {"E": 2})
    with pytest.raises(ValueError, match="all 4 slots are in use when E would start"):
        plan.move("E", 1)
    assert plan.starts["E"] == 2 and plan.flushes == 1


def test_a_plan_that_cannot_be_played_is_none() -> None:
    with pytest.raises(ValueError, match="E would be refused"):
        Plan(crowd())
    with pytest.raises(KeyError):
        Plan(crowd(), {"E": 2}).move("Z", 1)


def test_in_words_it_is_a_table_with_the_slots_and_the_ticks_of_the_flushes() -> None:
    lines = repr(Plan(crowd(), {"E": 2})).splitlines()
    assert lines[0] == "5 bookings, 1 flush, at tick 2" and lines[-1].split() == ["E", "0", "to", "2", "2", "2", "1"]
    assert repr(Plan(crowd()[:1])).splitlines()[0] == "1 bookings, 0 flushes"


def test_the_bars_are_where_the_machine_put_them_and_follow_a_move() -> None:
    pytest.importorskip("sevlab_widgets")
    plan = Plan(crowd(last=3), {"E": 2})
    picture = plan.widget
    bars = {bar.name: (bar.slot, bar.start.n, bar.end.n) for bar in picture.slots.bars if bar.what == "in use"}
    assert bars == {stay.name: tuple(stay[1:]) for stay in plan.played.stays}
    assert [flush.when.n for flush in picture.slots.flushes] == [2] and "1 flush" in picture.title

    key = key_of(picture, "E")
    picture.drop(key, 2 * timeline_scale(picture), 0)
    assert plan.starts["E"] == 4
    assert {bar.name: bar.start.n for bar in picture.slots.bars if bar.what == "in use"}["E"] == 4
    assert key_of(picture, "E") == key  # so that the next Shift and arrow finds it
    picture.close()


def test_a_bar_that_cannot_go_there_stays_and_the_picture_says_why() -> None:
    pytest.importorskip("sevlab_widgets")
    plan = Plan(crowd(), {"E": 2})
    picture = plan.widget
    said: list[str] = []
    picture.post = lambda fields, *_, **__: said.append(fields.get("say", ""))  # what would go to the browser
    key = key_of(picture, "E")

    picture.drop(key, -2 * timeline_scale(picture), 0)

    assert plan.starts["E"] == 2 and said[0].startswith("The move raised ValueError: all 4 slots are in use when E would start")
    picture.close()


def key_of(picture: Any, name: str) -> str:
    """The key of a guest's bar."""
    [key] = [picture.key(i) for i, bar in enumerate(picture.slots.bars) if (bar.name, bar.what) == (name, "in use")]
    return str(key)


def timeline_scale(picture: Any) -> float:
    """Pixels of a tick, as the picture draws it."""
    from sevlab_widgets.timeline_picture import TimelinePicture

    return float(TimelinePicture(picture, *picture.sizes()[0]).scale)
