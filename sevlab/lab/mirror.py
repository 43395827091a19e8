"""Lab `mirror`: a guest with a helper, who reads one line, two views of one memory; and what the machine says to each question.

Answers (what a card reveals) only look. What changes a machine says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sevlab import vmm
from sevlab.abi import boot
from sevlab.abi.kvm import (
    KVM_CREATE_VCPU,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_SET_USER_MEMORY_REGION,
    SEV_CMD_NAMES,
    kvm_userspace_memory_region,
)
from sevlab.guest.programs import SECRET
from sevlab.host import Host
from sevlab.hw.isa import hlt, load, program, store
from sevlab.kvm.sev_commands import SevCommand
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.bus import bus
from sevlab.lab.holders import rows, topology
from sevlab.lab.holes import KERNELS, hole, holes
from sevlab.lab.launches import two_pages
from sevlab.lab.look import Look, look_at
from sevlab.lab.prediction import Answer
from sevlab.lab.show import table
from sevlab.psp.firmware import CommandDone
from sevlab.vmm import steps

PAGE = boot.PAGE
HELPER = boot.TOP - 2 * PAGE  # where the lower page of a two-page image lies
PRIVATE, SHARED, THEIRS = 0x1000, 0x2000, 0x3000
LATE, DONE = 0x4000_0000, 0x4000  # a page that comes late, and where the guest says so
SMALL = 256 << 10  # bytes of memory of a guest whose pages are looked at one by one


# ------------------------------------------------------------- programs


@program
async def keeper() -> None:
    """The guest: it keeps a sentence in private memory."""
    await store(0x1000, b"my diary, page 1", c=True)
    while True:
        await hlt()


@program
async def helper() -> None:
    """The helper: it reads the sentence, and shows it to everybody."""
    while True:
        await store(0x2000, await load(0x1000, 16, c=True), c=False)
        await hlt()


@program
async def stranger_program() -> None:
    """The helper's twin in another guest: it shows what it finds in a page of its own."""
    await store(0x3000, await load(0x1000, 16, c=True), c=False)
    while True:
        await hlt()


@program
async def waits_for_a_page() -> None:
    """A guest that needs a page which has not come yet."""
    await store(0x4000, await load(0x40000000, 16, c=True), c=False)
    while True:
        await hlt()


@program
async def fills_a_page() -> None:
    """A helper that puts the page there, under the guest's key."""
    await store(0x40000000, b"it has come late", c=True)
    while True:
        await hlt()


# ------------------------------------------------------------- guests


def guest_with_helper(host: Host, top: Any = keeper, below: Any = helper, **named: Any) -> vmm.Vm:
    """A guest whose image has two pages, its own program and a helper, measured alike; it has run once."""
    vm = vmm.launch(host, firmware=two_pages(host, below=below, top=top), **({"name": "qemu"} | named))
    vm.finish()
    vm.run()
    return vm


def see(vm: vmm.Vm, number: int, gpa: int, hva: int, size: int) -> None:
    """One memory slot of a VM: `size` bytes of its process's memory at `hva` are its guest's at `gpa`."""
    region = kvm_userspace_memory_region(slot=number, guest_phys_addr=gpa, memory_size=size, userspace_addr=hva)
    vm.ioctl(KVM_SET_USER_MEMORY_REGION, region, step="SET_USER_MEMORY_REGION")


def stranger(host: Host, vm: vmm.Vm) -> vmm.Vm:
    """Another SEV guest of the same process, with a key of its own, which is shown the same memory; it has run once."""
    other = steps.create_vm(vm.process)
    see(other, 7, 0, vm.slots[0].hva, vm.slots[0].size)
    image = steps.program_image(stranger_program)
    host.register(stranger_program, page=image)
    steps.add_firmware(other, image)
    steps.add_vcpus(other, 1)
    steps.reset_vcpus(other)
    steps.launch_start(other, 1)
    steps.load_firmware(other)
    steps.launch_measure(other)
    other.finish()
    other.run()
    return other


def readers(host: Host, vm: vmm.Vm, mirror: vmm.Vm, other: vmm.Vm) -> dict[str, bytes]:
    """The sixteen bytes of one line, as each reader of it has them. The mirror runs for it."""
    mirror.run()
    asid = host.kernel.vm_of(vm.process, vm.fd).sev.asid
    return {
        "the guest": host.xray.read(asid, host.hpa(vm.process, vm.hva(PRIVATE)), 16),
        "its mirror": vm.read(SHARED, 16),
        "a stranger": other.process.read(vm.hva(THEIRS), 16),
        "the VMM": vm.read(PRIVATE, 16),
        "the bus": bus(host, vm, PRIVATE, 16),
    }


def one_more_vcpu(host: Host) -> bytes:
    """The same without a mirror: a second vCPU of a guest itself begins at the helper. What it showed; both stay on `host`."""
    vm = guest_with_helper(host)
    fd = vm.ioctl(KVM_CREATE_VCPU, 1, step="CREATE_VCPU")
    second = vmm.Vcpu(vm.process, 1, fd, vm.process.mmap(vm.process.ioctl(vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0), fd=fd))
    regs, sregs = second.registers()
    sregs.cs.selector, sregs.cs.base, regs.rip = 0, 0, HELPER
    second.set_registers(regs, sregs)
    second.enter()
    return vm.read(SHARED, 16)


def with_a_mirror(host: Host) -> int:
    """The same with a mirror, for whoever wants to compare: the journal's entry after which the two ways part."""
    vm = guest_with_helper(host)
    parted = host.n
    vmm.mirror(vm, start=HELPER).run()
    return parted


def two_tenants(seed: int = 7) -> Host:
    """A machine on which a guest of /a has a mirror, made by a process of /b; nobody has closed anything yet."""
    host = Host(chip="rome", seed=seed, cgroups={"/a": {"sev": 1}, "/b": {"sev": 1}})
    vm = guest_with_helper(host, process=host.process("qemu", cgroup="/a"), shared=True)
    vmm.mirror(vm, host.process("helper", cgroup="/b"), start=HELPER)
    return host


# ------------------------------------------------------------- two views


class TwoViews:
    """A guest that needs a page which has not come, and a mirror whose own view of the same memory has it.

    Both views map one memfd in one process. `run` lets the guest go on.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.vm = vmm.launch(host, firmware=two_pages(host, below=fills_a_page, top=waits_for_a_page), name="qemu", memory=SMALL)
        self.vm.finish()
        process = self.vm.process
        self.fd = process.memfd(PAGE)
        self.guests = process.mmap(PAGE, fd=self.fd)
        see(self.vm, 7, LATE, self.guests, PAGE)
        process.munmap(self.guests, PAGE)  # the guest's view of it has gone: whoever touches it must ask user space
        self.mirror = vmm.mirror(self.vm, start=HELPER)
        self.mirrors = process.mmap(PAGE, fd=self.fd)
        see(self.mirror, 7, LATE, self.mirrors, PAGE)
        self.ready = host.n  # the journal's entry when all of that was there

    def run(self) -> Any:
        """The guest's vCPU, once: its exit, or the refusal of KVM_RUN."""
        return attempt(self.vm.vcpus[0].enter)

    def fill(self) -> Any:
        """The helper puts the page there; then the guest's view is mapped again."""
        ended = self.mirror.run()
        self.vm.process.mmap(PAGE, fd=self.fd, at=self.guests)
        return ended


# ------------------------------------------------------------- what a mirror may ask


def may_ask(mirror: vmm.Vm) -> list[dict[str, str]]:
    """Every sub-command of KVM_MEMORY_ENCRYPT_OP, asked of a mirror with an argument that is never looked at: a row each.

    A command that is let through fails at that argument: so nothing changes.
    """
    host_trace, found = mirror.process.kernel.trace, []
    for id, name in sorted(SEV_CMD_NAMES.items()):
        since = host_trace.seq
        answer = attempt(mirror.sev_op, id)
        let = bool(host_trace.rows(SevCommand, since=since))
        asked = len(host_trace.rows(CommandDone, since=since))
        says = answer.errno_name if isinstance(answer, Refusal) else "0"
        found.append(
            {"command": name, "KVM": "goes on" if let else "says no", "errno": says, "firmware asked": "yes" if asked else "no"}
        )
    return found


# ------------------------------------------------------------- where a card leads


def in_topology(held: Any, host: Host) -> Look:
    """mirror.table: to the mirror in the picture above."""
    mirror = next(number for number, vm in host.kernel.vms.items() if vm.sev.owner is not None)
    return look_at({"topology(host)": (held, f"vm {mirror}")})


def who_pays(tenants: Any) -> Look:
    """mirror.pays: to the charges of the two tenants of scene 6, on whom one can do the four steps by hand."""
    return look_at({"misc.current of both": (tenants, "ledger /a sev")})


def on_the_bus(lens: Any) -> Look:
    """mirror.readers: to what the bus carries of the frame in the lens above."""
    return look_at({"the frame on the bus": (lens, "the bus/0")})


# ------------------------------------------------------------- the answers


def _kind(data: bytes, text: bytes, on_the_bus: bytes) -> str:
    return "the sentence" if data == text else "ciphertext" if data == on_the_bus else "noise"


def shared(host: Host) -> Answer:
    """Scene 1: what is shared between vm-a and its mirror?"""
    one, two = rows(host)
    same = [name for name in ("slot", "handle", "regions", "pays") if one[name] == two[name]]
    because = (
        "Slot and handle are copied: that is the key. Memory slots and vCPUs are the mirror's own; they are alike "
        "because the VMM made "
        "them alike. Pins and the charge stay with the owner."
    )
    return Answer(" and ".join(same) or "nothing", topology(host), because)


def read_by(found: Mapping[str, bytes], who: str) -> Answer:
    """Scene 2: what does this reader find?"""
    becauses = {
        "its mirror": "The same frame, the same slot, so the same key. No byte was copied for it.",
        "a stranger": "The engine does decrypt for it, with the stranger's key. What comes out is neither text nor what"
        " the bus carries.",
        "the VMM": "A pointer of the host uses no key. It reads what is on the bus, byte for byte.",
    }
    return Answer(_kind(found[who], SECRET, found["the bus"]), f"{who}: {found[who].hex(' ')}", becauses[who])


def nothing_new(said: bytes) -> Answer:
    """Scene 3: what does a second vCPU of the guest itself read?"""
    because = (
        "Whoever runs the VMM could always give the guest one more vCPU. With a mirror nobody can do what could not be "
        "done before; "
        "that was the patch's argument."
    )
    return Answer("the sentence" if said == SECRET else "noise", f"{said!r}", because)


def own_code(ended: Any) -> Answer:
    """Scene 3: what becomes of a mirror that begins in a page which the host wrote?"""
    because = (
        "An instruction fetch is private always: the engine decrypts what the host wrote in clear, and noise is no program. "
        "Only what was encrypted under the guest's key runs, and that is what was measured."
    )
    return Answer({"SHUTDOWN": "it shuts down", "HLT": "it reads the sentence"}.get(ended.name, ended.name), ended, because)


def touched(ended: Any) -> Answer:
    """Scene 4: what happens when the guest touches the page?"""
    says = f"KVM_RUN says {ended.errno_name}" if isinstance(ended, Refusal) else f"exit {ended.name}"
    because = (
        "There is a memory slot, and nothing is mapped behind it: KVM comes back to user space. Without a slot it would be "
        "an MMIO exit: KVM takes a hole in the slots for a device."
    )
    return Answer(says, ended, because)


def asked_of_a_mirror(found: Sequence[Mapping[str, str]]) -> Answer:
    """Scene 5: how many commands does KVM let a mirror ask?"""
    let = [row["command"] for row in found if row["KVM"] == "goes on"]
    because = "All others are the owner's, and KVM says so before it looks at the argument. The firmware never hears of them."
    return Answer(str(len(let)), f"let through: {', '.join(let)}\n\n{table(found)}", because)


def outlives(host: Host) -> Answer:
    """Scene 6: is the slot of the dead process still in use?"""
    used = bool(host.asids.used())
    because = "Each mirror holds its owner. The owner has no descriptor left and no process, and lives."
    return Answer("in use" if used else "waiting", topology(host, "held by", "slot", "owner", "pays"), because)


def freed(host: Host) -> Answer:
    """Scene 6: did that close give the slot back?"""
    because = "Necessary, and not enough: a vCPU's descriptor and its mapped page hold the mirror, and the mirror holds the owner."
    if not host.asids.used():
        because = "Nobody holds the mirror, so nobody holds the owner: both are gone, and the slot waits for a flush."
    return Answer("yes" if not host.asids.used() else "no", topology(host, "held by", "slot"), because)


def hole_answer(name: str) -> Answer:
    """Scene 7: what does 5.13 answer to one of HOLES?"""
    becauses = {
        "destination with a vCPU": "The vCPU was made for an ordinary VM: it got the slot's number, and nobody set the "
        "bit that says encrypted.",
        "descriptor that is closed": "The way out gives the file back, also the one that it never had: fput(NULL). The "
        "caller dies inside the kernel.",
        "descriptor that is no VM": "The documentation promises ENOTTY on error. The code has never returned it, in any version.",
        "mirror of an SEV-ES guest is": "Slot and mark were copied, the kind was not. What was half copied takes itself"
        " for plain SEV.",
        "GUEST_STATUS of a mirror": "First a mirror was allowed nothing. Since 5.15 it may ask for its state, and three"
        " things more.",
    }
    return Answer(hole(name, KERNELS[0]), holes(name), becauses[name])


def equal_packets(sent: Sequence[bytes]) -> Answer:
    """Scene 8: what does the host learn from the careless courier's packets?"""
    pairs = [(a + 1, b + 1) for a in range(len(sent)) for b in range(a) if sent[a] == sent[b]]
    says = "that two pages are equal" if pairs else "nothing"
    because = (
        "The same key and the same number give the same keystream: equal pages, equal packets, and where two pages differ the host "
        "sees where. Number the packets, and never use a number twice."
    )
    return Answer(says, "\n".join(one.hex(" ") for one in sent), because)
