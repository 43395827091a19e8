"""Widgets: pictures of trace rows and of layouts. They know no SEV.

    from sevlab_widgets import PageMap, AsidTimeline, link
    PageMap.of(host)

A widget is fed by rows, arrays and layouts, and imports only `sevlab.trace` and
`sevlab.wire` of sevlab. The folder is imported as `sevlab_widgets`; a name is
loaded when it is first asked for, so that the package costs nothing where no
widget library is installed. `frame.py` says how one is written.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Ask": "ask",
    "AsidTimeline": "timeline",
    "Bar": "slots",
    "Checked": "ask",
    "Drawing": "drawing",
    "Frame": "frame",
    "Kind": "palette",
    "KeyTree": "keytree",
    "Ladder": "ladder",
    "Layout": "layout",
    "Lens": "lens",
    "Machine": "machine",
    "Lanes": "lanes",
    "PageMap": "pagemap",
    "Topology": "topology",
    "link": "linking",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"sevlab_widgets has no {name!r}; it has {', '.join(_HOME)}")
    return getattr(import_module(f"sevlab_widgets.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
