"""Romero et al. 2015 (FitNets): a thin, deep student whose middle layer learns from its teacher's.

On MNIST with the paper's maxout networks: a teacher of three layers (361,066 parameters) and a student of
six (30,130), whose fourth layer is guided by the teacher's second. Two protocols: ``paper``, with all
60,000 images, for a GPU; and ``short`` for two processor cores, with 5,000 images for the student, and
5,000 others to choose learning rates on. All ways of an experiment have the same total number of steps,
in one stage or in two.

The paper uses RMSProp from small uniform weights, stops when validation no longer improves (the number
of epochs is unknown; ``paper`` has 150 for all stages together, during which lambda falls) and then
trains again on all images. Here it is Adam under one cycle from torch's default initialisation, for a
fixed number of steps. (Under SGD at 0.03 the maxout student diverges, and plain networks of 12 layers or
more learn nothing.) If there are several rates for the first (or only) stage, a student with half the
steps tries each, and the fewest validation errors decide. A second stage has the rate 0.003, or 0.001 for
plain networks. In ``layers`` all have the rate 0.003.

Ways: ``labels``; ``soft``, soft targets at T = 4, with labels at weight 0.1; ``lambda``, the paper's own
mix at tau = 3, lambda from 4 to 1; ``hint``; two of them in turn with `` then ``; two at once with ``+``,
the hint at weight 0.001.

Experiments: ``teachers``; ``mnist``, the paper's Table 4 and the four ways that it reports as failures;
``layers``, which layer guides which, with three students each; ``depth``, plain networks of 30 ReLU
units a layer (no batch norm), with a teacher of 2 x 800 whose first layer guides the middle one.

Metrics: ``test_errors``, ``test_loss``; ``agreement`` with the teacher on the test images and
``divergence`` from it; ``learning_rate``, the first stage's, and ``validation_errors at RATE`` of the trials.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

from torch import nn

from kdlib.models import Maxout, fitnets_student, fitnets_teacher, mlp
from kdlib.objectives import CrossEntropy, Hint, Objective
from kdlib.profiles import pick
from kdlib.recipe import Recipe, non_default_fields
from kdlib.reproduce.settings import TRIAL_SEED, Published, Row, Setting, chosen, unwatched
from kdlib.reproduce.stages import images, objective_of, scores, some_images, stages, taught
from kdlib.training import evaluate, keep

VERSION = 1
PLAIN = "2 x 800"
TEACHER_RATE = 0.001
SECOND = {"maxout": 0.003, PLAIN: 0.001}
JOINT = 0.001  # weight of hints beside labels; each then gets a rate that suits it
DEPTHS = (2, 8, 16, 24)


@dataclass(frozen=True)
class Size:
    """The sizes in which the two protocols differ."""

    name: str
    images: int | None  # number that students see; None for all
    batch_size: int
    teacher_steps: int
    steps: int
    validation: int
    teachers: range
    students: range


SHORT = Size("short", 5_000, 64, 2 * 429, 9 * 78, 5_000, range(3), range(100, 105))
PAPER_SIZE = Size("paper", None, 128, 50 * 468, 150 * 468, 0, range(3), range(100, 105))
SMOKE = Size("smoke", 300, 64, 2, 4, 300, range(1), range(100, 102))


@dataclass(frozen=True)
class Line:
    """A way of teaching, the rates tried for its first stage, and the layers that it connects."""

    way: str
    rates: tuple[float, ...]
    hint: str = "layer2"
    guided: str = "layer4"
    depth: int | None = None  # a plain student's depth; None for the paper's student


def settings() -> list[Setting]:
    sizes = pick(smoke=(SMOKE,), lesson=(SHORT, PAPER_SIZE))
    return [setting for size in sizes for setting in _settings(size)]


def _settings(size: Size) -> Iterator[Setting]:
    for kind in SECOND:
        for seed in size.teachers:
            run = partial(_teacher_row, size, kind, seed)
            yield _setting(size, "teachers", f"{kind}, seed {seed}", "", run)
    for experiment, lines in _lines().items():
        for name, line in lines.items():
            students = size.students[:3] if experiment == "layers" else size.students
            run = partial(_measure, size, line, students)
            what = f"{non_default_fields(line)}, {_rates(size, line)}, {students}"
            yield _setting(size, experiment, name, what, run)


def _setting(size: Size, experiment: str, name: str, line: str, run) -> Setting:
    fixed = (TEACHER_RATE, SECOND, JOINT, TRIAL_SEED)
    recipe = f"version {VERSION}, {experiment}, {name}, {non_default_fields(size)}, {line}, {fixed}"
    return Setting(experiment, name, size.name, recipe, run)


def _lines() -> dict[str, dict[str, Line]]:
    rates = (1e-3, 3e-3, 1e-2)
    ways = (
        "labels",
        "lambda",
        "hint then lambda",
        "hint then labels",
        "labels then labels",
        "labels then lambda",
        "labels + hint",
        "lambda + hint",
    )
    layers = [
        ("layer1", "layer2"),
        *(("layer2", f"layer{k}") for k in (1, 2, 3, 4, 5)),
        ("layer3", "layer6"),
    ]
    return {
        "mnist": {way: Line(way, rates) for way in ways},
        "layers": {
            f"{guided} from {hint}": Line("hint then lambda", (3e-3,), hint, guided)
            for hint, guided in layers
        },
        "depth": {
            f"{depth} layers; {way}": Line(
                way, (3e-4, 1e-3, 3e-3), hint="2", guided=str(2 * (depth // 2)), depth=depth
            )
            for depth in DEPTHS
            for way in ("labels", "soft", "hint then labels")
        },
    }


# Errors among the 10,000 test images, Table 4.
PAPER = (
    Published("teacher", 55, "teachers", "maxout"),
    Published("student trained on labels", 190, "mnist", "labels"),
    Published("student trained on soft targets", 65, "mnist", "lambda"),
    Published("student trained on hints, then on soft targets", 51, "mnist", "hint then lambda"),
)


_data, _few = partial(images, "mnist"), partial(some_images, "mnist")


@cache
def _teacher(size: Size, kind: str, seed: int) -> nn.Module:
    build = partial(mlp, 800, dropout=0.5) if kind == PLAIN else fitnets_teacher
    recipe = Recipe(iterations=size.teacher_steps, optimizer="adam", learning_rate=TEACHER_RATE)
    return keep(
        lambda seed: build(seed=seed), CrossEntropy(), unwatched(_data(size)), recipe, seed=seed
    )


def _teacher_row(size: Size, kind: str, seed: int) -> Iterator[Row]:
    errors = evaluate(_teacher(size, kind, seed), _data(size).test).errors
    yield Row("test_errors", errors, teacher_seed=seed)


def _objective(by: str, teacher: nn.Module, line: Line) -> Objective:
    end = Maxout(2) if line.depth is None else "relu"  # the hint layer's own non-linearity
    hint = partial(Hint, teacher, hint=line.hint, guided=line.guided, activation=end)
    return objective_of(by, teacher, {"hint": hint}, JOINT)


def _measure(size: Size, line: Line, students: Sequence[int]) -> Iterator[Row]:
    data, kind = _few(size), "maxout" if line.depth is None else PLAIN

    def student_of(rate: float, seed: int, steps: int):
        own = seed % len(size.teachers)
        teacher, student = _teacher(size, kind, own), _student(line, seed)
        plan = stages(line.way, steps, rate, SECOND[kind])
        by = partial(_objective, teacher=teacher, line=line)
        recipe = Recipe(batch_size=size.batch_size, optimizer="adam")
        return student, taught(student, plan, by, unwatched(data), recipe, seed), teacher, own

    def errors_at(rate: float) -> int:
        student, *_ = student_of(rate, TRIAL_SEED, size.steps // 2)
        return evaluate(student, data.validation).errors

    rate, rows = chosen(_rates(size, line), errors_at)
    yield from rows
    for seed in students:
        student, history, teacher, own = student_of(rate, seed, size.steps)
        taught_by = (None, None) if set(line.way.split(" then ")) == {"labels"} else (teacher, own)
        for metric, value in scores(student, taught_by[0], data):
            yield Row(metric, value, seed, taught_by[1], history["seconds"].sum())


def _rates(size: Size, line: Line) -> tuple[float, ...]:
    """The rates to try; only the middle one if no images are held out to choose on."""
    return line.rates if size.validation else line.rates[1:2]


def _student(line: Line, seed: int) -> nn.Module:
    if line.depth is None:
        return fitnets_student(seed=seed)
    return mlp(30, depth=line.depth, seed=seed)
