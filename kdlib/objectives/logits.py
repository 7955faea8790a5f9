"""Objectives on logits: labels, soft targets, the logits themselves, and the controls of Born Again Networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdlib._checks import fraction, positive
from kdlib.data.splits import Samples
from kdlib.losses import (
    cross_entropy,
    cwtm_loss,
    dkpp_loss,
    hinton_terms,
    logit_matching_loss,
    soft_target_loss,
)
from kdlib.networks import check_rows
from kdlib.objectives.base import Batch, Objective, Outputs
from kdlib.objectives.teachers import Teacher, TeacherLogits
from kdlib.recipe import Recipe

__all__ = ["CWTM", "DKPP", "CrossEntropy", "LogitMatching", "SoftTargets"]


class CrossEntropy(Objective):
    """The cross entropy with the labels at T = 1, logged as ``hard``.

    Args:
        label_smoothing: e in [0, 1]; the target is ``(1 - e) * one-hot + e / C``.

    Raises:
        ValueError: label_smoothing is out of range, or the split has no labels.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        remedy = "0 leaves the labels as they are"
        self.label_smoothing = fraction("label_smoothing", label_smoothing, remedy)

    def prepare(self, student: nn.Module, split: Samples, recipe: Recipe) -> None:
        _need_labels(self, split)

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        return _means(self, student, batch)

    def each(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The term before the mean: logits ``(..., C)`` give ``(...)``."""
        s, smoothing = student.logits, self.label_smoothing
        loss = cross_entropy(s, batch.labels, label_smoothing=smoothing, reduction="none")
        return {"hard": loss}  # (...)


class _OfTeacher(Objective):
    """Objectives that need a teacher's logits, looked up or computed; a list of teachers is averaged."""

    average = "probabilities"  # what is averaged, at the objective's temperature if it has one

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self._source = TeacherLogits(teacher, self.average)

    def prepare(self, student: nn.Module, split: Samples, recipe: Recipe) -> None:
        self._source.prepare(split, recipe, getattr(self, "temperature", 1.0))


class SoftTargets(_OfTeacher):
    """Distillation: a teacher's soft targets, together with the labels.

    ``soft = alpha * T^2 * KL(teacher || student)`` at temperature T and
    ``hard = (1 - alpha) * CE(labels, student)`` at T = 1, as in :func:`kdlib.losses.hinton_loss`.
    Source: Hinton, Vinyals, Dean 2015, section 2.

    Args:
        teacher: a network; a list of networks, whose probabilities at T are averaged; or a tensor of
            logits ``(rows, C)`` by sample index. Networks are not modified: mode, weights and buffers
            stay as they are.
        temperature: T > 0, a number or a tensor that broadcasts against the batch.
        alpha: weight of the soft targets in [0, 1], a number or such a tensor; it must be 1 if there are
            no labels.

    Raises:
        TypeError: the teacher has another type, or is a list and temperature is a tensor.
        ValueError: temperature or alpha is out of range; a tensor of logits is combined with random views
            of the images; or the split is unlabelled and alpha is below 1.

    >>> import kdlib as kd
    >>> teacher, student = kd.models.mlp(40, seed=0), kd.models.mlp(20, seed=1)
    >>> soft = SoftTargets(teacher, temperature=4, alpha=0.9)
    >>> data = kd.data.load("digits", device="cpu").limit(200)
    >>> list(kd.fit(student, soft, data, kd.Recipe(epochs=1), progress=False).frame)[3:5]
    ['soft', 'hard']
    """

    def __init__(
        self, teacher: Teacher, temperature: float | Tensor, alpha: float | Tensor
    ) -> None:
        super().__init__(teacher)
        self.temperature = _each_checked(
            positive, "temperature", temperature, "1.0 leaves the softmax as it is"
        )
        self.alpha = _each_checked(
            fraction, "alpha", alpha, "it weighs the soft targets, 1 - alpha the labels"
        )
        if isinstance(teacher, Sequence) and isinstance(temperature, Tensor):
            raise TypeError(
                "temperature must be one number where the teacher is a list: the members' "
                "probabilities are averaged at that temperature"
            )

    def prepare(self, student: nn.Module, split: Samples, recipe: Recipe) -> None:
        labels_used = bool((torch.as_tensor(self.alpha) < 1).any())
        if not split.labelled and labels_used:
            alpha = self.alpha.tolist() if isinstance(self.alpha, Tensor) else self.alpha
            raise ValueError(f"alpha must be 1 where the training split has no labels, got {alpha}")
        super().prepare(student, split, recipe)
        # Moved to the device here, not in every step.
        self.temperature, self.alpha = (
            value.to(split.device) if isinstance(value, Tensor) else value
            for value in (self.temperature, self.alpha)
        )

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        return _means(self, student, batch)

    def each(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The terms before the mean: logits ``(..., C)`` give ``(...)``."""
        s, t = student.logits, self._source(batch)  # (..., C) each
        if batch.labels is None:  # alpha is 1
            return {"soft": soft_target_loss(s, t, self.temperature, reduction="none")}
        soft, hard = hinton_terms(s, t, batch.labels, self.temperature, self.alpha)
        return {"soft": soft, "hard": hard}


class LogitMatching(_OfTeacher):
    """Matching the teacher's logits, both zero-meaned over the classes; logged as ``logits``.

    Half the mean squared difference over the classes, see :func:`kdlib.losses.logit_matching_loss`. It
    needs no labels. Source: Hinton, Vinyals, Dean 2015, section 2.1; Ba and Caruana 2014.

    Args:
        teacher: a network; a list of networks, whose centred logits are averaged; or a tensor of
            logits ``(rows, C)`` by sample index.

    Raises:
        TypeError: the teacher has another type.
        ValueError: a tensor of logits is combined with random views of the images.
    """

    average = "centred logits"

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        return _means(self, student, batch)

    def each(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The term before the mean: logits ``(..., C)`` give ``(...)``."""
        loss = logit_matching_loss(student.logits, self._source(batch), reduction="none")  # (...)
        return {"logits": loss}


class CWTM(_OfTeacher):
    """Labels, with each image weighted by the teacher's confidence in it; logged as ``cwtm``.

    Confidence weighted by teacher max, see :func:`kdlib.losses.cwtm_loss`: what a teacher
    contributes besides its dark knowledge. The weights of a mini-batch sum to 1. Source: Furlanello et al. 2018,
    section 3.2, eq. 10.

    Args:
        teacher: a network; a list of networks, whose probabilities are averaged; or a tensor of logits
            ``(rows, C)`` by sample index.

    Raises:
        TypeError: the teacher has another type.
        ValueError: a tensor of logits is combined with random views of the images, or the split has no
            labels.
    """

    def prepare(self, student: nn.Module, split: Samples, recipe: Recipe) -> None:
        _need_labels(self, split)
        super().prepare(student, split, recipe)

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        check_rows("model", student.logits, batch.inputs)
        return {"cwtm": cwtm_loss(student.logits, self._source(batch), batch.labels)}


class DKPP(_OfTeacher):
    """Soft targets at T = 1, all but the largest permuted; logged as ``dkpp``.

    Dark knowledge with permuted predictions, see :func:`kdlib.losses.dkpp_loss`: what a teacher
    contributes besides the similarities between classes. Every image gets a new permutation in
    every step (the paper does not specify this). It needs no labels. Source: Furlanello et al.
    2018, section 3.2, eq. 11.

    Args:
        teacher: a network; a list of networks, whose probabilities are averaged; or a tensor of logits
            ``(rows, C)`` by sample index.

    Raises:
        TypeError: the teacher has another type.
        ValueError: a tensor of logits is combined with random views of the images.
    """

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        check_rows("model", student.logits, batch.inputs)
        return {"dkpp": dkpp_loss(student.logits, self._source(batch), batch.generator)}


def _means(objective: Any, student: Outputs, batch: Batch) -> dict[str, Tensor]:
    check_rows("model", student.logits, batch.inputs)
    return {name: term.mean() for name, term in objective.each(student, batch).items()}


def _need_labels(objective: Objective, split: Samples) -> None:
    if not split.labelled:
        kind = type(objective).__name__
        raise ValueError(f"{kind} needs labels and the training split has none")


def _each_checked(check: Callable, name: str, value: float | Tensor, remedy: str) -> float | Tensor:
    """Check a number, or each value of a tensor, once: when the objective is built."""
    if not isinstance(value, Tensor):
        return check(name, value, remedy)
    for number in value.flatten().tolist():
        check(name, number, remedy)
    return value
