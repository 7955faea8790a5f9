"""Other right answers to permute_dark_knowledge."""

from __future__ import annotations

import torch


def by_sorting_random_numbers(v, g):
    top = v.argmax(-1, keepdim=True)
    keys = torch.rand(v.shape, generator=g).scatter(-1, top, 2.0)
    order = keys.argsort(-1)  # the others at random, the largest last
    places = torch.zeros(v.shape).scatter(-1, top, 1.0).argsort(dim=-1, stable=True)
    return torch.empty_like(v).scatter(-1, places, v.gather(-1, order))


def largest_swapped_out_and_back(teacher, generator):
    rows = []
    for t in teacher:
        k, n = int(t.argmax()), len(t)
        rest = torch.cat([t[:k], t[k + 1 :]])[torch.randperm(n - 1, generator=generator)]
        rows.append(torch.cat([rest[:k], t[k : k + 1], rest[k:]]))
    return torch.stack(rows)


def by_a_mask(teacher, generator):
    n, classes = teacher.shape
    others = torch.arange(classes) != teacher.argmax(1, keepdim=True)  # (N, C)
    rest = teacher[others].view(n, classes - 1)
    order = torch.rand(n, classes - 1, generator=generator).argsort(1)
    result = teacher.clone()
    result[others] = rest.gather(1, order).flatten()
    return result


def fisher_yates(teacher, generator):
    rows = [list(row) for row in teacher.tolist()]
    for row in rows:
        top = row.index(max(row))
        places = [c for c in range(len(row)) if c != top]
        for i in range(len(places) - 1, 0, -1):
            j = int(torch.randint(i + 1, (1,), generator=generator))
            a, b = places[i], places[j]
            row[a], row[b] = row[b], row[a]
    return torch.tensor(rows, dtype=teacher.dtype)
