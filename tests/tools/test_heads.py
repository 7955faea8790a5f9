"""tools/heads.py: the head of every notebook follows from its metadata and its last run."""

import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import heads
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]

LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HOMEWORK = sorted((ROOT / "notebooks" / "homework").glob("*/*/hw?_*.ipynb"))
each_notebook = pytest.mark.parametrize("path", [*LESSONS, *HOMEWORK], ids=lambda path: path.stem)
ABOUT = {
    "label": "05 Planted",
    "question": "why?",
    "needs": "nothing",
    "outcomes": ["ask", "answer"],
    "minutes": 3,
    "data": "digits",
}


def planted(*code, **about):
    cells = [nbformat.v4.new_markdown_cell("# Why?"), *map(nbformat.v4.new_code_cell, code)]
    metadata = {"kdlib": {"lesson": ABOUT | about}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


@each_notebook
def test_the_head_is_the_one_of_the_metadata(path):
    """If this fails: make heads, then make homework."""
    notebook = nbformat.read(path, as_version=4)
    before = [cell.source for cell in notebook.cells]
    assert [cell.source for cell in heads.headed(notebook).cells] == before
    assert 2 <= len(heads.lesson(notebook).outcomes) <= 3


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_outputs_come_from_the_code_and_the_head_says_when(path):
    """If this fails: make lesson NB=that notebook."""
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kdlib.code == heads.code_hash(notebook)
    day = date.fromisoformat(notebook.metadata.kdlib.last_run)
    assert f"last run {day}" in notebook.cells[1].source


@each_notebook
def test_no_notebook_of_the_repository_knows_an_address_or_speaks_of_colab(path):
    head, setup = nbformat.read(path, as_version=4).cells[1:3]
    assert not re.search("://|Colab|address", head.source + setup.source)
    assert len(setup.source.splitlines()) == 1 and not setup.outputs
    assert setup.metadata == {"jupyter": {"source_hidden": True}, "tags": ["setup"]}


def test_a_lesson_says_how_long_it_takes_and_homework_only_what_for():
    notebook = planted()
    notebook.cells.append(nbformat.v4.new_markdown_cell("word | $x$ " * 101))
    notebook.metadata.kdlib.last_run = "2026-01-02"
    assert heads.head(notebook).splitlines()[::2] == [
        "**Before:** nothing.",
        "**After:** you can ask; answer.",
        "*2 min to read, 3 min to run on two cores · digits · last run 2026-01-02*",
    ]
    assert heads.reading_minutes(heads.headed(notebook)) == 2  # its own head does not count
    notebook.metadata.kdlib.lesson = {key: ABOUT[key] for key in ("needs", "outcomes")}
    assert "min to" not in heads.head(notebook)


def test_lessons_come_in_order_and_one_without_its_metadata_is_named(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("01_b", "00_a"):
        nbformat.write(planted(), tmp_path / "notebooks" / f"{name}.ipynb")
    assert list(heads.lessons(tmp_path)) == ["00_a", "01_b"]
    bare = nbformat.v4.new_notebook()
    with pytest.raises(ValueError, match="must have needs, a text, and outcomes"):
        heads.lesson(bare)
    nbformat.write(bare, tmp_path / "notebooks" / "02_c.ipynb")
    with pytest.raises(ValueError, match=r"of 02_c.ipynb must have data, label, minutes"):
        heads.lessons(tmp_path)


def test_a_head_is_written_once_and_everything_else_stays():
    notebook = planted("1 + 1", "2 + 2")
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="2")]
    first = nbformat.from_dict(heads.headed(notebook))
    assert [cell.id for cell in first.cells[1:3]] == ["head", "install"]
    assert [cell.source for cell in first.cells[3:]] == ["1 + 1", "2 + 2"]
    assert first.cells[3].outputs[0].text == "2"
    first.cells[2].execution_count = 1
    assert heads.headed(nbformat.from_dict(first)) == first
    nbformat.validate(first)


def test_the_hash_covers_the_code_cells_except_the_setup():
    whole = heads.code_hash(planted("a", "b"))
    assert whole == heads.code_hash(heads.headed(planted("a", "b")))
    others = [planted("a", "c"), planted("a"), planted("b", "a"), planted("ab"), planted("a\nb")]
    assert whole not in map(heads.code_hash, others)


def test_a_stamp_is_shown_in_the_head_and_keeps_what_the_lesson_is_about():
    notebook = heads.headed(heads.stamped(planted("a"), "2026-01-02"))
    assert notebook.metadata.kdlib == {
        "lesson": ABOUT,
        "last_run": "2026-01-02",
        "code": heads.code_hash(notebook),
    }
    assert "last run 2026-01-02" in notebook.cells[1].source


@pytest.mark.parametrize("empty_folder", [False, True])
def test_where_kdlib_is_missing_the_error_shows_what_to_type(empty_folder, tmp_path):
    """An empty folder called kdlib, as after git clone, counts as missing."""
    if empty_folder:
        (tmp_path / "kdlib").mkdir()
    (tmp_path / "cell.py").write_text(heads.SETUP)
    failed = subprocess.run(
        [sys.executable, "-S", "cell.py"],  # -S: without what is installed
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "ModuleNotFoundError: No module named 'kdlib" in failed.stderr
    assert "pip install -r requirements.txt" in failed.stderr


def test_the_command_writes_every_head_and_leaves_a_readers_own_notebook_alone(tmp_path, capsys):
    (tmp_path / "notebooks" / "homework" / "source" / "hw1").mkdir(parents=True)
    places = ["00_a.ipynb", "homework/source/hw1/hw1_b.ipynb", "Untitled.ipynb"]
    for place in places:
        nbformat.write(planted(), tmp_path / "notebooks" / place)
    heads.main(tmp_path)
    written = [nbformat.read(tmp_path / "notebooks" / place, as_version=4) for place in places]
    assert [any(c.id == "head" for c in notebook.cells) for notebook in written] == [
        True,
        True,
        False,
    ]
    assert capsys.readouterr().out.count("wrote the head of") == 2
    heads.main(tmp_path)
    assert capsys.readouterr().out == ""
    assert len([*(tmp_path / "notebooks").iterdir()]) == 3  # nothing is left beside them
