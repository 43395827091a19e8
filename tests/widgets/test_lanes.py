"""Lanes: what it says, what it sends, and where two traces part."""

from __future__ import annotations

import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pytest
from sevlab_widgets import Lanes
from sevlab_widgets.lanes import AWAITED, COLUMN, GIVEN, TAKEN, Line, Tile
from sevlab_widgets.lanes_picture import stretches

LINES = [
    Line(1, "qemu", "KVM", "CREATE_VM", "0", "Ioctl", fields={"fd": 3, "arg": 4096}, data=b"hello"),
    Line(2, "KVM", "PSP", "LAUNCH_START", "POLICY_FAILURE", "CommandDone", bad=True),
    Line(2, "PSP", "", "a note", kind="Note"),
]


def unpacked(fields, buffers):
    data, texts = (zlib.decompress(part) if z else part for part, z in zip(buffers, fields["z"], strict=True))
    return np.frombuffer(data, COLUMN), texts.decode().split("\0")


def test_a_trace_is_summed_up_in_a_sentence_and_told_line_by_line():
    lanes = Lanes(LINES)

    assert lanes.says() == "3 lines, entries 1 to 2; 1 refused."
    assert "  entry 2: KVM to PSP, LAUNCH_START: POLICY_FAILURE\n  entry 2: PSP, a note" in lanes.describe()
    assert lanes.lifelines == [("qemu", ""), ("KVM", ""), ("PSP", "")]


def test_numbers_that_are_steps_are_called_so(sent):
    lanes = Lanes(LINES, unit="step")

    assert lanes.says() == "3 lines, steps 1 to 2; 1 refused."
    assert "  step 2: KVM to PSP" in lanes.describe() and "entry" not in lanes.describe()
    assert lanes.table()[0][0] == "step" and sent(lanes)[-1][0]["unit"] == "step"


def test_of_two_traces_the_refusals_of_each_are_counted_where_they_differ():
    good, bad = Line(1, "a", "b", "GET", "0"), Line(1, "a", "b", "GET", "EIO", bad=True)

    assert Lanes([good], against=[bad], names=("old", "new")).says().startswith("1 line, entries 1 to 1; 0 refused, 1 of new.")
    assert "; 1 refused." in Lanes([bad], against=[bad], names=("old", "new")).says()


def test_the_static_picture_has_no_column_for_a_lifeline_that_nothing_touches():
    known = [("owner", "O"), ("qemu", "V"), ("KVM", "K"), ("PSP", "P"), ("bus", "B")]

    drawn = Lanes(LINES, lifelines=known).svg()
    assert ">qemu<" in drawn and ">PSP<" in drawn and ">owner<" not in drawn and ">bus<" not in drawn
    assert ">owner<" in Lanes(lifelines=known).svg()


def test_an_empty_one_says_what_fills_it():
    assert Lanes().empty == "Nothing has happened. Each call you make becomes an arrow."


def test_the_lines_go_out_packed_and_then_only_the_new_ones(sent):
    lanes = Lanes(LINES)
    packed, texts = unpacked(*sent(lanes)[-1])

    assert [texts[i] for i in packed["label"]] == ["CREATE_VM", "LAUNCH_START", "a note"]
    assert list(packed["source"]) == [0, 1, 2] and list(packed["target"]) == [1, 2, 2] and list(packed["bad"]) == [0, 1, 0]
    lanes._append([Line(3, "qemu", "KVM", "CREATE_VM", "0", "Ioctl"), Line(3, "qemu", "KVM", "RUN", "0", "Ioctl")])
    fields, buffers = lanes.changes()
    more, new = unpacked(fields, buffers)
    assert (fields["first"], len(more), new) == (3, 2, ["RUN"])


def test_a_hundred_thousand_lines_are_small_on_the_wire(sent):
    lanes = Lanes([Line(i, "a", "b", f"call {i % 50}", "0") for i in range(100_000)])
    [_, (_, buffers)] = sent(lanes)

    assert sum(map(len, buffers)) < 500_000


def test_of_a_host_the_rows_of_whole_entries_become_lines(machine, sent):
    host = machine()
    lanes = Lanes.of(host, lambda rows: [Line(row["n"], "x", "", row["kind"]) for row in rows])
    sent(lanes)
    host.take(6, vm=1)

    assert [line.label for line in lanes.lines] == ["VmMade", "AsidTaken"]


def test_two_traces_are_joined_at_their_common_beginning():
    other = [LINES[0]._replace(n=7), LINES[1]._replace(answer="0", bad=False)]
    lanes = Lanes(LINES, against=other, names=("posted", "linux-6.1"))

    assert (lanes.split, lanes.left, len(lanes.lines)) == (1, 3, 4)
    assert lanes.says().endswith("posted and linux-6.1 have the first 1 in common, then the kernels differ.")
    assert [row[0] for row in lanes.table()[1]] == ["both", "posted", "posted", "linux-6.1"]


def test_equal_traces_do_not_part():
    assert Lanes(LINES, against=LINES).says().endswith("have the first 3 in common.")


def test_a_selection_is_answered_with_fields_and_bytes(sent):
    chosen = []
    lanes = Lanes(LINES, on_select=chosen.append)
    messages = sent(lanes)
    lanes.got_select("view-1", 0)

    [detail] = [fields for fields, _ in messages if fields["kind"] == "detail"]
    assert detail["fields"] == [["fd", "3"], ["arg", "0x1000"]] and detail["hex"].startswith("0000  68 65 6c 6c 6f")
    assert chosen == [LINES[0]]


def test_a_tile_that_is_picked_shows_its_lines(sent):
    lanes = Lanes(schedules=[Tile("A", ("done", "EBUSY"), 3, "12")], on_pick=lambda schedule: LINES[: len(schedule)])
    sent(lanes)
    assert "A: done, EBUSY (3, the first 12)" in lanes.describe()
    lanes.got_pick("view-1", "12")

    assert len(lanes.lines) == 2 and lanes.picked == "12" and lanes.says().endswith("1 outcomes of 3 schedules.")


def test_a_pick_that_raises_leaves_the_picture_as_it_is(sent):
    lanes = Lanes(LINES, schedules=[Tile("A", ("done",), 1, "1")], on_pick=lambda schedule: 1 // 0)
    messages = sent(lanes)
    lanes.got_pick("view-1", "1")

    assert len(lanes.lines) == 3 and any("ZeroDivisionError" in fields.get("say", "") for fields, _ in messages)


@pytest.mark.parametrize("lines", [[], LINES])
def test_the_static_picture_is_well_formed(lines):
    ET.fromstring(Lanes(lines).svg())


def test_the_static_picture_of_two_traces_says_where_the_second_begins():
    both, old, new = Line(1, "a", "b", "OPEN", "0"), Line(2, "a", "b", "GET", "0"), Line(2, "a", "b", "GET", "EIO", bad=True)
    drawn = Lanes([both, old], against=[both, new], names=("posted", "linux-6.1")).svg()

    texts = [text.text for text in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
    order = [texts.index(words) for words in ("OPEN  0", "here the kernels differ: posted", "GET  0", "linux-6.1", "GET  EIO")]
    assert order == sorted(order)
    assert "differ" not in Lanes([both], against=[both], names=("posted", "linux-6.1")).svg()


def test_a_long_trace_s_picture_says_how_much_of_it_is_not_drawn():
    drawn = Lanes([Line(n, "a", "b", f"CALL_{n}") for n in range(1, 51)]).svg()

    assert ">CALL_40<" in drawn and ">CALL_41<" not in drawn and "and 10 more, in the table" in drawn
    assert "more, in the table" not in Lanes(LINES).svg()


@pytest.mark.parametrize(
    ("locks", "found"),
    [
        ([AWAITED, TAKEN, 0, GIVEN], [("a", 0, 1, True), ("a", 1, 3, False)]),
        ([TAKEN, TAKEN, GIVEN], [("a", 1, 2, False), ("a", 0, 2, False)]),
        ([AWAITED, 0], [("a", 0, 1, True)]),
        ([GIVEN, 0], []),
        ([], []),
    ],
)
def test_a_lock_is_held_from_the_line_that_takes_it_to_the_line_that_gives_it(locks, found):
    lines = [Line(n, "a", "b", "x", lock=lock) for n, lock in enumerate(locks)]

    assert list(stretches(lines)) == found
    assert Lanes(lines).svg().count('class="sl-dotted"') == sum(waits for *_, waits in found)


def test_two_traces_that_are_one_are_not_said_to_part():
    same = [Line(1, "a", "b", "x", "0")]

    assert "differ" not in Lanes(same, against=same).says()


def test_where_they_part_may_be_said_in_other_words():
    one, other = [Line(1, "a", "b", "x", "0")], [Line(1, "a", "b", "y", "0")]
    lanes = Lanes(one, against=other, names=("a mirror", "one more vCPU"), parting="here they part")

    assert lanes.says().endswith("a mirror and one more vCPU have the first 0 in common, then they part.")
    assert lanes.full()[0]["parting"] == "here they part"


def test_a_trace_that_ends_earlier_parts_too():
    line = Line(1, "a", "b", "x", "0")

    assert "then the kernels differ." in Lanes([line], against=[line, line._replace(n=2)]).says()


def test_before_an_outcome_is_picked_the_picture_says_what_fills_it(sent):
    lanes = Lanes(schedules=[Tile("A", ("done", "EBUSY"), 3, "112")], on_pick=lambda schedule: [Line(1, "a", "", schedule)])
    sent(lanes)
    assert lanes.empty == "Pick an outcome: the steps of its first schedule become arrows."

    lanes.got_pick("view-1", "112")
    assert lanes.empty == "" and lanes.lines[0].label == "112"


def test_bytes_whose_layout_is_known_become_a_small_layout_and_others_stay_hex(sent):
    known = Line(1, "a", "b", "x", data=bytes(range(8)), layout=[("id", 4), ("flags", 4)])
    lanes = Lanes([known, known._replace(layout=None), known._replace(data=b"")])
    messages = sent(lanes)
    details = []
    for index in range(3):
        lanes.got_select("view-1", index)
        details.append(messages[-1][0])

    assert "flags" in details[0]["svg"] and details[0]["hex"] == ""
    assert details[1]["svg"] == "" and details[1]["hex"].startswith("0000  00 01")
    assert details[2]["svg"] == details[2]["hex"] == ""
