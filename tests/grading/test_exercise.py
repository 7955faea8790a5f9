"""Exercises: what a check says of an answer, what it is worth, and what an answer cannot do to it."""

import functools
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from answers import known_answers
from torch.nn import functional as F

import kdlib as kd
from kdlib.course.exercises import HOMEWORKS, hw1, layers, material
from kdlib.course.exercises.hw1.my_temperature import halving
from kdlib.course.grading.exercise import Draw, Exercise
from kdlib.course.grading.observe import observe
from kdlib.course.grading.report import TICK

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning"),
]
EXERCISES = [exercise for exercises in HOMEWORKS.values() for exercise in exercises]
each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.name)
check = hw1.soft_target_loss.check


def names(report):
    return [mistake.name for mistake in report.mistakes]


def right(student, teacher, temperature):
    log_p, log_q = (F.log_softmax(z / temperature, dim=-1) for z in (teacher.detach(), student))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def mean_over_classes(student, teacher, temperature):
    return right(student, teacher, temperature) / student.shape[-1]


# What is said


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


def test_an_answer_that_calls_a_stub_says_whose():
    report = check(lambda s, t, T: stub(s, t, T))
    assert repr(report) == "soft_target_loss: it calls stub, which is not written yet"
    assert report.points == 0


def test_what_torch_has_not_implemented_is_an_error_of_the_answer():
    report = check(lambda s, t, T: torch.softmax(torch.arange(3), 0))
    assert "not implemented for 'Long' (in \"" in repr(report)
    assert "not written yet" not in repr(report)


def test_an_error_is_told_once_in_one_line_with_the_line_that_raised():
    def answer(student, teacher, temperature):
        two, three = torch.zeros(2), torch.zeros(3)
        return (two - three).sum()

    report = check(answer)
    lines = repr(report).splitlines()
    told = [line for line in lines if "RuntimeError" in line]
    assert len(told) == 1 and '(in "return (two - three).sum()")' in told[0]
    assert repr(report).count("the same error") == 7


def raised(error):
    def answer(student, teacher, temperature):
        raise error

    return answer


def imports_what_is_not_there(student, teacher, temperature):
    from kdlib import soft_target_losses

    return soft_target_losses(student, teacher, temperature)


def calls_what_raises_deep_inside(student, teacher, temperature):
    return np.linalg.inv(np.zeros((2, 2))) + np.broadcast_to([1, 2], (2, 3))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda student: 0, "TypeError: <lambda>() takes 1 positional argument but 3 were given"),
        (raised(ValueError("one\ntwo\nthree")), 'ValueError: one (in "raise error")'),
        (raised(ValueError()), 'ValueError (in "raise error")'),
        (raised(KeyError("x")), "KeyError: 'x' (in \"raise error\")"),
        (imports_what_is_not_there, '(in "from kdlib import soft_target_losses")'),
        (calls_what_raises_deep_inside, '(in "return np.linalg.inv('),
        (lambda s, t, T: kd.soften(s, 0.0), "temperature must be positive and finite"),
        (lambda s, t, T: s.no_such_thing, "AttributeError: 'Tensor' object has no attribute"),
        (lambda s, t, T: calls_itself(), "RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_no_error_shows_a_traceback_or_a_path_of_ours(answer, expected):
    report = check(answer)
    assert report.points == 0
    assert expected in repr(report)
    ours = Path(kd.__file__).resolve().parents[1]
    for text in (repr(report), report._repr_html_()):
        assert "Traceback" not in text and "observe" not in text and "site-packages" not in text
        assert str(ours) not in text
    assert all(len(line) < 700 for line in repr(report).splitlines())


def calls_itself():
    return calls_itself()


def test_an_error_of_an_answers_own_class_cannot_end_the_check():
    class Unspeakable(Exception):
        def __str__(self):
            raise RuntimeError

    assert 'Unspeakable (in "raise error")' in repr(check(raised(Unspeakable())))


def test_the_text_says_by_what_factor_a_number_is_wrong():
    report = check(mean_over_classes)
    assert "(10 times too small)" in repr(report)
    assert "(2 times too large)" in repr(check(lambda *given: 2 * right(*given)))
    assert "times too" not in repr(check(lambda *given: -right(*given)))


def test_a_wrong_shape_is_told():
    report = hw1.soft_target_gradient.check(lambda s, t, T: s[0])
    assert "of shape (10,) instead of (1, 10)" in repr(report)


def test_input_what_came_and_what_was_expected_are_shown():
    def with_a_sum_that_is_one(logits, temperature):
        return torch.softmax(logits, -1) / temperature

    text = repr(hw1.soften.check(with_a_sum_that_is_one))
    block = text[text.index("✗ Each row sums to 1") :].splitlines()[1:4]
    assert [line.split()[0] for line in block] == ["with", "got", "expected"]
    assert "logits = a 4×10 tensor beginning" in block[0] and "temperature = 4" in block[0]
    assert "4 rows that sum to 1" in block[2]


def test_text_shows_the_first_hint_and_as_many_more_as_are_asked_for():
    first, second, third = hw1.soft_target_loss.mistakes[0].hints
    assert names(check(mean_over_classes)) == ["kl_averaged_over_classes"]
    one, two, three, many = (repr(check(mean_over_classes, hints=k)) for k in (1, 2, 3, 9))
    assert f"Hint 1: {first}" in one and second not in one and "(one more with hints=2)" in one
    assert f"Hint 2: {second}" in two and third not in two and "(one more with hints=3)" in two
    assert f"Hint 3: {third}" in three and "one more" not in three
    assert many == three


class Page(HTMLParser):
    """The text at each depth of <details>, and the tags."""

    def __init__(self, text):
        super().__init__()
        self.open, self.deepest, self.tags, self.depths = [], 0, set(), {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.depths[data] = self.open.count("details")


def test_a_page_has_each_hint_folded_inside_the_one_before():
    page = Page(check(mean_over_classes)._repr_html_())
    assert not page.open
    hints = hw1.soft_target_loss.mistakes[0].hints
    assert [page.depths[hint] for hint in hints] == [1, 2, 3]
    assert page.depths["Hint 1 of 3"] == 1 and page.depths["Hint 3 of 3"] == 3
    assert page.depths[" It is the sum over the classes, however many there are"] == 0


SCRIPT = "<script>alert('&')</script><details>"


@pytest.mark.parametrize(
    "answer",
    [
        lambda s, t, T: SCRIPT,
        lambda s, t, T: {SCRIPT: [SCRIPT]},
        raised(ValueError(SCRIPT)),
        raised(type(SCRIPT, (Exception,), {})()),
        type(SCRIPT, (), {}),
    ],
)
def test_a_page_escapes_all_that_an_answer_says(answer):
    text = check(answer)._repr_html_()
    page = Page(text)
    assert page.tags <= {"p", "ul", "li", "div", "span"} and not page.open
    assert "alert" not in text or SCRIPT in "".join(page.depths)


@pytest.mark.parametrize(
    "value",
    [
        10**400,
        -(10**5000),
        torch.zeros(2, dtype=torch.bfloat16),
        torch.zeros(2, dtype=torch.complex128),
        torch.zeros(10, 10).to_sparse(),
        torch.zeros(2, device="meta"),
        torch.zeros(1, requires_grad=True) * 2,
        np.array([object()]),
        {"a": {1, 2}},
        float("inf"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_comes_is_told_and_worth_nothing(value):
    for exercise in (hw1.soften, hw1.soft_target_loss, hw1.choose_temperature):
        report = exercise.check(lambda *given: value)
        assert report.points == 0
        assert "got" in repr(report) and report._repr_html_()


# What is borrowed

aliased = kd.soft_target_loss


def in_a_function(student, teacher, temperature):
    from kdlib.losses import soft_target_loss as mine

    return mine(student, teacher, temperature)


@functools.wraps(kd.soft_target_loss)
def wrapped(*given):
    return kd.soft_target_loss(*given)


def in_a_vmap(student, teacher, temperature):
    def one(s, t):
        return kd.soft_target_loss(s, t, temperature)

    return torch.vmap(one)(student, teacher).mean()


def in_a_thread(student, teacher, temperature):
    from concurrent.futures import ThreadPoolExecutor

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
    "itself": kd.soft_target_loss,
    "an alias": aliased,
    "a partial": functools.partial(kd.soft_target_loss),
    "a lambda": lambda s, t, T: kd.losses.soft_target_loss(s, t, T),
    "imported inside": in_a_function,
    "wrapped": wrapped,
    "in a vmap": in_a_vmap,
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


def test_the_graders_own_flow_is_borrowed_too():
    assert "kdlib's own flow" in repr(kd.grading.check_fsp_matrix(lambda a, b: layers.flow(a, b)))


def test_the_note_says_what_is_borrowed():
    assert "kdlib's own soft_target_loss; write it yourself" in repr(check(aliased))


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
    import sys

    def watch(*event):
        return None

    sys.setprofile(watch)
    try:
        check(right), check(raised(ValueError("x")))
        assert sys.getprofile() is watch
    finally:
        sys.setprofile(None)


# What an answer cannot do


def spoils_its_arguments(student, teacher, temperature):
    loss = right(student, teacher, temperature)
    with torch.no_grad():
        student.mul_(0), teacher.mul_(0)
    return loss


def test_an_answer_that_changes_its_arguments_gets_what_it_returned():
    given = {"student": torch.ones(1, 3), "teacher": torch.zeros(1, 3), "temperature": 1.0}
    observe(spoils_its_arguments, given)
    assert given["student"].tolist() == [[1, 1, 1]]

    def softens_in_place(logits, temperature):
        return logits.div_(temperature).softmax(-1)

    report = hw1.soften.check(softens_in_place)
    assert names(report) == ["logits_overwritten"] and report.points == report.out_of - 1


def draws_and_seeds(student, teacher, temperature):
    noise = torch.rand(1).item() + np.random.rand() + random.random()
    torch.manual_seed(int(1000 * noise)), np.random.seed(3), random.seed(3)
    return right(student, teacher, temperature) * noise


def test_draws_of_an_answer_change_neither_its_report_nor_the_callers_generators():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    first = check(draws_and_seeds)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected
    assert repr(check(draws_and_seeds)) == repr(first)  # though the caller has drawn


def test_the_same_answer_gets_the_same_report_in_any_order():
    answers = [right, mean_over_classes, draws_and_seeds, stub, aliased, spoils_its_arguments]
    first = [repr(check(answer)) for answer in answers]
    again = [repr(check(answer)) for answer in reversed(answers)]
    assert first == again[::-1]


def test_a_check_inside_no_grad_is_the_same():
    with torch.no_grad():
        assert check(right).passed


# Mistakes


def test_two_mistakes_at_once_get_both_hints():
    def answer(student, teacher, temperature):
        """Of small and of large logits it says different wrong things."""
        p = F.softmax(teacher / temperature, dim=-1)
        log_q = F.log_softmax(student / temperature, dim=-1)
        return F.kl_div(log_q, p, reduction="batchmean")

    report = check(answer)
    assert names(report)[:1] == ["t_squared_forgotten"]
    teacher_too = Page(report._repr_html_())
    assert any("400 times too small" in text for text in teacher_too.depths)

    def both(student, teacher, labels, temperature, alpha):
        """At alpha = 0 the labels are softened, at alpha = 1 the T² is missing."""
        p = F.softmax(teacher / temperature, dim=-1)
        soft = F.kl_div(F.log_softmax(student / temperature, dim=-1), p, reduction="batchmean")
        return alpha * soft + (1 - alpha) * F.cross_entropy(student / temperature, labels)

    report = hw1.hinton_loss.check(both)
    assert sorted(names(report)) == ["labels_at_temperature", "soft_term_without_t_squared"]
    text = repr(report)
    for mistake in report.mistakes:
        assert f"Hint 1: {mistake.hints[0]}" in text


def test_an_unknown_mistake_gets_no_hint():
    report = check(lambda *given: right(*given) ** 2)
    assert report.points < 8 and not report.mistakes
    assert "Hint" not in repr(report) and "<details" not in report._repr_html_()


@each_exercise
def test_hints_are_steps_of_one_line_and_begin_differently(exercise):
    beginnings = [mistake.hints[0] for mistake in exercise.mistakes]
    assert len(set(beginnings)) == len(beginnings)
    for mistake in exercise.mistakes:
        assert len(set(mistake.hints)) == len(mistake.hints) >= 1
        for hint in mistake.hints:
            assert hint == hint.strip() and "\n" not in hint and len(hint) < 200
            assert not re.search(r"\breturn\b.*[(=]|\bdef\b|\blambda\b", hint)


@each_exercise
def test_points_and_minutes_are_there(exercise):
    assert exercise.points == sum(p.points for p in exercise.properties) > 0
    assert 5 <= exercise.minutes <= 30
    assert len({p.says for p in exercise.properties}) == len(exercise.properties)


@pytest.mark.parametrize("exercise", hw1.EXERCISES[:5], ids=lambda e: e.name)
def test_a_right_answer_may_compute_in_single_precision(exercise):
    def single(x):
        return x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    for right_one in known_answers("hw1", exercise, "right"):
        for seed in range(5):
            source = exercise.source(lambda *a: right_one(*map(single, a)), may_borrow=True)  # noqa: B023
            assert exercise.report(source, seed).passed, right_one.__name__


# What costs nothing earns nothing


def raises(*given):
    raise ValueError("no idea")


TRIVIAL = {
    "None": lambda *given: None,
    "0.0": lambda *given: 0.0,
    "1.0": lambda *given: 1.0,
    "its first argument": lambda *given: given[0] if given else 0,
    "zeros like it": lambda *given: torch.zeros_like(given[0]) if given else torch.zeros(()),
    "a text": lambda *given: "the loss",
    "nan": lambda *given: float("nan"),
    "an empty list": lambda *given: [],
    "an error": raises,
}


@each_exercise
@pytest.mark.parametrize("answer", TRIVIAL.values(), ids=TRIVIAL)
def test_a_trivial_answer_earns_nothing(exercise, answer):
    for seed in (0, 2026):
        report = exercise.report(exercise.source(answer), seed, "ada")
        assert report.points == 0, [r.says for r in report.results if not r.failed]


@pytest.mark.parametrize("seed", [16, 17, 22, 26])
def test_large_logits_are_drawn_so_that_a_right_loss_is_never_zero(seed):
    """With these seeds both sides once happened to have the same winners."""
    assert hw1.soft_target_loss.report(hw1.soft_target_loss.source(right), seed).passed


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


def test_draws_have_the_scale_and_range_they_promise():
    draw = Draw(3, "ranges")
    z = draw.logits(2000, 5, scale=2.0)
    assert z.shape == (2000, 5) and z.dtype == torch.float64
    assert abs(z.mean()) < 0.1 and abs(z.std() - 2) < 0.1
    assert set(draw.labels(500, 4).tolist()) == {0, 1, 2, 3}
    assert {draw.integer(2, 4) for _ in range(100)} == {2, 3, 4}
    assert all(3 <= draw.number(3, 4) < 4 for _ in range(100))


def test_a_property_is_asked_the_same_whatever_was_asked_before():
    asked = []

    def property_of(times):
        def check(ask, draw):
            for _ in range(times):
                asked.append(draw.number(0, 1))

        return check

    found = []
    for times in (1, 5):
        exercise = Exercise("f", "f()", minutes=1)
        exercise.holds("first")(property_of(times))
        exercise.holds("second")(property_of(1))
        exercise.check(lambda: 0)
        found.append(asked[-1])
        asked.clear()
    assert found[0] == found[1]


def test_hidden_cases_are_others_than_the_visible_ones():
    def asked(seed):
        inputs = []

        def remembers(logits, temperature):
            inputs.append(logits)
            return torch.softmax(logits / temperature, -1)

        hw1.soften.report(hw1.soften.source(remembers), seed)
        return torch.cat([x.flatten() for x in inputs])

    visible, hidden = asked(0), asked(77)
    assert torch.equal(visible, asked(0))
    assert not torch.isin(hidden, visible).any()


# A teacher of one's own


def test_without_a_name_a_personal_check_asks_for_one():
    for nobody in ("", "  ", None):
        report = hw1.my_temperature.check(lambda: 3.0, nobody)
        assert "say in student_id who you are" in repr(report)
        assert report.points == 0 and not report.passed


def test_capitals_and_spaces_make_no_other_student():
    mine = halving("ada")
    assert hw1.my_temperature.check(mine, "ada").passed
    assert hw1.my_temperature.check(lambda: mine, " Ada ").passed
    assert not hw1.my_temperature.check(mine, "adam").passed


def test_a_personal_mistake_is_recognised_for_its_own_student():
    wrong = 1 / halving("ada")
    assert names(hw1.my_temperature.check(wrong, "ada")) == ["upside_down"]
    assert names(hw1.my_temperature.check(wrong, "bob")) == []
