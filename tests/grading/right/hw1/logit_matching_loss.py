"""Other right answers to logit_matching_loss."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def difference_centred(s, t):
    gap = s - t
    return 0.5 * F.mse_loss(gap, gap.mean(dim=1, keepdim=True).expand_as(gap))


def half_the_variance(student, teacher):
    return 0.5 * (student - teacher).var(dim=1, unbiased=False).mean()


def by_pairs_of_classes(student, teacher):
    gap = student - teacher
    pairs = gap[:, :, None] - gap[:, None, :]  # (N, C, C)
    return torch.einsum("nij,nij->", pairs, pairs) / (4 * gap.shape[1] ** 2 * len(gap))
