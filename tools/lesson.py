"""Run the notebooks at lesson size and save their outputs.

``python tools/lesson.py [NAME ...]`` runs each twice in a fresh kernel with an empty cache of trained
networks: first under nbval, which fails on errors that a plain run swallows (a widget callback that
raises), then to keep its outputs, with the date and a hash of the code that made them. With
``KDLIB_PROFILE=lesson``, the default, they are saved into ``notebooks/``; any other profile writes to
``build/`` and leaves the notebooks alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import nbformat
from heads import headed, save, stamped
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
WIDGET = "application/vnd.jupyter.widget-view+json"
CELL_SECONDS = 600


def main(names: list[str]) -> int:
    profile = os.environ.setdefault("KDLIB_PROFILE", "lesson")
    target = ROOT / "notebooks" if profile == "lesson" else ROOT / "build" / "notebooks"
    target.mkdir(parents=True, exist_ok=True)
    for path in chosen(names):
        with empty_cache() as cache:
            checked = check(path, cache)
        if checked:
            print(f"{path.name}: failed under nbval, nothing saved", file=sys.stderr)
            return checked
        started = time.perf_counter()
        with empty_cache() as cache:
            notebook = run(path, cache)
        notebook = headed(stamped(notebook, date.today().isoformat()))
        save(notebook, target / path.name)
        print(f"{path.name}: {time.perf_counter() - started:.0f} s, saved in {target.name}/")
    return 0


def chosen(names: list[str]) -> list[Path]:
    """The notebooks of these names, or all of them in order."""
    paths = [ROOT / "notebooks" / f"{Path(name).stem}.ipynb" for name in names]
    if missing := [path.name for path in paths if not path.exists()]:
        raise SystemExit(f"NB must name a notebook in notebooks/, got {missing[0]}")
    return paths or sorted((ROOT / "notebooks").glob("*.ipynb"))


def empty_cache() -> tempfile.TemporaryDirectory:
    """A cache folder with the user's downloads but without trained networks."""
    import torch

    downloads = Path(torch.hub.get_dir()) / "kdlib" / "data"
    folder = tempfile.TemporaryDirectory()
    own = Path(folder.name) / "hub" / "kdlib"
    own.mkdir(parents=True)
    if downloads.exists():
        (own / "data").symlink_to(downloads.resolve())
    return folder


def check(path: Path, cache: str, seconds: int = CELL_SECONDS) -> int:
    """Return nbval's exit status, 0 if every cell ran within ``seconds``."""
    command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env"]
    command += [f"--nbval-cell-timeout={seconds}", str(path)]
    return subprocess.run(
        command, check=False, cwd=path.parent, env=os.environ | {"TORCH_HOME": cache}
    ).returncode


def run(path: Path, cache: str) -> nbformat.NotebookNode:
    notebook = headed(nbformat.read(path, as_version=4))
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        store_widget_state=False,
        record_timing=False,
    )
    client.execute(env=os.environ | {"TORCH_HOME": cache})
    return cleaned(notebook)


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what only a kernel can show: widget views, their state, emptied progress bars.

    A widget's Markdown and an explorer's saved form stay.
    """
    notebook.metadata.pop("widgets", None)
    notebook.metadata.kernelspec = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)
        for output in cell.outputs:
            if {"text/markdown", "text/html"} & {*output.get("data", {})}:
                output.data.pop(WIDGET, None)
        cell.outputs = [output for output in cell.outputs if not _transient(output)]
    return notebook


def _transient(output: nbformat.NotebookNode) -> bool:
    if output.output_type not in ("display_data", "execute_result"):
        return False
    return not output.data or WIDGET in output.data


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
