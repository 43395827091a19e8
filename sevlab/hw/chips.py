"""The chips one can build a host on, as rows.

Not every fact about a chip is published; each row says which of its facts are
stated from memory, and which were measured by whom.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

# Address bits 4 to 31 of the Naples engine: a four-byte pattern, repeated four times. Measured on
# an EPYC 7251 by Wilke, Wichelmann, Morbitzer and Eisenbarth, "SEVurity", 2020.
NAPLES_TWEAKS = {
    4: "82253838", 5: "ec09079c", 6: "40000018", 7: "8102a23a", 8: "77d91077", 9: "b010b2c0", 10: "536d544d",
    11: "1568ee53", 12: "b09230c2", 13: "9670ff8e", 14: "361b90d5", 15: "0400c236", 16: "e8182985", 17: "bd31f92a",
    18: "a50d3744", 19: "f431d84c", 20: "02043181", 21: "b37132a1", 22: "508ac06c", 23: "168a8020", 24: "7f9bc007",
    25: "00db0407", 26: "7f000404", 27: "70fa01be", 28: "bb3d2890", 29: "bd2dd526", 30: "1c5d6ce2", 31: "4f5ce727",
}  # fmt: skip

NOT_MEASURED = "tweaks of address bits 32 and up: not measured, from the seed"
NOT_PUBLIC = "tweaks: not public, fresh at each boot, from the seed"
BIOS_CHOICE = "min_asid: a choice of the BIOS"

# Bits of CPUID Fn8000_001F EAX (AMD 24594, APM volume 3).
SME, SEV, PAGE_FLUSH, SEV_ES, COHERENT, HOST_64, DEBUG_SWAP, VTE = (1 << bit for bit in (0, 1, 2, 3, 10, 11, 14, 16))


@dataclass(frozen=True)
class Chip:
    """One product. `max_asid` is the number of key slots, `min_asid` the first that plain SEV may take (ES: 1 to min_asid - 1)."""

    name: str
    product: str
    mode: str  # XE: C = E(P ^ T).  XEX: C = E(P ^ T) ^ T.  ECB, which no chip has: C = E(P).
    c_bit: int
    max_asid: int
    min_asid: int
    features: int  # CPUID Fn8000_001F EAX
    signature: int  # CPUID Fn0000_0001 EAX
    reduction: int = 5  # physical address bits lost to encryption
    address_bits: int = 48
    tweaks: dict[int, str] = field(default_factory=dict)  # address bit -> published constant; all others come from the seed
    tweak_bytes: int = 16  # how much of a constant is its own: 4 means a pattern repeated four times
    measured: tuple[str, ...] = ()
    from_memory: tuple[str, ...] = ()
    banner: str = ""  # of a chip that never existed: what every picture of it must say

    @property
    def family(self) -> int:
        """Family, as a VMSA signature counts it: base plus extended."""
        return (self.signature >> 8 & 0xF) + (self.signature >> 20 & 0xFF)

    @property
    def model(self) -> int:
        """Model: extended and base nibble."""
        return self.signature >> 12 & 0xF0 | self.signature >> 4 & 0xF

    @property
    def stepping(self) -> int:
        """Stepping."""
        return self.signature & 0xF

    @property
    def sme_coherent(self) -> bool:
        """Whether the caches keep both views of a line coherent, so that nobody needs CLFLUSH."""
        return bool(self.features & COHERENT)

    def cpuid_8000001f(self) -> tuple[int, int, int, int]:
        """EAX, EBX, ECX, EDX of CPUID Fn8000_001F: features; C-bit and reduction; key slots; first slot of plain SEV."""
        return self.features, self.c_bit | self.reduction << 6, self.max_asid, self.min_asid


NAPLES = Chip(
    name="naples",
    product="EPYC 7251 (Zen)",
    mode="XE",
    c_bit=47,
    max_asid=15,
    min_asid=6,
    features=SME | SEV | PAGE_FLUSH | SEV_ES,
    signature=0x800F12,
    tweaks=NAPLES_TWEAKS,
    tweak_bytes=4,
    measured=("mode", "tweaks"),
    from_memory=("c_bit", "reduction", "max_asid", "features", NOT_MEASURED, BIOS_CHOICE),
)
ROME = Chip(
    name="rome",
    product="EPYC 7002 (Zen 2)",
    mode="XEX",
    c_bit=47,
    max_asid=509,
    min_asid=100,
    features=SME | SEV | PAGE_FLUSH | SEV_ES | VTE,
    signature=0x830F10,
    from_memory=("mode", "c_bit", "reduction", "max_asid", "features", NOT_PUBLIC, BIOS_CHOICE),
)
MILAN = Chip(
    name="milan",
    product="EPYC 7003 (Zen 3)",
    mode="XEX",
    c_bit=51,
    max_asid=509,
    min_asid=100,
    features=SME | SEV | PAGE_FLUSH | SEV_ES | COHERENT | HOST_64 | DEBUG_SWAP | VTE,  # without SNP, which the lab has not
    signature=0xA00F11,
    from_memory=("mode", "reduction", "max_asid", "features", NOT_PUBLIC, BIOS_CHOICE),
)

MODES = ("ECB", "XE", "XEX")


def imaginary(mode: str = "ECB", *, like: Chip = ROME, **changes: Any) -> Chip:
    """A chip that never existed, and says so: `like` another one but for the mode of its engine, and for `changes`.

    ECB is the engine without a tweak, for pictures of what a tweak is good for. Raises ValueError for a mode that
    is none, TypeError for a change to what a chip has not.
    """
    if mode not in MODES:
        raise ValueError(f"an engine's mode is {', '.join(MODES[:-1])} or {MODES[-1]}, not {mode!r}")
    what = "an engine without a tweak (ECB)" if mode == "ECB" else f"the {mode} engine of a chip like {like.name}"
    row = replace(like, name=f"imaginary-{mode.lower()}", product=f"none: {what}", mode=mode, measured=(), **changes)
    return replace(row, banner=f"This machine never existed: {what}.")


CHIPS = {chip.name: chip for chip in (NAPLES, ROME, MILAN)}


def by_name(chip: str | Chip) -> Chip:
    """The row of that name; a row given is taken as it is, so that one may build a chip of one's own.

    Raises ValueError for a name that is none.
    """
    if isinstance(chip, Chip):
        return chip
    if chip not in CHIPS:
        raise ValueError(f"no chip {chip!r}; there are {', '.join(CHIPS)}")
    return CHIPS[chip]
