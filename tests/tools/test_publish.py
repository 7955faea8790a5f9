"""tools/publish.py: the copies for Colab get their address from the hosting side."""

import importlib.machinery
import importlib.util
import re
import shutil
from dataclasses import replace
from pathlib import Path

import heads
import nbformat
import package_page
import publish
import pytest

ROOT = Path(__file__).resolve().parents[2]
GITHUB = publish.Host("https://github.com", "someone/kdlib-class", "v1.2")
SET = {
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "someone/kdlib-class",
    "GITHUB_REF_NAME": "v1.2",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    return root


def notebooks(folder):
    paths = [*folder.glob("*.ipynb"), *folder.glob("homework/release/*/*.ipynb")]
    return {path.relative_to(folder).as_posix(): nbformat.read(path, 4) for path in paths}


def test_every_copy_opens_itself_in_colab_and_keeps_its_text_outputs_and_links(project):
    copies = notebooks(publish.publish(GITHUB, project) / "notebooks")
    originals = notebooks(project / "notebooks")
    assert copies.keys() == originals.keys() and len(copies) == 13
    for name, copy in copies.items():
        head, setup = copy.cells[1:3]
        link = f"{publish.COLAB}/github/someone/kdlib-class/blob/colab/notebooks/{name}"
        assert head.source.startswith("[![Open in Colab](") and f"]({link})" in head.source
        assert head.source.endswith(originals[name].cells[1].source)
        assert '"git+https://github.com/someone/kdlib-class@v1.2"' in setup.source
        assert setup.metadata.jupyter.source_hidden and setup.metadata.tags == ["setup"]
        assert copy.cells[3:] == originals[name].cells[3:]
        assert heads.code_hash(copy) == heads.code_hash(originals[name])


def test_elsewhere_than_on_github_there_is_no_badge(project):
    elsewhere = publish.Host("https://git.example.org", "a/b", "main")
    notebook = nbformat.read(project / "notebooks" / "02_temperature.ipynb", as_version=4)
    head, setup = publish.copied(notebook, "notebooks/02_temperature.ipynb", elsewhere).cells[1:3]
    assert head.source == heads.head(notebook)
    assert '"git+https://git.example.org/a/b@main"' in setup.source


def test_a_failed_run_leaves_the_old_copies(project, monkeypatch):
    target = publish.publish(GITHUB, project)
    before = {path: path.read_bytes() for path in target.rglob("*.ipynb")}
    bare = project / "notebooks" / "99_bare.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), bare)
    with pytest.raises(ValueError):
        publish.publish(GITHUB, project)
    bare.unlink()
    assert {path: path.read_bytes() for path in target.rglob("*.ipynb")} == before
    assert [path.name for path in target.parent.iterdir()] == ["published"]


def test_the_host_is_that_of_the_variables_or_none():
    assert publish.host(SET | {"HOME": "/"}) == GITHUB
    assert publish.host(SET | {"GITHUB_SERVER_URL": "https://github.com/"}) == GITHUB
    assert publish.host({"HOME": "/", "GITHUB_SERVER_URL": ""}) is None
    without = SET | {"GITHUB_REF_NAME": "a branch#2"}  # pages install nothing
    assert publish.host(without, with_ref=False) == replace(GITHUB, ref="")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "") for name in SET),
        *(("GITHUB_SERVER_URL", bad) for bad in ("github.com", "https://", 'https://a"b', "a b")),
        *(
            ("GITHUB_REPOSITORY", bad)
            for bad in ("kdlib", "a/b/c", "../..", "a/b\n", "-a/b", "a/'b")
        ),
        *(
            ("GITHUB_REF_NAME", bad)
            for bad in ("{x}", "$x", "vé", "-v1", "v1 --pre", 'v1"', "v1\n", "v1;ls")
        ),
    ],
)
def test_a_missing_or_a_malformed_variable_is_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*" + re.escape(repr(value))):
        publish.host(SET | {name: value})


def test_without_the_variables_the_command_says_which_to_set(monkeypatch):
    for name in SET:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match="GITHUB_SERVER_URL, .* must be set"):
        publish.main()
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    with pytest.raises(SystemExit, match="GITHUB_REPOSITORY must be OWNER/NAME"):
        publish.main()


def test_the_commands_write_the_copies_and_complete_the_links_of_the_packages_page(
    tmp_path, monkeypatch, capsys
):
    for name, value in SET.items():
        monkeypatch.setenv(name, value)
    made = []
    monkeypatch.setattr(publish, "publish", lambda host: made.append(host) or ROOT / "build")
    publish.main()
    assert made == [GITHUB] and "wrote build" in capsys.readouterr().out
    page = tmp_path / "README.md"
    page.write_text('[a](docs/a.md) <img src="docs/a.png"> [b](https://b)')
    monkeypatch.setattr(package_page, "README", page)
    package_page.main()
    blob, raw = (
        f"https://github.com/someone/kdlib-class/{kind}/v1.2/docs/a" for kind in ("blob", "raw")
    )
    assert page.read_text() == f'[a]({blob}.md) <img src="{raw}.png"> [b](https://b)'


def test_the_setup_holds_torch_where_it_is():
    """Quoted: the folder of temporary files may have a space in its name."""
    (line,) = [line for line in GITHUB.setup.splitlines() if "%pip" in line]
    assert (
        line.strip() == f'%pip install --quiet --constraint "{{keep}}" "git+{GITHUB.address}@v1.2"'
    )


def installed_by(cell, pip):
    """Run the setup cell with a function in place of pip."""
    lines = [re.sub(r"^( *)%pip.*", r"\1pip(keep.read_text())", line) for line in cell.splitlines()]
    exec("\n".join(lines), {"pip": pip})  # noqa: S102


def test_the_setup_does_nothing_where_kdlib_is_installed():
    assert len(GITHUB.setup.splitlines()) <= 15
    installed_by(GITHUB.setup, lambda text: pytest.fail("it called pip"))


def test_the_setup_keeps_the_torch_that_would_be_imported(tmp_path, monkeypatch):
    for name, version in (("torch", "9.9+cu1"), ("torchtext", "0.1"), ("torchvision", "8.8")):
        (tmp_path / f"{name}-{version}.dist-info").mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (tmp_path / f"{name}-{version}.dist-info" / "METADATA").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)  # before the torch that these tests run on
    found = iter([None, importlib.util.find_spec("kdlib")])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: next(found))
    kept = []
    installed_by(GITHUB.setup, kept.append)
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
        installed_by(GITHUB.setup, calls.append)
    assert len(calls) == 1
