"""What a card reveals only looks: the machine is the same whether or not a question was asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sevlab import Host, lab

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]


def entries(names: dict[str, Any]) -> list[tuple[int, int]]:
    """Every machine of a notebook, by identity, and how many entries its journal has."""
    held = [getattr(value, "host", value) for value in list(names.values())]
    return sorted({(id(one), one.n) for one in held if isinstance(one, Host)})


def run(name: str, folder: Path, names: dict[str, Any]) -> None:
    """The cells of a lab up to its exercises, in a plain Python."""
    for cell in json.loads((ROOT / f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code" and not cell["id"].startswith("ex-"):
            file = folder / f"{cell['id']}.py"  # a guest is measured by its source, which must be somewhere
            file.write_text("".join(cell["source"]), encoding="utf-8")
            exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), names)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_reveal_makes_no_entry_in_the_journal_of_any_machine_of_its_lab(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    acted: list[str] = []
    asked = 0
    predict = lab.predict

    def watched(question: str, *given: Any, reveal: Callable[[], Any], **more: Any) -> Any:
        nonlocal asked
        before = entries(names)
        card = predict(question, *given, reveal=reveal, **more)
        asked += 1
        if entries(names) != before:
            acted.append(question)
        return card

    monkeypatch.setattr(lab, "predict", watched)
    run(name, tmp_path, names)

    assert asked > 5 and entries(names)
    assert acted == []
