"""Lab `move`: its exercises, in the order of the lab."""

from __future__ import annotations

from sevlab.lab.exercises.move_cgroup import CGROUP
from sevlab.lab.exercises.move_errno import ERRNO
from sevlab.lab.exercises.move_fd0 import FD0

EXERCISES = (ERRNO, CGROUP, FD0)
