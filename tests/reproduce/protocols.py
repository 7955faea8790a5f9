"""Helpers for the tests of all protocols: settings by name, and trainings recorded instead of run."""

import math
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from types import SimpleNamespace
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn

import kdlib as kd
from kdlib import reproduce
from kdlib.data import Data
from kdlib.identity import weights_hash
from kdlib.objectives import Objective
from kdlib.reproduce import stages

PROTOCOLS = {name: import_module(f"kdlib.reproduce.{name}") for name in reproduce.PROTOCOLS}
MODULES = (*PROTOCOLS.values(), stages)
TRIAL_SEED = 99  # of the networks that try rates


def clear():
    """Forget the data and the networks that the protocols hold in memory."""
    for module in MODULES:
        for cached in vars(module).values():
            if hasattr(cached, "cache_clear") and cached.__module__ == module.__name__:
                cached.cache_clear()


def setting_of(protocol, experiment, name):
    (found,) = [s for s in protocol.settings() if (s.experiment, s.setting) == (experiment, name)]
    return found


def rows_of(protocol, experiment, name):
    return list(setting_of(protocol, experiment, name).run())


def numbers(rows, metric):
    return [row.value for row in rows if row.metric == metric]


def same_weights(one, other):
    return weights_hash(one) == weights_hash(other)


def another(value):
    """Another value of the same kind."""
    if value is None:
        return 123
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return 2 * value + 0.125
    if isinstance(value, range):
        return range(value.stop + 5)
    if isinstance(value, tuple):
        return (*value, 0.77)
    if isinstance(value, dict):
        return {name: another(inner) for name, inner in value.items()}
    return f"{value}?"


def changes(what, *untold):
    """A dataclass with each of its fields changed in turn, and the name of that field."""
    for field in fields(what):
        value = getattr(what, field.name)
        if is_dataclass(value):  # a recipe
            yield from ((f, replace(what, **{field.name: r})) for f, r in recipes(value))
        elif field.name not in untold:
            yield field.name, replace(what, **{field.name: another(value)})


def recipes(recipe):
    yield "epochs", replace(recipe, epochs=recipe.epochs + 1)
    yield "learning_rate", replace(recipe, learning_rate=0.123)


class Training(NamedTuple):
    """A training request; ``by`` is the called function's name, ``start`` the initial weights' hash."""

    by: str
    model: nn.Module
    start: str
    objective: Objective
    data: Data
    recipe: kd.Recipe
    seed: int


class Trainings(list):
    """The trainings asked for, in order, and how they are to end."""

    diverging = ()  # learning rates
    interrupted = False

    def note(self, by, model, objective, data, recipe, seed):
        if recipe.learning_rate in self.diverging:
            raise FloatingPointError
        self.append(Training(by, model, weights_hash(model), objective, data, recipe, seed))
        return model

    def of(self, model):
        """The first training of a network."""
        return next(training for training in self if training.model is model)


def note_trainings(patch, really=False):
    """Record what any protocol trains; unless ``really``, train and score nothing, with narrow networks."""
    clear()
    seen = Trainings()

    def fit(model, objective, data, recipe, *, seed, progress):
        seen.note("fit", model, objective, data, recipe, seed)
        if really:
            return kd.fit(model, objective, data, recipe, seed=seed, progress=False)
        watched = math.nan if data.validation is None else 0.5
        row = {"step": recipe.iterations, "seconds": 0.5, "validation_accuracy": watched}
        return kd.History(pd.DataFrame([row]), seen.interrupted)

    def fit_cohort(build, objectives, data, recipe, seeds, *, progress):
        models = [build(seed) for seed in seeds]
        if really:
            models = kd.fit_cohort(build, objectives, data, recipe, seeds, progress=False).models
        for model, seed in zip(models, seeds, strict=True):
            seen.note("fit_cohort", model, *objectives, data, recipe, seed)
        return SimpleNamespace(models=models)

    def keep(build, objective, data, recipe, seed=0):
        model = kd.keep(build, objective, data, recipe, seed) if really else build(seed).eval()
        return seen.note("keep", model, objective, data, recipe, seed)

    def mlp(width, **options):
        model = kd.models.mlp(2, **options)
        model.built = width, options
        return model

    put(patch, fit=fit, fit_cohort=fit_cohort, keep=keep)
    if not really:
        scores, likeness = kd.Scores(3, 0.5, 0.5, 0.1), kd.Fidelity(0.5, 0.1)
        put(patch, mlp=mlp, evaluate=lambda model, split: scores)
        put(patch, fidelity=lambda student, teacher, split: likeness)
    return seen


def put(patch, **functions):
    """Replace the functions that the protocols import under these names."""
    for module in MODULES:
        for name, function in functions.items():
            if hasattr(module, name):
                patch.setattr(module, name, function)


class Trace(NamedTuple):
    """A setting's rows and the trainings that it asked for."""

    rows: list
    trainings: list

    @property
    def students(self):
        """All trainings except those of teachers and of networks that try rates."""
        trials = {id(t.model) for t in self.trainings if t.seed == TRIAL_SEED}
        return [t for t in self.trainings if t.by != "keep" and id(t.model) not in trials]


def trace(protocol, patch):
    """The trace of every setting, by its experiment and name, and all trainings."""
    seen, found = note_trainings(patch), {}
    for setting in protocol.settings():
        before = len(seen)
        rows = list(setting.run())
        found[setting.experiment, setting.setting] = Trace(rows, seen[before:])
    return found, seen


def some_batch(split, rows, progress=0.0):
    """The batch of some rows of a split, as a training shows it to an objective."""
    part = split.select(rows)
    return kd.Batch(part.inputs, part.labels, part.index, progress, torch.Generator())
