"""The networks of the papers. Sizes are given, nothing is lazy, and every builder takes a seed.

The same seed gives the same weights, whatever was drawn before.
"""

from __future__ import annotations

from collections import OrderedDict
from numbers import Integral

from torch import Tensor, nn
from torch.nn import functional as F

from kdlib._checks import fraction
from kdlib.seeding import seeded

__all__ = [
    "Maxout",
    "anNet",
    "anNet_deep",
    "fitnets_student",
    "fitnets_teacher",
    "mlp",
    "resnet",
    "resnet_for_transfer",
]


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


def resnet_for_transfer(
    depth: int, classes: int = 1000, pretrained: bool = False, seed: int = 0
) -> nn.Module:
    """ImageNet's residual network of 34 layers, or the student of 20 of Yim et al. 2017, section 4.3.

    torchvision's, for colour images of about 224 x 224 pixels: four stages of 3, 4, 6, 3 or 2, 2, 3, 2
    blocks, named ``layer1`` to ``layer4`` after the stem (``maxpool``).

    Args:
        depth: 34 or 20.
        classes: logits ``(N, classes)``.
        pretrained: on ImageNet, downloaded by torchvision; for depth 34 alone. The classifier is new
            where classes are not ImageNet's 1000.
        seed: of the initial weights.

    Raises:
        ValueError: another depth, or 20 pretrained.
    """
    from torchvision.models import ResNet34_Weights
    from torchvision.models.resnet import BasicBlock
    from torchvision.models.resnet import ResNet as TorchvisionResNet

    _sizes(classes=classes)
    blocks = {34: [3, 4, 6, 3], 20: [2, 2, 3, 2]}
    if depth not in list(blocks):
        raise ValueError(f"depth must be 34 or 20, got {depth!r}")
    if pretrained and depth != 34:
        raise ValueError(f"pretrained must be False for depth {depth}: nobody offers its weights")
    with seeded(seed):
        net = TorchvisionResNet(BasicBlock, blocks[depth], num_classes=classes)
    if pretrained:
        weights = ResNet34_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
        if classes != 1000:
            weights |= {f"fc.{name}": tensor for name, tensor in net.fc.state_dict().items()}
        net.load_state_dict(weights)
    return net


def fitnets_teacher(channels: int = 1, classes: int = 10, seed: int = 0) -> nn.Sequential:
    """The maxout network that teaches on MNIST in FitNets: three wide layers, ``layer1`` to ``layer3``.

    Romero et al. 2015, appendix A.2: 48, 48 and 24 units of two linear pieces each. The kernels of 8, 8
    and 5 with their paddings and pools are those of Goodfellow et al. 2013, whose network it is; so is
    the dropout, of a fifth of the inputs and a half of each layer.

    >>> sum(p.numel() for p in fitnets_teacher().parameters())
    361066
    """
    _sizes(channels=channels, classes=classes)
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
    """The student of FitNets on MNIST, thin and deep: six maxout layers, ``layer1`` to ``layer6``.

    Romero et al. 2015, appendix A.2: 16, 16, 16, 16, 12 and 12 units of two linear pieces, a pool after
    every second; kernels and paddings as in the authors' own settings. The paper's guided layer is
    ``layer4``, its hint the teacher's ``layer2``.

    >>> sum(p.numel() for p in fitnets_student().parameters())
    30130
    """
    _sizes(channels=channels, classes=classes)
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
    """The largest of ``pieces`` channels each: ``(N, pieces * C, ...)`` to ``(N, C, ...)``.

    Source: Goodfellow et al. 2013, section 3.

    >>> import torch
    >>> Maxout(2)(torch.tensor([[1.0, 3.0, -2.0, -1.0]]))
    tensor([[ 3., -1.]])
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        _sizes(pieces=pieces)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.pieces)).amax(2)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


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


def _maxout(
    inputs: int, outputs: int, *, kernel: int, padding: int, pool: int | None = None
) -> nn.Sequential:
    """A convolution of two pieces a unit, and a pool that overlaps unless its size is 2."""
    layers = [nn.Conv2d(inputs, 2 * outputs, kernel, padding=padding), Maxout(2)]
    if pool is not None:
        layers.append(nn.MaxPool2d(pool, stride=2, ceil_mode=True))
    return nn.Sequential(*layers)


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
