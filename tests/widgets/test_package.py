"""The package `sevlab_widgets`: names that cost nothing until they are asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_the_package_costs_nothing_until_a_widget_is_asked_for():
    code = "import sys, sevlab_widgets; print([m for m in ('anywidget', 'ipywidgets', 'numpy') if m in sys.modules])"

    answer = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"], capture_output=True, text=True
    )

    assert (answer.stdout.strip(), answer.stderr) == ("[]", "")


def test_a_name_that_is_no_widget_is_refused_with_the_names_there_are():
    import sevlab_widgets

    with pytest.raises(AttributeError, match=r"no 'PageMaps'; it has .*PageMap"):
        sevlab_widgets.PageMaps  # noqa: B018
