"""What a student is trained on: a loss bound to a teacher. ``fit`` knows nothing else.

Objectives add and scale: ``SoftTargets(teacher, 4, 0.9) + 0.1 * LogitMatching(teacher)``; a weight
may be a function of progress in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from kdlib._checks import alpha_of, fraction, positive, wide
from kdlib._networks import frozen_copy, logits, tensors_hash, weights_hash
from kdlib.losses import cross_entropy, logit_matching_loss, soft_target_loss

if TYPE_CHECKING:
    from kdlib.data import Split
    from kdlib.training import Recipe

__all__ = ["Batch", "CrossEntropy", "LogitMatching", "Objective", "Outputs", "SoftTargets", "Sum"]

Teacher = nn.Module | Sequence[nn.Module] | Tensor
Weight = float | Callable[[float], float]


@dataclass(frozen=True)
class Batch:
    """What an objective sees of one step.

    Attributes:
        inputs: the views the student sees, ``(N, ...)``.
        labels: ``(N,)`` int64, or None on an unlabelled split.
        index: ``(N,)`` int64, which samples these are, whatever the order of the epoch.
        progress: the share of the training that is done, in [0, 1).
        generator: a stream keyed by seed and epoch; drawing from it moves nothing else.
    """

    inputs: Tensor
    labels: Tensor | None
    index: Tensor
    progress: float
    generator: torch.Generator


@dataclass(frozen=True)
class Outputs:
    """What the student made of one batch: one forward pass, shared by all parts of a sum."""

    logits: Tensor


class Objective(Protocol):
    """What ``fit`` asks of an objective; any class with these members will do.

    Attributes:
        key: a text that tells this objective from every other: class, numbers, teacher's hash.
        module: trained beside the student, on its device and in its checkpoint; None if there is
            nothing to train.
    """

    key: str
    module: nn.Module | None

    def prepare(self, student: nn.Module, split: Split, recipe: Recipe) -> None:
        """Called once per fit, also on resume: cache a teacher, refuse what cannot work.

        An objective serves any number of fits, one after the other.
        """

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Named terms, weighted; ``fit`` minimises their sum and logs each."""


class _Arithmetic:
    """Objectives add and scale."""

    module: nn.Module | None = None

    def __add__(self, other: Objective) -> Sum:
        if not hasattr(other, "prepare"):
            return NotImplemented
        return Sum(((1.0, self), (1.0, other)))

    def __radd__(self, other: Objective) -> Sum:
        if not hasattr(other, "prepare"):
            return NotImplemented
        return Sum(((1.0, other), (1.0, self)))

    def __mul__(self, weight: Weight) -> Sum:
        return Sum(((weight, self),))

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return self.key


class _ByExample(_Arithmetic):
    """Terms that are means over the examples of a batch."""

    def each(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The terms before the mean: logits ``(..., C)`` give ``(...)``."""
        raise NotImplementedError

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {name: term.mean() for name, term in self.each(student, batch).items()}


class CrossEntropy(_ByExample):
    """Learning from labels: the cross entropy at T = 1, logged as ``hard``.

    Args:
        label_smoothing: s in [0, 1]; the target is ``(1 - s) * one-hot + s / C``.

    Raises:
        ValueError: label_smoothing is out of range, or the split has no labels.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        remedy = "0 leaves the labels as they are"
        self.label_smoothing = fraction("label_smoothing", label_smoothing, remedy)

    @property
    def key(self) -> str:
        return f"CrossEntropy(label_smoothing={self.label_smoothing!r})"

    def prepare(self, student: nn.Module, split: Split, recipe: Recipe) -> None:
        if split.labels is None:
            raise ValueError("CrossEntropy needs labels and the training split has none")

    def each(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = cross_entropy(
            student.logits, batch.labels, label_smoothing=self.label_smoothing, reduction="none"
        )
        return {"hard": loss}


class SoftTargets(_ByExample):
    """Distillation: a teacher's soft targets, and the labels beside them.

    ``soft = alpha * T^2 * KL(teacher || student)`` at temperature T and
    ``hard = (1 - alpha) * CE(labels, student)`` at T = 1, as in :func:`kdlib.losses.hinton_loss`.
    Source: Hinton, Vinyals, Dean 2015, section 2.

    Args:
        teacher: a network; a list of networks, whose probabilities at T are averaged; or a tensor
            of logits ``(rows, C)`` by sample index. A network is only looked at: mode, weights and
            buffers stay as they are.
        temperature: T > 0, a number or a tensor that broadcasts against the batch.
        alpha: weight of the soft targets in [0, 1], a number or a tensor likewise; 1 where there are
            no labels.

    Raises:
        TypeError: the teacher is none of these, or a list beside a tensor of temperatures.
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
        self.teacher = teacher
        self.temperature = _every(
            positive, "temperature", temperature, "1.0 leaves the softmax as it is"
        )
        self.alpha = _every(
            fraction, "alpha", alpha, "it weighs the soft targets, 1 - alpha the labels"
        )
        if isinstance(teacher, Sequence) and isinstance(temperature, Tensor):
            raise TypeError(
                "temperature must be one number where the teacher is a list: their probabilities "
                "are averaged at that temperature"
            )
        self._source = _TeacherLogits(teacher, self._average)

    @property
    def key(self) -> str:
        return (
            f"SoftTargets(teacher={self._source.hash()}, temperature={_text(self.temperature)}, "
            f"alpha={_text(self.alpha)})"
        )

    def prepare(self, student: nn.Module, split: Split, recipe: Recipe) -> None:
        labels_used = bool((torch.as_tensor(self.alpha) < 1).any())
        if split.labels is None and labels_used:
            raise ValueError(
                f"alpha must be 1 where the training split has no labels, got {_text(self.alpha)}"
            )
        self._source.prepare(split, recipe)
        device = split.inputs.device  # moved once, not in every step
        self.temperature, self.alpha = (
            value.to(device) if isinstance(value, Tensor) else value
            for value in (self.temperature, self.alpha)
        )

    def each(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        teacher = self._source(batch)
        soft = soft_target_loss(student.logits, teacher, self.temperature, reduction="none")
        alpha = alpha_of(self.alpha, wide("student", student.logits))
        terms = {"soft": alpha * soft}
        if batch.labels is not None:
            hard = cross_entropy(student.logits, batch.labels, reduction="none")
            terms["hard"] = (1 - alpha) * hard
        return terms

    def _average(self, members: Tensor) -> Tensor:
        """Logits whose soft targets at T are the mean of the members' soft targets."""
        log_p = torch.log_softmax(members / self.temperature, dim=-1)  # (K, N, C)
        return self.temperature * (log_p.logsumexp(0) - math.log(len(members)))


class LogitMatching(_ByExample):
    """Matching the teacher's logits, zero-meaned over the classes; logged as ``logits``.

    ``1/2 * mean over classes of the squared difference``: see
    :func:`kdlib.losses.logit_matching_loss`. Needs no labels. Source: Hinton, Vinyals, Dean 2015,
    section 2.1; Ba and Caruana 2014.

    Args:
        teacher: a network; a list of networks, whose centred logits are averaged; or a tensor of
            logits ``(rows, C)`` by sample index.

    Raises:
        TypeError: the teacher is none of these.
        ValueError: a tensor of logits together with random views of the images.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self._source = _TeacherLogits(teacher, _mean_centred)

    @property
    def key(self) -> str:
        return f"LogitMatching(teacher={self._source.hash()})"

    def prepare(self, student: nn.Module, split: Split, recipe: Recipe) -> None:
        self._source.prepare(split, recipe)

    def each(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = logit_matching_loss(student.logits, self._source(batch), reduction="none")
        return {"logits": loss}


class Sum(_Arithmetic):
    """Several objectives, weighted; made by ``+`` and ``*``. Terms of equal name are added.

    Args:
        parts: pairs of a weight and an objective; a weight is a number, or a function of progress.
    """

    def __init__(self, parts: tuple[tuple[Weight, Objective], ...]) -> None:
        for weight, _ in parts:
            if isinstance(weight, Real) and not math.isfinite(weight):
                raise ValueError(f"weight must be finite, got {weight}")
            if not isinstance(weight, Real) and not callable(weight):
                raise TypeError(
                    f"weight must be a number or a function of progress, got {weight!r}"
                )
        self.parts = parts

    @property
    def module(self) -> nn.Module | None:
        modules = [part.module for _, part in self.parts if part.module is not None]
        return nn.ModuleList(modules) if modules else None

    @property
    def key(self) -> str:
        return " + ".join(f"{_weight_text(weight)} * ({part.key})" for weight, part in self.parts)

    def prepare(self, student: nn.Module, split: Split, recipe: Recipe) -> None:
        for _, part in self.parts:
            part.prepare(student, split, recipe)

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for weight, part in self.parts:
            factor = weight(batch.progress) if callable(weight) else weight
            for name, term in part(student, batch).items():
                total[name] = total.get(name, 0) + factor * term
        return total


def share_teachers(objectives: Sequence[Objective]) -> None:
    """Let objectives on one and the same teacher look its outputs up in one table."""
    sources: dict[int, _TeacherLogits] = {}

    def share(objective: Objective) -> None:
        if isinstance(objective, Sum):
            for _, part in objective.parts:
                share(part)
        # A list's average depends on the objective, so that each has a table of its own.
        elif isinstance(objective, (SoftTargets, LogitMatching)) and not isinstance(
            objective.teacher, Sequence
        ):
            objective._source = sources.setdefault(id(objective.teacher), objective._source)

    for objective in objectives:
        share(objective)


class _TeacherLogits:
    """A teacher's logits for a batch: looked up by the sample's index, or computed on its views.

    Where every epoch shows an image unchanged the teacher runs once, and again only if it or the
    split has changed since. Where views are random it runs on the very view the student sees.
    """

    def __init__(self, teacher: Teacher, average: Callable[[Tensor], Tensor]) -> None:
        if isinstance(teacher, nn.ModuleList):
            raise TypeError(
                "teacher must be a network or a list, got ModuleList; list(...) of it does"
            )
        if isinstance(teacher, nn.Module):
            self.networks: list[nn.Module] = [teacher]
        elif isinstance(teacher, Tensor):
            if teacher.ndim != 2 or not teacher.is_floating_point():
                raise TypeError(
                    "teacher, as a tensor, must hold floating-point logits (rows, C) by sample "
                    f"index, got {teacher.dtype} of shape {tuple(teacher.shape)}"
                )
            self.networks = []
        elif isinstance(teacher, Sequence):
            if not teacher:
                raise ValueError("teacher must be at least one network, got an empty list")
            self.networks = list(teacher)
        else:
            self.networks = [teacher]
        for network in self.networks:
            if not isinstance(network, nn.Module):
                raise TypeError(
                    "teacher must be a network, a list of networks or a tensor of logits by "
                    f"sample index, got {type(network).__name__}"
                )
        self.teacher = teacher
        self.average = average
        self.live: list[nn.Module] = []
        self.table: Tensor | None = None
        self.table_of: tuple[str, str] | None = None

    def hash(self) -> str:
        if isinstance(self.teacher, Tensor):
            return tensors_hash({"logits": self.teacher})[:16]
        return "+".join(weights_hash(network)[:16] for network in self.networks)

    def prepare(self, split: Split, recipe: Recipe) -> None:
        device = split.inputs.device
        if recipe.augment is not None:
            if isinstance(self.teacher, Tensor):
                raise ValueError(
                    "teacher must be a network where augment is set: a tensor holds one row of "
                    f"logits an image, and {recipe.augment} shows another view in every epoch"
                )
            self.live = [frozen_copy(network, device).float() for network in self.networks]
            self.table = self.table_of = None
            return
        self.live = []
        if isinstance(self.teacher, Tensor):
            self.table = _finite(_rows_for(split, self.teacher), split)
            return
        source = (self.hash(), split.fingerprint())
        if self.table_of == source and self.table.device == device:
            return
        rows = self._combine([logits(frozen_copy(n, device), split) for n in self.networks])
        # A row that was not computed is never read, and would show as nan if it were.
        table = rows.new_full((int(split.index.max()) + 1, rows.shape[-1]), math.nan)
        table[split.index] = rows
        self.table, self.table_of = _finite(table, split), source

    def __call__(self, batch: Batch) -> Tensor:
        if not self.live:
            return self.table[batch.index]
        with torch.no_grad():
            return self._combine([network(batch.inputs) for network in self.live])

    def _combine(self, members: list[Tensor]) -> Tensor:
        if not isinstance(self.teacher, Sequence):
            return members[0]
        return self.average(wide("teacher", torch.stack(members)))


def _rows_for(split: Split, table: Tensor) -> Tensor:
    last = int(split.index.max())
    if last >= len(table):
        raise ValueError(
            f"teacher must have a row for every sample index of the training split, up to {last}: "
            f"got {len(table)} rows"
        )
    return table.detach().to(split.inputs.device)


def _finite(table: Tensor, split: Split) -> Tensor:
    rows = table[split.index].isfinite().all(-1)
    if not rows.all():
        raise ValueError(
            f"teacher must give finite logits, got others for {int((~rows).sum())} samples, the first "
            f"of index {int(split.index[~rows][0])}"
        )
    return table


def _mean_centred(members: Tensor) -> Tensor:
    return (members - members.mean(-1, keepdim=True)).mean(0)  # (K, N, C) to (N, C)


def _every(check: Callable, name: str, value: float | Tensor, remedy: str) -> float | Tensor:
    """A number checked, or a tensor with each of its values checked, once, where it is built."""
    if not isinstance(value, Tensor):
        return check(name, value, remedy)
    for number in value.flatten().tolist():
        check(name, number, remedy)
    return value


def _text(value: float | Tensor) -> str:
    return repr(value.tolist()) if isinstance(value, Tensor) else repr(value)


def _weight_text(weight: Weight) -> str:
    if callable(weight):
        return repr([float(weight(progress)) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)])
    return repr(float(weight))
