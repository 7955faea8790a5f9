"""What a student is trained on: a loss bound to a teacher. ``fit`` knows nothing else.

Objectives add and scale: ``SoftTargets(teacher, 4, 0.9) + 0.1 * LogitMatching(teacher)``; a weight
may be a function of progress in [0, 1].
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from kdlib._checks import alpha_of, fraction, positive, wide
from kdlib._teachers import Teacher, TeacherFeatures, TeacherLogits
from kdlib.losses import (
    cross_entropy,
    cwtm_loss,
    dkpp_loss,
    fsp_loss,
    fsp_matrix,
    hint_loss,
    logit_matching_loss,
    soft_target_loss,
)
from kdlib.networks import evaluating
from kdlib.seeding import check_seed, stream
from kdlib.taps import taps

if TYPE_CHECKING:
    from kdlib.data import Split
    from kdlib.training import Recipe

__all__ = [
    "CWTM",
    "DKPP",
    "FSP",
    "Batch",
    "CrossEntropy",
    "Hint",
    "LogitMatching",
    "Objective",
    "Outputs",
    "SoftTargets",
    "Sum",
]

Weight = float | Callable[[float], float]


@dataclass(frozen=True)
class Batch:
    """What an objective sees of one step.

    Attributes:
        inputs: the views the student sees, ``(N, ...)``; of a text tokens ``(N, L)``.
        labels: ``(N,)`` int64, of a text ``(N, L)``, or None on an unlabelled split.
        index: ``(N,)`` int64, which samples these are, whatever the order of the epoch.
        progress: the share of the training that is done, in [0, 1).
        generator: a stream keyed by seed and epoch; drawing from it moves nothing else.
        first: whether it is the first of an epoch, where a text begins again.
    """

    inputs: Tensor
    labels: Tensor | None
    index: Tensor
    progress: float
    generator: torch.Generator
    first: bool = False


@dataclass(frozen=True)
class Outputs:
    """What the student made of one batch: one forward pass, shared by all parts of a sum.

    ``student["stage2"]`` is a feature that the objective named among its taps.

    Attributes:
        logits: ``(N, C)``; None where no part of the objective needs them.
        features: the student's features by name.
    """

    logits: Tensor | None
    features: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.features:
            raise KeyError(
                f"{name!r} must be among the objective's taps, got {list(self.features)}"
            )
        return self.features[name]


class Objective(Protocol):
    """What ``fit`` asks of an objective; any class with these members will do.

    Attributes:
        key: a text that tells this objective from every other: class, numbers, teacher's hash.
        taps: the student's features that it needs, by the names of their modules. Empty where the
            logits are enough; otherwise the forward pass ends at the last of them and there are no
            logits, unless ``""``, the whole network, is one of the names.
        module: trained beside the student, on its device and in its checkpoint; None if there is
            nothing to train.
    """

    key: str
    taps: tuple[str, ...]
    module: nn.Module | None

    def prepare(self, student: nn.Module, split: Split, recipe: Recipe) -> None:
        """Called once per fit, also on resume: cache a teacher, refuse what cannot work.

        An objective serves any number of fits, one after the other.
        """

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Named terms, weighted; ``fit`` minimises their sum and logs each."""


class _Arithmetic:
    """Objectives add and scale."""

    taps: tuple[str, ...] = ()
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
        self._source = TeacherLogits(teacher, self._average)

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
        return self.temperature * _mean_probability(members / self.temperature)


class _OfLogits(_Arithmetic):
    """Of a teacher's logits and nothing else: a network, a list whose answers are averaged, or a table."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self._source = TeacherLogits(teacher, self._average)

    @property
    def key(self) -> str:
        return f"{type(self).__name__}(teacher={self._source.hash()})"

    def prepare(self, student: nn.Module, split: Split, recipe: Recipe) -> None:
        self._source.prepare(split, recipe)

    def _average(self, members: Tensor) -> Tensor:
        return _mean_probability(members)


class LogitMatching(_OfLogits, _ByExample):
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

    def each(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = logit_matching_loss(student.logits, self._source(batch), reduction="none")
        return {"logits": loss}

    def _average(self, members: Tensor) -> Tensor:
        return _mean_centred(members)


class CWTM(_OfLogits):
    """Labels, each image weighted by how sure the teacher is of it; logged as ``cwtm``.

    Confidence weighted by teacher max, see :func:`kdlib.losses.cwtm_loss`: what a teacher gives
    beyond its dark knowledge. Weights are shares of the mini-batch. Source: Furlanello et al. 2018,
    section 3.2, eq. 10.

    Args:
        teacher: a network; a list of networks, whose probabilities are averaged; or a tensor of logits
            ``(rows, C)`` by sample index.

    Raises:
        TypeError: the teacher is none of these.
        ValueError: a tensor of logits together with random views of the images, or a split without
            labels.
    """

    def prepare(self, student: nn.Module, split: Split, recipe: Recipe) -> None:
        if split.labels is None:
            raise ValueError("CWTM needs labels and the training split has none")
        super().prepare(student, split, recipe)

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"cwtm": cwtm_loss(student.logits, self._source(batch), batch.labels)}


class DKPP(_OfLogits):
    """Soft targets at T = 1 of which all but the largest are permuted; logged as ``dkpp``.

    Dark knowledge with permuted predictions, see :func:`kdlib.losses.dkpp_loss`: what is left of a
    teacher without what resembles what. Every image gets a new order in every step (the paper does
    not say). Needs no labels. Source: Furlanello et al. 2018, section 3.2, eq. 11.

    Args:
        teacher: a network; a list of networks, whose probabilities are averaged; or a tensor of logits
            ``(rows, C)`` by sample index.

    Raises:
        TypeError: the teacher is none of these.
        ValueError: a tensor of logits together with random views of the images.
    """

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"dkpp": dkpp_loss(student.logits, self._source(batch), batch.generator)}


class Hint(_ByExample):
    """The student's features brought near to the teacher's, logged as ``hint``: FitNets' first stage.

    ``1/2 * ||u - r(v)||^2`` summed over the pairs of layers: u the teacher's hint, v the student's
    guided features, r a regressor that is trained beside the student and dropped afterwards; see
    :func:`kdlib.losses.hint_loss`. Alone, it trains the student up to the guided layer: what lies above
    stays as it is, bit for bit. For maps r is one convolution without padding, of the kernel
    ``guided size - hint size + 1``; for flat features it is linear. It ends with the hint's own
    non-linearity: the activation or Maxout that ends the hint layer, else a ReLU where no hint of the
    training images is negative (of the first thousand where they are moved). Needs no labels. The
    sum over features makes gradients large: ``fit``'s own learning rate is smaller here, and Yim et
    al. 2017 take 1e-4. Source: Romero et al. 2015, section 2.2.

    Args:
        teacher: one network; only looked at. Where views are fixed its hints are computed once, if
            they need no more than a gigabyte, and kept as long as the objective.
        hint: the teacher's layer, or several.
        guided: the student's layer, or as many.

    Attributes:
        module: the regressors of the last training, a ModuleList in the order of the pairs.

    Raises:
        TypeError: the teacher is no network, or names are no texts.
        ValueError: unequal numbers of layers, no such layer, or features that no regressor maps.

    >>> import kdlib as kd
    >>> teacher, student = kd.models.mlp(40, seed=0), kd.models.mlp(20, seed=1)
    >>> hint = Hint(teacher, hint="2", guided="2")
    >>> data = kd.data.load("digits", device="cpu").limit(200)
    >>> history = kd.fit(student, hint, data, kd.Recipe(epochs=1), progress=False)
    >>> hint.module[0]
    Sequential(
      (0): Linear(in_features=20, out_features=40, bias=True)
      (1): ReLU()
    )
    """

    def __init__(
        self, teacher: nn.Module, *, hint: str | Sequence[str], guided: str | Sequence[str]
    ) -> None:
        self.hints, self.taps = _layers("hint", hint), _layers("guided", guided)
        if len(self.hints) != len(self.taps):
            raise ValueError(
                f"guided must name as many layers as hint: {len(self.hints)}, got {len(self.taps)}"
            )
        self.teacher = teacher
        self._source = TeacherFeatures(
            teacher, self.hints, lambda features: [features[name] for name in self.hints]
        )

    @property
    def key(self) -> str:
        return f"Hint(teacher={self._source.hash()}, hint={self.hints}, guided={self.taps})"

    def prepare(self, student: nn.Module, split: Split, recipe: Recipe) -> None:
        self._source.prepare(split, recipe)
        guided = _shapes(student, split, self.taps)
        self.module = nn.ModuleList(
            _regressor(f"guided {name!r}", guided[name], hint, last)
            for name, hint, last in zip(self.taps, self._source.sample, self._ends(), strict=True)
        )

    def each(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        losses = [
            hint_loss(regressor(student[name].to(_dtype(regressor))), hint, reduction="none")
            for name, regressor, hint in zip(
                self.taps, self.module, self._source(batch), strict=True
            )
        ]
        return {"hint": sum(losses)}

    def _ends(self) -> list[nn.Module | None]:
        """The hints' non-linearities, None where one has none."""
        found = [_activation(self.teacher.get_submodule(name)) for name in self.hints]
        return [
            nn.ReLU() if last is None and self._source.never_negative(i) else copy.deepcopy(last)
            for i, last in enumerate(found)
        ]


class FSP(_ByExample):
    """The flow between the student's layers brought near to the teacher's, logged as ``fsp``.

    The sum over pairs of layers of the squared distance of their FSP matrices; see
    :func:`kdlib.losses.fsp_matrix` and :func:`kdlib.losses.fsp_loss`. There is no regressor: the layers
    of a pair must have the same widths in both networks. Alone, it is the paper's first stage and
    trains the student up to the highest layer named: what lies above stays as it is, bit for bit. Needs
    no labels. Source: Yim et al. 2017, sections 3.2 to 3.4.

    Args:
        teacher: one network; only looked at.
        pairs: for each matrix the student's two layers, and the teacher's two:
            ``[(("stem", "stage1"), ("stem", "stage1")), ...]``.
        shuffle_seed: of a random order of each of the teacher's layers' channels, by which its matrices'
            rows and columns are permuted; None keeps their order. Students of other orders differ
            more, which helps their ensemble (section 4.1).

    Raises:
        TypeError: the teacher is no network, or pairs are no names.
        ValueError: no pair, no such layer, or matrices of other sizes than the teacher's.

    >>> import kdlib as kd
    >>> teacher, student = kd.models.resnet(14, channels=1), kd.models.resnet(8, channels=1, seed=1)
    >>> ends = ("stem", "stage1")
    >>> fsp = FSP(teacher, pairs=[(ends, ends)])
    >>> data = kd.data.load("digits", device="cpu").limit(200)
    >>> list(kd.fit(student, fsp, data, kd.Recipe(epochs=1), progress=False).frame)[3]
    'fsp'
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        pairs: Sequence[tuple[tuple[str, str], tuple[str, str]]],
        shuffle_seed: int | None = None,
    ) -> None:
        self.pairs = _checked_pairs(pairs)
        if shuffle_seed is not None:
            check_seed(shuffle_seed, "shuffle_seed")
        self.teacher, self.shuffle_seed = teacher, shuffle_seed
        self._of_student = [student for student, _ in self.pairs]
        self._of_teacher = [teacher for _, teacher in self.pairs]
        self.taps = _each_once(self._of_student)
        self._source = TeacherFeatures(teacher, _each_once(self._of_teacher), self._targets)
        self._orders: dict[str, Tensor] = {}

    @property
    def key(self) -> str:
        return (
            f"FSP(teacher={self._source.hash()}, pairs={self.pairs}, "
            f"shuffle_seed={self.shuffle_seed})"
        )

    def prepare(self, student: nn.Module, split: Split, recipe: Recipe) -> None:
        self._source.prepare(split, recipe)
        shapes = _shapes(student, split, self.taps)
        for (first, second), target in zip(self._of_student, self._source.sample, strict=True):
            ours = fsp_matrix(shapes[first], shapes[second]).shape[1:]
            if ours != target.shape[1:]:
                raise ValueError(
                    f"pairs must have equal widths in both networks: ({first!r}, {second!r}) of the "
                    f"student gives a matrix of {tuple(ours)}, the teacher's is "
                    f"{tuple(target.shape[1:])}; FSP has no regressor"
                )

    def each(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        matrices = _matrices(student.features, self._of_student)
        return {"fsp": fsp_loss(matrices, self._source(batch), reduction="none")}

    def _targets(self, features: dict[str, Tensor]) -> list[Tensor]:
        if self.shuffle_seed is not None:
            features = {name: x[:, self._order(name, x)] for name, x in features.items()}
        return _matrices(features, self._of_teacher)

    def _order(self, name: str, x: Tensor) -> Tensor:
        if name not in self._orders:  # moved to the device once, not in every step
            draws = stream(self.shuffle_seed, 0, f"channels of {name}")
            self._orders[name] = torch.randperm(x.shape[1], generator=draws)
        self._orders[name] = self._orders[name].to(x.device)
        return self._orders[name]


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
        self._used: list[tuple[str, float, bool]] = []  # class, weight, whether it changes

    @property
    def taps(self) -> tuple[str, ...]:
        parts = [taps_of(part) for _, part in self.parts]
        if not any(parts):
            return ()
        names = [name for tapped in parts for name in tapped or ("",)]  # "" for the logits
        return tuple(dict.fromkeys(names))

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
        self._used = []
        for weight, part in self.parts:
            scheduled = callable(weight)
            factor = weight(batch.progress) if scheduled else weight
            for name, term in part(student, batch).items():
                total[name] = total.get(name, 0) + factor * term
            inner = part._used if isinstance(part, Sum) else [(type(part).__name__, 1.0, False)]
            self._used += [(leaf, factor * w, scheduled or s) for leaf, w, s in inner]
        return total

    @property
    def weights(self) -> dict[str, float]:
        """The whole weights in the last step of the parts that a function of progress has a say in.

        By class, ``weight_SoftTargets`` and so on, the second of a class ``weight_SoftTargets_2``.
        """
        found: dict[str, float] = {}
        for leaf, weight, scheduled in self._used:
            if scheduled:
                count = sum(name.split("_")[1] == leaf for name in found)
                found[f"weight_{leaf}" + (f"_{count + 1}" if count else "")] = float(weight)
        return found


def taps_of(objective: Objective) -> tuple[str, ...]:
    """Those of an objective that may be older than taps."""
    return tuple(getattr(objective, "taps", ()))


def share_teachers(objectives: Sequence[Objective]) -> None:
    """Let objectives on one and the same teacher look its outputs up in one table."""
    sources: dict[int, TeacherLogits] = {}

    def share(objective: Objective) -> None:
        if isinstance(objective, Sum):
            for _, part in objective.parts:
                share(part)
        # A list's average depends on the objective, so that each has a table of its own.
        elif isinstance(objective, (SoftTargets, LogitMatching, CWTM, DKPP)) and not isinstance(
            objective.teacher, Sequence
        ):
            objective._source = sources.setdefault(id(objective.teacher), objective._source)

    for objective in objectives:
        share(objective)


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _shapes(student: nn.Module, split: Split, names: Sequence[str]) -> dict[str, Tensor]:
    """The student's features of one image, in eval mode: only their shapes mean something."""
    inputs = split.inputs[:1]
    parameter = next(student.parameters(), inputs)
    with evaluating(student), taps(student, names) as features:
        student(inputs.to(parameter.dtype) if inputs.is_floating_point() else inputs)
    return features


def _activation(layer: nn.Module) -> nn.Module | None:
    """The last of a layer, but for pools and what changes no number; None where it shows none."""
    if isinstance(layer, nn.Sequential):
        last = [part for part in layer if not isinstance(part, _NO_CHANGE)][-1:]
        return _activation(last[0]) if last else None
    is_one = hasattr(layer, "pieces") or type(layer).__module__ == nn.ReLU.__module__
    return layer if is_one and not isinstance(layer, _NO_LAST) else None


_NO_LAST = (nn.GLU, nn.MultiheadAttention, nn.RReLU)  # other shapes, several inputs, or noise


_NO_CHANGE = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Flatten,
    nn.Identity,
)


def _regressor(name: str, guided: Tensor, hint: Tensor, last: nn.Module | None) -> nn.Sequential:
    """From the guided layer's shape to the hint's, ending with the hint's non-linearity."""
    (_, inputs, *size), (_, outputs, *target) = guided.shape, hint.shape
    outputs *= getattr(last, "pieces", 1)  # of a Maxout
    if not size and not target:
        layer: nn.Module = nn.Linear(inputs, outputs)
    elif len(size) == len(target) == 2 and all(g >= h for g, h in zip(size, target, strict=True)):
        kernel = tuple(g - h + 1 for g, h in zip(size, target, strict=True))
        layer = nn.Conv2d(inputs, outputs, kernel)
    else:
        raise ValueError(
            f"{name} must be flat where the hint is, or maps (C, H, W) at least as large as the hint's: "
            f"the hint is {tuple(hint.shape[1:])}, got {tuple(guided.shape[1:])}"
        )
    return nn.Sequential(layer) if last is None else nn.Sequential(layer, last)


def _matrices(features: dict[str, Tensor], pairs: Sequence[tuple[str, str]]) -> list[Tensor]:
    return [fsp_matrix(features[first], features[second]) for first, second in pairs]


def _layers(name: str, names: str | Sequence[str]) -> tuple[str, ...]:
    layers = (names,) if isinstance(names, str) or not isinstance(names, Sequence) else tuple(names)
    if not all(isinstance(layer, str) for layer in layers):
        raise TypeError(f"{name} must be a layer's name or a list of names, got {names!r}")
    if not layers or len(set(layers)) < len(layers):
        raise ValueError(f"{name} must name at least one layer, each once, got {names!r}")
    return layers


def _checked_pairs(pairs) -> tuple[tuple[tuple[str, str], tuple[str, str]], ...]:
    form = (
        '[(("stem", "stage1"), ("stem", "stage1")), ...]: the student\'s two layers, the teacher\'s'
    )
    checked = []
    if not isinstance(pairs, Sequence):
        raise TypeError(f"pairs must be {form}, got {pairs!r}")
    for pair in pairs:
        of_both = pair if isinstance(pair, Sequence) else ()
        ends = [tuple(end) if isinstance(end, (tuple, list)) else () for end in of_both]
        if len(ends) != 2 or not all(
            len(end) == 2 and all(isinstance(n, str) for n in end) for end in ends
        ):
            raise TypeError(f"pairs must be {form}, got {pair!r}")
        checked.append(tuple(ends))
    if not checked:
        raise ValueError(f"pairs must be at least one, {form}, got none")
    return tuple(checked)


def _each_once(pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for pair in pairs for name in pair))


def _mean_probability(members: Tensor) -> Tensor:
    """Logits whose softmax is the mean of the members' softmaxes."""
    return torch.log_softmax(members, dim=-1).logsumexp(0) - math.log(len(members))


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
