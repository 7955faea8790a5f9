"""The static pages, opened from disk in a real browser without a network."""

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pages
import pytest
import torch

from .test_explorer import Given, works

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.browser, pytest.mark.slow]

EXPLORERS = {  # in all other lessons a flipbook
    "00_start_here": ["temperature explorer"],
    "01_teacher": [],
    "02_temperature": ["temperature explorer"] * 2,
    "03_student": ["distillation explorer"],
    "09_bug_museum": [],
}
NAMES = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    (root / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "glossary.md", root / "docs")
    return pages.build(root)


@pytest.fixture
def opened(site, browser):
    """Opens a page from disk, offline; any request or complaint of the page fails the test."""
    complaints = []
    context = browser.new_context(offline=True)

    def note(request):
        if request.failure != "net::ERR_ABORTED":  # the reader went on before it was there
            complaints.append(request.url)

    def open_it(name, width=900, scheme="light"):
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", note)
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.goto((site / f"{name}.html").as_uri())
        return page

    yield open_it
    context.close()
    assert complaints == []


@pytest.mark.parametrize("name", ["index", "glossary", *NAMES])
def test_a_page_opens_from_disk_and_fits_every_width(opened, name):
    page = opened(name)
    assert page.get_by_role("heading", level=1).count() == 1
    for width in (400, 900, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        scrollable = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert scrollable <= 0, width
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert (widths or name == "glossary") and all(widths)


def test_a_reader_goes_through_all_lessons_by_clicking(opened):
    page = opened("index")
    page.locator(".lessons a").first.click()
    for name in NAMES[1:]:
        page.locator("header a[rel=next]").click()
        assert page.url.endswith(f"/{name}.html")
    page.get_by_role("link", name="Glossary").first.click()
    page.get_by_role("link", name="All lessons").first.click()
    assert page.url.endswith("/index.html")


def test_the_first_key_reaches_the_content(opened):
    page = opened(NAMES[0])
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_the_pages_follow_the_readers_dark_or_light(opened):
    for scheme, ground in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 24, 28)")):
        page = opened(NAMES[0], scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground


def given_to(frame):
    """What the explorer in this frame was made from, read from its page."""
    saved = json.loads(re.search("const SAVED = (.*);\n", frame.get_attribute("srcdoc"))[1])

    def rows(name):
        values = np.frombuffer(base64.b64decode(saved[name]["base64"]), np.float32)
        return torch.tensor(values).reshape(-1, 10) if len(values) else None

    return Given(saved["_labels"], rows("_logits"), rows("_student_logits"))


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_has_its_explorers_and_they_work_on_its_page(opened, name):
    page = opened(name, width=1280)
    frames, titles = page.locator("iframe").all(), EXPLORERS.get(name, ["flipbook"])
    assert [frame.get_attribute("title") for frame in frames] == titles
    for frame, title in zip(frames, titles, strict=True):
        frame.scroll_into_view_if_needed()  # out of view its page gets no frames
        if title == "temperature explorer":
            works(page, frame.content_frame, given_to(frame))
            continue
        slider = "Drag" if title == "flipbook" else "Drag the temperature T"
        moved = frame.content_frame.get_by_role("slider", name=slider)
        before = moved.get_attribute("aria-valuetext")
        moved.press("ArrowRight")
        assert moved.get_attribute("aria-valuetext") != before


def test_formulas_are_drawn_as_formulas(opened):
    page = opened("02_temperature")
    fraction = page.locator("mfrac").first
    top, bottom = (fraction.locator(f"> :nth-child({k})").bounding_box() for k in (1, 2))
    assert top["y"] + top["height"] <= bottom["y"] + 1
