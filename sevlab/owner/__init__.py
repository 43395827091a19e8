"""The guest owner: far away, and knowing messages only.

The owner verifies a platform's certificates, makes a session for one launch,
computes what the measurement must be, and sends a secret when it is that. All
of it is arithmetic on bytes that somebody carried here: nothing in this package
has seen the machine.
"""

from __future__ import annotations

from sevlab.owner.chain import Chain, ChainVerdict, Edge, verify_chain
from sevlab.owner.measure import (
    MeasurementVerdict,
    check_measurement,
    cpu_signature,
    digest_variants,
    expected_digest,
    expected_measurement,
)
from sevlab.owner.roots import EMULATED_ROOT
from sevlab.owner.secret import secret_entries, secret_table, wrap_secret
from sevlab.owner.session import OwnerSession, new_session

__all__ = [
    "EMULATED_ROOT",
    "Chain",
    "ChainVerdict",
    "Edge",
    "MeasurementVerdict",
    "OwnerSession",
    "check_measurement",
    "cpu_signature",
    "digest_variants",
    "expected_digest",
    "expected_measurement",
    "new_session",
    "secret_entries",
    "secret_table",
    "verify_chain",
    "wrap_secret",
]
