"""Homework 3, exercise 5: an interval."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kdlib.course.exercises.claims import is_number
from kdlib.course.grading.exercise import Answer, Ask, Draw, Exercise
from kdlib.course.grading.observe import same

interval = Exercise(
    "interval",
    "interval(a, b) gives the mean of a - b over pairs of runs, and the low and the high end of its "
    "95 % interval by Student's t.",
    minutes=15,
)


@interval.holds("First comes the mean of a - b")
def first_is_the_mean_difference(ask: Ask, draw: Draw) -> None:
    for n in (3, draw.integer(6, 12)):
        a, b = _errors(draw, n)
        found = ask(a=a, b=b)
        three = three_numbers(found.value)
        mean = float((a - b).mean())
        right = three is not None and math.isclose(three[0], mean, rel_tol=1e-4)
        found.should(right, f"three numbers, the first {mean:.6g}")


@interval.holds("The ends lie around it, the low one first, equally far")
def ends_lie_around_the_mean(ask: Ask, draw: Draw) -> None:
    found = _telling(ask, *_errors(draw, 5))
    mean, low, high = three_numbers(found.value)
    around = low < mean < high and math.isclose(high - mean, mean - low, rel_tol=1e-4)
    found.should(around, "three numbers: the mean, one below it, one as far above it")


@interval.holds("They are t · s / √n away from it, with t of n - 1 degrees of freedom")
def width_follows_students_t(ask: Ask, draw: Draw) -> None:
    for n in (5, 3, draw.integer(10, 20)):
        a, b = _errors(draw, n)
        found = ask(a=a, b=b)
        three = three_numbers(found.value)
        reach = STUDENTS_T[n - 2] * float((a - b).numpy().std(ddof=1)) / math.sqrt(n)
        right = three is not None and math.isclose(
            abs(three[2] - three[1]), 2 * reach, rel_tol=2e-3
        )
        found.should(right, f"three numbers, the ends {2 * reach:.4g} apart, for {n} pairs")


@interval.holds("What both runs of a pair share makes it no wider")
def common_noise_widens_nothing(ask: Ask, draw: Draw) -> None:
    a, b = _errors(draw, 6)
    alone = three_numbers(_telling(ask, a, b).value)
    common = (100 * draw.normal(6)).round()
    shared = ask(a=a + common, b=b + common)
    told = ", ".join(f"{x:.6g}" for x in alone)
    shared.should(
        same(three_numbers(shared.value), alone),
        f"{told}, as without what both runs of each pair share",
    )


# The 97.5 % quantiles of Student's t for 1, 2, 3 … degrees of freedom.
STUDENTS_T = (
    *(12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814),
    *(2.20099, 2.17881, 2.16037, 2.14479, 2.13145, 2.11991, 2.10982, 2.10092, 2.09302, 2.08596),
)


def _errors(draw: Draw, n: int) -> tuple[Tensor, Tensor]:
    """Errors of n pairs; those in b are equal, so the interval is the same paired or not."""
    b = torch.full((n,), float(draw.integer(300, 400)), dtype=torch.float64)
    return b + (draw.number(20, 60) + 30 * draw.normal(n)).round(), b


def three_numbers(value: object) -> list[float] | None:
    if isinstance(value, Tensor) and value.shape == (3,):
        value = value.tolist()
    if not isinstance(value, list) or len(value) != 3 or not all(map(is_number, value)):
        return None
    three = [float(x) for x in value]
    return three if all(map(math.isfinite, three)) else None


def _telling(ask: Ask, a: Tensor, b: Tensor) -> Answer:
    """Ask for the interval; fail unless it is three numbers that depend on the errors."""
    found, other = ask(a=a, b=b), ask(a=a * 3, b=b * 3)
    for answer in (found, other):
        answer.should(three_numbers(answer.value) is not None, "three numbers: the mean, low, high")
    other.should(not same(other.value, found.value), "numbers other than for a third of the errors")
    return found


def reaching(name: str, reach: Callable) -> Callable:
    """A wrong answer: the mean, and ends this ``reach(d, quantile)`` away from it."""

    def answer(a, b):
        from scipy.stats import t

        d = a - b
        away = reach(d, t.ppf)
        return d.mean(), d.mean() - away, d.mean() + away

    answer.__name__ = name
    return answer


@interval.hint(
    "The sign of everything is reversed: your differences are b - a.",
    "The mean should be above 0 where a has more errors.",
    "a - b",
)
def b_minus_a(a, b):
    from scipy.stats import t

    d = b - a
    reach = t.ppf(0.975, len(d) - 1) * d.std() / len(d) ** 0.5
    return d.mean(), d.mean() - reach, d.mean() + reach


normal_instead_of_t = interval.hint(
    "The interval is too narrow, the more so the fewer pairs there are.",
    "1.96 belongs to the normal distribution, and to a standard deviation that is known. Yours is "
    "estimated from a few differences.",
    "Take t from scipy.stats.t.ppf(0.975, n - 1).",
)(reaching("normal_instead_of_t", lambda d, quantile: 1.96 * d.std() / len(d) ** 0.5))

interval.hint(
    "The interval is too wide, the more so the more pairs there are.",
    "Does it become narrower when there are more pairs? A standard deviation does not.",
    "Divide s by the root of n: that is how far a mean of n may be off.",
)(reaching("deviation_instead_of_error", lambda d, quantile: quantile(0.975, len(d) - 1) * d.std()))

interval.hint(
    "The interval is a little too narrow; with three pairs by a factor of 1.22.",
    "Does your standard deviation divide by n or by n - 1? numpy's std divides by n.",
    "std(ddof=1) in numpy, std() in torch.",
)(
    reaching(
        "divided_by_n",
        lambda d, quantile: quantile(0.975, len(d) - 1) * d.numpy().std() / len(d) ** 0.5,
    )
)

interval.hint(
    "The interval is a little too narrow: your t belongs to one pair more.",
    "The mean was taken from the same n differences, and uses one of them up.",
    "n - 1 degrees of freedom.",
)(
    reaching(
        "degrees_of_freedom_n",
        lambda d, quantile: quantile(0.975, len(d)) * d.std() / len(d) ** 0.5,
    )
)

interval.hint(
    "The interval is too narrow: it holds 90 %.",
    "5 % is left out in all. How much of that at each end?",
    "ppf(0.975, n - 1) leaves 2.5 % out above, and as much below.",
)(
    reaching(
        "five_percent_at_each_end",
        lambda d, quantile: quantile(0.95, len(d) - 1) * d.std() / len(d) ** 0.5,
    )
)

interval.hint(
    "It is right for five pairs, but not for other numbers of pairs.",
    "Is there a 2.776 in your function?",
    "t depends on n: scipy.stats.t.ppf(0.975, n - 1).",
)(reaching("five_pairs_for_ever", lambda d, quantile: 2.77645 * d.std() / len(d) ** 0.5))


@interval.hint(
    "What both runs of a pair have in common makes your interval wider.",
    "Do you look at the spread of a and of b, or at that of their differences? A hard seed is hard "
    "for both.",
    "Take a - b first; everything else is about these n numbers.",
)
def unpaired(a, b):
    from scipy.stats import t

    n, mean = len(a), a.mean() - b.mean()
    u, v = a.var() / n, b.var() / n
    freedom = (u + v) ** 2 / (u**2 / (n - 1) + v**2 / (n - 1))
    reach = t.ppf(0.975, float(freedom)) * (u + v).sqrt()
    return mean, mean - reach, mean + reach


@interval.hint(
    "Your interval grows with what both runs of a pair have in common, and is very wide.",
    "You add the reach of two intervals, one for a and one for b.",
    "Take a - b first, and one interval of these n numbers.",
)
def two_intervals_added(a, b):
    from scipy.stats import t

    n, mean = len(a), a.mean() - b.mean()
    reach = t.ppf(0.975, n - 1) * (a.std() + b.std()) / n**0.5
    return mean, mean - reach, mean + reach


@interval.hint(
    "The ends come in the wrong order.",
    "The low end is the mean minus something.",
    "mean, low, high",
)
def high_end_first(a, b):
    from scipy.stats import t

    d = a - b
    reach = t.ppf(0.975, len(d) - 1) * d.std() / len(d) ** 0.5
    return d.mean(), d.mean() + reach, d.mean() - reach


@interval.hint(
    "Your ends lie around 0, not around the mean.",
    "You return how far the ends are from the mean, not where they are.",
    "low is the mean minus that, high the mean plus that.",
)
def around_zero(a, b):
    from scipy.stats import t

    d = a - b
    reach = t.ppf(0.975, len(d) - 1) * d.std() / len(d) ** 0.5
    return d.mean(), -reach, reach


@interval.hint(
    "Your ends are the smallest and the largest difference.",
    "The interval is where the mean of many such pairs may be, not where the next pair may be.",
    "mean ± t · s / √n",
)
def from_smallest_to_largest(a, b):
    d = a - b
    return d.mean(), d.min(), d.max()


@interval.hint(
    "Your ends are quantiles of the differences.",
    "The interval is where the mean may be. With a hundred pairs it should be narrow, and the "
    "differences would still be as scattered.",
    "The mean minus t · s / √n, and the mean plus that.",
)
def quantiles_of_the_differences(a, b):
    d = a - b
    return d.mean(), d.quantile(0.025), d.quantile(0.975)


@interval.answer
def students_t(a, b):
    from scipy.stats import t

    d = a - b
    reach = t.ppf(0.975, len(d) - 1) * d.std() / len(d) ** 0.5
    return d.mean(), d.mean() - reach, d.mean() + reach
