"""Words: what a title line says of a host, and which thing a sentence names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

STOPS = str.maketrans({mark: " " for mark in ".,;:?!“”'\"()"})


def facts_of(host: Any) -> tuple[str, ...]:
    """What a title line says of a host, as far as it has a chip, a design and a seed."""
    chip, design = (getattr(getattr(host, part, None), "name", None) for part in ("chip", "design"))
    seed = getattr(host, "seed", None)
    seed = None if seed is None else f"seed {seed.hex() if isinstance(seed, bytes) else seed}"
    return tuple(fact for fact in (getattr(host, "name", None), chip, design, seed) if fact)


def notes_of(widget: Any) -> list[str]:
    """What a picture that leaves its frame must say below it: that no such machine was, that it is the past, that it is empty."""
    notes = [f"This machine never existed: {widget.imaginary}"] if widget.imaginary else []
    notes += [] if widget.entry is None else [f"Entry {widget.entry} of {widget.now}, read only"]
    return notes + ([widget.empty] if widget.empty else [])


def named(words: str, keys: Iterable[str], default: Any = None) -> Any:
    """The key that `words` name: the same, or the first of those whose last part stands in them and is the longest."""
    keys, said = list(keys), f" {words.casefold().translate(STOPS)} "
    if words in keys:
        return words
    parts = {key: key.rpartition("/")[2].casefold().translate(STOPS).strip() for key in keys}
    found = [key for key, part in parts.items() if part and f" {part} " in said]
    return min(found, key=lambda key: -len(parts[key])) if found else default
