"""Virtual time: what operations cost, in nanoseconds, from one table.

No figure here was measured on the machine you sit at. Each says where it is
from; "stated" means: chosen by us, of the right order of magnitude, so that two
ways of doing one thing can be compared on a plot. Conclude nothing finer.
"""

from __future__ import annotations

from typing import NamedTuple

from sevlab.trace import Trace


class Cost(NamedTuple):
    """What one operation costs: `ns` each time, `ns_per_kib` for each 1,024 bytes it moves."""

    ns: int
    ns_per_kib: int = 0
    source: str = "stated"


_MAILBOX = 100_000  # a firmware command that computes next to nothing: doorbell, poll, answer
_BULK = "stated: the secure processor moves a few hundred megabytes a second"
_PACKET = "stated, after 'SEV PSP migration is far too slow' (KVM: x86: Support KVM VMs sharing SEV context, 2021)"
_CURVE = "stated: some P-384 operations on a small in-order core"

COSTS: dict[str, Cost] = {
    # The secure processor's commands, by the firmware's names.
    "INIT": Cost(20_000_000, 0, _CURVE),
    "INIT_EX": Cost(22_000_000, 0, _CURVE),
    "SHUTDOWN": Cost(1_000_000),
    "PLATFORM_RESET": Cost(5_000_000),
    "PLATFORM_STATUS": Cost(_MAILBOX),
    "PEK_GEN": Cost(40_000_000, 0, _CURVE),
    "PEK_CSR": Cost(1_000_000, 0, _CURVE),
    "PEK_CERT_IMPORT": Cost(30_000_000, 0, _CURVE),
    "PDH_CERT_EXPORT": Cost(500_000),
    "PDH_GEN": Cost(30_000_000, 0, _CURVE),
    "DF_FLUSH": Cost(500_000),
    "DOWNLOAD_FIRMWARE": Cost(100_000_000),
    "GET_ID": Cost(_MAILBOX),
    "NOP": Cost(_MAILBOX),
    "RING_BUFFER": Cost(_MAILBOX),
    "DECOMMISSION": Cost(_MAILBOX),
    "ACTIVATE": Cost(_MAILBOX),
    "ACTIVATE_EX": Cost(_MAILBOX),
    "DEACTIVATE": Cost(_MAILBOX),
    "GUEST_STATUS": Cost(_MAILBOX),
    "COPY": Cost(_MAILBOX, 3_000, _BULK),
    "LAUNCH_START": Cost(15_000_000, 0, _CURVE),
    "LAUNCH_UPDATE_DATA": Cost(_MAILBOX, 4_000, _BULK),
    "LAUNCH_UPDATE_VMSA": Cost(_MAILBOX, 4_000, _BULK),
    "LAUNCH_MEASURE": Cost(200_000),
    "LAUNCH_SECRET": Cost(200_000, 4_000, _BULK),
    "LAUNCH_FINISH": Cost(_MAILBOX),
    "ATTESTATION": Cost(15_000_000, 0, _CURVE),
    "SEND_START": Cost(30_000_000, 0, _CURVE),
    "SEND_UPDATE_DATA": Cost(400_000, 20_000, _PACKET),
    "SEND_UPDATE_VMSA": Cost(400_000, 20_000, _PACKET),
    "SEND_FINISH": Cost(_MAILBOX),
    "SEND_CANCEL": Cost(_MAILBOX),
    "RECEIVE_START": Cost(30_000_000, 0, _CURVE),
    "RECEIVE_UPDATE_DATA": Cost(400_000, 20_000, _PACKET),
    "RECEIVE_UPDATE_VMSA": Cost(400_000, 20_000, _PACKET),
    "RECEIVE_FINISH": Cost(_MAILBOX),
    "DBG_DECRYPT": Cost(_MAILBOX, 4_000, _BULK),
    "DBG_ENCRYPT": Cost(_MAILBOX, 4_000, _BULK),
    "SWAP_OUT": Cost(_MAILBOX, 20_000, _PACKET),
    "SWAP_IN": Cost(_MAILBOX, 20_000, _PACKET),
    # Processors.
    "WBINVD": Cost(2_000_000, 0, "stated: milliseconds, as it empties every cache of every core"),
    "CLFLUSH": Cost(50, 800, "stated: 16 lines a KiB, some 50 ns each"),
    "VM_PAGE_FLUSH": Cost(4_000),
    "VMRUN": Cost(600, 0, "stated: half of a world switch of a thousand to two thousand cycles"),
    "VMEXIT": Cost(600, 0, "stated: the other half"),
    "IPI": Cost(2_000),
    "TLB flush": Cost(500, 0, "stated: the flush itself; the misses after it are not counted"),
    "memcpy": Cost(20, 100, "stated: ten gigabytes a second"),
    "instruction": Cost(1),
    # The host kernel.
    "ioctl": Cost(300, 0, "stated: one system call with the usual mitigations"),
    "page fault": Cost(1_000),
    "pin": Cost(100, 25, "stated: a hundred nanoseconds a page"),
    "lock": Cost(20),
    "network": Cost(20_000, 800, "stated: ten gigabits a second"),
}


class Clock:
    """The virtual clock. Hosts that share a trace live in one world and share its time, which the trace keeps."""

    __slots__ = ("trace",)

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    @property
    def now(self) -> int:
        """Nanoseconds since the world began."""
        return self.trace.now

    def spend(self, name: str, n: int = 0) -> int:
        """Let an operation on `n` bytes take its time; returns the nanoseconds it took.

        Raises KeyError for an operation that has no row in COSTS.
        """
        once, per_kib, _ = COSTS[name]
        ns = once + (per_kib * n >> 10)
        self.trace.now += ns
        return ns

    def __repr__(self) -> str:
        return f"<Clock: {self.now:,} ns>"
