"""Widgets that show the same: one journal entry, and one selection."""

from __future__ import annotations

from typing import Any

from sevlab_widgets.frame import Frame


def link(*widgets: Frame, selected: bool = True) -> None:
    """Have the widgets show the same journal entry and the same selection: of one class its key, of others what it means."""

    sharing: list[bool] = []  # a widget that has fewer entries than the others answers with "now", for itself alone

    def share(change: Any) -> None:
        if sharing:
            return
        sharing.append(True)
        try:
            for widget in widgets:
                if change["name"] == "entry" or widget.KIND == change["owner"].KIND:
                    setattr(widget, change["name"], change["new"])
                elif name := change["owner"].means(change["new"]):
                    widget.light(name)
        finally:
            sharing.clear()

    for widget in widgets:
        widget.observe(share, ["entry", "selected"] if selected else ["entry"])
