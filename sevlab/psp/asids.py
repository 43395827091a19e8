"""The firmware's view of the key slots: in use, dirty, clean.

    dirty --(every core has done WBINVD, then DF_FLUSH)--> clean
    clean --ACTIVATE--> in use --DEACTIVATE--> dirty

A dirty slot may have cache lines or writes under way that were made under the
key it had. Handing it out would let the next guest read what they leave behind,
so the firmware refuses. Source: firmware.md 2.2, 2.4.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import groupby

from sevlab.trace import Event, Trace, u8, u16, u32


class AsidState(IntEnum):
    """Where a key slot is in its life."""

    INVALID = 0  # the platform is down
    DIRTY = 1
    CLEAN = 2
    USED = 3


class AsidsChanged(Event, lane="psp"):
    """Key slots `first` to `first + count - 1` changed state: 0 invalid, 1 dirty, 2 clean, 3 in use by `handle`."""

    first: u16
    count: u16
    state: u8
    handle: u32


class Asids:
    """Every key slot's state. Slot 0 is no guest's: it means "no key"."""

    def __init__(self, max_asid: int, trace: Trace) -> None:
        self.max_asid = max_asid
        self.trace = trace
        self.states = bytearray(max_asid + 1)

    def _set(self, first: int, count: int, state: AsidState, handle: int = 0) -> None:
        self.states[first : first + count] = bytes((state,)) * count
        self.trace.emit(AsidsChanged, first, count, state, handle)

    def reset(self, state: AsidState) -> None:
        """Put every slot into one state: all dirty at INIT, all invalid at SHUTDOWN."""
        self._set(1, self.max_asid, state)

    def exists(self, asid: int) -> bool:
        return 0 < asid <= self.max_asid

    def used(self, asid: int) -> bool:
        return self.states[asid] == AsidState.USED

    def clean(self, asid: int) -> bool:
        return self.states[asid] == AsidState.CLEAN

    def take(self, asid: int, handle: int) -> None:
        """A clean slot gets a guest's key."""
        self._set(asid, 1, AsidState.USED, handle)

    def release(self, asid: int) -> None:
        """The guest has left; nobody may have the slot before a flush."""
        self._set(asid, 1, AsidState.DIRTY)

    def flush(self) -> None:
        """Every dirty slot becomes clean."""
        for dirty, run in groupby(range(1, self.max_asid + 1), key=lambda asid: self.states[asid] == AsidState.DIRTY):
            if dirty:
                slots = list(run)
                self._set(slots[0], len(slots), AsidState.CLEAN)
