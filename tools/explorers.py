"""Update the code of every explorer that is saved in a notebook.

``python tools/explorers.py``, or ``make explorers``, after a change of kdlib/course/widgets/*.js or
explorer.css: a saved explorer holds the JavaScript that it was saved with. Its data, its still picture
and the picture's description stay as they were measured; nothing is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
from heads import save

from kdlib.course.widgets import DistillationExplorer, Flipbook, TemperatureExplorer
from kdlib.course.widgets._explorer import Explorer
from kdlib.course.widgets._saved import saved_form, taken_apart

ROOT = Path(__file__).resolve().parent.parent
EXPLORERS = {kind.name: kind for kind in (TemperatureExplorer, DistillationExplorer, Flipbook)}


def saved_forms(notebook: nbformat.NotebookNode, name: str) -> list[str]:
    """The saved forms of all explorers of this name, in order."""
    forms = (data["text/html"] for data in _with_explorer(notebook))
    return [form for form in forms if taken_apart(form)["name"] == name]


def redrawn(form: str) -> str:
    """The saved form with the current code.

    Raises:
        ValueError: the current code reads other data than was saved.
    """
    saved = taken_apart(form)
    kind = EXPLORERS[saved["name"]]
    read = {*kind.class_traits(sync=True)} - {*Explorer.class_traits(sync=True)}
    if other := read ^ {*saved["state"]}:
        raise ValueError(
            f"saved {kind.name} must hold what its drawing reads, not so with {', '.join(sorted(other))}; "
            "make lesson measures and saves it anew"
        )
    heights = kind.heights_for(saved["state"], saved["picture"])
    return saved_form(**saved, source=kind._esm, style=kind._css, heights=heights)


def redraw(notebook: nbformat.NotebookNode) -> bool:
    """Update every explorer of the notebook; return whether anything changed."""
    changed = False
    for data in _with_explorer(notebook):
        before, data["text/html"] = data["text/html"], redrawn(data["text/html"])
        changed |= data["text/html"] != before
    return changed


def _with_explorer(notebook: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if '<div class="kdlib-saved ' in data.get("text/html", ""):
                yield data


def main(root: Path = ROOT) -> None:
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        try:
            changed = redraw(notebook)
        except ValueError as error:
            raise SystemExit(f"{path.name}: {error}") from None
        if changed:
            save(notebook, path)
            print(f"wrote the explorers of {path.name}")


if __name__ == "__main__":
    main()
