"""What cannot be launched, said in the caller's words, and nothing left behind."""

from __future__ import annotations

import hashlib
from errno import EBUSY, EINVAL, EIO, ENOMEM

import pytest

from sevlab import Host, designs, guest, owner, vmm
from sevlab.abi import boot, ovmf
from sevlab.abi.boot import MAILBOX as boot_mailbox
from sevlab.abi.boot import answer as boot_answer
from sevlab.abi.kvm import KVM_CAP_VM_TYPES, KVM_CHECK_EXTENSION
from sevlab.abi.sev import Status
from sevlab.hw.isa import hlt, out, program, store

RESET = (ovmf.reset_block(boot.RESET_BLOCK),)
PLACES = (*RESET, ovmf.secret_area(*boot.SECRET_AREA), ovmf.hash_area(*boot.HASH_AREA))


@program
async def other(text):
    await out(0xE9, text)
    await hlt()


@program
async def writes_an_answer(*handed_over):
    await store(boot_mailbox, boot_answer(1, b"booted"), c=False)
    await hlt()


@pytest.fixture
def host():
    with Host("rome", seed=7) as machine:
        yield machine


@pytest.fixture
def session(host):
    def make(policy, seed=1):
        return owner.new_session(host.chain()["pdh"], policy, seed=seed)

    return make


def image(pages=4, entries=PLACES):
    """A firmware image that is nobody's program."""
    body = hashlib.shake_128(b"firmware").digest(pages * 0x1000)
    return ovmf.with_table(body, entries) if entries else body


# ------------------------------------------------------------- what cannot be launched


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({}, "nothing to launch"),
        ({"firmware": b""}, "this one has 0 bytes"),
        ({"firmware": bytes(0x1001)}, "this one has 4097 bytes"),
        ({"firmware": bytes((16 << 20) + 0x1000)}, "1 to 4096 pages"),
        ({"firmware": image(), "vcpus": 0}, "at least one vCPU"),
        ({"firmware": image(), "initrd": b"i"}, "needs a kernel"),
        ({"firmware": image(), "append": "quiet"}, "needs a kernel"),
        ({"firmware": image(entries=()), "policy": 5}, "reset block"),
        ({"firmware": image(entries=()), "kernel": b"k"}, "no area for kernel hashes"),
        ({"firmware": image(entries=(*RESET, ovmf.hash_area(0, 0))), "kernel": b"k"}, "no area for kernel hashes"),
        ({"firmware": image(), "kernel": b"k", "append": "a" * boot.APPEND_LIMIT}, "command line may have"),
        ({"firmware": image(), "memory": 4 << 30}, "reach into the firmware"),
        ({"firmware": image(), "kernel": b"k", "hashes_gpa": 0x9000_0000}, "no memory at"),
    ],
)
def test_what_no_vmm_could_start_is_refused_and_no_process_is_left(host, how, why):
    with pytest.raises(ValueError, match=why):
        vmm.launch(host, **how)

    assert not host.processes and not host.psp.guests


@pytest.mark.parametrize(
    ("spoil", "fw"),
    [
        (lambda godh, blob: (godh[:-1], blob), Status.INVALID_LEN),
        (lambda godh, blob: (godh, blob[:-1]), Status.INVALID_LEN),
        (lambda godh, blob: (godh, blob + b"\0"), Status.INVALID_LEN),
        (lambda godh, blob: (bytes(len(godh)), blob), Status.INVALID_CERTIFICATE),
        (lambda godh, blob: (godh, blob[:-1] + bytes([blob[-1] ^ 1])), Status.BAD_MEASUREMENT),
        (lambda godh, blob: (godh, bytes([blob[0] ^ 1]) + blob[1:]), Status.BAD_MEASUREMENT),
    ],
)
def test_a_spoilt_session_is_refused_by_the_firmware_and_nothing_is_left(host, session, spoil, fw):
    made = session(1)

    with pytest.raises(OSError) as no:
        vmm.launch(host, firmware=image(), policy=1, session=spoil(made.godh, made.session))
    assert (no.value.errno, no.value.fw, no.value.step) == (EIO, fw, "LAUNCH_START")
    assert not host.processes and not host.psp.guests


def test_a_session_for_another_policy_is_refused(host, session):
    with pytest.raises(OSError) as no:
        vmm.launch(host, firmware=image(), policy=3, session=session(1))
    assert no.value.fw == Status.BAD_MEASUREMENT


def test_a_session_for_another_platform_is_refused(host):
    with Host("rome", seed=8) as elsewhere:
        foreign = owner.new_session(elsewhere.chain()["pdh"], 1, seed=1)

    with pytest.raises(OSError) as no:
        vmm.launch(host, firmware=image(), policy=1, session=foreign)
    assert no.value.fw == Status.BAD_MEASUREMENT


def test_a_policy_that_asks_for_newer_firmware_is_refused_where_a_session_binds_it(host, session):
    policy = 1 | 55 << 24

    with pytest.raises(OSError) as no:
        vmm.launch(host, firmware=image(), policy=policy, session=session(policy))
    assert no.value.fw == Status.POLICY_FAILURE


def test_an_es_vm_with_a_plain_policy_gets_no_key_slot(host):
    with pytest.raises(OSError) as no:
        vmm.launch(host, firmware=image(), policy=1, es=True)
    assert (no.value.errno, no.value.fw) == (EIO, Status.INVALID_ASID)


def test_a_process_that_may_not_pin_so_much_is_told_enomem_and_lives_on(host):
    process = host.process("poor", memlock=1 << 20)

    with pytest.raises(OSError) as no:
        vmm.launch(host, firmware=image(), process=process)
    assert (no.value.errno, no.value.step) == (ENOMEM, "MEMORY_ENCRYPT_REG_REGION")
    assert "poor" in host.processes


def test_a_refused_launch_leaves_a_given_process_as_it_was(host):
    process = host.process("mine", memlock=128 << 20)
    before = sorted(process.task.fds)

    with pytest.raises(OSError, match="EIO"):
        vmm.launch(host, firmware=image(), process=process, session=(b"short", b"short"))
    assert sorted(process.task.fds) == before and not host.psp.guests


def test_launches_without_a_name_get_one_each(host):
    for _ in range(3):
        vmm.launch(host, firmware=image())

    assert sorted(host.processes) == ["vmm", "vmm-2", "vmm-3"]


def test_a_kernel_may_be_a_program_and_is_booted_by_the_courses_firmware(host, session):
    made = session(1)
    vm = vmm.launch(host, firmware=guest.firmware_image(), kernel=writes_an_answer, policy=1, session=made)
    assert vm.answer() == (0, b"")
    vm.finish()
    last = vm.run()

    digest = owner.expected_digest(guest.firmware_image(), kernel=writes_an_answer.image())
    assert owner.check_measurement(vm.measurement, digest=digest, tik=made.tik, policy=1)
    assert (last.name, vm.answer()) == ("HLT", (boot.ANSWER, b"booted"))


def test_a_tenant_at_its_limit_is_refused_a_guest():
    with Host(seed=1, cgroups={"/tenant": {"sev": 1}}) as host:
        vmm.launch(host, firmware=image(), process=host.process("a", cgroup="/tenant"))

        with pytest.raises(OSError) as no:
            vmm.launch(host, firmware=image(), process=host.process("b", cgroup="/tenant"))
        assert (no.value.errno, no.value.step) == (EBUSY, "INIT")


def test_a_guest_that_runs_out_of_a_page_it_cannot_decrypt_shuts_down(host):
    """The firmware's page is no program: what a wrong key or a changed page looks like."""
    vm = vmm.launch(host, firmware=image())
    vm.finish()

    assert vm.run().name == "SHUTDOWN"


def test_a_stand_in_runs_for_the_very_page_and_for_no_other(host):
    right = vmm.launch(host, firmware=image(), program=other, args=(b"!",), name="right")
    wrong = vmm.launch(host, firmware=image()[:-1] + b"\x90", name="wrong")

    assert right.run().name == "HLT" and bytes(right.console) == b"!"
    assert wrong.run().name == "SHUTDOWN"


def test_the_vmm_asks_the_kernel_whether_it_has_vm_types():
    for design, types in ((designs.LINUX_6_1, False), (designs.LINUX_6_12, True)):
        with Host(design=design, seed=1) as host:
            process = host.process("probe")
            assert bool(process.ioctl(process.open("/dev/kvm"), KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES) & 0b1100) is types


def test_guest_memory_is_one_slot_at_zero_and_one_below_4_gib(host):
    vm = vmm.launch(host, firmware=image(3))

    assert [(slot.gpa, slot.size) for slot in vm.slots] == [(0, boot.MEMORY), (boot.TOP - 0x3000, 0x3000)]
    with pytest.raises(ValueError, match="no memory at"):
        vm.read(boot.MEMORY - 8, 16)
    with pytest.raises(OSError) as no:
        vmm.steps.add_memory(vm, 0x1800, 0x1000)
    assert no.value.errno == EINVAL


# ------------------------------------------------------------- arguments that are none


def plainly():
    return 3


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"firmware": "OVMF.fd"}, "firmware is bytes, not 'OVMF.fd'; pathlib.Path"),
        ({"firmware": 4096}, "firmware is bytes, not 4096"),
        ({"program": plainly}, "program is a guest program"),
        ({"kernel": "vmlinuz"}, "kernel is bytes or a guest program"),
        ({"kernel": plainly}, "kernel is bytes or a guest program"),
        ({"kernel": b"k", "initrd": "initrd"}, "initrd is bytes"),
        ({"kernel": b"k", "append": None}, "append is the kernel's command line"),
        ({"policy": "1"}, "policy is a number, not '1'"),
        ({"vcpus": 1.5}, "vcpus is a number, not 1.5"),
        ({"memory": "1G"}, "memory is a number, not '1G'"),
        ({"process": "vmm"}, "process is a Process of the host"),
        ({"session": "s"}, "a session is what owner.new_session made"),
        ({"session": (1, 2)}, "a session is what owner.new_session made"),
        ({"session": (b"",)}, "a session is what owner.new_session made"),
    ],
)
def test_an_argument_that_is_no_such_thing_is_refused_in_the_callers_words(host, wrong, line):
    with pytest.raises(TypeError) as no:
        vmm.launch(host, **{"firmware": image()} | wrong)

    assert line in str(no.value)
    assert not host.processes


def test_a_guest_is_launched_on_a_host_and_by_a_process_of_this_one(host):
    with pytest.raises(TypeError, match="a guest is launched on a Host, not on None"):
        vmm.launch(None, firmware=image())
    with Host("rome", seed=8) as elsewhere, pytest.raises(ValueError, match="process qemu belongs to another host"):
        vmm.launch(host, firmware=image(), process=elsewhere.process("qemu"))


@pytest.mark.parametrize("policy", [-1, 1 << 32])
def test_a_policy_has_32_bits(host, policy):
    with pytest.raises(ValueError, match="a policy has 32 bits"):
        vmm.launch(host, firmware=image(), policy=policy)


@pytest.mark.parametrize("design", [designs.LINUX_6_1, designs.LINUX_6_12])
def test_a_refused_guest_leaves_a_process_of_the_callers_as_it_was(design):
    with Host("rome", design, seed=7, cgroups={"/none": {"sev": 0}}) as host:
        process = host.process("qemu", cgroup="/none", memlock=1 << 30)
        before = repr(process)
        with pytest.raises(OSError) as no:
            vmm.launch(host, firmware=image(), process=process)

        assert no.value.errno == EBUSY
        assert repr(process) == before


def test_an_ordinary_vm_has_no_policy_to_show(host):
    assert repr(vmm.launch(host, firmware=image(), policy=None)) == "<Vm: without a key, fd 5 of vmm, 1 vCPUs>"


def test_a_secret_is_bytes(host):
    vm = vmm.launch(host, firmware=image(), policy=1)

    with pytest.raises(TypeError, match=r"a secret's payload is bytes, as owner\.wrap_secret makes them, not str"):
        vm.inject_secret(b"header", "hush")
