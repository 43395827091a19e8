"""/dev/sev: the platform's owner talks to the secure processor, one command of SEV_ISSUE_CMD at a time.

Whoever may write may change the platform's keys; to look at its state, and to
lend KVM the way to the firmware, an open descriptor is enough. Some commands
answer with a length where there is no room: those write their structure back even
when the firmware refused. Source: kvm.md A11 (sev_ioctl in
drivers/crypto/ccp/sev-dev.c).
"""

from __future__ import annotations

from errno import EBUSY, EFAULT, EINVAL, ENODEV, EPERM
from typing import TYPE_CHECKING

from sevlab.abi.kvm import (
    ENOTSUPP,
    SEV_FACTORY_RESET,
    SEV_FW_BLOB_MAX_SIZE,
    SEV_GET_ID,
    SEV_GET_ID2,
    SEV_ISSUE_CMD,
    SEV_MAX,
    SEV_PDH_CERT_EXPORT,
    SEV_PDH_GEN,
    SEV_PEK_CERT_IMPORT,
    SEV_PEK_CSR,
    SEV_PEK_GEN,
    SEV_PLATFORM_STATUS,
    sev_issue_cmd,
    sev_user_data_get_id,
    sev_user_data_get_id2,
    sev_user_data_pdh_cert_export,
    sev_user_data_pek_cert_import,
    sev_user_data_pek_csr,
    sev_user_data_status,
)
from sevlab.abi.sev import (
    Cmd,
    GetId,
    PdhCertExport,
    PekCertImport,
    PekCsr,
    PlatformState,
    PlatformStatus,
)
from sevlab.kvm import Row, copy_from_user, copy_to_user
from sevlab.kvm.ccp import Ccp
from sevlab.kvm.fd import File, KvmError, need

if TYPE_CHECKING:
    from sevlab.kvm.task import Task


def factory_reset(dev: SevDev, caller: Task, cmd: sev_issue_cmd) -> None:
    """SEV_FACTORY_RESET: forget the platform's keys and owner; the platform stays down (sev_ioctl_do_reset)."""
    ccp, status = dev.ccp, PlatformStatus()
    need(dev.writable, EPERM)  # !writable
    ccp.command(Cmd.PLATFORM_STATUS, status, cmd)
    need(status.state != PlatformState.WORKING, EBUSY)  # state == SEV_STATE_WORKING: there are guests

    if status.state == PlatformState.INIT:
        ccp.platform_shutdown(cmd)
    ccp.command(Cmd.PLATFORM_RESET, answer=cmd)


def platform_status(dev: SevDev, caller: Task, cmd: sev_issue_cmd) -> None:
    """SEV_PLATFORM_STATUS: version, state, owner, guests (sev_ioctl_do_platform_status)."""
    status = PlatformStatus()
    dev.ccp.command(Cmd.PLATFORM_STATUS, status, cmd)

    copy_to_user(caller, cmd.data, status)  # EFAULT


def pek_gen(dev: SevDev, caller: Task, cmd: sev_issue_cmd) -> None:
    """SEV_PEK_GEN: a new platform endorsement key, signed by the platform itself (sev_ioctl_do_pek_pdh_gen)."""
    need(dev.writable, EPERM)  # !writable

    with dev.ccp.up(cmd):
        dev.ccp.command(Cmd.PEK_GEN, answer=cmd)


def pdh_gen(dev: SevDev, caller: Task, cmd: sev_issue_cmd) -> None:
    """SEV_PDH_GEN: a new platform Diffie-Hellman key (sev_ioctl_do_pek_pdh_gen)."""
    need(dev.writable, EPERM)  # !writable

    with dev.ccp.up(cmd):
        dev.ccp.command(Cmd.PDH_GEN, answer=cmd)


def pek_csr(dev: SevDev, caller: Task, cmd: sev_issue_cmd) -> None:
    """SEV_PEK_CSR: the request that an owner signs; without a buffer, its length (sev_ioctl_do_pek_csr)."""
    need(dev.writable, EPERM)  # !writable
    user = copy_from_user(caller, cmd.data, sev_user_data_pek_csr)  # EFAULT
    with dev.ccp.heap() as heap:
        csr = PekCsr()
        if user.address and user.length:
            need(user.length <= SEV_FW_BLOB_MAX_SIZE, EFAULT)  # length > SEV_FW_BLOB_MAX_SIZE; not EINVAL, as elsewhere
            csr = PekCsr(heap.alloc(user.length), user.length)
        with dev.ccp.up(cmd):
            refused = dev.ccp.attempt(Cmd.PEK_CSR, csr, cmd)

        user.length = csr.len
        copy_to_user(caller, cmd.data, user)  # EFAULT; also after a refusal: the length is the answer
        if refused:
            raise refused
        caller.write(user.address, heap.read(csr.paddr, csr.len))  # EFAULT


def pek_cert_import(dev: SevDev, caller: Task, cmd: sev_issue_cmd) -> None:
    """SEV_PEK_CERT_IMPORT: the platform gets an owner (sev_ioctl_do_pek_import)."""
    need(dev.writable, EPERM)  # !writable
    user = copy_from_user(caller, cmd.data, sev_user_data_pek_cert_import)  # EFAULT
    with dev.ccp.heap() as heap:
        certs = PekCertImport(pek_len=user.pek_cert_len, oca_len=user.oca_cert_len)
        certs.pek_paddr = heap.copy_user_blob(caller, user.pek_cert_address, user.pek_cert_len)  # EINVAL, EFAULT
        certs.oca_paddr = heap.copy_user_blob(caller, user.oca_cert_address, user.oca_cert_len)  # EINVAL, EFAULT

        with dev.ccp.up(cmd):
            dev.ccp.command(Cmd.PEK_CERT_IMPORT, certs, cmd)


def pdh_cert_export(dev: SevDev, caller: Task, cmd: sev_issue_cmd) -> None:
    """SEV_PDH_CERT_EXPORT: PDH and the chain PEK, OCA, CEK; without buffers, their lengths (sev_ioctl_do_pdh_export)."""
    need(dev.ccp.state == PlatformState.INIT or dev.writable, EPERM)  # sev->state != SEV_STATE_INIT && !writable
    with dev.ccp.up(cmd), dev.ccp.heap() as heap:
        user = copy_from_user(caller, cmd.data, sev_user_data_pdh_cert_export)  # EFAULT
        export = PdhCertExport()
        if user.pdh_cert_address and user.pdh_cert_len and user.cert_chain_address:
            need(user.pdh_cert_len <= SEV_FW_BLOB_MAX_SIZE, EFAULT)  # pdh_cert_len > SEV_FW_BLOB_MAX_SIZE; not EINVAL
            need(user.cert_chain_len <= SEV_FW_BLOB_MAX_SIZE, EFAULT)  # cert_chain_len > SEV_FW_BLOB_MAX_SIZE
            export.pdh_paddr, export.pdh_len = heap.alloc(user.pdh_cert_len), user.pdh_cert_len
            export.chain_paddr, export.chain_len = heap.alloc(user.cert_chain_len), user.cert_chain_len
        refused = dev.ccp.attempt(Cmd.PDH_CERT_EXPORT, export, cmd)

        user.pdh_cert_len, user.cert_chain_len = export.pdh_len, export.chain_len
        copy_to_user(caller, cmd.data, user)  # EFAULT; also after a refusal: the lengths are the answer
        if refused:
            raise refused
        caller.write(user.pdh_cert_address, heap.read(export.pdh_paddr, export.pdh_len))  # EFAULT
        caller.write(user.cert_chain_address, heap.read(export.chain_paddr, export.chain_len))  # EFAULT


def get_id(dev: SevDev, caller: Task, cmd: sev_issue_cmd) -> None:
    """SEV_GET_ID, deprecated: room for two sockets at `data`, always (sev_ioctl_do_get_id)."""
    dev.ccp.log_once("SEV_GET_ID command is deprecated, use SEV_GET_ID2")
    need(dev.ccp.api >= (0, 16), ENOTSUPP)  # !sev_version_greater_or_equal(0, 16)
    with dev.ccp.heap() as heap:
        ident = GetId(heap.alloc(sev_user_data_get_id.SIZE), sev_user_data_get_id.SIZE)
        dev.ccp.command(Cmd.GET_ID, ident, cmd)

        caller.write(cmd.data, heap.read(ident.paddr, ident.len))  # EFAULT


def get_id2(dev: SevDev, caller: Task, cmd: sev_issue_cmd) -> None:
    """SEV_GET_ID2: the chip's id; without a buffer, its length (sev_ioctl_do_get_id2)."""
    need(dev.ccp.api >= (0, 16), ENOTSUPP)  # !sev_version_greater_or_equal(0, 16)
    user = copy_from_user(caller, cmd.data, sev_user_data_get_id2)  # EFAULT
    with dev.ccp.heap() as heap:
        ident = GetId()
        if user.address and user.length:
            ident = GetId(heap.alloc(user.length), user.length)  # ENOMEM
        refused = dev.ccp.attempt(Cmd.GET_ID, ident, cmd)

        user.length = ident.len
        copy_to_user(caller, cmd.data, user)  # EFAULT; also after a refusal: the length is the answer
        if refused:
            raise refused
        caller.write(user.address, heap.read(ident.paddr, ident.len))  # EFAULT


COMMANDS: dict[int, Row] = {
    # command             handler             structure at `data`              what it leaves out
    SEV_FACTORY_RESET:    Row(factory_reset),
    SEV_PLATFORM_STATUS:  Row(platform_status,  sev_user_data_status),
    SEV_PEK_GEN:          Row(pek_gen),
    SEV_PEK_CSR:          Row(pek_csr,          sev_user_data_pek_csr),
    SEV_PDH_GEN:          Row(pdh_gen),
    SEV_PDH_CERT_EXPORT:  Row(pdh_cert_export,  sev_user_data_pdh_cert_export),
    SEV_PEK_CERT_IMPORT:  Row(pek_cert_import,  sev_user_data_pek_cert_import),
    SEV_GET_ID:           Row(get_id,           sev_user_data_get_id,            "one socket"),
    SEV_GET_ID2:          Row(get_id2,          sev_user_data_get_id2,           "one socket"),
}  # fmt: skip


class SevDev(File):
    """/dev/sev. `writable` says how it was opened; the platform's keys are only for those who may write."""

    name = "/dev/sev"

    def __init__(self, ccp: Ccp, writable: bool) -> None:
        super().__init__()
        self.ccp = ccp
        self.writable = writable

    def ioctl(self, caller: Task, nr: int, arg: int) -> int:
        """SEV_ISSUE_CMD (sev_ioctl). The structure goes back whatever the command answered, its `error` with it."""
        need(self.ccp.psp is not None, ENODEV)  # !psp_master || !psp_master->sev_data
        need(nr == SEV_ISSUE_CMD, EINVAL)  # ioctl != SEV_ISSUE_CMD
        cmd = copy_from_user(caller, arg, sev_issue_cmd)  # EFAULT
        need(cmd.cmd <= SEV_MAX, EINVAL)  # input.cmd > SEV_MAX, which is one too far
        row = COMMANDS.get(cmd.cmd)
        if row is None:
            raise KvmError(EINVAL)  # default: of the switch, past the copy back

        try:
            row.handler(self, caller, cmd)
        except OSError:
            copy_to_user(caller, arg, cmd)  # EFAULT: it outweighs what the command answered
            raise
        copy_to_user(caller, arg, cmd)  # EFAULT: what the command did stays done
        return 0
