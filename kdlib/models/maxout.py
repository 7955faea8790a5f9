"""The maxout networks of FitNets."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from kdlib._checks import sizes
from kdlib.seeding import seeded


def fitnets_teacher(channels: int = 1, classes: int = 10, seed: int = 0) -> nn.Sequential:
    """Build the MNIST teacher of FitNets: three wide maxout layers, ``layer1`` to ``layer3``.

    Romero et al. 2015, appendix A.2: 48, 48 and 24 units of two linear pieces each. The kernels of
    8, 8 and 5, the padding and the pooling are those of Goodfellow et al. 2013, who designed the
    network; so is the dropout of 20 % of the inputs and 50 % of each layer.

    >>> sum(p.numel() for p in fitnets_teacher().parameters())
    361066
    """
    sizes(channels=channels, classes=classes)
    with seeded(seed):
        return nn.Sequential(
            OrderedDict(
                input=nn.Dropout(0.2),
                layer1=_maxout(channels, 48, kernel=8, padding=0, pool=4),  # (N, 48, 10, 10)
                dropout1=nn.Dropout(0.5),
                layer2=_maxout(48, 48, kernel=8, padding=3, pool=4),  # (N, 48, 4, 4)
                dropout2=nn.Dropout(0.5),
                layer3=_maxout(48, 24, kernel=5, padding=3, pool=2),  # (N, 24, 3, 3)
                dropout3=nn.Dropout(0.5),
                flatten=nn.Flatten(),
                head=nn.Linear(24 * 3 * 3, classes),
            )
        )


def fitnets_student(channels: int = 1, classes: int = 10, seed: int = 0) -> nn.Sequential:
    """Build the thin, deep MNIST student of FitNets: six maxout layers, ``layer1`` to ``layer6``.

    Romero et al. 2015, appendix A.2: 16, 16, 16, 16, 12 and 12 units of two linear pieces, with
    pooling after every second layer; kernels and padding follow the authors' own code. Their guided
    layer is ``layer4``, and the hint is the teacher's ``layer2``.

    >>> sum(p.numel() for p in fitnets_student().parameters())
    30130
    """
    sizes(channels=channels, classes=classes)
    with seeded(seed):
        return nn.Sequential(
            OrderedDict(
                layer1=_maxout(channels, 16, kernel=5, padding=0),  # (N, 16, 24, 24)
                layer2=_maxout(16, 16, kernel=3, padding=0, pool=4),  # (N, 16, 10, 10)
                layer3=_maxout(16, 16, kernel=5, padding=3),  # (N, 16, 12, 12)
                layer4=_maxout(16, 16, kernel=3, padding=0, pool=4),  # (N, 16, 4, 4)
                layer5=_maxout(16, 12, kernel=3, padding=3),  # (N, 12, 8, 8)
                layer6=_maxout(12, 12, kernel=3, padding=0, pool=2),  # (N, 12, 3, 3)
                flatten=nn.Flatten(),
                head=nn.Linear(12 * 3 * 3, classes),
            )
        )


class Maxout(nn.Module):
    """The maximum of every ``pieces`` channels: ``(N, pieces * C, ...)`` to ``(N, C, ...)``.

    Source: Goodfellow et al. 2013, section 3.

    >>> import torch
    >>> Maxout(2)(torch.tensor([[1.0, 3.0, -2.0, -1.0]]))
    tensor([[ 3., -1.]])
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        sizes(pieces=pieces)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.pieces)).amax(2)  # (N, C, ...)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


def _maxout(
    inputs: int, outputs: int, *, kernel: int, padding: int, pool: int | None = None
) -> nn.Sequential:
    """A convolution with two pieces per unit; pooling of stride 2, which overlaps if pool > 2."""
    layers = [nn.Conv2d(inputs, 2 * outputs, kernel, padding=padding), Maxout(2)]
    if pool is not None:
        layers.append(nn.MaxPool2d(pool, stride=2, ceil_mode=True))
    return nn.Sequential(*layers)
