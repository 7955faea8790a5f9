"""Hinton, Vinyals and Dean 2015 on all of MNIST (section 3), and specialists (section 5) on Fashion-MNIST.

Teachers have 2 x 1200 units, dropout, and images shifted by up to two pixels; students have 2 x 800. They
see all 60,000 training images unless the transfer set is the question; ``left out``, ``few labels`` and
``specialists`` hold 5,000 out for validation. Teachers (three, or as many as ``TEACHER_SEEDS`` has) teach
the five students in turn, so intervals over students partly include the teachers' spread. Soft
targets have weight 0.9 and labels 0.1; they stand alone if a transfer set lacks classes or labels.

Not stated in the paper: optimizer, rates, epochs, dropout rate, limit of the weights, distribution
of the jitter, weight of the labels, T and the student's size when digits are left out, seeds. Here:
Nesterov SGD under one cycle, batches of 128. If there are several rates, a student with a quarter
of the steps and a seed reserved for trials tries each on 55,000 images, and the fewest errors among
the other 5,000 decide. A single rate is the one chosen in ``students`` for that loss (it may not be
the best for ``logit matching`` or for images other than digits). The weights have no limit: no
unit's norm exceeds 3.4, and arXiv 1207.0580, which the paper follows, allows 3.9.

Experiments: ``teachers``; ``students``, the headline; ``left out``, digits that the transfer set lacks;
``few labels``, 3 % of them; ``transfer set``, unlabelled, with a teacher trained on one half of the
images; ``ensemble``, ten networks of 2 x 300; ``temperature``, at two widths with one teacher, by
``fit_cohort`` (everything else by ``fit``); ``label smoothing``, of a teacher; ``specialists``.

Metrics: ``test_errors``, ``validation_errors`` (counts); ``test_loss`` (nats); ``test_ece``;
``agreement`` with the teacher on the test images (a fraction) and ``divergence`` from it (KL at T = 1, in
nats); ``learning_rate``, the one taken, and ``validation_errors at RATE`` of the trials (nan: it
diverged). ``left out`` adds ``errors on them`` and, after raising the bias of the missing digits in one
of three ways, ``bias by WAY``, ``test_errors by WAY`` and ``errors on them by WAY``: ``validation``, the
fewest errors among 5,000 images; ``mass``, their mean probability there, which needs only their share
(of the same 5,000); ``test``, as in the paper, for comparison only. ``specialists`` has ``test_errors of
WHAT``, ``validation_errors of WHAT, CLUSTERS at RATE`` of the trials, and the choices. (Clusters come from
predictions on validation images, softened at T = 4; a class alone gets no specialist. Their number is the
best one for the specialists; the controls have the same number of steps.)
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product

import torch
from torch import Tensor, nn

from kdlib.class_subsets.omitted import bias_by_errors, bias_by_mass
from kdlib.class_subsets.specialists import (
    clusters,
    combine,
    dustbin_correction,
    specialist_data,
    specialist_of,
)
from kdlib.data import Data, Split, load, shift
from kdlib.losses import soften
from kdlib.models import mlp
from kdlib.networks import logits
from kdlib.objectives import CrossEntropy, LogitMatching, Objective, SoftTargets
from kdlib.profiles import pick
from kdlib.recipe import Recipe, non_default_fields
from kdlib.reproduce.settings import TRIAL_SEED, Published, Row, Setting, chosen, unwatched
from kdlib.reproduce.stages import Networks, fit_to_the_end, scores
from kdlib.training import evaluate, fit_cohort, keep

VERSION = 1
ALPHA = 0.9
EPOCH = 468  # steps of 128 images among 60,000
FEW = 1_800  # 3 % of the labels
TEMPERATURES = (1, 2, 4, 8, 20, 40)
RATES = (0.01, 0.03, 0.1, 0.3)
SEEDS = (0, 1, 2, 3, 4)
MEMBER, ENSEMBLE = "member", "ten members"


@dataclass(frozen=True)
class Teacher:
    """Everything except the seed that shapes a teacher."""

    width: int = 1200
    dropout: float = 0.2
    rate: float = 0.05
    steps: int = 50 * EPOCH
    images: str = "all"
    moved: bool = True
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Line:
    """Everything except the seed that affects a student's numbers."""

    way: str
    teacher: str = "teacher"
    images: str = "all"
    network: str = "2 x 800"
    steps: int = 12 * EPOCH
    rates: tuple[float, ...] = RATES
    left_out: tuple[int, ...] = ()
    held_out: bool = False  # whether 5,000 images are held out for validation
    keep: str = "last"
    together: bool = False  # by fit_cohort, with the first teacher for all students


TEACHERS = {
    "teacher": Teacher(),
    "of six epochs": Teacher(steps=6 * EPOCH),
    "label-smoothed": Teacher(steps=6 * EPOCH, label_smoothing=0.1),
    "of a half": Teacher(images="own half", steps=10 * EPOCH),
    "of few labels": Teacher(images="few labels", steps=4 * EPOCH),
    "member": Teacher(width=300, dropout=0.0, rate=0.1, moved=False, steps=8 * EPOCH),
}
TEACHER_SEEDS = {  # students use them in turn
    "teacher": range(3),
    "of six epochs": range(1),
    "label-smoothed": range(1),
    "of a half": range(1),
    "of few labels": range(5),
    "member": range(100, 110),  # so that no student starts like a member of its ensemble
}
SPECIALISTS = Teacher(width=300, dropout=0.0, rate=0.1, moved=False, steps=6 * EPOCH)
SPECIALIST_STEPS, COUNTS, SPECIALIST_RATES = 2 * EPOCH, (4, 5), (0.01, 0.03)
CONTROLS = ("trained on", "ensemble")  # all the steps go to the generalist, or to copies of it

NO_3S, ONLY_7S_AND_8S = "no 3s; T = 20, alone", "only 7s and 8s; T = 20, alone"

# Section 3: errors among the 10,000 test images.
PAPER = (
    Published("teacher, 2 x 1200", 67, "teachers", "teacher"),
    Published("student, 2 x 800, trained on labels", 146, "students", "labels"),
    Published("student trained on soft targets, T = 20", 74, "students", "T = 20"),
    Published("no 3s in the transfer set", 206, "left out", NO_3S),
    Published("no 3s: errors on the 3s", 133, "left out", NO_3S, "errors on them"),
    Published("no 3s, bias chosen on test", 109, "left out", NO_3S, "test_errors by test"),
    Published(
        "no 3s, bias chosen on test: errors on the 3s",
        14,
        "left out",
        NO_3S,
        "errors on them by test",
    ),
    Published("only 7s and 8s", 4_730, "left out", ONLY_7S_AND_8S),
    Published(
        "only 7s and 8s, biases chosen on test",
        1_320,
        "left out",
        ONLY_7S_AND_8S,
        "test_errors by test",
    ),
)


def settings() -> list[Setting]:
    found: dict[tuple[str, str], Setting] = {}
    for experiment, lines in _lines().items():
        for name, line in lines.items():
            teacher = _networks_of(line.teacher)
            for seed in TEACHER_SEEDS[teacher]:  # before its first student
                key = "teachers", f"{teacher}, seed {seed}"
                run = partial(_measure_teacher, teacher, seed)
                found.setdefault(key, _setting(*key, TEACHERS[teacher], run))
            found[experiment, name] = _setting(experiment, name, line, partial(_measure, line))
    ten = _setting("ensemble", ENSEMBLE, TEACHERS[MEMBER], _ensemble)
    specialists = _setting("specialists", "all", SPECIALISTS, _specialists)
    return [*found.values(), ten, specialists]


def _lines() -> dict[str, dict[str, Line]]:
    alone = {"way": "T = 20, alone", "rates": (0.03,)}  # as in students
    no_3s = {"left_out": (3,), "held_out": True, "steps": 8 * EPOCH}
    only_7_8 = no_3s | {"left_out": (0, 1, 2, 3, 4, 5, 6, 9)}
    few = {"images": "few labels", "held_out": True, "steps": 1_400}
    narrow = {"network": "2 x 300", "rates": (0.01, 0.03, 0.1), "steps": 8 * EPOCH}
    return {
        "students": {
            "labels": Line("labels"),
            "labels, moved": Line("labels, moved"),
            "T = 20": Line("T = 20"),
            "logit matching": Line("logit matching", rates=(0.03,)),
            "labels, twice as long": Line("labels", rates=(0.1,), steps=24 * EPOCH),
            "T = 20, twice as long": Line("T = 20", rates=(0.03,), steps=24 * EPOCH),
        },
        "left out": {
            NO_3S: Line(**alone, **no_3s),
            "no 3s; T = 20": Line("T = 20", rates=(0.03,), **no_3s),
            "no 3s; labels": Line("labels", rates=(0.1,), **no_3s),
            ONLY_7S_AND_8S: Line(**alone, **only_7_8),
        },
        "few labels": {
            "labels, to the end": Line("labels", **few),
            # The rate chosen for ``to the end``.
            "labels, stopped early": Line("labels", keep="best", rates=(0.1,), **few),
            "labels, moved": Line("labels, moved", **few),
            "T = 20": Line("T = 20", **few),
            "T = 20; teacher of the same labels": Line("T = 20", "of few labels", **few),
        },
        "transfer set": {
            images: Line(**alone, teacher="of a half", images=images, steps=4 * EPOCH)
            for images in ("own half", "other half", "Fashion-MNIST", "noise")
        },
        "ensemble": {
            "T = 4 of ten": Line("T = 4", ENSEMBLE, **narrow),
            "T = 4 of one member": Line("T = 4", MEMBER, **narrow),
        },
        "temperature": {
            f"{way}; {network}": Line(way, network=network, steps=4 * EPOCH, together=True)
            for network in ("2 x 30", "2 x 300")
            for way in ("labels", *(f"T = {T}" for T in TEMPERATURES))
        },
        "label smoothing": {
            "T = 4; usual teacher": Line("T = 4", "of six epochs", **narrow),
            "T = 4; label-smoothed teacher": Line("T = 4", "label-smoothed", **narrow),
        },
    }


def _setting(experiment: str, name: str, what: Teacher | Line, run: Callable) -> Setting:
    parts = [f"version {VERSION}, {experiment}, {name}, alpha {ALPHA}, {non_default_fields(what)}"]
    if isinstance(what, Line):
        parts.append(f"few {FEW}, seeds {SEEDS}, trial {TRIAL_SEED}")
        if not what.way.startswith("labels"):
            networks = _networks_of(what.teacher)
            teacher = non_default_fields(TEACHERS[networks])
            parts.append(f"teacher {teacher}, {TEACHER_SEEDS[networks]}")
    if what is SPECIALISTS:
        parts.append(f"{SPECIALIST_STEPS}, {COUNTS}, {SPECIALIST_RATES}, {SEEDS}, {TRIAL_SEED}")
    return Setting(experiment, name, pick(smoke="smoke", lesson="paper"), ", ".join(parts), run)


def _networks_of(teacher: str) -> str:
    return MEMBER if teacher == ENSEMBLE else teacher


# Students


def _measure(line: Line) -> Iterator[Row]:
    """Choose the rate on validation, then train and score the students with it."""
    rates = pick(smoke=line.rates[:2], lesson=line.rates)
    line = replace(line, steps=pick(smoke=2, lesson=line.steps), rates=rates)
    rate, rows = chosen(rates, partial(_trial_errors, line))
    yield from rows
    for seed, student, data, seconds in _trained(line, rate, pick(smoke=(0, 1), lesson=SEEDS)):
        teacher, teacher_seed = _teacher_of(line, seed)
        for metric, value in _scores(student, teacher, data, line.left_out):
            yield Row(metric, value, seed, teacher_seed, seconds)


def _trial_errors(line: Line, rate: float) -> int:
    """Validation errors after a quarter of the steps."""
    line = replace(line, steps=max(1, line.steps // 4), held_out=True)
    ((_, student, data, _),) = _trained(line, rate, [TRIAL_SEED])
    return evaluate(student, data.validation).errors


def _trained(
    line: Line, rate: float, seeds: Sequence[int]
) -> Iterator[tuple[int, nn.Module, Data, float]]:
    """Yield each seed, its student, the data and the seconds of training."""

    def build(seed: int) -> nn.Module:
        return mlp(int(line.network.removeprefix("2 x ")), seed=seed)

    augment = shift(2) if line.way.endswith("moved") else None
    recipe = Recipe(iterations=line.steps, learning_rate=rate, augment=augment, keep=line.keep)
    if line.together:
        data, objective = _images(line, seeds[0]), _objective(line, seeds[0])
        started = time.perf_counter()
        cohort = fit_cohort(build, [objective], unwatched(data), recipe, seeds, progress=False)
        seconds = (time.perf_counter() - started) / len(seeds)
        for seed, student in zip(seeds, cohort.models, strict=True):
            yield seed, student, data, seconds
        return
    for seed in seeds:
        data, objective, student = _images(line, seed), _objective(line, seed), build(seed)
        watched = data if line.keep == "best" else unwatched(data)
        history = fit_to_the_end(student, objective, watched, recipe, seed)
        yield seed, student, data, history.frame["seconds"].sum()


def _objective(line: Line, seed: int) -> Objective:
    if line.way.startswith("labels"):
        return CrossEntropy()
    return _taught(line.way, line.teacher, _teacher_of(line, seed)[1])


@cache  # trials and students share the teacher's logits
def _taught(way: str, name: str, teacher_seed: int | None) -> Objective:
    teacher = _networks(name, teacher_seed)
    if way == "logit matching":
        return LogitMatching(teacher)
    temperature, _, alone = way.removeprefix("T = ").partition(", ")
    return SoftTargets(teacher, float(temperature), 1.0 if alone else ALPHA)


def _scores(
    student: Networks, teacher: Networks | None, data: Data, left_out: Sequence[int]
) -> Iterator[tuple[str, float]]:
    yield from scores(student, teacher, data, more=True)
    if left_out:
        yield from _put_right(student, data, left_out)


def _put_right(
    student: nn.Module, data: Data, left_out: Sequence[int]
) -> Iterator[tuple[str, float]]:
    """Errors after raising the bias of the missing digits, chosen in each of three ways."""
    validation, test = (logits(student, split) for split in (data.validation, data.test))
    of_them = torch.isin(data.test.labels, torch.tensor(left_out, device=test.device))
    share = torch.isin(data.validation.labels.cpu(), torch.tensor(left_out)).double().mean().item()
    yield "errors on them", int((test.argmax(-1) != data.test.labels)[of_them].sum())
    for way, bias in (
        ("validation", bias_by_errors(validation, data.validation.labels, left_out)),
        ("mass", bias_by_mass(validation, left_out, share)),
        ("test", bias_by_errors(test, data.test.labels, left_out)),
    ):
        raised = test.clone()
        raised[:, list(left_out)] += bias
        wrong = raised.argmax(-1) != data.test.labels
        yield f"bias by {way}", bias
        yield f"test_errors by {way}", int(wrong.sum())
        yield f"errors on them by {way}", int(wrong[of_them].sum())


# Images


@cache
def _load(name: str, held_out: bool) -> Data:
    name = pick(smoke="digits", lesson=name)
    return load(name) if held_out else load(name, validation=0)


def _images(what: Line | Teacher, seed: int) -> Data:
    """A student's transfer set, or a teacher's training images."""
    held_out = isinstance(what, Line) and what.held_out or what.images == "few labels"
    data = _load("mnist", held_out)
    if isinstance(what, Line) and what.left_out:
        data = replace(data, train=data.train.without(what.left_out))
    if what.images == "few labels":
        own = seed % len(TEACHER_SEEDS["of few labels"])
        return data.limit(pick(smoke=50, lesson=FEW), seed=own)
    if what.images == "all":
        return data
    return replace(data, train=_half(what.images, data.train))


def _half(name: str, digits: Split) -> Split:
    """Half of the digits, or as many other images; only ``own half`` has labels."""
    half = len(digits) // 2  # their order depends on a hash of their pixels
    rows = torch.arange(len(digits), device=digits.device)
    own = digits.select(rows[:half])
    if name == "own half":
        return own
    if name == "other half":
        return digits.select(rows[half:]).unlabelled()
    if name == "Fashion-MNIST":
        images = _load("fashion_mnist", False).train.inputs[:half]
    else:
        images = torch.rand(own.inputs.shape, generator=torch.Generator().manual_seed(0))
    return Split(_as_pale_as(own.inputs, images), None, own.index)


def _as_pale_as(digits: Tensor, images: Tensor) -> Tensor:
    """Rescale the images so that black and white have the digits' values."""
    low, high = digits.min(), digits.max()
    grey = (images - images.min()) / (images.max() - images.min())
    return low + grey.to(digits) * (high - low)


# Teachers


def _measure_teacher(name: str, seed: int) -> Iterator[Row]:
    started = time.perf_counter()
    network = _teacher(name, seed)
    seconds = time.perf_counter() - started
    for metric, value in scores(network, None, _load("mnist", False), more=True):
        yield Row(metric, value, None, seed, seconds)


def _ensemble() -> Iterator[Row]:
    members, _ = _teacher_of(Line("T = 4", ENSEMBLE), 0)
    for metric, value in scores(members, None, _load("mnist", False), more=True):
        yield Row(metric, value)


def _teacher_of(line: Line, student: int) -> tuple[Networks | None, int | None]:
    """A student's teacher, and the teacher's seed if it is a single network."""
    if line.way.startswith("labels"):
        return None, None
    seed = None
    if line.teacher != ENSEMBLE:
        seeds = TEACHER_SEEDS[line.teacher]
        seed = seeds[0 if line.together else student % len(seeds)]
    return _networks(line.teacher, seed), seed


def _networks(name: str, seed: int | None) -> Networks:
    if name == ENSEMBLE:
        return [_teacher(MEMBER, member) for member in TEACHER_SEEDS[MEMBER]]
    return _teacher(name, seed)


@cache
def _teacher(name: str, seed: int) -> nn.Module:
    what = TEACHERS[name]
    return keep(
        lambda seed: mlp(pick(smoke=8, lesson=what.width), dropout=what.dropout, seed=seed),
        CrossEntropy(what.label_smoothing),
        unwatched(_images(what, seed)),
        _recipe(what),
        seed,
    )


def _recipe(what: Teacher) -> Recipe:
    return Recipe(
        iterations=pick(smoke=2, lesson=what.steps),
        learning_rate=what.rate,
        augment=shift(2) if what.moved else None,
    )


# Specialists

Answers = dict[str, Tensor]  # probabilities (N, C), by the name of their source


def _specialists() -> Iterator[Row]:
    """Choose the number of specialists and the rates on validation, then score five generalists."""
    data, generalist = _generalist(TRIAL_SEED)
    trials: dict[str, dict[tuple[int, float], int]] = {}
    for count, rate in pick(smoke=[(3, 0.01)], lesson=list(product(COUNTS, SPECIALIST_RATES))):
        rates = dict.fromkeys(("specialists", *CONTROLS), rate)
        answers = _answers(generalist, data, data.validation, count, rates, TRIAL_SEED)
        for what, errors in _wrong(answers, data.validation).items():
            trials.setdefault(what, {})[count, rate] = errors
            yield Row(f"validation_errors of {what}, {count} at {rate:g}", errors, TRIAL_SEED)
    count, rate = min(trials["specialists"], key=trials["specialists"].get)
    rates = {"specialists": rate}
    for what in CONTROLS:
        of_count = {r: errors for (c, r), errors in trials[what].items() if c == count}
        rates[what] = min(of_count, key=of_count.get)
    yield Row("clusters", count)
    for what, rate in rates.items():
        yield Row(f"learning_rate of {what}", rate)
    for seed in pick(smoke=(0, 1), lesson=SEEDS):
        data, generalist = _generalist(seed)
        answers = _answers(generalist, data, data.test, count, rates, seed)
        for what, errors in _wrong(answers, data.test).items():
            yield Row(f"test_errors of {what}", errors, seed)


def _generalist(seed: int) -> tuple[Data, nn.Module]:
    data = _load("fashion_mnist", True)
    generalist = mlp(pick(smoke=8, lesson=SPECIALISTS.width), seed=seed)
    _fit(generalist, data, _recipe(SPECIALISTS), seed)
    return data, generalist


def _answers(
    generalist: nn.Module, data: Data, split: Split, count: int, rates: dict[str, float], seed: int
) -> Answers:
    """Answers from the generalist, with specialists, and from controls with the same number of steps."""
    recipe = Recipe(iterations=pick(smoke=2, lesson=SPECIALIST_STEPS))
    seen = soften(logits(generalist, data.validation), 4)  # (N, C); at T = 1 it is too sure
    groups = [classes for classes in clusters(seen, count) if len(classes) > 1]
    corrected, plain = [], []
    for classes in groups:
        special, specialist = specialist_data(data, classes), specialist_of(generalist, classes)
        _fit(specialist, special, replace(recipe, learning_rate=rates["specialists"]), seed)
        z = logits(specialist, split)  # (N, classes + 1)
        plain.append((classes, z.clone()))
        z[:, -1] += dustbin_correction(data, special)
        corrected.append((classes, z))
    longer, *others = (copy.deepcopy(generalist) for _ in range(len(groups) + 1))
    recipe_of = {what: replace(recipe, learning_rate=rates[what]) for what in CONTROLS}
    steps = max(1, len(groups)) * recipe.iterations
    _fit(longer, data, replace(recipe_of["trained on"], iterations=steps), seed)
    for place, other in enumerate(others):
        _fit(other, data, recipe_of["ensemble"], 1_000 * (seed + 1) + place)
    z = logits(generalist, split)
    return {
        "generalist": z.softmax(-1),
        "specialists": combine(z, corrected),
        "specialists, dustbin uncorrected": combine(z, plain),
        "trained on": logits(longer, split).softmax(-1),
        "ensemble": sum(logits(net, split).softmax(-1) for net in (generalist, *others)),
    }


def _wrong(answers: Answers, split: Split) -> dict[str, int]:
    return {
        what: int((probabilities.argmax(-1) != split.labels).sum())
        for what, probabilities in answers.items()
    }


def _fit(network: nn.Module, data: Data, recipe: Recipe, seed: int) -> None:
    fit_to_the_end(network, CrossEntropy(), unwatched(data), recipe, seed)
