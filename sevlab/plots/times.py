"""What took how long: firmware commands, exits and moves over virtual time, one row for each who acted.

The secure processor says when it has finished a command; it began when the last
thing before it had happened. Times are virtual (`sevlab.hw.clock`): they compare
two ways of doing one thing, and nothing finer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sevlab.abi.sev import cmd_name
from sevlab.kvm.enc_context import ContextCopied, ContextMoved
from sevlab.kvm.vcpu import VmExit
from sevlab.kvm.vm import RegionSet, VmGone, VmMade
from sevlab.plots.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION, YELLOW, Plot, duration

WHITE: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.4}  # between bars
MOST = 5  # commands whose total is drawn
FLUSHES = {"Clflush": "CLFLUSH", "PageFlushed": "VM_PAGE_FLUSH", "Wbinvd": "WBINVD"}
# A command's family by how its name begins: colour and hatch. The first that fits counts.
FAMILIES = {
    "LAUNCH_": ("launch", BLUE, ""),
    "SEND_": ("send", ORANGE, "//"),
    "RECEIVE_": ("receive", GREEN, "\\\\"),
    "ACTIVATE": ("key slots", PURPLE, ""),
    "DEACTIVATE": ("key slots", PURPLE, ""),
    "DECOMMISSION": ("key slots", PURPLE, ""),
    "DF_FLUSH": ("key slots", PURPLE, ""),
    "DBG_": ("debug", YELLOW, ".."),
    **dict.fromkeys(FLUSHES.values(), ("cache flush", SKY, "xx")),
    "": ("platform", GREY, ""),
}
MARKS = {
    "VmMade": ("VM made", "^", INK),
    "VmGone": ("VM gone", "v", INK),
    "RegionSet": ("memory pinned or let go", "s", INK),
    "ContextCopied": ("mirror made", "D", GREEN),
    "ContextMoved": ("context moved", "D", VERMILION),
}


class Command(NamedTuple):
    """One firmware command (or flush of caches) of one host, from `start` to `end` (virtual ns); `status` 0 is success."""

    host: int
    name: str
    start: int
    end: int
    status: int


def commands(trace: Any, since: int = 0) -> list[Command]:
    """The firmware commands and cache flushes in the trace, in their order; `since` is the first entry wanted."""
    found, before = [], 0
    for row in trace.rows():
        if row["n"] >= since and row["kind"] in (*FLUSHES, "CommandDone"):
            done = row["kind"] == "CommandDone"
            name = cmd_name(row["cmd"]) if done else FLUSHES[row["kind"]]
            found.append(Command(row["host"], name, min(before, row["t"]), row["t"], row["status"] if done else 0))
        before = row["t"]
    return found


def _family(name: str) -> tuple[str, str, str]:
    return next(look for start, look in FAMILIES.items() if name.startswith(start))


def timeline(*hosts: Any, since: int = 0, families: Sequence[str] = (), title: str = "Virtual time", label: int = 14) -> Plot:
    """Firmware commands as bars, kernel events as marks, guest exits as ticks; three rows for each host of one world.

    `families` leaves out commands of all others; the `label` longest commands carry their names. Raises ValueError
    without a host, and for hosts that do not share a trace.
    """
    if not hosts or any(host.trace is not hosts[0].trace for host in hosts):
        raise ValueError("a timeline is of one world: give it a host, or hosts that share a trace")
    trace = hosts[0].trace
    shown = [one for one in commands(trace, since) if not families or _family(one.name)[0] in (*families, "cache flush")]
    marks = [row for row in trace.rows(VmMade, VmGone, RegionSet, ContextCopied, ContextMoved) if row["n"] >= since]
    exits = [row for row in trace.rows(VmExit) if row["n"] >= since]
    numbers = [host.gate.host for host in hosts]
    times = [t for one in shown for t in (one.start, one.end)] + [row["t"] for row in (*marks, *exits) if row["host"] in numbers]
    first, last = min(times, default=0), max(times, default=1)
    factor, unit = duration(max(last - first, 1))
    banner = next((host.chip.banner for host in hosts if host.chip.banner), "")
    plot = Plot(1.9 + 1.15 * len(hosts), columns=2, width_ratios=[3, 1], banner=banner)
    axes, totals = plot.axes

    def x(t: int) -> float:
        return (t - first) * factor

    names, seen = [], set()
    longest = sorted(shown, key=lambda one: one.start - one.end)[:label]
    for place, host in enumerate(hosts):
        top = 3 * place
        who = host.chip.name if len(hosts) == 1 else f"{'abcdefgh'[place]} ({host.chip.name})"
        names += [(top, f"PSP of {who}"), (top + 1, "kernel"), (top + 2, "guest")]
        for one in (one for one in shown if one.host == host.gate.host):
            family, colour, hatch = _family(one.name)
            wide = max(one.end - one.start, (last - first) / 600) * factor
            edge: dict[str, Any] = {"edgecolor": VERMILION, "linewidth": 1.4} if one.status else WHITE
            new = None if family in seen else family
            line = top + (family == "cache flush")
            axes.barh(line, wide, left=x(one.start), height=0.62, color=colour, hatch=hatch, label=new, **edge)
            seen.add(family)
            if family != "cache flush" and one in longest and one.end - one.start > (last - first) / 40:
                axes.text(x(one.start), top - 0.38, one.name.lower(), fontsize=7.5, va="bottom", ha="left", color=INK)
        for row in (row for row in marks if row["host"] == host.gate.host):
            words, marker, colour = MARKS[row["kind"]]
            named = None if words in seen else words
            axes.plot(x(row["t"]), top + 1, marker, color=colour, markersize=6, label=named, linestyle="none")
            seen.add(words)
        ticks = [x(row["t"]) for row in exits if row["host"] == host.gate.host]
        named = None if "exit" in seen or not ticks else "guest exit"
        axes.plot(ticks, [top + 2] * len(ticks), "|", color=BLUE, markersize=9, label=named)
        seen |= {"exit"} if ticks else set()
    axes.set_yticks([y for y, _ in names], [text for _, text in names])
    axes.set_ylim(3 * len(hosts) - 0.4, -0.8)
    axes.set_xlim(-0.01 * x(last), x(last) * 1.02 or 1)
    axes.set_xlabel(f"virtual time in {unit}")
    axes.set_title(title, loc="left", fontsize=11)
    axes.tick_params(axis="y", length=0)
    if seen:
        plot.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=7, frameon=False, fontsize=8)
    _totals(totals, shown)
    slowest = max(shown, key=lambda one: one.end - one.start, default=None)
    refused = sum(bool(one.status) for one in shown)
    plot.alt = (
        f"{title}: {len(shown)} firmware commands and cache flushes in {x(last):.3g} {unit} of virtual time, {refused} refused, "
        f"{len(exits)} guest exits"
        + (f"; the longest is {slowest.name} with {(slowest.end - slowest.start) * factor:.3g} {unit}." if slowest else ".")
    )
    return plot


def _totals(axes: Any, shown: Sequence[Command]) -> None:
    """Where the time went: the commands that took most of it, all their runs together."""
    spent: dict[str, list[int]] = {}
    for one in shown:
        spent.setdefault(one.name, []).append(one.end - one.start)
    most = sorted(spent.items(), key=lambda item: (-sum(item[1]), item[0]))[:MOST]
    unit, name = duration(max((sum(times) for _, times in most), default=1))
    for row, (command, times) in enumerate(most):
        _, colour, hatch = _family(command)
        axes.barh(row, sum(times) * unit, height=0.3, color=colour, hatch=hatch, **WHITE)
        words = f"{command.lower()} ×{len(times)}: {sum(times) * unit:.3g} {name}"
        axes.text(0, row - 0.2, words, fontsize=7.5, va="bottom", color=INK)
    axes.set_ylim(MOST - 0.6, -0.7)
    axes.set_axis_off()
    axes.set_title("where it went", loc="left", fontsize=9.5)


def launch_timeline(host: Any, *, since: int = 0) -> Plot:
    """A launch: who worked when, from LAUNCH_START to the guest's first exits."""
    return timeline(host, since=since, families=("launch", "key slots"), title="A launch")


def migration_timeline(*hosts: Any, since: int = 0) -> Plot:
    """A migration: packets of the firmware between two hosts, or a context that moved within one."""
    return timeline(*hosts, since=since, families=("send", "receive", "launch", "key slots"), title="A migration")
