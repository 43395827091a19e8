"""What every KVM answers: capabilities, descriptors, memory slots, mp_state. With --real also this computer's."""

from __future__ import annotations

from errno import E2BIG, EBADF, EEXIST, EFAULT, EINVAL, EIO, ENOTTY, errorcode

import pytest
from selftests.machine import Machine, Real

from sevlab.abi.kvm import (
    KVM_CAP_ENABLE_CAP_VM,
    KVM_CAP_IMMEDIATE_EXIT,
    KVM_CAP_MP_STATE,
    KVM_CAP_NR_MEMSLOTS,
    KVM_CAP_NR_VCPUS,
    KVM_CAP_USER_MEMORY,
    KVM_CHECK_EXTENSION,
    KVM_CREATE_VCPU,
    KVM_CREATE_VM,
    KVM_ENABLE_CAP,
    KVM_GET_API_VERSION,
    KVM_GET_MP_STATE,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_GET_SUPPORTED_CPUID,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_MEM_READONLY,
    KVM_MP_STATE_HALTED,
    KVM_MP_STATE_RUNNABLE,
    KVM_RUN,
    KVM_SET_MP_STATE,
    KVM_SET_REGS,
    KVM_SET_USER_MEMORY_REGION,
    KVM_USER_MEM_SLOTS,
    kvm_cpuid2,
    kvm_enable_cap,
    kvm_mp_state,
    kvm_regs,
    kvm_sregs,
    kvm_userspace_memory_region,
)

PAGE = 4096
NOWHERE = 0x6EEE_EEEE_E000
UNKNOWN = 0xAEFE  # KVM's letter, and a number that nobody has


def refused(machine: Machine, fd: int, nr: int, arg: object = 0) -> str:
    """The name of what an ioctl is refused with, "" when it is not."""
    try:
        machine.ioctl(fd, nr, arg)  # type: ignore[arg-type]
    except OSError as error:
        return errorcode[error.errno or 0]
    return ""


def make_vm(machine: Machine) -> int:
    fd = machine.ioctl(machine.open("/dev/kvm"), KVM_CREATE_VM, 0)
    return machine.adopt(fd) if isinstance(machine, Real) else fd


def make_vcpu(machine: Machine, vm: int, vcpu_id: int = 0) -> int:
    fd = machine.ioctl(vm, KVM_CREATE_VCPU, vcpu_id)
    return machine.adopt(fd) if isinstance(machine, Real) else fd


# ------------------------------------------------------------------ /dev/kvm


def test_the_version_is_twelve_and_wants_no_argument(machine: Machine) -> None:
    kvm = machine.open("/dev/kvm")
    assert machine.ioctl(kvm, KVM_GET_API_VERSION) == 12
    assert refused(machine, kvm, KVM_GET_API_VERSION, 1) == errorcode[EINVAL]


@pytest.mark.parametrize("cap", [KVM_CAP_MP_STATE, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_USER_MEMORY])
def test_capabilities_that_the_kernels_own_tests_demand(machine: Machine, cap: int) -> None:
    assert machine.ioctl(machine.open("/dev/kvm"), KVM_CHECK_EXTENSION, cap) == 1
    assert machine.ioctl(make_vm(machine), KVM_CHECK_EXTENSION, cap) == 1


def test_counts_that_are_capabilities(machine: Machine) -> None:
    kvm = machine.open("/dev/kvm")
    assert machine.ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_NR_VCPUS) >= 1
    assert machine.ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS) == KVM_USER_MEM_SLOTS


@pytest.mark.parametrize("cap", [0x7FFF, 1 << 31])
def test_an_unknown_capability_is_zero_and_no_error(machine: Machine, cap: int) -> None:
    assert machine.ioctl(machine.open("/dev/kvm"), KVM_CHECK_EXTENSION, cap) == 0
    assert machine.ioctl(make_vm(machine), KVM_CHECK_EXTENSION, cap) == 0


@pytest.mark.parametrize("kind", [63, 64, 1 << 40])
def test_a_vm_type_that_does_not_exist_is_einval(machine: Machine, kind: int) -> None:
    assert refused(machine, machine.open("/dev/kvm"), KVM_CREATE_VM, kind) == errorcode[EINVAL]


def test_a_vcpus_shared_memory_is_whole_pages(machine: Machine) -> None:
    kvm = machine.open("/dev/kvm")
    size = machine.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE)
    assert size and size % PAGE == 0
    assert refused(machine, kvm, KVM_GET_VCPU_MMAP_SIZE, 1) == errorcode[EINVAL]


def test_supported_cpuid_says_when_there_is_no_room(machine: Machine) -> None:
    assert refused(machine, machine.open("/dev/kvm"), KVM_GET_SUPPORTED_CPUID, kvm_cpuid2(nent=0)) == errorcode[E2BIG]


# ------------------------------------------------------------------ descriptors


def test_each_kind_of_descriptor_has_its_answer_to_an_ioctl_that_nobody_has(machine: Machine) -> None:
    vm = make_vm(machine)
    vcpu = make_vcpu(machine, vm)
    assert refused(machine, machine.open("/dev/kvm"), UNKNOWN) == errorcode[EINVAL]
    assert refused(machine, vm, UNKNOWN) == errorcode[ENOTTY]
    assert refused(machine, vcpu, UNKNOWN) == errorcode[EINVAL]


def test_a_closed_descriptor_is_ebadf(machine: Machine) -> None:
    vm = make_vm(machine)
    machine.close(vm)
    assert refused(machine, vm, KVM_CHECK_EXTENSION, KVM_CAP_MP_STATE) == errorcode[EBADF]


def test_an_ioctl_of_another_kind_of_descriptor_is_not_served(machine: Machine) -> None:
    vm = make_vm(machine)
    vcpu = make_vcpu(machine, vm)
    assert refused(machine, vcpu, KVM_CREATE_VCPU, 1) == errorcode[EINVAL]
    assert refused(machine, vm, KVM_RUN) == errorcode[ENOTTY]
    assert refused(machine, machine.open("/dev/kvm"), KVM_GET_REGS, kvm_regs()) == errorcode[EINVAL]


def test_a_vcpu_keeps_its_vm_when_that_is_closed(machine: Machine) -> None:
    vm = make_vm(machine)
    vcpu = make_vcpu(machine, vm)
    machine.close(vm)
    machine.ioctl(vcpu, KVM_GET_REGS, kvm_regs())


def test_a_second_descriptor_of_a_vm_is_the_vm(machine: Machine) -> None:
    vm = make_vm(machine)
    copy = machine.dup(vm)
    make_vcpu(machine, vm, 0)
    assert refused(machine, copy, KVM_CREATE_VCPU, 0) == errorcode[EEXIST]


def test_a_child_may_not_use_its_parents_vm(machine: Machine) -> None:
    vm = make_vm(machine)
    vcpu = make_vcpu(machine, vm)
    assert machine.child_errno(vm, KVM_CHECK_EXTENSION, KVM_CAP_MP_STATE) == EIO
    assert machine.child_errno(vcpu, KVM_GET_REGS, NOWHERE) == EIO
    assert machine.ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_MP_STATE) == 1


# ------------------------------------------------------------------ vCPUs


def test_a_vcpu_id_is_given_once_and_has_a_limit(machine: Machine) -> None:
    vm = make_vm(machine)
    make_vcpu(machine, vm, 3)
    assert refused(machine, vm, KVM_CREATE_VCPU, 3) == errorcode[EEXIST]
    assert refused(machine, vm, KVM_CREATE_VCPU, 1 << 20) == errorcode[EINVAL]


def test_registers_come_back_as_they_were_set(machine: Machine) -> None:
    vcpu = make_vcpu(machine, make_vm(machine))
    regs = kvm_regs(rax=0x1122334455667788, rbx=5, rip=0x1000, rflags=2)
    machine.ioctl(vcpu, KVM_SET_REGS, regs)
    back = kvm_regs()
    machine.ioctl(vcpu, KVM_GET_REGS, back)
    assert (back.rax, back.rbx, back.rip, back.rflags) == (regs.rax, 5, 0x1000, 2)


def test_a_vcpu_begins_at_the_reset_vector(machine: Machine) -> None:
    vcpu = make_vcpu(machine, make_vm(machine))
    regs, sregs = kvm_regs(), kvm_sregs()
    machine.ioctl(vcpu, KVM_GET_REGS, regs)
    machine.ioctl(vcpu, KVM_GET_SREGS, sregs)
    assert (sregs.cs.base + regs.rip) & 0xFFFFFFFF == 0xFFFFFFF0


@pytest.mark.parametrize("nr", [KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_GET_MP_STATE, KVM_SET_MP_STATE])
def test_a_pointer_to_nowhere_is_efault(machine: Machine, nr: int) -> None:
    assert refused(machine, make_vcpu(machine, make_vm(machine)), nr, NOWHERE) == errorcode[EFAULT]


def test_kvm_run_wants_no_argument(machine: Machine) -> None:
    assert refused(machine, make_vcpu(machine, make_vm(machine)), KVM_RUN, 1) == errorcode[EINVAL]


# ------------------------------------------------------------------ mp_state


def test_a_vcpu_without_an_interrupt_controller_is_runnable_and_stays_so(machine: Machine) -> None:
    vcpu = make_vcpu(machine, make_vm(machine))
    state = kvm_mp_state(99)
    machine.ioctl(vcpu, KVM_GET_MP_STATE, state)
    assert state.mp_state == KVM_MP_STATE_RUNNABLE
    machine.ioctl(vcpu, KVM_SET_MP_STATE, kvm_mp_state(KVM_MP_STATE_RUNNABLE))


@pytest.mark.parametrize("state", [KVM_MP_STATE_HALTED, 5, 7, 100, 0xFFFFFFFF])
def test_states_of_an_interrupt_controller_need_one_and_others_do_not_exist(machine: Machine, state: int) -> None:
    vcpu = make_vcpu(machine, make_vm(machine))
    assert refused(machine, vcpu, KVM_SET_MP_STATE, kvm_mp_state(state)) == errorcode[EINVAL]


# ------------------------------------------------------------------ capabilities that are enabled


def test_enabling_nothing_known_or_with_flags_is_einval(machine: Machine) -> None:
    vm = make_vm(machine)
    assert machine.ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_ENABLE_CAP_VM) == 1
    assert refused(machine, vm, KVM_ENABLE_CAP, kvm_enable_cap(0x7FFF)) == errorcode[EINVAL]
    assert refused(machine, vm, KVM_ENABLE_CAP, kvm_enable_cap(KVM_CAP_MP_STATE, flags=1)) == errorcode[EINVAL]
    assert refused(machine, vm, KVM_ENABLE_CAP, NOWHERE) == errorcode[EFAULT]


# ------------------------------------------------------------------ memory slots


def region(hva: int, **changes: int) -> kvm_userspace_memory_region:
    fields = {"slot": 0, "flags": 0, "guest_phys_addr": 0x10000, "memory_size": 2 * PAGE, "userspace_addr": hva} | changes
    return kvm_userspace_memory_region(**fields)


def test_a_slot_is_made_moved_and_deleted(machine: Machine) -> None:
    vm, hva = make_vm(machine), machine.mmap(2 * PAGE)
    for change in ({}, {"guest_phys_addr": 0x20000}, {"memory_size": 0}):
        machine.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region(hva, **change))


@pytest.mark.parametrize(
    "wrong",
    [
        {"slot": KVM_USER_MEM_SLOTS},
        {"memory_size": PAGE + 1},
        {"guest_phys_addr": 0x10001},
        {"userspace_addr": 1},
        {"flags": 1 << 30},
        {"guest_phys_addr": (1 << 64) - PAGE, "memory_size": 2 * PAGE},
        {"slot": 5, "memory_size": 0},
    ],
    ids=["slot", "size", "gpa", "hva", "flags", "wrap", "nothing to delete"],
)
def test_a_slot_that_cannot_be_is_einval(machine: Machine, wrong: dict[str, int]) -> None:
    vm, hva = make_vm(machine), machine.mmap(2 * PAGE)
    wanted = region(hva, **wrong)
    if wrong.get("userspace_addr"):
        wanted.userspace_addr = hva + 1
    assert refused(machine, vm, KVM_SET_USER_MEMORY_REGION, wanted) == errorcode[EINVAL]


@pytest.mark.parametrize("change", [{"memory_size": PAGE}, {"flags": KVM_MEM_READONLY}], ids=["size", "readonly"])
def test_a_slot_cannot_be_changed_in_these(machine: Machine, change: dict[str, int]) -> None:
    vm, hva = make_vm(machine), machine.mmap(2 * PAGE)
    machine.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region(hva))
    assert refused(machine, vm, KVM_SET_USER_MEMORY_REGION, region(hva, **change)) == errorcode[EINVAL]
    assert refused(machine, vm, KVM_SET_USER_MEMORY_REGION, region(hva + PAGE, memory_size=2 * PAGE)) == errorcode[EINVAL]


def test_slots_may_not_overlap(machine: Machine) -> None:
    vm, hva = make_vm(machine), machine.mmap(4 * PAGE)
    machine.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region(hva))
    assert refused(machine, vm, KVM_SET_USER_MEMORY_REGION, region(hva, slot=1, guest_phys_addr=0x11000)) == errorcode[EEXIST]
    machine.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region(hva, slot=1, guest_phys_addr=0x12000))  # the same memory twice may be


def test_a_slot_from_nowhere_is_efault(machine: Machine) -> None:
    assert refused(machine, make_vm(machine), KVM_SET_USER_MEMORY_REGION, NOWHERE) == errorcode[EFAULT]


# ------------------------------------------------------------------ the way to the real one


def test_the_way_to_this_computers_kernel_works_without_kvm() -> None:
    """Memory and errno of the second backend, on a file that is there everywhere."""
    real = Real()
    null = real.open("/dev/null")
    assert refused(real, null, KVM_GET_API_VERSION) == errorcode[ENOTTY]
    regs = kvm_regs(rip=7)
    assert refused(real, real.dup(null), KVM_GET_REGS, regs) == errorcode[ENOTTY] and regs.rip == 7
    at = real.mmap(PAGE)
    real.write(at + 8, regs.pack())
    assert real.get(at + 8, kvm_regs).rip == real.get(real.put(regs), kvm_regs).rip == 7
    real.close(null)
    assert refused(real, null, KVM_GET_API_VERSION) == errorcode[EBADF]
    real.finish()
