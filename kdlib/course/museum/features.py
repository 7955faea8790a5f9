"""Bugs of features as targets: hints, FSP matrices, and training in two stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib.course.museum.state import _step
from kdlib.course.museum.story import mistake
from kdlib.data import Data
from kdlib.losses import cross_entropy, fsp_loss, fsp_matrix, hint_loss, soft_target_loss
from kdlib.networks import logits
from kdlib.objectives import CrossEntropy, Objective
from kdlib.training import History, Recipe, fit

# Hints


def hint_step(guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor) -> float:
    """Take a step of the guided layers and of the regressor; return the loss before it."""
    trained = [*guided.parameters(), *regressor.parameters()]
    loss = hint_loss(regressor(guided(inputs)), hint)
    _step(torch.optim.SGD(trained, lr=0.01), loss)
    return loss.item()


@mistake(
    hint_step,
    "The hint loss stops falling early: the student must please a random map that never learns.",
)
def regressor_not_in_the_optimizer(
    guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor
) -> float:
    loss = hint_loss(regressor(guided(inputs)), hint)
    _step(torch.optim.SGD(guided.parameters(), lr=0.01), loss)
    return loss.item()


@mistake(
    hint_step,
    "A shape error as soon as the student is thinner than its teacher; where widths are equal, "
    "features are matched channel by channel, which nothing asks for.",
)
def no_regressor(guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor) -> float:
    loss = hint_loss(guided(inputs), hint)
    _step(torch.optim.SGD(guided.parameters(), lr=0.01), loss)
    return loss.item()


def hint_loss_reached(guided: nn.Module, hint: nn.Module, inputs: Tensor, steps: int) -> float:
    """Train a guided layer and a regressor on a hint, all flat; return the last loss."""
    target = logits(hint, inputs)
    regressor = nn.Linear(guided(inputs).shape[1], target.shape[1])
    optimizer = torch.optim.SGD([*guided.parameters(), *regressor.parameters()], lr=0.05)
    for _ in range(steps):
        loss = hint_loss(regressor(guided(inputs)), target)
        _step(optimizer, loss)
    return loss.item()


@mistake(
    hint_loss_reached,
    "The hint loss falls to 0 and the student has learned nothing: target and features both "
    "went to zero.",
)
def regressor_on_the_teachers_side(
    guided: nn.Module, hint: nn.Module, inputs: Tensor, steps: int
) -> float:
    features = logits(hint, inputs)
    regressor = nn.Linear(features.shape[1], guided(inputs).shape[1])
    optimizer = torch.optim.SGD([*guided.parameters(), *regressor.parameters()], lr=0.05)
    for _ in range(steps):  # both sides can go to zero
        loss = (guided(inputs) - regressor(features)).square().sum(-1).mean() / 2
        _step(optimizer, loss)
    return loss.item()


def hint_term(guided: Tensor, hint: Tensor) -> Tensor:
    return hint_loss(guided, hint)


@mistake(
    hint_term,
    "The hint loss is near 0 after a few epochs: the teacher came to meet the student, and is no "
    "longer the teacher it was.",
    "beopst/dcn.tf issue #1",
)
def hint_trains_the_teacher(guided: Tensor, hint: Tensor) -> Tensor:
    return (guided - hint).square().flatten(1).sum(-1).mean() / 2


# FSP matrices

Maps = Sequence[tuple[Tensor, Tensor]]  # for each pair of layers their maps, (N, C, H, W) each


def fsp_term(student: Maps, teacher: Maps) -> Tensor:
    return fsp_loss(
        [fsp_matrix(*pair) for pair in student], [fsp_matrix(*pair) for pair in teacher]
    )


@mistake(fsp_term, "An error, unless all pairs of layers have the same widths.")
def stacked_matrices(student: Maps, teacher: Maps) -> Tensor:
    return torch.stack(_differences(student, teacher)).square().sum((0, 2, 3)).mean()


@mistake(
    fsp_term,
    "Halving the error halves the loss where it should quarter it: a weight from a paper means "
    "something else, and small errors are pulled at as hard as large ones.",
)
def column_norms_not_squared(student: Maps, teacher: Maps) -> Tensor:
    return sum(d.norm(dim=1).sum(-1).mean() for d in _differences(student, teacher))


@mistake(
    fsp_term,
    "A weight that was good for one batch size is not for another; halving the error does not "
    "quarter the loss.",
)
def distance_of_the_whole_batch(student: Maps, teacher: Maps) -> Tensor:
    return sum(d.norm() for d in _differences(student, teacher))


@mistake(fsp_term, "The term is as many times too small as there are images in a batch.")
def batch_divided_twice(student: Maps, teacher: Maps) -> Tensor:
    return sum((d / len(d)).square().sum() for d in _differences(student, teacher))


@mistake(
    fsp_term,
    "The loss is small and the student's own matrices are not the teacher's: the adapters match, "
    "and are deleted.",
)
def adapters_dropped_afterwards(student: Maps, teacher: Maps) -> Tensor:
    adapted = [tuple(_adapter(x.shape[1])(x) for x in pair) for pair in student]
    return fsp_term(adapted, teacher)  # it trains the adapters too; here they are untrained


@mistake(
    fsp_matrix,
    "The matrices are not the paper's, smaller by what an average loses against a maximum.",
    "seen in public code; a departure from the paper rather than an error",
)
def average_pool(first: Tensor, second: Tensor) -> Tensor:
    f1, f2 = _at_one_size(first, second, F.adaptive_avg_pool2d)
    return f1 @ f2.mT / f1.shape[2]


@mistake(
    fsp_matrix,
    "Out of memory: half a gigabyte for one product of 64 images, 64 and 128 channels, 16 x 16 "
    "places. The values are right.",
)
def broadcast_product(first: Tensor, second: Tensor) -> Tensor:
    f1, f2 = _at_one_size(first, second, F.adaptive_max_pool2d)
    return (f1[:, :, None] * f2[:, None]).mean(3)  # of (N, C1, C2, H * W)


def weighted_fsp(
    student: Sequence[Tensor], teacher: Sequence[Tensor], weights: Sequence[float]
) -> Tensor:
    """The FSP loss between FSP matrices, with a weight for each pair."""
    return fsp_loss(student, teacher, weights)


@mistake(weighted_fsp, "A sweep of the weight gives the same curve for every value.")
def weights_without_effect(
    student: Sequence[Tensor], teacher: Sequence[Tensor], weights: Sequence[float]
) -> Tensor:
    return fsp_loss(student, teacher)


def total_and_terms(
    student: Tensor, teacher: Tensor, labels: Tensor, fsp: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimise and its terms, to be logged."""
    soft = soft_target_loss(student, teacher, temperature=4)
    terms = {"fsp": fsp, "labels": cross_entropy(student, labels), "soft": soft}
    return sum(terms.values()), terms


@mistake(total_and_terms, "A curve of the term is drawn, and does not fall: nothing minimises it.")
def logged_but_not_added(
    student: Tensor, teacher: Tensor, labels: Tensor, fsp: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    terms = {"fsp": fsp, "labels": cross_entropy(student, labels)}
    total = sum(terms.values())
    terms["soft"] = soft_target_loss(student, teacher, temperature=4)
    return total, terms


def _differences(student: Maps, teacher: Maps) -> list[Tensor]:
    pairs = zip(student, teacher, strict=True)
    return [fsp_matrix(*s) - fsp_matrix(*t).detach() for s, t in pairs]  # (N, C1, C2) each


def _adapter(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))


def _at_one_size(first: Tensor, second: Tensor, pool: Callable) -> tuple[Tensor, Tensor]:
    size = min(first.shape[2:], second.shape[2:])
    f1, f2 = (x if x.shape[2:] == size else pool(x, size) for x in (first, second))
    return f1.flatten(2), f2.flatten(2)  # (N, C, H * W)


# Two stages


def first_stage(student: nn.Module, features: Objective, data: Data, recipe: Recipe) -> History:
    """Train the student on its features alone: a Hint or FSP."""
    return fit(student, features, data, recipe, progress=False)


@mistake(
    first_stage,
    "A student with hints is worse than with soft targets alone, and the hints need a large "
    "weight: labels pull at the layers that the hints should have prepared.",
    "megvii-research/mdistiller issue #29; a departure from the paper rather than an error",
)
def hints_trained_jointly(
    student: nn.Module, features: Objective, data: Data, recipe: Recipe
) -> History:
    return fit(student, CrossEntropy() + features, data, recipe, progress=False)


@mistake(
    first_stage,
    "The classifier shrinks in the first stage, though its gradient is 0 in every step.",
)
def classifier_decays(
    student: nn.Module, features: Objective, data: Data, recipe: Recipe
) -> History:
    # A gradient of zero is still a gradient: the optimizer decays every weight that has one.
    return fit(student, 0.0 * CrossEntropy() + features, data, recipe, progress=False)


def both_stages(
    student: nn.Module, losses: Sequence[Callable[[nn.Module], Tensor]], steps: int
) -> None:
    """Train on one loss after the other, for ``steps`` steps each."""
    for loss in losses:
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
        for _ in range(steps):
            _step(optimizer, loss(student))


@mistake(both_stages, "The second stage begins with steps in the direction of the first.")
def momentum_kept(
    student: nn.Module, losses: Sequence[Callable[[nn.Module], Tensor]], steps: int
) -> None:
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    for loss in losses:
        for _ in range(steps):
            _step(optimizer, loss(student))


def taught_and_alone(
    build: Callable[[], nn.Module], features: Objective, data: Data, epochs: tuple[int, int]
) -> tuple[nn.Module, nn.Module]:
    """A student trained in two stages, features then labels, and a baseline on labels alone."""
    taught, alone = build(), build()
    for objective, stage in zip((features, CrossEntropy()), epochs, strict=True):
        fit(taught, objective, data, Recipe(epochs=stage), progress=False)
    fit(alone, CrossEntropy(), data, Recipe(epochs=sum(epochs)), progress=False)
    return taught, alone


@mistake(taught_and_alone, "A gain that may be no more than longer training.")
def epochs_the_baseline_does_not_get(
    build: Callable[[], nn.Module], features: Objective, data: Data, epochs: tuple[int, int]
) -> tuple[nn.Module, nn.Module]:
    taught, alone = build(), build()
    for objective, stage in zip((features, CrossEntropy()), epochs, strict=True):
        fit(taught, objective, data, Recipe(epochs=stage), progress=False)
    fit(alone, CrossEntropy(), data, Recipe(epochs=epochs[1]), progress=False)
    return taught, alone
