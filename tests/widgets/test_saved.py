"""The saved form: one piece of HTML that holds all it needs, and a picture for pages that drop frames."""

import base64
import html
import json
import re

import lesson
import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup

import kdlib as kd
from kdlib.course.widgets._saved import EXPORT, WHY_STILL, saved_form

NAMESPACE = "http://www.w3.org/2000/svg"  # a name, not an address that is fetched
WIDGET = "application/vnd.jupyter.widget-view+json"


def form(**changed):
    arguments = {
        "name": "small explorer",
        "source": f"function render() {{}}\n{EXPORT}\n",
        "style": "p { margin: 0 }",
        "state": {"index": 3, "_pixels": b"\x00\xff"},
        "heights": ((0, "300px"), (640, "200px")),
        "picture": b"PNG",
        "alt": 'a "small" picture',
    }
    return saved_form(**(arguments | changed))


def parsed(text):
    return BeautifulSoup(text, "html.parser", multi_valued_attributes=None)


def page_in(text):
    return parsed(parsed(text).iframe["srcdoc"])


def explorer():
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 6, (300, 10))
    images = draw.integers(0, 256, (300, 28, 28)).astype(np.uint8)  # noise: nothing compresses
    return kd.widgets.TemperatureExplorer(
        logits, images, logits.argmax(-1), list("0123456789"), logits[::-1]
    )


def test_without_its_frame_and_style_the_picture_and_the_line_are_left():
    """What JupyterLab keeps of a notebook that is not trusted."""
    left = parsed(re.sub(r"<iframe.*?</iframe>|<style>.*?</style>", "", form(), flags=re.DOTALL))
    (picture,) = left.find_all("img")
    assert base64.b64decode(picture["src"].removeprefix("data:image/png;base64,")) == b"PNG"
    assert picture["alt"] == 'a "small" picture'
    assert [line.text for line in left.find_all("p")] == [WHY_STILL]
    assert "trust" in WHY_STILL and "Trust Notebook" in WHY_STILL


def test_the_frame_covers_the_picture_and_may_run_scripts_and_nothing_else():
    (frame,) = parsed(form()).find_all("iframe")
    assert frame["sandbox"] == "allow-scripts"
    assert frame["title"] == "small explorer"
    assert not parsed(form()).find_all("script")
    assert "position: relative" in frame.parent["style"]
    for rule in ("position: absolute", "width: 100%", "height: 100%", "left: 0", "top: 0"):
        assert rule in frame["style"]


def test_no_rule_of_the_style_sheet_hides_the_picture():
    """A page may keep the style and drop the frame."""
    (style,) = re.findall(r"<style>(.*?)</style>", form(), flags=re.DOTALL)
    for rule in re.findall(r"([^{}]+)\{[^{}]*\}", style):
        assert "img" not in rule
        assert "iframe" in rule or "overflow" not in rule
    assert not re.search(r"display|visibility|opacity", style)


def test_the_frame_holds_the_very_module_and_the_state():
    script = page_in(form()).script.string
    assert script.startswith("function render() {}\n")
    saved = json.loads(re.search(r"const SAVED = (\{.*?\});\n", script)[1])
    assert saved == {"index": 3, "_pixels": {"base64": "AP8="}}


@pytest.mark.parametrize("name", ["DistillationExplorer", "Flipbook", "TemperatureExplorer"])
def test_a_module_imports_nothing_and_asks_no_network(name):
    source = getattr(kd.widgets, name)._esm
    assert source.rstrip().endswith(EXPORT)
    assert not re.search(r"\bimport\b\s*[({\"'*]|\bimport\s+\w|\brequire\(|\bfetch\(", source)
    assert re.findall(r"https?://[^\"' ]+", source) == [NAMESPACE]


def test_a_saved_explorer_asks_no_network():
    text = html.unescape(explorer().to_html())
    assert set(re.findall(r"https?://[^\"' )]+", text)) == {NAMESPACE}
    assert not re.search(r"\bsrc=\"(?!data:)|url\(|@import|<link", text)


def test_text_that_would_end_the_script_stays_text():
    nasty = '</script><img src="x"> & <!--'
    page = page_in(form(state={"classes": [nasty]}))
    (script,) = (each.string for each in page.find_all("script"))
    assert json.loads(re.search(r"const SAVED = (\{.*?\});\n", script)[1]) == {"classes": [nasty]}
    assert not page.find_all("img")


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"source": "function render() {}"}, ValueError, "source must end with"),
        ({"source": f'"</script>"; {EXPORT}'}, ValueError, "source must not have '</'"),
        ({"state": {"x": {1, 2}}}, TypeError, "state must be JSON and bytes, got set"),
    ],
)
def test_what_cannot_be_saved_is_refused(changed, error, words):
    with pytest.raises(error, match=words):
        form(**changed)


def test_three_hundred_images_stay_below_a_megabyte():
    assert len(explorer().to_html().encode()) < 1_000_000


def test_the_picture_is_drawn_when_the_saved_form_is_made_and_not_before(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        kd.widgets.TemperatureExplorer, "picture", lambda self: drawn.append(1) or b"PNG"
    )
    shown = explorer()
    for temperature in (0.25, 20.0, 50.0):  # as the reader's page sends them
        shown.set_state({"temperature": temperature})
    assert drawn == []
    shown.to_html()
    assert drawn == [1]


def test_what_is_displayed_is_the_widget_its_saved_form_and_words():
    shown = explorer()
    data, _ = shown._repr_mimebundle_()
    assert data[WIDGET]["model_id"] == shown.model_id
    assert data["text/html"] == shown.to_html()
    assert data["text/plain"] == shown.alt()


def test_cleaning_a_lesson_leaves_the_saved_form_and_no_view():
    data, _ = explorer()._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", data)
    cell = nbformat.v4.new_code_cell("explorer", outputs=[output])
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {WIDGET: {}}})
    cleaned = lesson.cleaned(notebook)
    assert set(cleaned.cells[0].outputs[0].data) == {"text/plain", "text/html"}
    assert "widgets" not in cleaned.metadata
    nbformat.validate(cleaned)
