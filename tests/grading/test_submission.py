"""Submissions, whatever happened to them on the way: how they are found, read and repaired."""

import copy
import json
import os
from functools import partial
from unittest.mock import Mock

import nbformat
import pytest
import torch
from answers import cell_of, model_solution, name_of, read

from kdlib.course.grading import submission
from kdlib.course.grading.submission import Submission, defined, found, mended, passed_over

RELEASE, ANSWERS = read("release", "hw1"), model_solution("hw1")
OPEN = "in_your_own_words"
GRADED = [cell for cell in RELEASE.cells if name_of(cell)]
FIRST, CHECK = "soften", "check_soften"
HELPER = "def helper(z):\n    return z.softmax(-1)"
CALLS_HELPER = "def soften(z, T):\n    return helper(z / T)"
FOUND_BY_NAME = ['Cells without their metadata, found by name: "soften".']


def place_of(notebook, grade_id):
    return next(k for k, c in enumerate(notebook.cells) if name_of(c) == grade_id)


def sources(notebook):
    return [cell.source for cell in notebook.cells]


def insert_below(notebook, grade_id, source, **changes):
    """Insert a copy of a cell, with its metadata, below it."""
    copied = copy.deepcopy(cell_of(notebook, grade_id))
    copied.update(source=source, **changes)
    notebook.cells.insert(place_of(notebook, grade_id) + 1, copied)
    return copied


@pytest.fixture
def handed_in():
    """The release with the answers of the source, as a good student hands it in."""
    notebook = copy.deepcopy(RELEASE)
    for cell in notebook.cells:
        cell.source = ANSWERS.get(name_of(cell), cell.source)
    return notebook


def mend(handed_in, note=""):
    data = handed_in if isinstance(handed_in, bytes) else json.dumps(handed_in).encode()
    notebook, notes = mended(Submission("ada", "hw1", "hw1_soft_targets", data, note), RELEASE)
    assert_whole(notebook)
    return notebook, notes


def assert_whole(notebook):
    """Assert a valid notebook with each graded cell of the release once, in order, as released."""
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    graded = [cell for cell in notebook.cells if name_of(cell)]
    for cell, own in zip(graded, GRADED, strict=True):
        assert cell.metadata.nbgrader == own.metadata.nbgrader
        assert cell.cell_type == own.cell_type
        if name_of(own).startswith("check_"):
            assert cell.source == own.source
    assert nbformat.reads(nbformat.writes(notebook).encode().decode(), 4) == notebook


def answers_of(notebook):
    return {grade_id: cell_of(notebook, grade_id).source for grade_id in ANSWERS}


def softens(notebook):
    """Whether ``soften`` is right after the cells have run from the top."""
    names = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "kd." not in cell.source and "plt." not in cell.source:
            exec(cell.source, names)  # noqa: S102
    value = names[FIRST](torch.tensor([[0.0, 2.0]]), 2.0)
    return torch.allclose(value, torch.tensor([[0.2689414, 0.7310586]]))


# Intact


@pytest.mark.parametrize("empty", [False, True])
def test_an_intact_notebook_comes_through_without_notes(handed_in, empty):
    intact = RELEASE if empty else handed_in
    notebook, notes = mend(intact)
    assert notes == [] and sources(notebook) == sources(intact)
    assert [c.id for c in notebook.cells] == [c.id for c in intact.cells]
    assert notebook.metadata == RELEASE.metadata


def test_outputs_are_not_kept(handed_in):
    for cell in handed_in.cells:
        cell.metadata["collapsed"] = True
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("stream", text="100 of 100")]
            cell.execution_count = 7
    notebook, notes = mend(handed_in)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert notes == [] and all(c.outputs == [] and c.execution_count is None for c in code)
    assert all(set(c.metadata) <= {"nbgrader"} for c in notebook.cells)


def test_a_repaired_notebook_shares_nothing_with_the_release(handed_in):
    before = copy.deepcopy(RELEASE)
    for data in (b"broken", handed_in):
        notebook, _ = mend(data)
        cell_of(notebook, FIRST).source = "mine"
        notebook.metadata.mine = 1
        cell_of(notebook, FIRST).metadata.nbgrader.mine = 1
    assert before == RELEASE


# Metadata lost


def test_without_any_metadata_answers_are_found_by_name_and_checks_by_their_text(handed_in):
    for cell in handed_in.cells:
        cell.metadata = nbformat.NotebookNode()
        cell.pop("id")
    handed_in.nbformat_minor = 4
    handed_in.metadata = nbformat.NotebookNode()
    notebook, notes = mend(handed_in)
    assert answers_of(notebook) == ANSWERS
    text = "\n".join(notes)
    assert 'Cells without their metadata, found by name: "soften", "soft_target_loss"' in text
    assert f'Cells without their metadata, found by their place: "{OPEN}".' in text
    assert "check" not in text
    assert softens(notebook)
    for grade_id in set(ANSWERS) - {OPEN}:  # each check right below its answer
        assert place_of(notebook, f"check_{grade_id}") == place_of(notebook, grade_id) + 1


OF_NBGRADER = [None, [], {}, "soften", *({"grade_id": x} for x in (3, ["soften"], "other"))]


@pytest.mark.parametrize("metadata", [{}, [], None, *({"nbgrader": x} for x in OF_NBGRADER)])
def test_an_answer_without_its_metadata_is_found_by_name(handed_in, metadata):
    place, plain = place_of(handed_in, FIRST), json.loads(json.dumps(handed_in))
    plain["cells"][place] |= {"metadata": metadata, "id": "mine"}
    notebook, notes = mend(plain)
    assert answers_of(notebook) == ANSWERS
    assert cell_of(notebook, FIRST).id == "mine"
    assert notes == FOUND_BY_NAME


@pytest.mark.parametrize(
    "source",
    [
        "soften = lambda logits, temperature: (logits / temperature).softmax(-1)",
        "%matplotlib inline\ndef soften(z, T):\n    return (z / T).softmax(-1)",
        f"{HELPER}\n\n{CALLS_HELPER}",
        "def soften(does, not_parse):\n    return (does / not_parse",
    ],
)
def test_an_answer_is_found_in_whatever_form_it_is_written(handed_in, source):
    cell_of(handed_in, FIRST).source = source
    assert mend(handed_in)[1] == []
    cell_of(handed_in, FIRST).metadata.clear()
    notebook, notes = mend(handed_in)
    assert cell_of(notebook, FIRST).source == source
    assert notes == FOUND_BY_NAME


def test_an_answer_that_was_written_into_another_answers_cell_counts(handed_in):
    """When two cells were merged, a restored stub would run after the answer and undo it."""
    lost, other = cell_of(handed_in, FIRST), cell_of(handed_in, "soft_target_loss")
    other.source = f"{lost.source}\n\n\n{other.source}"
    handed_in.cells.remove(lost)
    notebook, notes = mend(handed_in)
    assert softens(notebook)
    without = "Answers without a cell of their own, found in another answer's cell"
    assert notes == [f'{without}: "soften".']


# Duplicated cells


@pytest.mark.parametrize("metadata_kept", [True, False])
@pytest.mark.parametrize("written", [1, 2])
def test_of_a_copied_cell_the_written_one_counts(handed_in, written, metadata_kept):
    place = place_of(handed_in, FIRST)
    handed_in.cells.insert(place + (written == 1), copy.deepcopy(cell_of(RELEASE, FIRST)))
    if not metadata_kept:
        for cell in handed_in.cells[place : place + 2]:
            cell.metadata.clear()
    notebook, notes = mend(handed_in)
    assert answers_of(notebook) == ANSWERS
    assert softens(notebook)
    if metadata_kept:
        assert notes == [f'The cell "soften" appeared 2 times; number {written} counts.']
    assert len(notebook.cells) == len(RELEASE.cells) + 1


@pytest.mark.parametrize("below_the_return", ["", "\n    raise NotImplementedError()"])
def test_a_stub_far_below_the_answer_does_not_undo_it(handed_in, below_the_return):
    own = cell_of(handed_in, FIRST)
    own.source += below_the_return
    handed_in.cells.append(copy.deepcopy(cell_of(RELEASE, FIRST)))
    with pytest.raises(NotImplementedError):
        softens(handed_in)
    notebook, _ = mend(handed_in)
    assert cell_of(notebook, FIRST).source == own.source
    assert softens(notebook)
    last = notebook.cells[-1]
    assert last.source.startswith("# ") and "raise NotImplementedError" in last.source


def test_of_two_written_cells_the_last_counts_as_it_does_in_a_run(handed_in):
    again = cell_of(handed_in, FIRST).source + "  # better"
    insert_below(handed_in, FIRST, again)
    notebook, notes = mend(handed_in)
    assert cell_of(notebook, FIRST).source == again
    assert notes == ['The cell "soften" appeared 2 times; number 2 counts.']
    assert len(notebook.cells) == len(handed_in.cells)


@pytest.mark.parametrize("second_marked", [True, False])
@pytest.mark.parametrize("first, second", [(HELPER, CALLS_HELPER), (CALLS_HELPER, HELPER)])
def test_an_answer_that_was_split_into_two_cells_answers_as_one(
    handed_in, first, second, second_marked
):
    cell_of(handed_in, FIRST).source = first
    below = insert_below(handed_in, FIRST, second, id="rest")
    if not second_marked:
        below.metadata.clear()
    notebook, notes = mend(handed_in)
    assert softens(notebook)
    assert sources(notebook) == sources(handed_in)
    if second_marked:  # as JupyterLab leaves them: the one that defines the name counts
        assert cell_of(notebook, FIRST).source == CALLS_HELPER
        number = 1 + (second == CALLS_HELPER)
        assert notes == [f'The cell "soften" appeared 2 times; number {number} counts.']


# Cells deleted or changed


def test_deleted_cells_are_put_back_answers_empty_and_checks_below_their_answers(handed_in):
    for gone in ("hinton_loss", OPEN, CHECK):
        handed_in.cells.remove(cell_of(handed_in, gone))
    notebook, notes = mend(handed_in)
    for gone in ("hinton_loss", OPEN):
        assert cell_of(notebook, gone).source == cell_of(RELEASE, gone).source
    assert place_of(notebook, CHECK) == place_of(notebook, FIRST) + 1
    checks, missing = notes
    assert missing == f'Missing answers, put back as empty cells: "hinton_loss", "{OPEN}".'
    assert checks.startswith("Check cells that were missing")
    assert checks.endswith('back: "check_soften".')
    handed_in.cells = []
    assert len(mend(handed_in)[1]) == 2


def test_a_changed_check_is_replaced_by_the_original_and_noted(handed_in):
    insert_below(handed_in, CHECK, "print('3 of 3 points')")
    assert mend(handed_in)[1] == ['The cell "check_soften" appeared 2 times; number 1 counts.']
    del handed_in.cells[place_of(handed_in, CHECK)]
    changed = 'The cell "check_soften" was changed; the original check was used.'
    assert mend(handed_in)[1] == [changed]


WRONG = "def soften(z, T):\n    return z"


def names_at_the_check(notebook):
    """The names that the check of ``soften`` finds."""
    names = {}
    for cell in notebook.cells[: place_of(notebook, CHECK)]:
        if cell.cell_type == "code" and "kd." not in cell.source and "plt." not in cell.source:
            exec(cell.source, names)  # noqa: S102
    return names


def softens_at_the_check(notebook):
    value = names_at_the_check(notebook)[FIRST](torch.tensor([[0.0, 2.0]]), 2.0)
    return torch.allclose(value, torch.tensor([[0.2689414, 0.7310586]]))


@pytest.mark.parametrize("lost", ["nothing", "metadata", "the check"])
def test_a_check_finds_the_helper_that_stands_between_it_and_the_answer(handed_in, lost):
    cell_of(handed_in, FIRST).source = CALLS_HELPER
    insert_below(handed_in, FIRST, HELPER).metadata.clear()
    insert_below(handed_in, FIRST, "scratch = 1").metadata.clear()
    if lost == "the check":
        handed_in.cells.remove(cell_of(handed_in, CHECK))
    if lost == "metadata":
        for cell in handed_in.cells:
            cell.metadata.clear()
    assert softens_at_the_check(mend(handed_in)[0])


def test_a_deleted_check_is_put_back_below_the_cell_that_its_answer_was_merged_into(handed_in):
    own, other = cell_of(handed_in, FIRST), cell_of(handed_in, "soft_target_loss")
    other.source = f"{own.source}\n\n\n{other.source}"
    handed_in.cells.remove(own)
    handed_in.cells.remove(cell_of(handed_in, CHECK))
    assert softens_at_the_check(made_in_order(handed_in))


def made_in_order(handed_in):
    """The repaired notebook; a check may stand below the next answer."""
    data = json.dumps(handed_in).encode()
    notebook, _ = mended(Submission("ada", "hw1", "hw1_soft_targets", data), RELEASE)
    nbformat.validate(notebook)
    return notebook


def test_a_deleted_check_is_put_back_above_a_cell_that_takes_its_name(handed_in):
    handed_in.cells.remove(cell_of(handed_in, CHECK))
    insert_below(handed_in, FIRST, "soften = 3").metadata.clear()
    assert softens_at_the_check(mend(handed_in)[0])


@pytest.mark.parametrize("metadata_kept", [True, False])
def test_of_a_copied_check_the_last_unchanged_one_counts(handed_in, metadata_kept):
    right = cell_of(handed_in, FIRST).source
    cell_of(handed_in, FIRST).source = WRONG
    insert_below(handed_in, CHECK, cell_of(handed_in, CHECK).source)
    handed_in.cells.insert(place_of(handed_in, CHECK) + 1, nbformat.v4.new_code_cell(right))
    if not metadata_kept:
        handed_in.cells[place_of(handed_in, CHECK) + 2].metadata.clear()
    notebook, notes = mend(handed_in)
    assert softens_at_the_check(notebook)
    assert 'The cell "check_soften" appeared 2 times; number 2 counts.' in notes


@pytest.mark.parametrize("metadata_kept", [True, False])
def test_an_answer_below_its_check_is_not_the_one_that_counts(handed_in, metadata_kept):
    own = cell_of(handed_in, FIRST)
    right, own.source = own.source, WRONG
    below = insert_below(handed_in, CHECK, right, metadata=copy.deepcopy(own.metadata))
    if not metadata_kept:
        own.metadata.clear(), below.metadata.clear()
    notebook, notes = mend(handed_in)
    assert cell_of(notebook, FIRST).source == WRONG
    kept = 'The cell "soften" appeared 2 times; number 1 counts.'
    assert notes == ([kept] if metadata_kept else FOUND_BY_NAME)


def test_metadata_counts_only_as_the_release_has_it(handed_in):
    metadata = copy.deepcopy(cell_of(handed_in, CHECK).metadata)
    metadata.nbgrader.update(grade_id="bonus", points=100)
    for cell in handed_in.cells:
        if name_of(cell):
            cell.metadata.nbgrader.update(points=100, checksum="0", locked=False, solution=True)
    handed_in.cells.append(nbformat.v4.new_code_cell("'bonus'", metadata=metadata))
    notebook, notes = mend(handed_in)  # which compares all metadata with the release's
    assert "nbgrader" not in notebook.cells[-1].metadata and notes == []


@pytest.mark.parametrize(
    ("question", "make"),
    [(FIRST, nbformat.v4.new_markdown_cell), (OPEN, nbformat.v4.new_code_cell)],
)
def test_an_answer_whose_cell_changed_its_type_stays_beside_an_empty_one(handed_in, question, make):
    place = place_of(handed_in, question)
    own = handed_in.cells[place]
    handed_in.cells[place] = make(own.source, metadata=own.metadata)
    notebook, notes = mend(handed_in)
    assert cell_of(notebook, question).source == cell_of(RELEASE, question).source
    kind = handed_in.cells[place].cell_type
    assert own.source in [c.source for c in notebook.cells if c.cell_type == kind]
    assert notes == [f'Missing answers, put back as empty cells: "{question}".']


def test_the_students_own_cells_stay_where_they_are(handed_in):
    for k in range(0, 2 * len(handed_in.cells), 2):
        handed_in.cells.insert(k, nbformat.v4.new_code_cell(f"mine = {k}"))
    handed_in.cells.append(nbformat.v4.new_raw_cell("raw"))
    handed_in.cells.append(nbformat.v4.new_markdown_cell("text"))
    notebook, notes = mend(handed_in)
    assert sources(notebook) == sources(handed_in)
    assert [c.cell_type for c in notebook.cells] == [c.cell_type for c in handed_in.cells]
    assert notes == []


def test_an_open_answer_in_new_cells_below_its_unchanged_own_one_counts(handed_in):
    cell_of(handed_in, OPEN).source = cell_of(RELEASE, OPEN).source
    handed_in.cells += [nbformat.v4.new_markdown_cell(text) for text in ("First.", "Second.")]
    notebook, notes = mend(handed_in)
    assert cell_of(notebook, OPEN).source == "First.\n\nSecond."
    assert notes == [f'The answer to "{OPEN}" was written in a new cell below; it counts.']
    handed_in.cells.insert(place_of(handed_in, OPEN) + 1, nbformat.v4.new_code_cell("1"))
    notebook, notes = mend(handed_in)  # not beside it: nothing says that it belongs to it
    assert notes == [] and "First" not in cell_of(notebook, OPEN).source


def test_only_pictures_stay_attached_to_an_open_answer(handed_in):
    picture = "iVBORw0KGgo="
    attached = {"a.png": {"image/png": picture}, "b.svg": {"image/svg+xml": picture}}
    cell_of(handed_in, OPEN).attachments = attached | {"c.png": {"image/png": "no base64!"}}
    notebook, _ = mend(handed_in)
    assert cell_of(notebook, OPEN).attachments == {"a.png": {"image/png": picture}}


# Odd files


BROKEN = {
    "nothing": b"",
    "not JSON": b'{"cells": [{"cell_type": "code", ',
    "a list": b"[]",
    "an empty object": b"{}",
    "no cells": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
    "cells that are a number": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": 3}',
    "UTF-16": json.dumps(RELEASE).encode("utf-16"),
    "a future format": json.dumps(RELEASE | {"nbformat": 9}).encode(),
    "a format that is not a number": json.dumps(RELEASE | {"nbformat": "four"}).encode(),
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_not_a_notebook_is_graded_as_an_empty_one(data):
    notebook, notes = mend(data)
    assert notebook == RELEASE
    (note,) = notes
    assert note.startswith("The file is not a notebook (") and note.endswith("as an empty one.")
    assert "\n" not in note and len(note) < 400


def test_a_missing_file_is_graded_as_an_empty_notebook():
    notebook, notes = mended(Submission("ada", "hw1", "x", None, "There is none."), RELEASE)
    assert_whole(notebook)
    assert notebook == RELEASE and notes == ["There is none."]


def test_a_notebook_of_format_3_or_with_a_byte_order_mark_is_read(handed_in):
    old = nbformat.convert(handed_in, 3)
    assert old.nbformat == 3 and "worksheets" in old
    marked = b"\xef\xbb\xbf" + json.dumps(handed_in).encode()
    for data in (nbformat.writes(old, version=3).encode(), marked):
        notebook, notes = mend(data)
        assert answers_of(notebook) == ANSWERS and notes == []


def test_malformed_cells_are_read_as_well_as_they_can_be(handed_in):
    plain = json.loads(json.dumps(handed_in))
    cells = plain["cells"]
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
    cells.append({"cell_type": "code", "source": "text = '\ud800'"})  # which no file can hold
    notebook, notes = mend(plain)
    assert answers_of(notebook) == ANSWERS and notes == []
    assert notebook.cells[0].source == notebook.cells[1].source == ""
    assert notebook.cells[2].cell_type == notebook.cells[3].cell_type == "raw"
    assert sources(notebook)[-3:] == ["", "1\nNone", "text = '?'"]


def test_missing_invalid_and_duplicated_ids_are_replaced(handed_in):
    plain = json.loads(json.dumps(handed_in))
    odd = [None, 3, "", "with space", "ä", "x" * 65, "same", "same", "same"]
    for cell, its in zip(plain["cells"], odd, strict=False):
        cell["id"] = its
    notebook, notes = mend(plain)  # which looks at them all
    assert notes == []
    assert [c.id for c in notebook.cells].count("same") == 1


def test_many_empty_lines_do_not_slow_reading_down(handed_in):
    cell_of(handed_in, FIRST).source += "\n" * 1_000_000  # hours, where lines are counted in pairs
    mend(handed_in)


# In the folder

HOMEWORKS = {"hw1": "first", "hw2": "second"}
UNREAD = partial(Submission, "ada", "hw1", "first", None)


def hand_in(folder, name, text="{}", student="ada", homework="hw1"):
    path = folder / student / homework / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def the_only(folder):
    (only,) = found(folder, HOMEWORKS)
    return only


def test_submissions_are_found_by_student_and_homework(tmp_path):
    hand_in(tmp_path, "first.ipynb", "1")
    hand_in(tmp_path, "second.ipynb", "2", homework="hw2")
    hand_in(tmp_path, "first.ipynb", "3", student="Bob Ø")
    hand_in(tmp_path, "first.ipynb", "4", homework="hw9")
    (tmp_path / "readme.txt").write_text("")
    (tmp_path / "ada" / "notes.txt").write_text("")
    assert found(tmp_path, HOMEWORKS) == [
        Submission("Bob Ø", "hw1", "first", b"3"),
        Submission("ada", "hw1", "first", b"1"),
        Submission("ada", "hw2", "second", b"2"),
    ]
    assert found(tmp_path / "nothing", HOMEWORKS) == []


def test_of_notebooks_the_newest_is_taken_and_noted_unless_one_has_the_right_name(tmp_path):
    for text, name, age in (("new", "a.ipynb", 2e9), ("old", "b.ipynb", 1e9)):
        os.utime(hand_in(tmp_path, name, text), (age, age))
    os.utime(hand_in(tmp_path, "._a.ipynb", "of a Mac's zip"), (3e9, 3e9))
    taken = the_only(tmp_path)
    assert taken.data == b"new" and taken.name == "first"
    assert taken.note == "Graded a.ipynb (the newest of 2), as there is no first.ipynb."
    os.utime(hand_in(tmp_path, "first.ipynb", "right"), (0, 0))
    assert the_only(tmp_path) == Submission("ada", "hw1", "first", b"right")


def test_files_beside_the_notebook_are_read_unless_they_are_large_or_lead_out(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(submission, "LARGEST_BESIDE", 2**20)
    folder = hand_in(tmp_path, "first.ipynb", "right").parent
    (tmp_path / "secret.txt").write_text("grades")
    (folder / "deep" / "__pycache__").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("helpers.py", "deep/x.csv", ".hidden/x", "deep/__pycache__/x.pyc", ".DS_Store"):
        (folder / name).write_text(name)
    (folder / "second.ipynb").write_text("{}")
    (folder / "z_large.bin").write_bytes(bytes(2**20 + 1))
    (folder / "out").symlink_to(tmp_path / "secret.txt")
    (folder / "broken").symlink_to(tmp_path / "nothing")
    (folder / "all").symlink_to(tmp_path)
    (folder / "inside.py").symlink_to(folder / "helpers.py")
    own = the_only(tmp_path)
    assert own.files == {
        "deep/x.csv": b"deep/x.csv",
        "helpers.py": b"helpers.py",
        "inside.py": b"helpers.py",
    }
    assert own.left_out == (
        "all (it is not a file of this folder)",
        "broken (it is not a file of this folder)",
        "out (it is not a file of this folder)",
        "z_large.bin (all files together may have 1 MB)",
    )


def test_a_file_that_cannot_be_read_costs_nothing_but_itself(tmp_path, monkeypatch):
    file = hand_in(tmp_path, "helpers.py")
    file.with_name("itself").symlink_to("itself")
    for k in range(30):
        file.with_name(f"x{k:02}").symlink_to(tmp_path)
    hand_in(tmp_path, "first.ipynb", "right")
    read = type(file).read_bytes

    def refuse(path):
        if path.name == "helpers.py":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(type(file), "read_bytes", refuse)
    own = the_only(tmp_path)
    assert own.data == b"right" and own.files == {} and own.note == ""
    assert own.left_out[0] == "helpers.py (it cannot be read: PermissionError)"
    assert own.left_out[1].startswith("itself (it ")
    last = "12 more, the first of them x18 (it is not a file of this folder)"
    assert len(own.left_out) == 21 and own.left_out[-1] == last


@pytest.mark.parametrize("bad", ["bob [1]", "a*", "who?", ".hidden", "=1+1", "@home", "new\nline"])
def test_a_students_folder_must_have_a_plain_name(tmp_path, bad):
    (tmp_path / "ada").mkdir()
    (tmp_path / bad).mkdir()
    with pytest.raises(ValueError, match="a student's folder must have a plain name, got"):
        found(tmp_path, HOMEWORKS)


def test_names_of_people_are_plain_names(tmp_path):
    for name in ("O'Brien, Ada", "mu\u0308ller", "bob (1)", "42"):
        (tmp_path / name / "hw1").mkdir(parents=True)
    students = {own.student for own in found(tmp_path, HOMEWORKS)}
    assert students == {"O'Brien, Ada", "m\u00fcller", "bob (1)", "42"}  # one spelling of an umlaut


def test_whatever_is_not_a_homework_folder_is_listed(tmp_path):
    for name in ("ada/hw1", "ada/HW1", "ada/hw4", "ada/.cache", "bob"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("stray.ipynb", "bob/first.ipynb"):
        (tmp_path / name).write_text("")
    listed = ["ada/HW1", "ada/hw4", "bob/first.ipynb", "stray.ipynb"]
    assert passed_over(tmp_path, HOMEWORKS) == listed


def test_what_cannot_be_read_is_noted(tmp_path, monkeypatch):
    hand_in(tmp_path, "answers.docx")
    hand_in(tmp_path, "._first.ipynb")
    path = tmp_path / "ada" / "hw1" / "first.ipynb"
    path.mkdir()
    assert the_only(tmp_path) == UNREAD("There is no notebook in the folder.")
    path.rmdir()
    monkeypatch.setattr(submission, "LARGEST", 3 * 2**20)
    path.write_bytes(bytes(3 * 2**20))
    assert the_only(tmp_path).data == bytes(3 * 2**20)
    path.write_bytes(bytes(3 * 2**20 + 1))
    assert the_only(tmp_path) == UNREAD("The file is larger than 3 MB and was not read.")
    path.write_text("{}")
    refuse = Mock(side_effect=PermissionError(13, "Permission denied"))
    monkeypatch.setattr(type(path), "read_bytes", refuse)
    assert the_only(tmp_path) == UNREAD("The file could not be read (Permission denied).")


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
