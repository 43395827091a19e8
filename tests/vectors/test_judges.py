"""The judges' own bench: what an absent one means."""

from __future__ import annotations

from pathlib import Path

import judges
import pytest


def without(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As on a machine where that judge was never installed."""
    monkeypatch.setattr(judges, name, Path("/nowhere"))


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("VALIDATE", lambda: judges.virt_qemu_sev_validate([])),
        ("JUDGES", lambda: judges.sev_snp_measure("0.0.13", [])),
        ("OVMF", judges.ovmf),
    ],
)
def test_an_absent_judge_is_a_skip_except_where_every_tool_was_promised(name: str, ask, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    without(monkeypatch, name)
    monkeypatch.delenv("SEVLAB_REQUIRE_TOOLS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="not installed"):
        ask()

    monkeypatch.setenv("SEVLAB_REQUIRE_TOOLS", "1")
    with pytest.raises(pytest.fail.Exception, match=r"SEVLAB_REQUIRE_TOOLS=1, but .* is not installed"):
        ask()


def test_another_build_of_the_firmware_is_no_judge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "OVMF.fd").write_bytes(bytes(4096))
    monkeypatch.setattr(judges, "OVMF", tmp_path / "OVMF.fd")
    monkeypatch.delenv("SEVLAB_REQUIRE_TOOLS", raising=False)

    with pytest.raises(pytest.skip.Exception, match="is another build"):
        judges.ovmf()


def test_a_judge_sees_none_of_our_paths_but_those_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    shell = ["/bin/sh", "-c", "echo ${PYTHONPATH-none}"]

    assert judges.run(shell).stdout == "none\n"
    assert judges.run(shell, env={"PYTHONPATH": "/given"}).stdout == "/given\n"
