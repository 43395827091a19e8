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


def test_a_step_that_this_machine_has_not_is_never_given_and_opens_nothing():
    given, opened = [], []
    cat = Edge("shut", "open", "scratch", "", "only cats do it")
    door = DOOR._replace(edges=[*DOOR.edges, cat])
    front = [Token("front", "door", "shut")]
    machine = Machine([door], front, on_command=lambda *a: given.append(a), on_illegal=lambda *a: opened.append(a))

    assert machine.say_edge(door, cat) == "scratch: shut to open. Never here: only cats do it."
    machine.got_act("view-1", machine.key_of(door, cat))
    machine.got_act("view-1", "door/shut/fly")
    assert given == [] and opened == []
    assert ["door", "shut", "scratch", "open", "", 1] in machine.table()[1]


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


@pytest.mark.parametrize(("count", "labels"), [(3, 3), (4, 1), (6, 1)])
def test_one_command_that_leads_from_many_states_to_one_is_one_line_with_one_label(count, labels):
    states = [State("end"), *(State(f"s{i}", i) for i in range(1, count + 1))]
    ends = Diagram("ends", states, [Edge(state.name, "end", "close") for state in states[1:]])
    picture = str(Machine([ends], [Token("it", "ends", "s2")]).picture(900, "M"))

    assert picture.count(">close<") == labels
    assert "ends/s2/close" in picture


def test_a_command_of_many_states_is_given_to_the_one_that_may_have_it():
    given = []
    states = [State("end"), *(State(f"s{i}", i) for i in range(1, 6))]
    ends = Diagram("ends", states, [Edge(state.name, "end", "close") for state in states[1:]])
    machine = Machine([ends], [Token("it", "ends", "s3")], on_command=lambda *a: given.append(a))
    machine.act("ends/s3/close")
    machine.act("ends/s4/close")

    assert given == [("ends", "close", "it")]


# ------------------------------------------------------------- the drawing


SVG = "{http://www.w3.org/2000/svg}"
SHIP = Diagram(
    "guest",
    [State("UNINIT"), State("LUPDATE", 1), State("LSECRET", 2), State("RUNNING", 3), State("SUPDATE", 4), State("SENT", 5)],
    [
        Edge("UNINIT", "LUPDATE", "LAUNCH_START"), Edge("LUPDATE", "LSECRET", "LAUNCH_MEASURE"),
        Edge("LSECRET", "RUNNING", "LAUNCH_FINISH"), Edge("RUNNING", "SUPDATE", "SEND_START"),
        Edge("SUPDATE", "SENT", "SEND_FINISH"), Edge("SUPDATE", "RUNNING", "SEND_CANCEL"),
    ],
)  # fmt: skip
LOOPS = Diagram(
    "platform", [State("UNINIT"), State("INIT", 1), State("WORKING", 2)],
    [
        Edge("UNINIT", "INIT", "INIT"), Edge("UNINIT", "INIT", "INIT_EX"), Edge("INIT", "WORKING", "LAUNCH_START"),
        Edge("INIT", "UNINIT", "SHUTDOWN"), Edge("WORKING", "UNINIT", "SHUTDOWN"), Edge("WORKING", "INIT", "DECOMMISSION"),
    ],
)  # fmt: skip


def boxes(picture):
    """The rectangle of each item, by its key: (left, top, right, bottom)."""
    found = {}
    for item in ET.fromstring(str(picture)).iter(f"{SVG}g"):
        rect = item.find(f"{SVG}rect")
        if item.get("data-key") and rect is not None:
            x, y, wide, high = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
            found[item.get("data-key")] = x, y, x + wide, y + high
    return found


@pytest.mark.parametrize("width", [560, 620, 700, 874])
@pytest.mark.parametrize("diagram", [SHIP, LOOPS], ids=["in a row", "with ways back"])
def test_no_command_covers_a_state_or_another_command(diagram, width):
    machine = Machine([diagram], [Token("a guest", diagram.name, diagram.states[2].name)], on_command=print)
    found = list(boxes(machine.picture(width, "M")).items())

    for at, (key, (left, top, right, bottom)) in enumerate(found):
        assert left >= 0 and right <= width, key
        for other, (x1, y1, x2, y2) in found[at + 1 :]:
            assert min(right, x2) - max(left, x1) < 4 or min(bottom, y2) - max(top, y1) < 1, f"{key} lies on {other}"


def test_arrows_that_lead_back_side_by_side_share_a_level_and_a_longer_one_runs_below():
    machine = Machine([LOOPS])
    found = boxes(machine.picture(800, "M"))

    assert found["platform/INIT/SHUTDOWN"][1] == found["platform/WORKING/DECOMMISSION"][1]
    assert found["platform/WORKING/SHUTDOWN"][1] > found["platform/INIT/SHUTDOWN"][3]


def test_above_three_tokens_a_state_is_a_count_and_a_crowd_of_at_most_eight():
    def drawn(count):
        text = str(Machine([DOOR], [Token(f"door {i}", "door", "open") for i in range(count)]).picture(800, "M"))
        return "door 0" in text.partition("data-say")[2].partition(">")[2], text.count("<circle")

    assert drawn(3) == (True, 0)
    assert [drawn(count)[1] for count in (4, 8, 64)] == [4, 8, 8]
    assert ">64<" in str(Machine([DOOR], [Token(f"door {i}", "door", "open") for i in range(64)]).picture(800, "M"))


def test_what_may_be_pressed_is_marked_and_the_past_has_no_buttons(machine):
    host = machine()
    host.at = lambda n: host
    for _ in range(3):
        host.mark(0, 1, 1)
    drawn = Machine([DOOR], [Token("front", "door", "shut")], on_command=print, host=host)
    assert 'data-key="door/shut/turn"' in str(drawn.picture(800, "M")) and str(drawn.picture(800, "M")).count("data-press") == 2

    drawn.entry = 1
    assert "data-press" not in str(drawn.picture(800, "M"))


def test_words_find_a_state_or_a_command_and_what_they_do_not_name_is_left_as_it_is():
    drawn = Machine([DOOR, SHIP])

    assert drawn.find("the state LSECRET") == "guest/LSECRET"
    assert drawn.find("LAUNCH_FINISH, above") == "guest/LSECRET/LAUNCH_FINISH"
    assert drawn.find("the ledger") == "the ledger"
    assert drawn.find("look") == "look"  # it keeps its state, so no arrow is drawn of it


def test_a_diagram_without_states_is_refused():
    with pytest.raises(ValueError, match="x has no states"):
        Machine([Diagram("x", [], [])])
