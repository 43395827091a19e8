"""The performance page is made of what the benchmarks wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sevlab.lab import performance

FIGURES = [
    {"name": "seal 1 MiB / ECB | SHA-256", "ratio": 1.0349, "goal": 1.25, "verdict": "ok", "ours": 1e-3, "limit": 1e-3, "note": ""},
    {"name": "against swtpm", "ratio": None, "goal": 6.0, "verdict": "absent", "ours": 0.0, "limit": 0.0, "note": "not here"},
]


def test_ratios_are_in_the_page_and_seconds_are_not() -> None:
    lines = performance.page(FIGURES).splitlines()

    assert lines[-2].split(" | ")[-3:] == [" 1.03", "1.25", "ok      |"]
    assert lines[-1].split(" | ")[-3:] == ["     ", "6.00", "absent  |"]
    assert "ECB \\| SHA-256" in lines[-2] and "0.001" not in lines[-2]


def test_the_page_is_written_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(FIGURES))
    monkeypatch.setattr(performance, "PAGE", tmp_path / "performance.md")

    assert performance.main([str(tmp_path / "bench.json")]) == 0
    assert (tmp_path / "performance.md").read_text() == performance.page(FIGURES)


def test_without_a_file_it_says_how_it_wants_to_be_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert performance.main([]) == 2
    assert "make bench JSON=FILE" in capsys.readouterr().err
