"""Objectives on logits: labels, soft targets, logits themselves, and the two controls of Born Again Networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
from kdlib.objectives.base import Batch, Objective, Outputs
from kdlib.objectives.teachers import Teacher, TeacherLogits
from kdlib.recipe import Recipe

__all__ = ["CWTM", "DKPP", "CrossEntropy", "LogitMatching", "SoftTargets"]


class CrossEntropy(Objective):
    """Learning from labels: the cross entropy at T = 1, logged as ``hard``.

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
        return _means(self.each(student, batch))

    def each(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The terms before the mean: logits ``(..., C)`` give ``(...)``."""
        s, smoothing = student.logits, self.label_smoothing
        loss = cross_entropy(s, batch.labels, label_smoothing=smoothing, reduction="none")
        return {"hard": loss}  # (...)


class _OfTeacher(Objective):
    """Objectives that need the logits of a teacher: looked up or computed, a list's averaged."""

    average = "probabilities"  # of a list of teachers, at the objective's temperature if it has one

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self._source = TeacherLogits(teacher, self.average)

    def prepare(self, student: nn.Module, split: Samples, recipe: Recipe) -> None:
        self._source.prepare(split, recipe, getattr(self, "temperature", 1.0))


class SoftTargets(_OfTeacher):
    """Distillation: a teacher's soft targets, and the labels beside them.

    ``soft = alpha * T^2 * KL(teacher || student)`` at temperature T and
    ``hard = (1 - alpha) * CE(labels, student)`` at T = 1, as in :func:`kdlib.losses.hinton_loss`.
    Source: Hinton, Vinyals, Dean 2015, section 2.

    Args:
        teacher: a network; a list of networks, whose probabilities at T are averaged; or a tensor
            of logits ``(rows, C)`` by sample index. A network is not modified: mode, weights and
            buffers stay as they are.
        temperature: T > 0, a number or a tensor that broadcasts against the batch.
        alpha: weight of the soft targets in [0, 1], a number or a tensor likewise; 1 where there are
            no labels.

    Raises:
        TypeError: a teacher of another type, or a list beside a tensor of temperatures.
        ValueError: temperature or alpha out of range; a tensor of logits together with random views
            of the images; an unlabelled split with alpha below 1.

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
                "temperature must be one number where the teacher is a list: their probabilities "
                "are averaged at that temperature"
            )

    def prepare(self, student: nn.Module, split: Samples, recipe: Recipe) -> None:
        labels_used = bool((torch.as_tensor(self.alpha) < 1).any())
        if not split.labelled and labels_used:
            raise ValueError(
                f"alpha must be 1 where the training split has no labels, got {_text(self.alpha)}"
            )
        super().prepare(student, split, recipe)
        # Moved once, not in every step.
        self.temperature, self.alpha = (
            value.to(split.device) if isinstance(value, Tensor) else value
            for value in (self.temperature, self.alpha)
        )

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        return _means(self.each(student, batch))

    def each(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The terms before the mean: logits ``(..., C)`` give ``(...)``."""
        s, t = student.logits, self._source(batch)  # (..., C) each
        if batch.labels is None:  # alpha is 1
            return {"soft": soft_target_loss(s, t, self.temperature, reduction="none")}
        soft, hard = hinton_terms(s, t, batch.labels, self.temperature, self.alpha)
        return {"soft": soft, "hard": hard}


class LogitMatching(_OfTeacher):
    """Matching the teacher's logits, zero-meaned over the classes; logged as ``logits``.

    ``1/2 * mean over classes of the squared difference``: see
    :func:`kdlib.losses.logit_matching_loss`. Needs no labels. Source: Hinton, Vinyals, Dean 2015,
    section 2.1; Ba and Caruana 2014.

    Args:
        teacher: a network; a list of networks, whose centred logits are averaged; or a tensor of
            logits ``(rows, C)`` by sample index.

    Raises:
        TypeError: a teacher of another type.
        ValueError: a tensor of logits together with random views of the images.
    """

    average = "centred logits"

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        return _means(self.each(student, batch))

    def each(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The term before the mean: logits ``(..., C)`` give ``(...)``."""
        loss = logit_matching_loss(student.logits, self._source(batch), reduction="none")  # (...)
        return {"logits": loss}


class CWTM(_OfTeacher):
    """Labels, each image weighted by how sure the teacher is of it; logged as ``cwtm``.

    Confidence weighted by teacher max, see :func:`kdlib.losses.cwtm_loss`: what a teacher gives
    beyond its dark knowledge. Weights are shares of the mini-batch. Source: Furlanello et al. 2018,
    section 3.2, eq. 10.

    Args:
        teacher: a network; a list of networks, whose probabilities are averaged; or a tensor of logits
            ``(rows, C)`` by sample index.

    Raises:
        TypeError: a teacher of another type.
        ValueError: a tensor of logits together with random views of the images, or a split without
            labels.
    """

    def prepare(self, student: nn.Module, split: Samples, recipe: Recipe) -> None:
        _need_labels(self, split)
        super().prepare(student, split, recipe)

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"cwtm": cwtm_loss(student.logits, self._source(batch), batch.labels)}


class DKPP(_OfTeacher):
    """Soft targets at T = 1 of which all but the largest are permuted; logged as ``dkpp``.

    Dark knowledge with permuted predictions, see :func:`kdlib.losses.dkpp_loss`: what is left of a
    teacher once it no longer tells which class resembles which. Every image gets a new order in every step (the paper does
    not say). Needs no labels. Source: Furlanello et al. 2018, section 3.2, eq. 11.

    Args:
        teacher: a network; a list of networks, whose probabilities are averaged; or a tensor of logits
            ``(rows, C)`` by sample index.

    Raises:
        TypeError: a teacher of another type.
        ValueError: a tensor of logits together with random views of the images.
    """

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"dkpp": dkpp_loss(student.logits, self._source(batch), batch.generator)}


def _means(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: term.mean() for name, term in terms.items()}


def _need_labels(objective: Objective, split: Samples) -> None:
    if not split.labelled:
        kind = type(objective).__name__
        raise ValueError(f"{kind} needs labels and the training split has none")


def _each_checked(check: Callable, name: str, value: float | Tensor, remedy: str) -> float | Tensor:
    """A number checked, or a tensor with each of its values checked, once, where it is built."""
    if not isinstance(value, Tensor):
        return check(name, value, remedy)
    for number in value.flatten().tolist():
        check(name, number, remedy)
    return value


def _text(value: float | Tensor) -> str:
    return repr(value.tolist()) if isinstance(value, Tensor) else repr(value)
