"""Multilayer perceptrons, and a blog's two small networks."""

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
    """``depth`` hidden layers of ``width`` ReLU units: the nets of Hinton, Vinyals, Dean 2015, section 3.

    Args:
        width: units in a hidden layer, 1200 for the paper's teacher and 800 for its student.
        depth: hidden layers, 2 in the paper; 0 is a linear classifier.
        dropout: share of each hidden layer that is dropped in training.
        inputs: numbers in an input, flattened here from ``(N, ...)``.
        classes: logits ``(N, classes)``.
        seed: of the initial weights, drawn as torch draws them for a Linear layer.

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
    """A blog's teacher for 1 x 28 x 28 images: four 3 x 3 convolutions with batch norm.

    Its initialisation, written in the blog and never called there, is called here.

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
    """The same blog's student: one convolution, and a pool of stride 1 that hardly pools.

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
