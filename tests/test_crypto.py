"""The primitives against answers that somebody else computed, and what they refuse."""

from __future__ import annotations

import hashlib

import pytest

from sevlab import crypto
from sevlab.crypto import Ecb, Stream, aes_ctr, ecdh, hmac256, kdf, p384_public, sha256, sha384, xts_contexts, xts_stream

ZERO = bytes(16)


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


# ------------------------------------------------------------- hashes, MACs, key derivation


def test_the_hashes_and_the_mac_are_the_standard_ones() -> None:
    """Origin: FIPS 180-2, B.1 and D.1 ("abc"); RFC 4231, case 2."""
    assert sha256(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha384(b"abc").hex().startswith("cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed")
    mac = hmac256(b"Jefe", b"what do ya want for nothing?")
    assert mac.hex() == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


def test_zero_keys_make_the_session_that_virtee_publishes() -> None:
    """Origin: virtee/sev, unit tests of src/session (Z, nonce, TEK, TIK and IV all zero)."""
    master = kdf(ZERO, "sev-master-secret", ZERO)
    kek, kik = kdf(master, "sev-kek"), kdf(master, "sev-kik")
    wrap_tk = aes_ctr(kek, ZERO, bytes(32))
    assert master.hex() == "ab4d269fcc62bedb4511d56c386ce706"
    assert kek.hex() == "b6abfbfb75ea1ea74ed8750b8afdb973"
    assert kik.hex() == "53b524bf5669a363f365c864acba8572"
    assert wrap_tk.hex() == "2137bc7f9bb8bd7c3e55a576a15d3454b3856b8ba27afadf46dcfee9f02c02c4"
    assert hmac256(kik, wrap_tk).hex() == "3176c0752738bd9d5e86689534020f528c088f16238826b000b327dee6aeed7d"
    assert hmac256(ZERO, bytes(4)).hex() == "aa7855e13839dd767cd5da7c1ff5036540c9264b7a803029315e55375287b4af"


def test_a_session_that_sev_tool_made_opens_with_the_platform_key() -> None:
    """Origin: AMD's sev-tool, --generate_launch_blob for policy 5 against a platform key of ours; from ECDH to TEK and TIK."""
    d = 0x6778645967F6F70D4AC87BEBDD4DDA0FE7E58E35A059C9312A64B5CF1298D0D74D899EC899F76440310003B7D32399E5
    godh = (
        0x3670315ED5C7A4A97854410741B85FB47A9061B611E581D4EC4199829BD8592CE2DA41E6089371FC4B1E67C127CE2185,
        0x300E2123001B1497378A13BCCD56CD3EC4B02204628AA179DF2B6F1881DFFCCC4364244995B2BAC90864124691638206,
    )
    assert p384_public(d) == (
        0x283AAED717E9FE793019D910958BC161CE43A03F2DF913AF26F8A51B2106BAD9A45082CBDD57B472AA469B55A5445AB0,
        0x67D177457F1FC9C6A5141CECCE73A5066EF2AA7F85D87E027251F21F649251A576E93232C4D1011CF6693E9573A8A3A3,
    )
    z = ecdh(d, godh)
    assert z.hex() == "1b0961cda11852313c976b18b4942ff895e8f5466b675f8779d716329d43fb5b6dfb2ef126040031f801038f036db74a"
    master = kdf(z, "sev-master-secret", unhex("e9ee1f679405256ee351798883c76356"))
    assert master.hex() == "bf14380f682ced2734a29ca8ad21aec0"
    wrap_tk = unhex("04287706f6bd067b53d03cdd5a031c2fc055a21a67c783af0ead3caaa0b60b0d")
    wrap_mac = hmac256(kdf(master, "sev-kik"), wrap_tk)
    assert wrap_mac.hex() == "12296ee894c21a12becddcf469a509d92bea5b55c4793c54821aca9c0dc0adde"
    keys = aes_ctr(kdf(master, "sev-kek"), unhex("241781d0c457c0d4ac1109c9e686e312"), wrap_tk)
    assert keys.hex() == "e09ffcb3914c68151e83bd999ac61537" + "8be342e2e4cd18d7d7b332ad674284d3"


def test_a_longer_derived_key_is_cut_from_several_blocks() -> None:
    """Origin: the vectors handed on with the specification: the CEK seed of a chip whose fuses are 00..1f."""
    key = kdf(sha256(bytes(range(32))), "sev-chip-endorsement-key", size=56)
    assert key.hex() == (
        "17c8a2bf8b8ba3c908bdcdc44733431d4634b086f4773660ee876c98fdc5cf91e15a0eb4270a5ffe671446580396860e42cf960ce4daf24a"
    )
    assert kdf(ZERO, "x", size=0) == b""


def test_label_context_and_length_all_count_in_a_derived_key() -> None:
    keys = {kdf(ZERO, "a"), kdf(ZERO, "b"), kdf(ZERO, "a", b"c"), kdf(ZERO, "a", size=17)[:16], kdf(b"k", "a"), kdf(ZERO, "a\0")}
    assert len(keys) == 6


def test_a_label_outside_ascii_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        kdf(ZERO, "sev-clé")


def test_macs_are_compared_whole() -> None:
    assert crypto.same(b"abc", b"abc")
    assert not crypto.same(b"abc", b"abd")
    assert not crypto.same(b"abc", b"ab")


# ------------------------------------------------------------- AES


def test_one_block_is_the_standard_s() -> None:
    """Origin: FIPS 197, appendix C.1."""
    ecb = Ecb(bytes(range(16)))
    plain = unhex("00112233445566778899aabbccddeeff")
    assert ecb.encrypt(plain).hex() == "69c4e0d86a7b0430d8cdb78070b4c55a"
    assert ecb.decrypt(ecb.encrypt(plain)) == plain


def test_counter_mode_is_the_standard_s_and_counts_up_as_one_big_number() -> None:
    """Origin: NIST SP 800-38A, F.5.1."""
    key = unhex("2b7e151628aed2a6abf7158809cf4f3c")
    plain = unhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    secret = "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff"
    assert aes_ctr(key, unhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"), plain).hex() == secret
    wrapped = aes_ctr(key, b"\xff" * 16, bytes(32))
    assert wrapped[16:] == aes_ctr(key, ZERO, bytes(16))


def test_a_long_message_in_counter_mode_is_the_same_as_its_pieces() -> None:
    data = hashlib.shake_256(b"long").digest((1 << 17) + 5)
    secret = aes_ctr(bytes(range(16)), ZERO, data)
    assert secret[:65520] == aes_ctr(bytes(range(16)), ZERO, data[:65520])
    assert secret[65536:70000] == aes_ctr(bytes(range(16)), (4096).to_bytes(16, "big"), data[65536:70000])
    assert aes_ctr(bytes(range(16)), ZERO, secret) == data


def test_bulk_works_in_place_and_touches_nothing_behind_it() -> None:
    ecb = Ecb(bytes(range(16)))
    memory = bytearray(range(256)) * 2
    before = bytes(memory)
    view = memoryview(memory)
    assert ecb.encrypt_into(view[:256], view[: 256 + 15]) == 256
    assert memory[:256] == ecb.encrypt(before[:256])
    assert memory[256:] == before[256:]
    ecb.decrypt_into(view[:256], view[: 256 + 15])
    assert memory == before


@pytest.mark.parametrize("n", [1, 15, 17, 31])
def test_parts_of_blocks_are_refused_and_leave_no_trace_in_the_context(n: int) -> None:
    ecb = Ecb(ZERO)
    first = ecb.encrypt(bytes(32))
    for call in (ecb.encrypt, ecb.decrypt):
        with pytest.raises(ValueError, match="16-byte blocks"):
            call(bytes(n))
    with pytest.raises(ValueError, match="16-byte blocks"):
        ecb.encrypt_into(bytes(n), bytearray(64))
    assert ecb.encrypt(bytes(32)) == first


def test_a_destination_without_room_is_refused_before_anything_is_written() -> None:
    ecb, out = Ecb(ZERO), bytearray(46)
    with pytest.raises(ValueError, match="15 more"):
        ecb.encrypt_into(bytes(32), out)
    with pytest.raises(ValueError, match="15 more"):
        ecb.decrypt_into(bytes(32), out)
    assert out == bytes(46)


@pytest.mark.parametrize("length", [0, 15, 17, 64])
def test_keys_and_ivs_of_the_wrong_length_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"[Kk]ey"):
        Ecb(bytes(length))
    with pytest.raises(ValueError):
        aes_ctr(bytes(length), ZERO, b"")
    with pytest.raises(ValueError):
        aes_ctr(ZERO, bytes(length), b"x")


def test_xts_stands_in_for_ecb_between_two_xors_of_its_stream() -> None:
    """The stream folded away, what is left is FIPS 197's block (appendix C.1) at any place."""
    contexts = xts_contexts(bytes(range(16)))
    if contexts is None:
        pytest.skip("this library's XTS cannot stand in for ECB")
    plain = unhex("00112233445566778899aabbccddeeff") * 64
    stream = xts_stream(1024)
    out = bytearray(1024 + 15)
    contexts[0](bytes(a ^ b for a, b in zip(plain, stream, strict=True)), out)
    assert bytes(a ^ b for a, b in zip(out, stream, strict=False)) == unhex("69c4e0d86a7b0430d8cdb78070b4c55a") * 64


def test_xts_does_not_stand_in_where_it_gives_another_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert xts_contexts(crypto._XTS_KEY) is None  # XTS wants two different keys
    monkeypatch.setattr(crypto, "xts_stream", lambda n: bytes(n))
    assert xts_contexts(bytes(range(16))) is None


# ------------------------------------------------------------- the generator


def test_the_same_seed_gives_the_same_bytes_for_ever() -> None:
    """Seed to bytes is stable within a minor version: a change here belongs into the changelog."""
    assert Stream(7).draw("psp/pdh", 40).hex() == PINNED
    one, two = Stream(7), Stream(7)
    assert [one.draw("a", 16) for _ in range(3)] == [two.draw("a", 16) for _ in range(3)]


PINNED = "b9dc520647c1c3904f731e9648118e0eaaa6dcdf79fbbc947ffe3b92d34535d3381d16ecbefce568"


def test_a_use_more_changes_no_other_byte() -> None:
    one, two = Stream(7), Stream(7)
    one.draw("guest/1/mnonce", 16)
    one.draw("psp/pdh", 56)
    assert one.draw("guest/3/mnonce", 16) == two.draw("guest/3/mnonce", 16)


def test_draws_of_one_label_differ_and_so_do_labels_seeds_and_kinds_of_seed() -> None:
    stream = Stream(7)
    draws = [stream.draw("a", 16), stream.draw("a", 16), stream.draw("b", 16), Stream(8).draw("a", 16), Stream(b"7").draw("a", 16)]
    draws += [stream.fork("a").draw("a", 16), stream.fork("b").draw("a", 16)]
    assert len(set(draws)) == len(draws)


def test_a_longer_draw_begins_as_a_shorter_one() -> None:
    assert Stream(1).draw("x", 100)[:32] == Stream(1).draw("x", 32)
    assert Stream(1).draw("x", 0) == b""
    assert [len(Stream(1).draw("x", n)) for n in (1, 31, 32, 33, 64, 65)] == [1, 31, 32, 33, 64, 65]


def test_a_fork_depends_on_seed_and_label_alone() -> None:
    stream = Stream(7)
    before = stream.fork("owner").draw("tek", 16)
    stream.draw("psp/pdh", 56)
    assert stream.fork("owner").draw("tek", 16) == before == Stream(7).fork("owner").draw("tek", 16)


def test_without_a_seed_one_is_taken_and_shown_so_that_the_run_can_be_repeated() -> None:
    stream = Stream()
    assert isinstance(stream.seed, int)
    assert Stream(stream.seed).draw("a", 32) == stream.draw("a", 32)
    assert Stream().seed != stream.seed


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="not negative"):
        Stream(-1)
