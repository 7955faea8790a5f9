"""The course from release to grades: notebooks, submissions through nbgrader, feedback."""

import csv
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from contextlib import nullcontext
from types import SimpleNamespace

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
    name_of,
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
from kdlib.course.grading import marking, sandbox
from kdlib.course.grading.__main__ import main
from kdlib.course.grading.matrix import STUDENT
from kdlib.course.grading.sandbox import Limits

each_homework = pytest.mark.parametrize("homework", sorted(HOMEWORKS))


def graded(course, limits=None):
    lines = []
    found = course_module.grade(course, limits, tell=lines.append)
    return {(m.submission.student, m.submission.homework): m for m in found}, "\n".join(lines)


def scores(course):
    with (course / "grades.csv").open(newline="", encoding="utf-8-sig") as lines:
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
    stubs = model_solution(homework, "release")
    assert stubs.keys() == model_solution(homework).keys()
    for name, stub in stubs.items():
        assert stub.endswith("raise NotImplementedError()") or stub == "YOUR ANSWER HERE", name


@each_homework
def test_every_exercise_has_a_cell_to_solve_it_with_its_check_below(homework):
    cells = read("source", homework).cells
    places = {name_of(c): k for k, c in enumerate(cells) if name_of(c)}
    for exercise in HOMEWORKS[homework]:
        solve, check = places[exercise.name], places[f"check_{exercise.name}"]
        assert check == solve + 1
        assert cells[solve].source.startswith(f"def {exercise.name}(")
        assert f"kd.grading.check_{exercise.name}({exercise.name}" in cells[check].source
        assert cells[check].metadata.nbgrader.points == exercise.points
        assert cells[check].metadata.nbgrader.locked
    graded_alone = {e.name for e in HOMEWORKS[homework]}
    (opened,) = set(places) - graded_alone - {f"check_{name}" for name in graded_alone}
    assert cells[places[opened]].cell_type == "markdown"
    assert "point" in cells[places[opened] - 1].source  # the rubric


@each_homework
def test_the_table_at_the_top_lists_minutes_and_points(homework):
    cells = read("source", homework).cells
    top = cells[0].source
    rows = re.findall(r"^\| \d+ \| (.+?) \| (\d+) \| (\d+) \|$", top, re.MULTILINE)
    assert [(name.strip("`"), int(m), float(p)) for name, m, p in rows[:-1]] == [
        (e.name, e.minutes, e.points) for e in HOMEWORKS[homework]
    ]
    all_points = sum(c.metadata.get("nbgrader", {}).get("points", 0) for c in cells)
    assert sum(float(p) for _, _, p in rows) == all_points
    assert f"{all_points:g} points" in top
    minutes = sum(int(m) for _, m, _ in rows)
    assert 60 <= minutes <= 120
    assert abs(int(re.search(r"About (\d+) minutes", top)[1]) - minutes) <= 10
    names = [name_of(c) for c in cells]
    for e in HOMEWORKS[homework]:
        text = cells[names.index(e.name) - 1].source
        assert f"*{e.minutes} minutes, {e.points:g} point" in text


@each_homework
def test_cells_are_short_and_the_title_asks(homework):
    notebook = read("source", homework)
    assert re.match(r"# Homework \d: .*\?$", notebook.cells[0].source.splitlines()[0])
    assert [cell.id for cell in notebook.cells[1:3]] == ["head", "install"]
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id != "install":
            lines = [line for line in cell.source.splitlines() if line.strip()]
            assert len(lines) <= 15, cell.source
        assert cell.cell_type != "code" or not cell.outputs


@each_homework
def test_the_release_runs_and_says_what_is_missing_and_the_source_passes_its_checks(
    homework, tmp_path
):
    """Both in one kernel, the release first: it starts afresh."""
    notebook = read("release", homework)
    handed_out, solved = list(notebook.cells), read("source", homework).cells
    student = next(cell for cell in solved if cell.source == 'student_id = ""')
    student.source = f"student_id = {STUDENT!r}"
    afresh = nbformat.v4.new_code_cell("%reset -f")
    notebook.cells = [*handed_out, afresh, *solved]
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    for exercise in HOMEWORKS[homework]:
        shown = [
            cell_of(SimpleNamespace(cells=cells), f"check_{exercise.name}").outputs[0]
            for cells in (handed_out, solved)
        ]
        missing = "say in student_id" if exercise.personal else "not written yet"
        assert missing in shown[0].data["text/plain"]
        full = f"{exercise.points:g} of {exercise.points:g} points."
        assert full in shown[1].data["text/plain"]
    outputs = [o for cell in solved if cell.cell_type == "code" for o in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@each_homework
def test_through_nbgrader_wrong_answers_lose_their_points_and_right_ones_none(homework, tmp_path):
    """Every known answer once, as the notebook of a student who gives only such answers."""
    course, exercises = copied_course(tmp_path), HOMEWORKS[homework]
    chosen = {}
    for kind in ("wrong", "right"):
        for k in range(max(len(known_answers(homework, e, kind)) for e in exercises)):
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


def with_cell(source, answers):
    """A notebook of homework 1 with a cell of the student's own."""
    handed_in = of_student("hw1", answers)
    place = 1 + next(k for k, c in enumerate(handed_in.cells) if c.id == "student")
    handed_in.cells.insert(place, nbformat.v4.new_code_cell(source))
    return handed_in


def test_a_wrong_a_broken_and_a_right_submission_from_grading_to_grades(tmp_path, monkeypatch):
    """The wrong one comes first, leaves out a function, and changes the course's files."""
    course, good = copied_course(tmp_path), model_solution("hw1")
    own = {e.name: e.points for e in HOMEWORKS["hw1"]}
    full = sum(own.values())
    (course / "grading_seed.txt").write_text("12\n")
    wrong = good | {"soften": "def soften(z, T):\n    return z.softmax(-1)"}
    del wrong["soft_target_loss"]
    hand_in(course, "ada", "hw1", with_cell(WRITES.format(course=str(course)), wrong))
    hand_in(course, "bob", "hw1", b'{"cells": [{"cell_type": "code", ')
    hand_in(course, "zoe", "hw1", of_student("hw1", good))
    (course / "submitted" / "zoe" / "hw9").mkdir()
    (course / "students.csv").write_text("student_id,email\nada,ada@example.org\nlate,\n")
    names = ["grading_seed.txt", "nbgrader_config.py", "release/hw1/hw1_soft_targets.ipynb"]
    before = {name: (course / name).read_bytes() for name in names}

    patient = Limits(cell_seconds=200, call_seconds=200, total_seconds=900)
    found, printed = graded(course, patient)
    ada, zoe = found["ada", "hw1"].reports, found["zoe", "hw1"]
    assert ada["soften"].points < own["soften"] and ada["soft_target_loss"].points == 0
    assert ada["hinton_loss"].passed
    assert "hinton_loss was graded with a right soften, soft_target_loss in place of" in printed
    assert ada["soften"].mistakes[0].hints[0] in text_of_feedback(course, "ada", "hw1")
    assert "The file is not a notebook" in printed and zoe.points == full
    table = scores(course)
    assert set(table) == {"ada", "bob", "late", "zoe"}
    assert [float(table[s]["hw1"]) for s in ("bob", "zoe")] == [0, full]
    assert float(table["ada"]["hw1"]) == found["ada", "hw1"].points
    assert [table[s]["hw1 to be read"] for s in ("bob", "zoe")] == ["0", "1"]
    assert table["late"]["hw1"] == "" and table["ada"]["email"] == "ada@example.org"

    assert {name: (course / name).read_bytes() for name in names} == before
    assert [p.name for p in (course / "source" / "hw1").iterdir()] == ["hw1_soft_targets.ipynb"]
    report = (course / "report.md").read_text()
    for name in [*names, "gradebook.db", "source/hw1/more.ipynb"]:
        assert f"{name} was changed while students' code ran; restored." in printed
    assert report.count("was changed while students' code ran") == 5
    assert "zoe/hw9 is not the folder of a homework and was ignored." in printed

    # An open answer is read by hand; its points stay when everything is graded once more.
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        grades = gradebook.find_submission("hw1", "zoe").notebooks[0].grades
        (open_answer,) = [grade for grade in grades if grade.needs_manual_grade]
        open_answer.manual_score, open_answer.needs_manual_grade = 1.5, False
        gradebook.db.commit()
    assert main(["feedback", "--course", str(course)]) == 0
    assert float(scores(course)["zoe"]["hw1"]) == full + 1.5
    assert scores(course)["zoe"]["hw1 to be read"] == "0"
    for student in ("ada", "bob"):
        shutil.rmtree(course / "submitted" / student)
    monkeypatch.setattr(course_module, "_grader", lambda *given: lambda submission: zoe)
    graded(course)
    assert float(scores(course)["zoe"]["hw1"]) == full + 1.5
    assert [path.parent.name for path in course.glob("autograded/*/hw1")] == ["zoe"]


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
MUTUAL = {
    "soft_target_loss": "def soft_target_loss(s, t, T):\n"
    "    return hinton_loss(s, t.detach(), torch.zeros(len(s), dtype=torch.long), T, 1.0)",
    "hinton_loss": "def hinton_loss(s, t, y, T, a):\n"
    "    return a * soft_target_loss(s, t, T) + (1 - a) * F.cross_entropy(s, y)",
}


@pytest.mark.slow
def test_mixed_and_hostile_submissions_by_one_command(tmp_path, capsys, monkeypatch):
    """Tricks gain nothing and are reported; all others get what they deserve."""
    course, good = copied_course(tmp_path), model_solution("hw1")
    monkeypatch.setattr(
        sandbox, "DEFAULT", Limits(cell_seconds=60, call_seconds=20, total_seconds=600)
    )
    full = sum(e.points for e in HOMEWORKS["hw1"])
    own = {e.name: e.points for e in HOMEWORKS["hw1"]}
    hand_in(course, "ada", "hw1", of_student("hw1", good))
    hand_in(course, "bob", "hw1", of_student("hw1", good | {"soft_target_loss": WRONG}))
    endless = "def hinton_loss(*arguments):\n    while True:\n        pass"
    hand_in(course, "endless", "hw1", of_student("hw1", good | {"hinton_loss": endless}))
    hand_in(course, "crash", "hw1", with_cell("import ctypes\nctypes.string_at(0)", good))
    hand_in(course, "loud", "hw1", with_cell('print("x" * 200_000_000)', good))
    cheat = good | {"soft_target_loss": WRONG}
    hand_in(course, "cheat", "hw1", with_cell(OVERWRITES, cheat))
    hand_in(course, "spy", "hw1", with_cell(SEARCHES, good))
    hand_in(course, "mutual", "hw1", of_student("hw1", good | MUTUAL))
    borrowed = "def soft_target_loss(s, t, T):\n    return kd.losses.soft_target_loss(s, t, T)"
    hand_in(course, "borrower", "hw1", of_student("hw1", good | {"soft_target_loss": borrowed}))
    torn = of_student("hw1", good)
    lost = cell_of(torn, "check_soften")
    torn.cells.remove(lost)
    cell_of(torn, "soften").metadata.clear()
    torn.cells.append(nbformat.from_dict(cell_of(torn, "hinton_loss")))
    hand_in(course, "torn", "hw1", torn)

    assert main(["grade", "--course", str(course)]) == 0
    printed = capsys.readouterr().out
    assert {student: float(row["hw1"]) for student, row in scores(course).items()} == {
        "ada": full,
        "bob": full - 2,  # the size of the pull, and the gradient to the teacher
        "endless": full - own["hinton_loss"],
        "crash": full,
        "loud": full,
        "cheat": full - 2,
        "spy": full,
        "mutual": full - own["soft_target_loss"],
        "borrower": full - own["soft_target_loss"] - own["hinton_loss"],
        "torn": full,
    }
    notes = dict(re.findall(r"^(\w+) hw1: .*\n((?:    .*\n)*)", printed, re.MULTILINE))
    assert notes["ada"] == ""
    in_place = "hinton_loss was graded with a right soft_target_loss in place of your own."
    assert notes["bob"].strip() == in_place
    assert "more than 20 s" in notes["endless"] and "ended its process" in notes["crash"]
    assert "calls kdlib's own" in notes["borrower"]
    assert "found by name" in notes["torn"] and "appeared 2 times" in notes["torn"]
    for student in ("bob", "cheat"):
        assert "T = 20 your loss is 400 times too small" in text_of_feedback(course, student, "hw1")
    assert "leak:" not in text_of_feedback(course, "spy", "hw1")
    assert "the grader's own gradebook, grading_seed" in notes["spy"]
    assert "the grader's own child" in notes["cheat"] and "grading.check_soft" in notes["cheat"]
    assert "more characters" in text_of_feedback(course, "loud", "hw1")
    assert "printed 199,98" in notes["loud"] and "characters more than are kept" in notes["loud"]
    for student in notes:
        assert f"## {student}, hw1" in (course / "report.md").read_text()


@pytest.mark.slow
def test_nbgraders_own_command_runs_student_code_in_a_process_of_its_own(tmp_path):
    course = copied_course(tmp_path)
    tells = "import os\nopen('/dev/null')\nos.environ['NBGRADER_EXECUTION'] = os.environ['NBGRADER_EXECUTION']"
    answers = model_solution("hw1") | {"soften": f"{tells}\n{model_solution('hw1')['soften']}"}
    hand_in(course, "ada", "hw1", of_student("hw1", model_solution("hw1")))
    hand_in(course, "bob", "hw1", of_student("hw1", answers))
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    environment = os.environ | {"PATH": path}
    for step in (["generate_assignment", "hw1", "--force"], ["autograde", "hw1"]):
        command = [sys.executable, "-m", "nbgrader", *step]
        done = subprocess.run(
            command, check=False, cwd=course, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
    course_module.feedback(course)
    full = sum(e.points for e in HOMEWORKS["hw1"])
    assert float(scores(course)["ada"]["hw1"]) == full
    # The variable is nbgrader's own kernel's: where code runs there, it would be set.
    assert "KeyError" in text_of_feedback(course, "bob", "hw1")


def test_a_notebook_that_nbgrader_grades_alone_is_marked_first(tmp_path, monkeypatch):
    release = read("release", "hw1")
    about = {"assignment": "hw1", "student": "ada", "notebook": "hw1_soft_targets"}
    handed_in, resources = of_student("hw1", model_solution("hw1")), {"nbgrader": about}
    seen = []

    def grader(course):
        def mark(submission):
            seen.append((course, submission.student, submission.homework, submission.name))
            shown = nbformat.from_dict(release)
            cell_of(shown, "check_soften").update(outputs=["shown"], execution_count=7)
            return SimpleNamespace(notebook=shown)

        return mark

    monkeypatch.setattr(course_module, "_grader", grader)
    monkeypatch.setattr(course_module, "_marked", {})
    monkeypatch.chdir(tmp_path)
    repaired, _ = course_module.Repair().preprocess(handed_in, resources)
    assert seen == [(tmp_path, "ada", "hw1", "hw1_soft_targets")]
    assert len(repaired.cells) == len(release.cells)
    cell_of(repaired, "check_soften").outputs = []
    filled, _ = course_module.Score().preprocess(repaired, resources)
    check = cell_of(filled, "check_soften")
    assert check.outputs == ["shown"] and check.execution_count == 7
    assert not course_module._marked  # the next one is marked anew


def test_the_hidden_seed_is_the_teachers_own_number_or_drawn_once(tmp_path):
    drawn = course_module.hidden_seed(tmp_path)
    assert drawn == course_module.hidden_seed(tmp_path) > 0
    (tmp_path / "other").mkdir()
    assert course_module.hidden_seed(tmp_path / "other") != drawn
    (tmp_path / "grading_seed.txt").write_text("12\n")
    assert course_module.hidden_seed(tmp_path) == 12
    for bad in ("", "0", "-3", "my secret"):
        (tmp_path / "grading_seed.txt").write_text(bad)
        with pytest.raises(ValueError, match="seed.txt must hold a whole number of at least 1"):
            course_module.hidden_seed(tmp_path)


def test_what_is_missing_in_a_course_is_named_before_anything_runs(tmp_path, capsys):
    def refused(course):
        with pytest.raises(SystemExit):
            main(["grade", "--course", str(course)])
        return capsys.readouterr().err

    assert "the folder with nbgrader_config.py" in refused(tmp_path)
    course = copied_course(tmp_path)
    assert "must hold STUDENT/hw1/hw1_soft_targets.ipynb" in refused(course)
    hand_in(course, "ada", "hw1", read("release", "hw1"))
    (course / "students.csv").write_text("name,email\nada,a@example.org\n")
    assert "students.csv must have a column student_id" in refused(course)
    assert not (course / "gradebook.db").exists()


def test_git_keeps_the_course_and_nothing_of_the_students():
    kept = [f"{kind}/hw1/hw1_soft_targets.ipynb" for kind in ("source", "release")]
    kept += ["nbgrader_config.py"]
    private = ["submitted/ada/hw1/x.ipynb", "autograded/ada/x", "feedback/ada/x", "gradebook.db"]
    private += ["grades.csv", "report.md", "grading_seed.txt", "students.csv"]
    paths = [f"notebooks/homework/{name}" for name in [*kept, *private]]
    command = ["git", "check-ignore", *paths]
    done = subprocess.run(command, check=False, cwd=COURSE.parents[1], stdout=-1, text=True)
    assert done.stdout.splitlines() == paths[len(kept) :]


def test_the_check_that_the_guide_shows_is_a_real_one():
    """Each of its lines is printed; three dots stand for anything."""

    def averaged(student, teacher, temperature):
        p = F.softmax(teacher.detach() / temperature, dim=-1)
        log_q = F.log_softmax(student / temperature, dim=-1)
        return temperature**2 * F.kl_div(log_q, p, reduction="mean")

    printed = repr(kd.grading.check_soft_target_loss(averaged)).splitlines()
    guide = (COURSE / "TEACHING.md").read_text()
    (shown,) = re.findall(r"```\n(soft_target_loss: .*?)```", guide, re.DOTALL)
    for line in shown.splitlines():
        pattern = ".+".join(map(re.escape, line.split("...")))
        assert any(re.fullmatch(pattern, real) for real in printed), line


def test_only_functions_of_earlier_exercises_are_lent():
    """So answers that only call each other earn nothing."""
    for exercises in HOMEWORKS.values():
        for place, exercise in enumerate(exercises):
            lent = [e.name for e in marking._earlier(exercise, exercises)]
            assert lent == [e.name for e in exercises[:place] if not e.personal]


@pytest.fixture
def quiet_nbgrader(monkeypatch):
    """A course's steps of nbgrader are recorded instead of run; those listed first fail."""
    run, fails = [], []

    def record(kind, course, homework, directories):
        run.append((kind.__name__, homework))
        if run[-1] in fails:
            raise RuntimeError(f"no {kind.__name__} of {homework}")

    monkeypatch.setattr(course_module, "_run", record)
    monkeypatch.setattr(course_module, "_gradebook", lambda course: nullcontext())
    monkeypatch.setattr(course_module, "write_grades", lambda *given: run.append("grades"))
    monkeypatch.setattr(course_module, "_marked", {})
    return run, fails


def handed_in_by(**homeworks):
    """What was graded: a notebook for each homework of each student."""
    own = [
        SimpleNamespace(student=student, homework=homework, name="x")
        for student, names in homeworks.items()
        for homework in names
    ]
    return [SimpleNamespace(submission=o, notebook=nbformat.v4.new_notebook()) for o in own]


def test_a_homework_that_is_no_longer_handed_in_is_no_longer_shown(tmp_path, quiet_nbgrader):
    for shown in ("ada/hw1", "ada/hw2", "bob/hw1", "eve/hw3"):
        (tmp_path / "autograded" / shown).mkdir(parents=True)
    now = handed_in_by(ada=["hw2"], bob=["hw1"])
    failures = []
    course_module._give_to_nbgrader(tmp_path, now, failures)
    assert failures == []
    kept = {str(p.relative_to(tmp_path / "autograded")) for p in tmp_path.glob("autograded/*/*")}
    assert kept == {"ada/hw2", "bob/hw1", "eve/hw3"}


def test_one_homework_that_nbgrader_cannot_do_does_not_cost_the_others(
    tmp_path, quiet_nbgrader, monkeypatch
):
    course, (run, fails) = copied_course(tmp_path), quiet_nbgrader
    fails += [("Autograde", "hw1"), ("GenerateFeedback", "hw1")]
    now = handed_in_by(ada=["hw1", "hw2"])
    failures = []
    course_module._give_to_nbgrader(course, now, failures)
    assert failures == ["Not all points of hw1 were entered: RuntimeError: no Autograde of hw1"]
    for homework in ("hw1", "hw2"):
        (course / "autograded" / "ada" / homework).mkdir(parents=True)
    with pytest.raises(RuntimeError, match="no Autograde of hw1\n\nNot all feedback on hw1 was"):
        course_module._finish(course, {}, failures)
    both = [[(step, "hw1"), (step, "hw2")] for step in ("Autograde", "GenerateFeedback")]
    assert run == [*both[0], *both[1], "grades"]
    monkeypatch.setattr(course_module, "_enter_times", lambda *given: None)
    assert main(["feedback", "--course", str(course)]) == 1
