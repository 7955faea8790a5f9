"""The lessons: each runs, each is saved as a reader should find it, and a broken one is caught."""

import ast
import re
from pathlib import Path

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
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
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


def test_a_callback_that_raises_fails_the_run_and_its_healthy_twin_passes(tmp_path):
    healthy = notebook_of(tmp_path, SLIDER.format(body="return 1 / T"))
    assert lesson.check(healthy, str(tmp_path)) == 0
    broken = notebook_of(tmp_path, SLIDER.format(body="raise ValueError(T)"))
    assert lesson.check(broken, str(tmp_path)) != 0


def test_a_notebook_that_fails_is_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(lesson, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    broken = notebook_of(tmp_path / "notebooks", SLIDER.format(body="raise ValueError(T)"))
    before = broken.read_bytes()
    monkeypatch.setenv("KDLIB_PROFILE", "lesson")
    assert lesson.main([]) != 0
    assert broken.read_bytes() == before


def test_only_the_lesson_profile_saves_into_notebooks(tmp_path, monkeypatch):
    monkeypatch.setattr(lesson, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    path = notebook_of(tmp_path / "notebooks", "import os; os.environ['KDLIB_PROFILE']")
    before = path.read_bytes()
    assert lesson.main([]) == 0
    assert path.read_bytes() == before
    assert "'smoke'" in (tmp_path / "build" / "notebooks" / path.name).read_text()
    monkeypatch.setenv("KDLIB_PROFILE", "lesson")
    assert lesson.main(["planted"]) == 0
    assert "'lesson'" in path.read_text()


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


def test_a_progress_bar_leaves_nothing_in_the_notebook(tmp_path):
    source = """
import kdlib as kd
data = kd.data.load("digits", device="cpu").limit(64)
kd.fit(kd.models.mlp(4), kd.CrossEntropy(), data, kd.Recipe(epochs=2, batch_size=32));
"""
    notebook = executed(nbformat.read(notebook_of(tmp_path, source), as_version=4), tmp_path)
    assert all(not output.get("data") for output in notebook.cells[0].outputs)
    assert not lesson.cleaned(notebook).cells[0].outputs


def test_cleaning_takes_widgets_away_and_leaves_the_rest():
    kept = nbformat.v4.new_output("display_data", {"image/png": "aGk="})
    view = nbformat.v4.new_output("display_data", {WIDGET: {"model_id": "1"}, "text/plain": "HBox"})
    text = nbformat.v4.new_output("stream", text="hello")
    cell = nbformat.v4.new_code_cell("1", outputs=[view, kept, text])
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    assert lesson.cleaned(notebook).cells[0].outputs == [kept, text]
    assert "widgets" not in notebook.metadata


def test_cleaning_keeps_what_a_widget_says_in_markdown_and_nothing_of_its_view(tmp_path):
    source = """
import kdlib as kd
guess = kd.predict("More or fewer?", ["more", "fewer"])
"""
    notebook = executed(nbformat.read(notebook_of(tmp_path, source), as_version=4), tmp_path)
    (before,) = [dict(output.data) for output in notebook.cells[0].outputs]
    (after,) = lesson.cleaned(notebook).cells[0].outputs
    assert WIDGET in before
    assert after.data == {mime: text for mime, text in before.items() if mime != WIDGET}
    assert after.data["text/markdown"].startswith("**Predict first.** More or fewer?")
    nbformat.validate(notebook)


def test_a_notebook_that_is_not_there_is_named():
    with pytest.raises(SystemExit, match="NB must name a notebook"):
        lesson.chosen(["02_temprature"])


@each_notebook
def test_the_saved_notebook_was_run_top_to_bottom_and_shows_a_picture(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(output.output_type != "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)


@each_notebook
def test_the_saved_notebook_holds_no_widget_no_bar_and_no_path(path):
    text = path.read_text()
    assert path.stat().st_size < 1_500_000
    assert "widgets" not in nbformat.read(path, as_version=4).metadata
    assert WIDGET not in text
    assert not re.search(r"\d+%\||\w+Warning:|/home/|/Users/|/tmp/", text)


@each_notebook
def test_every_picture_says_in_words_what_it_shows(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert len(output.metadata["image/png"]["alt"]) > 30


@each_notebook
def test_the_notebook_is_a_lesson(path):
    notebook = nbformat.read(path, as_version=4)
    assert re.match(r"# .*\?$", notebook.cells[0].source.splitlines()[0])  # the title asks
    assert [cell.id for cell in notebook.cells[1:3]] == ["badge", "install"]
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


def test_links_between_the_pages_lead_somewhere():
    homework = ROOT / "notebooks" / "homework"
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", homework / "TEACHING.md"]
    texts += [ROOT / "docs" / "notation.md"]
    links = 0
    for page in [*NOTEBOOKS, *homework.glob("release/*/*.ipynb"), *texts]:
        text = page.read_text()
        if page.suffix == ".ipynb":
            cells = nbformat.reads(text, as_version=4).cells
            text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
            links += 1
    assert links > 5


def test_the_first_lesson_of_the_readme_runs_as_written(tmp_path, real_data):
    """The README's code, with its numbers of epochs and images made small."""
    source = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    small = re.sub(r"epochs=\d+", "epochs=1", source).replace("10_000", "1_000")
    assert small != source
    shared = {}
    exec(compile(small, "README.md", "exec"), shared)  # noqa: S102
    assert len(shared["history"].frame) == 1


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


def test_the_numbers_that_notebook_03_quotes_are_those_of_the_table():
    table = kd.results("student").groupby(["experiment", "setting", "metric"])["value"].mean()

    def errors(experiment, setting):
        return table[experiment, setting, "test_errors"]

    labels, moved, soft, means = (
        errors("controls", way) for way in ("labels", "labels, moved", "T = 20", "class means")
    )
    by_teacher = [
        errors("teacher", f"class means; {who}") for who in ("same images", "8 epochs", "12 epochs")
    ]
    part = {
        n: errors("images", f"class means; {n} images") - errors("images", f"T = 20; {n} images")
        for n in ("1,000", "30,000")
    }
    whole = {way: errors("all images", way) for way in ("labels", "labels, moved", "T = 20")}
    quoted = [
        f"labels make {labels:.0f} errors, T = 20 makes {soft:.0f}",
        f"moved labels alone take {labels - moved:.0f} of the {labels - soft:.0f} errors",
        f"{min(means, *by_teacher):.0f} to {max(means, *by_teacher):.0f} errors",
        f"label smoothing stands ({errors('controls', 'label smoothing 0.1'):.0f})",
        f"from {part['1,000']:.0f} with 1,000 images to {part['30,000']:.0f} with 30,000",
        f"With this teacher ({errors('teachers', '24 epochs'):.0f} errors)",
        f"weaker teacher, too ({errors('teachers', 'same images'):.0f} errors)",
        f"A teacher with {errors('teachers', 'small'):.0f} errors",
        f"comes out at {errors('weak teacher', 'T = 20'):.0f}:",
        f"save {whole['labels'] - whole['T = 20']:.0f} errors against labels",
        f"they saved {labels - soft:.0f};",
        f"against moved labels, {whole['labels, moved'] - whole['T = 20']:.0f}.",
        f"on the same images were {errors('teachers', 'anNet_deep'):.0f}.",
    ]
    cells = nbformat.read(ROOT / "notebooks" / "03_student.ipynb", as_version=4).cells
    text = " ".join(" ".join(cell.source for cell in cells).replace('"', " ").split())
    for phrase in quoted:
        assert phrase in text, phrase


def words_of(name):
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    markdown = [cell.source for cell in cells if cell.cell_type == "markdown"]
    return " ".join(" ".join(markdown).replace("*", "").split())


def mean_of(table, experiment, setting):
    return f"{kd.interval(kd.measured(table, experiment, setting)).mean:,.0f}"


def test_the_numbers_that_notebook_05_quotes_are_those_of_the_table():
    table, text = kd.results("fitnets"), words_of("05_fitnets")
    mnist = {way: mean_of(table, "mnist", way) for way in set(table["setting"]) & {*FITNETS}}
    for phrase in (
        f"helps: {mnist['hint then labels']} errors against {mnist['labels']},",
        f"hurts: {mnist['hint then lambda']} against {mnist['lambda']}.",
        f"two epochs old and at {mean_of(table, 'teachers', 'maxout')} errors",
        f"labels teach nothing: {mean_of(table, 'depth', '24 layers; labels')} of 10,000 wrong",
    ):
        assert phrase in text, phrase
    labels_at_16 = kd.measured(table, "depth", "16 layers; labels")
    assert min(kd.measured(table, "depth", "24 layers; labels")) > 8_900  # "with all five seeds"
    assert max(kd.measured(table, "depth", "24 layers; hint then labels")) < 8_000  # "all five"
    at_16 = kd.interval(kd.measured(table, "depth", "16 layers; hint then labels")).mean
    assert 1.7 < at_16 / kd.interval(labels_at_16).mean < 2.3  # "twice as many errors"


def test_the_numbers_that_notebook_06_quotes_are_those_of_the_table():
    table, text = kd.results("fsp"), words_of("06_fsp")

    def gain(way, other="labels at 0.3"):
        ours, theirs = (kd.measured(table, "smaller", name) for name in (way, other))
        return kd.paired(ours, theirs, lower_is_better=True)

    rates = [f"validation_errors at {rate}" for rate in ("0.1", "0.3")]
    chosen, beside = (kd.measured(table, "smaller", "labels", rate)[0] for rate in rates)
    same = gain("fsp then labels; teacher of the same images")
    for phrase in (
        f"{-gain('fsp then labels').difference:.0f} of 10,000 fewer on CIFAR-10",
        f"chose, by {beside - chosen:.0f} errors of {beside:,.0f},",
        f"FSP first saves {-gain('fsp then labels').difference:.0f} errors against it",
        f"a hint first {-gain('hint then labels').difference:.0f},",
        f"soft targets alone {-gain('soft').difference:.0f}.",
        f"({same.difference:.0f}, {same.verdict})",
        f"save {-gain('labels + fsp').difference:.0f}, more than anything else",
    ):
        assert phrase in text, phrase
    alike = {
        way: kd.interval(kd.measured(table, "together", way, "correlation")).mean
        for way in ("labels", "fsp, one first stage")
    }
    of_one, of_each, shuffled = (
        kd.measured(table, "together", f"fsp, {way}", "test_errors of three")
        for way in ("one first stage", "a first stage each", "shuffled")
    )
    by_shuffling, by_own = (kd.paired(a, shuffled) for a in (of_one, of_each))
    for phrase in (
        f"correlate at {alike['fsp, one first stage']:.2f}, those of students of labels",
        f"labels at {alike['labels']:.2f})",
        f"make {by_shuffling.difference:.0f} errors fewer together",
        f"even {-by_own.difference:.0f} errors in its favour",
    ):
        assert phrase in text, phrase
    assert by_shuffling.low > 0 > by_own.high
    labels = kd.measured(table, "elsewhere", "labels")
    moved = {
        way: kd.paired(kd.measured(table, "elsewhere", way), labels, lower_is_better=True)
        for way in ("hint then labels", "soft", "fsp then labels")
    }
    alone = kd.measured(table, "elsewhere", "teacher", "test_errors without animals")
    for phrase in (
        f"makes {mean_of(table, 'elsewhere', 'teacher')} errors on vehicles after them",
        f"{kd.interval(alone).mean:,.0f} without.",
        f"({-moved['hint then labels'].difference:.0f} errors fewer than labels)",
        f"a good part ({-moved['soft'].difference:.0f}).",
        f"is seen here ({moved['fsp then labels'].difference:.0f}),",
    ):
        assert phrase in text, phrase
    assert [c.verdict for c in moved.values()] == ["better", "better", "no difference seen"]
    better = ("fsp then labels", "hint then labels", "soft", "labels + fsp")
    assert {gain(way).verdict for way in better} == {"better"}
    assert gain("fsp then labels; untrained teacher").verdict == "worse"
    assert gain("hint then soft", "soft").verdict == "worse"
    for other in ("soft", "fsp then labels"):
        assert gain("labels + fsp", other).verdict == "better"


def test_the_numbers_that_notebook_07_quotes_are_those_of_the_table():
    table, text = kd.results("ban"), words_of("07_born_again")

    def gain(experiment, way, other="labels 1"):
        ours, theirs = (kd.measured(table, experiment, name) for name in (way, other))
        return kd.paired(ours, theirs, lower_is_better=True)

    saved = {
        way: f"{-gain('wrong', way).difference:.0f}" for way in ("BAN-1", "argmax", "CWTM", "DKPP")
    }
    labels = f"{mean_of(table, 'wrong', 'labels 1')}"
    right = kd.interval(kd.measured(table, "wrong", "labels", "right_where_wrong")).mean
    for phrase in (
        f"one generation saves {saved['BAN-1']} errors of {labels}, five paired seeds",
        f"One generation saves {saved['BAN-1']} errors of {labels};",
        f"without any teacher, save {-gain('wrong', 'smoothed').difference:.0f}",
        f"save about the same ({saved['BAN-1']} and {saved['argmax']};",
        f"CWTM saves {saved['CWTM']}.",
        f"DKPP saves {saved['DKPP']},",
        f"labels save {-gain('clean', 'smoothed').difference:.0f} errors",
        f"is worse, by {gain('wide', 'BAN-3', 'labels 3').difference:.0f} errors",
        f"class for {right:.0%} of those".replace("%", " %"),
    ):
        assert phrase in text, phrase
    for experiment in ("clean", "wide"):
        for way in ("BAN-1", "BAN+L", "CWTM", "DKPP", "argmax"):
            assert gain(experiment, way).verdict == "no difference seen"
    for generation in (1, 2, 3):
        assert gain("wrong", f"BAN-{generation}", f"labels {generation}").verdict == "better"
    for way in ("CWTM", "DKPP", "argmax", "smoothed"):
        assert gain("wrong", way).verdict == "better"
    assert gain("wrong", "BAN+L").verdict == "no difference seen"
    assert gain("wide", "BAN-3", "labels 3").verdict == "worse"
    assert gain("clean", "smoothed").verdict == "better"
    for experiment in ("clean", "wrong"):
        assert gain(experiment, "Ens*3", "independent*3").verdict == "no difference seen"
    assert gain("wide", "Ens*3", "independent*3").verdict == "worse"
    assert gain("wide", "Ens*3").verdict == "no difference seen"
    assert -gain("wrong", "Ens*3").difference > 120 < -gain("wrong", "independent*3").difference
    worse, ends = (
        gain("families", way, "residual: labels 1")
        for way in ("residual: BAN", "residual: labels 1, shared ends")
    )
    assert f"alone, by {worse.difference:.0f} errors" in text and worse.verdict == "worse"
    assert f"under labels save {-ends.difference:.0f} errors" in text and ends.verdict == "better"
    of_wide = gain("families", "dense: BAN of wide", "dense: labels 1")
    assert of_wide.verdict == "no difference seen"
    assert gain("wrong", "smoothed", "BAN-1").verdict == "better"  # "more than being born again"

    def losses(experiment, way):
        return kd.measured(table, experiment, way, "test_loss")

    falling = [
        kd.interval(losses("clean", way)).mean for way in ("labels 1", "BAN-1", "BAN-2", "BAN-3")
    ]
    assert "({:.3f} for labels; then {:.3f}, {:.3f}, {:.3f})".format(*falling) in text
    for way, verdict in (
        ("BAN-1", "better"),
        *((w, "worse") for w in ("DKPP", "argmax", "smoothed")),
    ):
        by_loss = kd.paired(losses("wrong", way), losses("wrong", "labels 1"), lower_is_better=True)
        assert by_loss.verdict == verdict
    one, three = (
        sum(kd.interval(kd.measured(table, "wide", f"{kind}{k}")).mean for k in (1, 2, 3)) / 3
        for kind in ("BAN-", "labels ")
    )
    assert f"({one:,.0f} errors on the mean against {three:,.0f})" in text
    together = [
        kd.interval(kd.measured(table, "wide", f"{w}*3")).mean for w in ("Ens", "independent")
    ]
    assert f"gains less ({one - together[0]:.0f} against {three - together[1]:.0f})" in text
    independent = gain("wide", "independent*3")
    assert f"together make {-independent.difference:.0f} errors fewer than one," in text


def test_the_numbers_that_notebook_08_quotes_are_those_of_the_table():
    table, text = kd.results("ban_lm"), words_of("08_born_again_language")

    def perplexities(experiment, way):
        return kd.measured(table, experiment, way, "test_perplexity")

    def gain(experiment, way, other):
        return kd.paired(perplexities(experiment, way), other, lower_is_better=True)

    labels, born = (perplexities("ptb", way) for way in ("labels", "BAN+L"))
    by_seed = gain("ptb", "BAN+L", labels)
    by_teacher = gain("ptb", "BAN+L", [*labels[1:], labels[0]])
    for phrase in (
        f"of {kd.interval(born).mean:.1f} where labels alone reach {kd.interval(labels).mean:.1f}:",
        f"Students end {-by_seed.difference:.1f} below labels on the mean",
    ):
        assert phrase in text, phrase
    assert (by_seed.verdict, by_teacher.verdict) == ("no difference seen", "better")
    theirs = kd.measured(table, "ptb", "labels", "validation_perplexity")
    ours = kd.measured(table, "ptb", "BAN+L", "validation_perplexity")
    open_yet = kd.paired(ours, [*theirs[1:], theirs[0]], lower_is_better=True)
    assert f"({open_yet.difference:.1f} [{open_yet.low:.1f}, {open_yet.high:+.1f}])" in text
    assert all(
        student < teacher for student, teacher in zip(born, [*labels[1:], labels[0]], strict=True)
    )
    two = gain("ptb", "two of labels", labels)
    assert f"about twice that ({-two.difference:.1f})," in text and two.verdict == "better"
    of_characters = perplexities("topics", "labels")
    for way, verdict in (
        ("BAN+L", "no difference seen"),
        ("BAN", "worse"),
        ("two of labels", "better"),
    ):
        assert gain("topics", way, of_characters).verdict == verdict
    for experiment in ("ptb", "topics"):
        best = kd.interval(perplexities(experiment, "two of labels")).mean
        for way in ("labels", "BAN+L", "BAN+L and its teacher"):
            assert best < kd.interval(perplexities(experiment, way)).mean


FITNETS = ("labels", "lambda", "hint then labels", "hint then lambda")


@pytest.mark.parametrize("name", ["hinton", "fitnets", "fsp", "ban", "ban_lm"])
def test_the_papers_numbers_in_the_readme_are_those_of_the_table(name):
    ours, f = kd.against_the_paper(name), ",.1f" if name == "ban_lm" else ",.0f"
    lines = [
        f"| {what} | {row.paper:{f}} | {row.ours:{f}} [{row.low:{f}}, {row.high:{f}}], n = {row.n:.0f} |"
        for what, row in ours.iterrows()
    ]
    assert "\n".join(lines) in (ROOT / "README.md").read_text()


def test_what_the_readme_says_of_twice_as_many_epochs_is_in_the_table():
    readme, table = (ROOT / "README.md").read_text(), kd.results("hinton")
    for way in ("T = 20", "labels"):
        lines_of = table[(table["setting"] == f"{way}, twice as long")]
        ours = kd.interval(lines_of.loc[lines_of["metric"] == "test_errors", "value"])
        assert f"{ours.mean:.0f} [{ours.low:.0f}, {ours.high:.0f}]" in readme
