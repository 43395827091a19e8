"""An SEV-ES guest that sends requests as a test has written them, byte by byte, and stops after each."""

from __future__ import annotations

from typing import Any

from kvm.guests import Guest
from sev_rig import Rig

from sevlab.abi.ghcb import OFFSETS, VALID_BITS, Ghcb
from sevlab.hw.isa import hlt, program, rdmsr, store, vmgexit, wrmsr

GHCB = 0x3000
MSR = 0xC001_0130
SCRATCH = 0x5000  # memory that the guest shares, outside of the page
CODE_FIELDS = ("sw_exit_code", "sw_exit_info_1", "sw_exit_info_2")

Pieces = tuple[tuple[int, bytes], ...]


@program
async def by_hand(ghcb: int, requests: tuple[Any, ...]) -> None:
    """Store each request's pieces into the page, ask, and stop."""
    await wrmsr(0xC001_0130, ghcb)
    for pieces in requests:
        for offset, data in pieces:
            await store(ghcb + offset, data, c=False)
        await vmgexit()
        await hlt()


@program
async def by_msr(requests: tuple[int, ...]) -> None:
    """Ask each by the MSR protocol and leave the response at 0x1000."""
    for request in requests:
        await wrmsr(0xC001_0130, request)
        await vmgexit()
        await store(0x1000, (await rdmsr(0xC001_0130)).to_bytes(8, "little"), c=False)
        await hlt()


def request(code: int, info_1: int = 0, info_2: int = 0, *, drop: tuple[str, ...] = (), usage: int = 0, **fields: int) -> Pieces:
    """The pieces of one request: its fields, their valid bits but for those in `drop`."""
    values = dict(zip(CODE_FIELDS, (code, info_1, info_2), strict=True)) | fields
    bitmap = sum(1 << VALID_BITS[name] for name in values if name not in drop)
    sizes = {field.name: field.size for field in Ghcb.LAYOUT}
    stores = [(OFFSETS[name], value.to_bytes(sizes[name], "little")) for name, value in values.items()]
    return (*stores, (0xFFC, usage.to_bytes(4, "little")), (0x3F0, bitmap.to_bytes(16, "little")))


class Asks(Guest):
    """A sealed guest that sends these requests, one a run; `answer` is its GHCB as the host sees it then."""

    def __init__(self, rig: Rig, *requests: Pieces, ghcb: int = GHCB, **named: Any) -> None:
        super().__init__(rig, by_hand, ghcb, tuple(requests), kind="es", **named)

    @property
    def answer(self) -> Ghcb:
        return Ghcb.unpack(self.read(GHCB, 4096))

    def ask(self) -> tuple[int, int]:
        """Run to the stop behind the next request: what the guest then finds in info1 and info2."""
        assert self.run() == 5, self.reason()
        return self.answer.sw_exit_info_1, self.answer.sw_exit_info_2
