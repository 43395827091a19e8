"""The GHCB: valid bits, exits, the MSR protocol. Numbers from kvm.md G1 to G5, typed in once more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.abi import ghcb
from sevlab.abi.ghcb import EXITS, VALID_BITS, Ghcb
from sevlab.abi.vmsa import Vmsa

# kvm.md G1
BITS = {
    "cpl": 25, "xss": 40, "dr7": 44, "rip": 47, "rsp": 59, "rax": 63, "rcx": 97, "rdx": 98, "rbx": 99, "rbp": 101, "rsi": 102,
    "rdi": 103, "r8": 104, "r9": 105, "r10": 106, "r11": 107, "r12": 108, "r13": 109, "r14": 110, "r15": 111, "sw_exit_code": 114,
    "sw_exit_info_1": 115, "sw_exit_info_2": 116, "sw_scratch": 117, "xcr0": 125,
}  # fmt: skip

# kvm.md G5: code, name, what must be valid
TABLE = """
27 READ_DR7 -
37 WRITE_DR7 rax
6E RDTSC -
6F RDPMC rcx
72 CPUID rax,rcx
76 INVD -
7B IOIO -
7C MSR rcx
81 VMMCALL rax,cpl
87 RDTSCP -
89 WBINVD -
8A MONITOR rax,rcx,rdx
8B MWAIT rax,rcx
80000001 MMIO_READ sw_scratch
80000002 MMIO_WRITE sw_scratch
80000003 NMI_COMPLETE -
80000004 AP_HLT_LOOP -
80000005 AP_JUMP_TABLE -
8000FFFF UNSUPPORTED_EVENT -
80000010 PSC sw_scratch
80000011 GUEST_REQUEST -
80000012 EXT_GUEST_REQUEST -
80000013 AP_CREATION -
8000FFFD HV_FEATURES -
8000FFFE TERM_REQUEST -
"""


def test_every_field_of_the_save_part_has_its_valid_bit_and_no_other_has_one() -> None:
    assert VALID_BITS == BITS


def test_the_save_part_lies_where_the_vmsa_has_the_same_registers() -> None:
    theirs = {field.name: field.offset for field in Vmsa.LAYOUT}

    for field in Ghcb.LAYOUT:
        if field.name in theirs and not field.name.startswith("reserved"):
            assert field.offset == theirs[field.name], field.name


@given(st.sets(st.sampled_from(sorted(BITS))))
def test_marking_fields_sets_their_bits_and_no_others(fields: set[str]) -> None:
    page = Ghcb().mark(*fields).pack()

    bits = int.from_bytes(page[0x3F0:0x400], "little")
    assert bits == sum(1 << BITS[field] for field in fields)
    assert {field for field in BITS if Ghcb.unpack(page).is_valid(field)} == fields


def test_marking_adds_to_what_is_marked() -> None:
    page = Ghcb().mark("rax")
    page.mark("rcx")

    assert page.is_valid("rax") and page.is_valid("rcx") and not page.is_valid("rdx")


@pytest.mark.parametrize("field", ["shared_buffer", "valid_bitmap", "ghcb_usage", "reserved", "rflags"])
def test_a_field_without_a_valid_bit_cannot_be_marked(field: str) -> None:
    with pytest.raises(KeyError):
        Ghcb().mark(field)
    with pytest.raises(KeyError):
        Ghcb().is_valid(field)


def test_the_exits_and_what_they_need_are_those_of_the_specification() -> None:
    rows = [line.split() for line in TABLE.strip().splitlines()]

    assert {code: (row.name, row.needs) for code, row in EXITS.items()} == {
        int(code, 16): (name, () if needs == "-" else tuple(needs.split(","))) for code, name, needs in rows
    }


@pytest.mark.parametrize("code", [0x78, 0x400, 0x7A, 0x60, 0])
def test_hlt_and_other_automatic_exits_are_none_a_guest_may_ask_for(code: int) -> None:
    assert code not in EXITS


def test_the_exits_of_version_two_say_since_when_they_exist() -> None:
    assert {row.name for row in EXITS.values() if row.since != "6.1"} == {
        "PSC", "GUEST_REQUEST", "EXT_GUEST_REQUEST", "AP_CREATION", "HV_FEATURES", "TERM_REQUEST",
    }  # fmt: skip


def test_the_msr_protocol_packs_its_fields_where_the_specification_has_them() -> None:
    assert ghcb.sev_info(1, 1, 47) == 0x0001_0001_2F00_0001
    assert ghcb.sev_info(2, 1, 51) == 0x0002_0001_3300_0001
    assert ghcb.cpuid_request(0x8000001F, 1) == 0x8000_001F_4000_0004
    assert ghcb.terminate(1, 3) == 0x3_1100
    assert ghcb.exception_info(13) == 0x8000030D


def test_no_page_address_can_be_taken_for_a_request() -> None:
    requests = [value for name, value in vars(ghcb).items() if name.startswith("GHCB_MSR_") and name.endswith(("_REQ", "_RESP"))]

    assert len(requests) == len(set(requests)) == 17
    assert all(value & ghcb.GHCB_MSR_INFO_MASK == value != 0 for value in requests)
