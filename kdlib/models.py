"""The networks of the papers. Sizes are given, nothing is lazy, and every builder takes a seed.

The same seed gives the same weights, whatever was drawn before.
"""

from __future__ import annotations

from numbers import Integral

from torch import Tensor, nn
from torch.nn import functional as F

from kdlib._checks import fraction
from kdlib.seeding import seeded

__all__ = ["anNet", "anNet_deep", "mlp", "resnet"]


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
    _sizes(width=width, inputs=inputs, classes=classes)
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
    _sizes(classes=classes)
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
    _sizes(classes=classes)
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


def resnet(
    depth: int, width: int = 16, channels: int = 3, classes: int = 10, seed: int = 0
) -> ResNet:
    """A residual network of depth 6n + 2 for images of 28 x 28 or 32 x 32 pixels.

    He, Zhang, Ren, Sun 2016, section 4.2: a 3 x 3 convolution, three stages of n blocks at width,
    2 * width and 4 * width, shortcuts without parameters, a global mean and one linear layer.

    Args:
        depth: 8, 14, 20, 26, 32 ...
        width: channels of the first stage; Yim et al. 2017 take 16, or 64 for CIFAR-100.
        channels: of the images, 1 or 3.
        classes: logits ``(N, classes)``.
        seed: of the initial weights (He et al. 2015 for convolutions).

    Raises:
        ValueError: depth is not 6n + 2.

    >>> sum(p.numel() for p in resnet(26).parameters())
    366938
    """
    _sizes(width=width, channels=channels, classes=classes)
    if not isinstance(depth, Integral) or depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6n + 2 (8, 14, 20, 26, 32, ...), got {depth!r}")
    with seeded(seed):
        return ResNet((depth - 2) // 6, width, channels, classes)


class ResNet(nn.Module):
    """Built by :func:`resnet`; its parts are ``stem``, ``stage1``, ``stage2``, ``stage3``, ``head``."""

    def __init__(self, blocks: int, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.stage1 = _stage(blocks, width, width)
        self.stage2 = _stage(blocks, width, 2 * width)
        self.stage3 = _stage(blocks, 2 * width, 4 * width)
        self.head = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)  # (N, width, H, W)
        features = self.stage3(self.stage2(self.stage1(features)))  # (N, 4 width, H / 4, W / 4)
        return self.head(features.mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=self.stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        missing = residual.shape[1] - x.shape[1]
        shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, missing))  # new channels start at zero
        return F.relu(shortcut + residual)


def _stage(blocks: int, inputs: int, outputs: int) -> nn.Sequential:
    first = _Block(inputs, outputs)
    return nn.Sequential(first, *(_Block(outputs, outputs) for _ in range(blocks - 1)))


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_normal_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)


def _sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}")
