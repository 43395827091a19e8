"""The vCPU fd of KVM's user interface: ioctl numbers, register files, kvm_run.

Source: kvm.md A2, A3 and G7, under the kernel's own names.
"""

from __future__ import annotations

from typing import Annotated

from sevlab.wire import Wire, u8, u16, u32, u64

KVM_RUN = 0xAE80
KVM_GET_REGS = 0x8090AE81
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_TRANSLATE = 0xC018AE85
KVM_INTERRUPT = 0x4004AE86
KVM_GET_MSRS = 0xC008AE88
KVM_SET_MSRS = 0x4008AE89
KVM_GET_FPU = 0x81A0AE8C
KVM_SET_FPU = 0x41A0AE8D
KVM_GET_LAPIC = 0x8400AE8E
KVM_SET_LAPIC = 0x4400AE8F
KVM_SET_CPUID2 = 0x4008AE90
KVM_GET_MP_STATE = 0x8004AE98
KVM_SET_MP_STATE = 0x4004AE99
KVM_NMI = 0xAE9A
KVM_SET_GUEST_DEBUG = 0x4048AE9B
KVM_GET_VCPU_EVENTS = 0x8040AE9F
KVM_SET_VCPU_EVENTS = 0x4040AEA0
KVM_GET_DEBUGREGS = 0x8080AEA1
KVM_SET_DEBUGREGS = 0x4080AEA2
KVM_GET_XSAVE = 0x9000AEA4
KVM_SET_XSAVE = 0x5000AEA5
KVM_GET_XCRS = 0x8188AEA6
KVM_SET_XCRS = 0x4188AEA7
KVM_SMI = 0xAEB7
KVM_GET_SREGS2 = 0x8140AECC
KVM_SET_SREGS2 = 0x4140AECD
KVM_GET_STATS_FD = 0xAECE

KVM_MP_STATE_RUNNABLE = 0
KVM_MP_STATE_UNINITIALIZED = 1
KVM_MP_STATE_INIT_RECEIVED = 2
KVM_MP_STATE_HALTED = 3
KVM_MP_STATE_SIPI_RECEIVED = 4
KVM_MP_STATE_STOPPED = 5
KVM_MP_STATE_CHECK_STOP = 6
KVM_MP_STATE_OPERATING = 7
KVM_MP_STATE_LOAD = 8
KVM_MP_STATE_AP_RESET_HOLD = 9
KVM_MP_STATE_SUSPENDED = 10

KVM_SREGS2_FLAGS_PDPTRS_VALID = 1


class kvm_regs(Wire):
    """KVM_GET_REGS, KVM_SET_REGS."""

    rax: u64 = 0                                     # 0x00
    rbx: u64 = 0                                     # 0x08
    rcx: u64 = 0                                     # 0x10
    rdx: u64 = 0                                     # 0x18
    rsi: u64 = 0                                     # 0x20
    rdi: u64 = 0                                     # 0x28
    rsp: u64 = 0                                     # 0x30
    rbp: u64 = 0                                     # 0x38
    r8: u64 = 0                                      # 0x40
    r9: u64 = 0                                      # 0x48
    r10: u64 = 0                                     # 0x50
    r11: u64 = 0                                     # 0x58
    r12: u64 = 0                                     # 0x60
    r13: u64 = 0                                     # 0x68
    r14: u64 = 0                                     # 0x70
    r15: u64 = 0                                     # 0x78
    rip: u64 = 0                                     # 0x80
    rflags: u64 = 0                                  # 0x88


class kvm_segment(Wire):
    """One segment register of kvm_sregs."""

    base: u64 = 0                                    # 0x00
    limit: u32 = 0                                   # 0x08
    selector: u16 = 0                                # 0x0C
    type: u8 = 0                                     # 0x0E
    present: u8 = 0                                  # 0x0F
    dpl: u8 = 0                                      # 0x10
    db: u8 = 0                                       # 0x11
    s: u8 = 0                                        # 0x12
    l: u8 = 0                                        # 0x13  # noqa: E741
    g: u8 = 0                                        # 0x14
    avl: u8 = 0                                      # 0x15
    unusable: u8 = 0                                 # 0x16
    padding: u8 = 0                                  # 0x17


class kvm_dtable(Wire):
    """GDTR or IDTR of kvm_sregs."""

    base: u64 = 0                                    # 0x00
    limit: u16 = 0                                   # 0x08
    padding: Annotated[tuple[int, ...], u16, 3] = (0, 0, 0)  # 0x0A


class kvm_sregs(Wire):
    """KVM_GET_SREGS, KVM_SET_SREGS."""

    cs: kvm_segment = kvm_segment()                  # 0x00
    ds: kvm_segment = kvm_segment()                  # 0x18
    es: kvm_segment = kvm_segment()                  # 0x30
    fs: kvm_segment = kvm_segment()                  # 0x48
    gs: kvm_segment = kvm_segment()                  # 0x60
    ss: kvm_segment = kvm_segment()                  # 0x78
    tr: kvm_segment = kvm_segment()                  # 0x90
    ldt: kvm_segment = kvm_segment()                 # 0xA8
    gdt: kvm_dtable = kvm_dtable()                   # 0xC0
    idt: kvm_dtable = kvm_dtable()                   # 0xD0
    cr0: u64 = 0                                     # 0xE0
    cr2: u64 = 0                                     # 0xE8
    cr3: u64 = 0                                     # 0xF0
    cr4: u64 = 0                                     # 0xF8
    cr8: u64 = 0                                     # 0x100
    efer: u64 = 0                                    # 0x108
    apic_base: u64 = 0                               # 0x110
    interrupt_bitmap: Annotated[tuple[int, ...], u64, 4] = (0, 0, 0, 0)  # 0x118


class kvm_sregs2(Wire):
    """KVM_GET_SREGS2, KVM_SET_SREGS2."""

    cs: kvm_segment = kvm_segment()                  # 0x00
    ds: kvm_segment = kvm_segment()                  # 0x18
    es: kvm_segment = kvm_segment()                  # 0x30
    fs: kvm_segment = kvm_segment()                  # 0x48
    gs: kvm_segment = kvm_segment()                  # 0x60
    ss: kvm_segment = kvm_segment()                  # 0x78
    tr: kvm_segment = kvm_segment()                  # 0x90
    ldt: kvm_segment = kvm_segment()                 # 0xA8
    gdt: kvm_dtable = kvm_dtable()                   # 0xC0
    idt: kvm_dtable = kvm_dtable()                   # 0xD0
    cr0: u64 = 0                                     # 0xE0
    cr2: u64 = 0                                     # 0xE8
    cr3: u64 = 0                                     # 0xF0
    cr4: u64 = 0                                     # 0xF8
    cr8: u64 = 0                                     # 0x100
    efer: u64 = 0                                    # 0x108
    apic_base: u64 = 0                               # 0x110
    flags: u64 = 0                                   # 0x118
    pdptrs: Annotated[tuple[int, ...], u64, 4] = (0, 0, 0, 0)  # 0x120


class kvm_fpu(Wire):
    """KVM_GET_FPU, KVM_SET_FPU."""

    fpr: Annotated[bytes, 128] = b""                 # 0x00
    fcw: u16 = 0                                     # 0x80
    fsw: u16 = 0                                     # 0x82
    ftwx: u8 = 0                                     # 0x84
    pad1: u8 = 0                                     # 0x85
    last_opcode: u16 = 0                             # 0x86
    last_ip: u64 = 0                                 # 0x88
    last_dp: u64 = 0                                 # 0x90
    xmm: Annotated[bytes, 256] = b""                 # 0x98
    mxcsr: u32 = 0                                   # 0x198
    pad2: u32 = 0                                    # 0x19C


class kvm_xsave(Wire):
    """KVM_GET_XSAVE, KVM_SET_XSAVE: the image as the instruction writes it."""

    region: Annotated[bytes, 4096] = b""             # 0x00


class kvm_xcr(Wire):
    """One extended control register."""

    xcr: u32 = 0                                     # 0x00
    reserved: u32 = 0                                # 0x04
    value: u64 = 0                                   # 0x08


class kvm_xcrs(Wire):
    """KVM_GET_XCRS, KVM_SET_XCRS; `xcrs` holds sixteen kvm_xcr."""

    nr_xcrs: u32 = 0                                 # 0x00
    flags: u32 = 0                                   # 0x04
    xcrs: Annotated[bytes, 256] = b""                # 0x08
    padding: Annotated[bytes, 128] = b""             # 0x108


class kvm_debugregs(Wire):
    """KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS."""

    db: Annotated[tuple[int, ...], u64, 4] = (0, 0, 0, 0)  # 0x00
    dr6: u64 = 0                                     # 0x20
    dr7: u64 = 0                                     # 0x28
    flags: u64 = 0                                   # 0x30
    reserved: Annotated[bytes, 72] = b""             # 0x38


class kvm_mp_state(Wire):
    """KVM_GET_MP_STATE, KVM_SET_MP_STATE."""

    mp_state: u32 = 0                                # 0x00


class kvm_vcpu_events(Wire):
    """KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS; the kernel's inner structures are written with an underscore."""

    exception_injected: u8 = 0                       # 0x00
    exception_nr: u8 = 0                             # 0x01
    exception_has_error_code: u8 = 0                 # 0x02
    exception_pending: u8 = 0                        # 0x03
    exception_error_code: u32 = 0                    # 0x04
    interrupt_injected: u8 = 0                       # 0x08
    interrupt_nr: u8 = 0                             # 0x09
    interrupt_soft: u8 = 0                           # 0x0A
    interrupt_shadow: u8 = 0                         # 0x0B
    nmi_injected: u8 = 0                             # 0x0C
    nmi_pending: u8 = 0                              # 0x0D
    nmi_masked: u8 = 0                               # 0x0E
    nmi_pad: u8 = 0                                  # 0x0F
    sipi_vector: u32 = 0                             # 0x10
    flags: u32 = 0                                   # 0x14
    smi_smm: u8 = 0                                  # 0x18
    smi_pending: u8 = 0                              # 0x19
    smi_smm_inside_nmi: u8 = 0                       # 0x1A
    smi_latched_init: u8 = 0                         # 0x1B
    triple_fault_pending: u8 = 0                     # 0x1C
    reserved: Annotated[bytes, 26] = b""             # 0x1D
    exception_has_payload: u8 = 0                    # 0x37
    exception_payload: u64 = 0                       # 0x38


class kvm_lapic_state(Wire):
    """KVM_GET_LAPIC, KVM_SET_LAPIC."""

    regs: Annotated[bytes, 1024] = b""               # 0x00


class kvm_translation(Wire):
    """KVM_TRANSLATE."""

    linear_address: u64 = 0                          # 0x00
    physical_address: u64 = 0                        # 0x08
    valid: u8 = 0                                    # 0x10
    writeable: u8 = 0                                # 0x11
    usermode: u8 = 0                                 # 0x12
    pad: Annotated[bytes, 5] = b""                   # 0x13


class kvm_interrupt(Wire):
    """KVM_INTERRUPT."""

    irq: u32 = 0                                     # 0x00


class kvm_guest_debug(Wire):
    """KVM_SET_GUEST_DEBUG."""

    control: u32 = 0                                 # 0x00
    pad: u32 = 0                                     # 0x04
    debugreg: Annotated[tuple[int, ...], u64, 8] = (0,) * 8  # 0x08


class kvm_msrs(Wire):
    """KVM_GET_MSRS, KVM_SET_MSRS: `nmsrs` of kvm_msr_entry follow."""

    nmsrs: u32 = 0                                   # 0x00
    pad: u32 = 0                                     # 0x04


class kvm_msr_entry(Wire):
    """One MSR."""

    index: u32 = 0                                   # 0x00
    reserved: u32 = 0                                # 0x04
    data: u64 = 0                                    # 0x08


class kvm_cpuid2(Wire):
    """KVM_SET_CPUID2, KVM_GET_SUPPORTED_CPUID: `nent` of kvm_cpuid_entry2 follow."""

    nent: u32 = 0                                    # 0x00
    padding: u32 = 0                                 # 0x04


class kvm_cpuid_entry2(Wire):
    """One CPUID leaf."""

    function: u32 = 0                                # 0x00
    index: u32 = 0                                   # 0x04
    flags: u32 = 0                                   # 0x08
    eax: u32 = 0                                     # 0x0C
    ebx: u32 = 0                                     # 0x10
    ecx: u32 = 0                                     # 0x14
    edx: u32 = 0                                     # 0x18
    padding: Annotated[tuple[int, ...], u32, 3] = (0, 0, 0)  # 0x1C


KVM_RUN_UNION = 32  # offset of the union in kvm_run: where the views below are read


class kvm_run(Wire):
    """The beginning of the page that kernel and VMM share: the fixed part and the union (as bytes)."""

    request_interrupt_window: u8 = 0                 # 0x00
    immediate_exit: u8 = 0                           # 0x01
    padding1: Annotated[bytes, 6] = b""              # 0x02
    exit_reason: u32 = 0                             # 0x08
    ready_for_interrupt_injection: u8 = 0            # 0x0C
    if_flag: u8 = 0                                  # 0x0D
    flags: u16 = 0                                   # 0x0E
    cr8: u64 = 0                                     # 0x10
    apic_base: u64 = 0                               # 0x18
    padding: Annotated[bytes, 256] = b""             # 0x20  the union, by the kernel's name for its widest member


class kvm_run_io(Wire):
    """The union at KVM_EXIT_IO; the data lie `data_offset` bytes into the page."""

    direction: u8 = 0                                # 0x00  0 in, 1 out
    size: u8 = 0                                     # 0x01
    port: u16 = 0                                    # 0x02
    count: u32 = 0                                   # 0x04
    data_offset: u64 = 0                             # 0x08


class kvm_run_mmio(Wire):
    """The union at KVM_EXIT_MMIO."""

    phys_addr: u64 = 0                               # 0x00
    data: Annotated[bytes, 8] = b""                  # 0x08
    len: u32 = 0                                     # 0x10
    is_write: u8 = 0                                 # 0x14


class kvm_run_hypercall(Wire):
    """The union at KVM_EXIT_HYPERCALL."""

    nr: u64 = 0                                      # 0x00
    args: Annotated[tuple[int, ...], u64, 6] = (0,) * 6  # 0x08
    ret: u64 = 0                                     # 0x38
    longmode: u32 = 0                                # 0x40
    pad: u32 = 0                                     # 0x44


class kvm_run_fail_entry(Wire):
    """The union at KVM_EXIT_FAIL_ENTRY."""

    hardware_entry_failure_reason: u64 = 0           # 0x00
    cpu: u32 = 0                                     # 0x08


class kvm_run_internal(Wire):
    """The union at KVM_EXIT_INTERNAL_ERROR."""

    suberror: u32 = 0                                # 0x00
    ndata: u32 = 0                                   # 0x04
    data: Annotated[tuple[int, ...], u64, 16] = (0,) * 16  # 0x08


class kvm_run_system_event(Wire):
    """The union at KVM_EXIT_SYSTEM_EVENT."""

    type: u32 = 0                                    # 0x00
    ndata: u32 = 0                                   # 0x04
    data: Annotated[tuple[int, ...], u64, 16] = (0,) * 16  # 0x08


class kvm_run_memory_fault(Wire):
    """The union at KVM_EXIT_MEMORY_FAULT."""

    flags: u64 = 0                                   # 0x00
    gpa: u64 = 0                                     # 0x08
    size: u64 = 0                                    # 0x10
