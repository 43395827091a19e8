"""Figures, tested by what is drawn: the data of matplotlib's artists, and the sentence beside them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sevlab import Host, Trace, chips, guest, plots, vmm
from sevlab.abi.sev import Cmd, Handle, Status
from sevlab.hw import pages
from sevlab.kvm.asid import AsidFreed, AsidsFlushed, AsidTaken
from sevlab.lab.picture import WIDTH, penguin
from sevlab.lab.tenants import naples, tenant
from sevlab.lab.tweak import Box
from sevlab.plots.asids import USED, WAITING, history
from sevlab.plots.images import on_the_bus
from sevlab.plots.pages import COLUMNS, LINES, LOOKS, NARROW
from sevlab.plots.times import commands


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host("rome", seed=5, memory=1 << 30) as made:
        vm = vmm.launch(made, program=guest.hello, memory=1 << 20)
        vm.finish()
        vm.run()
        yield made


def slots(*events: tuple[Any, ...]) -> Trace:
    """A trace of key slots alone: (time, event, values)."""
    trace = Trace()
    for t, event, *values in events:
        trace.now = t
        trace.emit(event, *values)
    return trace


# --------------------------------------------------------------------------- asids

LIFE = (
    (10, AsidTaken, 6, 0, 1, "/"),
    (20, AsidTaken, 7, 0, 2, "/"),
    (50, AsidFreed, 6, 1),
    (80, AsidsFlushed, 0, 5),
    (90, AsidsFlushed, 1, 0),
    (95, AsidTaken, 6, 0, 3, "/"),
)


def test_a_slot_is_used_then_waits_and_a_flush_that_failed_frees_nothing() -> None:
    stretches, flushes = history(slots(*LIFE, (100, AsidFreed, 9, 9)))
    assert [tuple(one) for one in stretches] == [
        (6, USED, 1, 10, 50, False),
        (7, USED, 2, 20, 100, True),
        (6, WAITING, 1, 50, 90, False),
        (6, USED, 3, 95, 100, True),
        (9, WAITING, 9, 100, 100, True),
    ]
    assert [tuple(one) for one in flushes] == [(80, 0, 5), (90, 1, 0)]


def test_another_host_s_slots_are_another_history() -> None:
    assert history(slots(*LIFE), host=1) == ([], [])


def test_each_stretch_of_a_slot_is_a_bar_where_it_was_and_each_flush_a_line_through_all() -> None:
    with Host("naples", seed=2, memory=1 << 30) as host:
        for _ in range(2):
            vms = [vmm.launch(host, program=guest.hello, memory=1 << 20) for _ in range(10)]
            for vm in vms:
                vm.process.kill()
        stretches, flushes = history(host.trace)
        plot = plots.asid_occupancy(host)
        bars, count = plot.axes
        drawn = [(patch.get_x() * 1e6, patch.get_width() * 1e6) for patch in bars.patches]
        lines = [line.get_xdata()[0] * 1e6 for line in bars.lines]

    assert len(stretches) == len(drawn) == 40
    assert sum(one.state == WAITING for one in stretches) == 20
    assert [round(x) for x, _ in drawn] == [one.start for one in stretches]
    assert [round(x) for x in lines] == [flush.t for flush in flushes] and len(flushes) == 1
    assert [label.get_text() for label in bars.get_yticklabels()] == [str(slot) for slot in range(6, 16)]
    used, waiting = (line.get_ydata() for line in count.lines if line.get_label() in (USED, WAITING))
    assert (max(used), used[-1], max(waiting), waiting[-1]) == (10, 0, 10, 10)
    assert plot.alt == (
        "Key slots of naples over virtual time: 10 of 15 were ever used; now 0 in use, 10 waiting for a flush; 1 flush."
    )


@pytest.mark.parametrize(("guests", "said"), [(15, []), (14, ["1 more slot, never used"]), (3, ["12 more slots, never used"])])
def test_slots_that_were_never_used_are_counted_where_there_are_any(guests: int, said: list[str]) -> None:
    with Host(naples(es=0), seed=2, memory=1 << 30) as host:
        for _ in range(guests):
            tenant(host)
        bars, _ = plots.asid_occupancy(host).axes
    assert [text.get_text() for text in bars.texts if "never used" in text.get_text()] == said


def test_a_machine_that_gave_no_slot_yet_is_drawn_as_that() -> None:
    with Host("rome", seed=1, memory=1 << 30) as host:
        plot = plots.asid_occupancy(host)
    assert not plot.axes[0].patches
    assert "0 of 509 were ever used" in plot.alt


# --------------------------------------------------------------------------- pages


def test_one_page_in_a_million_still_shows_in_its_cell() -> None:
    with Host("rome", seed=5, memory=4 << 30) as host:
        host.pages.mark(0, 1 << 20, pages.PRIVATE, 100)
        host.pages.mark(777_777, 1, pages.STALE, 100)
        plot = plots.page_map(host, 0, 1 << 20)
        grid = plot.axes[0].images[0].get_array()

    cells = (1 << 20) // grid.size
    assert cells * grid.size == 1 << 20 and grid.size <= COLUMNS * LINES
    assert (grid == pages.STALE).sum() == 1
    assert grid.reshape(-1)[777_777 // cells] == pages.STALE
    assert "1 stale" in plot.alt and f"each cell is {cells} pages" in plot.alt


def test_what_is_drawn_is_what_the_machine_says(host: Host) -> None:
    plot = plots.page_map(host, 0, 1024)
    grid, pins = (axes.images[0].get_array() for axes in plot.axes)

    assert grid.shape == (8, COLUMNS)
    assert [int(value) for value in grid.reshape(-1)] == [host.pages.state(pfn) for pfn in range(1024)]
    groups = [max(host.pages.pins(pfn) for pfn in range(first, first + NARROW)) for first in range(0, 1024, NARROW)]
    assert [int(value) for value in pins.reshape(-1)] == groups
    assert max(groups) > 0


def test_the_legend_counts_pages_and_not_cells(host: Host) -> None:
    plot = plots.page_map(host)
    texts = [text.get_text() for text in plot.figure.legends[0].get_texts()]
    counts = host.pages.counts()
    assert f"P  private {counts['private']:,}" in texts
    assert f"{host.pages.pinned():,} pinned" in plot.alt


def test_every_state_has_a_colour_a_letter_and_a_gravity_of_its_own() -> None:
    assert sorted(LOOKS) == list(range(len(pages.NAMES)))
    for each in ("colour", "letter", "gravity"):
        assert len({getattr(look, each) for look in LOOKS.values()}) == len(LOOKS)


@pytest.mark.parametrize(("first", "count"), [(-1, 4), (1 << 18, 1), (0, (1 << 18) + 1)])
def test_pages_outside_the_machine_are_refused(host: Host, first: int, count: int) -> None:
    with pytest.raises(ValueError, match="not inside"):
        plots.page_map(host, first, count)


# ------------------------------------------------------------------------ pictures


def test_under_ecb_the_picture_repeats_and_under_a_tweak_nothing_does() -> None:
    plot = plots.engines()
    drawn = [axes.images[0].get_array().tobytes() for axes in plot.axes]
    different = [len({data[at : at + 16] for at in range(0, len(data), 16)}) for data in drawn]

    assert drawn[0] == penguin()
    assert different[1] == different[0] < 400, "ECB: as many different blocks as the picture has"
    assert different[2] == different[3] == WIDTH * WIDTH // 16
    assert "never existed" in plot.axes[1].get_title()
    assert plot.alt.count("noise") == 2 and "an engine that never existed" in plot.alt


def test_the_difference_of_two_moments_is_the_outline_that_moved() -> None:
    with Host("naples", seed=5, memory=1 << 30) as host:
        box = Box(host)
        before, after = (on_the_bus(box, penguin(shift)) for shift in (0, 12))
    plot = plots.delta(before, after)
    changed = plot.axes[2].images[0].get_array()
    wanted = [penguin()[at : at + 16] != penguin(12)[at : at + 16] for at in range(0, WIDTH * WIDTH, 16)]

    assert [bool(count) for count in changed.reshape(-1)] == wanted
    assert f"{sum(wanted):,} of 4,096 blocks" in plot.alt


def test_two_moments_of_different_places_are_refused() -> None:
    with pytest.raises(ValueError, match="not two moments of one place"):
        plots.delta(bytes(4096), bytes(8192))


def test_bytes_that_are_no_whole_lines_are_no_picture() -> None:
    with pytest.raises(ValueError, match="reshape"):
        plots.pictures([("half a line", bytes(300))])


def test_a_machine_that_never_existed_says_so_across_every_figure() -> None:
    with Host(chips.imaginary("ECB"), seed=1, memory=1 << 30) as host:
        vmm.launch(host, program=guest.hello, memory=1 << 20)
        for make in (plots.asid_occupancy, plots.page_map, plots.launch_timeline):
            assert "never existed" in make(host).figure.get_suptitle()


# ----------------------------------------------------------------------- timelines


def test_a_launch_is_its_commands_in_their_order_and_none_overlaps_another(host: Host) -> None:
    found = [one for one in commands(host.trace) if one.name.startswith("LAUNCH")]
    assert [one.name for one in found] == ["LAUNCH_START", "LAUNCH_UPDATE_DATA", "LAUNCH_MEASURE", "LAUNCH_FINISH"]
    assert all(one.end <= two.start for one, two in pairwise(found))
    assert found[0].end - found[0].start == 15_000_000

    plot = plots.launch_timeline(host)
    widths = [patch.get_width() * 1e6 for patch in plot.axes[0].patches]
    assert any(abs(width - 15_000_000) < 1 for width in widths)
    assert "the longest is" in plot.alt and "0 refused" in plot.alt


def test_a_refused_command_is_drawn_in_red_and_counted() -> None:
    with Host("rome", seed=1, memory=1 << 30) as host:
        assert host.mailbox(Cmd.DECOMMISSION, Handle(9)) == Status.INVALID_PLATFORM_STATE
        plot = plots.timeline(host)
        assert any(patch.get_linewidth() > 1 for patch in plot.axes[0].patches)
        assert "1 refused" in plot.alt


def test_two_hosts_of_one_world_have_three_rows_each_and_two_worlds_no_figure() -> None:
    with Host("rome", seed=1, memory=1 << 30) as one, Host("milan", seed=2, memory=1 << 30, trace=one.trace) as other:
        plot = plots.migration_timeline(one, other)
        assert [label.get_text() for label in plot.axes[0].get_yticklabels()][::3] == ["PSP of a (rome)", "PSP of b (milan)"]
    with Host(seed=1, memory=1 << 30) as stranger, pytest.raises(ValueError, match="share a trace"):
        plots.migration_timeline(one, stranger)
    with pytest.raises(ValueError, match="give it a host"):
        plots.timeline()


# ------------------------------------------------------------------------ in a notebook


def test_a_notebook_gets_a_picture_with_its_sentence(host: Host) -> None:
    data, metadata = plots.page_map(host)._repr_mimebundle_()
    assert data["image/png"][:8] == b"\x89PNG\r\n\x1a\n"
    assert metadata["image/png"]["alt"] == data["text/plain"] == repr(plots.page_map(host))
    assert data["text/html"].startswith("<img src=") and f'alt="{escape(data["text/plain"])}"' in data["text/html"]


def test_the_same_machine_is_the_same_picture_to_the_byte(host: Host) -> None:
    assert plots.page_map(host).svg() == plots.page_map(host).svg()
    assert plots.page_map(host).png() == plots.page_map(host).png()


def test_a_figure_is_saved_by_its_ending_and_an_ending_that_is_none_is_refused(host: Host, tmp_path: Path) -> None:
    plots.page_map(host).save(str(tmp_path / "map.svg"))
    assert (tmp_path / "map.svg").read_text().startswith("<?xml")
    with pytest.raises(ValueError, match="not supported"):
        plots.page_map(host).save(str(tmp_path / "map.sevlab"))


def test_plots_that_do_not_exist_are_named_as_missing() -> None:
    with pytest.raises(AttributeError, match="no 'pie'"):
        plots.pie  # noqa: B018


def test_matplotlib_comes_with_the_first_figure_and_pyplot_never() -> None:
    code = (
        "import sys; from sevlab import Host, plots; h = Host(seed=1, memory=1 << 30); first = 'matplotlib' in sys.modules;"
        "plots.page_map(h).png(); print(first, 'matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "True", "False"]
