"""Several processors of an SEV-ES guest: attested, started, parked, called through the table; and hosts that lie about it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import judges
import pytest

from sevlab import Host, designs, owner, vmm
from sevlab.abi import boot
from sevlab.abi.ghcb import GHCB_MSR_AP_RESET_HOLD_REQ, GHCB_MSR_INFO_MASK
from sevlab.abi.kvm import KVM_GET_MP_STATE, KVM_NMI, KVM_SET_MP_STATE, kvm_mp_state
from sevlab.guest import firmware_image, smp
from sevlab.guest.ghcb import by_msr, cpuid_by_msr, open_ghcb
from sevlab.guest.smp import GHCBS, TOPOLOGY, hold
from sevlab.hw.isa import hlt, program, store
from sevlab.kvm import ap
from sevlab.kvm.ap import SipiDelivered
from sevlab.kvm.lapic import INIT_MODE, STARTUP, Lapic
from sevlab.kvm.mp_state import MpState

PRESETS = list(designs.DESIGNS.values())
HALTED, HOLD = 3, 9
PARKED = {"posted": HALTED}  # what KVM_GET_MP_STATE says of a parked AP; HOLD on every other design
DEATH = "SYSTEM_EVENT"


@pytest.fixture
def hosts() -> Iterator[Any]:
    made: list[Host] = []

    def make(design: designs.Design = designs.LINUX_6_1) -> Host:
        made.append(Host("rome", design, seed=4))
        return made[-1]

    yield make
    for host in made:
        host.close()


def image() -> bytes:
    """Debian's OVMF where it is installed, else the course's image: the reset block is at the same address."""
    return judges.OVMF.read_bytes() if judges.OVMF.is_file() else firmware_image()


def launch(host: Host, vcpus: int = 4, **how: Any) -> vmm.Vm:
    how = {"firmware": image(), "program": smp.smp_firmware, "args": (vcpus,), "policy": 5, "irqchip": True} | how
    vm = vmm.launch(host, vcpus=vcpus, **how)
    vm.finish()
    return vm


def states(vm: vmm.Vm) -> list[int]:
    found = []
    for vcpu in vm.vcpus:
        state = kvm_mp_state()
        vcpu.ioctl(KVM_GET_MP_STATE, state)
        found.append(state.mp_state)
    return found


def done(vcpus: int, times: int = 1 + smp.ROUNDS) -> tuple[int, bytes]:
    """What the OS leaves in the mailbox when every AP has been at work so often."""
    return boot.ANSWER, b"\0" + bytes([times]) * (vcpus - 1)


# ------------------------------------------------------------------ the story


@pytest.mark.parametrize("design", PRESETS, ids=lambda design: design.name)
def test_four_processors_start_park_work_and_park_again_on_every_design(hosts: Any, design: designs.Design) -> None:
    host = hosts(design)
    vm = launch(host)
    last = vm.run()

    parked = PARKED.get(design.name, HOLD)
    assert (last.name, vm.answer(), states(vm)) == ("INTR", done(4), [HALTED, parked, parked, parked])
    of_one = [row["state"] for row in host.trace.rows(MpState) if row["vcpu"] == 2]
    assert of_one == [2, 0, parked] * 3  # INIT, SIPI, hold: started once, called twice
    firsts = [row["first"] for row in host.trace.rows(SipiDelivered) if row["vcpu"] == 2]
    assert firsts == [1, 0, 0]  # the second SIPI of each pair finds it running


def test_the_vector_of_a_sipi_means_nothing_to_a_sealed_processor(hosts: Any) -> None:
    host = hosts()
    vm = launch(host)
    vm.run()

    starts = [row for row in host.trace.rows() if row["kind"] == "Fetched" and row["program"] == "ap_reset"]
    assert [row["gpa"] for row in starts] == [boot.RESET_BLOCK] * 3
    assert {row["vector"] for row in host.trace.rows(SipiDelivered)} == {0}


@pytest.mark.parametrize("vcpus", [1, 2, 64])
def test_any_number_of_processors_does_the_same(hosts: Any, vcpus: int) -> None:
    vm = launch(hosts(), vcpus)
    vm.run()

    assert vm.answer() == done(vcpus)


def test_libvirts_tool_trusts_the_guest_that_then_boots_its_aps(hosts: Any, ovmf_path: Path, tmp_path: Path) -> None:
    """virt-qemu-sev-validate of Debian's libvirt-clients-qemu judges the measurement: exit status 0."""
    host = hosts()
    session = owner.new_session(host.chain()["pdh"], 5, seed=9)
    vm = vmm.launch(
        host, firmware=ovmf_path.read_bytes(), program=smp.smp_firmware, args=(4,), policy=5, vcpus=4, irqchip=True, session=session
    )
    keys = tmp_path / "tk"
    keys.write_bytes(session.tek + session.tik)
    chip = host.chip
    options = {
        "measurement": b64encode(vm.measurement).decode(), "firmware": ovmf_path, "tk": keys, "policy": 5,
        "api-major": 0, "api-minor": 24, "build-id": 15, "num-cpus": 4,
        "cpu-family": chip.family, "cpu-model": chip.model, "cpu-stepping": chip.stepping,
    }  # fmt: skip
    verdict = judges.virt_qemu_sev_validate([word for name, value in options.items() for word in (f"--{name}", str(value))])
    vm.finish()
    vm.run()

    assert verdict.returncode == 0, verdict.stderr
    assert vm.answer() == done(4)


def test_the_courses_own_image_has_its_reset_block_at_the_same_address(hosts: Any) -> None:
    vm = launch(hosts(), firmware=firmware_image())
    vm.run()

    assert vm.answer() == done(4)


def test_a_run_that_is_made_twice_gives_the_same_rows(hosts: Any) -> None:
    def rows(host: Host) -> list[dict[str, Any]]:
        launch(host).run()
        return host.trace.rows(MpState, SipiDelivered)

    assert rows(hosts()) == rows(hosts())


# ------------------------------------------------------------------ without an irqchip


@pytest.mark.parametrize(
    ("design", "name"), [(designs.POSTED, "HLT"), (designs.LINUX_6_1, "AP_RESET_HOLD")], ids=["posted", "merged"]
)
def test_user_space_with_the_apics_is_told_of_a_hold_and_cannot_complete_it(hosts: Any, design: designs.Design, name: str) -> None:
    @program(vc=smp.on_vc)
    async def holds() -> None:
        await open_ghcb(GHCBS)
        wakes = 0
        while not await hold(GHCBS):
            wakes += 1
            await store(0x2000, bytes([wakes]), c=False)

    vm = vmm.launch(hosts(design), program=holds, policy=5)
    vm.finish()

    assert [vm.run().name for _ in range(3)] == [name] * 3
    assert vm.read(0x2000, 1) == b"\2" and states(vm) == [0]  # run again, it finds that nothing has come


# ------------------------------------------------------------------ the MSR protocol


@program
async def holds_by_msr() -> None:
    number = (await cpuid_by_msr(TOPOLOGY))[3]
    for turn in range(4):
        response = await by_msr(GHCB_MSR_AP_RESET_HOLD_REQ)
        await store(0x2000 + 64 * number + 16 * turn, response.to_bytes(8, "little"), c=False)
    while True:
        await hlt()


def test_a_hold_by_the_msr_protocol_is_completed_by_its_result(hosts: Any) -> None:
    host = hosts(designs.LINUX_6_12)
    vm = vmm.launch(host, program=holds_by_msr, policy=5, irqchip=True)
    vm.finish()
    vcpu, lapic = vm.vcpus[0], kernel_vcpu(host, vm, 0)
    vm.run()
    assert states(vm) == [HOLD] and lapic.ap_reset_hold_type == ap.MSR_PROTOCOL

    vcpu.ioctl(KVM_NMI)
    vm.run()
    lapic.received_first_sipi = True
    vcpu.ioctl(KVM_SET_MP_STATE, kvm_mp_state(4))  # a SIPI that waits
    vm.run()

    answers = [int.from_bytes(vm.read(0x2000 + 16 * turn, 8), "little") for turn in range(2)]
    assert answers == [0x007, 0x1007]  # an NMI is no SIPI


@pytest.mark.parametrize(
    "design", [design for design in PRESETS if design is not designs.LINUX_6_12], ids=lambda design: design.name
)
def test_kernels_that_do_not_know_that_request_leave_it_where_it_is(hosts: Any, design: designs.Design) -> None:
    vm = vmm.launch(hosts(design), program=holds_by_msr, policy=5, irqchip=True)
    vm.finish()
    vm.run()

    answers = [int.from_bytes(vm.read(0x2000 + 16 * turn, 8), "little") & GHCB_MSR_INFO_MASK for turn in range(4)]
    assert answers == [GHCB_MSR_AP_RESET_HOLD_REQ] * 4 and states(vm) == [HALTED]


# ------------------------------------------------------------------ hosts that lie


def kernel_vcpu(host: Host, vm: vmm.Vm, number: int) -> Any:
    return host.kernel.vm_of(vm.process, vm.fd).vcpus[number]


def set_info(vm: vmm.Vm, number: int, info_1: int, info_2: int) -> None:
    """What any VMM can do: the GHCB is memory of its own process."""
    at = smp.GHCBS + number * smp.PAGE
    vm.write(at + 0x398, info_1.to_bytes(8, "little") + info_2.to_bytes(8, "little"))


@pytest.mark.parametrize("turns", [1, 5])
def test_an_interrupt_that_wakes_a_parked_ap_changes_nothing(hosts: Any, turns: int) -> None:
    vm = launch(hosts())
    vm.run()
    for _ in range(turns):
        for vcpu in vm.vcpus[1:]:
            vcpu.ioctl(KVM_NMI)
        vm.run()

    assert (vm.answer(), states(vm)) == (done(4), [HALTED, HOLD, HOLD, HOLD])


def test_a_call_that_nobody_in_the_guest_has_made_ends_it(hosts: Any) -> None:
    host = hosts()
    vm = launch(host)
    vm.run()
    vm.vcpus[2].ioctl(KVM_NMI)
    set_info(vm, 2, 0, 1)  # the hold is completed, says the host
    last = vm.run()

    assert (last.vcpu, last.name) == (2, DEATH)
    assert host.dmesg[-1] == f"SEV-ES guest requested termination: {smp.LIES:#x}:{smp.FALSE_CALL:#x}"


def test_an_init_sipi_that_the_host_makes_up_ends_it_too(hosts: Any) -> None:
    host = hosts()
    vm = launch(host)
    vm.run()
    for message in (INIT_MODE, STARTUP):
        kernel_vcpu(host, vm, 3).lapic.accept(message)

    assert (vm.run().name, host.dmesg[-1][-7:]) == (DEATH, "0x3:0x2")


TABLES = {
    "none": 0,
    "shared memory": 0x2000,
    "its own private data": smp.DONE,
    "one page off": smp.JUMP_TABLE + 0x1000,
    "nowhere": 1 << 50,
}


@pytest.mark.parametrize("place", TABLES)
def test_a_table_that_is_not_the_firmwares_ends_the_guest(hosts: Any, place: str) -> None:
    host = hosts()
    vm = launch(host)
    sev, gpa = host.kernel.vm_of(vm.process, vm.fd).sev, TABLES[place]

    class Liar:  # a kernel that keeps another address than it was told
        def __get__(self, *_: Any) -> int:
            return gpa

        def __set__(self, *_: Any) -> None:
            pass

    kind = type("Sev", (type(sev),), {"ap_jump_table": Liar(), "__slots__": ()})
    sev.__class__ = kind
    last = vm.run()

    assert (last.vcpu, last.name) == (0, DEATH)
    assert host.dmesg[-1] == f"SEV-ES guest requested termination: {smp.LIES:#x}:{smp.FOREIGN_TABLE:#x}"


@pytest.mark.parametrize(("info_1", "info_2"), [(1, 0x8000_030E), (1, 0x8000_031D), (1, 0x30D), (2, 4), (1, 0x8000_020D), (7, 0)])
def test_an_exception_that_no_host_may_ask_for_ends_the_guest(hosts: Any, info_1: int, info_2: int) -> None:
    host = hosts()
    vm = launch(host)
    vm.run()
    vm.vcpus[1].ioctl(KVM_NMI)
    set_info(vm, 1, info_1, info_2)
    last = vm.run()

    assert (last.vcpu, last.name) == (1, DEATH) and "0x0:0x0" in host.dmesg[-1]


def test_a_table_written_over_by_the_host_leads_nowhere(hosts: Any) -> None:
    host = hosts(designs.LINUX_6_12)
    vm = launch(host)
    vm.run()
    vm.write(smp.JUMP_TABLE, b"\0\0\0\0" * 4)  # ciphertext that decrypts to noise
    kernel = host.kernel.vm_of(vm.process, vm.fd)
    hpa = kernel.npt.translate(smp.CALLED)
    plain = bytes([smp.ROUNDS + 1]) * 4
    host.soc.engine.write(kernel.sev.asid, hpa, plain)  # as if the OS called once more
    for message in (INIT_MODE, STARTUP):
        kernel.vcpus[1].lapic.accept(message)

    assert vm.run().name in ("SHUTDOWN", "INTERNAL_ERROR")


def test_what_no_guest_can_notice_is_that_it_is_never_woken(hosts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ES gives a guest no way to know how long it has been held: a parked AP whose SIPI was dropped says nothing."""
    host = hosts()
    vm = launch(host)
    accept = Lapic.accept
    monkeypatch.setattr(
        Lapic, "accept", lambda lapic, icr: lapic.id != 1 and accept(lapic, icr)
    )  # a host that drops one AP's messages
    last = vm.run()

    assert last.name == "INTR" and vm.answer() == (0, b"")
    assert states(vm)[:2] == [HALTED, 1] and "waits" in str(last.detail)
