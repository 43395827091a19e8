"""The vCPU file descriptor: KVM_RUN, and what user space may ask and set between two runs.

Source: kvm.md A2, A10, G7, G8 (kvm_vcpu_ioctl, kvm_arch_vcpu_ioctl_run, vcpu_run).
Every ioctl holds the vCPU's mutex, so it waits for a KVM_RUN that is under way.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import E2BIG, EINTR, EINVAL, EIO
from typing import TYPE_CHECKING, Any

from sevlab.abi.kvm import (
    KVM_EXIT_INTR,
    KVM_GET_DEBUGREGS,
    KVM_GET_FPU,
    KVM_GET_MP_STATE,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_UNINITIALIZED,
    KVM_RUN,
    KVM_RUN_UNION,
    KVM_SET_CPUID2,
    KVM_SET_DEBUGREGS,
    KVM_SET_FPU,
    KVM_SET_GUEST_DEBUG,
    KVM_SET_MP_STATE,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    KVM_VCPU_MMAP_SIZE,
    kvm_cpuid2,
    kvm_cpuid_entry2,
    kvm_debugregs,
    kvm_fpu,
    kvm_guest_debug,
    kvm_mp_state,
    kvm_regs,
    kvm_sregs,
)
from sevlab.abi.kvm_vcpu import (
    KVM_GET_MSRS,
    KVM_GET_SREGS2,
    KVM_GET_VCPU_EVENTS,
    KVM_GET_XCRS,
    KVM_GET_XSAVE,
    KVM_SET_MSRS,
    KVM_SET_SREGS2,
    KVM_SET_VCPU_EVENTS,
    KVM_SET_XCRS,
    KVM_SET_XSAVE,
    kvm_msrs,
    kvm_sregs2,
    kvm_vcpu_events,
    kvm_xcrs,
    kvm_xsave,
)
from sevlab.hw.cpu import exits
from sevlab.hw.pages import HOST, VMSA
from sevlab.hw.vmcb import Vmcb
from sevlab.kvm import Row, copy_from_user, irqchip, lapic, mp_state, vcpu_regs, vcpu_state
from sevlab.kvm.backing import Backing
from sevlab.kvm.exits import HANDLERS, LATER, RESUME, TICK, USER
from sevlab.kvm.fd import File, KvmError, need
from sevlab.kvm.irqchip import add_lapic
from sevlab.kvm.lock import Lock, Mutex, Tick
from sevlab.kvm.vmgexit_msr import version_response
from sevlab.trace import Event, u32, u64
from sevlab.wire import Wire

if TYPE_CHECKING:
    from sevlab.kvm.ghcb import Mapped
    from sevlab.kvm.lapic import Lapic
    from sevlab.kvm.task import Task
    from sevlab.kvm.vm import Vm

KVMIO = 0xAE
PAGE = 0x1000
SLICE = 10_000  # instructions of a guest before others may run
ENTRIES = 100  # and how often it may be entered anew before they may, if it waits or resets itself
MAX_CPUID_ENTRIES = 256
SIGNIFICANT_INDEX = 1  # KVM_CPUID_FLAG_SIGNIFCANT_INDEX
DEBUG_ENABLE = 1  # KVM_GUESTDBG_ENABLE
EXIT_REASON, APIC_BASE = slice(8, 12), slice(24, 32)  # of kvm_run
IMMEDIATE_EXIT = 1

# Registers that RDMSR and WRMSR find in the save area, by number.
MSRS = {
    0x174: "sysenter_cs", 0x175: "sysenter_esp", 0x176: "sysenter_eip", 0x277: "g_pat",
    0xC000_0081: "star", 0xC000_0082: "lstar", 0xC000_0083: "cstar", 0xC000_0084: "sfmask", 0xC000_0102: "kernel_gs_base",
}  # fmt: skip
MSR_TSC, MSR_APIC_BASE, MSR_EFER, MSR_FS_BASE, MSR_GS_BASE = 0x10, 0x1B, 0xC000_0080, 0xC000_0100, 0xC000_0101


class VmExit(Event, lane="kvm"):
    """A guest left for its hypervisor: exit code and information, by AMD's numbers."""

    vm: u32
    vcpu: u32
    code: u32
    info_1: u64
    info_2: u64


class Vcpu(File):
    """One vCPU. It keeps its VM; the VM frees it (`destroy`), and not the descriptor's last close.

    `index` is its place in `vm.vcpus`, `id` what KVM_CREATE_VCPU was given. `shared` is kvm_run and
    `pio` the page of port I/O, both mapped by user space. `leaves` is CPUID as user space set it.
    """

    name = "kvm-vcpu"
    lapic: Lapic | None
    mp_state: int
    nmi_pending: bool
    pv_unhalted: bool

    def __init__(self, vm: Vm, vcpu_id: int) -> None:
        super().__init__()
        kernel, sev = vm.kernel, vm.sev
        self._run_pages = Backing(kernel.frames, KVM_VCPU_MMAP_SIZE // PAGE, shared=True, movable=False).hold()
        try:
            self._run_pages.assign(0, KVM_VCPU_MMAP_SIZE // PAGE)
            self.vmsa_pfn = kernel.frames.take_run(1) if sev.es else 0
        except KvmError:
            self._run_pages.drop()
            raise  # ENOMEM
        self.shared, self.pio = self._run_pages.view(0), self._run_pages.view(1)
        if self.vmsa_pfn:
            kernel.soc.pages.mark(self.vmsa_pfn, 1, VMSA, sev.asid)
        self.vm: Vm = vm.get()
        self.id = vcpu_id
        self.index = len(vm.vcpus)
        self.mutex = Mutex(f"vcpu->mutex {vm.number}/{vcpu_id}")
        add_lapic(self)  # lapic, mp_state, nmi_pending, pv_unhalted
        self.guest_state_protected = False
        self.received_first_sipi = False  # SEV-ES: the measured state has been started; this and the next move with the save area
        self.ap_reset_hold_type = 0  # how the guest asked to be held (6.10)
        self.ap_hlt_loop = False  # the same as posted in 2020: it asked
        self.guest_debug = 0
        self.has_run = False
        self.last_cpu = -1  # the processor it was last entered on
        self.leaves: dict[int, Any] = {}
        self._cpuid: bytes = b""
        self.apic_base = vcpu_regs.APIC_BASE | vcpu_regs.APIC_ENABLE | (0 if vcpu_id else vcpu_regs.APIC_BSP)
        self.cr0 = self.cr4 = self.efer = 0
        self.moment: int | None = None  # the RSP that names the guest as it stands
        self.complete: Callable[[Vcpu], int] | None = None  # what the next KVM_RUN finishes first
        self.vmcb = Vmcb(vm.npt, vcpu_regs.reset_state(), asid=sev.asid, sev=sev.active, es=sev.es, vmsa_hpa=self.vmsa_pfn * PAGE)
        vcpu_regs.reset(self)
        self.ghcb: Mapped | None = None  # while a request of an SEV-ES guest is answered
        self.later: Callable[[], int] = lambda: RESUME  # what LATER continues with
        self.guest_dr7, self.xcr0 = 0x400, 1  # as an SEV-ES guest last reported them
        if sev.es:
            self.vmcb.ghcb_gpa = version_response(self)

    # ------------------------------------------------------- as a file

    def ioctl(self, caller: Task, nr: int, arg: int) -> Any:
        need(caller.mm is self.vm.mm and not self.vm.dead, EIO)  # vcpu->kvm->mm != current->mm || vcpu->kvm->vm_dead
        need(nr >> 8 & 0xFF == KVMIO, EINVAL)  # _IOC_TYPE(ioctl) != KVMIO
        return self._locked(caller, nr, arg)

    async def _locked(self, caller: Task, nr: int, arg: int) -> int:
        async with Lock(self.mutex, EINTR):  # EINTR: mutex_lock_killable(&vcpu->mutex)
            if nr == KVM_RUN:
                return await self.run(caller, arg)
            row = IOCTLS.get(nr)
            if row is None:
                raise KvmError(EINVAL)  # no such ioctl
            result: int = row.handler(self, caller, arg)
            return result

    def backing(self) -> Backing:
        return self._run_pages

    def release(self) -> None:
        """The last descriptor is gone. The vCPU stays in its VM; the VM loses one reference."""
        self.vm.put()

    def destroy(self) -> None:
        """The VM is gone: flush and free the save area, free the pages of kvm_run (sev_free_vcpu, kvm_vcpu_destroy)."""
        kernel = self.vm.kernel
        if self.vmcb.vmsa is not None:
            self.vmcb.vmsa.forget()
        if self.vmsa_pfn:
            if kernel.soc.chip.sme_coherent:
                kernel.soc.clflush(self.vmsa_pfn * PAGE, PAGE)
            else:
                kernel.soc.page_flush(self.vmsa_pfn * PAGE, self.vmcb.asid)
            kernel.soc.pages.mark(self.vmsa_pfn, 1, HOST)
            kernel.frames.give(self.vmsa_pfn, 1)
            self.vmsa_pfn = 0
        self.shared.release()
        self.pio.release()
        self._run_pages.drop()

    def vmsa_page(self) -> bytes:
        """The 4,096 bytes that LAUNCH_UPDATE_VMSA measures and encrypts."""
        return vcpu_regs.vmsa_page(self)

    @property
    def xsave(self) -> bytearray:
        """Floating-point and vector registers, as XSAVE writes them."""
        return self.vmcb.xsave

    @property
    def dr7(self) -> int:
        return int(self.vmcb.save.dr7)

    # ------------------------------------------------------- running

    def exit(self, reason: int, detail: Wire | None = None) -> int:
        """Say in kvm_run why user space is asked: USER."""
        self.shared[EXIT_REASON] = reason.to_bytes(4, "little")
        if detail is not None:
            self.shared[KVM_RUN_UNION : KVM_RUN_UNION + detail.SIZE] = detail.pack()
        return USER

    async def run(self, caller: Task, arg: int) -> int:
        """KVM_RUN, with the mutex held: 0 when kvm_run holds an exit (kvm_arch_vcpu_ioctl_run)."""
        need(not arg, EINVAL)  # r = -EINVAL; if (arg) goto out
        self.has_run, self.moment = True, None
        try:
            if self.mp_state == KVM_MP_STATE_UNINITIALIZED:
                await mp_state.start(self, bool(self.shared[IMMEDIATE_EXIT]))  # EINTR, EAGAIN
            if self.complete is not None:
                complete, self.complete = self.complete, None
                if complete(self) == USER:
                    return 0
            need(not self.shared[IMMEDIATE_EXIT], EINTR)  # kvm_run->immediate_exit
            need(not self.vm.sev.need_init, EINVAL)  # sev->need_init: of an SEV type, but no INIT2 yet (svm_vcpu_pre_run)
            return await self._enter(caller)
        except KvmError as no:
            if no.errno == EINTR and not self.shared[IMMEDIATE_EXIT]:
                self.exit(KVM_EXIT_INTR)
            raise
        finally:
            self.shared[APIC_BASE] = self.apic_base.to_bytes(8, "little")  # post_kvm_run_save()

    async def _enter(self, caller: Task) -> int:
        """Enter the guest again and again until an exit is user space's (vcpu_run)."""
        vm, vmcb = self.vm, self.vmcb
        soc = vm.kernel.soc
        trace, handlers, outcome, apic, entries = soc.trace, HANDLERS, RESUME, self.lapic, 0
        while True:
            need(not vm.dead, EIO)  # KVM_REQ_VM_DEAD
            entries += 1
            if not entries % ENTRIES:
                await Tick("the guest wakes or resets itself again and again")
            if apic is not None:
                if self.mp_state == KVM_MP_STATE_RUNNABLE:
                    mp_state.accept_events(self)  # kvm_check_request(KVM_REQ_EVENT)
                if self.mp_state != KVM_MP_STATE_RUNNABLE:
                    await mp_state.block(self)
                    continue
            if self.ghcb is not None:
                self.ghcb.unmap()
            self.ap_reset_hold_type = 0  # sev_es_unmap_ghcb(), whether or not there was one
            if vmcb.sev:
                vm.kernel.last_run.enter(self, vmcb.asid, caller.cpu)  # pre_sev_run()
            for code in exits(soc, vmcb, SLICE):
                if trace.on:
                    trace.emit(VmExit, vm.number, self.id, code & 0xFFFF_FFFF, vmcb.exit_info_1, vmcb.exit_info_2)
                outcome = handlers[code](self)
                if outcome or (apic is not None and apic.pending):  # or the guest sent itself an INIT
                    break
            while outcome == LATER:
                await Tick("between check and use of what the guest's GHCB says")
                outcome = self.later()
            if outcome == USER:
                return 0
            if outcome == TICK:
                await Tick("the guest computes")

    def read_msr(self, number: int) -> int:
        """A model-specific register; KeyError for one that is not there."""
        if number == MSR_TSC:
            return self.vm.kernel.soc.clock.now  # one tick a virtual nanosecond
        if lapic.MSR_BASE <= number < lapic.MSR_END:
            return lapic.read_msr(self, number)
        if number in (MSR_FS_BASE, MSR_GS_BASE):
            return int((self.vmcb.save.fs if number == MSR_FS_BASE else self.vmcb.save.gs).base)
        if number in (MSR_EFER, MSR_APIC_BASE):
            return self.efer if number == MSR_EFER else self.apic_base
        return int(getattr(self.vmcb.save, MSRS[number]))

    def write_msr(self, number: int, value: int) -> None:
        """Set one; KeyError for one that is not there, or may not be set by the guest."""
        if lapic.MSR_BASE <= number < lapic.MSR_END:
            lapic.write_msr(self, number, value)
        elif number == MSR_APIC_BASE:
            lapic.set_base(self, value)
        elif number in (MSR_FS_BASE, MSR_GS_BASE):
            (self.vmcb.save.fs if number == MSR_FS_BASE else self.vmcb.save.gs).base = value
        else:
            setattr(self.vmcb.save, MSRS[number], value)

    def __repr__(self) -> str:
        return f"<Vcpu {self.vm.number}/{self.id}: mp_state {self.mp_state}{', sealed' if self.guest_state_protected else ''}>"


# ------------------------------------------------------------------ ioctls


def set_cpuid2(vcpu: Vcpu, caller: Task, arg: int) -> int:
    """KVM_SET_CPUID2: the leaves that this vCPU's guest will see. Once it has run they may not change."""
    head = copy_from_user(caller, arg, kvm_cpuid2)  # EFAULT
    need(head.nent <= MAX_CPUID_ENTRIES, E2BIG)  # cpuid->nent > KVM_MAX_CPUID_ENTRIES
    table = caller.read(arg + kvm_cpuid2.SIZE, head.nent * kvm_cpuid_entry2.SIZE)  # EFAULT
    need(not vcpu.has_run or table == vcpu._cpuid, EINVAL)  # kvm_vcpu_has_run(vcpu) && the entries differ

    leaves: dict[int, Any] = {}
    for at in range(0, len(table), kvm_cpuid_entry2.SIZE):
        entry = kvm_cpuid_entry2.unpack(table, at)
        values = (entry.eax, entry.ebx, entry.ecx, entry.edx)
        if not entry.flags & SIGNIFICANT_INDEX:
            leaves.setdefault(entry.function, values)
        elif isinstance(leaves.setdefault(entry.function, {}), dict):
            leaves[entry.function].setdefault(entry.index, values)
    vcpu.leaves, vcpu._cpuid = leaves, table
    return 0


def set_guest_debug(vcpu: Vcpu, caller: Task, arg: int) -> int:
    """KVM_SET_GUEST_DEBUG: noted, since a vCPU under debugging cannot be sealed."""
    debug = copy_from_user(caller, arg, kvm_guest_debug)  # EFAULT
    need(not vcpu.guest_state_protected, EINVAL)  # vcpu->arch.guest_state_protected

    vcpu.guest_debug = debug.control if debug.control & DEBUG_ENABLE else 0
    return 0


IOCTLS: dict[int, Row] = {
    KVM_RUN: Row(Vcpu.run, None, "kvm_run's interrupt fields and synced registers are not filled in"),
    KVM_GET_REGS: Row(vcpu_regs.get_regs, kvm_regs, "RSP names a moment of the guest, RIP its program's page"),
    KVM_SET_REGS: Row(vcpu_regs.set_regs, kvm_regs, "RSP and RIP choose what runs; a program's other registers are its own"),
    KVM_GET_SREGS: Row(vcpu_regs.get_sregs, kvm_sregs, "no CR8, no pending interrupt"),
    KVM_SET_SREGS: Row(vcpu_regs.set_sregs, kvm_sregs, "paging modes are checked and have no effect"),
    KVM_GET_SREGS2: Row(vcpu_regs.get_sregs2, kvm_sregs2, "no PDPTRs"),
    KVM_SET_SREGS2: Row(vcpu_regs.set_sregs2, kvm_sregs2, "PDPTRs are checked and have no effect"),
    KVM_GET_FPU: Row(vcpu_state.get_fpu, kvm_fpu, "the state at reset, or what was set"),
    KVM_SET_FPU: Row(vcpu_state.set_fpu, kvm_fpu, "a guest sees it by XSAVE alone"),
    KVM_GET_XSAVE: Row(vcpu_state.get_xsave, kvm_xsave, "x87, SSE and AVX"),
    KVM_SET_XSAVE: Row(vcpu_state.set_xsave, kvm_xsave, "x87, SSE and AVX"),
    KVM_GET_XCRS: Row(vcpu_state.get_xcrs, kvm_xcrs),
    KVM_SET_XCRS: Row(vcpu_state.set_xcrs, kvm_xcrs, "x87, SSE and AVX"),
    KVM_GET_DEBUGREGS: Row(vcpu_state.get_debugregs, kvm_debugregs),
    KVM_SET_DEBUGREGS: Row(vcpu_state.set_debugregs, kvm_debugregs, "no breakpoint ever hits"),
    KVM_GET_MSRS: Row(vcpu_state.get_msrs, kvm_msrs, "a dozen registers"),
    KVM_SET_MSRS: Row(vcpu_state.set_msrs, kvm_msrs, "a dozen registers"),
    KVM_GET_VCPU_EVENTS: Row(vcpu_state.get_vcpu_events, kvm_vcpu_events, "an NMI that waits, nothing else"),
    KVM_SET_VCPU_EVENTS: Row(vcpu_state.set_vcpu_events, kvm_vcpu_events, "an NMI that waits, nothing else"),
    KVM_GET_MP_STATE: Row(mp_state.get_mp_state, kvm_mp_state),
    KVM_SET_MP_STATE: Row(mp_state.set_mp_state, kvm_mp_state, "nothing blocks INIT and SIPI: no SMM, no GIF"),
    KVM_SET_CPUID2: Row(set_cpuid2, kvm_cpuid2),
    KVM_SET_GUEST_DEBUG: Row(set_guest_debug, kvm_guest_debug, "noted only"),
    **irqchip.IOCTLS,
}
