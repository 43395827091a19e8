"""The SEV firmware's numbers: commands, status codes, states, policy bits.

Source: firmware.md 1.1 to 1.3, 2.1 and 3 (SEV API 55766, API 0.24). The command
buffers are declared in `sevlab.abi.sev_buffers` and are names of this module too.
"""

from __future__ import annotations

from enum import IntEnum

from sevlab.abi.sev_buffers import *  # noqa: F403


class Cmd(IntEnum):
    """Mailbox command ids, by the firmware's names."""

    INIT = 0x01
    SHUTDOWN = 0x02
    PLATFORM_RESET = 0x03  # Linux: FACTORY_RESET
    PLATFORM_STATUS = 0x04
    PEK_GEN = 0x05
    PEK_CSR = 0x06
    PEK_CERT_IMPORT = 0x07
    PDH_CERT_EXPORT = 0x08
    PDH_GEN = 0x09
    DF_FLUSH = 0x0A
    DOWNLOAD_FIRMWARE = 0x0B
    GET_ID = 0x0C
    INIT_EX = 0x0D
    NOP = 0x0E
    RING_BUFFER = 0x0F
    DECOMMISSION = 0x20
    ACTIVATE = 0x21
    DEACTIVATE = 0x22
    GUEST_STATUS = 0x23
    COPY = 0x24
    ACTIVATE_EX = 0x25
    LAUNCH_START = 0x30
    LAUNCH_UPDATE_DATA = 0x31
    LAUNCH_UPDATE_VMSA = 0x32
    LAUNCH_MEASURE = 0x33
    LAUNCH_SECRET = 0x34  # Linux: LAUNCH_UPDATE_SECRET
    LAUNCH_FINISH = 0x35
    ATTESTATION = 0x36  # Linux: ATTESTATION_REPORT
    SEND_START = 0x40
    SEND_UPDATE_DATA = 0x41
    SEND_UPDATE_VMSA = 0x42
    SEND_FINISH = 0x43
    SEND_CANCEL = 0x44
    RECEIVE_START = 0x50
    RECEIVE_UPDATE_DATA = 0x51
    RECEIVE_UPDATE_VMSA = 0x52
    RECEIVE_FINISH = 0x53
    DBG_DECRYPT = 0x60
    DBG_ENCRYPT = 0x61
    SWAP_OUT = 0x70
    SWAP_IN = 0x71


class Status(IntEnum):
    """What the firmware answers. Linux's names without SEV_RET_ (and with INVALID_CONFIG spelt right)."""

    SUCCESS = 0x00
    INVALID_PLATFORM_STATE = 0x01
    INVALID_GUEST_STATE = 0x02
    INVALID_CONFIG = 0x03
    INVALID_LEN = 0x04
    ALREADY_OWNED = 0x05
    INVALID_CERTIFICATE = 0x06
    POLICY_FAILURE = 0x07
    INACTIVE = 0x08
    INVALID_ADDRESS = 0x09
    BAD_SIGNATURE = 0x0A
    BAD_MEASUREMENT = 0x0B
    ASID_OWNED = 0x0C
    INVALID_ASID = 0x0D
    WBINVD_REQUIRED = 0x0E
    DFFLUSH_REQUIRED = 0x0F
    INVALID_GUEST = 0x10
    INVALID_COMMAND = 0x11
    ACTIVE = 0x12
    HWSEV_RET_PLATFORM = 0x13  # the firmware's HWERROR_PLATFORM
    HWSEV_RET_UNSAFE = 0x14
    UNSUPPORTED = 0x15
    INVALID_PARAM = 0x16
    RESOURCE_LIMIT = 0x17
    SECURE_DATA_INVALID = 0x18
    INVALID_PAGE_SIZE = 0x19  # from here on: API 1.x
    INVALID_PAGE_STATE = 0x1A
    INVALID_MDATA_ENTRY = 0x1B
    INVALID_PAGE_OWNER = 0x1C
    AEAD_OFLOW = 0x1D
    EXIT_RING_BUFFER = 0x1F
    INVALID_KEY = 0x27
    NO_FW_CALL = 0xFFFFFFFF  # Linux's own: the firmware was never called


def status_name(status: int) -> str:
    """The name of a status code; a code without one is written in hex."""
    try:
        return Status(status & 0xFFFFFFFF).name
    except ValueError:
        return f"{status & 0xFFFFFFFF:#x}"


def cmd_name(cmd: int) -> str:
    """The name of a mailbox command; an id without one is written in hex."""
    try:
        return Cmd(cmd).name
    except ValueError:
        return f"{cmd:#x}"


class PlatformState(IntEnum):
    """Byte 2 of PLATFORM_STATUS."""

    UNINIT = 0
    INIT = 1
    WORKING = 2


class GuestState(IntEnum):
    """The last byte of GUEST_STATUS. UNINIT is "no context" (AMD's source: INVALID)."""

    UNINIT = 0
    LUPDATE = 1
    LSECRET = 2
    RUNNING = 3
    SUPDATE = 4
    RUPDATE = 5
    SENT = 6


INIT_FLAG_ES = 1  # INIT and INIT_EX: SEV-ES guests, please
OWNER_EXTERNAL = 1  # PLATFORM_STATUS.owner
CONFIG_ES = 1  # PLATFORM_STATUS.config
NV_LEN = 0x8000  # the persistent state of INIT_EX
TMR_LEN = 0x100000  # SEV-ES's trusted memory region; its alignment too
CHIP_ID_LEN = 64  # GET_ID, a socket
MAX_HANDLE = 1024  # handles are 1 to this; 0 is "none"
PACKET_LIMIT = 0x5000  # bytes of guest memory a packet may carry

# ------------------------------------------------------------------------- policy

POLICY_NODBG = 1 << 0  # no DBG_DECRYPT, no DBG_ENCRYPT
POLICY_NOKS = 1 << 1  # no key sharing with another guest
POLICY_ES = 1 << 2  # registers encrypted too
POLICY_NOSEND = 1 << 3  # no SEND_START
POLICY_DOMAIN = 1 << 4  # send only to platforms of the same OCA
POLICY_SEV = 1 << 5  # send only to platforms that AMD vouches for
POLICY_RESERVED = 0xFFC0  # bits 6 to 15 must be zero
POLICY_API_MAJOR_SHIFT = 16
POLICY_API_MINOR_SHIFT = 24

POLICY_BITS = {
    "NODBG": POLICY_NODBG,
    "NOKS": POLICY_NOKS,
    "ES": POLICY_ES,
    "NOSEND": POLICY_NOSEND,
    "DOMAIN": POLICY_DOMAIN,
    "SEV": POLICY_SEV,
}


def policy_names(policy: int) -> list[str]:
    """The names of the bits that are set in a policy word; reserved ones as `bit N`."""
    names = [name for name, bit in POLICY_BITS.items() if policy & bit]
    return names + [f"bit {bit}" for bit in range(6, 16) if policy >> bit & 1]


def policy_api(policy: int) -> tuple[int, int]:
    """The oldest firmware API (major, minor) that a policy accepts."""
    return policy >> POLICY_API_MAJOR_SHIFT & 0xFF, policy >> POLICY_API_MINOR_SHIFT & 0xFF


def policy_text(policy: int) -> str:
    """A policy word in one line: `0x5 = NODBG ES, firmware 0.0 or newer`."""
    major, minor = policy_api(policy)
    return f"{policy:#x} = {' '.join(policy_names(policy)) or 'nothing forbidden'}, firmware {major}.{minor} or newer"
