"""The digest that a guest owner expects, beside sev-snp-measure: each in an interpreter of its own, asked in turns.

Both read Debian's OVMF from its file at every call and give the digest. The bytes must be equal.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from harness import Figure, absent

ROOT = Path(__file__).resolve().parents[2]
IMAGE = Path("/usr/share/ovmf/OVMF.fd")
THEIRS = ROOT / ".judges" / "sev-snp-measure-0.0.13" / "bin" / "python"
ROUNDS, CALLS = 9, 30

# What a worker does: for each line that it is sent it makes some calls, and answers with the digest and the seconds of CPU a call.
WORKER = """
import sys, time
{call}
for line in sys.stdin:
    start = time.thread_time()
    for _ in range({calls}):
        digest = call()
    print(digest.hex(), (time.thread_time() - start) / {calls}, flush=True)
"""

OURS = """
from pathlib import Path
from sevlab import owner
def call():
    return owner.expected_digest(Path({image!r}).read_bytes(), es={es}, vcpus={vcpus}, cpu="naples", vmsa_variant="init2")
"""
PEER = """
from sevsnpmeasure import guest
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vcpu_types import CPU_SIGS
mode = SevMode.SEV_ES if {es} else SevMode.SEV
def call():
    return guest.calc_launch_digest(mode, {vcpus}, CPU_SIGS["EPYC-v4"], {image!r}, "", "", "", 0)
"""


def figures() -> Iterator[Figure]:
    for name, es, vcpus in (("SEV", False, 1), ("SEV-ES, 4 vCPUs", True, 4)):
        label = f"launch digest of OVMF, {name} / sev-snp-measure"
        if not THEIRS.exists() or not IMAGE.exists():
            yield absent(label, 1.15, f"there is no {'sev-snp-measure 0.0.13' if IMAGE.exists() else IMAGE} here (make judges)")
            continue
        yield measured(label, {"image": str(IMAGE), "es": es, "vcpus": vcpus})


def measured(label: str, what: dict[str, object]) -> Figure:
    """Our seconds over theirs, in turns. Raises ValueError where the digests differ."""
    ours = Worker(sys.executable, OURS.format(**what), str(ROOT))
    theirs = Worker(str(THEIRS), PEER.format(**what))
    taken = []
    with ours, theirs:
        for turn in range(ROUNDS + 1):
            pair = {one: one.ask() for one in ((ours, theirs) if turn % 2 else (theirs, ours))}
            if pair[ours][0] != pair[theirs][0]:
                raise ValueError(f"{label}: {pair[ours][0]} and {pair[theirs][0]} are two digests")
            taken.append((pair[ours][1], pair[theirs][1]))
    del taken[0]  # it warmed the caches
    middle = [statistics.median(column) for column in zip(*taken, strict=True)]
    return Figure(label, 1.15, statistics.median(one / other for one, other in taken), *middle, "equal bytes")


class Worker:
    """An interpreter that makes a call so many times whenever it is asked."""

    def __init__(self, python: str, call: str, path: str = "") -> None:
        source = WORKER.format(call=call, calls=CALLS)
        self.process = subprocess.Popen(
            [python, "-c", source],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": path} if path else {},
        )  # fmt: skip

    def ask(self) -> tuple[str, float]:
        """The digest, and the seconds a call took."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        digest, seconds = self.process.stdout.readline().split()
        return digest, float(seconds)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=30)  # the end of its input is the end of it
