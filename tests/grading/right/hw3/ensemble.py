"""Other right answers to ensemble."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F


def summed_and_divided(zs):
    total = 0
    for z in zs:
        total = total + F.softmax(z, dim=1)
    return total / len(zs)


def by_einsum(logits):
    z = torch.stack(tuple(logits))
    log_p = z - torch.logsumexp(z, dim=2, keepdim=True)
    weights = torch.full((len(logits),), 1 / len(logits), dtype=z.dtype)
    return torch.einsum("k,knc->nc", weights, log_p.exp())


def a_mean_that_is_moved(logits):
    mean = torch.softmax(logits[0], -1)
    for k, z in enumerate(logits[1:], start=2):
        mean = mean + (torch.softmax(z, -1) - mean) / k
    return mean


def in_numpy(logits):
    z = np.stack([x.numpy() for x in logits])
    e = np.exp(z - z.max(-1, keepdims=True))
    return torch.from_numpy((e / e.sum(-1, keepdims=True)).mean(0))
