"""Write the head of every notebook: its Colab badge, the date of its last run, the install cell.

``python tools/badges.py``, or ``make badges``. All of it follows from one address, ``Repository`` under
``project.urls`` in pyproject.toml, and from what a notebook's last run left in its metadata. If no
address is set, the badge and the install cell say so.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import nbformat

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
COLAB = "https://colab.research.google.com"

INSTALL = """\
# Installs kdlib where it is missing, as in Colab, and leaves torch as it is. Else it does nothing.
import importlib.util
import tempfile
from importlib import metadata
from pathlib import Path

if getattr(importlib.util.find_spec("kdlib"), "origin", None) is None:
    there = {d.name for d in metadata.distributions()} & {"torch", "torchvision", "torchaudio"}
    keep = Path(tempfile.mkdtemp()) / "keep.txt"
    keep.write_text("".join(f"{name}=={metadata.version(name)}\\n" for name in there))
    %pip install --quiet --constraint {keep} "git+ADDRESS"
    importlib.invalidate_caches()
    if getattr(importlib.util.find_spec("kdlib"), "origin", None) is None:
        raise ModuleNotFoundError("kdlib could not be installed; pip says above why")
"""
NO_ADDRESS = """\
# In Colab this would install kdlib, had the project a public address. Else it does nothing.
import importlib.util
import sys

if getattr(importlib.util.find_spec("kdlib"), "origin", None) is None:
    raise ModuleNotFoundError(
        f"kdlib is not installed for {sys.executable}: in the project's folder, "
        "pip install -r requirements.txt does it"
    )
"""


def address(pyproject: Path = ROOT / "pyproject.toml") -> str | None:
    """The address from which the project can be cloned; None if there is none."""
    urls = tomllib.loads(pyproject.read_text())["project"].get("urls", {})
    return urls.get("Repository", "").removesuffix("/").removesuffix(".git") or None


def badge(name: str, where: str | None, last_run: str | None) -> str:
    """Link to the notebook in Colab, or say why there is none; add the last run of a lesson."""
    github = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", where or "")
    if github:
        page = f"{COLAB}/github/{github[1]}/blob/main/notebooks/{name}.ipynb"
        opened = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({page})"
    elif where:
        opened = f"*No Colab badge: Colab opens notebooks from GitHub, and this one is at {where}.*"
    else:
        opened = "*No Colab badge yet: this project has no public address.*"
    if name.startswith("homework/"):
        return opened
    return f"{opened} *Last run: {last_run or 'not yet'}.*"


def install(where: str | None) -> str:
    return (INSTALL.replace("ADDRESS", where) if where else NO_ADDRESS).rstrip()


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """Hash the code cells, except the install cell."""
    code = [c.source for c in notebook.cells if c.cell_type == "code" and c.id != "install"]
    return hashlib.sha256("\n\0".join(code).encode()).hexdigest()[:16]


def stamped(notebook: nbformat.NotebookNode, day: str) -> nbformat.NotebookNode:
    """Record in the notebook the day of its run and a hash of the code that ran."""
    kept = notebook.metadata.get("kdlib", {})  # the numbers it quotes
    notebook.metadata.kdlib = {**kept, "last_run": day, "code": code_hash(notebook)}
    return notebook


def headed(notebook: nbformat.NotebookNode, name: str, where: str | None) -> nbformat.NotebookNode:
    """Put the badge and the install cell below the notebook's title; outputs stay.

    ``name`` is its path below ``notebooks``, without the suffix. Homework opens in Colab as it is
    handed out, and has no run of its own whose date could be shown.
    """
    last_run = notebook.metadata.get("kdlib", {}).get("last_run")
    for place, (cell_id, make, source) in enumerate(
        (
            ("badge", nbformat.v4.new_markdown_cell, badge(name, where, last_run)),
            ("install", nbformat.v4.new_code_cell, install(where)),
        ),
        start=1,
    ):
        if [cell.id for cell in notebook.cells[place : place + 1]] != [cell_id]:
            notebook.cells.insert(place, make(id=cell_id))
        notebook.cells[place].source = source
    return notebook


def save(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write the notebook completely or not at all."""
    nbformat.validate(notebook)
    part = path.with_suffix(".part")
    nbformat.write(notebook, part)
    os.replace(part, path)


def names() -> dict[Path, str]:
    """Every notebook with a head, and the name of the notebook that Colab opens for it."""
    lessons = {path: path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    homework = sorted((ROOT / "notebooks" / "homework" / "source").glob("*/*.ipynb"))
    return lessons | {p: f"homework/release/{p.parent.name}/{p.stem}" for p in homework}


def main() -> None:
    for path, name in names().items():
        before = path.read_bytes()
        notebook = headed(nbformat.read(path, as_version=4), name, address())
        save(notebook, path)
        if path.read_bytes() != before:
            print(f"wrote the head of {path.name}")


if __name__ == "__main__":
    main()
