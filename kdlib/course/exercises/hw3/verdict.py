"""Homework 3, exercise 6: a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kdlib.course.grading.exercise import Ask, Draw, Exercise

verdict = Exercise(
    "verdict",
    'verdict(a, b) calls the errors a, compared with b, "better", "worse" or "no difference seen".',
    minutes=10,
)


BETTER, WORSE, NEITHER = "better", "worse", "no difference seen"


@verdict.holds("Clearly fewer errors are better, clearly more are worse")
def clear_differences_are_seen(ask: Ask, draw: Draw) -> None:
    for t, expected in ((-4.0, BETTER), (4.0, WORSE), (-9.0, BETTER), (9.0, WORSE)):
        a, b = _five_pairs(draw, t)
        ask(a=a, b=b).should_be(expected)


@verdict.holds("If the interval contains 0, no difference is seen, however few the pairs")
def zero_inside_is_no_difference(ask: Ask, draw: Draw) -> None:
    for t in (-9.0, 9.0):
        found = ask(a=(pairs := _five_pairs(draw, t))[0], b=pairs[1])
        found.should(found.value in (BETTER, WORSE), f'"{BETTER}" or "{WORSE}": 0 is far outside')
    a, b = _five_pairs(draw, 0.0)
    lucky = torch.tensor([8.0, 6.0, 7.0, -60.0, -20.0]).double()
    for d in (lucky, -lucky):  # the mean disagrees with three of the five pairs
        ask(a=b + d, b=b).should_be(NEITHER)
    for t in (2.05, -2.05, 2.4, -2.4):
        a, b = _five_pairs(draw, t)
        ask(a=a, b=b).should_be(NEITHER)


@verdict.holds("What both runs of a pair share hides no difference")
def common_noise_hides_nothing(ask: Ask, draw: Draw) -> None:
    a, b = _five_pairs(draw, -9.0)
    common = torch.tensor([-260.0, -120.0, 10.0, 130.0, 240.0]).double()[
        torch.randperm(5, generator=draw.generator())
    ]
    one, other = ask(a=a + common, b=b + common), ask(a=b + common, b=a + common)
    for found in (one, other):
        found.should(found.value in (BETTER, WORSE), f'"{BETTER}" or "{WORSE}"')
    other.should(one.value != other.value, "the other verdict when a and b change places")


def _five_pairs(draw: Draw, t: float) -> tuple[Tensor, Tensor]:
    """Errors whose mean difference is ``t`` standard errors; those in b are equal."""
    d = draw.normal(5)
    d = 40 * (d - d.mean()) / d.std() + 40 * t / math.sqrt(5)
    b = torch.full((5,), float(draw.integer(500, 600)), dtype=torch.float64)
    return b + d.round(), b


def reaching(name: str, reach: Callable) -> Callable:
    """A wrong answer: the verdict of an interval with this ``reach(d, quantile)``."""

    def answer(a, b):
        from scipy.stats import t

        d = a - b
        away = reach(d, t.ppf)
        if d.mean() + away < 0:
            return "better"
        return "worse" if d.mean() - away > 0 else "no difference seen"

    answer.__name__ = name
    return answer


@verdict.hint(
    "You call better what is worse.",
    "The numbers are counts of errors.",
    "Fewer errors in a: the whole interval of a - b lies below 0.",
)
def more_is_better(a, b):
    from scipy.stats import t

    d = a - b
    reach = t.ppf(0.975, len(d) - 1) * d.std() / len(d) ** 0.5
    if d.mean() - reach > 0:
        return "better"
    return "worse" if d.mean() + reach < 0 else "no difference seen"


@verdict.hint(
    "You see a difference in everything.",
    "Two means are never quite equal, even where only the seed differs.",
    "Look at the interval: is 0 in it?",
)
def by_the_mean_alone(a, b):
    difference = (a - b).mean()
    return "better" if difference < 0 else "worse" if difference > 0 else "no difference seen"


@verdict.hint(
    "You count how many pairs are won.",
    "A coin wins three of five, too; and by how much a pair is won does not count at all.",
    "Take the interval of the differences instead of counting.",
)
def by_the_number_of_wins(a, b):
    wins, losses = int((a < b).sum()), int((a > b).sum())
    return "better" if wins > losses else "worse" if losses > wins else "no difference seen"


verdict.hint(
    "With five pairs you are too sure.",
    "Which quantile does your interval take? 1.96 is for very many pairs.",
    "Use your own interval(a, b), with Student's t.",
)(reaching("by_a_normal_interval", lambda d, quantile: 1.96 * d.std() / len(d) ** 0.5))

verdict.hint(
    "With five pairs you are a little too sure.",
    "Does your interval leave 5 % out at each end, or 2.5 %?",
    "Before the experiment nobody knows which of the two will be better: use your own interval(a, b).",
)(reaching("by_one_side", lambda d, quantile: quantile(0.95, len(d) - 1) * d.std() / len(d) ** 0.5))

verdict.hint(
    "A clear difference is missed.",
    "Your interval does not become narrower when there are more pairs.",
    "Use the standard error, s / √n, not s.",
)(reaching("by_the_deviation", lambda d, quantile: quantile(0.975, len(d) - 1) * d.std()))


@verdict.hint(
    "Where seeds differ much, you miss what is the same in every pair.",
    "Do you compare a's interval with b's? Two intervals may overlap although the difference is "
    "clearly not 0.",
    "One interval, of the differences a - b.",
)
def by_overlapping_intervals(a, b):
    from scipy.stats import t

    reach = [t.ppf(0.975, len(x) - 1) * x.std() / len(x) ** 0.5 for x in (a, b)]
    if a.mean() + reach[0] < b.mean() - reach[1]:
        return "better"
    return "worse" if a.mean() - reach[0] > b.mean() + reach[1] else "no difference seen"


@verdict.answer
def by_students_interval(a, b):
    from scipy.stats import t

    d = a - b
    reach = t.ppf(0.975, len(d) - 1) * d.std() / len(d) ** 0.5
    if d.mean() + reach < 0:
        return "better"
    return "worse" if d.mean() - reach > 0 else "no difference seen"
