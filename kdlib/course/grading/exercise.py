"""Exercises: properties that an answer must have, and known mistakes.

A property never compares with a right answer: it computes what it expects from the definition. What
a report looks like is in ``report``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kdlib.course.grading.observe import UNWRITTEN, Seen, described, observe, plain, same
from kdlib.course.grading.report import NO_ERROR, Failed, Known, Report, Result

TOLERANCE = 1e-4  # relative; the absolute tolerance is a thousandth of it
EXACT = 1e-6  # relative; what rounding alone leaves between two forms of one mistake
VISIBLE = 0  # the seed of the cases that a student sees


class Unanswered(Exception):
    """There is nothing to check; the message gives the reason."""


class Stopped(Exception):
    """A call of the answer did not finish: it took too long, or its process ended."""


class Draw:
    """Random inputs for one property; they depend on the seed and the name only.

    Attributes:
        student: the student's name; "" if that does not matter.
    """

    def __init__(self, seed: int, name: str, student: str = ""):
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        self._generator = torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))
        self.student = student

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers in float64."""
        return torch.randn(*shape, generator=self._generator, dtype=torch.float64)

    def logits(self, n: int, classes: int = 10, scale: float = 3.0) -> Tensor:
        return scale * self.normal(n, classes)  # (n, classes)

    def labels(self, n: int, classes: int = 10) -> Tensor:
        return torch.randint(classes, (n,), generator=self._generator)  # (n,)

    def integer(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, inclusive."""
        return int(torch.randint(low, high + 1, (1,), generator=self._generator))

    def number(self, low: float, high: float) -> float:
        share = torch.rand(1, generator=self._generator, dtype=torch.float64).item()
        return low + (high - low) * share

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.integer(0, 2**31))


@dataclass(frozen=True)
class Answer:
    """One value that an answer gave; a property states what it ``should`` be."""

    given: dict[str, Any]
    what: str
    value: Any

    def should_be(self, expected: Any, tolerance: float = TOLERANCE) -> None:
        expected = plain(expected)
        if not same(self.value, expected, tolerance):
            raise Failed(_with(self.given), self._got(expected), described(expected))

    def should(self, holds: bool, expected: str) -> None:
        if not holds:
            raise Failed(_with(self.given), self._got(None), expected)

    def _got(self, expected: Any) -> str:
        text = f"{self.what} {described(self.value)}".strip()
        shapes = [tuple(x.shape) for x in (self.value, expected) if isinstance(x, Tensor)]
        if len(shapes) == 2 and shapes[0] != shapes[1]:
            return text + f", of shape {shapes[0]} instead of {shapes[1]}"
        factor = _factor(self.value, expected)
        if factor is None or 2 / 3 < factor < 1.5:
            return text
        times = factor if factor > 1 else 1 / factor
        return text + f" ({times:.4g} times too {'large' if factor > 1 else 'small'})"


def _factor(got: Any, expected: Any) -> float | None:
    """The positive f with ``got == f * expected`` in every entry, or None."""
    try:
        a, b = (torch.as_tensor(x, dtype=torch.float64).flatten() for x in (got, expected))
    except (TypeError, ValueError, RuntimeError):
        return None
    if a.shape != b.shape or not a.numel() or not (b.abs().max() > 0):
        return None
    factor = float(a @ b / (b @ b))
    return factor if 0 < factor < math.inf and same(a, factor * b, 1e-3) else None


class Ask:
    """Calls an answer and keeps what each call did.

    ``ask(student=z, teacher=t, temperature=4.0)`` passes these arguments by position, in this order.
    The names are for the report; the answer's parameters may have others.
    """

    def __init__(self, source: Callable[..., Seen]):
        self._source = source
        self.seen: list[Seen] = []
        self.last: Answer | None = None

    def __call__(self, **given: Any) -> Answer:
        return self._answer(given, "", self._look(given).value)

    def gradient(self, of: str, **given: Any) -> Answer:
        """Ask for the gradient of the value (or of its sum) with respect to the argument ``of``."""
        seen = self._look(given, gradients=(of,))
        return self._answer(given, f"the gradient with respect to {of}:", seen.gradients.get(of))

    def after(self, of: str, **given: Any) -> Answer:
        """Ask what the call left in the argument ``of``; for a network: state, modes and gradients."""
        left = self._look(given, after=(of,)).after.get(of)
        return self._answer(given, f"afterwards {of} is", left)

    def largest(self, **given: Any) -> Answer:
        """Ask for the number of entries of the largest tensor that the call makes."""
        seen = self._look(given, size=True)
        return self._answer(given, "the numbers in its largest tensor:", seen.largest)

    def _answer(self, given: dict[str, Any], what: str, value: Any) -> Answer:
        self.last = Answer(given, what, value)
        return self.last

    def _look(self, given: dict[str, Any], **wanted: Any) -> Seen:
        seen = self._source(given, **wanted)
        self.seen.append(seen)
        if seen.kind in (UNWRITTEN, "Missing"):
            raise Unanswered(seen.error)
        if seen.error:
            raise Failed(_with(given), seen.error, NO_ERROR)
        return seen


def _with(given: dict[str, Any]) -> str:
    return (
        ", ".join(f"{name} = {described(value)}" for name, value in given.items()) or "your answer"
    )


@dataclass(frozen=True)
class Property:
    says: str
    points: float
    check: Callable[[Ask, Draw], None]


@dataclass
class Exercise:
    """One question that grades itself.

    Attributes:
        name: the name of the function that a student writes.
        task: what it takes and returns, in one sentence.
        minutes: how long a student may need.
        personal: the answer is a value (or a function without arguments that returns it) that depends
            on the student's name. Known mistakes and the right answer are then functions of that name.
        properties: what must hold, each with its points.
        mistakes: known wrong answers, each with hints in steps.
        right: the right answer, lent to later exercises where the student's own is wrong.
    """

    name: str
    task: str
    minutes: int
    personal: bool = False
    properties: list[Property] = field(default_factory=list)
    mistakes: list[Known] = field(default_factory=list)
    right: Callable | None = None
    _runs: dict = field(default_factory=dict, repr=False)

    @property
    def points(self) -> float:
        return sum(p.points for p in self.properties)

    def holds(self, says: str, points: float = 1.0) -> Callable:
        """Decorate a property: ``check(ask, draw)`` raises unless it holds."""

        def note(check: Callable[[Ask, Draw], None]) -> Callable:
            self.properties.append(Property(says, points, check))
            return check

        return note

    def hint(self, *hints: str) -> Callable:
        """Decorate a wrong answer with hints for a student whose answer behaves like it."""

        def note(wrong: Callable) -> Callable:
            self.mistakes.append(Known(wrong, hints))
            return wrong

        return note

    def answer(self, right: Callable) -> Callable:
        """Decorate the right answer."""
        self.right = right
        return right

    def check(self, answer: Any, student: str = "", *, hints: int = 1) -> Report:
        """Report whether an answer is right and, if not, what kind of mistake it may be.

        As a rule numbers must agree to within 0.01 %. Nothing is stored and the cases are fixed, so
        the same answer gets the same report. (Homework is graded on other cases.)

        Args:
            answer: the function, or the value, that the exercise asks for.
            student: the student's own name, for a question about a teacher drawn from it.
            hints: how many hints the text shows; a notebook has them all, folded.
        """
        if self.personal and not str(student or "").strip():
            return self.refused(
                "say in student_id who you are; your teacher is drawn from your name"
            )
        return self.report(self.source(answer), VISIBLE, str(student), hints)

    @staticmethod
    def source(answer: Any, may_borrow: bool = False) -> Callable[..., Seen]:
        """Call an answer in this process; ``may_borrow`` lets it call kdlib's own functions."""

        def ask(given: dict[str, Any], **wanted: Any) -> Seen:
            seen = observe(answer, given, **wanted)
            return replace(seen, borrowed="") if may_borrow else seen

        return ask

    def report(
        self, source: Callable[..., Seen], seed: int, student: str = "", hints: int = 1
    ) -> Report:
        """Check all properties of ``source`` on the cases of one seed."""
        try:
            run = self._run(source, seed, student)
        except (Unanswered, Stopped) as nothing:
            return self.refused(str(nothing))
        if borrowed := next((s.borrowed for _, seen in run for s in seen if s.borrowed), ""):
            why = f"it calls kdlib's own {borrowed}; write it yourself to earn the points"
            return replace(self.refused(why), borrowed=borrowed)
        results = tuple(result for result, _ in run)
        return Report(self.name, results, self._recognised(run, seed, student), shown=hints)

    def refused(self, why: str) -> Report:
        """A report without points that gives the reason."""
        results = [Result(p.says, p.points, None) for p in self.properties]
        return Report(self.name, tuple(results), note=why)

    def _run(self, source: Callable[..., Seen], seed: int, student: str) -> list[_Run]:
        run = []
        for p in self.properties:
            ask, failed = Ask(source), None
            try:
                p.check(ask, Draw(seed, p.says, student))
            except Failed as error:
                failed = error
            except (Unanswered, Stopped):
                raise
            except Exception:  # noqa: BLE001  a property met a value of an unexpected form
                last = ask.last or Answer({}, "", None)
                failed = Failed(_with(last.given), described(last.value), "what the task asks for")
            run.append((Result(p.says, p.points, failed), ask.seen))
        return run

    def _recognised(self, run: list[_Run], seed: int, student: str) -> tuple[Known, ...]:
        """The known mistakes that explain the failures of this answer."""
        failing = _failing(run)
        if not failing:
            return ()  # a right answer need not wait for every mistake to be run
        candidates = []
        for known in self.mistakes:
            its_run = self._run_of(known, seed, student)
            explains, exactly = (_explained(run, its_run, t) for t in (TOLERANCE, EXACT))
            beyond = len(_failing(its_run) - failing)
            candidates.append(_Candidate(known, explains, beyond, exactly))
        return _smallest_explanation(failing, candidates)

    def _run_of(self, known: Known, seed: int, student: str) -> list[_Run]:
        key = known.name, seed, student if self.personal else ""
        if key not in self._runs:
            wrong = known.wrong(student) if self.personal else known.wrong
            self._runs[key] = self._run(self.source(wrong), seed, student)
        return self._runs[key]


_Run = tuple[Result, list[Seen]]


@dataclass(frozen=True)
class _Candidate:
    """A known mistake, the failures it explains, how many more it has, which it explains exactly."""

    known: Known
    explains: set[int]
    beyond: int
    exactly: set[int]


def _smallest_explanation(failing: set[int], candidates: Sequence[_Candidate]) -> tuple[Known, ...]:
    """The fewest mistakes that together explain the failures, by a greedy set cover.

    Failures that no mistake explains are left out.
    """
    left, found = set(failing), []
    while left and candidates:
        # Of mistakes that explain equally many failures the one with the fewest others; then the one
        # with the closest values, since two mistakes may agree within the tolerance by chance.
        best = max(
            candidates, key=lambda c: (len(left & c.explains), -c.beyond, len(left & c.exactly))
        )
        if not left & best.explains:
            break
        found.append(best.known)
        left -= best.explains
    return tuple(found)


def _failing(run: list[_Run]) -> set[int]:
    return {k for k, (result, _) in enumerate(run) if result.failed}


def _explained(run: list[_Run], its_run: list[_Run], tolerance: float) -> set[int]:
    """The properties that the answer and a mistake both fail, with the same values."""
    return {
        k
        for k, ((own, seen), (its, its_seen)) in enumerate(zip(run, its_run, strict=True))
        if own.failed and its.failed and _alike(seen, its_seen, tolerance)
    }


def _alike(a: list[Seen], b: list[Seen], tolerance: float) -> bool:
    return len(a) == len(b) and all(
        x.kind == y.kind
        and x.error.partition(' (in "')[0] == y.error.partition(' (in "')[0]
        and same(x.value, y.value, tolerance)
        and same(x.gradients, y.gradients, tolerance)
        and same(x.after, y.after, tolerance)
        for x, y in zip(a, b, strict=True)
    )
