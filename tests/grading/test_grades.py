"""Tables for spreadsheets, times of handing in, and grades for everyone, whatever happens to one."""

import csv
import io
import sys
from contextlib import redirect_stdout

import nbformat
import pytest
from answers import copied_course, hand_in, read

from kdlib.course.exercises import HOMEWORKS as ALL
from kdlib.course.grading import course as course_module
from kdlib.course.grading import grades, matrix
from kdlib.course.grading.__main__ import main
from kdlib.course.grading.marking import Marked
from kdlib.course.grading.submission import Submission, is_check

ODD = "Übung [2026] {a} 50% $HOME 'x' *" + ("" if sys.platform == "win32" else "?")


def table(course):
    with (course / "grades.csv").open(newline="", encoding="utf-8-sig") as lines:
        return {row["student_id"]: row for row in csv.DictReader(lines)}


@pytest.fixture
def points(monkeypatch):
    """Nothing runs: each student gets these points for each check, 1 if none are given here."""
    given = {}

    def grader(course, limits=None):
        def graded(own):
            each = given.get(own.student, 1.0)
            if isinstance(each, Exception):
                raise each
            notebook = read("release", own.homework)
            for cell in filter(is_check, notebook.cells):
                data = {"text/plain": f"{each:g}"}
                cell.outputs = [nbformat.v4.new_output("execute_result", data, execution_count=1)]
            return Marked(own, notebook, {}, [])

        return graded

    monkeypatch.setattr(course_module, "_grader", grader)
    return given


def handed_in(course, student, homework, time=None):
    hand_in(course, student, homework, read("release", homework))
    if time is not None:
        (course / "submitted" / student / homework / "timestamp.txt").write_bytes(time)


def on_a_narrow_console(do):
    """What ``do`` returns, and what it prints on a console that has Western Europe's letters alone."""
    raw = io.BytesIO()
    with redirect_stdout(io.TextIOWrapper(raw, encoding="cp1252", newline="")):
        returned = do()
        sys.stdout.flush()
        return returned, raw.getvalue().decode("cp1252")


def test_times_deadlines_and_names_reach_the_table_below_any_path(tmp_path, points):
    (tmp_path / ODD).mkdir()
    course = copied_course(tmp_path / ODD)
    with (course / "nbgrader_config.py").open("a") as settings:
        settings.write('c.Deadlines.hw1 = "2026-11-20 23:59 Europe/Berlin"\n')
    handed_in(course, "ada", "hw1", b"2026-11-20 22:58:59.500000 UTC")
    handed_in(course, "ada", "hw2", b"2026-11-29T08:00:00+02:00")
    handed_in(course, "bob", "hw1", b"2026-11-20 22:59:30.000000 UTC")
    handed_in(course, "Жанна", "hw1", "gestern, spät".encode("cp1252"))
    named = "student_id\tlast_name\temail\nada\tGómez\t=1+1\neve\tNúñez\t\n"
    (course / "students.csv").write_bytes(named.encode("utf-16"))
    points["bob"] = 2.0
    returned, told = on_a_narrow_console(lambda: main(["grade", "--course", str(course)]))
    assert returned == 0 and r"\u0416\u0430\u043d\u043d\u0430 hw1" in told

    assert (course / "grades.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    found = table(course)
    for student, cells in {
        "ada": ("7", "2026-11-20 22:58:59 UTC", "no", "2026-11-29 06:00:00 UTC", "", "'=1+1"),
        "bob": ("14", "2026-11-20 22:59:30 UTC", "yes", "", "", ""),
        "Жанна": ("7", "", "", "", "", ""),
        "eve": ("", "", "", "", "", ""),
    }.items():
        columns = "hw1", "hw1 handed in", "hw1 late", "hw2 handed in", "hw2 late", "email"
        assert tuple(found[student][column] for column in columns) == cells, student
    assert found["eve"]["last_name"] == "Núñez"
    report = (course / "report.md").read_text(encoding="utf-8")
    assert "timestamp.txt was ignored: a time must read like 2026-11-20" in report
    assert "Жанна" in report
    assert len(list((course / "feedback").glob("*/*/*.html"))) == 4
    assert not list(course.glob(".part-*"))

    # A deadline that moves is seen without grading again; a time that is gone is forgotten.
    settings = (
        (course / "nbgrader_config.py").read_text().replace("2026-11-20 23:59", "2026-11-22 8:00")
    )
    (course / "nbgrader_config.py").write_text(settings.replace("8:00", "08:00"))
    assert main(["feedback", "--course", str(course)]) == 0
    assert table(course)["bob"]["hw1 late"] == "no"
    (course / "submitted" / "ada" / "hw2" / "timestamp.txt").unlink()
    assert main(["grade", "--course", str(course)]) == 0
    assert table(course)["ada"]["hw2 handed in"] == ""
    assert table(course)["ada"]["hw1 handed in"] == "2026-11-20 22:58:59 UTC"


def test_a_release_is_built_below_any_path(tmp_path):
    (tmp_path / ODD).mkdir()
    course = copied_course(tmp_path / ODD)
    assert course_module.release(course) == []
    built = course / "release" / "hw2" / "hw2_inside_the_network.ipynb"
    before = built.read_bytes()
    built.unlink()
    assert course_module.release(course) == [built]
    assert built.read_bytes() == before


def test_the_penalty_that_a_course_sets_is_in_the_points(tmp_path, points):
    course = copied_course(tmp_path)
    with (course / "nbgrader_config.py").open("a") as settings:
        settings.write('c.Deadlines.hw1 = "2026-11-20 23:59 UTC"\n')
        settings.write('c.LateSubmissionPlugin.penalty_method = "zero"\n')
    for student, day in {"ada": 20, "bob": 21}.items():
        handed_in(course, student, "hw1", f"2026-11-{day} 23:59:00 UTC".encode())
    course_module.grade(course, tell=lambda line: None)
    assert [table(course)[student]["hw1"] for student in ("ada", "bob")] == ["7", "0"]


def test_one_student_who_cannot_be_graded_takes_no_grade_of_others(tmp_path, points, capsys):
    """An error that looks like a wrong argument, one of the system, and a notebook not to be written."""
    course = copied_course(tmp_path)
    points |= {
        "bob": UnicodeEncodeError("charmap", "Ж", 0, 1, "no such letter"),
        "cleo": OSError(12, "Cannot allocate memory"),
    }
    for student in ("ada", "bob", "cleo", "dan"):
        handed_in(course, student, "hw1")
    assert main(["grade", "--course", str(course)]) == 1
    told = capsys.readouterr()
    for student, why in {"bob": "no such letter", "cleo": "Cannot allocate memory"}.items():
        for text in (told.out, told.err, (course / "report.md").read_text()):
            assert f"{student} hw1 was not graded: " in text and why in text
    found = table(course)
    assert found.keys() == {"ada", "dan"}
    assert {row["hw1"] for row in found.values()} == {"7"}
    assert len(list((course / "feedback").glob("*/hw1/*.html"))) == 2


@pytest.mark.parametrize("file", ["report.md", "grades.csv"])
def test_one_file_that_cannot_be_written_costs_no_other(file, tmp_path, points, capsys):
    course = copied_course(tmp_path)
    handed_in(course, "ada", "hw1")
    (course / file).mkdir()  # as good as a table that a program on Windows has open
    assert main(["grade", "--course", str(course)]) == 1
    assert f"{file} was not written" in capsys.readouterr().err
    written = {"report.md", "grades.csv"} - {file}
    assert all((course / name).is_file() for name in written)
    assert list((course / "feedback").glob("ada/hw1/*.html"))
    (course / file).rmdir()
    assert main(["feedback", "--course", str(course)]) == 0
    assert table(course)["ada"]["hw1"] == "7"


@pytest.mark.parametrize("error", [BrokenPipeError(), UnicodeEncodeError("ascii", "ü", 0, 1, "")])
def test_a_line_that_cannot_be_told_stops_no_grading(error, tmp_path, points):
    course = copied_course(tmp_path)
    handed_in(course, "ada", "hw1")
    (course / "submitted" / "notes.txt").touch()

    def tell(line):
        told.append(line)
        raise error

    told = []
    assert len(course_module.grade(course, tell=tell)) == len(told) - 1 == 1
    assert table(course)["ada"]["hw1"] == "7"


def test_the_matrix_is_shown_on_a_console_without_its_signs():
    exercises = {"hw1": tuple(e for e in ALL["hw1"] if e.name == "soften")}
    misses, told = on_a_narrow_console(lambda: matrix.show(exercises))
    assert misses == 0 and r"\u2717" in told


def test_a_name_that_reads_the_same_twice_is_refused_before_anything_runs(tmp_path, points):
    both = [Submission(f"{name}", "hw1", "x", None) for name in ("Zoë", "Zoë", "ada")]
    with pytest.raises(ValueError, match="one folder, got 2 that read 'Zoë' and hold hw1"):
        course_module._check_each_is_one(both)


@pytest.mark.parametrize(
    ("setting", "said"),
    {
        'hw1 = "2026-11-20 23:59"': "must end in its zone, such as Europe/Berlin, got '2026-11-20",
        'hw1 = "20.11.2026"': "must read like 2026-11-20 23:59 Europe/Berlin",
        'hw1 = "2026-11-20 23:59 CEST"': "got '2026-11-20 23:59 CEST'",
        'hw4 = "2026-11-20 23:59 UTC"': "there is no such homework, only hw1, hw2, hw3",
    }.items(),
)
def test_a_deadline_that_cannot_be_meant_is_named_before_anything_runs(
    setting, said, tmp_path, points, capsys
):
    course = copied_course(tmp_path)
    handed_in(course, "ada", "hw1")
    with (course / "nbgrader_config.py").open("a") as settings:
        settings.write(f"c.Deadlines.{setting}\n")
    with pytest.raises(SystemExit):
        main(["grade", "--course", str(course)])
    told = " ".join(capsys.readouterr().err.split())
    assert said in told and f"c.Deadlines.{setting[:3]} in nbgrader_config.py" in told
    assert not (course / "gradebook.db").exists()


@pytest.mark.parametrize(
    ("text", "hour"),
    {
        "2026-11-20 23:59:59.000000 UTC": 23,  # nbgrader's own form
        "2026-11-20 23:59:59": 23,
        "2026-11-20T23:59:59Z": 23,
        "2026-11-20 23:59:59 +0100\n": 22,
        "2026-11-20T23:59:59-05:00": 4,
        "2026-11-20 23:59:59 Europe/Berlin": 22,
        "2026-07-20 23:59:59 Europe/Berlin": 21,  # in summer
        "2026-11-20 23:59:59 America/New_York": 4,
    }.items(),
)
def test_a_time_is_read_in_its_own_zone(text, hour):
    time = grades.utc(grades.moment(text))
    assert time.tzinfo is None and (time.hour, time.minute, time.second) == (hour, 59, 59)


@pytest.mark.parametrize(
    "text", ["", "5", "yesterday", "20 Nov 2026", "2026-11-20 23:59 CEST", "2026-13-01 10:00 UTC"]
    + ["2026-11-20 23:59 ../../etc/passwd", "2026-11-20 23:59 Europe", "9999-12-31 23:00 -12:00"]
)  # fmt: skip
def test_what_is_not_a_time_is_refused_and_not_guessed(text):
    with pytest.raises(ValueError, match="a time must"):
        grades.utc(grades.moment(text))


CELLS = {
    "=1+1": "'=1+1",
    "+49 123": "'+49 123",
    "-Ann": "'-Ann",
    "@home": "'@home",
    "\t=2": "'=2",
    "\r=3": "'=3",
    " =4": "'=4",
    "Ann;=1+1": "Ann;'=1+1",
    "Ann; @x": "Ann;' @x",
    "two\nlines": "two lines",
    "\uff1d1": "'\uff1d1",
    "Ann-Marie": "Ann-Marie",
    "a@b.org": "a@b.org",
    "007": "007",
}


@pytest.mark.parametrize("column", ["student_id", "first_name", "last_name", "email"])
def test_no_cell_of_the_table_begins_a_formula(column, tmp_path):
    """Numbers stay numbers, even one below zero."""
    with course_module._gradebook(tmp_path) as gradebook:
        for k, text in enumerate(CELLS):
            own = {"student_id": f"s{k}"} | {column: text}
            gradebook.add_student(own.pop("student_id"), **own)
        grades.write_grades(tmp_path / "grades.csv", gradebook, ["hw1"])
    with (tmp_path / "grades.csv").open(newline="", encoding="utf-8-sig") as lines:
        assert sorted(row[column] for row in csv.DictReader(lines)) == sorted(CELLS.values())


SAVED = {
    "commas": "student_id,first_name,last_name\nada,Ada,Núñez\n".encode(),
    "semicolons": "student_id;first_name;last_name\r\nada;Ada;Núñez\r\n".encode("utf-8-sig"),
    "tabs in utf-16": "student_id\tfirst_name\tlast_name\nada\tAda\tNúñez\n".encode("utf-16"),
    "a comma in a name": b'student_id;first_name;last_name\nada;Ada;"N\xc3\xba\xc3\xb1ez"\n\n',
    "a decomposed id": "student_id,first_name,last_name\nada,Ada,Núñez\n".encode(),
}


@pytest.mark.parametrize("saved", SAVED.values(), ids=SAVED)
def test_a_list_of_students_is_read_as_spreadsheets_save_it(saved, tmp_path):
    (tmp_path / "students.csv").write_bytes(saved)
    assert grades.students(tmp_path) == {
        "ada": {"first_name": "Ada", "last_name": "Núñez", "email": ""}
    }


def test_an_id_is_that_of_its_folder_however_its_accents_are_encoded(tmp_path):
    (tmp_path / "students.csv").write_text("student_id\nZoe\u0308\n", encoding="utf-8")
    assert [*grades.students(tmp_path)] == ["Zo\u00eb"]


@pytest.mark.parametrize(
    ("encoding", "name", "line"),
    [("cp1252", "Núñez", 3), ("utf-16-le", "Núñez", 3), ("utf-16-le", "Nunez", 1)],
)
def test_another_encoding_is_named_with_its_line(encoding, name, line, tmp_path):
    text = f"student_id,last_name\nada,Lovelace\nbob,{name}\n"
    (tmp_path / "students.csv").write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match=rf"UTF-8 \(in Excel: .* encoding in line {line}$"):
        grades.students(tmp_path)


def test_a_report_shows_a_files_name_in_any_encoding(tmp_path):
    grades.write_report(tmp_path / "report.md", [], ["ada/na\udce4me is ignored."])
    assert "na\\udce4me" in (tmp_path / "report.md").read_text()
