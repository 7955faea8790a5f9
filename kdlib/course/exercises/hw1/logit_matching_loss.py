"""Homework 1, exercise 5: the limit of high temperature."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from kdlib.course.exercises.claims import left_alone, tells_apart
from kdlib.course.grading.exercise import Ask, Draw, Exercise

logit_matching_loss = Exercise(
    "logit_matching_loss",
    "logit_matching_loss(student, teacher) gives ½ · the mean over classes and batch of the squared "
    "difference of logits, each row first made to have mean 0.",
    minutes=15,
)


@logit_matching_loss.holds("A constant added to all logits of a row changes nothing")
def constants_change_nothing(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(3), draw.logits(3)
    once = ask(student=s, teacher=t)
    tells_apart(once, ask(student=s, teacher=s))
    for shifted in ((s + 5, t), (s, t - draw.number(1, 9)), (s + draw.normal(3, 1), t)):
        ask(student=shifted[0], teacher=shifted[1]).should_be(once.value)
    left_alone(ask, student=s, teacher=t)


@logit_matching_loss.holds(
    "For one example of mean 0 it is half the mean square, with the gradient of that"
)
def is_half_the_mean_square_of_centred_logits(ask: Ask, draw: Draw) -> None:
    s, t = (z - z.mean(1, keepdim=True) for z in (draw.logits(1), draw.logits(1)))
    ask(student=s, teacher=t).should_be((s - t).square().mean() / 2)
    ask.gradient("student", student=s, teacher=t).should_be((s - t) / s.shape[1])


@logit_matching_loss.holds("It is the mean over the classes, however many there are")
def is_a_mean_over_the_classes(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(1, 5), draw.logits(1, 5)
    once = ask(student=s, teacher=t)
    tells_apart(once, ask(student=s, teacher=s))
    twice = ask(student=torch.cat([s, s], 1), teacher=torch.cat([t, t], 1))
    twice.should_be(once.value)


@logit_matching_loss.holds("It is the mean over the batch")
def is_a_mean_over_the_batch(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(2), draw.logits(2)
    once = ask(student=s, teacher=t)
    tells_apart(once, ask(student=s, teacher=s))
    twice = ask(student=torch.cat([s, s]), teacher=torch.cat([t, t]))
    twice.should_be(once.value)


def of_the_gap(name: str, loss: Callable) -> Callable:
    """A wrong answer: ``loss(gap)`` of the difference of both centred logits, (N, C)."""

    def answer(student, teacher):
        s, t = (z - z.mean(-1, keepdim=True) for z in (student, teacher))
        return loss(s - t)

    answer.__name__ = name
    return answer


@logit_matching_loss.hint(
    "Adding a constant to a row's logits changes your loss, though it changes no probability.",
    "Only differences between logits mean something to a softmax.",
    "Subtract each row's mean, on both sides, before comparing.",
)
def not_centred(student, teacher):
    return (student - teacher).square().mean() / 2


logit_matching_loss.hint(
    "The loss is twice as large as it should be.",
    "In the limit T² · KL becomes the sum over classes of (s - t)² / (2 C).",
    "Take half of the mean square.",
)(of_the_gap("half_forgotten", lambda gap: gap.square().mean()))

logit_matching_loss.hint(
    "The loss grows with the number of classes.",
    "In the limit each probability comes near 1 / C, and so does the factor before each class.",
    "Take the mean over the classes, not the sum.",
)(of_the_gap("summed_over_classes", lambda gap: gap.square().sum(-1).mean() / 2))

logit_matching_loss.hint(
    "It is right for ten classes, but not for five.",
    "Is there a number in your function that stands for ten classes?",
    "mean(-1) knows how many there are.",
)(of_the_gap("divided_by_twenty", lambda gap: gap.square().sum(-1).mean() / 20))

logit_matching_loss.hint(
    "Twice the images, twice the loss.",
    "One more mean is missing.",
    "Take the mean over classes and examples.",
)(of_the_gap("summed_over_examples", lambda gap: gap.square().mean(-1).sum() / 2))


@logit_matching_loss.hint(
    "For one example the loss is 0 whatever the logits: you subtract the example from itself.",
    "Over which axis do you take the mean?",
    "Subtract each row's own mean: mean(-1, keepdim=True).",
)
def centred_over_the_batch(student, teacher):
    s, t = (z - z.mean(0, keepdim=True) for z in (student, teacher))
    return (s - t).square().mean() / 2


@logit_matching_loss.hint(
    "This is not the limit: you compare probabilities, not logits.",
    "In the limit of large T no softmax is left.",
    "Compare the logits themselves, each row with mean 0.",
)
def probabilities_compared(student, teacher):
    s, t = (F.softmax(z, dim=-1) for z in (student, teacher))
    return (s - t).square().mean() / 2


logit_matching_loss.hint(
    "The value is right, but no gradient reaches the student.",
    "item(), detach(), numpy() and no_grad() each cut the path back to the student.",
    "Return the tensor itself.",
)(of_the_gap("distance_as_a_number", lambda gap: (gap.square().mean() / 2).item()))


@logit_matching_loss.answer
def both_centred(student, teacher):
    s, t = (z - z.mean(-1, keepdim=True) for z in (student, teacher))
    return (s - t).square().mean() / 2
