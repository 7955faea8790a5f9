"""The explorers as a reader meets them: live, without a kernel, trusted, untrusted, on a static page.

`works` holds what must be true wherever an explorer works.
"""

import contextlib
import copy
import hashlib
import inspect
import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path

import lesson
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

import kdlib as kd

from .conftest import KERNEL

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = [pytest.mark.browser, pytest.mark.slow]

AXE = Path(__file__).parent / "vendor" / "axe-core-4.14.1.min.js"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
TITLES = ("temperature explorer", "distillation explorer", "flipbook")
every_width = pytest.mark.parametrize("width", [400, 640, 900, 1040, 1600])


def made():
    """The explorer of the tests, the same in every process, and what it was made from."""
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
    """What an explorer was made from; what it must show is computed from it."""

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


def students(temperatures, alphas, seeds):
    rows = itertools.product(temperatures, alphas, range(seeds))
    table = pd.DataFrame(rows, columns=["temperature", "alpha", "seed"])
    return table.assign(test_errors=100 - table.alpha * table.temperature + table.seed)


def explorers():
    """Explorers of every kind, some of them large; the first of each kind is the one used."""
    draw, kinds = np.random.default_rng(0), kd.widgets
    grid = kd.results("student").query("experiment == 'grid 30'")
    cohort = students([1, 4, 20], [0, 0.5, 1], 3)
    large = students(range(1, 11), np.arange(11) / 10, 2).assign(test_errors=100)
    dogs = [f"German shorthaired pointer {k}" for k in range(100)]
    few, many = draw.normal(0, 3, (5, 10)), draw.normal(0, 3, (5, 100))
    grey, coloured = np.zeros((5, 8, 8)), np.zeros((5, 3, 8, 8))
    return [
        made()[0],
        kinds.DistillationExplorer(grid, test_images=10_000),
        kinds.Flipbook(draw.random((4, 28, 28)), ["one", "two", "three", "four"]),
        kinds.DistillationExplorer(cohort.assign(soft=cohort.alpha, hard=1 - cohort.alpha)),
        kinds.Flipbook(draw.random((2, 84, 28)), ["high", "and low"]),
        kinds.TemperatureExplorer(few, grey, range(5), list("0123456789")),
        kinds.TemperatureExplorer(many, coloured, range(5), dogs),
        kinds.DistillationExplorer(large, test_images=1000),
    ]


@pytest.fixture(scope="module")
def saved():
    """A notebook that shows them, as make lesson saves it."""
    data = [explorer._repr_mimebundle_()[0] for explorer in explorers()]
    outputs = [nbformat.v4.new_output("display_data", each) for each in data]
    cells = [nbformat.v4.new_code_cell("explorer", outputs=[output]) for output in outputs]
    return lesson.cleaned(nbformat.v4.new_notebook(cells=cells))


@pytest.fixture(scope="module")
def offline(browser, saved, tmp_path_factory):
    """Opens that notebook as a page on the disk, with nothing else in reach; each kind of page once."""
    nbconvert = pytest.importorskip("nbconvert", reason="needs nbconvert")
    path = tmp_path_factory.mktemp("site") / "page.html"
    path.write_text(nbconvert.HTMLExporter().from_notebook_node(saved)[0])
    pages = {}

    def open_it(width=1280, **options):
        kind = width, *options.items()
        if kind not in pages:
            size = {"width": width, "height": 1400}
            context = browser.new_context(viewport=size, offline=True, **options)
            context.route(re.compile("^https?:"), lambda route: route.abort())
            pages[kind] = context.new_page()
            pages[kind].goto(path.as_uri(), wait_until="domcontentloaded")
        pages[kind].bring_to_front()
        return pages[kind]

    yield open_it
    for page in pages.values():
        page.context.close()


def complaints(page):
    """A list that fills with the page's errors; an aborted download is not one."""
    heard = []

    def listen(message):
        if message.type == "error" and "Failed to load resource" not in message.text:
            heard.append(message.text)

    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("console", listen)
    return heard


def frame_of(page, title):
    return page.frame_locator(f"iframe[title='{title}']").first


def slider_of(root):
    return root.get_by_role("slider", name="Drag the temperature")


# All that a temperature explorer shows, in one call to the browser.
SHOWN = """root => {
    const all = (chosen, read) => [...root.querySelectorAll(chosen)].map(read);
    const at = (chosen, ...names) =>
        names.map(name => Number(root.querySelector(chosen).getAttribute(name)));
    return {
        temperature: Number(root.querySelector(".readout").textContent),
        chosen: all(".thumbnail[aria-selected=true]", option => Number(option.dataset.index)),
        numbers: all(".unseen td data", cell => Number(cell.value)),
        nats: at(".entropy data", "value")[0],
        axes: [...at(".entropy .base", "x1", "x2", "y1"), ...at(".entropy .ceiling", "y1")],
        mark: at(".entropy .mark", "cx", "cy"),
        sizes: all(".gradient .mark", mark => Number(mark.dataset.size)),
        heights: all(".gradient .mark", mark => Number(mark.getAttribute("cy"))),
        logScale: root.querySelector(".toggle input").checked,
        outline: at(".targets .outline", "width")[0],
        bars: all(".targets rect.teacher", bar => Number(bar.getAttribute("width"))),
        height: root.offsetHeight,
    };
}"""


def shown_by(root):
    return root.locator(".kdlib-temperature").evaluate(SHOWN)


def temperature_of(root):
    return shown_by(root)["temperature"]


def index_of(root):
    (index,) = shown_by(root)["chosen"]
    return index


def shows_what_torch_computes(root, given=GIVEN):
    """Compare everything shown with the logits, and return the temperature and the height."""
    shown = shown_by(root)
    temperature, (index,) = shown["temperature"], shown["chosen"]
    numbers = torch.tensor(shown["numbers"], dtype=torch.float64).reshape(10, -1).T
    label, teacher, *student = numbers  # (10,) each, as screen readers get them
    p = (given.teacher[index].double() / temperature).softmax(-1)
    q = torch.full((10,), 0.1, dtype=torch.float64)  # where no student is given, an untrained one
    assert label.tolist() == [float(k == given.labels[index]) for k in range(10)]
    assert (teacher - p).abs().max() < 1e-6
    assert len(student) == (given.student is not None)
    if student:
        q = (given.student[index].double() / temperature).softmax(-1)
        assert (student[0] - q).abs().max() < 1e-6
    nats = torch.special.entr(p).sum().item()
    assert abs(shown["nats"] - nats) < 1e-6
    # The mark stands on the axes as they are drawn: between the ends of T, below the line of ln 10.
    left, right, bottom, ceiling = shown["axes"]
    along = math.log(temperature / 0.25) / math.log(200)
    place = left + along * (right - left), bottom - nats / math.log(10) * (bottom - ceiling)
    assert shown["mark"] == pytest.approx(place, abs=0.01)
    gap = (q - p).norm().item()
    assert shown["sizes"] == pytest.approx([temperature * gap, gap / temperature], rel=1e-5)
    top, bottom = 10, 196  # 100 and 10⁻⁵
    shares = (2 - np.log10(shown["sizes"])) / 7
    assert shown["heights"] == pytest.approx(top + (bottom - top) * shares.clip(0, 1), abs=0.01)
    lengths = (1 + p.log10() / 9).clamp(min=0) if shown["logScale"] else p
    assert np.allclose(np.array(shown["bars"]) / shown["outline"], lengths, atol=1e-6)
    return temperature, shown["height"]


def tells_screen_readers_what_it_shows(root):
    """The words in the table, once the hand rests."""
    title = f"Soft targets of image {index_of(root)} at temperature"
    table = root.locator(".kdlib-temperature .unseen table")
    table.filter(has_text=f"{title} {temperature_of(root):.1f}").wait_for(state="attached")
    words = " ".join(table.locator("td:nth-child(3)").all_text_contents())
    words = words.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")).replace("·10", "e")
    spoken = [float(re.sub("^10-", "1e-", word)) for word in words.split()]
    columns = len(shown_by(root)["numbers"]) // 10
    teacher = shown_by(root)["numbers"][1::columns]
    assert spoken == pytest.approx(teacher, abs=0.005)


def works(page, root, given=GIVEN):
    """Check all that must be true wherever the explorer works."""
    slider = slider_of(root)
    slider.wait_for(timeout=60_000)
    slider.scroll_into_view_if_needed()
    at_first, height = shows_what_torch_computes(root, given)

    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2

    def across(share):
        return box["x"] + 12 + share * (box["width"] - 24)

    start = math.log(at_first / 0.25) / math.log(200)
    page.mouse.move(across(start), middle)
    page.mouse.down()
    for share in np.linspace(start, 0.95, 8):
        page.mouse.move(across(share), middle)
        temperature, still = shows_what_torch_computes(root, given)
        assert still == height
    assert temperature == pytest.approx(0.25 * 200**0.95, rel=0.1)
    one = math.log(4) / math.log(200)
    page.mouse.move(across(one) + 3, middle)
    assert temperature_of(root) == 1.0
    page.mouse.up()
    assert slider.get_attribute("aria-valuetext") == "temperature 1.0"

    slider.focus()
    near = [("ArrowRight", 1.1), ("ArrowUp", 1.2), ("ArrowLeft", 1.1), ("ArrowDown", 1.0)]
    far = [("ArrowDown", 0.9), ("PageUp", 1.4), ("PageDown", 0.9), ("End", 50.0)]
    beyond = [("ArrowRight", 50.0), ("Home", 0.25), ("ArrowLeft", 0.25)]
    for key, rung in near + far + beyond:
        page.keyboard.press(key)
        assert shows_what_torch_computes(root, given) == (rung, height), key
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

    root.get_by_role("button", name="play a sweep of the temperature").click()
    pause = root.get_by_role("button", name="pause a sweep of the temperature")
    readout = root.locator(".kdlib-temperature .readout")
    playwright.expect(readout).not_to_have_text("0.250")
    pause.click()
    assert shows_what_torch_computes(root, given)[0] != 0.25
    root.get_by_label("log scale").check()
    assert root.locator(".targets .axis text").first.text_content() == "10⁻⁹"
    slider.focus()
    page.keyboard.press("Home")
    for _ in range(24):
        shows_what_torch_computes(root, given)
        page.keyboard.press("ArrowRight")
    root.get_by_label("log scale").uncheck()
    assert shows_what_torch_computes(root, given)[1] == height
    tells_screen_readers_what_it_shows(root)


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
    """Press Shift+Enter in a cell and wait for its number; the first one imports everything."""
    cell = page.locator(".jp-CodeCell").nth(place)
    prompt = cell.locator(".jp-InputPrompt")
    for _ in range(3):  # a page that is not ready yet may swallow the keys
        cell.locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
        with contextlib.suppress(playwright.TimeoutError):
            prompt.filter(has_text=re.compile(r"\[(\d+|\*)\]")).wait_for(timeout=10_000)
            break
    prompt.filter(has_text=re.compile(r"\[\d+\]")).wait_for(timeout=240_000)


def test_live_it_works_tells_python_and_goes_on_without_its_kernel(lab, opened, outputs_settle):
    listen = "heard = []\nexplorer.observe(lambda change: heard.append(change.new), 'temperature')"
    tell = "print('chosen', explorer.temperature, explorer.index, 'heard', heard)"
    lab.plant("live", [MAKE, listen, tell, "explorer.temperature = 8"])
    page = opened("live")
    cell = page.locator(".jp-CodeCell").nth(0)
    complained = complaints(page)
    run_cell(page, 0)
    works(page, cell)
    assert cell.locator("iframe").count() == 0
    keys_stay_in(page, cell)
    outputs_settle(page)
    run_cell(page, 1)
    slider_of(cell).scroll_into_view_if_needed()
    box = slider_of(cell).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(20):
        page.mouse.move(x + 10 * step, y)
    page.mouse.up()  # only now Python hears of it, once
    run_cell(page, 2)
    temperature, index = temperature_of(cell), index_of(cell)
    page.get_by_text(f"chosen {temperature} {index} heard [{temperature}]").wait_for()
    run_cell(page, 3)
    page.wait_for_function("() => document.querySelector('.kdlib .readout').textContent === '8.00'")
    shows_what_torch_computes(cell)
    assert complained == []
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_role("menuitem", name="Shut Down Kernel", exact=True).click()
    page.locator(f"{KERNEL}:not([data-status=idle])").wait_for(state="attached")
    works(page, cell)
    # Only ipywidgets may complain: nobody listens to it any more.
    assert all(text.startswith("Could not send widget sync message") for text in complained)


SAVE = """
import torch
some_labels = data.test.labels[some].tolist()
torch.save((some_labels, logits[some].cpu(), z[few].cpu(), logits[few].cpu()), "given.pt")
"""


def bring_into_view(place):
    """Scroll up from the end, where Run All leaves the page: old JupyterLabs hide what is out of view."""
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


def test_an_explorer_of_a_saved_notebook_works_where_it_is_trusted(lab, opened, saved):
    lab.plant("trusted", saved)
    lab.trust("trusted")
    page = opened("trusted")
    heard = complaints(page)
    works(page, frame_of(page, "temperature explorer"))
    assert heard == []


def test_a_notebook_that_is_not_trusted_shows_the_picture_and_how_to_trust_it(lab, opened, saved):
    explorers, saved = len(saved.cells), copy.deepcopy(saved)
    saved.cells.append(nbformat.v4.new_markdown_cell("Trust goes by content: this one is another."))
    lab.plant("untrusted", saved)
    page = opened("untrusted")
    for alt in ("An image of class", "Test errors of students", "picture 1 of 4"):
        picture = page.locator(f"img[alt*='{alt}']").first
        picture.scroll_into_view_if_needed()
        assert picture.is_visible()
        assert picture.evaluate("image => image.complete && image.naturalWidth") > 200
    assert page.get_by_text("Trust Notebook").count() == explorers
    assert page.get_by_text("Trust Notebook").first.is_visible()
    assert page.locator("iframe[srcdoc]").count() == 0


@every_width
def test_the_frame_covers_the_picture_and_nothing_sticks_out_of_it(offline, width):
    page = offline(width)
    for place, frame in enumerate(page.locator("iframe").all()):
        inside = frame.content_frame
        inside.locator(".kdlib").wait_for()
        assert frame.evaluate(
            """frame => {
                const [over, stage] = [frame, frame.parentElement].map(n => n.getBoundingClientRect());
                return ["left", "right", "top", "bottom"].every(side => Math.abs(over[side] - stage[side]) < 1)
                    && getComputedStyle(frame.parentElement).overflow === "hidden";
            }"""
        ), place
        room, high, wide, across, ground = inside.locator("html").evaluate(
            """page => [innerHeight, page.scrollHeight, page.scrollWidth, innerWidth,
                getComputedStyle(page).backgroundColor]"""
        )
        assert ground != "rgba(0, 0, 0, 0)"  # through which the picture would be seen
        assert high <= room, (place, high, room)
        assert inside.locator(".kdlib").evaluate("node => node.offsetHeight") > 0.8 * room, place
        assert wide <= across, place


@every_width
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


@every_width
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
        errors = mean[f"T = {T}, alpha = 0.9"]
        shown = root.get_by_text(f"T = {T}, α = 0.9: ").text_content()
        assert shown.startswith(f"T = {T}, α = 0.9: {errors:.0f} [")
        text = root.get_by_text("Accuracy ").text_content()
        right = [f"{100 - wrong / 100:.2f} %" for wrong in (errors, labels)]
        assert re.findall(r"[\d.]+ %", text) == right
        page.keyboard.press("ArrowRight")
    alpha.focus()
    page.keyboard.press("Home")
    root.get_by_text("the temperature plays no part").wait_for()
    root.locator(".map svg").scroll_into_view_if_needed()
    box = root.locator(".map svg").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 10, steps=5)
    page.mouse.up()
    playwright.expect(temperature).to_have_attribute("aria-valuetext", "temperature 20")
    playwright.expect(alpha).to_have_attribute("aria-valuetext", "alpha 1")


def test_the_flipbook_turns_its_pages_by_keyboard_and_shows_one_at_a_time(offline):
    page = offline()
    root = frame_of(page, "flipbook")
    slider, shown = root.get_by_role("slider"), root.locator("img.shown")
    slider.focus()
    for name in ("two", "three", "four", "four"):
        page.keyboard.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") == name
        assert shown.get_attribute("alt") == name
        assert shown.evaluate("image => image.complete && image.naturalWidth") > 0
    page.keyboard.press("Home")
    root.get_by_role("button", name="play the pictures").click()
    root.get_by_role("button", name="play the pictures").wait_for()
    assert shown.get_attribute("alt") == "four"


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
    for title in TITLES:
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
        of_pages = ("landmark", "page-has-heading", "region")  # a frame is not a page of its own
        assert [each for each in found if not each.startswith(of_pages)] == [], title
