"""Other right answers to two_stages."""

from __future__ import annotations

import torch
from torch import nn


def stages_in_a_list(low, up, loss1, loss2, steps):
    stages = [
        (list(low.parameters()), lambda: loss1(low)),
        (list(low.parameters()) + list(up.parameters()), lambda: loss2(low, up)),
    ]
    for (weights, loss), count in zip(stages, steps, strict=True):
        sgd = torch.optim.SGD(weights, 0.1, 0.9, weight_decay=0.01)
        for _ in range(count):
            loss().backward()
            sgd.step()
            low.zero_grad()
            up.zero_grad()
    return low, up


def upper_part_frozen_and_thawed(lower, upper, first_loss, second_loss, steps):
    whole = nn.Sequential(lower, upper)
    upper.requires_grad_(False)
    for stage in (0, 1):
        optimizer = torch.optim.SGD(whole.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        for _ in range(steps[stage]):
            whole.zero_grad()
            loss = second_loss(lower, upper) if stage else first_loss(lower)
            loss.backward()
            optimizer.step()
        upper.requires_grad_(True)


def velocities_by_hand(lower, upper, first_loss, second_loss, steps):
    for stage, count in enumerate(steps):
        weights = list(lower.parameters()) + (list(upper.parameters()) if stage else [])
        velocities = [torch.zeros_like(weight) for weight in weights]
        for _ in range(count):
            loss = second_loss(lower, upper) if stage else first_loss(lower)
            slopes = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for weight, slope, velocity in zip(weights, slopes, velocities, strict=True):
                    velocity.mul_(0.9).add_(slope + 0.01 * weight)
                    weight.sub_(0.1 * velocity)


def an_optimizer_a_part(lower, upper, first_loss, second_loss, steps):
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    below = torch.optim.SGD(lower.parameters(), **settings)
    for _ in range(steps[0]):
        below.zero_grad()
        first_loss(lower).backward()
        below.step()
    both = [torch.optim.SGD(part.parameters(), **settings) for part in (lower, upper)]
    for _ in range(steps[1]):
        for optimizer in both:
            optimizer.zero_grad()
        second_loss(lower, upper).backward()
        for optimizer in both:
            optimizer.step()
