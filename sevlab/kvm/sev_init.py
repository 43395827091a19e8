"""KVM_SEV_INIT and its kin: an ordinary VM becomes an encrypted one, before it has a vCPU.

The VM gets a key slot, and the platform is brought up if it is not. There is no
firmware context yet: that is LAUNCH_START. Source: kvm.md B1, B2 (sev_guest_init,
sev_guest_init2, __sev_guest_init). Which of these handlers a kernel has is the
seam `init`; see `designs/init.py`.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL
from typing import TYPE_CHECKING

from sevlab.abi.kvm import (
    KVM_SEV_ES_INIT,
    KVM_X86_DEFAULT_VM,
    KVM_X86_SEV_ES_VM,
    KVM_X86_SEV_VM,
    kvm_sev_cmd,
    kvm_sev_init,
)
from sevlab.abi.sev import Cmd, Handle
from sevlab.kvm import copy_from_user
from sevlab.kvm.fd import KvmError, need

if TYPE_CHECKING:
    from sevlab.kvm.task import Task
    from sevlab.kvm.vm import Vm

GHCB_VERSION_MAX = 2
GHCB_VERSION_DEFAULT = 2


def guest_init(vm: Vm, caller: Task, cmd: kvm_sev_cmd) -> None:
    """KVM_SEV_INIT and KVM_SEV_ES_INIT as they were first; `cmd.data` is not looked at."""
    need(not vm.created, EINVAL)  # kvm->created_vcpus: a vCPU is made for one kind of VM
    need(not vm.sev.active, EBUSY)  # sev->active
    try:
        _take_asid(vm, caller, es=cmd.id == KVM_SEV_ES_INIT)
    except KvmError as no:
        why = f"{no.why}; sev_guest_init() says EBUSY whatever it was"
        raise KvmError(EBUSY, why=why) from no  # whatever sev_asid_new() said: its code is lost here
    _bring_up(vm, cmd)  # EIO, ETIMEDOUT, ENODEV


def guest_init_default(vm: Vm, caller: Task, cmd: kvm_sev_cmd) -> None:
    """KVM_SEV_INIT and KVM_SEV_ES_INIT once there are VM types: for the default type only, and as ever.

    GHCB version 1 and no VMSA features, so that old guests keep their measurement.
    """
    es = cmd.id == KVM_SEV_ES_INIT
    need(vm.vm_type == KVM_X86_DEFAULT_VM, EINVAL)  # kvm->arch.vm_type != KVM_X86_DEFAULT_VM
    need(not vm.created, EINVAL)  # kvm->created_vcpus
    need(not vm.sev.active, EINVAL)  # sev->active; EBUSY before 6.10
    _take_asid(vm, caller, es)  # EBUSY, ENOTTY, EINVAL: sev_asid_new()'s own
    _bring_up(vm, cmd)  # EIO, ETIMEDOUT, ENODEV

    vm.sev.ghcb_version = int(es)


def guest_init2(vm: Vm, caller: Task, cmd: kvm_sev_cmd) -> None:
    """KVM_SEV_INIT2: for a VM that was created with an SEV type; the pad fields are not looked at."""
    sev, es = vm.sev, vm.vm_type == KVM_X86_SEV_ES_VM
    need(sev.need_init, EINVAL)  # !sev->need_init: no SEV type, or done already, or a mirror
    need(vm.vm_type in (KVM_X86_SEV_VM, KVM_X86_SEV_ES_VM), EINVAL)  # none of SEV's types
    init = copy_from_user(caller, cmd.data, kvm_sev_init)  # EFAULT
    need(not vm.created, EINVAL)  # kvm->created_vcpus
    need(not init.flags, EINVAL)  # data->flags
    need(not init.vmsa_features & ~(vm.kernel.vmsa_features if es else 0), EINVAL)  # data->vmsa_features & ~valid_vmsa_features
    need(init.ghcb_version <= GHCB_VERSION_MAX, EINVAL)  # data->ghcb_version > GHCB_VERSION_MAX
    need(es or not init.ghcb_version, EINVAL)  # !es_active && data->ghcb_version
    need(not sev.active, EINVAL)  # sev->active
    _take_asid(vm, caller, es)  # EBUSY, ENOTTY, EINVAL: sev_asid_new()'s own
    _bring_up(vm, cmd)  # EIO, ETIMEDOUT, ENODEV

    sev.vmsa_features = init.vmsa_features
    sev.ghcb_version = (init.ghcb_version or GHCB_VERSION_DEFAULT) if es else 0
    sev.need_init = False


def _take_asid(vm: Vm, caller: Task, es: bool) -> None:
    """A key slot for this VM, paid for by the caller's cgroup."""
    cgroup = caller.cgroup
    asid = vm.kernel.asids.take(es, cgroup, vm.number)  # EBUSY, ENOTTY, EINVAL

    sev = vm.sev
    sev.active, sev.es, sev.asid, sev.misc_cg = True, es, asid, cgroup


def _bring_up(vm: Vm, cmd: kvm_sev_cmd) -> None:
    """The platform up, or all of it undone. (AVIC is inhibited from here on; there is none to inhibit.)"""
    try:
        vm.kernel.ccp.platform_init(cmd)
    except KvmError:
        release_asid(vm)
        vm.sev.active = vm.sev.es = False
        raise


def release_asid(vm: Vm) -> None:
    """Give the key slot back and uncharge its cgroup (sev_asid_free)."""
    sev = vm.sev
    vm.kernel.last_run.forget(sev.asid)
    vm.kernel.asids.give_back(sev.asid, sev.es, sev.misc_cg)
    sev.asid, sev.misc_cg = 0, None


def unbind_asid(vm: Vm, handle: int) -> None:
    """Take a guest's key out of its slot and its context out of the firmware; refusals are ignored (sev_unbind_asid).

    The kernel holds sev_deactivate_lock for reading here: no DEACTIVATE falls into a flush.
    """
    if handle:
        vm.kernel.ccp.attempt(Cmd.DEACTIVATE, Handle(handle))
        vm.kernel.ccp.attempt(Cmd.DECOMMISSION, Handle(handle))


def vm_destroy(vm: Vm) -> None:
    """The SEV side of a VM that nobody holds any more (sev_vm_destroy; kvm.md D8): called before its vCPUs are freed.

    The slot is not free then, it waits for a flush.
    """
    sev = vm.sev
    vm.kernel.design.quirks.forget(sev)
    if not sev.active:
        return
    if sev.owner is not None:
        return vm.kernel.design.mirror.destroy(vm)  # is_mirroring_enc_context(kvm): the key is the owner's
    vm.kernel.design.pinning.destroy(vm)
    vm.kernel.soc.wbinvd()  # lines of the guest must not reach pages that are somebody else's by then
    for region in sev.regions:
        region.pin.release()
    sev.regions.clear()
    unbind_asid(vm, sev.handle)
    release_asid(vm)
    sev.active = False
