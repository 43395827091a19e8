"""Lab `launch`: what the machine says to each of its questions, and why.

The questions stand in the notebook, the answers here, so that reading on spoils
nothing. Each function only looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from sevlab.abi.sev_buffers import LaunchUpdateData
from sevlab.crypto import sha256
from sevlab.host import Host
from sevlab.journal import Packed
from sevlab.lab.attempt import Refusal
from sevlab.lab.bus import bus, legible, page_of, search
from sevlab.lab.look import Look, look_at, rung_of
from sevlab.lab.platforms import chain_steps
from sevlab.lab.prediction import Answer
from sevlab.lab.show import table
from sevlab.owner import ChainVerdict, MeasurementVerdict
from sevlab.wire import Wire

Wired = TypeVar("Wired", bound=Wire)

CERTIFICATES = ("ARK", "ASK", "CEK", "OCA", "PEK", "PDH")  # the keys of scene 4
AGREED = ("PDH", "GODH", "Z", "KEK, KIK", "TEK", "TIK")  # those of scene 3
LEFT = ("TEK", "TIK", "VEK")  # and what is left of them in scene 9


def command(host: Host, vm: Any, gpa: int, n: int) -> LaunchUpdateData:
    """Scene 1: all that the firmware is told of `n` bytes of a guest at `gpa`."""
    return LaunchUpdateData(handle=vm.handle, paddr=host.hpa(vm.process, vm.hva(gpa, n)), len=n)


def given(host: Host, kind: type[Wired]) -> Wired:
    """Scene 6: the last structure of a kind that a process of the host gave to its kernel, from the journal.

    Raises LookupError where none did.
    """
    packed = [arg for _, _, _, args, _ in host.journal.entries for arg in args if isinstance(arg, Packed) and arg.kind is kind]
    if not packed:
        raise LookupError(f"nobody gave the kernel a {kind.__name__}")
    return kind.unpack(packed[-1].data)


def in_message(message: Any) -> Look:
    """Where the card of launch.measure leads: to the first of the fields in the message above."""
    return look_at({"the 56 bytes under the MAC": (message, "a measurement")})


def in_policy(told: Any, rungs: Any) -> Look:
    """Where the card of launch.policy leads: to a rung of the ladder of scene 6, or to the policy in what the VMM says there."""
    field = look_at({"the policy that the VMM gives the kernel": (told, "policy")})
    return lambda words: rung_of(rungs)(words) if words.startswith("the rung") else field(words)


def in_keys(tree: Any) -> Look:
    """Where the card of launch.zero leads: to TIK among the keys of a guest without a session."""
    return look_at({"the TIK of a guest without a session": (tree, "TIK")})


def order(host: Host, vm: Any, page_a: bytes, page_b: bytes) -> Answer:
    """Scene 1: what went into the digest?"""
    digest = host.xray.digest(vm.handle)
    orders = {sha256(page_a + page_b): "A, then B", sha256(page_b + page_a): "B, then A"}
    because = (
        "Raw bytes, in the order of the commands: no addresses, no lengths, no borders between commands. Scene 10 returns to that."
    )
    return Answer(orders.get(digest, "their addresses too"), f"x-ray  {digest.hex()}", because)


def memory(host: Host, vm: Any, gpa: int, written: bytes) -> Answer:
    """Scene 1: what lies where the VMM wrote?"""
    found = bus(host, vm, gpa, 16)
    kinds = {written[:16]: "the letter A", bytes(16): "zeros"}
    because = (
        "Hashed first, then encrypted in place, under a key that only the memory controller uses. "
        "The VMM's pointer still works; it reads ciphertext."
    )
    return Answer(kinds.get(found, "noise"), f"{gpa:#x}  {found.hex(' ')}", because)


def nonce(first: bytes, second: bytes) -> Answer:
    """Scene 2: is the second measurement equal to the first?"""
    because = (
        "The PSP draws a new nonce for every measurement, so yesterday's good answer is of no use to a host that loads something "
        "else today."
    )
    return Answer("yes" if first == second else "no", f"{first.hex()[:64]}…\n{second.hex()[:64]}…", because)


def stranger(answer: Any) -> Answer:
    """Scene 3: what does LAUNCH_START do with a session for another machine?"""
    because = "Another Z gives another KIK, and under that WRAP_MAC does not fit. The PSP finds out before it makes a guest."
    return Answer("it refuses" if isinstance(answer, Refusal) else "it goes on, with useless keys", answer, because)


def home_made(verdict: ChainVerdict) -> Answer:
    """Scene 4: is a chain trusted in which every signature fits?"""
    because = (
        "A chain proves nothing until its top is compared with something you already know. An id can be copied, so this owner "
        "compares the key itself."
    )
    return Answer("yes" if verdict else "no", f"{chain_steps(verdict)}\n\n{verdict}", because)


def policy(answer: Any) -> Answer:
    """Scene 6: who notices another policy first?"""
    because = (
        "POLICY_MAC travels in the session, so the PSP compares before anything is loaded. An image it cannot judge: it has never "
        "heard which one you want."
    )
    return Answer("the PSP, at once" if isinstance(answer, Refusal) else "you, by the measurement", answer, because)


def tampered(rows: Sequence[Mapping[str, str]]) -> Answer:
    """Scene 7: which change does nobody notice? `rows` are those of `tampering`."""
    unnoticed = [row["changed"] for row in rows if row["who notices"] == "nobody"]
    because = (
        "Plain SEV does not measure the registers of its vCPUs, so it does not count them either. Measuring and encrypting them is "
        "what SEV-ES adds."
    )
    return Answer(", ".join(unnoticed), table(rows), because)


def flipped(before: bytes, after: bytes, answer: Any) -> Answer:
    """Scene 8: what lies in the secret's place after a packet with one bit changed? Both as seen on the bus."""
    because = "The PSP checks the MAC before it decrypts. Refuse first, and touch nothing."
    return Answer("what was there before" if before == after else "noise", answer, because)


def elsewhere(host: Host, vm: Any, shared: int, secret: bytes, image: bytes) -> Answer:
    """Scene 8: does the secret, or a piece of the image, lie in clear outside the page at gpa `shared`?"""
    page = page_of(host, vm, shared)
    copies, pieces = [hpa for hpa in search(host, secret) if hpa not in page], legible(host, image)
    because = "Until it was private it was a packet under TEK. In clear it was only ever inside the PSP and inside the guest."
    found = f"{len(copies)} copies of the passphrase, {pieces} blocks of the image"
    return Answer("yes" if copies or pieces else "no", found, because)


def replayed(answer: Any) -> Answer:
    """Scene 8: does a packet open for a second launch of the same guest?"""
    because = "Another nonce, another measure, another MAC. (Firmware up to API 0.16 left the measure out; there it would open.)"
    return Answer("no" if isinstance(answer, Refusal) else "yes", answer, because)


def believed(lazy: MeasurementVerdict, careful: MeasurementVerdict) -> Answer:
    """Scene 9: which owner believes the forgery?"""
    who = {(True, True): "both", (True, False): "the lazy one", (False, True): "the careful one", (False, False): "neither"}
    because = (
        "It hurts whoever accepts a launch without a session. Who brings a key of his own is not hurt, whatever the host does."
    )
    return Answer(who[bool(lazy), bool(careful)], f"lazy: {lazy}\ncareful: {careful}", because)


def rearranged(verdict: MeasurementVerdict) -> Answer:
    """Scene 10: what does the owner say to the measurement of the rearranged launch?"""
    because = "The same bytes in the same order. Where they lie was never part of the digest."
    return Answer("trusted" if verdict else "refused", verdict, because)
