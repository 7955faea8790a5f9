"""Many students at once: every objective with every seed, each as ``fit`` alone would train it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real

import pandas as pd
import torch
from torch import Tensor, nn

from kdlib.data.splits import Data
from kdlib.objectives.base import Batch, Objective, Outputs, as_objective
from kdlib.objectives.logits import CrossEntropy, LogitMatching, SoftTargets
from kdlib.recipe import Recipe
from kdlib.seeding import check_seed, forked, seeded, stream
from kdlib.training.bar import bar
from kdlib.training.fit import check_arguments, fit
from kdlib.training.keep import built
from kdlib.training.scores import evaluate
from kdlib.training.steps import (
    Stepper,
    autocast,
    autocast_dtype,
    not_finite,
    run_epoch,
    weights_dtype,
)

__all__ = ["Cohort", "fit_cohort"]

_NOT_TERMS = ("validation_", "weight_")
_STACK_WEIGHTS = 40_000_000  # at most in one stack: half a gigabyte with gradients and momentum


@dataclass(frozen=True)
class Cohort:
    """Trained students and their results.

    Attributes:
        frame: one row per student: objective (its key), seed, temperature, alpha (nan where the
            objective has none), soft, hard (the last epoch's terms, nan likewise),
            validation_errors, test_errors (counts, nan without such a labelled split).
        models: the students, in the order of the rows.
    """

    frame: pd.DataFrame
    models: list[nn.Module]


def fit_cohort(
    build: Callable[..., nn.Module],
    objectives: Sequence[Objective],
    data: Data,
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    progress: bool = True,
) -> Cohort:
    """Train a student for every objective and seed.

    Student (objective, seed) is what ``fit(build(seed), objective, data, recipe, seed=seed)`` gives:
    the same start, the same order of images, equal within 1e-9 in float64. In float32 rounding drives
    the two apart after an epoch or so: do not mix the two in one table.

    Plain MLPs (Flatten, Linear and ReLU only) on labels, soft targets or logits are trained by
    batched products, all objectives on one teacher together, unless the recipe augments, limits
    norms or gradients, keeps the best epoch, uses ``plateau`` or scales float16. All others are
    trained one after the other. The logits of a teacher that is one network are computed once for
    all objectives. Measured on two processor cores, batched products were faster at every width: 12
    students of 2 x 30 units by a factor of about 5, of 2 x 100 by 2.6, of 2 x 300 by 1.9, of 2 x
    800 by 1.3; ``benchmarks/cohort.py`` has more.

    Args:
        build: makes a student from the seed (``lambda seed: kd.models.mlp(30, seed=seed)``).
        objectives: what they are trained on.
        data: its training split; validation and test are only scored, after the training.
        recipe: how they are trained; one for all.
        seeds: each decides a student's start, order, views and dropout.
        progress: show a bar, which is removed at the end.

    Returns:
        The students, objective by objective and within it seed by seed.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: no objective, no seed, a seed twice, or anything that ``fit`` refuses.
        FloatingPointError: a student's loss or weights stopped being finite.
        KeyboardInterrupt: stopped by hand; nothing is returned.

    >>> import kdlib as kd
    >>> data = kd.data.load("digits", device="cpu")
    >>> teacher = kd.models.mlp(40)
    >>> objectives = [kd.SoftTargets(teacher, T, alpha=0.9) for T in (1, 4, 20)]
    >>> build = lambda seed: kd.models.mlp(20, seed=seed)
    >>> cohort = kd.fit_cohort(build, objectives, data, kd.Recipe(epochs=1), range(2), progress=False)
    >>> cohort.frame[["temperature", "alpha", "seed"]].values.tolist()[:3]
    [[1.0, 0.9, 0.0], [1.0, 0.9, 1.0], [4.0, 0.9, 0.0]]
    """
    objectives = [as_objective(one) for one in _several("objectives", objectives)]
    seeds = _several("seeds", seeds)
    starts = {}
    for seed in seeds:
        check_seed(seed)
        with seeded(seed):
            starts[seed] = built(build, seed)
        for objective in objectives:
            check_arguments(starts[seed], objective, data, recipe, seed)
    if len(starts) < len(seeds):
        raise ValueError(f"seeds must differ, got {seeds}: two students of one seed are the same")
    if _can_be_stacked(list(starts.values()), objectives, data, recipe):
        trained = _stacked(starts, objectives, data, recipe, progress)
    else:
        trained = _one_by_one(starts, objectives, data, recipe, progress)
    rows, models = [], []
    for place, objective in enumerate(objectives):
        told = {"objective": repr(objective)} | _knobs(objective)
        for seed in seeds:
            row, model = trained[place, seed]
            rows.append(row | told | {"seed": seed})
            models.append(model)
    columns = ["objective", "seed", "temperature", "alpha", "soft", "hard"]
    columns += ["validation_errors", "test_errors"]
    frame = pd.DataFrame(rows)
    more = [name for name in frame if name not in columns]  # terms with other names
    return Cohort(frame.reindex(columns=columns + more), models)


def _several(name: str, values: Iterable) -> list:
    if not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list, got {values!r}; one alone is [{values!r}]")
    values = list(values)
    if not values:
        raise ValueError(f"{name} must hold at least one, got none")
    return values


Trained = dict[tuple[int, int], tuple[dict, nn.Module]]  # row and student by (objective, seed)


def _one_by_one(
    starts: dict[int, nn.Module],
    objectives: list[Objective],
    data: Data,
    recipe: Recipe,
    progress: bool,
) -> Trained:
    trained: Trained = {}
    with bar(len(objectives) * len(starts), 0, progress, "students") as advance:
        for place, objective in enumerate(objectives):
            for seed, start in starts.items():
                model = copy.deepcopy(start)
                history = fit(model, objective, data, recipe, seed=seed, progress=False)
                if history.interrupted:
                    raise KeyboardInterrupt("stopped by hand; an incomplete cohort is not returned")
                last = history.frame.drop(columns=["epoch", "step", "seconds"]).iloc[-1].to_dict()
                terms = {n: v for n, v in last.items() if not n.startswith(_NOT_TERMS)}
                trained[place, seed] = terms | _errors(model, data, recipe), model
                advance({})
    return trained


def _errors(model: nn.Module, data: Data, recipe: Recipe) -> dict[str, float]:
    errors = {}
    for part in ("validation", "test"):
        errors[f"{part}_errors"] = math.nan
        if data.labelled(part):
            split = getattr(data, part)
            size = min(recipe.batch_size, split.at_once())
            errors[f"{part}_errors"] = evaluate(model, split, batch_size=size).errors
    return errors


def _stacked(
    starts: dict[int, nn.Module],
    objectives: list[Objective],
    data: Data,
    recipe: Recipe,
    progress: bool,
) -> Trained:
    groups: dict[int, list[int]] = {}  # places of the objectives that one stack can train
    for place, objective in enumerate(objectives):
        groups.setdefault(_group(objective), []).append(place)
    most = max(1, _STACK_WEIGHTS // _weights(starts.values()))  # objectives in a stack
    parts = [
        places[first : first + most]
        for places in groups.values()
        for first in range(0, len(places), most)
    ]
    trained: Trained = {}
    taught: list[Objective] = []  # holding them keeps their teachers' logits
    device = data.train.device
    _, epochs = recipe.length(data.train.steps(recipe.batch_size))
    with (
        forked(),
        torch.enable_grad(),
        autocast(device, None),
        bar(len(parts) * epochs, 0, progress) as advance,
    ):
        for places in parts:
            stack = _Stack(starts, len(places), device, weights_dtype(recipe))
            objective = _together([objectives[place] for place in places], stack)
            taught.append(objective)
            for row in _train(stack, objective, data, recipe):
                advance(row)
            scores, models = stack.errors(data, recipe), stack.students()
            for (s, o), row, model in zip(stack.members, scores, models, strict=True):
                row |= {name: term[s, o].item() for name, term in stack.terms.items()}
                trained[places[o], stack.seeds[s]] = row, model
    return trained


def _train(stack: _Stack, objective: Objective, data: Data, recipe: Recipe) -> Iterator[dict]:
    """``fit``'s loop on logits (members, N, C), a member being a student; yields after every epoch."""
    split = data.train
    objective.prepare(stack.starts[0], split, recipe)
    stepper = Stepper(stack, recipe, split.device)
    steps = split.steps(recipe.batch_size)
    total, epochs = recipe.length(steps)

    def batches(epoch: int) -> Iterator[Batch]:
        first = (epoch - 1) * steps
        draws = stream(0, epoch, "objective", split.device)  # these objectives draw nothing
        orders = [stream(seed, epoch, "order") for seed in stack.seeds]
        of_seeds = (split.batches(recipe.batch_size, order, None, draws) for order in orders)
        for step, samples in zip(range(first, total), zip(*of_seeds, strict=True), strict=False):
            inputs, labels, index = (
                None if part[0] is None else torch.stack(part)  # (seeds, N, ...)
                for part in zip(*samples, strict=True)
            )
            yield Batch(
                inputs, stack.by_member(labels), stack.by_member(index), step / total, draws
            )

    def step(batch: Batch) -> dict[str, Tensor]:
        with stepper.forward():
            student = Outputs(stack.logits(batch.inputs.flatten(2)))  # (members, N, C)
        terms = {n: t.mean(-1) for n, t in objective.each(student, batch).items()}  # (members,)
        return stepper.descend(terms, recipe.rate(batch.progress))

    for epoch in range(1, epochs + 1):
        stack.note(run_epoch(batches(epoch), step), epoch, recipe, data)
        yield {}


class _Stack(nn.Module):
    """Students of one shape as one network of batched products, its members ordered seed by seed.

    Units come before images, ``(members, units, N)``, so that no product needs a copy.
    """

    def __init__(
        self,
        starts: dict[int, nn.Module],
        objectives: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.seeds, self.starts = list(starts), list(starts.values())
        self.objectives = objectives
        self.members = [(s, o) for s in range(len(starts)) for o in range(objectives)]
        self.terms: dict[str, Tensor] = {}
        self.weights, self.biases = [], []  # (members, out, in) and (members, out, 1)
        for layers in zip(*map(_linear_layers, self.starts), strict=True):
            weight = torch.stack([layer.weight.detach() for layer in layers])  # (seeds, out, in)
            bias = torch.stack([layer.bias.detach() for layer in layers])[
                ..., None
            ]  # (seeds, out, 1)
            for tensor, into in ((weight, self.weights), (bias, self.biases)):
                into.append(nn.Parameter(self.by_member(tensor).to(device, dtype)))
        self.trained = nn.ParameterList([*self.weights, *self.biases])

    def by_member(self, values: Tensor | None) -> Tensor | None:
        """Repeat each seed's row for its members."""
        return None if values is None else values.repeat_interleave(self.objectives, 0)

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits ``(members, N, C)`` for inputs ``(seeds, N, D)``, or ``(1, N, D)`` for all members."""
        weight, bias = self.weights[0], self.biases[0]
        # Members of one seed see the same images: one product for all of them.
        shared = weight.view(len(inputs), -1, weight.shape[-1])  # (seeds, objectives * units, D)
        # (members, units, N)
        x = (shared @ inputs.mT.to(weight.dtype)).view(len(weight), weight.shape[1], -1) + bias
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            x = torch.baddbmm(bias, weight, x.relu())  # (members, units, N)
        return x.mT

    def note(self, terms: dict[str, Tensor], epoch: int, recipe: Recipe, data: Data) -> None:
        """Keep an epoch's terms, ``(seeds, objectives)`` each, if everything is finite."""
        self.terms = {n: t.view(-1, self.objectives).cpu() for n, t in terms.items()}
        # (members,) for each parameter
        whole = [p.detach().isfinite().flatten(1).all(1) for p in self.parameters()]
        finite = torch.stack(whole).all(0) & sum(terms.values()).isfinite()
        _check_finite(finite, "the loss or the weights", epoch, recipe, data)

    @torch.no_grad()
    def errors(self, data: Data, recipe: Recipe) -> list[dict[str, float]]:
        columns = {}
        _, last = recipe.length(data.train.steps(recipe.batch_size))
        for name in ("validation", "test"):
            wrong = torch.full((len(self.members),), math.nan)
            if data.labelled(name):
                wrong, finite = 0, True
                split = getattr(data, name)
                # Every member reads them: together not more than in a step of the training.
                size = min(recipe.batch_size, split.at_once())
                for inputs, labels in split.parts(size):
                    z = self.logits(inputs.flatten(1)[None])  # (members, N, C)
                    finite = finite & z.isfinite().flatten(1).all(1)
                    wrong = wrong + (z.argmax(-1) != labels).sum(-1).cpu()
                if name == "validation":  # as fit does
                    _check_finite(finite, "the validation logits", last, recipe, data)
            columns[f"{name}_errors"] = wrong.tolist()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    @torch.no_grad()
    def students(self) -> list[nn.Module]:
        students = []
        for member, (s, _) in enumerate(self.members):
            model = copy.deepcopy(self.starts[s]).to(self.weights[0])
            for layer, weight, bias in zip(
                _linear_layers(model), self.weights, self.biases, strict=True
            ):
                layer.weight.copy_(weight[member])
                layer.bias.copy_(bias[member, :, 0])
            students.append(model.eval())
        return students


def _check_finite(finite: Tensor, what: str, epoch: int, recipe: Recipe, data: Data) -> None:
    """Raise if any member's numbers are not finite."""
    if not finite.all():
        some = f"{what} of {int((~finite).sum())} of {len(finite)} students"
        raise not_finite(some, epoch, recipe, data)


def _can_be_stacked(
    starts: list[nn.Module], objectives: list[Objective], data: Data, recipe: Recipe
) -> bool:
    if recipe.augment is not None or recipe.keep == "best" or recipe.schedule == "plateau":
        return False
    if recipe.max_norm is not None or recipe.max_gradient is not None:
        return False
    # A float16 scaler skips a step where a gradient overflows: one student's, not everybody's.
    if autocast_dtype(recipe.precision, data.train.device) == torch.float16:
        return False
    if not data.train.inputs.is_floating_point():
        return False
    if not all(type(o) in (CrossEntropy, SoftTargets, LogitMatching) for o in objectives):
        return False
    if any(o.default_rate is not None for o in objectives):
        return False
    # Tensors of more dimensions would broadcast otherwise against many students' batches.
    if any(isinstance(v, Tensor) and v.ndim > 1 for o in objectives for v in _numbers(o)):
        return False
    if _weights(starts) > _STACK_WEIGHTS:
        return False
    return len({_shape(model, data) for model in starts} | {None}) == 2


def _weights(models: Iterable[nn.Module]) -> int:
    return sum(p.numel() for model in models for p in model.parameters())


def _shape(model: nn.Module, data: Data) -> tuple[int, ...] | None:
    """The widths of a plain MLP that fits the data; None for any other network."""
    if type(model) is not nn.Sequential:
        return None
    kinds, layers = [type(module) for module in model], _linear_layers(model)
    if not layers or kinds != [nn.Flatten, *[nn.Linear, nn.ReLU] * len(layers)][:-1]:
        return None
    if (model[0].start_dim, model[0].end_dim) != (1, -1) or _hooked(model):
        return None
    # These are all that trains, each once: no layer or weight is shared, frozen or computed.
    own = [id(p) for layer in layers for p in (layer.weight, layer.bias)]
    if own != [id(p) for p in model.parameters() if p.requires_grad]:
        return None
    widths = (layers[0].in_features, *(layer.out_features for layer in layers))
    fits = widths[0] == data.train.inputs[0].numel() and widths[-1] >= len(data.classes)
    return widths if fits else None


def _hooked(model: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for module in model.modules() for kind in kinds)


def _linear_layers(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model if type(module) is nn.Linear]


def _group(objective: Objective) -> int:
    """Equal for objectives that differ only in their numbers and so can share a stack."""
    if _has_numbers(objective) and not isinstance(objective.teacher, Sequence):
        return id(objective.teacher)
    return id(objective)


def _together(objectives: list[Objective], stack: _Stack) -> Objective:
    """One objective for all members, temperatures and alphas as tensors (members, 1)."""
    if len(set(map(id, objectives))) == 1:
        return objectives[0]
    numbers = torch.tensor([[o.temperature, o.alpha] for o in objectives], dtype=torch.float64)
    temperature, alpha = numbers.to(stack.weights[0]).repeat(len(stack.seeds), 1).split(1, dim=1)
    return SoftTargets(objectives[0].teacher, temperature, alpha)


def _has_numbers(objective: Objective) -> bool:
    return type(objective) is SoftTargets and all(
        isinstance(value, Real) for value in _numbers(objective)
    )


def _knobs(objective: Objective) -> dict[str, float]:
    values = (value if isinstance(value, Real) else math.nan for value in _numbers(objective))
    return dict(zip(("temperature", "alpha"), values, strict=True))


def _numbers(objective: Objective) -> tuple[float | Tensor, float | Tensor]:
    """Temperature and alpha, nan where the objective has no such number."""
    return getattr(objective, "temperature", math.nan), getattr(objective, "alpha", math.nan)
