"""Bugs that pair an image with the soft targets of another image or of another view."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor, nn

from kdlib.course.museum.story import mistake
from kdlib.data import Augmentation, Split
from kdlib.networks import logits
from kdlib.seeding import stream


def targets_by_index(teacher: nn.Module, split: Split, seed: int) -> list[tuple[Tensor, Tensor]]:
    """The second epoch's batches: inputs, and the teacher's logits from a table made beforehand."""
    table = _logits_by_index(teacher, split)
    return [(inputs, table[index]) for inputs, _, index in _batches(split, seed, epoch=2)]


@mistake(
    targets_by_index,
    "Soft targets act as label noise: the larger alpha, the worse the student.",
    "haitongli/knowledge-distillation-pytorch issues #4 and #9",
)
def targets_by_position(teacher: nn.Module, split: Split, seed: int) -> list[tuple[Tensor, Tensor]]:
    cached = [logits(teacher, inputs) for inputs, _, _ in _batches(split, seed, epoch=1)]
    return [(inputs, cached[i]) for i, (inputs, _, _) in enumerate(_batches(split, seed, epoch=2))]


def targets_of_the_view(
    teacher: nn.Module, split: Split, augment: Augmentation, seed: int
) -> list[tuple[Tensor, Tensor]]:
    """An epoch's batches: random views, and the teacher's logits for them."""
    batches = _batches(split, seed, epoch=1, augment=augment)
    return [(views, logits(teacher, views)) for views, _, _ in batches]


@mistake(
    targets_of_the_view,
    "Nothing fails; the targets belong to another view than the one the student sees.",
    "haitongli/knowledge-distillation-pytorch issue #23",
)
def cached_despite_augmentation(
    teacher: nn.Module, split: Split, augment: Augmentation, seed: int
) -> list[tuple[Tensor, Tensor]]:
    table = _logits_by_index(teacher, split)
    batches = _batches(split, seed, epoch=1, augment=augment)
    return [(views, table[index]) for views, _, index in batches]


def _batches(split: Split, seed: int, epoch: int, augment: Augmentation | None = None) -> Iterator:
    views = stream(seed, epoch, "views", split.device)
    return split.batches(16, stream(seed, epoch, "order"), augment, views)


def _logits_by_index(teacher: nn.Module, split: Split) -> Tensor:
    rows = logits(teacher, split)
    table = rows.new_full((int(split.index.max()) + 1, rows.shape[-1]), math.nan)
    table[split.index] = rows
    return table
