"""Pictures that speak to one another: one scrubber for several. Where nobody listens there is no picture, and nothing to link."""

from __future__ import annotations

from typing import Any

from sevlab.lab import ask


def link(*views: Any, selected: bool = True) -> None:
    """Have live pictures show the same journal entry and the same selection, unless `selected` says no.

    Pictures of one kind share what is selected; of different kinds, the VM that it is or belongs to.
    """
    if ask.live():
        ask.widgets("linking").link(*(view.widget for view in views), selected=selected)
