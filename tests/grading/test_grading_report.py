"""Reports: shown as they are, without an exercise behind them."""

import pytest

from kdlib.course.grading.report import CROSS, NO_ERROR, TICK, Failed, Known, Report, Result


def forgets_t_squared():
    """A wrong answer that is never called."""


FAILED = Failed("T = 4", "0.2", "3.2")
HINTS = ("Compare two temperatures.", "The factor is 16 at T = 4.")


@pytest.fixture
def report():
    results = (Result("It is 0 where both agree", 1.0, None), Result("It grows by T²", 2.0, FAILED))
    return Report("my loss", results, (Known(forgets_t_squared, HINTS),))


def test_a_report_tells_what_was_given_what_came_and_what_was_expected(report):
    assert (report.points, report.out_of, report.passed) == (1, 3, False)
    assert repr(report).splitlines() == [
        "my loss: 1 of 2 properties fail, 1 of 3 points so far.",
        "  ✓ It is 0 where both agree",
        "  ✗ It grows by T²",
        "      with      T = 4",
        "      got       0.2",
        "      expected  3.2",
        "  Hint 1: Compare two temperatures.",
        "  (one more with hints=2)",
    ]


def test_a_page_has_every_hint_each_folded_inside_the_one_before(report):
    page = report._repr_html_()
    assert (page.count(TICK), page.count(CROSS)) == (1, 1)
    first, second = page.index(HINTS[0]), page.index(HINTS[1])
    assert first < page.index("Hint 2 of 2") < second < page.index("</details>")


def test_no_text_becomes_markup():
    tag = "<b onclick='x'>"
    results = (Result(tag, 1.0, Failed(tag, tag, tag)),)
    page = Report(tag, results, (Known(forgets_t_squared, (tag,)),))._repr_html_()
    assert "<b" not in page and page.count("&lt;b onclick") == 6
    assert "<b" not in Report(tag, (), note=tag)._repr_html_()
    assert "<b" not in Report(tag, ())._repr_html_()


def test_an_error_that_recurs_is_told_once():
    error = Failed("x = 1", "ValueError: no", NO_ERROR)
    report = Report("f", (Result("a", 1.0, error), Result("b", 1.0, error)))
    assert repr(report).count("ValueError: no") == 1 and "the same error" in repr(report)


def test_a_note_takes_all_points(report):
    noted = Report("my loss", report.results, note="not written yet")
    assert (noted.points, noted.out_of, noted.passed) == (0, 3, False)
    assert repr(noted) == "my loss: not written yet"
