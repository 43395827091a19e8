"""How every plot looks, and how a notebook is told what is on it.

Figures are made without pyplot: it keeps them in a global list, and a widget's
callback on another thread may not touch it. States have Okabe and Ito's colours,
which stay apart for everybody, and never colour alone: a hatch or a letter says
it too. Magnitudes are drawn in cividis.
"""

from __future__ import annotations

import io
from base64 import b64encode
from html import escape
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"
GREY, PALE, INK = "#8a8a8a", "#e4e4e4", "#222222"
MAGNITUDE = "cividis"
WIDTH = 8.4  # inches: a notebook's cell
DPI = 110

RC: Any = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 0.7,
    "svg.hashsalt": "sevlab",  # the same picture is the same bytes
}


class Plot:
    """One figure with its sentence: what a reader who cannot see it is told.

    `figure` is matplotlib's, `axes` a list of what is drawn on, `alt` the sentence. A notebook shows it as a PNG
    with that text; `save` writes PNG, SVG or PDF by the name's ending.
    """

    def __init__(self, height: float, *, rows: int = 1, columns: int = 1, banner: str = "", **grid: Any) -> None:
        import matplotlib as mpl

        with mpl.rc_context(RC):
            self.figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
            self.figure.get_layout_engine().set(h_pad=0.09)  # type: ignore[union-attr,call-arg]
            FigureCanvasAgg(self.figure)
            self.axes = list(self.figure.subplots(rows, columns, squeeze=False, **grid).flat)
        self.alt = ""
        self.banner = banner
        if banner:
            self.figure.suptitle(banner, fontsize=9.5, color="white", backgroundcolor=VERMILION)

    def png(self) -> bytes:
        """The figure as a PNG, with its text inside."""
        return self._written("png", {"Description": self.alt, "Software": None})

    def svg(self) -> str:
        """The figure as SVG, the same bytes each time."""
        return self._written("svg", {"Description": self.alt, "Date": None}).decode()

    def _written(self, kind: str, metadata: dict[str, Any]) -> bytes:
        import matplotlib as mpl

        out = io.BytesIO()
        with mpl.rc_context(RC):
            self.figure.savefig(out, format=kind, metadata=metadata)
        return out.getvalue()

    def save(self, path: str) -> None:
        """Write the figure to a file. Raises ValueError for an ending that is no picture's."""
        import matplotlib as mpl

        with mpl.rc_context(RC):
            self.figure.savefig(path)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        png = self.png()
        # JupyterLab does not read a PNG's "alt": whoever cannot see the picture is told by the HTML, which it prefers.
        html = f'<img src="data:image/png;base64,{b64encode(png).decode()}" alt="{escape(self.alt)}">'
        return {"text/html": html, "image/png": png, "text/plain": self.alt}, {"image/png": {"alt": self.alt}}

    def __repr__(self) -> str:
        return self.alt


def duration(ns: float) -> tuple[float, str]:
    """The unit in which so many nanoseconds are readable: (factor, name)."""
    for factor, name in ((1e-9, "s"), (1e-6, "ms"), (1e-3, "µs")):
        if ns * factor >= 1:
            return factor, name
    return 1.0, "ns"


def size(n: int) -> str:
    """So many bytes in words: 4 KiB, 16 MiB."""
    for power, name in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if n >= 1 << power:
            value = n / (1 << power)
            return f"{value:.0f} {name}" if value == int(value) else f"{value:.1f} {name}"
    return f"{n} bytes"


def plain(figure: Plot, index: int = 0) -> Any:
    """The axes without frame and ticks: for pictures."""
    axes = figure.axes[index]
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes
