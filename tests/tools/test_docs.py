"""tools/docs.py: what it writes into the documentation is what the shipped tables and notebooks hold."""

import re

import pytest

import docs
import kdlib as kd
from kdlib.reproduce import PROTOCOLS, tables

RESULTS = (docs.ROOT / "docs" / "results.md").read_text()
EXPERIMENTS = [f"{p}/{e}" for p in PROTOCOLS for e in docs.unique(kd.results(p)["experiment"])]


def change(monkeypatch, protocol, experiment):
    """Let one number of a table that ships be another."""
    really = tables.read

    def read(path):
        table = really(path)
        if path.stem == protocol:
            rows = (table["experiment"] == experiment) & table["metric"].isin(docs.METRICS)
            table.loc[rows.idxmax(), "value"] *= 2
        return table

    monkeypatch.setattr(tables, "read", read)


@pytest.mark.parametrize("block", EXPERIMENTS)
def test_every_experiment_is_shown_and_follows_its_table(block, monkeypatch):
    before = docs.written(block)
    assert f"<!-- written: {block} -->\n\n{before}\n" in RESULTS
    change(monkeypatch, *block.split("/"))
    assert docs.written(block) != before


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_shows_its_runs_and_a_papers_protocol_the_papers_numbers(protocol):
    assert f"<!-- written: {protocol}/runs -->" in RESULTS
    assert (f"<!-- written: {protocol}/paper -->" in RESULTS) == (protocol != "student")
    assert f"python -m kdlib.reproduce {protocol} " in RESULTS


def test_the_pages_are_what_the_command_writes_and_the_check_names_those_that_are_not(
    monkeypatch, capsys
):
    assert docs.main(["--check"]) == 0
    change(monkeypatch, "hinton", "students")
    assert docs.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert "README.md differs" in said and "docs/results.md differs" in said
    assert "TEACHING.md" not in said
    assert (docs.ROOT / "docs" / "results.md").read_text() == RESULTS


def test_the_command_writes_between_the_marks_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(docs, "FILES", ("page.md",))
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- written: hinton -->\nold\n<!-- end: hinton -->\nbelow\n")
    assert docs.main() == 0
    above, *table, below = page.read_text().splitlines()
    assert (above, below) == ("above", "below")
    assert sum(line.startswith("|") for line in table) == 2 + len(docs.FIVE) and "old" not in table
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]
    assert docs.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- written: hinton -->\n", "page.md must have a beginning and an end"),
        ("<!-- end: hinton -->\n", "page.md must have a beginning and an end"),
        ("<!-- written: hinton -->\n<!-- end: result -->\n", "page.md must have a beginning"),
        ("<!-- written: hinton/pupils -->\n<!-- end: hinton/pupils -->\n", "got 'hinton/pupils'"),
        ("<!-- written: student/paper -->\n<!-- end: student/paper -->\n", "got 'student/paper'"),
    ],
)
def test_a_block_without_an_end_or_with_an_unknown_name_is_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        docs.filled(text, "page.md")


def test_a_cell_says_how_many_seeds_it_has_and_what_was_not_measured():
    table = kd.results("hinton")
    assert docs.cell(table, "students", "T = 20", "test_errors") == "80 [75, 86], n = 5"
    assert docs.cell(table, "ensemble", "ten members", "test_errors") == "126, n = 1"
    assert docs.cell(table, "students", "labels", "agreement") == "–"
    assert docs.ranges([4, 0, 1, 2, 0, 9]) == "0 to 2, 4, 9"


def test_the_readme_counts_errors_only_in_written_blocks():
    readme = (docs.ROOT / "README.md").read_text()
    outside = docs.BLOCK.sub("", readme)
    assert {*docs.BY_NAME} - {"outcomes"} == {*docs.BLOCK.findall(readme)}
    assert not re.search(r"\d[\d,.]*\** (?:test )?errors|\[\d+, \d", outside)


# How the first setting compares with the second, according to the text of docs/results.md.
VERDICTS = """
hinton/students: T = 20 | labels, moved | better
hinton/students: T = 20, twice as long | T = 20 | no difference seen
hinton/students: labels, twice as long | labels | no difference seen
hinton/few labels: T = 20 | labels, moved | no difference seen
hinton/transfer set: other half | own half | no difference seen
hinton/ensemble: T = 4 of ten | T = 4 of one member | better
hinton/label smoothing: T = 4; usual teacher | T = 4; label-smoothed teacher | no difference seen
hinton/temperature: T = 4; 2 x 30 | T = 20; 2 x 30 | better
hinton/temperature: T = 20; 2 x 300 | T = 4; 2 x 300 | better
fitnets/mnist: lambda | labels | better
fitnets/mnist: hint then lambda | labels then lambda | worse
fitnets/mnist: hint then lambda | lambda | worse
fitnets/mnist: hint then labels | labels | better
fitnets/mnist: hint then labels | labels then labels | no difference seen
fsp/smaller: labels at 0.3 | labels | better
fsp/smaller: fsp then labels | labels | better
fsp/smaller: hint then lambda | labels | better
fsp/faster: fsp then labels | labels | no difference seen
fsp/faster: fsp then labels; shuffled | labels | no difference seen
fsp/faster: hint then lambda | labels | no difference seen
fsp/faster: hints then lambda | labels | better
fsp/faster: labels; copied | labels | better
ban/wide: BAN-1 | labels 1 | no difference seen
ban/wide: BAN-2 | labels | no difference seen
ban/wide: BAN-3 | labels 3 | worse
ban/wide: BAN+L | labels | no difference seen
ban/clean: smoothed | labels 1 | better
ban/clean: BAN-1 | labels 1 | no difference seen
ban/clean: DKPP | labels 1 | no difference seen
ban/clean: BAN-3 | labels 3 | no difference seen
ban/clean: BAN+L | labels 1 | no difference seen
ban/wrong: BAN-1 | labels 1 | better
ban/wrong: DKPP | BAN-1 | better
ban/wrong: smoothed | BAN-1 | better
ban/families: residual: BAN | residual: labels 1 | worse
ban/families: residual: BAN, shared ends | residual: labels 1, shared ends | worse
ban/families: dense: BAN of wide | dense: labels 1 | no difference seen
ban_lm/ptb: BAN+L | labels | no difference seen
ban_lm/topics: BAN | labels | worse
student/controls: teacher of the same images | label smoothing 0.1 | no difference seen
"""


@pytest.mark.parametrize("line", VERDICTS.split("\n")[1:-1])
def test_the_text_of_the_results_agrees_with_the_tables(line):
    block, _, ways = line.partition(": ")
    first, second, verdict = ways.split(" | ")
    protocol, experiment = block.split("/")
    table, metric = kd.results(protocol), "test_errors"
    if protocol == "ban_lm":
        metric = "test_perplexity"
    pair = (kd.measured(table, experiment, way, metric) for way in (first, second))
    assert kd.paired(*pair, lower_is_better=True).verdict == verdict


def test_the_sentence_below_the_readmes_example_agrees_with_the_table():
    table = kd.results("student")
    shifted = kd.measured(table, "controls", "labels, moved")
    example = kd.measured(table, "teacher", "T = 20; 8 epochs")
    better = kd.measured(table, "controls", "T = 20")
    assert kd.paired(example, shifted).verdict == "no difference seen"
    assert kd.paired(better, shifted, lower_is_better=True).verdict == "better"


def test_a_number_that_no_table_shows_changes_the_page_too(monkeypatch):
    table = kd.results("student")
    hidden = table.index[table["metric"] == "test_loss"][0]
    monkeypatch.setattr(docs.kd, "results", lambda name: table)
    before = docs.written("student/runs")
    table.loc[hidden, "value"] += 1e-6
    assert docs.written("student/runs") != before


def test_an_unknown_option_writes_nothing(monkeypatch):
    monkeypatch.setattr(docs, "stale", lambda: pytest.fail("it went on"))
    with pytest.raises(SystemExit):
        docs.main(["--chek"])


def test_the_front_page_is_short():
    page = (docs.ROOT / "README.md").read_text()
    words = docs.BLOCK.sub(lambda block: "" if block[1] == "lessons" else block[0], page).split()
    assert 500 < len(words) <= 900


def test_the_diff_in_contributing_is_the_code_itself():
    text = (docs.ROOT / "CONTRIBUTING.md").read_text()
    diff = re.search(r"```diff\n(.*?)```", text, re.DOTALL)[1]
    _, *parts = re.split(r"^--- (.+)\n", diff, flags=re.MULTILINE)
    assert len(parts) == 2 * 4
    for name, added in zip(parts[::2], parts[1::2], strict=True):
        lines = (docs.ROOT / name).read_text().splitlines()
        for line in added.splitlines():  # in this order; docstrings stand between
            assert line[1:] in lines, (name, line)
            del lines[: lines.index(line[1:]) + 1]
