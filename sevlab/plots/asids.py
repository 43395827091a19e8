"""Key slots over virtual time: who had which, which waited for a flush, and what a flush freed."""

from __future__ import annotations

from typing import Any, NamedTuple

from sevlab.kvm.asid import AsidFreed, AsidsFlushed, AsidTaken
from sevlab.plots.style import BLUE, GREY, INK, ORANGE, PALE, VERMILION, Plot, duration
from sevlab.trace import Trace

USED, WAITING = "in use", "waits for a flush"
LOOKS = {USED: {"facecolor": BLUE, "edgecolor": "white"}, WAITING: {"facecolor": PALE, "edgecolor": ORANGE, "hatch": "////"}}


class Stretch(NamedTuple):
    """One slot in one state, from `start` to `end` (virtual ns), or `open`: still so. `vm` is whose it is or was."""

    asid: int
    state: str
    vm: int
    start: int
    end: int
    open: bool = False


class Flush(NamedTuple):
    """WBINVD and DF_FLUSH at time `t`: `freed` slots were clean then; `error` is an errno, 0 when it went well."""

    t: int
    freed: int
    error: int


def history(trace: Trace, host: int = 0) -> tuple[list[Stretch], list[Flush]]:
    """The slots' lives, folded from the trace of one host: stretches by time and the flushes between them."""
    now: dict[int, tuple[str, int, int]] = {}
    stretches: list[Stretch] = []
    flushes: list[Flush] = []

    def end(asid: int, t: int, *, still: bool = False) -> int:
        state, vm, start = now.pop(asid)
        stretches.append(Stretch(asid, state, vm, start, t, still))
        return vm

    for row in trace.rows(AsidTaken, AsidFreed, AsidsFlushed):
        if row["host"] != host:
            continue
        if row["kind"] == "AsidTaken":
            now[row["asid"]] = USED, row["vm"], row["t"]
        elif row["kind"] == "AsidFreed":
            vm = end(row["asid"], row["t"]) if row["asid"] in now else row["vm"]
            now[row["asid"]] = WAITING, vm, row["t"]
        else:
            flushes.append(Flush(row["t"], row["freed"], row["errno"]))
            if not row["errno"]:
                for asid in [asid for asid, (state, _, _) in now.items() if state == WAITING]:
                    end(asid, row["t"])
    for asid in list(now):
        end(asid, trace.now, still=True)
    return sorted(stretches, key=lambda one: (one.start, one.asid)), flushes


def asid_occupancy(host: Any, *, title: str = "") -> Plot:
    """Every slot that was ever used as a row of bars over virtual time, and below it how many were in use or waiting.

    Solid: a VM has the slot. Hatched: it was given back and is not clean yet. A line through all rows: a flush;
    a broken one failed.
    """
    stretches, flushes = history(host.trace, host.gate.host)
    pool = host.asids
    slots = sorted({one.asid for one in stretches})
    last = max(host.trace.now, 1)
    factor, unit = duration(last)
    tall = max(len(slots), 3)
    plot = Plot(1.9 + 0.24 * tall, rows=2, sharex=True, height_ratios=[tall, 3], banner=host.chip.banner)
    bars, count = plot.axes
    rows = {asid: row for row, asid in enumerate(slots)}
    for one in stretches:
        wide = max(one.end - one.start, last / 400) * factor
        bars.barh(rows[one.asid], wide, left=one.start * factor, height=0.72, label=one.state, linewidth=0.6, **LOOKS[one.state])
        if one.state == USED and wide > last * factor / 18:
            middle = one.start * factor + wide / 2
            bars.text(middle, rows[one.asid], f"VM {one.vm}", ha="center", va="center", color="white", fontsize=8)
    for flush in flushes:
        for axes in (bars, count):
            axes.axvline(flush.t * factor, color=VERMILION, linestyle=":" if flush.error else "-", linewidth=1.3, zorder=0.5)
        label = "failed" if flush.error else f"flush: {flush.freed} clean"
        bars.annotate(
            label, (flush.t * factor, 1), xycoords=("data", "axes fraction"), xytext=(3, 2), textcoords="offset points",
            color=VERMILION, fontsize=8,
        )  # fmt: skip
    bars.set_yticks(list(rows.values()), [f"{asid} ES" if asid in pool.slots(True) else str(asid) for asid in slots])
    bars.set_ylim(-0.6, max(len(slots), 1) - 0.4)
    bars.invert_yaxis()
    bars.set_ylabel("key slot")
    bars.set_title(title or f"Key slots of a {host.chip.name}", loc="left", fontsize=11, pad=16)

    changes = sorted(
        [(one.start, one.state, 1) for one in stretches] + [(one.end, one.state, -1) for one in stretches if not one.open],
        key=lambda change: (change[0], change[2]),
    )
    for state in LOOKS:
        times, values = [0], [0]
        for t, which, change in changes:
            if which == state:
                times.append(t)
                values.append(values[-1] + change)
        count.step(
            [t * factor for t in [*times, last]], [*values, values[-1]], where="post", label=state, linewidth=1.6,
            color=BLUE if state == USED else ORANGE, linestyle="-" if state == USED else "--",
        )  # fmt: skip
    count.set_ylabel("slots")
    count.set_xlabel(f"virtual time in {unit}")
    count.yaxis.get_major_locator().set_params(integer=True)
    count.set_xlim(0, last * factor * 1.01)
    plot.figure.legend(*count.get_legend_handles_labels(), loc="outside lower left", frameon=False, ncols=2, fontsize=8)
    never = pool.max_asid - len(slots)
    rest = f"{never} more slot{'s' * (never > 1)}, never used" if never else ""
    bars.text(1, -0.01, rest, transform=bars.transAxes, ha="right", va="top", fontsize=8, color=GREY)
    bars.tick_params(colors=INK, length=0)

    used, waiting = (sum(one.state == state and one.open for one in stretches) for state in LOOKS)
    good = sum(not flush.error for flush in flushes)
    plot.alt = (
        f"Key slots of {host.chip.name} over virtual time: {len(slots)} of {pool.max_asid} were ever used; now {used} in use, "
        f"{waiting} waiting for a flush; {good} {'flush' if good == 1 else 'flushes'}"
        + (f", {len(flushes) - good} failed" if len(flushes) > good else "")
        + "."
    )
    return plot
