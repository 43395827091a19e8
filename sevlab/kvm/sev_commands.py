"""KVM_MEMORY_ENCRYPT_OP: the table of its sub-commands, and the way in and out.

Source: kvm.md A4, B0 (sev_mem_enc_ioctl).
"""

from __future__ import annotations

from errno import EINVAL, ENOTTY
from typing import TYPE_CHECKING

from sevlab.abi.kvm import (
    KVM_SEV_DBG_DECRYPT,
    KVM_SEV_DBG_ENCRYPT,
    KVM_SEV_ES_INIT,
    KVM_SEV_GET_ATTESTATION_REPORT,
    KVM_SEV_GUEST_STATUS,
    KVM_SEV_LAUNCH_FINISH,
    KVM_SEV_LAUNCH_MEASURE,
    KVM_SEV_LAUNCH_SECRET,
    KVM_SEV_LAUNCH_START,
    KVM_SEV_LAUNCH_UPDATE_DATA,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    kvm_sev_attestation_report,
    kvm_sev_cmd,
    kvm_sev_dbg,
    kvm_sev_guest_status,
    kvm_sev_launch_measure,
    kvm_sev_launch_secret,
    kvm_sev_launch_start,
    kvm_sev_launch_update_data,
)
from sevlab.kvm import Row, sev_debug, sev_launch
from sevlab.kvm.fd import need
from sevlab.kvm.lock import Lock
from sevlab.trace import Event, u16, u32

if TYPE_CHECKING:
    from sevlab.kvm.designs import Design
    from sevlab.kvm.task import Task
    from sevlab.kvm.vm import Vm


class SevCommand(Event, lane="kvm"):
    """KVM served one sub-command of KVM_MEMORY_ENCRYPT_OP: `errno` 0, or why not; `error` as the caller finds it afterwards."""

    vm: u32
    id: u32
    errno: u16
    error: u32


CMD = kvm_sev_cmd.FORMAT  # packed and unpacked by layout: this is run often

# The sub-commands that every kernel has; the seam `init` adds its own. An id without a row is EINVAL:
# 10, 14 and 19 never had a handler in any kernel.
COMMANDS: dict[int, Row] = {
    # sub-command                     handler                               structure at `data`          what it leaves out
    KVM_SEV_LAUNCH_START:           Row(sev_launch.launch_start,           kvm_sev_launch_start),
    KVM_SEV_LAUNCH_UPDATE_DATA:     Row(sev_launch.launch_update_data,     kvm_sev_launch_update_data),
    KVM_SEV_LAUNCH_UPDATE_VMSA:     Row(sev_launch.launch_update_vmsa,     None,                        "LBR virtualisation"),
    KVM_SEV_LAUNCH_MEASURE:         Row(sev_launch.launch_measure,         kvm_sev_launch_measure),
    KVM_SEV_LAUNCH_SECRET:          Row(sev_launch.launch_secret,          kvm_sev_launch_secret),
    KVM_SEV_LAUNCH_FINISH:          Row(sev_launch.launch_finish),
    KVM_SEV_GUEST_STATUS:           Row(sev_launch.guest_status,           kvm_sev_guest_status),
    KVM_SEV_DBG_DECRYPT:            Row(sev_debug.dbg_crypt,               kvm_sev_dbg),
    KVM_SEV_DBG_ENCRYPT:            Row(sev_debug.dbg_crypt,               kvm_sev_dbg),
    KVM_SEV_GET_ATTESTATION_REPORT: Row(sev_launch.get_attestation_report, kvm_sev_attestation_report),
}  # fmt: skip


def commands(design: Design) -> dict[int, Row]:
    """Every sub-command that a kernel of this design has."""
    return {**design.init.commands, **COMMANDS}


async def memory_encrypt_op(vm: Vm, caller: Task, argp: int) -> int:
    """KVM_MEMORY_ENCRYPT_OP (sev_mem_enc_ioctl).

    A null argument asks whether there is SEV at all. Once a handler has run, the
    structure goes back whatever it said, `error` with it; before that it does
    not. `error` is written by the firmware only: a caller who is refused earlier
    finds what it put there.
    """
    kernel = vm.kernel
    need(kernel.sev_enabled, ENOTTY)  # !sev_enabled
    if not argp:
        return 0
    cmd = kvm_sev_cmd.__new__(kvm_sev_cmd)
    cmd.id, cmd.pad0, cmd.data, cmd.error, cmd.sev_fd = CMD.unpack(caller.read(argp, CMD.size))  # EFAULT
    async with Lock(vm.lock):  # mutex_lock(&kvm->lock): one command at a time, for each VM
        need(vm.sev.owner is None or cmd.id in kernel.design.mirror.may, EINVAL)  # a mirror, and !is_cmd_allowed_from_mirror()
        need(cmd.id != KVM_SEV_ES_INIT or kernel.sev_es_enabled, ENOTTY)  # !sev_es_enabled
        row = kernel.sev_commands.get(cmd.id)
        need(row, EINVAL)  # default: of the switch

        try:
            waits = row.handler(vm, caller, cmd)  # type: ignore[union-attr]
            if waits is not None:
                await waits
        except OSError as no:
            _copy_back(vm, caller, argp, cmd, no.errno or 0)  # EFAULT: it outweighs what the handler said
            raise
        _copy_back(vm, caller, argp, cmd, 0)  # EFAULT: what the handler did stays done
    return 0


def _copy_back(vm: Vm, caller: Task, argp: int, cmd: kvm_sev_cmd, errno: int) -> None:
    """The structure back to the caller, and a row to the trace."""
    vm.kernel.trace.emit(SevCommand, vm.number, cmd.id, errno, cmd.error)
    caller.write(argp, CMD.pack(cmd.id, cmd.pad0, cmd.data, cmd.error, cmd.sev_fd))
