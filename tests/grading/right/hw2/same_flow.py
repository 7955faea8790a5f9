"""Other right answers to same_flow."""

from __future__ import annotations

import torch


def one_up_one_down(a, b):
    return [a * 3, b / 3]


def turned_by_half(first, second):
    return torch.rot90(first, 2, (2, 3)), torch.rot90(second, 2, (2, 3))


def rolled_by_a_block(first, second):
    block = first.shape[2] // second.shape[2]
    return torch.roll(first, block, dims=2), torch.roll(second, 1, dims=2)


def blocks_shuffled(first, second):
    n, c, H, W = first.shape
    h, w = second.shape[2:]
    order = torch.arange(h * w).roll(1)
    blocks = first.view(n, c, h, H // h, w, W // w).permute(0, 1, 2, 4, 3, 5)
    blocks = blocks.reshape(n, c, h * w, H // h, W // w)[:, :, order]
    blocks = blocks.view(n, c, h, w, H // h, W // w).permute(0, 1, 2, 4, 3, 5)
    return blocks.reshape(first.shape), second.flatten(2)[:, :, order].view_as(second)
