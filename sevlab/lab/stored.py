"""How a notebook is kept in the repository: without outputs, but for the text that is checked.

    python -m sevlab.lab.stored notebooks/*.ipynb        # run them, keep the checked text, drop the rest

A cell tagged `nbval-check-output` keeps its text, which the tests compare with
what comes out: the text a reader sees is the text that is checked. All other
outputs, all counts (a checked cell's is 0) and what an editor left in the
metadata are dropped, so that a change of one line is a change of one line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHECKED = "nbval-check-output"
RUN = 0  # the count of a checked cell: nbval compares no cell that has none, and 0 is nobody's turn
LIVE = "application/vnd.jupyter.widget-view+json"
SECONDS = 120  # a cell may take
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
Notebook = dict[str, Any]


def tags(cell: dict[str, Any]) -> list[str]:
    """The tags of a cell."""
    return list(cell.get("metadata", {}).get("tags", []))


def normal(notebook: Notebook) -> Notebook:
    """The notebook as it is kept.

    Raises ValueError for a checked cell that shows more than text, or an error.
    """
    cells = []
    for cell in notebook["cells"]:
        kept = {key: cell[key] for key in ("cell_type", "id", "source")}
        kept["metadata"] = {"tags": tags(cell)} if tags(cell) else {}
        if cell["cell_type"] == "code":
            checked = CHECKED in tags(cell)
            kept["execution_count"] = RUN if checked else None
            kept["outputs"] = [_text(cell["id"], output) for output in _joined(cell["outputs"])] if checked else []
        cells.append(kept)
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def _joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The outputs with neighbouring pieces of one stream in one: where a busy computer cuts it is nobody's doing."""
    joined: list[dict[str, Any]] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output["output_type"] == last.get("output_type") == "stream" and output["name"] == last["name"]:
            joined[-1] = {**last, "text": "".join(last["text"]) + "".join(output["text"])}
        else:
            joined.append(output)
    return joined


def _text(cell: str, output: dict[str, Any]) -> dict[str, Any]:
    """One output of a checked cell, without its count."""
    if output["output_type"] == "stream" and output["name"] == "stdout":
        return {key: output[key] for key in ("name", "output_type", "text")}
    if LIVE in output.get("data", {}):  # a live widget is kept as the text it stands for
        output = {"output_type": "execute_result", "data": {"text/plain": output["data"]["text/plain"]}}
    if output["output_type"] == "execute_result" and set(output["data"]) == {"text/plain"}:
        return {"data": dict(output["data"]), "execution_count": None, "metadata": {}, "output_type": "execute_result"}
    shown = ", ".join(output.get("data", {})) or output.get("ename") or output.get("name", "")
    raise ValueError(f"cell {cell!r} is checked and must show text only, not {output['output_type']} ({shown})")


def text(notebook: Notebook) -> str:
    """The notebook as the bytes of its file: as JupyterLab writes it."""
    return json.dumps(_lines(notebook), ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def _lines(value: Any, key: str = "") -> Any:
    """Sources and texts as lists of lines, so that a diff is one of lines."""
    if isinstance(value, dict):
        return {name: _lines(one, name) for name, one in value.items()}
    if isinstance(value, list) and key not in ("source", "text", "text/plain"):
        return [_lines(one) for one in value]
    if isinstance(value, str) and key in ("source", "text", "text/plain"):
        return value.splitlines(keepends=True)
    return value


def execute(path: Path) -> Notebook:
    """The notebook at `path`, run from top to bottom in a fresh kernel. Raises nbclient's CellExecutionError."""
    import nbformat
    from nbclient import NotebookClient

    notebook: Any = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(path.parent)}}).execute()
    return dict(notebook)


def main(paths: Sequence[str]) -> int:
    """Run the notebooks of these paths and write each as it is kept."""
    for name in paths:
        path = Path(name)
        path.write_text(text(normal(execute(path))), encoding="utf-8")
        print(f"{path}: run and stored")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
