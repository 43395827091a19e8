"""Strokes: SVG paths written as letters and numbers."""

from __future__ import annotations


def stroke(*parts: str | float) -> str:
    """The `d` of a path: letters as they are, numbers to a tenth, as stroke("M", 0, 0, "H", 10)."""
    return "".join(part if isinstance(part, str) else f" {part:.1f}" for part in parts)
