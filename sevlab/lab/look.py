"""Where a card's "look at:" leads: from its words to something selected in a picture above.

    lab.check("asids.hostile", answer, look=line_of(tape))      # "the last DF_FLUSH in the trace"
    lab.check("move.errno", answer, look=rung_of(rungs))        # "the rung: both are one VM ..."

Each makes the function that `lab.check` takes as `look`. It raises LookupError, in a sentence for the card, where the picture
has nothing of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Look = Callable[[str], None]


def line_of(tape: Any) -> Look:
    """Of a `lab.lanes`: the last line whose label the words name."""

    def look(words: str) -> None:
        lines = tape.widget.lines
        found = next((i for i in reversed(range(len(lines))) if lines[i].label in words.split()), None)
        if found is None:
            raise LookupError(f"nobody has made that call on this machine yet: {words}")
        tape.widget.selected = found

    return look


def first_of(tape: Any, kind: str) -> Look:
    """Of a `lab.lanes`: the first line of this kind, whatever the words."""

    def look(words: str) -> None:
        found = next((i for i, line in enumerate(tape.widget.lines) if line.kind == kind), None)
        if found is None:
            raise LookupError(f"nothing of that kind has happened on this machine: {words}")
        tape.widget.selected = found
        tape.widget.mark()

    return look


def rung_of(rungs: Any) -> Look:
    """Of a `lab.ladder`: the rung of the first column whose words the words contain."""

    def look(words: str) -> None:
        column = rungs.widget.columns[0].rungs
        found = next((i for i, rung in enumerate(column) if rung.words in words), None)
        if found is None:
            raise LookupError(f"this ladder has no such rung: {words}")
        rungs.widget.selected = f"0/{found}"

    return look


def ledger_of(view: Any) -> Look:
    """Of a `lab.topology`: the row of the ledger for the cgroup that the words begin with; that of its events, if it has any."""

    def look(words: str) -> None:
        group = words.partition(" ")[0]
        names = [row.name for row in view.widget.ledger]
        found = [name for name in names if name.startswith(f"{group} ")]
        if not found:
            raise LookupError(f"the ledger has no cgroup {group}")
        view.widget.selected = f"ledger {found[-1]}"

    return look


def plug_of(view: Any) -> Look:
    """Of a `lab.topology`: the descriptor that the words name, as "fd 0 of qemu-2"; the process where it has no such descriptor."""

    def look(words: str) -> None:
        number, _, name = words.removeprefix("fd ").partition(" of ")
        box = next((box for box in view.widget.scene.boxes if box.name == name), None)
        if box is None:
            raise LookupError(f"there is no process {name!r}")
        plugs = [str(plug.number) for plug in box.plugs]
        view.widget.selected = f"{box.key}:{number}" if number in plugs else box.key

    return look


def look_at(places: Mapping[str, tuple[Any, Any]]) -> Look:
    """Of several pictures: for the words of a card, the picture that is meant and what to select in it."""

    def look(words: str) -> None:
        if words not in places:
            raise LookupError(f"no picture above shows {words!r}")
        view, key = places[words]
        view.widget.selected = key
        view.widget.mark()

    return look
