"""Reports of any check, without an exercise."""

from kdlib.course.grading.report import CROSS, TICK, Failed, Known, Report, Result


def forgets_t_squared():
    """A wrong answer that is never called."""


def test_a_report_shows_the_input_the_value_and_what_was_expected():
    grows = Result("It grows by T²", 2.0, Failed("T = 4", "0.2", "3.2"))
    hints = ("Compare two temperatures.", "The factor is 16 at T = 4.")
    results = (Result("It is 0 where both agree", 1.0, None), grows)
    report = Report("my loss", results, (Known(forgets_t_squared, hints),))
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
    page = report._repr_html_()
    assert (page.count(TICK), page.count(CROSS)) == (1, 1)


def test_no_text_becomes_markup():
    tag = "<b onclick='x'>"
    results = (Result(tag, 1.0, Failed(tag, tag, tag)),)
    page = Report(tag, results, (Known(forgets_t_squared, (tag,)),))._repr_html_()
    assert "<b" not in page and page.count("&lt;b onclick") == 6
    assert "<b" not in Report(tag, (), note=tag)._repr_html_()
    assert "<b" not in Report(tag, ())._repr_html_()
