"""The first homework in a real browser: a stub, a mistake with its hints, then right answers."""

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = [pytest.mark.browser, pytest.mark.slow]

AVERAGED = """
def soft_target_loss(student, teacher, temperature):
p = F.softmax(teacher / temperature, dim=-1).detach()
log_q = F.log_softmax(student / temperature, dim=-1)
return temperature**2 * F.kl_div(log_q, p)
"""
SOLUTIONS = {
    "soften": """
def soften(logits, temperature):
return F.softmax(logits / temperature, dim=-1)
""",
    "soft_target_loss": AVERAGED.replace("log_q, p)", 'log_q, p, reduction="batchmean")'),
    "hinton_loss": """
def hinton_loss(student, teacher, labels, temperature, alpha):
soft = soft_target_loss(student, teacher, temperature)
return alpha * soft + (1 - alpha) * F.cross_entropy(student, labels)
""",
    "soft_target_gradient": """
def soft_target_gradient(s, t, T):
return T * (soften(s, T) - soften(t, T)) / len(s)
""",
    "logit_matching_loss": """
def logit_matching_loss(student, teacher):
return (student - teacher).var(-1, unbiased=False).mean() / 2
""",
    "choose_temperature": """
def choose_temperature(temperatures, validation_errors, test_errors):
best = validation_errors.mean(1).argmin()
return temperatures[best], test_errors[best].mean()
""",
}


def written(page, cell, text):
    """Type into a cell as a student would, and run it."""
    cell.scroll_into_view_if_needed()
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text.strip().replace("\n", "\n    "))
    page.keyboard.press("Shift+Enter")


def checked(page, cell):
    cell.scroll_into_view_if_needed()
    cell.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")


def test_a_student_meets_the_hints_of_a_mistake_and_passes_every_check(run_all, outputs_settle):
    page = run_all("homework/release/hw1/hw1_soft_targets")
    outputs_settle(page)
    assert page.get_by_text("soften: not written yet").count() >= 1

    def cells(name):
        solve = page.locator(".jp-CodeCell", has_text=f"def {name}(").first
        check = page.locator(".jp-CodeCell", has_text=f"kd.grading.check_{name}({name}").first
        return solve, check

    solve, check = cells("soft_target_loss")
    written(page, solve, AVERAGED)
    checked(page, check)
    check.get_by_text("2 of 8 properties fail, 6 of 8 points so far").wait_for(timeout=120_000)
    check.get_by_text("10 times too small").first.wait_for(timeout=120_000)
    hint = check.get_by_text("is the mean taken over classes, too?")
    cure = check.get_by_text('reduction="batchmean" sums')
    assert not hint.is_visible() and not cure.is_visible()  # folded
    for k in (1, 2, 3):
        check.get_by_text(f"Hint {k} of 3").click()
    assert hint.is_visible() and cure.is_visible()

    for name, text in SOLUTIONS.items():
        solve, check = cells(name)
        written(page, solve, text)
        checked(page, check)
        check.get_by_text("all properties hold").wait_for(timeout=120_000)
    page.get_by_text("points so far").wait_for(state="detached", timeout=120_000)
