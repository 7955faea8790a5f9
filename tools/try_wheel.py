"""Try the wheel as a reader would: installed into a new environment, outside the repository.

``python tools/try_wheel.py`` builds the wheel first; ``python tools/try_wheel.py FILE.whl`` tries that one.
Lesson 00 runs at smoke size on the packages of the extra ``lab``. This takes minutes: torch is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LESSON = "00_start_here.ipynb"

WHERE = """
import sys
from pathlib import Path
import kdlib as kd
if not Path(kd.__file__).is_relative_to(sys.prefix):
    raise ImportError(f"kdlib came from {kd.__file__}, not from the environment {sys.prefix}")
print(f"kdlib {kd.__version__} with {len(kd.results('hinton'))} shipped results of Hinton's protocol")
"""
RUN = """
import sys
import nbclient
import nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
notebook.cells.append(nbformat.v4.new_code_cell(sys.argv[2]))
nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
print(f"{sys.argv[1]} ran; in its kernel: {notebook.cells[-1].outputs[0].text}", end="")
"""


def run(*command: str | Path, folder: Path) -> None:
    """Run the command in a folder, with nothing from outside but the network's settings."""
    ours = ("PYTHON", "VIRTUAL_ENV", "KDLIB_", "JUPYTER_", "IPYTHON")
    environment = {name: x for name, x in os.environ.items() if not name.startswith(ours)}
    environment["KDLIB_PROFILE"] = "smoke"
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True)
    print(f"  {time.perf_counter() - started:.0f} s", flush=True)


def build(folder: Path) -> Path:
    print("build the wheel", flush=True)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps")
    run(*pip, "--wheel-dir", folder, ROOT, folder=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def environment(wheel: Path, folder: Path) -> Path:
    """Create an environment with the wheel and what its extra ``lab`` asks for; return its Python."""
    print(f"install {wheel.name} into an empty environment", flush=True)
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[lab]", folder=folder)
    return python


def tried(python: Path, folder: Path) -> None:
    """Import kdlib, then run the lesson, in a folder that is not the repository's."""
    print("import kdlib", flush=True)
    run(python, "-c", WHERE, folder=folder)
    print("run the lesson at smoke size", flush=True)
    shutil.copy(ROOT / "notebooks" / LESSON, folder)
    run(python, "-c", RUN, LESSON, WHERE, folder=folder)


def main(wheel: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        new = Path(temporary).resolve()
        built = Path(wheel).resolve() if wheel else build(new)
        alone = new / "alone"
        alone.mkdir()
        tried(environment(built, new / "environment"), alone)


if __name__ == "__main__":
    main(*sys.argv[1:])
