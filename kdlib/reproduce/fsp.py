"""Yim, Joo, Bae and Kim 2017 on CIFAR-10: FSP matrices for training faster, smaller, together, elsewhere.

Residual networks (He et al. 2016) of one width everywhere, so that matrices of teacher and student are of
one size; a pair of layers is the entry of a stage and its end, so that the second and third pair are
max-pooled. Images are cropped and flipped. Two protocols: ``paper``, by its iterations, for a GPU; and
``short`` for two processor cores: networks half as wide, a teacher of 14 layers that has seen 45,000
images, students of 14 or 8 layers that see 5,000, and the other 5,000 to choose learning rates on. All ways
of one experiment have the same number of steps in all, whether in one stage or in two.

Unknown in the paper: batch size, the weight of the FSP loss, flips, how an ensemble averages (here:
probabilities), seeds, which layer a section begins with. Here: 128 and, for ``short``, 64 images a step;
weight 1 for each pair; Nesterov SGD, its rate dropping to a tenth after one half and three quarters as in
the paper, under one cycle in ``short``. Where several rates are tried for the first stage (or the only
one), a student of half the steps tries each, and the fewest validation errors decide.

Ways: ``labels``; ``soft``, soft targets at T = 4 with a tenth of labels; ``fsp``; ``hint``, of the middle
stage, and ``hints``, of all three; ``lambda``, FitNets' second stage; two of them with `` then ``; ``+`` for
both at once. ``copied`` begins with the teacher's weights.

Experiments: ``teachers``; ``smaller``, a student of 8 layers; ``faster``, a student of the teacher's own
layers; ``together``, ensembles of three students of 8 layers; ``elsewhere``, from animals to a few images of
vehicles.

Metrics: ``test_errors``, ``test_loss``; ``agreement`` and ``divergence`` from the teacher on the test
images; ``learning_rate``, the first stage's, and ``validation_errors at RATE`` of the trials;
``validation_accuracy after N steps`` in ``faster``; in ``together`` ``test_errors of three`` by their mean
probabilities, ``correlation`` of the members' errors and their ``agreement``, means of the three pairs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import torch
from torch import nn

from kdlib import models
from kdlib._networks import logits
from kdlib.data import Data, crop, flip, load
from kdlib.objectives import FSP, CrossEntropy, Hint, Objective, SoftTargets
from kdlib.profiles import pick
from kdlib.reproduce import Published, Row, Setting
from kdlib.reproduce._stages import (
    TRIAL_SEED,
    Stage,
    chosen,
    fitnets_targets,
    scores,
    stages,
    taught,
)
from kdlib.training import Recipe, changed, evaluate, fidelity, keep

VERSION = 1
STAGES = ("stem", "stage1", "stage2", "stage3")
PAIRS = [(ends, ends) for ends in pairwise(STAGES)]
ANIMALS, VEHICLES = (2, 3, 4, 5, 6, 7), (0, 1, 8, 9)


@dataclass(frozen=True)
class Size:
    """What the protocols do not share."""

    name: str
    width: int
    depth: int  # of the teacher
    small: int
    images: int | None  # that students see; None for all
    batch_size: int
    schedule: str
    weight_decay: float
    teacher_steps: int
    steps: int  # of a student, in all
    small_steps: int
    few_steps: int  # in ``elsewhere``
    validation: int
    seeds: range
    more_seeds: range  # of small students


SHORT = Size(
    "short",
    width=8,
    depth=14,
    small=8,
    images=5_000,
    batch_size=64,
    schedule="one_cycle",
    weight_decay=5e-4,
    teacher_steps=8 * 351,
    steps=20 * 78,
    small_steps=20 * 78,
    few_steps=600,
    validation=5_000,
    seeds=range(3),
    more_seeds=range(5),
)
PAPER_SIZE = Size(
    "paper",
    width=16,
    depth=26,
    small=8,
    images=None,
    batch_size=128,
    schedule="step",
    weight_decay=1e-4,
    teacher_steps=64_000,
    steps=2 * 21_000,
    small_steps=2 * 64_000,
    few_steps=10_000,
    validation=0,
    seeds=range(3),
    more_seeds=range(3),
)
SMOKE = replace(
    SHORT,
    name="smoke",
    images=300,
    teacher_steps=2,
    steps=4,
    small_steps=4,
    few_steps=4,
    validation=300,
    seeds=range(2),
    more_seeds=range(2),
)


@dataclass(frozen=True)
class Line:
    """A way of teaching, and the rates tried for its first stage."""

    way: str
    rates: tuple[float, ...]
    second: float = 0.1  # the second stage's rate
    teacher: str = "teacher"
    start: str = "fresh"
    shuffled: bool = False


def settings() -> list[Setting]:
    sizes = pick(smoke=(SMOKE,), lesson=(SHORT, PAPER_SIZE))
    return [setting for size in sizes for setting in _settings(size)]


def _settings(size: Size) -> Iterator[Setting]:
    for seed in size.seeds:
        yield _setting(
            size, "teachers", f"teacher, seed {seed}", "", partial(_teacher_row, size, seed)
        )
    own = partial(_own_teacher_row, size)
    yield _setting(size, "teachers", "teacher of the students' images", "", own)
    for name, line in _small_lines().items():
        yield _setting(size, "smaller", name, str(changed(line)), partial(_smaller, size, line))
    for name, line in _same_lines().items():
        yield _setting(size, "faster", name, str(changed(line)), partial(_faster, size, line))
    for name in ("labels", "fsp, one first stage", "fsp, a first stage each", "fsp, shuffled"):
        yield _setting(size, "together", name, "", partial(_together, size, name))
    for seed in size.seeds:
        teacher = partial(_transferred_row, size, seed)
        yield _setting(size, "elsewhere", f"teacher, seed {seed}", "", teacher)
    for name, line in _few_lines().items():
        yield _setting(size, "elsewhere", name, str(changed(line)), partial(_elsewhere, size, line))


def _setting(size: Size, experiment: str, name: str, line: str, run) -> Setting:
    recipe = f"version {VERSION}, {experiment}, {name}, {size}, {line}, trial {TRIAL_SEED}"
    return Setting(experiment, name, size.name, recipe, run)


def _small_lines() -> dict[str, Line]:
    labels, soft, fsp, hint = (0.03, 0.1, 0.3), (0.01, 0.03, 0.1), FSP_RATES, HINT_RATES
    return {
        "labels": Line("labels", labels),
        "soft": Line("soft", soft),
        "fsp then labels": Line("fsp then labels", fsp),
        "hint then labels": Line("hint then labels", hint),
        "hint then lambda": Line("hint then lambda", hint),
        "fsp then soft": Line("fsp then soft", fsp, second=0.03),
        "hint then soft": Line("hint then soft", hint, second=0.03),
        "labels + fsp": Line("labels + fsp", fsp),
        "fsp then labels; untrained teacher": Line("fsp then labels", fsp, teacher="untrained"),
        "fsp then labels; teacher of the same images": Line(
            "fsp then labels", fsp, teacher="of the same images"
        ),
    }


FSP_RATES = (0.003, 0.01, 0.03)
HINT_RATES = (1e-4, 3e-4, 1e-3)


def _same_lines() -> dict[str, Line]:
    return {
        "labels": Line("labels", (0.1,)),
        "labels; copied": Line("labels", (0.1,), start="copied"),
        "fsp then labels": Line("fsp then labels", (0.01,)),
        "fsp then labels; shuffled": Line("fsp then labels", (0.01,), shuffled=True),
        "hint then lambda": Line("hint then lambda", (3e-4,)),
        "hints then lambda": Line("hints then lambda", (3e-4,)),
        "soft": Line("soft", (0.03,)),
    }


def _few_lines() -> dict[str, Line]:
    return {
        "labels": Line("labels", (0.03, 0.1)),
        "soft": Line("soft", (0.01, 0.03)),
        "fsp then labels": Line("fsp then labels", FSP_RATES),
        "hint then labels": Line("hint then labels", HINT_RATES),
    }


# Errors among the 10,000 test images; the paper prints accuracies.
PAPER = tuple(
    Published(*line)
    for line in (
        ("teacher", 809, "teachers", "teacher"),
        ("8 layers: labels", 1209, "smaller", "labels"),
        ("8 layers: FitNets", 1143, "smaller", "hint then lambda"),
        ("8 layers: FSP", 1130, "smaller", "fsp then labels"),
        ("teacher's layers: labels", 936, "faster", "labels"),
        ("teacher's layers: its weights copied", 796, "faster", "labels; copied"),
        ("teacher's layers: FitNets", 828, "faster", "hint then lambda"),
        ("teacher's layers: FitNets, three hints", 1091, "faster", "hints then lambda"),
        ("teacher's layers: FSP", 786, "faster", "fsp then labels"),
        ("teacher's layers: FSP, shuffled", 792, "faster", "fsp then labels; shuffled"),
    )
)


# Data and teachers


@cache
def _data(size: Size) -> Data:
    if size.name == "smoke":
        return load("digits").limit(size.images)
    return load("cifar10", validation=size.validation)


@cache
def _few(size: Size) -> Data:
    data = _data(size)
    return data if size.images is None else data.limit(size.images)


def _recipe(size: Size, **more) -> Recipe:
    moved = crop(4) if size.name == "smoke" else crop(4) + flip()
    return Recipe(
        batch_size=size.batch_size,
        schedule=size.schedule,
        weight_decay=size.weight_decay,
        augment=moved,
        **more,
    )


def _network(size: Size, depth: int, seed: int) -> nn.Module:
    channels = _data(size).train.inputs.shape[1]
    return models.resnet(depth, width=size.width, channels=channels, seed=seed)


def _blind(data: Data) -> Data:
    """Nothing is looked at epoch by epoch."""
    return replace(data, validation=None, test=None)


@cache
def _teacher(size: Size, kind: str, seed: int) -> nn.Module:
    build = partial(_network, size, size.depth)
    if kind == "untrained":
        return build(seed=seed)
    data = _few(size) if kind == "of the same images" else _data(size)
    recipe = replace(
        _recipe(size, iterations=size.teacher_steps, learning_rate=0.1), batch_size=128
    )
    return keep(lambda seed: build(seed=seed), CrossEntropy(), _blind(data), recipe, seed=seed)


def _teacher_row(size: Size, seed: int) -> Iterator[Row]:
    yield Row(
        "test_errors",
        evaluate(_teacher(size, "teacher", seed), _data(size).test).errors,
        None,
        seed,
    )


def _own_teacher_row(size: Size) -> Iterator[Row]:
    for seed in size.seeds:
        teacher = _teacher(size, "of the same images", seed)
        yield Row("test_errors", evaluate(teacher, _data(size).test).errors, None, seed)


def _objective(by: str, teacher: nn.Module | None, shuffle_seed: int | None = None) -> Objective:
    if by == "labels":
        return CrossEntropy()
    if by == "soft":
        return SoftTargets(teacher, temperature=4, alpha=0.9)
    if by == "lambda":
        return fitnets_targets(teacher)
    if by == "hint":
        return Hint(teacher, hint="stage2", guided="stage2")
    if by == "hints":
        return Hint(teacher, hint=STAGES[1:], guided=STAGES[1:])
    if by == "fsp":
        return FSP(teacher, pairs=PAIRS, shuffle_seed=shuffle_seed)
    one, other = by.split(" + ")
    return _objective(one, teacher) + _objective(other, teacher, shuffle_seed)


# One student after the other


def _student(
    size: Size, line: Line, depth: int, steps: int, rate: float, seed: int, data: Data, teacher
) -> tuple[nn.Module, pd.DataFrame]:
    student = copy.deepcopy(teacher) if line.start == "copied" else _network(size, depth, seed)
    objective = partial(_objective, teacher=teacher, shuffle_seed=seed if line.shuffled else None)
    plan = stages(line.way, steps, rate, line.second)
    return student, taught(student, plan, objective, data, _recipe(size), seed)


def _teacher_of(size: Size, line: Line, seed: int) -> tuple[nn.Module, int]:
    own = seed % len(size.seeds)
    return _teacher(size, line.teacher, own), own


def _smaller(size: Size, line: Line) -> Iterator[Row]:
    data = _few(size)
    one = partial(_student, size, line, size.small, size.small_steps)

    def errors_at(rate: float) -> int:
        half = partial(_student, size, line, size.small, size.small_steps // 2)
        student, _ = half(rate, TRIAL_SEED, _blind(data), _teacher_of(size, line, TRIAL_SEED)[0])
        return evaluate(student, data.validation).errors

    for row in chosen(_rates(size, line), errors_at):
        yield row
    for seed in size.more_seeds:
        teacher, own = _teacher_of(size, line, seed)
        student, history = one(row.value, seed, _blind(data), teacher)
        for metric, value in scores(student, None if line.way == "labels" else teacher, data):
            yield Row(metric, value, seed, own, history["seconds"].sum())


def _rates(size: Size, line: Line) -> tuple[float, ...]:
    """Of the paper's size nothing is held out, so the paper's own."""
    if size.name != "paper":
        return line.rates
    return ({"fsp": 1e-3, "hint": 1e-4}.get(line.way.split(" then ")[0].rstrip("s"), 0.1),)


def _faster(size: Size, line: Line) -> Iterator[Row]:
    (rate,) = _rates(size, line)
    data = replace(_few(size), test=None)
    for seed in size.seeds:
        teacher, own = _teacher_of(size, line, seed)
        student, history = _student(size, line, size.depth, size.steps, rate, seed, data, teacher)
        seconds = history["seconds"].sum()
        for metric, value in scores(student, teacher, _few(size)):
            yield Row(metric, value, seed, own, seconds)
        for epoch in history.itertuples():
            if not math.isnan(epoch.validation_accuracy):
                metric = f"validation_accuracy after {epoch.step} steps"
                yield Row(metric, epoch.validation_accuracy, seed, own)


def _together(size: Size, name: str) -> Iterator[Row]:
    """Groups of three; in all ways a student has seen as many steps when it is done."""
    data, half = _few(size), max(1, size.small_steps // 2)
    for group in range(len(size.seeds)):
        seeds = range(1000 + 3 * group, 1003 + 3 * group)
        members = _after_first_stage(size, name, group, seeds, half)
        steps = 2 * half if name == "labels" else half
        for seed, member in zip(seeds, members, strict=True):
            _one_stage(size, member, CrossEntropy(), steps, 0.1, seed)
            yield Row("test_errors", evaluate(member, data.test).errors, seed, group)
        yield Row("test_errors of three", evaluate(members, data.test).errors, seeds[0], group)
        yield Row("correlation", _correlation(members, data), seeds[0], group)
        alike = [fidelity(a, b, data.test).agreement for a, b in combinations(members, 2)]
        yield Row("agreement", float(np.mean(alike)), seeds[0], group)


def _after_first_stage(
    size: Size, name: str, group: int, seeds: Sequence[int], steps: int
) -> list[nn.Module]:
    members = [_network(size, size.small, seed) for seed in seeds]
    if name == "labels":
        return members
    teacher = _teacher(size, "teacher", group)
    apart = members[:1] if name == "fsp, one first stage" else members
    for seed, member in zip(seeds, apart, strict=False):
        shuffle_seed = seed if name == "fsp, shuffled" else None
        objective = FSP(teacher, pairs=PAIRS, shuffle_seed=shuffle_seed)
        _one_stage(size, member, objective, steps, FSP_RATE, seed)
    return members if len(apart) > 1 else [copy.deepcopy(members[0]) for _ in seeds]


def _one_stage(
    size: Size, student: nn.Module, objective: Objective, steps: int, rate: float, seed: int
) -> None:
    taught(
        student,
        [Stage("", steps, rate)],
        lambda by: objective,
        _blind(_few(size)),
        _recipe(size),
        seed,
    )


FSP_RATE = 0.01


def _objective_of_labels(by: str) -> Objective:
    return CrossEntropy()


def _correlation(members: list[nn.Module], data: Data) -> float:
    """Of being wrong about an image, the mean of all pairs."""
    wrong = [logits(net, data.test).argmax(-1) != data.test.labels for net in members]
    table = np.corrcoef(torch.stack(wrong).double().cpu().numpy())
    return float(table[np.triu_indices(len(members), 1)].mean())


# From animals to vehicles


@cache
def _vehicles(size: Size) -> Data:
    data = _data(size)
    few = replace(data, train=data.train.only(VEHICLES)).limit(pick(smoke=100, lesson=400))
    return replace(few, test=data.test.only(VEHICLES), validation=_part(data.validation, VEHICLES))


def _part(split, classes):
    return None if split is None else split.only(classes)


@cache
def _transferred(size: Size, seed: int) -> nn.Module:
    """A teacher of animals, trained on with a few images of vehicles."""
    data = _data(size)
    animals = _blind(replace(data, train=data.train.only(ANIMALS)))
    recipe = replace(
        _recipe(size, iterations=size.teacher_steps, learning_rate=0.1), batch_size=128
    )
    build = partial(_network, size, size.depth)
    teacher = copy.deepcopy(
        keep(lambda seed: build(seed=seed), CrossEntropy(), animals, recipe, seed=seed)
    )
    plan = stages("labels", size.few_steps, 0.03, 0)
    taught(teacher, plan, _objective_of_labels, _blind(_vehicles(size)), _recipe(size), seed)
    return teacher


def _transferred_row(size: Size, seed: int) -> Iterator[Row]:
    data = _vehicles(size)
    yield Row("test_errors", evaluate(_transferred(size, seed), data.test).errors, None, seed)
    alone = _network(size, size.depth, seed)
    plan = stages("labels", size.few_steps, 0.1, 0)
    taught(alone, plan, _objective_of_labels, _blind(data), _recipe(size), seed)
    yield Row("test_errors of it without animals", evaluate(alone, data.test).errors, None, seed)


def _elsewhere(size: Size, line: Line) -> Iterator[Row]:
    data = _vehicles(size)

    def errors_at(rate: float) -> int:
        half = size.few_steps // 2
        student, _ = _student(
            size, line, size.small, half, rate, TRIAL_SEED, _blind(data), _transferred(size, 0)
        )
        return evaluate(student, data.validation).errors

    for row in chosen(_rates(size, line), errors_at):
        yield row
    for seed in size.more_seeds:
        own = seed % len(size.seeds)
        student, history = _student(
            size,
            line,
            size.small,
            size.few_steps,
            row.value,
            seed,
            _blind(data),
            _transferred(size, own),
        )
        for metric, value in scores(student, None, data):
            yield Row(metric, value, seed, own, history["seconds"].sum())
