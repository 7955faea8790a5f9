"""The first homework in a real browser: a stub, a mistake with its hints, then right answers."""

import re
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = [pytest.mark.browser, pytest.mark.slow]

RIGHT = Path(__file__).parents[1] / "grading" / "right" / "hw1"
TASKS = ("soften", "soft_target_loss", "hinton_loss", "soft_target_gradient")
TASKS += ("logit_matching_loss", "choose_temperature")
AVERAGED = """
def soft_target_loss(student, teacher, temperature):
    p = F.softmax(teacher / temperature, dim=-1).detach()
    return temperature**2 * F.kl_div(F.log_softmax(student / temperature, dim=-1), p)
"""


def solution(task):
    """Return the first right answer in the tests of grading, under the name that is asked for."""
    source = (RIGHT / f"{task}.py").read_text()
    return (
        f"def {task}" + re.search(r"^def \w+(.*?)(\n\n\n|\Z)", source, re.MULTILINE | re.DOTALL)[1]
    )


def run(page, cell, text=None):
    """Run a cell as a student would, after typing this text into it if any."""
    cell.scroll_into_view_if_needed()
    cell.locator(".cm-content").click()
    if text is not None:
        page.keyboard.press("Control+a")
        page.keyboard.insert_text(text.strip())
    page.keyboard.press("Shift+Enter")


def test_a_student_meets_the_hints_of_a_mistake_and_passes_every_check(run_all, outputs_settle):
    page = run_all("homework/release/hw1/hw1_soft_targets")
    outputs_settle(page)
    assert page.get_by_text("soften: not written yet").count() >= 1

    def cells(task):
        solve = page.locator(".jp-CodeCell", has_text=f"def {task}(").first
        check = page.locator(".jp-CodeCell", has_text=f"kd.grading.check_{task}({task}").first
        return solve, check

    solve, check = cells("soft_target_loss")
    run(page, solve, AVERAGED)
    run(page, check)
    check.get_by_text("2 of 8 properties fail, 6 of 8 points so far").wait_for(timeout=120_000)
    check.get_by_text("10 times too small").first.wait_for(timeout=120_000)
    hint = check.get_by_text("is the mean taken over classes, too?")
    cure = check.get_by_text('reduction="batchmean" sums')
    assert not hint.is_visible() and not cure.is_visible()  # folded
    for k in (1, 2, 3):
        check.get_by_text(f"Hint {k} of 3").click()
    assert hint.is_visible() and cure.is_visible()

    for task in TASKS:
        solve, check = cells(task)
        run(page, solve, solution(task))
        run(page, check)
        check.get_by_text("all properties hold").wait_for(timeout=120_000)
    page.get_by_text("points so far").wait_for(state="detached", timeout=120_000)
