"""A newcomer after ``make lab``, in a real browser: Run All, look, make a guess."""

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = [pytest.mark.browser, pytest.mark.slow]

PREDICTION = (
    'import kdlib as kd\nguess = kd.predict("Will it make more errors?", ["more", "fewer"])',
    'count = kd.predict("How many errors will it make?", range(0, 101))',
    'guess.reveal("fewer")\ncount.reveal(41)',
)


def test_run_all_finishes_in_the_first_notebook(run_all, outputs_settle):
    page = run_all("00_start_here")
    outputs_settle(page)
    page.get_by_text("soft targets against labels, errors:").first.wait_for()
    page.wait_for_function(
        "() => document.querySelectorAll('.jp-OutputArea img').length >= 2", timeout=30_000
    )
    assert page.get_by_role("slider", name="Drag the temperature").count() == 1


def test_the_first_screen_shows_the_lesson_and_nothing_that_asks_or_teaches_nbgrader(opened):
    page = opened("00_start_here")
    page.get_by_role("heading", name="knowledge distillation").first.wait_for()
    page.wait_for_timeout(5_000)  # the question about news comes late
    text = page.locator("body").inner_text()
    assert not [word for word in ("Jupyter news", "Nbgrader", "Create Assignment") if word in text]


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
    assert cells.nth(0).locator(".jp-OutputArea-output").count() == 1  # the widget, not its text
