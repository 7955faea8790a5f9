"""Scores of networks on a split, and a student's fidelity to its teacher."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdlib._checks import several_classes, wide
from kdlib.data.splits import Samples
from kdlib.losses import cross_entropy
from kdlib.networks import answers, check_members, evaluating

__all__ = ["Fidelity", "Scores", "evaluate", "fidelity"]


@dataclass(frozen=True)
class Scores:
    """A network's results on a split.

    Attributes:
        errors: the number of samples it gets wrong.
        accuracy: the share it gets right, in [0, 1].
        loss: mean cross entropy with the labels, in nats, at T = 1.
        ece: expected calibration error in [0, 1]: the mean gap between confidence and
            accuracy over 15 equal bins of confidence, weighted by the number of samples in each.
    """

    errors: int
    accuracy: float
    loss: float
    ece: float

    @property
    def perplexity(self) -> float:
        """``exp(loss)``: the number of equally likely classes that would be as hard to guess."""
        return math.exp(self.loss)


@dataclass(frozen=True)
class Fidelity:
    """How closely a student follows its teacher.

    Attributes:
        agreement: the share of samples for which both predict the same class, in [0, 1].
        divergence: the mean of KL(teacher || student) at T = 1, in nats.
    """

    agreement: float
    divergence: float


def evaluate(
    model: nn.Module | Sequence[nn.Module], split: Samples, *, batch_size: int | None = None
) -> Scores:
    """Score a network, or several by the mean of their probabilities, at T = 1 in eval mode.

    Every module's mode is restored. A text is read whole, from left to right, as one row.

    Args:
        model: a network, or a list of networks.
        split: labelled samples, such as ``data.test``.
        batch_size: as for :func:`kdlib.logits`; a smaller one needs less memory.

    Raises:
        TypeError: ``split`` is not a split, or an entry is not an nn.Module.
        ValueError: the split has no labels, the list of models is empty, or the logits are not one row
            of at least two classes for each label.

    >>> import kdlib as kd
    >>> scores = kd.evaluate(kd.models.mlp(30), kd.data.load("digits", device="cpu").test)
    >>> scores.errors == round((1 - scores.accuracy) * 360)
    True
    """
    _check_split(split)
    if not split.labelled:
        raise ValueError("split must have labels to be scored against, but it has none")
    columns = []
    for (log_p,), labels in _log_probabilities([_members("model", model)], split, batch_size):
        if len(log_p) != len(labels):
            raise ValueError(
                f"model must give one row of logits for each label, got {len(log_p)} for {len(labels)} labels"
            )
        confidence, predicted = log_p.exp().max(-1)  # (N,)
        columns.append(
            (cross_entropy(log_p, labels, reduction="none"), confidence, predicted == labels)
        )
    losses, confidence, right = _whole(columns)  # (N,) each
    errors = int((~right).sum())
    return Scores(
        errors=errors,
        accuracy=1 - errors / len(split),
        loss=losses.mean().item(),
        ece=_calibration_error(confidence, right),
    )


def fidelity(
    student: nn.Module | Sequence[nn.Module],
    teacher: nn.Module | Sequence[nn.Module],
    split: Samples,
    *,
    batch_size: int | None = None,
) -> Fidelity:
    """Compare a student's answers with its teacher's, right or wrong, at T = 1 in eval mode.

    Several networks answer by the mean of their probabilities. No labels are needed; every module's mode
    is restored. Source: Stanton et al. 2021, section 3.

    Raises:
        TypeError: ``split`` is not a split, or an entry is not an nn.Module.
        ValueError: a list of networks is empty, or the networks do not have the same classes, at least
            two of them, in the logits' last dimension.

    >>> import kdlib as kd
    >>> same, test = kd.models.mlp(30), kd.data.load("digits", device="cpu").test
    >>> kd.fidelity(same, same, test)
    Fidelity(agreement=1.0, divergence=0.0)
    """
    _check_split(split)
    groups = [_members("student", student), _members("teacher", teacher)]
    columns = []
    for (log_q, log_p), _ in _log_probabilities(groups, split, batch_size):
        if log_q.shape != log_p.shape:
            raise ValueError(
                f"student and teacher must have the same classes, got {log_q.shape[-1]} and "
                f"{log_p.shape[-1]}"
                if len(log_q) == len(log_p)
                else f"student and teacher must have equally many places, got {len(log_q)} and {len(log_p)}"
            )
        divergence = (log_p.exp() * (log_p - log_q)).sum(-1)  # (N,)
        columns.append((log_q.argmax(-1) == log_p.argmax(-1), divergence))
    agree, divergence = _whole(columns)  # (N,) each
    return Fidelity(int(agree.sum()) / len(agree), divergence.mean().item())


def _check_split(split: Samples) -> None:
    if not isinstance(split, Samples):
        raise TypeError(
            f"split must be a Split such as data.test or data.validation, got {type(split).__name__}"
        )


def _members(name: str, model: nn.Module | Sequence[nn.Module]) -> list[nn.Module]:
    """A network, or several, as a list."""
    alone = isinstance(model, nn.Module) and not isinstance(model, nn.ModuleList)
    models = [model] if alone or not isinstance(model, Iterable) else list(model)
    if not models:
        raise ValueError(f"{name} must be a network or a list of at least one, got an empty list")
    for member in models:
        if not isinstance(member, nn.Module):
            raise TypeError(f"{name} must be a network or a list of networks, got {member!r}")
    return models


def _log_probabilities(
    groups: Sequence[Sequence[nn.Module]], split: Samples, batch_size: int | None
) -> Iterator[tuple[list[Tensor], Tensor | None]]:
    """For each part of the split, each group's log mean probabilities ``(N, C)``, and the labels."""
    everyone = [model for group in groups for model in group]
    with evaluating(*everyone), split.reading(*everyone):
        for inputs, labels in split.parts(split.at_once(batch_size)):
            # Each runs once, even if listed twice: a recurrent network would read on with every call.
            found = {model: answers(model, inputs) for model in dict.fromkeys(everyone)}
            answered = [[found[model] for model in group] for group in groups]
            for members in answered:
                check_members("model", members, inputs)
                several_classes("model", members[0])
            log_p = [_mean(members).to(inputs.device) for members in answered]  # (N, C) each
            yield log_p, None if labels is None else labels.flatten()


def _mean(logits: Sequence[Tensor]) -> Tensor:
    """Log probabilities ``(N, C)`` of one network or of an ensemble's mean, from K of ``(..., C)``."""
    members = [wide("logits", z).log_softmax(-1) for z in logits]  # (..., C) each
    # In logs throughout, so that a probability too small for a float is not lost.
    return (torch.stack(members).logsumexp(0) - math.log(len(members))).flatten(0, -2)


def _whole(columns: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.cat(column).cpu() for column in zip(*columns, strict=True)]


def _calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    # A confidence of 1 belongs to the last bin; nan falls into some bin and stays nan.
    place = (confidence * bins).long().clamp(0, bins - 1)  # (N,)
    gap = torch.zeros(bins, dtype=torch.float64, device="cpu")  # (bins,)
    # A bin's sum of (right - confidence) is its gap times its number of samples.
    gap.index_add_(0, place, right.double() - confidence.double())
    return gap.abs().sum().item() / len(right)
