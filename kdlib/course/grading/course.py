"""The course as nbgrader keeps it: build the release, grade submissions, write feedback and grades.

All student code runs first, in processes of its own; only when the last has ended do scores enter
nbgrader's gradebook. nbgrader itself runs none of it: ``Score`` replaces its ``Execute`` and fills in
the results.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import secrets
import shutil
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pandas as pd
from nbformat import NotebookNode
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.converters.base import BaseConverter, NbGraderException
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import NbGraderPreprocessor
from sqlalchemy.exc import SAWarning
from traitlets.config import Config, PyFileConfigLoader

from kdlib._files import write_whole
from kdlib.course.exercises import HOMEWORKS
from kdlib.course.grading.marking import Marked, marked
from kdlib.course.grading.sandbox import Limits
from kdlib.course.grading.submission import Submission, found, passed_over

CONFIG = "nbgrader_config.py"
SEED = "grading_seed.txt"
STUDENTS = "students.csv"
GRADEBOOK = "gradebook.db"

_marked: dict[tuple[str, str], Marked] = {}  # on their way to nbgrader, by homework and student


class Repair(NbGraderPreprocessor):
    """Start from the repaired notebook (see ``submission``)."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        about = resources["nbgrader"]
        key = about["assignment"], about["student"]
        if key not in _marked:  # nbgrader's own command, for one notebook
            data = nbformat.writes(nb).encode()
            submission = Submission(about["student"], about["assignment"], about["notebook"], data)
            _marked[key] = _grader(Path.cwd())(submission)
        return nbformat.from_dict(_marked[key].notebook), resources


class Score(NbGraderPreprocessor):
    """Replace ``Execute``: fill in what each cell showed, and the points of each check."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        about = resources["nbgrader"]
        graded = _marked.pop((about["assignment"], about["student"])).notebook
        for cell, own in zip(nb.cells, graded.cells, strict=True):
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = own.outputs, own.execution_count
        return nb, resources


def homeworks(course: Path) -> dict[str, str]:
    """Name of each homework's notebook in ``source``."""
    return {name: _notebook(course / "source", name).stem for name in sorted(HOMEWORKS)}


def _notebook(folder: Path, homework: str) -> Path:
    notebooks = list((folder / homework).glob("*.ipynb"))
    if len(notebooks) != 1:
        raise ValueError(f"{folder / homework} must hold one notebook, got {len(notebooks)}")
    return notebooks[0]


def _grader(course: Path, limits: Limits | None = None) -> Callable[[Submission], Marked]:
    """Return a function that grades by the files as they are: students' code may change them."""
    seed = hidden_seed(course)
    releases = {
        homework: nbformat.read(_notebook(course / "release", homework), as_version=4)
        for homework in HOMEWORKS
    }

    def graded(own: Submission) -> Marked:
        return marked(own, releases[own.homework], HOMEWORKS[own.homework], seed, limits)

    return graded


def hidden_seed(course: Path) -> int:
    """Seed of the hidden cases: the number in ``grading_seed.txt``, drawn if there is no such file."""
    file = course / SEED
    if not file.exists():
        drawn = f"{secrets.randbelow(2**31 - 1) + 1}\n"
        write_whole(file, lambda part: part.write_text(drawn))
    text = file.read_text(encoding="utf-8-sig", errors="replace").strip()
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{SEED} must hold a whole number of at least 1, got {text[:40]!r}")
    return int(text)


def release(course: Path, to: Path | None = None) -> list[Path]:
    """Build ``release/``, which is handed out, from ``source/``; return the files that changed."""
    to = to or course / "release"
    changed = []
    with tempfile.TemporaryDirectory() as scratch:
        for homework, name in homeworks(course).items():
            config = {"release_directory": scratch, "db_url": f"sqlite:///{scratch}/scratch.db"}
            _run(GenerateAssignment, course, homework, config)
            built = Path(scratch) / homework / f"{name}.ipynb"
            target = to / homework / f"{name}.ipynb"
            if not target.exists() or target.read_bytes() != built.read_bytes():
                write_whole(target, lambda part, built=built: shutil.copyfile(built, part))
                changed.append(target)
    return changed


def grade(
    course: Path, limits: Limits | None = None, tell: Callable[[str], None] = print
) -> list[Marked]:
    """Grade all of ``submitted/``; write ``feedback/``, ``grades.csv`` and ``report.md``.

    A submission that cannot be graded gets no points and a note; all others are graded.

    Raises:
        ValueError: there are no submissions, a student's folder has an impossible name, or a file of
            the course is wrong; raised before anything runs.
        RuntimeError: nbgrader failed for a homework; raised after the others are done.
    """
    names = homeworks(course)
    submissions = found(course / "submitted", names)
    if not submissions:
        raise ValueError(
            f"there are no submissions: {course / 'submitted'} must hold STUDENT/hw1/"
            f"{next(iter(names.values()))}.ipynb and so on"
        )
    _students(course)  # raises now if the file is wrong
    graded = _grader(course, limits)
    with tempfile.TemporaryDirectory() as scratch:
        for homework in sorted({s.homework for s in submissions}):
            # Registers the cells in the gradebook, which refuses if an exercise has changed since.
            _run(GenerateAssignment, course, homework, {"release_directory": f"{scratch}/release"})
        notes = [
            f"{path} is not the folder of a homework and was ignored."
            for path in passed_over(course / "submitted", names)
        ]
        with _guarded(course) as changed:
            all_marked = [_announced(graded(submission), tell) for submission in submissions]
        # From here on no student code runs.
        notes += [f"{path} was changed while students' code ran; restored." for path in changed]
        for note in notes:
            tell(note)
        failures = _given_to_nbgrader(course, all_marked, Path(scratch) / "submitted")
    _write_report(course, all_marked, notes)
    _finish(course, failures)
    return all_marked


def _announced(graded: Marked, tell: Callable[[str], None]) -> Marked:
    own = graded.submission
    out_of = sum(report.out_of for report in graded.reports.values())
    tell(f"{own.student} {own.homework}: {graded.points:g} of {out_of:g}")
    for note in graded.notes:
        tell(f"    {note}")
    return graded


@contextmanager
def _guarded(course: Path) -> Iterator[list[str]]:
    """Restore the files that decide on points if anything inside changes them; list these."""

    def files() -> dict[Path, bytes]:
        own = [course / name for name in (CONFIG, SEED, STUDENTS, GRADEBOOK)]
        own += [path for part in ("source", "release") for path in (course / part).rglob("*")]
        return {path: path.read_bytes() for path in own if path.is_file()}

    changed: list[str] = []
    before = files()
    try:
        yield changed
    finally:
        after = files()
        for path in {**before, **after}:
            if before.get(path) != after.get(path):
                changed.append(str(path.relative_to(course)))
                path.unlink(missing_ok=True)
                if path in before:
                    write_whole(path, lambda part, path=path: part.write_bytes(before[path]))


def _given_to_nbgrader(course: Path, all_marked: list[Marked], handed_in: Path) -> list[str]:
    """Enter points and outputs into the gradebook, homework by homework; return what failed."""
    _marked.clear()
    for graded in all_marked:
        own = graded.submission
        _marked[own.homework, own.student] = graded
        file = handed_in / own.student / own.homework / f"{own.name}.ipynb"
        file.parent.mkdir(parents=True)
        nbformat.write(graded.notebook, file)
    failures = []
    for homework in sorted({homework for homework, _ in _marked}):
        for old in (course / "autograded").glob(f"*/{homework}"):
            if (homework, old.parent.name) not in _marked:  # no longer handed in
                shutil.rmtree(old)
        try:
            _run(Autograde, course, homework, {"submitted_directory": str(handed_in)})
        except RuntimeError as error:
            failures.append(str(error))
    return failures


def feedback(course: Path) -> None:
    """Write ``feedback/`` and ``grades.csv`` from the gradebook again, after reading by hand."""
    _finish(course, [])


def _finish(course: Path, failures: list[str]) -> None:
    for homework in homeworks(course):
        if list((course / "autograded").glob(f"*/{homework}")):
            try:
                _run(GenerateFeedback, course, homework, {})
            except RuntimeError as error:
                failures.append(str(error))
    _write_grades(course)
    if failures:
        raise RuntimeError("\n\n".join(failures))


def _run(
    kind: type[BaseConverter], course: Path, homework: str, directories: dict[str, str]
) -> None:
    """Run one step of nbgrader, with the course's own settings and these directories."""
    course = course.resolve()
    config: Config = PyFileConfigLoader(CONFIG, path=str(course)).load_config()
    config.CourseDirectory.root = str(course)
    config.CourseDirectory.assignment_id = homework
    config.CourseDirectory.update(directories)
    step = kind(coursedir=CourseDirectory(config=config), config=config)
    step.force = True
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    step.log.addHandler(handler)
    try:
        with _scripts_on_the_path(), warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)  # caused by how nbgrader builds its rows
            step.start()
    except NbGraderException as error:
        raise RuntimeError(
            f"nbgrader failed in {kind.__name__} of {homework}:\n{log.getvalue()}"
        ) from error
    finally:
        step.log.removeHandler(handler)


@contextmanager
def _scripts_on_the_path() -> Iterator[None]:
    """Let nbgrader find alembic, which lies beside this Python but perhaps nowhere on the PATH."""
    before = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _write_grades(course: Path) -> None:
    """Write one row per student, for a spreadsheet or a learning platform."""
    names = homeworks(course)
    about = _students(course)
    rows = []
    with Gradebook(f"sqlite:///{course.resolve() / GRADEBOOK}") as gradebook:
        for student, own in about.items():
            gradebook.update_or_create_student(student, **own)
        for student in sorted(gradebook.students, key=lambda s: s.id):
            row = {"student_id": student.id}
            row |= {
                key: getattr(student, key) or "" for key in ("first_name", "last_name", "email")
            }
            for homework in names:
                row |= _scores(gradebook, student.id, homework)
            rows.append(row)
    table = pd.DataFrame(rows, columns=None if rows else ["student_id"])
    write_whole(course / "grades.csv", lambda part: table.to_csv(part, index=False))


def _scores(gradebook: Gradebook, student: str, homework: str) -> dict[str, object]:
    try:
        own = gradebook.find_submission(homework, student)
    except MissingEntry:
        return {homework: "", f"{homework} out of": "", f"{homework} to be read": ""}
    unread = sum(grade.needs_manual_grade for book in own.notebooks for grade in book.grades)
    return {
        homework: f"{own.score:g}",
        f"{homework} out of": f"{own.max_score:g}",
        f"{homework} to be read": unread,
    }


def _students(course: Path) -> dict[str, dict[str, str]]:
    """Names and addresses from ``students.csv``, if there is one."""
    file = course / STUDENTS
    if not file.exists():
        return {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines, skipinitialspace=True))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{STUDENTS} must be saved as UTF-8, got another encoding ({error})"
        ) from None
    if rows and "student_id" not in rows[0]:
        columns = ", ".join(map(str, rows[0]))
        raise ValueError(f"{STUDENTS} must have a column student_id, got {columns}")
    kept = ("first_name", "last_name", "email")
    named = [row for row in rows if (row["student_id"] or "").strip()]
    return {row["student_id"].strip(): {key: row.get(key) or "" for key in kept} for row in named}


def _write_report(course: Path, all_marked: list[Marked], notes: list[str]) -> None:
    """List what a teacher should look at: points by exercise, known mistakes, notes."""
    lines = ["# What the grader found\n", *(f"- {_verbatim(note)}\n" for note in notes)]
    for graded in all_marked:
        own = graded.submission
        lines.append(f"## {_verbatim(own.student)}, {own.homework}: {graded.points:g} points\n")
        for name, report in graded.reports.items():
            known = ", ".join(m.name for m in report.mistakes)
            said = report.note or (f"looks like {known}" if known else "")
            lines.append(
                f"- {name}: {report.points:g} of {report.out_of:g}{said and f' ({_verbatim(said)})'}"
            )
        lines += [f"- Note: {_verbatim(note)}" for note in graded.notes]
        lines.append("")
    text = "\n".join(lines)
    write_whole(course / "report.md", lambda part: part.write_text(text, encoding="utf-8"))


def _verbatim(text: str) -> str:
    """Escape Markdown: part of the text may be a student's."""
    return re.sub(r"([\\`*_\[\]<>!#|])", r"\\\1", text)
