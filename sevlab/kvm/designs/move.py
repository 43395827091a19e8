"""The seam `move`: capability 206, the encryption context of one VM to another on the same host.

`Move_V11` is what was posted: Peter Gonda, "[PATCH V11 2/5] KVM: SEV: Add support
for SEV intra host migration", 21 October 2021, under the name
KVM_CAP_VM_MIGRATE_PROTECTED_VM_FROM. Sean Christopherson reviewed it on 4 November
2021; `Move` is what came of it, as it stands in 6.1 (b56639318bb2, 0b020f5af092,
b67a4cc35c9f of 5.16, and the fixes since).

| | V11 | 6.1 |
|---|---|---|
| its name | MIGRATE_PROTECTED_VM_FROM | MOVE_ENC_CONTEXT_FROM (the number stayed) |
| KVM_CHECK_EXTENSION | 0: forgotten | 1 |
| asked first | is the destination SEV already? | is the descriptor a VM? |
| a VM onto itself | EBUSY: its own mark is set | EINVAL |
| who pays | the pointer is copied: whoever paid before | charged, then the source is released |
| the source | its vCPUs are "reset", and it goes on answering | dead: EIO to everything |
| SEV-ES | EINVAL | save areas and GHCBs move, vCPU by vCPU |
| vCPUs of the destination | stay without the key | get it (6defa24d, 5.18.8) |
| mirrors | forgotten | handed over (b2125513dfc0, 5.18) |
| a wait for a vCPU that is given up | unlocks all of them a second time | unlocks what it holds |

That list_replace_init() on an empty list corrupts it, as the fix 4674164f0ac5
says, does not hold: played through, both lists end up empty. Only a list that was
never initialised, a 5.13 mirror's, is a null pointer here.

`Move_6_0` is `Move` before 6.1.54: its loop looked for the source's vCPUs in the
destination. `Move_Naive` is a design of our own, neither V11 nor Linux: without
the marks, two opposite calls can wait for each other for ever.
Source: kvm.md F1 to F7.
"""

from __future__ import annotations

from errno import EBADF, EBUSY, EINTR, EINVAL, ESRCH
from typing import TYPE_CHECKING

from sevlab.kvm import enc_context as context
from sevlab.kvm import vcpu_regs
from sevlab.kvm.designs.mirror import Uninitialised
from sevlab.kvm.enc_context import lock_two_vms, lock_vcpus, source_vm
from sevlab.kvm.fd import KvmError, Oops, need
from sevlab.kvm.lock import Lock, Locks, Mutex, TryLock, Unlock
from sevlab.kvm.vm import Vm

if TYPE_CHECKING:
    from sevlab.kvm.task import Task
    from sevlab.kvm.vcpu import Vcpu

KVM_CAP_VM_MIGRATE_PROTECTED_VM_FROM = 206  # V11's name for the number


class Move:
    """As it stands in 6.1."""

    extension = 1
    imaginary = ""

    async def enable(self, vm: Vm, caller: Task, source_fd: int) -> int:
        """All can be refused until the last of the checks; then both VMs change at once (sev_vm_move_enc_context_from)."""
        source = source_vm(caller, source_fd)  # EBADF: !file_is_kvm(source_kvm_file)
        try:
            async with self.lock_two(vm, source):  # EINVAL, EBUSY, EINTR: sev_lock_two_vms()
                need(vm.vm_type == source.vm_type, EINVAL)  # kvm->arch.vm_type != source_kvm->arch.vm_type (6.10)
                need(not vm.sev.active and source.sev.active, EINVAL)  # sev_guest(kvm) || !sev_guest(source_kvm)
                charge = context.charge_move(vm, source, caller.cgroup)  # EBUSY, EINVAL: sev_misc_cg_try_charge()
                try:
                    async with lock_vcpus(vm, source):  # EINTR: sev_lock_vcpus_for_migration()
                        need(vm.created == len(vm.vcpus), EBUSY)  # created_vcpus != online_vcpus (6.1.146)
                        need(source.created == len(source.vcpus), EBUSY)  # and the same of the source
                        es, ours, theirs = source.sev.es, vm.vcpus, source.vcpus
                        need(not es or len(ours) == len(theirs), EINVAL)  # SEV-ES: src->online_vcpus != dst->online_vcpus
                        need(not es or all(vcpu.guest_state_protected for vcpu in theirs), EINVAL)  # !guest_state_protected

                        self.transfer(vm, source)
                        source.dead = True
                except BaseException:
                    charge.undo()
                    raise
                charge.settle()
        finally:
            source.put()
        return 0

    def lock_two(self, dst: Vm, src: Vm) -> Locks:
        """Marks first, which are tried; then locks, which are waited for."""
        return lock_two_vms(dst, src)

    def transfer(self, dst: Vm, src: Vm) -> None:
        """What moves, and with the seam `quirks` what should have (sev_migrate_from)."""
        context.hand_over_mirrors(dst, src)
        context.hand_over_context(dst, src)
        dst.kernel.design.quirks.carry(dst.sev, src.sev)
        for index, vcpu in enumerate(dst.vcpus):
            context.encrypt_vcpu(vcpu)
            if dst.sev.es:
                context.hand_over_registers(vcpu, self.source_vcpu(dst, src, index))

    def source_vcpu(self, dst: Vm, src: Vm, index: int) -> Vcpu:
        """The vCPU whose registers go to the destination's: the one of the same index, whatever its id."""
        return src.vcpus[index]

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Move_6_0(Move):
    """Before 6.1.54: the loop over the destination's vCPUs took the source's vCPU from the destination too."""

    def source_vcpu(self, dst: Vm, src: Vm, index: int) -> Vcpu:
        return dst.vcpus[index]


class Move_Naive(Move):
    """A design of our own: both locks, one after the other, and no marks."""

    imaginary = "This kernel never existed: none ever took the two locks of a move one after the other, without a flag before them."

    def lock_two(self, dst: Vm, src: Vm) -> Locks:
        need(dst is not src, EINVAL)  # one and the same VM
        return Locks(Lock(dst.lock, EINTR), Lock(src.lock, EINTR))


class Move_V11:
    """As posted."""

    extension = 0  # KVM_CHECK_EXTENSION was forgotten
    imaginary = ""

    async def enable(self, vm: Vm, caller: Task, source_fd: int) -> int:
        """Locks are taken one by one and given back by labels, two of which are wrong (svm_vm_migrate_from)."""
        held: list[Mutex] = []
        source: Vm | None = None
        try:
            await _lock_for_migration(vm, held)  # EBUSY: sev_lock_for_migration(kvm)
            need(not vm.sev.active, EINVAL)  # sev_guest(kvm)
            file = caller.fget(source_fd)
            if not isinstance(file, Vm):
                raise KvmError(EBADF)  # !file_is_kvm(source_kvm_file)
            source = file.get()
            assert source is not None
            await _lock_for_migration(source, held)  # EBUSY: sev_lock_for_migration(source_kvm)
            need(source.sev.active and not source.sev.es, EINVAL)  # !sev_guest(source_kvm) || sev_es_guest(source_kvm)
            await _lock_vcpus_for_migration(vm, held)  # EINTR: sev_lock_vcpus_for_migration(kvm)
            await _lock_vcpus_for_migration(source, held)  # EINTR: sev_lock_vcpus_for_migration(source_kvm)

            self.transfer(vm, source)
        except Oops:
            raise  # a task that dies inside the kernel gives nothing back
        except GeneratorExit:
            for mutex in held:
                mutex.holder = None
            raise
        except BaseException:
            await self._unwind(held, source)
            raise
        await self._unwind(held, source)
        return 0

    def transfer(self, dst: Vm, src: Vm) -> None:
        """Six fields and a list (sev_migrate_from), and a reset of every source vCPU, which KVM has no true one of."""
        new, old = dst.sev, src.sev
        new.active, new.asid, new.misc_cg = True, old.asid, old.misc_cg
        new.handle, new.pages_locked = old.handle, old.pages_locked
        old.asid, old.active, old.handle, old.pages_locked, old.misc_cg = 0, False, 0, 0, None
        if isinstance(old.regions, Uninitialised):
            raise Oops(ESRCH, why="kernel NULL pointer dereference in list_replace_init(): a mirror's regions_list")
        context.hand_over_pins(dst, src)
        dst.kernel.asids.hand_over(new.asid, dst.number)
        dst.kernel.trace.emit(context.ContextMoved, dst.number, src.number, new.asid, new.misc_cg.path if new.misc_cg else "")
        for vcpu in dst.vcpus:  # pre_sev_run() will write the slot; nobody sets the bit that says encrypted
            vcpu.vmcb.asid = new.asid
        for vcpu in src.vcpus:
            vcpu_regs.reset(vcpu)  # kvm_vcpu_reset(vcpu, init_event=false)
            vcpu.vmcb.asid = 0  # an ordinary VM's again, while its control block still says encrypted

    async def _unwind(self, held: list[Mutex], source: Vm | None) -> None:
        while held:
            await Unlock(held.pop())
        if source is not None:
            source.put()

    def __repr__(self) -> str:
        return "Move_V11()"


async def _lock_for_migration(vm: Vm, held: list[Mutex]) -> None:
    """The mark, tried; the VM's lock, waited for, and not even death ends that."""
    await TryLock(vm.migration_in_progress, EBUSY)  # atomic_cmpxchg_acquire(&sev->migration_in_progress, 0, 1)
    held.append(vm.migration_in_progress)
    await Lock(vm.lock)  # mutex_lock(&kvm->lock)
    held.append(vm.lock)


async def _lock_vcpus_for_migration(vm: Vm, held: list[Mutex]) -> None:
    """Every vCPU. When one cannot be had, those that are held are given back; and then, by the wrong label, *all* of them.

    The second time takes the lock away from whoever has it: a KVM_RUN under way.
    """
    taken: list[Mutex] = []
    try:
        for vcpu in vm.vcpus:
            await Lock(vcpu.mutex, EINTR)  # mutex_lock_killable(&vcpu->mutex)
            taken.append(vcpu.mutex)
    except KvmError:
        while taken:
            await Unlock(taken.pop())
        for vcpu in vm.vcpus:  # goto out_dst_vcpu, goto out_source_vcpu: they unlock once more
            vm.kernel.log("WARNING: bad unlock balance detected!")
            await Unlock(vcpu.mutex)
        raise
    held.extend(taken)


MOVE_V11, MOVE_6_0, MOVE, MOVE_NAIVE = Move_V11(), Move_6_0(), Move(), Move_Naive()
