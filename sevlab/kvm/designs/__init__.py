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

from sevlab.kvm.designs.absent import ABSENT, Absent, Capability, MoveSeam
from sevlab.kvm.designs.ap_boot import (
    HLT_LOOP_FLAG,
    RESET_HOLD,
    RESET_HOLD_511,
    RESET_HOLD_KIND,
    RESET_HOLD_UNCHECKED,
    ApBootSeam,
    HltLoopFlag,
    ResetHold,
    ResetHold511,
    ResetHoldKind,
    ResetHoldUnchecked,
)
from sevlab.kvm.designs.ghcb import GHCB_5_13, GHCB_6_1, GHCB_6_12, Ghcb
from sevlab.kvm.designs.init import INIT, INIT2, Init, Init2, InitSeam
from sevlab.kvm.designs.mirror import MIRROR, MIRROR_5_13, Mirror, Mirror_5_13, MirrorSeam
from sevlab.kvm.designs.move import MOVE, MOVE_6_0, MOVE_NAIVE, MOVE_V11, Move, Move_6_0, Move_Naive, Move_V11
from sevlab.kvm.designs.pinning import PIN_SLOTS, REG_REGION, Pinning, PinSlots, RegRegion
from sevlab.kvm.designs.quirks import AS_IS, MENDED, AsIs, Mended, Quirks
from sevlab.kvm.designs.release import V5_13, V6_1, V6_12, Release


@dataclass(frozen=True)
class Design:
    """One kernel: its name, and an answer at each seam.

    `init`: how a VM becomes an encrypted one. `quirks`: bugs as they ship, or
    mended. `release`: what else differs between versions. `pinning`: who keeps
    encrypted pages from moving. `mirror`: a second VM
    with the key of the first (capability 197). `move`: the key and what hangs on
    it to another VM (206). `ap_boot`: how the second processor of an SEV-ES guest
    is held and started. `ghcb`: how what such a guest asks for is read and answered.
    """

    name: str
    init: InitSeam = INIT
    quirks: Quirks = AS_IS
    release: Release = V6_1
    pinning: Pinning = REG_REGION
    mirror: MirrorSeam = MIRROR
    move: MoveSeam = MOVE
    ap_boot: ApBootSeam = RESET_HOLD
    ghcb: Ghcb = GHCB_6_1

    @property
    def imaginary(self) -> str:
        """Why no kernel ever was this one, in one sentence; "" for one that was, or might have been."""
        return self.ap_boot.imaginary(self) or self.move.imaginary


POSTED = Design(
    "posted", release=V5_13, pinning=PIN_SLOTS, mirror=MIRROR_5_13, move=MOVE_V11, ap_boot=HLT_LOOP_FLAG, ghcb=GHCB_5_13
)
LINUX_5_13 = Design("linux-5.13", release=V5_13, mirror=MIRROR_5_13, move=ABSENT, ap_boot=RESET_HOLD_511, ghcb=GHCB_5_13)
LINUX_6_1 = Design("linux-6.1")
LINUX_6_1_FIXED = Design("linux-6.1-fixed", quirks=MENDED)
LINUX_6_12 = Design("linux-6.12", init=INIT2, release=V6_12, ap_boot=RESET_HOLD_KIND, ghcb=GHCB_6_12)

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
    "Ghcb", "GHCB_5_13", "GHCB_6_1", "GHCB_6_12",
    "Init", "Init2", "INIT", "INIT2", "AsIs", "Mended", "AS_IS", "MENDED", "Release", "V5_13", "V6_1", "V6_12",
    "Mirror", "Mirror_5_13", "MIRROR", "MIRROR_5_13",
    "Move", "Move_6_0", "Move_Naive", "Move_V11", "MOVE", "MOVE_6_0", "MOVE_NAIVE", "MOVE_V11",
    "ApBootSeam", "HltLoopFlag", "ResetHold", "ResetHold511", "ResetHoldKind", "ResetHoldUnchecked",
    "HLT_LOOP_FLAG", "RESET_HOLD", "RESET_HOLD_511", "RESET_HOLD_KIND", "RESET_HOLD_UNCHECKED",
    "Pinning", "PinSlots", "RegRegion", "PIN_SLOTS", "REG_REGION",
    "Absent", "ABSENT", "Capability", "InitSeam", "MirrorSeam", "Quirks",
]  # fmt: skip
