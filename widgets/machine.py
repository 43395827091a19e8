"""Machine: state machines as diagrams, with a token for each thing that is in a state. It knows no SEV.

    Machine([Diagram("platform", states, edges)], [Token("firmware", "platform", "INIT")], on_command=issue)

Edges carry commands. One that may be given now, because a token stands at its beginning, is a
button if the notebook gave `on_command(diagram, command, token)`; any other is dim, says why, and
opens what `on_illegal(diagram, command, token)` opens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from sevlab_widgets.drawing import Choice, Drawing
from sevlab_widgets.frame import Table
from sevlab_widgets.machine_picture import MachinePicture
from sevlab_widgets.picture import Svg
from sevlab_widgets.words import named

MOVES = 6  # the newest moves of a token that are listed
ALL = "all"


class State(NamedTuple):
    """A state: its name, and its place in the diagram's grid."""

    name: str
    column: float = 0
    row: float = 0
    note: str = ""


class Edge(NamedTuple):
    """A command that leads from one state to another, or stays; `note` is what no table says.

    `elsewhere` says that this machine has no such step, and which has: it can never be given here.
    """

    source: str
    target: str
    command: str
    note: str = ""
    elsewhere: str = ""


class Diagram(NamedTuple):
    """One machine: `empty` says which act puts the first token there."""

    name: str
    states: Sequence[State]
    edges: Sequence[Edge]
    empty: str = ""


class Token(NamedTuple):
    """Something that is in a state, or `count` things that all are."""

    name: str
    diagram: str
    state: str
    count: int = 1
    moves: Sequence[str] = ()


class Machine(Drawing):
    """State machines, and who is where."""

    FILES: ClassVar[tuple[str, ...]] = ("machine",)
    MAKER: ClassVar[str] = "machine"
    KEYS = (
        ("← → ↑ ↓", "from state to command to state"),
        ("Home End", "first, last"),
        ("Enter, click", "give the command, or see who would refuse it"),
    )

    def __init__(
        self,
        diagrams: Sequence[Diagram],
        tokens: Sequence[Token] | Callable[[Any], Sequence[Token]] = (),
        *,
        on_command: Callable[[str, str, str], Any] | None = None,
        on_illegal: Callable[[str, str, str], Any] | None = None,
        title: str = "states",
        **keywords: Any,
    ) -> None:
        self.diagrams = tuple(diagrams)
        for diagram in self.diagrams:
            names = {state.name for state in diagram.states}
            if not names:
                raise ValueError(f"{diagram.name} has no states: there is nothing to be in")
            if strange := [edge for edge in diagram.edges if not {edge.source, edge.target} <= names]:
                raise ValueError(f"{diagram.name} has no state {strange[0].source} or {strange[0].target}")
        self._source = tokens
        self._past: Any = None
        self._tokens: Sequence[Token] = ()
        self._looked: Any = ()
        self.on_command = on_command
        self.on_illegal = on_illegal
        self.choices = (
            (Choice("show", "Show", (ALL, *(diagram.name for diagram in self.diagrams))),) if len(self.diagrams) > 1 else ()
        )
        super().__init__(title=title, **keywords)

    # ------------------------------------------------- who is where

    @property
    def tokens(self) -> Sequence[Token]:
        """Every token, taken anew where the host has gone on."""
        if not callable(self._source):
            return self._source
        at = (self.now, self.entry)
        if at != self._looked:
            self._looked = at
            self._tokens = self.call("The states", self._source, self.host if self._past is None else self._past) or ()
        return self._tokens

    def show(self, tokens: Sequence[Token]) -> None:
        """Put the tokens elsewhere."""
        with self.lock:
            self._source = tuple(tokens)
        self.mark()

    def draw_at(self, n: int | None) -> None:
        self._past = None if n is None else self.call("The past", getattr(self.host, "at", None), n)

    def at(self, diagram: Diagram, state: str) -> list[Token]:
        """The tokens in a state."""
        return [token for token in self.tokens if (token.diagram, token.state) == (diagram.name, state)]

    def crowd(self, diagram: Diagram, state: str) -> int:
        """How many things are in a state."""
        return sum(token.count for token in self.at(diagram, state))

    def shown(self, size: str) -> list[Diagram]:
        """The diagrams that are drawn at a size."""
        chosen = self.chosen.get("show", ALL)
        if chosen != ALL:
            return [diagram for diagram in self.diagrams if diagram.name == chosen]
        return list(self.diagrams[: {"S": 1, "M": 2, "L": 4}[size]])

    # ------------------------------------------------- the picture

    def picture(self, width: int, size: str) -> Svg:
        return MachinePicture(self, width, size).svg

    @property
    def empty(self) -> str:  # type: ignore[override]
        return "" if self.diagrams else "No diagram. Give Machine its tables."

    # ------------------------------------------------- in words

    def say(self, diagram: Diagram, state: State) -> str:
        """A state in a sentence, with the commands that keep it."""
        tokens = self.at(diagram, state.name)
        names = ", ".join(token.name if token.count == 1 else f"{token.count} {token.name}" for token in tokens[:8]) + (
            f" and {len(tokens) - 8} more" if len(tokens) > 8 else ""
        )
        stays = list(dict.fromkeys(edge.command for edge in diagram.edges if edge.source == edge.target == state.name))
        said = f"{diagram.name}, {state.name}{f' ({state.note})' if state.note else ''}: {names or 'nobody'}."
        moves = next((token.moves for token in tokens if token.moves), ())
        said += f" {len(stays)} commands keep this state: {', '.join(stays)}." if stays else ""
        return said + (f" Last: {'; '.join(moves[-MOVES:])}." if moves else "")

    @staticmethod
    def key_of(diagram: Diagram, edge: Edge) -> str:
        """An arrow's key: a command that this machine has not leads to another state, and is no command to press."""
        return f"{diagram.name}/{edge.source}/{edge.command}" + (f" to {edge.target}" if edge.elsewhere else "")

    def legal(self, diagram: Diagram, edge: Edge) -> bool:
        """Whether the command may be given now: somebody is where it begins, and this machine has the step."""
        return bool(self.at(diagram, edge.source)) and not edge.elsewhere

    def say_edge(self, diagram: Diagram, edge: Edge) -> str:
        """A command in a sentence, and if it may not be given now, why."""
        said = f"{edge.command}: {edge.source} to {edge.target}{f'; {edge.note}' if edge.note else ''}."
        if edge.elsewhere:
            return f"{said} Never here: {edge.elsewhere}."
        if self.legal(diagram, edge):
            return f"{said} It may be given now." + (" Enter gives it." if self.on_command else "")
        others = [token for token in self.tokens if token.diagram == diagram.name]
        where = f"{others[0].name} is in {others[0].state}" if len(others) == 1 else "nobody is there"
        return f"{said} Not now: it wants {edge.source}, and {where}."

    def says(self) -> str:
        parts = []
        for diagram in self.diagrams:
            states = [(state.name, self.crowd(diagram, state.name)) for state in diagram.states]
            inside = [
                f"{count if count > 1 else self.at(diagram, name)[0].name} {'' if name.startswith('in ') else 'in '}{name}"
                for name, count in states
                if count
            ]
            parts.append(
                f"{diagram.name}: {', '.join(inside)}" if inside else diagram.empty.rstrip(".") or f"{diagram.name}: nobody"
            )
        return "; ".join(parts) + "."

    def describe(self) -> str:
        return f"{' · '.join([self.title, *self.facts])}: {self.says()}"

    def table(self) -> Table:
        rows: list[list[Any]] = []
        for diagram in self.diagrams:
            for edge in diagram.edges:
                now = "yes" if self.legal(diagram, edge) else ""
                rows.append([diagram.name, edge.source, edge.command, edge.target, now, self.crowd(diagram, edge.source)])
        return ["machine", "state", "command", "next state", "may be given now", "tokens"], rows

    # ------------------------------------------------- hand and keyboard

    def find(self, words: str) -> Any:
        keys = [f"{diagram.name}/{state.name}" for diagram in self.diagrams for state in diagram.states]
        edges = [(diagram, edge) for diagram in self.diagrams for edge in diagram.edges if edge.source != edge.target]
        edges.sort(key=lambda one: not self.at(one[0], one[1].source))  # what may be given now comes first
        keys += [self.key_of(diagram, edge) for diagram, edge in edges]
        return named(words, keys, words)

    def act(self, key: str) -> None:
        name, _, rest = key.partition("/")
        source, _, command = rest.partition("/")
        diagram = next((diagram for diagram in self.diagrams if diagram.name == name), None)
        known = diagram is not None and any((edge.source, edge.command) == (source, command) for edge in diagram.edges)
        if diagram is None or not known or self.entry is not None:
            return
        tokens = self.at(diagram, source)
        if tokens:
            self.call(command, self.on_command, name, command, tokens[0].name)
        else:
            others = [token.name for token in self.tokens if token.diagram == name]
            self.call(command, self.on_illegal, name, command, others[0] if others else "")
        self.mark()
