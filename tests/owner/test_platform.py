"""Owner and firmware, two implementations of one protocol: what the one seals the other opens."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from sevlab import owner
from sevlab.abi import sev
from sevlab.abi.sev import Cmd, Status
from sevlab.crypto import Stream
from sevlab.hw.soc import Soc
from sevlab.psp import kds
from sevlab.psp.firmware import Psp
from sevlab.trace import Trace
from sevlab.wire import Wire

IMAGE = bytes(range(256)) * 32
COMMAND, OUT, GODH, SESSION, GUEST, HEADER, TRANS = (0x1000 * page for page in (1, 2, 3, 4, 16, 32, 33))
ASID = 200


class Machine(NamedTuple):
    """A platform that was brought up, and the mailbox a carrier of messages has."""

    soc: Soc
    psp: Psp

    def ask(self, cmd: Cmd, buffer: Wire | None = None) -> int:
        """One command: its status; `buffer` is read back in place."""
        if buffer is None:
            return self.psp.mailbox(cmd, 0)
        self.soc.dram.write(COMMAND, buffer.pack())
        status = self.psp.mailbox(cmd, COMMAND)
        buffer.load(self.soc.dram.read(COMMAND, buffer.SIZE))
        return status

    def start(self, session: owner.OwnerSession, policy: int) -> tuple[int, int]:
        """LAUNCH_START with what the owner sent: (status, handle)."""
        self.soc.dram.write(GODH, session.godh)
        self.soc.dram.write(SESSION, session.session)
        command = sev.LaunchStart(policy=policy, dh_cert_paddr=GODH, dh_cert_len=2084, session_paddr=SESSION, session_len=128)
        return self.ask(Cmd.LAUNCH_START, command), command.handle

    def measure(self, handle: int, image: bytes) -> bytes:
        """ACTIVATE, LAUNCH_UPDATE_DATA of an image, LAUNCH_MEASURE: the blob."""
        self.soc.dram.write(GUEST, image)
        assert self.ask(Cmd.ACTIVATE, sev.Activate(handle, ASID)) == Status.SUCCESS
        assert self.ask(Cmd.LAUNCH_UPDATE_DATA, sev.LaunchUpdateData(handle, paddr=GUEST, len=len(image))) == Status.SUCCESS
        assert self.ask(Cmd.LAUNCH_MEASURE, sev.LaunchMeasure(handle, paddr=OUT, len=48)) == Status.SUCCESS
        return bytes(self.soc.dram.read(OUT, 48))

    def secret(self, handle: int, header: bytes, ciphertext: bytes) -> int:
        """LAUNCH_SECRET to the guest's first page: the status."""
        self.soc.dram.write(HEADER, header)
        self.soc.dram.write(TRANS, ciphertext)
        lengths = {"guest_len": len(ciphertext), "trans_len": len(ciphertext)}
        packet = sev.LaunchSecret(handle, hdr_paddr=HEADER, hdr_len=len(header), guest_paddr=GUEST, trans_paddr=TRANS, **lengths)
        return self.ask(Cmd.LAUNCH_SECRET, packet)


def machine(seed: int = 7, api: tuple[int, int, int] = (0, 24, 15)) -> Machine:
    """A Rome platform, up and with clean key slots."""
    soc = Soc("rome", Stream(seed), Trace(), 1 << 20)
    made = Machine(soc, Psp(soc, api=api))
    assert made.ask(Cmd.INIT, sev.Init()) == Status.SUCCESS
    soc.wbinvd()
    assert made.ask(Cmd.DF_FLUSH) == Status.SUCCESS
    return made


@pytest.fixture
def host() -> Machine:
    """Such a platform, seed 7."""
    return machine()


def export(host: Machine) -> dict[str, bytes]:
    """PDH_CERT_EXPORT: PDH, and PEK, OCA, CEK as the platform itself gives them out."""
    command = sev.PdhCertExport(pdh_paddr=OUT, pdh_len=2084, chain_paddr=GUEST, chain_len=3 * 2084)
    assert host.ask(Cmd.PDH_CERT_EXPORT, command) == Status.SUCCESS
    chain = bytes(host.soc.dram.read(GUEST, 3 * 2084))
    names = {name: chain[at : at + 2084] for name, at in (("pek", 0), ("oca", 2084), ("cek", 4168))}
    return names | {"pdh": bytes(host.soc.dram.read(OUT, 2084))}


# ------------------------------------------------------------- who is it


@pytest.mark.parametrize("seed", [1, 7])
def test_an_emulated_platform_is_trusted_up_to_its_emulated_root(seed: int) -> None:
    host = machine(seed)
    verdict = owner.verify_chain(kds.chain(host.psp))

    assert verdict and verdict.emulated
    assert owner.verify_chain(kds.chain(host.psp) | {"pdh": export(host)["pdh"]})


def test_what_a_platform_exports_itself_has_no_signed_cek(host: Machine) -> None:
    verdict = owner.verify_chain(kds.chain(host.psp) | export(host))

    assert verdict.reason.startswith("usage 0x1000 means this slot is empty")


def test_another_machines_cek_does_not_vouch_for_this_one(host: Machine) -> None:
    verdict = owner.verify_chain(kds.chain(host.psp) | {"cek": kds.chain(machine(8).psp)["cek"]})

    assert "the CEK is another chip's" in verdict.reason


# ------------------------------------------------------------- the whole way


@pytest.mark.parametrize("shape", ["sevctl", "sev-tool"])
@pytest.mark.parametrize("api", [(0, 16, 3), (0, 17, 0), (0, 24, 15), (1, 55, 25)])
def test_a_launch_from_chain_to_secret(shape: str, api: tuple[int, int, int]) -> None:
    host = machine(api=api)
    session = owner.new_session(export(host)["pdh"], 1, seed=3, shape=shape)
    status, handle = host.start(session, 1)
    assert status == Status.SUCCESS

    blob = host.measure(handle, IMAGE)
    assert owner.check_measurement(blob, digest=owner.expected_digest(IMAGE), tik=session.tik, policy=1, api=api)

    table = owner.secret_table({"luks-key": b"open sesame"})
    assert host.secret(handle, *owner.wrap_secret(session.tek, session.tik, blob, table, api=api)) == Status.SUCCESS
    assert owner.secret_entries(host.soc.engine.read(ASID, GUEST, len(table)))[0][1] == b"open sesame"
    assert bytes(host.soc.dram.read(GUEST, len(table))) != table


def test_a_secret_for_one_launch_does_not_open_in_the_next(host: Machine) -> None:
    session = owner.new_session(export(host)["pdh"], 1, seed=3)
    first = host.start(session, 1)[1]
    old = host.measure(first, IMAGE)
    for cmd, command in ((Cmd.DEACTIVATE, sev.Deactivate(first)), (Cmd.DECOMMISSION, sev.Decommission(first))):
        assert host.ask(cmd, command) == Status.SUCCESS
    host.soc.wbinvd()
    assert host.ask(Cmd.DF_FLUSH) == Status.SUCCESS

    second = host.start(session, 1)[1]
    assert host.measure(second, IMAGE) != old
    assert host.secret(second, *owner.wrap_secret(session.tek, session.tik, old, b"sixteen bytes !!")) == Status.BAD_MEASUREMENT
    assert host.soc.engine.read(ASID, GUEST, 16) == IMAGE[:16]


# ------------------------------------------------------------- what goes wrong on the way


@pytest.mark.parametrize(
    ("policy", "status"),
    [
        (0, Status.BAD_MEASUREMENT),
        (5, Status.BAD_MEASUREMENT),
        (0x41, Status.BAD_MEASUREMENT),
        (0xFF000001, Status.BAD_MEASUREMENT),
    ],
)
def test_a_host_that_changes_the_policy_is_refused_by_the_firmware(policy: int, status: Status, host: Machine) -> None:
    session = owner.new_session(export(host)["pdh"], 1, seed=3)

    assert host.start(session, policy) == (status, 0)


def test_a_policy_that_asks_for_newer_firmware_is_refused_although_its_mac_fits(host: Machine) -> None:
    policy = 0xFF000001
    session = owner.new_session(export(host)["pdh"], policy, seed=3)

    assert host.start(session, policy)[0] == Status.POLICY_FAILURE


def test_a_session_for_another_platform_is_refused(host: Machine) -> None:
    session = owner.new_session(export(machine(8))["pdh"], 1, seed=3)

    assert host.start(session, 1)[0] == Status.BAD_MEASUREMENT


def test_a_changed_image_is_noticed_when_the_owner_looks_and_not_before(host: Machine) -> None:
    session = owner.new_session(export(host)["pdh"], 1, seed=3)
    handle = host.start(session, 1)[1]
    evil = b"\x90" + IMAGE[1:]
    blob = host.measure(handle, evil)

    arguments: dict[str, Any] = {"digest": owner.expected_digest(IMAGE), "tik": session.tik, "policy": 1}
    assert "it fits no launch" in owner.check_measurement(blob, **arguments).reason
    verdict = owner.check_measurement(blob, **arguments, others={"of the evil image": owner.expected_digest(evil)})
    assert verdict.reason == "it is no measurement of the launch expected, but of one of the evil image"


def test_a_launch_without_the_session_is_measured_under_the_key_of_zeros(host: Machine) -> None:
    session = owner.new_session(export(host)["pdh"], 1, seed=3)
    command = sev.LaunchStart(policy=1)
    assert host.ask(Cmd.LAUNCH_START, command) == Status.SUCCESS
    blob = host.measure(command.handle, IMAGE)

    lazy, careful = (
        owner.check_measurement(blob, digest=owner.expected_digest(IMAGE), tik=tik, policy=1) for tik in (bytes(16), session.tik)
    )
    assert lazy and not careful
    assert "with the key of zeros, which a launch without a session has" in careful.reason


@pytest.mark.parametrize("api", [(0, 16, 3), (0, 24, 14)])
def test_older_firmware_than_it_says_is_noticed(api: tuple[int, int, int]) -> None:
    host = machine(api=api)
    session = owner.new_session(export(host)["pdh"], 1, seed=3)
    blob = host.measure(host.start(session, 1)[1], IMAGE)
    verdict = owner.check_measurement(blob, digest=owner.expected_digest(IMAGE), tik=session.tik, policy=1, api=(0, 24, 15))

    assert ("by the rule of API 0.16 and older" if api < (0, 17) else "the firmware is 0.24 build 14") in verdict.reason
