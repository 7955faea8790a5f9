"""What several homeworks build on: a softmax in numpy, and a teacher drawn from a student's name."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from kdlib.data import Data, load
from kdlib.models import mlp
from kdlib.networks import logits
from kdlib.objectives import CrossEntropy
from kdlib.training import Recipe, fit


def softmax(z: Tensor, T: float) -> Tensor:
    e = np.exp((z.double().numpy() - z.double().numpy().max(-1, keepdims=True)) / T)
    return torch.from_numpy(e / e.sum(-1, keepdims=True))


def divergence(student: Tensor, teacher: Tensor, T: float) -> Tensor:
    """T² times the mean over the rows of KL(p ‖ q), from the definition."""
    q, p = softmax(student, T), softmax(teacher, T)
    return T**2 * (p * (p / q).log()).sum(-1).mean()


def seed_of(student: str, purpose: str = "teacher") -> int:
    """A seed from a name; capitals and surrounding spaces do not matter."""
    name = unicodedata.normalize("NFC", student.strip().casefold())
    text = f"{purpose}/{name}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Use float32, whatever default a student has set: another precision draws other weights."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@lru_cache(maxsize=1)
def digits() -> Data:
    return load("digits", device="cpu")


def teacher_logits(student: str) -> Tensor:
    """The logits of a student's own teacher for the 360 test images of digits, (360, 10).

    The teacher is a perceptron of 32 units, initialised and trained from a seed that the name
    gives, in float64, so that it is the same on every machine.
    """
    return _teacher_logits(seed_of(student)).clone()


@lru_cache(maxsize=256)
@float32_by_default()
def _teacher_logits(seed: int) -> Tensor:
    teacher = mlp(32, depth=1, seed=seed)
    recipe = Recipe(epochs=3, learning_rate=0.05, precision="float64")
    fit(teacher, CrossEntropy(), digits(), recipe, seed=seed, progress=False)
    with torch.no_grad():
        return logits(teacher, digits().test.inputs.double()).double()
