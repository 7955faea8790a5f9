"""The grading matrix: every known answer, wrong or right, against every property."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from kdlib._console import say
from kdlib.course.grading.exercise import VISIBLE, Exercise
from kdlib.course.grading.report import Report

FEWEST_RIGHT = 4  # forms of a right answer: properties must not judge how it is written
HIDDEN = 2026  # any other seed would do: cases that a grader might draw
STUDENT = "ada"

Homeworks = dict[str, tuple[Exercise, ...]]


@dataclass(frozen=True)
class Row:
    """One answer to one exercise, with the cases of one seed."""

    homework: str
    exercise: str
    answer: str
    right: bool
    seed: int
    report: Report

    @property
    def miss(self) -> str:
        """What the grader got wrong about it, "" if nothing."""
        if self.right and self.report.points < self.report.out_of:
            return "a right answer loses points"
        if not self.right and self.report.passed:
            return "a wrong answer passes"
        if not self.right and [m.name for m in self.report.mistakes] != [self.answer]:
            names = ", ".join(m.name for m in self.report.mistakes) or "nothing"
            return f"recognised as {names}"
        return ""

    def __str__(self) -> str:
        marks = "".join("✗" if r.failed else "·" for r in self.report.results)
        kind = "right" if self.right else "wrong"
        points = f"{self.report.points:g}/{self.report.out_of:g}"
        last = f"MISS: {self.miss}" if self.miss else "" if self.right else "hint"
        return f"  {kind}  {self.answer:<38} {marks:<10} {points:>6}  {last}"


def right_answers(homework: str, exercise: Exercise, folder: Path | None) -> list[Callable]:
    """The exercise's own right answer, and the functions of ``folder/hw1/soften.py`` or its like."""
    answers = [exercise.right] if exercise.right else []
    path = folder and folder / homework / f"{exercise.name}.py"
    if path and path.exists():
        spec = spec_from_file_location(f"right.{homework}.{exercise.name}", path)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        functions = filter(inspect.isfunction, vars(module).values())
        answers += [f for f in functions if f.__module__ == spec.name]
    return answers


def rows(
    homework: str, exercise: Exercise, seed: int, right: Sequence[Callable] = ()
) -> Iterator[Row]:
    """Each known mistake and each of the ``right`` answers, graded with the cases of one seed."""
    answers = [(known.wrong, False) for known in exercise.mistakes]
    answers += [(answer, True) for answer in right]
    for answer, is_right in answers:
        own = answer(STUDENT) if exercise.personal else answer
        source = exercise.source(own, may_borrow=True)
        report = exercise.report(source, seed, STUDENT)
        yield Row(homework, exercise.name, answer.__name__, is_right, seed, report)


def gaps(exercise: Exercise, found: Sequence[Row], fewest: int = FEWEST_RIGHT) -> list[str]:
    """What the matrix of an exercise lacks: right answers, or a wrong one for a property alone."""
    lacks = []
    right = sum(row.right for row in found)
    if right < fewest:
        lacks.append(f"{right} right answers, fewer than {fewest}")
    failures = [
        [r.failed is not None for r in row.report.results] for row in found if not row.right
    ]
    for k, p in enumerate(exercise.properties):
        if not any(failed[k] and sum(failed) == 1 for failed in failures):
            lacks.append(f'no wrong answer fails "{p.says}" alone')
    return lacks


def some(homeworks: Homeworks, names: Sequence[str]) -> Homeworks:
    """The homeworks and exercises of these names; all if there are none.

    Raises:
        ValueError: no homework and no exercise has one of the names.
    """
    known = [*homeworks, *(e.name for exercises in homeworks.values() for e in exercises)]
    for name in names:
        if name not in known:
            raise ValueError(f"NAME must be one of {', '.join(known)}, got {name!r}")
    chosen = {
        homework: tuple(e for e in exercises if not names or {homework, e.name} & {*names})
        for homework, exercises in homeworks.items()
    }
    return {homework: exercises for homework, exercises in chosen.items() if exercises}


def show(homeworks: Homeworks, folder: Path | None = None) -> int:
    """Print the matrix and return how many misses it has.

    Args:
        homeworks: exercises by homework.
        folder: where other right answers are; without it each exercise needs only its own.
    """
    misses, answers = 0, 0
    for homework, exercises in homeworks.items():
        for exercise in exercises:
            say(f"\n{homework} {exercise.name}: {exercise.points:g} points{_where(exercise)}")
            say(f"  {exercise.task}")
            for k, p in enumerate(exercise.properties):
                say(f"    {' ' * 45}{' ' * k}↓ {p.says}")
            right = right_answers(homework, exercise, folder)
            answers += len(exercise.mistakes) + len(right)
            for seed in (VISIBLE, HIDDEN):
                found = list(rows(homework, exercise, seed, right))
                # Both draws must show the same; the reader needs to see one.
                shown = found if seed == VISIBLE else [row for row in found if row.miss]
                for row in shown:
                    say(str(row))
                lacks = gaps(exercise, found, FEWEST_RIGHT if folder else 1)
                for lack in lacks:
                    say(f"  MISS: {lack}")
                misses += sum(bool(row.miss) for row in found) + len(lacks)
    if not folder:
        say("\nOne right answer for each exercise: the other forms are in the project's checkout")
        say("(tests/grading/right), not in the installed package; --answers says where.")
    say(f"\n{answers} answers, with two draws of cases each: {misses or 'no'} misses")
    return misses


def _where(exercise: Exercise) -> str:
    """The module that holds its properties, hints and known answers."""
    return f" ({exercise.right.__module__})" if exercise.right else ""
