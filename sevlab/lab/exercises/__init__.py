"""The exercises, a module for each lab. `find("launch.digest")` is one, `of_lab("launch")` are all of one lab."""

from __future__ import annotations

from importlib import import_module

from sevlab.lab.grading import Exercise

LABS = ("tour", "launch", "tweak", "asids", "mirror", "move", "es")


def of_lab(lab: str) -> tuple[Exercise, ...]:
    """The exercises of a lab, in their order. Raises LookupError for a lab that has none."""
    if lab not in LABS:
        raise LookupError(f"there are no exercises of a lab {lab!r}; the labs are {', '.join(LABS)}")
    exercises: tuple[Exercise, ...] = import_module(f"sevlab.lab.exercises.{lab}").EXERCISES
    return exercises


def find(id: str) -> Exercise:
    """The exercise of this id. Raises LookupError, and names those there are."""
    lab = str(id).partition(".")[0]
    for exercise in of_lab(lab):
        if exercise.id == id:
            return exercise
    raise LookupError(f"there is no exercise {id!r}; lab {lab} has {', '.join(one.id for one in of_lab(lab))}")
