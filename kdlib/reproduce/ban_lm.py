"""Furlanello et al. 2018, table 6: language models born again.

LSTMs with tied weights teach students of their own size, on the words of the Penn Treebank (``ptb``, which
you must download yourself: see :func:`kdlib.data.text.ptb`) and on the characters of Python's help texts
(``topics``). Two protocols: ``paper``, for a GPU: 2 layers of 1500 units, a dropout of 0.65, 40 epochs of
plain SGD at a rate of 1 that is quartered when validation does not improve, 32 rows read 35 words at a
time; and ``short`` for two processor cores: 2 layers of 200 units and a dropout of 0.2 for words, 1 layer of
200 and a dropout of 0.1 for characters, a few epochs of Adam under one cycle. All networks for a text have
the same number of steps.

Not stated in the paper: the weights of teacher and labels in BAN+L (here a half each) and whether
gradients are clipped (here to 5, as Zaremba et al. 2014 do for their medium network). The peak rate
for words in ``short``, 0.004, was better on validation than 0.01, for a network trained on labels;
the rate for characters, 0.005, was not tuned.

Ways: ``labels``, which are also the teachers; ``BAN+L``, teacher and labels; ``BAN``, the teacher alone.
The student with seed s starts like the ``labels`` network with seed s, and its teacher is the ``labels``
network with the next seed. ``two of labels``: the mean probability of networks s and s + 1; ``BAN+L and its
teacher`` likewise.

Experiments: ``ptb``, ``topics``. Metrics: ``test_perplexity`` and ``validation_perplexity``, per word or per
character, over the whole text; for ``N tokens`` from counts of N-grams (:func:`kdlib.data.text.ngram_loss`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib.data import Data, Split
from kdlib.data.text import from_texts, ngram_loss, ptb, topics
from kdlib.models import lstm
from kdlib.objectives import Batch, CrossEntropy, Objective, Outputs
from kdlib.objectives.teachers import TeacherLogits
from kdlib.profiles import pick
from kdlib.recipe import Recipe, non_default_fields
from kdlib.reproduce.settings import Published, Row, Setting, unwatched
from kdlib.training import evaluate, keep

VERSION = 1
WAYS = {"labels": 0.0, "BAN+L": 0.5, "BAN": 1.0}  # the teacher's weight


@dataclass(frozen=True)
class Size:
    """One text of one protocol."""

    name: str
    text: str
    width: int
    layers: int
    dropout: float
    unroll: int
    recipe: Recipe
    ways: tuple[str, ...]
    counts: tuple[int, ...]
    seeds: range


_SHORT = Recipe(epochs=5, batch_size=20, optimizer="adam", learning_rate=0.004)
_PAPER = Recipe(
    epochs=40,
    batch_size=32,
    learning_rate=1,
    momentum=0,
    schedule="plateau",
    max_gradient=5,
)
SHORT = (
    Size("short", "ptb", 200, 2, 0.2, 35, _SHORT, ("labels", "BAN+L"), (1, 2, 3), range(3)),
    Size(
        "short",
        "topics",
        200,
        1,
        0.1,
        50,
        replace(_SHORT, epochs=6, batch_size=16, learning_rate=0.005),
        ("labels", "BAN+L", "BAN"),
        (1, 2, 3, 4, 5, 6),
        range(3),
    ),
)
PAPER_SIZE = (
    Size("paper", "ptb", 1500, 2, 0.65, 35, _PAPER, ("labels", "BAN+L"), (1, 2, 3), range(3)),
)
SMOKE = tuple(
    replace(
        size,
        name="smoke",
        width=8,
        recipe=replace(size.recipe, epochs=1, batch_size=4),
        seeds=range(2),
    )
    for size in SHORT
)


def settings() -> list[Setting]:
    sizes = pick(smoke=SMOKE, lesson=SHORT + PAPER_SIZE)
    return [setting for size in sizes for setting in _settings(size)]


def _settings(size: Size) -> Iterator[Setting]:
    for n in size.counts:
        yield _setting(size, f"{n} tokens", partial(_counted, size, n))
    for way in size.ways:
        for seed in size.seeds:
            yield _setting(size, f"{way}, seed {seed}", partial(_scored, size, (way,), seed))
    for name, pair in {
        "two of labels": ("labels", "next labels"),
        "BAN+L and its teacher": ("BAN+L", "next labels"),
    }.items():
        for seed in size.seeds:
            yield _setting(size, f"{name}, seed {seed}", partial(_scored, size, pair, seed))


def _setting(size: Size, name: str, run) -> Setting:
    shape = (size.width, size.layers, size.dropout, size.unroll, len(size.seeds))
    recipe = f"version {VERSION}, {size.text}, {name}, {shape}, {non_default_fields(size.recipe)}, {WAYS}"
    return Setting(size.text, name, size.name, recipe, run)


# Perplexities on validation and test, Table 6: the LSTM with "52M" parameters.
PAPER = (
    Published("teacher, validation", 75.11, "ptb", "labels", "validation_perplexity"),
    Published("BAN+L, validation", 71.19, "ptb", "BAN+L", "validation_perplexity"),
    Published("teacher, test", 71.87, "ptb", "labels", "test_perplexity"),
    Published("BAN+L, test", 68.56, "ptb", "BAN+L", "test_perplexity"),
)


@cache
def _data(size: Size) -> Data:
    if size.name == "smoke":
        text = "a text for tests, read twice.\n"
        return from_texts(20 * text, 2 * text, text, unroll=size.unroll)
    load = {"ptb": ptb, "topics": topics}[size.text]
    return load(unroll=size.unroll)


def _counted(size: Size, n: int) -> Iterator[Row]:
    data = _data(size)
    for part in ("validation", "test"):
        loss = ngram_loss(data, n, getattr(data, part))
        yield Row(f"{part}_perplexity", math.exp(loss))


def _scored(size: Size, ways: tuple[str, ...], seed: int) -> Iterator[Row]:
    data, teacher = _data(size), _next(size, seed)
    nets = [
        _net(size, way.removeprefix("next "), teacher if way.startswith("next ") else seed)
        for way in ways
    ]
    for part in ("validation", "test"):
        perplexity = evaluate(nets, getattr(data, part)).perplexity
        own = None if ways == ("labels",) else teacher
        yield Row(f"{part}_perplexity", perplexity, student_seed=seed, teacher_seed=own)


def _next(size: Size, seed: int) -> int:
    return size.seeds[(seed + 1) % len(size.seeds)]


@cache
def _net(size: Size, way: str, seed: int) -> nn.Module:
    data = _data(size)
    data = replace(data, test=None) if size.recipe.schedule == "plateau" else unwatched(data)
    build = partial(lstm, len(data.classes), size.width, layers=size.layers, dropout=size.dropout)
    return keep(lambda seed: build(seed=seed), _objective(size, way, seed), data, size.recipe, seed)


def _objective(size: Size, way: str, seed: int) -> Objective:
    if way == "labels":
        return CrossEntropy()
    return Blend(_net(size, "labels", _next(size, seed)), WAYS[way])


class Blend(Objective):
    """The cross entropy with ``alpha * p + (1 - alpha) * y``, p the teacher's probabilities at T = 1.

    It equals ``SoftTargets(teacher, 1, alpha)`` except for rounding and for the value, which is higher by
    alpha times the entropy of p. SoftTargets stays exact however close student and teacher are; Blend needs
    one softmax and one sum, and is 12 times faster on 700 rows of 10,000 words (forward and backward, one
    thread).
    """

    def __init__(self, teacher: nn.Module, alpha: float) -> None:
        self.alpha = alpha
        self._source = TeacherLogits(teacher)

    @property
    def key(self) -> str:
        return f"Blend(teacher={self._source.identity()}, alpha={self.alpha})"

    def prepare(self, student: nn.Module, split: Split, recipe: Recipe) -> None:
        self._source.prepare(split, recipe)

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            target = self.alpha * self._source(batch).float().softmax(-1)  # (N, L, C)
            rest = torch.full_like(batch.labels, 1 - self.alpha, dtype=target.dtype)
            target.scatter_add_(-1, batch.labels.unsqueeze(-1), rest.unsqueeze(-1))
        z = student.logits.float()
        return {"blend": F.cross_entropy(z.flatten(0, -2), target.flatten(0, -2))}
