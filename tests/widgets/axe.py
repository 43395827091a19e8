"""axe-core: a foreign judge of accessibility, injected into a page.

`python tests/widgets/axe.py` fetches it into .judges with npm (`make judges` does);
the tests themselves ask nobody for anything.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

VERSION = "4.14.1"
FILE = Path(__file__).resolve().parents[2] / ".judges" / f"axe-core-{VERSION}" / "axe.min.js"


def fetch() -> int:
    """Put the script where the tests look for it; 0 when it is there."""
    if not FILE.is_file():
        with tempfile.TemporaryDirectory() as folder:
            try:
                subprocess.run(
                    ["npm", "pack", "--silent", f"axe-core@{VERSION}"], cwd=folder, check=True, stdout=subprocess.DEVNULL
                )
            except (OSError, subprocess.CalledProcessError) as error:
                print(f"npm could not fetch axe-core {VERSION}: {error}", file=sys.stderr)
                return 1
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                script = archive.extractfile("package/axe.min.js")
                assert script is not None
                FILE.parent.mkdir(parents=True, exist_ok=True)
                FILE.write_bytes(script.read())
    return 0


def violations(page: Any, selector: str = ".jp-OutputArea") -> list[str]:
    """What axe-core finds wrong inside the elements of `selector`: "rule: element", one line each."""
    page.evaluate(FILE.read_text() + "; undefined")
    found = page.evaluate(
        """async (selector) => {
            const elements = [...document.querySelectorAll(selector)];
            const result = await axe.run({ include: elements }, { resultTypes: ['violations'] });
            const line = (rule, node) => `${rule.id}: ${node.html.slice(0, 160)} ${node.failureSummary.slice(0, 200)}`;
            return result.violations.flatMap((rule) => rule.nodes.map((node) => line(rule, node)));
        }""",
        selector,
    )
    return list(found)


if __name__ == "__main__":
    sys.exit(fetch())
