"""What a newcomer does after ``make lab``, in a real browser: Run All, drag a slider, make a guess."""

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = pytest.mark.browser

PREDICTION = (
    'import kdlib as kd\nguess = kd.predict("Will it make more errors?", ["more", "fewer"])',
    'count = kd.predict("How many errors will it make?", range(0, 101))',
    'guess.reveal("fewer")\ncount.reveal(41)',
)


def bring_into_view(place):
    """Step up from the end where Run All leaves the page: old JupyterLabs hide what is out of view."""
    for _ in range(30):
        try:
            return place.scroll_into_view_if_needed(timeout=5_000)
        except playwright.TimeoutError:
            place.page.locator(".jp-WindowedPanel-outer").evaluate("e => e.scrollBy(0, -1500)")
    raise AssertionError("it never came into view")


def test_run_all_finishes_in_the_first_notebook(run_all, outputs_settle):
    page = run_all("00_start_here")
    outputs_settle(page)
    page.get_by_text("soft targets against labels, errors:").first.wait_for()
    page.wait_for_function(
        "() => document.querySelectorAll('.jp-OutputArea img').length >= 4", timeout=30_000
    )


def test_the_slider_of_notebook_02_replaces_its_picture_in_place(run_all, outputs_settle):
    page = run_all("02_temperature")
    outputs_settle(page)
    slider = page.locator(".widget-hslider").first
    bring_into_view(slider)
    cell = page.locator(".jp-CodeCell", has=page.locator(".widget-hslider"))
    picture = cell.locator("img")
    before, pictures = picture.first.get_attribute("src"), picture.count()
    track, handle = slider.bounding_box(), slider.locator(".noUi-handle").bounding_box()
    grip = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(*grip)
    page.mouse.down()
    page.mouse.move(track["x"] + 0.8 * track["width"], grip[1], steps=8)
    page.mouse.up()
    page.wait_for_function(
        "([cell, before]) => cell.querySelector('img').src !== before",
        arg=[cell.element_handle(), before],
        timeout=30_000,
    )
    assert picture.count() == pictures == 1
    readout = cell.locator(".widget-readout").first.inner_text()
    assert float(readout) > 4.0


def test_a_guess_made_by_mouse_and_keyboard_is_shown_beside_the_answer_and_stays(
    lab, opened, outputs_settle
):
    lab.plant("prediction", PREDICTION)
    page = opened("prediction")
    cells = page.locator(".jp-CodeCell")
    for place in (0, 1):
        cells.nth(place).locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
    fewer = cells.nth(0).get_by_role("radio", name="fewer")
    fewer.wait_for(timeout=120_000)
    assert page.get_by_role("radio", checked=True).count() == 0
    fewer.click()
    cells.nth(0).get_by_text("Noted.").wait_for()
    slider = cells.nth(1).get_by_role("slider")
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    cells.nth(1).get_by_text("Noted.").wait_for()
    cells.nth(2).locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    page.get_by_text("Your guess: fewer. Measured: fewer.").wait_for()
    page.get_by_text("Your guess: 5. Measured: 41.").wait_for()
    outputs_settle(page)
    assert fewer.is_checked() and fewer.is_disabled()
    assert cells.nth(0).locator(".jp-OutputArea-output").count() == 1  # no text beside the widget
