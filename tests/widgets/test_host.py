"""The two maps of a machine against the machine itself: what the trace tells is what the arrays hold."""

from __future__ import annotations

import pytest
from sevlab_widgets import AsidTimeline, PageMap

from sevlab import Host, vmm
from sevlab.trace import Trace

NAMES = {"save area": "vmsa", "moved away": "moved", "no longer reads what it wrote": "stale", "GHCB": "ghcb"}


@pytest.fixture(scope="module")
def day():
    """A host that has launched five guests and closed two, drawn from before it began."""
    host = Host(chip="naples", seed=7, memory=4 << 30, cgroups={"/a": {"sev": 3}, "/b": {"sev": 2}})
    pages, slots = PageMap.of(host), AsidTimeline.of(host)
    for i, name in enumerate(("one", "two", "three", "four", "five", "six")):
        process = host.process(name, cgroup="/a" if i % 2 else "/b")
        try:
            vmm.launch(host, firmware=bytes(65536), policy=1, process=process)
        except OSError:
            process.kill()
        if i in (1, 2):
            host.processes[("one", "two")[i - 1]].kill()
    yield host, pages, slots
    host.close()


def test_the_map_counts_what_the_machine_counts(day):
    host, pages, _ = day

    counts = pages.counts()
    assert counts.pop("pinned") == host.pages.pinned()
    assert {NAMES.get(name, name): count for name, count in counts.items()} == {k: v for k, v in host.pages.counts().items() if v}
    for page in (0, 300, 9000):
        state, owner, pins = (int(column[page]) for column in pages.columns)
        assert (state, owner, pins) == (host.pages.state(page), host.pages.asid(page), host.pages.pins(page))


def test_the_timeline_counts_what_the_kernel_counts(day):
    host, _, slots = day

    kernel, drawn = host.asids.counts(), slots.slots.tally()
    assert drawn == {"in use": kernel["used"], "waiting": kernel["reclaimable"], "free": kernel["free"]}
    charged = {label: steps[-1][1] for label, steps in slots.slots.levels.items()}
    for path in ("/a", "/b"):
        assert charged[f"{path} sev"] == host.kernel.root_cgroup.find(path).current["sev"]


def test_a_map_made_late_is_the_map_that_was_there_from_the_start(day):
    host, pages, slots = day

    late = PageMap.of(host)
    assert all((a == b).all() for a, b in zip(late.columns, pages.columns, strict=True))
    assert AsidTimeline.of(host).slots == slots.slots


def test_the_past_is_drawn_and_left_again(day):
    host, pages, slots = day
    now = pages.counts(), slots.slots.tally()

    pages.entry = slots.entry = host.gate.n // 2
    assert pages.counts() != now[0]
    assert "Entry" in slots.describe()
    pages.entry = slots.entry = None

    assert (pages.counts(), slots.slots.tally()) == now


def test_a_trace_that_forgets_still_gives_a_map_of_now():
    host = Host(chip="naples", seed=7, memory=4 << 30, trace=Trace(ring=2))
    vmm.launch(host, firmware=bytes(4096), policy=1)

    pages = PageMap.of(host)
    host.process("more").mmap(1 << 20)

    counts = pages.counts()
    assert counts["pinned"] == host.pages.pinned()
    assert counts["private"] == host.pages.counts()["private"]
