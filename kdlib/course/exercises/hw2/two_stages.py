"""Homework 2, exercise 5: two stages."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdlib.course.exercises.layers import (
    FirstLoss,
    SecondLoss,
    change,
    changed,
    descent,
    moves,
    of_first_loss,
    of_second_loss,
    row,
    two_parts,
)
from kdlib.course.grading.exercise import Ask, Draw, Exercise

two_stages = Exercise(
    "two_stages",
    "two_stages(lower, upper, first_loss, second_loss, steps) trains the lower part on "
    "first_loss(lower), then both parts on second_loss(lower, upper); steps are two "
    "numbers, one for each stage.",
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
def first_stage_descends_the_first_loss(ask: Ask, draw: Draw) -> None:
    given = _stages(draw, (draw.integer(3, 5), 0))
    expected = descent(
        row(given["lower"]), given["steps"][0], lambda w: of_first_loss(w, given["first_loss"])
    )
    change(ask, "lower", **given).should_be(torch.from_numpy(expected))


@two_stages.holds("The first stage leaves the upper part as it is, to the last bit")
def first_stage_leaves_the_upper_part(ask: Ask, draw: Draw) -> None:
    given = _stages(draw, (draw.integer(3, 5), 0))
    lower, upper = (change(ask, of, **given) for of in ("lower", "upper"))
    lower.should(moves(lower), "a change in the lower part")
    still = isinstance(upper.value, Tensor) and not upper.value.any()
    upper.should(still, "all zeros")


@two_stages.holds("The second stage moves both parts down the second loss")
def second_stage_descends_the_second_loss(ask: Ask, draw: Draw) -> None:
    given = _stages(draw, (0, draw.integer(3, 5)))
    expected = descent(
        row(given["lower"], given["upper"]),
        given["steps"][1],
        lambda w: of_second_loss(w, given["second_loss"]),
    )
    for of, part in (("lower", expected[:6]), ("upper", expected[6:])):
        change(ask, of, **given).should_be(torch.from_numpy(part))


@two_stages.holds("The second stage starts from rest where the first has ended")
def second_stage_starts_from_rest(ask: Ask, draw: Draw) -> None:
    given = _stages(draw, (draw.integer(3, 5), draw.integer(2, 4)))
    parts = ("lower", "upper")
    both = {of: change(ask, of, **given) for of in parts}
    first = given | {"steps": (given["steps"][0], 0)}
    middle = {of: change(ask, of, **first) for of in parts}
    for found in (*both.values(), *middle.values()):
        found.should(isinstance(found.value, Tensor), "weights of the same shapes as before")
    middle["lower"].should(moves(middle["lower"]), "a change in the lower part")
    second = given | {of: changed(given[of], middle[of].value) for of in parts}
    second["steps"] = (0, given["steps"][1])
    rest = {of: change(ask, of, **second) for of in parts}
    rest["upper"].should(any(moves(found) for found in rest.values()), "a change in lower or upper")
    for of in parts:
        both[of].should_be(middle[of].value + rest[of].value)


def with_settings(name: str, *settings: dict[str, float]) -> Callable:
    """A wrong answer: right except for the ``settings`` of the two optimizers."""

    def answer(lower, upper, first_loss, second_loss, steps):
        optimizer = torch.optim.SGD(lower.parameters(), **settings[0])
        for _ in range(steps[0]):
            optimizer.zero_grad()
            first_loss(lower).backward()
            optimizer.step()
        weights = [*lower.parameters(), *upper.parameters()]
        optimizer = torch.optim.SGD(weights, **settings[1])
        for _ in range(steps[1]):
            optimizer.zero_grad()
            second_loss(lower, upper).backward()
            optimizer.step()

    answer.__name__ = name
    return answer


@two_stages.hint(
    "The second stage begins with steps in the direction of the first.",
    "Momentum remembers gradients. Of which loss, once the loss has changed?",
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
    "Weight decay acts on every weight that has a gradient, even a gradient of 0.",
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
    "Was it frozen for the first stage? Where do you unfreeze it?",
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
    "Which stage should prepare the other?",
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


two_stages.hint(
    "The second stage is right. What does its optimizer have that the first one's lacks?",
    "Rate, momentum and weight decay are the same in both stages.",
    "weight_decay=0.01 in the first stage, too.",
)(
    with_settings(
        "first_stage_without_decay",
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    )
)

two_stages.hint(
    "Both stages are a little off. Which of rate, momentum and weight decay is missing?",
    "One of them pulls every weight towards 0, a little in each step.",
    "weight_decay=0.01 in both optimizers.",
)(with_settings("without_weight_decay", *2 * [{"lr": 0.1, "momentum": 0.9}]))

two_stages.hint(
    "From the second on, every step is too short.",
    "Rate, momentum, weight decay: which of the three is missing?",
    "momentum=0.9 in both optimizers.",
)(with_settings("without_momentum", *2 * [{"lr": 0.1, "weight_decay": 0.01}]))


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
