"""Print the lowest versions that pyproject.toml allows, as constraints for pip."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


def floors(pyproject: str) -> list[str]:
    project = tomllib.loads(pyproject)["project"]
    named = chain(project["dependencies"], *project["optional-dependencies"].values())
    bounds = [re.fullmatch(r"([\w-]+)[>~]=([\d.]+)", requirement) for requirement in named]
    return [f"{bound[1]}=={bound[2]}" for bound in bounds if bound]


if __name__ == "__main__":
    print("\n".join(floors((ROOT / "pyproject.toml").read_text())))
