"""What an owner is handed and is of another kind: refused in his own words, and a key is never quoted."""

from __future__ import annotations

from pathlib import Path

import pytest

from sevlab import guest, owner

KEY, DIGEST, BLOB = bytes(16), bytes(32), bytes(48)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (
            lambda: owner.expected_digest("OVMF.fd"),
            "firmware is bytes, not str; pathlib.Path(...).read_bytes() has those of a file",
        ),
        (lambda: owner.expected_digest(Path("OVMF.fd")), "firmware is bytes, not PosixPath; pathlib"),
        (
            lambda: owner.expected_digest(b"f", kernel=guest.read_secret),
            "kernel is bytes, not Program; a program's are its .image()",
        ),
        (lambda: owner.expected_digest(b"f", kernel=b"k", append=3), "append, if no text, is bytes, not int"),
        (lambda: owner.expected_digest(b"f", pages=b"abc"), "pages are a list of bytes"),
        (lambda: owner.expected_digest(b"f", es=True, vcpus="2"), "vcpus is a number, not '2'"),
        (lambda: owner.expected_digest(b"f", es=True, cpu=None), "a processor is a name"),
        (lambda: owner.cpu_signature((23, 49)), "a processor has three numbers"),
        (lambda: owner.expected_measurement(DIGEST.hex(), tik=KEY, policy=1, mnonce=KEY), "a digest is bytes, not str"),
        (lambda: owner.expected_measurement(DIGEST, tik=KEY, policy="1", mnonce=KEY), "a policy is a number, not '1'"),
        (lambda: owner.check_measurement("A" * 64, digest=DIGEST, tik=KEY, policy=1), "a measurement is bytes, not str"),
        (lambda: owner.new_session(None, 1), "a PDH certificate is bytes, not NoneType"),
        (lambda: owner.new_session(b"", "1"), "a policy is a number, not '1'"),
        (lambda: owner.verify_chain(3), "a chain is a mapping of names to bytes, a folder or a chain file, not 3"),
        (lambda: owner.verify_chain({"pdh": "x"}), "the certificate pdh is bytes, not str"),
        (lambda: owner.secret_table({"luks-key": "hush hush"}), "the secret of 'luks-key' is bytes, not str"),
        (lambda: owner.secret_table("luks-key"), "pairs of GUID and bytes"),
        (lambda: owner.secret_table(3), "pairs of GUID and bytes"),
        (lambda: owner.wrap_secret("hush hush hush h", KEY, BLOB, KEY), "a TEK is bytes, not str"),
        (lambda: owner.wrap_secret(KEY, KEY, BLOB, KEY, iv=3), "an IV is bytes, not int"),
    ],
)
def test_another_kind_is_refused_in_one_sentence(call, line) -> None:
    with pytest.raises(TypeError) as no:
        call()

    assert line in str(no.value) and "hush" not in str(no.value)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: owner.expected_measurement(DIGEST, tik=KEY, policy=-1, mnonce=KEY), "a policy has 32 bits"),
        (lambda: owner.expected_measurement(DIGEST, tik=KEY, policy=1 << 32, mnonce=KEY), "a policy has 32 bits"),
        (lambda: owner.expected_measurement(DIGEST, tik=KEY, policy=1, mnonce=KEY, api=24), "an API version is"),
        (lambda: owner.check_measurement(BLOB, digest=DIGEST, tik=KEY, policy=1, others={"of mine": b""}), "the one of mine has 0"),
        (lambda: owner.wrap_secret(KEY, KEY, BLOB, KEY, api=()), "an API version is"),
        (lambda: owner.cpu_signature((999, 1, 1)), "a processor's family is at most 270"),
    ],
)
def test_a_number_that_is_none_is_refused_in_one_sentence(call, line) -> None:
    with pytest.raises(ValueError, match=line):
        call()


def test_any_kind_of_bytes_will_do() -> None:
    assert owner.expected_digest(bytearray(b"f"), kernel=memoryview(b"k")) == owner.expected_digest(b"f", kernel=b"k")
