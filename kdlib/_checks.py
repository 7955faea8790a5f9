"""Checks of the losses' arguments: the right type, shape and range, or an error that names the remedy.

Every call checks shapes, dtypes and Python numbers. No check reads a tensor's values, since that would
make the CPU wait for the GPU; the range of labels is checked by torch itself, on a CPU.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real

import torch
from torch import Tensor


def wide(name: str, logits: Tensor) -> Tensor:
    """Logits in float32 or wider."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(
            f"{name} must be a floating-point tensor of logits (..., C), got {_kind(logits)}"
        )
    if logits.ndim == 0 or logits.numel() == 0:
        raise ValueError(
            f"{name} must be (..., C) with at least one row of at least one class, "
            f"got shape {tuple(logits.shape)}"
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def several_classes(name: str, logits: Tensor) -> Tensor:
    """Logits of at least two classes."""
    if logits.shape[-1] < 2:
        raise ValueError(
            f"{name} must have at least two classes, got shape {tuple(logits.shape)}: the softmax "
            "over one class is always 1, so there is nothing to learn; give the network two outputs or, "
            "without labels, a loss of your own for one output, such as a sigmoid's, with kd.Loss"
        )
    return logits


def pair_of(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The student's logits and, as constants, the teacher's: of equal shape, in the wider dtype."""
    s, t = wide("student", student), wide("teacher", teacher).detach()
    if s.shape[-1] != t.shape[-1]:
        raise ValueError(
            f"teacher must have the student's classes: it has {t.shape[-1]}, the student "
            f"{s.shape[-1]}; soft targets are compared class by class"
        )
    if s.shape != t.shape:
        raise ValueError(
            f"teacher must have the student's shape {tuple(s.shape)}, got {tuple(t.shape)}; "
            "each row of logits belongs to the same example in both"
        )
    several_classes("student", s)
    return _same_dtype(s, t)


def features_of(guided: Tensor, hint: Tensor) -> tuple[Tensor, Tensor]:
    """The guided features and, as a constant, the hint: of equal shape, in the wider dtype."""
    guided, hint = (
        _floating("guided", guided, "features (N, ...)", 2),
        _floating("hint", hint, "features (N, ...)", 2),
    )
    if guided.shape != hint.shape:
        raise ValueError(
            f"guided must have the hint's shape {tuple(hint.shape)}, got {tuple(guided.shape)}; a regressor "
            "maps one shape to the other"
        )
    return _same_dtype(guided, hint.detach())


def maps_of(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two layers' maps of the same examples, in the wider dtype, one no larger than the other."""
    what = "maps (N, C, H, W)"
    first, second = _floating("first", first, what, 4), _floating("second", second, what, 4)
    if first.ndim != 4 or second.ndim != 4 or len(first) != len(second):
        raise ValueError(
            "first and second must be maps (N, C, H, W) of the same N examples, got shapes "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    (h1, w1), (h2, w2) = first.shape[2:], second.shape[2:]
    if (h1 - h2) * (w1 - w2) < 0:
        raise ValueError(
            f"second must not be larger than first in one direction and smaller in the other: first is {h1} x "
            f"{w1}, second {h2} x {w2}"
        )
    return _same_dtype(first, second)


def matrices_of(
    student: Sequence[Tensor], teacher: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """The student's FSP matrices and, as constants, the teacher's, pair by pair."""
    for name, matrices in (("student_matrices", student), ("teacher_matrices", teacher)):
        if not isinstance(matrices, Sequence):
            raise TypeError(f"{name} must be a list, one matrix per pair, got {_kind(matrices)}")
    if len(student) != len(teacher) or not student:
        raise ValueError(
            "student_matrices and teacher_matrices must have equal lengths of at least one, got "
            f"{len(student)} and {len(teacher)}"
        )
    pairs = []
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        s = _floating(f"student_matrices[{i}]", s, "(N, C1, C2)", 3)
        t = _floating(f"teacher_matrices[{i}]", t, "(N, C1, C2)", 3).detach()
        if s.shape != t.shape or s.ndim != 3:
            raise ValueError(
                f"student_matrices[{i}] must be (N, C1, C2) as teacher_matrices[{i}] is, got "
                f"{tuple(s.shape)} and {tuple(t.shape)}; only layers of equal widths can be compared"
            )
        if len(s) != len(pairs[0][0] if pairs else s):
            raise ValueError(
                f"student_matrices must be of the same examples, got {len(pairs[0][0])} and {len(s)}"
            )
        pairs.append(_same_dtype(s, t))
    return pairs


def weights_of(weights: Sequence[float] | None, count: int) -> list[float]:
    """One number per pair."""
    if weights is None:
        return [1.0] * count
    if not isinstance(weights, Iterable) or len(weights := list(weights)) != count:
        raise ValueError(f"weights must be a list of {count}, one per pair, got {weights!r}")
    for weight in weights:
        if not 0 <= real("weights", weight) < math.inf:
            raise ValueError(f"weights must be at least 0 and finite, got {list(weights)}")
    return [float(weight) for weight in weights]


def temperature_of(temperature: float | Tensor, logits: Tensor) -> float | Tensor:
    """A number, or a tensor ``(..., 1)`` by which the logits can be divided."""
    if isinstance(temperature, Tensor):
        return _leading("temperature", temperature, logits).unsqueeze(-1)
    return positive("temperature", temperature, "1.0 leaves the softmax as it is")


def alpha_of(alpha: float | Tensor, logits: Tensor) -> float | Tensor:
    """A number, or a tensor that broadcasts against the leading dimensions."""
    if isinstance(alpha, Tensor):
        return _leading("alpha", alpha, logits)
    return fraction("alpha", alpha, "it weighs the soft targets, 1 - alpha the labels")


def positive(name: str, value: float, remedy: str) -> float:
    number = real(name, value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}; {remedy}")
    return number


def fraction(name: str, value: float, remedy: str) -> float:
    number = real(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}; {remedy}")
    return number


def real(name: str, value: float) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def labels_of(labels: Tensor, logits: Tensor) -> Tensor:
    """Class numbers, one per row of logits."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise TypeError(f"labels must be an int64 tensor of class numbers, got {_kind(labels)}")
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels must have the leading dimensions {tuple(logits.shape[:-1])} of the logits, "
            f"got shape {tuple(labels.shape)}"
        )
    return labels


def some_classes(classes: int | Iterable[int], count: int, *, once: bool) -> list[int]:
    """Numbers of some of ``count`` classes, not all; with ``once``, without repetitions."""
    if not isinstance(classes, (Integral, Iterable)):
        raise TypeError(f"classes must be class numbers, got {classes!r}; one alone is 3 or [3]")
    numbers = [classes] if isinstance(classes, Integral) else list(classes)
    for number in numbers:
        if not isinstance(number, Integral) or not 0 <= number < count:
            raise ValueError(f"classes must be class numbers from 0 to {count - 1}, got {number!r}")
    if not 0 < len(set(numbers)) < count or (once and len(set(numbers)) < len(numbers)):
        raise ValueError(f"classes must be some of the {count}, not all, each once, got {numbers}")
    return [int(number) for number in numbers]


def no_class(labels: Tensor, logits: Tensor) -> ValueError:
    """The error for labels of which one is not a class."""
    low, high, classes = int(labels.min()), int(labels.max()), logits.shape[-1]
    return ValueError(
        f"labels must be class numbers from 0 to {classes - 1}, got {low if low < 0 else high}"
    )


def _floating(name: str, value: Tensor, what: str, dimensions: int) -> Tensor:
    """A non-empty tensor in float32 or wider."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor {what}, got {_kind(value)}")
    if value.ndim < dimensions or value.numel() == 0:
        raise ValueError(f"{name} must be {what} and not empty, got shape {tuple(value.shape)}")
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _same_dtype(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(one.dtype, other.dtype)
    return one.to(dtype), other.to(dtype)


def _leading(name: str, value: Tensor, logits: Tensor) -> Tensor:
    try:
        torch.broadcast_shapes(value.shape, logits.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"{name} must be a number or broadcast against the leading dimensions "
            f"{tuple(logits.shape[:-1])} of the logits, got shape {tuple(value.shape)}"
        ) from None
    return value.to(logits)


def _kind(value: object) -> object:
    return value.dtype if isinstance(value, Tensor) else type(value).__name__


def sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}")


def required_arguments(function: Callable) -> int | None:
    """The number of positional arguments that a function requires.

    None if it has no signature, or requires a keyword argument.
    """
    called = getattr(function, "forward", function)
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):
        return None
    needed = [p for p in parameters if p.default is p.empty and p.kind < p.KEYWORD_ONLY]
    if any(p.default is p.empty and p.kind is p.KEYWORD_ONLY for p in parameters):
        return None
    return sum(p.kind is not p.VAR_POSITIONAL for p in needed)
