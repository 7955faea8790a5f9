"""The course as nbgrader keeps it: build the release, grade what was handed in, write feedback and grades.

All code of students runs first, in processes of its own; only when the last has ended, scores are
given to nbgrader's gradebook. nbgrader itself runs nothing of theirs: in place of its ``Execute`` it
gets what was found.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import secrets
import shutil
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.converters.base import BaseConverter, NbGraderException
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import NbGraderPreprocessor
from sqlalchemy.exc import SAWarning
from traitlets.config import Config, PyFileConfigLoader

from kdlib.grading import HOMEWORKS
from kdlib.grading.marking import Marked, marked
from kdlib.grading.sandbox import Limits
from kdlib.grading.submission import Submission, found

CONFIG = "nbgrader_config.py"
SEED = "grading_seed.txt"
STUDENTS = "students.csv"

_marked: dict[tuple[str, str], Marked] = {}  # of this run, by homework and student


class Repair(NbGraderPreprocessor):
    """First of all: the notebook as it was mended (see ``submission``)."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        about = resources["nbgrader"]
        key = about["assignment"], about["student"]
        if key not in _marked:  # asked by nbgrader itself, for one notebook
            data = nbformat.writes(nb).encode()
            submission = Submission(about["student"], about["assignment"], about["notebook"], data)
            _marked[key] = _marked_here(Path.cwd(), submission)
        return nbformat.from_dict(_marked[key].notebook), resources


class Score(NbGraderPreprocessor):
    """In place of ``Execute``: what each cell showed, and the points of each check."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        about = resources["nbgrader"]
        graded = _marked[about["assignment"], about["student"]].notebook
        for cell, own in zip(nb.cells, graded.cells, strict=True):
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = own.outputs, own.execution_count
        return nb, resources


def _marked_here(course: Path, submission: Submission, limits: Limits | None = None) -> Marked:
    release = _notebook(course / "release", submission.homework)
    exercises = HOMEWORKS[submission.homework]
    return marked(submission, nbformat.read(release, 4), exercises, hidden_seed(course), limits)


def homeworks(course: Path) -> dict[str, str]:
    """The notebook's name of each homework in ``source``."""
    return {name: _notebook(course / "source", name).stem for name in sorted(HOMEWORKS)}


def _notebook(folder: Path, homework: str) -> Path:
    notebooks = list((folder / homework).glob("*.ipynb"))
    if len(notebooks) != 1:
        raise ValueError(f"{folder / homework} must hold one notebook, it holds {len(notebooks)}")
    return notebooks[0]


def hidden_seed(course: Path) -> int:
    """The seed of the hidden cases: the teacher's own number in ``grading_seed.txt``, drawn if need be."""
    file = course / SEED
    if not file.exists():
        file.write_text(f"{secrets.randbelow(2**31 - 1) + 1}\n")
    text = file.read_text().strip()
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{SEED} must hold a whole number from 1 on, got {text[:40]!r}")
    return int(text)


def release(course: Path, to: Path | None = None) -> list[Path]:
    """Build what is handed out, ``release/``, from ``source/``: the files that have changed."""
    to = to or course / "release"
    changed = []
    with tempfile.TemporaryDirectory() as scratch:
        for homework, name in homeworks(course).items():
            config = {"release_directory": scratch, "db_url": f"sqlite:///{scratch}/scratch.db"}
            _run(GenerateAssignment, course, homework, config)
            built = Path(scratch) / homework / f"{name}.ipynb"
            target = to / homework / f"{name}.ipynb"
            if not target.exists() or target.read_bytes() != built.read_bytes():
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_suffix(".part")
                shutil.copyfile(built, part)
                os.replace(part, target)
                changed.append(target)
    return changed


def grade(
    course: Path, limits: Limits | None = None, tell: Callable[[str], None] = print
) -> list[Marked]:
    """Grade all of ``submitted/``; write ``feedback/``, ``grades.csv`` and ``report.md``.

    A submission that cannot be graded gets no points and a note; all others are graded.
    """
    names = homeworks(course)
    submissions = found(course / "submitted", names)
    if not submissions:
        raise ValueError(
            f"nothing is handed in: {course / 'submitted'} must hold STUDENT/hw1/"
            f"{next(iter(names.values()))}.ipynb and so on"
        )
    _students(course)  # said now if it is wrong
    _marked.clear()
    for submission in submissions:
        graded = _marked_here(course, submission, limits)
        _marked[submission.homework, submission.student] = graded
        out_of = sum(report.out_of for report in graded.reports.values())
        tell(f"{submission.student} {submission.homework}: {graded.points:g} of {out_of:g}")
        for note in graded.notes:
            tell(f"    {note}")
    # From here on nothing of the students' runs.
    with tempfile.TemporaryDirectory() as scratch:
        handed_in = Path(scratch) / "submitted"
        for graded in _marked.values():
            own = graded.submission
            file = handed_in / own.student / own.homework / f"{own.name}.ipynb"
            file.parent.mkdir(parents=True)
            nbformat.write(graded.notebook, file)
        for homework in sorted({s.homework for s in submissions}):
            config = {"release_directory": f"{scratch}/release"}
            _run(GenerateAssignment, course, homework, config)  # tells the gradebook of its cells
            _run(Autograde, course, homework, {"submitted_directory": str(handed_in)})
    _write_report(course, list(_marked.values()))
    feedback(course)
    return list(_marked.values())


def feedback(course: Path) -> None:
    """Write ``feedback/`` and ``grades.csv`` from the gradebook: again, after reading by hand."""
    for homework in homeworks(course):
        if list((course / "autograded").glob(f"*/{homework}")):
            _run(GenerateFeedback, course, homework, {})
    _write_grades(course)


def _run(
    kind: type[BaseConverter], course: Path, homework: str, directories: dict[str, str]
) -> None:
    """One step of nbgrader, with the course's own settings and these directories."""
    course = course.resolve()
    config: Config = PyFileConfigLoader(CONFIG, path=str(course)).load_config()
    config.CourseDirectory.root = str(course)
    config.CourseDirectory.assignment_id = homework
    config.CourseDirectory.update(directories)
    step = kind(coursedir=CourseDirectory(config=config), config=config)
    step.force = True
    told = io.StringIO()
    handler = logging.StreamHandler(told)
    step.log.addHandler(handler)
    try:
        with _scripts_on_the_path(), warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)  # of how nbgrader builds its rows
            step.start()
    except NbGraderException as error:
        raise RuntimeError(
            f"nbgrader failed in {kind.__name__} of {homework}:\n{told.getvalue()}"
        ) from error
    finally:
        step.log.removeHandler(handler)


@contextmanager
def _scripts_on_the_path() -> Iterator[None]:
    """nbgrader calls alembic, which lies beside this Python and perhaps nowhere on the PATH."""
    before = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _write_grades(course: Path) -> None:
    """One row a student, for a spreadsheet or a learning platform."""
    names = homeworks(course)
    about = _students(course)
    rows = []
    with Gradebook(f"sqlite:///{course.resolve() / 'gradebook.db'}") as gradebook:
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
    part = course / "grades.csv.part"
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["student_id"])
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, course / "grades.csv")


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
    """Names and addresses from ``students.csv``, where there is one."""
    file = course / STUDENTS
    if not file.exists():
        return {}
    with file.open(newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    if rows and "student_id" not in rows[0]:
        raise ValueError(f"{STUDENTS} must have a column student_id, it has {', '.join(rows[0])}")
    kept = ("first_name", "last_name", "email")
    return {row["student_id"]: {key: row.get(key) or "" for key in kept} for row in rows}


def _write_report(course: Path, all_marked: list[Marked]) -> None:
    """What a teacher should look at: points by exercise, mistakes by name, notes."""
    lines = ["# What the grader found\n"]
    for graded in all_marked:
        own = graded.submission
        lines.append(f"## {own.student}, {own.homework}: {graded.points:g} points\n")
        for name, report in graded.reports.items():
            known = ", ".join(m.name for m in report.mistakes)
            said = report.note or (f"looks like {known}" if known else "")
            lines.append(f"- {name}: {report.points:g} of {report.out_of:g}{said and f' ({said})'}")
        lines += [f"- Note: {note}" for note in graded.notes]
        lines.append("")
    part = course / "report.md.part"
    part.write_text("\n".join(lines), encoding="utf-8")
    os.replace(part, course / "report.md")
