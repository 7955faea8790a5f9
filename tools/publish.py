"""Write the copies of the notebooks that Colab opens: each has a badge, and installs kdlib by itself.

``python tools/publish.py``, or ``make publish``, writes ``build/published``, completely or not at all. The
address comes from the variables that a hosting side such as GitHub sets in its workflows, so that a
fork needs no edit; the repository's own notebooks know no address.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
from heads import FOLDED, LESSONS, headed, save

ROOT = Path(__file__).resolve().parent.parent
COLAB = "https://colab.research.google.com"
BRANCH = "colab"  # where the workflow puts the copies
VARIABLES = {  # these go into code cells: no quotes, no spaces, nothing that pip takes for an option
    "GITHUB_SERVER_URL": (r"(https?|file)://[\w./:~-]+", "an address such as https://github.com"),
    "GITHUB_REPOSITORY": (r"\w[\w.-]*/\w[\w.-]*", "OWNER/NAME"),
    "GITHUB_REF_NAME": (r"\w[\w./+-]*", "a tag or a branch"),
}
SETUP = """\
#@title Setup: installs kdlib where it is missing, and leaves torch as it is
import importlib.util
import tempfile
from importlib import metadata
from pathlib import Path

if getattr(importlib.util.find_spec("kdlib"), "origin", None) is None:
    there = {d.name for d in metadata.distributions()} & {"torch", "torchvision", "torchaudio"}
    keep = Path(tempfile.mkdtemp()) / "keep.txt"
    keep.write_text("".join(f"{name}=={metadata.version(name)}\\n" for name in there))
    %pip install --quiet --constraint "{keep}" "git+ADDRESS"
    importlib.invalidate_caches()
    if getattr(importlib.util.find_spec("kdlib"), "origin", None) is None:
        raise ModuleNotFoundError("kdlib could not be installed; pip says above why")"""


@dataclass(frozen=True)
class Host:
    """Where the project is hosted, and the tag or branch that the copies install."""

    server: str
    repository: str
    ref: str = ""

    @property
    def address(self) -> str:
        return f"{self.server}/{self.repository}"

    def colab(self, path: str) -> str | None:
        """The address at which Colab opens a copy; None if not on GitHub, where Colab looks."""
        if self.server != "https://github.com":
            return None
        return f"{COLAB}/github/{self.repository}/blob/{BRANCH}/{path}"

    @property
    def setup(self) -> str:
        return SETUP.replace("ADDRESS", f"{self.address}@{self.ref}")


def host(variables: Mapping[str, str], *, with_ref: bool = True) -> Host | None:
    """Read the host from the environment's variables; None if none of them is set.

    ``with_ref=False`` leaves the tag or branch out, for pages that do not install anything.

    Raises:
        ValueError: some of the variables are missing, or not what they should be.
    """
    values = {name: variables.get(name, "") for name in VARIABLES}
    if not with_ref:
        del values["GITHUB_REF_NAME"]
    if not any(values.values()):
        return None
    for name, value in values.items():
        pattern, expected = VARIABLES[name]
        if not re.fullmatch(pattern, value, re.ASCII):
            raise ValueError(f"{name} must be {expected}, got {value!r}")
    server, repository, *ref = values.values()
    return Host(server.rstrip("/"), repository, *ref)


def copied(notebook: nbformat.NotebookNode, path: str, host: Host) -> nbformat.NotebookNode:
    """Give the notebook a badge above its head, and the setup cell that installs from the host."""
    head, setup = headed(notebook).cells[1:3]
    if opened := host.colab(path):
        badge = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({opened})"
        head.source = f"{badge}\n\n{head.source}"
    setup.source = host.setup
    setup.metadata = nbformat.from_dict({**FOLDED, "cellView": "form"})  # Colab's way to fold
    return notebook


def publish(host: Host, root: Path = ROOT) -> Path:
    """Write the copies of all lessons and of the homework's release, at their paths."""
    target = root / "build" / "published"
    with replacing(target) as fresh:
        lessons = (root / "notebooks").glob(LESSONS)
        homework = (root / "notebooks" / "homework" / "release").glob("*/*.ipynb")
        for source in [*lessons, *homework]:
            path = source.relative_to(root)
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            notebook = nbformat.read(source, as_version=4)
            save(copied(notebook, path.as_posix(), host), fresh / path)
    return target


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``target`` if nothing fails until the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        fresh, old = Path(folder) / "fresh", Path(folder) / "old"
        fresh.mkdir()
        yield fresh
        if target.exists():
            target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise


def main() -> None:
    try:
        found = host(os.environ)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if found is None:
        raise SystemExit(
            f"{', '.join(VARIABLES)} must be set: GitHub sets them in its workflows, and the copies "
            "get their address from them"
        )
    print(f"wrote {publish(found).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
