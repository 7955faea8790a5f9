"""Other right answers to verdict."""

from __future__ import annotations

import math

import numpy as np


def by_p_value(a, b):
    from scipy import stats

    if stats.ttest_rel(a.numpy(), b.numpy()).pvalue >= 0.05:
        return "no difference seen"
    return "better" if a.sum() < b.sum() else "worse"


def by_t_statistic(a, b):
    from scipy.special import stdtrit

    d = np.asarray(b - a)
    ratio = d.mean() * math.sqrt(len(d)) / d.std(ddof=1)
    limit = stdtrit(len(d) - 1, 0.975)
    return ["worse", "no difference seen", "better"][int(ratio > limit) - int(ratio < -limit) + 1]


def by_both_sides(a, b):
    from scipy.stats import ttest_rel

    for side, word in (("less", "better"), ("greater", "worse")):
        if ttest_rel(a, b, alternative=side).pvalue < 0.025:
            return word
    return "no difference seen"
