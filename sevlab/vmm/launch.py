"""The launch recipe: all steps in their order, and nothing left behind when one is refused."""

from __future__ import annotations

from itertools import chain, count
from os import PathLike
from typing import Any

from sevlab.abi import boot
from sevlab.abi.sev import POLICY_ES
from sevlab.given import checked, number, shown
from sevlab.kvm.process import Process
from sevlab.vmm import steps
from sevlab.vmm.vm import Vm

SLACK = 16 << 20  # bytes that a VMM may pin beside its guest's memory
BYTES = bytes | bytearray | memoryview
HOW = "; pathlib.Path(...).read_bytes() has those of a file"


def launch(
    host: Any,
    *,
    program: Any = None,
    args: tuple[Any, ...] = (),
    firmware: bytes | None = None,
    kernel: Any = None,
    initrd: bytes | None = None,
    append: str | bytes = "",
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

    Raises ValueError for what no VMM could start, TypeError for an argument
    that is no such thing, OSError for what kernel or firmware refuse. After
    any, what was made here is gone.
    """
    _check(host, process, program, firmware, kernel, initrd, append)
    _check_numbers(policy, vcpus, memory, hashes_gpa, es, name)
    if not isinstance(args, tuple | list):
        raise TypeError(f"args is a tuple of the program's arguments, not {shown(args)}")
    image = _image(host, program, args, firmware)
    if kernel is not None and not isinstance(kernel, BYTES):
        host.register(kernel)
        kernel = kernel.image()
    if policy is None and (session is not None or es):
        raise ValueError("an ordinary VM (policy=None) has no session and no encrypted registers")
    if kernel is None and (initrd is not None or append):
        raise ValueError("an initrd or a command line needs a kernel")
    needed = boot.memory_needed(kernel, initrd) if kernel is not None else 0
    memory = max(memory, needed) + boot.PAGE - 1 & -boot.PAGE
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


def _check(host: Any, process: Any, program: Any, firmware: Any, kernel: Any, initrd: Any, append: Any) -> None:
    """Refuse what is no machine, process, program or bytes, in the caller's words and before anything is made.

    Raises TypeError, or ValueError for a process of another machine.
    """
    if not hasattr(host, "process"):
        raise TypeError(f"a guest is launched on a Host, not on {shown(host)}")
    if process is not None and not isinstance(process, Process):
        raise TypeError(f"process is a Process of the host, not {shown(process)}")
    if process is not None and process.kernel is not host.kernel:
        raise ValueError(f"process {process.name} belongs to another host")
    for what, value in (("program", program), ("kernel", kernel)):
        if value is not None and not hasattr(value, "image") and not (what == "kernel" and isinstance(value, BYTES)):
            also = "bytes or " if what == "kernel" else ""
            raise TypeError(f"{what} is {also}a guest program (@guest.program), not {shown(value)}")
    for what, value in (("firmware", firmware), ("initrd", initrd)):
        if value is not None and not isinstance(value, BYTES):
            raise TypeError(f"{what} is bytes, not {shown(value)}{HOW if isinstance(value, str | PathLike) else ''}")
    if not isinstance(append, str | BYTES):
        raise TypeError(f"append is the kernel's command line, a text, not {shown(append)}")


@checked
def _check_numbers(policy: int | None, vcpus: int, memory: int, hashes_gpa: int | None, es: bool | None, name: str | None) -> None:
    """Refuse what is no number, or one that no guest has, and a name that is none. Raises TypeError, ValueError."""
    if policy is not None and not 0 <= policy < 1 << 32:
        raise ValueError(f"a policy has 32 bits, {policy:#x} does not fit")
    if vcpus < 1:
        raise ValueError(f"a guest has at least one vCPU, not {vcpus}")
    number("memory", memory, 0)
    number("hashes_gpa", hashes_gpa or 0, 0)


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
