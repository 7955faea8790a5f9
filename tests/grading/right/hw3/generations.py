"""Other right answers to generations."""

from __future__ import annotations

import torch


def none_as_the_first_teacher(make, fit, n):
    family, teacher = [], None
    for k in range(n):
        child = make(100 + k)
        fit(child, teacher)
        family.append(child)
        teacher = child
    return tuple(family)


def by_recursion(build, train, count):
    def born(k):
        before = born(k - 1) if k > 1 else []
        network = build(k)
        train(network, before[-1] if before else None)
        return [*before, network]

    return born(count)


def all_built_first(build, train, count):
    networks = [build(seed) for seed in reversed(range(count))]
    for student, teacher in zip(networks, [None, *networks], strict=False):
        train(student, teacher)
    return networks


def with_frozen_copies(build, train, count):
    import copy

    networks, teacher = [], None
    for seed in torch.randperm(1000)[:count].tolist():
        student = build(seed)
        train(student, teacher)
        teacher = copy.deepcopy(student).eval().requires_grad_(False)
        networks.append(student)
    return networks


def accumulated(build, train, count):
    import itertools

    def grow(teacher, seed):
        student = build(seed)
        train(student, teacher)
        return student

    return list(itertools.accumulate([None, *range(count)], grow))[1:]
