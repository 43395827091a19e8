"""Machine: tokens in states, commands that may be given and those that may not."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from sevlab_widgets.machine import Diagram, Edge, Machine, State, Token

DOOR = Diagram(
    "door", [State("open"), State("shut", 1), State("locked", 2)],
    [Edge("open", "shut", "push"), Edge("shut", "locked", "turn"), Edge("shut", "open", "pull"), Edge("open", "open", "look")],
    "No door yet. Build one.",
)  # fmt: skip


def test_the_status_line_says_who_is_where():
    assert Machine([DOOR], [Token("front", "door", "open")]).says() == "door: front in open."
    assert (
        Machine([DOOR], [Token("doors", "door", "open", 61), Token("back", "door", "shut")]).says()
        == "door: 61 in open, back in shut."
    )


def test_an_empty_diagram_says_which_act_fills_it():
    machine = Machine([DOOR])

    assert machine.says() == "No door yet. Build one."
    assert "No door yet. Build one." in str(machine.picture(800, "M"))


def test_a_state_lists_the_commands_that_keep_it_and_the_last_moves():
    moves = tuple(f"move {i}" for i in range(9))
    machine = Machine([DOOR], [Token("front", "door", "open", 1, moves)])

    assert (
        machine.say(DOOR, DOOR.states[0])
        == "door, open: front. 1 commands keep this state: look. Last: move 3; move 4; move 5; move 6; move 7; move 8."
    )


def test_a_legal_command_is_given_and_an_illegal_one_opens_its_ladder():
    given, opened = [], []
    machine = Machine(
        [DOOR], [Token("front", "door", "open")], on_command=lambda *a: given.append(a), on_illegal=lambda *a: opened.append(a)
    )
    machine.got_act("view-1", "door/open/push")
    machine.got_act("view-1", "door/shut/turn")

    assert given == [("door", "push", "front")] and opened == [("door", "turn", "front")]


def test_an_illegal_command_says_why():
    machine = Machine([DOOR], [Token("front", "door", "open")])

    assert machine.say_edge(DOOR, DOOR.edges[1]) == "turn: shut to locked. Not now: it wants shut, and front is in open."


def test_nothing_is_given_in_the_past(machine):
    host = machine()
    host.mark(0, 1, 1)
    host.mark(1, 1, 1)
    drawn = Machine([DOOR], [Token("front", "door", "open")], host=host, on_command=lambda *a: pytest.fail("it is over"))
    drawn.entry = 1
    drawn.got_act("view-1", "door/open/push")


def test_a_command_that_raises_is_a_sentence_in_the_widget(sent):
    def jammed(*_):
        raise OSError(16, "it is jammed")

    machine = Machine([DOOR], [Token("front", "door", "open")], on_command=jammed)
    messages = sent(machine)
    machine.got_act("view-1", "door/open/push")

    assert any(content["kind"] == "error" and "it is jammed" in content["say"] for content, _ in messages)


def test_an_edge_to_nowhere_is_refused():
    with pytest.raises(ValueError, match="has no state open or gone"):
        Machine([DOOR._replace(edges=[Edge("open", "gone", "fly")])])


def test_the_table_has_every_row():
    _, rows = Machine([DOOR], [Token("front", "door", "open")]).table()

    assert len(rows) == 4 and rows[0] == ["door", "open", "push", "shut", "yes", 1]


@pytest.mark.parametrize(("width", "size"), [(300, "S"), (800, "M"), (1600, "L")])
def test_every_size_is_a_picture(width, size):
    machine = Machine([DOOR, DOOR._replace(name="gate")], [Token("front", "door", "open"), Token("of many", "gate", "shut", 61)])
    ET.fromstring(str(machine.picture(width, size)))


def test_one_machine_can_be_chosen():
    machine = Machine([DOOR, DOOR._replace(name="gate")])
    machine.choose("show", "gate")

    assert [diagram.name for diagram in machine.shown("L")] == ["gate"]
