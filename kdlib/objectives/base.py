"""The interface between ``fit`` and an objective, sums of objectives, and objectives from your own functions.

In every step ``fit`` calls the objective with the student's outputs for a batch and minimises the sum of the
terms that it returns. That is all: a new objective is a class with a ``__call__``.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from kdlib._checks import required_arguments, wide
from kdlib.data.splits import Samples
from kdlib.identity import code_hash, described, is_own
from kdlib.networks import check_rows
from kdlib.objectives.teachers import Teacher, TeacherFeatures, TeacherLogits
from kdlib.recipe import Recipe

__all__ = ["Batch", "Loss", "Objective", "Outputs", "Sum", "as_objective"]

Weight = float | Callable[[float], float]

_TAKEN = ("epoch", "step", "seconds")


@dataclass(frozen=True)
class Batch:
    """The data of one training step.

    Attributes:
        inputs: the views that the student sees, ``(N, ...)``; for a text, tokens ``(N, L)``.
        labels: ``(N,)`` int64, for a text ``(N, L)``; None on an unlabelled split.
        index: ``(N,)`` int64, the samples' indices, whatever their order in this epoch.
        progress: the fraction of the training that is done, in [0, 1).
        generator: random numbers keyed by seed and epoch; drawing from it affects nothing else.
        first: whether this is the first batch of an epoch, where a text starts again.
    """

    inputs: Tensor
    labels: Tensor | None
    index: Tensor
    progress: float
    generator: torch.Generator
    first: bool = False


@dataclass(frozen=True)
class Outputs:
    """The student's outputs for one batch: one forward pass, shared by all parts of a sum.

    ``student["stage2"]`` is a feature whose name is among the objective's taps.

    Attributes:
        logits: ``(N, C)``, possibly in bfloat16 (the losses of :mod:`kdlib.losses` widen them); None
            where no part of the objective needs them.
        features: the student's features by name.
        model: the student itself, for an objective that runs it again.
    """

    logits: Tensor | None
    features: dict[str, Tensor] = field(default_factory=dict)
    model: nn.Module | None = None

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.features:
            raise KeyError(
                f"{name!r} must be among the objective's taps, got {list(self.features)}"
            )
        return self.features[name]


class _Key:
    """``objective.key``: computed on access, to reflect the present teacher, unless it was set."""

    def __get__(self, objective: Objective | None, kind: type) -> Any:
        if objective is None:
            return self
        if kind is Sum:  # its parts' keys contain everything
            return objective.settings()
        # A reader's subclass of one of kdlib's classes may have attributes that settings() omits.
        own = [_settings_text(objective)] if is_own(kind) else []
        return _key_text(kind, "; ".join(dict.fromkeys([objective.settings(), *own])))


class Objective:
    """What a student is trained on. To write your own, derive from this class and define ``__call__``.

    Objectives can be added and scaled: ``SoftTargets(teacher, 4, 0.9) + 0.1 * Mine()``; a weight may be a
    function of progress in [0, 1). ``fit`` calls ``prepare`` once and the objective itself once per step.

    Attributes:
        taps: names of the student's modules whose outputs the objective needs. Empty if the logits are
            enough; otherwise the forward pass ends at the last of them, before any logits, unless
            ``""``, the whole network, is one of the names.
        module: a module that is trained with the student, on its device and in its checkpoint; None
            if there is nothing to train. Make it in ``prepare``, so that every training run starts
            with a new one; register as its buffers any numbers that a resumed run needs.
        default_rate: the learning rate if the recipe has none; None for the optimizer's default.
        key: a string that identifies the objective for ``keep`` and checkpoints: the class's name, its
            code, and the attributes whose names do not start with an underscore. An attribute that
            changes during training should start with an underscore.

    >>> import kdlib as kd
    >>> class Squared(kd.Objective):
    ...     def __call__(self, student, batch):
    ...         return {"squared": student.logits.square().mean()}
    >>> data = kd.data.load("digits", device="cpu").limit(200)
    >>> objective = kd.CrossEntropy() + 0.01 * Squared()
    >>> list(kd.fit(kd.models.mlp(20), objective, data, kd.Recipe(epochs=1), progress=False).frame)[3:5]
    ['hard', 'squared']
    """

    taps: tuple[str, ...] = ()
    module: nn.Module | None = None
    default_rate: float | None = None
    key = _Key()

    def prepare(self, student: nn.Module, split: Samples, recipe: Recipe) -> None:
        """Called once per fit, also on resume: prepare the teacher, raise if training cannot work.

        An objective can be used for any number of fits, one after the other.
        """

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Named scalar terms, already weighted; ``fit`` minimises their sum and logs each of them."""
        raise NotImplementedError(
            f"{type(self).__name__} must define __call__(self, student, batch)"
        )

    def settings(self) -> str:
        """The part of the key that distinguishes objectives of one class: their public attributes."""
        return _settings_text(self)

    def changing_weights(self, progress: float) -> dict[str, float]:
        """The weights that change during training, by the names under which ``fit`` logs them."""
        return {}

    def __add__(self, other: Objective) -> Sum:
        return Sum(((1.0, self), (1.0, other))) if callable(other) else NotImplemented

    def __radd__(self, other: Objective) -> Sum:
        return Sum(((1.0, other), (1.0, self))) if callable(other) else NotImplemented

    def __mul__(self, weight: Weight) -> Sum:
        return Sum(((weight, self),))

    __rmul__ = __mul__

    def __repr__(self) -> str:
        try:
            return self.key
        except TypeError:  # something in it cannot be described
            return f"{type(self).__name__}(...)"


class Sum(Objective):
    """A weighted sum of objectives, as made by ``+`` and ``*``. Terms of equal name are added.

    Args:
        parts: pairs of a weight and an objective; a weight is a number or a function of progress. A sum
            among them is replaced by its parts.

    Raises:
        TypeError, ValueError: a weight is neither a number nor a function, or is not finite.
    """

    def __init__(self, parts: tuple[tuple[Weight, Objective], ...]) -> None:
        flat: list[tuple[Weight, Objective]] = []
        for weight, part in parts:
            if isinstance(weight, Real) and not math.isfinite(weight):
                raise ValueError(f"weight must be finite, got {weight}")
            if not isinstance(weight, Real) and (
                isinstance(weight, Objective) or not callable(weight)
            ):
                raise TypeError(
                    f"weight must be a number or a function of progress, got {weight!r}"
                )
            inside = part.parts if isinstance(part, Sum) else ((1.0, as_objective(part)),)
            flat += [(_times(weight, inner), leaf) for inner, leaf in inside]
        self.parts = tuple(flat)

    @property
    def taps(self) -> tuple[str, ...]:
        parts = [tuple(part.taps) for _, part in self.parts]
        if not any(parts):
            return ()
        names = [name for tapped in parts for name in tapped or ("",)]  # "" for the logits
        return tuple(dict.fromkeys(names))

    @property
    def module(self) -> nn.Module | None:
        modules = [part.module for _, part in self.parts if part.module is not None]
        return nn.ModuleList(modules) if modules else None

    @property
    def default_rate(self) -> float | None:
        """The lowest of its parts' rates, if every part has one."""
        rates = [part.default_rate for _, part in self.parts]
        return None if None in rates else min(rates)

    def settings(self) -> str:
        return " + ".join(f"{_weight_text(weight)} * ({part.key})" for weight, part in self.parts)

    def prepare(self, student: nn.Module, split: Samples, recipe: Recipe) -> None:
        for _, part in self.parts:
            part.prepare(student, split, recipe)

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for weight, part in self.parts:
            # Read only where it is needed: fit notes whether an objective depends on it.
            factor = weight(batch.progress) if callable(weight) else weight
            for name, term in checked_terms(part, part(student, batch)).items():
                total[name] = total.get(name, 0) + factor * term
        return total

    def changing_weights(self, progress: float) -> dict[str, float]:
        """The weights that are functions of progress, by class: ``weight_SoftTargets`` and so on.

        The second one of a class is ``weight_SoftTargets_2``.
        """
        found: dict[str, float] = {}
        for weight, part in self.parts:
            own = (
                {f"weight_{_kind(part).__name__}": float(weight(progress))}
                if callable(weight)
                else {}
            )
            for name, value in (own | part.changing_weights(progress)).items():
                count = sum(known == name or known.startswith(f"{name}_") for known in found)
                found[name + (f"_{count + 1}" if count else "")] = value
        return found


class Loss(Objective):
    """An objective made from a function of your own: ``kd.Loss(lambda s, t, y: ..., teacher)``.

    The number of arguments that the function requires decides what it receives. With a teacher, two are
    the logits of student and teacher, and a third is the labels; without one, two are the student's
    logits and the labels. Arguments with defaults do not count. Logits are ``(N, C)`` in float32 or
    wider, labels ``(N,)``, where N counts tokens in a text. The function returns a scalar, as every loss
    of :mod:`kdlib.losses` does.

    Args:
        function: returns the loss of a batch, a scalar tensor. It may be a module such as
            ``nn.CrossEntropyLoss()``; if the module has parameters, a copy of it is trained with the student.
        teacher: a network; a list of networks, whose probabilities at T = 1 are averaged; or a tensor of
            logits ``(rows, C)`` by sample index.
        name: the loss's name in the history.

    Raises:
        TypeError: the function requires other arguments, or the teacher has another type.
        ValueError: the function needs labels and the training split has none.

    >>> import kdlib as kd
    >>> teacher, student = kd.models.mlp(40, seed=0), kd.models.mlp(20, seed=1)
    >>> mine = kd.Loss(lambda s, t, y: kd.soft_target_loss(s, t, 4), teacher, name="mine")
    >>> data = kd.data.load("digits", device="cpu").limit(200)
    >>> list(kd.fit(student, mine, data, kd.Recipe(epochs=1), progress=False).frame)[3]
    'mine'
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        teacher: Teacher | None = None,
        name: str = "loss",
    ) -> None:
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"function must be a function of logits, got {function!r}")
        self._needs = required_arguments(function)
        allowed = (2,) if teacher is None else (2, 3)
        if self._needs not in allowed:
            wanted = "(student, labels)" if teacher is None else "(student, teacher[, labels])"
            raise TypeError(
                f"function must require the arguments {wanted}, got {_arguments_text(function)}; wrap "
                "it in a lambda that does"
            )
        if not isinstance(name, str) or not name:
            raise TypeError(f"name must be a non-empty string for the history, got {name!r}")
        self.function, self.teacher, self.name = function, teacher, name
        self._source = None if teacher is None else TeacherLogits(teacher)

    def settings(self) -> str:
        teacher = "" if self._source is None else f"teacher={self._source.identity()}, "
        return f"{teacher}name={self.name!r}, code={code_hash(self.function)}"

    def prepare(self, student: nn.Module, split: Samples, recipe: Recipe) -> None:
        if not split.labelled and (self._source is None or self._needs == 3):
            raise ValueError(f"{self.name} needs labels and the training split has none")
        if self._source is not None:
            self._source.prepare(split, recipe)
        # A copy, so that every training run starts from the parameters that were given.
        self.module = copy.deepcopy(self.function) if isinstance(self.function, nn.Module) else None

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        check_rows("model", student.logits, batch.inputs)
        function = self.function if self.module is None else self.module
        given = [wide("student", student.logits)]  # (..., C); in bfloat16 a loss would be 10 % off
        if self._source is not None:
            given.append(self._source(batch))
        # Copies, since a function may write into its arguments and other parts of a sum use the same.
        given = [logits.flatten(0, -2).clone() for logits in given]  # (N, C) each
        if batch.labels is not None:
            given.append(batch.labels.flatten())  # (N,)
        return {self.name: function(*given[: self._needs])}


class _Adapted(Objective):
    """An Objective made from an object of another class, with defaults for what that class lacks."""

    def __init__(self, inside: Any) -> None:
        self._inside = inside

    taps = property(lambda self: getattr(self._inside, "taps", ()))
    module = property(lambda self: getattr(self._inside, "module", None))
    default_rate = property(lambda self: getattr(self._inside, "default_rate", None))

    @property
    def key(self) -> str:
        own = getattr(self._inside, "key", None)
        return _key_text(_kind(self), _settings_text(self._inside)) if own is None else own

    def prepare(self, student: nn.Module, split: Samples, recipe: Recipe) -> None:
        if hasattr(self._inside, "prepare"):
            self._inside.prepare(student, split, recipe)

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        return self._inside(student, batch)

    def changing_weights(self, progress: float) -> dict[str, float]:
        own = getattr(self._inside, "changing_weights", None)
        return {} if own is None else own(progress)


def as_objective(value: Any) -> Objective:
    """The objective itself; any other object with a suitable ``__call__`` is made into one."""
    wanted = "objective must be one such as kd.CrossEntropy() or kd.SoftTargets(...)"
    if isinstance(value, type):
        raise TypeError(
            f"{wanted}, got the class {value.__name__}; {value.__name__}(...) makes one"
        )
    functions = (FunctionType, MethodType, BuiltinFunctionType, partial, nn.Module)
    if not isinstance(value, Objective) and isinstance(value, functions):
        raise TypeError(
            f"{wanted}, got {value!r}; kd.Loss(function, teacher) makes one from a function"
        )
    call = inspect.getattr_static(type(value), "__call__", None)
    if not isinstance(call, FunctionType) or call is Objective.__call__:
        raise TypeError(
            f"{wanted}, or of a class of your own with __call__(self, student, batch), got {value!r} "
            "without it"
        )
    return value if isinstance(value, Objective) else _Adapted(value)


def checked_terms(objective: Objective, terms: Any) -> dict[str, Tensor]:
    """The terms that an objective returned, if ``fit`` can minimise them."""
    kind = _kind(objective).__name__
    if not isinstance(terms, dict):
        raise TypeError(
            f'{kind} must return a dict of named terms such as {{"mine": loss}}, got '
            f"{type(terms).__name__}"
        )
    if not terms:
        raise ValueError(f"{kind} must return at least one term, got an empty dict")
    for name, term in terms.items():
        if (
            not isinstance(name, str)
            or name in _TAKEN
            or name.startswith(("validation_", "weight_"))
        ):
            raise ValueError(
                f"{kind} must name its term differently: the history itself uses {name!r}"
            )
        if not isinstance(term, Tensor) or not term.is_floating_point() or term.ndim > 0:
            found = tuple(term.shape) if isinstance(term, Tensor) else type(term).__name__
            raise TypeError(
                f"{kind} must return scalar tensors, got {found} for {name!r}; .mean() makes one from "
                "a loss for each sample"
            )
    return terms


def _kind(objective: Objective) -> type:
    """The objective's class, as the reader knows it."""
    return type(objective._inside if isinstance(objective, _Adapted) else objective)


def _arguments_text(function: Callable) -> str:
    try:
        return str(inspect.signature(getattr(function, "forward", function)))
    except (TypeError, ValueError):
        return f"{function!r} without a signature"


def _key_text(kind: type, settings: str) -> str:
    """A class's name, an objective's settings, and the class's code if the reader wrote it."""
    parts = [settings, f"code={code_hash(kind)}" if is_own(kind) else ""]
    return f"{kind.__name__}({'; '.join(filter(None, parts))})"


def _settings_text(objective: Any) -> str:
    named = (getattr(kind, "__slots__", ()) for kind in type(objective).__mro__)
    slots = (name for names in named for name in ((names,) if isinstance(names, str) else names))
    values = {name: getattr(objective, name) for name in slots if hasattr(objective, name)}
    values |= getattr(objective, "__dict__", {})
    public = {n: v for n, v in values.items() if n[0] != "_" and n not in ("module", "key")}
    source = getattr(objective, "_source", None)
    if source is not None and "teacher" in public:
        public["teacher"] = source
    return ", ".join(f"{name}={_short(value)}" for name, value in public.items())


def _short(value: Any) -> str:
    if isinstance(value, TeacherLogits | TeacherFeatures):
        return value.identity()
    if isinstance(value, Tensor) and value.numel() <= 1000:
        return repr(value.tolist())
    text = described(value)
    return text if len(text) <= 60 else code_hash(value)


def _at(weight: Weight, progress: float) -> float:
    return weight(progress) if callable(weight) else weight


def _times(outer: Weight, inner: Weight) -> Weight:
    if not callable(outer) and not callable(inner):
        return outer * inner
    if outer == 1 or inner == 1:  # the other one itself, so that its key stays the same
        return inner if outer == 1 else outer
    return lambda progress: _at(outer, progress) * _at(inner, progress)


def _weight_text(weight: Weight) -> str:
    if not callable(weight):
        return repr(float(weight))
    values = [float(weight(progress)) for progress in (0.0, 0.25, 0.5, 0.75)]  # 1 is never reached
    return f"{values} by {code_hash(weight)}"
