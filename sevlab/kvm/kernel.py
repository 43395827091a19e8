"""The host kernel: what is there once a machine has booted.

Drivers, the pool of key slots, the tree of cgroups, the processes, the devices
one can open and the log. Source: kvm.md C1, C7, I (sev_hardware_setup, ccp's
probe).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from sevlab.abi.kvm import (
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
    KVM_SEV_VMSA_DEBUG_SWAP,
    KVM_X86_SEV_ES_VM,
    KVM_X86_SEV_VM,
)
from sevlab.abi.sev import Cmd
from sevlab.gate import Gate
from sevlab.hw.chips import DEBUG_SWAP, SEV, SEV_ES
from sevlab.hw.soc import Soc
from sevlab.kvm import system
from sevlab.kvm.asid import AsidPool
from sevlab.kvm.call import Calls
from sevlab.kvm.ccp import Ccp
from sevlab.kvm.cgroup import Cgroup
from sevlab.kvm.designs import Design
from sevlab.kvm.fd import File
from sevlab.kvm.frames import Frames
from sevlab.kvm.process import Process
from sevlab.kvm.sev_commands import commands
from sevlab.kvm.sev_dev import SevDev
from sevlab.kvm.tlb import LastRun
from sevlab.kvm.vm import Vm
from sevlab.psp.firmware import Psp
from sevlab.trace import Event, name

if TYPE_CHECKING:
    from sevlab.kvm.designs.absent import Capability

WRITABLE = ("r+", "w", "w+")


class Logged(Event, lane="kvm"):
    """The kernel logged a line."""

    line: name


class Kernel:
    """One booted kernel of the given design.

    `cgroups` maps a path to its misc limits ({"/tenant-a": {"sev": 3}}). What it
    holds: `ccp` (the driver of the secure processor), `asids`, `root_cgroup`,
    `processes` by name, `vms` by number, `devices` by path, `dmesg` (lines),
    `frames`, `calls`. `sev_enabled` and `sev_es_enabled` are kvm_amd's effective
    module parameters.
    """

    soc: Soc
    design: Design

    def __init__(
        self,
        soc: Soc,
        psp: Psp | None,
        design: Design,
        cgroups: Mapping[str, Mapping[str, int]] | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.soc = soc
        self.psp = psp
        self.design = design
        self.name = design.name
        self.trace = soc.trace
        self.gate = Gate(soc.trace) if gate is None else gate
        self.dmesg: list[str] = []
        self.frames = Frames(soc)
        self.calls = Calls(self.gate)
        self.processes: dict[str, Process] = {}
        self.vms: dict[int, Vm] = {}
        self._vm_numbers = 0

        self.ccp = Ccp(soc, self.frames, psp, design.release, self.log)
        self.last_run = LastRun(soc)
        self.asids = AsidPool(soc, lambda: self.ccp.attempt(Cmd.DF_FLUSH), self.log)
        self.sev_commands = commands(design)
        self.capabilities: dict[int, Capability] = {
            KVM_CAP_VM_COPY_ENC_CONTEXT_FROM: design.mirror,
            KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM: design.move,
        }
        self.devices: dict[str, Callable[[Kernel, str], File]] = {
            "/dev/kvm": lambda kernel, mode: system.System(kernel),
            "/dev/sev": lambda kernel, mode: SevDev(kernel.ccp, mode in WRITABLE),
        }
        self._private = 1 << soc.chip.c_bit

        self.ccp.probe()
        self._probe_kvm()
        self.root_cgroup = Cgroup.root(self._capacity(), cgroups or {}, self.log)

    # ------------------------------------------------------------- boot

    def _probe_kvm(self) -> None:
        """Which encrypted guests there can be (sev_hardware_setup)."""
        chip, sev, es = self.soc.chip, self.asids.slots(False), self.asids.slots(True)
        self.sev_enabled = bool(chip.features & SEV and chip.max_asid)
        self.sev_es_enabled = bool(self.sev_enabled and chip.features & SEV_ES and es)
        if chip.features & SEV:
            word = ("enabled" if sev else "unusable") if self.sev_enabled else "disabled"
            self.log(f"SEV {word} (ASIDs {chip.min_asid} - {chip.max_asid})")
        if chip.features & SEV_ES:
            self.log(f"SEV-ES {'enabled' if self.sev_es_enabled else 'disabled'} (ASIDs {min(1, len(es))} - {len(es)})")
        self.vmsa_features = KVM_SEV_VMSA_DEBUG_SWAP if self.sev_es_enabled and chip.features & DEBUG_SWAP else 0

    def _capacity(self) -> dict[str, int]:
        """What the machine offers to its cgroups: slots of each kind."""
        sev = len(self.asids.slots(False)) if self.sev_enabled else 0
        return {"sev": sev, "sev_es": len(self.asids.slots(True)) if self.sev_es_enabled else 0}

    # ------------------------------------------------------------- what others ask of it

    def process(self, name: str, cgroup: str = "/", memlock: int = 64 << 20, caps: Collection[str] = ()) -> Process:
        """A new process. Raises ENOENT for a cgroup that is not there, EINVAL for a name that a live process has."""
        return Process(self, name, cgroup, memlock, caps)

    def log(self, line: str) -> None:
        """One line of dmesg."""
        self.dmesg.append(line)
        self.trace.emit(Logged, line)

    def new_vm(self, vm: Vm) -> int:
        """Enter a VM among the living; its number."""
        self._vm_numbers += 1
        self.vms[self._vm_numbers] = vm
        return self._vm_numbers

    def vm_of(self, process: Process, fd: int) -> Vm:
        """The VM behind a process's descriptor. Raises ValueError when it is none."""
        file = process.task.fget(fd)
        if not isinstance(file, Vm):
            raise ValueError(f"descriptor {fd} of {process.name} is no VM but {file}")
        return file

    def private(self, hpa: int) -> int:
        """A machine address with the C-bit, as the kernel passes guest memory to the firmware."""
        return hpa | self._private

    def needs_init(self, vm_type: int) -> bool:
        """Whether a VM of this type must do INIT2 before anything else."""
        return vm_type in (KVM_X86_SEV_VM, KVM_X86_SEV_ES_VM)

    def extension(self, cap: int) -> int:
        """What KVM_CHECK_EXTENSION answers: 0 for a capability that this kernel does not have."""
        answer: Any = self.capabilities.get(cap)
        return answer.extension if answer is not None else system.extension(self, cap)

    def __repr__(self) -> str:
        return f"<Kernel: {self.name}, {len(self.processes)} processes, {len(self.vms)} VMs>"
