"""The launch recipe: all steps in their order, and nothing left behind when one is refused."""

from __future__ import annotations

from itertools import chain, count
from typing import Any

from sevlab.abi import boot
from sevlab.abi.sev import POLICY_ES
from sevlab.kvm.process import Process
from sevlab.vmm import steps
from sevlab.vmm.vm import Vm

SLACK = 16 << 20  # bytes that a VMM may pin beside its guest's memory


def launch(
    host: Any,
    *,
    program: Any = None,
    args: tuple[Any, ...] = (),
    firmware: bytes | None = None,
    kernel: Any = None,
    initrd: bytes | None = None,
    append: str = "",
    policy: int | None = 1,
    vcpus: int = 1,
    session: Any = None,
    process: Process | None = None,
    es: bool | None = None,
    memory: int = boot.MEMORY,
    hashes_gpa: int | None = None,
    legacy: bool = False,
    irqchip: bool = False,
    shared: bool = False,
    name: str | None = None,
) -> Vm:
    """Launch a guest up to its measurement, and return it: `inject_secret`, `finish` and `run` are still to come.

    What runs: `firmware` (bytes that end at 4 GiB) with `program` as the
    stand-in for its top page; or `program` alone, which then is the firmware.
    `args` are the program's. `kernel` (bytes, or a program), `initrd` and
    `append` are booted directly and measured as hashes. `es` follows the
    policy unless given; a `policy` of None is an ordinary VM, without a key and
    ready to run. `memory` counts bytes of RAM at gpa 0 and grows with
    the kernel. `process` is the VMM's own; without one it is made (`name`, or
    vmm, vmm-2, ...), with enough RLIMIT_MEMLOCK. With `shared` the guest's
    memory can be mapped by another process, which `vmm.move` needs. With `irqchip` the
    kernel has the interrupt controllers, and processors wait and start there. For `hashes_gpa`, `legacy` and
    `session` see `sevlab.vmm.steps`.

    Raises ValueError for what no VMM could start, OSError for what kernel or
    firmware refuse. After either, what was made here is gone.
    """
    image = _image(host, program, args, firmware)
    if kernel is not None and not isinstance(kernel, bytes | bytearray | memoryview):
        host.register(kernel)
        kernel = kernel.image()
    if policy is None and (session is not None or es):
        raise ValueError("an ordinary VM (policy=None) has no session and no encrypted registers")
    if kernel is None and (initrd is not None or append):
        raise ValueError("an initrd or a command line needs a kernel")
    if vcpus < 1:
        raise ValueError(f"a guest has at least one vCPU, not {vcpus}")
    memory = max(memory, boot.memory_needed(kernel or b"", initrd)) + boot.PAGE - 1 & -boot.PAGE
    if memory > steps.HOLE:
        raise ValueError(f"{memory:#x} bytes of memory reach into the firmware below 4 GiB; {steps.HOLE:#x} are the most")

    vm, made = None, process is None
    if process is None:
        process = host.process(name or _free_name(host), memlock=memory + 2 * len(image) + SLACK)
    try:
        es = bool((policy or 0) & POLICY_ES) if es is None else es
        vm = steps.create_vm(process, es=es, legacy=legacy, shared=shared, plain=policy is None)
        steps.add_memory(vm, 0, memory)
        steps.add_firmware(vm, image)
        if kernel is not None:
            steps.place_kernel(vm, kernel, initrd, append)
        if irqchip:
            steps.add_irqchip(vm)
        steps.add_vcpus(vm, vcpus)
        steps.reset_vcpus(vm)
        if vm.es:
            steps.point_aps(vm)

        if policy is None:
            return vm
        steps.launch_start(vm, policy, session)
        steps.load_firmware(vm)
        if kernel is not None:
            steps.load_hashes(vm, kernel, initrd, append, hashes_gpa)
        if vm.es:
            steps.update_vmsas(vm)
        steps.launch_measure(vm)
    except BaseException:
        if made:
            process.kill()
        elif vm is not None:
            vm.close()
        raise
    return vm


def _free_name(host: Any) -> str:
    """A name that no live process of the host has."""
    return next(name for name in chain(["vmm"], (f"vmm-{number}" for number in count(2))) if name not in host.processes)


def _image(host: Any, program: Any, args: tuple[Any, ...], firmware: bytes | None) -> bytes:
    """The firmware image, its program known to the host."""
    if firmware is None and program is None:
        raise ValueError("there is nothing to launch: give a firmware, a program, or both")
    image = steps.program_image(program, args) if firmware is None else bytes(firmware)
    if program is not None and len(image) >= boot.PAGE:
        host.register(program, page=image[-boot.PAGE :], args=args)
    return image
