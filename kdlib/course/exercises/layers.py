"""Homework 2's material: small networks, losses for an answer to train on, a student's own maps.

The expected step and the expected flow are written from the definition, in numpy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib.course.exercises.claims import is_moving
from kdlib.course.exercises.material import digits, seed_of
from kdlib.course.grading.exercise import Answer, Ask, Draw
from kdlib.objectives import CrossEntropy
from kdlib.seeding import seeded
from kdlib.training import Recipe, fit

# Networks and losses for an answer to train


class NetworkWithOldGradients(nn.Sequential):
    """A network as an earlier step leaves it: every weight still has a gradient, all ones."""

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        for weight in self.parameters():
            weight.grad = torch.ones_like(weight)


def linear(draw: Draw, inputs: int, outputs: int) -> nn.Linear:
    """A layer with random weights, in float64."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(draw.normal(outputs, inputs))
        layer.bias.copy_(draw.normal(outputs))
    return layer


def two_parts(draw: Draw, outputs: int) -> tuple[nn.Sequential, nn.Linear]:
    """A network from two numbers to two features, and a layer from these to the outputs."""
    return nn.Sequential(linear(draw, 2, 2), nn.Tanh()), linear(draw, 2, outputs)


@dataclass(frozen=True)
class FirstLoss:
    """The hint loss of the lower part: half its squared distance from a hint, mean over the examples."""

    inputs: Tensor
    hint: Tensor

    def __call__(self, lower: nn.Module) -> Tensor:
        return (lower(self.inputs) - self.hint).square().sum(-1).mean() / 2


@dataclass(frozen=True)
class SecondLoss:
    """The cross entropy of both parts with the labels."""

    inputs: Tensor
    labels: Tensor

    def __call__(self, lower: nn.Module, upper: nn.Module) -> Tensor:
        return F.cross_entropy(upper(lower(self.inputs)), self.labels)


# What a call does to a network


def change(ask: Ask, of: str, **given: Any) -> Answer:
    """Ask what a call adds to a network's weights, as one row; None if their shapes have changed.

    Only this is compared with known mistakes: not the value returned, and not the gradients left
    behind, which depend on where the answer clears them.
    """
    left = ask.after(of, **given)
    added = _added(left.value["state"], given[of].state_dict())
    ask.seen[-1] = replace(ask.seen[-1], value=None, after={of: added})
    return Answer(left.given, f"a change of {of} by", added)


def _added(after: dict[str, Tensor], before: dict[str, Tensor]) -> Tensor | None:
    shapes = [{name: x.shape for name, x in state.items()} for state in (after, before)]
    if shapes[0] != shapes[1]:
        return None
    return torch.cat([(after[name] - before[name]).flatten() for name in before])


def moves(found: Answer) -> bool:
    """Whether the weights changed, and are still finite."""
    return isinstance(found.value, Tensor) and is_moving(found.value, found.value)


def changed(network: nn.Module, by: Tensor) -> nn.Module:
    """A copy of a network with a row added to its weights."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        parts = by.split([weight.numel() for weight in other.parameters()])
        for weight, part in zip(other.parameters(), parts, strict=True):
            weight += part.view_as(weight)
    return other


# The same networks in numpy: all weights in one row, the lower part's first


def row(*networks: nn.Module) -> np.ndarray:
    weights = [weight for network in networks for weight in network.parameters()]
    return np.concatenate([weight.detach().numpy().ravel() for weight in weights])


def forward(weights: np.ndarray, inputs: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Features and outputs, (N, 2) and (N, K); K is 0 if the row holds the lower part only."""
    W, b, A, c = _unpacked(weights)
    features = np.tanh(inputs.numpy() @ W.T + b)
    return features, features @ A.T + c


def gradient(
    weights: np.ndarray, inputs: Tensor, by_features: np.ndarray | float, by_outputs: np.ndarray
) -> np.ndarray:
    """The gradient with respect to all weights, from those with respect to features and outputs."""
    A, features = _unpacked(weights)[2], forward(weights, inputs)[0]
    pull = (by_features + by_outputs @ A) * (1 - features**2)
    parts = (pull.T @ inputs.numpy(), pull.sum(0), by_outputs.T @ features, by_outputs.sum(0))
    return np.concatenate([part.ravel() for part in parts])


def of_first_loss(weights: np.ndarray, loss: FirstLoss) -> np.ndarray:
    features, outputs = forward(weights, loss.inputs)
    n = len(features)
    return gradient(weights, loss.inputs, (features - loss.hint.numpy()) / n, 0 * outputs)


def of_second_loss(weights: np.ndarray, loss: SecondLoss) -> np.ndarray:
    outputs = forward(weights, loss.inputs)[1]
    q = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    q[np.arange(len(q)), loss.labels.numpy()] -= 1
    return gradient(weights, loss.inputs, 0, q / len(q))


def descent(
    weights: np.ndarray, steps: int, slope: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The change after ``steps`` of SGD: rate 0.1, momentum 0.9 (from rest), weight decay 0.01."""
    now, velocity = weights, np.zeros_like(weights)
    for _ in range(steps):
        velocity = 0.9 * velocity + slope(now) + 0.01 * now
        now = now - 0.1 * velocity
    return now - weights


def _unpacked(weights: np.ndarray) -> tuple[np.ndarray, ...]:
    K = (len(weights) - 6) // 3
    W, b, A, c = np.split(weights, [4, 6, 6 + 2 * K])
    return W.reshape(2, 2), b, A.reshape(K, 2), c


# Flows


def pooled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The largest number in each block, (N, C, h, w); h and w divide the maps' height and width."""
    n, c, H, W = maps.shape
    h, w = size
    blocks = maps.numpy().reshape(n, c, h, H // h, w, W // w)
    return torch.from_numpy(blocks.max((3, 5)))


def flow(first: Tensor, second: Tensor) -> Tensor:
    """The FSP matrices, (N, C1, C2), from the definition; the second map must not be the larger one."""
    size = tuple(second.shape[2:])
    products = np.einsum("nist,njst->nij", pooled(first, size).numpy(), second.numpy())
    return torch.from_numpy(products / (size[0] * size[1]))


# A student's own teacher

Maps = list[Tensor]


def feature_maps(student: str) -> tuple[Maps, Maps]:
    """Three layers' maps of the first 20 test images of digits, in your teacher and a new network.

    Both are small convolutional networks, initialised from seeds that the name gives; the teacher has
    been trained a little. Both are in float64, so that the maps are the same on every machine.

    Args:
        student: the student's name.

    Returns:
        The teacher's maps and the new network's, each a list of ``(20, 4, 14, 14)``, ``(20, 6, 7, 7)`` and
        ``(20, 6, 7, 7)``.
    """
    teacher, new = _feature_maps(student)
    return [maps.clone() for maps in teacher], [maps.clone() for maps in new]


@lru_cache(maxsize=256)
def _feature_maps(student: str) -> tuple[Maps, Maps]:
    teacher, new = (_born(seed_of(student, purpose)) for purpose in ("maps", "new maps"))
    recipe = Recipe(iterations=60, batch_size=64, learning_rate=0.05, precision="float64")
    with _one_thread():
        fit(
            teacher, CrossEntropy(), digits(), recipe, seed=seed_of(student, "maps"), progress=False
        )
    return _maps(teacher), _maps(new)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: several wait for each other in convolutions this small, even minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _born(seed: int) -> nn.Sequential:
    exact = {"dtype": torch.float64}
    with seeded(seed):
        return nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1, **exact), nn.ReLU()),
            nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1, **exact), nn.ReLU()),
            nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, **exact), nn.ReLU()),
            nn.Sequential(nn.Flatten(), nn.Linear(6 * 7 * 7, 10, **exact)),
        )


def _maps(net: nn.Sequential) -> Maps:
    maps, now = [], digits().test.inputs[:20].double()
    with torch.no_grad():
        for layer in net[:3]:
            now = layer(now)
            maps.append(now)
    return maps
