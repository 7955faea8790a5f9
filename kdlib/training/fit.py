"""The training core: ``fit`` and its one loop, for any objective.

A training run depends on its Recipe and its seed, and on nothing else: order, views, dropout and an
objective's draws come from streams keyed by (seed, epoch), so that the same seeds give the same
weights whatever ran before, and resuming needs no generator state.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from kdlib.data.splits import Data, Samples
from kdlib.networks import answer_of, check_trainable, copied, numbers_of, restore
from kdlib.objectives.base import Batch, Objective, Outputs, as_objective, checked_terms
from kdlib.recipe import Recipe
from kdlib.seeding import check_seed, forked, key, reseed, stream
from kdlib.taps import reach
from kdlib.training.bar import bar
from kdlib.training.checkpoint import Checkpoint, identity_of
from kdlib.training.scores import evaluate
from kdlib.training.steps import (
    Stepper,
    autocast,
    check_limit,
    held,
    limit_norms,
    not_finite,
    run_epoch,
    trains,
    weights_dtype,
)

__all__ = ["History", "check_arguments", "fit"]

_VALIDATION = ("validation_loss", "validation_accuracy")


@dataclass
class History:
    """The record of a training run.

    Attributes:
        frame: one row per epoch, counted from 1: epoch, step, seconds (training only), the mean of
            every term, ``weight_SoftTargets`` and the like if a weight is a function of progress
            (its value at the epoch's last step), validation_loss and validation_accuracy (nan without
            labelled validation, or where the objective does not train the logits).
        interrupted: whether it was stopped by hand before its end; the network then has the weights of
            the last step, or with ``keep="best"`` those of the best epoch.
        learning_rate: the peak rate that was used: the recipe's, or the objective's or optimizer's default.
    """

    frame: pd.DataFrame
    interrupted: bool = False
    learning_rate: float | None = None

    def __repr__(self) -> str:
        ended = "interrupted" if self.interrupted else "finished"
        rate = "" if self.learning_rate is None else f" at learning_rate {self.learning_rate:g}"
        return f"History({ended} after {len(self.frame)} epochs{rate})\n{self.frame.tail(3)}"


def fit(
    model: nn.Module,
    objective: Objective,
    data: Data,
    recipe: Recipe = Recipe(),
    *,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike | None = None,
    on_epoch: Callable[[dict], None] | None = None,
) -> History:
    """Train ``model`` in place on ``data.train``, on the data's device; it ends in eval mode.

    A module that you froze, in eval mode and with no parameter that requires a gradient, stays in eval mode:
    nothing of it moves, neither BatchNorm's statistics nor dropout. Validation reads at most ``batch_size``
    samples at once. Trainings in several threads of one process take turns.

    Args:
        model: the student, or a teacher: any network from inputs to logits ``(N, C)``, which it returns
            alone, as ``.logits`` or as ``["logits"]``.
        objective: what it is trained on: one of kdlib's, a :class:`kdlib.Loss`, or any object with
            ``__call__(student, batch)``.
        data: the model is trained on its training split; its test split is never used.
        recipe: how it is trained.
        seed: for the order, the views, the dropout and the objective's draws.
        progress: show a bar that leaves nothing behind.
        checkpoint: a file, rewritten after every epoch; if it exists, training resumes from it and
            reaches the weights of an uninterrupted training (bit for bit on a CPU). It may also be
            continued with more epochs, if nothing in the training depends on their number: with
            ``schedule="constant"``, ``keep="last"`` and an objective that does not read
            ``batch.progress``. If it cannot be written later on, training goes on with a warning.
        on_epoch: called with each epoch's row after the checkpoint is written.

    Returns:
        The history, earlier rows included after a resume. Ctrl-C ends training early and is noted
        there.

    Warns:
        UserWarning: the checkpoint started from other weights than those it now replaces, or could not
            be written during the training.

    Raises:
        TypeError: an argument of the wrong type, or a network that returns something else; the message says
            what would do.
        ValueError: ``keep="best"`` without labelled validation, a model without a parameter that requires
            a gradient or with weights that are not finite, a layer for which ``max_norm`` cannot hold, a
            checkpoint that is damaged, of another run or in a place that cannot be written, or whatever the
            objective refuses.
        FloatingPointError: the loss or the weights stopped being finite; the message names the data if
            they are the cause.

    >>> import kdlib as kd
    >>> data = kd.data.load("digits", device="cpu")
    >>> student = kd.models.mlp(30)
    >>> history = kd.fit(student, kd.CrossEntropy(), data, kd.Recipe(epochs=2), progress=False)
    >>> list(history.frame["epoch"]), history.interrupted
    ([1, 2], False)
    """
    objective = as_objective(objective)
    check_arguments(model, objective, data, recipe, seed)
    if recipe.learning_rate is None and objective.default_rate is not None:
        recipe = replace(recipe, learning_rate=objective.default_rate)
    device = data.train.device
    with forked(), torch.enable_grad(), autocast(device, None):
        torch.set_default_dtype(
            weights_dtype(recipe)
        )  # for what a forward pass makes; undone by forked
        reseed(key(seed, 0, "prepare"))  # on resume too: a regressor starts with the same weights
        model.to(device, weights_dtype(recipe))
        saved = None if checkpoint is None else Checkpoint(checkpoint, model)
        objective.prepare(model, data.train, recipe)
        run = _Run(model, objective, data, recipe, seed)
        if saved is not None:
            saved.resume(run)
        interrupted = False
        try:
            with bar(run.epochs, len(run.rows), progress) as advance:
                for epoch in range(len(run.rows) + 1, run.epochs + 1):
                    row = run.epoch(epoch)
                    if saved is not None:
                        saved.write(run)
                    advance(row)
                    if on_epoch is not None:
                        on_epoch(dict(row))
        except KeyboardInterrupt:
            interrupted = True
        finally:
            model.eval()
        run.finish()
    columns = None if run.rows else ["epoch", "step", "seconds", *_VALIDATION]
    return History(pd.DataFrame(run.rows, columns=columns), interrupted, recipe.peak_rate)


def check_arguments(
    model: nn.Module, objective: Objective, data: Data, recipe: Recipe, seed: int
) -> None:
    """Refuse what cannot be trained before any training starts."""
    for name, value, kind in (
        ("model", model, nn.Module),
        ("data", data, Data),
        ("recipe", recipe, Recipe),
    ):
        if not isinstance(value, kind):
            remedy = _remedy(value) if name == "data" else ""
            raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}{remedy}")
    check_trainable(model)
    if isinstance(objective.taps, str):
        taps = objective.taps
        raise TypeError(
            f"taps must be a tuple of names, got {taps!r}; ({taps!r},) is a tuple of one"
        )
    check_seed(seed)
    watched = {
        'keep="best"': recipe.keep == "best",
        'schedule="plateau"': recipe.schedule == "plateau",
    }
    for name, wanted in watched.items():
        if wanted and not data.labelled("validation"):
            raise ValueError(
                f"{name} needs a labelled validation split; load the data with validation=... or use "
                'keep="last" and another schedule'
            )
        if wanted and not _asks_for_logits(objective):
            raise ValueError(
                f"{name} needs an objective that trains the logits, but this one ends at "
                f'{list(objective.taps)}; use keep="last" and another schedule'
            )


def _remedy(data: object) -> str:
    """How to turn what was passed into a Data."""
    if isinstance(data, DataLoader):
        return "; kd.data.from_dataset(loader.dataset) makes one from what it reads"
    if isinstance(data, Dataset):
        return "; kd.data.from_dataset(dataset) makes one"
    if isinstance(data, (Tensor, np.ndarray, tuple, list)):
        return "; kd.data.from_arrays(inputs, labels) makes one"
    if isinstance(data, Samples):
        return "; this is one split of a Data: pass data, not data.train"
    return '; kd.data.load("mnist") makes one, and so do kd.data.from_arrays, from_folder and from_dataset'


class _Watched(Batch):
    """A batch that notes whether its progress, or that of a copy, was read."""

    @property
    def progress_read(self) -> bool:
        return bool(vars(self)["_readings"])

    @property
    def progress(self) -> float:
        vars(self)["_readings"].append(True)
        return vars(self)["_progress"]

    @progress.setter
    def progress(self, value: float) -> None:  # once, when it is built
        vars(self).update(_progress=value, _readings=[])  # a list, which copies share


class _Run:
    """A training in progress: its weights, its optimizer and its rows."""

    def __init__(
        self, model: nn.Module, objective: Objective, data: Data, recipe: Recipe, seed: int
    ) -> None:
        self.model, self.objective, self.data = model, objective, data
        self.recipe, self.seed = recipe, seed
        self.device = data.train.device
        module = objective.module
        if module is not None:
            module.to(self.device, weights_dtype(recipe))
        self.trained = nn.ModuleList([model] if module is None else [model, module])
        if not trains(self.trained):
            raise ValueError(
                "model has no parameter that requires a gradient, so there is nothing to train; "
                "model.requires_grad_(True) unfreezes it"
            )
        for name, weights in model.named_parameters():
            if weights.requires_grad and not weights.isfinite().all():
                raise ValueError(
                    f"model must start from finite weights, but {name!r} holds NaN or infinity; has an "
                    "earlier training diverged?"
                )
        if recipe.max_norm is not None:
            check_limit(model)
        self.held = held(self.trained)
        self.stepper = Stepper(self.trained, recipe, self.device)
        self.steps = data.train.steps(recipe.batch_size)
        self.total, self.epochs = recipe.length(self.steps)
        self.rows: list[dict] = []
        self.progress_read = False  # whether the objective has asked how much of it is done
        self.best: dict[str, Tensor] | None = None

    def epoch(self, epoch: int) -> dict:
        started = time.perf_counter()
        factor = self._rate_factor()
        self.trained.train()
        for module in self.held.values():
            module.eval()
        reseed(key(self.seed, epoch, "dropout"))
        with self.data.train.reading(self.model):
            terms = run_epoch(self._batches(epoch), lambda batch: self._step(batch, factor))
        # The epoch's only copy from a GPU, one for all terms: until here the host never waits.
        means = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
        step = min(epoch * self.steps, self.total)
        row = {"epoch": epoch, "step": step, "seconds": time.perf_counter() - started}
        row |= means | self.objective.changing_weights((step - 1) / self.total) | self._validation()
        self._check_finite(row, means)
        self._note_best(row)
        self.rows.append(row)
        return row

    def _batches(self, epoch: int) -> Iterator[_Watched]:
        first = (epoch - 1) * self.steps
        draws = stream(self.seed, epoch, "objective", self.device)
        batches = self.data.train.batches(
            self.recipe.batch_size,
            order=stream(self.seed, epoch, "order"),
            augment=self.recipe.augment,
            views=stream(self.seed, epoch, "views", self.device),
        )
        for step, samples in zip(range(first, self.total), batches, strict=False):
            yield _Watched(*samples, step / self.total, draws, first=step == first)

    def _step(self, batch: _Watched, factor: float) -> dict[str, Tensor]:
        with self.stepper.forward():
            student = self._outputs(batch.inputs)
        if student.logits is not None:
            self._check_classes(student.logits, batch)
        # Outside autocast: losses are computed in float32, whatever the student's products are.
        terms = checked_terms(self.objective, self.objective(student, batch))
        self.progress_read |= batch.progress_read
        terms = self.stepper.descend(terms, factor * self.recipe.rate(batch.progress))
        if self.recipe.max_norm is not None:
            limit_norms(self.model, self.recipe.max_norm)
        return terms

    def _outputs(self, inputs: Tensor) -> Outputs:
        if inputs.is_floating_point():
            inputs = inputs.to(weights_dtype(self.recipe))
        names = tuple(self.objective.taps)
        if not names:
            return Outputs(answer_of(self.model(inputs)), model=self.model)  # (N, C)
        # Nothing above the highest tap runs: it would cost time and move BatchNorm's statistics.
        features = reach(self.model, inputs, names)
        return Outputs(features.get(""), features, self.model)

    def _rate_factor(self) -> float:
        """``plateau``'s factor: a quarter for every epoch that did not lower the best validation loss."""
        if self.recipe.schedule != "plateau":
            return 1.0
        losses = [row["validation_loss"] for row in self.rows]
        lowest = accumulate(losses, min)  # up to each epoch; compared with the next
        return 0.25 ** sum(loss >= low for loss, low in zip(losses[1:], lowest, strict=False))

    def _check_classes(self, logits: Tensor, batch: Batch) -> None:
        classes = len(self.data.classes)
        if logits.ndim < 2 or (batch.labels is not None and logits.shape[-1] < classes):
            raise ValueError(
                f"model must give logits (N, {classes}), one for each class of the data, "
                f"got shape {tuple(logits.shape)}"
            )

    def _validation(self) -> dict:
        if not (self.data.labelled("validation") and _asks_for_logits(self.objective)):
            return dict.fromkeys(_VALIDATION, math.nan)
        split = self.data.validation
        # What has trained at this batch size has the memory for it.
        batch_size = min(self.recipe.batch_size, split.at_once())
        scores = evaluate(self.model, split, batch_size=batch_size)
        return dict(zip(_VALIDATION, (scores.loss, scores.accuracy), strict=True))

    def _check_finite(self, row: dict, terms: dict[str, float]) -> None:
        if self.data.labelled("validation") and _asks_for_logits(self.objective):
            terms = terms | {"validation_loss": row["validation_loss"]}
        # Weights too: the last step's are in no loss yet.
        whole = [weights.isfinite().all() for weights in self.trained.parameters()]
        if all(math.isfinite(value) for value in terms.values()) and torch.stack(whole).all():
            return
        found = ", ".join(f"{name} = {value}" for name, value in terms.items())
        epoch, views = row["epoch"], ""
        if not all(
            batch.inputs.isfinite().all() for batch in self._batches(epoch)
        ):  # as drawn then
            views = f"augment makes NaN or infinity of finite images: {self.recipe.augment}"
        raise not_finite("the loss or the weights", epoch, self.recipe, self.data, found, views)

    def _note_best(self, row: dict) -> None:
        if self.recipe.keep != "best":
            return
        if row["validation_loss"] < min(
            (r["validation_loss"] for r in self.rows), default=math.inf
        ):
            self.best = copied(numbers_of(self.model))

    def finish(self) -> None:
        if self.best is not None:
            restore(self.model, self.best)

    def identity(self, recipe: Recipe | None = None) -> dict[str, str]:
        recipe = self.recipe if recipe is None else recipe
        return identity_of(self.model, self.objective, self.data, recipe, self.seed)

    def state(self) -> dict:
        return {
            "weights": [numbers_of(part) for part in self.trained],  # the student, its regressors
            "optimizer": self.stepper.optimizer.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "rows": self.rows,
            "best": self.best,
        }

    def load(self, state: dict) -> None:
        for part, numbers in zip(self.trained, state["weights"], strict=True):
            restore(part, numbers)
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        if self.stepper.scaler.is_enabled() and state["scaler"]:
            self.stepper.scaler.load_state_dict(state["scaler"])
        self.rows, self.best = state["rows"], state["best"]


def _asks_for_logits(objective: Objective) -> bool:
    return not objective.taps or "" in objective.taps
