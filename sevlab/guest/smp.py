"""More than one processor: messages through the local APIC, and the second processor's part of booting.

Without SEV-ES a SIPI says where a processor starts. With it, an AP always starts at
the address that the firmware's reset block names, which was measured. What runs
there the firmware's BSP has put into private memory; from there the guest's own
jump table, in private memory too, says where to go:

    reset block --> ap: hold --> the table says --> ap_work: work, hold --> ...

Both parts run on every kernel that has SEV-ES, and need the interrupt controllers
in the kernel (KVM_CREATE_IRQCHIP).

    gpa            what                                                    C-bit
    0x0000_8000    where the OS has its APs start: CS 0x0800, IP 0         private
    0x0004_0000    one byte for each processor: what it has done (WORD)    private
    0x0080_A000    the jump table: IP, CS                                  private
    0x0080_B000    the page of the reset block                             private
    0x0100_0000    the OS, which firmware finds where a kernel lies        private
    0x0120_0000    GHCBs, one page for each processor                      shared
"""

from __future__ import annotations

from sevlab.abi.boot import RESET_BLOCK

PAGE = 0x1000
RESET_PAGE = RESET_BLOCK & -PAGE
JUMP_TABLE = RESET_PAGE - PAGE
TRAMPOLINE = 0x8000
DONE = 0x4_0000
GHCBS = 0x0120_0000

MSR_APIC_BASE, X2APIC_ENABLE = 0x1B, 1 << 10
X2APIC_ID, X2APIC_SPIV, X2APIC_EOI, X2APIC_ICR = 0x802, 0x80F, 0x80B, 0x830
OTHERS = 3 << 18  # everybody but the sender
INIT, STARTUP, FIXED = 0x500, 0x600, 0x000
ASSERT = 1 << 14
WAKE_VECTOR = 0x40
