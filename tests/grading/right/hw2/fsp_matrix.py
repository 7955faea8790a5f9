"""Other right answers to fsp_matrix."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def in_einstein_notation(a, b):
    h, w = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])
    if a.shape[2:] != (h, w):
        a = F.max_pool2d(a, (a.shape[2] // h, a.shape[3] // w))
    if b.shape[2:] != (h, w):
        b = F.max_pool2d(b, (b.shape[2] // h, b.shape[3] // w))
    return torch.einsum("nihw,njhw->nij", a, b) / (h * w)


def row_by_row(first, second):
    if first.shape[-1] > second.shape[-1]:
        first = nn.AdaptiveMaxPool2d(second.shape[-2:])(first)
    elif first.shape[-1] < second.shape[-1]:
        second = nn.AdaptiveMaxPool2d(first.shape[-2:])(second)
    rows = [(first[:, i : i + 1] * second).mean((2, 3)) for i in range(first.shape[1])]
    return torch.stack(rows, dim=1)


def one_image_at_a_time(first, second):
    h, w = min(first.shape[2:], second.shape[2:])
    matrices = []
    for x, y in zip(first, second, strict=True):
        x = F.adaptive_max_pool2d(x, (h, w)).reshape(len(x), h * w)
        y = F.adaptive_max_pool2d(y, (h, w)).reshape(len(y), h * w)
        matrices.append(x @ y.T / (h * w))
    return torch.stack(matrices)


def largest_of_each_block(first, second):
    h, w = min(first.shape[2:], second.shape[2:])
    flat = []
    for maps in (first, second):
        n, c, H, W = maps.shape
        flat.append(maps.reshape(n, c, h, H // h, w, W // w).amax((3, 5)).reshape(n, c, -1))
    return torch.matmul(flat[0], flat[1].permute(0, 2, 1)) / h / w
