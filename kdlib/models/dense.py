"""Densely connected networks."""

from __future__ import annotations

from collections import OrderedDict
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib._checks import fraction, sizes
from kdlib.seeding import seeded


def densenet(
    depth: int,
    growth: int,
    dropout: float = 0.0,
    channels: int = 3,
    classes: int = 10,
    seed: int = 0,
) -> DenseNet:
    """Build a DenseNet-BC for images of 28 x 28 or 32 x 32 pixels: each layer reads all before it.

    Huang, Liu, van der Maaten, Weinberger 2017, section 3: a 3 x 3 convolution to ``2 * growth``
    channels, then three dense blocks of ``(depth - 4) // 6`` layers, each a 1 x 1 convolution to
    ``4 * growth`` channels and a 3 x 3 convolution to ``growth``. Between the blocks a 1 x 1
    convolution halves the channels and average pooling halves the image. Furlanello et al. 2018 use
    112-33, 90-60, 80-80 and 80-120; only the first of these depths is 6n + 4, so the number of
    layers is rounded down.

    Args:
        depth: at least 10.
        growth: channels that each layer adds.
        dropout: probability of dropping an activation that a layer adds. (Huang et al. drop after
            every convolution except the first; here dropout follows the 3 x 3 convolutions only.)
        channels: channels of the images, 1 or 3.
        classes: number of classes; the logits are ``(N, classes)``.
        seed: seed of the initial weights (He et al. 2015 for convolutions).

    Raises:
        ValueError: depth is below 10.

    >>> sum(p.numel() for p in densenet(100, growth=12).parameters())
    769162
    """
    sizes(growth=growth, channels=channels, classes=classes)
    fraction("dropout", dropout, "0 drops nothing")
    if not isinstance(depth, Integral) or depth < 10:
        raise ValueError(f"depth must be a whole number of at least 10, got {depth!r}")
    with seeded(seed):
        return DenseNet((depth - 4) // 6, growth, dropout, channels, classes)


class DenseNet(nn.Module):
    """The network that :func:`densenet` builds: ``stem``, ``stage1`` to ``stage3``, ``norm``,
    ``head``.

    Attributes:
        widths: channels after the stem and after each stage.
    """

    def __init__(
        self, layers: int, growth: int, dropout: float, channels: int, classes: int
    ) -> None:
        super().__init__()
        width = 2 * growth
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.widths = [width]
        for stage in ("stage1", "stage2", "stage3"):
            block = OrderedDict()
            for layer in range(layers):
                block[f"layer{layer + 1}"] = _Layer(width, growth, dropout)
                width += growth
            if stage != "stage3":
                block["transition"] = _transition(width, width // 2)
                width //= 2
            setattr(self, stage, nn.Sequential(block))
            self.widths.append(width)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stage1(self.stem(images))  # (N, widths[1], H / 2, W / 2)
        features = self.stage3(self.stage2(features))  # (N, widths[3], H / 4, W / 4)
        return self.head(F.relu(self.norm(features)).mean((2, 3)))


class _Layer(nn.Module):
    def __init__(self, inputs: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(F.relu(self.norm1(x)))  # (N, 4 growth, H, W)
        new = self.dropout(self.conv2(F.relu(self.norm2(new))))  # (N, growth, H, W)
        return torch.cat([x, new], 1)  # (N, inputs + growth, H, W)


def _transition(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.AvgPool2d(2),
    )
