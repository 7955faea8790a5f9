"""Homework 2, exercise 1: the hint loss."""

from __future__ import annotations

from torch.nn import functional as F

from kdlib.course.exercises.claims import differ, is_along, is_mean_of, is_number
from kdlib.course.grading.exercise import Ask, Draw, Exercise
from kdlib.course.museum import mistakes

hint_loss = Exercise(
    "hint_loss",
    "hint_loss(guided, hint) gives half the squared distance of an example's features from its hint, "
    "averaged over the examples; features are (N, ...).",
    minutes=10,
)


@hint_loss.holds("It is 0 where guided features and hint agree, and only there")
def zero_only_where_both_agree(ask: Ask, draw: Draw) -> None:
    u, other = draw.normal(2, 3, 2, 2), draw.normal(2, 3, 2, 2)
    ask(guided=u, hint=u).should_be(0.0)
    apart = ask(guided=other, hint=u)
    apart.should(is_number(apart.value) and float(apart.value) != 0, "a number other than 0")


@hint_loss.holds("One example's features, in a row, are pulled by guided - hint")
def pulls_by_guided_minus_hint(ask: Ask, draw: Draw) -> None:
    for width in (3, draw.integer(4, 8)):
        r, u = draw.normal(1, width), draw.normal(1, width)
        ask.gradient("guided", guided=r, hint=u).should_be(r - u)


@hint_loss.holds("Maps count as much as the same numbers in a row")
def maps_count_like_rows(ask: Ask, draw: Draw) -> None:
    r, u = draw.normal(1, 3, 2, 4), draw.normal(1, 3, 2, 4)
    in_a_row = ask(guided=r.flatten(1), hint=u.flatten(1))
    as_maps = ask(guided=r, hint=u)
    as_maps.should_be(in_a_row.value)
    others = ask(guided=2 * r, hint=u), ask(guided=r, hint=2 * u)
    as_maps.should(differ(as_maps, *others), "a number other than for other features or hints")


@hint_loss.holds("The loss of a batch is the mean of its examples' losses")
def is_a_mean_over_the_batch(ask: Ask, draw: Draw) -> None:
    n = draw.integer(2, 4)
    r, u = draw.normal(n, 5), draw.normal(n, 5)
    alone = [ask(guided=r[k : k + 1], hint=u[k : k + 1]) for k in range(n)]
    is_mean_of(ask(guided=r, hint=u), alone)


@hint_loss.holds("The hint is a constant: only the guided features are pulled")
def hint_is_a_constant(ask: Ask, draw: Draw) -> None:
    r, u = draw.normal(1, 5), draw.normal(1, 5)
    ask.gradient("hint", guided=r, hint=u).should_be(None)
    pull = ask.gradient("guided", guided=r, hint=u)
    pull.should(is_along(pull.value, r - u), "a pull along guided - hint")


@hint_loss.hint(
    "The loss is too small by the number of features: over what is the mean taken?",
    "||u - r(v)||² sums the squares over all features of an example. F.mse_loss takes their mean.",
    "Sum over everything but the first axis, then take the mean over the examples.",
)
def mean_over_everything(guided, hint):
    return F.mse_loss(guided, hint.detach()) / 2


@hint_loss.hint(
    "F.mse_loss alone is a mean over all numbers. How many features does an example have?",
    "The formula has a sum over the features, and a half.",
    "Sum over everything but the first axis, take the mean over the examples, halve it.",
)
def plain_mse(guided, hint):
    return F.mse_loss(guided, hint.detach())


@hint_loss.hint(
    "The pull is twice as large as it should be.",
    "The derivative of a square brings down a factor of 2. What stands before the norm?",
    "Halve it.",
)
def half_forgotten(guided, hint):
    return (guided - hint.detach()).square().flatten(1).sum(1).mean()


@hint_loss.hint(
    "Features that are nearly right are pulled as hard as others.",
    "The formula squares the norm: the pull should shrink with the distance.",
    "Leave out the square root.",
)
def norm_not_squared(guided, hint):
    return (guided - hint.detach()).flatten(1).norm(dim=1).mean() / 2


@hint_loss.hint(
    "Doubling the batch doubles your loss.",
    "A learning rate that suits one batch size should suit another.",
    "Sum over an example's features, then take the mean over the examples.",
)
def summed_over_the_batch(guided, hint):
    return F.mse_loss(guided, hint.detach(), reduction="sum") / 2


@hint_loss.hint(
    "It is right for features in a row, too small for maps: by the number of their places?",
    "sum(1) adds up channels. What becomes of height and width afterwards?",
    "flatten(1) puts channels and places in one row.",
)
def places_averaged(guided, hint):
    return (guided - hint.detach()).square().sum(1).mean() / 2


hint_loss.hint(
    "A gradient reaches the hint: trained along, the teacher would move towards the student.",
    "A hint is a constant, whichever network it came from.",
    "hint.detach()",
)(mistakes.hint_trains_the_teacher)


@hint_loss.hint(
    "The guided features are not pulled at all, but the hint is.",
    "Which of the two is the constant?",
    "Detach the hint, not the guided features.",
)
def wrong_side_detached(guided, hint):
    return (guided.detach() - hint).square().flatten(1).sum(1).mean() / 2


@hint_loss.hint(
    "No gradient reaches the guided features: what you return is cut off from the computation.",
    "item(), detach(), numpy() and no_grad() each cut the path back to the student.",
    "Return the tensor itself; only the hint is detached.",
)
def a_number_without_a_past(guided, hint):
    return ((guided - hint).square().flatten(1).sum(1).mean() / 2).item()


@hint_loss.hint(
    "The pull is right, and yet the loss is not 0 where both agree. What is missing?",
    "(r(v) - u)² has three terms. One of them does not depend on the student, but it counts.",
    "Square the difference, or add the hint's own square.",
)
def without_the_hints_square(guided, hint):
    r, u = guided.flatten(1), hint.detach().flatten(1)
    return (r.square() / 2 - r * u).sum(1).mean()


@hint_loss.answer
def squares_in_a_row(guided, hint):
    return (guided - hint.detach()).square().flatten(1).sum(-1).mean() / 2
