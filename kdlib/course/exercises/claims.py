"""Claims that the properties of several exercises make about an answer."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from kdlib.course.grading.exercise import Answer, Ask


def is_like(value: object, z: Tensor) -> bool:
    """Whether it is a tensor with the shape of ``z``."""
    return isinstance(value, Tensor) and value.shape == z.shape


def is_along(value: object, wanted: Tensor) -> bool:
    """Whether each row is a positive multiple of the wanted one."""
    if not is_like(value, wanted):
        return False
    return float(F.cosine_similarity(value.double(), wanted, dim=-1).min()) > 1 - 1e-6


def is_number(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(float(value))


def is_positive(value: object) -> bool:
    """Whether it is a number above 0, by more than a rounding error."""
    return is_number(value) and float(value) > 1e-9


def is_moving(value: object, z: Tensor) -> bool:
    """Whether it is a finite gradient with the shape of ``z`` that is not all zeros."""
    return is_like(value, z) and bool(value.isfinite().all()) and float(value.abs().max()) > 0


def same_number(value: object, expected: float) -> bool:
    return is_number(value) and math.isclose(float(value), expected, rel_tol=1e-4)


def differ(*answers: Answer) -> bool:
    """Whether all are finite numbers and no two are the same."""
    if not all(is_finite(a.value) for a in answers):
        return False
    return len({round(float(a.value), 9) for a in answers}) == len(answers)


def left_alone(ask: Ask, **given: object) -> None:
    """Fail if the call writes into a tensor that it was given."""
    for name, argument in given.items():
        if isinstance(argument, Tensor):
            ask.after(name, **given).should_be(argument)


def tells_apart(apart: Answer, agreeing: Answer) -> None:
    """Fail unless the loss is positive where logits differ, and another number where they agree."""
    apart.should(is_positive(apart.value) and is_finite(apart.value), "a finite number above 0")
    other = not same_number(agreeing.value, float(apart.value))
    agreeing.should(other, "a number other than the loss where the two differ")


def is_mean_of(whole: Answer, alone: list[Answer]) -> None:
    """Fail unless the loss of a batch is the mean of its examples' losses, which all differ."""
    for one in alone:
        one.should(is_finite(one.value), "a number")
    alone[0].should(differ(*alone), "a number other than for the other examples")
    whole.should_be(sum(float(one.value) for one in alone) / len(alone))
