"""What the widget tests share: a machine without a machine, and one real JupyterLab with one Chromium.

    def test_...(machine):           machine() is a host that a test makes up
    def test_...(sent):              sent(widget) is the list of messages a view would get
    @pytest.mark.ui
    def test_...(notebook, shot):    notebook(cells) runs them in a browser; shot(widget, name) keeps a picture

The helpers stand beside this file and are loaded by path: the folder `widgets` of
the project itself would hide them as a package.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import judges
import pytest
from front_end import helper

HERE = Path(__file__).parent
ARTIFACTS = HERE / "artifacts"
helper("machine")
MACHINE = f"exec(open({str(HERE / 'machine.py')!r}).read())"  # the first cell of a notebook that makes up its host


@pytest.fixture
def rig() -> ModuleType:
    """lab_server.py itself."""
    return helper("lab_server")


@pytest.fixture
def machine() -> Callable[..., Any]:
    """Makes hosts out of nothing."""
    return helper("machine").Machine  # type: ignore[no-any-return]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[tuple[dict[str, Any], list[bytes]]]]:
    """Lets somebody look at a widget, and gives the list to which its messages go."""

    def look(widget: Any, *, width: int = 800, size: str = "M") -> list[tuple[dict[str, Any], list[bytes]]]:
        messages: list[tuple[dict[str, Any], list[bytes]]] = []
        monkeypatch.setattr(type(widget), "send", lambda self, content, buffers=None: messages.append((content, buffers or [])))
        widget.got_ready("view-1", width, size)
        return messages

    return look


# ------------------------------------------------------------- the browser


@pytest.fixture
def notebook(lab: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Opens notebooks of the cells given (`Machine` is there), runs them, and closes them when the test is over.

    Afterwards no page may have asked anybody else for anything, and no widget may have complained.
    """
    books: list[Any] = []
    said: list[str] = []

    def hear(message: Any) -> None:
        if message.type == "error" and "blob:" in str(message.location) + message.text:
            said.append(message.text)

    def open_one(*cells: str, run: bool = True, on: Any = lab, **options: Any) -> Any:
        cells = (MACHINE, *cells)
        name = re.sub(r"\W+", "-", request.node.name)[-60:] + f"-{len(books)}"
        book = on.open(name, cells, **options)
        book.page.on("console", hear)
        books.append(book)
        return book.run() if run else book

    yield open_one
    for book in books:
        book.close()
        book.page.remove_listener("console", hear)
        assert book.lab.foreign() == []
    assert said == []


@pytest.fixture
def shot() -> Callable[[Any, str], Path]:
    """Keeps a picture of a widget, light and dark, among the artefacts (which git ignores); of a size, where light says all."""

    def keep(book: Any, name: str, index: int = 0, *, dark: bool = True) -> Path:
        ARTIFACTS.mkdir(exist_ok=True)
        if not dark:
            book.page.locator(".sl").nth(index).screenshot(path=ARTIFACTS / f"{name}-light.png")
            return ARTIFACTS / f"{name}-light.png"
        focused = book.page.evaluate_handle("document.activeElement")  # a new theme's splash takes the focus
        for theme in ("light", "dark"):
            book.theme(theme)
            book.page.locator(".sl").nth(index).screenshot(path=ARTIFACTS / f"{name}-{theme}.png")
        book.theme("light")
        focused.evaluate("(element) => element.focus({ preventScroll: true })")
        return ARTIFACTS / f"{name}-light.png"

    return keep


@pytest.fixture
def violations() -> Callable[[Any], list[str]]:
    """What axe-core finds wrong in a book's output areas; skipped where it is absent."""
    axe = helper("axe")
    if not axe.FILE.is_file():
        judges.absent(f"axe-core {axe.VERSION} is not in {axe.FILE.parent} (make judges, or python tests/widgets/axe.py)")
    return lambda book: axe.violations(book.page)
