"""The VMSA: where an SEV-ES vCPU's registers lie, and what they are before it starts.

Source: firmware.md 5.1 and 5.2. The page is measured as KVM hands it over; the
firmware writes its own two fields afterwards.
"""

from __future__ import annotations

from typing import Annotated

from sevlab.wire import Wire, u8, u16, u32, u64

BSP_EIP = 0xFFFFFFF0  # the reset vector


class Segment(Wire):
    """A segment register as VMCB and VMSA store it."""

    selector: u16 = 0                    # 0x00
    attrib: u16 = 0                      # 0x02
    limit: u32 = 0                       # 0x04
    base: u64 = 0                        # 0x08


class Vmsa(Wire):
    """The save area, one page; used up to 0x66F."""

    es: Segment = Segment()              # 0x000
    cs: Segment = Segment()              # 0x010
    ss: Segment = Segment()              # 0x020
    ds: Segment = Segment()              # 0x030
    fs: Segment = Segment()              # 0x040
    gs: Segment = Segment()              # 0x050
    gdtr: Segment = Segment()            # 0x060
    ldtr: Segment = Segment()            # 0x070
    idtr: Segment = Segment()            # 0x080
    tr: Segment = Segment()              # 0x090
    vmpl0_ssp: u64 = 0                   # 0x0A0
    vmpl1_ssp: u64 = 0                   # 0x0A8
    vmpl2_ssp: u64 = 0                   # 0x0B0
    vmpl3_ssp: u64 = 0                   # 0x0B8
    u_cet: u64 = 0                       # 0x0C0
    reserved: Annotated[bytes, 2] = b""  # 0x0C8
    vmpl: u8 = 0                         # 0x0CA
    cpl: u8 = 0                          # 0x0CB
    reserved2: Annotated[bytes, 4] = b"" # 0x0CC
    efer: u64 = 0                        # 0x0D0
    reserved3: Annotated[bytes, 104] = b""# 0x0D8
    xss: u64 = 0                         # 0x140
    cr4: u64 = 0                         # 0x148
    cr3: u64 = 0                         # 0x150
    cr0: u64 = 0                         # 0x158
    dr7: u64 = 0                         # 0x160
    dr6: u64 = 0                         # 0x168
    rflags: u64 = 0                      # 0x170
    rip: u64 = 0                         # 0x178
    dr0: u64 = 0                         # 0x180
    dr1: u64 = 0                         # 0x188
    dr2: u64 = 0                         # 0x190
    dr3: u64 = 0                         # 0x198
    dr0_addr_mask: u64 = 0               # 0x1A0
    dr1_addr_mask: u64 = 0               # 0x1A8
    dr2_addr_mask: u64 = 0               # 0x1B0
    dr3_addr_mask: u64 = 0               # 0x1B8
    reserved4: Annotated[bytes, 24] = b""# 0x1C0
    rsp: u64 = 0                         # 0x1D8
    s_cet: u64 = 0                       # 0x1E0
    ssp: u64 = 0                         # 0x1E8
    isst_addr: u64 = 0                   # 0x1F0
    rax: u64 = 0                         # 0x1F8
    star: u64 = 0                        # 0x200
    lstar: u64 = 0                       # 0x208
    cstar: u64 = 0                       # 0x210
    sfmask: u64 = 0                      # 0x218
    kernel_gs_base: u64 = 0              # 0x220
    sysenter_cs: u64 = 0                 # 0x228
    sysenter_esp: u64 = 0                # 0x230
    sysenter_eip: u64 = 0                # 0x238
    cr2: u64 = 0                         # 0x240
    reserved5: Annotated[bytes, 32] = b""# 0x248
    g_pat: u64 = 0                       # 0x268
    dbgctl: u64 = 0                      # 0x270
    br_from: u64 = 0                     # 0x278
    br_to: u64 = 0                       # 0x280
    lastexcpfrom: u64 = 0                # 0x288
    lastexcpto: u64 = 0                  # 0x290
    reserved6: Annotated[bytes, 80] = b""# 0x298
    pkru: u32 = 0                        # 0x2E8
    tsc_aux: u32 = 0                     # 0x2EC
    guest_tsc_scale: u64 = 0             # 0x2F0
    guest_tsc_offset: u64 = 0            # 0x2F8
    reg_prot_nonce: u64 = 0              # 0x300
    rcx: u64 = 0                         # 0x308
    rdx: u64 = 0                         # 0x310
    rbx: u64 = 0                         # 0x318
    reserved7: Annotated[bytes, 8] = b"" # 0x320
    rbp: u64 = 0                         # 0x328
    rsi: u64 = 0                         # 0x330
    rdi: u64 = 0                         # 0x338
    r8: u64 = 0                          # 0x340
    r9: u64 = 0                          # 0x348
    r10: u64 = 0                         # 0x350
    r11: u64 = 0                         # 0x358
    r12: u64 = 0                         # 0x360
    r13: u64 = 0                         # 0x368
    r14: u64 = 0                         # 0x370
    r15: u64 = 0                         # 0x378
    fw_zeroed: u64 = 0                   # 0x380  the firmware's own: zeroed after the measurement
    fw_crc_block: u64 = 0                # 0x388  the firmware's own: where its checksum lies
    guest_exit_info_1: u64 = 0           # 0x390
    guest_exit_info_2: u64 = 0           # 0x398
    guest_exit_int_info: u64 = 0         # 0x3A0
    guest_nrip: u64 = 0                  # 0x3A8
    sev_features: u64 = 0                # 0x3B0
    vintr_ctrl: u64 = 0                  # 0x3B8
    guest_exit_code: u64 = 0             # 0x3C0
    virtual_tom: u64 = 0                 # 0x3C8
    tlb_id: u64 = 0                      # 0x3D0
    pcpu_id: u64 = 0                     # 0x3D8
    event_inj: u64 = 0                   # 0x3E0
    xcr0: u64 = 0                        # 0x3E8
    reserved8: Annotated[bytes, 16] = b""# 0x3F0
    x87_dp: u64 = 0                      # 0x400
    mxcsr: u32 = 0                       # 0x408
    ftw: u16 = 0                         # 0x40C
    fsw: u16 = 0                         # 0x40E
    fcw: u16 = 0                         # 0x410
    fop: u16 = 0                         # 0x412
    x87_ds: u16 = 0                      # 0x414
    x87_cs: u16 = 0                      # 0x416
    x87_rip: u64 = 0                     # 0x418
    fpreg_x87: Annotated[bytes, 80] = b""# 0x420
    fpreg_xmm: Annotated[bytes, 256] = b""# 0x470
    fpreg_ymm: Annotated[bytes, 256] = b""# 0x570
    reserved9: Annotated[bytes, 2448] = b""# 0x670


def signature(family: int, model: int, stepping: int) -> int:
    """What CPUID 1 has in EAX for a processor, and a fresh vCPU in RDX.

    Raises ValueError for numbers that its fields cannot hold.
    """
    if not (0 <= family <= 0x10E and 0 <= model <= 0xFF and 0 <= stepping <= 0xF):
        raise ValueError(
            f"a processor's family is at most {0x10E}, its model {0xFF}, its stepping {0xF}: not {family}, {model}, {stepping}"
        )
    base = min(family, 15)
    return (family - base) << 20 | (model >> 4) << 16 | base << 8 | (model & 15) << 4 | stepping


# QEMU's CPU models, as people who predict a measurement name them.
CPU_SIGNATURES = {
    "EPYC": signature(23, 1, 2),
    "EPYC-v1": signature(23, 1, 2),
    "EPYC-v2": signature(23, 1, 2),
    "EPYC-IBPB": signature(23, 1, 2),
    "EPYC-v3": signature(23, 1, 2),
    "EPYC-v4": signature(23, 1, 2),
    "EPYC-Rome": signature(23, 49, 0),
    "EPYC-Rome-v1": signature(23, 49, 0),
    "EPYC-Rome-v2": signature(23, 49, 0),
    "EPYC-Rome-v3": signature(23, 49, 0),
    "EPYC-Milan": signature(25, 1, 1),
    "EPYC-Milan-v1": signature(25, 1, 1),
    "EPYC-Milan-v2": signature(25, 1, 1),
    "EPYC-Genoa": signature(25, 17, 0),
    "EPYC-Genoa-v1": signature(25, 17, 0),
    "EPYC-Turin": signature(26, 0, 0),
    "EPYC-Turin-v1": signature(26, 0, 0),
}

VARIANTS = ("legacy", "init2")
VMMS = ("qemu", "ec2", "gce")


def initial_vmsa(eip: int, *, signature: int, variant: str = "legacy", vmm: str = "qemu", sev_features: int = 0) -> Vmsa:
    """The registers of a vCPU that will start at `eip`.

    `signature` is CPUID 1.EAX. `variant` says how the VM was made: "legacy" by
    KVM_SEV_ES_INIT, whose FPU registers are not measured, "init2" by
    KVM_SEV_INIT2. `vmm` is "qemu", or a cloud whose VMM begins differently:
    "ec2", "gce". Raises ValueError for any other name.
    """
    if variant not in VARIANTS or vmm not in VMMS:
        raise ValueError(f"variant is one of {', '.join(VARIANTS)} and vmm one of {', '.join(VMMS)}, not {variant!r} and {vmm!r}")
    ec2 = vmm == "ec2"
    vmsa = Vmsa(efer=0x1000, cr4=0x40, cr0=0x10, dr7=0x400, dr6=0xFFFF0FF0, rflags=0x2, rip=eip & 0xFFFF, xcr0=1)
    for name in ("es", "ds", "fs", "gs"):
        setattr(vmsa, name, Segment(attrib=0x93, limit=0xFFFF))
    vmsa.ss = Segment(attrib=0x92 if ec2 else 0x93, limit=0xFFFF)
    vmsa.cs = Segment(0xF000, 0x9A if ec2 and eip == BSP_EIP else 0x9B, 0xFFFF, eip & 0xFFFF0000)
    vmsa.gdtr = Segment(limit=0xFFFF)
    vmsa.idtr = Segment(limit=0xFFFF)
    vmsa.ldtr = Segment(attrib=0x82, limit=0xFFFF)
    vmsa.tr = Segment(attrib=0x83 if ec2 else 0x8B, limit=0xFFFF)
    vmsa.g_pat = 0x70106 if vmm == "gce" else 0x0007040600070406
    vmsa.rdx = signature if vmm == "qemu" else 0x600
    vmsa.sev_features = sev_features
    if variant == "init2" and vmm == "qemu":
        vmsa.mxcsr, vmsa.fcw = 0x1F80, 0x037F
    return vmsa


def vmsa_page(eip: int, *, signature: int, variant: str = "legacy", vmm: str = "qemu", sev_features: int = 0) -> bytes:
    """The page of `initial_vmsa`: 4096 bytes, as they are measured."""
    return initial_vmsa(eip, signature=signature, variant=variant, vmm=vmm, sev_features=sev_features).pack()
