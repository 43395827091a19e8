"""Lab `tweak`: its exercises, in the order of the lab, and the machines that they are about."""

from __future__ import annotations

from typing import Any

from sevlab.crypto import Stream
from sevlab.host import Host
from sevlab.hw.chips import NAPLES_TWEAKS
from sevlab.lab.exercises.tweak_host import REMAP, REPLAY
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row
from sevlab.lab.tweak import Box, tweak_of, xor

BLOCK = 16
PUBLISHED = {bit: bytes.fromhex(constant) * 4 for bit, constant in NAPLES_TWEAKS.items()}


class MoveCase:
    """An XE engine: the line `m` at address `p`, its ciphertext copied to `q`; `t_p` and `t_q` are the tweaks there."""

    gives: tuple[str, ...] = ("host", "p", "q", "m", "t_p", "t_q")

    def __init__(self, seed: int) -> None:
        stream = Stream(seed).fork("exercise/tweak.move")
        self.host = Host("naples", seed=seed, memory=1 << 30)
        self._box = Box(self.host)
        self.m = b"move no. %03d ...." % (stream.draw("m", 1)[0])
        self.m = self.m[:BLOCK].ljust(BLOCK, b".")
        self.p = self._box.hpa()
        self.q = (1 << 28) + int.from_bytes(stream.draw("q", 3), "little") * BLOCK
        self.t_p, self.t_q = (tweak_of(PUBLISHED, at) for at in (self.p, self.q))
        self._reads = xor(self.m, self._box.difference(self.p, self.q, self.m))


def _move_check(case: MoveCase, answer: Any) -> Finding:
    you = answer.hex() if isinstance(answer, bytes) else str(answer)
    return Finding([Row("read at q", you, case._reads.hex())])


def _move_reference(case: MoveCase) -> bytes:
    return bytes(a ^ b ^ c for a, b, c in zip(case.m, case.t_p, case.t_q, strict=True))


MOVE = Exercise(
    id="tweak.move",
    title="Sixteen bytes",
    minutes=5,
    level="core",
    kind="value",
    ask="XE. The line case.m stands at p = {p:#x}; you copy its ciphertext to q = {q:#x}. What does the guest read at q?\n"
    "case.t_p and case.t_q are the tweaks. Give 16 bytes: answer = ...",
    setup=MoveCase,
    check=_move_check,
    reference=_move_reference,
    look="both formulas under each other",
    hints=("At p: C = E(m ⊕ T(p)).", "At q: D(C) ⊕ T(q), and D undoes E."),
    diagnoses=(
        Diagnosis(
            "unmoved",
            lambda case, answer, _: answer == case.m,
            "As if the address did not matter. It does: that was scene 2.",
        ),
        Diagnosis(
            "one tweak",
            lambda case, answer, _: answer in (xor(case.m, case.t_q), xor(case.m, case.t_p)),
            "One tweak too few: the ciphertext was made with T(p) and is opened with T(q).",
        ),
        Diagnosis(
            "noise",
            lambda case, answer, _: isinstance(answer, str),
            "On this engine nothing is random about it: the key cancels out. Write both formulas under each other.",
        ),
    ),
)


EXERCISES = (MOVE, REPLAY, REMAP)
