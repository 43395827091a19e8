"""The foreign checker as a lesson asks it: content, not content, and absent."""

from __future__ import annotations

from pathlib import Path

import judges
import pytest

from sevlab import Host, guest, vmm
from sevlab.lab import flip, foreign_verdict, real_image_verdict
from sevlab.lab import foreign as module
from sevlab.owner import OwnerSession

IMAGE = guest.firmware_image()


def ask(vm: vmm.Vm, session: OwnerSession, **changes: object) -> module.ForeignVerdict:
    asked = {"firmware": IMAGE, "kernel": guest.read_secret.image(), "session": session, "policy": 1} | changes
    return foreign_verdict(vm.measurement, **asked)  # type: ignore[arg-type]


@pytest.fixture
def tool() -> None:
    if not judges.VALIDATE.is_file():
        judges.absent(f"{judges.VALIDATE} is not installed (Debian: libvirt-clients-qemu)")


@pytest.mark.judge
def test_libvirts_tool_is_content_with_the_courses_own_launch(tool: None, vm: vmm.Vm, session: OwnerSession) -> None:
    verdict = ask(vm, session)

    assert verdict.content and repr(verdict).endswith("(exit status 0)")


@pytest.mark.judge
@pytest.mark.parametrize(
    "changes",
    [{"firmware": flip(IMAGE, 99)}, {"policy": 3}, {"kernel": None}, {"api": (0, 24, 16)}, {"append": "debug"}, {"initrd": b"x"}],
    ids=lambda change: next(iter(change)),
)
def test_libvirts_tool_refuses_what_was_not_launched(
    tool: None, vm: vmm.Vm, session: OwnerSession, changes: dict[str, object]
) -> None:
    verdict = ask(vm, session, **changes)

    assert (verdict.status, verdict.content) == (1, False)


@pytest.mark.judge
def test_libvirts_tool_is_content_with_a_real_image(tool: None, host: Host) -> None:
    judges.ovmf()
    before = set(host.processes)

    assert real_image_verdict(host).content
    assert set(host.processes) == before


def test_an_absent_tool_is_a_plain_sentence_and_no_failure(
    vm: vmm.Vm, session: OwnerSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    verdict = ask(vm, session)

    assert not verdict.content and verdict.status is None
    assert repr(verdict) == f"{module.TOOL} is not installed on this machine (Debian: libvirt-clients-qemu): nobody else was asked."


def test_an_absent_image_is_a_plain_sentence_and_no_launch(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OVMF", Path("/nowhere"))
    before = host.trace.seq

    assert "is not installed on this machine" in repr(real_image_verdict(host))
    assert host.trace.seq == before


def test_a_tool_that_says_nothing_is_quoted_as_saying_nothing(
    vm: vmm.Vm, session: OwnerSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / module.TOOL
    script.write_text("raise SystemExit(6)\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "PYTHON", __import__("sys").executable)

    assert repr(ask(vm, session)) == f"{module.TOOL} says: nothing (exit status 6)"
