"""The firmware's end of the session, against what other people's tools computed."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from psp.machine import CERT, DATA, HEADER, PACKET, SESSION, TEK, TIK, Machine, owner_session

from sevlab import crypto
from sevlab.abi import sev
from sevlab.abi.cert import SevCert
from sevlab.abi.session import PacketHeader, Session
from sevlab.abi.sev import Cmd, GuestState, Status
from sevlab.psp import channel
from sevlab.psp.rules import Refused

LD_OVMF = bytes.fromhex("38e06fff369183b985aa39a7f66ea84e97f9bcf0b54509e9f0dec69ba9cab4fc")


# ------------------------------------------------- vectors


def test_wrap_keys_and_macs_of_a_session_of_zeros() -> None:
    """Origin: virtee/sev, unit tests in src/session (key.rs, mod.rs)."""
    kek, kik = channel.wrap_keys(bytes(16), bytes(16))

    assert kek.hex() == "b6abfbfb75ea1ea74ed8750b8afdb973"
    assert kik.hex() == "53b524bf5669a363f365c864acba8572"
    wrap_tk = bytes.fromhex("2137bc7f9bb8bd7c3e55a576a15d3454b3856b8ba27afadf46dcfee9f02c02c4")
    wrap_mac = bytes.fromhex("3176c0752738bd9d5e86689534020f528c088f16238826b000b327dee6aeed7d")
    policy_mac = bytes.fromhex("aa7855e13839dd767cd5da7c1ff5036540c9264b7a803029315e55375287b4af")
    session = Session(bytes(16), wrap_tk, bytes(16), wrap_mac, policy_mac)
    assert channel.unwrap(bytes(16), session) == (bytes(16), bytes(16))
    channel.check_policy(bytes(16), session, 0)


def test_wrap_keys_of_a_platform_whose_key_was_extracted() -> None:
    """Origin: firmware.md 4.12 e; Z is of keys in PSPReverse/amd-sev-migration-attack."""
    z = "071e4d4688fb4410d5b161fd11c3f6c4ca5885354bae717de77f503f94a271b2f1c9a0799e8a65b278ccb2ce21721feb"

    wrap = channel.wrap_keys(bytes.fromhex(z), bytes(range(16)))

    assert wrap.kek.hex() == "f9136c6b41325a62a4c9add6e6d24afd"
    assert wrap.kik.hex() == "f63119b3b02e64d10b207d6708c12e35"


def sevtool(machine: Machine, vectors: dict[str, Any]) -> sev.LaunchStart:
    """The machine with the PDH that sev-tool's session was made for, and the LAUNCH_START that brings the session."""
    given = vectors["session_sevtool"]
    pdh = machine.psp.keys.pdh
    assert pdh is not None
    machine.psp.keys = machine.psp.keys._replace(pdh=pdh._replace(d=int(given["pdh_priv_d"], 16)))
    machine.dram.write(CERT, base64.b64decode(given["godh_cert_b64"]))
    machine.dram.write(SESSION, base64.b64decode(given["session_b64"]))
    return sev.LaunchStart(
        policy=given["policy"], dh_cert_paddr=CERT, dh_cert_len=SevCert.SIZE, session_paddr=SESSION, session_len=Session.SIZE
    )


def test_a_session_made_by_sev_tool_opens(vectors: dict[str, Any]) -> None:
    """Origin: session_sevtool, made by AMDESE/sev-tool."""
    machine = Machine().up()

    handle = machine.must(Cmd.LAUNCH_START, sevtool(machine, vectors)).handle

    guest = machine.psp.guests[handle]
    assert guest.tek.hex() == vectors["session_sevtool"]["tek"]
    assert guest.tik.hex() == vectors["session_sevtool"]["tik"]


@pytest.mark.parametrize("bit", range(0, 8 * 128, 37))
def test_sev_tools_session_with_any_bit_changed_does_not_open(vectors: dict[str, Any], bit: int) -> None:
    machine = Machine().up()
    start = sevtool(machine, vectors)
    byte = machine.dram.read(SESSION + bit // 8, 1)[0]
    machine.dram.write(SESSION + bit // 8, bytes((byte ^ 1 << bit % 8,)))

    assert machine(Cmd.LAUNCH_START, start) is Status.BAD_MEASUREMENT
    assert not machine.psp.guests


@pytest.mark.parametrize("policy", [0, 1, 4, 7, 0x01000005, 0xFF000005])
def test_sev_tools_session_is_for_its_policy_only(vectors: dict[str, Any], policy: int) -> None:
    machine = Machine().up()

    assert machine(Cmd.LAUNCH_START, sevtool(machine, vectors).replace(policy=policy)) is Status.BAD_MEASUREMENT


def test_a_session_is_for_one_platform_only(vectors: dict[str, Any]) -> None:
    machine = Machine().up()
    start = sevtool(machine, vectors)
    machine.must(Cmd.PDH_GEN)

    assert machine(Cmd.LAUNCH_START, start) is Status.BAD_MEASUREMENT


MEASUREMENTS = [
    # origin                            api           policy  digest        mnonce    tik     measure
    ("AMDESE/sev-tool, tests.cpp", (0, 0x12, 0x0F), 0, hashlib.sha256().hexdigest(), "4fbe0bedbad6c86ae8f68971d103e554",
     "66320db73158a35a255d051758e95ed4", "6faab2daae389bcd3405a05d6cafe33c0414f7bedd0bae19ba5f38b7fd1664ea"),
    ("virtee/sevctl, tests/data/measurement", (1, 40, 40), 3, "c64bd101fc9a4a2ce0a27c408d9200911f139a895469b04a40a6fa2890830d23",
     "c313fab511c216b1505b1b2ea9903c40", "3569cf61a32a602b87185ac6e0f55913",
     base64.b64decode("lswbxWxI9gckya16JQvdFtpYmNO4b+3inAPpqsgoBI7DE/q1EcIWsVBbGy6pkDxA")[:32].hex()),
    ("AMDESE/sev-tool, run", (0, 0x18, 0x0F), 5, hashlib.sha256(b"sevlab").hexdigest(), "00" * 16,
     "8be342e2e4cd18d7d7b332ad674284d3", "025c88649f237e228671429e70b89abb2d1e58c2809dba5c7cf4fd9578f0c142"),
    ("virt-qemu-sev-validate, ES policy 5, 2 vCPUs", (0, 24, 15), 5, LD_OVMF.hex(), bytes(range(0xA0, 0xB0)).hex(),
     bytes(range(0x20, 0x30)).hex(), base64.b64decode("gjn1k1nj1c1fn2GBtvCqpV2jSjjxSwJbiB0HQKQzBWmg")[:32].hex()),
]  # fmt: skip


@pytest.mark.parametrize("given", MEASUREMENTS, ids=lambda given: given[0])
def test_a_measurement_is_the_one_that_the_owners_tool_expects(given: tuple[Any, ...]) -> None:
    """Origin: the first column; collected in firmware.md 4.12."""
    _, api, policy, digest, mnonce, tik, measure = given

    sealed = channel.measure(bytes.fromhex(tik), api, policy, bytes.fromhex(digest), bytes.fromhex(mnonce))

    assert sealed.measure.hex() == measure
    assert sealed.mnonce.hex() == mnonce


def test_the_measurement_of_two_real_tools_end_to_end_and_of_old_firmware(vectors: dict[str, Any]) -> None:
    """Origin: e2e_es2: Debian's OVMF, sev-snp-measure 0.0.9 and virt-qemu-sev-validate."""
    given, tik = vectors["e2e_es2"], bytes.fromhex(vectors["session_sevtool"]["tik"])
    digest, mnonce = bytes.fromhex(given["ld"]), bytes.fromhex(given["mnonce"])

    now = channel.measure(tik, tuple(given["api"]), given["policy"], digest, mnonce)  # type: ignore[arg-type]
    before = channel.measure(tik, (0, 16, 15), given["policy"], digest, mnonce)

    assert base64.b64encode(now.pack()).decode() == given["b64"]
    assert before.measure.hex() == given["measure_api_lt_0_17"]


def secret_guest(vectors: dict[str, Any], api: tuple[int, int, int] = (0, 24, 15)) -> tuple[Machine, sev.Packet]:
    """A guest with sev-tool's keys and the end-to-end measurement, and the packet made for it."""
    given, machine = vectors["launch_secret"], Machine(api=api).up()
    handle = machine.guest(state=GuestState.LSECRET)
    guest = machine.psp.guests[handle]
    guest.tek, guest.tik = (bytes.fromhex(vectors["session_sevtool"][key]) for key in ("tek", "tik"))
    guest.measure = bytes.fromhex(given["measure"])
    packet = bytes.fromhex(given["ciphertext"])
    machine.dram.write(HEADER, bytes.fromhex(given["hdr"]))
    machine.dram.write(PACKET, packet)
    return machine, sev.Packet(
        handle, hdr_paddr=HEADER, hdr_len=52, guest_paddr=DATA, guest_len=len(packet), trans_paddr=PACKET, trans_len=len(packet)
    )


def test_a_secret_packet_of_the_model_arrives_in_the_guest(vectors: dict[str, Any]) -> None:
    """Origin: launch_secret, made by an independent model for the measurement of e2e_es2."""
    machine, packet = secret_guest(vectors)

    machine.must(Cmd.LAUNCH_SECRET, packet)

    guest = machine.psp.guests[packet.handle]
    assert machine.soc.engine.read(guest.asid, DATA, packet.guest_len).hex() == vectors["launch_secret"]["plaintext"]


def test_old_firmware_does_not_bind_a_secret_to_the_measurement(vectors: dict[str, Any]) -> None:
    """Origin: launch_secret, mac_api_lt_0_17."""
    machine, packet = secret_guest(vectors, api=(0, 16, 0))
    assert machine(Cmd.LAUNCH_SECRET, packet) is Status.BAD_MEASUREMENT

    header = PacketHeader.unpack(bytes.fromhex(vectors["launch_secret"]["hdr"]))
    machine.dram.write(HEADER, header.replace(mac=bytes.fromhex(vectors["launch_secret"]["mac_api_lt_0_17"])).pack())

    machine.must(Cmd.LAUNCH_SECRET, packet)


def test_the_header_that_sevctl_packs_has_the_mac_the_firmware_asks_for() -> None:
    """Origin: virtee/sevctl tests/data/secret: keys, iv, measurement, plaintext and header."""
    tik, tek = bytes.fromhex("c6d5a9956133050912b24bbe5c372686"), bytes.fromhex("52a869b79ab9c13bb6a92b0561619cb3")
    measure = base64.b64decode("TLeA7607lZQntLjRY1/i+sbtdSZ+75zxpz4Px9hzpBLwItF5Q2o4prA++3ZZv9ZS")[:32]
    plaintext = bytes.fromhex(
        "42f5741edd71664d963eef4287ff173b3a000000e5696873f084734992ec06879ce3da0b260000004d592d4c554b532d50415353504852415345000000000000"
    )
    header = PacketHeader.unpack(
        bytes.fromhex("00000000ac5474ed4dd32c7d989ec523d92559ecbc152cde610e17f0aef557334a2d4fca42c22c4312e3b5b85a3d47b0aac857e5")
    )
    packet = crypto.aes_ctr(tek, header.iv, plaintext)

    assert channel.secret_mac(tik, (1, 40, 40), header, len(packet), len(packet), packet, measure) == header.mac


def test_the_mac_of_a_secret_that_sev_tool_packed() -> None:
    """Origin: AMDESE/sev-tool, run: `HELLOooo12345678` for the measurement of policy 5 and LD = sha256("sevlab")."""
    tek, tik = (bytes.fromhex(key) for key in ("e09ffcb3914c68151e83bd999ac61537", "8be342e2e4cd18d7d7b332ad674284d3"))
    measure = bytes.fromhex("025c88649f237e228671429e70b89abb2d1e58c2809dba5c7cf4fd9578f0c142")
    header = PacketHeader.unpack(
        bytes.fromhex("00000000f0135170a0f475f30825b15df931b8765ba2d811b5cc8e86b62899980666789dfbb279d091037beb073a64e336a30203")
    )
    packet = bytes.fromhex("91462fef378e19ae7fc09c0dba1aa8b4")

    assert crypto.aes_ctr(tek, header.iv, packet) == b"HELLOooo12345678"
    assert channel.secret_mac(tik, (0, 24, 15), header, 16, 16, packet, measure) == header.mac


# ------------------------------------------------- both ends


def test_the_keys_an_owner_wraps_are_the_keys_the_firmware_finds() -> None:
    machine = Machine().up()
    pdh = machine.psp.keys.pdh
    assert pdh is not None

    handle = machine.start(policy=1, session=True)

    assert (machine.psp.guests[handle].tek, machine.psp.guests[handle].tik) == (TEK, TIK)


def test_a_nonce_that_the_host_exchanges_spoils_the_session() -> None:
    machine = Machine().up()
    pdh = machine.psp.keys.pdh
    assert pdh is not None
    z = crypto.ecdh(0x5EC0ED, pdh.cert.public)
    session = owner_session(pdh.cert, 0)
    assert channel.unwrap(z, session) == (TEK, TIK)

    with pytest.raises(Refused) as no:
        channel.unwrap(z, session.replace(nonce=bytes(16)))
    assert no.value.status is Status.BAD_MEASUREMENT


@pytest.mark.parametrize("made_with", [{"tik": bytes(16)}, {"tek": bytes(16)}])
def test_sessions_of_other_keys_open_to_those_keys(made_with: dict[str, bytes]) -> None:
    machine = Machine().up()
    handle = machine.must(Cmd.LAUNCH_START, machine.with_session(1, **made_with)).handle

    guest = machine.psp.guests[handle]
    assert {"tek": guest.tek, "tik": guest.tik} == {"tek": TEK, "tik": TIK} | made_with
