"""What the teacher's tables say and how they are read: students.csv, times, grades.csv, report.md.

The tables are for spreadsheet programs: UTF-8 with a mark, and no cell that such a program would run.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
from dateutil.parser import isoparse
from nbgrader.api import Gradebook, MissingEntry, SubmittedAssignment

from kdlib._files import write_whole
from kdlib.course.grading.marking import Marked

STUDENTS = "students.csv"
TIMESTAMP = "timestamp.txt"  # nbgrader's name for the file with the time of handing in
# Where a spreadsheet program would begin a formula: at the start, or where it may split the cell.
FORMULA = re.compile(r"(^|;)(?= ?[=+@\uff1d\uff0b\uff20\uff0d-])")


def students(course: Path) -> dict[str, dict[str, str]]:
    """Names and addresses from ``students.csv``, if there is one, by the student's id.

    Commas, semicolons or tabs may separate the columns; the encoding is UTF-8, or UTF-16 with its mark.

    Raises:
        ValueError: another encoding, or no column ``student_id``.
    """
    file = course / STUDENTS
    if not file.exists():
        return {}
    text = _decoded(file.read_bytes())
    separator = max(",;\t", key=text.partition("\n")[0].count)
    lines = io.StringIO(text, newline="")
    rows = list(csv.DictReader(lines, delimiter=separator, skipinitialspace=True))
    if rows and "student_id" not in rows[0]:
        columns = ", ".join(map(str, rows[0]))
        raise ValueError(f"{STUDENTS} must have a column student_id, got {columns}")
    kept = ("first_name", "last_name", "email")
    named = {unicodedata.normalize("NFC", (row["student_id"] or "").strip()): row for row in rows}
    return {
        student: {key: row.get(key) or "" for key in kept}
        for student, row in named.items()
        if student
    }


def _decoded(data: bytes) -> str:
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
        wrong = text.partition("\0")[0] if "\0" in text else None  # UTF-16 without its mark
    except UnicodeDecodeError as error:
        wrong = data[: error.start].decode("latin-1")
    if wrong is not None:
        raise ValueError(
            f"{STUDENTS} must be saved as UTF-8 (in Excel: CSV UTF-8), got another encoding "
            f"in line {1 + wrong.count(chr(10))}"
        )
    return text


def moment(text: str) -> datetime:
    """Read a time such as ``2026-11-20 23:59 Europe/Berlin``, with its zone if it has one.

    Both ISO's form and nbgrader's own are read, which ends in a zone's name behind a blank.

    Raises:
        ValueError: the text is not a time, or nobody knows the zone.
    """
    when, _, zone = text.strip().rpartition(" ")
    try:
        if zone[:1].isalpha():
            return isoparse(when).replace(tzinfo=ZoneInfo(zone))
        return isoparse(re.sub(r" (?=[+-]\d)", "", text.strip()))
    except (ValueError, KeyError, OSError):  # the last two from a zone that does not exist
        raise ValueError(
            f"a time must read like 2026-11-20 23:59 Europe/Berlin, or end in UTC or +01:00, "
            f"got {text.strip()[:60]!r}"
        ) from None


def utc(time: datetime) -> datetime:
    """The same time in UTC, where it is too if it has no zone, as nbgrader keeps it."""
    if time.tzinfo is None:
        return time
    try:
        return time.astimezone(timezone.utc).replace(tzinfo=None)
    except OverflowError:
        raise ValueError(f"a time must lie between the years 1 and 9999, got {time}") from None


def write_grades(file: Path, gradebook: Gradebook, homeworks: Iterable[str]) -> None:
    """Write one row per student, for a spreadsheet or a learning platform."""
    rows = []
    for student in sorted(gradebook.students, key=lambda s: s.id):
        texts = {"student_id": student.id}
        texts |= {key: getattr(student, key) or "" for key in ("first_name", "last_name", "email")}
        row: dict[str, object] = {key: _as_text(text) for key, text in texts.items()}
        for homework in homeworks:
            row |= _of_homework(gradebook, student.id, homework)
        rows.append(row)
    table = pd.DataFrame(rows, columns=None if rows else ["student_id"])
    write_whole(file, lambda part: table.to_csv(part, index=False, encoding="utf-8-sig"))


def _as_text(text: str) -> str:
    """One line that no spreadsheet program runs: an apostrophe stands before what begins a formula."""
    return FORMULA.sub(r"\1'", " ".join(text.split()))


def _of_homework(gradebook: Gradebook, student: str, homework: str) -> dict[str, object]:
    try:
        own = gradebook.find_submission(homework, student)
    except MissingEntry:
        cells: tuple[object, ...] = ("",) * 5
    else:
        score = max(0.0, own.score - own.late_submission_penalty)
        unread = sum(grade.needs_manual_grade for book in own.notebooks for grade in book.grades)
        time = f"{own.timestamp:%Y-%m-%d %H:%M:%S} UTC" if own.timestamp else ""
        cells = f"{score:g}", f"{own.max_score:g}", unread, time, _late(own)
    columns = "", " out of", " to be read", " handed in", " late"
    return {f"{homework}{column}": cell for column, cell in zip(columns, cells, strict=True)}


def _late(own: SubmittedAssignment) -> str:
    if own.timestamp is None or own.duedate is None:
        return ""
    return "yes" if own.total_seconds_late > 0 else "no"


def write_report(file: Path, all_marked: list[Marked], notes: list[str]) -> None:
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
    text = "\n".join(lines).encode(errors="backslashreplace")  # a file's name may be any bytes
    write_whole(file, lambda part: part.write_bytes(text))


def _verbatim(text: str) -> str:
    """Escape Markdown: part of the text may be a student's."""
    return re.sub(r"([\\`*_\[\]<>!#|])", r"\\\1", text)
