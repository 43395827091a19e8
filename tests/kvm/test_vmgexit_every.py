"""The tables of requests to their last row: every exit code, every info of the MSR protocol, every subset of valid bits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise

import pytest
from kvm.guests import Guest
from kvm.test_vmgexit import SHAPES, SNP_ONLY, V2_SHAPES, named, vouched
from kvm.vmgexits import CODE_FIELDS, GHCB, SCRATCH, Asks, request
from sev_rig import Rig

from sevlab.abi import ghcb as abi
from sevlab.abi.kvm import KVM_EXIT_HLT, KVM_EXIT_SYSTEM_EVENT
from sevlab.hw.isa import hlt, load, program, rdmsr, store, vmgexit, wrmsr
from sevlab.kvm import designs

MSR = 0xC001_0130
OUT = 0x2000
MISSING, EVENT = 4, 6
Make = Callable[..., Rig]
LINUX = {"6.1": designs.LINUX_6_1, "6.12": designs.LINUX_6_12}
ASKED = {"6.1": {0x002, 0x004, 0x100}, "6.12": {0x002, 0x004, 0x006, 0x010, 0x012, 0x014, 0x080, 0x100}}
SNP_INFOS = {0x010, 0x012, 0x014}


@program
async def asks_every_info(first: int, last: int, skip: tuple[int, ...], high: int) -> None:
    """Ask each info of a range by the MSR protocol; those whose response is not the request itself to OUT."""
    at = OUT
    for info in range(first, last):
        if info in skip:
            continue
        await wrmsr(MSR, high | info)
        await vmgexit()
        response = await rdmsr(MSR)
        if response != high | info:
            await store(at, info.to_bytes(8, "little"), c=False)
            at += 8
    await store(0x1000, b"done", c=False)
    await hlt()


@pytest.mark.parametrize("release", LINUX)
@pytest.mark.parametrize("high", [0, 0x1234 << 12, (1 << 64) - (1 << 12)], ids=hex)
def test_of_4095_infos_of_the_msr_protocol_those_that_are_no_request_come_back_as_they_were(
    make_rig: Make, release: str, high: int
) -> None:
    guest = Guest(make_rig(LINUX[release]), asks_every_info, 1, 0x1000, tuple(sorted(ASKED[release])), high, kind="es")

    while guest.run() != KVM_EXIT_HLT:
        assert guest.reason() == 10, "interrupted after its budget, and goes on"
    assert guest.read(0x1000, 4) == b"done" and guest.read(OUT, 64) == bytes(64)


@pytest.mark.parametrize("release, info", [(release, info) for release in LINUX for info in sorted(ASKED[release])])
def test_each_info_that_is_a_request_does_not(make_rig: Make, release: str, info: int) -> None:
    guest = Guest(make_rig(LINUX[release]), asks_every_info, info, info + 1, (), 0x7000 if info != 0x006 else 0, kind="es")
    reason = guest.run()

    if info == 0x100 or info in SNP_INFOS:
        assert reason == KVM_EXIT_SYSTEM_EVENT
    elif info == 0x006:
        assert reason == 32  # KVM_EXIT_AP_RESET_HOLD
    else:
        assert reason == KVM_EXIT_HLT and guest.read(OUT, 8) == info.to_bytes(8, "little")


@program
async def asks_every_code(codes: tuple[tuple[int, int], ...], bitmap: bytes) -> None:
    """Each exit code of some ranges, every field vouched for; those that are not answered (2, 6) to OUT."""
    await wrmsr(MSR, GHCB)
    at = OUT
    for first, last in codes:
        for code in range(first, last):
            await store(GHCB + 0x390, code.to_bytes(8, "little") + bytes(16), c=False)
            await store(GHCB + 0x3F0, bitmap, c=False)
            await vmgexit()
            answer = await load(GHCB + 0x398, 16, c=False)
            if answer != b"\2\0\0\0\0\0\0\0\6\0\0\0\0\0\0\0":
                await store(at, code.to_bytes(8, "little"), c=False)
                at += 8
    await store(0x1000, b"done", c=False)
    await hlt()


def gaps(first: int, last: int, known: set[int]) -> tuple[tuple[int, int], ...]:
    """A range without the codes that are requests."""
    marks = [first - 1, *sorted(code for code in known if first <= code < last), last]
    return tuple((a + 1, b) for a, b in pairwise(marks) if a + 1 < b)


@pytest.mark.parametrize("release", LINUX)
@pytest.mark.parametrize("first, last", [(0, 0x500), (0x8000_0000, 0x8000_0100), (0x8000_FF00, 0x8001_0010)], ids=hex)
def test_every_code_that_is_no_request_is_an_invalid_event(make_rig: Make, release: str, first: int, last: int) -> None:
    known = {shape[0] for shape in SHAPES} | (({shape[0] for shape in V2_SHAPES} | set(SNP_ONLY)) if release == "6.12" else set())
    every = sum(1 << bit for bit in abi.VALID_BITS.values()).to_bytes(16, "little")
    guest = Guest(make_rig(LINUX[release]), asks_every_code, gaps(first, last, known), every, kind="es")

    while guest.run() != KVM_EXIT_HLT:
        assert guest.reason() == 10
    assert guest.read(0x1000, 4) == b"done" and guest.read(OUT, 64) == bytes(64)


@pytest.mark.parametrize("release", LINUX)
@pytest.mark.parametrize("shape", SHAPES + V2_SHAPES, ids=named)
def test_each_request_with_every_subset_of_what_it_needs_missing(
    make_rig: Make, shape: tuple[int, int, tuple[str, ...]], release: str
) -> None:
    """A code of the first three missing is asked for before the code is looked at; then the code, then its own fields."""
    code, info_1, needs = shape
    fields = (*CODE_FIELDS, *needs)
    drops = [drop for size in range(1, len(fields) + 1) for drop in combinations(fields, size)]
    rig, unknown = make_rig(LINUX[release]), release == "6.1" and shape in V2_SHAPES

    for at in range(0, len(drops), 12):  # as many as fit a program's page
        some = drops[at : at + 12]
        guest = Asks(rig, *(request(code, info_1, drop=drop, **vouched(needs)) for drop in some))
        for drop in some:
            general = any(name in CODE_FIELDS for name in drop)
            assert guest.ask() == (2, MISSING if general or not unknown else EVENT), drop


@pytest.mark.parametrize("missing", CODE_FIELDS)
@pytest.mark.parametrize("code", SNP_ONLY, ids=hex)
@pytest.mark.parametrize("release", LINUX)
def test_of_the_requests_of_sev_snp_too_the_three_words_are_asked_for_first(
    make_rig: Make, release: str, code: int, missing: str
) -> None:
    assert Asks(make_rig(LINUX[release]), request(code, sw_scratch=SCRATCH, rax=0, drop=(missing,))).ask() == (2, MISSING)
