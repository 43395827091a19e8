"""What a guest and KVM say to each other, as lines of a sequence diagram: exits, requests through the GHCB, messages, holds.

A request through the GHCB is an arrow to KVM with what was asked, its answer an arrow back
with info1, and info2 where that says more. The exit by which a request came says nothing of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sevlab.abi import ghcb
from sevlab.abi.kvm import MP_STATE_NAMES
from sevlab.hw import vmcb
from sevlab.kvm.vmgexit import VMGEXITS

GUEST, KERNEL, APS = "guest", "KVM", "APs"
Fields = dict[str, Any]
EXITS = {
    getattr(vmcb, f"EXIT_{name}"): name
    for name in ("INTR", "CPUID", "HLT", "IOIO", "MSR", "SHUTDOWN", "VMMCALL", "WBINVD", "NPF", "VMGEXIT")
}
BY_MSR = {
    ghcb.GHCB_MSR_SEV_INFO_REQ: "SEV_INFO", ghcb.GHCB_MSR_CPUID_REQ: "CPUID", ghcb.GHCB_MSR_AP_RESET_HOLD_REQ: "AP_RESET_HOLD",
    ghcb.GHCB_MSR_HV_FT_REQ: "HV_FEATURES", ghcb.GHCB_MSR_TERM_REQ: "TERMINATE",
}  # fmt: skip


def _state(number: int) -> str:
    return MP_STATE_NAMES.get(number, str(number)).removeprefix("KVM_MP_STATE_")


def _request(row: Fields) -> str:
    known = VMGEXITS.get(row["exit_reason"])
    return f"VMGEXIT {known.name if known else format(row['exit_reason'], '#x')}"


def _answer(row: Fields) -> str:
    return "0" if not row["info1"] else f"info1 = {row['info1']}, info2 = {row['info2']:#x}"


def _by_msr(row: Fields) -> str:
    what = row["ghcb_gpa"] & ghcb.GHCB_MSR_INFO_MASK
    return f"by MSR: {BY_MSR.get(what, format(what, '#x'))}"


def quiet(row: Fields) -> bool:
    """Whether a row says what another one says better: the exit under a request, the end of one by the MSR."""
    return row["kind"] in ("VmgexitMsrExit", "TlbFlushed") or (row["kind"] == "VmExit" and row["code"] == vmcb.EXIT_VMGEXIT)


def _message(row: Fields) -> str:
    what = {4: "NMI", 5: "INIT", 6: f"SIPI {row['vector']:#x}"}.get(row["mode"], f"interrupt {row['vector']:#x}")
    return f"{what} to vCPU {row['vcpu']}"


NOTES: dict[str, Callable[[Fields], str]] = {
    "MpState": lambda row: f"vCPU {row['vcpu']}: {_state(row['was'])} → {_state(row['state'])}",
    "Message": _message,
}
ARROWS: dict[str, Callable[[Fields], tuple[str, str, str, str]]] = {
    "VmExit": lambda row: (GUEST, KERNEL, f"exit {EXITS.get(row['code'], format(row['code'], '#x'))}", ""),
    "VmgexitEnter": lambda row: (GUEST, KERNEL, _request(row), ""),
    "VmgexitExit": lambda row: (KERNEL, GUEST, f"answer to {_request(row).removeprefix('VMGEXIT ')}", _answer(row)),
    "VmgexitMsrEnter": lambda row: (GUEST, KERNEL, _by_msr(row), ""),
    "Held": lambda row: (GUEST, KERNEL, "hold me until a SIPI comes", ""),
    "JumpTable": lambda row: (
        (GUEST, KERNEL, f"jump table at {row['gpa']:#x}", "") if row["set"] else (KERNEL, GUEST, f"jump table: {row['gpa']:#x}", "")
    ),
    "SipiDelivered": lambda row: (
        KERNEL, GUEST, f"SIPI {row['vector']:#x}" + (", its first: what was measured runs" if row["first"] else ""), "",
    ),
}  # fmt: skip
