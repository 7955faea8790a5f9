"""What was handed in, whatever became of it on the way."""

import copy
import json
import os

import nbformat
import pytest
from answers import model_solution, read

from kdlib.course.grading import submission
from kdlib.course.grading.submission import Submission, defined, found, mended, passed_over

RELEASE, ANSWERS = read("release", "hw1"), model_solution("hw1")
OPEN = "in_your_own_words"
NAMES = [cell.metadata.nbgrader.grade_id for cell in RELEASE.cells if "nbgrader" in cell.metadata]
FIRST = "soften"


def name(cell):
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def cell_of(notebook, grade_id):
    (cell,) = (c for c in notebook.cells if name(c) == grade_id)
    return cell


def place_of(notebook, grade_id):
    return next(k for k, c in enumerate(notebook.cells) if name(c) == grade_id)


def answered():
    """The release with the answers of the source, as a good student hands it in."""
    handed_in = copy.deepcopy(RELEASE)
    for cell in handed_in.cells:
        if name(cell) in ANSWERS:
            cell.source = ANSWERS[name(cell)]
    return handed_in


def mend(handed_in, note=""):
    data = handed_in if isinstance(handed_in, bytes) else json.dumps(handed_in).encode()
    notebook, notes = mended(Submission("ada", "hw1", "hw1_soft_targets", data, note), RELEASE)
    assert_whole(notebook)
    return notebook, notes


def assert_whole(notebook):
    """A valid notebook with each graded cell of the release once, in order, with its own marks."""
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert [name(c) for c in notebook.cells if name(c)] == NAMES
    for own in RELEASE.cells:
        if name(own):
            cell = cell_of(notebook, name(own))
            assert cell.metadata.nbgrader == own.metadata.nbgrader
            assert cell.cell_type == own.cell_type
            if name(own).startswith("check_"):
                assert cell.source == own.source
    assert nbformat.reads(nbformat.writes(notebook).encode().decode(), 4) == notebook


def answers_of(notebook):
    return {grade_id: cell_of(notebook, grade_id).source for grade_id in ANSWERS}


def run(notebook, what):
    """What a function of the notebook gives when its cells have run from the top."""
    names = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "kd." not in cell.source and "plt." not in cell.source:
            exec(cell.source, names)  # noqa: S102
    return what(names)


def softens(names):
    import torch

    found = names[FIRST](torch.tensor([[0.0, 2.0]]), 2.0)
    return torch.allclose(found, torch.tensor([[0.2689414, 0.7310586]]))


# Intact


def test_an_intact_notebook_comes_through_with_no_notes():
    handed_in = answered()
    notebook, notes = mend(handed_in)
    assert notes == []
    assert answers_of(notebook) == ANSWERS
    assert [c.source for c in notebook.cells] == [c.source for c in handed_in.cells]
    assert [c.id for c in notebook.cells] == [c.id for c in handed_in.cells]
    assert notebook.metadata == RELEASE.metadata


def test_the_empty_release_comes_through_with_no_notes():
    notebook, notes = mend(RELEASE)
    assert notes == [] and [c.source for c in notebook.cells] == [c.source for c in RELEASE.cells]


def test_nothing_is_kept_of_what_cells_showed():
    handed_in = answered()
    for cell in handed_in.cells:
        cell.metadata["collapsed"] = True
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("stream", text="100 of 100")]
            cell.execution_count = 7
    notebook, notes = mend(handed_in)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert notes == [] and all(c.outputs == [] and c.execution_count is None for c in code)
    assert all(set(c.metadata) <= {"nbgrader"} for c in notebook.cells)


def test_mending_changes_neither_the_release_nor_what_it_gave_before():
    before = copy.deepcopy(RELEASE)
    for handed_in in (b"broken", answered()):
        notebook, _ = mend(handed_in)
        cell_of(notebook, FIRST).source = "mine"
        notebook.metadata.mine = 1
        cell_of(notebook, FIRST).metadata.nbgrader.mine = 1
    assert before == RELEASE


def test_the_note_on_a_file_is_kept():
    assert mend(answered(), "The notebook is called x.")[1] == ["The notebook is called x."]


# Marks lost


def test_without_any_marks_answers_are_found_by_name_and_checks_put_back():
    handed_in = answered()
    for cell in handed_in.cells:
        cell.metadata = nbformat.NotebookNode()
        cell.pop("id")
    handed_in.nbformat_minor = 4
    handed_in.metadata = nbformat.NotebookNode()
    notebook, notes = mend(handed_in)
    assert answers_of(notebook) == ANSWERS
    text = "\n".join(notes)
    assert 'Had lost their marks, found by name: "soften", "soft_target_loss"' in text
    assert f'Had lost their marks, found by place: "{OPEN}".' in text
    assert "were put back: " in text and text.count('"check_') == 7
    assert run(notebook, softens)
    for grade_id in set(ANSWERS) - {OPEN}:  # each check right below its answer
        assert place_of(notebook, f"check_{grade_id}") == place_of(notebook, grade_id) + 1


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"nbgrader": None},
        {"nbgrader": []},
        {"nbgrader": {}},
        {"nbgrader": {"grade_id": 3}},
        {"nbgrader": {"grade_id": ["soften"]}},
        {"nbgrader": {"grade_id": "other"}},
        {"nbgrader": "soften"},
        [],
        None,
    ],
    ids=str,
)
def test_an_answer_without_its_mark_is_found_by_name(metadata):
    handed_in = json.loads(json.dumps(answered()))
    handed_in["cells"][place_of(answered(), FIRST)]["metadata"] = metadata
    notebook, notes = mend(handed_in)
    assert answers_of(notebook) == ANSWERS
    assert notes == ['Had lost their marks, found by name: "soften".']


def test_an_answer_in_a_new_cell_is_found_where_its_own_was_deleted():
    handed_in = answered()
    own = cell_of(handed_in, FIRST)
    own.metadata.clear()
    own.id = "mine"
    notebook, notes = mend(handed_in)
    assert cell_of(notebook, FIRST).id == "mine" and len(notes) == 1


@pytest.mark.parametrize(
    "source",
    [
        "soften = lambda logits, temperature: (logits / temperature).softmax(-1)",
        "soften: object = lambda logits, temperature: (logits / temperature).softmax(-1)",
        "%matplotlib inline\ndef soften(logits, temperature):\n    return (logits / temperature).softmax(-1)",
        "def helper(z):\n    return z.softmax(-1)\n\ndef soften(z, T):\n    return helper(z / T)",
    ],
)
def test_an_answer_is_found_in_whatever_form_it_is_written(source):
    handed_in = answered()
    cell_of(handed_in, FIRST).source = source
    cell_of(handed_in, FIRST).metadata.clear()
    notebook, _ = mend(handed_in)
    assert cell_of(notebook, FIRST).source == source


def test_an_answer_that_does_not_parse_is_found_too():
    handed_in = answered()
    source = "def soften(logits, temperature):\n    return (logits / temperature"
    cell_of(handed_in, FIRST).source = source
    assert mend(handed_in)[1] == []
    cell_of(handed_in, FIRST).metadata.clear()
    notebook, notes = mend(handed_in)
    assert cell_of(notebook, FIRST).source == source
    assert notes == ['Had lost their marks, found by name: "soften".']


def test_an_answer_that_was_written_into_another_answers_cell_counts():
    """As when two cells were merged: a stub that was put back would run after it and undo it."""
    handed_in = answered()
    lost, other = cell_of(handed_in, FIRST), cell_of(handed_in, "soft_target_loss")
    other.source = f"{lost.source}\n\n\n{other.source}"
    handed_in.cells.remove(lost)
    notebook, notes = mend(handed_in)
    assert run(notebook, softens)
    assert notes == ['Without a cell of their own, found in another answer\'s: "soften".']


# Cells twice


@pytest.mark.parametrize("kept_marks", [True, False])
@pytest.mark.parametrize("written", ["first", "second"])
def test_of_a_copied_cell_the_written_one_counts(written, kept_marks):
    handed_in = answered()
    place = place_of(handed_in, FIRST)
    stub = copy.deepcopy(cell_of(RELEASE, FIRST))
    handed_in.cells.insert(place + (written == "first"), stub)
    if not kept_marks:
        for cell in handed_in.cells[place : place + 2]:
            cell.metadata.clear()
    notebook, notes = mend(handed_in)
    assert answers_of(notebook) == ANSWERS
    assert run(notebook, softens)
    if kept_marks:
        number = 1 if written == "first" else 2
        assert notes == [f'The cell "soften" was there 2 times; number {number} counts.']
    assert len(notebook.cells) == len(RELEASE.cells) + 1


def test_a_stub_far_below_the_answer_does_not_undo_it():
    handed_in = answered()
    handed_in.cells.append(copy.deepcopy(cell_of(RELEASE, FIRST)))
    assert not run(handed_in, lambda names: can(softens, names))
    notebook, _ = mend(handed_in)
    assert run(notebook, softens)
    last = notebook.cells[-1]
    assert last.source.startswith("# ") and "raise NotImplementedError" in last.source


def can(question, names):
    try:
        return question(names)
    except NotImplementedError:
        return False


def test_a_raise_that_was_left_below_a_return_makes_no_stub():
    handed_in = answered()
    own = cell_of(handed_in, FIRST)
    own.source += "\n    raise NotImplementedError()"
    handed_in.cells.append(copy.deepcopy(cell_of(RELEASE, FIRST)))
    notebook, _ = mend(handed_in)
    assert cell_of(notebook, FIRST).source == own.source
    assert run(notebook, softens)


def test_of_two_written_cells_the_last_counts_as_it_does_in_a_run():
    handed_in = answered()
    again = copy.deepcopy(cell_of(handed_in, FIRST))
    again.source = again.source.replace("logits / temperature", "(logits / temperature)")
    handed_in.cells.insert(place_of(handed_in, FIRST) + 1, again)
    notebook, notes = mend(handed_in)
    assert cell_of(notebook, FIRST).source == again.source
    assert notes == ['The cell "soften" was there 2 times; number 2 counts.']
    assert len(notebook.cells) == len(handed_in.cells)


def test_of_a_check_that_was_copied_and_changed_the_unchanged_one_counts():
    handed_in = answered()
    changed = copy.deepcopy(cell_of(handed_in, "check_soften"))
    changed.source = "3"
    handed_in.cells.insert(place_of(handed_in, "check_soften") + 1, changed)
    _, notes = mend(handed_in)
    assert notes == ['The cell "check_soften" was there 2 times; number 1 counts.']


def test_of_two_marked_parts_the_one_that_defines_the_name_counts():
    handed_in = answered()
    helper = copy.deepcopy(cell_of(handed_in, FIRST))
    cell_of(handed_in, FIRST).source = "def soften(z, T):\n    return helper(z / T)"
    helper.source = "def helper(z):\n    return z.softmax(-1)"
    handed_in.cells.insert(place_of(handed_in, FIRST) + 1, helper)
    notebook, _ = mend(handed_in)
    assert "def soften" in cell_of(notebook, FIRST).source
    assert run(notebook, softens)


# Cells deleted, changed, split


def test_a_deleted_check_is_put_back_below_its_answer():
    handed_in = answered()
    handed_in.cells.remove(cell_of(handed_in, "check_soften"))
    notebook, notes = mend(handed_in)
    assert place_of(notebook, "check_soften") == place_of(notebook, "soften") + 1
    assert notes == [
        'Check cells that were gone, or had lost their marks, and were put back: "check_soften".'
    ]


def test_a_deleted_answer_is_put_back_empty_and_noted():
    handed_in = answered()
    for gone in ("hinton_loss", OPEN):
        handed_in.cells.remove(cell_of(handed_in, gone))
    notebook, notes = mend(handed_in)
    for gone in ("hinton_loss", OPEN):
        assert cell_of(notebook, gone).source == cell_of(RELEASE, gone).source
    assert notes == [
        f'Missing, and nothing else answers them; put back empty: "hinton_loss", "{OPEN}".'
    ]


def test_a_notebook_without_any_cell_gets_all_of_them():
    handed_in = answered()
    handed_in.cells = []
    notebook, notes = mend(handed_in)
    assert [name(c) for c in notebook.cells] == NAMES and len(notes) == 2


def test_a_changed_check_is_replaced_by_the_original_and_noted():
    handed_in = answered()
    cell_of(handed_in, "check_soften").source = "print('3 of 3 points')"
    _, notes = mend(handed_in)
    assert notes == ['The cell "check_soften" was changed; the original check was used.']


def test_points_in_the_metadata_are_those_of_the_release():
    handed_in = answered()
    for cell in handed_in.cells:
        if name(cell):
            cell.metadata.nbgrader.update(points=100, checksum="0", locked=False, solution=True)
    _, notes = mend(handed_in)  # which compares all marks with the release's
    assert notes == []


def test_an_answer_that_was_turned_into_markdown_is_none():
    handed_in = answered()
    place = place_of(handed_in, FIRST)
    own = handed_in.cells[place]
    handed_in.cells[place] = nbformat.v4.new_markdown_cell(own.source, metadata=own.metadata)
    notebook, notes = mend(handed_in)
    assert cell_of(notebook, FIRST).source == cell_of(RELEASE, FIRST).source
    assert own.source in [c.source for c in notebook.cells if c.cell_type == "markdown"]
    assert notes == ['Missing, and nothing else answers them; put back empty: "soften".']


def test_an_open_answer_that_was_turned_into_code_stays_to_be_read():
    handed_in = answered()
    place = place_of(handed_in, OPEN)
    own = handed_in.cells[place]
    handed_in.cells[place] = nbformat.v4.new_code_cell(own.source, metadata=own.metadata)
    notebook, notes = mend(handed_in)
    assert own.source in [c.source for c in notebook.cells]
    assert f'put back empty: "{OPEN}"' in notes[0]


@pytest.mark.parametrize("both_marked", [True, False])
def test_a_cell_that_was_split_in_two_answers_as_one(both_marked):
    handed_in = answered()
    place = place_of(handed_in, FIRST)
    helper, rest = handed_in.cells[place], copy.deepcopy(handed_in.cells[place])
    helper.source = "def helper(z):\n    return z.softmax(-1)"
    rest.source = "def soften(z, T):\n    return helper(z / T)"
    rest.id = "rest"
    if not both_marked:
        rest.metadata.clear()
    handed_in.cells.insert(place + 1, rest)
    notebook, notes = mend(handed_in)
    assert run(notebook, softens)
    assert [c.source for c in notebook.cells] == [c.source for c in handed_in.cells]
    if both_marked:  # as JupyterLab leaves them
        assert cell_of(notebook, FIRST).source == rest.source
        assert notes == ['The cell "soften" was there 2 times; number 2 counts.']


def test_cells_of_ones_own_stay_where_they_are():
    handed_in = answered()
    for k in range(0, 2 * len(handed_in.cells), 2):
        handed_in.cells.insert(k, nbformat.v4.new_code_cell(f"mine = {k}"))
    handed_in.cells.append(nbformat.v4.new_raw_cell("raw"))
    handed_in.cells.append(nbformat.v4.new_markdown_cell("text"))
    notebook, notes = mend(handed_in)
    assert [c.source for c in notebook.cells] == [c.source for c in handed_in.cells]
    assert [c.cell_type for c in notebook.cells] == [c.cell_type for c in handed_in.cells]
    assert notes == []


def test_marks_that_the_release_does_not_know_are_taken_away():
    handed_in = answered()
    marks = copy.deepcopy(cell_of(handed_in, "check_soften").metadata)
    marks.nbgrader.update(grade_id="bonus", points=100)
    handed_in.cells.append(nbformat.v4.new_code_cell("'bonus'", metadata=marks))
    notebook, notes = mend(handed_in)
    assert "nbgrader" not in notebook.cells[-1].metadata and notes == []


# Odd files


def test_a_byte_order_mark_is_no_obstacle():
    notebook, notes = mend(b"\xef\xbb\xbf" + json.dumps(answered()).encode())
    assert notes == [] and answers_of(notebook) == ANSWERS


BROKEN = {
    "nothing": b"",
    "no JSON": b'{"cells": [{"cell_type": "code", ',
    "a page": b"<!DOCTYPE html><html></html>",
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "an empty object": b"{}",
    "no cells": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
    "cells that are none": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": 3}',
    "no text": bytes(range(256)),
    "UTF-16": json.dumps(answered()).encode("utf-16"),
    "a format to come": json.dumps(answered() | {"nbformat": 9}).encode(),
    "a version that is none": json.dumps(answered() | {"nbformat": "four"}).encode(),
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_notebook_is_graded_as_an_empty_one(data):
    notebook, notes = mend(data)
    assert notebook == RELEASE
    (note,) = notes
    assert note.startswith("The file is no notebook (") and note.endswith("as an empty one.")
    assert "\n" not in note and len(note) < 400


def test_no_file_is_graded_as_an_empty_one():
    notebook, notes = mended(Submission("ada", "hw1", "x", None, "There is none."), RELEASE)
    assert_whole(notebook)
    assert notebook == RELEASE and notes == ["There is none."]


def test_a_notebook_of_format_3_is_read():
    old = nbformat.convert(answered(), 3)
    assert old.nbformat == 3 and "worksheets" in old
    notebook, notes = mend(nbformat.writes(old, version=3).encode())
    assert answers_of(notebook) == ANSWERS and notes == []


def test_cells_of_an_odd_form_are_taken_for_what_they_may_be():
    handed_in = json.loads(json.dumps(answered()))
    cells = handed_in["cells"]
    for cell in cells:
        cell["source"] = cell["source"].splitlines(keepends=True)
    cells[0].pop("source")
    cells[1]["source"] = None
    cells[2]["cell_type"] = "heading"
    cells[3].pop("cell_type")
    cells.insert(4, "text")
    cells.insert(5, None)
    cells.append({"cell_type": "code"})
    cells.append({"cell_type": "code", "source": [1, "\n", None], "metadata": 3, "id": 7})
    notebook, notes = mend(handed_in)
    assert answers_of(notebook) == ANSWERS and notes == []
    assert notebook.cells[0].source == notebook.cells[1].source == ""
    assert notebook.cells[2].cell_type == notebook.cells[3].cell_type == "raw"
    assert [c.source for c in notebook.cells[-2:]] == ["", "1\nNone"]


def test_half_a_character_in_a_cell_can_be_written_to_a_file():
    handed_in = answered()
    handed_in.cells.append(nbformat.v4.new_code_cell("text = '\ud800'"))
    notebook, _ = mend(json.dumps(handed_in).encode())
    nbformat.writes(notebook).encode("utf-8")
    assert notebook.cells[-1].source == "text = '?'"


def test_ids_that_are_missing_odd_or_there_twice_become_good_ones():
    handed_in = json.loads(json.dumps(answered()))
    odd = [None, 3, "", "with space", "ä", "x" * 65, "same", "same", "same"]
    for cell, its in zip(handed_in["cells"], odd, strict=False):
        cell["id"] = its
    notebook, notes = mend(handed_in)  # which looks at them all
    assert notes == []
    assert [c.id for c in notebook.cells].count("same") == 1


# In the folder


def hand_in(folder, name, text="{}", student="ada", homework="hw1"):
    path = folder / student / homework / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def the_only(folder):
    (only,) = found(folder, {"hw1": "first", "hw2": "second"})
    return only


def test_submissions_are_found_by_student_and_homework(tmp_path):
    hand_in(tmp_path, "first.ipynb", "1")
    hand_in(tmp_path, "second.ipynb", "2", homework="hw2")
    hand_in(tmp_path, "first.ipynb", "3", student="Bob Ø")
    hand_in(tmp_path, "first.ipynb", "4", homework="hw9")
    (tmp_path / "readme.txt").write_text("")
    (tmp_path / "ada" / "notes.txt").write_text("")
    submissions = found(tmp_path, {"hw1": "first", "hw2": "second"})
    assert submissions == [
        Submission("Bob Ø", "hw1", "first", b"3"),
        Submission("ada", "hw1", "first", b"1"),
        Submission("ada", "hw2", "second", b"2"),
    ]
    assert found(tmp_path / "nothing", {"hw1": "first"}) == []


def test_of_two_notebooks_the_one_with_the_right_name_is_taken(tmp_path):
    hand_in(tmp_path, "first.ipynb", "right")
    other = hand_in(tmp_path, "first (1).ipynb", "other")
    os.utime(other, (2e9, 2e9))
    assert the_only(tmp_path) == Submission("ada", "hw1", "first", b"right")


def test_of_other_names_the_newest_is_taken_and_that_is_said(tmp_path):
    for text, name, age in (("new", "a.ipynb", 2e9), ("old", "b.ipynb", 1e9)):
        os.utime(hand_in(tmp_path, name, text), (age, age))
    os.utime(hand_in(tmp_path, "._a.ipynb", "of a Mac's zip"), (3e9, 3e9))
    taken = the_only(tmp_path)
    assert taken.data == b"new" and taken.name == "first"
    assert taken.note == (
        "The notebook is called a.ipynb instead of first.ipynb, the newest of 2, and was taken."
    )


@pytest.mark.parametrize("bad", ["bob [1]", "a*", "who?", ".hidden", "=1+1", "@home", "new\nline"])
def test_a_students_folder_must_have_a_plain_name(tmp_path, bad):
    (tmp_path / "ada").mkdir()
    (tmp_path / bad).mkdir()
    with pytest.raises(ValueError, match="a student's folder must have a plain name, got"):
        found(tmp_path, {"hw1": "first"})


def test_names_of_people_are_plain_names(tmp_path):
    for name in ("O'Brien, Ada", "mu\u0308ller", "bob (1)", "42"):
        (tmp_path / name / "hw1").mkdir(parents=True)
    students = {own.student for own in found(tmp_path, {"hw1": "first"})}
    assert students == {"O'Brien, Ada", "m\u00fcller", "bob (1)", "42"}  # one spelling of an umlaut


def test_what_is_no_folder_of_a_homework_is_told(tmp_path):
    for name in ("ada/hw1", "ada/HW1", "ada/hw4", "ada/.cache"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "bob").mkdir()
    for name in ("stray.ipynb", "bob/first.ipynb"):
        (tmp_path / name).write_text("")
    told = ["ada/HW1", "ada/hw4", "bob/first.ipynb", "stray.ipynb"]
    assert passed_over(tmp_path, {"hw1": "first"}) == told


def test_many_empty_lines_take_no_time_to_read():
    handed_in = answered()
    cell_of(handed_in, FIRST).source += "\n" * 1_000_000  # hours, where lines are counted in pairs
    mend(handed_in)


PICTURE = "iVBORw0KGgo="


def test_a_picture_in_an_open_answer_stays_and_nothing_else_that_is_attached():
    handed_in = answered()
    attached = {"a.png": {"image/png": PICTURE}, "b.svg": {"image/svg+xml": PICTURE}}
    cell_of(handed_in, OPEN).attachments = attached | {"c.png": {"image/png": "no base64!"}}
    notebook, _ = mend(handed_in)
    assert cell_of(notebook, OPEN).attachments == {"a.png": {"image/png": PICTURE}}


def test_a_folder_without_a_notebook_is_said(tmp_path):
    hand_in(tmp_path, "answers.docx")
    hand_in(tmp_path, "._first.ipynb")
    (tmp_path / "ada" / "hw1" / "first.ipynb").mkdir()
    nothing = the_only(tmp_path)
    assert nothing.data is None and nothing.note == "There is no notebook in the folder."


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "LARGEST", 3 * 2**20)
    path = hand_in(tmp_path, "first.ipynb")
    path.write_bytes(bytes(3 * 2**20))
    assert the_only(tmp_path).data == bytes(3 * 2**20)
    path.write_bytes(bytes(3 * 2**20 + 1))
    large = the_only(tmp_path)
    assert large.data is None and large.note == "The file has more than 3 MB; not read."


def test_a_file_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    path = hand_in(tmp_path, "first.ipynb")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    refused = the_only(tmp_path)
    assert refused.data is None
    assert refused.note == "The file cannot be read (Permission denied)."


# Names


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(x):\n    y = 1\n\nz = 2", {"f", "z"}),
        ("a = b = 1\nc: int = 2\nd += 1", {"a", "b", "c"}),
        ("class K:\n    def f(self): ...", set()),
        ("if True:\n    def f(): ...", set()),
        ("%time x = 1\n!ls\n  !pwd\ny = 2\ndef f(): ...", {"f", "y"}),
        ("def f(x):\n    return (\n\ndef g (y):\n", {"f", "g"}),
        ("  def f(x) oops", set()),
        ("x = 1\0", set()),
        ("(" * 5000, set()),
        ("", set()),
    ],
)
def test_names_that_a_cell_defines(source, names):
    assert defined(source) == names


def test_an_open_answer_in_new_cells_below_counts_where_its_own_was_left_as_it_was():
    handed_in = answered()
    cell_of(handed_in, OPEN).source = cell_of(RELEASE, OPEN).source
    handed_in.cells += [nbformat.v4.new_markdown_cell(text) for text in ("First.", "Second.")]
    notebook, notes = mend(handed_in)
    assert cell_of(notebook, OPEN).source == "First.\n\nSecond."
    assert notes == [f'The answer "{OPEN}" stood in a cell of its own below; it counts.']
    handed_in.cells.insert(place_of(handed_in, OPEN) + 1, nbformat.v4.new_code_cell("1"))
    notebook, notes = mend(handed_in)  # not beside it: nothing says that it belongs to it
    assert notes == [] and "First" not in cell_of(notebook, OPEN).source
