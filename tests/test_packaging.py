"""The ways in: an editable install, a wheel, `make`, Binder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import judges
import pytest

import sevlab

ROOT = judges.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CORE = ("numpy", "cryptography")


def made_here(path: Path) -> bool:
    """Whether a path is of the project, not of an environment or a build beside it."""
    return not {".venv", ".judges", ".git", "build", "dist", "__pycache__"} & set(path.relative_to(ROOT).parts)


def of_the_course(path: Path) -> bool:
    """Whether a file under notebooks/ is the course's: no tool's, and nothing that running or building it has left there."""
    others = {"conftest.py", "_build", ".book", ".ipynb_checkpoints", "__pycache__"}
    return path.is_file() and not others & set(path.parts)


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """One command in a clean environment: nothing of the tests' own Python is seen by it."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV", "MAKE", "MFLAGS"))}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**clean, **env},
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


# ------------------------------------------------------------- the declaration


def test_every_package_in_the_tree_is_declared_and_no_other():
    folders = [init.parent for top in ("sevlab", "widgets") for init in (ROOT / top).rglob("__init__.py") if made_here(init)]
    found = {".".join(folder.relative_to(ROOT).parts).replace("widgets", "sevlab_widgets", 1) for folder in folders}

    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_no_python_file_lies_in_a_folder_that_is_no_package():
    loose = [
        path for top in ("sevlab", "widgets") for path in (ROOT / top).rglob("*.py") if not (path.parent / "__init__.py").exists()
    ]

    assert loose == []


def test_the_core_depends_on_numpy_and_cryptography_only():
    names = [re.split(r"[<>=~!;\[ ]", line)[0] for line in PROJECT["project"]["dependencies"]]

    assert sorted(names) == sorted(CORE)


def test_dependencies_are_ranges_and_never_pins():
    extras = PROJECT["project"]["optional-dependencies"].values()
    lines = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]

    assert [line for line in lines if "==" in line or ">=" not in line] == []


def test_the_import_of_sevlab_and_of_a_host_brings_no_plots_and_no_widgets():
    heavy = ("matplotlib", "ipywidgets", "anywidget", "IPython")
    code = f"import sys, sevlab; sevlab.Host; print([name for name in {heavy} if name in sys.modules])"

    answer = run(sys.executable, "-c", code, PYTHONPATH=str(ROOT))

    assert (answer.returncode, answer.stdout.strip()) == (0, "[]"), answer.stderr


def test_the_licence_is_apache_2_whole():
    text = (ROOT / "LICENSE").read_text()

    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


def test_the_readmes_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)

    exec(compile(code, "README.md", "exec"), {})

    assert "correct horse battery staple" in capsys.readouterr().out


def test_what_the_course_links_to_is_declared_as_data():
    declared = PROJECT["tool"]["setuptools"]["data-files"]
    carried = {
        Path(folder).relative_to("share/sevlab/notebooks") / path.name
        for folder, patterns in declared.items()
        if folder.startswith("share/sevlab/notebooks")
        for pattern in patterns
        for path in ROOT.glob(pattern)
    }
    wanted = set()
    for page in [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "notebooks").rglob("*.md")]:
        if of_the_course(page):
            links = re.findall(r"\]\(([^)#:\s\\]+)(?:#[^)]*)?\)|src=\\?[\"']([^\"':\\]+)|:img-top: (\S+)", page.read_text())
            here = page.parent.relative_to(ROOT / "notebooks")
            wanted |= {Path(os.path.normpath(here / next(filter(None, link)))) for link in links}

    assert Path("reference/coverage.md") in wanted
    assert sorted(map(str, wanted - carried)) == []


# ------------------------------------------------------------- make


@pytest.mark.parametrize("target", ["setup", "lab", "test", "bench", "lint", "laws", "judges", "coverage"])
def test_make_has_the_target(target):
    answer = run("make", "--dry-run", target)

    assert answer.returncode == 0, answer.stderr


def test_make_lab_passes_its_arguments_through():
    answer = run("make", "--dry-run", "lab", "ARGS=--no-browser --port 9999")

    assert answer.stdout.rstrip().endswith("-m sevlab lab --no-browser --port 9999")


def test_make_names_what_it_needs_when_python_is_too_old(tmp_path):
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)

    answer = run("make", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}", "setup")

    assert answer.returncode != 0
    assert "sevlab needs Python 3.11 or newer" in answer.stderr
    assert not (tmp_path / "venv").exists()


def test_an_absent_judge_is_no_failure_unless_every_tool_was_promised(tmp_path):
    nothing = ("make", "judges", "DEBIAN=no-such-package", "PYPI=", "FRONTS=", "-s")
    path = f"{Path('/usr/bin')}:{Path('/bin')}"

    lenient = run(*nothing, PATH=_without_apt(tmp_path, path), SEVLAB_REQUIRE_TOOLS="")
    strict = run(*nothing, PATH=_without_apt(tmp_path, path), SEVLAB_REQUIRE_TOOLS="1")

    assert lenient.returncode == 0 and "absent" in lenient.stdout
    assert strict.returncode != 0 and "absent" in strict.stderr


def _without_apt(folder: Path, path: str) -> str:
    """A PATH whose apt-get refuses at once: no test asks a package mirror for anything."""
    (folder / "apt-get").write_text("#!/bin/sh\nexit 100\n")
    (folder / "apt-get").chmod(0o755)
    return f"{folder}:{path}"


def test_ci_promises_every_tool_and_runs_the_tests():
    script = (ROOT / ".ci/run").read_text()

    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert re.search(r"^export SEVLAB_REQUIRE_TOOLS=1$", script, re.M)
    assert [line for line in script.splitlines() if line.startswith("make")][-1] == "make test"
    assert run("bash", "-n", ".ci/run").returncode == 0


# ------------------------------------------------------------- binder


def test_binder_names_no_local_path_in_its_requirements():
    lines = [line for line in (ROOT / "binder/requirements.txt").read_text().splitlines() if line and not line.startswith("#")]

    assert [line for line in lines if re.match(r"-|\.|/", line) or "jupyterlab" in line] == []
    assert {re.split(r"[<>=]", line)[0] for line in lines} >= set(CORE)


@pytest.mark.parametrize("script", ["postBuild", "start"])
def test_binder_scripts_can_be_run(script):
    path = ROOT / "binder" / script

    assert os.access(path, os.X_OK)
    assert run("bash", "-n", path).returncode == 0


def test_binder_start_hands_over_to_the_command_it_is_given():
    answer = run(ROOT / "binder/start", "sh", "-c", "echo $PYTHONHASHSEED; exit 7")

    assert (answer.returncode, answer.stdout.strip()) == (7, "0")


@pytest.mark.judge
def test_repo2docker_accepts_the_binder_folder():
    own = next(judges.JUDGES.glob("jupyter-repo2docker-*/bin/jupyter-repo2docker"), None)
    tool = own or shutil.which("jupyter-repo2docker")
    if tool is None:
        judges.absent("jupyter-repo2docker is not installed (make judges)")

    answer = run(tool, "--no-build", "--debug", ".")

    assert answer.returncode == 0, answer.stderr[-2000:]
    assert "./binder/postBuild" in answer.stdout + answer.stderr


# ------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of what the repository holds; without a network where setuptools is here."""
    if int(metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("building a wheel without a network takes setuptools 77 or newer in this environment; `make setup` installs it")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("sevlab", "widgets", "notebooks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "_build", ".ipynb_checkpoints"))
    answer = run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source)
    assert answer.returncode == 0, answer.stderr
    return next(out.glob("sevlab-*.whl"))


@pytest.mark.slow
def test_the_wheel_carries_all_that_is_no_python(wheel):
    names = zipfile.ZipFile(wheel).namelist()

    data = {f"sevlab/psp/data/{path.name}" for path in (ROOT / "sevlab/psp/data").iterdir() if path.is_file()}
    scripts = {
        f"sevlab_widgets/{path.relative_to(ROOT / 'widgets')}"
        for kind in ("*.js", "*.css")
        for path in (ROOT / "widgets").rglob(kind)
    }
    course = {str(path.relative_to(ROOT / "notebooks")) for path in (ROOT / "notebooks").rglob("*") if of_the_course(path)}
    assert {"sevlab/py.typed", "sevlab_widgets/__init__.py", *data, *scripts} <= set(names)
    assert any(name.endswith("share/jupyter/lab/settings/overrides.d/sevlab.json") for name in names)
    template = {path.name for path in (ROOT / "widgets/voila").iterdir()}
    assert template == {Path(name).name for name in names if "share/jupyter/voila/templates/sevlab/" in name}
    assert course == {name.split("share/sevlab/notebooks/")[1] for name in names if "share/sevlab/notebooks/" in name}
    assert not [name for name in names if name.startswith(("tests/", "widgets/"))]


@pytest.mark.slow
def test_the_wheel_works_in_a_fresh_environment(wheel, tmp_path):
    """The environment is fresh but for the two libraries, which are lent by path: no network is needed."""
    assert run(sys.executable, "-m", "venv", tmp_path / "venv").returncode == 0
    python = tmp_path / "venv/bin/python"
    answer = run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel)
    assert answer.returncode == 0, answer.stderr

    import cryptography
    import numpy

    lent = tmp_path / "lent"
    lent.mkdir()
    for module in ("numpy", "numpy.libs", "cryptography", "cffi", "cffi.libs", "_cffi_backend", "pycparser"):
        for found in (
            *Path(numpy.__file__).parents[1].glob(f"{module}*"),
            *Path(cryptography.__file__).parents[1].glob(f"{module}*"),
        ):
            if not (lent / found.name).exists():
                (lent / found.name).symlink_to(found)
    code = "import sevlab, sevlab_widgets; from sevlab import Host; h = Host(seed=1); print(len(h.chain()), sevlab.__file__)"
    answer = run(python, "-c", code, cwd=tmp_path, PYTHONPATH=str(lent))

    assert answer.returncode == 0, answer.stderr
    count, _, path = answer.stdout.strip().partition(" ")
    assert count == "6" and Path(path).is_relative_to(tmp_path / "venv")
    command = run(tmp_path / "venv/bin/sevlab", "version", cwd=tmp_path, PYTHONPATH=str(lent))
    assert command.returncode == 0 and sevlab.__version__ in command.stdout
