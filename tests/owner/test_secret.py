"""Launch secrets: sealed for one launch, and for no other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab import owner
from sevlab.abi.session import PacketHeader
from sevlab.crypto import aes_ctr, hmac256
from sevlab.owner.secret import SecretWrapped
from sevlab.trace import Trace

TEK, TIK, MEASURE = bytes(range(0x10, 0x20)), bytes(range(0x20, 0x30)), bytes(range(32))
PAYLOAD = b"sixteen bytes !!" * 3


def opened(header: bytes, ciphertext: bytes, measure: bytes = MEASURE) -> bytes:
    """The payload as firmware from API 0.17 on unwraps it, by firmware.md 4.7 in plain bytes."""
    packet = PacketHeader.unpack(header)
    length = len(ciphertext).to_bytes(4, "little")
    message = b"\1" + packet.flags.to_bytes(4, "little") + packet.iv + length + length + ciphertext + measure
    assert hmac256(TIK, message) == packet.mac
    return aes_ctr(TEK, packet.iv, ciphertext)


# ------------------------------------------------------------- packets


def test_a_packet_opens_for_the_launch_it_was_made_for() -> None:
    header, ciphertext = owner.wrap_secret(TEK, TIK, MEASURE, PAYLOAD)

    assert len(header) == 52 and ciphertext != PAYLOAD
    assert opened(header, ciphertext) == PAYLOAD


def test_a_packet_opens_for_no_other_launch() -> None:
    packet = owner.wrap_secret(TEK, TIK, MEASURE, PAYLOAD)

    with pytest.raises(AssertionError):
        opened(*packet, measure=bytes(32))


def test_the_blob_of_48_bytes_serves_as_the_measurement() -> None:
    assert owner.wrap_secret(TEK, TIK, MEASURE + b"n" * 16, PAYLOAD) == owner.wrap_secret(TEK, TIK, MEASURE, PAYLOAD)


@pytest.mark.parametrize(
    ("api", "bound"), [((0, 16), False), ((0, 17), True), ((0, 24, 15), True), ((1, 0), True), ((0, 0), False)]
)
def test_firmware_up_to_0_16_leaves_the_measurement_out(api: tuple[int, ...], bound: bool) -> None:
    one, other = (owner.wrap_secret(TEK, TIK, measure, PAYLOAD, iv=bytes(16), api=api)[0] for measure in (MEASURE, bytes(32)))

    assert (one != other) is bound


def test_without_an_iv_no_two_payloads_share_a_keystream() -> None:
    packets = [owner.wrap_secret(TEK, TIK, MEASURE, bytes([n]) * 16) for n in range(32)]

    assert len({header[4:20] for header, _ in packets}) == len(packets)
    assert owner.wrap_secret(TEK, TIK, MEASURE, bytes(16)) == packets[0]  # and the same secret is the same packet


def test_another_measurement_has_another_iv_too() -> None:
    one, other = (owner.wrap_secret(TEK, TIK, measure, PAYLOAD)[0] for measure in (MEASURE, bytes(32)))

    assert one[4:20] != other[4:20]


def test_16_kib_still_travel() -> None:
    assert len(owner.wrap_secret(TEK, TIK, MEASURE, bytes(0x4000))[1]) == 0x4000


def test_sealing_leaves_a_row_with_the_length_alone() -> None:
    trace = Trace()
    owner.wrap_secret(TEK, TIK, MEASURE, PAYLOAD, trace=trace)

    row = trace.rows(SecretWrapped)[0]
    assert (row["lane"], row["length"]) == ("owner", 48) and PAYLOAD not in row.values()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tek": bytes(15)}, "TEK and TIK have 16 bytes each, these have 15 and 16"),
        ({"tik": bytes(32)}, "TEK and TIK have 16 bytes each, these have 16 and 32"),
        ({"measure": bytes(31)}, "a measurement has 32 bytes, or 48 with its nonce, this one has 31"),
        ({"measure": b""}, "this one has 0"),
        ({"iv": bytes(12)}, "an IV has 16 bytes, this one has 12"),
        ({"iv": b""}, "an IV has 16 bytes, this one has 0"),
        ({"payload": b""}, "a multiple of 16 bytes, and not none: this one has 0"),
        ({"payload": bytes(15)}, "a multiple of 16 bytes, and not none: this one has 15"),
        ({"payload": bytes(0x4001)}, "a multiple of 16 bytes, and not none: this one has 16385"),
        ({"payload": bytes(0x4010)}, "a secret has at most 16384 bytes on its way through KVM, this one has 16400"),
        ({"payload": bytes(0x5000)}, "at most 16384 bytes"),
        ({"tik": b"", "payload": b""}, "TEK and TIK have 16 bytes each"),
    ],
)
def test_what_no_platform_would_take_is_refused_before_anything_is_sealed(changes: dict[str, bytes], words: str) -> None:
    given = {"tek": TEK, "tik": TIK, "measure": MEASURE, "payload": PAYLOAD, "iv": None} | changes
    with pytest.raises(ValueError, match=words):
        owner.wrap_secret(given["tek"], given["tik"], given["measure"], given["payload"], iv=given["iv"])


@given(bit=st.integers(0, 8 * (52 + len(PAYLOAD)) - 1))
def test_any_bit_changed_on_the_way_is_noticed(bit: int) -> None:
    """Header and ciphertext stand under the MAC, all of them (law)."""
    header, ciphertext = owner.wrap_secret(TEK, TIK, MEASURE, PAYLOAD)
    packet = bytearray(header + ciphertext)
    packet[bit // 8] ^= 1 << bit % 8
    with pytest.raises(AssertionError):
        opened(bytes(packet[:52]), bytes(packet[52:]))


# ------------------------------------------------------------- the table inside


def test_a_table_says_what_was_put_into_it() -> None:
    table = owner.secret_table({"luks-key": b"open sesame", "736869e5-aaaa-4973-92ec-06879ce3da0b": b"token"})

    assert len(table) % 16 == 0
    assert owner.secret_entries(table) == [
        ("736869e5-84f0-4973-92ec-06879ce3da0b", b"open sesame"),
        ("736869e5-aaaa-4973-92ec-06879ce3da0b", b"token"),
    ]


def test_a_guid_may_be_its_16_bytes() -> None:
    text = "736869e5-84f0-4973-92ec-06879ce3da0b"
    raw = bytes.fromhex("e5696873f084734992ec06879ce3da0b")

    assert owner.secret_table([(raw, b"x")]) == owner.secret_table([(text, b"x")]) == owner.secret_table({"luks-key": b"x"})


def test_an_empty_table_is_its_header() -> None:
    assert owner.secret_entries(owner.secret_table({})) == []


@pytest.mark.parametrize("which", ["luks", "736869e5", "", b"short", bytes(17)])
def test_what_is_no_guid_is_refused(which: str | bytes) -> None:
    with pytest.raises(ValueError, match="GUID"):
        owner.secret_table([(which, b"x")])


@pytest.mark.parametrize("table", [b"", bytes(64), bytes.fromhex("42f5741edd71664d963eef4287ff173b") + b"\xff\0\0\0"])
def test_what_is_no_table_is_refused(table: bytes) -> None:
    with pytest.raises(ValueError):
        owner.secret_entries(table)
