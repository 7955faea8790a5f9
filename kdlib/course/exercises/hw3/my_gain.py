"""Homework 3, exercise 7: the student's own runs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from kdlib.course.exercises.generations import paired_runs
from kdlib.course.exercises.hw3.interval import (
    STUDENTS_T,
    b_minus_a,
    normal_instead_of_t,
    students_t,
    three_numbers,
    unpaired,
)
from kdlib.course.grading.exercise import Ask, Draw, Exercise

my_gain = Exercise(
    "my_gain",
    "my_gain is the mean of your own pairs, born again minus labels, with the low and the high end of "
    "its 95 % interval.",
    minutes=10,
    personal=True,
)


@my_gain.holds("It is the interval of your own paired runs, to 1 % of its width", points=2)
def is_the_interval_of_ones_own_runs(ask: Ask, draw: Draw) -> None:
    d = np.subtract(*(errors.numpy() for errors in paired_runs(draw.student)))
    reach = STUDENTS_T[len(d) - 2] * d.std(ddof=1) / math.sqrt(len(d))
    found = ask()
    three = three_numbers(found.value)
    found.should(three is not None, "three numbers: the mean, low, high")
    near = 0.02 * reach
    found.should(
        abs(three[0] - d.mean()) <= near,
        "first the mean of your five differences, errors of born-again minus label-trained networks",
    )
    ends = abs(three[1] - d.mean() + reach) <= near and abs(three[2] - d.mean() - reach) <= near
    found.should(ends, "the ends of Student's interval of your five differences")


def _own(student: str, function: Callable) -> list[float]:
    return [float(x) for x in function(*paired_runs(student))]


@my_gain.hint(
    "The sign is reversed: here fewer errors give a number below 0.",
    "Which of the two comes first, in the pair of tensors and in your difference?",
    "interval(born_again, labels)",
)
def labels_minus_born_again(student):
    return _own(student, b_minus_a)


@my_gain.hint(
    "The mean is right, but the interval is too narrow.",
    "Is it 1.96 or Student's t? With five pairs it is 2.776.",
    "Use your own interval(a, b).",
)
def with_a_normal_interval(student):
    return _own(student, normal_instead_of_t)


@my_gain.hint(
    "The mean is right, but the ends are not.",
    "Do you look at the differences, or at each group by itself?",
    "Both networks of a pair began alike: use your own interval(a, b).",
)
def with_an_unpaired_interval(student):
    return _own(student, unpaired)


@my_gain.hint(
    "These are not counts of errors. Are they percentages?",
    "There are 360 test images.",
    "Leave the errors as they are.",
)
def in_percent(student):
    return [x / 3.6 for x in _own(student, students_t)]


@my_gain.hint(
    "You looked at the pair with the largest gain.",
    "Five pairs were run, and all of them count.",
    "The mean of all five differences, and its interval.",
)
def the_best_pair(student):
    a, b = paired_runs(student)
    best = float((a - b).min())
    return [best, *_own(student, students_t)[1:]]


@my_gain.answer
def my_students_t(student):
    return _own(student, students_t)
