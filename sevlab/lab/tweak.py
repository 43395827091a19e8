"""The address tweak as something to experiment with: an instrument, two formulas, and a linear system.

    box = lab.Box(Host("naples", seed=7))
    box.write(line)                                  # your own guest writes it, privately
    box.host.dram.write(q, box.bus(16))              # its ciphertext, copied to another address
    box.read_at(q)                                   # what the guest makes of it there

On an XE engine that difference is T(p xor q) and nothing else, and T is linear:
enough pairs give every constant. Source: firmware.md 6.1, 6.2 (Wilke and others,
"SEVurity", 2020).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

from sevlab import guest, vmm
from sevlab.guest.programs import DESK_GPA, PAGE_GPA
from sevlab.host import Host
from sevlab.lab.views_lens import LensView, lens

BLOCK, PAGE = 16, 4096


class Box:
    """Your own guest as an instrument: it writes and reads private memory as you say, where you say.

    `host` launches it; `at` counts bytes from the start of its private area (`PAGE_GPA`). `vm` is the guest.
    """

    def __init__(self, host: Host, **launch: Any) -> None:
        self.host = host
        names = ("box" if number == 1 else f"box-{number}" for number in count(1))
        launch.setdefault("name", next(name for name in names if name not in host.processes))
        self.vm = vmm.launch(host, program=guest.scribe, **launch)
        self.vm.finish()

    def write(self, data: bytes, at: int = 0) -> None:
        """Have the guest write `data` into its private memory."""
        self._note(b"W", at, len(data), data)

    def read(self, n: int = BLOCK, at: int = 0) -> bytes:
        """Have the guest read `n` bytes of its private memory."""
        self._note(b"R", at, n)
        return self.vm.read(DESK_GPA + 17, n)

    def _note(self, what: bytes, at: int, n: int, data: bytes = b"") -> None:
        self.vm.write(DESK_GPA, what + at.to_bytes(8, "little") + n.to_bytes(8, "little") + data)
        last = self.vm.run()
        if last.name != "HLT":
            raise RuntimeError(f"the guest has stopped: {last}")

    def hpa(self, at: int = 0) -> int:
        """The machine address behind `at`, as the nested page table has it now."""
        return int(self.host.npt(self.vm).translate(PAGE_GPA + at))

    def bus(self, n: int = BLOCK, at: int = 0) -> bytes:
        """What the memory bus carries behind `at` (within one page)."""
        return self.host.probe(self.hpa(at), n)

    def aim(self, hpa: int, at: int = 0) -> None:
        """Point the guest's page at `at` to another frame; no byte moves."""
        self.host.npt(self.vm).remap(PAGE_GPA + at & -PAGE, hpa & -PAGE)

    def lens(self, n: int = PAGE, at: int = 0, **how: Any) -> LensView:
        """The `n` bytes at `at` through the guest's eyes and the bus's, as `lab.lens` shows them: the guest's are open here."""
        return lens(self.host, self.vm, PAGE_GPA + at, n, **{"xray": True, "pointer": False, **how})

    def read_at(self, hpa: int, n: int = BLOCK) -> bytes:
        """What the guest reads at machine address `hpa` (within one page): its page is pointed there, and back."""
        before = self.hpa()
        self.aim(hpa)
        try:
            return self.read(n, hpa % PAGE)
        finally:
            self.aim(before)

    def difference(self, p: int, q: int, line: bytes = bytes(BLOCK)) -> bytes:
        """The guest writes `line` at machine address `p`, the host copies its ciphertext to `q`, the guest reads there.

        The answer is what it reads, xored with what it wrote: on an XE engine T(p xor q).
        """
        before = self.hpa()
        self.aim(p)
        try:
            self.write(line, p % PAGE)
        finally:
            self.aim(before)
        self.host.dram.write(q, self.host.probe(p, len(line)))
        return xor(self.read_at(q, len(line)), line)


def xor(one: bytes, other: bytes) -> bytes:
    """Two byte strings of one length, added without carry. Raises ValueError when the lengths differ."""
    if len(one) != len(other):
        raise ValueError(f"{len(one)} bytes and {len(other)} bytes cannot be added byte by byte")
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def tweak_of(constants: Mapping[int, bytes], hpa: int) -> bytes:
    """T of an address: the xor of the constants of its bits. Raises KeyError for a bit without one."""
    value = bytes(BLOCK)
    for bit in range(4, hpa.bit_length()):
        if hpa >> bit & 1:
            value = xor(value, constants[bit])
    return value


def moved(text: bytes, difference: bytes) -> bytes:
    """What an XE engine makes of the ciphertext of `text` at another address: `difference` is T(p xor q), block by block."""
    return xor(text, (difference * (len(text) // BLOCK + 1))[: len(text)])


class Underdetermined(ValueError):
    """The pairs do not say enough. `rank` of `wanted` constants follow from them; `together` are bits never seen apart."""

    def __init__(self, rank: int, bits: list[int], together: list[int]) -> None:
        self.rank, self.wanted, self.together = rank, len(bits), together
        names = " and ".join(f"t_{bit}" for bit in together)
        super().__init__(f"these equations have rank {rank} of {len(bits)}: {names} only ever appear together; ask for more pairs")


def solve_tweaks(pairs: Iterable[tuple[int, bytes]]) -> dict[int, bytes]:
    """The constants of every address bit that occurs, from pairs (p xor q, T(p xor q)): address bit to 16 bytes.

    Gaussian elimination over GF(2), where adding is xor: each pair is one equation. Raises Underdetermined when
    the pairs leave something open, ValueError when they contradict each other, as an XEX engine's do.
    """
    rows: dict[int, tuple[int, int]] = {}  # lowest bit of the address difference: (difference, value)
    seen = 0
    for apart, value in pairs:
        mask, known = apart & -BLOCK, int.from_bytes(value, "little")
        seen |= mask
        while mask:
            pivot = mask & -mask
            if pivot not in rows:
                rows[pivot] = mask, known
                break
            mask, known = mask ^ rows[pivot][0], known ^ rows[pivot][1]
        if not mask and known:
            raise ValueError("these pairs contradict each other: what they come from is not linear in the address")
    bits = [bit for bit in range(seen.bit_length()) if seen >> bit & 1]
    for pivot in sorted(rows, reverse=True):
        mask, known = rows[pivot]
        for bit in bits:
            other = 1 << bit
            if other != pivot and mask & other and other in rows:
                mask, known = mask ^ rows[other][0], known ^ rows[other][1]
        rows[pivot] = mask, known
    for mask, _ in rows.values():
        if mask & mask - 1:
            raise Underdetermined(len(rows), bits, [bit for bit in bits if mask >> bit & 1])
    return {pivot.bit_length() - 1: known.to_bytes(BLOCK, "little") for pivot, (_, known) in sorted(rows.items())}
