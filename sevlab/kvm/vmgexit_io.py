"""Ports and devices of an SEV-ES guest: IOIO with and without strings, MMIO. User space has them, but for the local APIC.

A plain IN or OUT goes through RAX. Strings and memory accesses lie in the scratch
area, which KVM copies before it looks at it. What user space answers reaches the
guest when KVM_RUN is called again. Source: kvm.md G6 (sev_es_string_io,
kvm_sev_es_outs, kvm_sev_es_ins, kvm_sev_es_mmio_read, kvm_sev_es_mmio_write).
"""

from __future__ import annotations

from errno import EINVAL
from typing import TYPE_CHECKING

from sevlab.abi.ghcb import GHCB_ERR_INVALID_INPUT, IOIO_IN, IOIO_PORT_SHIFT, IOIO_SIZE_SHIFT, IOIO_STR
from sevlab.abi.kvm import KVM_EXIT_MMIO, kvm_run_mmio
from sevlab.kvm import intercepts, lapic
from sevlab.kvm.fd import need
from sevlab.kvm.intercepts import FRAGMENT, RESUME

if TYPE_CHECKING:
    from sevlab.kvm.ghcb import Mapped
    from sevlab.kvm.vcpu import Vcpu

INT_MAX = (1 << 31) - 1
MMIO_LIMIT = 8  # bytes of one access in version 2 of the protocol
UNION = 32  # where in kvm_run an MMIO exit is described


def ioio(vcpu: Vcpu, ghcb: Mapped) -> int:
    """IOIO: one access through RAX, or a string of them through the scratch area."""
    info = ghcb.now.info_1
    size = info >> IOIO_SIZE_SHIFT & 7
    if not size:
        return RESUME  # no operand size: nothing happens (CVE-2026-63940)
    if not info & IOIO_STR:
        return intercepts.ioio(vcpu)
    count = ghcb.now.info_2
    need(count <= INT_MAX, EINVAL)  # svm->vmcb->control.exit_info_2 > INT_MAX
    need(count * size <= INT_MAX, EINVAL)  # check_mul_overflow(count, size, &bytes)
    reading = bool(info & IOIO_IN)
    data = ghcb.map_scratch(count * size, sync=reading)  # EFAULT
    if data is None:
        return RESUME
    return intercepts.string_io(vcpu, data, 0, size, info >> IOIO_PORT_SHIFT & 0xFFFF, reading, lambda vcpu, data: RESUME)


def mmio_read(vcpu: Vcpu, ghcb: Mapped) -> int:
    """MMIO_READ: info1 the address, info2 the length; what comes back lands in the scratch area."""
    return _mmio(vcpu, ghcb, write=False)


def mmio_write(vcpu: Vcpu, ghcb: Mapped) -> int:
    """MMIO_WRITE: the same, from the scratch area."""
    return _mmio(vcpu, ghcb, write=True)


def _mmio(vcpu: Vcpu, ghcb: Mapped, *, write: bool) -> int:
    gpa, size = ghcb.now.info_1, ghcb.now.info_2
    v2 = vcpu.vm.kernel.design.ghcb.v2
    if v2 and not size:
        return RESUME
    if v2 and vcpu.vm.sev.ghcb_version >= 2 and size > MMIO_LIMIT:
        ghcb.error(GHCB_ERR_INVALID_INPUT)
        return RESUME
    data = ghcb.map_scratch(size, sync=not write)  # EFAULT
    if data is None:
        return RESUME
    done = _in_kernel(vcpu, gpa, data, write)
    return _access(vcpu, gpa, data, done, write)


def _in_kernel(vcpu: Vcpu, gpa: int, data: bytearray, write: bool) -> int:
    """Devices of the kernel come first: how many bytes they took (vcpu_mmio_read, vcpu_mmio_write)."""
    done = 0
    while done < len(data):
        n = min(FRAGMENT, len(data) - done)
        if write:
            if not lapic.mmio_write(vcpu, gpa + done, bytes(data[done : done + n])):
                break
        else:
            found = lapic.mmio_read(vcpu, gpa + done, n)
            if found is None:
                break
            data[done : done + n] = found
        done += n
    return done


def _access(vcpu: Vcpu, gpa: int, data: bytearray, done: int, write: bool) -> int:
    """The next piece for user space, or the end (complete_sev_es_emulated_mmio)."""
    if done == len(data):
        return RESUME
    n = min(FRAGMENT, len(data) - done)

    def complete(vcpu: Vcpu) -> int:
        if not write:
            data[done : done + n] = kvm_run_mmio.unpack(vcpu.shared, UNION).data[:n]
        return _access(vcpu, gpa, data, done + n, write)

    vcpu.complete = complete
    piece = bytes(data[done : done + n]).ljust(FRAGMENT, b"\0") if write else bytes(FRAGMENT)
    return vcpu.exit(KVM_EXIT_MMIO, kvm_run_mmio(gpa + done & (1 << 64) - 1, piece, n, int(write)))
