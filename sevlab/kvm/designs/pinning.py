"""The seam `pinning`: who keeps encrypted pages from moving, and how it knows which they are.

As posted: RFC v2 32/32, "x86: kvm: Pin the guest memory when SEV is active"
(Brijesh Singh, 2 March 2017), reviewed by Paolo Bonzini on 16 March 2017: a whole
slot is pinned when it appears and let go when it goes. The objection: memory can
be hidden from a guest for a while and mapped again (a RAM-backed PCI BAR, SMRAM).

As merged: KVM_MEMORY_ENCRYPT_REG_REGION and UNREG_REGION (4.16): two calls that no
firmware command stands behind; user space says which memory may hold ciphertext,
and a slot that comes and goes changes nothing.

Source: kvm.md D2, D3, D5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sevlab.abi.kvm import KVM_MEMORY_ENCRYPT_REG_REGION, KVM_MEMORY_ENCRYPT_UNREG_REGION
from sevlab.kvm.fd import KvmError

if TYPE_CHECKING:
    from sevlab.kvm.memslot import Slot
    from sevlab.kvm.task import Task
    from sevlab.kvm.vm import Vm


class SlotPin(NamedTuple):
    """A slot that was pinned when it appeared; `hva` and `id` are what it is found by again."""

    hva: int
    id: int
    pin: Any


class Pinning(Protocol):
    """Who keeps encrypted pages where they are. `without` are the ioctls that this kernel does not have."""

    without: frozenset[int]

    def started(self, vm: Vm) -> None:
        """The VM is about to get its key."""

    def slot_changed(self, vm: Vm, caller: Task, old: Slot | None, new: Slot | None) -> None:
        """A memory slot was made (`old` is None), deleted (`new` is None), moved or given other flags."""

    def destroy(self, vm: Vm) -> None:
        """The VM is gone: let go of what this seam still pins."""


class PinSlots:
    """As posted in 2017: the kernel pins every slot when it appears.

    What the mail does not say and the code does: it returns nothing, so a pin that
    fails is silent; a moved slot keeps its old pages; its list is made when the key
    is, so a slot older than that is never pinned; no limit is asked, and no cache
    is flushed before the pages go.
    """

    without = frozenset({KVM_MEMORY_ENCRYPT_REG_REGION, KVM_MEMORY_ENCRYPT_UNREG_REGION})

    def started(self, vm: Vm) -> None:
        if vm.sev.slot_pins is None:
            vm.sev.slot_pins = []

    def slot_changed(self, vm: Vm, caller: Task, old: Slot | None, new: Slot | None) -> None:
        pins = vm.sev.slot_pins
        if pins is None:
            return  # !sev_guest(kvm): the list is not made yet
        if old is None and new is not None:
            try:
                pins.append(SlotPin(new.hva, new.id, caller.pin(new.hva, new.pages << 12, True)))
            except KvmError as short:
                # The operation returns void: nobody hears of it, and the guest runs on unpinned memory.
                vm.kernel.log(f"SEV: failed to pin slot {new.id}: {short.why}")
        elif old is not None and new is None:
            found = next((one for one in pins if (one.hva, one.id) == (old.hva, old.id)), None)
            if found is not None:
                found.pin.release()
                pins.remove(found)

    def destroy(self, vm: Vm) -> None:
        for one in vm.sev.slot_pins or ():
            one.pin.release()
        vm.sev.slot_pins = None

    def __repr__(self) -> str:
        return "PinSlots()"


class RegRegion:
    """As merged in 4.16: user space registers its memory, once, for as long as it may hold ciphertext."""

    without: frozenset[int] = frozenset()

    def started(self, vm: Vm) -> None:
        """Nothing: the kernel waits to be told."""

    def slot_changed(self, vm: Vm, caller: Task, old: Slot | None, new: Slot | None) -> None:
        """Nothing: a slot and a region know nothing of each other."""

    def destroy(self, vm: Vm) -> None:
        """Nothing: the regions are let go by sev_vm_destroy."""

    def __repr__(self) -> str:
        return "RegRegion()"


PIN_SLOTS, REG_REGION = PinSlots(), RegRegion()
