"""The book builds without a network and without a warning, and its pages ask nobody for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import judges
import pytest

MODULES = ("sphinx", "myst_nb", "pydata_sphinx_theme")
LABS = tuple(path.stem for path in sorted((judges.ROOT / "notebooks").glob("*.ipynb")))
PAGES = ("index", *LABS, "reference/coverage", "reference/limitations", "reference/performance")


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = [name for name in MODULES if find_spec(name) is None]
    if missing:
        judges.absent(f"{', '.join(missing)} not installed in this Python (pip install 'sevlab[docs]')")
    out = tmp_path_factory.mktemp("book")
    command = [
        *(sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"),
        *("-c", judges.ROOT / "notebooks/.book", "-d", out / "doctrees", judges.ROOT / "notebooks", out / "html"),
    ]
    env = os.environ | {"PYTHONPATH": str(judges.ROOT), "IPYTHONDIR": str(out), "PYTHONWARNINGS": "ignore"}
    answer = subprocess.run([str(word) for word in command], env=env, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    return out / "html"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_there_and_fetches_nothing_from_elsewhere(book: Path, page: str) -> None:
    text = (book / f"{page}.html").read_text(encoding="utf-8")

    fetched = re.findall(r'<(?:script|link|img|iframe)[^>]*?(?:src|href)="(https?:[^"]+)"', text)
    assert fetched == []


@pytest.mark.slow
def test_the_lab_stands_in_the_book_run_from_top_to_bottom(book: Path) -> None:
    text = (book / "01_launch.html").read_text(encoding="utf-8")

    assert text.count('class="sevlab-card"') == 12
    assert "unlocked, thank you" in text and "Traceback" not in text


@pytest.mark.slow
def test_the_front_page_leads_to_every_lab(book: Path) -> None:
    text = (book / "index.html").read_text(encoding="utf-8")

    labs = [path.stem for path in (judges.ROOT / "notebooks").glob("*.ipynb")]
    assert labs and all(f'href="{lab}.html"' in text for lab in labs)
