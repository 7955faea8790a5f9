"""Check that a version is named alike everywhere; print what is new in it.

``python tools/release.py 0.1.0`` prints the version's section of CHANGELOG.md, or what disagrees and exits
with 1. The workflow of the hosted side asks before it publishes a tag. It needs no package.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = {  # in CHANGELOG.md the newest comes first
    "pyproject.toml": r'version = "(.+)"',
    "kdlib/__init__.py": r'__version__ = "(.+)"',
    "CITATION.cff": r"version: (.+)",
    "CHANGELOG.md": r"## (\S+).*",
}


def first(pattern: str, text: str) -> str | None:
    """Return what the first line that is all ``pattern`` captures."""
    found = re.search(rf"(?m)^{pattern}$", text)
    return found[1] if found else None


def disagreements(version: str, root: Path = ROOT) -> list[str]:
    """One line for each file that names another version, or for two days of release."""
    texts = {name: (root / name).read_text(encoding="utf-8") for name in VERSIONS}
    named = {name: first(pattern, texts[name]) for name, pattern in VERSIONS.items()}
    found = [f"{name} says {was}, not {version}" for name, was in named.items() if was != version]
    cited = first("date-released: (.+)", texts["CITATION.cff"]) or "no day"
    _, _, logged = (first("## (.+)", texts["CHANGELOG.md"]) or "").partition(" ")
    if cited != (logged.strip("()") or "no day"):  # both have the same day, or none
        found.append(f"CITATION.cff says {cited}, CHANGELOG.md says {logged or 'no day'}")
    return found


def news(root: Path = ROOT) -> str:
    """Return the section of the newest version in the changelog, without its heading."""
    return re.split(r"(?m)^## .*\n", (root / "CHANGELOG.md").read_text(encoding="utf-8"))[1].strip()


def main(version: str) -> None:
    if found := disagreements(version):
        sys.exit("\n".join(found))
    print(news())


if __name__ == "__main__":
    main(*sys.argv[1:])
