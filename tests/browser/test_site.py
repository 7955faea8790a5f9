"""What a reader sees who opens the static pages from disk, in a real browser, without a network."""

import shutil
from pathlib import Path

import nbformat
import pages
import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.browser

NAMES = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
each_page = pytest.mark.parametrize("name", ["index", *NAMES, "99_planted"])
EXPLORER = """
<iframe title="Explorer" sandbox="allow-scripts" style="width: 100%; height: 90px" srcdoc="
  <meta name='color-scheme' content='light dark'>
  <input type='range' min='0' max='9' value='4' aria-label='Temperature'><output>4</output>
  <script>
    const [slider] = document.getElementsByTagName('input');
    const show = () => slider.nextSibling.textContent = slider.value;
    slider.oninput = () => slider.value > 4 &amp;&amp; show();
  </script>"></iframe>
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of all notebooks and of one with an explorer."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    notebook = nbformat.read(ROOT / "notebooks" / f"{NAMES[0]}.ipynb", as_version=4)
    output = nbformat.v4.new_output("display_data", {"text/html": EXPLORER})
    notebook.cells.append(nbformat.v4.new_code_cell("explorer", outputs=[output]))
    nbformat.write(notebook, root / "notebooks" / "99_planted.ipynb")
    row = "| [99 Planted](notebooks/99_planted.ipynb) | does it work? | 1 | digits |\n"
    (root / "README.md").write_text((ROOT / "README.md").read_text() + "\n" + row)
    return pages.build(root)


@pytest.fixture
def opened(site, browser):
    """Opens a page from disk; whatever it asks of a network fails, and any complaint fails the test."""
    complaints = []
    context = browser.new_context(offline=True)

    def open_it(name, width=900, scheme="light"):
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.goto((site / f"{name}.html").as_uri())
        return page

    yield open_it
    context.close()
    assert complaints == []


def overflow(page):
    """How far the page can be scrolled sideways, in pixels."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@each_page
def test_a_page_opens_from_disk_and_fits_every_width(opened, name):
    page = opened(name)
    assert page.get_by_role("heading", level=1).count() == 1
    for width in (400, 900, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        assert overflow(page) <= 0, width
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert widths and min(widths) > 0


def test_a_reader_goes_through_all_lessons_by_clicking(opened):
    page = opened("index")
    page.locator(".lessons a").first.click()
    for name in NAMES[1:]:
        page.locator("header a[rel=next]").click()
        assert page.url.endswith(f"/{name}.html")
    page.get_by_role("link", name="All lessons").first.click()
    assert page.url.endswith("/index.html")


def test_the_first_key_reaches_the_content(opened):
    page = opened(NAMES[0])
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_the_pages_follow_the_reader_s_dark_or_light(opened):
    grounds = [
        opened(NAMES[0], scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert grounds == ["rgb(255, 255, 255)", "rgb(21, 24, 28)"]


def test_an_explorer_works_in_its_frame(opened):
    frame = opened("99_planted").frame_locator("iframe[title=Explorer]")
    frame.get_by_label("Temperature").press("ArrowRight")
    assert frame.locator("output").text_content() == "5"


def test_formulas_are_drawn_as_formulas(opened):
    page = opened("02_temperature")
    fraction = page.locator("mfrac").first
    top, bottom = (fraction.locator(f"> :nth-child({k})").bounding_box() for k in (1, 2))
    assert top["y"] + top["height"] <= bottom["y"] + 1
