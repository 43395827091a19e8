"""The kernel's sev_migrate_tests, one function a case, from its description in prose (kvm.md H1).

They pass on 6.1 and 6.12, with the quirks as they are. `FAILS` lists which of them a posted design or an older kernel
fails, and why; there the original would skip itself, since KVM_CHECK_EXTENSION answers 0 for capability 206.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EBUSY, EINVAL, EIO
from threading import Thread

import pytest
from selftests.machine import Emulated
from selftests.sev import (
    add_vcpus,
    aux_vm_create,
    bare_vm,
    copy,
    einval,
    free,
    move,
    must_fail,
    raw_sev_ioctl,
    sev_ioctl,
    sev_vm_create,
    status,
)
from sev_rig import Rig

from sevlab.abi.kvm import (
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
    KVM_CHECK_EXTENSION,
    KVM_CREATE_VCPU,
    KVM_ENABLE_CAP,
    KVM_SEV_ES_INIT,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    kvm_enable_cap,
)
from sevlab.kvm import designs
from sevlab.kvm.fd import Oops

Make = Callable[..., Emulated]
KERNELS = ["linux-6.1", "linux-6.1-fixed", "linux-6.12"]
ITERATIONS = 500  # the original makes 10,000; each is one of nine pairs
NR_MAX = 23  # the newest header here: one more than INIT2
MAY_FROM_A_MIRROR = (4, 16, 17, 18)
GUEST = pytest.mark.parametrize("es", [False, True], ids=["SEV", "SEV-ES"])


@pytest.fixture(params=KERNELS)
def machine(request: pytest.FixtureRequest, make_machine: Make) -> Emulated:
    """A machine whose kernel has both capabilities, or the test is skipped, as the original skips itself."""
    machine = make_machine(designs.by_name(request.param))
    for cap in (KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, KVM_CAP_VM_COPY_ENC_CONTEXT_FROM):
        assert machine.ioctl(machine.open("/dev/kvm"), KVM_CHECK_EXTENSION, cap)
    return machine


# ------------------------------------------------------------------ 1


@GUEST
def test_migrate_from(machine: Emulated, es: bool) -> None:
    migrate_from(machine, es)


def migrate_from(machine: Emulated, es: bool) -> None:
    src = sev_vm_create(machine, es)
    dst = [aux_vm_create(machine, True) for _ in range(3)]
    move(machine, dst[0], src)
    move(machine, dst[1], dst[0])
    move(machine, dst[2], dst[1])
    must_fail(EIO, move, machine, src, dst[2])  # the source is dead
    for vm in (src, *dst):
        free(machine, vm)


# ------------------------------------------------------------------ 2


def test_locking_by_threads(machine: Emulated) -> None:
    """Three VMs, three threads, each moves onto its own from all in turn: everything fails, and everybody comes back."""
    vms = [sev_vm_create(machine, False) for _ in range(3)]
    seen: list[set[int]] = [set(), set(), set()]

    def worker(own: int) -> None:
        for turn in range(ITERATIONS):
            try:
                move(machine, vms[own], vms[turn % 3])
                seen[own].add(0)
            except OSError as error:
                seen[own].add(error.errno or 0)

    threads = [Thread(target=worker, args=(own,), daemon=True) for own in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert set().union(*seen) <= {EINVAL, EBUSY}


def test_locking_by_interleaved_calls(machine: Emulated) -> None:
    """The same, step by step: whatever the turns, no schedule of three opposite moves hangs, and some are told EBUSY."""
    vms = [sev_vm_create(machine, False) for _ in range(3)]
    codes: set[int] = set()
    for turn in range(60):
        sources = [vms[(k + 1 + turn % 2) % 3] for k in range(3)]
        caps = [kvm_enable_cap(KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, args=(source, 0, 0, 0)) for source in sources]
        calls = [machine.process.begin(vm, KVM_ENABLE_CAP, cap) for vm, cap in zip(vms, caps, strict=True)]
        for step in range(200):
            call = calls[(step * (1 + turn % 3) + turn // 3 * (step % 5)) % 3]
            call.step()
        for call in calls:
            while call.step() == "runnable":
                pass
        assert all(call.state == "done" for call in calls)
        codes |= {call.error.errno for call in calls if isinstance(call.error, OSError)}  # type: ignore[misc]
    assert codes == {EINVAL, EBUSY}


# ------------------------------------------------------------------ 3


def test_migrate_parameters(machine: Emulated) -> None:
    migrate_parameters(machine)


def migrate_parameters(machine: Emulated) -> None:
    no_vcpu, no_sev = aux_vm_create(machine, False), aux_vm_create(machine, True)
    einval(move, machine, no_vcpu, no_sev)  # needs SEV

    sev, es = sev_vm_create(machine, False), sev_vm_create(machine, True)
    es_novmsa = bare_vm(machine)
    sev_ioctl(machine, es_novmsa, KVM_SEV_ES_INIT)
    machine.vcpus[es_novmsa] = [machine.ioctl(es_novmsa, KVM_CREATE_VCPU, 1)]
    einval(move, machine, sev, es)
    einval(move, machine, es, sev)
    einval(move, machine, no_vcpu, es)  # another number of vCPUs
    einval(move, machine, no_vcpu, es_novmsa)
    for vm in (sev, es, es_novmsa, no_vcpu, no_sev):
        free(machine, vm)


# ------------------------------------------------------------------ 4


@GUEST
def test_mirror(machine: Emulated, es: bool) -> None:
    mirror(machine, es)


def mirror(machine: Emulated, es: bool) -> None:
    src, dst = sev_vm_create(machine, es), aux_vm_create(machine, False)
    copy(machine, dst, src)
    add_vcpus(machine, dst)
    if es:
        sev_ioctl(machine, dst, KVM_SEV_LAUNCH_UPDATE_VMSA)
    for id in range(NR_MAX):
        if id not in MAY_FROM_A_MIRROR:
            einval(raw_sev_ioctl, machine, dst, id)
    status(machine, dst)
    free(machine, src)
    free(machine, dst)


# ------------------------------------------------------------------ 5


def test_mirror_parameters(machine: Emulated) -> None:
    mirror_parameters(machine)


def mirror_parameters(machine: Emulated) -> None:
    sev = sev_vm_create(machine, False)
    with_vcpu, no_vcpu = aux_vm_create(machine, True), aux_vm_create(machine, False)
    einval(copy, machine, sev, sev)
    einval(copy, machine, no_vcpu, with_vcpu)  # the source is not SEV
    einval(copy, machine, with_vcpu, sev)  # the destination has vCPUs
    es = sev_vm_create(machine, True)
    einval(copy, machine, sev, es)
    einval(copy, machine, es, sev)
    for vm in (sev, es, with_vcpu, no_vcpu):
        free(machine, vm)


# ------------------------------------------------------------------ 6


def test_move_copy(machine: Emulated) -> None:
    move_copy(machine)
    if machine.rig.kernel.design.quirks is designs.AS_IS:  # each round moves a mirror out of no cgroup into one, for good
        machine.rig.leaks = {"/": {"sev": 2}}


def move_copy(machine: Emulated) -> None:
    sev = sev_vm_create(machine, False)
    dst, dst2, dst3 = (aux_vm_create(machine, True) for _ in range(3))
    mirror, dst_mirror, dst2_mirror, dst3_mirror = (aux_vm_create(machine, False) for _ in range(4))
    copy(machine, mirror, sev)
    move(machine, dst_mirror, mirror)
    move(machine, dst, sev)
    move(machine, dst2, dst)
    move(machine, dst2_mirror, dst_mirror)
    move(machine, dst3_mirror, dst2_mirror)
    move(machine, dst3, dst2)
    for vm in (dst, sev, dst2, dst3, mirror, dst_mirror, dst2_mirror, dst3_mirror):
        free(machine, vm)

    sev, dst = sev_vm_create(machine, False), aux_vm_create(machine, True)
    mirror, dst_mirror = aux_vm_create(machine, False), aux_vm_create(machine, False)
    copy(machine, mirror, sev)
    move(machine, dst_mirror, mirror)
    move(machine, dst, sev)
    for vm in (mirror, dst_mirror, dst, sev):
        free(machine, vm)


def test_afterwards_every_slot_waits_for_a_flush_and_nothing_is_held(machine: Emulated) -> None:
    """What an emulator can add to the sixth."""
    move_copy(machine)
    rig = machine.rig
    assert rig.kernel.vms == {} and rig.kernel.asids.used() == {} and rig.psp.guests == {}
    assert rig.kernel.asids.counts(False)["reclaimable"] == 2
    as_is = rig.kernel.design.quirks is designs.AS_IS
    assert rig.charges() == ({"/": {"sev": 2}} if as_is else {})
    rig.leaks = rig.charges()


# ------------------------------------------------------------------ who fails them

CASES: dict[str, Callable[[Emulated], None]] = {
    "migrate_from SEV": lambda machine: migrate_from(machine, False),
    "migrate_from SEV-ES": lambda machine: migrate_from(machine, True),
    "migrate parameters": migrate_parameters,
    "mirror SEV": lambda machine: mirror(machine, False),
    "mirror SEV-ES": lambda machine: mirror(machine, True),
    "mirror parameters": mirror_parameters,
    "move_copy": move_copy,
}

# (design, case): how it fails, and why. What is not here passes.
FAILS: dict[tuple[str, str], tuple[type[BaseException], str]] = {
    ("posted", "migrate_from SEV"): (pytest.fail.Exception, "the source still answers, and takes the guest back"),
    ("posted", "migrate_from SEV-ES"): (OSError, "V11 2/5 refuses SEV-ES"),
    ("posted", "mirror SEV"): (OSError, "a 5.13 mirror may not ask for its status"),
    ("posted", "mirror SEV-ES"): (OSError, "a 5.13 mirror of an SEV-ES guest is half copied, and may not seal vCPUs"),
    ("posted", "mirror parameters"): (pytest.fail.Exception, "5.13 takes a destination with vCPUs"),
    ("posted", "move_copy"): (Oops, "V11 walks the list of regions that a 5.13 mirror never initialised"),
    ("linux-5.13", "migrate_from SEV"): (OSError, "there is no MOVE"),
    ("linux-5.13", "migrate_from SEV-ES"): (OSError, "there is no MOVE"),
    ("linux-5.13", "mirror SEV"): (OSError, "a 5.13 mirror may not ask for its status"),
    ("linux-5.13", "mirror SEV-ES"): (OSError, "a 5.13 mirror of an SEV-ES guest is half copied, and may not seal vCPUs"),
    ("linux-5.13", "mirror parameters"): (pytest.fail.Exception, "5.13 takes a destination with vCPUs"),
    ("linux-5.13", "move_copy"): (OSError, "there is no MOVE"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("design", ["posted", "linux-5.13"])
def test_an_older_design_fails_the_cases_that_the_table_lists(design: str, case: str) -> None:
    machine = Emulated(Rig(designs.by_name(design)))  # not balanced: what is left behind is half of what is wrong
    kind, why = FAILS.get((design, case), (None, ""))
    if kind is None:
        CASES[case](machine)
    else:
        with pytest.raises(kind):
            CASES[case](machine)
        assert why


@pytest.mark.parametrize("design", ["posted", "linux-5.13"])
def test_there_the_original_would_skip_itself(make_machine: Make, design: str) -> None:
    machine = make_machine(designs.by_name(design))
    assert machine.ioctl(machine.open("/dev/kvm"), KVM_CHECK_EXTENSION, KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM) == 0
