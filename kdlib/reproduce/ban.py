"""Furlanello et al. 2018: networks born again, and controls for what makes them better.

Two protocols. ``paper``, for a GPU: ``wide``, WRN-28-2 on CIFAR-100, and ``wide, 10 classes``, on CIFAR-10,
with the recipe of Wide ResNets (all images, flips and crops, 200 epochs, a dropout of 0.3); each network
is stored, so a protocol that was stopped can resume. ``short``, for two processor cores, on Fashion-MNIST
without augmentation: ``wide``, a WRN-10-1 on 5,000 images; ``clean``, perceptrons of 2 x 400 on 20,000
images; ``wrong``, the same with 40 % of the training labels drawn at random (validation and test keep
theirs); ``families``, a DenseNet-BC-10-16 and residual networks of its shape. All networks of an
experiment have the same recipe with a peak rate set beforehand: 0.1, as for Wide ResNets, or 0.05 for
perceptrons. All temperatures are 1.

Not stated in the paper: the weights of teacher and labels in BAN+L (here a half each), whether a
permutation is kept (here each image gets a new one in every step), and the seeds.

Ways: ``labels``, generation 0; ``BAN-1``, taught by it, ``BAN-2`` by ``BAN-1`` and so on; ``BAN+L``, ``CWTM``
and ``DKPP``, also taught by generation 0. Controls: ``labels 1``, ``labels 2``, ``labels 3``, which start
like the generations and see the images in the same order; ``smoothed``, labels smoothed by 0.1;
``argmax``, generation 0's predicted class in place of the label. ``Ens*k`` is the mean probability of
generations 1 to k, ``independent*k`` that of ``labels 1`` to ``labels k``. Generation g of lineage s has
the seed 100 s + g, for its weights and its order.

In ``families`` generation 0 is a DenseNet or a WRN: ``residual: BAN``, ``residual: BAN, shared ends`` (with
the dense teacher's first convolution and last layer, frozen), ``dense: BAN of wide``, and labels for each
kind, including ``residual: labels 1, shared ends``.

Metrics: ``test_errors``, ``test_loss``; for students also ``agreement`` with the teacher on the test images
and ``divergence`` from it; for ``labels`` in ``wrong`` and ``clean`` also ``right_on_training``, the share of
training images whose true class it predicts, and ``right_where_wrong``, the same share among images whose
label is another class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import nn

from kdlib.data import Data, crop, flip, load
from kdlib.models import densenet, mlp, residual_student, share_ends, wide_resnet
from kdlib.networks import logits
from kdlib.objectives import CWTM, DKPP, CrossEntropy, Objective, SoftTargets
from kdlib.profiles import pick
from kdlib.recipe import Recipe, non_default_fields
from kdlib.reproduce.settings import Published, Row, Setting, unwatched
from kdlib.reproduce.stages import scores
from kdlib.training import evaluate, keep

VERSION = 1
GENERATIONS = 3
WAYS = (
    "labels",
    *(f"BAN-{k}" for k in range(1, GENERATIONS + 1)),
    "BAN+L",
    "CWTM",
    "DKPP",
    *(f"labels {k}" for k in range(1, GENERATIONS + 1)),
    "smoothed",
    "argmax",
)
FAMILIES = {  # the student's kind, its way and its teacher's kind
    "wide: labels": ("wide", "labels", "wide"),
    "dense: labels": ("dense", "labels", "dense"),
    "dense: labels 1": ("dense", "labels 1", "dense"),
    "dense: BAN of wide": ("dense", "BAN-1", "wide"),
    "residual: labels 1": ("residual", "labels 1", "dense"),
    "residual: labels 1, shared ends": ("residual, shared ends", "labels 1", "dense"),
    "residual: BAN": ("residual", "BAN-1", "dense"),
    "residual: BAN, shared ends": ("residual, shared ends", "BAN-1", "dense"),
}


@dataclass(frozen=True)
class Size:
    """One experiment of one protocol."""

    name: str
    experiment: str
    data: str
    network: str
    images: int | None
    recipe: Recipe
    lineages: range
    wrong: float = 0.0  # share of labels drawn at random
    ways: tuple[str, ...] = WAYS


_WIDE = Recipe(epochs=12, batch_size=64, learning_rate=0.1, weight_decay=5e-4)
_PLAIN = Recipe(epochs=20, learning_rate=0.05)
_PAPER = Recipe(
    epochs=200,
    learning_rate=0.1,
    schedule="wide_resnet",
    weight_decay=5e-4,
    augment=crop(4) + flip(),
)
SHORT = (
    Size("short", "clean", "fashion_mnist", "mlp", 20_000, _PLAIN, range(5)),
    Size("short", "wrong", "fashion_mnist", "mlp", 20_000, _PLAIN, range(5), wrong=0.4),
    Size("short", "wide", "fashion_mnist", "wide", 5_000, _WIDE, range(3)),
    Size(
        "short",
        "families",
        "fashion_mnist",
        "dense",
        5_000,
        replace(_WIDE, epochs=6),
        range(3),
        ways=tuple(FAMILIES),
    ),
)
PAPER_SIZE = (
    Size("paper", "wide, 10 classes", "cifar10", "WRN-28-2", None, _PAPER, range(3)),
    Size("paper", "wide", "cifar100", "WRN-28-2", None, _PAPER, range(3)),
)
SMOKE = tuple(
    replace(
        size, name="smoke", images=200, lineages=range(2), recipe=replace(size.recipe, epochs=1)
    )
    for size in SHORT
)


def settings() -> list[Setting]:
    sizes = pick(smoke=SMOKE, lesson=SHORT + PAPER_SIZE)
    return [setting for size in sizes for setting in _settings(size)]


def _settings(size: Size) -> Iterator[Setting]:
    for way in size.ways:
        yield _setting(size, way, partial(_one, size, way))
    if size.experiment == "families":
        return
    for k in range(2, GENERATIONS + 1):
        for name, members in ((f"Ens*{k}", "BAN-{}"), (f"independent*{k}", "labels {}")):
            ways = [members.format(g) for g in range(1, k + 1)]
            yield _setting(size, name, partial(_together, size, ways))


def _setting(size: Size, name: str, run) -> Setting:
    what = (
        size.data,
        size.network,
        size.images,
        size.wrong,
        size.lineages,
        non_default_fields(size.recipe),
    )
    recipe = f"version {VERSION}, {size.experiment}, {name}, {what}, {FAMILIES.get(name, '')}"
    return Setting(size.experiment, name, size.name, recipe, run)


# Errors among the 10,000 test images of CIFAR-100: DenseNet-90-60 in Table 2, the only table with all ways.
# (In Table 3 a WRN-28-2 improves from 2,532 to 2,438.)
PAPER = tuple(
    Published(what, round(100 * per_cent), "wide", setting)
    for what, per_cent, setting in (
        ("teacher", 17.69, "labels"),
        ("BAN-1", 16.62, "BAN-1"),
        ("BAN-2", 16.44, "BAN-2"),
        ("BAN-3", 16.72, "BAN-3"),
        ("BAN+L", 16.93, "BAN+L"),
        ("CWTM", 17.42, "CWTM"),
        ("DKPP", 17.43, "DKPP"),
        ("Ens*2", 15.39, "Ens*2"),
        ("Ens*3", 15.74, "Ens*3"),
    )
)


@cache
def _data(size: Size) -> Data:
    if size.name == "smoke":
        return _mislabelled(load("digits").limit(size.images), size.wrong)
    if size.images is None:  # as in the paper: nothing is left to choose
        return _mislabelled(load(size.data, validation=0), size.wrong)
    return _mislabelled(load(size.data).limit(size.images), size.wrong)


def _mislabelled(data: Data, share: float) -> Data:
    """Data with this share of the training labels drawn at random; some are right by chance."""
    if not share:
        return data
    generator = torch.Generator().manual_seed(0)
    labels = data.train.labels
    drawn = torch.rand(len(labels), generator=generator) < share
    random = torch.randint(len(data.classes), labels.shape, generator=generator)
    mixed = torch.where(drawn.to(labels.device), random.to(labels.device), labels)
    return replace(data, train=replace(data.train, labels=mixed))


def _one(size: Size, way: str) -> Iterator[Row]:
    kind, plain, teacher_kind = FAMILIES.get(way, (size.network, way, size.network))
    for lineage in size.lineages:
        net, seed = _net(size, kind, plain, lineage, teacher_kind), _seed(plain, lineage)
        alone = plain.startswith("labels") or plain == "smoothed"
        teacher = None if alone else _net(size, teacher_kind, _before(plain), lineage)
        taught_by = None if alone else _seed(_before(plain), lineage)
        for metric, value in scores(net, teacher, _data(size)):
            yield Row(metric, value, seed, taught_by)
        if plain == "labels" and size.network == "mlp":
            yield from _of_training(size, net, seed)


def _of_training(size: Size, net: nn.Module, seed: int) -> Iterator[Row]:
    given = _data(size).train
    true = _data(replace(size, wrong=0.0)).train.labels
    right = logits(net, given).argmax(-1) == true
    yield Row("right_on_training", right.double().mean().item(), seed)
    wrong = given.labels != true
    if wrong.any():
        yield Row("right_where_wrong", right[wrong].double().mean().item(), seed)


def _together(size: Size, ways: list[str]) -> Iterator[Row]:
    for lineage in size.lineages:
        nets = [_net(size, size.network, way, lineage) for way in ways]
        together = evaluate(nets, _data(size).test)
        yield Row("test_errors", together.errors, _seed(ways[0], lineage))
        yield Row("test_loss", together.loss, _seed(ways[0], lineage))


def _before(way: str) -> str:
    """The way of this way's teacher."""
    generation = int(way[-1]) if way.startswith("BAN-") else 1
    return f"BAN-{generation - 1}" if generation > 1 else "labels"


def _seed(way: str, lineage: int) -> int:
    """The seed 100 s + g; all students of generation 0 start like generation 1."""
    generation = 0 if way == "labels" else int(way[-1]) if way[-1].isdigit() else 1
    return 100 * lineage + generation


@cache
def _net(
    size: Size, kind: str, way: str, lineage: int, teacher_kind: str | None = None
) -> nn.Module:
    teacher_kind, data, seed = teacher_kind or kind, unwatched(_data(size)), _seed(way, lineage)
    alone = way.startswith("labels") or way == "smoothed"
    teacher = None if alone else _net(size, teacher_kind, _before(way), lineage)
    if way == "argmax":
        said = logits(teacher, data.train).argmax(-1)
        data = replace(data, train=replace(data.train, labels=said))
    build = partial(_network, size, kind, lineage)
    return keep(lambda seed: build(seed), _objective(way, teacher), data, size.recipe, seed)


def _objective(way: str, teacher: nn.Module | None) -> Objective:
    if way.startswith("BAN-"):
        return SoftTargets(teacher, temperature=1, alpha=1)
    if way == "BAN+L":
        return SoftTargets(teacher, temperature=1, alpha=0.5)
    if way in ("CWTM", "DKPP"):
        return {"CWTM": CWTM, "DKPP": DKPP}[way](teacher)
    return CrossEntropy(label_smoothing=0.1 if way == "smoothed" else 0.0)


def _network(size: Size, kind: str, lineage: int, seed: int) -> nn.Module:
    data = _data(size)
    images = {"channels": data.train.inputs.shape[1], "classes": len(data.classes), "seed": seed}
    if kind == "mlp":
        return mlp(400, seed=seed)
    if kind == "wide":
        return wide_resnet(10, **images)
    if kind == "WRN-28-2":
        return wide_resnet(28, width=2, dropout=0.3, **images)
    if kind == "dense":
        return densenet(10, growth=16, **images)
    teacher = _net(size, "dense", "labels", lineage)
    student = residual_student(teacher, seed=seed)
    return share_ends(student, teacher) if kind == "residual, shared ends" else student
