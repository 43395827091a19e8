"""KVM_SEV_LAUNCH_*: from memory that anybody may read to a guest whose owner knows what runs.

Each handler is one sub-command of KVM_MEMORY_ENCRYPT_OP, run under the VM's lock.
Pointers in its structure are hvas of the caller. `cmd.error` is written by the
firmware's answer alone. Source: kvm.md B3 to B9 (arch/x86/kvm/svm/sev.c).
"""

from __future__ import annotations

from errno import EBUSY, EINTR, EINVAL, ENOTTY
from typing import TYPE_CHECKING, Any

from sevlab.abi.kvm import (
    SEV_FW_BLOB_MAX_SIZE,
    kvm_sev_attestation_report,
    kvm_sev_cmd,
    kvm_sev_guest_status,
    kvm_sev_launch_measure,
    kvm_sev_launch_secret,
    kvm_sev_launch_start,
    kvm_sev_launch_update_data,
)
from sevlab.abi.sev import Activate, Attestation, Cmd, GuestStatus, Handle, LaunchMeasure, LaunchStart, LaunchUpdate, Packet
from sevlab.kvm import copy_from_user, copy_to_user
from sevlab.kvm.fd import KvmError, need
from sevlab.kvm.lock import Lock
from sevlab.kvm.sev_info import PAGE, flush, pin_memory
from sevlab.kvm.sev_init import unbind_asid

if TYPE_CHECKING:
    from sevlab.kvm.task import Task
    from sevlab.kvm.vm import Vm

DR7_FIXED = 0x400
UPDATE, STATUS = kvm_sev_launch_update_data.FORMAT, GuestStatus.FORMAT


def launch_start(vm: Vm, caller: Task, cmd: kvm_sev_cmd) -> None:
    """KVM_SEV_LAUNCH_START: a firmware context, and its key into this VM's slot (sev_launch_start).

    `handle` in the structure is input too: 0, or a guest whose key is shared. The
    number of /dev/sev is remembered for all commands to come. Nobody asks whether
    the VM has a context already: the firmware then refuses the second ACTIVATE.
    """
    kernel, sev = vm.kernel, vm.sev
    need(sev.active, ENOTTY)  # !sev_guest(kvm)
    kernel.design.pinning.started(vm)
    user = copy_from_user(caller, cmd.data, kvm_sev_launch_start)  # EFAULT
    with kernel.ccp.heap() as heap:
        start = LaunchStart(handle=user.handle, policy=user.policy)
        if user.dh_uaddr:
            start.dh_cert_paddr = heap.copy_user_blob(caller, user.dh_uaddr, user.dh_len)  # EINVAL, EFAULT
            start.dh_cert_len = user.dh_len
        if user.session_uaddr:
            start.session_paddr = heap.copy_user_blob(caller, user.session_uaddr, user.session_len)  # EINVAL, EFAULT
            start.session_len = user.session_len
        kernel.ccp.issue(caller, cmd.sev_fd, Cmd.LAUNCH_START, start, cmd)  # EBADF, EIO
    bind_asid(vm, start.handle, cmd)  # EIO: the slot is somebody's, or was not flushed
    user.handle = start.handle
    try:
        copy_to_user(caller, cmd.data, user)  # EFAULT
    except OSError:
        unbind_asid(vm, start.handle)
        raise

    sev.handle = start.handle
    sev.fd = kernel.design.quirks.remember(caller, cmd.sev_fd)


def bind_asid(vm: Vm, handle: int, cmd: kvm_sev_cmd) -> None:
    """ACTIVATE a firmware context in the VM's slot; one that cannot be activated is forgotten again (sev_bind_asid)."""
    try:
        vm.kernel.ccp.command(Cmd.ACTIVATE, Activate(handle, vm.sev.asid), cmd)
    except KvmError:
        vm.kernel.ccp.attempt(Cmd.DECOMMISSION, Handle(handle))
        raise


def launch_update_data(vm: Vm, caller: Task, cmd: kvm_sev_cmd) -> None:
    """KVM_SEV_LAUNCH_UPDATE_DATA: measure memory and encrypt it where it lies (sev_launch_update_data).

    One firmware command for each physically contiguous piece. Not transactional:
    what was encrypted before a refusal stays encrypted, and measured.
    """
    sev, ccp = vm.sev, vm.kernel.ccp
    need(sev.active, ENOTTY)  # !sev_guest(kvm)
    uaddr, length, _ = UPDATE.unpack(caller.read(cmd.data, UPDATE.size))  # EFAULT; by layout, since this is run often
    with pin_memory(vm, caller, uaddr, length, write=True) as pin:  # EINVAL, ENOMEM
        flush(vm.kernel, pin)
        for hpa, size in pin.pieces:
            update = LaunchUpdate.FORMAT.pack(sev.handle, 0, vm.kernel.private(hpa), size)
            ccp.issue(caller, sev.fd, Cmd.LAUNCH_UPDATE_DATA, update, cmd)  # EBADF, EIO


async def launch_update_vmsa(vm: Vm, caller: Task, cmd: kvm_sev_cmd) -> None:
    """KVM_SEV_LAUNCH_UPDATE_VMSA: measure and encrypt the registers of every vCPU, in index order (sev_launch_update_vmsa).

    Waits for a vCPU that is inside KVM_RUN. Not transactional: those before the
    one that was refused stay encrypted.
    """
    release = vm.kernel.design.release
    need(vm.sev.es, ENOTTY)  # !sev_es_guest(kvm)
    need(not release.vmsa_once or vm.created == len(vm.vcpus), EBUSY)  # a vCPU is being created (6.12.83)
    for vcpu in vm.vcpus:
        async with Lock(vcpu.mutex, EINTR):  # EINTR: mutex_lock_killable(&vcpu->mutex)
            _update_vmsa(vm, caller, vcpu, cmd)  # EINVAL, EBADF, EIO


def _update_vmsa(vm: Vm, caller: Task, vcpu: Any, cmd: kvm_sev_cmd) -> None:
    """One vCPU's registers (__sev_launch_update_vmsa, sev_es_sync_vmsa)."""
    kernel, sev = vm.kernel, vm.sev
    need(not vcpu.guest_debug and not vcpu.dr7 & ~DR7_FIXED, EINVAL)  # vcpu->guest_debug || svm->vmcb->save.dr7 & ~DR7_FIXED_1
    need(not (kernel.design.release.vmsa_once and vcpu.guest_state_protected), EINVAL)  # already encrypted (6.12.83)
    hpa = vcpu.vmsa_pfn * PAGE
    kernel.soc.host.write(hpa, vcpu.vmsa_page())
    if not kernel.soc.chip.sme_coherent:
        kernel.soc.clflush(hpa, PAGE)
    update = LaunchUpdate(sev.handle, 0, kernel.private(hpa), PAGE)
    kernel.ccp.issue(caller, sev.fd, Cmd.LAUNCH_UPDATE_VMSA, update, cmd)  # EBADF, EIO

    vcpu.guest_state_protected = True  # only now: a refused vCPU is an ordinary one still


def launch_measure(vm: Vm, caller: Task, cmd: kvm_sev_cmd) -> None:
    """KVM_SEV_LAUNCH_MEASURE: the measurement, 48 bytes; with `len` 0 only how long it is (sev_launch_measure)."""
    need(vm.sev.active, ENOTTY)  # !sev_guest(kvm)
    user = copy_from_user(caller, cmd.data, kvm_sev_launch_measure)  # EFAULT
    _report(vm, caller, cmd, user, Cmd.LAUNCH_MEASURE, LaunchMeasure(vm.sev.handle))  # EINVAL, EBADF, EIO, EFAULT


def get_attestation_report(vm: Vm, caller: Task, cmd: kvm_sev_cmd) -> None:
    """KVM_SEV_GET_ATTESTATION_REPORT: the launch digest and the caller's nonce, signed by the PEK (sev_get_attestation_report)."""
    need(vm.sev.active, ENOTTY)  # !sev_guest(kvm)
    user = copy_from_user(caller, cmd.data, kvm_sev_attestation_report)  # EFAULT
    nonce = user.mnonce if user.len and user.uaddr else bytes(16)
    _report(vm, caller, cmd, user, Cmd.ATTESTATION, Attestation(vm.sev.handle, mnonce=nonce))  # EINVAL, EBADF, EIO, EFAULT


def _report(vm: Vm, caller: Task, cmd: kvm_sev_cmd, user: Any, what: Cmd, request: Any) -> None:
    """What both do: `len` 0 asks for the length, everything else wants the bytes.

    A null address with a length is a query whose answer gets lost: `len` is not
    written back. The firmware has done its work when the copy out faults.
    """
    ccp = vm.kernel.ccp
    with ccp.heap() as heap:
        if user.len and user.uaddr:
            need(user.len <= SEV_FW_BLOB_MAX_SIZE, EINVAL)  # params.len > SEV_FW_BLOB_MAX_SIZE
            request.paddr, request.len = heap.alloc(user.len), user.len
        refused: KvmError | None = None
        try:
            ccp.issue(caller, vm.sev.fd, what, request, cmd)  # EBADF, EIO
        except KvmError as no:
            refused = no
        if refused and user.len:
            raise refused
        if request.paddr:
            try:
                caller.write(user.uaddr, heap.read(request.paddr, user.len))  # EFAULT
            except KvmError as fault:
                refused = fault  # the length is written all the same
        user.len = request.len
        copy_to_user(caller, cmd.data, user)  # EFAULT
        if refused:
            raise refused


def launch_secret(vm: Vm, caller: Task, cmd: kvm_sev_cmd) -> None:
    """KVM_SEV_LAUNCH_SECRET: the owner's packet into guest memory (sev_launch_secret).

    The place must be physically contiguous, so whether a secret that crosses a
    page goes through depends on where the host's memory happens to lie.
    """
    sev, ccp = vm.sev, vm.kernel.ccp
    need(sev.active, ENOTTY)  # !sev_guest(kvm)
    user = copy_from_user(caller, cmd.data, kvm_sev_launch_secret)  # EFAULT
    with pin_memory(vm, caller, user.guest_uaddr, user.guest_len, write=True) as pin, ccp.heap() as heap:  # EINVAL, ENOMEM
        flush(vm.kernel, pin)
        need(len(pin.pieces) == 1, EINVAL)  # get_num_contig_pages() != n
        packet = Packet(sev.handle, guest_paddr=vm.kernel.private(pin.pieces[0][0]), guest_len=user.guest_len)
        packet.trans_paddr = heap.copy_user_blob(caller, user.trans_uaddr, user.trans_len)  # EINVAL, EFAULT
        packet.trans_len = user.trans_len
        packet.hdr_paddr = heap.copy_user_blob(caller, user.hdr_uaddr, user.hdr_len)  # EINVAL, EFAULT
        packet.hdr_len = user.hdr_len
        ccp.issue(caller, sev.fd, Cmd.LAUNCH_SECRET, packet, cmd)  # EBADF, EIO


def launch_finish(vm: Vm, caller: Task, cmd: kvm_sev_cmd) -> None:
    """KVM_SEV_LAUNCH_FINISH: the owner's channel is closed. KVM changes nothing, and KVM_RUN never asks (sev_launch_finish)."""
    need(vm.sev.active, ENOTTY)  # !sev_guest(kvm)
    vm.kernel.ccp.issue(caller, vm.sev.fd, Cmd.LAUNCH_FINISH, Handle(vm.sev.handle), cmd)  # EBADF, EIO


def guest_status(vm: Vm, caller: Task, cmd: kvm_sev_cmd) -> None:
    """KVM_SEV_GUEST_STATUS: handle, policy and the firmware's state of the guest (sev_guest_status)."""
    need(vm.sev.active, ENOTTY)  # !sev_guest(kvm)
    request = STATUS.pack(vm.sev.handle, 0, 0, 0)
    handle, policy, _, state = STATUS.unpack(vm.kernel.ccp.issue(caller, vm.sev.fd, Cmd.GUEST_STATUS, request, cmd))  # EBADF, EIO

    caller.write(cmd.data, kvm_sev_guest_status.FORMAT.pack(handle, policy, state))  # EFAULT
