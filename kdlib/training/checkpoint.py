"""A training run on disk, and the texts that identify it."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdlib._files import check_place, reason, write_whole
from kdlib.data.splits import Data
from kdlib.data.views import Augmentation
from kdlib.identity import Undescribed, code_hash, structure_hash, weights_hash
from kdlib.networks import numbers_of
from kdlib.objectives.base import Objective
from kdlib.recipe import Recipe, non_default_fields
from kdlib.training.steps import held


class Resumable(Protocol):
    """The methods of a training run that a checkpoint calls."""

    recipe: Recipe
    objective: Objective
    rows: list[dict]
    progress_read: bool

    def identity(self, recipe: Recipe | None = None) -> dict[str, str]: ...
    def state(self) -> dict: ...
    def load(self, state: dict) -> None: ...


def identity_of(
    model: nn.Module, objective: Objective, data: Data, recipe: Recipe, seed: int
) -> dict[str, str]:
    """The texts that together identify a training run."""
    try:
        # Without the weights: other starting weights only cause a warning.
        network = structure_hash(model)
    except Undescribed as error:
        raise Undescribed(f"in the network, {error}") from error
    # Named only if there are any, so that all other runs keep their identities.
    frozen = [name for name, weights in model.named_parameters() if not weights.requires_grad]
    try:
        objective_key = objective.key
    except Undescribed as error:
        raise Undescribed(
            f"{error}; an objective may be given a key: objective.key = ..."
        ) from error
    return {
        "network": network,
        "objective": objective_key,
        "data": data.fingerprint(),
        "recipe": recipe_text(recipe),
        "seed": str(seed),
    } | ({"frozen": f"{frozen}, in eval mode {[*held(model)]}"} if frozen else {})


def recipe_text(recipe: Recipe) -> str:
    """The fields that differ from their defaults; a reader's own ``augment`` by its code."""
    values = non_default_fields(recipe)
    if recipe.augment is not None and type(recipe.augment) is not Augmentation:
        try:
            values["augment"] = f"views of code {code_hash(recipe.augment)}"
        except Undescribed as error:
            raise Undescribed(f"in augment, {error}") from error
    return repr({name: str(value) for name, value in values.items()})


def changes(before: dict[str, str], after: dict[str, str]) -> str:
    """What training changed of a run's identity, which no file holds; empty if it changed nothing."""
    # A network that is trained ends in eval mode, which shows in "frozen".
    changed = [n for n, text in after.items() if n != "frozen" and before.get(n) != text]
    if not changed:
        return ""
    remedies = {
        "network": "register it as a buffer",
        "objective": "begin its name with an underscore, or make it a buffer of objective.module",
    }
    remedy = remedies.get(changed[0], "use one that does not change")
    return f"training changes an attribute of the {changed[0]}, which is not stored; {remedy}"


def _check_storable(numbers: dict[str, Any]) -> None:
    """Refuse extra state that could be written but, for safety, not read again."""
    for name, value in numbers.items():
        file = io.BytesIO()
        try:
            if not isinstance(value, Tensor):
                torch.save(value, file)
                file.seek(0)
                torch.load(file, weights_only=True)
        except Exception as error:  # pickling may raise anything
            raise TypeError(
                f"checkpoint needs a network that it can hold: {name!r} of the network must consist of "
                f"tensors, numbers, strings, lists and dicts, got {type(value).__name__}"
            ) from error


def _checked(path: str | os.PathLike) -> Path:
    """The path in full, if a file can be read or written there."""
    path = Path(os.path.expanduser(path))
    try:
        if path.is_dir():
            raise ValueError(f"checkpoint must be a file, but {path} is a folder")
        if not path.exists():
            check_place(path)
    except OSError as error:
        raise ValueError(
            f"checkpoint must be a file that can be written, but {path} cannot ({reason(error)}); choose "
            "another folder"
        ) from error
    return path


def _length(recipe: Recipe) -> dict[str, int | None]:
    return {"epochs": recipe.epochs, "iterations": recipe.iterations}


def _spelled(length: dict[str, int | None]) -> str:
    name = "epochs" if length["iterations"] is None else "iterations"
    return f"{length[name]} {name}"


def _save(state: dict, part: Path) -> None:
    with part.open("wb") as file:  # opened here, so that the system's own reason is known
        torch.save(state, file)


class Checkpoint:
    """A run on disk: its identity, a hash of its starting weights, and its present state."""

    def __init__(self, path: str | os.PathLike, model: nn.Module) -> None:
        self.path = _checked(path)
        self.failed = False  # whether it could not be written once
        _check_storable(numbers_of(model))
        self.start = weights_hash(model)
        self.identity: dict[str, str] = {}
        # Whether it is known that training changes nothing of it; extra state may hold what it changes.
        self.compared = not all(isinstance(x, Tensor) for x in numbers_of(model).values())

    def write(self, run: Resumable) -> None:
        if not self.compared:
            self.compared = True
            if changed := changes(self.identity, run.identity()):
                warnings.warn(f"a resumed training would differ: {changed}", stacklevel=3)
        state = {
            "identity": self.identity,
            "start": self.start,
            "length": _length(run.recipe),
            "progress_read": run.progress_read,
        } | run.state()
        try:
            write_whole(self.path, partial(_save, state))
        except (OSError, RuntimeError) as error:  # a full disk is either, as torch has it
            if not self.failed:
                warnings.warn(
                    f"checkpoint {self.path} could not be written ({reason(error)}); training goes on, "
                    "and the file is tried again after every epoch",
                    stacklevel=3,
                )
            self.failed = True

    def resume(self, run: Resumable) -> None:
        try:
            self.identity = run.identity()
        except Undescribed as error:
            raise TypeError(
                f"checkpoint needs a training that can be described by a text: {error}"
            ) from error
        if not self.path.exists():
            return
        state = self._read()
        stored, length = state["identity"], state.get("length")
        only_length = length and run.identity(replace(run.recipe, **length)) == stored
        if stored != self.identity and only_length:
            self._check_training_on(run, state)
            stored = self.identity
        for name in self.identity | stored:  # frozen layers are named only where there are some
            if stored.get(name) != self.identity.get(name):
                raise ValueError(
                    f"checkpoint {self.path} belongs to another training: its {name} is "
                    f"{stored.get(name)}, here it is {self.identity.get(name)}; choose another file "
                    "or delete it"
                )
        if self.start != state["start"]:
            warnings.warn(
                f"the network's weights are replaced by those of {self.path.name}, which started from "
                "other ones; if this is another network, choose another checkpoint",
                stacklevel=3,
            )
        self.start = state["start"]
        run.progress_read = state.get("progress_read", True)  # not noted by older versions
        run.load(state)

    def _check_training_on(self, run: Resumable, state: dict) -> None:
        """Refuse another length where it would have changed what was trained so far."""
        recipe, length, done = run.recipe, state["length"], len(state["rows"])
        conditions = {
            "iterations must be None": recipe.iterations is length["iterations"] is None,
            f"epochs must be at least the {done} that are done": recipe.epochs >= done,
            f'schedule must be "constant", not "{recipe.schedule}"': recipe.schedule == "constant",
            f'keep must be "last", not "{recipe.keep}"': recipe.keep == "last",
            "no weight may depend on progress": not run.objective.changing_weights(0.0),
            "the objective must not read batch.progress": not state["progress_read"],
        }
        for condition, holds in conditions.items():
            if not holds:
                raise ValueError(
                    f"checkpoint {self.path} belongs to a training of {_spelled(length)}, here it is "
                    f"{_spelled(_length(recipe))}; to train on, {condition}; choose another file or "
                    "delete it to start anew"
                )

    def _read(self) -> dict:
        refusal = (
            f"checkpoint {self.path} is damaged or was not written by fit; delete it to start anew"
        )
        try:
            with zipfile.ZipFile(self.path) as file:
                if file.testzip() is not None:  # torch.load does not verify checksums
                    raise ValueError(refusal)
            state = torch.load(self.path, weights_only=True, map_location="cpu")
        except Exception as error:  # a damaged file raises errors of many types
            raise ValueError(refusal) from error
        if not isinstance(state, dict) or "identity" not in state:
            raise ValueError(refusal)
        return state
