"""tools/floors.py: the lowest versions are those of pyproject.toml, all of them."""

import re
from pathlib import Path

import floors

TEXT = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()


def test_every_requirement_has_its_lower_bound_as_its_floor():
    section = TEXT[TEXT.index("dependencies = [") : TEXT.index("[tool.hatch")]
    named = re.findall(r'^\s+"([\w-]+)', section, re.MULTILINE)
    inline = " ".join(re.findall(r"^[a-z]+ = \[(.+)\]$", section, re.MULTILINE))
    expected = {*named, *re.findall(r'"([\w-]+)', inline)} - {"kdlib"}
    assert {"jupyterlab", "distributed", "torch"} <= expected
    found = dict(line.split("==") for line in floors.floors(TEXT))
    assert {*found} == expected
    for name, version in found.items():
        assert re.search(rf'"{name}[>~]={re.escape(version)}"', TEXT)
