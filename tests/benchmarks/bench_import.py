"""A machine in a fresh interpreter, beside the two libraries that it stands on."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from harness import Figure

OURS = "from sevlab import Host, vmm, owner; Host(seed=1)"
# What bulk.py and crypto.py import, and nothing else.
LIMIT = """
import numpy
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
"""
FORBIDDEN = ("matplotlib", "ipywidgets", "anywidget", "IPython")
ROUNDS = 9


def _run(source: str, cache: str) -> float:
    """Seconds that a fresh interpreter takes; compiled files are kept in `cache`, as an installation has them."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", source], check=True, env=environment)
    return time.perf_counter() - start


def figures() -> Iterator[Figure]:
    loaded = f"import sys; sys.exit(any(name in sys.modules for name in {FORBIDDEN}))"
    with tempfile.TemporaryDirectory() as cache:
        _run(f"{OURS}\n{loaded}", cache)  # raises CalledProcessError if one of them is there; all is compiled then
        _run(LIMIT, cache)
        taken = []
        for _ in range(ROUNDS):
            nothing, limit, ours = _run("pass", cache), _run(LIMIT, cache), _run(OURS, cache)
            taken.append((ours - nothing, limit - nothing))
    ratio = statistics.median(ours / limit for ours, limit in taken)
    middle = [statistics.median(column) for column in zip(*taken, strict=True)]
    yield Figure("import and Host(seed=1), fresh, against the libraries'", 2.0, ratio, *middle)
