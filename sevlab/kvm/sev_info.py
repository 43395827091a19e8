"""What KVM remembers of an encrypted VM, and the pages that it keeps from moving.

Ciphertext is bound to its machine address, so whatever the firmware or a guest's
key touches must not move meanwhile. Source: kvm.md A1, D1 (struct kvm_sev_info,
sev_pin_memory).
"""

from __future__ import annotations

from errno import EINVAL, ENOMEM
from typing import TYPE_CHECKING, Any, NamedTuple

from sevlab.kvm.fd import File, KvmError, need

if TYPE_CHECKING:
    from sevlab.kvm.kernel import Kernel
    from sevlab.kvm.task import Task
    from sevlab.kvm.vm import Vm

PAGE = 4096
INT_MAX = 2**31 - 1
CAP_IPC_LOCK = "CAP_IPC_LOCK"


class Region(NamedTuple):
    """Memory that user space has registered as possibly encrypted; `addr` and `size` are the key to give it back."""

    addr: int
    size: int
    pin: SevPin


class SevInfo:
    """The SEV side of one VM, all zero until it is made an encrypted one.

    `fd` is the *number* of /dev/sev that LAUNCH_START was called with, no
    reference: whoever closes it takes the firmware away from this VM. (With the
    seam `quirks` mended it is the file itself.)
    `pages_locked` counts the pages pinned now, for this VM alone.
    """

    __slots__ = (
        "active", "ap_jump_table", "asid", "es", "fd", "ghcb_version", "handle", "mirrors",
        "misc_cg", "need_init", "owner", "pages_locked", "regions", "slot_pins", "vmsa_features",
    )  # fmt: skip

    def __init__(self, *, need_init: bool = False) -> None:
        self.active = False
        self.es = False
        self.need_init = need_init  # a VM of an SEV type that has not done INIT2
        self.asid = 0
        self.handle = 0  # the firmware's number, 0 before LAUNCH_START
        self.fd: int | File = 0
        self.pages_locked = 0
        self.regions: list[Region] = []
        self.slot_pins: list[Any] | None = None  # of the seam `pinning`, as posted; None before the key is made
        self.ap_jump_table = 0
        self.owner: Vm | None = None  # of a mirror: the VM whose key it shares
        self.mirrors: list[Vm] = []
        self.misc_cg: Any = None  # the cgroup that pays for the ASID
        self.vmsa_features = 0
        self.ghcb_version = 0

    def __repr__(self) -> str:
        if not self.active:
            return "<SevInfo: not encrypted>"
        kind = "SEV-ES" if self.es else "SEV"
        return f"<SevInfo: {kind}, ASID {self.asid}, handle {self.handle}, {self.pages_locked} pages locked>"


class SevPin:
    """A stretch of the caller's memory, pinned and counted until `release`.

    `pieces` are its physically contiguous parts, (hpa, bytes), in order.
    """

    __slots__ = ("count", "pieces", "pin", "sev")
    pieces: list[tuple[int, int]]

    def __init__(self, sev: SevInfo, pin: Any, hva: int, size: int, count: int) -> None:
        self.sev = sev
        self.pin = pin
        self.count = count
        skip = hva % PAGE
        runs = pin.runs
        if len(runs) == 1:
            self.pieces = [(runs[0][0] * PAGE + skip, size)]
            return
        self.pieces = []
        for pfn, pages in runs:
            piece = min(pages * PAGE - skip, size)
            self.pieces.append((pfn * PAGE + skip, piece))
            size, skip = size - piece, 0

    def release(self) -> None:
        """The pages may move again."""
        self.pin.release()
        self.sev.pages_locked -= self.count

    def __enter__(self) -> SevPin:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def pin_memory(vm: Vm, caller: Task, hva: int, size: int, write: bool) -> SevPin:
    """Pin the pages that `size` bytes at `hva` of the caller touch (sev_pin_memory).

    The limit is the caller's RLIMIT_MEMLOCK, the count this VM's own: two VMs of
    one process may each pin up to it. Raises EINVAL, ENOMEM.
    """
    kernel, sev = vm.kernel, vm.sev
    need(size and hva + size < 1 << 64, EINVAL)  # ulen == 0 || uaddr + ulen < uaddr
    count = (hva + size - 1) // PAGE - hva // PAGE + 1
    need(count <= INT_MAX, EINVAL)  # npages > INT_MAX
    locked, limit = sev.pages_locked + count, caller.memlock // PAGE
    if locked > limit and CAP_IPC_LOCK not in caller.caps:
        kernel.log(f"SEV: {locked} locked pages exceed the lock limit of {limit}.")
        raise KvmError(ENOMEM)  # locked > lock_limit && !capable(CAP_IPC_LOCK)
    try:
        pin = caller.pin(hva, size, write)
    except OSError as short:
        kernel.log(f"SEV: Failure locking {count} pages.")
        raise KvmError(ENOMEM) from short  # pin_user_pages_fast() pinned fewer pages

    kernel.soc.clock.spend("pin", size)
    sev.pages_locked = locked
    return SevPin(sev, pin, hva, size, count)


def flush(kernel: Kernel, pin: SevPin) -> None:
    """Write the host's lines of pinned pages back before the firmware reads DRAM (sev_clflush_pages).

    Nothing to do where the caches keep both views of a line coherent.
    """
    if not kernel.soc.chip.sme_coherent:
        for hpa, size in pin.pieces:
            kernel.soc.clflush(hpa, size)
