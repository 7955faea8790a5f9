"""The documentation: its links and commands lead somewhere, and nothing is said in two places."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import nbformat
import pytest

from kdlib.reproduce import PROTOCOLS

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("README", "CONTRIBUTING", "SUPPORT", "CODE_OF_CONDUCT", "benchmarks/README")
PAGES = [ROOT / f"{name}.md" for name in NAMES] + sorted((ROOT / "docs").glob("*.md"))
PAGES.append(ROOT / "notebooks" / "homework" / "TEACHING.md")
INDEX = ROOT / "llms.txt"  # for machines: one line per link, in the words of the pages
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HANDED_OUT = sorted((ROOT / "notebooks" / "homework").glob("release/*/*.ipynb"))
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:make|python(?: -m)?) [\w./-]+[^\n#`]*")


def markdown_of(page):
    """The page's Markdown without its fenced blocks."""
    text = page.read_text()
    if page.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return FENCE.sub("", text)


def slugs_of(page):
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", markdown_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", [*PAGES, INDEX, *LESSONS, *HANDED_OUT], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r'(?:\]\(|src=")([^)\s"]+)', markdown_of(page)):
        if re.match(r"\w+:", link):  # another server, or a picture in the page
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in slugs_of(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_lines_of_prose_have_at_most_110_characters(page):
    for line in markdown_of(page).splitlines():
        prose = re.sub(r"\]\([^)]*\)|<[^>]*>|https?:\S+", "", line)
        assert len(prose) <= 110 or line.startswith("|"), line


def sentences_of(page):
    """Sentences of more than twelve words, and cells of tables as long, in lower case."""
    text = re.sub(r"<!--.*?-->|[*_`]", "", markdown_of(page), flags=re.DOTALL)
    blocks = re.split(r"\n\s*\n|\n(?=\s*[-#|\d])| \| ", text)
    for sentence in (s for block in blocks for s in re.split(r"(?<=[.?!])\s", block)):
        words = sentence.lower().split()
        if len(words) > 12:
            yield " ".join(words).rstrip(".:")


def test_no_sentence_stands_on_two_pages():
    homes = {}
    for page in PAGES:
        for sentence in sentences_of(page):
            homes.setdefault(sentence, set()).add(page.name)
    assert len(homes) > 100
    assert {sentence: pages for sentence, pages in homes.items() if len(pages) > 1} == {}


def commands():
    """Every command of ours in a fenced block, or in backticks that hold nothing else."""
    for page in PAGES:
        text = page.read_text()
        fenced = "\n".join(body for _, language, body in FENCE.findall(text) if not language)
        quoted = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
        lines = [
            re.sub(r"^\s*(?:\w+=\S+ )*(?:\S*/)?(?=python|make)", "", c)
            for c in fenced.splitlines() + quoted
        ]
        yield from (found[0].strip() for c in lines if (found := COMMAND.match(c)))


COMMANDS = sorted(set(commands()))


@cache
def options_of(module):
    """The long options that a module's help names."""
    command = [sys.executable, "-m", module, "--help"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {*re.findall(r"--[a-z-]+", told)}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_a_target_a_script_or_a_module_with_its_options(command):
    program, first, *others = command.split()
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {*re.findall(r"[\w-]+", command.partition("=")[0])} - {"make"} <= {
            *targets,
            "PYTHON",
            "NB",
            "ARGS",
        }
    elif first == "-m" and others[0].startswith("kdlib"):
        assert {option for option in others if option.startswith("--")} <= options_of(others[0])
        if others[0] == "kdlib.reproduce":
            assert others[1] in (*PROTOCOLS, "NAME")
    elif not first.startswith("-"):
        assert (ROOT / first).exists()


def test_the_readme_and_the_guide_name_commands():
    assert {"make lab", "make test", "make grade"} <= {*COMMANDS}
    assert any(command.startswith("python -m kdlib.reproduce hinton") for command in COMMANDS)


def test_the_file_that_the_page_on_data_writes_is_read(tmp_path, monkeypatch):
    import numpy as np
    import torch
    import torchvision

    import kdlib as kd

    class Few:
        def __init__(self, root, train, download=False):
            self.data = torch.randint(256, (40, 28, 28), dtype=torch.uint8)
            self.targets = torch.arange(40) % 10

    text = (ROOT / "docs" / "data.md").read_text()
    (code,) = [body for _, language, body in FENCE.findall(text) if "np.savez" in body]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.datasets, "MNIST", Few)
    exec(compile(code, "data.md", "exec"), {"np": np})  # noqa: S102
    assert len(kd.data.load("mnist", validation=0, root=tmp_path).train) == 40
