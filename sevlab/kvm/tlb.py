"""Which guest ran last where, and when a processor must forget its translations.

Every processor keeps, for each key slot, the vCPU that last ran with it there. A
vCPU may go on without a flush if that is itself and if it was last on this very
processor: its translations are tagged with the slot's number and nobody else has
used the slot here. So two vCPUs of one VM that take turns on one processor flush at
every turn, and so do a mirror and its owner, who share a slot.

Source: kvm.md C6 (pre_sev_run, sev_vmcbs). The translations themselves are not
modelled: nothing stale is ever used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sevlab.hw.soc import Soc
from sevlab.trace import Event, u8, u16, u32

if TYPE_CHECKING:
    from sevlab.kvm.vcpu import Vcpu

CPUS = 64  # processors of the machine


class TlbFlushed(Event, lane="kvm"):
    """A processor forgot the translations of a key slot before it entered a guest (TLB_CONTROL 3)."""

    vm: u32
    vcpu: u32
    asid: u16
    cpu: u8


class LastRun:
    """The vCPU that last ran with a key slot, for each processor: (cpu, asid) to it. `flushes` counts."""

    def __init__(self, soc: Soc) -> None:
        self.soc = soc
        self.flushes = 0
        self._last: dict[tuple[int, int], Vcpu] = {}

    def enter(self, vcpu: Vcpu, asid: int, cpu: int) -> None:
        """`vcpu` is about to run with `asid` on processor `cpu`: flush unless it was the last one here, and here last."""
        place = cpu, asid
        if vcpu.last_cpu == cpu and self._last.get(place) is vcpu:
            return
        self._last[place], vcpu.last_cpu = vcpu, cpu
        self.flushes += 1
        self.soc.clock.spend("TLB flush")
        self.soc.trace.emit(TlbFlushed, vcpu.vm.number, vcpu.id, asid, cpu)

    def forget(self, asid: int) -> None:
        """The slot was given back: no vCPU is its last (sev_asid_free)."""
        for place in [place for place in self._last if place[1] == asid]:
            del self._last[place]
