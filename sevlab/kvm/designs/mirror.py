"""The seam `mirror`: KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, a second VM with the first one's key.

`Mirror_5_13` is the patch as it was posted and as it shipped in 5.13 (Nathan
Tempelman, "KVM: x86: Support KVM VMs sharing SEV context", 8 April 2021,
https://lore.kernel.org/kvm/20210408223214.2582277-1-natet@google.com; mainline
54526d1fd593). Merged is not finished: what it left open was closed over five
releases, and `Mirror` is 6.1 with all of that.

| hole of 5.13 | closed by |
|---|---|
| a descriptor that is not open takes the kernel down: fput(NULL) | before 5.15 |
| an SEV-ES source is copied half: the mirror takes itself for plain SEV | f43c887cb7cb, 5.15 |
| a mirror may ask nothing, not even GUEST_STATUS | 5b92b6ca92b6, 5.15 |
| a destination with vCPUs, which stay without the key | 79b111427637, 5.16 |
| the list of regions is not initialised | 2b347a387811, 5.16 |
| the two VMs are never locked together: a source may change in between | bf42b02b19e2, 5.16 |
| the owner does not know its mirrors: a MOVE leaves them behind | 17d44a96f000, 5.16; b2125513dfc0, 5.18 |

Its documentation promises ENOTTY on error; no version has ever returned that.
Source: kvm.md E1 to E5.
"""

from __future__ import annotations

from errno import EBADF, EINVAL, ESRCH
from typing import TYPE_CHECKING, Any, Protocol

from sevlab.abi.kvm import KVM_SEV_DBG_DECRYPT, KVM_SEV_DBG_ENCRYPT, KVM_SEV_GUEST_STATUS, KVM_SEV_LAUNCH_UPDATE_VMSA
from sevlab.kvm.enc_context import ContextCopied, adopt, lock_two_vms, orphan, source_vm
from sevlab.kvm.fd import Oops, need
from sevlab.kvm.lock import Lock
from sevlab.kvm.sev_info import Region
from sevlab.kvm.vm import Vm

if TYPE_CHECKING:
    from sevlab.kvm.task import Task


class MirrorSeam(Protocol):
    """What the kernel asks of this seam. Where it is absent, no VM is ever a mirror."""

    extension: int  # what KVM_CHECK_EXTENSION answers
    may: frozenset[int]  # the sub-commands of KVM_MEMORY_ENCRYPT_OP that a mirror has

    def enable(self, vm: Any, caller: Any, source_fd: int) -> Any:
        """KVM_ENABLE_CAP on the VM that becomes a mirror."""

    def destroy(self, vm: Any) -> None:
        """A mirror lost its last reference."""


class Uninitialised(list[Region]):
    """A list head that nobody has initialised: empty to look at, and to walk it is a null pointer."""


class Mirror_5_13:
    """As posted, and as it shipped."""

    extension = 1
    may: frozenset[int] = frozenset()

    async def enable(self, vm: Vm, caller: Task, source_fd: int) -> int:
        """The two VMs are locked one after the other, never together (svm_vm_copy_asid_from)."""
        file = caller.fget(source_fd)
        if file is None:
            raise Oops(ESRCH, why="kernel NULL pointer dereference in fput(): svm_vm_copy_asid_from() puts a file it never had")
        need(isinstance(file, Vm), EBADF)  # !file_is_kvm(source_kvm_file)
        source: Vm = file.get()
        try:
            async with Lock(source.lock):
                need(source.sev.active, EINVAL)  # !sev_guest(source_kvm)
                need(source.sev.owner is None, EINVAL)  # is_mirroring_enc_context(source_kvm)
                need(source is not vm, EINVAL)  # source_kvm == kvm

                asid = source.sev.asid
                owner: Vm = source.get()
        finally:
            source.put()
        try:
            async with Lock(vm.lock):
                need(not vm.sev.active, EINVAL)  # sev_guest(kvm)

                sev = vm.sev
                sev.owner, sev.asid, sev.active = owner, asid, True
                sev.regions = Uninitialised()
                for vcpu in vm.vcpus:  # pre_sev_run() will write the slot; nobody sets the bit that says encrypted
                    vcpu.vmcb.asid = asid
                vm.kernel.trace.emit(ContextCopied, vm.number, owner.number, asid)
        except BaseException:
            owner.put()
            raise
        return 0

    def destroy(self, vm: Vm) -> None:
        orphan(vm)

    def __repr__(self) -> str:
        return "Mirror_5_13()"


class Mirror:
    """As it stands in 6.1."""

    extension = 1
    may = frozenset((KVM_SEV_LAUNCH_UPDATE_VMSA, KVM_SEV_GUEST_STATUS, KVM_SEV_DBG_DECRYPT, KVM_SEV_DBG_ENCRYPT))

    async def enable(self, vm: Vm, caller: Task, source_fd: int) -> int:
        """Whether the source was ever launched is not asked: a mirror made early keeps handle 0 (sev_vm_copy_enc_context_from)."""
        source = source_vm(caller, source_fd)  # EBADF: !file_is_kvm(source_kvm_file)
        try:
            async with lock_two_vms(vm, source):  # EINVAL, EBUSY, EINTR: sev_lock_two_vms()
                need(not vm.sev.active, EINVAL)  # sev_guest(kvm): from here on four parts of one condition
                need(source.sev.active, EINVAL)  # !sev_guest(source_kvm)
                need(source.sev.owner is None, EINVAL)  # is_mirroring_enc_context(source_kvm)
                need(not vm.created, EINVAL)  # kvm->created_vcpus

                mirror, owner = vm.sev, source.sev
                adopt(vm, source)
                mirror.active, mirror.asid, mirror.es = True, owner.asid, owner.es
                mirror.handle, mirror.fd = owner.handle, owner.fd
                mirror.need_init = False
                vm.kernel.design.quirks.copied(mirror, owner)
                vm.kernel.trace.emit(ContextCopied, vm.number, source.number, owner.asid)
        finally:
            source.put()
        return 0

    def destroy(self, vm: Vm) -> None:
        orphan(vm)

    def __repr__(self) -> str:
        return "Mirror()"


MIRROR_5_13, MIRROR = Mirror_5_13(), Mirror()
