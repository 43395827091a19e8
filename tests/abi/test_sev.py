"""The firmware's numbers, typed in once more from the specification."""

from __future__ import annotations

import pytest

from sevlab.abi import sev
from sevlab.abi.sev import (
    Cmd,
    GuestState,
    LaunchStart,
    PlatformState,
    Status,
    cmd_name,
    policy_api,
    policy_names,
    policy_text,
    status_name,
)

# firmware.md 1.2
IDS = """
01 INIT 02 SHUTDOWN 03 PLATFORM_RESET 04 PLATFORM_STATUS 05 PEK_GEN 06 PEK_CSR 07 PEK_CERT_IMPORT 08 PDH_CERT_EXPORT 09 PDH_GEN
0A DF_FLUSH 0B DOWNLOAD_FIRMWARE 0C GET_ID 0D INIT_EX 0E NOP 0F RING_BUFFER
20 DECOMMISSION 21 ACTIVATE 22 DEACTIVATE 23 GUEST_STATUS 24 COPY 25 ACTIVATE_EX
30 LAUNCH_START 31 LAUNCH_UPDATE_DATA 32 LAUNCH_UPDATE_VMSA 33 LAUNCH_MEASURE 34 LAUNCH_SECRET 35 LAUNCH_FINISH 36 ATTESTATION
40 SEND_START 41 SEND_UPDATE_DATA 42 SEND_UPDATE_VMSA 43 SEND_FINISH 44 SEND_CANCEL
50 RECEIVE_START 51 RECEIVE_UPDATE_DATA 52 RECEIVE_UPDATE_VMSA 53 RECEIVE_FINISH
60 DBG_DECRYPT 61 DBG_ENCRYPT 70 SWAP_OUT 71 SWAP_IN
"""

# kvm.md A7 in order, from 0; then the newer ones
STATUS = """
SUCCESS INVALID_PLATFORM_STATE INVALID_GUEST_STATE INVALID_CONFIG INVALID_LEN ALREADY_OWNED INVALID_CERTIFICATE POLICY_FAILURE
INACTIVE INVALID_ADDRESS BAD_SIGNATURE BAD_MEASUREMENT ASID_OWNED INVALID_ASID WBINVD_REQUIRED DFFLUSH_REQUIRED INVALID_GUEST
INVALID_COMMAND ACTIVE HWSEV_RET_PLATFORM HWSEV_RET_UNSAFE UNSUPPORTED INVALID_PARAM RESOURCE_LIMIT SECURE_DATA_INVALID
INVALID_PAGE_SIZE INVALID_PAGE_STATE INVALID_MDATA_ENTRY INVALID_PAGE_OWNER AEAD_OFLOW
"""


def test_every_command_has_the_id_of_the_specification_and_there_are_no_others() -> None:
    words = IDS.split()

    assert {cmd.name: cmd.value for cmd in Cmd} == dict(zip(words[1::2], (int(text, 16) for text in words[::2]), strict=True))


def test_every_status_has_the_code_of_the_specification() -> None:
    codes = {name: code for code, name in enumerate(STATUS.split())}
    codes |= {"EXIT_RING_BUFFER": 0x1F, "INVALID_KEY": 0x27, "NO_FW_CALL": 0xFFFFFFFF}

    assert {status.name: status.value for status in Status} == codes


def test_the_states_are_numbered_as_the_status_commands_report_them() -> None:
    assert [state.name for state in sorted(PlatformState)] == ["UNINIT", "INIT", "WORKING"]
    assert [state.name for state in sorted(GuestState)] == ["UNINIT", "LUPDATE", "LSECRET", "RUNNING", "SUPDATE", "RUPDATE", "SENT"]


def test_a_plain_number_finds_its_row_as_the_name_does() -> None:
    table = {Cmd.LAUNCH_START: "row"}

    assert table[0x30] == "row"  # type: ignore[index]


def test_a_code_without_a_name_is_shown_in_hex() -> None:
    assert (status_name(4), status_name(0x1E), status_name(-1)) == ("INVALID_LEN", "0x1e", "NO_FW_CALL")
    assert (cmd_name(0x34), cmd_name(0x99)) == ("LAUNCH_SECRET", "0x99")


@pytest.mark.parametrize(
    ("policy", "names"),
    [(0, []), (1, ["NODBG"]), (3, ["NODBG", "NOKS"]), (5, ["NODBG", "ES"]), (0x3F, list(sev.POLICY_BITS))],
)
def test_a_policy_reads_as_its_names(policy: int, names: list[str]) -> None:
    assert policy_names(policy) == names


def test_reserved_bits_of_a_policy_are_named_by_number() -> None:
    assert policy_names(0x8041) == ["NODBG", "bit 6", "bit 15"]
    assert sum(1 << bit for bit in range(6, 16)) == sev.POLICY_RESERVED


def test_the_upper_half_of_a_policy_is_the_oldest_firmware_it_accepts() -> None:
    assert policy_api(0x16000001) == (0, 0x16)
    assert policy_text(0x16000005) == "0x16000005 = NODBG ES, firmware 0.22 or newer"
    assert policy_text(0) == "0x0 = nothing forbidden, firmware 0.0 or newer"


def test_the_buffers_are_names_of_this_module_too() -> None:
    assert LaunchStart(policy=5).pack() == bytes(4) + b"\5" + bytes(31)
