"""A map of page states: every page counts, and of those in one cell the gravest is drawn, never a sample."""

from __future__ import annotations

from typing import Any, NamedTuple

from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from sevlab.bulk import PAGE
from sevlab.hw import pages as states
from sevlab.plots.style import BLUE, GREEN, GREY, MAGNITUDE, ORANGE, PALE, PURPLE, SKY, VERMILION, YELLOW, Plot, size

COLUMNS, LINES = 128, 48  # cells of a map, at most
NARROW = 8  # cells of states beside one of pins


class Look(NamedTuple):
    """How a page state is drawn: colour, letter, words, and its gravity: of several in one cell the gravest is shown."""

    colour: str
    letter: str
    words: str
    gravity: int

    @property
    def name(self) -> str:
        return self.words.split(":")[0]


LOOKS = {
    states.FREE: Look(PALE, ".", "free", 0),
    states.HOST: Look(GREY, "h", "host", 1),
    states.PRIVATE: Look(BLUE, "P", "private", 2),
    states.FIRMWARE: Look(PURPLE, "F", "firmware", 3),
    states.MOVED: Look(YELLOW, "m", "moved away", 4),
    states.SHARED: Look(ORANGE, "S", "shared", 5),
    states.VMSA: Look(GREEN, "V", "save area", 6),
    states.GHCB: Look(SKY, "G", "GHCB", 7),
    states.STALE: Look(VERMILION, "!", "stale: no longer reads what its guest wrote", 8),
}


def page_map(host: Any, first: int = 0, count: int | None = None, *, title: str = "") -> Plot:
    """The pages of a machine, or `count` of them from pfn `first` on, as a map of states; beside it how often they are pinned.

    The two are independent: private and not pinned is what a host may move by mistake. Without a range it is what was
    ever in use. A cell is 2^n neighbouring pages. Raises ValueError for a range outside the machine.
    """
    pages = host.pages
    if count is None:
        used = pages.runs(first)
        end = max((run.first + run.length for run in used if run.state != states.FREE or run.pins), default=first + 1)
        count = end - first
    counts: dict[int, int] = {}
    pinned = 0
    for run in pages.runs(first, count):
        counts[run.state] = counts.get(run.state, 0) + run.length
        pinned += run.length if run.pins else 0
    cells = 1
    while -(-count // cells) > COLUMNS * LINES:
        cells *= 2
    grid = pages.states.gravest(first, count, cells, [LOOKS[state].gravity for state in range(len(LOOKS))], COLUMNS)
    pins = pages.pin_counts.most(first, count, cells * NARROW, COLUMNS // NARROW)

    lines = grid.shape[0]
    plot = Plot(min(1.7 + 0.09 * lines, 5.2), columns=2, width_ratios=[COLUMNS, COLUMNS // NARROW], banner=host.chip.banner)
    axes, beside = plot.axes
    colours = ListedColormap([LOOKS[state].colour for state in range(len(LOOKS))])
    axes.imshow(grid, cmap=colours, norm=BoundaryNorm(range(len(LOOKS) + 1), len(LOOKS)), interpolation="none", aspect="auto")
    drawn = beside.imshow(pins, cmap=MAGNITUDE, vmin=0, vmax=max(int(pins.max()), 1), interpolation="none", aspect="auto")
    beside.set_xticks([])
    beside.set_yticks([])
    beside.set_title(f"pins of {pinned:,}", loc="left", fontsize=9.5)
    bar = plot.figure.colorbar(drawn, ax=beside, shrink=0.6, aspect=14)
    bar.locator = MaxNLocator(4, integer=True)
    bar.update_ticks()
    step = max(lines // 8, 1)
    axes.set_yticks(range(0, lines, step), [f"{(first + line * COLUMNS * cells) * PAGE:#x}" for line in range(0, lines, step)])
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.set_ylabel("machine address")
    each = "each cell is one page" if cells == 1 else f"each cell is {cells} pages ({size(cells * PAGE)}), the gravest shows"
    axes.set_title(title or f"{size(count * PAGE)} of {host.chip.name}: {each}", loc="left", fontsize=11)
    handles: list[Any] = [
        Patch(facecolor=look.colour, edgecolor=GREY, linewidth=0.4, label=f"{look.letter}  {look.name} {counts[state]:,}")
        for state, look in LOOKS.items()
        if counts.get(state)
    ]
    plot.figure.legend(handles=handles, loc="outside lower left", ncols=5, frameon=False, fontsize=8.5)
    words = ", ".join(f"{counts[state]:,} {look.words}" for state, look in LOOKS.items() if counts.get(state))
    plot.alt = f"Map of {count:,} pages of {host.chip.name} from {first * PAGE:#x} on: {words}; {pinned:,} pinned; {each}."
    return plot
