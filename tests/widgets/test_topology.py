"""Topology: who holds whom, the ledger, and what a comparison shows."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET

import pytest
from sevlab_widgets.topology import Box, Link, Plug, Scene, Thing, Topology, listed
from sevlab_widgets.topology_places import GAP, placed

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


def test_in_the_past_nothing_is_closed_and_no_descriptor_is_dragged(machine):
    host = machine()
    host.mark(0, 1, 1)
    host.mark(1, 1, 1)
    over = lambda *args: pytest.fail("it is over")  # noqa: E731 - the same for both verbs
    topology = Topology(BEFORE, verbs={"close": over, "pass": over}, host=host)
    topology.got_select("view-1", "qemu:5")
    topology.entry = 1
    topology.got_press("view-1", "close")
    from sevlab_widgets.topology_picture import TopologyPicture

    picture = TopologyPicture(topology, *topology.sizes()[0])
    (x, y), (a, b, c, d) = picture.places["qemu:5"], picture.boxes["aide"]
    topology.got_drop("view-1", "qemu:5", (a + c) / 2 - x, (b + d) / 2 - y)

    assert "data-drag" not in str(picture.svg)


def test_passing_to_nobody_is_an_error_in_a_sentence(sent):
    topology = Topology(BEFORE, verbs={"pass": lambda *args: pytest.fail("there is nobody")})
    messages = sent(topology)
    topology.got_select("view-1", "qemu:5")
    topology.got_press("view-1", "pass", "nobody")

    assert any(content["kind"] == "error" and "there is no process 'nobody'" in content["say"] for content, _ in messages)


def test_no_process_is_a_sentence():
    assert Topology().empty == "One machine, no process. host.process('qemu') puts the first box here."


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


# ------------------------------------------------------------- many of them, and figures that are wrong as shipped


def crowd(count):
    plugs = [(Plug(5, "vm", f"vm {i}"), Plug(6, "cpu", f"vm {i}"), Plug(7, "cpu", f"vm {i}")) for i in range(count)]
    return Scene(
        [Box(f"p{i}", "a process with a rather long name" * (i == 2) or f"p{i}", "pid 1", plugs[i]) for i in range(count)],
        [Thing(f"vm {i}", f"vm-{i}") for i in range(count)],
        ledger=[(f"references on a process with a rather long name, VM {i}", 3) for i in range(count)],
    )


def test_lines_lie_below_boxes_so_that_no_name_is_crossed_out():
    text = str(Topology(crowd(8)).picture(874, "M"))

    assert text.rindex("<path", 0, text.index('data-key="p0"')) > 0
    assert "<path d=" not in text[text.index('data-key="p0"') :].replace('<path class="sl-head"', "")


def test_of_many_processes_each_has_one_line_to_what_it_holds():
    def lines(scene, selected=None):
        made = Topology(scene)
        made.selected = selected
        return str(made.picture(874, "M")).count('class="sl-line" d=')

    assert lines(crowd(3)) == 9 and lines(crowd(8)) == 8
    assert lines(crowd(8), "vm 1") == 7 + 3


@pytest.mark.parametrize(("width", "size"), [(874, "M"), (1474, "L")])
def test_eight_processes_stay_within_the_picture(width, size):
    made = Topology(crowd(8))
    rects = ET.fromstring(str(made.picture(width, size))).iter(f"{SVG}rect")

    assert max(float(rect.get("x")) + float(rect.get("width")) for rect in rects if rect.get("x")) <= width + 1


@pytest.mark.parametrize(("width", "size"), [(600, "M"), (1474, "L")])
def test_a_name_that_is_longer_than_the_picture_is_cut_and_its_box_stays_inside(width, size):
    long = "a VM called " + "x" * 300
    scene = Scene([Box("p", long, "pid 1", (Plug(5, "vm", "vm"),))], [Thing("vm", long, long)], [Thing("s", long)])
    drawn = ET.fromstring(str(Topology(scene).picture(width, size)))

    rects = [rect for rect in drawn.iter(f"{SVG}rect") if rect.get("x")]
    assert max(float(rect.get("x")) + float(rect.get("width")) for rect in rects) <= width + 1
    texts = [text.text or "" for text in drawn.iter(f"{SVG}text")]
    assert max(map(len, texts)) < len(long) and any(text.endswith("…") for text in texts)


def test_a_figure_that_is_wrong_as_shipped_carries_its_tag_and_no_other_does():
    scene = BEFORE._replace(defects={"slots in use": "as shipped, see J26"})
    made = Topology(scene)

    assert [row.tag for row in made.ledger] == ["", "as shipped, see J26"]
    assert made.says().endswith("Not your mistake: slots in use 1, as shipped, see J26.")
    assert str(made.picture(374, "S")).count("sl-defect") == 1
    assert "Not your mistake" not in Topology(BEFORE).says()


def test_words_find_what_they_name():
    made = Topology(BEFORE)

    assert [made.find(words) for words in ("look at vm-b", "slot 6 below", "references on vm-a", "the moon")] == [
        "vm 2", "slot 6", "ledger references on vm-a", "the moon",
    ]  # fmt: skip


def pictured(scene, width, size, before=None):
    from sevlab_widgets.topology_picture import TopologyPicture

    return TopologyPicture(Topology(scene, before), width, size)


@pytest.mark.parametrize("width", [1020, 1160, 1500])
def test_no_name_of_the_ledger_is_cut_where_two_moments_stand_beside_each_other(width):
    rows = (("slots waiting for a flush", 0), ("pages locked, qemu-tight", 768))
    drawn = pictured(AFTER._replace(ledger=rows), width, "L", BEFORE._replace(ledger=tuple((name, 8194) for name, _ in rows)))
    texts = [text.text for text in ET.fromstring(str(drawn.svg)).iter(f"{SVG}text")]

    assert [name for name, _ in rows] == [text for text in texts if text in dict(rows)]


def test_what_fits_into_one_row_stands_in_one_row():
    pills = tuple(Thing(f"slot {i}", f"slot {i}") for i in range(3))
    held = BEFORE._replace(below=pills, links=(BEFORE.links[0], *(Link("vm 2", pill.key) for pill in pills)))
    drawn = pictured(held, 900, "L")

    assert len({drawn.tops[pill.key][2] for pill in pills}) == 1
    edges = sorted((x, x + wide) for x, wide, _ in (drawn.tops[pill.key] for pill in pills))
    assert all(one[1] < other[0] for one, other in itertools.pairwise(edges))


def test_processes_stand_beside_each_other_so_that_no_line_comes_out_of_a_box_it_does_not_begin_in():
    for width, size in ((760, "M"), (1160, "L")):
        boxes = pictured(BEFORE, width, size).boxes
        assert boxes["qemu"][1] == boxes["aide"][1] and boxes["qemu"][2] < boxes["aide"][0]


def test_a_neighbour_that_holds_its_neighbour_has_a_straight_arrow_and_one_further_off_has_not():
    third = Thing("vm 3", "vm-c", "mirror")
    near = str(pictured(BEFORE, 760, "M").svg)
    far = str(pictured(BEFORE._replace(things=(*BEFORE.things[:1], third, BEFORE.things[1])), 760, "M").svg)

    assert near.count(">holds<") == far.count(">holds<") == 1
    assert "sl-ground" not in near


@pytest.mark.parametrize(
    ("wanted", "wides", "rows"),
    [
        ([0, 10, 20], [50, 50, 50], [0, 0, 0]),
        ([500, 500, 500], [50, 50, 50], [0, 0, 0]),
        ([0, 0, 0, 0], [90, 90, 90, 90], [0, 0, 1, 1]),
        ([1e6, 1e6], [50, 50], [0, 0]),
    ],
)
def test_no_box_is_placed_over_another_or_outside(wanted, wides, rows):
    found = placed(wanted, wides, 10, 210)

    assert [place.row for place in found] == rows
    assert all(place.x >= 10 and place.x + wide <= 210 for place, wide in zip(found, wides, strict=True))
    for row in set(rows):
        edges = sorted((place.x, place.x + wide) for place, wide in zip(found, wides, strict=True) if place.row == row)
        assert all(one[1] + GAP <= other[0] for one, other in itertools.pairwise(edges))


@pytest.mark.parametrize("width", [520, 900, 1172])
def test_the_names_of_the_bands_stand_apart_also_when_a_band_is_empty(width):
    scene = Scene((Box("vmm", "vmm", "pid 1", (Plug(4, "sev"),)),), (), (Thing("slot 1", "slot 1 waits"),))
    picture = Topology(scene).picture(width, "L" if width > 1000 else "M")
    lines = [text for text in ET.fromstring(str(picture)).iter(f"{SVG}text") if text.text in ("space", "kernel", "firmware")]

    tops = [float(text.get("y")) for text in lines]
    assert len(lines) == 3 and all(after - before > 20 for before, after in itertools.pairwise(tops))
