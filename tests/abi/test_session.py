"""What each MAC covers, against measurements and packets that real tools made."""

from __future__ import annotations

import base64
import hmac
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.abi import session
from sevlab.abi.secret import LUKS_KEY_GUID, build_secret
from sevlab.abi.session import (
    AttestationReport,
    Measurement,
    PacketHeader,
    binds_version,
    measure_message,
    packet_message,
    policy_message,
    secret_message,
)
from sevlab.crypto import aes_ctr


def mac(key: str, message: bytes) -> str:
    return hmac.new(bytes.fromhex(key), message, sha256).hexdigest()


# ------------------------------------------------------------------ measurement vectors

# origin, tik, (api), policy, digest, mnonce, measure
MEASURED = {
    "sev-tool's tests.cpp": (
        "66320db73158a35a255d051758e95ed4", (0, 0x12, 0x0F), 0, sha256(b"").hexdigest(), "4fbe0bedbad6c86ae8f68971d103e554",
        "6faab2daae389bcd3405a05d6cafe33c0414f7bedd0bae19ba5f38b7fd1664ea",
    ),
    "sevctl's tests/data/measurement": (
        "3569cf61a32a602b87185ac6e0f55913", (1, 40, 40), 3, "c64bd101fc9a4a2ce0a27c408d9200911f139a895469b04a40a6fa2890830d23",
        "c313fab511c216b1505b1b2ea9903c40", base64.b64decode("lswbxWxI9gckya16JQvdFtpYmNO4b+3inAPpqsgoBI7D")[:32].hex(),
    ),
    "sev-tool and libvirt, two legacy VMSAs": (
        "8be342e2e4cd18d7d7b332ad674284d3", (0, 24, 15), 5, "38e06fff369183b985aa39a7f66ea84e97f9bcf0b54509e9f0dec69ba9cab4fc",
        "303132333435363738393a3b3c3d3e3f", "33a58f54d584ba23b9f52dedf69f703d7153654829777b4e58091dbc8a270750",
    ),
    "the same under API 0.16": (
        "8be342e2e4cd18d7d7b332ad674284d3", (0, 16, 15), 5, "38e06fff369183b985aa39a7f66ea84e97f9bcf0b54509e9f0dec69ba9cab4fc",
        "303132333435363738393a3b3c3d3e3f", "8b1815905a138cfcad860f01e8e4ea2abe8bd9daae4442dea37e114874f1a345",
    ),
}  # fmt: skip


@pytest.mark.parametrize("origin", MEASURED)
def test_the_message_of_a_measurement_is_the_one_that_real_tools_mac(origin: str) -> None:
    tik, api, policy, digest, mnonce, measure = MEASURED[origin]
    message = measure_message(api, policy, bytes.fromhex(digest), bytes.fromhex(mnonce))

    assert mac(tik, message) == measure
    assert len(message) == (56 if api[:2] >= (0, 17) else 52)


def test_sevctls_base64_is_measure_then_nonce() -> None:
    """sevctl, tests/data/measurement: the 48 bytes as QEMU shows them."""
    blob = base64.b64decode("lswbxWxI9gckya16JQvdFtpYmNO4b+3inAPpqsgoBI7DE/q1EcIWsVBbGy6pkDxA")
    tik, api, policy, digest, mnonce, _ = MEASURED["sevctl's tests/data/measurement"]

    found = Measurement.unpack(blob)
    assert found.mnonce == bytes.fromhex(mnonce)
    assert mac(tik, measure_message(api, policy, bytes.fromhex(digest), found.mnonce)) == found.measure.hex()


@pytest.mark.parametrize(
    ("api", "binds"),
    [((0, 14, 0), False), ((0, 16, 255), False), ((0, 17, 0), True), ((0, 24, 15), True), ((1, 0, 0), True), ((1, 55, 25), True)],
)
def test_the_version_is_bound_from_0_17_on(api: tuple[int, int, int], binds: bool) -> None:
    assert binds_version(api) is binds and binds_version(api[:2]) is binds


# ----------------------------------------------------------------------- packet vectors


def test_the_message_of_a_secret_is_the_one_that_sevctl_macs() -> None:
    """firmware.md 4.12 (c): sevctl's own test of `secret build`."""
    header = PacketHeader.unpack(
        bytes.fromhex("00000000ac5474ed4dd32c7d989ec523d92559ec" "bc152cde610e17f0aef557334a2d4fca42c22c4312e3b5b85a3d47b0aac857e5")
    )
    measurement = Measurement.unpack(base64.b64decode("TLeA7607lZQntLjRY1/i+sbtdSZ+75zxpz4Px9hzpBLwItF5Q2o4prA++3ZZv9ZS"))
    plaintext = build_secret([(LUKS_KEY_GUID, b"MY-LUKS-PASSPHRASE")])
    ciphertext = aes_ctr(bytes.fromhex("52a869b79ab9c13bb6a92b0561619cb3"), header.iv, plaintext)

    message = secret_message((1, 40, 40), header.flags, header.iv, 64, 64, ciphertext, measurement.measure)
    assert mac("c6d5a9956133050912b24bbe5c372686", message) == header.mac.hex()


def test_the_message_of_a_secret_binds_the_measurement_or_not_as_the_version_says() -> None:
    """The launch_secret vector of the specification's own model."""
    header = PacketHeader.unpack(
        bytes.fromhex("00000000606162636465666768696a6b6c6d6e6f" "4e0c6c22396ad33b71548e3a3b7bf894896a5d6d7f056e4ac40ab0396d1c0566")
    )
    ciphertext = bytes.fromhex("42569da3d068a6c4f3f36500c0460dfd95888d8fa95a7f2d27830a91d4b5f81c")
    measure = bytes.fromhex("33a58f54d584ba23b9f52dedf69f703d7153654829777b4e58091dbc8a270750")
    tik = "8be342e2e4cd18d7d7b332ad674284d3"

    new = secret_message((0, 24, 15), header.flags, header.iv, 32, 32, ciphertext, measure)
    old = secret_message((0, 16, 0), header.flags, header.iv, 32, 32, ciphertext, measure)
    assert mac(tik, new) == header.mac.hex()
    assert mac(tik, old) == "f366537444ec9926453305eb818b91220f8cbb632ed448b359a9a59449147290"


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (session.CONTEXT_DATA, "10b2d3773378cf7ee190d5c16d576fc47a06ee508407dd1d4ec2f72512ce08a9"),
        (session.CONTEXT_VMSA, "f122acf4346328674c77d9556f8eb9beb7fa911d3b60d8d2a118d67fe126b619"),
    ],
)
def test_the_message_of_a_migration_packet_differs_by_its_context_byte(context: int, expected: str) -> None:
    """The send_packet vector of the specification's own model, with context 2 and 3."""
    ciphertext = bytes.fromhex(
        "44079eca7eae4fd696451dc9a45c2f0c2792fef41761631ea3d09ce1a413af0e"
        "ced50b5eaa27e93f652c0054f4a53eedfbee48d08262e1e33713308dc2fc411a"
    )
    iv = bytes.fromhex("606162636465666768696a6b6c6d6e6f")

    assert mac("8be342e2e4cd18d7d7b332ad674284d3", packet_message(context, 0, iv, 64, 64, ciphertext)) == expected


def test_policy_zero_under_a_zero_tik_has_the_mac_of_virtees_unit_test() -> None:
    assert mac("00" * 16, policy_message(0)) == "aa7855e13839dd767cd5da7c1ff5036540c9264b7a803029315e55375287b4af"


def test_a_real_report_signs_its_first_52_bytes() -> None:
    """The attestation_rfc6979 vector of the specification's own model."""
    report = AttestationReport.unpack(
        base64.b64decode(
            "MDEyMzQ1Njc4OTo7PD0+Pzjgb/82kYO5hao5p/ZuqE6X+bzwtUUJ6fDexpupyrT8BQAAAAIQAAACAAAAAAAAAIeNPSRllJLOz/febMlZKU0P74zr"
            "pdxdS3GdZtz3dL9rtoBK33Fzd6NNks2J45zcVAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAFhKn5yvLme1KRBE152ZhlIOx9p3M64mdlMAkwurCA6p"
            "+KWMJJ6WxR/fF7x9ZagBVwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="
        )
    )

    assert (report.policy, report.sig_usage, report.sig_algo, report.reserved) == (5, 0x1002, 2, 0)
    assert report.signed_bytes == report.mnonce + report.launch_digest + b"\5\0\0\0"
    assert max(report.signature) < 1 << 384


# ------------------------------------------------------------------------ laws, refusals


@given(st.binary(max_size=64), st.integers(0, 1), st.integers(0, (1 << 32) - 1))
def test_no_field_of_a_packet_is_left_out_of_its_message(ciphertext: bytes, flags: int, length: int) -> None:
    iv = bytes(range(16))
    message = packet_message(1, flags, iv, length, len(ciphertext), ciphertext, bytes(32))

    assert message == b"".join(
        [bytes((1, flags, 0, 0, 0)), iv, length.to_bytes(4, "little"), len(ciphertext).to_bytes(4, "little"), ciphertext, bytes(32)]
    )


@pytest.mark.parametrize(("digest", "mnonce"), [(31, 16), (33, 16), (32, 15), (32, 17), (0, 0), (48, 16)])
def test_a_digest_or_nonce_of_another_length_is_refused(digest: int, mnonce: int) -> None:
    with pytest.raises(ValueError, match=f"these have {digest} and {mnonce}"):
        measure_message((0, 24, 15), 0, bytes(digest), bytes(mnonce))


@pytest.mark.parametrize("length", [0, 12, 15, 17])
def test_an_iv_of_another_length_is_refused_and_not_padded(length: int) -> None:
    with pytest.raises(ValueError, match=f"this one {length}"):
        packet_message(2, 0, bytes(length), 16, 16, bytes(16))
