"""From a submission to reports: repair the notebook, run it, check its functions."""

from __future__ import annotations

import html
import pkgutil
import re
from collections.abc import Sequence
from dataclasses import dataclass

import nbformat
from nbformat import NotebookNode

import kdlib.course.exercises
import kdlib.course.grading
import kdlib.course.museum
from kdlib.course.exercises.material import seed_of
from kdlib.course.grading.exercise import Exercise
from kdlib.course.grading.observe import NOT_WRITTEN
from kdlib.course.grading.prose import safe
from kdlib.course.grading.report import Report
from kdlib.course.grading.sandbox import NOTHING, Limits, Runner, named
from kdlib.course.grading.submission import Submission, defined, grade_id, is_check, mended

# The course's own modules under their present names, so that moving one does not hide it. Anything
# deeper is reached through one of these.
ROOMS = {
    module.name
    for package in (kdlib.course.exercises, kdlib.course.grading, kdlib.course.museum)
    for module in pkgutil.iter_modules(package.__path__)
}
# What an honest answer does not mention: those modules, the grader's files, a replaced check.
PEEPING = (
    rf"\b(?:exercises|grading|museum)\s*(?:\.|import)\s*(?=({'|'.join(sorted(ROOMS))})\b)"
    rf"|\b({re.escape(kdlib.course.__name__)})\b"
    r"|(grading_seed|gradebook|nbgrader_config)|(grading\.\w+)\s*=[^=]"
)


MOST_FAILED = 10  # cells that are named


@dataclass(frozen=True)
class Marked:
    """A submission with what was found.

    Attributes:
        submission: as it was handed in.
        notebook: repaired, with each cell's output when it was run here and each check's points.
        reports: reports by the name of the exercise.
        notes: remarks on what was repaired, left out or odd.
    """

    submission: Submission
    notebook: NotebookNode
    reports: dict[str, Report]
    notes: list[str]

    @property
    def points(self) -> float:
        """Points of all exercises that grade themselves."""
        return sum(report.points for report in self.reports.values())


def marked(
    submission: Submission,
    release: NotebookNode,
    exercises: Sequence[Exercise],
    seed: int,
    limits: Limits | None = None,
) -> Marked:
    """Grade one submission on the hidden cases of ``seed``."""
    notebook, notes = mended(submission, release)
    # The cell that installs kdlib, and cells that draw a picture for a right answer, are not run again.
    kept_out = {
        c.source for c in release.cells if c.id == "install" or "grading.check_" in c.source
    }
    cells = {
        place: cell.source
        for place, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and not is_check(cell) and cell.source not in kept_out
    }
    checks = {
        place: grade_id(cell).removeprefix("check_")
        for place, cell in enumerate(notebook.cells)
        if is_check(cell)
    }
    runner = Runner(cells, submission.student, limits, checks, submission.files)
    try:
        reports = {
            e.name: e.report(runner.source(e.name), seed, submission.student) for e in exercises
        }
        for e in exercises:
            notes += _again(e, exercises, reports, runner, seed, submission.student)
        if any(exercise.personal for exercise in exercises):
            notes += _whose(runner, submission.student)
        modules = [x for name, x in submission.files.items() if name.endswith(".py")]
        read = [*cells.values(), *(x.decode("utf-8", "replace") for x in modules)]
        if names := peeped("\n".join(read)):
            notes.append(f"It mentions the grader's own {', '.join(names)}: have a look at it.")
    finally:
        runner.close()
    if beside := [name for name in submission.files if name != "timestamp.txt"]:  # nbgrader's own
        notes.append(f"Beside the notebook there were: {', '.join(beside)}.")
    notes += [f"A file beside the notebook was left out: {name}." for name in submission.left_out]
    if any("google.colab" in source for source in cells.values()):
        notes.append(
            "Google Colab's own package is missing where this was graded: no call of it counts."
        )
    notes += runner.notes
    notes += [
        f"{named(cells[place])} printed {output['more']:,} characters more than are kept."
        for place, output in runner.outputs.items()
        if output["more"]
    ]
    notes += [
        f"{name}: {r.note}." for name, r in reports.items() if r.note not in ("", NOT_WRITTEN)
    ]
    notes += _again_below(cells, checks, reports)
    notes += _failed(cells, runner)
    notes = ["".join(c if c.isprintable() else " " for c in note)[:500] for note in notes]
    _show(notebook, runner, reports)
    _made_harmless(notebook, release)
    if notes:
        text = html.escape("\n".join(notes))
        told = f"**Notes of the grader**\n\n<pre style='white-space: pre-wrap'>{text}</pre>"
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(told, id="grader_notes"))
    return Marked(submission, notebook, reports, notes)


def _failed(cells: dict[int, str], runner: Runner) -> list[str]:
    """A note on each cell that ended with an error and is in no note yet, up to ten."""
    failed = [
        (named(cells[place]), output["error"])
        for place, output in sorted(runner.outputs.items())
        if output["error"]
    ]
    notes = [
        f"{cell} failed: {error}"
        for cell, error in failed
        if not any(note.startswith(cell) for note in runner.notes)
    ]
    more = len(notes) - MOST_FAILED
    return notes[:MOST_FAILED] + ([f"Cells that failed beside these: {more}."] if more > 0 else [])


def _again_below(
    cells: dict[int, str], checks: dict[int, str], reports: dict[str, Report]
) -> list[str]:
    """A note on each wrong answer whose name a cell below its check takes again."""
    below = {
        name: [source for k, source in cells.items() if k > place and name in defined(source)]
        for place, name in checks.items()
    }
    return [
        f"{named(sources[-1])} stands below the check of {name}: what the check found above it counts."
        for name, sources in below.items()
        if sources and not reports[name].passed
    ]


def peeped(source: str) -> list[str]:
    """The names of the grader's own parts that a submission mentions."""
    found = re.findall(PEEPING, source)
    return sorted({name for groups in found for name in groups if name})


def _again(
    exercise: Exercise,
    exercises: Sequence[Exercise],
    reports: dict[str, Report],
    runner: Runner,
    seed: int,
    student: str,
) -> list[str]:
    """Grade a wrong answer once more with other functions in place, if these may be why it is wrong.

    An earlier wrong function is replaced by the right one. An earlier right one whose name a cell has
    taken for something else is put back. What counts is the better report; notes say so.
    """
    name, report = exercise.name, reports[exercise.name]
    if report.passed or report.note == NOT_WRITTEN or report.borrowed:
        return []
    earlier = _earlier(exercise, exercises)
    instead = {e.name: e.right for e in earlier if not reports[e.name].passed}
    own = runner.changed(name, [e.name for e in earlier if reports[e.name].passed])
    if not (instead or own):
        return []
    again = exercise.report(runner.source(name, instead, own), seed, student)
    if again.points <= report.points:
        return []
    reports[name] = again
    notes = []
    if instead:
        notes.append(f"{name} was graded with a right {', '.join(instead)} in place of your own.")
    if own:
        notes.append(f"{name} was graded with your {', '.join(own)}: a later cell took the name.")
    return notes


def _earlier(exercise: Exercise, exercises: Sequence[Exercise]) -> list[Exercise]:
    """What may be lent to an exercise: answers that only call each other earn nothing."""
    place = [e.name for e in exercises].index(exercise.name)
    return [e for e in exercises[:place] if not e.personal]


def _whose(runner: Runner, student: str) -> list[str]:
    """A note if the notebook was written under another name."""
    own = runner.own_name()
    if not own.strip() or seed_of(own) == seed_of(student):
        return []
    said = f'The notebook says student_id = "{own[:60]}" and was handed in as "{student}"'
    return [f"{said}; it was graded as the latter's."]


def _made_harmless(notebook: NotebookNode, release: NotebookNode) -> None:
    """Reduce a student's prose to text, links and pictures: nothing that a browser would run."""
    ours = {cell.source for cell in release.cells}
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source not in ours:
            cell.source = safe(cell.source, cell.get("attachments", {}))
        elif cell.cell_type == "raw":
            cell.source = html.escape(cell.source)


def _show(notebook: NotebookNode, runner: Runner, reports: dict[str, Report]) -> None:
    """Give each cell its output, and each check its points where nbgrader looks for them."""
    make = nbformat.v4.new_output
    code = [(place, cell) for place, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    for count, (place, cell) in enumerate(code, start=1):
        cell.execution_count, cell.outputs = count, []
        if is_check(cell):
            report = reports[grade_id(cell).removeprefix("check_")]
            data = {"text/plain": f"{report.points:g}", "text/html": report._repr_html_()}
            cell.outputs = [make("execute_result", data, execution_count=count)]
            continue
        found = runner.outputs.get(place, NOTHING)
        if found["text"]:
            cell.outputs.append(make("stream", name="stdout", text=found["text"]))
        cell.outputs += [make("display_data", {"image/png": png}) for png in found["pictures"]]
        if found["error"]:
            name, _, text = found["error"].partition(": ")
            cell.outputs.append(make("error", ename=name, evalue=text, traceback=[found["error"]]))
