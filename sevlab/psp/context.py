"""A guest as the firmware remembers it: its context, under a handle."""

from __future__ import annotations

import hashlib

from sevlab.abi.sev import GuestState, Status
from sevlab.psp.rules import need
from sevlab.psp.states import GUEST
from sevlab.trace import Event, Trace, u8, u16, u32


class GuestStateChanged(Event, lane="psp"):
    """A command moved a guest from one firmware state to another."""

    handle: u32
    cmd: u16
    before: u8
    after: u8


class Guest:
    """One guest context.

    `vek` is the seed of its memory key (32 bytes), `tik` and `tek` the transport
    keys it shares with its owner (16 bytes each; zero without a session, and
    after LAUNCH_FINISH). `digest` runs over all that was loaded,
    `launch_digest` is its final value, `measure` the MAC that LAUNCH_MEASURE
    gave out. `asid` is 0 while the guest is inactive. `crc_blocks` maps the hpa of
    each register page to that of its check value in the TMR. `serial` counts
    the guests of this platform and is never used twice, unlike a handle.
    """

    __slots__ = (
        "asid", "crc_blocks", "digest", "handle", "launch_digest", "measure",
        "policy", "serial", "state", "tek", "tik", "trace", "vek",
    )  # fmt: skip

    def __init__(self, handle: int, serial: int, policy: int, vek: bytes, tek: bytes, tik: bytes, trace: Trace) -> None:
        self.handle = handle
        self.serial = serial
        self.policy = policy
        self.vek = vek
        self.tek = tek
        self.tik = tik
        self.trace = trace
        self.state = GuestState.UNINIT
        self.asid = 0
        self.digest = hashlib.sha256()
        self.launch_digest = bytes(32)
        self.measure = bytes(32)
        self.crc_blocks: dict[int, int] = {}

    def allow(self, cmd: int) -> None:
        """Refuse a command that the guest's state does not have."""
        need(self.state in GUEST[cmd], Status.INVALID_GUEST_STATE)  # not in this state of the guest

    def advance(self, cmd: int) -> None:
        """Go where the table says that `cmd` leads."""
        self._enter(GUEST[cmd][self.state], cmd)

    def _enter(self, state: GuestState, cmd: int) -> None:
        before, self.state = self.state, state
        if before is not state:
            self.trace.emit(GuestStateChanged, self.handle, cmd, before, state)

    def wipe_channel(self) -> None:
        """Forget the transport keys: nothing more is said to the owner."""
        self.tek = self.tik = bytes(16)

    def wipe(self, cmd: int) -> None:
        """Forget everything: `cmd` ended the guest, in whatever state it was."""
        self.wipe_channel()
        self.vek = self.launch_digest = self.measure = bytes(32)
        self.digest = hashlib.sha256()
        self.crc_blocks = {}
        self.asid = 0
        self._enter(GuestState.UNINIT, cmd)

    def __repr__(self) -> str:
        return f"<Guest {self.handle}: {self.state.name}, policy {self.policy:#x}, ASID {self.asid or 'none'}>"
