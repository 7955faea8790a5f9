"""Write the head of every notebook: what its reader needs and will be able to do, and the setup cell.

``python tools/heads.py``, or ``make heads``. The head follows from the notebook's metadata
(``kdlib.lesson``) and from its last run. Nothing here knows an address: the copies that Colab opens
are written by tools/publish.py.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import nbformat

from kdlib._files import write_whole

ROOT = Path(__file__).resolve().parent.parent
LESSONS = "??_*.ipynb"  # a reader's own notebooks may stand beside them
WORDS_A_MINUTE = 200
FOLDED = {"jupyter": {"source_hidden": True}, "tags": ["setup"]}

# A failure shows this line, and so the remedy; an empty folder called kdlib has no losses.
SETUP = "import kdlib.losses  # not found? In the project's folder: pip install -r requirements.txt"


@dataclass(frozen=True)
class Lesson:
    """What a notebook's metadata say about it; homework has only ``needs`` and ``outcomes``."""

    needs: str
    outcomes: list[str]
    label: str = ""
    question: str = ""
    minutes: int = 0
    data: str = ""


def lesson(notebook: nbformat.NotebookNode) -> Lesson:
    """Read ``metadata.kdlib.lesson``.

    Raises:
        ValueError: the notebook does not say what one needs for it and can do after it.
    """
    about = notebook.metadata.get("kdlib", {}).get("lesson", {})
    said = isinstance(about.get("needs"), str) and isinstance(about.get("outcomes"), list)
    if not said:
        title = notebook.cells[0].source.splitlines()[0] if notebook.cells else "an empty notebook"
        raise ValueError(
            "metadata.kdlib.lesson must have needs, a text, and outcomes, a list of texts; that of "
            f"{title!r} lacks them"
        )
    return Lesson(**about)


def lessons(root: Path = ROOT) -> dict[str, nbformat.NotebookNode]:
    """All lessons in order, by name.

    Raises:
        ValueError: a notebook's metadata lack what a lesson has.
    """
    found = {}
    for path in sorted((root / "notebooks").glob(LESSONS)):
        found[path.stem] = nbformat.read(path, as_version=4)
        about = found[path.stem].metadata.get("kdlib", {}).get("lesson", {})
        if missing := {*Lesson.__dataclass_fields__} - about.keys():
            raise ValueError(
                f"metadata.kdlib.lesson of {path.name} must have {', '.join(sorted(missing))}"
            )
    return found


def reading_minutes(notebook: nbformat.NotebookNode) -> int:
    """Minutes to read the notebook's text, without its head, at 200 words a minute."""
    texts = [c.source for c in notebook.cells if c.cell_type == "markdown" and c.id != "head"]
    words = [word for text in texts for word in text.split() if any(map(str.isalnum, word))]
    return math.ceil(len(words) / WORDS_A_MINUTE)


def head(notebook: nbformat.NotebookNode) -> str:
    """What to know before, what one can do after, and for a lesson its minutes, data and last run."""
    about = lesson(notebook)
    lines = [f"**Before:** {about.needs}.", f"**After:** you can {'; '.join(about.outcomes)}."]
    if about.minutes:
        day = notebook.metadata.kdlib.get("last_run", "not yet")
        read = f"{reading_minutes(notebook)} min to read, {about.minutes} min to run on two cores"
        lines.append(f"*{read} · {about.data} · last run {day}*")
    return "\n\n".join(lines)


def headed(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Put the head and the setup cell below the notebook's title; outputs stay."""
    cells = {cell.id: cell for cell in notebook.cells}
    above = cells.get("head") or nbformat.v4.new_markdown_cell(id="head")
    setup = cells.get("install") or nbformat.v4.new_code_cell(id="install")
    above.source, setup.source, setup.metadata = head(notebook), SETUP, nbformat.from_dict(FOLDED)
    title, *others = [cell for cell in notebook.cells if cell.id not in ("head", "install")]
    notebook.cells = [title, above, setup, *others]
    return notebook


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """Hash the code cells, except the setup cell."""
    code = [c.source for c in notebook.cells if c.cell_type == "code" and c.id != "install"]
    return hashlib.sha256("\n\0".join(code).encode()).hexdigest()[:16]


def stamped(notebook: nbformat.NotebookNode, day: str) -> nbformat.NotebookNode:
    """Record in the notebook the day of its run and a hash of the code that ran."""
    kept = notebook.metadata.get("kdlib", {})  # what it is about, and the numbers it quotes
    notebook.metadata.kdlib = {**kept, "last_run": day, "code": code_hash(notebook)}
    return notebook


def save(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write the notebook completely or not at all."""
    nbformat.validate(notebook)
    write_whole(path, lambda part: nbformat.write(notebook, part))


def main(root: Path = ROOT) -> None:
    homework = (root / "notebooks" / "homework" / "source").glob("*/*.ipynb")
    for path in [*sorted((root / "notebooks").glob(LESSONS)), *sorted(homework)]:
        before = path.read_bytes()
        save(headed(nbformat.read(path, as_version=4)), path)
        if path.read_bytes() != before:
            print(f"wrote the head of {path.name}")


if __name__ == "__main__":
    main()
