"""Exercises: what a check reports on an answer, what that is worth, what an answer cannot do to it."""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from answers import known_answers
from bs4 import BeautifulSoup
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import kdlib as kd
from kdlib.course.exercises import HOMEWORKS, generations, hw1, hw2, hw3, layers, material
from kdlib.course.grading.exercise import Draw, Exercise
from kdlib.course.grading.observe import observe
from kdlib.course.grading.report import TICK

pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
EXERCISES = [exercise for exercises in HOMEWORKS.values() for exercise in exercises]
each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.name)
check = hw1.soft_target_loss.check


def right(student, teacher, temperature):
    log_p, log_q = (F.log_softmax(z / temperature, dim=-1) for z in (teacher.detach(), student))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def mean_over_classes(student, teacher, temperature):
    return right(student, teacher, temperature) / student.shape[-1]


# What a report shows


def test_a_right_answer_gets_one_line():
    report = check(right)
    assert report.passed and report.points == report.out_of == 8
    assert repr(report) == "soft_target_loss: all properties hold, 8 of 8 points."
    assert report._repr_html_() == f"<p>{TICK} {report!r}</p>"


def stub(student, teacher, temperature):
    """T² · KL(p ‖ q)."""
    raise NotImplementedError()


def test_a_stub_is_not_written_yet_and_earns_nothing():
    report = check(stub)
    assert repr(report) == "soft_target_loss: not written yet"
    assert report._repr_html_() == "<p>… soft_target_loss: not written yet</p>"
    assert report.points == 0 and not report.passed and report.out_of == 8
    calling = check(lambda s, t, T: stub(s, t, T))
    assert repr(calling) == "soft_target_loss: it calls stub, which is not written yet"
    assert calling.points == 0


def raised(error):
    def answer(student, teacher, temperature):
        raise error

    return answer


def imports_what_is_not_there(student, teacher, temperature):
    from kdlib import soft_target_losses

    return soft_target_losses(student, teacher, temperature)


def calls_what_raises_deep_inside(student, teacher, temperature):
    return np.linalg.inv(np.zeros((2, 2))) + np.broadcast_to([1, 2], (2, 3))


def calls_itself(*given):
    return calls_itself(*given)


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda student: 0, "TypeError: <lambda>() takes 1 positional argument but 3 were given"),
        (raised(ValueError("one\ntwo\nthree")), 'ValueError: one (in "raise error")'),
        (raised(ValueError()), 'ValueError (in "raise error")'),
        (lambda s, t, T: F.softmax(torch.arange(3), 0), "not implemented for 'Long' (in \"(lambda"),
        (raised(KeyError("x")), "KeyError: 'x' (in \"raise error\")"),
        (imports_what_is_not_there, '(in "from kdlib import soft_target_losses")'),
        (calls_what_raises_deep_inside, '(in "return np.linalg.inv('),
        (lambda s, t, T: kd.soften(s, 0.0), "temperature must be positive and finite"),
        (lambda s, t, T: s.no_such_thing, "AttributeError: 'Tensor' object has no attribute"),
        (calls_itself, "RecursionError: maximum recursion depth exceeded"),
        (raised(Unspeakable()), 'Unspeakable (in "raise error")'),
    ],
)
def test_an_error_is_shown_once_in_one_line_without_a_traceback_or_a_path_of_ours(answer, expected):
    report = check(answer)
    assert report.points == 0
    (line,) = (line for line in repr(report).splitlines() if expected in line)
    assert len(line) < 700
    assert repr(report).count("the same error") == 7
    ours = str(Path(kd.__file__).resolve().parents[1])
    for text in (repr(report), report._repr_html_()):
        for hidden in ("Traceback", "observe", "site-packages", "not written yet", ours):
            assert hidden not in text


def test_the_text_says_by_what_factor_a_number_is_wrong_and_which_shape():
    assert "(10 times too small)" in repr(check(mean_over_classes))
    assert "(2 times too large)" in repr(check(lambda *given: 2 * right(*given)))
    assert "times too" not in repr(check(lambda *given: -right(*given)))
    report = hw1.soft_target_gradient.check(lambda s, t, T: s[0])
    assert "of shape (10,) instead of (1, 10)" in repr(report)


def test_text_shows_the_first_hint_and_as_many_more_as_are_asked_for():
    first, second, third = hw1.soft_target_loss.mistakes[0].hints
    one, two, three, many = (repr(check(mean_over_classes, hints=k)) for k in (1, 2, 3, 9))
    assert f"Hint 1: {first}" in one and second not in one and "(one more with hints=2)" in one
    assert f"Hint 2: {second}" in two and third not in two and "(one more with hints=3)" in two
    assert f"Hint 3: {third}" in three and "one more" not in three
    assert many == three


def test_a_page_has_each_hint_folded_inside_the_one_before():
    text = check(mean_over_classes)._repr_html_()
    ElementTree.fromstring(f"<div>{text}</div>")  # or a tag is not closed
    page = BeautifulSoup(text, "html.parser")
    for shown, depth in (
        *zip(hw1.soft_target_loss.mistakes[0].hints, (1, 2, 3), strict=True),
        *(("Hint 1 of 3", 1), ("Hint 3 of 3", 3)),
        (" It is the sum over the classes, however many there are", 0),
    ):
        assert len(page.find(string=shown).find_parents("details")) == depth


@pytest.mark.parametrize(
    "value",
    [
        -(10**5000),
        torch.zeros(2, dtype=torch.bfloat16),
        torch.zeros(2, device="meta"),
        torch.zeros(1, requires_grad=True) * 2,
        np.array([object()]),
        {"a": {1, 2}},
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_can_be_shown_and_earns_nothing(value):
    for exercise in (hw1.soften, hw1.soft_target_loss, hw1.choose_temperature):
        report = exercise.check(lambda *given: value)
        assert report.points == 0
        assert "got" in repr(report) and report._repr_html_()


# What is borrowed


def in_a_function(student, teacher, temperature):
    from kdlib.losses import soft_target_loss as mine

    return mine(student, teacher, temperature)


def in_a_thread(student, teacher, temperature):
    with ThreadPoolExecutor() as pool:
        return pool.submit(kd.soft_target_loss, student, teacher, temperature).result()


class Lazily(list):
    """Asks kdlib only when it is looked at."""

    def __getitem__(self, key):
        return [float(kd.soft_target_loss(torch.ones(1, 2), torch.zeros(1, 2), 1.0))]


def caught(student, teacher, temperature):
    try:
        return kd.soft_target_loss(student, teacher, temperature) * 1.0
    except ValueError:
        return None


def by_an_objective(student, teacher, temperature):
    objective = kd.SoftTargets(teacher.detach(), temperature, alpha=1)
    rows = torch.arange(len(student))
    split = kd.data.Split(student.detach(), None, rows)
    objective._source.prepare(split, kd.Recipe(epochs=1))
    batch = kd.objectives.Batch(student, None, rows, 0.0, torch.Generator())
    return objective(kd.objectives.Outputs(student), batch)["soft"]


BORROWERS = {
    "a lambda": lambda s, t, T: kd.losses.soft_target_loss(s, t, T),
    "imported inside": in_a_function,
    "in a thread": in_a_thread,
    "lazily": lambda s, t, T: Lazily(),
    "caught": caught,
    "with labels that do not count": lambda s, t, T: kd.hinton_loss(
        s, t, torch.zeros(len(s), dtype=torch.int64), T, 1.0
    ),
    "an objective": by_an_objective,
    "the right twin of a mistake": lambda s, t, T: kd.mistakes.soft_term(s, t, T),
    "a right answer of the grader": lambda s, t, T: hw1.soft_target_loss.right(s, t, T),
    "the grader's own reference": lambda s, t, T: material.divergence(s, t, T),
}


@pytest.mark.parametrize("answer", BORROWERS.values(), ids=BORROWERS)
def test_kdlibs_own_loss_earns_nothing_by_whatever_name_it_goes(answer):
    report = check(answer)
    assert report.points == 0 and not report.passed
    assert re.search(r"it calls kdlib's own \w+", repr(report)), report
    assert "\n" not in repr(report)


def interval_by_kdlib(a, b):
    comparison = kd.paired(a, b)
    return comparison.difference, comparison.low, comparison.high


OWN = [
    (hw1.soften, kd.soften),
    (hw1.soft_target_loss, kd.soft_target_loss),
    (hw1.hinton_loss, kd.hinton_loss),
    (hw1.logit_matching_loss, kd.logit_matching_loss),
    (hw2.hint_loss, kd.hint_loss),
    (hw2.fsp_matrix, kd.fsp_matrix),
    (hw2.fsp_loss, lambda s, t: kd.fsp_loss(list(s), list(t))),
    (hw3.cwtm_loss, kd.cwtm_loss),
    (hw3.permute_dark_knowledge, kd.permute_dark_knowledge),
    (hw3.interval, interval_by_kdlib),
    (hw3.verdict, lambda a, b: kd.paired(a, b, lower_is_better=True).verdict),
]


@pytest.mark.parametrize(("exercise", "own"), OWN, ids=[e.name for e, _ in OWN])
def test_kdlibs_own_function_is_right_and_earns_nothing(exercise, own):
    for seed in range(3):
        assert exercise.report(exercise.source(own, may_borrow=True), seed).passed
    refused = exercise.check(own)
    assert refused.points == 0
    assert re.search(r"kdlib's own \w+; write it yourself", refused.note)


def test_a_reference_among_the_functions_given_to_students_is_borrowed():
    assert "kdlib's own flow" in repr(hw2.fsp_matrix.check(lambda a, b: layers.flow(a, b)))


def test_starting_a_training_inside_is_not_borrowing(digits):
    def trains(student, teacher, temperature):
        from kdlib.objectives import CrossEntropy

        model, taught_by = (kd.models.mlp(4, depth=1, seed=seed) for seed in (0, 1))
        for objective in (CrossEntropy(0.1), kd.SoftTargets(taught_by, temperature=2, alpha=0.5)):
            recipe = kd.Recipe(iterations=1, batch_size=8)
            kd.fit(model, objective, digits.limit(16), recipe, progress=False)
        return right(student, teacher, temperature)

    z = torch.zeros(1, 3)
    seen = observe(trains, {"student": z, "teacher": z, "temperature": 1.0})
    assert seen.error == "" and seen.borrowed == ""
    assert seen.value == 0


def test_a_debuggers_profile_function_comes_back():
    def watch(*event):
        return None

    sys.setprofile(watch)
    try:
        check(right), check(raised(ValueError("x")))
        assert sys.getprofile() is watch
    finally:
        sys.setprofile(None)


# Exercises


@each_exercise
def test_an_exercise_has_points_minutes_and_hints_in_steps_of_one_line(exercise):
    assert exercise.points == sum(p.points for p in exercise.properties) > 0
    assert 5 <= exercise.minutes <= 30
    assert len({p.says for p in exercise.properties}) == len(exercise.properties)
    beginnings = [mistake.hints[0] for mistake in exercise.mistakes]
    assert len(set(beginnings)) == len(beginnings)
    for mistake in exercise.mistakes:
        assert len(set(mistake.hints)) == len(mistake.hints) >= 1
        for hint in mistake.hints:
            assert hint == hint.strip() and "\n" not in hint and len(hint) < 200
            assert not re.search(r"\breturn\b.*[(=]|\bdef\b|\blambda\b", hint)


IN_FLOATS = *hw1.EXERCISES[:5], hw3.cwtm_loss, hw3.permute_dark_knowledge, hw3.interval


@pytest.mark.parametrize("exercise", IN_FLOATS, ids=lambda e: e.name)
def test_a_right_answer_may_compute_in_single_precision(exercise):
    def single(x):
        return x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    homework = next(homework for homework, all_ in HOMEWORKS.items() if exercise in all_)
    for right_one in known_answers(homework, exercise, "right"):
        source = exercise.source(lambda *a: right_one(*map(single, a)), may_borrow=True)  # noqa: B023
        for seed in range(5):
            assert exercise.report(source, seed).passed, right_one.__name__


TRIVIAL = {
    "None": lambda *given: None,
    "0.0": lambda *given: 0.0,
    "1.0": lambda *given: 1.0,
    "its first argument": lambda *given: given[0] if given else 0,
    "zeros like it": lambda *given: torch.zeros_like(given[0]) if given else torch.zeros(()),
    "a text": lambda *given: "the loss",
    "nan": lambda *given: float("nan"),
    "an empty list": lambda *given: [],
    "an error": raised(ValueError("no idea")),
}


@each_exercise
def test_a_trivial_answer_earns_nothing(exercise):
    earned = {
        (name, seed): exercise.report(exercise.source(answer), seed, "ada").points
        for name, answer in TRIVIAL.items()
        for seed in (0, 2026)
    }
    assert set(earned.values()) == {0}, earned


# Draws


def test_a_draw_follows_from_its_seed_and_property_alone():
    def values(draw):
        shared = draw.labels(4).tolist(), draw.integer(0, 10**6), draw.number(0, 1)
        return [draw.normal(2, 3).tolist(), *shared, torch.rand(1, generator=draw.generator())]

    first = values(Draw(1, "a"))
    torch.manual_seed(0)
    other = values(Draw(1, "b"))
    assert values(Draw(1, "a")) == first
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert all(a != b for a, b in zip(first, values(Draw(2, "a")), strict=True))


def test_draws_have_the_promised_scale_and_range():
    draw = Draw(3, "ranges")
    z = draw.logits(2000, 5, scale=2.0)
    assert z.shape == (2000, 5) and z.dtype == torch.float64
    assert abs(z.mean()) < 0.1 and abs(z.std() - 2) < 0.1
    assert set(draw.labels(500, 4).tolist()) == {0, 1, 2, 3}
    assert {draw.integer(2, 4) for _ in range(100)} == {2, 3, 4}
    assert all(3 <= draw.number(3, 4) < 4 for _ in range(100))


def test_the_cases_of_a_property_do_not_depend_on_other_properties():
    def second_after(times):
        exercise, drawn = Exercise("f", "f()", minutes=1), []
        exercise.holds("first")(lambda ask, draw: [draw.number(0, 1) for _ in range(times)])
        exercise.holds("second")(lambda ask, draw: drawn.append(draw.number(0, 1)))
        exercise.check(lambda: 0)
        return drawn

    assert second_after(1) == second_after(5) != []


@pytest.mark.parametrize("exercise", [hw1.soften, hw1.choose_temperature], ids=lambda e: e.name)
def test_answers_made_for_the_visible_cases_fail_the_hidden_ones(exercise):
    """A table of the values that the visible checks expect passes them and earns nothing."""
    table = {}
    learns = exercise.source(
        lambda *given: table.setdefault(repr(given), exercise.right(*given)), may_borrow=True
    )
    recalls = exercise.source(lambda *given: table[repr(given)])
    assert exercise.report(learns, 0).passed and exercise.report(recalls, 0).passed
    assert exercise.report(recalls, 77).points == 0


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (material.teacher_logits, material._teacher_logits),
        (layers.feature_maps, layers._feature_maps),
        (generations.paired_runs, generations._errors),
    ],
    ids=["a teacher", "maps", "runs"],
)
def test_what_is_drawn_from_a_name_is_always_the_same_and_cannot_be_overwritten(given, kept):
    first, again, of_bob = (tree_leaves(given(name)) for name in (" Ada ", "ada", "bob"))
    for tensor in tree_leaves(given("ada")):
        tensor.zero_()
    overwritten = tree_leaves(given("ada"))
    kept.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        in_double = tree_leaves(given("ada"))
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(in_double, first)
    for a, b, c, other in zip(first, again, overwritten, of_bob, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c) and not torch.equal(a, other)
