"""Lab launch's exercises: each diagnosis is spoken to whom it is meant for."""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Any

import pytest

from sevlab.crypto import hmac256
from sevlab.lab.exercises import find
from sevlab.lab.exercises.launch_cases import DigestCase, MeasureCase, PolicyCase, ZeroCase
from sevlab.lab.grading import NOT_ATTEMPTED, NOT_YET, RAISED, Verdict, judge

SEEDS = (7, 8, 1234)


def verdict(id: str, case: Any, answer: Any) -> Verdict:
    return judge(find(id), case, answer)


@pytest.mark.parametrize("make", [DigestCase, MeasureCase, ZeroCase])
def test_neighbours_have_other_numbers_and_one_seed_always_the_same(make: Any) -> None:
    one, again, other = make(7), make(7), make(8)
    key = "digest" if make is ZeroCase else "a" if make is DigestCase else "tik"

    assert getattr(one, key) == getattr(again, key) != getattr(other, key)


# ------------------------------------------------------------- launch.digest


@pytest.fixture(scope="module")
def digest() -> DigestCase:
    return DigestCase(7)


def blocks(case: DigestCase) -> list[bytes]:
    return [data for _, _, data in case.loads]


def test_the_order_of_the_addresses_is_not_that_of_the_commands(digest: DigestCase) -> None:
    said = verdict("launch.digest", digest, hashlib.sha256(digest.a + digest.b + digest.c).digest())

    assert (said.diagnosis, said.outcome) == ("addresses", NOT_YET)
    assert said.says.startswith("That is the order of the addresses. The firmware hashed in the order of the commands;")


def test_the_bytes_on_the_bus_are_ciphertext(digest: DigestCase) -> None:
    from sevlab.lab.bus import bus

    found = b"".join(bus(digest.host, digest.vm, gpa, 4096) for _, gpa, _ in digest.loads)

    assert verdict("launch.digest", digest, hashlib.sha256(found).digest()).says.startswith("You hashed ciphertext.")


@pytest.mark.parametrize(
    "mix",
    [
        lambda case: b"".join(hashlib.sha256(data).digest() for data in blocks(case)),
        lambda case: "".join(hashlib.sha256(data).hexdigest() for data in blocks(case)).encode(),
        lambda case: b"".join(struct.pack("<Q", gpa) + data for _, gpa, data in case.loads),
        lambda case: b"".join(data + struct.pack("<I", len(data)) for data in blocks(case)),
        lambda case: b"".join(struct.pack("<QQ", gpa, len(data)) + data for _, gpa, data in case.loads),
    ],
)
def test_nothing_but_the_raw_bytes_goes_in(digest: DigestCase, mix: Any) -> None:
    said = verdict("launch.digest", digest, hashlib.sha256(mix(digest)).digest())

    assert said.says == "Nothing but the raw bytes goes in: no lengths, no addresses, no borders between commands."


@pytest.mark.parametrize(
    ("answer", "words"),
    [("ab" * 32, "text of 64 letters"), (hashlib.sha256(), "still open"), (7, "of type int"), (b"x" * 31, "These are 31 bytes")],
)
def test_an_answer_of_another_kind_is_told_what_kind_it_is(digest: DigestCase, answer: Any, words: str) -> None:
    assert words in verdict("launch.digest", digest, answer).says


def test_an_answer_that_fits_no_diagnosis_gets_the_table_alone(digest: DigestCase) -> None:
    said = verdict("launch.digest", digest, bytes(32))

    assert said.says == "" and said.rows[0].you.startswith("00000000") and not said.rows[0].ok


# ------------------------------------------------------------- launch.measure


@pytest.fixture(scope="module")
def measure() -> MeasureCase:
    return MeasureCase(7)


def test_old_firmware_left_the_version_out(measure: MeasureCase) -> None:
    short = hmac.digest(measure.tik, measure.policy.to_bytes(4, "little") + measure.digest + measure.nonce, "sha256")

    assert verdict("launch.measure", measure, short).says.startswith(
        "This is what firmware up to API 0.16 would answer: it left out 04,"
    )


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 0, 3, 2), (2, 3, 0, 1)])
def test_the_policy_word_is_little_endian(measure: MeasureCase, order: tuple[int, ...]) -> None:
    word = measure.policy.to_bytes(4, "little")
    message = bytes((4, *measure.api)) + bytes(word[i] for i in order) + measure.digest + measure.nonce

    said = verdict("launch.measure", measure, hmac256(measure.tik, message))
    assert said.says == "Right fields, but the policy word is little-endian like everything here."


def test_the_nonce_comes_last_and_is_not_part_of_it(measure: MeasureCase) -> None:
    head = bytes((4, *measure.api)) + measure.policy.to_bytes(4, "little")
    swapped = hmac256(measure.tik, head + measure.nonce + measure.digest)
    whole = find("launch.measure").reference(measure) + measure.nonce

    for answer in (swapped, whole):
        assert verdict("launch.measure", measure, answer).says.startswith("The nonce comes last, and it is not part of MEASURE")


# ------------------------------------------------------------- launch.policy


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (0x18000003, "SEND_START would succeed. Bit 1 forbids another guest to share the key; export is bit 3."),
        (0x00180009, "This asks for API 24.0: no platform on earth has it, so LAUNCH_START answers POLICY_FAILURE everywhere."),
        (0x18000001, "SEND_START would succeed: nothing in this word keeps the guest on its platform."),
        (0x9, "A platform at API 0.22 has just taken this launch."),
        (0x18000049, "This sets reserved bits (0x40): bits 6 to 15 must be zero."),
        (1 << 32, "0x100000000 does not fit into 32 bits."),
        (1 << 9000, "This number does not fit into 32 bits."),
        ("9", "This is of type str. A policy is one number of 32 bits."),
        (True, "This is of type bool."),
    ],
)
def test_a_policy_is_tried_on_the_machine(policy: Any, words: str) -> None:
    assert verdict("launch.policy", PolicyCase(7), policy).says.startswith(words)


def test_without_bit_0_the_guests_memory_is_printed() -> None:
    case = PolicyCase(7)

    assert (
        verdict("launch.policy", case, 0x18000008).says == f"DBG_DECRYPT has just printed your guest's memory: “{case.sentence}”."
    )


# ------------------------------------------------------------- launch.zero

WHO = {"lazy": True, "careful": False}


def forger(key: bytes = bytes(16), digest: bytes | None = None) -> Any:
    def forge(wanted: bytes, policy: int, api: tuple[int, int, int]) -> bytes:
        nonce = b"n" * 16
        message = bytes((4, *api)) + policy.to_bytes(4, "little") + (digest or wanted) + nonce
        return hmac.digest(key, message, "sha256") + nonce

    return forge


def test_a_random_key_convinces_nobody() -> None:
    said = verdict("launch.zero", ZeroCase(7), (forger(b"k" * 16), WHO))

    assert said.says == "The firmware never saw a session, so it never unwrapped a key. What is in a context that nobody filled?"


def test_the_careful_owner_has_a_key_of_his_own() -> None:
    said = verdict("launch.zero", ZeroCase(7), (forger(), {"lazy": True, "careful": True}))

    assert said.says == "The careful owner checks with the TIK of his own session. You would need it."


def test_an_honest_measurement_is_no_forgery() -> None:
    def forge(digest: bytes, policy: int, api: tuple[int, int, int]) -> bytes:
        return next(case.measurement for case in cases if case.digest == digest)  # type: ignore[return-value]

    from sevlab.lab.grading import OTHERS

    cases = [ZeroCase(7 + more) for more in OTHERS]
    said = verdict("launch.zero", ZeroCase(7), (forge, WHO))

    assert said.says == f"That is an honest measurement. The point is one for {cases[0].image} that was never loaded."


def test_code_that_raises_is_shown_its_own_line() -> None:
    def forge(digest: bytes, policy: int, api: tuple[int, int, int]) -> bytes:
        return digest[policy / 2 :]  # type: ignore[misc]

    said = verdict("launch.zero", ZeroCase(7), (forge, WHO))
    assert said.outcome == RAISED and said.says.startswith("TypeError: ") and "of forge: return digest[policy / 2 :]" in said.says


@pytest.mark.parametrize("body", [lambda *_: ..., lambda *_: None])
def test_a_function_without_a_body_was_not_attempted(body: Any) -> None:
    assert verdict("launch.zero", ZeroCase(7), (body, WHO)).outcome == NOT_ATTEMPTED


@pytest.mark.parametrize("answer", [forger(), (forger(), {"lazy": True}), (b"", WHO)])
def test_two_things_are_asked_for(answer: Any) -> None:
    said = verdict("launch.zero", ZeroCase(7), answer)

    assert said.outcome == NOT_YET and said.diagnosis == "wants"
