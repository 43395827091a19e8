"""Topology: who holds whom, the ledger, and what a comparison shows."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from sevlab_widgets.topology import Box, Link, Plug, Scene, Thing, Topology, listed

SVG = "{http://www.w3.org/2000/svg}"
BEFORE = Scene(
    (
        Box("qemu", "qemu", "pid 1", (Plug(0, "console"), Plug(5, "vm", "vm 1"))),
        Box("aide", "aide", "pid 2", (Plug(4, "vm", "vm 2"),)),
    ),
    (Thing("vm 1", "vm-a"), Thing("vm 2", "vm-b", "mirror")),
    (Thing("slot 6", "slot 6"),),
    (Link("vm 2", "vm 1", "holds", True), Link("vm 1", "slot 6")),
    (("references on vm-a", 2), ("slots in use", 1)),
)
AFTER = BEFORE._replace(
    boxes=(Box("qemu", "qemu", "pid 1", (Plug(0, "console"),)), BEFORE.boxes[1]),
    ledger=(("references on vm-a", 1), ("slots in use", 1)),
)


def keys(picture):
    return {item.get("data-key") for item in ET.fromstring(str(picture)).iter(f"{SVG}g") if item.get("data-key")}


def test_a_thing_says_who_must_let_go_before_it_goes():
    assert Topology(BEFORE).say("vm 1") == "vm-a lives until fd 5 of qemu and vm-b are closed."
    assert Topology(AFTER).say("vm 1") == "vm-a lives until vm-b is gone."
    assert Topology(BEFORE).say("vm 2") == "vm-b (mirror) lives until fd 4 of aide is closed."


def test_the_ledger_says_before_and_after_and_which_rows_changed():
    compared = Topology(AFTER, BEFORE)

    assert [(row.words, row.changed) for row in compared.ledger] == [("2 → 1", True), ("1", False)]
    assert compared.says() == "2 processes, 2 VMs. Changed: references on vm-a 2 → 1."


def test_a_row_that_is_new_or_gone_has_a_dash():
    compared = Topology(Scene(ledger=(("new", 1),)), Scene(ledger=(("old", 2),)))

    assert [row.words for row in compared.ledger] == ["– → 1", "2 → –"]


def test_a_comparison_draws_what_went_as_well():
    assert "qemu:5" in keys(Topology(AFTER, BEFORE).picture(800, "M"))
    assert "qemu:5" not in keys(Topology(AFTER).picture(800, "M"))


def test_what_is_not_near_the_selected_thing_fades():
    topology = Topology(BEFORE)
    assert "sl-faint" not in str(topology.picture(800, "M"))
    topology.got_select("view-1", "aide")
    assert "sl-faint" in str(topology.picture(800, "M"))
    assert topology.near("aide", BEFORE) == {"aide", "aide:4", "vm 2"}


def test_the_phone_has_the_ledger_only():
    assert keys(Topology(BEFORE).picture(300, "S")) == {"ledger references on vm-a", "ledger slots in use"}


@pytest.mark.parametrize(("selected", "verb", "call"), [("qemu:5", "close", ("qemu", 5)), ("qemu", "kill", ("qemu",))])
def test_a_verb_reaches_the_notebook_with_what_is_selected(selected, verb, call):
    calls = []
    topology = Topology(BEFORE, verbs={verb: lambda *args: calls.append(args)})
    topology.got_select("view-1", selected)
    topology.got_press("view-1", verb)

    assert calls == [call]


def test_a_verb_without_its_object_does_nothing_and_says_what_to_select():
    topology = Topology(BEFORE, verbs={"close": lambda *args: pytest.fail("nothing was selected")})

    assert topology.acts()[0].why == "Select the plug that is to be closed."
    topology.got_press("view-1", "close")


def test_a_descriptor_is_passed_by_name_or_by_dragging_it_into_a_box():
    calls = []
    topology = Topology(BEFORE, verbs={"pass": lambda *args: calls.append(args)})
    topology.got_select("view-1", "qemu:5")
    topology.got_press("view-1", "pass", "aide")
    from sevlab_widgets.topology_picture import TopologyPicture

    picture = TopologyPicture(topology, *topology.sizes()[0])
    (x, y), (a, b, c, d) = picture.places["qemu:5"], picture.boxes["aide"]
    topology.got_drop("view-1", "qemu:5", (a + c) / 2 - x, (b + d) / 2 - y)
    topology.got_drop("view-1", "qemu:5", 3, 3)

    assert calls == [("qemu", 5, "aide")] * 2


def test_passing_to_nobody_is_an_error_in_a_sentence(sent):
    topology = Topology(BEFORE, verbs={"pass": lambda *args: pytest.fail("there is nobody")})
    messages = sent(topology)
    topology.got_select("view-1", "qemu:5")
    topology.got_press("view-1", "pass", "nobody")

    assert any(content["kind"] == "error" and "there is no process 'nobody'" in content["say"] for content, _ in messages)


def test_no_process_is_a_sentence():
    assert Topology().empty == "One machine, no process. `host.process('qemu')` puts the first box here."


def test_a_live_scene_is_taken_anew_with_each_entry(machine):
    host = machine()
    taken = []
    topology = Topology(lambda at: taken.append(1) or BEFORE, host=host)
    count = len(taken)
    topology.full()
    assert len(taken) == count
    host.mark(0, 1, 1)
    topology.full()
    assert len(taken) == count + 1


def test_many_names_are_counted():
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c" and listed(list("abcdef")) == "a, b, c and 3 more"


@pytest.mark.parametrize(("width", "size"), [(300, "S"), (600, "M"), (900, "M"), (1600, "L")])
@pytest.mark.parametrize("before", [None, BEFORE])
def test_every_size_is_a_picture(width, size, before):
    assert float(ET.fromstring(str(Topology(AFTER, before).picture(width, size))).get("height")) > 30
