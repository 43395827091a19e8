"""The seam `release`: what else changed between one kernel and the next, each a small thing of its own.

Source: kvm.md K, and the sections named beside the fields.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """One kernel release. The defaults are those of 6.1."""

    version: str = "6.1"
    init_on_probe: bool = True  # firmware INIT when ccp finds its device; 6.12: when kvm_amd asks for it (A11)
    shutdown_after_ioctl: bool = False  # /dev/sev shuts down again what it brought up for one command (A11)
    vmsa_once: bool = False  # LAUNCH_UPDATE_VMSA of an encrypted vCPU is EINVAL, of one in the making EBUSY (B5; 6.12.83)
    wbinvd_on_reclaim: bool = True  # pages that leave an SEV guest are written back (D4; CVE-2022-0171, 5.18)
    exit_hypercall: bool = True  # KVM_CAP_EXIT_HYPERCALL (A9; 5.14)
    sys_attributes: bool = True  # KVM_GET_DEVICE_ATTR and KVM_HAS_DEVICE_ATTR of /dev/kvm (A9; 5.17)
    system_event_data: bool = True  # KVM_CAP_SYSTEM_EVENT_DATA, and with it the exit of a guest that gives up (A9; 5.19)

    def __repr__(self) -> str:
        return f"Release({self.version!r})"


V5_13 = Release("5.13", wbinvd_on_reclaim=False, exit_hypercall=False, sys_attributes=False, system_event_data=False)
V6_1 = Release("6.1")
V6_12 = Release("6.12", shutdown_after_ioctl=True, vmsa_once=True)
