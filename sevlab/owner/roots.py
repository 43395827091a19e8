"""The roots that a guest owner knows before anybody talks to him.

A chain proves nothing until its top is compared with something already known.
The owner knows AMD's root keys by their key id and by a hash of the key itself:
an id anybody can copy. The firmware pins its root in the same way, sev-tool
compares eight bytes of the id and no more (firmware.md 4.3).
"""

from __future__ import annotations

from sevlab.abi.cert import AMD_ROOTS, AmdCert
from sevlab.crypto import sha384

EMULATED_ROOT = "sevlab's emulated root"
EMULATED_ID = b"sevlab-emu-ARK01"

# SHA-384 over e and n as the ARK file holds them (little-endian, 256 or 512 bytes each). Naples and Rome: from the
# chains of two real chips. Milan, Genoa, Turin: from the files that virtee/sev ships (commit 9cf2adbf), whose keys are
# those of AMD's X.509 roots ARK-Milan, ARK-Genoa and ARK-Turin (SPKI SHA-256 9f056bee..., 429a69c9..., 4f125410...).
PINS = {
    "Naples": "48c20c0f206ee090b63052af7d62c12338f806394a8a75bb0ff1f5ff0f66a88cfa0201eaba450fcf1f11a3b1589758dc",
    "Rome": "7af88cdef28818399e978085e1cce172b203a79515072fac5c9c286b5f5fbf2e219f0f5501b10c0772ccdc87bfef939d",
    "Milan": "4e0fd91e2ed39c5c622c9255c4fd5973744cb1fa1e47dfa8515ef4c89f39781a08631de2fade9779775b395fef7d82aa",
    "Genoa": "de6aa482becf9018af98fe632a4b42c3c8deb1251d993e63891256f63de3b3662f6d2acfac9dbaf8dce4c4d683ae093c",
    "Turin": "2e4dae5736acd74beb33f530a5c40ed279a509b9b987c844ae3926e40b341ae52433b9543681f1047a7a154fd82aa109",
    EMULATED_ROOT: "a5e95949b9afc1890c89232d78903eca32f19a3de3c48734ab3798c0fa5f1bec4bc834e9d439cd910550fd6ef590e99c",
}


def key_hash(cert: AmdCert) -> str:
    """SHA-384 over a CA certificate's key material, e then n, as hex: what a pin is compared with."""
    width = cert.bits // 8
    return sha384(cert.e.to_bytes(width, "little") + cert.n.to_bytes(width, "little")).hex()


def anchor(ark: AmdCert) -> tuple[str, str]:
    """(the root's name, "") for a root the owner knows, ("", why not) for any other."""
    products = {root.ark_id: name for name, root in AMD_ROOTS.items()} | {EMULATED_ID: EMULATED_ROOT}
    name = products.get(ark.header.key_id)
    if name is None:
        return "", f"the ARK's key id {ark.header.key_id.hex()} is none of AMD's: a home-made root, under which everything may fit"
    title = name if name == EMULATED_ROOT else f"AMD's root for {name}"
    if name not in PINS:
        return "", f"the ARK has the key id of {title}, but the owner has no pinned hash of that key to compare with"
    if key_hash(ark) != PINS[name]:
        return "", f"the ARK has the key id of {title}, but it is another key: an id can be copied, the key cannot"
    return title, ""
