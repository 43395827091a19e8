"""`python -m sevlab` is `sevlab`."""

import sys

from sevlab.cli.main import main

sys.exit(main())
