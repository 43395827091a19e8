"""Two moves that begin at once, in opposite directions: every schedule of them, on locks taken naively and on Linux's.

Lab `move`, scene 6. The naive kernel is a design of our own; neither V11 nor any Linux was like that.
"""

from __future__ import annotations

from textwrap import wrap

from sevlab.abi.kvm import KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, KVM_ENABLE_CAP, kvm_enable_cap
from sevlab.host import Host
from sevlab.kvm import designs
from sevlab.lab.show import Text, table
from sevlab.schedules import Explored, explore
from sevlab.vmm import steps

NAIVE = designs.replace(designs.LINUX_6_1, name="linux-6.1, locks taken naively", move=designs.MOVE_NAIVE)


def move_from(src: int) -> kvm_enable_cap:
    """The argument of a move: the context of the VM at descriptor `src` of the caller."""
    return kvm_enable_cap(KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, args=(src, 0, 0, 0))


def opposite(design: designs.Design, seed: int = 7) -> Explored:
    """Two guests, and two calls begun at once: a from b, b from a. Every schedule of them, on a machine of its own."""
    host = Host(design=design, seed=seed, memory=64 << 20)
    process = host.process("vmm")
    a, b = (steps.create_vm(process).fd for _ in range(2))
    calls = [process.begin(dst, KVM_ENABLE_CAP, move_from(src)) for dst, src in ((a, b), (b, a))]
    return explore(*calls, all=True)


def outcomes(found: Explored) -> Text:
    """The outcomes of all schedules as a table: how each call ended, and in how many schedules."""
    return table([
        {"": tile.letter, **{f"call {n}": end for n, end in enumerate(tile.ends, 1)}, "schedules": tile.schedules}
        for tile in found.outcomes
    ])  # fmt: skip


def drawn(found: Explored) -> Text:
    """Every schedule, one digit a step: which call moved. Those that never end are put first."""
    lines = []
    for tile in sorted(found.outcomes, key=lambda tile: not tile.deadlock):
        names = [schedule for schedule, letter in found.every.items() if letter == tile.letter]
        head = f"{tile.letter}  {'hangs' if tile.deadlock else 'ends'}"
        lines += [head, *wrap(" ".join(names), 92, initial_indent="     ", subsequent_indent="     ")]
    return Text("\n".join(lines))
