"""The launch recipe: what a VMM gets by calling what a VMM can call, and what it is refused."""

from __future__ import annotations

import hashlib
from errno import EIO

import pytest

from sevlab import Host, designs, owner, vmm
from sevlab.abi import boot, ovmf
from sevlab.abi.sev import GuestState, Status
from sevlab.hw.isa import hlt, out, program, store

RESET = (ovmf.reset_block(boot.RESET_BLOCK),)
PLACES = (*RESET, ovmf.secret_area(*boot.SECRET_AREA), ovmf.hash_area(*boot.HASH_AREA))


@program
async def hello(text):
    for byte in text:
        await out(0xE9, byte)
    await store(0x2000, b"private memory..")
    await store(0x3000, b"shared memory...", c=False)
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


def state(vm):
    return GuestState(vm.status().state)


# ------------------------------------------------------------- stories


def test_a_program_is_launched_measured_finished_and_run(host):
    vm = vmm.launch(host, program=hello, args=(b"hello",))
    assert state(vm) is GuestState.LSECRET and len(vm.measurement) == 48

    vm.finish()
    assert state(vm) is GuestState.RUNNING
    assert vm.run().name == "HLT"
    assert bytes(vm.console) == b"hello"


def test_the_vmm_reads_what_the_guest_shares_and_noise_where_it_does_not(host):
    vm = vmm.launch(host, program=hello, args=(b"",))
    vm.finish()
    vm.run()

    assert vm.read(0x3000, 16) == b"shared memory..."
    assert vm.read(0x2000, 16) not in (b"private memory..", bytes(16))


@pytest.mark.parametrize("design", [designs.LINUX_6_1, designs.LINUX_6_12], ids=["6.1", "6.12"])
@pytest.mark.parametrize(("policy", "vcpus"), [(1, 1), (1, 3), (5, 1), (5, 4)])
def test_the_owner_who_knows_the_image_predicts_the_measurement(design, policy, vcpus):
    with Host("milan", design, seed=3) as host:
        session = owner.new_session(host.chain()["pdh"], policy, seed=1)
        vm = vmm.launch(host, firmware=image(), policy=policy, vcpus=vcpus, session=session)

    digest = owner.expected_digest(
        image(), es=bool(policy & 4), vcpus=vcpus, cpu="milan", vmsa_variant="init2" if design is designs.LINUX_6_12 else "legacy"
    )
    assert owner.check_measurement(vm.measurement, digest=digest, tik=session.tik, policy=policy)


def test_a_new_kernel_measures_as_an_old_one_for_a_vm_of_the_old_type():
    found = []
    for design, legacy in ((designs.LINUX_6_1, False), (designs.LINUX_6_12, True), (designs.LINUX_6_12, False)):
        with Host(design=design, seed=3) as host:
            vm = vmm.launch(host, firmware=image(), policy=5, legacy=legacy)
            found.append(host.psp.guests[vm.handle].launch_digest)

    old, forced, new = found
    assert old == forced != new


def test_a_kernel_is_measured_by_its_hashes_and_loaded_in_clear(host, session):
    made = session(1)
    vm = vmm.launch(host, firmware=image(), kernel=b"kernel" * 1000, initrd=b"initrd", append="quiet", policy=1, session=made)

    digest = owner.expected_digest(image(), kernel=b"kernel" * 1000, initrd=b"initrd", append="quiet")
    assert owner.check_measurement(vm.measurement, digest=digest, tik=made.tik, policy=1)
    assert vm.read(boot.KERNEL, 6000) == b"kernel" * 1000
    assert vm.read(boot.initrd_gpa(6000), 6) == b"initrd"
    assert vm.read(boot.APPEND, 6) == b"quiet\0"


def test_hashes_may_go_where_the_firmware_has_no_place_for_them(host, session):
    made, bare = session(1), image(entries=RESET)
    vm = vmm.launch(host, firmware=bare, kernel=b"k", policy=1, session=made, hashes_gpa=0x810000)

    assert owner.check_measurement(vm.measurement, digest=owner.expected_digest(bare, kernel=b"k"), tik=made.tik, policy=1)


def test_the_steps_taken_one_by_one_are_the_launch(host):
    process = host.process("by hand", memlock=128 << 20)
    vm = vmm.steps.create_vm(process, es=True)
    vmm.steps.add_memory(vm, 0, boot.MEMORY)
    vmm.steps.add_firmware(vm, image())
    vmm.steps.add_vcpus(vm, 2)
    vmm.steps.reset_vcpus(vm)
    vmm.steps.point_aps(vm)
    vmm.steps.launch_start(vm, 5)
    vmm.steps.load_firmware(vm)
    vmm.steps.update_vmsas(vm)
    by_hand = vmm.steps.launch_measure(vm)

    with Host("rome", seed=7) as again:
        assert vmm.launch(again, firmware=image(), policy=5, vcpus=2).measurement == by_hand


def test_two_vmms_share_one_host_and_two_keys(host):
    first, second = (vmm.launch(host, firmware=image(), name=name) for name in ("a", "b"))

    top = first.firmware.gpa
    assert first.handle != second.handle
    assert first.read(top, 64) != second.read(top, 64) != image()[:64]


def test_a_session_may_come_as_two_byte_strings(host, session):
    made = session(1)
    vm = vmm.launch(host, firmware=image(), policy=1, session=(made.godh, made.session))

    assert owner.check_measurement(vm.measurement, digest=owner.expected_digest(image()), tik=made.tik, policy=1)


def test_without_a_session_anybody_can_compute_the_measurement(host):
    vm = vmm.launch(host, firmware=image(), policy=1)

    assert owner.check_measurement(vm.measurement, digest=owner.expected_digest(image()), tik=bytes(16), policy=1)


def test_closing_the_vm_gives_its_key_slot_back_for_later(host):
    vm = vmm.launch(host, firmware=image())
    asid = host.psp.guests[vm.handle].asid
    vm.close()

    assert not host.psp.guests
    again = vmm.launch(host, firmware=image(), name="again")
    assert host.psp.guests[again.handle].asid != asid  # dirty until the next flush


# ------------------------------------------------------------- the secret


def packet(vm, made, data=b"the owner's secret"):
    table = owner.secret_table([("736869e5-84f0-4973-92ec-06879ce3da0b", data)])
    return owner.wrap_secret(made.tek, made.tik, vm.measurement, table)


def test_a_secret_goes_to_the_area_of_the_firmwares_table(host, session):
    made = session(1)
    vm = vmm.launch(host, firmware=image(), policy=1, session=made)
    header, payload = packet(vm, made)
    before = vm.read(boot.SECRET_AREA[0], len(payload))

    vm.inject_secret(header, payload)

    assert vm.read(boot.SECRET_AREA[0], len(payload)) != before
    asid = host.psp.guests[vm.handle].asid
    plain = host.xray.read(asid, host.hpa(vm.process, vm.hva(boot.SECRET_AREA[0])), len(payload))
    assert owner.secret_entries(plain)[0][1] == b"the owner's secret"


@pytest.mark.parametrize("where", ["header", "payload"])
def test_a_packet_with_one_changed_bit_is_refused_and_memory_untouched(host, session, where):
    made = session(1)
    vm = vmm.launch(host, firmware=image(), policy=1, session=made)
    header, payload = packet(vm, made)
    if where == "header":
        header = header[:-1] + bytes([header[-1] ^ 1])
    else:
        payload = payload[:-1] + bytes([payload[-1] ^ 1])
    hpa = host.hpa(vm.process, vm.hva(boot.SECRET_AREA[0]))
    before = host.probe(hpa, len(payload))

    with pytest.raises(OSError) as no:
        vm.inject_secret(header, payload)
    assert (no.value.errno, no.value.fw, no.value.step) == (EIO, Status.BAD_MEASUREMENT, "LAUNCH_SECRET")
    assert host.probe(hpa, len(payload)) == before


def test_a_packet_for_another_launch_is_refused(host, session):
    made = session(1)
    first = vmm.launch(host, firmware=image(), policy=1, session=made, name="a")
    second = vmm.launch(host, firmware=image(), policy=1, session=made, name="b")

    with pytest.raises(OSError) as no:
        second.inject_secret(*packet(first, made))
    assert no.value.fw == Status.BAD_MEASUREMENT


def test_a_secret_after_the_finish_comes_too_late(host, session):
    made = session(1)
    vm = vmm.launch(host, firmware=image(), policy=1, session=made)
    vm.finish()

    with pytest.raises(OSError) as no:
        vm.inject_secret(*packet(vm, made))
    assert no.value.fw == Status.INVALID_GUEST_STATE


@pytest.mark.parametrize("entries", [(), RESET, (*RESET, ovmf.secret_area(0, 0))])
def test_a_secret_needs_a_place_when_the_firmware_offers_none(host, session, entries):
    made = session(1)
    vm = vmm.launch(host, firmware=image(entries=entries), policy=1, session=made)

    with pytest.raises(ValueError, match="no secret area"):
        vm.inject_secret(*packet(vm, made))
    vm.inject_secret(*packet(vm, made), gpa=0x10000)


def test_a_secret_that_is_longer_than_its_area_is_not_sent(host, session):
    made = session(1)
    vm = vmm.launch(host, firmware=image(), policy=1, session=made)

    with pytest.raises(ValueError, match="secret area has 3072 bytes"):
        vm.inject_secret(*packet(vm, made, bytes(0x1000)))


def test_a_secret_for_memory_that_the_guest_has_not_is_not_sent(host, session):
    made = session(1)
    vm = vmm.launch(host, firmware=image(), policy=1, session=made)

    with pytest.raises(ValueError, match="no memory at"):
        vm.inject_secret(*packet(vm, made), gpa=0x8000_0000)
