"""The GHCB: the page that an SEV-ES guest and its hypervisor share, the exits that go through it, and the MSR protocol.

Source: kvm.md G1 to G5.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from sevlab.wire import Wire, u8, u16, u32, u64


class Ghcb(Wire):
    """The page. Its save part has the VMSA's offsets."""

    reserved: Annotated[bytes, 203] = b""# 0x000
    cpl: u8 = 0                          # 0x0CB
    reserved2: Annotated[bytes, 116] = b""# 0x0CC
    xss: u64 = 0                         # 0x140
    reserved3: Annotated[bytes, 24] = b""# 0x148
    dr7: u64 = 0                         # 0x160
    reserved4: Annotated[bytes, 16] = b""# 0x168
    rip: u64 = 0                         # 0x178
    reserved5: Annotated[bytes, 88] = b""# 0x180
    rsp: u64 = 0                         # 0x1D8
    reserved6: Annotated[bytes, 24] = b""# 0x1E0
    rax: u64 = 0                         # 0x1F8
    reserved7: Annotated[bytes, 264] = b""# 0x200
    rcx: u64 = 0                         # 0x308
    rdx: u64 = 0                         # 0x310
    rbx: u64 = 0                         # 0x318
    reserved8: Annotated[bytes, 8] = b"" # 0x320
    rbp: u64 = 0                         # 0x328
    rsi: u64 = 0                         # 0x330
    rdi: u64 = 0                         # 0x338
    r8: u64 = 0                          # 0x340
    r9: u64 = 0                          # 0x348
    r10: u64 = 0                         # 0x350
    r11: u64 = 0                         # 0x358
    r12: u64 = 0                         # 0x360
    r13: u64 = 0                         # 0x368
    r14: u64 = 0                         # 0x370
    r15: u64 = 0                         # 0x378
    reserved9: Annotated[bytes, 16] = b""# 0x380
    sw_exit_code: u64 = 0                # 0x390
    sw_exit_info_1: u64 = 0              # 0x398
    sw_exit_info_2: u64 = 0              # 0x3A0
    sw_scratch: u64 = 0                  # 0x3A8
    reserved10: Annotated[bytes, 56] = b""# 0x3B0
    xcr0: u64 = 0                        # 0x3E8
    valid_bitmap: Annotated[bytes, 16] = b""# 0x3F0  bit n: the eight bytes at 8 n were filled in
    x87_state_gpa: u64 = 0               # 0x400
    reserved11: Annotated[bytes, 1016] = b""# 0x408
    shared_buffer: Annotated[bytes, 2032] = b""# 0x800
    reserved12: Annotated[bytes, 10] = b""# 0xFF0
    protocol_version: u16 = 0            # 0xFFA
    ghcb_usage: u32 = 0                  # 0xFFC

    def mark(self, *fields: str) -> Ghcb:
        """Set the valid bits of these fields."""
        bits = int.from_bytes(self.valid_bitmap or bytes(16), "little")
        for field in fields:
            bits |= 1 << VALID_BITS[field]
        self.valid_bitmap = bits.to_bytes(16, "little")
        return self

    def is_valid(self, field: str) -> bool:
        """Whether this field's valid bit is set."""
        return bool(int.from_bytes(self.valid_bitmap or bytes(16), "little") >> VALID_BITS[field] & 1)


OFFSETS = {field.name: field.offset for field in Ghcb.LAYOUT}
# Which bit of valid_bitmap stands for which field.
VALID_BITS = {
    field.name: field.offset // 8
    for field in Ghcb.LAYOUT
    if field.offset < OFFSETS["valid_bitmap"] and not field.name.startswith("reserved")
}

SHARED_BUFFER_START = 0x800
SHARED_BUFFER_END = 0xFF0
SCRATCH_LIMIT = 16 * 4096  # bytes a scratch area outside the page may have

# -------------------------------------------------------------------- exit codes

SVM_EXIT_READ_DR7 = 0x27
SVM_EXIT_WRITE_DR7 = 0x37
SVM_EXIT_RDTSC = 0x6E
SVM_EXIT_RDPMC = 0x6F
SVM_EXIT_CPUID = 0x72
SVM_EXIT_INVD = 0x76
SVM_EXIT_HLT = 0x78  # not one a guest may ask for
SVM_EXIT_IOIO = 0x7B
SVM_EXIT_MSR = 0x7C
SVM_EXIT_VMMCALL = 0x81
SVM_EXIT_RDTSCP = 0x87
SVM_EXIT_WBINVD = 0x89
SVM_EXIT_MONITOR = 0x8A
SVM_EXIT_MWAIT = 0x8B
SVM_VMGEXIT_MMIO_READ = 0x80000001
SVM_VMGEXIT_MMIO_WRITE = 0x80000002
SVM_VMGEXIT_NMI_COMPLETE = 0x80000003
SVM_VMGEXIT_AP_HLT_LOOP = 0x80000004
SVM_VMGEXIT_AP_JUMP_TABLE = 0x80000005
SVM_VMGEXIT_PSC = 0x80000010
SVM_VMGEXIT_GUEST_REQUEST = 0x80000011
SVM_VMGEXIT_EXT_GUEST_REQUEST = 0x80000012
SVM_VMGEXIT_AP_CREATION = 0x80000013
SVM_VMGEXIT_HV_FEATURES = 0x8000FFFD
SVM_VMGEXIT_TERM_REQUEST = 0x8000FFFE
SVM_VMGEXIT_UNSUPPORTED_EVENT = 0x8000FFFF

AP_JUMP_TABLE_SET = 0
AP_JUMP_TABLE_GET = 1

# exit_info_1 of IOIO
IOIO_IN = 1 << 0
IOIO_STR = 1 << 2
IOIO_REP = 1 << 3
IOIO_SIZE_SHIFT = 4  # bits 4, 5, 6: 1, 2, 4 bytes
IOIO_PORT_SHIFT = 16


class ExitRow(NamedTuple):
    """One exit a guest may ask for: its name, and what it must fill in beside code and infos.

    Fields that depend on a value (IOIO's direction, CPUID leaf 0xD, MSR writes)
    are named in `sometimes`.
    """

    name: str
    needs: tuple[str, ...] = ()
    sometimes: str = ""
    since: str = "6.1"


EXITS = {
    SVM_EXIT_READ_DR7: ExitRow("READ_DR7"),
    SVM_EXIT_WRITE_DR7: ExitRow("WRITE_DR7", ("rax",)),
    SVM_EXIT_RDTSC: ExitRow("RDTSC"),
    SVM_EXIT_RDPMC: ExitRow("RDPMC", ("rcx",)),
    SVM_EXIT_CPUID: ExitRow("CPUID", ("rax", "rcx"), "xcr0 for leaf 0xD"),
    SVM_EXIT_INVD: ExitRow("INVD"),
    SVM_EXIT_IOIO: ExitRow("IOIO", (), "sw_scratch for strings, else rax for OUT"),
    SVM_EXIT_MSR: ExitRow("MSR", ("rcx",), "rax and rdx for writes"),
    SVM_EXIT_VMMCALL: ExitRow("VMMCALL", ("rax", "cpl")),
    SVM_EXIT_RDTSCP: ExitRow("RDTSCP"),
    SVM_EXIT_WBINVD: ExitRow("WBINVD"),
    SVM_EXIT_MONITOR: ExitRow("MONITOR", ("rax", "rcx", "rdx")),
    SVM_EXIT_MWAIT: ExitRow("MWAIT", ("rax", "rcx")),
    SVM_VMGEXIT_MMIO_READ: ExitRow("MMIO_READ", ("sw_scratch",)),
    SVM_VMGEXIT_MMIO_WRITE: ExitRow("MMIO_WRITE", ("sw_scratch",)),
    SVM_VMGEXIT_NMI_COMPLETE: ExitRow("NMI_COMPLETE"),
    SVM_VMGEXIT_AP_HLT_LOOP: ExitRow("AP_HLT_LOOP"),
    SVM_VMGEXIT_AP_JUMP_TABLE: ExitRow("AP_JUMP_TABLE"),
    SVM_VMGEXIT_UNSUPPORTED_EVENT: ExitRow("UNSUPPORTED_EVENT"),
    SVM_VMGEXIT_PSC: ExitRow("PSC", ("sw_scratch",), "SNP only", "6.10"),
    SVM_VMGEXIT_GUEST_REQUEST: ExitRow("GUEST_REQUEST", (), "SNP only", "6.10"),
    SVM_VMGEXIT_EXT_GUEST_REQUEST: ExitRow("EXT_GUEST_REQUEST", (), "SNP only", "6.10"),
    SVM_VMGEXIT_AP_CREATION: ExitRow("AP_CREATION", (), "SNP only; rax unless it destroys", "6.10"),
    SVM_VMGEXIT_HV_FEATURES: ExitRow("HV_FEATURES", (), "", "6.10"),
    SVM_VMGEXIT_TERM_REQUEST: ExitRow("TERM_REQUEST", (), "", "6.10"),
}

# What the guest finds in sw_exit_info_1 ...
GHCB_RESP_OK = 0
GHCB_RESP_EXCEPTION = 1  # info2: vector, type 3 at bit 8, valid at bit 31
GHCB_RESP_ERROR = 2  # info2: one of these

# ... and, of an error, in sw_exit_info_2.
GHCB_ERR_NOT_REGISTERED = 1
GHCB_ERR_INVALID_USAGE = 2
GHCB_ERR_INVALID_SCRATCH_AREA = 3
GHCB_ERR_MISSING_INPUT = 4
GHCB_ERR_INVALID_INPUT = 5
GHCB_ERR_INVALID_EVENT = 6


def exception_info(vector: int) -> int:
    """sw_exit_info_2 of a GHCB_RESP_EXCEPTION: #GP is 0x8000030D."""
    return 1 << 31 | 3 << 8 | vector


# ------------------------------------------------------------------ MSR protocol

MSR_AMD64_SEV_ES_GHCB = 0xC0010130
MSR_AMD64_SEV = 0xC0010131
SEV_STATUS_SEV = 1 << 0
SEV_STATUS_ES = 1 << 1
SEV_STATUS_SNP = 1 << 2

GHCB_MSR_INFO_MASK = 0xFFF  # the low bits say what; zero: the value is a GHCB's gpa
GHCB_MSR_SEV_INFO_RESP = 0x001
GHCB_MSR_SEV_INFO_REQ = 0x002
GHCB_MSR_CPUID_REQ = 0x004
GHCB_MSR_CPUID_RESP = 0x005
GHCB_MSR_AP_RESET_HOLD_REQ = 0x006
GHCB_MSR_AP_RESET_HOLD_RESP = 0x007
GHCB_MSR_PREF_GPA_REQ = 0x010
GHCB_MSR_PREF_GPA_RESP = 0x011
GHCB_MSR_PREF_GPA_NONE = 0xFFFFFFFFFFFFF
GHCB_MSR_REG_GPA_REQ = 0x012
GHCB_MSR_REG_GPA_RESP = 0x013
GHCB_MSR_PSC_REQ = 0x014
GHCB_MSR_PSC_RESP = 0x015
GHCB_MSR_VMPL_REQ = 0x016
GHCB_MSR_VMPL_RESP = 0x017
GHCB_MSR_HV_FT_REQ = 0x080
GHCB_MSR_HV_FT_RESP = 0x081
GHCB_MSR_TERM_REQ = 0x100

GHCB_HV_FT_SNP = 1 << 0
GHCB_HV_FT_SNP_AP_CREATION = 1 << 1

TERM_SET_GENERAL = 0
TERM_REASON_GENERAL = 0
TERM_REASON_PROTOCOL = 1
TERM_REASON_SNP_UNSUPPORTED = 2


def sev_info(maximum: int, minimum: int, c_bit: int) -> int:
    """The SEV_INFO response: protocol versions offered and the C-bit's position."""
    return maximum << 48 | minimum << 32 | c_bit << 24 | GHCB_MSR_SEV_INFO_RESP


def cpuid_request(function: int, register: int) -> int:
    """A CPUID request; register 0 to 3 is EAX, EBX, ECX, EDX."""
    return function << 32 | register << 30 | GHCB_MSR_CPUID_REQ


def terminate(reason_set: int, reason: int) -> int:
    """A TERMINATE request."""
    return reason << 16 | reason_set << 12 | GHCB_MSR_TERM_REQ
