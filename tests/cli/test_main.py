"""The command line itself: mistakes cost one line and status 2, and help is there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import sevlab as package
from sevlab import designs, host
from sevlab.cli import main as command_line
from sevlab.cli.main import GLOBAL, main

VERBS = (
    "lab", "ok", "export", "verify", "show", "generate", "provision", "reset", "rotate",
    "session", "measurement", "secret", "vmsa", "launch", "version",
)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as done:
        main([verb, "--help"])

    assert done.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: sevlab {verb}")


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])

    text = capsys.readouterr().out
    assert done.value.code == 0 and all(verb in text for verb in VERBS)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "a verb is missing"),
        (("fly",), "invalid choice: 'fly'"),
        (("--chip", "genoa", "ok"), "invalid choice: 'genoa'"),
        (("--design", "linux-7", "ok"), "invalid choice: 'linux-7'"),
        (("--seed", "x", "ok"), "no number"),
        (("--seed", "-1", "ok"), "seed: '-1' is no number"),
        (("--seed",), "--seed"),
        (("--firmware-api", "0.24", "ok"), "MAJOR.MINOR.BUILD"),
        (("--nv",), "--nv"),
        (("--sed", "7", "ok"), "no option --sed"),
        (("ok", "--frobnicate"), "ok does not know --frobnicate"),
        (("ok", "--frobnicate=3", "more"), "invalid choice: 'more'"),
        (("version", "3"), "version does not know 3"),
        (("show",), "what"),
        (("show", "me"), "invalid choice: 'me'"),
        (("ok", "tdx"), "invalid choice: 'tdx'"),
        (("measurement",), "WHAT"),
        (("secret", "keep"), "invalid choice: 'keep'"),
        (("export",), "DIR"),
    ],
)
def test_a_wrong_command_line_costs_one_line_and_status_2(sevlab, words, line):
    found = sevlab(*words)

    assert (found.status, found.out, found.err.count("\n")) == (2, "", 1)
    assert line in found.err and found.err.startswith("sevlab: ")


@pytest.mark.parametrize("option", GLOBAL)
def test_a_global_option_behind_the_verb_is_sent_to_its_place(sevlab, option):
    found = sevlab("ok", option, "7")

    assert found.status == 2
    assert f"{option} stands before the verb" in found.err


@pytest.mark.parametrize("words", [("version",), ("--version",)])
def test_the_version_is_that_of_the_package(sevlab, words):
    found = sevlab(*words)

    assert found.status == 0 and found.out.startswith(f"sevlab {package.__version__} (Python ")


def test_python_m_sevlab_is_sevlab():
    found = subprocess.run([sys.executable, "-m", "sevlab", "version"], capture_output=True, text=True, timeout=60)

    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("sevlab ")


def alone(words, **to):
    """A run of its own; by default Python keeps its output until the end."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-m", "sevlab", *words], stderr=subprocess.PIPE, text=True, timeout=60, env=environment, **to
    )


@pytest.mark.parametrize("words", [("version",), ("--help",), ("verify", "none.such")])
def test_a_reader_that_leaves_early_is_no_complaint(words):
    """`sevlab ... | head -0`: the pipe is closed before the first line is written."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        found = alone(words, stdout=closed)

    assert found.returncode == 1
    assert "Traceback" not in found.stderr and "Exception ignored" not in found.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_under_the_output_is_one_line():
    with open("/dev/full", "w") as full:
        found = alone(("--seed", "7", "show", "version"), stdout=full)

    assert (found.returncode, found.stderr) == (1, "sevlab: standard output: No space left on device\n")


def test_a_closed_output_is_no_traceback():
    found = subprocess.run(f"{sys.executable} -m sevlab version >&-", shell=True, stderr=subprocess.PIPE, text=True, timeout=60)

    assert (found.returncode, found.stderr) == (0, "")


def test_an_interrupt_while_the_verbs_are_imported_is_one_line(sevlab, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "parser", interrupted)

    assert sevlab("version") == (130, "", "sevlab: interrupted\n")


def test_a_computer_too_small_is_one_line(sevlab, monkeypatch):
    def small(*_, **__):
        raise MemoryError("this computer has no room for a machine of 65536 MiB: no memory")

    monkeypatch.setattr(host.Host, "__init__", small)

    assert sevlab("--seed", 7, "ok").status == 1
    assert sevlab("--seed", 7, "ok").err == "sevlab: this computer has no room for a machine of 65536 MiB: no memory\n"


def test_the_firmwares_refusal_is_told_once(refused, files):
    words = ("launch", "--firmware", files["full.fd"], "--kernel", files["kernel"], "--policy", 1, "--hashes-gpa", 1)
    line = refused(1, "-q", "--seed", 7, *words)

    assert line == "LAUNCH_UPDATE_DATA was refused: EIO, the firmware said INVALID_ADDRESS (the address is not aligned)"


def test_an_interrupt_is_one_line(sevlab, monkeypatch):
    from sevlab.cli import course

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(course.metadata, "version", interrupted)

    assert sevlab("version") == (130, "", "sevlab: interrupted\n")


def test_the_command_line_knows_every_kernel():
    assert {name: name.upper().replace("-", "_").replace(".", "_") for name in designs.DESIGNS} == command_line.DESIGNS
