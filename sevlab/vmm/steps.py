"""The steps of a launch, one function each, in the order in which QEMU takes them.

Source: firmware.md 2.5. `vmm.launch` takes all of them; a lesson takes them one
at a time.
"""

from __future__ import annotations

from typing import Any

from sevlab.abi import boot, hashes, ovmf
from sevlab.abi.kvm import (
    KVM_CAP_VM_TYPES,
    KVM_CHECK_EXTENSION,
    KVM_CREATE_IRQCHIP,
    KVM_CREATE_VCPU,
    KVM_CREATE_VM,
    KVM_GET_SUPPORTED_CPUID,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_SET_CPUID2,
    KVM_SEV_ES_INIT,
    KVM_SEV_INIT,
    KVM_SEV_INIT2,
    KVM_SEV_LAUNCH_MEASURE,
    KVM_SEV_LAUNCH_START,
    KVM_SEV_LAUNCH_UPDATE_DATA,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    KVM_X86_DEFAULT_VM,
    KVM_X86_SEV_ES_VM,
    KVM_X86_SEV_VM,
    kvm_cpuid2,
    kvm_cpuid_entry2,
    kvm_sev_init,
    kvm_sev_launch_measure,
    kvm_sev_launch_start,
    kvm_sev_launch_update_data,
)
from sevlab.abi.session import Measurement
from sevlab.kvm.process import Process
from sevlab.vmm import ram
from sevlab.vmm.vm import Slot, Vcpu, Vm

FIRMWARE_LIMIT = 16 << 20  # bytes: below it, the space under 4 GiB belongs to devices
CPUID_ENTRIES = 100  # room for the leaves that the kernel offers, and one more
TOPOLOGY = 0xB  # the leaf that names a processor's number on the bus
ENCRYPTION = 0x8000_001F  # the leaf that offers memory encryption, and says where the C-bit is
HOLE = boot.TOP - FIRMWARE_LIMIT


def create_vm(process: Process, *, es: bool = False, legacy: bool = False, shared: bool = False, plain: bool = False) -> Vm:
    """Open the two devices, create a VM and make it an SEV guest.

    Where the kernel has VM types (6.10 and newer) the VM is of such a type and
    KVM_SEV_INIT2 makes it a guest; elsewhere, or with `legacy` (QEMU's
    legacy-vm-type), KVM_SEV_INIT or KVM_SEV_ES_INIT does. The two differ in
    what the registers of an SEV-ES guest measure. `shared`: the guest's memory
    will be a memfd's, which another process can map too. `plain` leaves it an
    ordinary VM, without a key. Raises OSError as the kernel refuses, with
    nothing left open.
    """
    opened: list[int] = []
    try:
        opened.append(kvm := process.open("/dev/kvm"))
        opened.append(sev := process.open("/dev/sev", "r+"))
        kind = KVM_X86_SEV_ES_VM if es else KVM_X86_SEV_VM
        typed = not (plain or legacy) and bool(process.ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES) >> kind & 1)
        vm_type = kind if typed else KVM_X86_DEFAULT_VM
        opened.append(fd := process.ioctl(kvm, KVM_CREATE_VM, vm_type))
        vm = Vm(process, kvm, sev, fd, es=es and not plain)
        vm.vm_type, vm.shared = vm_type, shared
        if plain:
            vm.ram_listeners, vm.encrypted = [], False
        elif typed:
            vm.sev_op(KVM_SEV_INIT2, kvm_sev_init())
        else:
            vm.sev_op(KVM_SEV_ES_INIT if es else KVM_SEV_INIT)
    except OSError:
        for fd in reversed(opened):
            process.close(fd)
        raise
    return vm


def add_memory(vm: Vm, gpa: int, size: int) -> Slot:
    """Map `size` bytes, give them to the guest at `gpa`, and tell the kernel that they may hold ciphertext.

    The last of these pins them: a page under a key may not move (REG_REGION).
    """
    block = ram.add_block(vm, size)
    try:
        slot = ram.show(vm, block, gpa)
    except OSError:
        vm.process.munmap(block.hva, size)
        if block.fd >= 0:
            vm.process.close(block.fd)
        raise
    ram.tell(vm, block, True)
    return slot


def add_firmware(vm: Vm, image: bytes) -> Slot:
    """Map a firmware image so that it ends at 4 GiB, in clear for now.

    Raises ValueError for an image that is empty, above 16 MiB or no whole pages.
    """
    if not 0 < len(image) <= FIRMWARE_LIMIT or len(image) % boot.PAGE:
        raise ValueError(
            f"a firmware image is 1 to {FIRMWARE_LIMIT // boot.PAGE} pages of {boot.PAGE} bytes, this one has {len(image)} bytes"
        )
    vm.firmware = ovmf.parse(image)
    slot = add_memory(vm, boot.TOP - len(image), len(image))
    vm.process.write(slot.hva, image)
    return slot


def add_irqchip(vm: Vm) -> None:
    """Have the kernel keep the interrupt controllers, as QEMU does by default. Only before there is a vCPU."""
    vm.ioctl(KVM_CREATE_IRQCHIP, step="CREATE_IRQCHIP")
    vm.irqchip = True


def add_vcpus(vm: Vm, count: int) -> None:
    """Create vCPUs 0 to count - 1 and map the page that each shares with the kernel."""
    size = vm.process.ioctl(vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0)
    for index in range(count):
        fd = vm.ioctl(KVM_CREATE_VCPU, index, step="CREATE_VCPU")
        vm.vcpus.append(Vcpu(vm.process, index, fd, vm.process.mmap(size, fd=fd)))
        vm.vcpus[-1].started = vm.irqchip or index == 0


def reset_vcpus(vm: Vm) -> None:
    """Give every vCPU the processor that the kernel offers, and the registers that QEMU begins with.

    KVM's own reset leaves segments "not accessed" and another family in RDX;
    an SEV-ES guest's registers are measured, so whoever predicts them must
    know which VMM set them.
    """
    room = kvm_cpuid2(nent=CPUID_ENTRIES).pack() + bytes(CPUID_ENTRIES * kvm_cpuid_entry2.SIZE)
    leaves = vm.process.put(room)
    vm.process.ioctl(vm.kvm, KVM_GET_SUPPORTED_CPUID, leaves)
    table = vm.process.read(leaves, len(room))
    signature = _leaf(table, 1).eax
    for vcpu in vm.vcpus:
        vm.process.write(leaves, _numbered(table, vcpu.index, vm.encrypted))
        vcpu.ioctl(KVM_SET_CPUID2, leaves)
        regs, sregs = vcpu.registers()
        regs.rdx = signature
        for name in ("ds", "es", "fs", "gs", "ss"):
            getattr(sregs, name).type = 3  # data, writable, accessed
        sregs.cs.type = 11  # code, readable, accessed
        sregs.tr.type = 11  # a busy TSS
        vcpu.set_registers(regs, sregs)


def _numbered(table: bytes, number: int, encrypted: bool = True) -> bytes:
    """The leaves of one vCPU: its number on the bus in leaf 1 (eight bits of it) and in leaf 0xB.

    To a guest without a key QEMU does not offer memory encryption, whatever the chip can.
    """
    entries = []
    for index in range(kvm_cpuid2.unpack(table).nent):
        entry = kvm_cpuid_entry2.unpack(table, kvm_cpuid2.SIZE + index * kvm_cpuid_entry2.SIZE)
        if entry.function == 0:
            entry.eax = max(entry.eax, TOPOLOGY)
        elif entry.function == 1:
            entry.ebx |= (number & 0xFF) << 24
        elif entry.function == ENCRYPTION and not encrypted:
            continue
        entries.append(entry)
    entries.append(kvm_cpuid_entry2(TOPOLOGY, edx=number))
    return kvm_cpuid2(len(entries)).pack() + b"".join(entry.pack() for entry in entries)


def _leaf(table: bytes, function: int) -> kvm_cpuid_entry2:
    """One CPUID leaf of a kvm_cpuid2 and its entries; an empty one if it is not there."""
    for index in range(kvm_cpuid2.unpack(table).nent):
        entry = kvm_cpuid_entry2.unpack(table, kvm_cpuid2.SIZE + index * kvm_cpuid_entry2.SIZE)
        if entry.function == function:
            return entry
    return kvm_cpuid_entry2(function)


def point_aps(vm: Vm) -> None:
    """Have every vCPU but the first start where the firmware's reset block says: once sealed, nobody can.

    Raises ValueError when the firmware has no such block.
    """
    eip = vm.firmware.reset_block if vm.firmware else None
    if eip is None:
        raise ValueError("SEV-ES needs a firmware with a reset block in its table; this one has none")
    for vcpu in vm.vcpus[1:]:
        regs, sregs = vcpu.registers()
        regs.rip, sregs.cs.base = eip & 0xFFFF, eip & 0xFFFF0000
        vcpu.set_registers(regs, sregs)


def launch_start(vm: Vm, policy: int, session: Any = None) -> None:
    """LAUNCH_START: a guest context with a fresh key.

    `session` is what the owner sent: an object with .godh and .session, or the
    two as bytes (the owner's Diffie-Hellman certificate, 2084; the session,
    128). Without one, the transport keys are all zero and the policy is
    nobody's promise.
    """
    godh, blob = _parts(session)
    start = kvm_sev_launch_start(policy=policy)
    if godh or blob:
        start.dh_uaddr, start.dh_len = vm.process.put(godh), len(godh)
        start.session_uaddr, start.session_len = vm.process.put(blob), len(blob)
    vm.handle = vm.sev_op(KVM_SEV_LAUNCH_START, start).handle
    vm.policy = policy


def _parts(session: Any) -> tuple[bytes, bytes]:
    """Certificate and session. Raises TypeError for what is neither an owner's session nor the two."""
    if session is None:
        return b"", b""
    pair = (session.godh, session.session) if hasattr(session, "godh") else session
    parts = [part.pack() if hasattr(part, "pack") else part for part in pair] if isinstance(pair, tuple | list) else []
    if len(parts) != 2 or not all(isinstance(part, bytes | bytearray | memoryview) for part in parts):
        text = repr(session)
        raise TypeError(
            "a session is what owner.new_session made, or the pair of the owner's certificate and the session in bytes, "
            f"not {text if len(text) <= 60 else text[:48] + '...'}"
        )
    godh, blob = map(bytes, parts)
    return godh, blob


def update_data(vm: Vm, gpa: int, n: int) -> None:
    """LAUNCH_UPDATE_DATA: measure and encrypt `n` bytes of the guest's memory where they lie."""
    vm.sev_op(KVM_SEV_LAUNCH_UPDATE_DATA, kvm_sev_launch_update_data(uaddr=vm.hva(gpa, n), len=n))


def load_firmware(vm: Vm) -> None:
    """Measure and encrypt the firmware image."""
    assert vm.firmware is not None
    update_data(vm, vm.firmware.gpa, vm.firmware.size)


def load_hashes(vm: Vm, kernel: bytes, initrd: bytes | None = None, append: str | bytes = "", gpa: int | None = None) -> None:
    """Measure the table of hashes of what is booted directly, at the firmware's place for it or at `gpa`.

    Raises ValueError when neither is there: QEMU refuses kernel-hashes=on for such a firmware.
    """
    area = vm.firmware and vm.firmware.hash_area
    table = hashes.kernel_hashes(kernel, initrd, append)
    if gpa is None:
        if not area or area.size < len(table):
            raise ValueError("the firmware has no area for kernel hashes, so a kernel cannot be measured; say where they go")
        gpa = area.base
    vm.write(gpa, table)
    update_data(vm, gpa, len(table))


def place_kernel(vm: Vm, kernel: bytes, initrd: bytes | None = None, append: str | bytes = "") -> None:
    """Put kernel, initrd and command line into the guest's memory, in clear: the firmware fetches and checks them."""
    for gpa, data in boot.placement(kernel, initrd, append):
        vm.write(gpa, data)


def update_vmsas(vm: Vm) -> None:
    """LAUNCH_UPDATE_VMSA: measure and encrypt the registers of every vCPU, in the order of their numbers."""
    vm.sev_op(KVM_SEV_LAUNCH_UPDATE_VMSA)


def launch_measure(vm: Vm) -> bytes:
    """LAUNCH_MEASURE: 32 bytes of MAC and 16 of nonce; from now on nothing can be added but secrets."""
    buffer = vm.process.put(bytes(Measurement.SIZE))
    vm.sev_op(KVM_SEV_LAUNCH_MEASURE, kvm_sev_launch_measure(uaddr=buffer, len=Measurement.SIZE))
    vm.measurement = vm.process.read(buffer, Measurement.SIZE)
    return vm.measurement


def program_image(program: Any, args: tuple[Any, ...] = ()) -> bytes:
    """A firmware image of one page that is `program` itself, with the places of the course's own firmware in its table."""
    places = [ovmf.reset_block(boot.RESET_BLOCK), ovmf.secret_area(*boot.SECRET_AREA), ovmf.hash_area(*boot.HASH_AREA)]
    return ovmf.with_table(program.image(*args), places)
