"""Homework 1, exercise 7: the student's own teacher."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdlib.course.exercises.claims import is_number
from kdlib.course.exercises.material import softmax, teacher_logits
from kdlib.course.grading.exercise import Ask, Draw, Exercise

my_temperature = Exercise(
    "my_temperature",
    "my_temperature is the one at which your own teacher's soft targets have a mean entropy of 1 bit.",
    minutes=10,
    personal=True,
)


@my_temperature.holds("There your teacher's targets have an entropy of 0.99 to 1.01 bits", 2)
def entropy_is_one_bit(ask: Ask, draw: Draw) -> None:
    found = ask()
    found.should(is_number(found.value) and found.value > 0, "a positive number")
    bits = mean_bits(teacher_logits(draw.student), float(found.value))
    if abs(bits - 1) > 0.01:
        found.should(False, f"the temperature of 1 bit; at yours the targets have {bits:.3f}")


def mean_bits(z: Tensor, temperature: float) -> float:
    p = softmax(z, temperature)
    return float(-torch.xlogy(p, p).sum(1).mean() / math.log(2))


def _where(entropy, wanted: float) -> float:
    """The temperature with this entropy, by bisection: entropy grows with the temperature."""
    low, high = 1e-2, 1e3
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if entropy(middle) < wanted else (low, middle)
    return middle


@my_temperature.hint(
    "At your temperature the entropy is 1 nat. The question is about bits.",
    "One bit is log 2 = 0.693 nats: which logarithm did you take?",
    "Use log2, or divide by log 2.",
)
def one_nat(student):
    z = teacher_logits(student)
    return _where(lambda T: mean_bits(z, T) * math.log(2), 1)


@my_temperature.hint(
    "At your temperature the mean target has 1 bit, or comes nearest to it: you averaged first.",
    "The targets of a 3 and of a 7 may both be sharp, and their average is not.",
    "Take each image's entropy, then the mean.",
)
def entropy_of_the_mean(student):
    z = teacher_logits(student)

    def bits(T):
        p = softmax(z, T).mean(0)
        return float(-torch.xlogy(p, p).sum() / math.log(2))

    return _where(bits, 1)


@my_temperature.hint(
    "Your answer looks upside down.",
    "Did you multiply the logits where they should be divided?",
    "If T is your answer, try 1 / T.",
)
def upside_down(student):
    return 1 / halving(student)


@my_temperature.hint(
    "At your temperature the median image has 1 bit; the mean does not.",
    "A few images of high entropy pull a mean up, but not a median.",
    "Take the mean over the images.",
)
def of_the_median_image(student):
    z = teacher_logits(student)

    def bits(T):
        p = softmax(z, T)
        return float((-torch.xlogy(p, p).sum(1) / math.log(2)).median())

    return _where(bits, 1)


@my_temperature.answer
def halving(student):
    z = teacher_logits(student)
    return _where(lambda T: mean_bits(z, T), 1)
