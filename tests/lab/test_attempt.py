"""A refusal as something to look at."""

from __future__ import annotations

from errno import EIO, ENOENT

import pytest

from sevlab import Host, guest, vmm
from sevlab.lab import Refusal, attempt
from sevlab.owner import OwnerSession


def test_what_is_not_refused_is_returned() -> None:
    assert attempt(int, "2a", base=16) == 42


def test_a_refusal_says_step_errno_firmware_status_and_reason(host: Host, session: OwnerSession) -> None:
    answer = attempt(vmm.launch, host, firmware=guest.firmware_image(), policy=0, session=session)

    assert isinstance(answer, Refusal) and not answer
    assert (answer.errno, answer.errno_name, answer.fw_name, answer.step) == (EIO, "EIO", "BAD_MEASUREMENT", "LAUNCH_START")
    assert "POLICY_MAC" in answer.why
    assert repr(answer).startswith("refused at LAUNCH_START: EIO, the firmware said BAD_MEASUREMENT\n  ")


def test_a_refusal_of_the_kernel_alone_names_no_firmware(host: Host) -> None:
    answer = attempt(host.process, "x", cgroup="/nowhere")

    assert answer.errno == ENOENT and answer.fw_name == ""
    assert repr(answer).startswith("refused: ENOENT\n")


def test_a_file_that_is_not_there_is_a_refusal_too() -> None:
    assert attempt(open, "/no/such/file").errno_name == "ENOENT"


def test_a_mistake_in_the_call_is_no_refusal(host: Host) -> None:
    with pytest.raises(ValueError, match="nothing to launch"):
        attempt(vmm.launch, host)
