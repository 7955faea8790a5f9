"""docs/glossary.md: in order, and every name and every lesson in it is real."""

import operator
import re
from pathlib import Path

import nbformat
import pages
import pytest

import kdlib as kd

ROOT = Path(__file__).resolve().parents[1]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
# **the term, another name of it** (lesson 03; ...
ENTRIES = re.findall(r"^- \*\*([^*]+)\*\* \(lesson (\d\d)[);]", GLOSSARY, re.MULTILINE)


def words_of(number):
    (lesson,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    return plain("\n".join(cell.source for cell in nbformat.read(lesson, as_version=4).cells))


def plain(text):
    return text.casefold().replace("-", " ")


def test_every_entry_is_a_term_with_its_lesson_in_alphabetical_order():
    assert len(ENTRIES) == len(re.findall(r"^- ", GLOSSARY, re.MULTILINE)) > 40
    terms = [term.casefold() for term, _ in ENTRIES]
    assert terms == sorted(set(terms))


@pytest.mark.parametrize(("term", "lesson"), ENTRIES)
def test_the_lesson_of_a_term_uses_it(term, lesson):
    first_word = re.match(r"[\w+-]+?(?=ation\b|[\s,]|$)", term)[0]
    assert plain(first_word) in words_of(lesson)


def test_every_name_of_kdlib_exists():
    names = set(re.findall(r"`kd\.([\w.]+)", GLOSSARY))
    assert len(names) > 30
    for name in names:
        operator.attrgetter(name)(kd)


def test_the_site_can_draw_every_formula():
    formulas = re.findall(r"\$([^$]+)\$", GLOSSARY)
    assert len(formulas) > 40
    for formula in formulas:
        assert pages.mathml(formula, "inline").startswith("<math")
