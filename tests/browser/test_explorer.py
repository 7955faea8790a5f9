"""The explorers as a reader meets them: live, without a kernel, trusted, untrusted, and on a static page.

One function holds what must be true wherever an explorer works. Screenshots are left in
``build/screenshots``.
"""

import contextlib
import copy
import hashlib
import inspect
import math
import re
from dataclasses import dataclass
from pathlib import Path

import lesson
import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

import kdlib as kd

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = pytest.mark.browser

HERE = Path(__file__).parent
SCREENSHOTS = HERE.parents[1] / "build" / "screenshots"
AXE = HERE / "vendor" / "axe-core-4.14.1.min.js"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
WIDTHS = (400, 640, 900, 1040, 1600)


def made():
    """The explorer of the tests, the same in every process, and what it was made of."""
    import numpy as np

    import kdlib as kd

    draw = np.random.default_rng(0)
    logits = draw.normal(0, 6, (40, 10)).astype(np.float32)
    student_logits = draw.normal(0, 3, (40, 10)).astype(np.float32)
    labels = draw.integers(0, 10, 40)
    images = draw.random((40, 28, 28))
    explorer = kd.widgets.TemperatureExplorer(
        logits, images, labels, list("0123456789"), student_logits
    )
    return explorer, labels, logits, student_logits


@dataclass(frozen=True)
class Given:
    """What an explorer was made of; what it must show is computed from it."""

    labels: list[int]
    teacher: torch.Tensor
    student: torch.Tensor | None = None

    @property
    def order(self):
        nats = torch.special.entr(self.teacher.double().softmax(-1)).sum(-1)
        return nats.argsort(descending=True).tolist()


_, LABELS, LOGITS, STUDENT_LOGITS = made()
GIVEN = Given(LABELS.tolist(), torch.tensor(LOGITS), torch.tensor(STUDENT_LOGITS))
MAKE = f"{inspect.getsource(made)}\nexplorer = made()[0]\nexplorer"
GRID = """
import kdlib as kd
table = kd.results("student")
table = table[table["experiment"] == "grid 30"]
grid = kd.widgets.DistillationExplorer(table, test_images=10_000)
grid
"""
COHORT = """
import itertools
import pandas as pd
import kdlib as kd
rows = itertools.product([1, 4, 20], [0, 0.5, 1], range(3))
students = pd.DataFrame(rows, columns=["temperature", "alpha", "seed"])
students["test_errors"] = 100 - students.alpha * students.temperature + students.seed
cohort = kd.widgets.DistillationExplorer(students.assign(soft=students.alpha, hard=1 - students.alpha))
cohort
"""
MANY = """
many = kd.widgets.TemperatureExplorer(
    np.random.default_rng(0).normal(0, 3, (5, 100)), np.zeros((5, 3, 8, 8)), range(5),
    [f"German shorthaired pointer {k}" for k in range(100)],
)
many
"""
ALONE = """
alone = kd.widgets.TemperatureExplorer(
    np.random.default_rng(0).normal(0, 3, (5, 10)), np.zeros((5, 8, 8)), range(5), list("0123456789")
)
alone
"""
LARGE = """
rows = itertools.product([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], np.arange(11) / 10, range(2))
students = pd.DataFrame(rows, columns=["temperature", "alpha", "seed"])
large = kd.widgets.DistillationExplorer(students.assign(test_errors=100), test_images=1000)
large
"""
TALL = """
tall = kd.widgets.Flipbook(np.random.default_rng(0).random((2, 84, 28)), ["high", "and low"])
tall
"""
PAGES = """
import numpy as np
import kdlib as kd
book = kd.widgets.Flipbook(np.random.default_rng(0).random((4, 28, 28)), ["one", "two", "three", "four"])
book
"""

SOURCES = (MAKE, GRID, PAGES, COHORT, TALL, ALONE, MANY, LARGE)


@pytest.fixture(scope="module")
def saved():
    """The notebook of all explorers as make lesson saves it."""
    cells = [nbformat.v4.new_code_cell(source) for source in SOURCES]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=120, store_widget_state=False).execute()
    return lesson.cleaned(notebook)


@pytest.fixture(scope="module")
def static_page(saved, tmp_path_factory):
    """That notebook as a page on the disk."""
    nbconvert = pytest.importorskip("nbconvert", reason="needs nbconvert")
    path = tmp_path_factory.mktemp("site") / "page.html"
    path.write_text(nbconvert.HTMLExporter().from_notebook_node(saved)[0])
    return path


@pytest.fixture
def offline(browser, static_page):
    """Opens the static page where nothing but the disk can be reached."""
    contexts = []

    def open_it(width=1280, **options):
        context = browser.new_context(
            viewport={"width": width, "height": 1400}, offline=True, **options
        )
        contexts.append(context)
        context.route(re.compile("^https?:"), lambda route: route.abort())
        page = context.new_page()
        page.goto(static_page.as_uri(), wait_until="domcontentloaded")
        return page

    yield open_it
    for context in contexts:
        context.close()


def complaints(page):
    """A list that fills with errors of the page; what an aborted download says is none."""
    heard = []
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on(
        "console",
        lambda message: (
            heard.append(message.text)
            if message.type == "error" and "Failed to load resource" not in message.text
            else None
        ),
    )
    return heard


def frame_of(page, title):
    return page.frame_locator(f"iframe[title='{title}']").first


def slider_of(root):
    return root.get_by_role("slider", name="Drag the temperature")


def numbers_of(root):
    """The table for screen readers: a row each for label, teacher and, where given, student."""
    values = root.locator(".kdlib-temperature .unseen td data").evaluate_all(
        "cells => cells.map(cell => Number(cell.value))"
    )
    return torch.tensor(values, dtype=torch.float64).reshape(10, -1).T


def temperature_of(root):
    return float(root.locator(".kdlib-temperature .readout").text_content())


def index_of(root):
    chosen = root.locator(".thumbnail[aria-selected=true]")
    assert chosen.count() == 1
    return int(chosen.get_attribute("data-index"))


def shows_what_torch_computes(root, given=GIVEN):
    temperature, index = temperature_of(root), index_of(root)
    label, teacher, *student = numbers_of(root)
    p = (given.teacher[index].double() / temperature).softmax(-1)
    q = torch.full((10,), 0.1, dtype=torch.float64)  # where no student is given, an untrained one
    assert label.tolist() == [float(k == given.labels[index]) for k in range(10)]
    assert (teacher - p).abs().max() < 1e-6
    assert len(student) == (given.student is not None)
    if student:
        q = (given.student[index].double() / temperature).softmax(-1)
        assert (student[0] - q).abs().max() < 1e-6
    nats = torch.special.entr(p).sum().item()
    assert abs(float(root.locator(".entropy data").get_attribute("value")) - nats) < 1e-6
    marker_stands_at(root, temperature, nats)
    sizes, places = (
        root.locator(".gradient .mark").evaluate_all(f"ms => ms.map(m => Number({read}))")
        for read in ("m.dataset.size", "m.getAttribute('cy')")
    )
    gap = (q - p).norm().item()
    assert sizes == pytest.approx([temperature * gap, gap / temperature], rel=1e-5)
    top, bottom = 10, 196  # 100 and 10⁻⁵
    shares = (2 - np.log10(np.array(sizes))) / 7
    assert places == pytest.approx(top + (bottom - top) * shares.clip(0, 1), abs=0.01)
    log_scale = root.get_by_label("log scale").is_checked()
    lengths = (1 + p.log10() / 9).clamp(min=0) if log_scale else p
    assert np.allclose(lengths_of_bars(root), lengths, atol=1e-6)


def says_what_it_shows(root):
    """The table for screen readers, in words, once the hand rests."""
    title = f"Soft targets of image {index_of(root)} at temperature"
    table = root.locator(".kdlib-temperature .unseen table")
    table.filter(has_text=f"{title} {temperature_of(root):.1f}").wait_for(state="attached")
    words = " ".join(table.locator("td:nth-child(3)").all_text_contents())
    words = words.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")).replace("·10", "e")
    spoken = [float(re.sub("^10-", "1e-", word)) for word in words.split()]
    assert spoken == pytest.approx(numbers_of(root)[1].tolist(), abs=0.005)


def lengths_of_bars(root):
    """As parts of the outline that marks the label, which is 1 long."""
    widths = root.locator(".targets svg").evaluate(
        """svg => [".outline", "rect.teacher"].map(name =>
            [...svg.querySelectorAll(name)].map(bar => Number(bar.getAttribute("width"))))"""
    )
    return np.array(widths[1]) / widths[0][0]


def marker_stands_at(root, temperature, nats):
    """On the axes as they are drawn: between the ends of the line of T, below the line of ln 10."""
    place = root.locator(".entropy svg").evaluate(
        """svg => {
            const of = (chosen, names) => names.map(name => Number(svg.querySelector(chosen).getAttribute(name)));
            return [...of(".base", ["x1", "x2", "y1"]), ...of(".ceiling", ["y1"]), ...of(".mark", ["cx", "cy"])];
        }"""
    )
    left, right, bottom, ceiling, x, y = place
    along = math.log(temperature / 0.25) / math.log(200)
    assert x == pytest.approx(left + along * (right - left), abs=0.01)
    assert y == pytest.approx(bottom - nats / math.log(10) * (bottom - ceiling), abs=0.01)


def works(page, root, given=GIVEN):
    """What must be true wherever the explorer works."""
    slider = slider_of(root)
    slider.wait_for(timeout=60_000)
    slider.scroll_into_view_if_needed()
    explorer = root.locator(".kdlib-temperature")
    height = explorer.evaluate("node => node.offsetHeight")
    shows_what_torch_computes(root, given)

    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2

    def across(share):
        return box["x"] + 12 + share * (box["width"] - 24)

    start = math.log(temperature_of(root) / 0.25) / math.log(200)
    page.mouse.move(across(start), middle)
    page.mouse.down()
    for share in np.linspace(start, 0.95, 8):
        page.mouse.move(across(share), middle)
        shows_what_torch_computes(root, given)
        assert explorer.evaluate("node => node.offsetHeight") == height
    assert temperature_of(root) == pytest.approx(0.25 * 200**0.95, rel=0.1)
    one = math.log(4) / math.log(200)
    page.mouse.move(across(one) + 3, middle)
    assert temperature_of(root) == 1.0
    page.mouse.up()
    assert slider.get_attribute("aria-valuetext") == "temperature 1.0"

    slider.focus()
    for key, wanted in (
        ("ArrowRight", 1.1),
        ("ArrowUp", 1.2),
        ("ArrowLeft", 1.1),
        ("ArrowDown", 1.0),
        ("ArrowDown", 0.9),
        ("PageUp", 1.4),
        ("PageDown", 0.9),
        ("End", 50.0),
        ("ArrowRight", 50.0),
        ("Home", 0.25),
        ("ArrowLeft", 0.25),
    ):
        page.keyboard.press(key)
        assert temperature_of(root) == wanted, key
        shows_what_torch_computes(root, given)
    assert slider.get_attribute("aria-valuetext") == "temperature 0.25"

    root.locator(".thumbnail").nth(2).click()
    assert index_of(root) == given.order[2]
    page.keyboard.press("ArrowRight")
    assert index_of(root) == given.order[3]
    shows_what_torch_computes(root, given)
    root.get_by_label("class", exact=True).select_option("3")
    assert given.labels[index_of(root)] == 3
    root.get_by_role("button", name="random image").click()
    assert given.labels[index_of(root)] == 3
    root.get_by_label("class", exact=True).select_option("all")

    play = root.get_by_role("button", name="play a sweep of the temperature")
    before = temperature_of(root)
    play.click()
    page.wait_for_timeout(400)
    root.get_by_role("button", name="pause a sweep of the temperature").click()
    assert temperature_of(root) != before
    shows_what_torch_computes(root, given)
    root.get_by_label("log scale").check()
    assert root.locator(".targets .axis text").first.text_content() == "10⁻⁹"
    shows_what_torch_computes(root, given)
    slider.focus()
    page.keyboard.press("Home")
    for _ in range(24):
        page.keyboard.press("ArrowRight")
        shows_what_torch_computes(root, given)
    root.get_by_label("log scale").uncheck()
    shows_what_torch_computes(root, given)
    says_what_it_shows(root)
    assert explorer.evaluate("node => node.offsetHeight") == height


def keys_stay_in(page, cell):
    """JupyterLab would add a cell at "a", and at an arrow make another one active."""
    slider_of(cell).click()
    before = page.locator(".jp-Cell").count()
    active = page.locator(".jp-Cell.jp-mod-active").get_attribute("data-windowed-list-index")
    for key in ("a", "ArrowDown", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    assert page.locator(".jp-Cell").count() == before
    still = page.locator(".jp-Cell.jp-mod-active").get_attribute("data-windowed-list-index")
    assert still == active is not None


def run_cell(page, place):
    """Shift+Enter in a cell, until it has its number: the first one imports everything, which takes."""
    cell = page.locator(".jp-CodeCell").nth(place)
    prompt = cell.locator(".jp-InputPrompt")
    for _ in range(3):  # a page that is not ready yet may swallow the keys
        cell.locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
        with contextlib.suppress(playwright.TimeoutError):
            prompt.filter(has_text=re.compile(r"\[(\d+|\*)\]")).wait_for(timeout=10_000)
            break
    prompt.filter(has_text=re.compile(r"\[\d+\]")).wait_for(timeout=240_000)


def test_live_it_works_tells_python_and_goes_on_when_the_kernel_is_shut_down(
    lab, opened, outputs_settle
):
    lab.plant(
        "live",
        [MAKE, "print('chosen', explorer.temperature, explorer.index)", "explorer.temperature = 8"],
    )
    page = opened("live")
    cell = page.locator(".jp-CodeCell").nth(0)
    heard = complaints(page)
    run_cell(page, 0)
    works(page, cell)
    assert cell.locator("iframe").count() == 0
    keys_stay_in(page, cell)
    outputs_settle(page)
    run_cell(page, 1)
    page.get_by_text(f"chosen {temperature_of(cell)} {index_of(cell)}").wait_for()
    run_cell(page, 2)
    page.wait_for_function("() => document.querySelector('.kdlib .readout').textContent === '8.00'")
    shows_what_torch_computes(cell)
    assert heard == []
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_role("menuitem", name="Shut Down Kernel", exact=True).click()
    page.locator(".jp-Notebook-ExecutionIndicator:not([data-status=idle])").wait_for(
        state="attached"
    )
    works(page, cell)
    # ipywidgets says that nobody listens any more; nothing else may be said.
    assert all(text.startswith("Could not send widget sync message") for text in heard)


SAVE = """
import torch
some_labels = data.test.labels[some].tolist()
torch.save((some_labels, logits[some].cpu(), z[few].cpu(), logits[few].cpu()), "given.pt")
"""


def bring_into_view(place):
    """Step up from the end where Run All leaves the page: old JupyterLabs hide what is out of view."""
    for _ in range(30):
        try:
            return place.scroll_into_view_if_needed(timeout=5_000)
        except playwright.TimeoutError:
            place.page.locator(".jp-WindowedPanel-outer").evaluate("e => e.scrollBy(0, -1500)")
    raise AssertionError("it never came into view")


def test_notebook_02_run_by_clicking_shows_its_own_teacher(lab, run_all, outputs_settle):
    notebook = nbformat.read(lab.notebooks / "02_temperature.ipynb", as_version=4)
    place = next(k for k, c in enumerate(notebook.cells) if "student_logits" in c.source)
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(SAVE))
    lab.plant("02_run", notebook)
    page = run_all("02_run")
    heard = complaints(page)
    outputs_settle(page)
    labels, teacher, student, few = torch.load(lab.notebooks / "given.pt")
    explorers = page.locator(".jp-CodeCell:has(.kdlib-temperature)")
    students = page.locator("rect.student")
    alone, with_student = explorers.filter(has_not=students), explorers.filter(has=students)
    bring_into_view(with_student)
    shows_what_torch_computes(with_student, Given(labels[:60], few, student))
    bring_into_view(alone)
    works(page, alone, Given(labels, teacher))
    assert heard == []


def test_python_hears_of_a_drag_once_when_the_reader_lets_go(lab, opened):
    listen = "heard = []\nexplorer.observe(lambda change: heard.append(change.new), 'temperature')"
    lab.plant("sync", [MAKE, listen, "print('heard', heard)"])
    page = opened("sync")
    cell = page.locator(".jp-CodeCell").nth(0)
    run_cell(page, 0)
    run_cell(page, 1)
    slider_of(cell).wait_for(timeout=60_000)
    slider_of(cell).scroll_into_view_if_needed()
    box = slider_of(cell).bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    for step in range(20):
        page.mouse.move(box["x"] + box["width"] / 2 + 10 * step, middle)
    page.mouse.up()
    run_cell(page, 2)
    page.get_by_text(f"heard [{temperature_of(cell)}]").wait_for()


def test_an_explorer_of_a_saved_notebook_works_where_it_is_trusted(lab, opened, saved):
    lab.plant("trusted", saved)
    lab.trust("trusted")
    page = opened("trusted")
    heard = complaints(page)
    works(page, frame_of(page, "temperature explorer"))
    assert heard == []


def test_a_notebook_that_is_not_trusted_shows_the_picture_and_how_to_trust_it(lab, opened, saved):
    saved = copy.deepcopy(saved)
    saved.cells.append(nbformat.v4.new_markdown_cell("Trust goes by content: this one is another."))
    lab.plant("untrusted", saved)
    page = opened("untrusted")
    for alt in ("An image of class", "Test errors of students", "picture 1 of 4"):
        picture = page.locator(f"img[alt*='{alt}']").first
        picture.scroll_into_view_if_needed()
        assert picture.is_visible()
        assert picture.evaluate("image => image.complete && image.naturalWidth") > 200
    assert page.get_by_text("Trust Notebook").count() == len(SOURCES)
    assert page.get_by_text("Trust Notebook").first.is_visible()
    assert page.locator("iframe[srcdoc]").count() == 0


def test_a_static_page_from_the_disk_works_without_a_network(offline):
    page = offline()
    heard = complaints(page)
    works(page, frame_of(page, "temperature explorer"))
    assert heard == []


def test_where_the_explorer_works_nothing_of_the_picture_is_seen(offline):
    for width in (400, 900, 1600):
        page = offline(width)
        for title in ("temperature explorer", "distillation explorer", "flipbook"):
            frame = page.locator(f"iframe[title='{title}']").first
            frame_of(page, title).locator(".kdlib").wait_for()
            hidden = frame.evaluate(
                """frame => {
                    const over = frame.getBoundingClientRect();
                    const stage = frame.parentElement.getBoundingClientRect();
                    return ["left", "right", "top", "bottom"].every(side => Math.abs(over[side] - stage[side]) < 1)
                        && getComputedStyle(frame.parentElement).overflow === "hidden";
                }"""
            )
            assert hidden
            inside = frame_of(page, title).locator("html")
            assert (
                inside.evaluate("page => getComputedStyle(page).backgroundColor")
                != "rgba(0, 0, 0, 0)"
            )


@pytest.mark.parametrize("width", WIDTHS)
def test_the_frame_is_as_high_as_its_explorer_and_nothing_sticks_out(offline, width):
    page = offline(width)
    for place in range(page.locator("iframe").count()):
        frame = page.frame_locator("iframe").nth(place)
        frame.locator(".kdlib").wait_for()
        room, high, wide, across = frame.locator("html").evaluate(
            "page => [innerHeight, page.scrollHeight, page.scrollWidth, innerWidth]"
        )
        assert high <= room, (place, high, room)
        assert frame.locator(".kdlib").evaluate("node => node.offsetHeight") > 0.8 * room, place
        assert wide <= across, place


@pytest.mark.parametrize("width", WIDTHS)
def test_the_chosen_thumbnail_is_seen_whole(offline, width):
    root = frame_of(offline(width), "temperature explorer")
    chosen = root.locator(".thumbnail[aria-selected=true]")
    for _ in range(3):
        place = chosen.evaluate(
            """chosen => {
                const [own, strip] = [chosen, chosen.parentElement].map(n => n.getBoundingClientRect());
                return [own.left - strip.left, strip.right - own.right];
            }"""
        )
        assert min(place) >= 4, place  # its outline included
        root.get_by_role("button", name="random image").click()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_grid_is_dragged_and_moved_by_keyboard_and_shows_what_was_measured(offline, width):
    page = offline(width)
    root = frame_of(page, "distillation explorer")
    temperature = root.get_by_role("slider", name="Drag the temperature T")
    alpha = root.get_by_role("slider", name="and the weight α")
    table = kd.results("student").query("experiment == 'grid 30' and metric == 'test_errors'")
    mean = table.groupby("setting")["value"].mean()
    labels = mean["T = 1, alpha = 0"]
    height = root.locator(".kdlib").evaluate("node => node.offsetHeight")
    temperature.focus()
    page.keyboard.press("Home")
    for T in (1, 2, 4, 8, 20):
        assert root.locator(".kdlib").evaluate("node => node.offsetHeight") == height
        assert temperature.get_attribute("aria-valuetext") == f"temperature {T}"
        shown = root.get_by_text(f"T = {T}, α = 0.9: ")
        assert shown.text_content().startswith(
            f"T = {T}, α = 0.9: {mean[f'T = {T}, alpha = 0.9']:.0f} ["
        )
        right = [
            f"{100 - errors / 100:.2f} %" for errors in (mean[f"T = {T}, alpha = 0.9"], labels)
        ]
        text = root.get_by_text("Accuracy ").text_content()
        assert re.findall(r"[\d.]+ %", text) == right
        page.keyboard.press("ArrowRight")
    alpha.focus()
    page.keyboard.press("Home")
    root.get_by_text("the temperature plays no part").wait_for()
    box = root.locator(".map svg").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 10, steps=5)
    page.mouse.up()
    assert temperature.get_attribute("aria-valuetext") == "temperature 20"
    assert alpha.get_attribute("aria-valuetext").endswith(" 1")


def test_the_flipbook_turns_its_pages_by_keyboard_and_shows_one_at_a_time(offline):
    page = offline()
    root = frame_of(page, "flipbook")
    slider = root.get_by_role("slider")
    slider.focus()
    for name in ("two", "three", "four", "four"):
        page.keyboard.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") == name
        assert root.locator("img.shown").get_attribute("alt") == name
        assert (
            root.locator("img.shown").evaluate("image => image.complete && image.naturalWidth") > 0
        )
    page.keyboard.press("Home")
    root.get_by_role("button", name="play the pictures").click()
    root.get_by_role("button", name="play the pictures").wait_for()
    assert root.locator("img.shown").get_attribute("alt") == "four"


def test_readers_who_asked_for_less_motion_see_single_steps(offline):
    page = offline(reduced_motion="reduce")
    root = frame_of(page, "temperature explorer")
    before = temperature_of(root)
    root.get_by_role("button", name="play a sweep").click()
    page.wait_for_timeout(500)
    assert temperature_of(root) == before
    page.wait_for_timeout(900)
    assert temperature_of(root) != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_explorers_are_accessible(offline, scheme):
    source = AXE.read_bytes()
    assert hashlib.sha256(source).hexdigest() == AXE_SHA256
    page = offline(color_scheme=scheme)
    for title in ("temperature explorer", "distillation explorer", "flipbook"):
        root = frame_of(page, title).locator(".kdlib")
        root.wait_for()
        found = root.evaluate(
            """async (root, source) => {
                (0, eval)(source);
                const { violations } = await axe.run(document);
                return violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`);
            }""",
            source.decode(),
        )
        of_pages = ("landmark", "page-has-heading", "region")  # a frame is no page of its own
        assert [each for each in found if not each.startswith(of_pages)] == [], title


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 900, 1600])
def test_a_picture_of_each_is_kept_for_looking_at(offline, scheme, width):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page = offline(width, color_scheme=scheme)
    for title in ("temperature explorer", "distillation explorer", "flipbook"):
        frame_of(page, title).locator(".kdlib").wait_for()
        path = SCREENSHOTS / f"{title.split()[0]}-{width}-{scheme}.png"
        page.locator(f"iframe[title='{title}']").first.screenshot(path=path)
        assert path.stat().st_size > 5_000
