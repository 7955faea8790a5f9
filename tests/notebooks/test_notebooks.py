"""The lessons: each runs, each is saved as a reader should find it, and a broken one is caught."""

import ast
import re
from pathlib import Path
from statistics import fmean

import lesson
import nbformat
import pytest
from nbclient import NotebookClient

import kdlib as kd

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def smoke(monkeypatch):
    monkeypatch.setenv("KDLIB_PROFILE", "smoke")


def notebook_of(tmp_path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    path = tmp_path / "planted.ipynb"
    about = {"lesson": {"needs": "nothing", "outcomes": ["see"]}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kdlib": about}), path)
    return path


def executed(notebook, tmp_path):
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    return notebook


def code_cells(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


@each_notebook
def test_the_notebook_runs_in_the_smoke_profile(path, tmp_path):
    assert lesson.check(path, str(tmp_path), seconds=120) == 0


SLIDER = """
import ipywidgets

@ipywidgets.interact(T=(0.25, 50.0))
def follow(T=4.0):
    {body}
"""


@pytest.fixture
def lessons(tmp_path, monkeypatch):
    """A folder of lessons that holds one, to be planted."""
    monkeypatch.setattr(lesson, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def test_a_callback_that_raises_fails_the_run_and_nothing_is_saved(lessons, monkeypatch):
    healthy = notebook_of(lessons, SLIDER.format(body="return 1 / T"))
    assert lesson.check(healthy, str(lessons)) == 0
    broken = notebook_of(lessons, SLIDER.format(body="raise ValueError(T)"))
    before = broken.read_bytes()
    monkeypatch.setenv("KDLIB_PROFILE", "lesson")
    assert lesson.main([]) != 0
    assert broken.read_bytes() == before


def test_only_the_lesson_profile_saves_into_notebooks(lessons, monkeypatch):
    path = notebook_of(lessons, "import os; os.environ['KDLIB_PROFILE']")
    before = path.read_bytes()
    assert lesson.main([]) == 0
    assert path.read_bytes() == before
    assert "'smoke'" in (lessons.parent / "build" / "notebooks" / path.name).read_text()
    monkeypatch.setenv("KDLIB_PROFILE", "lesson")
    monkeypatch.setattr(lesson, "check", lambda path, cache: 0)  # as it was a moment ago
    assert lesson.main(["planted"]) == 0
    assert "'lesson'" in path.read_text()


@pytest.mark.slow
def test_what_a_reader_chose_in_notebook_02_reaches_the_cell_below(tmp_path):
    notebook = nbformat.read(ROOT / "notebooks" / "02_temperature.ipynb", as_version=4)
    place = next(k for k, c in enumerate(notebook.cells) if "explorer.temperature)" in c.source)
    chosen = nbformat.v4.new_code_cell("explorer.temperature, explorer.index = 20.0, 3")
    wanted = nbformat.v4.new_code_cell(
        "torch.testing.assert_close(torch.tensor(rows['T = 20']), kd.soften(logits[order[3]], 20).cpu())"
    )
    notebook.cells[place:] = [chosen, notebook.cells[place], wanted]
    executed(notebook, tmp_path)
    assert "T = 20" in notebook.cells[place + 1].outputs[0].data["text/html"]


def test_cleaning_leaves_no_bar_and_keeps_what_a_widget_says_in_markdown(tmp_path):
    bar = """
import kdlib as kd
data = kd.data.load("digits", device="cpu").limit(64)
kd.fit(kd.models.mlp(4), kd.CrossEntropy(), data, kd.Recipe(epochs=2, batch_size=32));
"""
    question = 'guess = kd.predict("More or fewer?", ["more", "fewer"])'
    path = notebook_of(tmp_path, bar, question)
    notebook = executed(nbformat.read(path, as_version=4), tmp_path)
    assert all(not output.get("data") for output in notebook.cells[0].outputs)
    (before,) = [dict(output.data) for output in notebook.cells[1].outputs]
    trained, asked = lesson.cleaned(notebook).cells
    assert not trained.outputs and WIDGET in before
    (after,) = asked.outputs
    assert after.data == {mime: text for mime, text in before.items() if mime != WIDGET}
    assert after.data["text/markdown"].startswith("**Predict first.** More or fewer?")
    nbformat.validate(notebook)


def test_cleaning_takes_widgets_away_and_leaves_the_rest():
    kept = nbformat.v4.new_output("display_data", {"image/png": "aGk="})
    view = nbformat.v4.new_output("display_data", {WIDGET: {"model_id": "1"}, "text/plain": "HBox"})
    text = nbformat.v4.new_output("stream", text="hello")
    cell = nbformat.v4.new_code_cell("1", outputs=[view, kept, text])
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    assert lesson.cleaned(notebook).cells[0].outputs == [kept, text]
    assert "widgets" not in notebook.metadata


def test_a_notebook_that_is_not_there_is_named():
    with pytest.raises(SystemExit, match="NB must name a notebook"):
        lesson.chosen(["02_temprature"])


@each_notebook
def test_the_saved_notebook_was_run_top_to_bottom_and_says_in_words_what_pictures_show(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(output.output_type != "error" for output in outputs)
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    assert all(len(picture.metadata["image/png"]["alt"]) > 30 for picture in pictures)


@each_notebook
def test_the_saved_notebook_holds_no_widget_no_bar_and_no_path(path):
    text = path.read_text()
    assert path.stat().st_size < 1_500_000
    assert "widgets" not in nbformat.read(path, as_version=4).metadata
    assert WIDGET not in text
    assert not re.search(r"\d%\||Warning:|/home/|/Users/|/tmp/", text)


@each_notebook
def test_the_notebook_is_a_lesson(path):
    notebook = nbformat.read(path, as_version=4)
    assert re.match(r"# .*\?$", notebook.cells[0].source.splitlines()[0])  # the title asks
    assert [cell.id for cell in notebook.cells[1:3]] == ["head", "install"]
    assert "kd.pick(" in notebook.cells[3].source  # budgets where the reader sees them
    text = "\n".join(cell.source for cell in notebook.cells)
    for part in ("kd.predict(", ".reveal(", "Try it yourself", "What the paper measured"):
        assert part in text
    for cell in code_cells(path):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 15, cell.source


def test_no_function_is_defined_in_two_notebooks():
    homes = {}
    for path in NOTEBOOKS:
        source = "\n".join(c.source for c in code_cells(path) if c.id != "install")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                homes.setdefault(node.name, set()).add(path.stem)
                assert node.end_lineno - node.lineno < 15, node.name
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def first_lesson(**smaller):
    """The README's code after it ran, made smaller by these replacements."""
    source = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    source = re.sub(r"epochs=\d+", "epochs=1", source)
    for old, new in smaller.items():
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    shared = {}
    exec(compile(source, "README.md", "exec"), shared)  # noqa: S102
    return shared


def test_the_first_lesson_of_the_readme_runs_as_written():
    ran = first_lesson(
        mnist="digits", **{"10_000": "500", "mlp(1200": "mlp(64", "mlp(800": "mlp(32"}
    )
    assert len(ran["history"].frame) == 1


@pytest.mark.slow
def test_the_first_lesson_of_the_readme_runs_on_mnist(real_data):
    assert first_lesson(**{"10_000": "1_000"})["history"].frame["soft"].gt(0).all()


def test_notebooks_02_to_04_find_the_teacher_that_notebook_01_has_trained():
    """All make it in the same words, so that ``keep`` trains it once."""
    made = []
    for name in ("01_teacher", "02_temperature", "03_student", "04_dark_knowledge"):
        source = "\n".join(cell.source for cell in code_cells(ROOT / "notebooks" / f"{name}.ipynb"))
        epochs = re.search(r"teacher_epochs = .*", source).group()
        recipe = re.search(r"recipe = kd\.Recipe\(epochs=teacher_epochs.*", source).group()
        keep = re.search(r"teacher = kd\.keep\((.*?)\n\)", source, re.DOTALL).group(1)
        made.append((epochs, recipe, keep))
    assert all(one == made[0] for one in made)


QUOTING = [p for p in NOTEBOOKS if "quotes" in nbformat.read(p, as_version=4).metadata.kdlib]


def numbers_of(table):
    """What a notebook's ``metadata.kdlib.quotes`` may ask of its table, by name."""

    def values(experiment, setting, metric="test_errors"):
        return kd.measured(table, experiment, setting, metric)

    def mean(*which):
        return fmean(values(*which))

    def compared(experiment, ours, theirs, metric="test_errors"):
        pair = (values(experiment, way, metric) for way in (ours, theirs))
        return kd.paired(*pair, lower_is_better=True)

    def saved(*which):
        return -compared(*which).difference

    def later_seeds(*which):  # of students whose teacher has the seed before theirs
        first, *others = values(*which)
        return [*others, first]

    return {**locals(), "kd": kd}


@pytest.mark.parametrize("path", QUOTING, ids=lambda path: path.stem)
def test_the_numbers_that_the_notebook_quotes_are_those_of_its_table(path):
    """A claim is a text with the values of its ``{}``, or a condition that ``holds``, or both."""
    notebook = nbformat.read(path, as_version=4)
    text = " ".join(words_of(cell.source) for cell in notebook.cells)
    quotes = notebook.metadata.kdlib.quotes
    numbers = numbers_of(kd.results(quotes.table))
    for claim in quotes.claims:
        assert {*claim} <= {"text", "values", "holds"} and {"text", "holds"} & {*claim}, claim
        if "text" in claim:
            found = [eval(value, numbers) for value in claim.get("values", [])]
            assert len(found) == claim.text.replace("{{", "").count("{"), claim
            assert words_of(claim.text.format(*found)) in text, claim
        assert eval(claim.get("holds", "True"), numbers), claim


def words_of(text):
    return " ".join(text.replace("*", "").replace('"', " ").split())


def test_lessons_03_and_05_to_08_quote_their_tables():
    assert [p.stem[:2] for p in QUOTING] == ["03", "05", "06", "07", "08"]
    claims = [
        c for p in QUOTING for c in nbformat.read(p, as_version=4).metadata.kdlib.quotes.claims
    ]
    assert len(claims) > 100
