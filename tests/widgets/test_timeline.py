"""AsidTimeline: what it says, what it draws, what a hand and a keyboard do."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sevlab_widgets import AsidTimeline
from sevlab_widgets.slots import Slots, When
from sevlab_widgets.timeline_picture import duration, ticks

SVG = "{http://www.w3.org/2000/svg}"


def story(machine):
    """Fifteen slots: one ES guest given back, one guest running, one flush, one refusal."""
    host = machine()
    host.entry(("ProcessMade", {"pid": 1, "process": "vm-a", "cgroup": "/tenant-a"}))
    host.take(6, vm=1, cgroup="/tenant-a")
    host.take(1, vm=2)
    host.give(1, vm=2)
    host.flush(1)
    host.take(7, vm=3, cgroup="/tenant-a")
    host.give(7, vm=3)
    host.entry(("VmMade", {"vm": 4, "vm_type": 0, "pid": 1}), ("SevCommand", {"vm": 4, "id": 0, "errno": 16, "error": 0}))
    return host


def drawn(line, width=800, size="M"):
    return ET.fromstring(str(line.picture(width, size)))


def items(picture):
    return {group.get("data-key"): group for group in picture.iter(f"{SVG}g") if group.get("data-key")}


def test_the_timeline_says_how_many_slots_are_what(machine):
    line = AsidTimeline.of(story(machine))

    assert line.describe() == (
        "key slots · naples · linux-6.1 · seed 7: 15 slots (SEV-ES 1 to 5, SEV 6 to 15). "
        "1 in use, 1 waiting for a flush, 13 free. 1 flush. vm-a 2 got no slot at entry 8 (8 ms): EBUSY."
    )


def test_an_empty_timeline_says_whose_the_slots_are(machine):
    assert (
        AsidTimeline.of(machine()).empty == "15 slots, none handed out. Slots 1 to 5 are for SEV-ES guests, 6 to 15 for SEV guests."
    )


def test_without_a_share_for_es_there_is_one_kind(machine):
    line = AsidTimeline.of(machine(min_asid=1))

    assert line.empty == "15 slots, none handed out. Slots 1 to 15 are for SEV guests."


def test_each_mark_is_a_thing_with_a_sentence(machine):
    found = items(drawn(AsidTimeline.of(story(machine))))

    sentences = [group.get("data-say") for group in found.values()]
    assert "Slot 6: vm-a has it, /tenant-a; from entry 2 (2 ms), still so." in sentences
    assert "Slot 1: given back by VM 2, waits for a flush; from entry 4 (4 ms) to entry 5 (5 ms)." in sentences
    assert "Flush at entry 5 (5 ms): WBINVD on all processors, then DF_FLUSH; 1 slot is free again." in sentences
    assert "misc.current of /tenant-a sev: 1, at most 2 so far." in sentences
    assert all(sentences)


def test_of_509_slots_only_those_ever_used_have_a_row(machine):
    host = machine(max_asid=509, min_asid=100)
    host.take(100, vm=1)

    texts = [text.text for text in drawn(AsidTimeline.of(host)).iter(f"{SVG}text")]

    assert "slots 1 to 99: never used" in texts and "slots 101 to 509: never used" in texts
    assert "100" in texts and "101" not in texts


@pytest.mark.parametrize("size", ["S", "M", "L"])
@pytest.mark.parametrize("width", [300, 420, 760, 1000, 1500])
def test_nothing_is_drawn_outside_the_picture(machine, width, size):
    picture = drawn(AsidTimeline.of(story(machine)), width, size)

    wide, high = float(picture.get("width")), float(picture.get("height"))
    assert wide == width and high > 0
    for rect in picture.iter(f"{SVG}rect"):
        x, y, w, h = (float(rect.get(name) or 0) for name in ("x", "y", "width", "height"))
        assert x >= -8 and x + w <= wide + 1 and y >= -1 and y + h <= high + 1
        assert w >= 0 and h >= 0


def test_a_bar_is_where_its_time_is_and_the_axis_may_count_entries(machine):
    host = machine()
    host.entry(ns=90_000_000)
    host.take(6, vm=1)
    host.entry(ns=9_000_000)
    line = AsidTimeline.of(host)

    def left():
        [bar] = items(drawn(line)).values()
        return float(next(bar.iter(f"{SVG}rect")).get("x"))

    by_time = left()
    line.choose("axis", "entries")
    by_entry = left()

    assert by_time > 690 and 540 < by_entry < 580  # 91 of 100 ms; entry 2 of 3


def test_a_flush_that_failed_is_broken_and_crossed_out(machine):
    host = story(machine)
    host.flush(0, 5)
    line = AsidTimeline.of(host)
    found = items(drawn(line))

    styles = [[part.get("class") for part in found[f"flush {i}"]] for i in (0, 1)]
    assert styles[0][0] == "sl-line" and "sl-fail" not in styles[0]
    assert styles[1][0] == "sl-broken" and styles[1][-1] == "sl-fail"
    assert "it failed with EIO, no slot became free" in found["flush 1"].get("data-say")
    assert [text for _, text in line.legend()][2:4] == ["flush", "flush that failed"]


def test_the_legend_shows_only_what_occurs(machine):
    assert [text for _, text in AsidTimeline.of(machine()).legend()] == ["in use", "waiting for a flush", "flush"]


def test_a_mirror_is_thin_and_below_the_name_of_whose_slot_it_is(machine):
    host = machine()
    host.take(6, vm=1)
    host.entry(("ContextCopied", {"asid": 6, "mirror": 2, "owner": 1}))
    owner, mirror = items(drawn(AsidTimeline.of(host))).values()

    name, whole, thin = owner.find(f"{SVG}text"), owner.find(f"{SVG}rect"), mirror.find(f"{SVG}rect")
    top, end = float(thin.get("y")), float(thin.get("y")) + float(thin.get("height"))
    assert float(name.get("y")) <= top and end <= float(whole.get("y")) + float(whole.get("height"))
    assert float(thin.get("height")) < float(whole.get("height")) / 3


def test_a_name_is_not_crossed_by_a_flush(machine):
    host = machine()
    host.take(6, vm=1)
    host.flush(0)
    host.entry(ns=30_000_000)
    found = items(drawn(AsidTimeline.of(host, names={1: "a guest"})))

    name, line = found["VM 1, slot 6, in use"].find(f"{SVG}text"), found["flush 0"].find(f"{SVG}line")
    assert name.text == "a guest" and float(name.get("x")) > float(line.get("x1"))


def test_what_a_cgroup_pays_in_the_past_is_what_it_paid_then(machine):
    line = AsidTimeline.of(story(machine))
    line.entry = 6

    assert items(drawn(line))["/tenant-a sev"].get("data-say").startswith("misc.current of /tenant-a sev: 2,")
    assert "2" in [text.text for text in items(drawn(line))["/tenant-a sev"].iter(f"{SVG}text")]


def test_of_many_cgroups_those_with_a_limit_are_drawn_and_the_rest_is_counted(machine):
    host = machine()
    for i in range(6):
        host.take(6 + i, vm=i + 1, cgroup=f"/tenant-{i}")
    line = AsidTimeline.of(host)
    line.slots.limits["/tenant-5 sev"] = 1

    picture = drawn(line)
    assert [key for key in items(picture) if key.startswith("/")] == ["/tenant-0 sev", "/tenant-5 sev"]
    assert "and 4 more cgroups, in the table" in [text.text for text in picture.iter(f"{SVG}text")]
    assert "1/1" in [text.text for text in picture.iter(f"{SVG}text")]


def test_slots_made_by_hand_may_count_in_a_unit_of_their_own():
    slots = Slots(4, [("SEV", 1, 4)])
    slots.take(1, "a", When(3, 3))
    slots.give_back(1, When(5, 5))
    line = AsidTimeline(slots, unit="tick")

    assert line.chrome()["choices"] == [] and line.say(slots.bars[0]) == "Slot 1: a has it; from tick 3 to tick 5."
    texts = [text.text for text in drawn(line).iter(f"{SVG}text")]
    assert "tick 0" in texts and "tick 5" in texts and not any("ns" in text or "entry" in text for text in texts)
    assert line.table()[0][-2:] == ["from tick", "to tick"]


def test_the_axis_of_a_short_story_has_no_half_entries():
    assert ticks(2.04, 9, 1) == [0, 1, 2]


def test_a_bar_that_was_moved_keeps_its_key():
    def plan(start, slot):
        slots = Slots(4, [("SEV", 1, 4)])
        slots.take(slot, "a", When(start, start))
        slots.take(3, "b", When(1, 1))
        return slots

    line = AsidTimeline(plan(2, 1), on_move=print, unit="tick")
    line.selected = line.key(0)
    line.show(plan(7, 2))

    assert line.bar(line.selected).name == "a" and line.bar(line.selected).slot == 2


def test_small_says_how_many_slots_it_leaves_out(machine):
    host = machine(max_asid=509, min_asid=1)
    for i in range(40):
        host.take(1 + i, vm=i + 1)

    texts = [text.text for text in drawn(AsidTimeline.of(host), 360, "S").iter(f"{SVG}text")]
    assert "0 flushes · 20 more that were used · 469 never used" in texts


def test_at_small_size_the_slots_stand_as_they_are_now(machine):
    line = AsidTimeline.of(story(machine))

    found = items(drawn(line, 360, "S"))
    sentences = [group.get("data-say") for group in found.values()]

    assert len(found) == 15
    assert "Slot 8 (SEV): free." in sentences
    assert "1 flush" in [text.text for text in drawn(line, 360, "S").iter(f"{SVG}text")]


def test_the_past_is_veiled_and_counted_as_it_was(machine):
    line = AsidTimeline.of(story(machine))

    line.entry = 4

    assert "2 in use" not in line.says() and "1 in use, 1 waiting for a flush, 13 free." in line.says()
    assert any("sl-veil" in (rect.get("class") or "") for rect in drawn(line).iter(f"{SVG}rect"))
    assert line.describe().endswith("Entry 4 of 8.")


def test_a_selected_bar_names_its_slot_and_its_vm(machine, sent):
    chosen = []
    line = AsidTimeline.of(story(machine), on_select=chosen.append)
    sent(line)
    key = next(key for key, group in items(drawn(line)).items() if "Slot 6" in group.get("data-say"))

    line.got_select("view-1", key)

    assert chosen == ["VM 1"]
    assert line.slot == 6
    assert "sl-lit" in items(drawn(line))[key].get("class")


def test_a_dragged_bar_is_told_in_units_of_the_axis(sent):
    moved = []
    slots = Slots(15, [("SEV", 1, 15)])
    slots.take(1, "a", When(0, 10))
    slots.give_back(1, When(0, 100))
    line = AsidTimeline(slots, on_move=lambda key, start: moved.append((key, start)))
    line.choose("axis", "entries")
    sent(line)
    picture = items(drawn(line))
    key = next(key for key, group in picture.items() if group.get("data-drag") == "x")
    first = float(next(picture[key].iter(f"{SVG}rect")).get("width"))

    line.got_drop("view-1", key, first / 9, 0)  # ninety entries are as wide as the bar
    line.got_drop("view-1", key, -10_000, 0)

    assert moved == [("a", 20), ("a", 0)]


def test_bars_cannot_be_dragged_where_nobody_listens(machine):
    assert not [group for group in items(drawn(AsidTimeline.of(story(machine)))).values() if group.get("data-drag")]


def test_an_option_that_there_is_not_is_an_error_in_the_widget(machine, sent):
    line = AsidTimeline.of(machine())
    messages = sent(line)

    line._receive(line, {"kind": "choose", "view": "view-1", "name": "axis", "option": "parsecs"}, [])

    assert messages[-1][0]["kind"] == "error"
    assert line.chosen["axis"] == "virtual time"


def test_the_table_has_every_bar_flush_refusal_and_step_of_a_cgroup(machine):
    heads, rows = AsidTimeline.of(story(machine)).table()

    assert heads[:4] == ["slot", "kind", "state", "VM"]
    assert [row[2] for row in rows] == [
        "in use", "waiting", "in use", "in use", "waiting", "flush", "refused: EBUSY", "misc.current 1", "misc.current 2",
        "misc.current 1",
    ]  # fmt: skip


def test_the_file_stands_alone_and_is_the_same_each_time(machine):
    one, other = (AsidTimeline.of(story(machine)).svg() for _ in range(2))

    assert one == other
    ET.fromstring(one)
    assert "<style>" in one and not re.search(r"https?://(?!www\.w3\.org/2000/svg)", one)


def test_names_cannot_break_the_picture(machine):
    host = machine()
    host.take(6, vm=1)
    line = AsidTimeline.of(host, names={1: '<script>"&'})

    assert "<script" not in str(line.picture(800, "M"))
    ET.fromstring(str(line.picture(800, "M")))


# ------------------------------------------------------------- the axis


@given(st.floats(1e-3, 1e15), st.integers(2, 20))
def test_ticks_are_round_few_and_inside(end, most):
    marks = ticks(end, most)

    assert 1 <= len(marks) <= most + 1
    assert marks[0] == 0 and marks[-1] <= end * (1 + 1e-6)
    assert len(marks) < 3 or marks[2] - marks[1] == pytest.approx(marks[1])


@pytest.mark.parametrize(
    ("ns", "text"), [(0, "0"), (7, "7 ns"), (1_500, "1.5 µs"), (22_600_000, "22.6 ms"), (3_000_000_000, "3 s")]
)
def test_a_duration_is_in_the_unit_that_reads_best(ns, text):
    assert duration(ns) == text


def test_a_timeline_asks_for_its_keys_once_however_many_bars_it_has(monkeypatch):
    slots = Slots(400, [("all", 1, 400)])
    for slot in range(1, 401):
        slots.take(slot, f"vm-{slot}", When(slot, slot))
    line, asked = AsidTimeline(slots), []
    keys = line.bar_keys
    monkeypatch.setattr(line, "bar_keys", lambda: asked.append(1) or keys())
    line.selected = line.key(7)

    assert "vm-8" in line.svg() and len(asked) < 8
