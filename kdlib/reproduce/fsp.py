"""Yim, Joo, Bae and Kim 2017 on CIFAR-10: FSP for speed, small students, ensembles and transfer.

Residual networks (He et al. 2016) of one width throughout, so that the matrices of teacher and student
have the same size. A pair of layers is a stage's input and output, so the second and third pair are
max-pooled. Images are cropped and flipped. Two protocols: ``paper``, with its iterations, for a GPU; and
``short`` for two processor cores: networks half as wide, a teacher of 14 layers trained on 45,000
images, students of 14 or 8 layers that see 5,000, and the other 5,000 to choose learning rates on. All ways
of an experiment have the same total number of steps, in one stage or in two: students trained on labels
alone get twice what the paper gives them, 42,000 instead of 21,000.

Not stated in the paper: batch size, the weight of the FSP loss, flips, how an ensemble averages
(here: probabilities), seeds, and which layer a section begins with. Here: 128 images a step, in
``short`` 64; weight 1 for each pair; Nesterov SGD, its rate divided by ten after one half and three
quarters as in the paper, under one cycle in ``short``. If there are several rates for the first (or
only) stage, a student with half the steps tries each, and the fewest validation errors decide. A
second stage has the rate 0.3, in ``paper`` 0.1. ``faster`` and ``together`` use the rates chosen in
``smaller``; labels alone have the second stages' 0.3 there, which suits them as well (compare
``labels at 0.3`` in ``smaller``), and the copy has 0.1. FitNets have FSP's first stage of 21,000
steps, not the paper's 35,000. Crops are padded by reflection.

Ways: ``labels``; ``soft``, soft targets at T = 4, with labels at weight 0.1; ``fsp``; ``hint``, at the
middle stage, and ``hints``, at all three; ``lambda``, FitNets' second stage; two of them in turn with
`` then ``; two at once with ``+``, the second at weight 0.01. ``copied`` starts from the teacher's weights.

Experiments: ``teachers``; ``smaller``, a student of 8 layers, with two controls: a teacher that has only
BatchNorm's statistics, and one trained on the students' own images alone; ``faster``, a student with the
teacher's own layers; ``together``, ensembles of three students of 8 layers; ``elsewhere``, from animals
to a few images of vehicles.

Metrics: ``test_errors``, ``test_loss``; ``agreement`` with the teacher on the test images and
``divergence`` from it; ``learning_rate``, the first stage's, and ``validation_errors at RATE`` of the
trials; ``validation_accuracy after N steps`` in ``faster``; in ``together`` ``test_errors of three`` by
their mean probabilities, and ``correlation`` of the members' errors and their ``agreement``, averaged over
the three pairs; in ``elsewhere`` errors are among the 4,000 vehicles.
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

from kdlib.data import Data, crop, flip
from kdlib.models import resnet
from kdlib.networks import logits
from kdlib.objectives import FSP, CrossEntropy, Hint, Objective
from kdlib.profiles import pick
from kdlib.recipe import Recipe, non_default_fields
from kdlib.reproduce.settings import TRIAL_SEED, Published, Row, Setting, chosen, unwatched
from kdlib.reproduce.stages import (
    Stage,
    fit_to_the_end,
    images,
    objective_of,
    scores,
    some_images,
    stages,
    taught,
)
from kdlib.seeding import key
from kdlib.training import evaluate, fidelity, keep

VERSION = 1
STAGES = ("stem", "stage1", "stage2", "stage3")
PAIRS = [(ends, ends) for ends in pairwise(STAGES)]
OF_THE_SAME = "of the same images"
# In ``paper`` these would repeat others: all see all images, and labels have one rate.
OF_FEW_IMAGES = ("fsp then labels; teacher of the same images", "labels at 0.3")
LABELS_RATE, FSP_RATE, TUNED_RATE = 0.1, 0.001, 0.03
JOINT = 0.01  # weight of features beside labels; each then gets a rate that suits it
ANIMALS, VEHICLES = (2, 3, 4, 5, 6, 7), (0, 1, 8, 9)


@dataclass(frozen=True)
class Size:
    """The sizes in which the two protocols differ."""

    name: str
    width: int
    depth: int  # the teacher's
    small: int
    images: int | None  # number that students see; None for all
    batch_size: int
    schedule: str
    second: float  # learning rate of a second stage
    weight_decay: float
    teacher_steps: int
    own_steps: int  # for a teacher trained on the students' images
    steps: int  # for a student with the teacher's layers, over all stages
    small_steps: int  # for a student of 8 layers
    small_share: float  # the first stage's share of small_steps
    few: int  # number of images of vehicles
    animal_steps: int  # for a teacher's first training, on animals
    few_steps: int
    validation: int
    teachers: range  # seeds
    students: range  # other seeds, or a student would start like its teacher
    groups: int


SHORT = Size(
    "short",
    width=8,
    depth=14,
    small=8,
    images=5_000,
    batch_size=64,
    schedule="one_cycle",
    second=0.3,
    weight_decay=5e-4,
    teacher_steps=6 * 351,
    own_steps=10 * 39,
    steps=10 * 78,
    small_steps=10 * 78,
    small_share=0.5,
    few=400,
    animal_steps=3 * 351,
    few_steps=400,
    validation=5_000,
    teachers=range(3),
    students=range(100, 105),
    groups=3,
)
PAPER_SIZE = replace(
    SHORT,
    name="paper",
    width=16,
    depth=26,
    images=None,
    batch_size=128,
    schedule="step",
    second=0.1,
    weight_decay=1e-4,
    teacher_steps=64_000,
    own_steps=64_000,
    steps=42_000,
    small_steps=85_000,
    small_share=21 / 85,
    animal_steps=64_000,
    few_steps=10_000,
    validation=0,
)
SMOKE = replace(
    SHORT,
    name="smoke",
    images=300,
    teacher_steps=2,
    own_steps=2,
    steps=4,
    small_steps=4,
    few=100,
    animal_steps=2,
    few_steps=4,
    validation=300,
    teachers=range(2),
    students=range(100, 102),
    groups=1,
)


@dataclass(frozen=True)
class Line:
    """A way of teaching, and the rates that are tried for its first stage."""

    way: str
    rates: tuple[float, ...]
    paper: float  # the rate in ``paper``, which holds no images out to choose one on
    teacher: str = "teacher"
    start: str = "fresh"  # or "copied" from the teacher, or "shared": one first stage per group
    shuffled: bool = False


def settings() -> list[Setting]:
    sizes = pick(smoke=(SMOKE,), lesson=(SHORT, PAPER_SIZE))
    return [setting for size in sizes for setting in _settings(size)]


def _settings(size: Size) -> Iterator[Setting]:
    for seed in size.teachers:
        run = partial(_teacher_row, size, "teacher", seed)
        yield _setting(size, "teachers", f"teacher, seed {seed}", run)
    for seed in size.teachers if size.images is not None else ():
        run = partial(_teacher_row, size, OF_THE_SAME, seed)
        yield _setting(size, "teachers", f"teacher {OF_THE_SAME}, seed {seed}", run)
    for name, line in _small_lines().items():
        if size.images is not None or name not in OF_FEW_IMAGES:
            yield _setting(size, "smaller", name, partial(_smaller, size, line), line)
    for name, line in _same_lines().items():
        yield _setting(size, "faster", name, partial(_faster, size, line), line)
    for name, line in _group_lines().items():
        yield _setting(size, "together", name, partial(_together, size, line), line)
    for seed in size.teachers:
        run = partial(_transferred_row, size, seed)
        yield _setting(size, "elsewhere", f"teacher, seed {seed}", run)
    for name, line in _few_lines().items():
        yield _setting(size, "elsewhere", name, partial(_elsewhere, size, line), line)


def _setting(size: Size, experiment: str, name: str, run, line: Line | None = None) -> Setting:
    what = "" if line is None else f"{line.way}, {line.teacher}, {line.start}, {line.shuffled}"
    rates = "" if line is None else _rates(size, line)
    fixed = (PAIRS, JOINT, LABELS_RATE, FSP_RATE, TUNED_RATE, VEHICLES, ANIMALS, TRIAL_SEED)
    recipe = f"version {VERSION}, {experiment}, {name}, {non_default_fields(size)}, {what}, {rates}, {fixed}"
    return Setting(experiment, name, size.name, recipe, run)


def _rates(size: Size, line: Line) -> tuple[float, ...]:
    return line.rates if size.validation else (line.paper,)


def _small_lines() -> dict[str, Line]:
    labels, inside = (0.1, 0.3, 1.0), (3e-4, 1e-3, 3e-3)
    of_fsp = partial(Line, "fsp then labels", inside, FSP_RATE)
    of_hints = partial(Line, rates=inside, paper=1e-4)
    return {
        "labels": Line("labels", labels, 0.1),
        "labels at 0.3": Line("labels", (0.3,), 0.1),
        "soft": Line("soft", labels, 0.1),
        "fsp then labels": of_fsp(),
        "hint then labels": of_hints("hint then labels"),
        "hint then lambda": of_hints("hint then lambda"),
        "hint then soft": of_hints("hint then soft"),
        "labels + fsp": Line("labels + fsp", labels, 0.03),
        "fsp then labels; untrained teacher": of_fsp(teacher="untrained"),
        "fsp then labels; teacher of the same images": of_fsp(teacher=OF_THE_SAME),
    }


def _same_lines() -> dict[str, Line]:
    """Lines at the rates chosen for students of 8 layers; labels at the second stages' rate."""
    return {
        "labels": Line("labels", (0.3,), 0.1),
        "labels; copied": Line("labels", (0.1,), 0.1, start="copied"),
        "fsp then labels": Line("fsp then labels", (0.003,), FSP_RATE),
        "fsp then labels; shuffled": Line("fsp then labels", (0.003,), FSP_RATE, shuffled=True),
        "hint then lambda": Line("hint then lambda", (0.001,), 1e-4),
        "hints then lambda": Line("hints then lambda", (0.001,), 1e-4),
        "soft": Line("soft", (0.3,), 0.1),
    }


def _group_lines() -> dict[str, Line]:
    """Lines at the same rates."""
    of_fsp = partial(Line, "fsp then labels", (0.003,), FSP_RATE)
    return {
        "labels": Line("labels", (0.3,), 0.1),
        "fsp, one first stage": of_fsp(start="shared"),
        "fsp, a first stage each": of_fsp(),
        "fsp, shuffled": of_fsp(shuffled=True),
    }


def _few_lines() -> dict[str, Line]:
    labels, inside = (0.03, 0.1, 0.3), (3e-4, 1e-3, 3e-3)
    return {
        "labels": Line("labels", labels, 0.1),
        "soft": Line("soft", labels, 0.1),
        "fsp then labels": Line("fsp then labels", inside, FSP_RATE),
        "hint then labels": Line("hint then labels", inside, 1e-4),
    }


# Errors among the 10,000 test images; the paper prints accuracies.
PAPER = (
    Published("teacher", 809, "teachers", "teacher"),
    Published("8 layers: labels", 1209, "smaller", "labels"),
    Published("8 layers: FitNets", 1143, "smaller", "hint then lambda"),
    Published("8 layers: FSP", 1130, "smaller", "fsp then labels"),
    Published("teacher's layers: labels", 936, "faster", "labels"),
    Published("teacher's layers: its weights copied", 796, "faster", "labels; copied"),
    Published("teacher's layers: FitNets", 828, "faster", "hint then lambda"),
    Published("teacher's layers: FitNets, three hints", 1091, "faster", "hints then lambda"),
    Published("teacher's layers: FSP", 786, "faster", "fsp then labels"),
    Published("teacher's layers: FSP, shuffled", 792, "faster", "fsp then labels; shuffled"),
)


# Data and teachers


_data, _few = partial(images, "cifar10"), partial(some_images, "cifar10")


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
    return resnet(depth, width=size.width, channels=channels, seed=seed)


@cache
def _teacher(size: Size, kind: str, seed: int) -> nn.Module:
    if kind == "untrained":
        return _untrained(size, seed)
    if kind == OF_THE_SAME:
        return _kept_teacher(size, _few(size), size.own_steps, seed)
    return _kept_teacher(size, _data(size), size.teacher_steps, seed)


@torch.no_grad()
def _untrained(size: Size, seed: int) -> nn.Module:
    """A new network with BatchNorm's statistics; without them features grow with every layer."""
    network = _network(size, size.depth, seed)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # so that BatchNorm takes the plain mean
    network.train()(_few(size).train.inputs[:1000])
    return network


def _kept_teacher(size: Size, data: Data, steps: int, seed: int) -> nn.Module:
    recipe = _recipe(size, iterations=steps, learning_rate=LABELS_RATE)
    recipe = replace(recipe, batch_size=128)
    build = partial(_network, size, size.depth)
    return keep(lambda seed: build(seed=seed), CrossEntropy(), unwatched(data), recipe, seed=seed)


def _teacher_row(size: Size, kind: str, seed: int) -> Iterator[Row]:
    errors = evaluate(_teacher(size, kind, seed), _data(size).test).errors
    yield Row("test_errors", errors, teacher_seed=seed)


def _objective(by: str, teacher: nn.Module | None, shuffle_seed: int | None = None) -> Objective:
    inside = {
        "hint": partial(Hint, teacher, hint="stage2", guided="stage2"),
        "hints": partial(Hint, teacher, hint=STAGES[1:], guided=STAGES[1:]),
        "fsp": partial(FSP, teacher, pairs=PAIRS, shuffle_seed=shuffle_seed),
    }
    return objective_of(by, teacher, inside, JOINT)


# Single students


def _student(
    size: Size,
    line: Line,
    depth: int,
    steps: int,
    rate: float,
    seed: int,
    data: Data,
    teacher: nn.Module,
) -> tuple[nn.Module, pd.DataFrame]:
    student = copy.deepcopy(teacher) if line.start == "copied" else _network(size, depth, seed)
    objective = partial(_objective, teacher=teacher, shuffle_seed=seed if line.shuffled else None)
    share = 0.5 if depth == size.depth else size.small_share
    plan = stages(line.way, steps, rate, size.second, share)
    return student, taught(student, plan, objective, data, _recipe(size), seed)


def _measure(
    size: Size, line: Line, depth: int, steps: int, data: Data, teacher_of, seeds: Sequence[int]
) -> Iterator[Row]:
    """Choose the rate on validation, then train and score the students with it."""

    def errors_at(rate: float) -> int:
        teacher = teacher_of(size.teachers[0])
        blind = unwatched(data)
        half = max(2, steps // 2)
        student, _ = _student(size, line, depth, half, rate, TRIAL_SEED, blind, teacher)
        return evaluate(student, data.validation).errors

    rate, rows = chosen(_rates(size, line), errors_at)
    yield from rows
    watched = data if depth == size.depth else unwatched(data)
    for seed in seeds:
        own = size.teachers[seed % len(size.teachers)]
        student, history = _student(size, line, depth, steps, rate, seed, watched, teacher_of(own))
        alone = line.way == "labels" and line.start == "fresh"
        beside = (None, None) if alone else (teacher_of(own), own)
        for metric, value in scores(student, beside[0], data):
            yield Row(metric, value, seed, beside[1], history["seconds"].sum())
        for epoch in history.itertuples():
            if not math.isnan(epoch.validation_accuracy):
                metric = f"validation_accuracy after {epoch.step} steps"
                yield Row(metric, epoch.validation_accuracy, seed, beside[1])


def _smaller(size: Size, line: Line) -> Iterator[Row]:
    teacher_of = partial(_teacher, size, line.teacher)
    return _measure(size, line, size.small, size.small_steps, _few(size), teacher_of, size.students)


def _faster(size: Size, line: Line) -> Iterator[Row]:
    teacher_of = partial(_teacher, size, line.teacher)
    return _measure(size, line, size.depth, size.steps, _few(size), teacher_of, size.students[:3])


def _together(size: Size, line: Line) -> Iterator[Row]:
    """Train and score groups of three students, all with the same number of steps."""
    data = _few(size)
    *_, last = plan = stages(
        line.way, size.small_steps, _rates(size, line)[0], size.second, size.small_share
    )
    for group in range(size.groups):
        seeds = range(1000 + 3 * group, 1003 + 3 * group)
        taught_by = None if line.way == "labels" else group
        members = [_network(size, size.small, seed) for seed in seeds]
        if len(plan) > 1:
            members = _after_first_stage(size, line, plan[0], group, members, seeds)
        for seed, member in zip(seeds, members, strict=True):
            # Its own seed: members that share a first stage have shared its order, too.
            _one_stage(size, member, CrossEntropy(), last, key(seed, 1, "stage"))
            yield Row("test_errors", evaluate(member, data.test).errors, seed, taught_by)
        of_three = partial(Row, student_seed=seeds[0], teacher_seed=taught_by)
        yield of_three("test_errors of three", evaluate(members, data.test).errors)
        yield of_three("correlation", _correlation(members, data))
        alike = [fidelity(a, b, data.test).agreement for a, b in combinations(members, 2)]
        yield of_three("agreement", float(np.mean(alike)))


def _after_first_stage(
    size: Size,
    line: Line,
    stage: Stage,
    group: int,
    members: list[nn.Module],
    seeds: Sequence[int],
) -> list[nn.Module]:
    """The members after their own first stage, or copies of the first member after its first stage."""
    teacher, shared = _teacher(size, line.teacher, group), line.start == "shared"
    for seed, member in zip(seeds, members[:1] if shared else members, strict=False):
        fsp = FSP(teacher, pairs=PAIRS, shuffle_seed=seed if line.shuffled else None)
        _one_stage(size, member, fsp, stage, seed)
    return [copy.deepcopy(members[0]) for _ in seeds] if shared else members


def _one_stage(
    size: Size, student: nn.Module, objective: Objective, stage: Stage, seed: int
) -> None:
    recipe = _recipe(size, iterations=stage.steps, learning_rate=stage.rate)
    fit_to_the_end(student, objective, unwatched(_few(size)), recipe, seed)


def _correlation(members: list[nn.Module], data: Data) -> float:
    """The correlation of two members' errors on the test images, averaged over all pairs."""
    wrong = [logits(net, data.test).argmax(-1) != data.test.labels for net in members]
    table = np.corrcoef(torch.stack(wrong).double().cpu().numpy())
    return float(table[np.triu_indices(len(members), 1)].mean())


# From animals to vehicles


@cache
def _vehicles(size: Size) -> Data:
    data = _data(size)
    few = replace(data, train=data.train.only(VEHICLES)).limit(size.few)
    validation = None if data.validation is None else data.validation.only(VEHICLES)
    return replace(few, test=data.test.only(VEHICLES), validation=validation)


@cache
def _transferred(size: Size, seed: int) -> nn.Module:
    """A teacher trained on animals, then fine-tuned on a few images of vehicles."""
    data = _data(size)
    animals = replace(data, train=data.train.only(ANIMALS))
    teacher = copy.deepcopy(_kept_teacher(size, animals, size.animal_steps, seed))
    return _of_vehicles(size, teacher, TUNED_RATE, seed)


def _of_vehicles(size: Size, network: nn.Module, rate: float, seed: int) -> nn.Module:
    recipe = _recipe(size, iterations=size.few_steps, learning_rate=rate)
    fit_to_the_end(network, CrossEntropy(), unwatched(_vehicles(size)), recipe, seed)
    return network


def _transferred_row(size: Size, seed: int) -> Iterator[Row]:
    test = _vehicles(size).test
    yield Row("test_errors", evaluate(_transferred(size, seed), test).errors, teacher_seed=seed)
    alone = _of_vehicles(size, _network(size, size.depth, seed), LABELS_RATE, seed)
    yield Row("test_errors without animals", evaluate(alone, test).errors, teacher_seed=seed)


def _elsewhere(size: Size, line: Line) -> Iterator[Row]:
    teacher_of = partial(_transferred, size)
    return _measure(
        size, line, size.small, size.few_steps, _vehicles(size), teacher_of, size.students
    )
