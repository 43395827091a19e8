"""The firmware's way through an owner's session, one key after the other."""

from __future__ import annotations

from typing import Any

from sevlab import crypto
from sevlab.abi import session as wire
from sevlab.abi.cert import SevCert
from sevlab.host import Host
from sevlab.lab.show import Text, table


def unwrap(host: Host, session: Any) -> Text:
    """Every key between the two Diffie-Hellman halves and the transport keys, as a table.

    `session` has `.godh` and `.session`, as an owner sends them. The platform's
    private key is an x-ray: the look leaves a row in the trace and is saved with the journal.

    Raises ValueError for a session that was not made for this platform.
    """
    if host.psp.keys.pdh is None:
        raise ValueError("the platform was not brought up: it has no Diffie-Hellman key")
    pdh = host.xray.keys().pdh
    sent = wire.Session.unpack(session.session)
    z = crypto.ecdh(pdh.d, SevCert.unpack(session.godh).public)
    master = crypto.kdf(z, wire.LABEL_MASTER_SECRET, sent.nonce)
    kek, kik = crypto.kdf(master, wire.LABEL_KEK), crypto.kdf(master, wire.LABEL_KIK)
    if not crypto.same(crypto.hmac256(kik, sent.wrap_tk), sent.wrap_mac):
        raise ValueError("WRAP_MAC does not fit: this session was made for another platform, or changed on its way")
    keys = crypto.aes_ctr(kek, sent.wrap_iv, sent.wrap_tk)
    steps = [
        ("Z", "ECDH of the two halves", z),
        ("master secret", 'KDF(Z, "sev-master-secret", nonce)', master),
        ("KEK", 'KDF(master secret, "sev-kek")', kek),
        ("KIK", 'KDF(master secret, "sev-kik")', kik),
        ("TEK", "the first half of wrap_tk, decrypted with KEK", keys[:16]),
        ("TIK", "the second half", keys[16:]),
    ]
    return table(
        [{"key": name, "comes from": how, "x-ray": value[:16].hex() + "…" * (len(value) > 16)} for name, how, value in steps],
        title="What the firmware does with the 128 bytes (x-ray: no real machine shows these)",
    )
