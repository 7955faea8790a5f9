"""Intervals: nothing is called better without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdlib._checks import real

__all__ = ["Comparison", "Interval", "interval", "paired"]


@dataclass(frozen=True)
class Interval:
    """The mean of several scores, with a confidence interval.

    Attributes:
        mean: the mean, in the unit of the scores.
        low, high: the ends of the confidence interval.
        n: number of scores.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}], n = {self.n}"


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of ``a`` with ``b``.

    Attributes:
        difference: the mean of ``a - b``, in the unit of the scores.
        low, high: the ends of the confidence interval.
        n: number of pairs.
        verdict: ``better`` or ``worse`` says how ``a`` compares; ``no difference seen`` if the
            interval contains zero.
    """

    difference: float
    low: float
    high: float
    n: int
    verdict: str

    def __str__(self) -> str:
        return (
            f"{self.difference:+.4g} [{self.low:+.4g}, {self.high:+.4g}], n = {self.n}, paired: "
            f"{self.verdict}"
        )


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Compute the mean of scores of several seeds, with Student's t interval.

    ``m +- t * s / sqrt(n)``, where m is the mean and s the standard deviation of the scores, and t
    has n - 1 degrees of freedom.

    Args:
        values: one score per seed.
        confidence: confidence level of the interval, in (0, 1).

    Raises:
        ValueError: there are fewer than two scores, a score is not finite, or confidence is out of
            range.

    >>> print(interval([74, 78, 76]))
    76 [71.03, 80.97], n = 3
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"values must hold at least two finite scores, got {values.tolist()}")
    margin = _margin(values, confidence)
    mean = float(values.mean())
    return Interval(mean, mean - margin, mean + margin, len(values))


def paired(
    a: Sequence[float],
    b: Sequence[float],
    confidence: float = 0.95,
    *,
    lower_is_better: bool = False,
) -> Comparison:
    """Compare two treatments run with the same seeds, by Student's t interval of the differences.

    ``d +- t * s / sqrt(n)``, where d is the mean and s the standard deviation of ``a_i - b_i``, and
    t has n - 1 degrees of freedom.

    Args:
        a, b: one score per seed, in the same order.
        confidence: confidence level of the interval, in (0, 1).
        lower_is_better: True for errors and losses.

    Raises:
        ValueError: there are fewer than two pairs, the lengths differ, a score is not finite, or
            confidence is out of range.

    >>> print(paired([98.1, 98.3, 98.2], [97.5, 97.9, 97.7]))
    +0.5 [+0.2516, +0.7484], n = 3, paired: better
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise ValueError(
            f"a and b must hold the same number of scores, at least two, got shapes {a.shape} and "
            f"{b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"a and b must be finite, got {a.tolist()} and {b.tolist()}")
    d = a - b  # (n,)
    rounding = 4 * np.finfo(float).eps * np.maximum(np.abs(a), np.abs(b))
    d[np.abs(d) <= rounding] = 0  # the same score, computed in two ways, is not a difference
    margin = _margin(d, confidence)
    low, high = float(d.mean() - margin), float(d.mean() + margin)
    return Comparison(float(d.mean()), low, high, len(d), _verdict(low, high, lower_is_better))


def _margin(values: np.ndarray, confidence: float) -> float:
    from scipy.stats import t

    if not 0 < real("confidence", confidence) < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}; 0.95 is usual")
    n = len(values)
    return float(t.ppf((1 + confidence) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))


def _verdict(low: float, high: float, lower_is_better: bool) -> str:
    if low <= 0 <= high:
        return "no difference seen"
    return "better" if (high < 0) == lower_is_better else "worse"
