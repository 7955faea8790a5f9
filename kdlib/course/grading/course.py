"""The course as nbgrader keeps it: build the release, grade submissions, write feedback and grades.

All student code runs first, in processes of its own; only when the last has ended do scores enter
nbgrader's gradebook. nbgrader itself runs none of it: ``Score`` replaces its ``Execute`` and fills in
the results.
"""

from __future__ import annotations

import io
import logging
import os
import secrets
import shutil
import sysconfig
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.converters.base import BaseConverter
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import NbGraderPreprocessor
from sqlalchemy.exc import SAWarning
from traitlets import validate
from traitlets.config import Config, PyFileConfigLoader

from kdlib._console import say
from kdlib._files import write_whole
from kdlib.course.exercises import HOMEWORKS
from kdlib.course.grading.grades import (
    STUDENTS,
    TIMESTAMP,
    moment,
    students,
    utc,
    write_grades,
    write_report,
)
from kdlib.course.grading.marking import Marked, marked
from kdlib.course.grading.sandbox import Limits
from kdlib.course.grading.submission import Submission, found, passed_over

CONFIG = "nbgrader_config.py"
SEED = "grading_seed.txt"
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
    course: Path, limits: Limits | None = None, tell: Callable[[str], None] = say
) -> list[Marked]:
    """Grade all of ``submitted/``; write ``feedback/``, ``grades.csv`` and ``report.md``.

    A submission that cannot be graded gets no points and a note; all others are graded.

    Args:
        course: the folder with ``nbgrader_config.py``.
        limits: of each submission's time and memory.
        tell: called with each line of progress.

    Raises:
        ValueError: there are no submissions, a student's folder has an impossible name, or a file of
            the course is wrong; raised before anything runs.
        RuntimeError: the grader failed for a submission, nbgrader for a homework, or a file could not
            be written; raised after all else is done.
    """
    names = homeworks(course)
    submissions = found(course / "submitted", names)
    if not submissions:
        raise ValueError(
            f"there are no submissions: {course / 'submitted'} must hold STUDENT/hw1/"
            f"{next(iter(names.values()))}.ipynb and so on"
        )
    _check_each_is_one(submissions)
    about, deadlines = students(course), _deadlines(course)
    graded = _grader(course, limits)
    with tempfile.TemporaryDirectory() as scratch:
        for homework in sorted({s.homework for s in submissions}):
            # Registers the cells in the gradebook, which refuses if an exercise has changed since.
            _run(GenerateAssignment, course, homework, {"release_directory": f"{scratch}/release"})
    notes = [
        f"{path} is not the folder of a homework and was ignored."
        for path in passed_over(course / "submitted", names)
    ]
    failures: list[str] = []
    all_marked = []
    with _guarded(course) as changed:
        for submission in submissions:
            with _noted(failures, f"{submission.student} {submission.homework} was not graded"):
                all_marked.append(_with_time(graded(submission)))
                _say_all(tell, _told(all_marked[-1]))
    # From here on no student code runs.
    notes += [f"{path} was changed while students' code ran; restored." for path in changed]
    _say_all(tell, notes + failures)
    with _noted(failures, "report.md was not written; is it open in another program?"):
        write_report(course / "report.md", all_marked, notes + failures)
    with _noted(failures, "Times of handing in and deadlines were not entered"):
        _enter_times(course, all_marked, deadlines)
    _give_to_nbgrader(course, all_marked, failures)
    _finish(course, about, failures)
    return all_marked


def _check_each_is_one(submissions: list[Submission]) -> None:
    """Refuse folders whose names differ in how an accent is encoded, since nbgrader gets one form."""
    for (student, homework), count in Counter((s.student, s.homework) for s in submissions).items():
        if count > 1:
            raise ValueError(
                f"each student must have one folder, got {count} that read {student!r} and hold "
                f"{homework}: rename or remove all but one"
            )


def _told(graded: Marked) -> list[str]:
    own = graded.submission
    out_of = sum(report.out_of for report in graded.reports.values())
    points = f"{own.student} {own.homework}: {graded.points:g} of {out_of:g}"
    return [points, *(f"    {note}" for note in graded.notes)]


def _say_all(tell: Callable[[str], None], lines: list[str]) -> None:
    for line in lines:
        with suppress(OSError, UnicodeError):  # what cannot be shown stops no grading
            tell(line)


def _with_time(graded: Marked) -> Marked:
    """Add a note if the time of handing in cannot be read."""
    try:
        _handed_in(graded.submission)
    except ValueError as error:
        graded.notes.append(f"{TIMESTAMP} was ignored: {error}.")
    return graded


def _handed_in(own: Submission) -> datetime | None:
    """When a submission was handed in, in UTC; None where nothing says so."""
    if TIMESTAMP not in own.files:
        return None
    return utc(moment(own.files[TIMESTAMP].decode("utf-8-sig", errors="replace")))


@contextmanager
def _noted(failures: list[str], what: str) -> Iterator[None]:
    """Note an error among the failures and go on, so that nobody else loses a grade by it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  whatever it is, the others go on
        failures.append(f"{what}: {type(error).__name__}: {error}")


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


def _deadlines(course: Path) -> dict[str, datetime]:
    """Deadlines in UTC by homework, as the course's settings say them: ``c.Deadlines.hw1 = "..."``."""
    with _inside(course):
        stated = _settings().get("Deadlines", {})
    deadlines = {}
    for homework, text in stated.items():
        setting = f"c.Deadlines.{homework} in {CONFIG}"
        if homework not in HOMEWORKS:
            raise ValueError(f"{setting}: there is no such homework, only {', '.join(HOMEWORKS)}")
        try:
            deadline = moment(str(text))
            if deadline.tzinfo is None:
                raise ValueError(
                    f"a deadline must end in its zone, such as Europe/Berlin, got {text!r}"
                )
            deadlines[homework] = utc(deadline)
        except ValueError as error:
            raise ValueError(f"{setting}: {error}") from None
    return deadlines


def _enter_times(course: Path, all_marked: list[Marked], deadlines: dict[str, datetime]) -> None:
    """Enter into the gradebook what is due when, and when each submission was handed in."""
    with _gradebook(course) as gradebook:
        for homework, deadline in deadlines.items():
            with suppress(MissingEntry):  # a homework that nobody has handed in yet
                gradebook.find_assignment(homework).duedate = deadline
        for graded in all_marked:
            own, time = graded.submission, None
            with suppress(ValueError):  # it has a note
                time = _handed_in(own)
            gradebook.update_or_create_student(own.student)
            gradebook.update_or_create_submission(own.homework, own.student, timestamp=time)
        gradebook.db.commit()


def _give_to_nbgrader(course: Path, all_marked: list[Marked], failures: list[str]) -> None:
    """Enter points and outputs into the gradebook, homework by homework; note what failed."""
    _marked.clear()
    with tempfile.TemporaryDirectory(dir=course, prefix=".part-") as handed_in:
        for graded in all_marked:
            own = graded.submission
            file = Path(handed_in) / own.student / own.homework / f"{own.name}.ipynb"
            with _noted(failures, f"{own.student} {own.homework} was not graded"):
                file.parent.mkdir(parents=True)
                nbformat.write(graded.notebook, file)
                _marked[own.homework, own.student] = graded
        for homework in sorted({homework for homework, _ in _marked}):
            for old in (course / "autograded").glob(f"*/{homework}"):
                if (homework, old.parent.name) not in _marked:  # no longer handed in
                    shutil.rmtree(old)
            with _noted(failures, f"Not all points of {homework} were entered"):
                submitted = {"submitted_directory": Path(handed_in).name}
                _run(Autograde, course, homework, submitted)


def feedback(course: Path) -> None:
    """Write ``feedback/`` and ``grades.csv`` from the gradebook again, after reading by hand."""
    about = students(course)
    _enter_times(course, [], _deadlines(course))
    _finish(course, about, [])


def _finish(course: Path, about: dict[str, dict[str, str]], failures: list[str]) -> None:
    for homework in homeworks(course):
        if list((course / "autograded").glob(f"*/{homework}")):
            with _noted(failures, f"Not all feedback on {homework} was written"):
                _run(GenerateFeedback, course, homework, {})
    grades, names = course.resolve() / "grades.csv", homeworks(course)
    again = "python -m kdlib.course.grading feedback writes it once no other program has it open"
    with _noted(failures, f"grades.csv was not written; {again}"), _gradebook(course) as gradebook:
        for student, own in about.items():
            gradebook.update_or_create_student(student, **own)
        write_grades(grades, gradebook, names)
    if failures:
        raise RuntimeError("\n\n".join(failures))


class _Here(CourseDirectory):
    """A course at the relative path ``.``: nbgrader reads an absolute one as a pattern ([ ] * ?)."""

    @validate("root")
    def _validate_root(self, proposal: dict) -> str:
        return proposal["value"]


def _settings() -> Config:
    # Of any other path traitlets replaces what looks like a variable, and of "." what it stands for.
    return PyFileConfigLoader(CONFIG, path=f".{os.sep}").load_config()


def _run(
    kind: type[BaseConverter], course: Path, homework: str, directories: dict[str, str]
) -> None:
    """Run one step of nbgrader, with the course's own settings and these directories."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    with _inside(course):
        config = _settings()
        config.CourseDirectory.root = "."
        config.CourseDirectory.assignment_id = homework
        config.CourseDirectory.update({"db_url": f"sqlite:///{GRADEBOOK}"} | directories)
        step = kind(coursedir=_Here(config=config), config=config)
        step.force = True
        step.log.addHandler(handler)
        try:
            step.start()
        except Exception as error:
            raise RuntimeError(
                f"nbgrader failed in {kind.__name__} of {homework}:\n{log.getvalue()}{error}"
            ) from error
        finally:
            step.log.removeHandler(handler)


@contextmanager
def _gradebook(course: Path) -> Iterator[Gradebook]:
    with _inside(course), Gradebook(f"sqlite:///{GRADEBOOK}") as gradebook:
        yield gradebook


@contextmanager
def _inside(course: Path) -> Iterator[None]:
    """Work in the course's folder, with alembic, which nbgrader runs, on the PATH."""
    place, before = os.getcwd(), os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), before])
    os.chdir(course)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)  # caused by how nbgrader builds its rows
            yield
    finally:
        os.chdir(place)
        os.environ["PATH"] = before
