"""The Makefile: what its targets would run."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def planned(*arguments):
    command = ["make", "--dry-run", "--always-make", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_gpu_with_a_python_of_ones_own_installs_nothing():
    lines = planned("gpu", "PYTHON=/opt/torch/bin/python")
    assert [line.split()[0] for line in lines] == ["/opt/torch/bin/python"] * 2
    assert "tests/gpu" in lines[0] and "benchmarks/training.py" in lines[1]


def test_gpu_without_one_uses_the_environment_that_make_makes():
    lines = planned("gpu")
    assert any("pip install" in line for line in lines)
    assert lines[-2].startswith(".venv/bin/python -m pytest")


def test_the_floors_are_installed_beside_the_usual_environment():
    lines = planned("test-floors")
    assert not any(".venv" in line for line in lines)
    assert lines[-1].startswith("build/floors/bin/python -m pytest")


def test_every_target_is_explained_at_the_top():
    text = (ROOT / "Makefile").read_text()
    (targets,) = (line for line in text.splitlines() if line.startswith(".PHONY:"))
    for target in targets.removeprefix(".PHONY:").split():
        assert f"# make {target} " in text
