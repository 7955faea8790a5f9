"""The report of a check: HTML with folded hints in a notebook, plain text elsewhere.

It knows nothing of exercises: anything that is checked by properties can be reported in this form.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

NO_ERROR = "no error"
TICK, CROSS = (
    f"<span style='color: {colour}; font-weight: bold'>{sign}</span>"
    for sign, colour in (("✓", "#2a9d57"), ("✗", "#d1495b"))
)


class Failed(Exception):
    """A property does not hold: the input, what the answer gave, and what was expected."""

    def __init__(self, given: str, got: str, expected: str):
        super().__init__(f"with {given}: got {got}, expected {expected}")
        self.given, self.got, self.expected = given, got, expected


@dataclass(frozen=True)
class Known:
    """A known mistake, recognised when an answer behaves exactly like it.

    Attributes:
        wrong: code that makes it; the mistake has the function's name.
        hints: hints in steps, from a nudge to nearly the answer.
    """

    wrong: Callable
    hints: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.wrong.__name__


@dataclass(frozen=True)
class Result:
    """One property: its title, its points, and how it failed, if it did."""

    says: str
    points: float
    failed: Failed | None

    @property
    def earned(self) -> float:
        return 0.0 if self.failed else self.points


@dataclass(frozen=True)
class Report:
    """The result of a check, with the points earned.

    Attributes:
        exercise: the name of what was checked.
        results: one result for each property.
        mistakes: the known mistakes recognised in the answer.
        note: a remark on the whole answer, such as "not written yet"; an answer with one earns nothing.
        borrowed: the name of kdlib's own function that the answer calls, "" if none.
        shown: how many hints the text shows; a notebook has them all, folded.
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
        """Each property with the lines that explain its failure; a repeated error is shown once."""
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
        """The report as HTML, with every text escaped: an answer may return anything, even tags."""
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
    """Fold each hint inside the one before, so that nobody opens the last by accident."""
    inside = ""
    for k, hint in reversed(list(enumerate(hints, start=1))):
        label = "Hint" if len(hints) == 1 else f"Hint {k} of {len(hints)}"
        inside = (
            "<details style='margin-left: 0.7em'><summary style='cursor: pointer; display: list-item'>"
            f"{label}</summary><div style='margin: 0.3em 0 0.3em 1.2em'>{html.escape(hint)}{inside}"
            "</div></details>"
        )
    return inside
