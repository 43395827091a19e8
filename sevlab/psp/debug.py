"""DBG_DECRYPT and DBG_ENCRYPT: the host reads and writes a guest's memory, where the policy lets it.

Alignment is looked at before the handle. Source: firmware.md 2.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sevlab.abi.sev import POLICY_NODBG, Dbg, Status
from sevlab.psp.rules import need

if TYPE_CHECKING:
    from sevlab.psp.firmware import Psp

BLOCK = 16


def _allow(psp: Psp, cmd: Dbg) -> tuple[int, int, int]:
    """The checks of both commands: (asid, source, destination)."""
    src = psp.address(cmd.src_paddr, cmd.len, BLOCK)  # INVALID_ADDRESS: askew, or beyond the memory
    dst = psp.address(cmd.dst_paddr, cmd.len, BLOCK)  # INVALID_ADDRESS: askew, or beyond the memory
    need(not cmd.len % BLOCK, Status.INVALID_LEN)  # no whole blocks
    guest = psp.guest(cmd.handle)  # INVALID_GUEST: no guest has this handle
    need(not guest.policy & POLICY_NODBG, Status.POLICY_FAILURE)  # its owner forbids debugging
    need(guest.asid, Status.INACTIVE)  # it has no slot
    return guest.asid, src, dst


def dbg_decrypt(psp: Psp, cmd: Dbg) -> None:
    """DBG_DECRYPT: guest memory at `src` to plaintext at `dst`."""
    asid, src, dst = _allow(psp, cmd)

    if cmd.len:
        psp.soc.dram.write(dst, psp.soc.engine.read(asid, src, cmd.len))
    psp.moved = cmd.len


def dbg_encrypt(psp: Psp, cmd: Dbg) -> None:
    """DBG_ENCRYPT: plaintext at `src` to guest memory at `dst`."""
    asid, src, dst = _allow(psp, cmd)

    if cmd.len:
        psp.soc.engine.write(asid, dst, psp.soc.dram.read(src, cmd.len))
    psp.moved = cmd.len
