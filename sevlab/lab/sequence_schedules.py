"""Ways in which calls can come out, as tiles: one that is picked shows its steps as a sequence diagram.

lab.schedules(explore(a, b))            # every way in which two calls can come out
ways(tiles, lines)                      # tiles of one's own
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sevlab.lab.sequence import KERNEL, LOCKS, Reader, Story
from sevlab.lab.views import imaginary

STEP = "step"  # what a line's number counts: not an entry of a journal


def _waiting(place: int, call: Any, step: int) -> dict[str, Any]:
    """The line of a call that waits for a lock after the last step of a schedule."""
    label, holder = str(call.waits_for).partition(", ")[::2]
    fields = {"kind": "LockAwaited", "lock": label.removeprefix("waits for "), "held by": holder.removeprefix("held by ")}
    return _line(step, f"call {place}", label) | {"kind": "LockAwaited", "fields": fields, "lock": LOCKS["LockAwaited"]}


def _line(step: int, source: str, label: str) -> dict[str, Any]:
    return {
        "n": step,
        "kind": "LockAwaited",
        "fields": {},
        "source": source,
        "target": "",
        "label": label,
        "answer": "",
        "bad": False,
    }


class Way(NamedTuple):
    """One way in which calls can come out, as a tile: its letter, what became of each, in how many schedules, and the first."""

    letter: str
    ends: Sequence[str]
    schedules: int
    schedule: str


def ways(
    tiles: Sequence[Any],
    lines: Callable[[str], list[dict[str, Any]]],
    *,
    first: str = "",
    text: str = "",
    title: str = "schedules",
    parties: Sequence[tuple[str, str]] = (),
    banner: str = "",
) -> Story:
    """A grid of tiles (Ways, or an explorer's); one that is picked shows `lines(its schedule)`, the one named `first` at once.

    `parties` are the lifelines from left to right, each with its letter; `text` stands above the lines where there is no grid.
    `banner` says why the machine never existed.
    """

    def make(made: Any) -> Any:
        def picked(schedule: str) -> list[Any]:
            return [made.Line(**line) for line in lines(schedule)]

        picture = made.Lanes(schedules=tiles, on_pick=picked, title=title, lifelines=parties, unit=STEP, imaginary=banner)
        if first:
            picture.got_pick("", first)
        return picture

    return Story(make, lines(first) if first else [], title=text, unit=STEP)


def schedules(found: Any) -> Story:
    """Every outcome of an `explore`: a grid of tiles; one that is picked shows its steps, with every lock taken and awaited.

    The first that is shown is one that never ends, where there is one. A line's number is its step, so the digit of that
    place in the schedule is the call that made it.
    """

    def steps(schedule: str) -> list[dict[str, Any]]:
        twin = found.replay(schedule)
        began = twin.n - len(schedule)  # each step is an entry
        numbers = {call.number: place for place, call in enumerate(found.calls, 1)}
        lines = []
        for line in Reader(twin, locks=True, since=began).lines(twin.trace.rows()):
            step = line["n"] - began
            if line["kind"] in LOCKS:
                line["source"] = f"call {numbers[line['fields']['call']]}"
            elif line["kind"] == "Ioctl":
                line["source"] = f"call {schedule[step - 1]}"
            elif line["kind"] != "ContextMoved":
                continue
            lines.append({**line, "n": step})
        lines.sort(key=lambda line: (line["n"], line["kind"] == "Ioctl"))  # what a call answers is the last of it
        for call in twin.kernel.calls.begun:  # who waits when the schedule is over has made no step for it
            place = numbers[call.number]
            mine = [line for line in lines if line["source"] == f"call {place}"]
            if call.waits_for and (not mine or mine[-1].get("lock") != LOCKS["LockAwaited"]):
                lines.append(_waiting(place, call, len(schedule)))
        if twin.kernel.calls.begun and all(call.waits_for for call in twin.kernel.calls.begun):
            lines.append(_line(len(schedule), KERNEL, "nobody can go on"))
        return lines

    best = [*found.deadlocks, *found.outcomes][:1]
    calls = [(f"call {place}", "V") for place in range(1, len(found.calls) + 1)]
    first, parties = best[0].schedule if best else "", [*calls, (KERNEL, "K")]
    return ways(found.outcomes, steps, first=first, text=repr(found), parties=parties, banner=imaginary(found.replay("")))
