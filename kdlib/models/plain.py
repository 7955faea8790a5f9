"""Multilayer perceptrons, and two small networks from a blog post."""

from __future__ import annotations

from numbers import Integral

from torch import nn

from kdlib._checks import fraction, sizes
from kdlib.seeding import seeded


def mlp(
    width: int,
    depth: int = 2,
    dropout: float = 0.0,
    inputs: int = 784,
    classes: int = 10,
    seed: int = 0,
) -> nn.Sequential:
    """Build ``depth`` hidden layers of ``width`` ReLU units (Hinton et al. 2015, section 3).

    Args:
        width: units per hidden layer; Hinton et al. use 1200 for the teacher and 800 for the
            student.
        depth: number of hidden layers, 2 in the paper; 0 gives a linear classifier.
        dropout: probability of dropping a hidden unit in training.
        inputs: numbers per input; inputs ``(N, ...)`` are flattened.
        classes: number of classes; the logits are ``(N, classes)``.
        seed: seed of the initial weights, which have torch's default distribution for Linear
            layers.

    >>> sum(p.numel() for p in mlp(1200).parameters())
    2395210
    """
    sizes(width=width, inputs=inputs, classes=classes)
    if not isinstance(depth, Integral) or depth < 0:
        raise ValueError(f"depth must be a whole number of at least 0, got {depth!r}")
    fraction("dropout", dropout, "0 drops nothing")
    layers: list[nn.Module] = [nn.Flatten()]
    with seeded(seed):
        for _ in range(depth):
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            layers += [nn.Dropout(dropout)] if dropout else []
            inputs = width
        layers.append(nn.Linear(inputs, classes))
    return nn.Sequential(*layers)


def anNet_deep(classes: int = 10, seed: int = 0) -> nn.Sequential:
    """Build a blog's teacher for 1 x 28 x 28 images: four 3 x 3 convolutions with batch norm.

    The blog defines an initialisation but never calls it; here it is called.

    >>> sum(p.numel() for p in anNet_deep().parameters())
    322506
    """
    sizes(classes=classes)
    with seeded(seed):
        net = nn.Sequential(
            *_convolution(1, 64),  # (N, 64, 28, 28)
            *_convolution(64, 64),
            nn.MaxPool2d(2),  # (N, 64, 14, 14)
            *_convolution(64, 128),
            *_convolution(128, 128),
            nn.MaxPool2d(2),  # (N, 128, 7, 7)
            nn.Flatten(),
            nn.Linear(128 * 7 * 7, classes),
        )
        net.apply(_initialise)
    return net


def anNet(classes: int = 10, seed: int = 0) -> nn.Sequential:
    """Build the same blog's student: one convolution, and max pooling with stride 1.

    >>> sum(p.numel() for p in anNet().parameters())
    37570
    """
    sizes(classes=classes)
    with seeded(seed):
        net = nn.Sequential(
            nn.Conv2d(1, 6, 3),  # (N, 6, 26, 26)
            nn.ReLU(),
            nn.MaxPool2d(2, stride=1),  # (N, 6, 25, 25)
            nn.Flatten(),
            nn.Linear(6 * 25 * 25, classes),
        )
        net.apply(_initialise)
    return net


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_normal_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)
