"""The Makefile: the commands that its targets run."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def planned(*arguments, **environment):
    command = ["make", "--dry-run", "--always-make", "--no-print-directory", *arguments]
    of_an_outer_make = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PYTHON", "ARGS")
    clean = {name: value for name, value in os.environ.items() if name not in of_an_outer_make}
    done = subprocess.run(
        command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_gpu_runs_on_the_python_it_is_given_or_on_the_environment_that_make_creates():
    named = planned("gpu", "PYTHON=/opt/python")
    assert named == planned("gpu", PYTHON="/opt/python")
    assert all(line.startswith("/opt/python ") for line in named)
    assert "tests/gpu" in named[-1] and "/opt/python benchmarks/training.py" in named[-1]
    lines = planned("gpu")
    assert any("pip install" in line for line in lines)
    assert lines[-1].startswith(".venv/bin/python -m pytest")


def test_the_floors_are_installed_beside_the_usual_environment():
    lines = planned("test-floors")
    assert not any(".venv" in line for line in lines)
    assert "build/floors/bin/python -m pytest" in lines[-1]


def test_the_slow_tests_run_after_all_others():
    quick, slow = (line for line in planned("test-all", "ARGS=tests") if "-m pytest" in line)
    assert '-m "not slow" tests' in quick and "-m slow tests" in slow


def test_a_learner_installs_what_lessons_need_and_only_the_slow_tests_need_other_libraries():
    extras = {target: " ".join(planned(target)) for target in ("lab", "test", "test-all")}
    assert ".[lab]" in extras["lab"] and ".[test" not in extras["lab"]
    assert ".[test]" in extras["test"] and "others" not in extras["test"]
    assert ".[test,others]" in extras["test-all"]
    assert f'JUPYTER_CONFIG_PATH="{ROOT}/tools/lab:' in extras["lab"]
    page = json.loads((ROOT / "tools/lab/labconfig/page_config.json").read_text())
    for quiet in ("@jupyter/nbgrader", "@jupyterlab/apputils-extension:announcements"):
        assert page["disabledExtensions"][quiet] is True


def test_what_is_installed_is_installed_once_and_anew_when_the_dependencies_change():
    rules = (ROOT / "Makefile").read_text()
    for stamp, needs in (("lab", ""), ("ready", ""), ("others", " .venv/ready")):
        assert f"\n.venv/{stamp}: pyproject.toml{needs}\n" in rules
    assert "touch .venv/lab .venv/ready" in planned("test")  # tests need all that a learner does


def test_every_target_is_explained_at_the_top():
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", text, re.MULTILINE)[1].replace("\\", "")
    assert len(targets.split()) > 15
    for target in targets.split():
        assert f"#   make {target} " in text
