"""Memory slots: which of the process's memory a guest sees, and where.

Source: kvm.md A10 (kvm_vm_ioctl_set_memory_region, __kvm_set_memory_region). A
slot and a region registered as encrypted know nothing of each other.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from errno import EEXIST, EINVAL
from typing import NamedTuple

from sevlab.abi.kvm import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KVM_USER_MEM_SLOTS, kvm_userspace_memory_region
from sevlab.kvm.fd import need
from sevlab.kvm.mm import TASK_SIZE
from sevlab.trace import Event, u16, u32, u64

PAGE = 4096
FLAGS = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY
MAX_PAGES = (1 << 31) - 1  # KVM_MEM_MAX_NR_PAGES


class SlotSet(Event, lane="kvm"):
    """A memory slot of a VM was made, moved, changed, or (size 0) deleted."""

    vm: u32
    slot: u16
    gpa: u64
    size: u64
    hva: u64


class Slot(NamedTuple):
    """One memory slot: `pages` guest frames from `gfn` on, and the address `hva` of the VM's process that is their memory."""

    id: int
    gfn: int
    pages: int
    hva: int
    flags: int

    @property
    def readonly(self) -> bool:
        """Whether a guest's write becomes an MMIO exit."""
        return bool(self.flags & KVM_MEM_READONLY)


class Slots:
    """The memory slots of one VM, by number and by place."""

    def __init__(self) -> None:
        self.by_id: dict[int, Slot] = {}
        self._sorted: list[Slot] = []
        self._starts: list[int] = []

    def set(self, region: kvm_userspace_memory_region) -> tuple[Slot | None, Slot | None]:
        """Make, move, change or delete the slot that `region` names: (old, new), either of them None.

        Raises EINVAL and EEXIST, in the kernel's order.
        """
        gpa, size, hva = region.guest_phys_addr, region.memory_size, region.userspace_addr
        need(region.slot & 0xFFFF < KVM_USER_MEM_SLOTS, EINVAL)  # (u16)mem->slot >= KVM_USER_MEM_SLOTS
        need(not region.flags & ~FLAGS, EINVAL)  # check_memory_region_flags()
        need(not size % PAGE, EINVAL)  # memory_size & (PAGE_SIZE - 1)
        need(not gpa % PAGE, EINVAL)  # guest_phys_addr & (PAGE_SIZE - 1)
        need(not hva % PAGE, EINVAL)  # userspace_addr & (PAGE_SIZE - 1)
        need(hva + size <= TASK_SIZE, EINVAL)  # !access_ok(userspace_addr, memory_size)
        need(region.slot >> 16 == 0, EINVAL)  # as_id >= KVM_ADDRESS_SPACE_NUM; there is no SMM here, so only one
        need(gpa + size < 1 << 64, EINVAL)  # guest_phys_addr + memory_size < guest_phys_addr
        need(size // PAGE <= MAX_PAGES, EINVAL)  # more than KVM_MEM_MAX_NR_PAGES
        old = self.by_id.get(region.slot)
        need(size or old, EINVAL)  # deleting a slot that is not there
        new = Slot(region.slot, gpa // PAGE, size // PAGE, hva, region.flags) if size else None
        if new and old:
            need(new.hva == old.hva, EINVAL)  # the slot lies elsewhere in the process
            need(new.pages == old.pages, EINVAL)  # npages != old->npages
            need(new.readonly == old.readonly, EINVAL)  # (flags ^ old->flags) & KVM_MEM_READONLY
        if new and (not old or new.gfn != old.gfn):
            need(not self._overlaps(new), EEXIST)  # kvm_check_memslot_overlap()

        if new:
            self.by_id[new.id] = new
        else:
            del self.by_id[region.slot]
        self._sorted = sorted(self.by_id.values(), key=lambda slot: slot.gfn)
        self._starts = [slot.gfn for slot in self._sorted]
        return old, new

    def _overlaps(self, new: Slot) -> bool:
        others = (slot for slot in self._sorted if slot.id != new.id)
        return any(slot.gfn < new.gfn + new.pages and new.gfn < slot.gfn + slot.pages for slot in others)

    def find(self, gfn: int) -> Slot | None:
        """The slot that holds a guest frame."""
        at = bisect_right(self._starts, gfn) - 1
        if at >= 0 and gfn < self._sorted[at].gfn + self._sorted[at].pages:
            return self._sorted[at]
        return None

    def behind(self, hva: int, size: int) -> Iterator[tuple[int, int]]:
        """The guest frames whose memory lies in `size` bytes at `hva`, as (gfn, count)."""
        for slot in self._sorted:
            first = max(hva, slot.hva) // PAGE
            end = min(hva + size + PAGE - 1, slot.hva + slot.pages * PAGE) // PAGE
            if first < end:
                yield slot.gfn + first - slot.hva // PAGE, end - first

    def __iter__(self) -> Iterator[Slot]:
        """The slots in the order of their guest addresses."""
        return iter(self._sorted)

    def __len__(self) -> int:
        return len(self._sorted)
