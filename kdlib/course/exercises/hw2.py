"""Homework 2, inside the network: what an answer must do, and what goes wrong.

Each exercise has its properties first, then known mistakes with their hints, then right answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib.course.exercises.layers import (
    FirstLoss,
    NetworkWithOldGradients,
    SecondLoss,
    change,
    changed,
    descent,
    feature_maps,
    flow,
    forward,
    gradient,
    of_first_loss,
    of_second_loss,
    pooled,
    row,
    two_parts,
)
from kdlib.course.exercises.material import (
    is_along,
    is_finite,
    is_like,
    is_moving,
    is_number,
    is_positive,
)
from kdlib.course.grading.exercise import Answer, Ask, Draw, Exercise
from kdlib.course.grading.observe import same
from kdlib.course.museum import mistakes

# Exercise 1: the hint loss

hint_loss = Exercise(
    "hint_loss",
    "hint_loss(guided, hint) gives half the squared distance of an example's features from its hint, "
    "the mean over the examples; features are (N, ...).",
    minutes=10,
)


@hint_loss.holds("It is 0 where guided features and hint agree, and only there")
def _(ask: Ask, draw: Draw) -> None:
    u, other = draw.normal(2, 3, 2, 2), draw.normal(2, 3, 2, 2)
    ask(guided=u, hint=u).should_be(0.0)
    apart = ask(guided=other, hint=u)
    apart.should(is_number(apart.value) and float(apart.value) != 0, "another number than 0")


@hint_loss.holds("One example's features, in a row, are pulled by guided - hint")
def _(ask: Ask, draw: Draw) -> None:
    for width in (3, draw.integer(4, 8)):
        r, u = draw.normal(1, width), draw.normal(1, width)
        ask.gradient("guided", guided=r, hint=u).should_be(r - u)


@hint_loss.holds("Maps count as much as the same numbers in a row")
def _(ask: Ask, draw: Draw) -> None:
    r, u = draw.normal(1, 3, 2, 4), draw.normal(1, 3, 2, 4)
    in_a_row = ask(guided=r.flatten(1), hint=u.flatten(1))
    as_maps = ask(guided=r, hint=u)
    as_maps.should_be(in_a_row.value)
    others = ask(guided=2 * r, hint=u), ask(guided=r, hint=2 * u)
    as_maps.should(_differ(as_maps, *others), "another number than for other features or hints")


@hint_loss.holds("The loss of a batch is the mean of its examples' losses")
def _(ask: Ask, draw: Draw) -> None:
    n = draw.integer(2, 4)
    r, u = draw.normal(n, 5), draw.normal(n, 5)
    alone = [ask(guided=r[k : k + 1], hint=u[k : k + 1]) for k in range(n)]
    _is_mean_of(ask(guided=r, hint=u), alone)


@hint_loss.holds("The hint is a constant: only the guided features are pulled")
def _(ask: Ask, draw: Draw) -> None:
    r, u = draw.normal(1, 5), draw.normal(1, 5)
    ask.gradient("hint", guided=r, hint=u).should_be(None)
    pull = ask.gradient("guided", guided=r, hint=u)
    pull.should(is_along(pull.value, r - u), "a pull along guided - hint")


def _differ(*answers: Answer) -> bool:
    """Whether they are numbers, and not all the same."""
    if not all(is_finite(a.value) for a in answers):
        return False
    return len({round(float(a.value), 9) for a in answers}) == len(answers)


def _is_mean_of(whole: Answer, alone: list[Answer]) -> None:
    for one in alone:
        one.should(is_finite(one.value), "a number")
    alone[0].should(_differ(*alone), "another number than for the other examples")
    whole.should_be(sum(float(one.value) for one in alone) / len(alone))


@hint_loss.hint(
    "The loss is too small by the number of features: over what is the mean taken?",
    "||u - r||² sums the squares over all features of an example. F.mse_loss takes their mean.",
    "Sum over everything but the first axis, then take the mean over the examples.",
)
def mean_over_everything(guided: Tensor, hint: Tensor) -> Tensor:
    return F.mse_loss(guided, hint.detach()) / 2


@hint_loss.hint(
    "F.mse_loss alone is a mean over all numbers there are. How many features has an example?",
    "The formula has a sum over the features, and a half.",
    "Sum over everything but the first axis, take the mean over the examples, halve it.",
)
def plain_mse(guided: Tensor, hint: Tensor) -> Tensor:
    return F.mse_loss(guided, hint.detach())


@hint_loss.hint(
    "The pull is twice as large as it should be.",
    "The derivative of a square brings down a factor of 2. What stands before the norm?",
    "Halve it.",
)
def half_forgotten(guided: Tensor, hint: Tensor) -> Tensor:
    return (guided - hint.detach()).square().flatten(1).sum(1).mean()


@hint_loss.hint(
    "Features that are nearly right are pulled at as hard as others.",
    "The norm stands squared in the formula: the pull should shrink with the distance.",
    "Leave out the square root.",
)
def norm_not_squared(guided: Tensor, hint: Tensor) -> Tensor:
    return (guided - hint.detach()).flatten(1).norm(dim=1).mean() / 2


@hint_loss.hint(
    "A batch twice as large has a loss twice as large.",
    "A rate that is good for one size of batch should be good for another.",
    "Sum over an example's features, then take the mean over the examples.",
)
def summed_over_the_batch(guided: Tensor, hint: Tensor) -> Tensor:
    return F.mse_loss(guided, hint.detach(), reduction="sum") / 2


@hint_loss.hint(
    "For features in a row it is right, for maps it is too small: by the number of their places?",
    "sum(1) adds up channels. What becomes of height and width afterwards?",
    "flatten(1) puts channels and places in one row.",
)
def places_averaged(guided: Tensor, hint: Tensor) -> Tensor:
    return (guided - hint.detach()).square().sum(1).mean() / 2


hint_loss.hint(
    "A gradient reaches the hint: trained together, the teacher would come to meet the student.",
    "A hint is a number, whatever network it came from.",
    "hint.detach()",
)(mistakes.hint_trains_the_teacher)


@hint_loss.hint(
    "The guided features are not pulled at all, and the hint is.",
    "Which of the two is the constant?",
    "Detach the hint, not the guided features.",
)
def wrong_side_detached(guided: Tensor, hint: Tensor) -> Tensor:
    return (guided.detach() - hint).square().flatten(1).sum(1).mean() / 2


@hint_loss.hint(
    "No gradient reaches the guided features: what you return is a number that has forgotten its past.",
    "item(), detach(), numpy() and no_grad() each cut the thread that leads back to the student.",
    "Return the tensor itself; only the hint is detached.",
)
def a_number_without_a_past(guided: Tensor, hint: Tensor) -> float:
    return ((guided - hint).square().flatten(1).sum(1).mean() / 2).item()


@hint_loss.hint(
    "The pull is right, and yet the loss is not 0 where both agree. What is missing?",
    "(r - u)² has three terms. One of them no weight of the student moves, and it counts.",
    "Square the difference, or add the hint's own square.",
)
def without_the_hints_square(guided: Tensor, hint: Tensor) -> Tensor:
    r, u = guided.flatten(1), hint.detach().flatten(1)
    return (r.square() / 2 - r * u).sum(1).mean()


@hint_loss.answer
def squares_in_a_row(guided: Tensor, hint: Tensor) -> Tensor:
    return (guided - hint.detach()).square().flatten(1).sum(-1).mean() / 2


@hint_loss.answer
def by_mse(r: Tensor, u: Tensor) -> Tensor:
    return 0.5 * F.mse_loss(r, u.detach(), reduction="sum") / r.shape[0]


@hint_loss.answer
def by_einsum(guided: Tensor, hint: Tensor) -> Tensor:
    with torch.no_grad():
        target = hint.reshape(len(hint), -1)
    gap = target - guided.reshape(len(guided), -1)
    return torch.einsum("nd,nd->n", gap, gap).mean() / 2


@hint_loss.answer
def one_example_at_a_time(guided: Tensor, hint: Tensor) -> Tensor:
    halves = [((r - u) ** 2).sum() / 2 for r, u in zip(guided, hint.detach(), strict=True)]
    return sum(halves) / len(halves)


@hint_loss.answer
def norm_and_square(guided: Tensor, hint: Tensor) -> Tensor:
    rest = tuple(range(1, guided.dim()))
    return torch.linalg.vector_norm(guided - hint.data, dim=rest).pow(2).div(2).mean(0)


# Exercise 2: a step towards the hint

hint_step = Exercise(
    "hint_step",
    "hint_step(guided, regressor, inputs, hint) takes one step of SGD, of rate 0.01, on the hint loss "
    "of the student's lower part and of the regressor, and gives the loss before it.",
    minutes=15,
)


def _step(draw: Draw, width: int = 3) -> dict[str, object]:
    guided, regressor = two_parts(draw, width)
    return {
        "guided": guided,
        "regressor": regressor,
        "inputs": draw.normal(2, 2),
        "hint": draw.normal(2, width),
    }


def _downhill(given: dict[str, object]) -> tuple[np.ndarray, np.ndarray]:
    """The step that both should take, in their weights."""
    weights = row(given["guided"], given["regressor"])
    outputs, hint = forward(weights, given["inputs"])[1], given["hint"].numpy()
    step = -0.01 * gradient(weights, given["inputs"], 0, (outputs - hint) / len(hint))
    return step[:6], step[6:]


@hint_step.holds("It gives back the hint loss as it was before the step")
def _(ask: Ask, draw: Draw) -> None:
    for width in (3, 2):
        given = _step(draw, width)
        weights = row(given["guided"], given["regressor"])
        gap = forward(weights, given["inputs"])[1] - given["hint"].numpy()
        ask(**given).should_be(float((gap**2).sum(1).mean() / 2))


@hint_step.holds("The lower part of the student takes the step")
def _(ask: Ask, draw: Draw) -> None:
    given = _step(draw)
    change(ask, "guided", **given).should_be(torch.from_numpy(_downhill(given)[0]))


@hint_step.holds("The regressor takes the step, too")
def _(ask: Ask, draw: Draw) -> None:
    given = _step(draw)
    change(ask, "regressor", **given).should_be(torch.from_numpy(_downhill(given)[1]))


@hint_step.holds("Gradients that are left from an earlier step do not count")
def _(ask: Ask, draw: Draw) -> None:
    given = _step(draw)
    fresh = [change(ask, of, **given) for of in ("guided", "regressor")]
    given["guided"] = NetworkWithOldGradients(*given["guided"])
    given["regressor"] = NetworkWithOldGradients(given["regressor"])
    for before, of in zip(fresh, ("guided", "regressor"), strict=True):
        change(ask, of, **given).should_be(before.value)
    fresh[0].should(_moves(fresh[0]) or _moves(fresh[1]), "that something moves")


def _moves(found: Answer) -> bool:
    """Whether weights changed, to numbers."""
    return isinstance(found.value, Tensor) and is_moving(found.value, found.value)


@hint_step.hint(
    "The regressor stays as it is: the student must please a random map that never learns.",
    "Which parameters does your optimizer know?",
    "Give it those of guided and of regressor in one list.",
)
def regressor_not_in_the_optimizer(
    guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor
) -> float:
    optimizer = torch.optim.SGD(guided.parameters(), lr=0.01)
    loss = (regressor(guided(inputs)) - hint).square().flatten(1).sum(1).mean() / 2
    optimizer.zero_grad()
    regressor.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@hint_step.hint(
    "The student stays as it is: only the regressor learns, from features that nobody improves.",
    "Which parameters does your optimizer know? And is there a no_grad or a detach on the way?",
    "Give the optimizer those of guided and of regressor in one list.",
)
def student_not_trained(
    guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor
) -> float:
    optimizer = torch.optim.SGD(regressor.parameters(), lr=0.01)
    with torch.no_grad():
        features = guided(inputs)
    loss = (regressor(features) - hint).square().flatten(1).sum(1).mean() / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@hint_step.hint(
    "A student is thinner than its teacher: its features do not have the hint's shape.",
    "What is the regressor for?",
    "Compare regressor(guided(inputs)) with the hint.",
)
def no_regressor(guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor) -> float:
    optimizer = torch.optim.SGD(guided.parameters(), lr=0.01)
    loss = (guided(inputs) - hint).square().flatten(1).sum(1).mean() / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@hint_step.hint(
    "A network may bring gradients along. Yours are added to them.",
    "backward() adds to what is there. When do you clear it?",
    "zero_grad() comes before backward().",
)
def zero_grad_forgotten(
    guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor
) -> float:
    optimizer = torch.optim.SGD([*guided.parameters(), *regressor.parameters()], lr=0.01)
    loss = (regressor(guided(inputs)) - hint).square().flatten(1).sum(1).mean() / 2
    loss.backward()
    optimizer.step()
    return loss.item()


@hint_step.hint(
    "Nothing moves. Is step() called, and are the gradients still there when it is?",
    "zero_grad() wipes out what backward() has just found.",
    "The order is zero_grad(), backward(), step().",
)
def nothing_moves(guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor) -> float:
    optimizer = torch.optim.SGD([*guided.parameters(), *regressor.parameters()], lr=0.01)
    loss = (regressor(guided(inputs)) - hint).square().flatten(1).sum(1).mean() / 2
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss.item()


@hint_step.hint(
    "What you give back is smaller than it should be: it is the loss after the step.",
    "The loss that was differentiated is there already.",
    "Return loss.item(), without computing it anew.",
)
def loss_after_the_step(
    guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor
) -> float:
    optimizer = torch.optim.SGD([*guided.parameters(), *regressor.parameters()], lr=0.01)
    optimizer.zero_grad()
    ((regressor(guided(inputs)) - hint).square().flatten(1).sum(1).mean() / 2).backward()
    optimizer.step()
    return ((regressor(guided(inputs)) - hint).square().flatten(1).sum(1).mean() / 2).item()


@hint_step.hint(
    "The step is taken, and nothing comes back.",
    "Whoever calls it wants to draw a curve.",
    "Return loss.item().",
)
def nothing_returned(guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor) -> None:
    optimizer = torch.optim.SGD([*guided.parameters(), *regressor.parameters()], lr=0.01)
    loss = (regressor(guided(inputs)) - hint).square().flatten(1).sum(1).mean() / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@hint_step.hint(
    "The loss and both steps are off by one and the same factor.",
    "Is it your hint loss that you minimise, or F.mse_loss, a mean over everything?",
    "Sum over an example's features, halve it, take the mean over the examples.",
)
def step_on_the_mean_square(
    guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor
) -> float:
    optimizer = torch.optim.SGD([*guided.parameters(), *regressor.parameters()], lr=0.01)
    loss = F.mse_loss(regressor(guided(inputs)), hint)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@hint_step.hint(
    "The step goes uphill.",
    "A gradient points to where the loss grows.",
    "weight -= 0.01 * gradient",
)
def uphill(guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor) -> float:
    weights = [*guided.parameters(), *regressor.parameters()]
    loss = (regressor(guided(inputs)) - hint).square().flatten(1).sum(1).mean() / 2
    gradients = torch.autograd.grad(loss, weights)
    with torch.no_grad():
        for weight, slope in zip(weights, gradients, strict=True):
            weight += 0.01 * slope
    return loss.item()


@hint_step.hint(
    "Every weight moves by the same 0.01, whatever its gradient.",
    "Adam divides a gradient by its usual size. The task says SGD.",
    "torch.optim.SGD(..., lr=0.01)",
)
def adam(guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor) -> float:
    optimizer = torch.optim.Adam([*guided.parameters(), *regressor.parameters()], lr=0.01)
    loss = (regressor(guided(inputs)) - hint).square().flatten(1).sum(1).mean() / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@hint_step.answer
def one_optimizer(guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor) -> float:
    optimizer = torch.optim.SGD([*guided.parameters(), *regressor.parameters()], lr=0.01)
    loss = (regressor(guided(inputs)) - hint).square().flatten(1).sum(1).mean() / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@hint_step.answer
def one_network(v: nn.Module, r: nn.Module, x: Tensor, u: Tensor) -> Tensor:
    whole = nn.Sequential(v, r)
    sgd = torch.optim.SGD(whole.parameters(), 1e-2)
    sgd.zero_grad(set_to_none=False)
    loss = F.mse_loss(whole(x), u.detach(), reduction="sum") / (2 * len(x))
    loss.backward()
    sgd.step()
    return loss


@hint_step.answer
def by_autograd(guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor) -> float:
    weights = list(guided.parameters()) + list(regressor.parameters())
    loss = ((hint - regressor(guided(inputs))) ** 2).reshape(len(hint), -1).sum(1).mean() * 0.5
    for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        weight.data -= 0.01 * slope
    return loss.item()


@hint_step.answer
def two_optimizers(guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor) -> float:
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.01) for net in (guided, regressor)]
    for optimizer in optimizers:
        optimizer.zero_grad()
    gap = (regressor(guided(inputs)) - hint).flatten(1)
    loss = torch.einsum("nd,nd->", gap, gap) / (2 * len(gap))
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()


@hint_step.answer
def by_hand_without_an_optimizer(
    guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor
) -> float:
    for net in (guided, regressor):
        for weight in net.parameters():
            weight.grad = None
    loss = (regressor(guided(inputs)) - hint).square().sum() / 2 / inputs.shape[0]
    loss.backward()
    with torch.no_grad():
        for net in (regressor, guided):
            for weight in net.parameters():
                weight.sub_(weight.grad, alpha=0.01)
                weight.grad = None
    return loss.item()


# Exercise 3: the FSP matrix

fsp_matrix = Exercise(
    "fsp_matrix",
    "fsp_matrix(first, second) gives (N, C1, C2): the mean over all places of the products of channels, "
    "the larger maps first max-pooled to the size of the smaller.",
    minutes=20,
)


@fsp_matrix.holds("For one channel each it is the mean over the places of their product")
def _(ask: Ask, draw: Draw) -> None:
    h, w = draw.integer(2, 3), draw.integer(4, 5)
    first, second = draw.normal(1, 1, h, w), draw.normal(1, 1, h, w)
    ask(first=first, second=second).should_be(flow(first, second))


@fsp_matrix.holds("Row i, column j is the flow from channel i alone to channel j alone")
def _(ask: Ask, draw: Draw) -> None:
    first, second = draw.normal(1, 2, 2, 4), draw.normal(1, 3, 2, 4)
    entries = [
        _scales(ask, first[:, i : i + 1], second[:, j : j + 1]).value.reshape(-1)
        for i in range(2)
        for j in range(3)
    ]
    whole = ask(first=first, second=second)
    whole.should_be(torch.cat(entries).reshape(1, 2, 3))


@fsp_matrix.holds("Whichever map is larger is max-pooled to the size of the other")
def _(ask: Ask, draw: Draw) -> None:
    small, size = draw.normal(1, 2, 2, 3), (2, 3)
    for factor in (3, 2):
        large = draw.normal(1, 2, 2 * factor, 3 * factor)
        for pair in ((large, small), (small, large)):
            first, second = (pooled(maps, size) for maps in pair)
            at_one_size = _scales(ask, first, second)
            ask(first=pair[0], second=pair[1]).should_be(at_one_size.value)


@fsp_matrix.holds("Each example of a batch has its own matrix, whoever stands beside it")
def _(ask: Ask, draw: Draw) -> None:
    n = draw.integer(2, 4)
    first, second = draw.normal(n, 2, 2, 4), draw.normal(n, 2, 2, 4)
    alone = [_scales(ask, first[k : k + 1], second[k : k + 1]).value for k in range(n)]
    ask(first=first, second=second).should_be(torch.cat(alone))


@fsp_matrix.holds("No tensor on the way is much larger than the maps")
def _(ask: Ask, draw: Draw) -> None:
    first, second = draw.normal(1, 16, 8, 8), draw.normal(1, 16, 8, 8)
    _scales(ask, first, second)
    found = ask.largest(first=first, second=second)
    found.should(found.value <= 4 * first.numel(), f"at most {4 * first.numel():,}")


@fsp_matrix.holds("Gradients reach both maps")
def _(ask: Ask, draw: Draw) -> None:
    given = {"first": draw.normal(1, 2, 2, 3), "second": draw.normal(1, 2, 2, 3)}
    _scales(ask, **given)
    for of, maps in given.items():
        pull = ask.gradient(of, **given)
        pull.should(is_moving(pull.value, maps), "something other than zeros")


def _scales(ask: Ask, first: Tensor, second: Tensor) -> Answer:
    """A matrix for each example, which is twice as large if the first maps are."""
    once = ask(first=first, second=second)
    like = first.new_zeros(len(first), first.shape[1], second.shape[1])
    wanted = f"numbers, not all 0, of shape {tuple(like.shape)}"
    once.should(is_moving(once.value, like), wanted)
    ask(first=2 * first, second=second).should_be(2 * once.value)
    return once


@fsp_matrix.hint(
    "The matrix is too large by the number of places.",
    "What stands below the sum in the formula?",
    "Divide by h · w.",
)
def not_divided(first: Tensor, second: Tensor) -> Tensor:
    size = min(first.shape[2:], second.shape[2:])
    f1, f2 = (F.adaptive_max_pool2d(x, size).flatten(2) for x in (first, second))
    return torch.bmm(f1, f2.transpose(1, 2))


@fsp_matrix.hint(
    "For one channel it is right, for more it is too small.",
    "Gram matrices of style transfer are divided by channels, too. What is this one divided by?",
    "Divide by h · w alone.",
)
def divided_as_in_style_transfer(first: Tensor, second: Tensor) -> Tensor:
    size = min(first.shape[2:], second.shape[2:])
    f1, f2 = (F.adaptive_max_pool2d(x, size).flatten(2) for x in (first, second))
    return torch.bmm(f1, f2.transpose(1, 2)) / (f1.shape[1] * f1.shape[2])


@fsp_matrix.hint(
    "The matrix is divided by channels, not by places.",
    "After flatten(2) the axes are (example, channel, place). Which one is averaged?",
    "Divide by shape[2] of the flattened maps, which is h · w.",
)
def divided_by_channels(first: Tensor, second: Tensor) -> Tensor:
    size = min(first.shape[2:], second.shape[2:])
    f1, f2 = (F.adaptive_max_pool2d(x, size).flatten(2) for x in (first, second))
    return torch.bmm(f1, f2.transpose(1, 2)) / f1.shape[1]


@fsp_matrix.hint(
    "Rows and columns have changed places.",
    "G has a row for each channel of the first layer.",
    "Multiply the first, (N, C1, places), by the second transposed, (N, places, C2).",
)
def transposed(first: Tensor, second: Tensor) -> Tensor:
    size = min(first.shape[2:], second.shape[2:])
    f1, f2 = (F.adaptive_max_pool2d(x, size).flatten(2) for x in (first, second))
    return torch.bmm(f2, f1.transpose(1, 2)) / f1.shape[2]


@fsp_matrix.hint(
    "For maps of one size it is right, and where one is larger it is too small.",
    "An average loses against a maximum. (To stretch the smaller map comes to an average, too.)",
    "The paper takes the maximum: F.adaptive_max_pool2d.",
)
def average_pool(first: Tensor, second: Tensor) -> Tensor:
    size = min(first.shape[2:], second.shape[2:])
    f1, f2 = (F.adaptive_avg_pool2d(x, size).flatten(2) for x in (first, second))
    return torch.bmm(f1, f2.transpose(1, 2)) / f1.shape[2]


@fsp_matrix.hint(
    "Where one map is larger, yours are not the paper's numbers: how do you shrink it?",
    "Interpolation reads a few places and lets go of the rest.",
    "Max-pool the larger map to the size of the smaller: F.adaptive_max_pool2d.",
)
def resized(first: Tensor, second: Tensor) -> Tensor:
    size = tuple(min(first.shape[2:], second.shape[2:]))
    f1, f2 = (F.interpolate(x, size, mode="bilinear").flatten(2) for x in (first, second))
    return torch.bmm(f1, f2.transpose(1, 2)) / f1.shape[2]


@fsp_matrix.hint(
    "A larger first map is pooled, a larger second one is not.",
    "In most networks maps shrink on their way up. In which do they grow?",
    "Find the smaller size first, then pool whichever map is larger.",
)
def only_the_first_is_pooled(first: Tensor, second: Tensor) -> Tensor:
    if first.shape[2] > second.shape[2]:
        first = F.adaptive_max_pool2d(first, second.shape[2:])
    f1, f2 = first.flatten(2), second.flatten(2)
    return torch.bmm(f1, f2.transpose(1, 2)) / f1.shape[2]


@fsp_matrix.hint(
    "A map of twice the height is pooled well, one of three times the height is not.",
    "Is there a 2 in your function that stands for how much larger a map is?",
    "F.adaptive_max_pool2d takes the size that should come out.",
)
def halved_once(first: Tensor, second: Tensor) -> Tensor:
    if first.shape[2] > second.shape[2]:
        first = F.max_pool2d(first, 2)
    if second.shape[2] > first.shape[2]:
        second = F.max_pool2d(second, 2)
    f1, f2 = first.flatten(2), second.flatten(2)
    return torch.bmm(f1, f2.transpose(1, 2)) / f1.shape[2]


@fsp_matrix.hint(
    "Every example gets one and the same matrix.",
    "The paper compares teacher and student image by image: two images may have very different flows.",
    "Keep the first axis: the matrix is (N, C1, C2).",
)
def mean_over_the_batch(first: Tensor, second: Tensor) -> Tensor:
    size = min(first.shape[2:], second.shape[2:])
    f1, f2 = (F.adaptive_max_pool2d(x, size).flatten(2) for x in (first, second))
    return (torch.bmm(f1, f2.transpose(1, 2)) / f1.shape[2]).mean(0, keepdim=True)


@fsp_matrix.hint(
    "An example's matrix depends on how many stand beside it.",
    "The batch is divided by once, in the loss. Here it is divided by already.",
    "The number of examples has no place in this function.",
)
def batch_divided_inside(first: Tensor, second: Tensor) -> Tensor:
    size = min(first.shape[2:], second.shape[2:])
    f1, f2 = (F.adaptive_max_pool2d(x, size).flatten(2) for x in (first, second))
    return torch.bmm(f1, f2.transpose(1, 2)) / (f1.shape[2] * len(f1))


@fsp_matrix.hint(
    "The values are right. For 64 images of a real network it takes half a gigabyte.",
    "All products are made, one for each place, before they are added up.",
    "A matrix product adds while it multiplies: torch.bmm, @, or einsum.",
)
def broadcast_product(first: Tensor, second: Tensor) -> Tensor:
    size = min(first.shape[2:], second.shape[2:])
    f1, f2 = (F.adaptive_max_pool2d(x, size).flatten(2) for x in (first, second))
    return (f1[:, :, None] * f2[:, None]).mean(3)


@fsp_matrix.hint(
    "The values are right, and no gradient comes through.",
    "For the teacher's matrix none is needed. This function serves the student, too.",
    "Leave no_grad and detach to the loss.",
)
def without_gradients(first: Tensor, second: Tensor) -> Tensor:
    with torch.no_grad():
        size = min(first.shape[2:], second.shape[2:])
        f1, f2 = (F.adaptive_max_pool2d(x, size).flatten(2) for x in (first, second))
        return torch.bmm(f1, f2.transpose(1, 2)) / f1.shape[2]


@fsp_matrix.hint(
    "Only one of the two layers is in your matrix.",
    "A Gram matrix says what goes together within a layer. This one is about the way between two.",
    "Rows are channels of the first, columns of the second.",
)
def gram_matrix(first: Tensor, second: Tensor) -> Tensor:
    f = first.flatten(2)
    return torch.bmm(f, f.transpose(1, 2)) / f.shape[2]


@fsp_matrix.answer
def batched_product(first: Tensor, second: Tensor) -> Tensor:
    size = min(first.shape[2:], second.shape[2:])
    f1, f2 = (F.adaptive_max_pool2d(x, size).flatten(2) for x in (first, second))
    return torch.bmm(f1, f2.transpose(1, 2)) / f1.shape[2]


@fsp_matrix.answer
def in_einstein_notation(a: Tensor, b: Tensor) -> Tensor:
    h, w = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])
    if a.shape[2:] != (h, w):
        a = F.max_pool2d(a, (a.shape[2] // h, a.shape[3] // w))
    if b.shape[2:] != (h, w):
        b = F.max_pool2d(b, (b.shape[2] // h, b.shape[3] // w))
    return torch.einsum("nihw,njhw->nij", a, b) / (h * w)


@fsp_matrix.answer
def row_by_row(first: Tensor, second: Tensor) -> Tensor:
    if first.shape[-1] > second.shape[-1]:
        first = nn.AdaptiveMaxPool2d(second.shape[-2:])(first)
    elif first.shape[-1] < second.shape[-1]:
        second = nn.AdaptiveMaxPool2d(first.shape[-2:])(second)
    rows = [(first[:, i : i + 1] * second).mean((2, 3)) for i in range(first.shape[1])]
    return torch.stack(rows, dim=1)


@fsp_matrix.answer
def one_image_at_a_time(first: Tensor, second: Tensor) -> Tensor:
    h, w = min(first.shape[2:], second.shape[2:])
    matrices = []
    for x, y in zip(first, second, strict=True):
        x = F.adaptive_max_pool2d(x, (h, w)).reshape(len(x), h * w)
        y = F.adaptive_max_pool2d(y, (h, w)).reshape(len(y), h * w)
        matrices.append(x @ y.T / (h * w))
    return torch.stack(matrices)


@fsp_matrix.answer
def largest_of_each_block(first: Tensor, second: Tensor) -> Tensor:
    h, w = min(first.shape[2:], second.shape[2:])
    flat = []
    for maps in (first, second):
        n, c, H, W = maps.shape
        flat.append(maps.reshape(n, c, h, H // h, w, W // w).amax((3, 5)).reshape(n, c, -1))
    return torch.matmul(flat[0], flat[1].permute(0, 2, 1)) / h / w


# Exercise 4: its distance

fsp_loss = Exercise(
    "fsp_loss",
    "fsp_loss(student_matrices, teacher_matrices) adds the squared distances of all pairs, from two lists of "
    "(N, C1, C2) matrices; it is the mean over the examples.",
    minutes=15,
)


def _matrices(draw: Draw, n: int, *sizes: tuple[int, int]) -> list[Tensor]:
    return [draw.normal(n, *size) for size in sizes]


@fsp_loss.holds("For one pair and one example it is the sum of the squared differences")
def _(ask: Ask, draw: Draw) -> None:
    for size in ((2, 3), (4, draw.integer(2, 3))):
        (s,), (t,) = _matrices(draw, 1, size), _matrices(draw, 1, size)
        ask(student_matrices=[s], teacher_matrices=[t]).should_be((s - t).square().sum())


@fsp_loss.holds("Pairs add up, whatever their sizes")
def _(ask: Ask, draw: Draw) -> None:
    sizes = (2, 2), (1, 3), (1, 2)
    s, t = _matrices(draw, 1, *sizes), _matrices(draw, 1, *sizes)
    alone = [ask(student_matrices=[a], teacher_matrices=[b]) for a, b in zip(s, t, strict=True)]
    for one in alone:
        one.should(is_positive(one.value) and is_finite(one.value), "a number above 0")
    together = ask(student_matrices=s, teacher_matrices=t)
    together.should_be(sum(float(one.value) for one in alone))


@fsp_loss.holds("The loss of a batch is the mean of its examples' losses")
def _(ask: Ask, draw: Draw) -> None:
    n = draw.integer(2, 4)
    (s,), (t,) = _matrices(draw, n, (2, 3)), _matrices(draw, n, (2, 3))
    alone = [
        ask(student_matrices=[s[k : k + 1]], teacher_matrices=[t[k : k + 1]]) for k in range(n)
    ]
    _is_mean_of(ask(student_matrices=[s], teacher_matrices=[t]), alone)


@fsp_loss.holds("The teacher's matrices are constants: only the student's are pulled")
def _(ask: Ask, draw: Draw) -> None:
    # A list of one pair, as a tensor, which can have a gradient.
    t, signs = draw.normal(1, 1, 2, 3), torch.tensor([[1.0, -1, 1], [-1, 1, -1]])
    given = {"student_matrices": t + signs * draw.normal(1, 1, 2, 3).abs(), "teacher_matrices": t}
    ask.gradient("teacher_matrices", **given).should_be(None)
    pull = ask.gradient("student_matrices", **given)
    good = is_like(pull.value, t) and torch.equal(pull.value.sign(), signs.expand_as(t).double())
    pull.should(good, "a pull that has the signs of student - teacher")


@fsp_loss.hint(
    "Halving the error halves your loss, where it should quarter it.",
    "A norm is a square root. The formula squares the norm of the whole matrix, not of its columns.",
    "Add up the squares of all entries; no root anywhere.",
)
def column_norms_not_squared(
    student_matrices: list[Tensor], teacher_matrices: list[Tensor]
) -> Tensor:
    pairs = zip(student_matrices, teacher_matrices, strict=True)
    return sum((s - t.detach()).norm(dim=1).sum(-1).mean() for s, t in pairs)


@fsp_loss.hint(
    "Twice the error gives twice your loss, where it should give four times as much.",
    "Each image has its own norm, as it should. What stands at the norm in the formula?",
    "Square the norm of each image's difference, then take the mean over the images.",
)
def matrix_norms_not_squared(
    student_matrices: list[Tensor], teacher_matrices: list[Tensor]
) -> Tensor:
    pairs = zip(student_matrices, teacher_matrices, strict=True)
    return sum((s - t.detach()).norm(dim=(1, 2)).mean() for s, t in pairs)


@fsp_loss.hint(
    "One root is taken over the whole batch: the loss is neither squared nor a mean.",
    "A norm is a square root. What happens to it in the formula, and for each image or once for all?",
    "For each example the sum of the squared entries; then the mean over the examples.",
)
def distance_of_the_whole_batch(
    student_matrices: list[Tensor], teacher_matrices: list[Tensor]
) -> Tensor:
    pairs = zip(student_matrices, teacher_matrices, strict=True)
    return sum((s - t.detach()).norm() for s, t in pairs)


@fsp_loss.hint(
    "The loss is too small by the number of entries of a matrix.",
    "F.mse_loss takes a mean over everything. What does the formula do over i and j?",
    "Sum over the rows and columns, then take the mean over the examples.",
)
def mean_over_the_entries(student_matrices: list[Tensor], teacher_matrices: list[Tensor]) -> Tensor:
    pairs = zip(student_matrices, teacher_matrices, strict=True)
    return sum(F.mse_loss(s, t.detach()) for s, t in pairs)


@fsp_loss.hint(
    "The loss is half as large as it should be.",
    "Hints have a half before their square. Do flows?",
    "Leave the half out.",
)
def halved_like_a_hint(student_matrices: list[Tensor], teacher_matrices: list[Tensor]) -> Tensor:
    pairs = zip(student_matrices, teacher_matrices, strict=True)
    return sum((s - t.detach()).square().sum((1, 2)).mean() for s, t in pairs) / 2


@fsp_loss.hint(
    "Matrices of several sizes do not fit into one tensor.",
    "In most networks each stage is wider than the one before.",
    "Take one pair after the other and add up their distances.",
)
def stacked_matrices(student_matrices: list[Tensor], teacher_matrices: list[Tensor]) -> Tensor:
    student = torch.stack(list(student_matrices))  # (pairs, N, C1, C2)
    teacher = torch.stack(list(teacher_matrices)).detach()
    return (student - teacher).square().sum((0, 2, 3)).mean()


@fsp_loss.hint(
    "Two pairs of layers have no more loss than one.",
    "The formula has a sum over the pairs, each with the weight 1.",
    "Add up; do not divide by the number of pairs.",
)
def mean_over_the_pairs(student_matrices: list[Tensor], teacher_matrices: list[Tensor]) -> Tensor:
    pairs = zip(student_matrices, teacher_matrices, strict=True)
    distances = [(s - t.detach()).square().sum((1, 2)).mean() for s, t in pairs]
    return sum(distances) / len(distances)


@fsp_loss.hint(
    "Only one pair of layers counts, the last.",
    "What does your loop do with the distance of the pair before?",
    "Begin with 0 and add each pair's distance to it.",
)
def only_the_last_pair(student_matrices: list[Tensor], teacher_matrices: list[Tensor]) -> Tensor:
    for s, t in zip(student_matrices, teacher_matrices, strict=True):
        loss = (s - t.detach()).square().sum((1, 2)).mean()
    return loss


@fsp_loss.hint(
    "The loss of a batch is too small by the number of its examples: it is divided by twice.",
    "What is divided by N before it is squared is divided by N².",
    "Square and sum first, then take one mean over the examples.",
)
def batch_divided_twice(student_matrices: list[Tensor], teacher_matrices: list[Tensor]) -> Tensor:
    pairs = zip(student_matrices, teacher_matrices, strict=True)
    return sum(((s - t.detach()) / len(s)).square().sum() for s, t in pairs)


@fsp_loss.hint(
    "Your loss grows with the number of images in the batch.",
    "The formula has 1 / N before its sum over the examples.",
    "Take the mean over the examples.",
)
def summed_over_the_examples(
    student_matrices: list[Tensor], teacher_matrices: list[Tensor]
) -> Tensor:
    pairs = zip(student_matrices, teacher_matrices, strict=True)
    return sum((s - t.detach()).square().sum() for s, t in pairs)


@fsp_loss.hint(
    "Errors of two images cancel: you average the matrices before you compare them.",
    "The distance is taken image by image. Its mean is larger than the distance of the means.",
    "Subtract, square and sum first; take the mean over the examples last.",
)
def distance_of_the_means(student_matrices: list[Tensor], teacher_matrices: list[Tensor]) -> Tensor:
    pairs = zip(student_matrices, teacher_matrices, strict=True)
    return sum((s.mean(0) - t.detach().mean(0)).square().sum() for s, t in pairs)


@fsp_loss.hint(
    "A gradient reaches the teacher's matrices: trained together, it would come to meet the student.",
    "What comes from the teacher is a constant.",
    "Detach the teacher's matrix in each pair.",
)
def gradient_to_the_teacher(
    student_matrices: list[Tensor], teacher_matrices: list[Tensor]
) -> Tensor:
    pairs = zip(student_matrices, teacher_matrices, strict=True)
    return sum((s - t).square().sum((1, 2)).mean() for s, t in pairs)


@fsp_loss.hint(
    "The value is right, and no gradient reaches the student's matrices.",
    "Where is the way back to the student cut: by item(), detach(), numpy() or no_grad()?",
    "Detach the teacher's matrices alone, and return the tensor itself.",
)
def a_flow_without_a_past(student_matrices: list[Tensor], teacher_matrices: list[Tensor]) -> float:
    pairs = zip(student_matrices, teacher_matrices, strict=True)
    return sum((s - t).square().sum((1, 2)).mean() for s, t in pairs).item()


@fsp_loss.answer
def pair_after_pair(student_matrices: list[Tensor], teacher_matrices: list[Tensor]) -> Tensor:
    pairs = zip(student_matrices, teacher_matrices, strict=True)
    return sum((s - t.detach()).square().sum((1, 2)).mean() for s, t in pairs)


@fsp_loss.answer
def with_a_loop(mine: list[Tensor], theirs: list[Tensor]) -> Tensor:
    total = 0.0
    for k in range(len(mine)):
        gap = theirs[k].detach() - mine[k]
        total = total + torch.einsum("nij,nij->n", gap, gap)
    return total.mean()


@fsp_loss.answer
def frobenius_norms(student_matrices: list[Tensor], teacher_matrices: list[Tensor]) -> Tensor:
    norms = [
        torch.linalg.matrix_norm(s - t.detach(), "fro")
        for s, t in zip(student_matrices, teacher_matrices, strict=True)
    ]
    return torch.stack([norm.pow(2) for norm in norms]).sum(0).mean()


@fsp_loss.answer
def all_entries_in_a_row(student_matrices: list[Tensor], teacher_matrices: list[Tensor]) -> Tensor:
    student = torch.cat([m.flatten(1) for m in student_matrices], dim=1)
    with torch.no_grad():
        teacher = torch.cat([m.flatten(1) for m in teacher_matrices], dim=1)
    return ((student - teacher) ** 2).sum() / len(student)


@fsp_loss.answer
def by_mean_squares(student_matrices: list[Tensor], teacher_matrices: list[Tensor]) -> Tensor:
    loss = torch.zeros((), dtype=student_matrices[0].dtype)
    for s, t in zip(student_matrices, teacher_matrices, strict=True):
        loss = loss + F.mse_loss(s, t.detach()) * s.shape[1] * s.shape[2]
    return loss


# Exercise 5: two stages

two_stages = Exercise(
    "two_stages",
    "two_stages(lower, upper, first_loss, second_loss, steps) trains the lower part on first_loss(lower), "
    "then both parts on second_loss(lower, upper); steps are two numbers, one a stage.",
    minutes=15,
)


def _stages(draw: Draw, steps: tuple[int, int]) -> dict[str, object]:
    lower, upper = two_parts(draw, 3)
    inputs = draw.normal(5, 2)
    return {
        "lower": lower,
        "upper": upper,
        "first_loss": FirstLoss(inputs, draw.normal(5, 2)),
        "second_loss": SecondLoss(inputs, draw.labels(5, 3)),
        "steps": steps,
    }


@two_stages.holds("The first stage moves the lower part down the first loss")
def _(ask: Ask, draw: Draw) -> None:
    given = _stages(draw, (draw.integer(3, 5), 0))
    expected = descent(
        row(given["lower"]), given["steps"][0], lambda w: of_first_loss(w, given["first_loss"])
    )
    change(ask, "lower", **given).should_be(torch.from_numpy(expected))


@two_stages.holds("The first stage leaves the upper part as it is, to the last bit")
def _(ask: Ask, draw: Draw) -> None:
    given = _stages(draw, (draw.integer(3, 5), 0))
    lower, upper = (change(ask, of, **given) for of in ("lower", "upper"))
    lower.should(_moves(lower), "that the lower part moves")
    still = isinstance(upper.value, Tensor) and not upper.value.any()
    upper.should(still, "all zeros")


@two_stages.holds("The second stage moves both parts down the second loss")
def _(ask: Ask, draw: Draw) -> None:
    given = _stages(draw, (0, draw.integer(3, 5)))
    expected = descent(
        row(given["lower"], given["upper"]),
        given["steps"][1],
        lambda w: of_second_loss(w, given["second_loss"]),
    )
    for of, part in (("lower", expected[:6]), ("upper", expected[6:])):
        change(ask, of, **given).should_be(torch.from_numpy(part))


@two_stages.holds("The second stage starts from rest where the first has ended")
def _(ask: Ask, draw: Draw) -> None:
    given = _stages(draw, (draw.integer(3, 5), draw.integer(2, 4)))
    parts = ("lower", "upper")
    both = {of: change(ask, of, **given) for of in parts}
    first = given | {"steps": (given["steps"][0], 0)}
    middle = {of: change(ask, of, **first) for of in parts}
    for found in (*both.values(), *middle.values()):
        found.should(isinstance(found.value, Tensor), "weights of the same shapes as before")
    middle["lower"].should(_moves(middle["lower"]), "that the lower part moves")
    second = given | {of: changed(given[of], middle[of].value) for of in parts}
    second["steps"] = (0, given["steps"][1])
    rest = {of: change(ask, of, **second) for of in parts}
    rest["upper"].should(any(_moves(found) for found in rest.values()), "that something moves")
    for of in parts:
        both[of].should_be(middle[of].value + rest[of].value)


@two_stages.hint(
    "The second stage begins with steps in the direction of the first.",
    "Momentum remembers gradients. Whose, when the loss has changed?",
    "Make a new optimizer for the second stage.",
)
def momentum_kept(lower, upper, first_loss, second_loss, steps):
    weights = [*lower.parameters(), *upper.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(steps[0]):
        optimizer.zero_grad()
        first_loss(lower).backward()
        optimizer.step()
    for _ in range(steps[1]):
        optimizer.zero_grad()
        second_loss(lower, upper).backward()
        optimizer.step()


@two_stages.hint(
    "The upper part shrinks in the first stage, though its gradient is 0 in every step.",
    "Weight decay needs no gradient to be at work: a gradient of 0 is a gradient.",
    "Give the first optimizer the lower part's parameters only, and leave the second loss out.",
)
def classifier_decays(lower, upper, first_loss, second_loss, steps):
    weights = [*lower.parameters(), *upper.parameters()]
    for weight, count in zip((0, 1), steps, strict=True):
        optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.01)
        for _ in range(count):
            loss = (1 - weight) * first_loss(lower) + weight * second_loss(lower, upper)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@two_stages.hint(
    "Both losses pull at once: the labels are there before the hint has prepared anything.",
    "Two stages are two loops, one after the other, with a loss each.",
    "First only first_loss, for steps[0] steps; then only second_loss, for steps[1].",
)
def hints_trained_jointly(lower, upper, first_loss, second_loss, steps):
    weights = [*lower.parameters(), *upper.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(sum(steps)):
        optimizer.zero_grad()
        (first_loss(lower) + second_loss(lower, upper)).backward()
        optimizer.step()


@two_stages.hint(
    "In the second stage the lower part stands still.",
    "A hint is where the student begins, not where it has to stay.",
    "The second optimizer gets the parameters of both parts.",
)
def upper_part_alone(lower, upper, first_loss, second_loss, steps):
    optimizer = torch.optim.SGD(lower.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(steps[0]):
        optimizer.zero_grad()
        first_loss(lower).backward()
        optimizer.step()
    optimizer = torch.optim.SGD(upper.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(steps[1]):
        optimizer.zero_grad()
        second_loss(lower, upper).backward()
        optimizer.step()


@two_stages.hint(
    "In the second stage the upper part stands still.",
    "Was it frozen for the first stage? Who thaws it?",
    "requires_grad_(True) before the second stage; or do not freeze at all, the optimizer is enough.",
)
def frozen_for_ever(lower, upper, first_loss, second_loss, steps):
    upper.requires_grad_(False)
    for loss, parts, count in zip((first_loss, second_loss), (1, 2), steps, strict=True):
        weights = [*lower.parameters(), *upper.parameters()]
        optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.01)
        for _ in range(count):
            optimizer.zero_grad()
            loss(*(lower, upper)[:parts]).backward()
            optimizer.step()


@two_stages.hint(
    "The stages come in the wrong order.",
    "What should prepare what?",
    "first_loss first, for steps[0] steps.",
)
def stages_swapped(lower, upper, first_loss, second_loss, steps):
    weights = [*lower.parameters(), *upper.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(steps[0]):
        optimizer.zero_grad()
        second_loss(lower, upper).backward()
        optimizer.step()
    optimizer = torch.optim.SGD(lower.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(steps[1]):
        optimizer.zero_grad()
        first_loss(lower).backward()
        optimizer.step()


@two_stages.hint(
    "The second stage is right. What has its optimizer that the first one's has not?",
    "Rate, momentum and weight decay are the same in both stages.",
    "weight_decay=0.01 in the first stage, too.",
)
def first_stage_without_decay(lower, upper, first_loss, second_loss, steps):
    optimizer = torch.optim.SGD(lower.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps[0]):
        optimizer.zero_grad()
        first_loss(lower).backward()
        optimizer.step()
    weights = [*lower.parameters(), *upper.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(steps[1]):
        optimizer.zero_grad()
        second_loss(lower, upper).backward()
        optimizer.step()


@two_stages.hint(
    "Both stages are a little off. Which of the three numbers is missing?",
    "One of them pulls every weight towards 0, a little in each step.",
    "weight_decay=0.01 in both optimizers.",
)
def without_weight_decay(lower, upper, first_loss, second_loss, steps):
    optimizer = torch.optim.SGD(lower.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps[0]):
        optimizer.zero_grad()
        first_loss(lower).backward()
        optimizer.step()
    weights = [*lower.parameters(), *upper.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
    for _ in range(steps[1]):
        optimizer.zero_grad()
        second_loss(lower, upper).backward()
        optimizer.step()


@two_stages.hint(
    "Every step is too short from the second on.",
    "Rate, momentum, weight decay: which of the three is missing?",
    "momentum=0.9 in both optimizers.",
)
def without_momentum(lower, upper, first_loss, second_loss, steps):
    optimizer = torch.optim.SGD(lower.parameters(), lr=0.1, weight_decay=0.01)
    for _ in range(steps[0]):
        optimizer.zero_grad()
        first_loss(lower).backward()
        optimizer.step()
    weights = [*lower.parameters(), *upper.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.1, weight_decay=0.01)
    for _ in range(steps[1]):
        optimizer.zero_grad()
        second_loss(lower, upper).backward()
        optimizer.step()


@two_stages.hint(
    "The steps grow too long: gradients of earlier steps are in them.",
    "backward() adds to what is there.",
    "zero_grad() before each backward().",
)
def gradients_pile_up(lower, upper, first_loss, second_loss, steps):
    optimizer = torch.optim.SGD(lower.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(steps[0]):
        first_loss(lower).backward()
        optimizer.step()
    weights = [*lower.parameters(), *upper.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(steps[1]):
        second_loss(lower, upper).backward()
        optimizer.step()


@two_stages.answer
def an_optimizer_a_stage(lower, upper, first_loss, second_loss, steps):
    optimizer = torch.optim.SGD(lower.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(steps[0]):
        optimizer.zero_grad()
        first_loss(lower).backward()
        optimizer.step()
    weights = [*lower.parameters(), *upper.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(steps[1]):
        optimizer.zero_grad()
        second_loss(lower, upper).backward()
        optimizer.step()


@two_stages.answer
def stages_in_a_list(low, up, loss1, loss2, steps):
    stages = [
        (list(low.parameters()), lambda: loss1(low)),
        (list(low.parameters()) + list(up.parameters()), lambda: loss2(low, up)),
    ]
    for (weights, loss), count in zip(stages, steps, strict=True):
        sgd = torch.optim.SGD(weights, 0.1, 0.9, weight_decay=0.01)
        for _ in range(count):
            loss().backward()
            sgd.step()
            low.zero_grad()
            up.zero_grad()
    return low, up


@two_stages.answer
def upper_part_frozen_and_thawed(lower, upper, first_loss, second_loss, steps):
    whole = nn.Sequential(lower, upper)
    upper.requires_grad_(False)
    for stage in (0, 1):
        optimizer = torch.optim.SGD(whole.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        for _ in range(steps[stage]):
            whole.zero_grad()
            loss = second_loss(lower, upper) if stage else first_loss(lower)
            loss.backward()
            optimizer.step()
        upper.requires_grad_(True)


@two_stages.answer
def velocities_by_hand(lower, upper, first_loss, second_loss, steps):
    for stage, count in enumerate(steps):
        weights = list(lower.parameters()) + (list(upper.parameters()) if stage else [])
        velocities = [torch.zeros_like(weight) for weight in weights]
        for _ in range(count):
            loss = second_loss(lower, upper) if stage else first_loss(lower)
            slopes = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for weight, slope, velocity in zip(weights, slopes, velocities, strict=True):
                    velocity.mul_(0.9).add_(slope + 0.01 * weight)
                    weight.sub_(0.1 * velocity)


@two_stages.answer
def an_optimizer_a_part(lower, upper, first_loss, second_loss, steps):
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    below = torch.optim.SGD(lower.parameters(), **settings)
    for _ in range(steps[0]):
        below.zero_grad()
        first_loss(lower).backward()
        below.step()
    both = [torch.optim.SGD(part.parameters(), **settings) for part in (lower, upper)]
    for _ in range(steps[1]):
        for optimizer in both:
            optimizer.zero_grad()
        second_loss(lower, upper).backward()
        for optimizer in both:
            optimizer.step()


# Exercise 6: what a flow leaves free

same_flow = Exercise(
    "same_flow",
    "same_flow(first, second) gives two other maps of the same shapes, in that order, whose FSP matrices "
    "are the same.",
    minutes=10,
)


@same_flow.holds("Of maps of one size the new pair has the same FSP matrices", 2)
def _(ask: Ask, draw: Draw) -> None:
    first, second = draw.normal(2, 3, 4, 4), draw.normal(2, 5, 4, 4)
    found = ask(first=first, second=second)
    a, b = _another_pair(found, first, second)
    matrices, wanted = flow(a, b), flow(first, second)
    apart = float((matrices - wanted).abs().max())
    kept = torch.allclose(matrices, wanted, rtol=1e-4, atol=1e-6)
    found.should(kept, f"their FSP matrices; an entry of yours is off by {apart:.3g}")


@same_flow.holds("No channel of either map is what it was, and the flow as strong as before", 0.5)
def _(ask: Ask, draw: Draw) -> None:
    first, second = draw.normal(2, 3, 4, 4), draw.normal(2, 5, 4, 4)
    found = ask(first=first, second=second)
    for name, new, old in zip(
        ("first", "second"), _pair(found, first, second), (first, second), strict=True
    ):
        kept = int(((new - old).abs().amax((2, 3)) < 1e-6).sum())
        found.should(
            not kept, f"a {name} map in which no channel is as it was; {kept} of yours are"
        )
    _as_strong(found, first, second)


@same_flow.holds("A larger first map keeps the strength of its flow, too", 0.5)
def _(ask: Ask, draw: Draw) -> None:
    first, second = draw.normal(2, 3, 4, 6), draw.normal(2, 5, 2, 3)
    found = ask(first=first, second=second)
    _another_pair(found, first, second)
    _as_strong(found, first, second)


def _pair(found: Answer, first: Tensor, second: Tensor) -> list[Tensor]:
    """The new maps, if they are of the old shapes."""
    value = found.value
    good = (
        isinstance(value, list)
        and len(value) == 2
        and all(is_like(new, old) for new, old in zip(value, (first, second), strict=True))
    )
    found.should(good, f"two tensors of shapes {tuple(first.shape)} and {tuple(second.shape)}")
    return [new.double() for new in value]


def _another_pair(found: Answer, first: Tensor, second: Tensor) -> list[Tensor]:
    pair = _pair(found, first, second)
    found.should(not same(pair, [first, second]), "another pair than the one that came")
    return pair


def _as_strong(found: Answer, first: Tensor, second: Tensor) -> None:
    """The size of the matrices, and that alone: which entries they have is another question."""
    before = flow(first, second).norm()
    after = flow(*_pair(found, first, second)).norm()
    share = float(after / before)
    found.should(
        math.isclose(share, 1, rel_tol=1e-4),
        f"FSP matrices of the same norm; of yours it is {share:.3g} times as large",
    )


@same_flow.hint(
    "That is the pair that came.",
    "The matrix is a sum over places. What may be done to the places of both maps that no sum notices?",
    "Put both maps' places in another order, the same one in both: a mirror will do.",
)
def nothing_changed(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return first.clone(), second.clone()


@same_flow.hint(
    "The flow is another one: its rows and columns have changed places.",
    "Each channel has a row or a column of its own. Each place only adds something to a sum.",
    "Reorder places, not channels.",
)
def channels_reordered(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return first.roll(1, dims=1), second.roll(1, dims=1)


@same_flow.hint(
    "Only one of the maps is another one now, and the flow changed with it.",
    "A product of two channels is taken at one and the same place.",
    "What you do to the places of the first map, do to those of the second.",
)
def places_of_one_map(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return first.flip(-1), second


@same_flow.hint(
    "Both maps have their places reordered, each in its own way.",
    "Two numbers that met at one place before should meet at one place again.",
    "Draw one order, and use it for both.",
)
def places_in_two_orders(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return first.flip(-1), second.flip(-2)


@same_flow.hint(
    "The flow is four times as large.",
    "Each product has one factor from either map. By what must the other be divided?",
    "If one map is doubled, halve the other.",
)
def both_doubled(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * first, 2 * second


@same_flow.hint(
    "The flow is the same, and the first map is, too.",
    "What the first map cannot see may be added to the second. Is there something that changes both?",
    "Change the places of both alike, or scale one up and the other down.",
)
def only_the_second_changed(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    seen = F.adaptive_max_pool2d(first, second.shape[2:]).flatten(2)
    basis = torch.linalg.qr(seen.mT)[0]  # (N, places, C1)
    more = torch.ones_like(second).flatten(2)
    return first, second + (more - more @ basis @ basis.mT).view_as(second)


@same_flow.hint(
    "For maps of one size it is right. A larger one is max-pooled: what is the largest of -1 and -2?",
    "The maximum of the negatives is not the negative of the maximum.",
    "Find a change that a maximum over blocks goes along with: a mirror, or a positive factor.",
)
def signs_flipped(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return -first, -second


@same_flow.hint(
    "For maps of one size it is right. A larger first map has other places than the second.",
    "Blocks of places are max-pooled. An order of the blocks goes with an order of the second's places.",
    "Mirror both maps: blocks stay blocks.",
)
def one_order_for_both(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    order = torch.randperm(first[0, 0].numel())
    return tuple(x.flatten(2)[:, :, order].view_as(x) for x in (first, second))


@same_flow.answer
def mirrored(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return first.flip(-1), second.flip(-1)


@same_flow.answer
def one_up_one_down(a: Tensor, b: Tensor) -> list[Tensor]:
    return [a * 3, b / 3]


@same_flow.answer
def turned_by_half(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return torch.rot90(first, 2, (2, 3)), torch.rot90(second, 2, (2, 3))


@same_flow.answer
def rolled_by_a_block(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    block = first.shape[2] // second.shape[2]
    return torch.roll(first, block, dims=2), torch.roll(second, 1, dims=2)


@same_flow.answer
def blocks_shuffled(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    n, c, H, W = first.shape
    h, w = second.shape[2:]
    order = torch.arange(h * w).roll(1)
    blocks = first.view(n, c, h, H // h, w, W // w).permute(0, 1, 2, 4, 3, 5)
    blocks = blocks.reshape(n, c, h * w, H // h, W // w)[:, :, order]
    blocks = blocks.view(n, c, h, w, H // h, W // w).permute(0, 1, 2, 4, 3, 5)
    return blocks.reshape(first.shape), second.flatten(2)[:, :, order].view_as(second)


# Exercise 7: a teacher of one's own

my_flow_distance = Exercise(
    "my_flow_distance",
    "my_flow_distance is the FSP loss between your own teacher and a network that has learned nothing.",
    minutes=10,
    personal=True,
)


@my_flow_distance.holds(
    "It is the FSP loss of both pairs of layers, over your 20 images, to 1 %", 2
)
def _(ask: Ask, draw: Draw) -> None:
    found = ask()
    found.should(is_number(found.value), "a number")
    wanted = flow_distance(draw.student)
    close = math.isclose(float(found.value), wanted, rel_tol=0.01)
    found.should(
        close,
        "the squared distances of both pairs of FSP matrices added up, the mean over the images",
    )


def flow_distance(student: str, matrix: Callable = flow) -> float:
    """From the definition; with another way to make a matrix it is a known mistake."""
    return float(sum((gap**2).sum((1, 2)) for gap in _gaps(student, matrix)).mean())


def _gaps(student: str, matrix: Callable = flow) -> list[np.ndarray]:
    teacher, new = feature_maps(student)
    return [
        (matrix(new[k], new[k + 1]) - matrix(teacher[k], teacher[k + 1])).numpy() for k in (0, 1)
    ]


@my_flow_distance.hint(
    "Your maps are pooled, and not by their largest numbers.",
    "The first layer's maps are twice as large as the second's. How does the paper shrink them?",
    "Max-pool them: does your fsp_matrix pass its check?",
)
def averages_pooled(student: str) -> float:
    def matrix(first: Tensor, second: Tensor) -> Tensor:
        a, b = F.adaptive_avg_pool2d(first, second.shape[2:]).flatten(2), second.flatten(2)
        return a @ b.mT / b.shape[2]

    return flow_distance(student, matrix)


@my_flow_distance.hint(
    "Your number is 49² = 2401 times too large.",
    "Maps of 7 × 7 have 49 places. Where does the formula divide by them?",
    "Divide each matrix by its number of places, 49.",
)
def places_not_divided_by(student: str) -> float:
    return flow_distance(student) * 49**2


@my_flow_distance.hint(
    "Your distances are not squared.",
    "A norm is a square root, an absolute value one of a square.",
    "Add up squared differences.",
)
def distances_not_squared(student: str) -> float:
    norms = [np.sqrt((gap**2).sum((1, 2))) for gap in _gaps(student)]
    return float(sum(norms).mean())


@my_flow_distance.hint(
    "Your number is half as large as it should be.",
    "How many pairs of layers are there? And is there a half in the FSP loss?",
    "Add up both pairs; divide by the images alone.",
)
def mean_of_both_pairs(student: str) -> float:
    return flow_distance(student) / 2


@my_flow_distance.hint(
    "Your number is 20 times too large.",
    "20 is the number of your images.",
    "Take the mean over the images.",
)
def images_added_up(student: str) -> float:
    return flow_distance(student) * 20


@my_flow_distance.hint(
    "Only the first pair of layers is in your number.",
    "Three layers make two pairs: from the first to the second, from the second to the third.",
    "Add the distance of the second pair.",
)
def first_pair_alone(student: str) -> float:
    return float((_gaps(student)[0] ** 2).sum((1, 2)).mean())


@my_flow_distance.hint(
    "Only the second pair of layers is in your number.",
    "What happened to the way from the first layer to the second?",
    "Add the distance of the first pair.",
)
def second_pair_alone(student: str) -> float:
    return float((_gaps(student)[1] ** 2).sum((1, 2)).mean())


@my_flow_distance.hint(
    "You took the mean over the entries of each matrix.",
    "F.mse_loss takes a mean over everything there is.",
    "Sum over rows and columns, take the mean over the images.",
)
def mean_of_the_entries(student: str) -> float:
    return float(sum((gap**2).mean() for gap in _gaps(student)))


@my_flow_distance.hint(
    "You averaged the matrices over the images before you compared them.",
    "Image by image the flows are farther apart: errors of two images may cancel.",
    "Take the distance for each image, then the mean.",
)
def distance_of_mean_flows(student: str) -> float:
    return float(sum((gap.mean(0) ** 2).sum() for gap in _gaps(student)))


@my_flow_distance.hint(
    "That is how far the features are apart, not the flows.",
    "A hint compares what two layers say, a flow how one gets from one layer to the next.",
    "Make FSP matrices of neighbouring layers first.",
)
def hints_instead_of_flows(student: str) -> float:
    teacher, new = feature_maps(student)
    pairs = zip(teacher, new, strict=True)
    return float(sum((a - b).square().sum((1, 2, 3)).mean() / 2 for a, b in pairs))


@my_flow_distance.answer
def from_the_definition(student: str) -> float:
    return flow_distance(student)


@my_flow_distance.answer
def by_batched_products(student: str) -> Tensor:
    matrices = []
    for a, b, c in feature_maps(student):
        a = F.max_pool2d(a, 2)
        matrices.append(
            [torch.bmm(x.flatten(2), y.flatten(2).mT) / 49 for x, y in ((a, b), (b, c))]
        )
    return sum((s - t).square().sum() for s, t in zip(*matrices, strict=True)) / 20


@my_flow_distance.answer
def rounded_einsum(student: str) -> float:
    teacher, new = feature_maps(student)
    total = 0.0
    for k, window in ((0, 2), (1, 1)):
        flows = [
            torch.einsum("nihw,njhw->nij", F.max_pool2d(m[k], window), m[k + 1]) / 7**2
            for m in (teacher, new)
        ]
        total += F.mse_loss(*flows, reduction="sum").item() / len(flows[0])
    return float(f"{total:.4g}")


@my_flow_distance.answer
def image_by_image(student: str) -> float:
    teacher, new = feature_maps(student)
    found = []
    for n in range(20):
        of_one = 0.0
        for k in (0, 1):
            rows = []
            for maps in (teacher, new):
                x = F.adaptive_max_pool2d(maps[k][n], (7, 7)).reshape(-1, 49).numpy()
                rows.append(x @ maps[k + 1][n].reshape(-1, 49).numpy().T / 49)
            of_one += np.linalg.norm(rows[0] - rows[1]) ** 2
        found.append(of_one)
    return np.mean(found)


EXERCISES = (
    hint_loss,
    hint_step,
    fsp_matrix,
    fsp_loss,
    two_stages,
    same_flow,
    my_flow_distance,
)
