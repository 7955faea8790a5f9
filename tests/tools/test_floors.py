"""tools/floors.py: the lowest versions are those of pyproject.toml, all of them."""

import re
from pathlib import Path

import floors

ROOT = Path(__file__).resolve().parents[2]


def test_every_requirement_with_a_bound_has_its_floor():
    text = (ROOT / "pyproject.toml").read_text()
    found = floors.floors(text)
    for name in ("torch", "torchvision", "numpy", "ipywidgets", "jupyterlab", "nbval", "ruff"):
        (line,) = [line for line in found if line.startswith(f"{name}==")]
        assert re.search(rf'"{name}[>~]={re.escape(line.split("==")[1])}"', text)


def test_a_requirement_without_a_floor_is_an_oversight():
    text = (ROOT / "pyproject.toml").read_text()
    section = text[text.index("dependencies = [") : text.index("[tool.hatch")]
    named = re.findall(r'^\s+"([\w-]+)', section, re.MULTILINE)
    inline = " ".join(re.findall(r"^[a-z]+ = \[(.+)\]$", section, re.MULTILINE))
    expected = {*named, *re.findall(r'"([\w-]+)', inline)} - {"kdlib"}
    assert {"jupyterlab", "distributed", "torch"} <= expected
    assert {line.split("==")[0] for line in floors.floors(text)} == expected
