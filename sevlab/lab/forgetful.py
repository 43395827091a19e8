"""Machines that forgot a rule about key slots: none of them ever existed, and each shows what its rule is for.

Lab `asids`, scenes 4 and 5.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from sevlab import guest, vmm
from sevlab.abi.sev import Cmd, Handle, status_name
from sevlab.host import Host
from sevlab.hw import chips
from sevlab.hw.isa import hlt, load, program, store
from sevlab.kvm.asid import FREE, AsidPool
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.sequence import ENGINE, LOCKS, PSP, Story
from sevlab.lab.sequence_schedules import Way, ways
from sevlab.lab.tenants import MEMORY, naples, slot_of, tenant
from sevlab.vmm import steps


class _Hasty(AsidPool):
    """A kernel's books without the third state: what is given back can be had at once, and nobody flushes."""

    def give_back(self, asid: int, es: bool, cgroup: Any) -> None:
        super().give_back(asid, es, cgroup)
        self.states[asid] = FREE


def forgetful_host(*, kernel: bool = True, firmware: bool = True, seed: int = 7) -> Host:
    """A Rome with cache lines on which `kernel` never flushes and `firmware` never asks. Neither ever existed."""
    forgot = " and ".join([*["a kernel that never flushes"] * kernel, *["a firmware that never asks"] * firmware])
    chip = replace(chips.ROME, banner=f"This machine never existed: {forgot}.") if forgot else chips.ROME
    host = Host(chip, seed=seed, memory=1 << 30, caches=True)
    if kernel:
        host.kernel.asids.__class__ = _Hasty
        setattr(host.soc, "wbinvd", lambda: None)  # noqa: B010
    if firmware:
        setattr(host.psp.asids, "clean", lambda asid: True)  # noqa: B010
    return host


@program
async def nosy(gpa: int = 0x1000) -> None:
    """Read a private page that it never wrote, and show what it found."""
    await store(0x2000, await load(gpa, 16, c=True), c=False)
    while True:
        await hlt()


def next_tenant(host: Host) -> dict[str, Any]:
    """A guest keeps a diary and leaves; the next one reads where it lay. Changes the machine.

    The row has both slots, both frames, and what the second guest found (16 bytes), or the refusal of its launch; and "vm",
    the second guest, None where it was refused.
    """
    first = vmm.launch(host, program=guest.hello, memory=MEMORY, name="tenant")
    first.finish()
    first.run()
    row: dict[str, Any] = {"slot": slot_of(host, first), "frame": host.npt(first).translate(0x1000)}
    first.process.kill()
    image = bytes(4096) + steps.program_image(nosy)  # a page longer: its program lies where no line of the first one's is left
    second = attempt(vmm.launch, host, firmware=image, program=nosy, memory=MEMORY, name="next tenant")
    if isinstance(second, Refusal):
        return row | {"next slot": 0, "next frame": 0, "found": second, "vm": None}
    second.finish()
    row["next slot"] = slot_of(host, second)
    second.run()
    row["next frame"] = host.npt(second).translate(0x1000)
    return row | {"found": second.read(0x2000, 16), "vm": second}


PLACES = ("before the WBINVD", "between the two", "after the DF_FLUSH")
FLUSHER, LEAVER, LOCK = "the flush", "the leaver", "sev_deactivate_lock"


class Window(NamedTuple):
    """A flush during which a guest leaves: the firmware's answer to its DF_FLUSH, and what happened as a picture's lines."""

    status: str
    lines: list[dict[str, Any]]


def flush_with_a_leaver(place: str, seed: int = 7, *, lock: bool = False) -> Window:
    """A WBINVD and a DF_FLUSH on one processor, and on another a guest's DEACTIVATE that falls at `place`.

    Without `lock` it is a kernel that has none. With it the flush holds `sev_deactivate_lock` for writing from its WBINVD
    to the end of its DF_FLUSH, and a DEACTIVATE wants it for reading (kvm.md C4), so one in between has to wait.
    Raises ValueError for a place that is none of PLACES.
    """
    at = PLACES.index(place)
    lines: list[dict[str, Any]] = []
    with Host(naples(), seed=seed, memory=1 << 30) as host:
        vm = tenant(host)
        slot = slot_of(host, vm)

        def says(who: str, label: str, status: int | None = None, held: int = 0, to: str = PSP) -> None:
            answer = "" if status is None or to != PSP else status_name(status)
            lines.append(
                {
                    "n": len(lines) + 1, "source": who, "target": to if status is not None else "", "label": label,
                    "answer": answer, "kind": label, "bad": answer not in ("", "SUCCESS"), "lock": held,
                }
            )  # fmt: skip

        def leave(now: int) -> None:
            waits = lock and at == 1
            if now == at and waits:
                says(LEAVER, f"waits for {LOCK}", held=LOCKS["LockAwaited"])
            if now == (2 if waits else at):
                says(LEAVER, f"takes {LOCK}", held=LOCKS["LockTaken"]) if lock else None
                says(LEAVER, "DEACTIVATE", host.mailbox(Cmd.DEACTIVATE, Handle(vm.handle)))
                says(PSP, f"key out of slot {slot}", 0, to=ENGINE)
                says(LEAVER, f"gives back {LOCK}", held=LOCKS["LockGiven"]) if lock else None

        leave(0)
        says(FLUSHER, f"takes {LOCK}", held=LOCKS["LockTaken"]) if lock else None
        host.wbinvd()
        says(FLUSHER, "WBINVD on all processors")
        leave(1)
        status = host.mailbox(Cmd.DF_FLUSH)
        says(FLUSHER, "DF_FLUSH", status)
        says(FLUSHER, f"gives back {LOCK}", held=LOCKS["LockGiven"]) if lock else None
        leave(2)
        return Window(status_name(status), lines)


def windows() -> Story:
    """The places of a DEACTIVATE as tiles, without the lock, and the place in between with it; a picked one shows its calls."""
    runs = {place: flush_with_a_leaver(place) for place in PLACES}
    runs["between the two, with the lock"] = flush_with_a_leaver(PLACES[1], lock=True)
    short = ("before", "between", "after", "between, locked")  # four tiles shall stand in a row
    tiles = [
        Way(letter, (f"flush: {run.status}", f"leaver: {where}"), 1, place)
        for letter, where, (place, run) in zip("ABCD", short, runs.items(), strict=True)
    ]
    parties = [(FLUSHER, "K"), (LEAVER, "K"), (PSP, "P"), (ENGINE, "E")]
    said = [f"{tile.letter}  DEACTIVATE {tile.schedule}: DF_FLUSH: {runs[tile.schedule].status}" for tile in tiles]
    text = "\n".join(said) + f"\n\n{tiles[1].letter} in full:"
    title = "a flush, and a guest that leaves"
    return ways(tiles, lambda place: runs[place].lines, first=PLACES[1], text=text, title=title, parties=parties)
