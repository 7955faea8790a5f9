"""The course from hand to hand: release, submissions through nbgrader, feedback and grades."""

import csv
import os
import re
import shutil
import subprocess
import sys
import sysconfig

import nbformat
import pytest
from answers import (
    COURSE,
    HOMEWORKS,
    cell_of,
    copied_course,
    hand_in,
    known_answers,
    model_solution,
    of_student,
    one_of_each,
    pasted,
    read,
)
from bs4 import BeautifulSoup
from nbclient import NotebookClient
from nbgrader.api import Gradebook
from torch.nn import functional as F

import kdlib as kd
from kdlib.course.grading import course as course_module
from kdlib.course.grading import sandbox
from kdlib.course.grading.__main__ import main
from kdlib.course.grading.matrix import STUDENT
from kdlib.course.grading.sandbox import Limits

each_homework = pytest.mark.parametrize("homework", sorted(HOMEWORKS))


def executed(notebook, folder):
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return notebook


def graded(course, limits=None):
    lines = []
    found = course_module.grade(course, limits, tell=lines.append)
    return {(m.submission.student, m.submission.homework): m for m in found}, "\n".join(lines)


def scores(course):
    with (course / "grades.csv").open(newline="") as lines:
        return {row["student_id"]: row for row in csv.DictReader(lines)}


def test_the_release_is_what_the_source_gives(tmp_path):
    """If this fails: make homework."""
    course_module.release(COURSE, tmp_path)
    for homework in HOMEWORKS:
        (built,) = (tmp_path / homework).glob("*.ipynb")
        assert built.read_bytes() == (COURSE / "release" / homework / built.name).read_bytes()


@each_homework
def test_no_solution_is_handed_out(homework):
    text = "\n".join(cell.source for cell in read("release", homework).cells)
    assert "SOLUTION" not in text and "HIDDEN" not in text
    stubs = {
        cell.metadata.nbgrader.grade_id: cell.source
        for cell in read("release", homework).cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }
    assert stubs.keys() == model_solution(homework).keys()
    for name, stub in stubs.items():
        assert stub.endswith("raise NotImplementedError()") or stub == "YOUR ANSWER HERE", name


@each_homework
def test_every_exercise_has_a_cell_to_solve_it_and_below_it_its_check(homework):
    cells = read("source", homework).cells
    places = {
        c.metadata.nbgrader.grade_id: k for k, c in enumerate(cells) if "nbgrader" in c.metadata
    }
    for exercise in HOMEWORKS[homework]:
        solve, check = places[exercise.name], places[f"check_{exercise.name}"]
        assert check == solve + 1
        assert cells[solve].source.startswith(f"def {exercise.name}(")
        assert f"kd.grading.check_{exercise.name}({exercise.name}" in cells[check].source
        assert cells[check].metadata.nbgrader.points == exercise.points
        assert cells[check].metadata.nbgrader.locked
    (opened,) = (
        set(places)
        - {e.name for e in HOMEWORKS[homework]}
        - {f"check_{e.name}" for e in HOMEWORKS[homework]}
    )
    assert cells[places[opened]].cell_type == "markdown"
    assert "point" in cells[places[opened] - 1].source  # the rubric


@each_homework
def test_the_table_at_the_top_says_minutes_and_points(homework):
    cells = read("source", homework).cells
    top = cells[0].source
    rows = re.findall(r"^\| \d+ \| (.+?) \| (\d+) \| (\d+) \|$", top, re.MULTILINE)
    assert [(name.strip("`"), int(m), float(p)) for name, m, p in rows[:-1]] == [
        (e.name, e.minutes, e.points) for e in HOMEWORKS[homework]
    ]
    graded_cells = [
        c.metadata.nbgrader for c in cells if c.metadata.get("nbgrader", {}).get("grade")
    ]
    all_points = sum(about.points for about in graded_cells)
    assert sum(float(p) for _, _, p in rows) == all_points
    assert f"{all_points:g} points" in top
    minutes = sum(int(m) for _, m, _ in rows)
    assert 60 <= minutes <= 120
    assert abs(int(re.search(r"About (\d+) minutes", top)[1]) - minutes) <= 10
    for e in HOMEWORKS[homework]:
        text = cells[
            next(
                k
                for k, c in enumerate(cells)
                if e.name in c.metadata.get("nbgrader", {}).get("grade_id", "")
            )
            - 1
        ].source
        assert f"*{e.minutes} minutes, {e.points:g} point" in text


@each_homework
def test_cells_are_short_and_the_title_asks(homework):
    notebook = read("source", homework)
    assert re.match(r"# Homework \d: .*\?$", notebook.cells[0].source.splitlines()[0])
    assert [cell.id for cell in notebook.cells[1:3]] == ["badge", "install"]
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id != "install":
            assert len([line for line in cell.source.splitlines() if line.strip()]) <= 15, (
                cell.source
            )
        assert cell.cell_type != "code" or not cell.outputs


@each_homework
def test_the_release_runs_from_top_to_bottom_and_says_what_is_missing(homework, tmp_path):
    notebook = executed(read("release", homework), tmp_path)
    for exercise in HOMEWORKS[homework]:
        (output,) = cell_of(notebook, f"check_{exercise.name}").outputs
        missing = "say in student_id" if exercise.personal else "not written yet"
        assert missing in output.data["text/plain"]


@each_homework
def test_the_source_passes_all_of_its_own_checks_and_shows_its_pictures(homework, tmp_path):
    notebook = read("source", homework)
    student = next(cell for cell in notebook.cells if cell.source == 'student_id = ""')
    student.source = f"student_id = {STUDENT!r}"
    executed(notebook, tmp_path)
    for exercise in HOMEWORKS[homework]:
        (output,) = cell_of(notebook, f"check_{exercise.name}").outputs
        assert f"{exercise.points:g} of {exercise.points:g} points." in output.data["text/plain"]
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@each_homework
def test_through_nbgrader_wrong_answers_lose_their_points_and_right_ones_none(homework, tmp_path):
    """Every known answer once, as the notebook of a student who gives only such answers."""
    course, exercises = copied_course(tmp_path), HOMEWORKS[homework]
    chosen = {}
    for kind in ("wrong", "right"):
        count = max(len(known_answers(homework, e, kind)) for e in exercises)
        for k in range(count):
            chosen[f"{kind}-{k}"] = one_of_each(homework, kind, k)
    for student, answers in chosen.items():
        cells = {e.name: pasted(e, answers[e.name], student) for e in exercises}
        hand_in(course, student, homework, of_student(homework, cells))
    hand_in(course, "empty", homework, read("release", homework))
    hand_in(course, "model", homework, of_student(homework, model_solution(homework)))
    found, _ = graded(course)
    table = scores(course)

    full = sum(e.points for e in exercises)
    assert found["empty", homework].points == 0 == float(table["empty"][homework])
    assert table["empty"][f"{homework} to be read"] == "0"
    assert found["model", homework].points == full == float(table["model"][homework])
    assert table["model"][f"{homework} to be read"] == "1"
    for student, answers in chosen.items():
        marked = found[student, homework]
        feedback = text_of_feedback(course, student, homework)
        for e in exercises:
            own = answers[e.name](student) if e.personal else answers[e.name]
            source = e.source(own, may_borrow=True)
            expected = e.report(source, course_module.hidden_seed(course), student)
            report = marked.reports[e.name]
            assert report.points == expected.points, (student, e.name)
            if student.startswith("right"):
                assert report.points == e.points, (student, e.name, report)
                continue
            assert report.points < e.points, (student, e.name)
            assert [m.name for m in report.mistakes] == [answers[e.name].__name__]
            assert report.mistakes[0].hints[0] in feedback
        assert float(table[student][homework]) == marked.points


def text_of_feedback(course, student, homework):
    (page,) = (course / "feedback" / student / homework).glob("*.html")
    return BeautifulSoup(page.read_text(), "html.parser").get_text()


WRONG = """
def soft_target_loss(student, teacher, temperature):
    p = torch.softmax(teacher / temperature, -1)
    return F.kl_div(F.log_softmax(student / temperature, -1), p, reduction="batchmean")
"""
OVERWRITES = """
import kdlib.course.grading.child as child, kdlib.course.grading.exercise as exercise, kdlib.course.grading.observe as seen
import kdlib.course.grading.report as report
report.Report.points = report.Report.passed = property(lambda self: 100.0)
exercise.Answer.should_be = exercise.Answer.should = lambda self, *args, **kwargs: None
kd.grading.check_soft_target_loss = lambda *args: "100 of 100"
seen.same = lambda *args: True
points = score = 100.0
print("100.0")
"""
SEARCHES = """
import os, sqlite3
from pathlib import Path
places = [Path.cwd(), *Path.cwd().parents, *(Path(p) for p in os.environ.values() if p[:1] == "/")]
for place in places:
    for found in [*place.glob("grading_seed.txt"), *place.glob("gradebook.db"), *place.glob("source/*/*")]:
        print("le" + "ak:", found)
"""


def test_ten_submissions_mixed_and_hostile_by_one_command(tmp_path, capsys, monkeypatch):
    """Each that plays tricks gains nothing and is told of; all others get what they deserve."""
    course, good = copied_course(tmp_path), model_solution("hw1")
    monkeypatch.setattr(
        sandbox, "DEFAULT", Limits(cell_seconds=10, call_seconds=8, total_seconds=120)
    )
    full = sum(e.points for e in HOMEWORKS["hw1"])
    own = {e.name: e.points for e in HOMEWORKS["hw1"]}

    def with_cell(source, **changes):
        handed_in = of_student("hw1", good | changes)
        place = 1 + next(k for k, c in enumerate(handed_in.cells) if c.id == "student")
        handed_in.cells.insert(place, nbformat.v4.new_code_cell(source))
        return handed_in

    hand_in(course, "ada", "hw1", of_student("hw1", good))
    hand_in(course, "bob", "hw1", of_student("hw1", good | {"soft_target_loss": WRONG}))
    endless = "def hinton_loss(*arguments):\n    while True:\n        pass"
    hand_in(course, "endless", "hw1", of_student("hw1", good | {"hinton_loss": endless}))
    hand_in(course, "crash", "hw1", with_cell("import ctypes\nctypes.string_at(0)"))
    hand_in(course, "loud", "hw1", with_cell('print("x" * 200_000_000)'))
    hand_in(course, "broken", "hw1", b'{"cells": [{"cell_type": "code", ')
    hand_in(course, "cheat", "hw1", with_cell(OVERWRITES, soft_target_loss=WRONG))
    hand_in(course, "spy", "hw1", with_cell(SEARCHES))
    borrowed = "def soft_target_loss(s, t, T):\n    return kd.losses.soft_target_loss(s, t, T)"
    hand_in(course, "borrower", "hw1", of_student("hw1", good | {"soft_target_loss": borrowed}))
    torn = of_student("hw1", good)
    lost = cell_of(torn, "check_soften")
    torn.cells.remove(lost)
    cell_of(torn, "soften").metadata.clear()
    torn.cells.append(nbformat.from_dict(cell_of(torn, "hinton_loss")))
    hand_in(course, "torn", "hw1", torn)
    (course / "students.csv").write_text("student_id,email\nada,ada@example.org\nlate,\n")

    assert main(["grade", "--course", str(course)]) == 0
    told = capsys.readouterr().out
    table = scores(course)
    assert set(table) == {p.name for p in (course / "submitted").iterdir()} | {"late"}
    points = {student: float(row["hw1"] or 0) for student, row in table.items()}
    assert points == {
        "ada": full,
        "bob": full - 2,  # the size of the pull, and the gradient to the teacher
        "endless": full - own["hinton_loss"],
        "crash": full,
        "loud": full,
        "broken": 0,
        "cheat": full - 2,
        "spy": full,
        "borrower": full - own["soft_target_loss"] - own["hinton_loss"],
        "torn": full,
        "late": 0,
    }
    assert table["late"]["hw1"] == "" and table["ada"]["email"] == "ada@example.org"
    notes = dict(re.findall(r"^(\w+) hw1: .*\n((?:    .*\n)*)", told, re.MULTILINE))
    assert notes["ada"] == ""
    in_place = "hinton_loss was graded with a right soft_target_loss in place of your own."
    assert notes["bob"].strip() == in_place
    assert "more than 8 s" in notes["endless"] and "ended its process" in notes["crash"]
    assert "no notebook" in notes["broken"] and "calls kdlib's own" in notes["borrower"]
    assert "found by name" in notes["torn"] and "there 2 times" in notes["torn"]
    for student in ("bob", "cheat"):
        assert "T = 20 your loss is 400 times too small" in text_of_feedback(course, student, "hw1")
    assert "more characters" in text_of_feedback(course, "loud", "hw1")
    assert "leak:" not in text_of_feedback(course, "spy", "hw1")
    assert "the grader's own gradebook, grading_seed" in notes["spy"]
    assert "the grader's own child" in notes["cheat"] and "grading.check_soft" in notes["cheat"]
    assert "printed 199,98" in notes["loud"] and "characters more than are kept" in notes["loud"]
    for student in notes:
        assert f"## {student}, hw1" in (course / "report.md").read_text()


def test_open_answers_are_read_by_hand_and_feedback_written_again(tmp_path):
    course = copied_course(tmp_path)
    hand_in(course, "ada", "hw1", of_student("hw1", model_solution("hw1")))
    found, _ = graded(course)
    automatic = found["ada", "hw1"].points
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        (open_answer,) = [
            g
            for g in gradebook.find_submission("hw1", "ada").notebooks[0].grades
            if g.needs_manual_grade
        ]
        open_answer.manual_score, open_answer.needs_manual_grade = 1.5, False
        gradebook.db.commit()
    assert main(["feedback", "--course", str(course)]) == 0
    assert float(scores(course)["ada"]["hw1"]) == automatic + 1.5
    assert scores(course)["ada"]["hw1 to be read"] == "0"
    graded(course)  # once more: what was read by hand is kept, and asked to be looked at again
    assert float(scores(course)["ada"]["hw1"]) == automatic + 1.5


def test_nbgraders_own_command_runs_students_code_in_a_process_of_its_own(tmp_path):
    course = copied_course(tmp_path)
    tells = "import os\nopen('/dev/null')\nos.environ['NBGRADER_EXECUTION'] = os.environ['NBGRADER_EXECUTION']"
    answers = model_solution("hw1") | {"soften": f"{tells}\n{model_solution('hw1')['soften']}"}
    hand_in(course, "ada", "hw1", of_student("hw1", model_solution("hw1")))
    hand_in(course, "bob", "hw1", of_student("hw1", answers))
    for step in (["generate_assignment", "hw1", "--force"], ["autograde", "hw1"]):
        command = [sys.executable, "-m", "nbgrader", *step]
        done = subprocess.run(
            command,
            check=False,
            cwd=course,
            capture_output=True,
            text=True,
            env=with_scripts(),
        )
        assert done.returncode == 0, done.stderr
    course_module.feedback(course)
    full = sum(e.points for e in HOMEWORKS["hw1"])
    assert float(scores(course)["ada"]["hw1"]) == full
    # The variable is nbgrader's own kernel's: where code runs there, it would be set.
    assert "KeyError" in text_of_feedback(course, "bob", "hw1")


def with_scripts():
    scripts = sysconfig.get_path("scripts")
    return os.environ | {"PATH": os.pathsep.join([scripts, os.environ["PATH"]])}


def test_the_hidden_seed_is_the_teachers_own_number_or_drawn_once(tmp_path):
    drawn = course_module.hidden_seed(tmp_path)
    assert drawn == course_module.hidden_seed(tmp_path) > 0
    (tmp_path / "other").mkdir()
    assert course_module.hidden_seed(tmp_path / "other") != drawn
    (tmp_path / "grading_seed.txt").write_text("12\n")
    assert course_module.hidden_seed(tmp_path) == 12
    for bad in ("", "0", "-3", "my secret"):
        (tmp_path / "grading_seed.txt").write_text(bad)
        with pytest.raises(ValueError, match="grading_seed.txt must hold a whole number from 1 on"):
            course_module.hidden_seed(tmp_path)


def test_answers_made_for_the_visible_cases_fail_the_hidden_ones(tmp_path):
    """A table of what the checks of the notebook expect passes them and earns nothing."""
    learned = {}
    exercise = next(e for e in HOMEWORKS["hw1"] if e.name == "choose_temperature")

    def remembers(*given):
        learned[repr(given)] = value = exercise.right(*given)
        return value

    def recalls(*given):
        return learned[repr(given)]

    assert exercise.report(exercise.source(remembers, may_borrow=True), 0).passed
    assert exercise.report(exercise.source(recalls), 0).passed
    assert exercise.report(exercise.source(recalls), 77).points == 0


def test_what_is_missing_in_a_course_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["grade", "--course", str(tmp_path)])
    assert "the folder with nbgrader_config.py" in capsys.readouterr().err
    course = copied_course(tmp_path)
    with pytest.raises(SystemExit):
        main(["grade", "--course", str(course)])
    assert "must hold STUDENT/hw1/hw1_soft_targets.ipynb" in capsys.readouterr().err
    hand_in(course, "ada", "hw1", read("release", "hw1"))
    (course / "students.csv").write_text("name,email\nada,a@example.org\n")
    with pytest.raises(SystemExit):
        main(["grade", "--course", str(course)])
    assert "students.csv must have a column student_id" in capsys.readouterr().err
    assert not (course / "gradebook.db").exists()  # said before anything is run


def test_git_keeps_the_course_and_nothing_of_the_students():
    kept = [
        "nbgrader_config.py",
        "source/hw1/hw1_soft_targets.ipynb",
        "release/hw1/hw1_soft_targets.ipynb",
    ]
    private = ["submitted/ada/hw1/x.ipynb", "autograded/ada/x", "feedback/ada/x", "gradebook.db"]
    private += ["grades.csv", "report.md", "grading_seed.txt", "students.csv"]
    for name, ignored in [*((n, False) for n in kept), *((n, True) for n in private)]:
        command = ["git", "check-ignore", "--quiet", f"notebooks/homework/{name}"]
        assert (
            subprocess.run(command, check=False, cwd=COURSE.parents[1]).returncode == 0
        ) is ignored, name


def test_the_check_that_the_readme_shows_is_a_real_one():
    """Each of its lines, with anything in the place of three dots."""

    def averaged(student, teacher, temperature):
        p = F.softmax(teacher.detach() / temperature, dim=-1)
        log_q = F.log_softmax(student / temperature, dim=-1)
        return temperature**2 * F.kl_div(log_q, p, reduction="mean")

    printed = repr(kd.grading.check_soft_target_loss(averaged)).splitlines()
    readme = (COURSE.parents[1] / "README.md").read_text()
    (shown,) = re.findall(r"```\n(soft_target_loss: .*?)```", readme, re.DOTALL)
    for line in shown.splitlines():
        pattern = ".+".join(map(re.escape, line.split("...")))
        assert any(re.fullmatch(pattern, real) for real in printed), line


def test_a_right_answer_that_calls_one_that_is_not_written_is_graded_with_a_right_one(tmp_path):
    good = model_solution("hw1")
    del good["soft_target_loss"]
    course = copied_course(tmp_path)
    hand_in(course, "ada", "hw1", of_student("hw1", good))
    found, told = graded(course)
    reports = found["ada", "hw1"].reports
    assert reports["soft_target_loss"].points == 0 and reports["hinton_loss"].passed
    assert "hinton_loss was graded with a right soft_target_loss" in told


WRITES = """
from pathlib import Path
course = Path({course!r})
(course / "grading_seed.txt").write_text("mine")
with (course / "nbgrader_config.py").open("a") as config:
    config.write("raise SystemExit('taken over')")
(course / "gradebook.db").write_bytes(b"all for me")
(course / "source" / "hw1" / "more.ipynb").write_text("{{}}")
(course / "release" / "hw1" / "hw1_soft_targets.ipynb").unlink()
"""


def test_what_decides_on_points_is_put_back_where_students_code_has_changed_it(tmp_path):
    """Nor does it touch those who are graded after it."""
    course = copied_course(tmp_path)
    (course / "grading_seed.txt").write_text("12\n")
    handed_in = of_student("hw1", model_solution("hw1"))
    handed_in.cells.insert(4, nbformat.v4.new_code_cell(WRITES.format(course=str(course))))
    hand_in(course, "eve", "hw1", handed_in)
    for student in ("ada", "zoe"):  # before and after
        hand_in(course, student, "hw1", of_student("hw1", model_solution("hw1")))
    (course / "submitted" / "ada" / "hw9").mkdir()
    names = ["grading_seed.txt", "nbgrader_config.py", "release/hw1/hw1_soft_targets.ipynb"]
    before = {name: (course / name).read_bytes() for name in names}
    _, told = graded(course)
    full = sum(e.points for e in HOMEWORKS["hw1"])
    assert [float(row["hw1"]) for row in scores(course).values()] == [full, full, full]
    assert {name: (course / name).read_bytes() for name in names} == before
    assert [p.name for p in (course / "source" / "hw1").iterdir()] == ["hw1_soft_targets.ipynb"]
    report = (course / "report.md").read_text()
    for name in [*names, "gradebook.db", "source/hw1/more.ipynb"]:
        assert f"{name} was changed while students' code ran; put back." in told
    assert report.count("was changed while students' code ran") == 5
    assert "ada/hw9 is no folder of a homework and was passed over." in told


def test_what_is_no_longer_handed_in_is_no_longer_shown(tmp_path):
    course = copied_course(tmp_path)
    for homework in ("hw1", "hw2"):
        hand_in(course, "ada", homework, read("release", homework))
    hand_in(course, "bob", "hw1", read("release", "hw1"))
    graded(course)
    shutil.rmtree(course / "submitted" / "ada" / "hw1")
    graded(course)
    kept = {str(p.relative_to(course / "autograded")) for p in course.glob("autograded/*/*")}
    assert kept == {"ada/hw2", "bob/hw1"}


def test_answers_that_only_call_each_other_earn_nothing(tmp_path):
    course = copied_course(tmp_path)
    mutual = {
        "soft_target_loss": "def soft_target_loss(s, t, T):\n"
        "    return hinton_loss(s, t.detach(), torch.zeros(len(s), dtype=torch.long), T, 1.0)",
        "hinton_loss": "def hinton_loss(s, t, y, T, a):\n"
        "    return a * soft_target_loss(s, t, T) + (1 - a) * F.cross_entropy(s, y)",
    }
    hand_in(course, "eve", "hw1", of_student("hw1", model_solution("hw1") | mutual))
    found, _ = graded(course)
    assert found["eve", "hw1"].reports["soft_target_loss"].points == 0


def test_one_homework_that_nbgrader_cannot_do_does_not_cost_the_others(tmp_path, monkeypatch):
    course, run = copied_course(tmp_path), course_module._run
    for homework in ("hw1", "hw2"):
        hand_in(course, "ada", homework, read("release", homework))

    def fails(kind, course, homework, directories):
        if homework == "hw1" and kind.__name__ == "GenerateFeedback":
            raise RuntimeError("no feedback for hw1")
        run(kind, course, homework, directories)

    monkeypatch.setattr(course_module, "_run", fails)
    with pytest.raises(RuntimeError, match="no feedback for hw1"):
        graded(course)
    assert scores(course)["ada"]["hw2"] == "0"
    assert list((course / "feedback" / "ada").iterdir()) == [course / "feedback" / "ada" / "hw2"]
    assert main(["feedback", "--course", str(course)]) == 1
