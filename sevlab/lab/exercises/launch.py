"""Lab `launch`: its exercises, in the order of the lab. What each is about stands in launch_cases.py."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import struct
from collections.abc import Iterator
from typing import Any

from sevlab import owner
from sevlab.abi.session import measure_message
from sevlab.abi.sev import POLICY_RESERVED, policy_api
from sevlab.crypto import hmac256
from sevlab.lab.exercises.launch_cases import DigestCase, MeasureCase, PolicyCase, ZeroCase
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row, student

ZEROS = bytes(16)


def short(data: Any) -> str:
    """Bytes as the table has room for them."""
    return bytes(data[:12]).hex(" ", 4) + "…" * (len(data) > 12)


def _bytes_of(answer: Any, sizes: tuple[int, ...], name: str) -> str:
    """What is to be said of an answer that is not `sizes[0]` bytes; other sizes pass, since a diagnosis waits for them."""
    if hasattr(answer, "digest"):
        return f"This is the hash itself, still open. Give its {sizes[0]} bytes: `.digest()`."
    if isinstance(answer, str):
        return f"This is text of {len(answer)} letters. {name} has {sizes[0]} bytes: `.digest()`, not `.hexdigest()`."
    if not isinstance(answer, bytes | bytearray):
        return f"This is of type {type(answer).__name__}. {name} has {sizes[0]} bytes, as `bytes`."
    return "" if len(answer) in sizes else f"These are {len(answer)} bytes. {name} has {sizes[0]}."


# ------------------------------------------------------------- launch.digest


def _digest_check(case: DigestCase, answer: bytes) -> Finding:
    return Finding([Row("launch digest", short(answer), short(case.digest()), bytes(answer) == case.digest())])


def _digest_reference(case: DigestCase) -> bytes:
    running = hashlib.sha256()
    for _name, _gpa, data in case.loads:
        running.update(data)
    return running.digest()


def _mixed(case: DigestCase) -> Iterator[bytes]:
    """Hashes of hashes, and with addresses or lengths among the bytes."""
    for loads in (case.loads, sorted(case.loads, key=lambda load: load[1])):
        yield hashlib.sha256(b"".join(hashlib.sha256(data).digest() for _, _, data in loads)).digest()
        yield hashlib.sha256("".join(hashlib.sha256(data).hexdigest() for _, _, data in loads).encode()).digest()
        for form, what, after in itertools.product(("<I", ">I", "<Q", ">Q"), ("gpa", "length", "both"), (False, True)):
            parts = []
            for _, gpa, data in loads:
                numbers = {"gpa": [gpa], "length": [len(data)], "both": [gpa, len(data)]}[what]
                extra = b"".join(struct.pack(form, number) for number in numbers)
                parts.append(data + extra if after else extra + data)
            yield hashlib.sha256(b"".join(parts)).digest()


DIGEST = Exercise(
    id="launch.digest",
    title="Predict the digest",
    minutes=3,
    level="core",
    kind="value",
    ask="Three blocks were loaded: {told}. What is the launch digest?\n"
    "The blocks are case.a, case.b and case.c. Give the 32 bytes: answer = hashlib.sha256(...).digest()",
    setup=DigestCase,
    check=_digest_check,
    reference=_digest_reference,
    wants=lambda answer: _bytes_of(answer, (32,), "A digest"),
    look="LAUNCH_UPDATE_DATA in the trace",
    hints=(
        "The firmware sees one block with each command, and hashes it there and then.",
        "One running hash, `update` once for each command, in their order.",
    ),
    diagnoses=(
        Diagnosis(
            "addresses",
            lambda case, answer, _: answer == hashlib.sha256(case.a + case.b + case.c).digest(),
            "That is the order of the addresses. The firmware hashed in the order of the commands; it was not told to look at "
            "addresses.",
        ),
        Diagnosis(
            "ciphertext",
            lambda case, answer, _: answer in case.bus_digests(),
            "You hashed ciphertext. The firmware hashes each block before it encrypts it; otherwise nobody could predict it.",
            look="the same page on the bus",
        ),
        Diagnosis(
            "mixed",
            lambda case, answer, _: answer in set(_mixed(case)),
            "Nothing but the raw bytes goes in: no lengths, no addresses, no borders between commands.",
        ),
    ),
)


# ------------------------------------------------------------- launch.measure


def _measure_check(case: MeasureCase, answer: bytes) -> Finding:
    return Finding([Row("MEASURE", short(answer), short(case.measure), bytes(answer) == case.measure)])


def _measure_reference(case: MeasureCase) -> bytes:
    message = b"\x04" + bytes(case.api) + case.policy.to_bytes(4, "little")
    message += case.digest + case.nonce
    return hmac.digest(case.tik, message, "sha256")


def _orders(case: MeasureCase) -> Iterator[bytes]:
    """The MACs of the right fields with the policy word in another byte order."""
    word = case.policy.to_bytes(4, "little")
    for order in itertools.permutations(word):
        if bytes(order) != word:
            yield hmac256(case.tik, bytes((4, *case.api)) + bytes(order) + case.digest + case.nonce)


MEASURE = Exercise(
    id="launch.measure",
    title="The number that proves it",
    minutes=5,
    level="core",
    kind="value",
    ask="From TIK, API {api[0]}.{api[1]} build {api[2]}, your policy {policy:#x}, the digest and the nonce, compute MEASURE.\n"
    "They are case.tik, case.api, case.policy, case.digest and case.nonce. Give 32 bytes: "
    "answer = hmac.digest(case.tik, ..., 'sha256')",
    setup=MeasureCase,
    check=_measure_check,
    reference=_measure_reference,
    wants=lambda answer: _bytes_of(answer, (32, 48), "MEASURE"),
    look="the 56 bytes under the MAC",
    hints=(
        "56 bytes go in: one that says what kind of message it is, three of version, then policy, digest and nonce.",
        "The first byte is 04; the next three are major, minor and build.",
        "A number of four bytes: `policy.to_bytes(4, 'little')`.",
    ),
    diagnoses=(
        Diagnosis(
            "short form",
            lambda case, answer, _: (
                answer[:32] == hmac256(case.tik, measure_message((0, 16, 0), case.policy, case.digest, case.nonce))
            ),
            "This is what firmware up to API 0.16 would answer: it left out 04, the version and the build. From 0.17 they are in, "
            "so that a rollback shows.",
        ),
        Diagnosis(
            "byte order",
            lambda case, answer, _: answer[:32] in set(_orders(case)),
            "Right fields, but the policy word is little-endian like everything here.",
        ),
        Diagnosis(
            "nonce",
            lambda case, answer, _: len(answer) == 48 or answer == case.swapped,
            "The nonce comes last, and it is not part of MEASURE: the blob is MEASURE followed by the nonce.",
        ),
    ),
)


# ------------------------------------------------------------- launch.policy


def _policy_wants(answer: Any) -> str:
    if isinstance(answer, bool) or not isinstance(answer, int):
        return f"This is of type {type(answer).__name__}. A policy is one number of 32 bits."
    if not 0 <= answer < 1 << 32:
        return f"{hex(answer) if answer.bit_length() <= 64 else 'This number'} does not fit into 32 bits."
    reserved = answer & POLICY_RESERVED
    return f"This sets reserved bits ({reserved:#x}): bits 6 to 15 must be zero." if reserved else ""


def _policy_check(case: PolicyCase, answer: int) -> Finding:
    facts = case.tried(answer)
    wanted = {"start": "SUCCESS", "debug": "POLICY_FAILURE", "send": "POLICY_FAILURE", "older": "POLICY_FAILURE"}
    names = {
        "start": "LAUNCH_START, API 0.24",
        "debug": "DBG_DECRYPT",
        "send": "SEND_START, by its rule",
        "older": "LAUNCH_START, API 0.22",
    }
    return Finding([Row(names[key], facts[key], want) for key, want in wanted.items() if key in facts], facts)


def _policy_reference(case: PolicyCase) -> int:
    nodbg, nosend = 1 << 0, 1 << 3
    major, minor = 0, 24
    return nodbg | nosend | major << 16 | minor << 24


POLICY = Exercise(
    id="launch.policy",
    title="Write the policy",
    minutes=5,
    level="core",
    kind="state",
    ask="No debugging, no export to any other platform, firmware 0.24 or newer. Which 32-bit word?\nanswer = 0x...",
    setup=PolicyCase,
    check=_policy_check,
    reference=_policy_reference,
    wants=_policy_wants,
    heads=("command", "under your policy", "asked for"),
    look="the policy that the VMM gives the kernel",
    hints=(
        "`lab.policy_bits(0)` names the bits, `lab.policy_bits(answer)` says which of them you have set.",
        "Bits 0 to 5 forbid or demand; the upper half is the oldest firmware you accept.",
        "Major version: bits 16 to 23. Minor version: bits 24 to 31.",
    ),
    diagnoses=(
        Diagnosis(
            "wrong bit",
            lambda case, answer, found: found.facts.get("send") == "SUCCESS" and answer & 2,
            "SEND_START would succeed. Bit 1 forbids another guest to share the key; export is bit 3.",
        ),
        Diagnosis(
            "version",
            lambda case, answer, found: (
                found.facts["start"] == "POLICY_FAILURE" and dict(zip(("major", "minor"), policy_api(answer), strict=True))
            ),
            "This asks for API {major}.{minor}: no platform on earth has it, so LAUNCH_START answers POLICY_FAILURE everywhere. "
            "Major is bits 16 to 23, minor 24 to 31.",
            look="the rung: the owner wants newer firmware",
        ),
        Diagnosis(
            "debugging",
            lambda case, answer, found: found.facts.get("debug") == "SUCCESS" and {"text": found.facts["text"]},
            "DBG_DECRYPT has just printed your guest's memory: {text}.",
        ),
        Diagnosis(
            "export",
            lambda case, answer, found: found.facts.get("send") == "SUCCESS",
            "SEND_START would succeed: nothing in this word keeps the guest on its platform.",
        ),
        Diagnosis(
            "rollback",
            lambda case, answer, found: found.facts.get("older") == "SUCCESS",
            "A platform at API 0.22 has just taken this launch. The oldest firmware you accept stands in the upper half.",
            look="the rung: the owner wants newer firmware",
        ),
    ),
)


# ------------------------------------------------------------- launch.zero


def _zero_wants(answer: Any) -> str:
    if not isinstance(answer, tuple) or len(answer) != 2:
        return 'Two things are asked for: lab.check("launch.zero", forge, answer).'
    forge, who = answer
    if not callable(forge):
        return f"The first is of type {type(forge).__name__}. Give the function `forge` itself."
    if not isinstance(who, dict) or set(who) != {"lazy", "careful"}:
        return 'The second says who believes you: {"lazy": True or False, "careful": True or False}.'
    return ""


def _zero_check(case: ZeroCase, answer: Any) -> Finding:
    forge, who = answer
    forged = student(forge, case.digest, case.policy, case.api)
    if not isinstance(forged, bytes | bytearray) or len(forged) != 48:
        size = f"{len(forged)} bytes" if isinstance(forged, bytes | bytearray) else type(forged).__name__
        return Finding([Row("forge(...)", size, "48 bytes")], {"forged": None})
    lazy = case.believes(bytes(forged), ZEROS)
    rows = [Row("the lazy owner's checker", "accepts" if lazy else "refuses", "accepts")]
    truth = case.truth()
    rows += [Row(f"does the {name} one believe you", str(bool(who[name])), str(truth[name])) for name in ("lazy", "careful")]
    return Finding(rows, {"forged": bytes(forged), "lazy": lazy})


def _zero_reference(case: ZeroCase) -> Any:
    def forge(digest: bytes, policy: int, api: tuple[int, int, int]) -> bytes:
        nonce = bytes(16)
        message = b"\x04" + bytes(api) + policy.to_bytes(4, "little") + digest + nonce
        return hmac.digest(bytes(16), message, "sha256") + nonce

    return forge, {"lazy": True, "careful": False}


def _another_key(case: ZeroCase, answer: Any, found: Finding) -> bool:
    forged = found.facts["forged"]
    if forged is None or found.facts["lazy"]:
        return False
    zeros = (
        hmac256(ZEROS, measure_message(api, policy, digest, forged[32:]))
        for api in (case.api, (0, 16, 0))
        for policy in (case.policy, 0, 1)
        for digest in (case.digest, case.loaded_digest)
    )
    return forged[:32] not in set(zeros)


ZERO = Exercise(
    id="launch.zero",
    title="The key of zeros",
    minutes=6,
    level="core",
    kind="fresh",
    ask="Somebody launched {loaded_name} without a session. Forge the 48 bytes for {image}, an image that was never loaded "
    "(case.digest, case.policy, case.api). Then say which of two owners believes you: the lazy one brought no session, "
    "the careful one did.\n"
    'def forge(digest, policy, api): ... and answer = {{"lazy": ..., "careful": ...}}; lab.check("launch.zero", forge, answer)',
    setup=ZeroCase,
    check=_zero_check,
    reference=_zero_reference,
    wants=_zero_wants,
    look="the TIK of a guest without a session",
    hints=(
        "48 bytes: a MAC of 32 and the nonce that went into it. Nobody says where a nonce has to come from.",
        "The key is TIK, and TIK comes in a session. There was none.",
        "The message is that of launch.measure.",
    ),
    diagnoses=(
        Diagnosis(
            "another key",
            _another_key,
            "The firmware never saw a session, so it never unwrapped a key. What is in a context that nobody filled?",
        ),
        Diagnosis(
            "careful",
            lambda case, answer, found: found.facts.get("lazy") and answer[1]["careful"],
            "The careful owner checks with the TIK of his own session. You would need it.",
        ),
        Diagnosis(
            "honest",
            lambda case, answer, found: (
                found.facts["forged"]
                and owner.check_measurement(
                    found.facts["forged"], digest=case.loaded_digest, tik=ZEROS, policy=case.policy, api=case.api
                ).ok
                and {"image": case.image}
            ),
            "That is an honest measurement. The point is one for {image} that was never loaded.",
        ),
    ),
)


EXERCISES = (DIGEST, MEASURE, POLICY, ZERO)
