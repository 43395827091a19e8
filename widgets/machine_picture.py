"""The drawing of a Machine: states as boxes in a grid, commands as labels on the arrows between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sevlab_widgets.palette import SKY
from sevlab_widgets.picture import Svg, fit, width_of
from sevlab_widgets.strokes import stroke

if TYPE_CHECKING:
    from sevlab_widgets.machine import Diagram, Edge, Machine, State

CROWD = 3  # names that a state shows; more are a count
LABEL = 15  # px of a line of labels


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
        for row in self._rows(diagrams):
            each = (width - 40 * (len(row) - 1)) / len(row)
            y = max(self._diagram(diagram, i * (each + 40), y, each) for i, diagram in enumerate(row)) + 14 * self.k
        self.svg.height = round(y - 8)

    def _rows(self, diagrams: list[Diagram]) -> list[list[Diagram]]:
        """What stands beside what: where there is room, two small diagrams share a row."""
        small = [one for one in diagrams if len(one.states) < 5] if self.size == "L" else []
        rows = [small[at : at + 2] for at in range(0, len(small), 2)]
        return rows + [[one] for one in diagrams if one not in small]

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
            self.svg.text(x + width_of(diagram.name, self.type) * 1.15 + 10, y + self.type, diagram.empty, "soft", size=self.type)
        last = max(state.column for state in diagram.states)
        wides = {
            state.name: max(width_of(state.name, self.type) * 1.16, self._names(diagram, state)[1]) + 18 * k
            for state in diagram.states
        }
        first, end = (max((wides[s.name] for s in diagram.states if s.column == c), default=60) for c in (0, last))
        pitch = min((width - first / 2 - end / 2 - 2) / max(last, 1), 230 * k)
        pairs: dict[tuple[str, str], list[Edge]] = {}
        for edge in diagram.edges:
            if edge.source != edge.target:
                pairs.setdefault((edge.source, edge.target), []).append(edge)
        by = {state.name: state for state in diagram.states}
        above = max([len(edges) for (a, b), edges in pairs.items() if self._straight(by[a], by[b]) and by[a].row == 0] or [0])
        back = [pair for pair in pairs if by[pair[0]].column > by[pair[1]].column and by[pair[0]].row == by[pair[1]].row]
        high, gap = 36 * k, (62 if any(by[a].row == 0 for a, _ in back) else 50) * k
        narrow = pitch - max(wides.values())
        above += any(
            self._straight(by[a], by[b]) and by[a].row == 0 and self._wide(edges[0]) > narrow for (a, b), edges in pairs.items()
        )
        top = y + self.type * 1.5 + max(0, above - 1) * LABEL * k * 0.75
        self.boxes = {
            s.name: (x + 1 + first / 2 + s.column * pitch - wides[s.name] / 2, top + s.row * (high + gap), wides[s.name], high)
            for s in diagram.states
        }
        labels: list[tuple[list[Edge], float, float, float]] = []
        bottom = max(b + h for _, b, _, h in self.boxes.values())
        depth: dict[float, int] = {}
        for (source, target), edges in pairs.items():
            a, b = by[source], by[target]
            if self._straight(a, b):
                labels.append(self._forward(edges, self.boxes[source], self.boxes[target]))
            elif a.row == b.row:
                level = depth[a.row] = depth.get(a.row, 0) + 1
                one = self._backward(edges, self.boxes[source], self.boxes[target], level)
                labels.append(one)
                bottom = max(bottom, one[2] + LABEL * k * len(edges))
            else:
                labels.append(self._slanted(edges, self.boxes[source], self.boxes[target]))
        for state in diagram.states:
            self._state(diagram, state)
        for edges, lx, ly, room in labels:
            self._label(diagram, edges, lx, ly, room)
        return bottom

    @staticmethod
    def _straight(a: State, b: State) -> bool:
        return a.row == b.row and a.column < b.column

    def _wide(self, edge: Edge) -> float:
        return width_of(edge.command, self.type * 0.9) * 1.14 + 10

    def _names(self, diagram: Diagram, state: State) -> tuple[str, float]:
        """The tokens of a state in as few words as fit, and how wide those are."""
        tokens, crowd = self.machine.at(diagram, state.name), self.machine.crowd(diagram, state.name)
        if not crowd:
            return "", 0
        text = (
            ", ".join(token.name for token in tokens)
            if crowd == len(tokens) <= CROWD
            else f"{crowd:,} {tokens[0].name}"
            if len(tokens) == 1
            else str(crowd)
        )
        text = fit(text, 150 * self.k, self.type * 0.92) or text
        return text, width_of(text, self.type * 0.92)

    def _state(self, diagram: Diagram, state: State) -> None:
        x, y, wide, high = self.boxes[state.name]
        machine, text = self.machine, self._names(diagram, state)[0]
        stays = len({edge.command for edge in diagram.edges if edge.source == edge.target == state.name})
        with self.svg.item(f"{diagram.name}/{state.name}", say=machine.say(diagram, state)):
            self.svg.rect(x, y, wide, high, "box", rx=5)
            if text:
                self.svg.rect(x, y, wide, high, "fill", fill=SKY, fill_opacity=0.35, rx=5)
                self.svg.rect(x, y, wide, high, "now", fill="none", rx=5, style_="stroke-width:1.5")
            self.svg.text(
                x + wide / 2, y + (15 if text else 22) * self.k, state.name, "middle bold" if text else "middle", size=self.type
            )
            if text:
                self.svg.text(x + wide / 2, y + 29.5 * self.k, text, "middle", size=self.type * 0.92)
            elif stays == 0 and state.note:
                self.svg.text(x + wide / 2, y + high + 12 * self.k, state.note, "middle soft", size=self.type * 0.9)

    # ------------------------------------------------- arrows

    def _forward(self, edges: list[Edge], a: tuple[float, ...], b: tuple[float, ...]) -> tuple[list[Edge], float, float, float]:
        y, x1, x2 = a[1] + a[3] / 2, a[0] + a[2] + 2, b[0] - 2
        self.svg.line(x1, y, x2, y, "line", arrow=True, style_="stroke-width:1.2")
        return edges, (x1 + x2) / 2, y - 5 * self.k - LABEL * self.k * len(edges), x2 - x1 + 6

    def _backward(
        self, edges: list[Edge], a: tuple[float, ...], b: tuple[float, ...], level: int
    ) -> tuple[list[Edge], float, float, float]:
        down = a[1] + a[3] + (10 + 17 * level) * self.k
        x1, x2 = a[0] + a[2] * (0.5 - 0.14 * (level - 1)), b[0] + b[2] * (0.5 + 0.14 * (2 - level))
        r = 6
        self.svg.path(
            stroke(
                "M",
                x1,
                a[1] + a[3] + 1,
                "V",
                down - r,
                "Q",
                x1,
                down,
                x1 - r,
                down,
                "H",
                x2 + r,
                "Q",
                x2,
                down,
                x2,
                down - r,
                "V",
                b[1] + b[3] + 2,
            ),
            "line",
            arrow=True,
            style_="stroke-width:1.2",
        )
        return edges, (x1 + x2) / 2, down - LABEL * self.k / 2, abs(x1 - x2) - 10

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
            return edges, (start[0] + end[0]) / 2, end[1] - 5 * self.k - LABEL * self.k * len(edges), end[0] - start[0]
        start, end = (a[0] + a[2] + 1, a[1] + a[3] / 2), (b[0] + b[2] * 0.3, b[1] + b[3] + 2)
        if end[0] < start[0] + 8:
            start = (a[0] + a[2] / 2, a[1])
            self.svg.line(*start, *end, "line", arrow=True, style_="stroke-width:1.2")
            return edges, (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 - LABEL * self.k / 2, 200
        self.svg.path(
            stroke("M", start[0], start[1], "H", end[0] - 6, "Q", end[0], start[1], end[0], start[1] - 6, "V", end[1]),
            "line",
            arrow=True,
            style_="stroke-width:1.2",
        )
        return edges, (start[0] + end[0]) / 2, start[1] - 5 * self.k - LABEL * self.k * len(edges), end[0] - start[0]

    def _label(self, diagram: Diagram, edges: list[Edge], x: float, y: float, room: float) -> None:
        """The commands of an arrow, one a line; those that may be given now stand in a frame."""
        machine, size = self.machine, self.type * 0.9
        for number, edge in enumerate(edges):
            legal = bool(machine.at(diagram, edge.source))
            head, _, rest = edge.command.partition("_")
            two = len(edges) == 1 and room < 200 and self._wide(edge) > room and bool(rest)
            lines = [f"{head}_", rest] if two else [fit(edge.command, max(room - 8, 40), size) or edge.command]
            wide = max(width_of(line, size) for line in lines) * (1.14 if legal else 1.02) + 10
            high = (LABEL - 1) * self.k * (0.9 * len(lines) if two else 1)
            top = y + number * LABEL * self.k - (high - (LABEL - 1) * self.k)
            act = (machine.on_command if legal else machine.on_illegal) is not None
            with self.svg.item(f"{diagram.name}/{edge.source}/{edge.command}", say=machine.say_edge(diagram, edge), act=act):
                self.svg.rect(x - wide / 2, top, wide, high, "", style_="fill:var(--sl-here,#fff);stroke:none")
                if legal and machine.on_command is not None:
                    self.svg.rect(x - wide / 2, top, wide, high, "box", rx=3)
                for line, text in enumerate(lines):
                    self.svg.text(x, top + (11 + 12 * line) * self.k, text, "middle bold" if legal else "middle soft", size=size)
