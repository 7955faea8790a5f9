"""What an exercise is: properties that an answer must have, and mistakes that have a name.

Nothing here knows a right answer as code: a property says what must hold, and computes what it
expects from the definition.
"""

from __future__ import annotations

import hashlib
import html
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kdlib.course.grading.observe import UNWRITTEN, Seen, described, observe, plain, same

TOLERANCE = 1e-4  # relative; a thousandth of it is allowed absolutely
NO_ERROR = "no error"
TICK, CROSS = (
    f"<span style='color: {colour}; font-weight: bold'>{sign}</span>"
    for sign, colour in (("✓", "#2a9d57"), ("✗", "#d1495b"))
)
VISIBLE = 0  # the seed of the cases that a student sees


class Failed(Exception):
    """A property does not hold: with which input, what came, what was expected."""

    def __init__(self, given: str, got: str, expected: str):
        super().__init__(f"with {given}: got {got}, expected {expected}")
        self.given, self.got, self.expected = given, got, expected


class Unanswered(Exception):
    """There is nothing to be checked, and why."""


class Stopped(Exception):
    """The answer could not be asked to the end: it took too long, or its process ended."""


class Draw:
    """The inputs of a property: the same for the same seed, whatever was asked before.

    Attributes:
        student: whose work it is; "" where that does not matter.
    """

    def __init__(self, seed: int, name: str, student: str = ""):
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        self._generator = torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))
        self.student = student

    def normal(self, *shape: int) -> Tensor:
        """float64, of mean 0 and standard deviation 1."""
        return torch.randn(*shape, generator=self._generator, dtype=torch.float64)

    def logits(self, n: int, classes: int = 10, scale: float = 3.0) -> Tensor:
        return scale * self.normal(n, classes)

    def labels(self, n: int, classes: int = 10) -> Tensor:
        return torch.randint(classes, (n,), generator=self._generator)

    def integer(self, low: int, high: int) -> int:
        """From ``low`` to ``high``, both included."""
        return int(torch.randint(low, high + 1, (1,), generator=self._generator))

    def number(self, low: float, high: float) -> float:
        share = torch.rand(1, generator=self._generator, dtype=torch.float64).item()
        return low + (high - low) * share

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.integer(0, 2**31))


@dataclass(frozen=True)
class Answer:
    """One thing seen of an answer; what it ``should`` be is said by a property."""

    given: str
    what: str
    value: Any

    def should_be(self, expected: Any, tolerance: float = TOLERANCE) -> None:
        expected = plain(expected)
        if not same(self.value, expected, tolerance):
            raise Failed(self.given, self._got(expected), described(expected))

    def should(self, holds: bool, expected: str) -> None:
        if not holds:
            raise Failed(self.given, self._got(None), expected)

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
    """The number that ``got`` is of ``expected``, where it is one number throughout."""
    try:
        a, b = (torch.as_tensor(x, dtype=torch.float64).flatten() for x in (got, expected))
    except (TypeError, ValueError, RuntimeError):
        return None
    if a.shape != b.shape or not a.numel() or not (b.abs().max() > 0):
        return None
    factor = float(a @ b / (b @ b))
    return factor if 0 < factor < math.inf and same(a, factor * b, 1e-3) else None


class Ask:
    """Puts questions to an answer and remembers what was seen.

    ``ask(student=z, teacher=t, temperature=4.0)`` calls it with these arguments, in this order; the
    names are for the reader, the answer may call them as it likes.
    """

    def __init__(self, source: Callable[..., Seen]):
        self._source = source
        self.seen: list[Seen] = []
        self.last: Answer | None = None

    def __call__(self, **given: Any) -> Answer:
        return self._answer(given, "", self._look(given).value)

    def gradient(self, of: str, **given: Any) -> Answer:
        """Of the value (or the sum of its entries) by one of the arguments."""
        seen = self._look(given, gradients=(of,))
        return self._answer(given, f"a gradient by {of} of", seen.gradients.get(of))

    def after(self, of: str, **given: Any) -> Answer:
        """What the call left in one of its arguments; of a network state, modes and gradients."""
        left = self._look(given, after=(of,)).after.get(of)
        return self._answer(given, f"afterwards {of} is", left)

    def largest(self, **given: Any) -> Answer:
        """How many numbers the largest tensor has that the call makes."""
        seen = self._look(given, size=True)
        return self._answer(given, "the numbers in its largest tensor:", seen.largest)

    def _answer(self, given: dict[str, Any], what: str, value: Any) -> Answer:
        self.last = Answer(_with(given), what, value)
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


@dataclass(frozen=True)
class Known:
    """A mistake with a name: recognised where an answer does all that this one does."""

    wrong: Callable
    hints: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.wrong.__name__


@dataclass(frozen=True)
class Result:
    says: str
    points: float
    failed: Failed | None

    @property
    def earned(self) -> float:
        return 0.0 if self.failed else self.points


@dataclass(frozen=True)
class Report:
    """What a check found: in a notebook as a page with folded hints, else as text.

    Attributes:
        exercise: its name.
        results: one a property.
        mistakes: the known mistakes that the answer makes, as far as they are recognised.
        note: what is to be said of the whole answer: that it is not written yet, that it borrows.
        borrowed: what it calls of kdlib's own, "" where nothing.
        shown: how many hints the text shows.
    """

    exercise: str
    results: tuple[Result, ...]
    mistakes: tuple[Known, ...] = ()
    note: str = ""
    borrowed: str = ""
    shown: int = 1

    @property
    def points(self) -> float:
        return 0.0 if self.note else sum(result.earned for result in self.results)

    @property
    def out_of(self) -> float:
        return sum(result.points for result in self.results)

    @property
    def passed(self) -> bool:
        return not self.note and not any(result.failed for result in self.results)

    def __repr__(self) -> str:
        if self.passed or self.note:
            return self._headline()
        lines = [self._headline()]
        for result, told in self._told():
            lines.append(f"  {'✗' if result.failed else '✓'} {result.says}")
            lines += [f"      {what:<9} {text}" for what, text in told]
        for mistake in self.mistakes:
            hints = mistake.hints[: self.shown]
            lines += [f"  Hint {k}: {hint}" for k, hint in enumerate(hints, start=1)]
            if len(hints) < len(mistake.hints):
                lines.append(f"  (one more with hints={len(hints) + 1})")
        return "\n".join(lines)

    def _told(self) -> Iterator[tuple[Result, list[tuple[str, str]]]]:
        """Each property with what is to be said of it; an error that recurs is told once."""
        errors = set()
        for result in self.results:
            failed = result.failed
            if failed is None:
                yield result, []
            elif failed.expected == NO_ERROR and failed.got in errors:
                yield result, [("got", "the same error")]
            else:
                errors.add(failed.got)
                told = ("with", failed.given), ("got", failed.got), ("expected", failed.expected)
                yield result, list(told)

    def _headline(self) -> str:
        if self.note:
            return f"{self.exercise}: {self.note}"
        if self.passed:
            holds = "its property holds" if len(self.results) == 1 else "all properties hold"
            return f"{self.exercise}: {holds}, {self.points:g} of {self.out_of:g} points."
        failed = sum(result.failed is not None for result in self.results)
        return (
            f"{self.exercise}: {failed} of {len(self.results)} properties fail, "
            f"{self.points:g} of {self.out_of:g} points so far."
        )

    def _repr_html_(self) -> str:
        """With every text escaped: what an answer returned stands in it."""
        headline = html.escape(self._headline())
        if self.passed:
            return f"<p>{TICK} {headline}</p>"
        if self.note:
            return f"<p>… {headline}</p>"
        rows = [f"<p>{headline}</p>", "<ul style='list-style: none; padding-left: 0.5em'>"]
        for result, told in self._told():
            rows.append(f"<li>{CROSS if result.failed else TICK} {html.escape(result.says)}")
            cells = "".join(
                f"<div style='opacity: 0.7'>{what}</div><div>{html.escape(text)}</div>"
                for what, text in told
            )
            if told:
                rows.append(
                    "<div style='display: grid; grid-template-columns: 5.5em 1fr; "
                    "font-family: monospace; font-size: 90%; margin: 0.2em 0 0.6em 1.7em; "
                    f"overflow-wrap: anywhere'>{cells}</div>"
                )
            rows.append("</li>")
        rows.append("</ul>")
        rows += [_folded(mistake.hints) for mistake in self.mistakes]
        return "".join(rows)


def _folded(hints: Sequence[str]) -> str:
    """Each hint inside the one before, so that the last is not opened by accident."""
    inside = ""
    for k, hint in reversed(list(enumerate(hints, start=1))):
        label = "Hint" if len(hints) == 1 else f"Hint {k} of {len(hints)}"
        inside = (
            "<details style='margin-left: 0.7em'><summary style='cursor: pointer; display: list-item'>"
            f"{label}</summary><div style='margin: 0.3em 0 0.3em 1.2em'>{html.escape(hint)}{inside}"
            "</div></details>"
        )
    return inside


@dataclass
class Exercise:
    """One question that grades itself.

    Attributes:
        name: of the function that a student writes.
        task: what it takes and gives back, in a sentence.
        minutes: a guess for a student.
        personal: the answer is a value (or a function without arguments that gives it) which depends
            on the student's name. Known mistakes and right answers are then functions of that name.
        properties: what must hold, each with its points.
        mistakes: known wrong answers, each with hints in steps.
        right: equivalent right answers, for the tests of the grader.
    """

    name: str
    task: str
    minutes: int
    personal: bool = False
    properties: list[Property] = field(default_factory=list)
    mistakes: list[Known] = field(default_factory=list)
    right: list[Callable] = field(default_factory=list)
    _runs: dict = field(default_factory=dict, repr=False)

    @property
    def points(self) -> float:
        return sum(p.points for p in self.properties)

    def holds(self, says: str, points: float = 1.0) -> Callable:
        """Decorates a property: ``check(ask, draw)`` raises where it does not hold."""

        def note(check: Callable[[Ask, Draw], None]) -> Callable:
            self.properties.append(Property(says, points, check))
            return check

        return note

    def hint(self, *hints: str) -> Callable:
        """Decorates a wrong answer, with what to tell a student whose answer is like it."""

        def note(wrong: Callable) -> Callable:
            self.mistakes.append(Known(wrong, hints))
            return wrong

        return note

    def answer(self, right: Callable) -> Callable:
        """Decorates a right answer."""
        self.right.append(right)
        return right

    def check(self, answer: Any, student: str = "", *, hints: int = 1) -> Report:
        """Say whether an answer is right and, if not, what kind of mistake it may be.

        Numbers must agree to within 0.01 % as a rule. Nothing is stored, nothing is drawn: the same
        answer gets the same report. (Homework is graded with other cases than these.)

        Args:
            answer: the function, or the value, that was asked for.
            student: the student's own name, for a question about a teacher of one's own.
            hints: how many hints the text shows; in a notebook they are all there, folded.
        """
        if self.personal and not str(student or "").strip():
            return self.refused(
                "say in student_id who you are; your teacher is drawn from your name"
            )
        return self.report(self.source(answer), VISIBLE, str(student), hints)

    @staticmethod
    def source(answer: Any, may_borrow: bool = False) -> Callable[..., Seen]:
        """Ask an answer here, in this process; ``may_borrow``: it is one of kdlib's own."""

        def ask(given: dict[str, Any], **wanted: Any) -> Seen:
            seen = observe(answer, given, **wanted)
            return replace(seen, borrowed="") if may_borrow else seen

        return ask

    def report(
        self, source: Callable[..., Seen], seed: int, student: str = "", hints: int = 1
    ) -> Report:
        """Ask ``source`` for all properties, with the cases of one seed."""
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
        """No points, and the reason."""
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
            except Exception:  # noqa: BLE001  a property met a value of a form that it does not know
                last = ask.last or Answer("your answer", "", None)
                failed = Failed(last.given, described(last.value), "what the task asks for")
            run.append((Result(p.says, p.points, failed), ask.seen))
        return run

    def _recognised(self, run: list[_Run], seed: int, student: str) -> tuple[Known, ...]:
        """Known mistakes that fail as the answer fails, those first that explain most of it."""
        failing = {k for k, (result, _) in enumerate(run) if result.failed}
        left, found = set(failing), []
        while left:
            known, explained = max(
                (
                    (known, left & self._explained(known, run, seed, student))
                    for known in self.mistakes
                ),
                key=lambda pair: (
                    len(pair[1]),
                    -len(self._failing(pair[0], seed, student) - failing),
                ),
                default=(None, set()),
            )
            if not explained:
                break
            found.append(known)
            left -= explained
        return tuple(found)

    def _explained(self, known: Known, run: list[_Run], seed: int, student: str) -> set[int]:
        """The properties that both fail, by the same answers."""
        pairs = zip(run, self._run_of(known, seed, student), strict=True)
        return {
            k
            for k, ((own, seen), (its, its_seen)) in enumerate(pairs)
            if own.failed and its.failed and _alike(seen, its_seen)
        }

    def _failing(self, known: Known, seed: int, student: str) -> set[int]:
        run = self._run_of(known, seed, student)
        return {k for k, (result, _) in enumerate(run) if result.failed}

    def _run_of(self, known: Known, seed: int, student: str) -> list[_Run]:
        key = known.name, seed, student if self.personal else ""
        if key not in self._runs:
            wrong = known.wrong(student) if self.personal else known.wrong
            self._runs[key] = self._run(self.source(wrong), seed, student)
        return self._runs[key]


_Run = tuple[Result, list[Seen]]


def _alike(a: list[Seen], b: list[Seen]) -> bool:
    return len(a) == len(b) and all(
        x.kind == y.kind
        and x.error.partition(' (in "')[0] == y.error.partition(' (in "')[0]
        and same(x.value, y.value)
        and same(x.gradients, y.gradients)
        and same(x.after, y.after)
        for x, y in zip(a, b, strict=True)
    )
