"""Every layout says where its fields lie, and says it right.

The offset comments are for the reader; here they are checked. The sizes and the
offsets below are typed in from the specification, not from the code.
"""

from __future__ import annotations

import ast
import importlib
import io
import re
import sys
import tokenize
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from sevlab.wire import Wire

ROOT = Path(__file__).resolve().parents[1]
OFFSET = re.compile(r"# 0x([0-9A-Fa-f]+)(?:$|\s)")

# A module declares layouts when a class of it has Wire, or a layout of another module, above it.
DECLARES = re.compile(r"^class \w+\((\w*\.)?Wire\)|^    \w+:.*# 0x", re.MULTILINE)
SOURCES = sorted(path for path in (ROOT / "sevlab").rglob("*.py") if DECLARES.search(path.read_text()) and path.name != "wire.py")


def fields_of(source: str) -> Iterator[tuple[str, str, int, str | None]]:
    """(class, field, line, offset comment or None) of every annotated name in a class body."""
    comments = {
        token.start[0]: token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                found = OFFSET.match(comments.get(item.end_lineno or 0, ""))
                yield node.name, item.target.id, item.lineno, found.group(1) if found else None


def wrong_offsets(source: str, namespace: dict[str, object]) -> list[str]:
    """What is wrong with the offset comments of a module's Wire classes, a sentence each."""
    wrong = []
    for owner, name, line, written in fields_of(source):
        cls = namespace.get(owner)
        if not (isinstance(cls, type) and issubclass(cls, Wire)) or name not in cls.NAMES:
            continue
        true = next(field.offset for field in cls.LAYOUT if field.name == name)
        if written is None:
            wrong.append(f"line {line}: {owner}.{name} lacks its offset, # 0x{true:02X}")
        elif int(written, 16) != true:
            wrong.append(f"line {line}: {owner}.{name} says 0x{written}, it lies at 0x{true:02X}")
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_field_carries_its_true_offset(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    namespace = vars(importlib.import_module(module))

    assert wrong_offsets(path.read_text(), namespace) == []


BROKEN = '''
from sevlab.wire import Wire, u8, u32

class Good(Wire):
    a: u32 = 0  # 0x00
    b: u8 = 0   # 0x04  and a word more

class Bad(Wire):
    a: u32 = 0  # 0x00
    b: u8 = 0   # 0x08
    c: u8 = 0
'''


def test_the_check_itself_finds_a_wrong_and_a_missing_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("broken")
    monkeypatch.setitem(sys.modules, "broken", module)
    exec(BROKEN, vars(module))

    assert wrong_offsets(BROKEN, vars(module)) == [
        "line 10: Bad.b says 0x08, it lies at 0x04",
        "line 11: Bad.c lacks its offset, # 0x05",
    ]


# ------------------------------------------------------------------------- sizes

# firmware.md 1.4, 2.3 and 2.4 (mdata), kvm.md A3 (the PSP driver's own list agrees).
FIRMWARE = {
    "Init": 0x14, "InitEx": 0x24, "PlatformStatus": 0xC, "PekCsr": 0xC, "PekCertImport": 0x1C, "PdhCertExport": 0x1C,
    "DownloadFirmware": 0xC, "GetId": 0xC, "Handle": 4, "Decommission": 4, "Deactivate": 4, "LaunchFinish": 4, "SendFinish": 4,
    "SendCancel": 4, "ReceiveFinish": 4, "Activate": 8, "ActivateEx": 0x18, "GuestStatus": 0xD, "Copy": 0x18, "LaunchStart": 0x24,
    "LaunchUpdate": 0x14, "LaunchUpdateData": 0x14, "LaunchUpdateVmsa": 0x14, "LaunchMeasure": 0x14, "Packet": 0x34,
    "LaunchSecret": 0x34, "SendUpdateData": 0x34, "SendUpdateVmsa": 0x34, "ReceiveUpdateData": 0x34, "ReceiveUpdateVmsa": 0x34,
    "Attestation": 0x24, "SendStart": 0x44, "ReceiveStart": 0x24, "Dbg": 0x1C, "SwapOut": 0x28, "SwapIn": 0x20, "SwapMdata": 64,
}  # fmt: skip

# kvm.md A2 (the size field of an ioctl's number) and A3.
KVM = {
    "kvm_enable_cap": 104, "kvm_userspace_memory_region": 32, "kvm_userspace_memory_region2": 160, "kvm_dirty_log": 16,
    "kvm_device_attr": 24, "kvm_memory_attributes": 32, "kvm_create_guest_memfd": 64, "kvm_sev_cmd": 24, "kvm_enc_region": 16,
    "kvm_sev_init": 48, "kvm_sev_launch_start": 40, "kvm_sev_launch_update_data": 16, "kvm_sev_launch_secret": 48,
    "kvm_sev_send_update_data": 48, "kvm_sev_receive_update_data": 48, "kvm_sev_launch_measure": 16, "kvm_sev_guest_status": 12,
    "kvm_sev_dbg": 24, "kvm_sev_attestation_report": 32, "kvm_sev_send_start": 72, "kvm_sev_receive_start": 40,
}  # fmt: skip

KVM_VCPU = {
    "kvm_regs": 0x90, "kvm_segment": 24, "kvm_dtable": 16, "kvm_sregs": 0x138, "kvm_sregs2": 0x140, "kvm_fpu": 0x1A0,
    "kvm_xsave": 0x1000, "kvm_xcr": 16, "kvm_xcrs": 0x188, "kvm_debugregs": 0x80, "kvm_mp_state": 4, "kvm_vcpu_events": 0x40,
    "kvm_lapic_state": 0x400, "kvm_translation": 24, "kvm_interrupt": 4, "kvm_guest_debug": 0x48, "kvm_msrs": 8,
    "kvm_msr_entry": 16, "kvm_cpuid2": 8, "kvm_cpuid_entry2": 40, "kvm_run": 288, "kvm_run_io": 16, "kvm_run_mmio": 21,
    "kvm_run_hypercall": 72, "kvm_run_fail_entry": 12, "kvm_run_internal": 136, "kvm_run_system_event": 136,
    "kvm_run_memory_fault": 24,
}  # fmt: skip

SEV_DEV = {
    "sev_issue_cmd": 16, "sev_user_data_status": 12, "sev_user_data_pek_csr": 12, "sev_user_data_pek_cert_import": 24,
    "sev_user_data_pdh_cert_export": 24, "sev_user_data_get_id": 128, "sev_user_data_get_id2": 12,
}  # fmt: skip

# firmware.md 4.2, 4.3, 4.5 to 4.8, 4.11, 5.1, 5.4; kvm.md G1.
BYTES = {
    "cert": {"SevCert": 2084, "AmdCertHeader": 64},
    "session": {"Session": 128, "PacketHeader": 52, "Measurement": 48, "AttestationReport": 208},
    "vmsa": {"Segment": 16, "Vmsa": 4096},
    "ghcb": {"Ghcb": 4096},
    "hashes": {"HashEntry": 50, "HashTable": 176},
    "secret": {"SecretHeader": 20},
    "boot": {"BootHeader": 24, "Mailbox": 16},
}

SIZES = {"sev_buffers": FIRMWARE, "kvm": KVM, "kvm_vcpu": KVM_VCPU, "sev_dev": SEV_DEV, **BYTES}


def wires_of(module: str) -> dict[str, type[Wire]]:
    """The Wire classes that a module of sevlab.abi declares itself."""
    found = importlib.import_module(f"sevlab.abi.{module}")
    return {
        name: cls
        for name, cls in vars(found).items()
        if isinstance(cls, type) and issubclass(cls, Wire) and cls.__module__ == found.__name__
    }


@pytest.mark.parametrize("module", SIZES)
def test_every_structure_has_the_size_of_the_specification(module: str) -> None:
    assert {name: cls.SIZE for name, cls in wires_of(module).items()} == SIZES[module]


def test_no_module_of_layouts_is_left_out() -> None:
    declared = {path.stem for path in (ROOT / "sevlab/abi").glob("*.py") if "(Wire)" in path.read_text()}

    assert declared == set(SIZES)


# The offsets that are easy to get wrong: packed words, holes, a nonce in the middle.
OFFSETS = {
    "sev_buffers.InitEx": {"tmr_paddr": 0x08, "tmr_len": 0x10, "nv_paddr": 0x18, "nv_len": 0x20},
    "sev_buffers.PlatformStatus": {"owner": 3, "config": 4, "build": 7, "guest_count": 8},
    "sev_buffers.PdhCertExport": {"pdh_len": 0x08, "chain_paddr": 0x10, "chain_len": 0x18},
    "sev_buffers.ActivateEx": {"ex_len": 0, "handle": 4, "asid": 8, "numids": 0xC, "ids_paddr": 0x10},
    "sev_buffers.GuestStatus": {"policy": 4, "asid": 8, "state": 0xC},
    "sev_buffers.LaunchStart": {"policy": 4, "dh_cert_paddr": 8, "dh_cert_len": 0x10, "session_paddr": 0x18, "session_len": 0x20},
    "sev_buffers.SendUpdateVmsa": {"handle": 0, "hdr_paddr": 8, "hdr_len": 0x10, "guest_paddr": 0x18, "trans_len": 0x30},
    "sev_buffers.Attestation": {"paddr": 8, "mnonce": 0x10, "len": 0x20},
    "sev_buffers.SendStart": {"plat_certs_paddr": 0x18, "amd_certs_paddr": 0x28, "session_paddr": 0x38, "session_len": 0x40},
    "sev_buffers.Dbg": {"src_paddr": 8, "dst_paddr": 0x10, "len": 0x18},
    "kvm.kvm_sev_cmd": {"id": 0, "data": 8, "error": 16, "sev_fd": 20},
    "kvm.kvm_enable_cap": {"args": 8, "pad": 40},
    "kvm.kvm_sev_init": {"vmsa_features": 0, "flags": 8, "ghcb_version": 12, "pad2": 16},
    "kvm.kvm_sev_launch_start": {"dh_uaddr": 8, "dh_len": 16, "session_uaddr": 24, "session_len": 32},
    "kvm.kvm_sev_send_update_data": {"hdr_len": 8, "guest_uaddr": 16, "guest_len": 24, "trans_uaddr": 32, "trans_len": 40},
    "kvm.kvm_sev_attestation_report": {"uaddr": 16, "len": 24},
    "kvm.kvm_sev_send_start": {"pdh_cert_uaddr": 8, "plat_certs_uaddr": 24, "amd_certs_uaddr": 40, "session_uaddr": 56},
    "kvm_vcpu.kvm_run": {"immediate_exit": 1, "exit_reason": 8, "padding": 32},
    "kvm_vcpu.kvm_run_mmio": {"data": 40 - 32, "len": 48 - 32, "is_write": 52 - 32},
    "kvm_vcpu.kvm_run_hypercall": {"args": 40 - 32, "ret": 88 - 32, "longmode": 96 - 32},
    "sev_dev.sev_issue_cmd": {"data": 4, "error": 12},
    "sev_dev.sev_user_data_status": {"flags": 3, "build": 7, "guest_count": 8},
    "sev_dev.sev_user_data_pdh_cert_export": {"cert_chain_address": 12, "cert_chain_len": 20},
    "cert.SevCert": {"usage": 8, "curve": 0x10, "qx": 0x14, "qy": 0x5C, "sig1_usage": 0x414, "sig1": 0x41C, "sig2": 0x624},
    "session.AttestationReport": {"launch_digest": 0x10, "policy": 0x30, "sig_algo": 0x38, "sig_r": 0x40, "sig_s": 0x88},
    "vmsa.Vmsa": {
        "tr": 0x90, "vmpl": 0xCA, "cpl": 0xCB, "efer": 0xD0, "xss": 0x140, "cr4": 0x148, "cr0": 0x158, "rip": 0x178, "rsp": 0x1D8,
        "rax": 0x1F8, "star": 0x200, "cr2": 0x240, "g_pat": 0x268, "pkru": 0x2E8, "tsc_aux": 0x2EC, "rcx": 0x308, "rbx": 0x318,
        "rbp": 0x328, "r15": 0x378, "fw_zeroed": 0x380, "fw_crc_block": 0x388, "guest_exit_info_1": 0x390, "sev_features": 0x3B0,
        "guest_exit_code": 0x3C0, "virtual_tom": 0x3C8, "xcr0": 0x3E8, "x87_dp": 0x400, "mxcsr": 0x408, "fcw": 0x410,
        "x87_rip": 0x418, "fpreg_x87": 0x420, "fpreg_xmm": 0x470, "fpreg_ymm": 0x570,
    },
    "ghcb.Ghcb": {
        "cpl": 0xCB, "xss": 0x140, "dr7": 0x160, "rip": 0x178, "rsp": 0x1D8, "rax": 0x1F8, "rcx": 0x308, "rbp": 0x328, "r15": 0x378,
        "sw_exit_code": 0x390, "sw_scratch": 0x3A8, "xcr0": 0x3E8, "valid_bitmap": 0x3F0, "shared_buffer": 0x800,
        "protocol_version": 0xFFA, "ghcb_usage": 0xFFC,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OFFSETS)
def test_the_fields_that_are_easy_to_misplace_lie_where_the_specification_says(name: str) -> None:
    module, _, cls = name.partition(".")
    layout = {field.name: field.offset for field in wires_of(module)[cls].LAYOUT}

    assert {field: layout[field] for field in OFFSETS[name]} == OFFSETS[name]
