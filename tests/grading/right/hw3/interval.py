"""Other right answers to interval."""

from __future__ import annotations

import math

import numpy as np
import torch


def one_sample_test(a, b):
    from scipy import stats

    d = (a - b).numpy()
    found = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    return d.mean(), found.low, found.high


def related_samples(x, y):
    from scipy import stats

    ends = stats.ttest_rel(x.tolist(), y.tolist()).confidence_interval()
    return [(ends.low + ends.high) / 2, *ends]


def scaled_distribution(a, b):
    from scipy import stats

    d = np.asarray(a) - np.asarray(b)
    ends = stats.t.interval(0.95, d.size - 1, loc=d.mean(), scale=stats.sem(d))
    return np.array([d.mean(), *ends])


def by_a_table(a, b):
    table = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179]
    table += [2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064]
    d = [float(x) - float(y) for x, y in zip(a, b, strict=True)]
    n, mean = len(d), sum(d) / len(d)
    s = math.sqrt(sum((x - mean) ** 2 for x in d) / (n - 1))
    return mean, mean - table[n - 2] * s / n**0.5, mean + table[n - 2] * s / n**0.5


def by_integration(a, b):
    d, n = a - b, len(a)
    x = torch.linspace(0, 20, 20_001, dtype=torch.float64)
    density = (1 + x**2 / (n - 1)) ** (-n / 2)
    norm = math.gamma(n / 2) / math.gamma((n - 1) / 2) / math.sqrt((n - 1) * math.pi)
    share = norm * torch.cumulative_trapezoid(density, x)
    t = x[1 + torch.searchsorted(share, 0.475)]
    return d.mean() + torch.stack([-t * 0, -t, t]) * d.std() / n**0.5
