"""KVM's user interface on x86-64: ioctl numbers, capabilities, exit reasons, and the structures of system, VM and SEV.

Source: kvm.md A2 to A4, A9 and A10, under the kernel's own names. Structures
have C's natural alignment, so their holes are fields called pad. The vCPU's
structures (`kvm_vcpu`) and those of /dev/sev (`sev_dev`) are names of this
module too, and so is `Status`, the firmware code in `kvm_sev_cmd.error`.
"""

from __future__ import annotations

import errno
from typing import Annotated

from sevlab.abi.kvm_vcpu import *  # noqa: F403
from sevlab.abi.sev import Status as Status
from sevlab.abi.sev_dev import *  # noqa: F403
from sevlab.wire import Wire, u16, u32, u64

# ------------------------------------------------------------------ /dev/kvm ioctls

KVM_API_VERSION = 12
KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01  # arg: machine type
KVM_CHECK_EXTENSION = 0xAE03  # on VM fds too
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_GET_SUPPORTED_CPUID = 0xC008AE05
KVM_VCPU_MMAP_SIZE = 12288  # kvm_run, the port I/O page, the coalesced page

# ------------------------------------------------------------------------ VM ioctls

KVM_CREATE_VCPU = 0xAE41
KVM_GET_DIRTY_LOG = 0x4010AE42
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_USER_MEMORY_REGION2 = 0x40A0AE49
KVM_CREATE_IRQCHIP = 0xAE60
KVM_ENABLE_CAP = 0x4068AEA3
KVM_MEMORY_ENCRYPT_OP = 0xC008AEBA  # the number says 8 bytes, the structure has 24
KVM_MEMORY_ENCRYPT_REG_REGION = 0x8010AEBB  # "_IOR", though the data only goes in
KVM_MEMORY_ENCRYPT_UNREG_REGION = 0x8010AEBC
KVM_SET_MEMORY_ATTRIBUTES = 0x4020AED2
KVM_CREATE_GUEST_MEMFD = 0xC040AED4
KVM_SET_DEVICE_ATTR = 0x4018AEE1  # these three on /dev/kvm for the SEV group
KVM_GET_DEVICE_ATTR = 0x4018AEE2
KVM_HAS_DEVICE_ATTR = 0x4018AEE3

# --------------------------------------------------------------------- capabilities

KVM_CAP_IRQCHIP = 0
KVM_CAP_HLT = 1
KVM_CAP_USER_MEMORY = 3
KVM_CAP_EXT_CPUID = 7
KVM_CAP_NR_VCPUS = 9
KVM_CAP_NR_MEMSLOTS = 10
KVM_CAP_MP_STATE = 14
KVM_CAP_MAX_VCPUS = 66
KVM_CAP_SYNC_REGS = 74
KVM_CAP_READONLY_MEM = 81
KVM_CAP_ENABLE_CAP_VM = 98
KVM_CAP_CHECK_EXTENSION_VM = 105
KVM_CAP_X86_SMM = 117
KVM_CAP_MAX_VCPU_ID = 128
KVM_CAP_IMMEDIATE_EXIT = 136
KVM_CAP_VM_COPY_ENC_CONTEXT_FROM = 197
KVM_CAP_EXIT_HYPERCALL = 201
KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM = 206
KVM_CAP_SYS_ATTRIBUTES = 209
KVM_CAP_SYSTEM_EVENT_DATA = 215
KVM_CAP_VM_TYPES = 235

KVM_X86_DEFAULT_VM = 0
KVM_X86_SW_PROTECTED_VM = 1
KVM_X86_SEV_VM = 2
KVM_X86_SEV_ES_VM = 3
KVM_X86_SNP_VM = 4

KVM_X86_GRP_SEV = 1  # device attribute group of /dev/kvm
KVM_X86_SEV_VMSA_FEATURES = 0
KVM_SEV_VMSA_DEBUG_SWAP = 1 << 5

KVM_MEM_LOG_DIRTY_PAGES = 1
KVM_MEM_READONLY = 2
KVM_MAX_VCPUS = 1024
KVM_USER_MEM_SLOTS = 32764

# --------------------------------------------------------------------- exit reasons

KVM_EXIT_UNKNOWN = 0
KVM_EXIT_EXCEPTION = 1
KVM_EXIT_IO = 2
KVM_EXIT_HYPERCALL = 3
KVM_EXIT_DEBUG = 4
KVM_EXIT_HLT = 5
KVM_EXIT_MMIO = 6
KVM_EXIT_IRQ_WINDOW_OPEN = 7
KVM_EXIT_SHUTDOWN = 8
KVM_EXIT_FAIL_ENTRY = 9
KVM_EXIT_INTR = 10
KVM_EXIT_INTERNAL_ERROR = 17
KVM_EXIT_SYSTEM_EVENT = 24
KVM_EXIT_X86_RDMSR = 29
KVM_EXIT_X86_WRMSR = 30
KVM_EXIT_AP_RESET_HOLD = 32
KVM_EXIT_MEMORY_FAULT = 39

KVM_EXIT_IO_IN = 0
KVM_EXIT_IO_OUT = 1
KVM_SYSTEM_EVENT_SHUTDOWN = 1
KVM_SYSTEM_EVENT_RESET = 2
KVM_SYSTEM_EVENT_CRASH = 3
KVM_SYSTEM_EVENT_SEV_TERM = 6
KVM_INTERNAL_ERROR_EMULATION = 1
KVM_HC_MAP_GPA_RANGE = 12

# ------------------------------------------------------- KVM_MEMORY_ENCRYPT_OP's ids

KVM_SEV_INIT = 0
KVM_SEV_ES_INIT = 1
KVM_SEV_LAUNCH_START = 2
KVM_SEV_LAUNCH_UPDATE_DATA = 3
KVM_SEV_LAUNCH_UPDATE_VMSA = 4
KVM_SEV_LAUNCH_SECRET = 5
KVM_SEV_LAUNCH_MEASURE = 6
KVM_SEV_LAUNCH_FINISH = 7
KVM_SEV_SEND_START = 8
KVM_SEV_SEND_UPDATE_DATA = 9
KVM_SEV_SEND_UPDATE_VMSA = 10  # 10, 14 and 19 were never implemented
KVM_SEV_SEND_FINISH = 11
KVM_SEV_RECEIVE_START = 12
KVM_SEV_RECEIVE_UPDATE_DATA = 13
KVM_SEV_RECEIVE_UPDATE_VMSA = 14
KVM_SEV_RECEIVE_FINISH = 15
KVM_SEV_GUEST_STATUS = 16
KVM_SEV_DBG_DECRYPT = 17
KVM_SEV_DBG_ENCRYPT = 18
KVM_SEV_CERT_EXPORT = 19
KVM_SEV_GET_ATTESTATION_REPORT = 20
KVM_SEV_SEND_CANCEL = 21
KVM_SEV_INIT2 = 22  # 6.10 and later; 6.1's KVM_SEV_NR_MAX
KVM_SEV_SNP_LAUNCH_START = 100
KVM_SEV_SNP_LAUNCH_UPDATE = 101
KVM_SEV_SNP_LAUNCH_FINISH = 102

# ----------------------------------------------------------------- system and VM


class kvm_enable_cap(Wire):
    """KVM_ENABLE_CAP."""

    cap: u32 = 0                                     # 0x00
    flags: u32 = 0                                   # 0x04
    args: Annotated[tuple[int, ...], u64, 4] = (0, 0, 0, 0)  # 0x08
    pad: Annotated[bytes, 64] = b""                  # 0x28


class kvm_userspace_memory_region(Wire):
    """KVM_SET_USER_MEMORY_REGION."""

    slot: u32 = 0                                    # 0x00
    flags: u32 = 0                                   # 0x04
    guest_phys_addr: u64 = 0                         # 0x08
    memory_size: u64 = 0                             # 0x10  0: delete the slot
    userspace_addr: u64 = 0                          # 0x18


class kvm_userspace_memory_region2(Wire):
    """KVM_SET_USER_MEMORY_REGION2."""

    slot: u32 = 0                                    # 0x00
    flags: u32 = 0                                   # 0x04
    guest_phys_addr: u64 = 0                         # 0x08
    memory_size: u64 = 0                             # 0x10
    userspace_addr: u64 = 0                          # 0x18
    guest_memfd_offset: u64 = 0                      # 0x20
    guest_memfd: u32 = 0                             # 0x28
    pad1: u32 = 0                                    # 0x2C
    pad2: Annotated[bytes, 112] = b""                # 0x30


class kvm_dirty_log(Wire):
    """KVM_GET_DIRTY_LOG."""

    slot: u32 = 0                                    # 0x00
    padding1: u32 = 0                                # 0x04
    dirty_bitmap: u64 = 0                            # 0x08


class kvm_device_attr(Wire):
    """KVM_GET_DEVICE_ATTR and its two siblings."""

    flags: u32 = 0                                   # 0x00
    group: u32 = 0                                   # 0x04
    attr: u64 = 0                                    # 0x08
    addr: u64 = 0                                    # 0x10


class kvm_memory_attributes(Wire):
    """KVM_SET_MEMORY_ATTRIBUTES."""

    address: u64 = 0                                 # 0x00
    size: u64 = 0                                    # 0x08
    attributes: u64 = 0                              # 0x10
    flags: u64 = 0                                   # 0x18


class kvm_create_guest_memfd(Wire):
    """KVM_CREATE_GUEST_MEMFD."""

    size: u64 = 0                                    # 0x00
    flags: u64 = 0                                   # 0x08
    reserved: Annotated[bytes, 48] = b""             # 0x10


# ------------------------------------------------------------------------------ SEV


class kvm_sev_cmd(Wire):
    """KVM_MEMORY_ENCRYPT_OP; `error` is in and out: what the firmware said, if it was called."""

    id: u32 = 0                                      # 0x00
    pad0: u32 = 0                                    # 0x04
    data: u64 = 0                                    # 0x08  hva of the command's own structure
    error: u32 = 0                                   # 0x10
    sev_fd: u32 = 0                                  # 0x14


class kvm_enc_region(Wire):
    """KVM_MEMORY_ENCRYPT_REG_REGION and _UNREG_REGION."""

    addr: u64 = 0                                    # 0x00  hva
    size: u64 = 0                                    # 0x08


class kvm_sev_init(Wire):
    """KVM_SEV_INIT2."""

    vmsa_features: u64 = 0                           # 0x00
    flags: u32 = 0                                   # 0x08
    ghcb_version: u16 = 0                            # 0x0C
    pad1: u16 = 0                                    # 0x0E
    pad2: Annotated[tuple[int, ...], u32, 8] = (0,) * 8  # 0x10


class kvm_sev_launch_start(Wire):
    """KVM_SEV_LAUNCH_START."""

    handle: u32 = 0                                  # 0x00  in and out
    policy: u32 = 0                                  # 0x04
    dh_uaddr: u64 = 0                                # 0x08
    dh_len: u32 = 0                                  # 0x10
    pad0: u32 = 0                                    # 0x14
    session_uaddr: u64 = 0                           # 0x18
    session_len: u32 = 0                             # 0x20
    pad1: u32 = 0                                    # 0x24


class kvm_sev_launch_update_data(Wire):
    """KVM_SEV_LAUNCH_UPDATE_DATA."""

    uaddr: u64 = 0                                   # 0x00
    len: u32 = 0                                     # 0x08
    pad0: u32 = 0                                    # 0x0C


class kvm_sev_launch_secret(Wire):
    """KVM_SEV_LAUNCH_SECRET."""

    hdr_uaddr: u64 = 0                               # 0x00
    hdr_len: u32 = 0                                 # 0x08
    pad0: u32 = 0                                    # 0x0C
    guest_uaddr: u64 = 0                             # 0x10
    guest_len: u32 = 0                               # 0x18
    pad1: u32 = 0                                    # 0x1C
    trans_uaddr: u64 = 0                             # 0x20
    trans_len: u32 = 0                               # 0x28
    pad2: u32 = 0                                    # 0x2C


class kvm_sev_send_update_data(kvm_sev_launch_secret):
    """KVM_SEV_SEND_UPDATE_DATA: the layout of a launch secret."""


class kvm_sev_receive_update_data(kvm_sev_launch_secret):
    """KVM_SEV_RECEIVE_UPDATE_DATA: the layout of a launch secret."""


class kvm_sev_launch_measure(Wire):
    """KVM_SEV_LAUNCH_MEASURE."""

    uaddr: u64 = 0                                   # 0x00
    len: u32 = 0                                     # 0x08  in and out
    pad0: u32 = 0                                    # 0x0C


class kvm_sev_guest_status(Wire):
    """KVM_SEV_GUEST_STATUS: all of it output."""

    handle: u32 = 0                                  # 0x00
    policy: u32 = 0                                  # 0x04
    state: u32 = 0                                   # 0x08


class kvm_sev_dbg(Wire):
    """KVM_SEV_DBG_DECRYPT and _ENCRYPT."""

    src_uaddr: u64 = 0                               # 0x00
    dst_uaddr: u64 = 0                               # 0x08
    len: u32 = 0                                     # 0x10
    pad0: u32 = 0                                    # 0x14


class kvm_sev_attestation_report(Wire):
    """KVM_SEV_GET_ATTESTATION_REPORT."""

    mnonce: Annotated[bytes, 16] = b""               # 0x00
    uaddr: u64 = 0                                   # 0x10
    len: u32 = 0                                     # 0x18  in and out
    pad0: u32 = 0                                    # 0x1C


class kvm_sev_send_start(Wire):
    """KVM_SEV_SEND_START."""

    policy: u32 = 0                                  # 0x00  out
    pad0: u32 = 0                                    # 0x04
    pdh_cert_uaddr: u64 = 0                          # 0x08
    pdh_cert_len: u32 = 0                            # 0x10
    pad1: u32 = 0                                    # 0x14
    plat_certs_uaddr: u64 = 0                        # 0x18
    plat_certs_len: u32 = 0                          # 0x20
    pad2: u32 = 0                                    # 0x24
    amd_certs_uaddr: u64 = 0                         # 0x28
    amd_certs_len: u32 = 0                           # 0x30
    pad3: u32 = 0                                    # 0x34
    session_uaddr: u64 = 0                           # 0x38
    session_len: u32 = 0                             # 0x40  in and out
    pad4: u32 = 0                                    # 0x44


class kvm_sev_receive_start(Wire):
    """KVM_SEV_RECEIVE_START."""

    handle: u32 = 0                                  # 0x00  in and out
    policy: u32 = 0                                  # 0x04
    pdh_uaddr: u64 = 0                               # 0x08
    pdh_len: u32 = 0                                 # 0x10
    pad0: u32 = 0                                    # 0x14
    session_uaddr: u64 = 0                           # 0x18
    session_len: u32 = 0                             # 0x20
    pad1: u32 = 0                                    # 0x24


# ---------------------------------------------------------------------------- names


def _names(prefix: str, *, but: str = "-") -> dict[int, str]:
    """Number -> name, without `prefix`, of this module's constants; those that go on with `but` are left out."""
    return {
        value: key.removeprefix(prefix)
        for key, value in globals().items()
        if key.startswith(prefix) and not key.startswith(prefix + but) and isinstance(value, int)
    }


ENOTSUPP = 524  # the kernel's own; it leaks to user space from GET_ID on old firmware

# An ioctl's number has 0xAE in its second byte; no other constant here does.
IOCTL_NAMES = {number: f"KVM_{name}" for number, name in _names("KVM_").items() if number >> 8 & 0xFF == 0xAE}
EXIT_NAMES = _names("KVM_EXIT_", but="IO_")
SEV_CMD_NAMES = _names("KVM_SEV_", but="VMSA_")
MP_STATE_NAMES = _names("KVM_MP_STATE_")


def errno_name(number: int) -> str:
    """The name of an errno, as in `EINVAL`."""
    return "ENOTSUPP" if number == ENOTSUPP else errno.errorcode.get(number, str(number))


def ioctl_name(number: int) -> str:
    """The name of an ioctl; a number without one is written in hex."""
    return IOCTL_NAMES.get(number, f"{number:#x}")
