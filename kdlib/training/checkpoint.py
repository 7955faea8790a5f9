"""A training run on disk, and the texts that identify it."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from kdlib._files import write_whole
from kdlib.data.splits import Data
from kdlib.data.views import Augmentation
from kdlib.identity import Undescribed, code_hash, weights_hash
from kdlib.objectives.base import Objective
from kdlib.recipe import Recipe, non_default_fields


class Resumable(Protocol):
    """The methods of a training run that a checkpoint calls."""

    def identity(self) -> dict[str, str]: ...
    def state(self) -> dict: ...
    def load(self, state: dict) -> None: ...


def identity_of(
    model: nn.Module, objective: Objective, data: Data, recipe: Recipe, seed: int
) -> dict[str, str]:
    """The texts that together identify a training run."""
    # Shapes, not weights: other starting weights only cause a warning.
    shapes = [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
    # Named only if there are any, so that all other runs keep their identities.
    frozen = [name for name, weights in model.named_parameters() if not weights.requires_grad]
    try:
        objective_key = objective.key
    except Undescribed as error:
        raise Undescribed(
            f"{error}; an objective may be given a key: objective.key = ..."
        ) from error
    return {
        "network": hashlib.sha256(f"{model!r} {shapes}".encode()).hexdigest()[:16],
        "objective": objective_key,
        "data": data.fingerprint(),
        "recipe": recipe_text(recipe),
        "seed": str(seed),
    } | ({"frozen": repr(frozen)} if frozen else {})


def recipe_text(recipe: Recipe) -> str:
    """The fields that differ from their defaults; a reader's own ``augment`` by its code."""
    values = non_default_fields(recipe)
    if recipe.augment is not None and type(recipe.augment) is not Augmentation:
        try:
            values["augment"] = f"views of code {code_hash(recipe.augment)}"
        except Undescribed as error:
            raise Undescribed(f"in augment, {error}") from error
    return repr({name: str(value) for name, value in values.items()})


class Checkpoint:
    """A run on disk: its identity, a hash of its starting weights, and its present state."""

    def __init__(self, path: Path, model: nn.Module) -> None:
        self.path = path
        self.start = weights_hash(model)
        self.identity: dict[str, str] = {}

    def write(self, run: Resumable) -> None:
        state = {"identity": self.identity, "start": self.start} | run.state()
        write_whole(self.path, lambda part: torch.save(state, part))

    def resume(self, run: Resumable) -> None:
        try:
            self.identity = run.identity()
        except Undescribed as error:
            raise TypeError(
                f"checkpoint needs a training that can be described by a text: {error}"
            ) from error
        if self.path.is_dir():
            raise ValueError(f"checkpoint must be a file, but {self.path} is a folder")
        if not self.path.exists():
            return
        state = self._read()
        stored = state["identity"]
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
        run.load(state)

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
