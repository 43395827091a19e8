"""Pictures that speak to one another: cards that lead somewhere, one scrubber for several."""

from __future__ import annotations

import pytest

from sevlab import Host, lab
from sevlab.lab import ask, launch, mirror
from sevlab.lab.look import line_of, look_at
from sevlab.lab.reader import Reader, check, exercise, reader

pytest.importorskip("sevlab_widgets")


@pytest.fixture(autouse=True)
def nobody_has_checked_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "progress", Reader().progress)


def test_words_that_no_picture_shows_lead_nowhere() -> None:
    view = lab.lanes(Host(seed=7))

    with pytest.raises(LookupError, match="no picture above shows 'the moon'"):
        look_at({"the trace": (view, 0)})("the moon")
    assert view.widget.selected is None


def test_without_a_front_end_nothing_is_linked_and_no_picture_is_made() -> None:
    host = Host(seed=7)
    one, other = lab.lanes(host), lab.machine(host)
    lab.link(one, other)

    assert one._widget is None and other._widget is None


def test_linked_pictures_show_the_same_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "live", lambda: True)
    host = Host(seed=7)
    lab.empty_guest(host)
    one, other = lab.lanes(host), lab.machine(host)
    lab.link(one, other)
    one.widget.entry = 3

    assert other.widget.entry == 3


def test_the_card_of_the_digest_leads_to_a_load_in_the_trace() -> None:
    case = exercise("launch.digest")
    trace = lab.lanes(case.host)
    check("launch.digest", b"x" * 32, look=line_of(trace)).look()

    assert trace.widget.lines[trace.widget.selected].label == "LAUNCH_UPDATE_DATA"


def test_a_trace_without_a_load_has_nothing_to_show() -> None:
    with pytest.raises(LookupError, match="nobody has made that call"):
        line_of(lab.lanes(Host(seed=7)))("LAUNCH_UPDATE_DATA in the trace")


def test_the_card_of_the_measurement_leads_into_the_message() -> None:
    exercise("launch.measure")
    message = lab.layout([("a measurement", b"\x04"), ("policy", bytes(4))])
    message.widget.selected = "policy"
    check("launch.measure", b"x" * 32, look=launch.in_message(message)).look()

    assert message.widget.part is not None and message.widget.part.name == "a measurement"


def test_the_card_of_the_table_leads_to_the_mirror() -> None:
    case = exercise("mirror.table")
    held = lab.topology(case.host, act=False)
    answer = dict.fromkeys(["slot", "handle", "memory key", "memory slots", "vCPUs", "regions", "charge"], "own")
    check("mirror.table", answer, look=mirror.in_topology(held, case.host)).look()

    assert "(mirror)" in held.widget.say(held.widget.selected)


def test_the_card_of_the_readers_leads_to_the_bus() -> None:
    case = exercise("mirror.readers")
    frame = lab.lens(case.host, case.vm, mirror.PRIVATE, 64, moves=False)
    check("mirror.readers", dict.fromkeys(["primary", "mirror", "stranger", "VMM"], "noise"), look=mirror.on_the_bus(frame)).look()

    assert frame.widget.selected == "the bus/0"


def test_a_card_without_a_picture_says_so() -> None:
    exercise("launch.digest")

    with pytest.raises(LookupError, match="no widget was given"):
        check("launch.digest", b"x" * 32).look()
