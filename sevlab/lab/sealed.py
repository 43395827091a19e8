"""Sealed guests that ask, park and are called, and what honest and lying hosts do to them: the acts of lab `es`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sevlab import vmm
from sevlab.abi.ghcb import OFFSETS, Ghcb
from sevlab.abi.kvm import KVM_NMI
from sevlab.guest.ghcb import open_ghcb, terminate
from sevlab.guest.smp import (
    AP_RESET,
    AP_WORK,
    CALLED,
    DONE,
    FOREIGN_TABLE,
    GHCBS,
    ICR,
    INIT,
    JUMP_TABLE,
    LIES,
    OTHERS,
    PAGE,
    RESET_PAGE,
    STARTUP,
    TRAMPOLINE,
    gather,
    jump_table,
    on_vc,
    set_jump_table,
    start_others,
    x2apic_on,
)
from sevlab.host import Host
from sevlab.hw.isa import cpuid, hlt, load, program, rdmsr, store, vmgexit, wrmsr
from sevlab.kvm import designs
from sevlab.lab.attempt import Refusal, attempt

SEV_STATUS, HAS_ES = 0xC001_0131, 2  # an MSR that no hypervisor can answer for the processor, and its bit for SEV-ES
GO, SAID = 0x2000, 0x2010  # shared: the host raises GO, the guest says how many calls were answered
NUMBER = 0x9000  # private: what the teller tells nobody
# 6.1 with the hold of 2020: the two never met, and it says so.
POSTED_HOLD = replace(designs.LINUX_6_1, name="6.1, hold as posted", ap_boot=designs.HLT_LOOP_FLAG)


# ------------------------------------------------------------------ guests


@program(vc=on_vc)
async def clerk() -> None:
    """Ask CPUID which processor this is, and halt; with SEV-ES through a GHCB, which it opens first."""
    if await rdmsr(SEV_STATUS) & HAS_ES:
        await open_ghcb(GHCBS)
    while True:
        await cpuid(1)
        await hlt()


@program(vc=on_vc)
async def courier(request: bytes) -> None:
    """Put `request` into the GHCB as it is, ask, and halt."""
    await open_ghcb(GHCBS)
    await store(GHCBS, request, c=False)
    await vmgexit()
    await hlt()


@program(vc=on_vc)
async def teller(numbers: tuple[int, ...]) -> None:
    """Keep one number after the other, each as long as it sleeps: eight bytes, through RAX, into private memory."""
    for number in numbers:
        await store(NUMBER, number.to_bytes(8, "little"), c=True)
        await hlt()


@program
async def classic_ap() -> None:
    """What a processor does that was started in the old way: halt."""
    await hlt()


CLASSIC_AP = classic_ap.image().rstrip(b"\0")


@program
async def classic(vector: int) -> None:
    """The old way to start the others: code at vector * 4096, INIT, SIPI, SIPI."""
    await x2apic_on()
    await store(vector << 12, CLASSIC_AP.ljust(PAGE, b"\0"), c=True)
    await start_others(vector)
    await hlt()


@program(vc=on_vc)
async def boss(processors: int, vector: int = 0) -> None:
    """Firmware and OS in one: its APs park, and each time the host raises GO it calls them and says when they have come.

    Before each call it asks the host where the jump table is, and ends if that is not where it put it.
    """
    await open_ghcb(GHCBS)
    await x2apic_on()
    await store(RESET_PAGE, AP_RESET.ljust(PAGE, b"\0"), c=True)
    await store(TRAMPOLINE, AP_WORK.ljust(PAGE, b"\0"), c=True)
    await store(JUMP_TABLE, b"\0\0" + (TRAMPOLINE >> 4).to_bytes(2, "little"), c=True)
    await store(DONE, bytes(processors), c=True)
    await store(CALLED, bytes(processors), c=True)
    await set_jump_table(GHCBS, JUMP_TABLE)
    await start_others(vector)
    await gather(DONE, processors, 1)
    turn = 1
    while True:
        while (await load(GO, 1, c=False))[0] < turn:
            await hlt()
        if await jump_table(GHCBS) not in (JUMP_TABLE, 0):  # 0: nobody keeps it, after a move; the APs have the table itself
            await terminate(FOREIGN_TABLE, LIES)
        await store(CALLED, bytes([turn]) * processors, c=True)
        await wrmsr(ICR, OTHERS | INIT)
        await wrmsr(ICR, OTHERS | STARTUP | vector)
        await gather(DONE, processors, turn + 1)
        await store(SAID, bytes([turn]), c=False)
        turn += 1


# ------------------------------------------------------------------ acts


def parked(host: Host, processors: int = 4, vector: int = 0) -> Any:
    """A guest whose APs have started once and hold: launched, finished, run."""
    vm = vmm.launch(
        host, program=boss, args=(processors, vector), policy=5, vcpus=processors, irqchip=True, shared=True, name="qemu"
    )
    vm.finish()
    vm.run()
    return vm


def classically(host: Host, vector: int, processors: int = 2) -> Any:
    """The same in a plain SEV guest, whose registers the host still keeps."""
    host.register(classic_ap)
    vm = vmm.launch(host, program=classic, args=(vector,), policy=1, vcpus=processors, irqchip=True, name="old")
    vm.finish()
    vm.run()
    return vm


def call(vm: Any, turn: int = 0) -> int:
    """The host has the guest call its APs, for the `turn`th time (0: once more); how many calls the guest says were answered."""
    turn = turn or vm.read(SAID, 1)[0] + 1
    vm.write(GO, bytes([turn]))
    vm.vcpus[0].ioctl(KVM_NMI)
    vm.run()
    return int(vm.read(SAID, 1)[0])


def disturb(vm: Any) -> None:
    """Wake every AP by an interrupt that nobody has asked for."""
    for vcpu in vm.vcpus[1:]:
        vcpu.ioctl(KVM_NMI)
    vm.run()


def press(vm: Any, command: str, token: str) -> None:
    """What a Machine's button does to this guest: an interrupt for the vCPU of a token, or a call by the BSP: INIT, SIPI for all.

    Raises LookupError, in a sentence, for what no host can do, and for a vCPU that is another guest's.
    """
    name, _, number = token.partition(" ")
    if name != vm.process.name or not number.isdigit():
        raise LookupError(f"{token} is none of the sealed guest's: this notebook gives its commands to {vm.process.name} alone")
    if command == "interrupt":
        vm.vcpus[int(number)].ioctl(KVM_NMI)
        vm.run()
    elif command == "INIT, SIPI":
        call(vm)
    else:
        raise LookupError(f"{command} is the guest's to do: a host that could make a sealed processor do it need not ask")


def false_call(vm: Any, number: int = 1) -> Any:
    """A lie: wake AP `number` and write into its GHCB that its SIPI has come. The guest's last exit."""
    vm.vcpus[number].ioctl(KVM_NMI)
    vm.write(GHCBS + number * PAGE + OFFSETS["sw_exit_info_1"], bytes(8) + (1).to_bytes(8, "little"))
    return vm.run()


def impossible(vm: Any, number: int = 1, vector: int = 14) -> Any:
    """Another lie: the answer to AP `number`'s request is an exception that no host may ask for (#PF)."""
    vm.vcpus[number].ioctl(KVM_NMI)
    info = (1).to_bytes(8, "little") + (1 << 31 | 3 << 8 | vector).to_bytes(8, "little")
    vm.write(GHCBS + number * PAGE + OFFSETS["sw_exit_info_1"], info)
    return vm.run()


def foreign_table(host: Host, vm: Any, gpa: int, turn: int = 1) -> Any:
    """A third one, by the kernel: it names another jump table than it was told. The guest's last exit."""
    host.kernel.vm_of(vm.process, vm.fd).sev.ap_jump_table = gpa
    vm.write(GO, bytes([turn]))
    vm.vcpus[0].ioctl(KVM_NMI)
    return vm.run()


def ask(host: Host, request: Ghcb) -> Any:
    """Launch a guest that sends this request: (info1, info2) as it finds them, or the Refusal of KVM_RUN."""
    answer = exchange(host, request)
    return answer if isinstance(answer, Refusal) else (answer.sw_exit_info_1, answer.sw_exit_info_2)


def exchange(host: Host, request: Ghcb) -> Ghcb | Refusal:
    """The same, but the whole page as the guest finds it afterwards."""
    page = request.pack()
    vm = vmm.launch(host, program=courier, args=(page[: OFFSETS["x87_state_gpa"]],), policy=5)
    vm.finish()
    ended = attempt(vm.run)
    if isinstance(ended, Refusal):
        return ended
    return Ghcb.unpack(vm.read(GHCBS, PAGE))
