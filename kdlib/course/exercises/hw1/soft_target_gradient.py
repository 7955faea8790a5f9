"""Homework 1, exercise 4: the gradient of the soft-target loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from kdlib.course.exercises.claims import is_along, is_moving, left_alone
from kdlib.course.exercises.material import softmax
from kdlib.course.grading.exercise import Ask, Draw, Exercise
from kdlib.course.grading.observe import described

soft_target_gradient = Exercise(
    "soft_target_gradient",
    "soft_target_gradient(student, teacher, temperature) gives the (N, C) gradient of the "
    "soft-target loss with respect to the student's logits, as a formula.",
    minutes=15,
)


@soft_target_gradient.holds("At T = 1 and for one example it is q - p")
def is_q_minus_p_at_t_1(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(1), draw.logits(1)
    found = ask(student=s, teacher=t, temperature=1.0)
    found.should_be(softmax(s, 1) - softmax(t, 1))


@soft_target_gradient.holds("For small logits a higher T does not change its size")
def keeps_its_size_at_higher_t(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(1, scale=0.01), draw.logits(1, scale=0.01)
    first = ask(student=s, teacher=t, temperature=1.0)
    first.should(is_moving(first.value, s), "something other than zeros")
    ask(student=t, teacher=s, temperature=1.0).should_be(-first.value, tolerance=0.05)
    for T in (4.0, draw.number(10, 30)):
        ask(student=s, teacher=t, temperature=T).should_be(first.value, tolerance=0.05)


@soft_target_gradient.holds("At any T it points along q - p, both softened with that T")
def lies_along_q_minus_p_at_any_t(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(1), draw.logits(1)
    for T in (4.0, draw.number(10, 30)):
        found = ask(student=s, teacher=t, temperature=T)
        wanted = softmax(s, T) - softmax(t, T)
        found.should(is_along(found.value, wanted), f"a multiple of {described(wanted)}")


@soft_target_gradient.holds("In a batch twice as large each example counts half")
def examples_count_half_in_a_doubled_batch(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(2), draw.logits(2)
    once = ask(student=s, teacher=t, temperature=2.0)
    once.should(is_moving(once.value, s), "a tensor of the logits' shape, not all zeros")
    twice = ask(student=torch.cat([s, s]), teacher=torch.cat([t, t]), temperature=2.0)
    twice.should_be(torch.cat([once.value, once.value]) / 2)
    left_alone(ask, student=s, teacher=t, temperature=2.0)


def of_both(name: str, formula: Callable) -> Callable:
    """A wrong answer: ``formula(q, p, T)`` of both softened outputs, (N, C) each."""

    def answer(student, teacher, temperature):
        q, p = (F.softmax(z / temperature, dim=-1) for z in (student, teacher))
        return formula(q, p, temperature)

    answer.__name__ = name
    return answer


soft_target_gradient.hint(
    "The sign is the other way round: a step against your gradient leads away from the teacher.",
    "Where the student gives a class too much, q > p, its logit must fall: the gradient is positive.",
    "q - p",
)(of_both("sign_reversed", lambda q, p, T: T * (p - q) / len(q)))

soft_target_gradient.hint(
    "The higher T, the smaller your gradient.",
    "The loss has a factor T², and the derivative of z / T with respect to z is 1 / T. What is left?",
    "One factor of T is left over; it stands before the difference.",
)(of_both("without_the_factor", lambda q, p, T: (q - p) / len(q)))

soft_target_gradient.hint(
    "Your gradient is that of KL alone. What stands before KL in the loss?",
    "The derivative of z / T makes your gradient shrink as 1 / T. The factor T² of the loss is missing.",
    "T² / T = T stands before the difference.",
)(of_both("derivative_of_kl_alone", lambda q, p, T: (q - p) / (T * len(q))))

soft_target_gradient.hint(
    "The higher T, the larger your gradient.",
    "T² stands before the loss. What does the derivative of z / T leave of it?",
    "One of the two factors of T is left.",
)(of_both("with_both_factors", lambda q, p, T: T**2 * (q - p) / len(q)))

soft_target_gradient.hint(
    "Doubling the batch leaves your rows as they are.",
    "The loss is a mean over N examples. How much does one of them move a mean?",
    "Divide by N, the number of rows.",
)(of_both("of_a_sum", lambda q, p, T: T * (q - p)))

soft_target_gradient.hint(
    "Even at T = 1 and for one example it is too small, by the number of classes.",
    "The loss is a sum over classes.",
    "Divide by N alone.",
)(of_both("divided_by_classes", lambda q, p, T: T * (q - p) / q.numel()))


@soft_target_gradient.hint(
    "Raising T changes nothing in your gradient.",
    "The temperature enters in three places. Which?",
    "q and p are both softened with T, and T stands before them.",
)
def temperature_left_out(student, teacher, temperature):
    q, p = (F.softmax(z, dim=-1) for z in (student, teacher))
    return (q - p) / len(student)


@soft_target_gradient.hint(
    "At T = 1 it is right. At which temperature do you take each softmax?",
    "Both q and p are those of the loss, softened with T.",
)
def at_temperature_one(student, teacher, temperature):
    q, p = (F.softmax(z, dim=-1) for z in (student, teacher))
    return temperature * (q - p) / len(student)


@soft_target_gradient.answer
def the_formula(student, teacher, temperature):
    q, p = (F.softmax(z / temperature, dim=-1) for z in (student, teacher))
    return temperature * (q - p) / len(student)
