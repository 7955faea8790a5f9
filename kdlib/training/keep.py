"""Train once, load the next time."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from kdlib._files import write_whole
from kdlib.data.splits import Data
from kdlib.identity import Undescribed, weights_hash
from kdlib.objectives.base import Objective, as_objective
from kdlib.recipe import Recipe
from kdlib.seeding import check_seed, seeded
from kdlib.training.checkpoint import identity_of
from kdlib.training.fit import check_arguments, fit
from kdlib.training.steps import weights_dtype

__all__ = ["built", "keep"]


def keep(
    build: Callable[..., nn.Module],
    objective: Objective,
    data: Data,
    recipe: Recipe = Recipe(),
    seed: int = 0,
) -> nn.Module:
    """A trained network: the stored one if this very training was done before, else trained now.

    Stored in torch's cache folder under a hash of the network's start, the objective, the data, the
    recipe and the seed, and prints which it was. Of several processes that want the same network one
    trains it, and the others wait. The objective's key covers the reader's own code; where something in it
    has no text that tells it from another, the network is trained and not kept, and a line says so.

    Args:
        build: makes the network, from the seed (``lambda seed: kd.models.mlp(800, seed=seed)``, or
            any function with a parameter ``seed``) or from nothing.
        objective, data, recipe, seed: as for :func:`fit`.

    Raises:
        ValueError: the stored file is damaged.
        KeyboardInterrupt: training was stopped by hand; nothing is stored.
    """
    from filelock import FileLock
    from safetensors.torch import save_model

    check_seed(seed)
    with seeded(seed):
        model = built(build, seed)
    objective = as_objective(objective)
    check_arguments(model, objective, data, recipe, seed)
    try:
        identity = identity_of(model, objective, data, recipe, seed)
    except Undescribed as error:
        seconds = _trained(model, objective, data, recipe, seed)
        print(f"trained in {seconds:.0f} s and not kept: {error}")
        return model
    identity["start"] = weights_hash(model)
    name = hashlib.sha256(repr(sorted(identity.items())).encode()).hexdigest()[:16]
    path = Path(torch.hub.get_dir()) / "kdlib" / "kept" / f"{name}.safetensors"
    # Asked again behind the lock: another process may have trained it meanwhile.
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                seconds = _trained(model, objective, data, recipe, seed)
                metadata = {"weights": weights_hash(model)}
                write_whole(path, lambda part: save_model(model, str(part), metadata))
                print(f"trained in {seconds:.0f} s and stored ({path.stem})")
                return model
    _load_kept(model.to(data.train.device, weights_dtype(recipe)), path)
    print(f"loaded a network trained earlier ({path.stem})")
    return model.eval()


def _trained(
    model: nn.Module, objective: Objective, data: Data, recipe: Recipe, seed: int
) -> float:
    """Train in place; the seconds that it took."""
    started = time.perf_counter()
    if fit(model, objective, data, recipe, seed=seed).interrupted:
        raise KeyboardInterrupt("training was interrupted; nothing is stored")
    return time.perf_counter() - started


def _load_kept(model: nn.Module, path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_model

    try:
        with safe_open(path, "pt") as file:
            expected = file.metadata()["weights"]
        load_model(model, path)  # not torch.load: a cache may be shared, and this runs no code
    except Exception as error:  # a damaged file fails in many ways in there
        raise ValueError(f"{path} is damaged ({error}); delete it and it is made anew") from error
    if weights_hash(model) != expected:
        raise ValueError(f"{path} is damaged (its weights changed); delete it and it is made anew")


def built(build: Callable[..., nn.Module], seed: int) -> nn.Module:
    parameters = inspect.signature(build).parameters
    if "seed" in parameters:
        return build(seed=seed)
    required = [
        p for p in parameters.values() if p.default is p.empty and p.kind < p.VAR_POSITIONAL
    ]
    return build(seed) if required else build()
