"""What it costs to wake 512 parked processors of an SEV-ES guest and have them park again, beside as many ioctls of a vCPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from harness import Figure, pair

from sevlab import Host, vmm
from sevlab.abi.ghcb import SVM_VMGEXIT_AP_HLT_LOOP
from sevlab.abi.kvm import KVM_GET_MP_STATE, KVM_MP_STATE_AP_RESET_HOLD, kvm_mp_state
from sevlab.guest.ghcb import BITMAP, EXIT_CODE, cpuid_by_msr, open_ghcb
from sevlab.guest.smp import GHCBS, OTHERS, PAGE, RESET_PAGE, TOPOLOGY
from sevlab.hw.isa import hlt, load, program, store, vmgexit
from sevlab.kvm.lapic import INIT_MODE, STARTUP, send
from sevlab.trace import Trace

VCPUS = 512
BITS = (7 << EXIT_CODE // 8).to_bytes(16, "little")
REQUEST = SVM_VMGEXIT_AP_HLT_LOOP.to_bytes(8, "little") + bytes(16)


@program
async def parks() -> None:
    """An AP that does nothing but hold, by its own number's GHCB; it counts no wake-up, so its log is what grows."""
    ghcb = GHCBS + (await cpuid_by_msr(TOPOLOGY))[3] * PAGE
    await open_ghcb(ghcb)
    while True:
        await store(ghcb + EXIT_CODE, REQUEST, c=False)
        await store(ghcb + BITMAP, BITS, c=False)
        await vmgexit()
        if not (await load(ghcb + EXIT_CODE + 16, 1, c=False))[0]:
            await hlt()  # woken by anything else: found out below


PAGE_OF_AP = parks.image().rstrip(b"\0")


@program
async def boots() -> None:
    """The BSP: it puts the APs' page where the reset block says, and waits."""
    await store(RESET_PAGE, PAGE_OF_AP.ljust(PAGE, b"\0"), c=True)
    while True:
        await hlt()


def guest() -> Any:
    """A guest of 512 vCPUs, each in a KVM_RUN of its own; all but the first are parked. The trace is off."""
    host = Host(seed=1, trace=Trace(on=False))
    host.register(parks)
    vm = vmm.launch(host, program=boots, policy=5, vcpus=VCPUS, irqchip=True)
    vm.finish()
    for vcpu in vm.vcpus:
        vcpu.go_on()
    kernel = host.kernel.vm_of(vm.process, vm.fd)
    wake(vm, kernel)()
    return host, vm, kernel


def wake(vm: Any, kernel: Any) -> Callable[[], None]:
    """INIT, SIPI, SIPI from the first to all others; then each goes on until it waits. A KVM_RUN that came back begins again."""
    calls, bsp, states = vm.vcpus, kernel.vcpus[0].lapic, kernel.vcpus

    def run() -> None:
        for message in (INIT_MODE, STARTUP, STARTUP):
            send(bsp, OTHERS | message, 0)
        for vcpu in calls[1:]:
            vcpu.go_on()
            if vcpu.came_back:  # EAGAIN: it was started for the first time
                vcpu.call = None
                vcpu.go_on()
        if any(vcpu.mp_state != KVM_MP_STATE_AP_RESET_HOLD for vcpu in states[1:]):
            raise AssertionError("not every AP has parked again")

    return run


def figures() -> Iterator[Figure]:
    _host, vm, kernel = guest()
    process, fd, at = vm.process, vm.vcpus[0].fd, vm.process.put(kvm_mp_state())
    vm.vcpus[0].stop()

    def bare() -> None:
        ioctl = process.ioctl
        for _ in range(VCPUS):
            ioctl(fd, KVM_GET_MP_STATE, at)

    yield pair("AP boot of 512 vCPUs / 512 ioctls of a vCPU", 10.0, wake(vm, kernel), bare, per=VCPUS, note="KVM_GET_MP_STATE")
