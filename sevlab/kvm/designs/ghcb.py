"""The seam `ghcb`: how KVM reads what an SEV-ES guest asks for, and what it answers to nonsense.

`GHCB_5_13` is SEV-ES as merged in 5.11: a malformed request ended KVM_RUN with
EINVAL, so that a mere *user* inside the guest could cost it its life, and KVM read
exit code and valid bits from the shared page once to check them and once more to
use them (CVE-2023-4155). Since ad5b353240c8 (5.16) the guest is told what was wrong;
since 6.1.46 KVM decides on a snapshot. `GHCB_6_12` has the GHCB specification's
version 2 (6.10): a hold by the MSR protocol, a bitmap of features, a termination by
NAE event, requests of SEV-SNP guests that end the others, scratch areas inside the page.
`replace(GHCB_6_1, snapshot=False)` is the double fetch alone. Source: kvm.md G2 to G6, J1, J15.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ghcb:
    """One kernel's handling of VMGEXIT. The defaults are those of 6.1.192."""

    version: str = "6.1"
    polite: bool = True  # a malformed request is answered (info1 = 2); until 5.15 KVM_RUN ended with EINVAL
    snapshot: bool = True  # checked and used is one and the same reading; False: CVE-2023-4155
    v2: bool = False  # the protocol's version 2

    def maximum(self, sev: Any) -> int:
        """The newest protocol version that a guest is offered."""
        return int(sev.ghcb_version) if self.v2 else 1

    def __repr__(self) -> str:
        return f"Ghcb({self.version!r})"


GHCB_5_13 = Ghcb("5.13", polite=False, snapshot=False)
GHCB_6_1 = Ghcb("6.1")
GHCB_6_12 = Ghcb("6.12", v2=True)
