"""The known answers that somebody else computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def vectors(root: Path) -> dict[str, Any]:
    """firmware.md 4.12: made by an independent model, cross-checked with sev-tool and virt-qemu-sev-validate."""
    return dict(json.loads((root / "tests/vectors/vectors.json").read_text()))
