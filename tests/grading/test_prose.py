"""A student's prose: what a browser may be shown as it is."""

import pytest
from bs4 import BeautifulSoup
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from kdlib.course.grading.prose import LONGEST, pictures, safe

PICTURE = {"s.png": {"image/png": "iVBORw0KGgo="}}


def page(source, attachments=None):
    renderer = IPythonRenderer(escape=False, attachments=attachments)
    return BeautifulSoup(MarkdownWithMath(renderer=renderer).render(source), "html.parser")


@pytest.mark.parametrize(
    "source",
    [
        "In **five** sentences: `p < q`, $p<q$, and so on.",
        "> quoted\n\n1. one\n2. two\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n$$T^2$$",
        "a < b, c<d & e",
        "[a paper](https://arxiv.org/abs/1503.02531), [me](mailto:ada@example.org)",
        "```python\nx = [i for i in range(3)]\n```",
        "# A heading\n\n![a sketch](attachment:s.png)",
    ],
)
def test_an_honest_answer_stays_as_it_was_written(source):
    assert safe(source, PICTURE) == source


@pytest.mark.parametrize(
    "source",
    [
        "[proof](javascript:alert(1))",
        "[proof](java&#115;cript:alert(1))",
        "[proof]\n\n[proof]: vbscript:alert(1)",
        "<a href='javascript:alert(1)'>proof</a>",
        "<script>alert(1)</script>",
        "text <b onclick='alert(1)'>bold</b>",
        "<svg onload=alert(1)></svg>",
        "<iframe src='https://example.org'></iframe>",
        "<style>body { display: none }</style>",
        "<p style='position: fixed'>over everything</p>",
        "![spy](https://example.org/x.png)",
        "![missing](attachment:t.png)",
        "```\nx\n```\n\n<script>alert(1)</script>\n\n`````",
        "<!-- never closed",
    ],
)
def test_what_holds_more_than_text_links_and_pictures_is_shown_as_its_source(source):
    shown = page(safe(source, PICTURE))
    assert {tag.name for tag in shown.find_all(True)} <= {"div", "pre", "code", "span"}
    assert shown.get_text().strip() == source.strip()


def test_a_long_answer_is_cut():
    shown = safe("x" * (LONGEST + 5), {})
    assert len(shown) < LONGEST + 100 and shown.endswith("… and 5 more characters")


def test_only_pictures_are_attached():
    assert pictures(PICTURE) == PICTURE
    for other in (None, [], {"a": None}, {"a": {"text/html": "aGk="}}, {"a": {"image/png": "%"}}):
        assert pictures(other) == {}
