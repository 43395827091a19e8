"""`sevlab lab` and `sevlab version`."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import sysconfig
from importlib import metadata, util
from pathlib import Path
from typing import Any

import sevlab
from sevlab.cli.files import Failed
from sevlab.cli.machine import note


def add(verbs: Any) -> None:
    """Put `lab` and `version` on the command line."""
    verb = verbs.add_parser("lab", help="JupyterLab, opened on the course; what follows goes to JupyterLab")
    verb.set_defaults(run=lab)
    verb = verbs.add_parser("version", help="the versions of sevlab and of what it stands on")
    verb.set_defaults(run=version)


def version(args: argparse.Namespace) -> int:
    """sevlab's version, and what a bug report needs beside it."""
    libraries = " ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "cryptography"))
    print(f"sevlab {sevlab.__version__} (Python {platform.python_version()}, {libraries})")
    return 0


def course() -> Path:
    """The folder of the notebooks: the checkout's own, else a copy of the installed ones in the current directory.

    A copy is made once and then left alone: it is the student's.
    Raises Failed when there are none.
    """
    checkout = Path(sevlab.__file__).resolve().parents[1] / "notebooks"
    if checkout.is_dir() and (checkout.parent / "pyproject.toml").is_file():
        return checkout
    installed = Path(sysconfig.get_path("data")) / "share/sevlab/notebooks"
    if not installed.is_dir():
        raise Failed("this installation carries no notebooks; run it from a checkout, or install the wheel")
    own = Path.cwd() / "sevlab-course"
    if not own.exists():
        part = own.with_name("sevlab-course.part")
        try:
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(installed, part)
            part.rename(own)  # whole or not at all
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            raise Failed(f"{own}: {error.strerror or error}") from None
    return own


def command(folder: Path, rest: list[str]) -> list[str]:
    """The command line that opens JupyterLab on the first lab of `folder`."""
    labs = sorted(path.name for path in folder.glob("*.ipynb"))
    words = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}"]
    if labs:
        words.append(f"--LabApp.default_url=/lab/tree/{labs[0]}")
    if os.geteuid() == 0 and "--allow-root" not in rest:
        words.append("--allow-root")
    return words + rest


def lab(args: argparse.Namespace) -> int:
    """Become JupyterLab."""
    if util.find_spec("jupyterlab") is None:
        raise Failed("JupyterLab is not installed here: pip install 'sevlab[lab]', or make lab in a checkout")
    folder = course()
    note(args, f"the course is in {folder}")
    words = command(folder, args.rest)
    sys.stdout.flush()
    os.execv(words[0], words)
