"""From a submission to reports: repair the notebook, run it, check its functions."""

from __future__ import annotations

import html
import pkgutil
import re
from collections.abc import Callable, Sequence
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
from kdlib.course.grading.submission import Submission, grade_id, is_check, mended

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
    runner = Runner(cells, submission.student, limits)
    try:
        reports = {
            e.name: e.report(runner.source(e.name), seed, submission.student) for e in exercises
        }
        for e in exercises:
            if instead := _wrong_others(e, exercises, reports):
                again = e.report(runner.source(e.name, instead), seed, submission.student)
                if again.points > reports[e.name].points:
                    reports[e.name] = again
                    names = ", ".join(instead)
                    notes.append(f"{e.name} was graded with a right {names} in place of your own.")
        if any(exercise.personal for exercise in exercises):
            notes += _whose(runner, submission.student)
        if names := peeped("\n".join(cells.values())):
            notes.append(f"It mentions the grader's own {', '.join(names)}: have a look at it.")
    finally:
        runner.close()
    notes += runner.notes
    notes += [
        f"{named(cells[place])} printed {output['more']:,} characters more than are kept."
        for place, output in runner.outputs.items()
        if output["more"]
    ]
    notes += [
        f"{name}: {r.note}." for name, r in reports.items() if r.note not in ("", NOT_WRITTEN)
    ]
    notes = ["".join(c if c.isprintable() else " " for c in note)[:500] for note in notes]
    _show(notebook, runner, reports)
    _made_harmless(notebook, release)
    if notes:
        text = html.escape("\n".join(notes))
        told = f"**Notes of the grader**\n\n<pre style='white-space: pre-wrap'>{text}</pre>"
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(told, id="grader_notes"))
    return Marked(submission, notebook, reports, notes)


def peeped(source: str) -> list[str]:
    """The names of the grader's own parts that a submission mentions."""
    found = re.findall(PEEPING, source)
    return sorted({name for groups in found for name in groups if name})


def _wrong_others(
    exercise: Exercise, exercises: Sequence[Exercise], reports: dict[str, Report]
) -> dict[str, Callable]:
    """Right functions in place of earlier wrong ones, if these may be why this one fails."""
    report = reports[exercise.name]
    if report.passed or report.note == NOT_WRITTEN or report.borrowed:
        return {}
    earlier = exercises[: [e.name for e in exercises].index(exercise.name)]
    return {e.name: e.right for e in earlier if not (e.personal or reports[e.name].passed)}


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
