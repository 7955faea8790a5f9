"""tools/pages.py: the lessons as pages that open from disk, written completely or not at all."""

import base64
import io
import re
import shutil
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pages
import pytest
from bs4 import BeautifulSoup
from heads import headed
from PIL import Image, ImageColor
from publish import Host

from kdlib.course.plots import COLOURS

ROOT = Path(__file__).resolve().parents[2]
NAMES = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
each_page = pytest.mark.parametrize("name", ["index", "glossary", *NAMES])

FRAME = (
    '<img src="data:image/png;base64,{}" alt="Bars"><iframe title="Explorer" '
    'sandbox="allow-scripts" srcdoc="&lt;p id=&quot;bar&quot;&gt;&lt;/p&gt;&lt;script&gt;'
    'document.getElementById(&quot;bar&quot;).textContent = 1 &amp;&amp; 42&lt;/script&gt;"></iframe>'
)

GLOSSARY = r"""# Glossary

- **entropy** (lesson 00; `kd.x`): $-\sum_i p_i \ln p_i$. [Why?](../notebooks/00_planted.ipynb#Why)
  [Ours](results.md), [theirs](https://example.org/x.md).
"""


@cache
def at_rest(path):
    """Parse the page of a real notebook only once."""
    return parsed(path)


def parsed(path):
    return BeautifulSoup(path.read_text(), "html.parser")


def picture(colour="red", size=(900, 300)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def shown(data, **metadata):
    return nbformat.v4.new_output("display_data", data, metadata=metadata)


def planted(root, *cells, name="00_planted", last_run=None):
    """A project with one lesson: a title, the test's cells, and a picture."""
    title = nbformat.v4.new_markdown_cell("# Does it work?")
    plot = shown({"image/png": picture()}, **{"image/png": {"alt": "A red box"}})
    figure = nbformat.v4.new_code_cell("plot()", execution_count=1, outputs=[plot])
    about = {"label": "00 Planted", "question": "does it?", "minutes": 2, "data": "digits"}
    about |= {"needs": "a plant", "outcomes": ["plant another"]}
    notebook = nbformat.v4.new_notebook(cells=[title, *cells, figure])
    notebook.metadata.kdlib = {"lesson": about} | ({"last_run": last_run} if last_run else {})
    (root / "notebooks").mkdir(exist_ok=True)
    nbformat.write(headed(notebook), root / "notebooks" / f"{name}.ipynb")
    (root / "docs").mkdir(exist_ok=True)
    (root / "docs" / "glossary.md").write_text(GLOSSARY)
    return root


def page_with(root, *cells, **kwargs):
    return parsed(pages.build(planted(root, *cells, **kwargs)) / "00_planted.html")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    (root / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "glossary.md", root / "docs")
    return pages.build(root)


def test_the_index_lists_all_notebooks_in_order_with_question_minutes_and_picture(site):
    index = at_rest(site / "index.html")
    lessons = index.select(".lessons > li")
    assert [lesson.a["href"] for lesson in lessons] == [f"{name}.html" for name in NAMES]
    for lesson, name in zip(lessons, NAMES, strict=True):
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        assert "# " + lesson.h2.get_text() == notebook.cells[0].source.splitlines()[0]
        about = lesson.select_one(".about").get_text()
        assert re.search(r"^\d\d .+ · \d+ min to read, \d+ to run · \w+", about)
        assert len(lesson.img["alt"]) > 30
        with Image.open(site / lesson.img["src"]) as image:
            assert max(image.size) <= 640


def test_pages_link_to_their_neighbours_to_the_index_and_to_the_glossary(site):
    for before, name, after in zip([None, *NAMES], NAMES, [*NAMES[1:], None], strict=False):
        for nav in at_rest(site / f"{name}.html").select("nav.neighbours"):
            links = [before and f"{before}.html", "index.html", "glossary.html"]
            links += [after and f"{after}.html"]
            assert [a["href"] for a in nav("a")] == list(filter(None, links))


@each_page
def test_every_link_leads_somewhere(site, name):
    soup = at_rest(site / f"{name}.html")
    links = [a["href"] for a in soup("a", href=True) if not re.match(r"https?:", a["href"])]
    assert links
    for link in links:
        path, _, fragment = unquote(link).partition("#")
        target = site / (path or f"{name}.html")
        assert target.is_file(), link
        assert target.parent in (site, *site.iterdir()), f"{link} leads out of the site"
        assert not fragment or at_rest(target).find(id=fragment), link
        assert not path.endswith(".ipynb") or path.startswith("homework/")  # to be worked on


@each_page
def test_a_page_loads_nothing_from_the_network_and_has_no_script(site, name):
    soup = at_rest(site / f"{name}.html")
    addresses = [tag["src"] for tag in soup(src=True)] + [tag["href"] for tag in soup("link")]
    assert addresses
    for address in addresses:
        assert address.startswith("data:") or (site / address).is_file()
    assert not soup("script")
    assert not re.search(r"@import|url\(", (site / "style.css").read_text())


@each_page
def test_a_page_suits_a_screen_reader_and_names_its_licence(site, name):
    soup = at_rest(site / f"{name}.html")
    assert soup.html["lang"] == "en"
    assert soup.title.get_text().strip()
    levels = [int(heading.name[1]) for heading in soup(re.compile(r"h[1-6]"))]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert all(len(image["alt"]) > 30 for image in soup("img"))
    assert soup.select_one("body > a.skip")["href"] == "#content"
    assert soup.find("main", id="content")
    ids = [tag["id"] for tag in soup(id=True)]
    assert len(ids) == len(set(ids))
    licence = soup.select_one("footer a[rel=license]")
    assert licence["href"] == "https://creativecommons.org/licenses/by/4.0/"
    assert licence.get_text() == "CC BY 4.0"


def test_every_formula_of_the_notebooks_becomes_mathml(site):
    formulas = 0
    for name in NAMES:
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        source = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
        soup = parsed(site / f"{name}.html")
        written = re.findall(r"\$\$.+?\$\$|\$[^$]+\$", source, re.DOTALL)
        assert len(soup("math")) >= len(written)
        formulas += len(written)
        for code in soup(["pre", "code", "math"]):
            code.decompose()
        assert not re.search(r"\$|\\[a-z]+", soup.get_text())
    assert formulas > 20


def test_formulas_of_every_kind_become_mathml(tmp_path):
    source = r"$a_1 < b$, \\(c\\)" + "\n\n$$\\frac{1}{T}$$\n\n\\begin{align}d &= e\\end{align}"
    soup = page_with(tmp_path, nbformat.v4.new_markdown_cell(source))
    assert [tag["display"] for tag in soup("math")] == ["inline", "inline", "block", "block"]
    assert soup.find("msub").get_text() == "a1"
    assert soup.find("mfrac").get_text() == "1T"


def test_the_name_of_a_function_is_set_apart_from_its_neighbours():
    entropy = pages.mathml(r"p_i \ln q_i", "inline")
    assert re.search(r"</msub><mspace [^>]*/><mi>ln</mi><mspace [^>]*/><msub>", entropy)
    assert "<mspace" not in pages.mathml(r"-\exp(z) + q_i T", "inline")


@pytest.mark.parametrize("formula", [r"a_1_2", r"\frac", r"x + \softmacks(z)"])
def test_a_formula_that_cannot_be_read_is_named(formula):
    with pytest.raises(ValueError, match="^formula must .*" + re.escape(repr(formula))):
        pages.mathml(formula, "inline")


def test_an_explorer_in_its_frame_and_its_picture_stay_as_they_are(tmp_path):
    frame = FRAME.format(picture())
    cell = nbformat.v4.new_code_cell("explorer", outputs=[shown({"text/html": frame})])
    soup = page_with(tmp_path, cell)
    expected = BeautifulSoup(frame, "html.parser")
    assert soup.iframe.attrs == expected.iframe.attrs
    assert "<script>" in soup.iframe["srcdoc"]
    assert soup.find("img", alt="Bars")["src"] == expected.img["src"]


def test_text_tables_and_markdown_outputs_are_shown(tmp_path):
    outputs = [
        nbformat.v4.new_output("stream", text="a < b"),
        shown({"text/html": "<table><tr><td>0.5</td></tr></table>", "text/plain": "not this"}),
        shown({"text/markdown": "**Predict first.** Is $q$ more?", "text/plain": "not this"}),
        shown({"text/plain": "Scores(errors=20)"}),
    ]
    soup = page_with(tmp_path, nbformat.v4.new_code_cell("x", outputs=outputs))
    text = soup.main.get_text()
    assert "a < b" in text and "Scores(errors=20)" in text and "not this" not in text
    assert soup.find("td").get_text() == "0.5"
    assert soup.select_one(".output_markdown strong").get_text() == "Predict first."
    assert soup.select_one(".output_markdown math")


def test_pictures_are_files_with_the_description_from_the_notebook(tmp_path):
    (image,) = page_with(tmp_path)("img")
    assert image["alt"] == "A red box"
    assert image["src"] == image.find_parent("a")["href"]
    saved = (tmp_path / "site" / image["src"]).read_bytes()
    assert saved == base64.b64decode(picture())


def test_links_between_notebooks_lead_to_their_pages():
    assert pages.page_of("01_teacher.ipynb") == "01_teacher.html"
    assert pages.page_of("01_teacher.ipynb#A-teacher") == "01_teacher.html#A-teacher"
    assert pages.page_of("homework/release/hw1/hw1_x.ipynb") == "homework/hw1_x.ipynb"
    assert pages.page_of("../notebooks/01_teacher.ipynb") == "01_teacher.html"
    for other in ("https://example.org/x.ipynb", "#A-teacher"):
        assert pages.page_of(other) == other
    for elsewhere in ("results.md", "../kdlib/losses.py", "x.ipynb.txt"):
        assert pages.page_of(elsewhere) is None


def test_a_page_shows_the_head_of_its_lesson_and_no_setup(tmp_path):
    page = page_with(tmp_path, last_run="2026-01-02")
    head = page.select_one(".head").get_text()
    for part in ("Before: a plant.", "plant another", "2 min to run", "digits", "2026-01-02"):
        assert part in head
    assert "kdlib" not in page.main.get_text()
    assert parsed(tmp_path / "site" / "index.html").footer.time.get_text() == "2026-01-02"


def test_the_glossary_is_a_page_whose_lessons_are_links(tmp_path):
    planted(tmp_path)
    glossary = parsed(pages.build(tmp_path) / "glossary.html")
    assert glossary.main.h1.get_text() == "Glossary" and glossary.find("math").find("mi")
    links = {a.get_text(): a["href"] for a in glossary.main("a")}
    assert links == {
        "lesson 00": "00_planted.html",
        "Why?": "00_planted.html#Why",
        "theirs": "https://example.org/x.md",
    }
    for page in ("index.html", "00_planted.html"):
        assert parsed(tmp_path / "site" / page).find("a", href="glossary.html")


@pytest.mark.parametrize(
    ("host", "repository", "colab"),
    [
        (None, None, None),
        (Host("https://git.example.org", "a/b", "v1"), "https://git.example.org/a/b", None),
        (
            Host("https://github.com", "a/b", "v1"),
            "https://github.com/a/b",
            "https://colab.research.google.com/github/a/b/blob/colab/notebooks/00_planted.ipynb",
        ),
    ],
)
def test_pages_link_to_where_they_are_hosted_and_to_colab_if_that_can_open_them(
    host, repository, colab, tmp_path
):
    site = pages.build(planted(tmp_path), host)
    index, page = parsed(site / "index.html"), parsed(site / "00_planted.html")
    there = index.find("a", string="the repository")
    assert (there and there["href"]) == repository
    opened = page.find("a", string="Open in Colab")
    assert (opened and opened["href"]) == colab


def test_a_failed_build_leaves_the_old_site_and_a_new_one_nothing_of_it(tmp_path):
    site = pages.build(planted(tmp_path))
    (site / "99_gone.html").touch()
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    planted(tmp_path, nbformat.v4.new_markdown_cell("$a_1_2$"), name="01_broken")
    with pytest.raises(ValueError):
        pages.build(tmp_path)
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.glob(".site-*"))
    (tmp_path / "notebooks" / "01_broken.ipynb").unlink()
    pages.build(tmp_path)
    assert (site / "00_planted.html").exists() and not (site / "99_gone.html").exists()


def luminance(colour):
    parts = [part / 255 for part in ImageColor.getrgb(colour)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_match_the_plots_and_every_ink_is_legible_in_light_and_dark():
    style = (pages.TEMPLATES / "site" / "style.css").read_text()
    light, dark = (
        dict(re.findall(r"--([a-z]+): (#\w+)", part)) for part in style.split("@media")[:2]
    )
    for name in ("teacher", "student", "soft", "hard"):
        assert light[name] == COLOURS[name]
    for look in (light, light | dark):
        for ink in ("ink", "quiet", "link", "word", "text", "number"):
            for ground in ("paper", "panel"):
                assert contrast(look[ink], look[ground]) >= 4.5, (ink, ground)
