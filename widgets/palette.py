"""Colours and letters: the same in every widget, and never alone.

The colours are Okabe and Ito's, which stay apart under every common kind of
colour blindness; each also has a letter, because yellow on white cannot be read.
"""

from __future__ import annotations

from typing import NamedTuple

ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"
GREY = "#8a8a8a"
EMPTY = "#e4e4e4"  # a thing that is there and not in use


class Kind(NamedTuple):
    """What a cell can be. Of several kinds in one cell the most severe is drawn."""

    name: str
    letter: str
    colour: str
    severity: int


class Party(NamedTuple):
    """Who acts: one of the seven, with its letter."""

    letter: str
    name: str
    colour: str


# What a page can be, in the order of the codes that a trace's PagesMarked rows carry.
PAGES = (
    Kind("free", ".", EMPTY, 0),
    Kind("host", "h", GREY, 1),
    Kind("shared", "S", ORANGE, 5),
    Kind("private", "P", BLUE, 2),
    Kind("firmware", "F", PURPLE, 3),
    Kind("save area", "V", GREEN, 6),
    Kind("GHCB", "G", SKY, 7),
    Kind("moved away", "m", YELLOW, 4),
    Kind("no longer reads what it wrote", "!", VERMILION, 8),
)

PARTIES = {
    party.letter: party
    for party in (
        Party("O", "owner", GREEN),
        Party("V", "VMM", ORANGE),
        Party("K", "kernel", VERMILION),
        Party("P", "PSP", BLUE),
        Party("E", "engine", SKY),
        Party("G", "guest", PURPLE),
        Party("B", "bus", YELLOW),
    )
}


def rgb(colour: str) -> tuple[int, int, int]:
    """The three bytes of "#rrggbb". Raises ValueError for anything else."""
    if len(colour) != 7 or colour[0] != "#":
        raise ValueError(f"{colour!r} is no colour of the form #rrggbb")
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def luminance(colour: str) -> float:
    """Relative luminance from 0 (black) to 1 (white), as WCAG 2 defines it."""
    parts = [part / 255 for part in rgb(colour)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def ink(colour: str) -> str:
    """Black or white, whichever is easier to read on `colour`."""
    return max("#111111", "#ffffff", key=lambda text: contrast(text, colour))
