"""Lab `asids`: its exercises, in the order of the lab."""

from __future__ import annotations

from sevlab.lab.exercises.asids_cgroups import CGROUPS
from sevlab.lab.exercises.asids_hostile import HOSTILE
from sevlab.lab.exercises.asids_next import NEXT

EXERCISES = (NEXT, HOSTILE, CGROUPS)
