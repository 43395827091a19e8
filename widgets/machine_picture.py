"""The drawing of a Machine: states as boxes in a grid, commands as labels on the arrows between them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from sevlab_widgets.palette import SKY
from sevlab_widgets.picture import Svg, fit, width_of
from sevlab_widgets.strokes import stroke

if TYPE_CHECKING:
    from sevlab_widgets.machine import Diagram, Edge, Machine, State

CROWD = 3  # names that a state shows; more are a count and a dot for each
FEW = 8  # dots that a state shows
DOT = 6  # px from dot to dot
HIGH = 32  # px of a state
LABEL = 15  # px of a line of labels
MANY = 4  # states that one command leads to one state: from so many on, their arrows are one


def _columns(diagram: Diagram) -> float:
    """How many states stand beside each other."""
    return max(state.column for state in diagram.states) + 1


class MachinePicture:
    """One picture, in `svg`."""

    def __init__(self, machine: Machine, width: int, size: str) -> None:
        self.machine, self.size = machine, size
        self.k = 1.1 if size == "L" else 1.0
        self.type = 12 * self.k
        self.svg = Svg(width, 110)
        diagrams = machine.shown(size)
        if not diagrams:
            return
        if size == "S":
            self.svg.height = round(sum(self._pills(diagram, 52 * i, width) for i, diagram in enumerate(diagrams)))
            return
        y = 0.0
        for row in self._rows(diagrams, width):
            each, x, bottom = (width - 48 * (len(row) - 1)) / sum(map(_columns, row)), 0.0, y
            for diagram in row:
                wide = each * _columns(diagram)
                bottom = max(bottom, self._diagram(diagram, x, y, wide))
                x += wide + 48
            y = bottom + 12 * self.k
        self.svg.height = round(y - 8)

    def _rows(self, diagrams: list[Diagram], width: float) -> list[list[Diagram]]:
        """What stands beside what: where there is room, two diagrams share a row."""
        room = width / (114 * self.k) if self.size == "L" else 0
        left, rows = list(diagrams), []
        while left:
            one = left.pop(0)
            beside = next((other for other in reversed(left) if _columns(one) + _columns(other) <= room), None)
            if beside is not None:
                left.remove(beside)
            rows.append([one] if beside is None else [one, beside])
        return rows

    def _pills(self, diagram: Diagram, y: float, width: float) -> float:
        """A row of pills: all that a phone has room for."""
        x, top = 0.0, y + 20
        self.svg.text(0, y + 12, diagram.name, "bold", size=12)
        for state in diagram.states:
            crowd = self.machine.crowd(diagram, state.name)
            text = f"{state.name} {crowd}" if crowd > 1 else state.name
            wide = width_of(text, 11) * 1.1 + 14
            if x + wide > width and x:
                x, top = 0.0, top + 25
            with self.svg.item(f"{diagram.name}/{state.name}", say=self.machine.say(diagram, state)):
                self.svg.rect(x + 0.5, top, wide - 1, 20, "box", rx=10)
                if crowd:
                    self.svg.rect(x + 0.5, top, wide - 1, 20, "fill", fill=SKY, fill_opacity=0.4, rx=10)
                self.svg.text(x + wide / 2, top + 14, text, "middle bold" if crowd else "middle soft", size=11)
            x += wide + 4
        if not any(self.machine.crowd(diagram, state.name) for state in diagram.states) and diagram.empty:
            top += 22
            self.svg.text(0, top + 14, diagram.empty, "soft", size=11.5)
        return top + 26 - y

    # ------------------------------------------------- a diagram

    def _diagram(self, diagram: Diagram, x: float, y: float, width: float) -> float:
        machine, k = self.machine, self.k
        there = any(machine.crowd(diagram, state.name) for state in diagram.states)
        self.svg.text(x, y + self.type, diagram.name, "bold", size=self.type)
        if not there and diagram.empty:
            after = x + width_of(diagram.name, self.type) * 1.15 + 10
            self.svg.text(after, y + self.type, diagram.empty, "soft", size=self.type, room=x + width - after)
        self.most = min(150 * k, 0.8 * width / _columns(diagram))  # px that the names in a state may take
        by = {state.name: state for state in diagram.states}
        pairs, gathered = self._arrows(diagram)
        forward = [pair for pair in pairs if self._straight(by[pair[0]], by[pair[1]])]
        back = [pair for pair in pairs if by[pair[0]].row == by[pair[1]].row and pair not in forward]
        level = self._levels(by, back)
        deep = {by[pair[0]].row: level[pair] for pair in sorted(back, key=level.__getitem__)}
        self._place(diagram, x, y + self.type * 1.4, width, pairs, forward, deep)
        labels: list[tuple[list[Edge], float, float, float]] = []
        bottom = max(b + h for _, b, _, h in self.boxes.values())
        for (source, target), edges in pairs.items():
            ends = self.boxes[source], self.boxes[target]
            if (source, target) in forward:
                labels.append(self._forward(edges, *ends, forward.index((source, target)) % 2))
            elif (source, target) in level:
                labels.append(self._backward(edges, *ends, level[source, target], *self._feet(source, target, level)))
            else:
                labels.append(self._slanted(edges, *ends))
            bottom = max(bottom, labels[-1][2] + LABEL * k * len(edges))
        for edges in gathered.values():
            bottom += 21 * k
            labels.append(self._gathered(diagram, edges, bottom - 6 * k))
        for state in diagram.states:
            self._state(diagram, state)
        for edges, lx, ly, room in labels:
            self._label(diagram, edges, lx, ly, room)
        return bottom

    @staticmethod
    def _arrows(diagram: Diagram) -> tuple[dict[tuple[str, str], list[Edge]], dict[tuple[str, str], list[Edge]]]:
        """The edges of each pair of states; and those that lead from many states to one, by command and target."""
        pairs: dict[tuple[str, str], list[Edge]] = {}
        gathered: dict[tuple[str, str], list[Edge]] = {}
        ways = Counter((edge.command, edge.target) for edge in diagram.edges if edge.source != edge.target)
        for edge in diagram.edges:
            if ways[edge.command, edge.target] >= MANY and edge.source != edge.target:
                gathered.setdefault((edge.command, edge.target), []).append(edge)
            elif edge.source != edge.target:
                pairs.setdefault((edge.source, edge.target), []).append(edge)
        return pairs, gathered

    @staticmethod
    def _levels(by: dict[str, State], back: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """How deep each arrow that leads back runs: a short one above a long one, and side by side where they do not meet."""
        level: dict[tuple[str, str], int] = {}
        for pair in sorted(back, key=lambda pair: by[pair[0]].column - by[pair[1]].column):
            high, low = by[pair[0]].column, by[pair[1]].column
            met = [
                deep
                for (a, b), deep in level.items()
                if by[a].row == by[pair[0]].row and by[b].column < high and low < by[a].column
            ]
            level[pair] = 1 + max(met, default=0)
        return level

    @staticmethod
    def _feet(source: str, target: str, level: dict[tuple[str, str], int]) -> tuple[float, float]:
        """Where an arrow back leaves its source and reaches its target, as shares of their widths: so that none cross."""
        out = sorted((deep, pair) for pair, deep in level.items() if pair[0] == source)
        into = sorted(((deep, pair) for pair, deep in level.items() if pair[1] == target), reverse=True)
        start = [pair for _, pair in out].index((source, target))
        end = [pair for _, pair in into].index((source, target))
        return 0.55 + 0.2 * start, 0.72 - 0.2 * (len(into) - 1 - end)

    def _place(
        self,
        diagram: Diagram,
        x: float,
        top: float,
        width: float,
        pairs: dict[tuple[str, str], list[Edge]],
        forward: list[tuple[str, str]],
        deep: dict[float, int],
    ) -> None:
        """The boxes of all states, and how far above its row each arrow's label must stand."""
        k, by = self.k, {state.name: state for state in diagram.states}
        wides = {
            state.name: max(width_of(state.name, self.type) * 1.16, self._names(diagram, state)[1]) + 18 * k
            for state in diagram.states
        }
        last = max(state.column for state in diagram.states)
        first, end = (max((wides[s.name] for s in diagram.states if s.column == c), default=60) for c in (0, last))
        self.pitch = min((width - first / 2 - end / 2 - 2) / max(last, 1), 230 * k)
        self.rows: dict[float, int] = {}  # by the y of a row: 0 labels on their arrows, 1 above the boxes, 2 there in two heights
        self.boxes, high, y = {}, HIGH * k, top
        for number, row in enumerate(sorted({state.row for state in diagram.states})):
            mine = [pair for pair in forward if by[pair[0]].row == row]
            rooms = {
                (a, b): (by[b].column - by[a].column) * self.pitch - wides[a] / 2 - wides[b] / 2 for a, b in mine
            }
            widest = {pair: max(self._wide(edge) for edge in pairs[pair]) for pair in mine}
            above = 1 if any(widest[pair] > rooms[pair] - 4 for pair in mine) else 0
            above += above and len(mine) > 1 and max(widest.values()) > self.pitch + 6
            lines = max((len(pairs[pair]) for pair in mine), default=0)
            y += lines * above * LABEL * k + 4 if above else max(0, lines * LABEL * k - high / 2 + 6)
            y += 24 * k if number else 0
            self.rows[y] = above
            for state in diagram.states:
                if state.row == row:
                    wide = wides[state.name]
                    self.boxes[state.name] = x + 1 + first / 2 + state.column * self.pitch - wide / 2, y, wide, high
            y += high + (8 + 16 * deep[row] if row in deep else 0) * k

    @staticmethod
    def _straight(a: State, b: State) -> bool:
        return a.row == b.row and a.column < b.column

    def _wide(self, edge: Edge) -> float:
        return width_of(edge.command, self.type * 0.9) * 1.18 + 12

    def _names(self, diagram: Diagram, state: State) -> tuple[str, float]:
        """The tokens of a state in as few words as fit, and how wide those and their dots are."""
        tokens, crowd = self.machine.at(diagram, state.name), self.machine.crowd(diagram, state.name)
        if not crowd:
            return "", 0
        names = ", ".join(token.name for token in tokens)
        size = self.type * 0.92
        text = f"{crowd:,}"
        if crowd == 1 or (crowd == len(tokens) <= CROWD and width_of(names, size) <= self.most):
            text = fit(names, self.most, size)
        elif len(tokens) == 1:
            text = f"{crowd:,} {tokens[0].name}"
        return text, width_of(text, size) * 1.08 + self._crowd(crowd) * DOT * self.k

    @staticmethod
    def _crowd(crowd: int) -> int:
        """How many dots stand for a crowd: one for each token, up to eight."""
        return 0 if crowd <= CROWD else min(crowd, FEW)

    def _state(self, diagram: Diagram, state: State) -> None:
        x, y, wide, high = self.boxes[state.name]
        machine, (text, room) = self.machine, self._names(diagram, state)
        stays = len({edge.command for edge in diagram.edges if edge.source == edge.target == state.name})
        with self.svg.item(f"{diagram.name}/{state.name}", say=machine.say(diagram, state)):
            self.svg.rect(x, y, wide, high, "box", rx=5)
            if text:
                self.svg.rect(x, y, wide, high, "fill", fill=SKY, fill_opacity=0.35, rx=5)
                self.svg.rect(x, y, wide, high, "now", fill="none", rx=5, style_="stroke-width:1.5")
            self.svg.text(
                x + wide / 2, y + (14 if text else 20.5) * self.k, state.name, "middle bold" if text else "middle", size=self.type
            )
            if text:
                dots = self._crowd(machine.crowd(diagram, state.name))
                left = x + wide / 2 - room / 2
                middle = x + wide / 2 - dots * DOT * self.k / 2
                self.svg.text(middle, y + 27 * self.k, text, "middle", size=self.type * 0.92)
                for number in range(dots):
                    at = left + room - (dots - number - 0.5) * DOT * self.k
                    self.svg.add("circle", "head", cx=at + 2, cy=y + 23.2 * self.k, r=1.9 * self.k)
            elif stays == 0 and state.note:
                self.svg.text(x + wide / 2, y + high + 12 * self.k, state.note, "middle soft", size=self.type * 0.9)

    def _forward(
        self, edges: list[Edge], a: tuple[float, ...], b: tuple[float, ...], odd: int
    ) -> tuple[list[Edge], float, float, float]:
        x1, x2, y = a[0] + a[2] + 1, b[0] - 2, a[1] + a[3] / 2
        self.svg.line(x1, y, x2, y, "line", arrow=True, style_="stroke-width:1.2")
        middle, above = (x1 + x2) / 2, self.rows[a[1]]
        if not above:
            return edges, middle, y - 5 * self.k - LABEL * self.k * len(edges), x2 - x1 + 6
        bottom = a[1] - 4 - LABEL * self.k * len(edges) * (odd if above > 1 else 0)
        self.svg.line(middle, bottom + 1, middle, y - 3, "dotted", style_="stroke-width:1")
        return edges, middle, bottom - LABEL * self.k * len(edges), (x2 - x1 + a[2] / 2 + b[2] / 2) * above + 10

    def _backward(
        self, edges: list[Edge], a: tuple[float, ...], b: tuple[float, ...], level: int, foot: float, head: float
    ) -> tuple[list[Edge], float, float, float]:
        down = a[1] + a[3] + (8 + 16 * level) * self.k
        x1, x2, r = a[0] + a[2] * foot, b[0] + b[2] * head, 6
        self.svg.path(
            stroke("M", x1, a[1] + a[3] + 1, "V", down - r, "Q", x1, down, x1 - r, down)
            + stroke("H", x2 + r, "Q", x2, down, x2, down - r, "V", b[1] + b[3] + 2),
            "line",
            arrow=True,
            style_="stroke-width:1.2",
        )
        return edges, (x1 + x2) / 2, down - LABEL * self.k / 2, max(abs(x1 - x2) - 10, self.pitch)

    def _slanted(self, edges: list[Edge], a: tuple[float, ...], b: tuple[float, ...]) -> tuple[list[Edge], float, float, float]:
        down = a[1] < b[1]
        if a[0] < b[0] and down:
            start, end = (a[0] + a[2] / 2, a[1] + a[3] + 1), (b[0] - 2, b[1] + b[3] / 2)
            self.svg.path(
                stroke("M", start[0], start[1], "V", end[1] - 6, "Q", start[0], end[1], start[0] + 6, end[1], "H", end[0]),
                "line",
                arrow=True,
                style_="stroke-width:1.2",
            )
            room = end[0] - start[0]
            if max(self._wide(edge) for edge in edges) > room:  # on the way down, not beside it
                return edges, start[0], (start[1] + end[1] - LABEL * self.k * len(edges)) / 2 - 4, 2 * self.pitch
            return edges, (start[0] + end[0]) / 2, end[1] - 5 * self.k - LABEL * self.k * len(edges), room
        start, end = (a[0] + a[2] + 1, a[1] + a[3] / 2), (b[0] + b[2] * 0.36, b[1] + b[3] + 2)
        if end[0] < start[0] + 8:
            start = (a[0] - 1, a[1] + a[3] * 0.78)
            self.svg.path(
                stroke("M", start[0], start[1], "H", end[0] + 6, "Q", end[0], start[1], end[0], start[1] - 6, "V", end[1]),
                "line",
                arrow=True,
                style_="stroke-width:1.2",
            )
            return edges, (start[0] + end[0]) / 2, start[1] + 4 * self.k, start[0] - end[0]
        self.svg.path(
            stroke("M", start[0], start[1], "H", end[0] - 6, "Q", end[0], start[1], end[0], start[1] - 6, "V", end[1]),
            "line",
            arrow=True,
            style_="stroke-width:1.2",
        )
        return edges, (start[0] + end[0]) / 2, start[1] - 5 * self.k - LABEL * self.k * len(edges), end[0] - start[0]

    def _gathered(self, diagram: Diagram, edges: list[Edge], y: float) -> tuple[list[Edge], float, float, float]:
        """One line below everything: down from each state that a command may be given in, and up to where it leads."""
        into = self.boxes[edges[0].target]
        left, tops = into[0] + into[2] * 0.2, []
        for edge in edges:
            x, top, wide, high = self.boxes[edge.source]
            tops.append(x + wide * 0.2)
            self.svg.line(tops[-1], top + high + 1, tops[-1], y, "line", style_="stroke-width:1;opacity:.55")
        self.svg.path(
            stroke("M", max(tops), y, "H", left + 6, "Q", left, y, left, y - 6, "V", into[1] + into[3] + 2),
            "line",
            arrow=True,
            style_="stroke-width:1.2",
        )
        now = [edge for edge in edges if self.machine.legal(diagram, edge)]
        at = sorted([left, *tops])
        wide, middle = max((b - a, (a + b) / 2) for a, b in pairwise(at))
        return (now or edges)[:1], middle, y - LABEL * self.k / 2, wide - 6

    def _label(self, diagram: Diagram, edges: list[Edge], x: float, y: float, room: float) -> None:
        """The commands of an arrow, one a line; those that may be given now stand in a frame."""
        machine, size = self.machine, self.type * 0.9
        for number, edge in enumerate(edges):
            legal = machine.legal(diagram, edge)
            button = legal and machine.on_command is not None and machine.entry is None
            text = fit(edge.command, max(room - 2, 40), size) or edge.command
            wide = max(width_of(text, size), 0.5 * size * len(text)) * (1.16 if legal else 1.02) + 10
            high = (LABEL - 1) * self.k
            left, top = max(0.5, x - wide / 2), y + number * LABEL * self.k
            given = machine.on_command if legal else machine.on_illegal
            press = 1 if machine.entry is None and given is not None and not edge.elsewhere else None
            key, say = machine.key_of(diagram, edge), machine.say_edge(diagram, edge)
            with self.svg.item(key, say=say, act=press is not None, data_press=press):
                self.svg.rect(left, top, wide, high, "", style_="fill:var(--sl-here,#fff);stroke:none")
                if button:
                    self.svg.rect(left, top, wide, high, "box", rx=3)
                style = "middle bold" if legal else "middle soft"
                self.svg.text(left + wide / 2, top + 11 * self.k, text, style, size=size)
