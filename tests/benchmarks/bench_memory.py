"""Memory as the rest of the machine meets it: a whole LAUNCH_UPDATE_DATA, a machine of 16 GiB, page states, the trace, a map.

UPDATE_MIB is the largest range that one LAUNCH_UPDATE_DATA loads (256 unless set; the goal reaches to 1024). PEER_RSS=0
leaves out the measurement of resident memory, which takes a fresh interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from struct import Struct, pack
from typing import Any

import numpy as np
from bench_engine import KIB, MIB, Raw, _size
from harness import Figure, absent, pair

from sevlab import Host, plots
from sevlab.abi.kvm import (
    KVM_CREATE_VM,
    KVM_MEMORY_ENCRYPT_OP,
    KVM_SEV_INIT,
    KVM_SEV_LAUNCH_START,
    KVM_SEV_LAUNCH_UPDATE_DATA,
    kvm_sev_cmd,
    kvm_sev_launch_start,
    kvm_sev_launch_update_data,
)
from sevlab.bulk import PAGE
from sevlab.hw import pages
from sevlab.hw.pages import Pages, PagesPinned
from sevlab.plots.pages import LOOKS
from sevlab.trace import Trace

GIB = 1 << 30


def figures() -> Iterator[Figure]:
    largest = int(os.environ.get("UPDATE_MIB", "256")) * MIB
    yield from updates(largest)
    yield pair("make a machine of 16 GiB / one of 16 MiB", 1.2, partial(machine, 16 * GIB), partial(machine, 16 * MIB))
    yield resident()
    yield from page_states()
    yield from traced()
    yield from maps()


# ------------------------------------------------------------- LAUNCH_UPDATE_DATA


def updates(largest: int) -> Iterator[Figure]:
    """The whole ioctl: arguments, pins, checks, flush, mailbox, digest, encryption, page states, trace, journal."""
    host = Host("rome", seed=1, memory=largest + 256 * MIB, trace=Trace(ring=10_000))
    qemu = host.process("qemu", memlock=2 * largest)
    vm = qemu.ioctl(qemu.open("/dev/kvm"), KVM_CREATE_VM, 0)
    sev = qemu.open("/dev/sev", "r+")
    qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, kvm_sev_cmd(id=KVM_SEV_INIT, sev_fd=sev))
    start = qemu.put(kvm_sev_launch_start(policy=1))
    qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, kvm_sev_cmd(id=KVM_SEV_LAUNCH_START, data=start, sev_fd=sev))
    hva = qemu.mmap(largest)
    for at in range(0, largest, MIB):
        qemu.write(hva + at, bytes(MIB))  # touched, so that nobody pays for page faults

    raw = Raw(largest)
    for size, goal in ((64 * KIB, 1.6), (1 * MIB, 1.25), (16 * MIB, 1.25), (largest, 1.25)):
        room = max(min(largest, 4 * MIB), size)
        commands = [
            kvm_sev_cmd(id=KVM_SEV_LAUNCH_UPDATE_DATA, data=qemu.put(kvm_sev_launch_update_data(hva + at, size)), sev_fd=sev)
            for at in range(0, room, size)
        ]
        turn = cycle(commands)
        ours = partial(_next, qemu.ioctl, vm, turn)
        yield pair(f"LAUNCH_UPDATE_DATA {_size(size)} / ECB and SHA-256", goal, ours, raw.ecb_and_sha(size))
    host.close()


def _next(ioctl: Callable[..., Any], vm: int, turn: Iterator[Any]) -> None:
    ioctl(vm, KVM_MEMORY_ENCRYPT_OP, next(turn))


# ------------------------------------------------------------------ a large machine


def machine(size: int) -> None:
    Host("rome", seed=1, memory=size).close()


TOUCH = """
import resource, random
from sevlab import Host
host = Host("rome", seed=1, memory=16 << 30)
host.soc.engine.install(1, bytes(16))
def now():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before, page = now(), bytes(range(256)) * 16
frames = random.Random(1).sample(range(1 << 16, 1 << 22), 20_000)
for pfn in frames:
    host.soc.dram.write(pfn << 12, page)
print(now() - before, len(frames) * 4096)
"""


def resident() -> Figure:
    """20,000 pages written all over 16 GiB: what became resident, beside what was touched plus 40 MB."""
    name = "resident after 20,000 pages of 16 GiB / touched + 40 MB"
    if os.environ.get("PEER_RSS") == "0" or not os.path.exists("/proc/self/statm"):
        return absent(name, 1.0, "no /proc/self/statm here, or PEER_RSS=0")
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", TOUCH], capture_output=True, text=True, check=True, env=paths)
    grew, touched = (int(word) for word in out.stdout.split())
    note = f"{grew / MIB:.0f} MiB resident for {touched / MIB:.0f} MiB touched"
    return Figure(name, 1.0, grew / (1.1 * touched + 40 * MIB), note=note)


# ------------------------------------------------------------------------ page states


def page_states() -> Iterator[Figure]:
    """Marking a GiB in one event, beside writing the same bytes into the same arrays with no check and no event."""
    frames = Pages(1 << 22, Trace(ring=1000))
    count = GIB // PAGE
    states, owners, changed = np.zeros(1 << 22, np.uint8), np.zeros(1 << 22, np.uint16), np.zeros(1 << 22, np.uint32)

    def bare() -> None:
        states[:count], owners[:count], changed[:count] = 3, 100, 7

    frames.mark(0, count, pages.PRIVATE, 100)
    yield pair("mark 1 GiB of pages / three bare array fills", 1.5, partial(frames.mark, 0, count, pages.PRIVATE, 100), bare)
    packed = Struct("<IQIBIIBH").pack

    def one() -> None:
        states[5], owners[5], changed[5] = 3, 100, 7
        packed(1, 2, 3, 0, 5, 1, 3, 100)

    yield pair("mark one page / three stores and a packed row", 6.0, partial(frames.mark, 5, 1, pages.PRIVATE, 100), one)
    yield pair("count the states of 16 GiB / bincount", 1.5, frames.counts, partial(np.bincount, states[:count], minlength=9))


# ----------------------------------------------------------------------------- trace


def traced() -> Iterator[Figure]:
    """A row of the trace, beside packing one into a buffer; and a column of a million rows for a plot."""
    trace, bare = Trace(ring=100_000), Bare()

    def ours() -> None:
        for _ in range(1000):
            trace.emit(PagesPinned, 5, 16)

    def limit() -> None:
        bare.at = 0
        for _ in range(1000):
            bare.put(5, 16)

    note = f"{PagesPinned.PACK.size} bytes a row"
    yield pair("an event / a method that packs one into a buffer", 1.3, ours, limit, per=1000, note=note)


class Bare:
    """The least that keeps such a row: a method, a counter, pack_into; no kinds, no texts, no ring, no switch."""

    ROW = Struct("<IQIBII")

    def __init__(self) -> None:
        self.buffer = bytearray(self.ROW.size * 1000)
        self.at = self.seq = self.now = self.entry = self.host = 0

    def put(self, first: int, count: int) -> None:
        self.ROW.pack_into(self.buffer, self.at, self.seq, self.now, self.entry, self.host, first, count)
        self.seq += 1
        self.at += self.ROW.size


# ------------------------------------------------------------------------------- map


def maps() -> Iterator[Figure]:
    """A map of a million pages, each drawn by its gravest state, beside a bare four-bit PNG of as many cells."""
    frames = Pages(1 << 20, Trace(on=False))
    rng = np.random.default_rng(1)
    at = 0
    while at < 1 << 20:
        count = min(int(rng.integers(1, 4096)), (1 << 20) - at)
        frames.mark(at, count, int(rng.integers(0, 9)), 3)
        at += count
    gravity = [LOOKS[state].gravity for state in range(len(LOOKS))]

    cells = frames.states.array.reshape(1024, 1024)

    def bare() -> bytes:
        lines = np.zeros((1024, 513), np.uint8)
        lines[:, 1:] = cells[:, 0::2] << 4 | cells[:, 1::2]
        data = zlib.compress(lines.tobytes(), 1)
        return b"".join(pack(">I", len(part)) + part + pack(">I", zlib.crc32(part)) for part in (b"IHDR", b"IDAT" + data, b"IEND"))

    reduced = partial(frames.states.gravest, 0, 1 << 20, 256, gravity, 128)
    yield pair("gravest of a million pages, 128 cells wide / a bare PNG", 2.0, reduced, bare)
    try:
        from sevlab_widgets.png import png
    except ImportError:
        yield absent("a map of a million pages as a PNG / a bare one", 2.0, "sevlab_widgets is not installed here")
    else:
        colours = [look.colour for look in LOOKS.values()]
        yield pair("a map of a million pages as a PNG / a bare one", 2.0, partial(png, cells, colours), bare)
    figure = plots.Plot(4.0)
    image = figure.axes[0].imshow(cells, interpolation="none")

    def drawn() -> None:
        image.set_data(cells)
        figure.png()

    yield pair("a bare PNG of a million pages / matplotlib", 1 / 15, bare, drawn)
