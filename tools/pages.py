"""Write all notebooks as static pages that need no kernel, no network and no JavaScript of their own.

``python tools/pages.py``, or ``make site``: ``site/index.html`` lists the lessons, every notebook has a
page, and so has the glossary. Formulas become MathML here, once, so that a browser draws them without
a library; an output's own HTML (an explorer in its frame) stays as it is. Where the hosting side's
variables are set (see tools/publish.py), the pages link to it and to Colab. The folder is written
completely or not at all.

(Not called ``site.py``: Python itself imports a module of that name when it starts.)
"""

from __future__ import annotations

import html
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import heads
import jinja2
import nbformat
from bs4 import BeautifulSoup
from latex2mathml.converter import convert
from mistune import HTMLRenderer
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from publish import Host, host, replacing
from thumbnails import Picture, first_picture, thumbnail
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = Path(__file__).resolve().parent / "templates"


@dataclass(frozen=True)
class Page:
    """The page of a lesson, from its notebook and from where that is hosted, if anywhere."""

    name: str
    notebook: nbformat.NotebookNode
    host: Host | None = None

    @property
    def about(self) -> heads.Lesson:
        return heads.lesson(self.notebook)

    @property
    def reading_minutes(self) -> int:
        return heads.reading_minutes(self.notebook)

    @property
    def colab(self) -> str | None:
        return self.host and self.host.colab(f"notebooks/{self.name}.ipynb")

    @property
    def title(self) -> str:
        return self.notebook.cells[0].source.splitlines()[0].removeprefix("# ")

    @property
    def picture(self) -> Picture:
        return first_picture(self.notebook)

    @property
    def last_run(self) -> str | None:
        return self.notebook.metadata.get("kdlib", {}).get("last_run")

    @property
    def file(self) -> str:
        return f"{self.name}.html"


def build(root: Path = ROOT, host: Host | None = None) -> Path:
    """Write ``root/site`` from ``root/notebooks``; the old site stays until the new one is complete.

    Raises:
        ValueError: a notebook's metadata are not those of a lesson, it shows no picture, or a
            formula cannot be read.
    """
    pages = [Page(name, notebook, host) for name, notebook in heads.lessons(root).items()]
    with replacing(root / "site") as fresh:
        homework = sorted((root / "notebooks" / "homework" / "release").glob("*/*.ipynb"))
        for path in homework:
            put(fresh, f"homework/{path.name}", path.read_bytes())
        glossary = (root / "docs" / "glossary.md").read_text()
        write(pages, [path.name for path in homework], glossary, fresh)
    return root / "site"


def write(lessons: Sequence[Page], homework: Sequence[str], glossary: str, folder: Path) -> None:
    """Write the index, the glossary, a page for each lesson, and their pictures."""
    for name in ("style.css", "icon.svg"):
        shutil.copy(TEMPLATES / "site" / name, folder)
    put(folder, "index.html", rendered("contents.html.j2", lessons=lessons, homework=homework))
    for lesson in lessons:  # "lesson 07" leads there
        number = lesson.name[:2]
        glossary = glossary.replace(f"lesson {number}", f"[lesson {number}]({lesson.name}.ipynb)")
    terms = MarkdownWithMath(Renderer(escape=False, attachments={})).render(glossary)
    put(folder, "glossary.html", rendered("glossary.html.j2", terms=terms))
    neighbours = zip([None, *lessons], lessons, [*lessons[1:], None], strict=False)
    for before, lesson, after in neighbours:
        put(folder, f"thumbnails/{lesson.name}.png", thumbnail(lesson.picture))
        cells, pictures = exported(lesson)
        for name, picture in pictures.items():
            put(folder, name, picture)
        page = rendered(
            "lesson.html.j2",
            lesson=lesson,
            before=before,
            after=after,
            cells=cells,
            sections=sections(cells),
        )
        put(folder, lesson.file, page)


def put(folder: Path, name: str, content: str | bytes) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def rendered(template: str, **names: object) -> str:
    loader = jinja2.FileSystemLoader(TEMPLATES / "site")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**names)


def exported(lesson: Page) -> tuple[str, dict[str, bytes]]:
    """The lesson's cells as HTML, and their pictures by the names that the HTML gives them.

    The setup cell is left out: nothing runs here.
    """
    notebook = nbformat.from_dict(lesson.notebook)
    notebook.cells = [cell for cell in notebook.cells if cell.id != "install"]
    exporter = Cells(
        template_name="site",
        template_file="cells.html.j2",
        extra_template_basedirs=[str(TEMPLATES)],
    )
    cells, resources = exporter.from_notebook_node(
        notebook, {"unique_key": lesson.name, "output_files_dir": f"{lesson.name}_files"}
    )
    return cells, resources["outputs"]


def sections(cells: str) -> list[tuple[str, str]]:
    """Address and title of each section of the page."""
    titles = BeautifulSoup(cells, "html.parser").select("h2[id]")
    return [("#" + quote(title["id"]), title.get_text()) for title in titles]


class Cells(HTMLExporter):
    """nbconvert's exporter, with our Markdown, and with pictures as files beside the page."""

    @property
    def default_config(self) -> Config:
        config = Config({"ExtractOutputPreprocessor": {"enabled": True}})
        config.merge(super().default_config)
        return config

    @jinja2.pass_context
    def markdown2html(self, context: jinja2.runtime.Context, source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        return MarkdownWithMath(Renderer(escape=False, attachments=attachments)).render(source)


class Renderer(IPythonRenderer):
    """Markdown for a page without a kernel and without a network."""

    def link(self, text: str, url: str, title: str | None = None) -> str:
        address = page_of(url)
        return text if address is None else super().link(text, address, title)

    def heading(self, text: str, level: int, **attrs: object) -> str:
        plain = html.unescape(re.sub(r"<[^>]+>", "", text))
        return HTMLRenderer.heading(self, text, level, id=plain.strip().replace(" ", "-"))

    def table(self, text: str) -> str:
        return scrolling("div", "Table", f"<table>{text}</table>")

    def inline_math(self, body: str) -> str:
        return mathml(body, "inline")

    def block_math(self, body: str) -> str:
        return scrolling("span", "Formula", mathml(body, "block"))

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")


def scrolling(tag: str, name: str, content: str) -> str:
    """Wrap content that may be wider than a phone, to be scrolled, by keyboard too."""
    attributes = f'class="scrolls" role="group" tabindex="0" aria-label="{name}"'
    return f"<{tag} {attributes}>{content}</{tag}>"


def page_of(url: str) -> str | None:
    """Turn a link to a lesson into one to its page, a link to homework into one to its notebook.

    None for any other file of the repository: it is not on the site. Every other link stays.
    """
    url = re.sub(r"^(\.\./)+(notebooks/)?", "", url)
    if homework := re.fullmatch(r"homework/release/hw\d/(\w+\.ipynb)", url):
        return f"homework/{homework[1]}"
    page, lesson = re.subn(r"^(\w+)\.ipynb(?=#|$)", r"\1.html", url)
    return page if lesson or re.match(r"https?:|#", url) else None


def mathml(formula: str, display: str) -> str:
    """The formula as MathML; latex2mathml copies unknown commands; we refuse them.

    Raises:
        ValueError: latex2mathml cannot read the formula.
    """
    try:
        made = convert(formula, display=display)
    except Exception as error:
        raise ValueError(f"formula must be one that latex2mathml reads, got {formula!r}") from error
    if unknown := re.search(r"\\[A-Za-z]+", made):
        raise ValueError(
            f"formula must use commands of latex2mathml, got {unknown[0]} in {formula!r}"
        )
    return functions_apart(made)


def functions_apart(formula: str) -> str:
    """Put TeX's thin space, which latex2mathml leaves out, on both sides of ln, log and so on."""
    function, thin = "<mi>[a-z]{2,}</mi>", r'\1<mspace width="0.167em" />'
    formula = re.sub(rf"({function})(?=<m(?:i|n|sub|sup|frac)\b)", thin, formula)
    return re.sub(rf"(</m(?:i|n|sub|sup)>)(?={function})", thin, formula)


if __name__ == "__main__":
    print(f"wrote {build(host=host(os.environ, with_ref=False)).relative_to(ROOT)}/index.html")
