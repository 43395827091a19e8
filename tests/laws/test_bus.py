"""A whole launch and a run, watched after every entry: no 16-byte block of what is the guest's own ever lies on the memory bus.

From when a thing is the guest's own: the firmware and the table of hashes from their LAUNCH_UPDATE_DATA on, the registers
from LAUNCH_UPDATE_VMSA on, the secret and what the guest computes from it always, kernel and command line (which the
protocol hands over in clear) when the firmware has taken them.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from sevlab import Host, designs, guest, owner, vmm
from sevlab.abi import boot, hashes
from sevlab.abi.kvm import KVM_SEV_LAUNCH_UPDATE_DATA
from sevlab.hw import pages
from sevlab.hw.isa import hlt, load, program, sha256, store
from sevlab.lab.bus import blocks

CHIPS = ["naples", "rome", "milan"]
SECRET = hashlib.shake_256(b"the owner's secret").digest(600)
APPEND = "console=ttyS0 quiet luks.key=from-the-secret " + "x y z " * 20
OWN, DONE = 0x40_0000, 0x5000


@program
async def keeps(secret_gpa: int, secret_len: int) -> None:
    """Read the secret, copy it, compute from it, and give away nothing but one byte."""
    area = await load(secret_gpa, secret_len, c=True)
    await store(OWN + 3, area, c=True)  # no block where it was
    await store(OWN + 0x2000, sha256(area), c=True)
    await store(DONE, b"!", c=False)
    while True:
        await hlt()
        await store(OWN + 0x1000, await load(OWN + 3, secret_len, c=True), c=True)


class Watch:
    """After each entry: the blocks of `own` that lie in memory that is in use."""

    def __init__(self, host: Host) -> None:
        self.host, self.own = host, set[bytes]()
        self.found: set[bytes] = set()
        self.looks = 0
        host.trace.watch(self.look)

    def add(self, *texts: bytes) -> None:
        for text in texts:
            self.own |= blocks(text)

    def look(self, rows: list[dict[str, Any]]) -> None:
        if not self.own or all(row["kind"] == "Probed" for row in rows):
            return
        self.looks += 1
        for run in self.host.pages.runs():
            if run.state != pages.FREE:
                self.found |= self.own & carried(self.host, run.first * 4096, run.length * 4096)


EMPTY = bytes(4096)


def carried(host: Host, first: int, n: int) -> set[bytes]:
    """Every aligned block of a range of machine memory, the raw bytes; pages of zeros left out."""
    found = set[bytes]()
    for at in range(first, first + n, 4096):
        page = bytes(host.soc.dram.view(at, 4096))
        if page != EMPTY:
            found.update(page[i : i + 16] for i in range(0, 4096, 16))
    return found


def story(host: Host, policy: int, code: Any = keeps) -> tuple[Watch, vmm.Vm]:
    """From the session to the running guest, the watch told at each step what is the guest's own by now."""
    watch = Watch(host)
    host.register(code)
    image, kernel = guest.firmware_image(), code.image()
    session = owner.new_session(host.chain()["pdh"], policy, seed=5)
    process = host.process("vmm", memlock=1 << 30)
    vm = vmm.steps.create_vm(process, es=bool(policy & 4))
    vmm.steps.add_memory(vm, 0, boot.MEMORY)
    vmm.steps.add_firmware(vm, image)
    vmm.steps.place_kernel(vm, kernel, None, APPEND)
    vmm.steps.add_vcpus(vm, 2)
    vmm.steps.reset_vcpus(vm)
    vmm.steps.launch_start(vm, policy, session)

    encrypt = vm.sev_op

    def sev_op(command: int, argument: Any = None) -> Any:
        """What a command encrypts is the guest's from then on: the watch looks when the command is done."""
        text = process.read(argument.uaddr, argument.len) if command == KVM_SEV_LAUNCH_UPDATE_DATA else b""
        found = encrypt(command, argument)
        watch.add(text)
        watch.own -= blocks(kernel)  # the head of a program's page: the same in every one, and the kernel still lies in clear
        watch.look([{"kind": "now"}])
        return found

    vm.sev_op = sev_op  # type: ignore[method-assign]
    vmm.steps.load_firmware(vm)
    vmm.steps.load_hashes(vm, kernel, None, APPEND)
    if vm.es:
        registers = [vcpu.vmsa_page() for vcpu in host.kernel.vm_of(process, vm.fd).vcpus]
        vmm.steps.update_vmsas(vm)
        watch.add(*registers)
    vmm.steps.launch_measure(vm)

    payload = owner.secret_table({"00000000-1111-2222-3333-444444444444": SECRET})
    watch.add(payload, SECRET, hashlib.sha256(payload).digest())
    vm.inject_secret(*owner.wrap_secret(session.tek, session.tik, vm.measurement, payload))
    vm.finish()
    vm.run(rounds=1)
    host.soc.wbinvd()  # with caches the clear copy lies in memory until the firmware's line is written back over it
    watch.add(kernel, boot.command_line(APPEND), hashes.kernel_hashes(kernel, None, APPEND))
    for _ in range(3):
        vm.run()
    return watch, vm


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("policy", [1, 5])
@pytest.mark.parametrize("caches", [False, True])
@pytest.mark.parametrize("design", [designs.LINUX_6_1, designs.LINUX_6_12], ids=["6.1", "6.12"])
def test_over_a_whole_launch_and_a_run_no_block_of_the_guests_own_is_on_the_bus(
    chip: str, policy: int, caches: bool, design: designs.Design
) -> None:
    with Host(chip, design, seed=3, memory=1 << 30, caches=caches) as host:
        watch, vm = story(host, policy)
        asid = host.kernel.vm_of(vm.process, vm.fd).sev.asid
        host.soc.wbinvd()
        watch.look([{"kind": "now"}])
        kept = host.soc.engine.read(asid, host.npt(vm).translate(OWN), 1024)

        assert vm.read(DONE, 1) == b"!" and SECRET in kept, "the guest has read it"
        assert watch.looks > 20 and len(watch.own) > 100
        assert watch.found == set()


@pytest.mark.parametrize("policy", [1, 5])
def test_a_watch_like_this_finds_what_a_guest_gives_away(policy: int) -> None:
    with Host("rome", seed=3, memory=1 << 30) as host:
        watch, _ = story(host, policy, guest.read_secret)

        assert len(watch.found) >= len(SECRET) // 16 - 1
