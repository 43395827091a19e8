"""Pictures in guest memory: what the guest sees, what the bus carries, what a listener makes of two moments."""

from __future__ import annotations

from collections.abc import Sequence

from sevlab.bulk import PAGE, bytes_image, changed_blocks
from sevlab.host import Host
from sevlab.hw import chips
from sevlab.lab.picture import WIDTH, penguin
from sevlab.lab.tweak import Box
from sevlab.plots.style import MAGNITUDE, VERMILION, Plot, plain

BLOCK = 16
ENGINES = (
    ("ECB", "ECB\nan engine that never existed"),
    ("XE", "XE\nE(P ⊕ T)"),
    ("XEX", "XEX\nE(P ⊕ T) ⊕ T"),
)


def pictures(panels: Sequence[tuple[str, bytes]], width: int = WIDTH, *, banner: str = "") -> Plot:
    """Byte strings as grey pictures beside each other, each under its title; `width` bytes a line.

    Raises ValueError for bytes that are no whole lines.
    """
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    height = (2.5 if columns == 4 else 3.1) * rows + 0.12 + 0.3 * bool(banner)
    plot = Plot(height, rows=rows, columns=columns, banner=banner)
    for index, (title, data) in enumerate(panels):
        axes = plain(plot, index)
        axes.imshow(bytes_image(data, width), cmap="gray", vmin=0, vmax=255, interpolation="none")
        axes.set_title(title, fontsize=9)
    for index in range(len(panels), len(plot.axes)):
        plain(plot, index)
    words = "; ".join(f"{' '.join(title.split())} ({_seen(data)})" for title, data in panels)
    plot.alt = f"Pictures of memory, one byte a pixel: {words}."
    return plot


def _seen(data: bytes) -> str:
    """In words what a look at the picture tells: how many of its blocks are like another one."""
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    again = 1 - len(set(blocks)) / max(len(blocks), 1)
    return "noise" if again < 0.01 else f"{again:.0%} of its blocks repeat another one"


def on_the_bus(box: Box, image: bytes) -> bytes:
    """Have the guest draw a picture in its private memory: what the bus carries of it then."""
    box.write(image)
    return b"".join(box.bus(min(PAGE, len(image) - at), at) for at in range(0, len(image), PAGE))


def engines(image: bytes | None = None, width: int = WIDTH, *, seed: int = 7) -> Plot:
    """One picture in guest memory, as its guest sees it and as the bus carries it under three engines.

    ECB never existed in any chip; its panel says so. The others are Naples's XE and Rome's XEX.
    """
    image = penguin() if image is None else image
    panels = [("what the guest sees\n", image)]
    for (_, title), chip in zip(ENGINES, (chips.imaginary("ECB"), chips.NAPLES, chips.ROME), strict=True):
        with Host(chip, seed=seed, memory=1 << 30) as host:
            panels.append((title, on_the_bus(Box(host), image)))
    plot = pictures(panels, width)
    plot.axes[1].set_title(plot.axes[1].get_title(), fontsize=8.5, color="white", backgroundcolor=VERMILION)
    return plot


def delta(before: bytes, after: bytes, width: int = WIDTH, *, banner: str = "") -> Plot:
    """Two moments of the bus at one place, and what changed between them: bytes of each 16-byte block that differ.

    Hidden in space, visible in time. Raises ValueError when the two are not of one length.
    """
    changed = changed_blocks(before, after, width // BLOCK)
    plot = Plot(2.75 + 0.3 * bool(banner), columns=3, banner=banner)
    for index, (title, data) in enumerate((("the bus, held", before), ("the bus, now", after))):
        axes = plain(plot, index)
        axes.imshow(bytes_image(data, width), cmap="gray", vmin=0, vmax=255, interpolation="none")
        axes.set_title(title, fontsize=9.5)
    axes = plain(plot, 2)
    square = len(after) / width / changed.shape[0] * changed.shape[1] / width
    drawn = axes.imshow(changed, cmap=MAGNITUDE, vmin=0, vmax=BLOCK, interpolation="none", aspect=square)
    axes.set_title("the difference in time", fontsize=9.5)
    plot.figure.colorbar(drawn, ax=axes, shrink=0.82, ticks=(0, 8, 16), label="bytes of a block that changed")
    moved = int((changed > 0).sum())
    plot.alt = (
        f"Two moments of {len(after):,} bytes on the bus and their difference: "
        f"{moved:,} of {changed.size:,} blocks of 16 bytes changed, all others carry the same bytes as before."
    )
    return plot
