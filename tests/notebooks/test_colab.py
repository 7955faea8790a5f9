"""A notebook opened by itself where torch is installed and kdlib is not, as in Colab."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import nbformat
import publish
import pytest

ROOT = Path(__file__).resolve().parents[2]

MISSING = ("kdlib", "_kdlib", "__editable__", "anywidget", "ipywidgets", "safetensors")
CLEAN = {"PYTHONPATH": ""}


def run(*command, cwd, **environment):
    environment = os.environ | CLEAN | environment
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A git repository that holds the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("needs git and a working tree of it, to make a clone that pip can install")
    folder = tmp_path_factory.mktemp("hosted") / "someone" / "kdlib"
    folder.mkdir(parents=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git = ("git", "-c", "user.name=kdlib", "-c", "user.email=kdlib@example.org")
    for step in ("init -q", "add -A", "commit -q -m hosted", "tag v0"):
        run(*git, *step.split(), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An interpreter with everything this one has, but for kdlib and some of what it needs.

    The packages are lent from outside the environment, where its pip cannot change them.
    """
    folder = tmp_path_factory.mktemp("colab")
    run(sys.executable, "-m", "venv", folder / "env", cwd=folder)
    python = folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    lent = folder / "lent"
    lent.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith((*MISSING, "pip", "distutils-precedence")):
            (lent / entry.name).symlink_to(entry)
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    (Path(own.strip()) / "lent.pth").write_text(f"{lent}\n")
    probe = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, "hatchling"]
    if subprocess.run([*map(str, probe)], capture_output=True, check=False).returncode:
        pytest.skip("needs pip to reach packages: it builds kdlib with hatchling")
    return python


def asked(python, question, folder):
    return run(python, "-c", question, cwd=folder).strip()


@pytest.mark.slow
def test_the_notebook_installs_kdlib_by_itself_and_leaves_torch_alone(clone, python, tmp_path):
    hosted = {"GITHUB_SERVER_URL": f"file://{clone.parents[1]}", "GITHUB_REF_NAME": "v0"}
    host = publish.host(hosted | {"GITHUB_REPOSITORY": "someone/kdlib"})
    source = nbformat.read(ROOT / "notebooks" / "02_temperature.ipynb", as_version=4)
    alone = tmp_path / "alone"
    alone.mkdir()
    path = alone / "02_temperature.ipynb"
    nbformat.write(publish.copied(source, "notebooks/02_temperature.ipynb", host), path)
    check = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
    home = {"KDLIB_PROFILE": "smoke", "TORCH_HOME": str(tmp_path), "HOME": str(tmp_path)}
    home["IPYTHONDIR"] = home["JUPYTER_DATA_DIR"] = str(tmp_path)

    assert asked(python, "import importlib.util as u; print(u.find_spec('kdlib'))", alone) == "None"
    # Every cell, those of the explorers among them; and pip notes what it does.
    run(python, *check, path, cwd=alone, PIP_LOG=str(tmp_path / "first"), **home)
    assert (tmp_path / "first").exists()

    where = "import kdlib, os; print(os.path.dirname(kdlib.__file__))"
    assert asked(python, where, alone).startswith(str(python.parents[1]))
    torch_is = "import torch, importlib.metadata as m; print(m.version('torch'), torch.__file__)"
    assert asked(python, torch_is, alone).split()[0] == version("torch")
    assert "lent" in asked(python, torch_is, alone)
    own = asked(python, "import sysconfig; print(sysconfig.get_path('purelib'))", alone)
    installed = {entry.name for entry in Path(own).iterdir()}
    assert {"kdlib", "anywidget", "ipywidgets", "safetensors"} <= installed
    assert not [name for name in installed if "torch" in name or name.startswith("jupyterlab-")]

    assert int(asked(python, "import kdlib; print(len(kdlib.results('student')))", alone)) > 0

    run(python, *check, path, cwd=alone, PIP_LOG=str(tmp_path / "second"), **home)
    assert not (tmp_path / "second").exists()
