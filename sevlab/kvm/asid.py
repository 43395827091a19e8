"""The kernel's bookkeeping of key slots: free, used, waiting for a flush.

    free --take--> used --give_back--> reclaimable --(WBINVD, DF_FLUSH)--> free

A slot given back is not handed out again before all caches have been written
back and the firmware has flushed: a line still tagged with its number would be
read or written under the next guest's key. The flush is put off until somebody
finds no free slot, and then serves all slots at once, of both kinds.

Source: kvm.md C1 to C4 (sev_asid_new, sev_asid_free, __sev_recycle_asids,
sev_flush_asids). The kernel holds sev_deactivate_lock for writing from WBINVD to
DF_FLUSH, so that no DEACTIVATE falls between the two; here nothing can, because
nothing in these functions waits.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EBUSY, ENOTTY
from typing import Any

from sevlab.hw.soc import Soc
from sevlab.kvm.fd import KvmError, need
from sevlab.trace import Event, name, u8, u16, u32

FREE, USED, RECLAIMABLE = range(3)
NAMES = ("free", "used", "reclaimable")


class AsidTaken(Event, lane="kvm"):
    """A VM got a key slot, the lowest free one of its kind; its cgroup was charged for it."""

    asid: u16
    es: u8
    vm: u32
    cgroup: name


class AsidFreed(Event, lane="kvm"):
    """A VM gave its key slot back: from now on it waits for a flush."""

    asid: u16
    vm: u32


class AsidsFlushed(Event, lane="kvm"):
    """Nobody found a free slot: WBINVD on all cores, then DF_FLUSH. `freed` slots are clean again; none with `errno` not 0."""

    freed: u16
    errno: u16


class AsidPool:
    """Every key slot of the machine, as the kernel sees it.

    `states[asid]` is FREE, USED or RECLAIMABLE, `owners[asid]` the number of the
    VM that has the slot (0: nobody). Slot 0 is no guest's. Plain SEV takes
    min_asid to max_asid, SEV-ES 1 to min_asid - 1.
    """

    def __init__(self, soc: Soc, df_flush: Callable[[], KvmError | None], log: Callable[[str], None]) -> None:
        self.soc = soc
        self.min_asid = soc.chip.min_asid
        self.max_asid = soc.chip.max_asid
        self.states = bytearray(self.max_asid + 1)
        self.owners = [0] * (self.max_asid + 1)
        self.flushes = 0
        self._df_flush = df_flush
        self._log = log

    def slots(self, es: bool) -> range:
        """The numbers that a guest of this kind may have."""
        return range(1, self.min_asid) if es else range(self.min_asid, self.max_asid + 1)

    def take(self, es: bool, cgroup: Any, vm: int) -> int:
        """The lowest free slot for VM number `vm`, charged to `cgroup`.

        Raises KvmError: ENOTTY when the machine has no slot of this kind, EBUSY
        or EINVAL from the cgroup, EBUSY when no slot is free even after a flush.
        """
        slots = self.slots(es)
        need(slots, ENOTTY)  # min_asid > max_asid: no slot of this kind at all
        cgroup.try_charge(resource(es))  # EBUSY or EINVAL: the task's misc cgroup
        asid = self._lowest(slots)
        if asid < 0 and self._recycle(slots):
            asid = self._lowest(slots)
        if asid < 0:
            cgroup.uncharge(resource(es))
        need(asid > 0, EBUSY)  # no clear bit in sev_asid_bitmap, also after the one retry

        self.states[asid] = USED
        self.owners[asid] = vm
        self.soc.trace.emit(AsidTaken, asid, es, vm, cgroup.path)
        return asid

    def give_back(self, asid: int, es: bool, cgroup: Any) -> None:
        """The VM is gone: its slot waits for a flush, its cgroup is uncharged."""
        self.soc.trace.emit(AsidFreed, asid, self.owners[asid])
        self.states[asid] = RECLAIMABLE
        self.owners[asid] = 0
        if cgroup is not None:  # misc_cg_uncharge() of no cgroup does nothing
            cgroup.uncharge(resource(es))

    def hand_over(self, asid: int, vm: int) -> None:
        """A used slot is VM number `vm`'s from now on: its context was moved."""
        self.owners[asid] = vm

    def _lowest(self, slots: range) -> int:
        return self.states.find(FREE, slots.start, slots.stop)

    def _recycle(self, slots: range) -> bool:
        """Flush, if that frees a slot of the kind wanted; then it frees the others too."""
        if self.states.find(RECLAIMABLE, slots.start, slots.stop) < 0:
            return False  # every slot of this kind is in use: a flush would help nobody
        self.soc.wbinvd()
        no = self._df_flush()
        if no is not None:
            self._log(f"SEV: DF_FLUSH failed, ret=-{no.errno}, error={no.fw or 0:#x}")
            self.soc.trace.emit(AsidsFlushed, 0, no.errno)
            return False
        freed = self.states.count(RECLAIMABLE)
        self.states = self.states.replace(bytes((RECLAIMABLE,)), bytes((FREE,)))
        self.flushes += 1
        self.soc.trace.emit(AsidsFlushed, freed, 0)
        return True

    # ------------------------------------------------------------- for those who look

    def state(self, asid: int) -> str:
        """The name of a slot's state: free, used or reclaimable."""
        return NAMES[self.states[asid]]

    def counts(self, es: bool | None = None) -> dict[str, int]:
        """How many slots are in each state, by name; of one kind, or of both."""
        slots = range(1, self.max_asid + 1) if es is None else self.slots(es)
        part = self.states[slots.start : slots.stop]
        return {name: part.count(state) for state, name in enumerate(NAMES)}

    def used(self) -> dict[int, int]:
        """The slots in use: ASID to the number of its VM."""
        return {asid: vm for asid, vm in enumerate(self.owners) if vm}

    def __repr__(self) -> str:
        kinds = (("SEV-ES", True), ("SEV", False))
        parts = [f"{text} {self.slots(es).start}-{self.slots(es)[-1]}: {self._text(es)}" for text, es in kinds if self.slots(es)]
        return f"<AsidPool: {'; '.join(parts)}>"

    def _text(self, es: bool) -> str:
        return ", ".join(f"{count} {name}" for name, count in self.counts(es).items() if count)


def resource(es: bool) -> str:
    """The misc cgroup's name of a slot of this kind."""
    return "sev_es" if es else "sev"
