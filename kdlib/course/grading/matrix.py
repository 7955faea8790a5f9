"""The grading matrix: every known wrong answer and every right one, held against every property."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kdlib.course.grading.exercise import VISIBLE, Exercise
from kdlib.course.grading.report import Report

FEWEST_RIGHT = 4
HIDDEN = 2026  # any other seed would do: of the cases that a grader might draw
STUDENT = "ada"


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
        """What the grader got wrong about it, "" where nothing."""
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


def rows(homework: str, exercise: Exercise, seed: int) -> Iterator[Row]:
    answers = [(known.wrong, False) for known in exercise.mistakes]
    answers += [(answer, True) for answer in exercise.right]
    for answer, right in answers:
        own = answer(STUDENT) if exercise.personal else answer
        source = exercise.source(own, may_borrow=True)
        report = exercise.report(source, seed, STUDENT)
        yield Row(homework, exercise.name, answer.__name__, right, seed, report)


def gaps(exercise: Exercise, found: list[Row]) -> list[str]:
    """What the matrix of an exercise lacks: right answers, or a wrong one for a property alone."""
    lacks = []
    if len(exercise.right) < FEWEST_RIGHT:
        lacks.append(f"{len(exercise.right)} right answers, fewer than {FEWEST_RIGHT}")
    failures = [
        [r.failed is not None for r in row.report.results] for row in found if not row.right
    ]
    for k, p in enumerate(exercise.properties):
        if not any(failed[k] and sum(failed) == 1 for failed in failures):
            lacks.append(f'no wrong answer fails "{p.says}" alone')
    return lacks


def some(
    homeworks: dict[str, tuple[Exercise, ...]], names: Sequence[str]
) -> dict[str, tuple[Exercise, ...]]:
    """The homeworks and exercises of these names; all if there are none.

    Raises:
        ValueError: a name is neither's.
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


def show(homeworks: dict[str, tuple[Exercise, ...]]) -> int:
    """Print the matrix; how many misses there are."""
    misses = 0
    for homework, exercises in homeworks.items():
        for exercise in exercises:
            print(f"\n{homework} {exercise.name}: {exercise.points:g} points{_where(exercise)}")
            print(f"  {exercise.task}")
            for k, p in enumerate(exercise.properties):
                print(f"    {' ' * 45}{' ' * k}↓ {p.says}")
            for seed in (VISIBLE, HIDDEN):
                found = list(rows(homework, exercise, seed))
                # Both draws are held to the same; the reader needs to see one.
                shown = found if seed == VISIBLE else [row for row in found if row.miss]
                for row in shown:
                    print(row)
                lacks = gaps(exercise, found)
                for lack in lacks:
                    print(f"  MISS: {lack}")
                misses += sum(bool(row.miss) for row in found) + len(lacks)
    answers = sum(len(e.mistakes) + len(e.right) for es in homeworks.values() for e in es)
    print(f"\n{answers} answers, with two draws of cases each: {misses or 'no'} misses")
    return misses


def _where(exercise: Exercise) -> str:
    """The module that holds its properties, hints and known answers."""
    modules = {right.__module__ for right in exercise.right}
    return f" ({modules.pop()})" if len(modules) == 1 else ""
