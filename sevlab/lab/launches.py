"""Launches that a lesson wants ready-made: an empty one, one of two pages, and four that were tampered with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain, count
from typing import Any

from sevlab import guest, owner, vmm
from sevlab.abi import boot, ovmf
from sevlab.abi.kvm import SEV_CMD_NAMES
from sevlab.host import Host
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.show import flip
from sevlab.vmm import steps

POLICY = 1
API = (0, 24, 15)
PAGE = boot.PAGE


def _free(host: Host, name: str) -> str:
    """A process name that nobody has: `name`, else `name-2` and so on."""
    names = chain([name], (f"{name}-{n}" for n in count(2)))
    return next(one for one in names if one not in host.processes)


def empty_guest(host: Host, *, size: int = 64 << 10, policy: int = POLICY) -> Any:
    """A guest under launch with `size` bytes of memory, and nothing loaded yet."""
    vm = steps.create_vm(host.process(_free(host, "scratch"), memlock=2 * size))
    steps.add_memory(vm, 0, size)
    steps.launch_start(vm, policy)
    return vm


def by_hand(vm: Any) -> Callable[[str, str, str], None]:
    """What `lab.machine` wants: a command that a reader presses is given to `vm`, as `empty_guest` made it.

    LAUNCH_UPDATE_DATA loads its next page. Raises ValueError for a command that wants more than a press, OSError as refused.
    """
    slot, numbers = vm.slots[0], {name: number for number, name in SEV_CMD_NAMES.items()}
    pages = iter(range(slot.gpa, slot.gpa + slot.size, PAGE))

    def give(machine: str, command: str, token: str) -> None:
        if command == "LAUNCH_UPDATE_DATA":
            gpa = next(pages, None)
            if gpa is None:
                raise ValueError("every page of this guest is loaded already")
            steps.update_data(vm, gpa, PAGE)
        elif command == "LAUNCH_MEASURE":
            steps.launch_measure(vm)
        elif command == "DECOMMISSION":  # no process asks for it: the kernel does, when nobody holds the VM any more
            vm.close()
        elif command in ("LAUNCH_FINISH", "LAUNCH_UPDATE_VMSA"):
            vm.sev_op(numbers[command])
        else:
            raise ValueError(f"{command} wants more than a press: somebody at the other end takes part in it")

    return give


def two_pages(host: Host, below: Any, top: Any) -> bytes:
    """A firmware image of two pages, a program in each, with a secret area. The processor starts in the upper one.

    The host knows both programs, wherever their pages come to lie.
    """
    image = ovmf.with_table(below.image() + top.image(), [ovmf.secret_area(*boot.SECRET_AREA)])
    host.register(below)
    host.register(top, page=image[-PAGE:])
    return image


def before_launch(host: Host, image: bytes) -> Any:
    """A VM with memory, a vCPU and its image in clear: all that a VMM does before LAUNCH_START."""
    vm = steps.create_vm(host.process(_free(host, "qemu"), memlock=boot.MEMORY + 2 * len(image) + (16 << 20)))
    steps.add_memory(vm, 0, boot.MEMORY)
    steps.add_firmware(vm, image)
    steps.add_vcpus(vm, 1)
    steps.reset_vcpus(vm)
    return vm


def deliver(vm: Any, session: Any, entries: Mapping[str | bytes, bytes]) -> Any:
    """What follows a measurement that convinced: the owner's secret goes in, the launch ends, the guest runs. Its last exit."""
    header, packet = owner.wrap_secret(session.tek, session.tik, vm.measurement, owner.secret_table(entries))
    vm.inject_secret(header, packet)
    vm.finish()
    return vm.run()


def tampering(seed: int = 7) -> list[dict[str, str]]:
    """The same launch four times, each time something else changed: a row each, with what it changes and who notices.

    Each launch has a machine and a session of its own.
    """
    image = guest.firmware_image()
    cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("one bit of the image", {"firmware": flip(image, 8)}, {}),
        ("the policy", {"policy": 0}, {}),
        ("older firmware", {}, {"api": (0, 22, 9)}),
        ("one more vCPU", {"vcpus": 2}, {}),
    ]
    return [_tampered(seed, image, *case) for case in cases]


def _tampered(seed: int, image: bytes, what: str, change: dict[str, Any], machine: dict[str, Any]) -> dict[str, str]:
    """One row: a launch with `change` on a `machine`, against what the owner expects of the honest launch."""
    row = {"changed": what, "LAUNCH_START": "ok", "digest": "-", "the owner": "-", "who notices": "the firmware"}
    with Host(seed=seed, **machine) as host:
        session = owner.new_session(host.chain()["pdh"], POLICY, seed=seed)
        vm = attempt(vmm.launch, host, **{"firmware": image, "policy": POLICY, "session": session, **change})
        if isinstance(vm, Refusal):
            return row | {"LAUNCH_START": vm.fw_name}
        digest = owner.expected_digest(image)
        verdict = owner.check_measurement(vm.measurement, digest=digest, tik=session.tik, policy=POLICY, api=API)
        row["digest"] = "same" if host.xray.digest(vm.handle) == digest else "another"
        row["the owner"] = "trusts it" if verdict else "refuses"
        row["who notices"] = "nobody" if verdict else "the owner"
        return row
