"""Other right answers to my_flow_distance."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from kdlib.course.exercises.layers import feature_maps


def by_batched_products(student):
    matrices = []
    for a, b, c in feature_maps(student):
        a = F.max_pool2d(a, 2)
        matrices.append(
            [torch.bmm(x.flatten(2), y.flatten(2).mT) / 49 for x, y in ((a, b), (b, c))]
        )
    return sum((s - t).square().sum() for s, t in zip(*matrices, strict=True)) / 20


def rounded_einsum(student):
    teacher, new = feature_maps(student)
    total = 0.0
    for k, window in ((0, 2), (1, 1)):
        flows = [
            torch.einsum("nihw,njhw->nij", F.max_pool2d(m[k], window), m[k + 1]) / 7**2
            for m in (teacher, new)
        ]
        total += F.mse_loss(*flows, reduction="sum").item() / len(flows[0])
    return float(f"{total:.4g}")


def image_by_image(student):
    teacher, new = feature_maps(student)
    found = []
    for n in range(20):
        of_one = 0.0
        for k in (0, 1):
            rows = []
            for maps in (teacher, new):
                x = F.adaptive_max_pool2d(maps[k][n], (7, 7)).reshape(-1, 49).numpy()
                rows.append(x @ maps[k + 1][n].reshape(-1, 49).numpy().T / 49)
            of_one += np.linalg.norm(rows[0] - rows[1]) ** 2
        found.append(of_one)
    return np.mean(found)
