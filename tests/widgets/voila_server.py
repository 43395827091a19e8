"""voila, as a reader runs it: `voila --template=sevlab NOTEBOOK`, from an environment of its own (make judges).

    with Voila(folder, browser) as voila:
        page = voila.render("name", ["from sevlab_widgets import PageMap", "PageMap(count=64)"])

The template is copied to where the wheel puts it. The kernel is this Python's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import judges
from front_end import helper

VERSION = "0.5.13"
PYTHON = judges.JUDGES / f"voila-{VERSION}" / "bin" / "python"
TEMPLATE = judges.ROOT / "widgets" / "voila"
TOKEN = "t"


class Voila:
    """A running voila that serves the notebooks of a folder; `asked` are the addresses that its pages asked for."""

    def __init__(self, folder: Path, browser: Any, template: str = "sevlab") -> None:
        lab_server = helper("lab_server")
        self.folder = folder
        self.browser = browser
        self.asked: list[str] = []
        self.notebook = lab_server.notebook
        lab_server.install_kernel(folder)
        shutil.copytree(TEMPLATE, folder / "data/voila/templates/sevlab")
        (folder / "work").mkdir()
        port = lab_server.free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            str(PYTHON), "-m", "voila", str(folder / "work"), f"--template={template}", "--no-browser",
            "--Voila.ip=127.0.0.1", f"--port={port}", "--Voila.port_retries=0", f"--token={TOKEN}", "--show_tracebacks=True",
        ]  # fmt: skip
        self._server = lab_server.started(command, folder, f"{self.url}/voila/tree/?token={TOKEN}")

    def __enter__(self) -> Self:
        self._window = self.browser.new_context(viewport={"width": 1100, "height": 1000})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._window.close()
        self._server.terminate()
        self._server.wait(20)

    def page(self, path: str) -> Any:
        """A page of this server, in a tab of its own."""
        page = self._window.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("websocket", lambda socket: self.asked.append(socket.url))
        page.route(lambda url: urlsplit(url).netloc != urlsplit(self.url).netloc, lambda route: route.abort())
        page.goto(f"{self.url}/{path}?token={TOKEN}")
        return page

    def render(self, name: str, cells: Sequence[str]) -> Any:
        """A notebook of these cells, run and shown as a page; once its first widget has drawn something."""
        (self.folder / "work" / f"{name}.ipynb").write_text(json.dumps(self.notebook(cells)))
        page = self.page(f"voila/render/{name}.ipynb")
        page.locator(".sl[data-seq]:not([data-seq='-1'])").first.wait_for()
        return page

    def foreign(self) -> list[str]:
        """The addresses asked for that are not this server's, nor made by a page itself."""
        ours = urlsplit(self.url).netloc
        return [url for url in self.asked if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).netloc != ours]
