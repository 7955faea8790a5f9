"""Bugs of a network's state: its mode, BatchNorm's statistics, and whose weights are trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdlib.course.museum.story import mistake
from kdlib.data import Split
from kdlib.losses import cross_entropy, hinton_loss
from kdlib.networks import logits
from kdlib.training import evaluate


def logits_of_the_teacher(teacher: nn.Module, inputs: Tensor) -> Tensor:
    return logits(teacher, inputs)


@mistake(
    logits_of_the_teacher,
    "An image's targets depend on dropout and on the rest of its batch. The teacher's accuracy "
    "is not what it was, though no gradient reached it.",
)
def teacher_in_train_mode(teacher: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():  # stops gradients, neither dropout nor BatchNorm's statistics
        return teacher(inputs)


def feature_shape(network: nn.Module, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(logits(network, torch.zeros(1, *image_shape)).shape[1:])


@mistake(
    feature_shape,
    "A teacher is a little worse, but only under methods that look at its features: one image "
    "of noise went into BatchNorm's statistics.",
)
def shape_probe_in_train_mode(network: nn.Module, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    noise = torch.randn(1, *image_shape, device=next(network.parameters()).device)
    with torch.no_grad():
        return tuple(network(noise).shape[1:])


def count_errors(model: nn.Module, inputs: Tensor, labels: Tensor) -> int:
    rows = torch.arange(len(inputs), device=inputs.device)
    return evaluate(model, Split(inputs, labels, rows)).errors


@mistake(
    count_errors,
    "Dropout's noise is in the scores, and BatchNorm has learned from the test images.",
)
def evaluated_in_train_mode(model: nn.Module, inputs: Tensor, labels: Tensor) -> int:
    with torch.no_grad():
        return int((model(inputs).argmax(-1) != labels).sum())


def distillation_step(
    student: nn.Module, teacher: nn.Module, inputs: Tensor, labels: Tensor
) -> float:
    """Take one step of the student on soft targets; return the loss before it."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    loss = hinton_loss(student(inputs), logits(teacher, inputs), labels, temperature=4, alpha=0.9)
    _step(optimizer, loss)
    return loss.item()


@mistake(
    distillation_step,
    "The student seems to beat its teacher: the large network is trained, the small one frozen.",
    "keras-team/keras-io issue #257",
)
def roles_swapped(student: nn.Module, teacher: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    return distillation_step(student=teacher, teacher=student, inputs=inputs, labels=labels)


def modes_in_training(model: nn.Module, inputs: Tensor, labels: Tensor, epochs: int) -> list[bool]:
    """Train one step per epoch, then evaluate; return whether each epoch began in train mode."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    modes = []
    for _ in range(epochs):
        model.train()
        modes.append(model.training)
        _step(optimizer, cross_entropy(model(inputs), labels))
        count_errors(model, inputs, labels)
    return modes


@mistake(
    modes_in_training,
    "From the second epoch on BatchNorm's statistics stand still and dropout is off.",
)
def frozen_by_its_evaluation(
    model: nn.Module, inputs: Tensor, labels: Tensor, epochs: int
) -> list[bool]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    modes = []
    model.train()
    for _ in range(epochs):
        modes.append(model.training)
        _step(optimizer, cross_entropy(model(inputs), labels))
        model.eval()
        with torch.no_grad():
            model(inputs)
    return modes


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
