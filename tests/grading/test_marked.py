"""Marking one submission, from the notebook to its notes, without a process."""

import html
import json
from types import SimpleNamespace

import nbformat
import pytest
from answers import HOMEWORKS, copied_course, model_solution, of_student, read

from kdlib.course.grading import course as course_module
from kdlib.course.grading import marking, sandbox
from kdlib.course.grading.prose import safe
from kdlib.course.grading.report import Report
from kdlib.course.grading.sandbox import NOTHING
from kdlib.course.grading.submission import Submission


class Quiet:
    """A runner without a process."""

    def __init__(self, cells, *others):
        self.notes = ['The cell that begins "x" was left out: it ended its process.']
        self.outputs = {next(iter(cells)): NOTHING | {"more": 7}}

    def source(self, name, instead=None, own=()):
        return [*(instead or {})]

    def changed(self, name, others):
        return []

    def own_name(self):
        return ""

    def close(self):
        pass


@pytest.fixture
def marked(monkeypatch):
    """Mark a notebook whose exercises get the reports of ``found``; what each check was asked with."""
    monkeypatch.setattr(marking, "Runner", Quiet)

    def mark(notebook, found, files=(), left_out=()):
        asked = []

        def checked(name):
            def report(source, seed, student):
                asked.append((name, source, seed, student))
                return found.get(name, Report(name, ()))

            return SimpleNamespace(name=name, personal=False, right=len, report=report)

        exercises = [checked(e.name) for e in HOMEWORKS["hw1"]]
        data = json.dumps(notebook).encode()
        own = Submission("ada", "hw1", "hw1_soft_targets", data, "", dict(files), left_out)
        return marking.marked(own, read("release", "hw1"), exercises, 77), asked

    return mark


def test_hidden_cases_of_the_courses_own_seed_are_asked(marked, tmp_path, monkeypatch):
    _, asked = marked(of_student("hw1", {}), {})
    assert {(seed, student) for _, _, seed, student in asked} == {(77, "ada")}
    seeds = []
    monkeypatch.setattr(course_module, "marked", lambda *given: seeds.append(given[3]))
    course = copied_course(tmp_path)
    (course / "grading_seed.txt").write_text("12")
    course_module._grader(course)(Submission("ada", "hw1", "x", None))
    assert seeds == [12]


@pytest.mark.parametrize(("borrowed", "lent"), [("", ["soften"]), ("soften", None)])
def test_no_right_function_is_lent_to_an_answer_that_borrows(marked, borrowed, lent):
    found = {"soften": Report("soften", (), note="x")}
    found["hinton_loss"] = Report("hinton_loss", (), note="x", borrowed=borrowed)
    _, asked = marked(of_student("hw1", {}), found)
    again = [source for name, source, *_ in asked if name == "hinton_loss"][1:]
    assert again == ([] if lent is None else [lent])


def test_notes_tell_of_cells_left_out_of_text_cut_and_of_peeping(marked):
    peeps = model_solution("hw1") | {"soften": 'open("grading_seed.txt")'}
    notes = "\n".join(marked(of_student("hw1", peeps), {})[0].notes)
    assert "was left out: it ended its process." in notes
    assert "printed 7 characters more than are kept." in notes
    assert "the grader's own grading_seed" in notes


def test_every_cell_that_failed_is_named_with_its_error(marked, monkeypatch):
    def failing(self, cells, *others):
        self.notes = []
        places = [*cells][:12]
        self.outputs = {k: NOTHING | {"error": f"ValueError: {k}"} for k in places}
        self.notes = [f"{sandbox.named(cells[places[0]])} was left out: it ended its process."]

    monkeypatch.setattr(Quiet, "__init__", failing)
    notebook = of_student("hw1", {})
    for k in range(12):
        notebook.cells.insert(k, nbformat.v4.new_code_cell(f"# {k}\nimport google.colab"))
    notes = marked(notebook, {})[0].notes
    failed = [note for note in notes if "failed" in note]
    assert failed[0] == 'The cell that begins "# 1" failed: ValueError: 1'
    assert len(failed) == 11 and failed[-1] == "Cells that failed beside these: 1."
    assert any(note.startswith("Google Colab's own package is missing") for note in notes)


def test_a_wrong_answer_that_is_written_again_below_its_check_is_noted(marked):
    notebook = of_student("hw1", {})
    place = 1 + next(k for k, c in enumerate(notebook.cells) if c.id == "check_soften")
    again = nbformat.v4.new_code_cell("# better\nsoften = right_at_last")
    notebook.cells.insert(place, again)
    note = (
        'The cell that begins "# better" stands below the check of soften: '
        "what the check found above it counts."
    )
    wrong = Report("soften", (), note="nothing")
    assert note in marked(notebook, {"soften": wrong})[0].notes
    assert note not in marked(notebook, {})[0].notes


def test_files_beside_the_notebook_are_named_and_searched_for_peeping(marked):
    files = {"helpers.py": b"from kdlib.course.exercises import hw1", "data.csv": b"1"}
    files["timestamp.txt"] = b"2026-11-20 23:59:59 UTC"
    notes = marked(of_student("hw1", {}), {}, files, ("big.bin (too large)",))[0].notes
    assert "Beside the notebook there were: helpers.py, data.csv." in notes
    assert "A file beside the notebook was left out: big.bin (too large)." in notes
    assert any(note.startswith("It mentions the grader's own") for note in notes)


def test_open_answers_and_raw_cells_are_made_harmless(marked):
    nasty = "<script>alert(1)</script>"
    notebook = of_student("hw1", {"in_your_own_words": nasty})
    notebook.cells.append(nbformat.v4.new_raw_cell(nasty))
    sources = [cell.source for cell in marked(notebook, {})[0].notebook.cells]
    assert nasty not in sources
    assert {safe(nasty, {}), html.escape(nasty)} <= {*sources}
