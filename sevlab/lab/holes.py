"""Lab `mirror`, the aftermath: what the patch of 2021 left open, asked of the kernel that shipped it and of a later one."""

from __future__ import annotations

from typing import Any

from sevlab import guest, vmm
from sevlab.abi.kvm import (
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
    KVM_ENABLE_CAP,
    KVM_SEV_GUEST_STATUS,
    kvm_enable_cap,
    kvm_sev_guest_status,
)
from sevlab.host import Host
from sevlab.kvm import designs
from sevlab.kvm.fd import Oops
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.show import Text, table
from sevlab.vmm import steps


def copy_from(vm: vmm.Vm, source: int) -> Any:
    """KVM_CAP_VM_COPY_ENC_CONTEXT_FROM on `vm`, naming a descriptor: its answer, an errno's name, or the kernel's end."""
    cap = kvm_enable_cap(KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, args=(source, 0, 0, 0))
    try:
        return str(vm.process.ioctl(vm.fd, KVM_ENABLE_CAP, cap))
    except Oops:
        return "the kernel oopses"
    except OSError as no:
        return Refusal(no).errno_name


def _guest(host: Host) -> vmm.Vm:
    """A plain SEV guest of a process called qemu."""
    vm = vmm.launch(host, program=guest.hello, name="qemu")
    vm.finish()
    return vm


def _plain(process: Any, vcpus: int = 0) -> vmm.Vm:
    """An ordinary VM with nothing in it but vCPUs."""
    vm = steps.create_vm(process, es=False, plain=True)
    steps.add_vcpus(vm, vcpus)
    return vm


def _with_vcpus(host: Host) -> str:
    vm = _guest(host)
    return str(copy_from(_plain(vm.process, vcpus=1), vm.fd))


def _bad_descriptor(host: Host) -> str:
    vm = _guest(host)
    return str(copy_from(_plain(vm.process), 400))


def _no_vm(host: Host) -> str:
    vm = _guest(host)
    return str(copy_from(_plain(vm.process), vm.sev))


def _half_copied(host: Host) -> str:
    process = host.process("qemu")
    sealed = steps.create_vm(process, es=True)
    steps.launch_start(sealed, 5)
    mirror = _plain(process)
    copy_from(mirror, sealed.fd)
    return "SEV-ES" if host.kernel.vm_of(process, mirror.fd).sev.es else "plain SEV"


def _status(host: Host) -> str:
    answer = attempt(vmm.mirror(_guest(host)).sev_op, KVM_SEV_GUEST_STATUS, kvm_sev_guest_status())
    return answer.errno_name if isinstance(answer, Refusal) else "0"


HOLES = {
    "destination with a vCPU": _with_vcpus,
    "descriptor that is closed": _bad_descriptor,
    "descriptor that is no VM": _no_vm,
    "mirror of an SEV-ES guest is": _half_copied,
    "GUEST_STATUS of a mirror": _status,
}
KERNELS = (designs.LINUX_5_13, designs.LINUX_6_1)


def hole(name: str, design: designs.Design, seed: int = 7) -> str:
    """What this kernel answers to one of HOLES, on a machine of its own. Raises KeyError for a name that is none."""
    with Host(design=design, seed=seed, memory=1 << 30) as host:
        return HOLES[name](host)


def played(name: str, seed: int = 7) -> tuple[Host, Host]:
    """One of HOLES played on both kernels: the two hosts, later kernel first, for whoever wants to see what they did."""
    later, first = (Host(design=design, seed=seed, memory=1 << 30) for design in reversed(KERNELS))
    for host in (later, first):
        HOLES[name](host)
    return later, first


def holes(*names: str) -> Text:
    """Calls that the two kernels may answer differently (all of HOLES, or those named): a row each."""
    wanted = names or tuple(HOLES)
    return table([{"COPY": name, **{design.name: hole(name, design) for design in KERNELS}} for name in wanted])


def survive(name: str, seed: int = 7) -> dict[str, Any]:
    """One of HOLES on 5.13: what it answered, whether the calling process lives, and what the kernel logged about a bug."""
    with Host(design=designs.LINUX_5_13, seed=seed, memory=1 << 30) as host:
        said = HOLES[name](host)
        lives = "qemu" in host.processes and not host.processes["qemu"].dead
        return {"answer": said, "process lives": lives, "log": [line for line in host.dmesg if "BUG" in line]}
