"""PageMap: what it sends when it changes, live and while one walks through time."""

from __future__ import annotations

import json
import zlib
from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sevlab_widgets import PageMap, runs

MILLION = 1 << 20
STATES = {"free": 0, "host": 1, "shared": 2, "private": 3, "firmware": 4, "save area": 5, "GHCB": 6, "moved": 7, "stale": 8}


def wire(message):
    """How many bytes of ours a message is: its fields as JSON and its buffers."""
    content, buffers = message
    return len(json.dumps(content, separators=(",", ":"))) + sum(map(len, buffers))


class Far:
    """A front end: it keeps the pages that messages tell it of."""

    def __init__(self) -> None:
        self.columns = None

    def take(self, messages):
        for content, buffers in messages:
            data = [zlib.decompress(part) if content.get("z") else part for part in buffers]
            if content["kind"] == "full" and content["whole"]:
                n, [all_] = content["count"], data
                self.columns = (
                    np.frombuffer(all_, "u1", n, 4 * n).copy(),
                    np.frombuffer(all_, "<u2", n).copy(),
                    np.frombuffer(all_, "<u2", n, 2 * n).copy(),
                )
                continue
            if content["kind"] == "full":
                self.columns = runs.blank(content["count"])
            if content["kind"] in ("full", "delta"):
                for first, length, owner, pins, state in zip(*(column.tolist() for column in runs.unpack(data[0])), strict=True):
                    for column, value in zip(self.columns, (state, owner, pins), strict=True):
                        column[first : first + length] = value


def same(one, other):
    return all((a == b).all() for a, b in zip(one, other, strict=True))


# ------------------------------------------------------------- the wire


def test_one_changed_page_of_a_million_is_under_a_hundred_bytes(sent):
    pages = PageMap(np.full(MILLION, 3, "u1"), owner=6)
    messages = sent(pages)
    messages.clear()

    pages.set(777_777, state=STATES["stale"])

    [message] = messages
    assert wire(message) < 100


def test_a_hundred_thousand_pages_that_change_alike_are_under_a_hundred_bytes(sent):
    pages = PageMap(count=MILLION)
    messages = sent(pages)
    pages.set(0)  # the empty map's sentence goes
    pages._queue._next = 0
    messages.clear()

    pages.set(300_000, 100_000, state=3, owner=6, pins=1)

    assert [content["kind"] for content, _ in messages] == ["delta"]
    assert wire(messages[0]) < 100


def test_a_million_pages_as_a_machine_has_them_travel_in_few_bytes():
    rng = np.random.default_rng(1)
    states = np.repeat(rng.integers(0, 9, 200), MILLION // 200 + 1)[:MILLION].astype("u1")
    states[rng.integers(0, MILLION, 1000)] = 8

    _, [data] = PageMap(states).full()

    assert len(data) < 20_000


def test_a_map_without_runs_travels_whole():
    states = np.random.default_rng(1).integers(0, 9, MILLION).astype("u1")

    fields, [data] = PageMap(states).full()

    assert fields["whole"] and len(data) < MILLION
    far = Far()
    far.take([({"kind": "full", **fields}, [data])])
    assert (far.columns[0] == states).all()


def test_memory_that_nobody_touched_costs_nothing_to_send():
    _, [data] = PageMap(count=16 * MILLION).full()

    assert data == b""


def test_three_thousand_changes_lose_nothing(sent):
    pages = PageMap(count=MILLION)
    messages, far = sent(pages), Far()
    rng = np.random.default_rng(3)

    for page, state in zip(rng.integers(0, MILLION, 3000).tolist(), rng.integers(1, 9, 3000).tolist(), strict=True):
        pages.set(page, state=state)
    pages._queue.flush()

    far.take(messages)
    assert same(far.columns, pages.columns)
    assert len([content for content, _ in messages if content["kind"] == "delta"]) < 100


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 99),
        st.integers(1, 40),
        st.none() | st.integers(0, 8),
        st.none() | st.integers(0, 9),
        st.none() | st.integers(0, 3),
    ),
    max_size=30,
)


@given(CHANGES, st.sets(st.integers(0, 30), max_size=4))
def test_whatever_changes_the_far_side_has_the_same_pages(changes, flushes):
    pages, far = PageMap(count=140), Far()
    messages = []
    pages.send = lambda content, buffers=None: messages.append((content, buffers or []))
    pages.got_ready("v", 800, "M")

    for i, (first, count, state, owner, pins) in enumerate(changes):
        pages.set(first, count, state=state, owner=owner, pins=pins)
        if i in flushes:
            pages._queue.flush()
    pages._queue.flush()

    far.take(list(messages))
    assert same(far.columns, pages.columns)


def test_show_sends_only_what_differs(sent):
    states = np.full(MILLION, 3, "u1")
    pages = PageMap(states)
    messages, far = sent(pages), Far()
    states = states.copy()
    states[5], states[900_000] = 8, 1

    pages.show(states)

    far.take(messages)
    assert same(far.columns, pages.columns)
    assert wire(messages[-1]) < 100


def test_new_borders_send_the_map_anew(sent):
    pages = PageMap(np.full(64, 3, "u1"))
    messages = sent(pages)
    messages.clear()

    pages.border([(0, 16, "slot 0")])

    assert messages[-1][0]["kind"] == "full" and messages[-1][0]["regions"] == [(0, 16, "slot 0")]


# ------------------------------------------------------------- a machine, and its past


def day(machine):
    """A machine with ten entries behind it, and what its pages were after each."""
    host, columns, states = machine(256), runs.blank(256), []

    def step(act, *pages_and_more):
        act(*pages_and_more)
        states.append(tuple(column.copy() for column in columns))

    def mark(first, count, state, asid=0):
        columns[0][first : first + count], columns[1][first : first + count] = state, asid
        host.mark(first, count, state, asid)

    def pin(first, count, by):
        columns[2][first : first + count] += np.uint16(by % 65536)
        host.pin(first, count, by)

    states.append(tuple(column.copy() for column in columns))
    step(mark, 0, 64, 1)
    step(mark, 64, 64, 3, 6)
    step(pin, 64, 64, 1)
    step(pin, 64, 10, 1)
    step(mark, 70, 1, 2, 0)
    step(pin, 64, 64, -1)
    step(mark, 200, 56, 4)
    step(mark, 64, 64, 7)
    step(pin, 64, 10, -1)
    step(mark, 0, 256, 0)
    return host, states


def test_a_machine_s_map_follows_it(machine):
    host = machine(256)
    pages = PageMap.of(host)

    host.mark(8, 8, 3, 6)
    host.pin(8, 4)

    assert pages.counts() == {"free": 248, "private": 8, "pinned": 4}
    assert pages.page(8) == "Page 0x8 at 0x8000: P private, slot 6, pinned."


@given(st.lists(st.integers(0, 10), max_size=8))
def test_any_moment_is_what_it_was_however_one_walks_there(walk):
    from widget_tests_machine import Machine

    host, states = day(Machine)
    pages = PageMap.of(host)

    for n in walk:
        pages.entry = n
        assert same(pages.columns, states[n])
    pages.entry = None
    assert same(pages.columns, states[-1])


def test_a_view_that_walks_through_time_has_the_same_pages(machine, sent):
    host, states = day(machine)
    pages = PageMap.of(host)
    messages, far = sent(pages), Far()

    for n in (3, 8, 1, 6, 0):
        pages.entry = n
        pages._queue.flush()
        far.take(messages)
        messages.clear()
        assert same(far.columns, states[n]), n


def test_what_happens_while_one_looks_back_is_there_when_one_returns(machine):
    host = machine(256)
    pages = PageMap.of(host)
    host.mark(0, 16, 3)
    host.mark(16, 16, 1)
    pages.entry = 1

    host.mark(32, 16, 2)
    assert pages.counts() == {"free": 240, "private": 16, "pinned": 0}
    pages.entry = None

    assert pages.counts() == {"free": 208, "host": 16, "shared": 16, "private": 16, "pinned": 0}


def test_another_host_s_rows_in_a_shared_trace_are_not_drawn(machine):
    host = machine(64)
    host.gate = SimpleNamespace(host=1, n=0)
    pages = PageMap.of(host)

    host.mark(0, 8, 3)  # its rows say host 0

    assert pages.counts() == {"free": 64, "pinned": 0}
