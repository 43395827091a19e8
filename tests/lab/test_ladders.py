"""Ladders of calls: the handlers' own rungs in the order in which they are asked, and how a refusal went."""

from __future__ import annotations

import pytest

from sevlab import Host, designs, guest, lab, owner, vmm
from sevlab.abi.kvm import KVM_CREATE_VCPU, KVM_MEMORY_ENCRYPT_REG_REGION, KVM_SEV_LAUNCH_MEASURE, kvm_enc_region
from sevlab.kvm import sev_commands
from sevlab.kvm.ladder import ladder as rungs
from sevlab.lab.ladders import Rungs, ladder
from sevlab.vmm import steps


@pytest.fixture
def host() -> Host:
    return Host("naples", seed=7)


def rows(found: Rungs) -> list[dict[str, str]]:
    return found.columns[0][1]


def test_kernel_driver_and_firmware_stand_in_the_order_in_which_they_are_asked() -> None:
    found = rows(ladder("LAUNCH_START"))

    order = list(dict.fromkeys(row["by"] for row in found))
    assert order == ["kernel", "driver", "firmware"] and found[-1]["by"] == "kernel"
    assert [row["code"] for row in found if row["by"] == "driver"] == ["EBADF", "ENODEV", "EBUSY"]
    assert {row["state"] for row in found} == {"open"}


@pytest.mark.parametrize("number", sorted(sev_commands.COMMANDS))
def test_every_command_has_a_ladder_with_words_and_a_source(number: int) -> None:
    from sevlab.abi.kvm import SEV_CMD_NAMES

    found = rows(ladder(SEV_CMD_NAMES[number]))
    assert len(found) >= 5 and all(row["words"] and row["code"] and row["source"] for row in found)


def test_a_refusal_of_the_firmware_names_its_rung(host: Host) -> None:
    session = owner.new_session(host.chain()["pdh"], 1, seed=1)
    found = rows(ladder(lab.attempt(vmm.launch, host, firmware=guest.firmware_image(), policy=0, session=session)))

    [no] = [row for row in found if row["state"] == "refused"]
    assert (no["code"], no["fw"], no["words"]) == ("EIO", "BAD_MEASUREMENT", "POLICY_MAC does not match")
    at = found.index(no)
    assert {row["state"] for row in found[:at]} == {"passed"} and "passed" not in {row["state"] for row in found[at + 1 :]}


def test_a_refusal_of_the_driver_names_its_rung(host: Host) -> None:
    vm = steps.create_vm(host.process("qemu", memlock=1 << 20))
    found = ladder(lab.attempt(steps.launch_measure, vm))

    [no] = [row for row in rows(found) if row["state"] == "refused"]
    assert (no["by"], no["code"], no["words"]) == ("driver", "EBADF", "the descriptor is no /dev/sev")
    assert "<- refused" in repr(found) and found.name == "KVM_SEV_LAUNCH_MEASURE"


def test_a_refusal_that_is_a_known_defect_has_its_tag_and_no_other_rung_has(host: Host) -> None:
    refusal = lab.attempt(steps.launch_measure, steps.create_vm(host.process("qemu", memlock=1 << 20)))

    tagged = ladder(refusal, tag="as shipped")
    assert [row["state"] for row in rows(tagged) if "tag" in row] == ["refused"]
    assert repr(tagged).count("<- refused, as shipped") == 1 and "as shipped" not in repr(ladder(refusal))
    assert "tag" not in {key for row in rows(ladder("LAUNCH_START", tag="as shipped")) for key in row}


def test_what_is_also_wrong_was_never_asked(host: Host) -> None:
    """A call with two things wrong learns of the upper one; the lower one is told from the handler's own variables."""
    vm = steps.create_vm(host.process("qemu", memlock=1 << 20), plain=True)
    region = kvm_enc_region(0x1000, 0x1000)
    refused = lab.attempt(vm.ioctl, KVM_MEMORY_ENCRYPT_REG_REGION, region)
    found = rows(ladder(refused))

    assert [row["code"] for row in found if row["state"] == "refused"] == ["ENOTTY"]
    assert all(row["state"] in ("unasked", "also") for row in found[2:])


def test_two_designs_have_two_columns() -> None:
    found = ladder("MOVE_ENC_CONTEXT_FROM", beside=designs.POSTED)

    assert [name for name, _ in found.columns] == ["linux-6.1", "posted"]
    first = [column[0]["words"] for _, column in found.columns]
    assert first == ["the descriptor is no VM", "the destination is being moved already"]


def test_any_handler_will_do() -> None:
    assert len(rows(ladder(sev_commands.memory_encrypt_op))) >= len(rungs(sev_commands.memory_encrypt_op))


@pytest.mark.parametrize("what", ["LAUNCH_NOTHING", ""])
def test_a_call_without_a_ladder_is_refused_with_those_that_have_one(what: str) -> None:
    with pytest.raises(LookupError, match="LAUNCH_START"):
        ladder(what)


def test_an_error_that_no_handler_raised_has_no_ladder() -> None:
    with pytest.raises(LookupError, match="no handler with a ladder"):
        ladder(OSError(5, "a disk"))


def test_an_ioctl_that_is_refused_before_its_handler_has_its_own_ladder(host: Host) -> None:
    vm = steps.create_vm(host.process("qemu", memlock=1 << 20))
    vm.ioctl(KVM_CREATE_VCPU, 0)
    found = ladder(lab.attempt(vm.ioctl, KVM_CREATE_VCPU, 0))

    assert found.name == "KVM_CREATE_VCPU" and [row["code"] for row in rows(found) if row["state"] == "refused"] == ["EEXIST"]


def test_a_refusal_before_the_command_is_looked_up_has_the_command_s_ladder(host: Host) -> None:
    vm = vmm.launch(host, program=guest.hello, name="qemu")
    found = ladder(lab.attempt(vmm.mirror(vm).sev_op, KVM_SEV_LAUNCH_MEASURE))
    [no] = [row for row in rows(found) if row["state"] == "refused"]

    assert found.name == "KVM_SEV_LAUNCH_MEASURE"
    assert (no["code"], no["words"]) == ("EINVAL", "the VM is a mirror, which may not do this")
    assert not [row for row in rows(found) if row["by"] == "firmware" and row["state"] != "unasked"]


def test_a_source_never_shows_our_own_python() -> None:
    for row in rows(ladder("LAUNCH_START")):
        assert " = " not in row["source"] and "caller" not in row["source"], row


@pytest.mark.parametrize("call", ["INIT", "INIT2", "LAUNCH_UPDATE_VMSA", "DBG_DECRYPT", "MEMORY_ENCRYPT_REG_REGION", "RUN"])
def test_a_rung_is_said_in_words_and_not_in_code(call: str) -> None:
    words = [row["words"] for row in rows(ladder(call, design=designs.LINUX_6_12))]

    assert not [one for one in words if one.startswith("not (") or any(sign in one for sign in ("->", "&&", "||", "==", "!="))]


def test_the_words_of_the_firmware_are_not_said_twice() -> None:
    found = [row for row in rows(ladder("LAUNCH_START")) if row["by"] == "firmware"]

    assert found and not [row for row in found if row["words"] in row["source"]]
    assert "firmware, accept_owner: nor by its algorithm" in {row["source"] for row in found}
