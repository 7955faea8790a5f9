"""Residual networks: plain, pre-activation and wide ones, and those for ImageNet."""

from __future__ import annotations

from collections.abc import Sequence
from http.client import HTTPException
from itertools import pairwise
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib._checks import fraction, sizes
from kdlib.seeding import seeded


def resnet(
    depth: int, width: int = 16, channels: int = 3, classes: int = 10, seed: int = 0
) -> ResNet:
    """Build a residual network of depth 6n + 2 for images of 28 x 28 or 32 x 32 pixels.

    He, Zhang, Ren, Sun 2016, section 4.2: a 3 x 3 convolution, three stages of n blocks with
    width, 2 * width and 4 * width channels, shortcuts without parameters, global average pooling
    and one linear layer.

    Args:
        depth: 8, 14, 20, 26, 32 ...
        width: channels of the first stage; Yim et al. 2017 use 16, or 64 for CIFAR-100.
        channels: channels of the images, 1 or 3.
        classes: number of classes; the logits are ``(N, classes)``.
        seed: seed of the initial weights (He et al. 2015 for convolutions).

    Raises:
        ValueError: depth is not 6n + 2.

    >>> sum(p.numel() for p in resnet(26).parameters())
    366938
    """
    sizes(width=width, channels=channels, classes=classes)
    if not isinstance(depth, Integral) or depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6n + 2 (8, 14, 20, 26, 32, ...), got {depth!r}")
    with seeded(seed):
        return ResNet((depth - 2) // 6, width, channels, classes)


def resnet_for_transfer(
    depth: int, classes: int = 1000, pretrained: bool = False, seed: int = 0
) -> nn.Module:
    """Build ImageNet's 34-layer ResNet, or the 20-layer student of Yim et al. 2017, section 4.3.

    This is torchvision's network, for colour images of about 224 x 224 pixels: after the stem
    (``maxpool``), four stages ``layer1`` to ``layer4`` of 3, 4, 6, 3 or 2, 2, 3, 2 blocks.

    Args:
        depth: 34 or 20.
        classes: number of classes; the logits are ``(N, classes)``.
        pretrained: take the ImageNet weights, which torchvision downloads; depth 34 only. The
            classifier stays untrained unless there are 1000 classes.
        seed: seed of the initial weights.

    Raises:
        ValueError: depth is neither 34 nor 20, or is 20 with pretrained.
        FileNotFoundError: the weights cannot be downloaded; the message says what to do.
    """
    from torchvision.models import ResNet34_Weights
    from torchvision.models.resnet import BasicBlock
    from torchvision.models.resnet import ResNet as TorchvisionResNet

    sizes(classes=classes)
    blocks = {34: [3, 4, 6, 3], 20: [2, 2, 3, 2]}
    if depth not in list(blocks):
        raise ValueError(f"depth must be 34 or 20, got {depth!r}")
    if pretrained and depth != 34:
        raise ValueError(
            f"pretrained must be False for depth {depth}: torchvision has no weights for it"
        )
    with seeded(seed):
        net = TorchvisionResNet(BasicBlock, blocks[depth], num_classes=classes)
    if pretrained:
        source = ResNet34_Weights.IMAGENET1K_V1
        try:
            weights = source.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError, HTTPException) as error:
            raise FileNotFoundError(
                f"ImageNet's weights could not be downloaded ({error}); without internet, put "
                f"{source.url} into {torch.hub.get_dir()}/checkpoints, or set pretrained=False"
            ) from error
        if classes != 1000:
            weights |= {f"fc.{name}": tensor for name, tensor in net.fc.state_dict().items()}
        net.load_state_dict(weights)
    return net


def wide_resnet(
    depth: int,
    width: int = 1,
    dropout: float = 0.0,
    channels: int = 3,
    classes: int = 10,
    seed: int = 0,
) -> PreactResNet:
    """Build a wide residual network of depth 6n + 4 for images of 28 x 28 or 32 x 32 pixels.

    Zagoruyko and Komodakis 2016, section 2: a 3 x 3 convolution to 16 channels and three stages of
    n pre-activation blocks with 16, 32 and 64 times ``width`` channels. Furlanello et al. 2018 use
    depth 28 and widths 1, 2, 5 and 10.

    Args:
        depth: 10, 16, 22, 28 ...
        width: k; the stages are k times as wide as those of a plain residual network.
        dropout: probability of dropping an activation between a block's convolutions in training.
        channels: channels of the images, 1 or 3.
        classes: number of classes; the logits are ``(N, classes)``.
        seed: seed of the initial weights (He et al. 2015 for convolutions).

    Raises:
        ValueError: depth is not 6n + 4.

    >>> sum(p.numel() for p in wide_resnet(28, width=10).parameters())
    36479194
    """
    sizes(width=width, channels=channels, classes=classes)
    fraction("dropout", dropout, "0 drops nothing")
    if not isinstance(depth, Integral) or depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth must be 6n + 4 (10, 16, 22, 28, ...), got {depth!r}")
    widths = [16, 16 * width, 32 * width, 64 * width]
    with seeded(seed):
        return PreactResNet(widths, (depth - 4) // 6, channels, classes, dropout=dropout)


def preact_resnet(
    depth: int,
    width: int = 16,
    bottleneck: bool = False,
    channels: int = 3,
    classes: int = 10,
    seed: int = 0,
) -> PreactResNet:
    """Build a pre-activation residual network for images of 28 x 28 or 32 x 32 pixels.

    He, Zhang, Ren, Sun 2016, "Identity mappings in deep residual networks": batch norm and ReLU
    come before each convolution. Furlanello et al. 2018 mention the one with 1001 layers and
    bottlenecks.

    Args:
        depth: 6n + 2 (8, 14, 20 ...), or with bottlenecks 9n + 2 (11, 20, ..., 164, 1001).
        width: channels of the first stage; with bottlenecks, a quarter of them.
        bottleneck: use blocks of 1 x 1, 3 x 3 and 1 x 1 convolutions instead of two 3 x 3 ones.
        channels: channels of the images, 1 or 3.
        classes: number of classes; the logits are ``(N, classes)``.
        seed: seed of the initial weights (He et al. 2015 for convolutions).

    Raises:
        ValueError: depth has another form.

    >>> sum(p.numel() for p in preact_resnet(164, bottleneck=True).parameters())
    1703258
    """
    sizes(width=width, channels=channels, classes=classes)
    each = 9 if bottleneck else 6
    if not isinstance(depth, Integral) or depth < each + 2 or (depth - 2) % each:
        raise ValueError(
            f"depth must be {each}n + 2 ({each + 2}, {2 * each + 2}, ...), got {depth!r}"
        )
    wider = 4 if bottleneck else 1
    widths = [width, *(wider * factor * width for factor in (1, 2, 4))]
    with seeded(seed):
        return PreactResNet(widths, (depth - 2) // each, channels, classes, bottleneck=bottleneck)


def residual_student(teacher: nn.Module, blocks: int = 1, seed: int = 0) -> PreactResNet:
    """Build a residual network with the channels of a dense teacher, ready to share its ends.

    Each dense block with the transition after it becomes a stage of pre-activation blocks with the
    same number of output channels. A stage halves the image in its first block; the teacher's
    stages halve it at their end. Source: Furlanello et al. 2018, table 5.

    Args:
        teacher: a network built by :func:`kdlib.models.densenet`.
        blocks: number of blocks in each stage.
        seed: seed of the initial weights.

    >>> from kdlib.models import densenet
    >>> teacher = densenet(16, growth=8)
    >>> residual_student(teacher).head
    Linear(in_features=32, out_features=10, bias=True)
    """
    if not hasattr(teacher, "widths"):
        raise TypeError(
            f"teacher must be built by kd.models.densenet, got {type(teacher).__name__}"
        )
    sizes(blocks=blocks)
    channels, classes = teacher.stem.in_channels, teacher.head.out_features
    with seeded(seed):
        return PreactResNet(teacher.widths, blocks, channels, classes)


def share_ends(student: nn.Module, teacher: nn.Module) -> nn.Module:
    """Give a student frozen copies of the teacher's first and last layer; returns the student.

    Furlanello et al. 2018 trained the residual students of their table 5 this way.

    Raises:
        ValueError: the layers ``stem`` or ``head`` of the two differ in shape.

    >>> from kdlib.models import densenet
    >>> teacher = densenet(16, growth=8)
    >>> student = share_ends(residual_student(teacher, seed=1), teacher)
    >>> [name for name, p in student.named_parameters() if not p.requires_grad]
    ['stem.weight', 'head.weight', 'head.bias']
    """
    for name in ("stem", "head"):
        mine, theirs = getattr(student, name, None), getattr(teacher, name, None)
        if not _same_shapes(mine, theirs):
            raise ValueError(
                f"student must have the teacher's {name}, {theirs}, got {mine}; "
                "kd.models.residual_student builds one for a dense teacher"
            )
        mine.load_state_dict(theirs.state_dict())
        mine.requires_grad_(False)
    return student


def _same_shapes(mine: nn.Module | None, theirs: nn.Module | None) -> bool:
    if not isinstance(mine, nn.Module) or not isinstance(theirs, nn.Module):
        return False
    mine, theirs = mine.state_dict(), theirs.state_dict()
    return mine.keys() == theirs.keys() and all(mine[n].shape == theirs[n].shape for n in mine)


class ResNet(nn.Module):
    """The network that :func:`resnet` builds: ``stem``, ``stage1`` to ``stage3``, ``head``."""

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
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))  # (N, outputs, ...)
        shortcut = x[:, :, :: self.stride, :: self.stride]
        missing = residual.shape[1] - x.shape[1]
        shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, missing))  # new channels start at zero
        return F.relu(shortcut + residual)


def _stage(blocks: int, inputs: int, outputs: int) -> nn.Sequential:
    first = _Block(inputs, outputs)
    return nn.Sequential(first, *(_Block(outputs, outputs) for _ in range(blocks - 1)))


class PreactResNet(nn.Module):
    """A pre-activation network: ``stem``, ``stage1`` to ``stage3``, ``norm``, ``head``."""

    def __init__(
        self,
        widths: Sequence[int],
        blocks: int,
        channels: int,
        classes: int,
        *,
        bottleneck: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            first = _PreactBlock(inputs, outputs, 2 if i else 1, bottleneck, dropout)
            rest = (
                _PreactBlock(outputs, outputs, 1, bottleneck, dropout) for _ in range(blocks - 1)
            )
            setattr(self, f"stage{i + 1}", nn.Sequential(first, *rest))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features = self.stage1(self.stem(images))  # (N, widths[1], H, W)
        features = self.stage3(self.stage2(features))  # (N, widths[3], H / 4, W / 4)
        return self.head(F.relu(self.norm(features)).mean((2, 3)))


class _PreactBlock(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, stride: int, bottleneck: bool, dropout: float
    ) -> None:
        super().__init__()
        inner = outputs // 4 if bottleneck else outputs
        layers = [(inputs, inner, 3, stride), (inner, outputs, 3, 1)]
        if bottleneck:
            layers = [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, outputs, 1, 1)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(layer[0]) for layer in layers)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel, stride=s, padding=kernel // 2, bias=False)
            for a, b, kernel, s in layers
        )
        self.dropout = nn.Dropout(dropout)
        self.shortcut = None
        if inputs != outputs or stride > 1:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norms[0](x))
        residual = self.convs[0](active)
        for norm, conv in zip(self.norms[1:], self.convs[1:], strict=True):
            residual = conv(self.dropout(F.relu(norm(residual))))
        return residual + (x if self.shortcut is None else self.shortcut(active))
