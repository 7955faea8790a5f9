"""Bugs of reported numbers: an ensemble's accuracy, scores under wrong names, the chosen epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kdlib.course.museum.story import mistake
from kdlib.data import Split
from kdlib.losses import soften
from kdlib.networks import logits
from kdlib.training import evaluate

# Ensembles

Loader = Iterable[tuple[Tensor, Tensor]]  # inputs and labels, batch by batch


def accuracy_together(nets: Sequence[nn.Module], loader: Loader) -> float:
    """Accuracy of the networks' mean probability, whatever the loader's batches and order."""
    inputs, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    return evaluate(nets, Split(inputs, labels, torch.arange(len(labels)))).accuracy


@mistake(
    accuracy_together,
    "One network with large logits decides for all, unlike in the mean of the probabilities.",
    "seen in public code; a departure from the paper rather than an error",
)
def logits_averaged(nets: Sequence[nn.Module], loader: Loader) -> float:
    inputs, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    mean = torch.stack([logits(net, inputs) for net in nets]).mean(0)
    return (mean.argmax(-1) == labels).double().mean().item()


@mistake(accuracy_together, "An accuracy above 1, as large as the batches are.")
def divided_by_batches(nets: Sequence[nn.Module], loader: Loader) -> float:
    right = [(_mean_probability(nets, inputs).argmax(-1) == y).sum() for inputs, y in loader]
    return float(sum(right)) / len(right)


@mistake(
    accuracy_together,
    "An ensemble of good networks at the level of chance: each read the shuffled images in its "
    "own order.",
)
def outputs_by_batch(nets: Sequence[nn.Module], loader: Loader) -> float:
    cached = [[soften(logits(net, inputs)) for inputs, _ in loader] for net in nets]
    means = [torch.stack(batch).mean(0) for batch in zip(*cached, strict=True)]
    right = [mean.argmax(-1) == labels for mean, (_, labels) in zip(means, loader, strict=True)]
    return torch.cat(right).double().mean().item()


def by_generation(found: Sequence[Path]) -> list[Path]:
    """Sort files such as ``generation_2.pt`` by generation, however a folder lists them."""
    return sorted(found, key=lambda path: int(path.stem.rpartition("_")[2]))


@mistake(
    by_generation,
    'Numbers stand beside the wrong names: "generations 0 and 1" may be any two.',
)
def as_the_folder_gives_them(found: Sequence[Path]) -> list[Path]:
    return list(found)


def chosen_by_validation(
    validation_errors: Sequence[int], test_errors: Sequence[int]
) -> tuple[int, int]:
    """The chosen epoch, counted from 1, and the test errors to report."""
    best = min(range(len(validation_errors)), key=lambda epoch: validation_errors[epoch])
    return best + 1, test_errors[best]


@mistake(
    chosen_by_validation,
    "The reported accuracy is too good, the more so the more epochs and settings were tried.",
)
def chosen_by_test(validation_errors: Sequence[int], test_errors: Sequence[int]) -> tuple[int, int]:
    best = min(range(len(test_errors)), key=lambda epoch: test_errors[epoch])
    return best + 1, test_errors[best]


def epoch_kept(accuracies: Sequence[float]) -> int:
    """The epoch, counted from 1, whose weights the best checkpoint holds at the end."""
    best, kept = -math.inf, 0
    for epoch, accuracy in enumerate(accuracies, start=1):
        if accuracy > best:
            best, kept = accuracy, epoch
    return kept


@mistake(epoch_kept, "The best checkpoint is always the last one.")
def best_never_updated(accuracies: Sequence[float]) -> int:
    best, kept = -math.inf, 0
    for epoch, accuracy in enumerate(accuracies, start=1):
        if accuracy > best:
            kept = epoch
    return kept


def _mean_probability(nets: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    return torch.stack([soften(logits(net, inputs)) for net in nets]).mean(0)
