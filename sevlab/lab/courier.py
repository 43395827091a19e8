"""Lab `mirror`, scene 8: a helper at work. It carries private pages out, under a key that the owner sent it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from sevlab import owner, vmm
from sevlab.abi.kvm import KVM_SEV_LAUNCH_SECRET
from sevlab.host import Host
from sevlab.hw.isa import hlt, load, program, sha256, store
from sevlab.lab.launches import two_pages

WINDOW = 0x5000  # what the courier shares


@program
async def diarist() -> None:
    """A guest with three private pages, two of which are equal."""
    await store(0x10000, b"my diary, page 1", c=True)
    await store(0x11000, b"my diary, page 2", c=True)
    await store(0x12000, b"my diary, page 1", c=True)
    while True:
        await hlt()


@program
async def courier() -> None:
    """Send three private pages out, each under a keystream from the owner's key (behind two heads of 20 bytes) and its number."""
    key = await load(0x810028, 32, c=True)
    for number in range(3):
        text = await load(0x10000 + number * 0x1000, 16, c=True)
        stream = sha256(key + number.to_bytes(8, "little"))
        await store(0x5000 + number * 16, bytes(a ^ b for a, b in zip(text, stream, strict=False)), c=False)
    while True:
        await hlt()


@program
async def careless_courier() -> None:
    """The same, without the number."""
    key = await load(0x810028, 32, c=True)
    for number in range(3):
        text = await load(0x10000 + number * 0x1000, 16, c=True)
        stream = sha256(key)
        await store(0x5000 + number * 16, bytes(a ^ b for a, b in zip(text, stream, strict=False)), c=False)
    while True:
        await hlt()


def guest_with_courier(host: Host, key: bytes, program: Any = courier, seed: int = 1) -> vmm.Vm:
    """A guest whose owner has checked it and sent `key` (32 bytes), for its courier, as the launch secret; it has run once."""
    image = two_pages(host, below=program, top=diarist)
    session = owner.new_session(host.chain()["pdh"], 1, seed=seed)
    vm = vmm.launch(host, firmware=image, policy=1, session=session, name="qemu")
    if not owner.check_measurement(vm.measurement or b"", digest=owner.expected_digest(image), tik=session.tik, policy=1):
        raise ValueError("the owner does not trust this launch")
    vm.inject_secret(*owner.wrap_secret(session.tek, session.tik, vm.measurement or b"", owner.secret_table([("luks-key", key)])))
    vm.finish()
    vm.run()
    return vm


def secret_sent(host: Host) -> int:
    """The journal's entry before the one in which a guest was given its owner's secret. Raises LookupError where none was."""
    found = [row["n"] for row in host.trace.rows() if row["kind"] == "SevCommand" and row["id"] == KVM_SEV_LAUNCH_SECRET]
    if not found:
        raise LookupError("no guest of this host was given a secret")
    return int(found[0]) - 1


def packets(vm: vmm.Vm) -> list[bytes]:
    """What lies in the shared window: three packets of 16 bytes, as everybody sees them."""
    window = vm.read(WINDOW, 48)
    return [window[at : at + 16] for at in range(0, 48, 16)]


def unpacked(key: bytes, sent: Sequence[bytes]) -> list[bytes]:
    """The far end: the pages, from their packets and the owner's key."""
    streams = [hashlib.sha256(key + number.to_bytes(8, "little")).digest() for number in range(len(sent))]
    return [bytes(a ^ b for a, b in zip(one, stream, strict=False)) for one, stream in zip(sent, streams, strict=True)]
