"""tools/explorers.py: every saved explorer holds the current code and its own measurements."""

from pathlib import Path

import explorers
import nbformat
import numpy as np
import pytest

import kdlib as kd
from kdlib.course.widgets._saved import taken_apart

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NASTY = [
    '</script><img src="x">',
    "R&amp;D 'n' <!--<script>",
    "Äpfel ☃ 😀\n\\",
    "const SAVED = {};",
]


def temperature():
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 6, (5, 4)).astype(np.float32)
    return kd.widgets.TemperatureExplorer(logits, draw.random((5, 8, 8)), [0, 1, 2, 3, 0], NASTY)


def distillation():
    table = kd.results("student")
    return kd.widgets.DistillationExplorer(table[table["experiment"] == "grid 30"])


def flipbook():
    return kd.widgets.Flipbook(np.random.default_rng(0).random((4, 20, 30)), NASTY)


def notebook_of(*forms):
    outputs = [nbformat.v4.new_output("display_data", {"text/html": form}) for form in forms]
    cells = [nbformat.v4.new_markdown_cell("# Why?"), nbformat.v4.new_code_cell(outputs=outputs)]
    return nbformat.v4.new_notebook(cells=cells)


def outdated(form):
    """The form as earlier code would have left it."""
    assert "function softmax(" in form
    return form.replace("function softmax(", "function softMax(").replace("8px", "9px")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_saved_explorer_holds_the_current_code(path):
    changed = explorers.redraw(nbformat.read(path, as_version=4))
    assert not changed, "an explorer was saved with other code: run make explorers"


@pytest.mark.parametrize("make", [temperature, distillation, flipbook])
def test_an_outdated_explorer_becomes_the_current_one_and_that_stays_byte_for_byte(make):
    form = make().to_html()
    assert explorers.redrawn(form) == form
    notebook = notebook_of("<b>no explorer</b>", outdated(form))
    assert explorers.redraw(notebook)
    first, second = (output.data["text/html"] for output in notebook.cells[1].outputs)
    assert (first, second) == ("<b>no explorer</b>", form)
    assert not explorers.redraw(notebook)


def test_data_picture_and_description_stay_as_they_were_measured(monkeypatch):
    shown = temperature()
    monkeypatch.setattr(type(shown), "picture", lambda self: b"as it was")
    monkeypatch.setattr(type(shown), "alt", lambda self: "\"as\" it <was> & 'is'")
    shown.temperature = 20
    form = shown.to_html()
    saved = taken_apart(explorers.redrawn(outdated(form)))
    assert (saved["picture"], saved["alt"]) == (b"as it was", "\"as\" it <was> & 'is'")
    assert (saved["state"]["temperature"], saved["state"]["classes"]) == (20, NASTY)
    assert explorers.redrawn(outdated(form)) == form


def test_an_explorer_whose_code_reads_other_data_is_refused_and_its_notebook_named(tmp_path):
    form = flipbook().to_html().replace("&quot;labels&quot;:", "&quot;names&quot;:")
    with pytest.raises(ValueError, match="not so with labels, names; make lesson"):
        explorers.redrawn(form)
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook_of(form), tmp_path / "notebooks" / "00_a.ipynb")
    with pytest.raises(SystemExit, match="00_a.ipynb: saved flipbook must hold"):
        explorers.main(tmp_path)


def test_only_a_saved_form_can_be_taken_apart():
    with pytest.raises(ValueError, match="form must be what saved_form returns, got '<p>'"):
        taken_apart("<p>")


def test_the_forms_of_one_explorer_are_found_in_order():
    first, second, book = temperature(), temperature(), flipbook()
    second.temperature = 2
    forms = [shown.to_html() for shown in (first, book, second)]
    found = explorers.saved_forms(notebook_of(*forms), "temperature explorer")
    assert found == [forms[0], forms[2]]


def test_only_outdated_explorers_are_rewritten(tmp_path):
    (tmp_path / "notebooks").mkdir()
    present, old = (tmp_path / "notebooks" / f"{name}.ipynb" for name in ("00_a", "01_b"))
    form = temperature().to_html()
    notebook = notebook_of(form)
    nbformat.write(notebook, present)
    notebook.cells[1].outputs[0].data["text/html"] = outdated(form)
    nbformat.write(notebook, old)
    touched = present.stat().st_mtime_ns
    explorers.main(tmp_path)
    assert present.stat().st_mtime_ns == touched
    assert old.read_bytes() == present.read_bytes()
