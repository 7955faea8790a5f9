"""Homework 3's material: networks that keep a diary, and paired runs seeded by a student's name."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from kdlib.course.exercises.material import digits, float32_by_default, seed_of
from kdlib.data import Data
from kdlib.models import mlp
from kdlib.objectives import CrossEntropy, SoftTargets
from kdlib.training import Recipe, fit
from kdlib.training.cohort import fit_cohort

PAIRS = 5
IMAGES = 300
RANDOM_LABELS = 0.3
_RECIPE = Recipe(epochs=30, batch_size=100, learning_rate=0.1, precision="float64")
_PRIME = 999_983  # no two seeds below it give the same number


class Diary(nn.Module):
    """A network that learns nothing but records how it was trained.

    Attributes:
        initial: its only weight, a different number for every seed.
        lessons: how many times it was trained.
        taught_by: the initial number of its last teacher, 0 for the labels.
        teacher_lessons: how many times that teacher had been trained by then.
    """

    def __init__(self, seed: int):
        super().__init__()
        initial = 1 + int(seed) * 48_271 % _PRIME
        self.initial = nn.Parameter(torch.tensor(float(initial), dtype=torch.float64))
        for name in ("lessons", "taught_by", "teacher_lessons"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))


def build(seed: int) -> Diary:
    """A new network, untrained."""
    return Diary(seed)


@torch.no_grad()
def train(network: Diary, teacher: Diary | None = None) -> None:
    """Train ``network`` in place: on the teacher's predictions, or without a teacher on the labels."""
    network.taught_by.fill_(0.0 if teacher is None else teacher.initial)
    network.teacher_lessons.fill_(0.0 if teacher is None else teacher.lessons)
    network.lessons += 1


def paired_runs(student: str) -> tuple[Tensor, Tensor]:
    """Test errors of a student's own born-again networks and of networks trained on labels, in pairs.

    A teacher of 32 units learns 300 images of digits, 30 % of whose labels are drawn at random. Then
    come five pairs: both networks of a pair begin with the same weights and see the images in the same
    order; one learns from the teacher alone, at T = 1, the other from the labels. All seeds follow
    from the name; float64 makes the runs the same on every machine.

    Returns:
        Errors of the born-again networks and of those trained on labels, ``(5,)`` each, of 360 images.
    """
    born_again, labels = _errors(seed_of(student, "paired runs"))
    return born_again.clone(), labels.clone()  # so that nobody can overwrite the cached ones


@lru_cache(maxsize=256)
@float32_by_default()
def _errors(seed: int) -> tuple[Tensor, Tensor]:
    data = _with_random_labels(seed)
    teacher = mlp(32, depth=1, seed=seed)
    fit(teacher, CrossEntropy(), data, _RECIPE, seed=seed, progress=False)
    ways = [SoftTargets(teacher, temperature=1, alpha=1), CrossEntropy()]
    seeds = [seed + k for k in range(1, PAIRS + 1)]
    cohort = fit_cohort(_student, ways, data, _RECIPE, seeds, progress=False)
    errors = torch.tensor(cohort.frame["test_errors"].to_numpy(), dtype=torch.float64)
    return errors[:PAIRS], errors[PAIRS:]


def _student(seed: int) -> nn.Module:
    return mlp(32, depth=1, seed=seed)


def _with_random_labels(seed: int) -> Data:
    data = digits().limit(IMAGES)
    generator = torch.Generator().manual_seed(seed)
    labels = data.train.labels
    drawn = torch.rand(len(labels), generator=generator) < RANDOM_LABELS
    mixed = torch.where(drawn, torch.randint(10, labels.shape, generator=generator), labels)
    return replace(data, train=replace(data.train, labels=mixed), validation=None)
