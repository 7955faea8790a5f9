"""Homework 1, exercise 1: soft targets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.course.exercises.claims import is_like, left_alone
from kdlib.course.exercises.material import softmax
from kdlib.course.grading.exercise import Ask, Draw, Exercise
from kdlib.course.museum import mistakes

soften = Exercise(
    "soften",
    "soften(logits, temperature) gives the (N, C) soft targets of (N, C) logits.",
    minutes=10,
)


@soften.holds("Each row sums to 1")
def each_row_sums_to_one(ask: Ask, draw: Draw) -> None:
    z = draw.logits(draw.integer(3, 6))
    for T in (1.0, 4.0):
        found = ask(logits=z, temperature=T)
        found.should(
            _rows_sum_to_one(found.value, z),
            f"{len(z)} rows that sum to 1, each largest where z is",
        )


@soften.holds("Within a row, log q_i - log q_j is (z_i - z_j) / T")
def log_ratios_are_logit_gaps_over_t(ask: Ask, draw: Draw) -> None:
    z = draw.logits(draw.integer(2, 5))
    for T in (1.0, 4.0, draw.number(10, 30)):
        found = ask(logits=z, temperature=T)
        expected = softmax(z, T)
        found.should(_proportional(found.value, expected), f"rows proportional to exp(z / {T:.4g})")


@soften.holds("Large logits stay finite")
def large_logits_stay_finite(ask: Ask, draw: Draw) -> None:
    z = torch.cat([1000 + draw.logits(1), draw.logits(1)])
    found = ask(logits=z, temperature=1.0)
    holds = _proportional(found.value, softmax(z, 1))
    found.should(holds, "rows proportional to exp(z), though exp(1000) is infinite")


@soften.holds("The logits passed in stay unchanged")
def logits_are_left_alone(ask: Ask, draw: Draw) -> None:
    z = draw.logits(2)
    found = ask(logits=z, temperature=4.0)
    found.should(is_like(found.value, z) and bool((found.value > 0).all()), "numbers above 0")
    left_alone(ask, logits=z, temperature=4.0)


def _rows_sum_to_one(q: object, z: Tensor) -> bool:
    if not is_like(q, z) or not torch.equal(q.argmax(-1), z.argmax(-1)):
        return False
    return torch.allclose(q.double().sum(-1), torch.ones(len(z)).double())


def _proportional(q: object, expected: Tensor) -> bool:
    if not is_like(q, expected) or not bool((q > 0).all()):
        return False
    found = q.double() / q.double().max(-1, keepdim=True).values
    return torch.allclose(found, expected / expected.max(-1, keepdim=True).values, rtol=1e-4)


@soften.hint(
    "Your rows do not change when T does.",
    "Where does the temperature enter your function?",
    "Take the softmax of z / T, not of z.",
)
def temperature_forgotten(logits, temperature):
    return F.softmax(logits, dim=-1)


@soften.hint(
    "A higher temperature should make the targets softer. Yours become harder.",
    "Compare the largest probability at T = 1 and at T = 4.",
    "Divide the logits by T instead of multiplying.",
)
def multiplied_by_temperature(logits, temperature):
    return F.softmax(logits * temperature, dim=-1)


@soften.hint(
    "Your rows do not sum to 1. What does?",
    "Look at the columns: over which axis does your softmax run?",
    "Classes are the last axis: dim=-1.",
)
def softmax_over_the_batch(logits, temperature):
    return F.softmax(logits / temperature, dim=0)


@soften.hint(
    "Your rows do not sum to 1. What does your whole tensor sum to?",
    "The sum in the denominator runs over one row's classes, not over all rows.",
    "sum(-1, keepdim=True) sums each row and lets the division broadcast.",
)
def normalised_over_everything(logits, temperature):
    scaled = logits / temperature
    e = (scaled - scaled.amax(-1, keepdim=True)).exp()
    return e / e.sum()


@soften.hint(
    "You divide the probabilities by T, not the logits: their sum is 1 / T.",
    "In the formula T stands inside the exponential.",
)
def probabilities_divided(logits, temperature):
    return F.softmax(logits, dim=-1) / temperature


@soften.hint(
    "exp(1000) is infinite, and infinite / infinite is not a number.",
    "A constant may be added to all logits of a row without changing its softmax. Which one helps?",
    "Subtract the row's largest logit before the exponential, or use torch's softmax.",
)
def exponentials_by_hand(logits, temperature):
    e = torch.exp(logits / temperature)
    return e / e.sum(-1, keepdim=True)


@soften.hint(
    "Beside a row of much larger logits, a row becomes 0 / 0, which is not a number.",
    "Which largest logit do you subtract: that of the row, or that of the whole tensor?",
    "Subtract each row's own: amax(-1, keepdim=True).",
)
def shifted_by_the_largest_of_all(logits, temperature):
    e = torch.exp((logits - logits.max()) / temperature)
    return e / e.sum(-1, keepdim=True)


@soften.hint(
    "Logits above a bound have become equal.",
    "Cutting off a logit changes the softmax. Which change of a row does not?",
    "Subtract the row's largest logit; cut nothing off.",
)
def logits_cut_off(logits, temperature):
    e = (logits / temperature).clamp(-50, 50).exp()
    return e / e.sum(-1, keepdim=True)


@soften.hint(
    "Your targets are right, but the caller's logits have changed.",
    "In torch an operator like /= and a method that ends in _ write into the tensor they are given.",
    "Make a new tensor: logits / temperature.",
)
def logits_overwritten(logits, temperature):
    logits /= temperature
    return F.softmax(logits, dim=-1)


soften.hint(
    "Your targets depend only on which logits are positive.",
    "Something compares the logits with 0 before the softmax. The teacher's second thoughts are "
    "in the values.",
)(mistakes.thresholded_targets)


@soften.answer
def softmax_of_the_quotient(logits, temperature):
    return F.softmax(logits / temperature, dim=-1)
