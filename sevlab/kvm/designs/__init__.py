"""Designs: one consistent kernel, a choice at each seam.

A seam is a place where the kernel's history forks: one file with both answers,
where each was written down, and since when. A `Design` picks one answer for each
when the host is built; after that no line asks which it is.

    Host(design=designs.LINUX_6_12)
    Host(design=replace(designs.LINUX_6_1, quirks=designs.MENDED))

An answer is an object with the methods and tables that its seam's protocol names;
one of your own is as legal as ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sevlab.kvm.designs.absent import ABSENT, Absent, Capability
from sevlab.kvm.designs.init import INIT, INIT2, Init, Init2, InitSeam
from sevlab.kvm.designs.quirks import AS_IS, MENDED, AsIs, Mended, Quirks
from sevlab.kvm.designs.release import V5_13, V6_1, V6_12, Release


@dataclass(frozen=True)
class Design:
    """One kernel: its name, and an answer at each seam.

    `init`: how a VM becomes an encrypted one. `quirks`: bugs as they ship, or
    mended. `release`: what else differs between versions. `mirror` and `move`:
    the capabilities 197 and 206 of a VM.
    """

    name: str
    init: InitSeam = INIT
    quirks: Quirks = AS_IS
    release: Release = V6_1
    mirror: Capability = ABSENT
    move: Capability = ABSENT


POSTED = Design("posted", release=V5_13)
LINUX_5_13 = Design("linux-5.13", release=V5_13)
LINUX_6_1 = Design("linux-6.1")
LINUX_6_1_FIXED = Design("linux-6.1-fixed", quirks=MENDED)
LINUX_6_12 = Design("linux-6.12", init=INIT2, release=V6_12)

DESIGNS = {design.name: design for design in (POSTED, LINUX_5_13, LINUX_6_1, LINUX_6_1_FIXED, LINUX_6_12)}


def by_name(design: str | Design) -> Design:
    """The preset of that name; a design given is taken as it is. Raises ValueError for a name that is none."""
    if isinstance(design, Design):
        return design
    if design not in DESIGNS:
        raise ValueError(f"no design {design!r}; there are {', '.join(DESIGNS)}")
    return DESIGNS[design]


__all__ = [
    "POSTED", "LINUX_5_13", "LINUX_6_1", "LINUX_6_1_FIXED", "LINUX_6_12", "DESIGNS", "by_name", "Design", "replace",
    "Init", "Init2", "INIT", "INIT2", "AsIs", "Mended", "AS_IS", "MENDED", "Release", "V5_13", "V6_1", "V6_12",
    "Absent", "ABSENT", "Capability", "InitSeam", "Quirks",
]  # fmt: skip
