"""What every widget has: frames on the wire, time, errors, links, and a face where no front end runs."""

from __future__ import annotations

import json
import zlib

import pytest
import traitlets as t
from sevlab_widgets import Drawing, Frame, link
from sevlab_widgets.picture import Svg


class Counter(Frame):
    """The smallest widget: a number."""

    def __init__(self, **keywords):
        self.value = 0
        self.drawn = []
        super().__init__(**{"title": "counter", **keywords})

    def describe(self):
        return f"The counter says {self.value}."

    def table(self):
        return ["value", "square"], [[i, i * i] for i in range(self.value)]

    def full(self):
        return {"value": self.value}, []

    def svg(self):
        svg = Svg(100, 20)
        svg.text(2, 14, str(self.value))
        return svg.file(self.title)

    def draw_at(self, n):
        self.drawn.append(n)

    def fed(self, rows):
        self.value += len(rows)

    def add(self, amount=1):
        self.value += amount
        self.mark()


def kinds(messages):
    return [content["kind"] for content, _ in messages]


# ------------------------------------------------------------- the wire


def test_nothing_is_sent_while_nobody_looks(monkeypatch):
    messages = []
    monkeypatch.setattr(Counter, "send", lambda self, content, buffers=None: messages.append(content))
    counter = Counter()

    counter.add()

    assert messages == []


def test_a_view_that_says_ready_gets_frame_and_picture(sent):
    counter = Counter(facts=("host a", "naples"), imaginary="a firmware without its check")
    counter.add(5)

    messages = sent(counter)

    assert kinds(messages) == ["frame", "full"]
    assert messages[0][0]["facts"] == ["host a", "naples"] and messages[0][0]["imaginary"] == "a firmware without its check"
    assert messages[1][0]["value"] == 5 and messages[1][0]["to"] == "view-1"


def test_a_change_is_one_message_and_frames_are_numbered(sent):
    counter = Counter()
    messages = sent(counter)
    before = messages[-1][0]["seq"]
    messages.clear()

    counter.add()

    assert kinds(messages) == ["delta"]
    assert messages[0][0]["seq"] == before + 1


def test_a_reloaded_tab_fills_itself_again(sent):
    counter = Counter()
    messages = sent(counter)
    counter.add(3)
    messages.clear()

    counter.got_ready("view-2", 500, "M")

    assert kinds(messages) == ["frame", "full"]
    assert messages[1][0]["to"] == "view-2" and messages[1][0]["value"] == 3


def test_a_view_that_lags_behind_is_filled_again_and_one_that_does_not_is_left_alone(sent):
    counter = Counter()
    messages = sent(counter)
    counter.add()
    counter._asked = 0  # the ping has gone out
    messages.clear()

    counter.got_ack("view-1", counter._seq)
    assert messages == []
    counter.got_ack("view-1", counter._seq - 1)
    assert kinds(messages) == ["frame", "full"]


def test_after_a_quiet_second_the_views_are_asked_what_they_have(sent):
    counter = Counter()
    messages = sent(counter)
    counter.add()
    messages.clear()

    counter._ping()

    assert messages == [({"kind": "ping", "seq": counter._seq}, [])]


def test_the_program_is_sent_when_asked_for_and_not_kept_in_the_notebook():
    counter = Counter()
    state = json.dumps({key: value for key, value in counter.get_state().items() if isinstance(value, str)})

    assert len(state) < 3_000
    assert "ResizeObserver" not in state
    program, style = (zlib.decompress(part).decode() for part in counter.CODE)
    assert "ResizeObserver" in program and ".sl-stage" in style


@pytest.mark.parametrize("widget", [Counter, Drawing])
def test_no_trait_of_ours_is_synced(widget):
    inherited = set(Frame.__mro__[1].class_trait_names(sync=True))

    assert set(widget.class_trait_names(sync=True)) <= inherited


def test_an_unknown_message_is_nobody_s_business(sent):
    counter = Counter()
    messages = sent(counter)
    messages.clear()

    counter._receive(counter, {"kind": "from another program", "x": 1}, [])

    assert messages == []


def test_a_message_with_wrong_fields_becomes_an_error_not_an_exception(sent):
    counter = Counter()
    messages = sent(counter)
    messages.clear()

    counter._receive(counter, {"kind": "select", "view": "view-1"}, [])

    assert kinds(messages) == ["error"]


def test_only_the_newest_views_are_remembered(sent):
    counter = Counter()
    sent(counter)

    for i in range(20):
        counter.got_ready(f"tab {i}", 700, "M")

    assert len(counter._views) == 6 and "tab 19" in counter._views


# ------------------------------------------------------------- errors


def test_an_exception_of_a_callback_becomes_a_sentence_with_folded_details(sent):
    counter = Counter()
    messages = sent(counter)
    messages.clear()

    def broken():
        raise ValueError("no such page")

    assert counter.call("Enter", broken) is None
    [(content, _)] = messages
    assert content["say"] == "Enter raised ValueError: no such page."
    assert 'raise ValueError("no such page")' in content["details"]


def test_the_reason_of_a_refusal_is_part_of_the_sentence(sent):
    counter = Counter()
    messages = sent(counter)
    error = OSError(16, "Device or resource busy")
    error.why = "usage above max"

    counter.fail("The launch", error)

    assert messages[-1][0]["say"] == "The launch raised OSError: [Errno 16] Device or resource busy (usage above max)."


def test_an_observer_that_raises_is_reported_where_it_was_triggered(sent):
    counter = Counter()
    messages = sent(counter)
    messages.clear()
    counter.observe(lambda change: 1 // 0, "selected")

    counter._receive(counter, {"kind": "select", "view": "view-1", "value": 4}, [])

    assert messages[-1][0]["say"].endswith("raised ZeroDivisionError: integer division or modulo by zero.")


def test_rows_that_a_widget_cannot_read_leave_it_watching(machine, sent):
    host = machine()
    counter = Counter(host=host)
    messages = sent(counter)
    counter.fed = lambda rows: rows[0]["no such column"]

    host.mark(0, 1, 1)

    assert messages[-2][0]["kind"] == "error" or messages[-1][0]["kind"] == "error"
    assert len(host.trace.watchers) == 1


# ------------------------------------------------------------- time


def test_a_widget_without_a_host_has_no_time(sent):
    messages = sent(Counter())

    assert messages[0][0]["host"] is False
    assert all("n" not in content for content, _ in messages)


def test_a_host_s_rows_move_the_picture_and_its_clock(machine, sent):
    host = machine()
    counter = Counter(host=host)
    messages = sent(counter)
    messages.clear()

    host.mark(0, 1, 1)

    assert [(content["kind"], content["value"], content["n"]) for content, _ in messages] == [("delta", 1, 1)]


def test_stepping_back_draws_the_past_and_now_is_no_entry(machine, sent):
    host = machine()
    counter = Counter(host=host)
    for _ in range(5):
        host.mark(0, 1, 1)
    messages = sent(counter)

    counter.got_seek("view-1", 3)
    assert messages[-1][0]["entry"] == 3 or messages[-1][0]["kind"] == "frame"
    counter.got_seek("view-1", 5)

    assert counter.drawn == [3, None]
    assert counter.entry is None


@pytest.mark.parametrize(("asked", "drawn"), [(-4, 0), (0, 0), (2, 2), (3, None), (99, None), (None, None)])
def test_an_entry_outside_the_journal_becomes_the_nearest_there_is(machine, asked, drawn):
    host = machine()
    counter = Counter(host=host)
    for _ in range(3):
        host.mark(0, 1, 1)

    counter.entry = asked

    assert counter.entry == drawn


def test_an_entry_that_is_no_number_is_refused(machine):
    counter = Counter(host=machine())

    with pytest.raises(t.TraitError):
        counter.entry = "yesterday"


def test_a_host_may_count_its_entries_at_its_gate():
    class Gate:
        n = 12

    class Host:
        gate = Gate()

    assert Counter(host=Host()).now == 12


def test_a_closed_widget_no_longer_watches(machine):
    host = machine()
    counter = Counter(host=host)

    counter.close()

    assert host.trace.watchers == []


# ------------------------------------------------------------- links


def test_linked_widgets_share_the_moment_and_one_class_shares_the_selection(machine):
    class Other(Counter):
        pass

    a, b, c = (kind(host=host) for kind, host in zip((Counter, Counter, Other), (machine(), machine(), machine()), strict=True))
    for widget in (a, b, c):
        for _ in range(9):
            widget.host.mark(0, 1, 1)
    link(a, b, c)

    a.entry, a.selected = 4, "page 7"

    assert (b.entry, b.selected) == (4, "page 7")
    assert (c.entry, c.selected) == (4, None)


def test_a_linked_host_with_fewer_entries_shows_now_and_pulls_nobody_along(machine):
    long, short = machine(), machine()
    a, b = Counter(host=long), Counter(host=short)
    for _ in range(9):
        long.mark(0, 1, 1)
    for _ in range(3):
        short.mark(0, 1, 1)
    link(a, b)

    a.entry = 2
    a.entry = 7

    assert (a.entry, b.entry) == (7, None)


# ------------------------------------------------------------- table, files, static


def test_the_table_view_is_cut_and_says_so_but_the_file_has_all(sent):
    counter = Counter()
    counter.value = 1500
    messages = sent(counter)

    counter.got_table("view-1")

    assert (len(messages[-1][0]["rows"]), messages[-1][0]["all"]) == (1000, 1500)
    assert counter.csv().splitlines()[0] == "value,square"
    assert len(counter.csv().splitlines()) == 1501


@pytest.mark.parametrize(
    ("what", "kind", "beginning"),
    [("csv", "text/csv", b"value,square"), ("svg", "image/svg+xml", b"<svg"), ("png", "image/svg+xml", b"<svg")],
)
def test_a_file_has_the_title_s_name(sent, what, kind, beginning):
    counter = Counter(title="Guest memory of vm-a")
    messages = sent(counter)

    counter.got_export("view-1", what)

    content, [data] = messages[-1]
    assert (content["name"], content["type"]) == (f"guest-memory-of-vm-a.{what}", kind)
    assert data.startswith(beginning)


def test_where_a_front_end_may_run_the_bundle_has_widget_text_and_a_small_picture():
    data, _ = Counter()._repr_mimebundle_()

    assert data["text/plain"] == "The counter says 0."
    assert data["image/svg+xml"].startswith("<svg")
    assert "application/vnd.jupyter.widget-view+json" in data


def test_a_picture_that_would_swell_the_notebook_stays_out():
    class Large(Counter):
        def svg(self):
            return "<svg>" + 5000 * " " + "</svg>"

    assert "image/svg+xml" not in Large()._repr_mimebundle_()[0]


def test_static_is_a_picture_and_a_sentence_and_no_widget(monkeypatch):
    monkeypatch.setenv("SEVLAB_STATIC", "1")

    data, metadata = Counter()._repr_mimebundle_()

    assert set(data) == {"text/plain", "image/svg+xml"}
    assert metadata == {"image/svg+xml": {"alt": "The counter says 0."}}


def test_a_widget_says_what_it_shows_and_never_where_it_lies_in_memory():
    assert repr(Counter()) == "The counter says 0."


def test_who_asks_for_an_entry_hears_when_it_is_there_and_a_link_selects_and_leads(machine, sent):
    counter = Counter(host=machine())
    counter.host.mark(0, 1, 1)
    messages = sent(counter)

    counter.got_seek("view-1", 0)
    assert messages[-1][0] == {"kind": "sought", "n": 1, "oldest": 0, "entry": 0, "to": "view-1"}
    counter.look_at("value 4")
    assert counter.selected == "value 4" and kinds(messages)[-2:] == ["selected", "look"]
