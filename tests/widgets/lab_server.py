"""One real JupyterLab and one headless Chromium for all tests of a session.

    with Lab.start(folder) as lab:
        book = lab.open("name", ["from sevlab_widgets import PageMap", "PageMap(count=64)"])
        book.run()
        book.page.locator(".sl").screenshot(path=...)

The server runs in a folder of its own: no configuration, setting or kernel of
whoever runs the tests is read or changed. Each page keeps the addresses it asked
for, so that a test can say that none was foreign.

To open JupyterLab costs three seconds, to open a notebook in it half a second: a window is
kept for the next notebook, unless the browser was asked for something special.

The kernel is always this Python's; the server is too, unless another `python` is named.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import judges

TOKEN = "t"
SECONDS = 60
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
QUIET = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}


def missing() -> str:
    """What a UI test lacks here, in words; "" when all is there."""
    absent = [name for name in ("jupyterlab", "anywidget", "playwright", "ipykernel") if find_spec(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed in this Python"
    return "" if chromium() else "no Chromium in the PATH (Debian: chromium)"


def chromium() -> str | None:
    """The browser's path: SEVLAB_CHROMIUM, or the first of the usual names."""
    return os.environ.get("SEVLAB_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def notebook(cells: Sequence[str], kernel: str = "sevlab-test") -> dict[str, Any]:
    """A notebook of code cells, as JSON."""
    code = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "execution_count": None, "outputs": [], "source": text}
        for i, text in enumerate(cells)
    ]
    spec = {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}, "language_info": {"name": "python"}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": spec, "cells": code}


def install_kernel(folder: Path) -> None:
    """This very Python, as the kernel "sevlab-test" of a server that lives in `folder`."""
    spec = folder / "data/kernels/sevlab-test"
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    env = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONHASHSEED": "0"}
    (spec / "kernel.json").write_text(
        json.dumps({"argv": command, "display_name": "sevlab-test", "language": "python", "env": env})
    )


def started(command: Sequence[str], folder: Path, url: str) -> subprocess.Popen[bytes]:
    """A server that lives in `folder`, once it answers at `url`. Raises RuntimeError with its log where it does not."""
    folders = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython",
        "JUPYTERLAB_SETTINGS_DIR": "user-settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "MPLCONFIGDIR": "mpl",
    }  # fmt: skip
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "JUPYTER_PATH", "SEVLAB_STATIC")}
    env |= {key: str(folder / name) for key, name in folders.items()}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return server
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.1)
    server.kill()
    raise RuntimeError(f"{' '.join(command[:3])} did not start:\n{(folder / 'server.log').read_text()[-2000:]}")


class Lab:
    """A running JupyterLab and the browser in front of it."""

    def __init__(
        self,
        folder: Path,
        *,
        subshells: bool = False,
        dark: bool = False,
        browser: Any = None,
        python: str | Path = sys.executable,
    ) -> None:
        """`subshells`: comms on threads of their own, as where nobody says otherwise. `browser` lends another Lab's.

        `python` runs the server, and may have another JupyterLab than this one.
        """
        self.folder = folder
        self.dark = dark
        self.python = python
        self.idle: list[Any] = []  # windows that wait for the next notebook
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.asked: list[str] = []  # every address that a page has asked for
        self._configure(subshells, dark)
        self._server = self._start()
        self._playwright: Any = None
        self.browser = browser

    def _configure(self, subshells: bool, dark: bool) -> None:
        settings = self.folder / "share/jupyter/lab/settings/overrides.d"
        settings.mkdir(parents=True)
        comms = {"commsOverSubshells": "perCommTarget" if subshells else "disabled"}
        theme = {"@jupyterlab/apputils-extension:themes": {"theme": "JupyterLab Dark" if dark else "JupyterLab Light"}}
        (self.folder / "user-settings").mkdir()
        for name, values in {**QUIET, "@jupyterlab/apputils-extension:kernels-settings": comms, **theme}.items():
            extension, _, plugin = name.partition(":")
            path = self.folder / "user-settings" / extension / f"{plugin}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        install_kernel(self.folder)
        (self.folder / "work").mkdir()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [
            str(self.python), "-m", "jupyterlab", "--allow-root", "--no-browser",
            "--ip=127.0.0.1", f"--port={self.port}",
            "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={self.folder / 'work'}",
            "--expose-app-in-browser", "--LabApp.extension_manager=readonly", "--LabApp.news_url=None",
        ]  # fmt: skip
        return started(command, self.folder, f"{self.url}/api?token={TOKEN}")

    def __enter__(self) -> Self:
        from playwright.sync_api import sync_playwright

        if self.browser is None:
            self._playwright = sync_playwright().start()
            self.browser = self._playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._playwright is not None:
            self.browser.close()
            self._playwright.stop()
        self._server.terminate()
        self._server.wait(20)

    def open(self, name: str, cells: Sequence[str], *, width: int = 1100, height: int = 1000, **context: Any) -> Book:
        """A new notebook of these cells, open in a window; `context` goes to the browser (reduced_motion, ...)."""
        return self.show(name, notebook(cells), width=width, height=height, **context)

    def show(self, name: str, stored: dict[str, Any], *, width: int = 1100, height: int = 1000, **context: Any) -> Book:
        """A stored notebook, whatever kernel it names, open in a window; `context` asks for a window of its own."""
        stored = {**stored, "metadata": notebook([])["metadata"]}
        (self.folder / "work" / f"{name}.ipynb").write_text(json.dumps(stored))
        if self.idle and not context:
            page = self.idle.pop()
            page.set_viewport_size({"width": width, "height": height})
            page.mouse.move(0, 0)
            return Book(self, page, name, shared=True).enter()
        window = self.browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **context)
        page = window.new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("websocket", lambda socket: self.asked.append(socket.url))
        return Book(self, page, name, shared=not context).load()

    def foreign(self) -> list[str]:
        """The addresses asked for that are not this server's, nor made by a page itself."""
        ours = urlsplit(self.url).netloc
        return [url for url in self.asked if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).netloc != ours]


class Book:
    """One notebook in one window."""

    def __init__(self, lab: Lab, page: Any, name: str, *, shared: bool = False) -> None:
        """`shared`: the window is left to the next notebook when this one is closed."""
        self.lab = lab
        self.page = page
        self.name = name
        self.shared = shared

    def load(self) -> Book:
        """Open the notebook, or open it again as after a browser reload: its kernel goes on."""
        self.page.goto(f"{self.lab.url}/lab/tree/{self.name}.ipynb?token={TOKEN}&reset")
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        self.js("async () => { await app.restored; await context().sessionContext.ready; app.shell.collapseLeft?.(); }")
        return self

    def enter(self) -> Book:
        """Open the notebook in a window where JupyterLab runs already."""
        self.js(
            """async (path) => {
                await app.commands.execute('docmanager:open', { path, factory: 'Notebook' });
                await context().ready;
                await context().sessionContext.ready;
            }""",
            f"{self.name}.ipynb",
        )
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        return self

    def js(self, function: str, argument: Any = None) -> Any:
        """The answer of a JavaScript function of the page, which knows `app` and `context()`; it has a minute."""
        return self.page.evaluate(
            f"""(argument) => {{
                const app = window.jupyterapp, context = () => app.shell.currentWidget.context;
                const late = new Promise((_, no) => setTimeout(() => no(new Error('no answer in {SECONDS} s')), {SECONDS * 1000}));
                return Promise.race([({function})(argument), late]);
            }}""",
            argument,
        )

    def run(self, *, wait: bool = True) -> Book:
        """Run all cells; with `wait`, until the last has its number."""
        job = "app.commands.execute('notebook:run-all-cells')"
        self.js(f"async () => {{ await {job}; }}" if wait else f"() => {{ {job}; }}")
        return self

    def save(self) -> Path:
        """Save the notebook as a reader would; the file."""
        self.js("async () => { await context().save(); }")
        return self.lab.folder / "work" / f"{self.name}.ipynb"

    def do(self, code: str, *, wait: bool = True) -> str:
        """Run one more piece of code in the notebook's kernel; what it printed. Without `wait`, "" at once."""
        said: str = self.js(
            """async ([code, wait]) => {
                const kernel = context().sessionContext.session.kernel;
                const future = kernel.requestExecute({ code, store_history: false });
                let said = '';
                future.onIOPub = (m) => {
                    if (m.header.msg_type === 'stream') said += m.content.text;
                    if (m.header.msg_type === 'error') said += m.content.traceback.join('\\n');
                };
                if (wait) await future.done;
                return said;
            }""",
            [code, wait],
        )
        return said

    def widget(self, index: int = 0) -> Any:
        """The widget of this number on the page, once it has drawn something."""
        found = self.page.locator(".sl").nth(index)
        found.wait_for()
        self.page.wait_for_function(
            "i => { const s = document.querySelectorAll('.sl')[i]?.dataset.seq; return s !== undefined && s !== '-1'; }", arg=index
        )
        return found

    def status(self, index: int = 0) -> str:
        """The status line of a widget."""
        return self.page.locator(".sl").nth(index).locator(".sl-status").inner_text()

    def theme(self, name: str) -> None:
        """Switch the whole lab to "light" or "dark", if it is not so already, and wait until the widgets have followed."""
        light = str(name == "light").lower()
        if self.page.evaluate("document.body.dataset.jpThemeLight") == light:
            return
        self.js(
            "async (name) => { await app.commands.execute('apputils:change-theme', { theme: `JupyterLab ${name}` }); }",
            name.capitalize(),
        )
        self.page.wait_for_function("light => document.body.dataset.jpThemeLight === light", arg=light)
        self.page.evaluate("() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
        self.settle(300)

    def settle(self, milliseconds: int = 150) -> None:
        """Let messages and frames pass."""
        self.page.wait_for_timeout(milliseconds)

    def close(self) -> None:
        """Shut the kernel down, and close the window or leave it as it was found."""
        self.js("async () => { await context().sessionContext.shutdown(); }")
        if not self.shared or self.page.locator(".jp-Dialog").count():
            self.page.context.close()
            return
        self.js("() => { app.shell.currentWidget.dispose(); }")
        light = self.page.evaluate("document.body.dataset.jpThemeLight") == "true"
        if light == self.lab.dark:
            self.theme("dark" if self.lab.dark else "light")
        self.lab.idle.append(self.page)


def require() -> None:
    """Skip or fail the test where a browser, JupyterLab or Playwright is missing."""
    if reason := missing():
        judges.absent(reason)
