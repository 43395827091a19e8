"""Where the browser's rig stands: beside the widgets' tests, loaded by path.

The folder `widgets` of the project itself would hide those helpers as a package. A
helper is loaded once for the whole session, so that server and browser are shared.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

WIDGET_TESTS = Path(__file__).parent / "widgets"


def helper(name: str) -> ModuleType:
    """A helper module of tests/widgets: "lab_server", "machine", "axe", "voila_server"."""
    full = f"widget_tests_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, WIDGET_TESTS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]
