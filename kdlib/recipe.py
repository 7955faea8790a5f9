"""Everything that shapes a training run, as one frozen value. Nothing here trains."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from kdlib._checks import fraction, positive, real, sizes

__all__ = ["Recipe", "Views", "non_default_fields"]

Views = Callable[[Tensor, torch.Generator], Tensor]  # images (N, C, H, W) to others of that shape

_CHOICES = {
    "optimizer": ("sgd", "adam", "adamw"),
    "schedule": ("one_cycle", "step", "constant", "wide_resnet", "plateau"),
    "precision": ("auto", "float32", "float64", "bfloat16", "float16"),
    "keep": ("last", "best"),
}
# Soft targets have gradients of T * (q - p), because of T^2; 0.03 under one_cycle is stable at T = 20.
DEFAULT_RATES = {"sgd": 0.03, "adam": 0.001, "adamw": 0.001}
_REMEDIES = {
    "learning_rate": f"{DEFAULT_RATES['sgd']} is the default of sgd",
    "max_norm": "None sets no limit",
    "max_gradient": "None sets no limit",
}


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes a training run, its values checked when it is built.

    Attributes:
        epochs: passes over the training split.
        iterations: steps, for papers that count those, not epochs; the last epoch may be cut short.
        batch_size: samples per step; an incomplete last batch is dropped unless it is the only one. Validation
            and a teacher's table read no more at once.
        optimizer: ``sgd`` (Nesterov momentum), ``adam`` or ``adamw``.
        learning_rate: the peak rate. If not given, the objective's ``default_rate`` (0.001 for hints and FSP
            matrices alone, whose losses are sums over thousands of numbers), else 0.03 for sgd and 0.001 for
            adam and adamw; :class:`kdlib.History` names the rate that was used. 0.03 under one_cycle is
            stable for T^2-weighted soft targets at T = 20.
        momentum: the momentum of sgd, or the first beta of adam and adamw.
        schedule: ``one_cycle`` (up for 30 % of the steps, then down to zero, both by a cosine),
            ``step`` (a tenth after one half and again after three quarters), ``wide_resnet`` (a fifth
            after 30, 60 and 80 %, as Zagoruyko and Komodakis 2016), ``plateau`` (a quarter after every
            epoch whose validation loss is not a new lowest) or ``constant``.
        weight_decay: for all parameters.
        max_norm: limit on the norm of the weights into each unit of a linear or bilinear layer, a convolution
            (transposed ones, too) or an attention's projections, applied after every step; None for no limit.
            Embeddings, normalisation and a module's own parameters are not limited; a layer whose weight is
            computed (weight_norm and the like), recurrent layers and TorchScript are refused.
        max_gradient: limit on the norm of the gradient with respect to all weights; a longer one is
            shortened to it. None for no limit.
        augment: random views of the training images, such as ``kd.data.shift(2)``, or any function
            ``(images, generator) -> images`` that draws from that generator and keeps shape and dtype.
        precision: dtype of the matrix products; ``auto`` is bfloat16 where the hardware has it
            natively, float16 on older GPUs, else float32. The network's weights are converted to
            float32, or to float64 for ``float64``, and stay that way.
        keep: whether to end with the weights of the ``last`` epoch, or of the ``best`` one by
            validation loss.

    Raises:
        TypeError, ValueError: an invalid value; the message names a valid one.

    >>> Recipe(schedule="step", learning_rate=1).rate(0.6)
    0.1
    """

    epochs: int = 10
    iterations: int | None = None
    batch_size: int = 128
    optimizer: str = "sgd"
    learning_rate: float | None = None
    momentum: float = 0.9
    schedule: str = "one_cycle"
    weight_decay: float = 0.0
    max_norm: float | None = None
    max_gradient: float | None = None
    augment: Views | None = None
    precision: str = "auto"
    keep: str = "last"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        counts = ("epochs", "batch_size") + (() if self.iterations is None else ("iterations",))
        sizes(**{name: getattr(self, name) for name in counts})
        numbers = {
            name: positive(name, getattr(self, name), remedy)
            for name, remedy in _REMEDIES.items()
            if getattr(self, name) is not None
        }
        numbers["weight_decay"] = real("weight_decay", self.weight_decay)
        if not 0 <= numbers["weight_decay"] < math.inf:
            raise ValueError(f"weight_decay must be finite and at least 0, got {self.weight_decay}")
        numbers["momentum"] = fraction("momentum", self.momentum, "0.9 is the default")
        if numbers["momentum"] == 1:
            raise ValueError("momentum must be below 1, got 1; 0.9 is the default")
        if self.augment is not None:
            _check_views(self.augment)
        # numpy's numbers become plain ones: a checkpoint can hold no others.
        for name, value in ({name: int(getattr(self, name)) for name in counts} | numbers).items():
            object.__setattr__(self, name, value)

    @property
    def peak_rate(self) -> float:
        """The highest learning rate of the training run, unless the objective has its own."""
        return self.learning_rate or DEFAULT_RATES[self.optimizer]

    def rate(self, progress: float) -> float:
        """The learning rate once this share of the training, in [0, 1), is done.

        For ``plateau`` this is the peak: its cuts depend on the validation losses.
        """
        if self.schedule in ("constant", "plateau"):
            return self.peak_rate
        if self.schedule == "wide_resnet":
            return self.peak_rate * 0.2 ** sum(progress >= share for share in (0.3, 0.6, 0.8))
        if self.schedule == "step":
            return self.peak_rate * 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
        if progress < 0.3:
            return self.peak_rate * (0.04 + 0.96 * _rise(progress / 0.3))
        return self.peak_rate * (1 - _rise((progress - 0.3) / 0.7))

    def length(self, steps: int) -> tuple[int, int]:
        """The number of steps and of epochs of a run whose whole epochs have ``steps`` steps.

        >>> Recipe(iterations=250).length(100)
        (250, 3)
        """
        total = self.iterations or self.epochs * steps
        return total, math.ceil(total / steps)


def non_default_fields(what: Any) -> dict[str, Any]:
    """A dataclass's non-default fields, so that adding a field leaves old texts as they are."""
    values = ((field, getattr(what, field.name)) for field in fields(what))
    return {field.name: value for field, value in values if value != field.default}


def _check_views(augment: Views) -> None:
    try:
        inspect.signature(getattr(augment, "forward", augment)).bind("images", "generator")
    except TypeError as error:  # not a function, or one with other arguments
        raise TypeError(
            "augment must be kd.data.shift, crop or flip, or a function (images, generator) -> images, "
            f"got {augment!r} ({error})"
        ) from error
    except ValueError:  # written in C, without a signature
        return


def _rise(x: float) -> float:
    return (1 - math.cos(math.pi * x)) / 2
