"""Intervals: nothing is called better without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdlib._checks import real

__all__ = ["Comparison", "paired"]


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of ``a`` with ``b``.

    Attributes:
        difference: the mean of ``a - b``, in their unit.
        low, high: its confidence interval.
        n: how many pairs.
        verdict: ``better``, ``worse`` or ``no difference seen``: of ``a``, where the interval leaves
            zero out.
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


def paired(
    a: Sequence[float],
    b: Sequence[float],
    confidence: float = 0.95,
    *,
    lower_is_better: bool = False,
) -> Comparison:
    """Compare two treatments run on the same seeds, by Student's t interval of the differences.

    ``d +- t * s / sqrt(n)`` with d the mean and s the standard deviation of ``a_i - b_i`` and t of
    n - 1 degrees of freedom.

    Args:
        a, b: one score a seed, in the same order.
        confidence: of the interval, in (0, 1).
        lower_is_better: True for errors and losses.

    Raises:
        ValueError: fewer than two pairs, unequal lengths, scores that are not finite, or a confidence
            out of range.

    >>> print(paired([98.1, 98.3, 98.2], [97.5, 97.9, 97.7]))
    +0.5 [+0.2516, +0.7484], n = 3, paired: better
    """
    from scipy.stats import t

    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise ValueError(
            f"a and b must be at least two scores each, pair by pair, got shapes {a.shape} and "
            f"{b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"a and b must be finite, got {a.tolist()} and {b.tolist()}")
    if not 0 < real("confidence", confidence) < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}; 0.95 is usual")
    d = a - b
    rounding = 4 * np.finfo(float).eps * np.maximum(np.abs(a), np.abs(b))
    d[np.abs(d) <= rounding] = 0  # the same score, computed in two ways
    n = len(d)
    margin = t.ppf((1 + confidence) / 2, n - 1) * d.std(ddof=1) / np.sqrt(n)
    low, high = float(d.mean() - margin), float(d.mean() + margin)
    return Comparison(float(d.mean()), low, high, n, _verdict(low, high, lower_is_better))


def _verdict(low: float, high: float, lower_is_better: bool) -> str:
    if low <= 0 <= high:
        return "no difference seen"
    return "better" if (high < 0) == lower_is_better else "worse"
