"""Homework 2, exercise 2: a step towards the hint."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from kdlib.course.exercises.layers import (
    NetworkWithOldGradients,
    change,
    forward,
    gradient,
    moves,
    row,
    two_parts,
)
from kdlib.course.grading.exercise import Ask, Draw, Exercise

hint_step = Exercise(
    "hint_step",
    "hint_step(guided, regressor, inputs, hint) takes one step of SGD on the hint loss, with "
    "learning rate 0.01, of the student's lower part and the regressor; it gives the loss before.",
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
    """The steps that the weights of guided and regressor should take."""
    weights = row(given["guided"], given["regressor"])
    outputs, hint = forward(weights, given["inputs"])[1], given["hint"].numpy()
    step = -0.01 * gradient(weights, given["inputs"], 0, (outputs - hint) / len(hint))
    return step[:6], step[6:]


@hint_step.holds("It returns the hint loss from before the step")
def returns_the_loss_before_the_step(ask: Ask, draw: Draw) -> None:
    for width in (3, 2):
        given = _step(draw, width)
        weights = row(given["guided"], given["regressor"])
        gap = forward(weights, given["inputs"])[1] - given["hint"].numpy()
        ask(**given).should_be(float((gap**2).sum(1).mean() / 2))


@hint_step.holds("The lower part of the student takes the step")
def lower_part_steps(ask: Ask, draw: Draw) -> None:
    given = _step(draw)
    change(ask, "guided", **given).should_be(torch.from_numpy(_downhill(given)[0]))


@hint_step.holds("The regressor takes the step, too")
def regressor_steps(ask: Ask, draw: Draw) -> None:
    given = _step(draw)
    change(ask, "regressor", **given).should_be(torch.from_numpy(_downhill(given)[1]))


@hint_step.holds("Gradients left over from an earlier step do not count")
def old_gradients_do_not_count(ask: Ask, draw: Draw) -> None:
    given = _step(draw)
    fresh = [change(ask, of, **given) for of in ("guided", "regressor")]
    given["guided"] = NetworkWithOldGradients(*given["guided"])
    given["regressor"] = NetworkWithOldGradients(given["regressor"])
    for before, of in zip(fresh, ("guided", "regressor"), strict=True):
        change(ask, of, **given).should_be(before.value)
    fresh[0].should(moves(fresh[0]) or moves(fresh[1]), "a change in guided or regressor")


@hint_step.hint(
    "The regressor stays as it is: the student must please a random map that never learns.",
    "Which parameters does your optimizer know?",
    "Give it those of guided and of regressor in one list.",
)
def regressor_not_in_the_optimizer(guided, regressor, inputs, hint):
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
def student_not_trained(guided, regressor, inputs, hint):
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
def no_regressor(guided, regressor, inputs, hint):
    optimizer = torch.optim.SGD(guided.parameters(), lr=0.01)
    loss = (guided(inputs) - hint).square().flatten(1).sum(1).mean() / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@hint_step.hint(
    "A network may come with gradients of an earlier step. Yours are added to them.",
    "backward() adds to what is there. When do you clear it?",
    "zero_grad() comes before backward().",
)
def zero_grad_forgotten(guided, regressor, inputs, hint):
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
def nothing_moves(guided, regressor, inputs, hint):
    optimizer = torch.optim.SGD([*guided.parameters(), *regressor.parameters()], lr=0.01)
    loss = (regressor(guided(inputs)) - hint).square().flatten(1).sum(1).mean() / 2
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss.item()


@hint_step.hint(
    "What you return is smaller than it should be: it is the loss after the step.",
    "You already have the loss that you differentiated.",
    "Return loss.item(), without computing it anew.",
)
def loss_after_the_step(guided, regressor, inputs, hint):
    optimizer = torch.optim.SGD([*guided.parameters(), *regressor.parameters()], lr=0.01)
    optimizer.zero_grad()
    ((regressor(guided(inputs)) - hint).square().flatten(1).sum(1).mean() / 2).backward()
    optimizer.step()
    return ((regressor(guided(inputs)) - hint).square().flatten(1).sum(1).mean() / 2).item()


@hint_step.hint(
    "The step is taken, but nothing is returned.",
    "The caller wants to plot the loss.",
    "Return loss.item().",
)
def nothing_returned(guided, regressor, inputs, hint):
    optimizer = torch.optim.SGD([*guided.parameters(), *regressor.parameters()], lr=0.01)
    loss = (regressor(guided(inputs)) - hint).square().flatten(1).sum(1).mean() / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@hint_step.hint(
    "The loss and both steps are off by the same factor.",
    "Is it your hint loss that you minimise, or F.mse_loss, a mean over everything?",
    "Sum over an example's features, halve it, take the mean over the examples.",
)
def step_on_the_mean_square(guided, regressor, inputs, hint):
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
def uphill(guided, regressor, inputs, hint):
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
def adam(guided, regressor, inputs, hint):
    optimizer = torch.optim.Adam([*guided.parameters(), *regressor.parameters()], lr=0.01)
    loss = (regressor(guided(inputs)) - hint).square().flatten(1).sum(1).mean() / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@hint_step.answer
def one_optimizer(guided, regressor, inputs, hint):
    optimizer = torch.optim.SGD([*guided.parameters(), *regressor.parameters()], lr=0.01)
    loss = (regressor(guided(inputs)) - hint).square().flatten(1).sum(1).mean() / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
