"""A guest and its key slot: ACTIVATE, DEACTIVATE, DECOMMISSION, GUEST_STATUS, COPY.

Activation is apart from the guest's state: a guest may be launched before it
has a slot, and lose its slot while it lives. Source: firmware.md 2.2, 2.4.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from sevlab import crypto
from sevlab.abi.sev import POLICY_ES, Activate, Cmd, Copy, GuestState, GuestStatus, Handle, Status
from sevlab.hw import pages
from sevlab.psp.rules import need

if TYPE_CHECKING:
    from sevlab.psp.firmware import Psp

PAGE = 4096
COPY_STEP = 1 << 18  # bytes moved at a time
KEY_LABEL = "sev-vm-encryption-key-0\0"  # the zero belongs to it


def memory_key(vek: bytes, channel: int = 0) -> bytes:
    """The AES key (16 bytes) that a guest's seed gives on one memory channel."""
    return crypto.kdf(vek, KEY_LABEL, struct.pack("<I", channel))


def activate(psp: Psp, cmd: Activate) -> None:
    """ACTIVATE: put a guest's key into a key slot. API 0.24: its cores may use it at once."""
    guest = psp.guest(cmd.handle)  # INVALID_GUEST: no guest has this handle
    need(psp.asids.exists(cmd.asid), Status.INVALID_ASID)  # 0, or more than the chip has
    need(not psp.asids.used(cmd.asid), Status.ASID_OWNED)  # somebody's key is in that slot
    need(not guest.asid, Status.ACTIVE)  # this guest has a slot already
    guest.allow(Cmd.ACTIVATE)  # INVALID_GUEST_STATE: it was sent away
    need(psp.asids.clean(cmd.asid), Status.DFFLUSH_REQUIRED)  # what the last guest left there was not flushed
    for_es = cmd.asid < psp.soc.chip.min_asid
    need(for_es == bool(guest.policy & POLICY_ES), Status.INVALID_ASID)  # low slots are for SEV-ES, the others for plain SEV

    key = memory_key(guest.vek)

    psp.soc.engine.install(cmd.asid, key)
    psp.asids.take(cmd.asid, guest.handle)
    guest.asid = cmd.asid


def deactivate(psp: Psp, cmd: Handle) -> None:
    """DEACTIVATE: take a guest's key out of its slot, which is dirty from then on."""
    guest = psp.guest(cmd.handle)  # INVALID_GUEST: no guest has this handle
    need(guest.asid, Status.INACTIVE)  # it has no slot

    psp.soc.engine.remove(guest.asid)
    psp.asids.release(guest.asid)
    psp.soc.written_back = False
    guest.asid = 0


def decommission(psp: Psp, cmd: Handle) -> None:
    """DECOMMISSION: forget a guest and its keys. After the last one the platform is back in INIT (states.py)."""
    guest = psp.guest(cmd.handle)  # INVALID_GUEST: no guest has this handle
    need(not guest.asid, Status.ACTIVE)  # its key is still in a slot

    del psp.guests[cmd.handle]
    guest.wipe(Cmd.DECOMMISSION)


_STATUS = GuestStatus.FORMAT
_NOBODY = GuestState.UNINIT


def guest_status(psp: Psp, handle: int, policy: int, asid: int, state: int) -> bytes:
    """GUEST_STATUS: policy, ASID and state; an unknown handle is no error but a guest that is not there."""
    guest = psp.guests.get(handle)
    if guest is None:
        return _STATUS.pack(handle, 0, 0, _NOBODY)
    return _STATUS.pack(handle, guest.policy, guest.asid, guest.state)


def copy(psp: Psp, cmd: Copy) -> None:
    """COPY: move a guest's pages to another machine address, where the same bytes have another ciphertext."""
    guest = psp.guest(cmd.handle)  # INVALID_GUEST: no guest has this handle
    need(guest.asid, Status.INACTIVE)  # it has no slot
    need(cmd.len and not cmd.len % PAGE, Status.INVALID_LEN)  # no whole pages
    src = psp.address(cmd.src_paddr, cmd.len, PAGE)  # INVALID_ADDRESS: askew, or beyond the memory
    dst = psp.address(cmd.dst_paddr, cmd.len, PAGE)  # INVALID_ADDRESS: askew, or beyond the memory
    if abs(src - dst) < cmd.len:
        return  # overlapping ranges: nothing is moved, and nothing refused

    for at in range(0, cmd.len, COPY_STEP):
        n = min(COPY_STEP, cmd.len - at)
        psp.soc.engine.write(guest.asid, dst + at, psp.soc.engine.read(guest.asid, src + at, n))
    psp.soc.pages.mark(dst // PAGE, cmd.len // PAGE, pages.PRIVATE, guest.asid)
    psp.moved = cmd.len
