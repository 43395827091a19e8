"""The owner's end of the channel, opened with the platform's key by plain arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab import owner
from sevlab.abi import cert
from sevlab.abi.cert import SevCert
from sevlab.abi.session import Session
from sevlab.crypto import Stream, aes_ctr, ecdh, ecdsa_verify, hmac256, kdf
from sevlab.owner.session import SessionMade
from sevlab.psp import channel
from sevlab.psp.rules import Refused
from sevlab.trace import Trace

PDH_SCALAR = 1004  # of the fixture `pdh`


def opened(session: owner.OwnerSession, d: int = PDH_SCALAR) -> tuple[bytes, bytes]:
    """(TEK, TIK) as the platform gets them, by the steps of firmware.md 4.5."""
    wire = Session.unpack(session.session)
    z = ecdh(d, SevCert.unpack(session.godh).public)
    master = kdf(z, "sev-master-secret", wire.nonce)
    assert hmac256(kdf(master, "sev-kik"), wire.wrap_tk) == wire.wrap_mac
    keys = aes_ctr(kdf(master, "sev-kek"), wire.wrap_iv, wire.wrap_tk)
    return keys[:16], keys[16:]


# ------------------------------------------------------------- what a session is


def test_whoever_has_the_platforms_key_finds_the_owners_two_keys(pdh: bytes) -> None:
    session = owner.new_session(pdh, 5, seed=1)

    assert (len(session.godh), len(session.session)) == (2084, 128)
    assert opened(session) == (session.tek, session.tik)


def test_the_firmwares_own_end_opens_what_the_owner_closed(pdh: bytes) -> None:
    session = owner.new_session(pdh, 5, seed=1, shape="sev-tool")
    wire, z = Session.unpack(session.session), ecdh(PDH_SCALAR, SevCert.unpack(session.godh).public)

    assert channel.unwrap(z, wire) == (session.tek, session.tik)
    channel.check_policy(session.tik, wire, 5)
    with pytest.raises(Refused):
        channel.check_policy(session.tik, wire, 1)


def test_the_policy_is_bound_by_a_mac_under_the_tik(pdh: bytes) -> None:
    session = owner.new_session(pdh, 0x18000009, seed=1)

    assert Session.unpack(session.session).policy_mac == hmac256(session.tik, bytes.fromhex("09000018"))


def test_sevctls_shape_is_unsigned(pdh: bytes) -> None:
    godh = SevCert.unpack(owner.new_session(pdh, 1, seed=1).godh)

    assert (godh.version, godh.api_major, godh.api_minor, godh.usage, godh.algo) == (1, 0, 0, cert.USAGE_PDH, cert.ALGO_ECDH_SHA256)
    assert godh.signatures == ((cert.USAGE_INVALID, 0, bytes(512)),) * 2


def test_sev_tools_shape_signs_itself_and_says_pek(pdh: bytes) -> None:
    godh = SevCert.unpack(owner.new_session(pdh, 1, seed=1, shape="sev-tool").godh)
    (usage, algo, slot), unused = godh.signatures

    assert (usage, algo) == (cert.USAGE_PEK, cert.ALGO_ECDSA_SHA256) and unused == (cert.USAGE_INVALID, 0, bytes(512))
    assert ecdsa_verify(godh.public, godh.signed_bytes, *cert.ecdsa_numbers(slot))


def test_the_shape_changes_nothing_but_the_signature(pdh: bytes) -> None:
    one, other = (owner.new_session(pdh, 1, seed=1, shape=shape) for shape in ("sevctl", "sev-tool"))

    assert one.godh[: cert.SIGNED_LEN] == other.godh[: cert.SIGNED_LEN]
    assert (one.session, one.tek, one.tik) == (other.session, other.tek, other.tik)


# ------------------------------------------------------------- whose randomness


def test_a_seed_repeats_a_session_byte_for_byte(pdh: bytes) -> None:
    assert owner.new_session(pdh, 1, seed=7) == owner.new_session(pdh, 1, seed=7)


def test_without_a_seed_the_session_shows_the_one_it_took(pdh: bytes) -> None:
    session = owner.new_session(pdh, 1)

    assert owner.new_session(pdh, 1, seed=session.seed) == session
    assert owner.new_session(pdh, 1).tik != session.tik


def test_the_owner_draws_nothing_that_a_host_with_the_same_seed_draws(pdh: bytes) -> None:
    session, host = owner.new_session(pdh, 1, seed=7), Stream(7)
    wire = Session.unpack(session.session)

    drawn = {host.draw(label, 16) for label in ("godh", "tek", "tik", "nonce", "wrap-iv") for _ in range(4)}
    assert drawn.isdisjoint({session.tek, session.tik, wire.nonce, wire.wrap_iv})


def test_the_keys_are_neither_shown_nor_traced(pdh: bytes) -> None:
    trace = Trace()
    session = owner.new_session(pdh, 5, seed=1, trace=trace)

    assert session.tik.hex() not in repr(session) and str(session.tik) not in repr(session)
    assert [(row["lane"], row["policy"], row["shape"]) for row in trace.rows(SessionMade)] == [("owner", 5, "sevctl")]


# ------------------------------------------------------------- what is refused


@pytest.mark.parametrize("bit", range(6, 16))
def test_a_reserved_bit_of_the_policy_is_refused(bit: int, pdh: bytes) -> None:
    with pytest.raises(ValueError, match=rf"sets reserved bits \({1 << bit:#x}\): bits 6 to 15 must be zero"):
        owner.new_session(pdh, 1 | 1 << bit)


@pytest.mark.parametrize("policy", [-1, 1 << 32])
def test_a_policy_that_is_no_word_of_32_bits_is_refused(policy: int, pdh: bytes) -> None:
    with pytest.raises(ValueError, match="a policy has 32 bits"):
        owner.new_session(pdh, policy)


@pytest.mark.parametrize("length", [1, 128, 2083, 2085, 4 * 2084])
def test_a_pdh_of_another_length_is_refused(length: int, pdh: bytes) -> None:
    with pytest.raises(ValueError, match=f"the PDH file has {length} bytes: a certificate of this kind has exactly 2084"):
        owner.new_session((4 * pdh)[:length], 1)


def test_no_pdh_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="the PDH certificate is missing"):
        owner.new_session(b"", 1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"usage": cert.USAGE_PEK}, r"no PDH: its usage is 0x1002 \(PEK\), not 0x1003"),
        ({"version": 3}, "version 3: there is only version 1"),
        ({"algo": cert.ALGO_ECDSA_SHA256}, "it should be ECDH-SHA256"),
        ({"curve": cert.CURVE_P256}, r"curve is 1: SEV platforms use 2 \(P-384\)"),
        ({"qy": bytes(72)}, "no point of P-384"),
    ],
)
def test_what_is_no_pdh_is_refused(fields: dict[str, object], words: str, pdh: bytes) -> None:
    with pytest.raises(ValueError, match=words):
        owner.new_session(SevCert.unpack(pdh).replace(**fields).pack(), 1)


def test_an_unknown_shape_is_refused(pdh: bytes) -> None:
    with pytest.raises(ValueError, match="a session has the shape of sevctl or sev-tool, not 'raw'"):
        owner.new_session(pdh, 1, shape="raw")


def test_of_a_bad_policy_and_a_bad_pdh_the_owners_own_mistake_is_told_first() -> None:
    with pytest.raises(ValueError, match="reserved bits"):
        owner.new_session(b"no certificate", 0x40)


def test_another_platforms_key_opens_nothing(pdh: bytes) -> None:
    with pytest.raises(AssertionError):
        opened(owner.new_session(pdh, 1, seed=1), PDH_SCALAR + 1)


@given(bit=st.integers(0, 8 * 80 - 1))
def test_a_bit_changed_in_nonce_wrapped_keys_or_mac_is_noticed(pdh: bytes, bit: int) -> None:
    """Of the 128 bytes, all but WRAP_IV and POLICY_MAC stand under WRAP_MAC; those two show in the keys and in the policy (law)."""
    session = owner.new_session(pdh, 1, seed=1)
    at = bit // 8 if bit // 8 < 0x30 else bit // 8 + 0x10  # nonce, wrap_tk; then wrap_mac, over the IV
    spoilt = bytearray(session.session)
    spoilt[at] ^= 1 << bit % 8
    with pytest.raises(AssertionError):
        opened(owner.OwnerSession(session.godh, bytes(spoilt), session.tek, session.tik, 1, 1))
