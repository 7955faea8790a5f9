"""The course's own experiments on MNIST: does a student gain, from what, and when not?

This is not a paper's protocol. Students have 2 x 800 units (unless the experiment says otherwise) and see
10,000 images for 15 epochs (1,170 steps of 128) under one-cycle SGD; soft targets have weight 0.9, labels
0.1. Every line tries its learning rates with a seed reserved for that, takes the one with the fewest
errors among the 5,000 validation images, and trains five students with it. There is one teacher of each
kind, so intervals cover the students' seeds only.

Experiments: ``teachers``; ``controls`` and the headline; ``teacher``, its quality; ``images``, the
size of the transfer set at an equal number of steps; ``all images``, six epochs on all of them;
``weak teacher``; ``annet``, a blog's two networks, with its loss as printed and ``mended``; ``grid 30``
and ``grid 800``, temperature by alpha at two widths, by ``fit_cohort`` (all other lines by ``fit``).

Metrics: ``test_errors``, ``validation_errors`` (counts), ``test_loss`` (nats), ``test_ece``;
``learning_rate``, the one taken; ``validation_errors at RATE`` of the trial (nan: it diverged).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib.data import Data, Split, load, shift
from kdlib.losses import soften
from kdlib.models import anNet, anNet_deep, mlp
from kdlib.networks import logits
from kdlib.objectives import (
    Batch,
    CrossEntropy,
    LogitMatching,
    Objective,
    Outputs,
    SoftTargets,
)
from kdlib.profiles import pick
from kdlib.recipe import Recipe, non_default_fields
from kdlib.reproduce.settings import TRIAL_SEED, Row, Setting, chosen, unwatched
from kdlib.reproduce.stages import fit_to_the_end, scores
from kdlib.training import evaluate, fit_cohort, keep

VERSION = 1
ALPHA = 0.9
TEMPERATURES, ALPHAS = (1, 2, 4, 8, 20), (0, 0.5, 0.9, 1)

Way = tuple[Objective, bool]  # the objective, and whether the images are shifted


@dataclass(frozen=True)
class Student:
    """Everything except the way and the seed that affects a student's numbers."""

    teacher: str = "24 epochs"
    images: int = 10_000
    iterations: int = 1_170
    network: str = "2 x 800"
    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


def settings() -> list[Setting]:
    student = Student()
    lines: list[Setting] = [_teacher_line(name) for name in TEACHERS]
    for way in WAYS:
        lines.append(
            _line("controls", way, replace(student, teacher=_OTHERS.get(way, "24 epochs")))
        )
    for teacher in ("same images", "8 epochs", "12 epochs"):
        for way in ("T = 4", "T = 20", "class means"):
            if (teacher, way) != ("same images", "T = 20"):
                lines.append(_line("teacher", way, replace(student, teacher=teacher), teacher))
    lines.append(_line("weak teacher", "T = 20", replace(student, teacher="small")))
    for images in (1_000, 3_000, 30_000):
        for way in ("labels", "labels, moved", "class means", "T = 20"):
            of_size = replace(student, images=images)
            lines.append(_line("images", way, of_size, f"{images:,} images"))
    for way in ("labels", "labels, moved", "T = 20"):
        whole = replace(student, images=55_000, iterations=6 * 429, rates=(0.03, 0.1, 0.3))
        lines.append(_line("all images", way, whole))
    for way in ("labels", "as printed", "mended"):
        net = Student("anNet_deep", network="anNet", rates=(0.003, 0.01, 0.03, 0.1))
        lines.append(_line("annet", way, net))
    for width in (30, 800):
        for way in GRID:
            lines.append(_line(f"grid {width}", way, replace(student, network=f"2 x {width}")))
    return lines


def _line(experiment: str, way: str, student: Student, note: str = "") -> Setting:
    student = replace(
        student,
        images=pick(smoke=student.images // 100 + 40, lesson=student.images),
        iterations=pick(smoke=2, lesson=student.iterations),
        rates=pick(smoke=student.rates[:2], lesson=student.rates),
        seeds=pick(smoke=(0, 1), lesson=student.seeds),
    )
    return Setting(
        experiment,
        f"{way}; {note}" if note else way,
        pick(smoke="smoke", lesson="short"),
        f"version {VERSION}, {experiment}, {way}, alpha {ALPHA}, trial {TRIAL_SEED}, "
        f"{_student_text(student)}, {_teacher_text(student.teacher)}",
        partial(_measure, (WAYS | ANNET_WAYS | GRID)[way], student, experiment.startswith("grid")),
    )


def _student_text(student: Student) -> str:
    """The non-default fields only, so that adding a field keeps the hashes of finished lines."""
    return f"student {non_default_fields(student)}"


def _measure(
    way: Callable[[Data, Student], Way], student: Student, together: bool
) -> Iterator[Row]:
    """Choose the rate on validation, then train and score the students with it."""
    few = _data().limit(student.images)
    objective, moved = way(few, student)
    recipe = Recipe(iterations=student.iterations, augment=shift(2) if moved else None)

    def errors_at(rate: float) -> int:
        trial = replace(recipe, learning_rate=rate)
        (model,), _ = _trained(student, objective, few, trial, [TRIAL_SEED], together)
        return evaluate(model, few.validation).errors

    rate, rows = chosen(student.rates, errors_at)
    yield from rows
    taught_by = None if isinstance(objective, CrossEntropy) else 0
    final = replace(recipe, learning_rate=rate)
    trained, seconds = _trained(student, objective, few, final, student.seeds, together)
    for seed, model in zip(student.seeds, trained, strict=True):
        for metric, value in scores(model, None, few, more=True):
            yield Row(metric, value, seed, taught_by, seconds / len(trained))


def _trained(
    student: Student,
    objective: Objective,
    data: Data,
    recipe: Recipe,
    seeds: Sequence[int],
    together: bool,
) -> tuple[list[nn.Module], float]:
    """One student per seed, and the seconds for all of them together."""
    data = unwatched(data)
    build = partial(_build, student.network)
    started = time.perf_counter()
    if together:
        trained = fit_cohort(build, [objective], data, recipe, seeds, progress=False).models
        return trained, time.perf_counter() - started
    trained = [build(seed) for seed in seeds]
    for seed, model in zip(seeds, trained, strict=True):
        fit_to_the_end(model, objective, data, recipe, seed)
    return trained, time.perf_counter() - started


def _build(network: str, seed: int) -> nn.Module:
    if network == "anNet":
        return anNet(seed=seed)
    return mlp(int(network.removeprefix("2 x ")), seed=seed)


# Teaching signals


def _by_index(split: Split, rows: Tensor) -> Tensor:
    """A table of logits by sample index, nan for samples that are not in the split."""
    table = rows.new_full((int(split.index.max()) + 1, rows.shape[-1]), math.nan)  # (index, C)
    table[split.index] = rows
    return table


def _own(few: Data, student: Student) -> Tensor:
    return logits(_teacher(student.teacher), few.train)  # (N, C)


def _class_means(few: Data, student: Student) -> Tensor:
    own, labels = _own(few, student), few.train.labels
    means = torch.stack([own[labels == k].mean(0) for k in range(own.shape[-1])])  # (C, C)
    return means[labels]


def _shuffled(few: Data, student: Student, groups: Tensor) -> Tensor:
    """The teacher's logits, where each image gets those of another image in its group."""
    own, draws = _own(few, student), torch.Generator().manual_seed(0)
    out = own.clone()
    for group in groups.unique():
        rows = (groups == group).nonzero().squeeze(-1)
        rows = rows[torch.randperm(len(rows), generator=draws)]
        out[rows] = own[rows.roll(1)]
    return out


def _equally_uncertain(few: Data, student: Student, temperature: float = 20.0) -> Tensor:
    """Logits of smoothed labels whose entropy at T equals the mean entropy of the soft targets."""
    from scipy.optimize import brentq

    targets = soften(_own(few, student), temperature).double()
    wanted = torch.special.entr(targets).sum(-1).mean().item()
    one_hot = F.one_hot(few.train.labels, targets.shape[-1]).double()  # (N, C)

    def excess(gap: float) -> float:
        return torch.special.entr(soften(gap * one_hot[0])).sum().item() - wanted

    return (temperature * brentq(excess, 0, 50) * one_hot).float()


def _soft(rows: Callable[[Data, Student], Tensor]) -> Callable[[Data, Student], Way]:
    def way(few: Data, student: Student) -> Way:
        return SoftTargets(_by_index(few.train, rows(few, student)), 20, ALPHA), False

    return way


def _of_teacher(temperature: float, moved: bool = False) -> Callable[[Data, Student], Way]:
    def way(few: Data, student: Student) -> Way:
        return SoftTargets(_teacher(student.teacher), temperature, ALPHA), moved

    return way


WAYS: dict[str, Callable[[Data, Student], Way]] = {
    "labels": lambda few, student: (CrossEntropy(), False),
    "labels, moved": lambda few, student: (CrossEntropy(), True),
    "label smoothing 0.1": lambda few, student: (CrossEntropy(label_smoothing=0.1), False),
    "T = 1": _of_teacher(1),
    "T = 4": _of_teacher(4),
    "T = 20": _of_teacher(20),
    "T = 20, moved": _of_teacher(20, moved=True),
    "logit matching": lambda few, student: (LogitMatching(_teacher(student.teacher)), False),
    "smoothed labels of equal entropy": _soft(_equally_uncertain),
    "class means": _soft(_class_means),
    "shuffled within a class": _soft(lambda few, s: _shuffled(few, s, few.train.labels)),
    "shuffled over all": _soft(
        lambda few, s: _shuffled(few, s, torch.zeros_like(few.train.labels))
    ),
    "teacher of the same images": _of_teacher(20),
    "untrained teacher": _of_teacher(20),
}
_OTHERS = {"teacher of the same images": "same images", "untrained teacher": "untrained"}


class AsPrinted(Objective):
    """The blog's loss as printed: it uses the teacher's logits as the student's and averages over classes."""

    def __init__(self, teacher: nn.Module, temperature: float, alpha: float) -> None:
        self.teacher, self.temperature, self.alpha = teacher, temperature, alpha
        self.key = f"AsPrinted({temperature}, {alpha})"

    def prepare(self, student: nn.Module, split: Split, recipe: Recipe) -> None:
        self.table = _by_index(split, logits(self.teacher, split))

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        softened = self.table[batch.index] / self.temperature
        soft = F.kl_div(softened.log_softmax(-1), softened.softmax(-1), reduction="none").mean()
        hard = F.cross_entropy(student.logits.float(), batch.labels)
        return {
            "soft": self.alpha * self.temperature**2 * soft,
            "hard": (1 - self.alpha) * hard,
        }


ANNET_WAYS: dict[str, Callable[[Data, Student], Way]] = {
    "as printed": lambda few, student: (AsPrinted(_teacher(student.teacher), 2, 0.5), False),
    "mended": lambda few, student: (SoftTargets(_teacher(student.teacher), 2, 0.5), False),
}


def _on_grid(temperature: float, alpha: float) -> Callable[[Data, Student], Way]:
    return lambda few, s: (SoftTargets(_teacher(s.teacher), temperature, alpha), False)


GRID: dict[str, Callable[[Data, Student], Way]] = {
    f"T = {T}, alpha = {alpha}": _on_grid(T, alpha)
    for T in TEMPERATURES
    for alpha in ALPHAS
    if alpha or T == 1  # without soft targets the temperature does not matter
}


# Each teacher: network, images, epochs, and whether its images are shifted.

TEACHERS: dict[str, tuple[str, int, int, bool]] = {
    "24 epochs": ("dropout 0.2", 55_000, 24, True),
    "12 epochs": ("dropout 0.2", 55_000, 12, True),
    "8 epochs": ("dropout 0.5", 55_000, 8, True),
    "same images": ("dropout 0.5", 10_000, 24, True),
    "small": ("2 x 30", 10_000, 15, False),
    "untrained": ("dropout 0.5", 10_000, 0, False),
    "anNet_deep": ("anNet_deep", 10_000, 5, False),
}
_BUILD: dict[str, Callable[[int], nn.Module]] = {
    "dropout 0.2": lambda seed: mlp(1200, dropout=0.2, seed=seed),
    "dropout 0.5": lambda seed: mlp(1200, dropout=0.5, seed=seed),
    "2 x 30": lambda seed: mlp(30, seed=seed),
    "anNet_deep": lambda seed: anNet_deep(seed=seed),
}


def _teacher_text(name: str) -> str:
    return f"teacher {TEACHERS[name]}"


def _teacher_line(name: str) -> Setting:
    def measure() -> Iterator[Row]:
        started = time.perf_counter()
        model = _teacher(name)
        seconds = time.perf_counter() - started
        for metric, value in scores(model, None, _data(), more=True):
            yield Row(metric, value, None, 0, seconds)

    protocol = pick(smoke="smoke", lesson="short")
    return Setting("teachers", name, protocol, f"version {VERSION}, {_teacher_text(name)}", measure)


@cache
def _data() -> Data:
    return load(pick(smoke="digits", lesson="mnist"))


@cache
def _teacher(name: str) -> nn.Module:
    network, images, epochs, moved = TEACHERS[name]
    build = _BUILD[network]
    if epochs == 0:
        return build(0)
    data = _data().limit(pick(smoke=100, lesson=images))
    epochs = pick(smoke=1, lesson=epochs)
    return keep(
        build, CrossEntropy(), data, Recipe(epochs=epochs, augment=shift(2) if moved else None)
    )
