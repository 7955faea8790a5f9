"""tools/badges.py: the head of every notebook follows from one address and its last run."""

import importlib.machinery
import importlib.util
import re
from datetime import date
from pathlib import Path

import badges
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
GITHUB = "https://github.com/someone/kdlib"


def lesson(*code):
    cells = [nbformat.v4.new_markdown_cell("# Why?"), *map(nbformat.v4.new_code_cell, code)]
    return nbformat.v4.new_notebook(cells=cells)


@each_notebook
def test_the_head_is_that_of_the_address_and_outputs_come_from_the_code(path):
    """If this fails: make badges, or make lesson NB=that notebook."""
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kdlib.code == badges.code_hash(notebook)
    day = date.fromisoformat(notebook.metadata.kdlib.last_run)
    assert f"Last run: {day}" in notebook.cells[1].source
    before = [cell.source for cell in notebook.cells]
    written = badges.headed(notebook, path.stem, badges.address())
    assert [cell.source for cell in written.cells] == before


def test_the_address_is_the_repository_in_pyproject(tmp_path):
    pyproject = tmp_path / "pyproject.toml"
    for urls, expected in (
        ("", None),
        ('[project.urls]\nDocumentation = "https://example.org"\n', None),
        ('[project.urls]\nRepository = ""\n', None),
        (f'[project.urls]\nRepository = "{GITHUB}"\n', GITHUB),
        (f'[project.urls]\nRepository = "{GITHUB}.git/"\n', GITHUB),
    ):
        pyproject.write_text('[project]\nname = "kdlib"\n' + urls)
        assert badges.address(pyproject) == expected


def test_a_badge_opens_its_notebook_or_says_why_there_is_no_link():
    link = "https://colab.research.google.com/github/someone/kdlib/blob/main/notebooks/05_x.ipynb"
    assert f"]({link})" in badges.badge("05_x", GITHUB, None)
    assert "no public address" in badges.badge("05_x", None, None)
    elsewhere = badges.badge("05_x", "https://git.example.org/kdlib", None)
    assert "https://git.example.org/kdlib" in elsewhere and "colab.research" not in elsewhere
    assert "Last run: not yet" in badges.badge("05_x", None, None)
    assert "Last run: 2026-01-02" in badges.badge("05_x", None, "2026-01-02")


def installed_by(cell, pip):
    """Run the install cell with a function in place of pip."""
    lines = [re.sub(r"^( *)%pip.*", r"\1pip(keep.read_text())", line) for line in cell.splitlines()]
    exec("\n".join(lines), {"pip": pip})  # noqa: S102


def test_the_install_cell_names_the_address_and_does_nothing_where_kdlib_is_installed():
    assert f'%pip install --quiet --constraint {{keep}} "git+{GITHUB}"' in badges.install(GITHUB)
    assert "ModuleNotFoundError" in badges.install(None)
    for where in (GITHUB, None):
        assert len(badges.install(where).splitlines()) <= 15
        installed_by(badges.install(where), lambda text: pytest.fail("it called pip"))


def test_the_install_cell_keeps_the_torch_that_would_be_imported(tmp_path, monkeypatch):
    for name, version in (("torch", "9.9+cu1"), ("torchtext", "0.1"), ("torchvision", "8.8")):
        (tmp_path / f"{name}-{version}.dist-info").mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (tmp_path / f"{name}-{version}.dist-info" / "METADATA").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)  # before the torch that these tests run on
    found = iter([None, importlib.util.find_spec("kdlib")])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: next(found))
    kept = []
    installed_by(badges.install(GITHUB), kept.append)
    lines = kept[0].split()
    assert {"torch==9.9+cu1", "torchvision==8.8"} <= {*lines}
    assert len(lines) == len({line.split("==")[0] for line in lines})
    assert not any(line.startswith("torchtext") for line in lines)


def test_a_folder_called_kdlib_does_not_count_and_a_failed_installation_raises(
    tmp_path, monkeypatch
):
    (tmp_path / "kdlib").mkdir()  # as after git clone
    spec = importlib.machinery.PathFinder.find_spec("kdlib", [str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    calls = []
    with pytest.raises(ModuleNotFoundError, match="could not be installed"):
        installed_by(badges.install(GITHUB), calls.append)
    assert len(calls) == 1


def test_a_head_is_written_once_and_everything_else_stays():
    notebook = lesson("1 + 1", "2 + 2")
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="2")]
    first = nbformat.from_dict(badges.headed(notebook, "x", None))
    assert [cell.get("id") for cell in first.cells[1:3]] == ["badge", "install"]
    assert [cell.source for cell in first.cells[3:]] == ["1 + 1", "2 + 2"]
    assert first.cells[3].outputs[0].text == "2"
    sources = [cell.source for cell in first.cells]
    assert [cell.source for cell in badges.headed(first, "x", None).cells] == sources
    badges.headed(first, "x", GITHUB)
    assert len(first.cells) == 5 and "someone/kdlib" in first.cells[1].source
    nbformat.validate(first)


def test_the_hash_covers_the_code_cells_except_the_install_cell():
    whole = badges.code_hash(badges.headed(lesson("a", "b"), "x", None))
    assert whole == badges.code_hash(badges.headed(lesson("a", "b"), "x", GITHUB))
    others = [lesson("a", "c"), lesson("a"), lesson("b", "a"), lesson("ab"), lesson("a\nb")]
    assert whole not in map(badges.code_hash, others)


def test_a_stamp_is_shown_in_the_badge():
    notebook = badges.headed(badges.stamped(lesson("a"), "2026-01-02"), "x", None)
    assert notebook.metadata.kdlib == {"last_run": "2026-01-02", "code": badges.code_hash(notebook)}
    assert re.search(r"Last run: 2026-01-02", notebook.cells[1].source)
