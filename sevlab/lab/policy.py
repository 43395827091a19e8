"""The policy word, bit by bit."""

from __future__ import annotations

from sevlab.abi.sev import POLICY_BITS, POLICY_RESERVED, policy_api
from sevlab.lab.show import Text, table

# Source: firmware.md 3.
MEANING = {
    "NODBG": "nobody may debug it: no DBG_DECRYPT, no DBG_ENCRYPT",
    "NOKS": "no other guest may share its key",
    "ES": "its registers are encrypted and measured too (SEV-ES)",
    "NOSEND": "it may not be sent to another machine",
    "DOMAIN": "sent to machines of the same owner only",
    "SEV": "sent to machines that AMD vouches for only",
}


def policy_bits(policy: int) -> Text:
    """A policy word as a table: each bit, whether it is set, and what it says."""
    rows = [_row(str(bit.bit_length() - 1), policy & bit, name, MEANING[name]) for name, bit in POLICY_BITS.items()]
    major, minor = policy_api(policy)
    rows.append(_row("6-15", policy & POLICY_RESERVED, "", "reserved: must be 0"))
    rows.append(_row("16-31", 0, "API", f"firmware {major}.{minor} or newer") | {"set": f"{major}.{minor}"})
    return table(rows, title=f"policy {policy:#x}")


def _row(bits: str, is_set: int, name: str, means: str) -> dict[str, str]:
    return {"bit": bits, "set": "1" if is_set else "0", "name": name, "it says": means}
