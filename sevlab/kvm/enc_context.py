"""One encryption context and two VMs: what KVM_CAP_VM_COPY_ENC_CONTEXT_FROM and KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM share.

The *context* of a VM is its key slot, the firmware's handle and what hangs on
them. A mirror has the slot in common with its owner, and keeps the owner; a move
hands all of it over. Source: kvm.md E3, E5, F1, F2 (sev_lock_two_vms,
sev_unlock_two_vms, sev_lock_vcpus_for_migration, sev_migrate_from).
"""

from __future__ import annotations

from errno import EBADF, EBUSY, EINTR, EINVAL
from typing import TYPE_CHECKING, Any

from sevlab.hw.vmcb import Vmcb
from sevlab.kvm.asid import resource
from sevlab.kvm.fd import need
from sevlab.kvm.lock import Lock, Locks, TryLock
from sevlab.kvm.vm import Vm
from sevlab.trace import Event, name, u16, u32

if TYPE_CHECKING:
    from sevlab.kvm.cgroup import Cgroup
    from sevlab.kvm.task import Task
    from sevlab.kvm.vcpu import Vcpu

# Of an SEV-ES vCPU everything moves that the sealed save area and the GHCB stand for; what its VM sets stays.
ES_STATE = ("vmsa_pfn", "guest_state_protected", "received_first_sipi", "ap_reset_hold_type", "ghcb")
ES_CONTROL = tuple(field for field in Vmcb.__slots__ if field not in ("asid", "sev", "es", "npt"))


class ContextCopied(Event, lane="kvm"):
    """A VM became a mirror: it has the key slot of its owner, which cannot go before it does."""

    mirror: u32
    owner: u32
    asid: u16


class ContextMoved(Event, lane="kvm"):
    """A key slot and all that hangs on it went from one VM to another; `cgroup` pays for it now ("" for a mirror's: nobody)."""

    dst: u32
    src: u32
    asid: u16
    cgroup: name


class MirrorGone(Event, lane="kvm"):
    """A mirror was destroyed: its owner has a reference less, and nothing else happened."""

    mirror: u32
    owner: u32


def source_vm(caller: Task, fd: int) -> Vm:
    """The VM behind a descriptor of the caller, with a reference of its own for the call. Raises EBADF."""
    file = caller.fget(fd)
    need(isinstance(file, Vm), EBADF)  # !file_is_kvm(source_kvm_file)
    vm: Vm = file.get()  # type: ignore[union-attr]
    return vm


def lock_two_vms(dst: Vm, src: Vm) -> Locks:
    """Both VMs, so that opposite calls cannot lock each other up: marks that are tried, then locks that are waited for.

    Raises EINVAL for one and the same VM; awaited, EBUSY where either is under way already, EINTR on death.
    """
    need(dst is not src, EINVAL)  # dst_kvm == src_kvm
    return Locks(
        TryLock(dst.migration_in_progress, EBUSY),  # atomic_cmpxchg_acquire(&dst_sev->migration_in_progress, 0, 1)
        TryLock(src.migration_in_progress, EBUSY),  # atomic_cmpxchg_acquire(&src_sev->migration_in_progress, 0, 1)
        Lock(dst.lock, EINTR),  # mutex_lock_killable(&dst_kvm->lock)
        Lock(src.lock, EINTR),  # mutex_lock_killable(&src_kvm->lock)
    )


def lock_vcpus(dst: Vm, src: Vm) -> Locks:
    """All vCPUs of both, the destination's first: waits for each that is inside KVM_RUN. Awaited, raises EINTR on death."""
    return Locks(*(Lock(vcpu.mutex, EINTR) for vcpu in (*dst.vcpus, *src.vcpus)))


# ------------------------------------------------------------------- mirrors


def adopt(mirror: Vm, owner: Vm) -> None:
    """Link a mirror to its owner, and let it keep a reference."""
    mirror.sev.owner = owner.get()
    owner.sev.mirrors.append(mirror)


def orphan(mirror: Vm) -> None:
    """The end of a mirror: off its owner's list, and the owner's reference back, which may be the owner's last.

    No WBINVD, no DEACTIVATE, no charge: key, slot and pins are the owner's.
    """
    owner = mirror.sev.owner
    assert owner is not None
    mirror.sev.active, mirror.sev.owner = False, None
    if mirror in owner.sev.mirrors:
        owner.sev.mirrors.remove(mirror)
    mirror.kernel.trace.emit(MirrorGone, mirror.number, owner.number)
    owner.put()


def hand_over_mirrors(dst: Vm, src: Vm) -> None:
    """Mirrors of the source become the destination's, each with its reference; a source that is itself one passes its place on."""
    for mirror in src.sev.mirrors:
        mirror.sev.owner = dst.get()
        src.put()
    dst.sev.mirrors, src.sev.mirrors = src.sev.mirrors, []
    owner = src.sev.owner
    if owner is not None:
        dst.sev.owner, src.sev.owner = owner, None  # the reference goes along
        owner.sev.mirrors = [dst if mirror is src else mirror for mirror in owner.sev.mirrors]


# -------------------------------------------------------------- handing over


def hand_over_context(dst: Vm, src: Vm) -> None:
    """Slot, handle, kind and pins of the source become the destination's; the source is an ordinary VM again.

    Not one page is touched: regions keep their pins, and the addresses that they had in the source's process.
    """
    new, old = dst.sev, src.sev
    new.active, new.es, new.asid, new.handle = True, old.es, old.asid, old.handle
    new.pages_locked, new.vmsa_features = old.pages_locked, old.vmsa_features
    hand_over_pins(dst, src)
    old.active, old.es, old.asid, old.handle, old.pages_locked = False, False, 0, 0, 0
    if new.owner is None:
        dst.kernel.asids.hand_over(new.asid, dst.number)
    dst.kernel.trace.emit(ContextMoved, dst.number, src.number, new.asid, new.misc_cg.path if new.misc_cg else "")


def hand_over_pins(dst: Vm, src: Vm) -> None:
    """Regions, and with the seam `pinning` as posted the pins of whole slots: no longer the source's to let go."""
    new, old = dst.sev, src.sev
    new.regions, old.regions = old.regions, []
    for region in new.regions:
        region.pin.sev = new  # whose count they are in
    new.slot_pins, old.slot_pins = old.slot_pins, None


def encrypt_vcpu(vcpu: Vcpu) -> None:
    """A vCPU that was made for an ordinary VM gets the control bits of its VM's new kind (sev_init_vmcb)."""
    sev = vcpu.vm.sev
    vcpu.vmcb.asid, vcpu.vmcb.sev, vcpu.vmcb.es = sev.asid, True, sev.es


def hand_over_registers(dst: Vcpu, src: Vcpu) -> None:
    """SEV-ES: the sealed save area and the GHCB of one vCPU become another's; what the first has left is nothing.

    What user space set beside them (mp_state, CPUID, MSRs) stays where it is.
    """
    if dst is src:  # (Move_6_0) a block copied onto itself, then zeroed
        src.vmsa_pfn = src.vmcb.vmsa_hpa = 0
        return
    for one, other, fields in ((dst, src, ES_STATE), (dst.vmcb, src.vmcb, ES_CONTROL)):
        for field in fields:
            mine, theirs = getattr(one, field), getattr(other, field)
            setattr(one, field, theirs)
            setattr(other, field, mine)
    for vcpu in (dst, src):
        if vcpu.ghcb is not None:
            vcpu.ghcb.vcpu = vcpu


# --------------------------------------------------------------- who pays


def charge_move(dst: Vm, src: Vm, cgroup: Cgroup) -> Charge:
    """Charge the destination before the source is released: a full target refuses, though in sum nothing would change.

    Raises EBUSY, EINVAL.
    """
    quirks = dst.kernel.design.quirks
    charge = Charge(dst, src)
    if not quirks.move_pays(src):
        return charge
    if cgroup is not src.sev.misc_cg:
        charge.resource = resource(quirks.move_charges_es(src.sev.es))
        cgroup.try_charge(charge.resource)  # EBUSY, EINVAL: sev_misc_cg_try_charge(dst_sev)
    dst.sev.misc_cg = cgroup
    return charge


class Charge:
    """A charge on the way from one cgroup to another: `settle` when the move is done, `undo` when it is not."""

    def __init__(self, dst: Vm, src: Vm) -> None:
        self.dst, self.src = dst, src
        self.resource = ""  # "": nothing was charged

    def settle(self) -> None:
        """The source's cgroup is released. A cgroup that is not there (a mirror's) is none to release."""
        self._release(self.src.sev)

    def undo(self) -> None:
        """The move was refused: the destination's cgroup is released."""
        self._release(self.dst.sev)

    def _release(self, sev: Any) -> None:
        if self.resource and sev.misc_cg is not None:
            sev.misc_cg.uncharge(self.resource)
        sev.misc_cg = None
