"""Train once, load the next time."""

from __future__ import annotations

import hashlib
import inspect
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn

from kdlib._files import reason, write_whole
from kdlib.data.splits import Data
from kdlib.identity import Undescribed, network_hash, weights_hash
from kdlib.networks import copied, numbers_of, restore
from kdlib.objectives.base import Objective, as_objective
from kdlib.recipe import Recipe
from kdlib.seeding import check_seed, seeded
from kdlib.training.checkpoint import changes, identity_of
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
    """Return a trained network: loaded if this very run was done before, else trained and stored.

    It is stored in torch's cache folder under a hash of the starting weights, the objective, the data,
    the recipe and the seed; a printed line says whether it was trained or loaded. If several processes
    want the same network, one trains it and the others wait. The objective's key covers the reader's own
    code; if a part of it cannot be described by a text, the network is trained but not stored, and a
    line says so.

    Args:
        build: makes the network, from the seed (``lambda seed: kd.models.mlp(800, seed=seed)``, or
            any function with a parameter ``seed``) or without arguments.
        objective, data, recipe, seed: as for :func:`fit`.

    Warns:
        UserWarning: the network was trained but could not be stored; the message names the folder.

    Raises:
        ValueError: the stored file is damaged.
        KeyboardInterrupt: training was stopped by hand; nothing is stored.
    """
    from filelock import FileLock
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    check_seed(seed)
    with seeded(seed):
        model = built(build, seed)
    objective = as_objective(objective)
    check_arguments(model, objective, data, recipe, seed)
    try:
        identity = identity_of(model, objective, data, recipe, seed)
        for part, number in numbers_of(model).items():
            if not isinstance(number, Tensor) or number.layout != torch.strided:
                raise Undescribed(f"the network's {part!r} is not a dense tensor")
    except Undescribed as error:
        seconds = _trained(model, objective, data, recipe, seed)
        print(f"trained in {seconds:.0f} s and not kept: {error}")
        return model
    started_as = identity | {"start": network_hash(model)}
    name = hashlib.sha256(repr(sorted(started_as.items())).encode()).hexdigest()[:16]
    path = Path(torch.hub.get_dir()) / "kdlib" / "kept" / f"{name}.safetensors"
    with ExitStack() as held:
        try:
            if not (there := path.exists()):
                path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(path.with_suffix(".lock")))
                there = path.exists()  # another process may have trained it in the meantime
        except (OSError, NotImplementedError) as error:  # the latter where files cannot be locked
            seconds = _trained(model, objective, data, recipe, seed)
            _warn_not_stored(path.parent, error)
            print(f"trained in {seconds:.0f} s and not kept")
            return model
        if not there:
            seconds = _trained(model, objective, data, recipe, seed)
            after = identity_of(model, objective, data, recipe, seed)
            if changed := changes(identity, after):
                print(f"trained in {seconds:.0f} s and not kept: {changed}")
                return model
            numbers = {name: x.contiguous() for name, x in copied(numbers_of(model)).items()}
            metadata = {"weights": weights_hash(model)}
            try:
                write_whole(path, lambda part: save_file(numbers, str(part), metadata))
            except (OSError, SafetensorError) as error:  # the latter on a full disk
                _warn_not_stored(path.parent, error)
                print(f"trained in {seconds:.0f} s and not kept")
                return model
            print(f"trained in {seconds:.0f} s and stored ({path.stem})")
            return model
    _load_kept(model.to(data.train.device, weights_dtype(recipe)), path)
    print(f"loaded a network trained earlier ({path.stem})")
    return model.eval()


def _trained(
    model: nn.Module, objective: Objective, data: Data, recipe: Recipe, seed: int
) -> float:
    """Train in place and return the seconds it took."""
    started = time.perf_counter()
    if fit(model, objective, data, recipe, seed=seed).interrupted:
        raise KeyboardInterrupt("training was interrupted; nothing is stored")
    return time.perf_counter() - started


def _warn_not_stored(folder: Path, error: Exception) -> None:
    warnings.warn(
        f"the trained network is returned, but it could not be stored in {folder} ({reason(error)}) and "
        "will be trained again the next time; set the environment variable TORCH_HOME to a folder with "
        "room that can be written",
        stacklevel=3,
    )


def _load_kept(model: nn.Module, path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, "pt") as file:
            expected = file.metadata()["weights"]
        # Unlike torch.load this runs no code; caches may be shared.
        restore(model, load_file(path))
    except Exception as error:  # a damaged file raises errors of many types
        raise ValueError(f"{path} is damaged ({error}); delete it to train again") from error
    if weights_hash(model) != expected:
        raise ValueError(f"{path} is damaged (its weights changed); delete it to train again")


def built(build: Callable[..., nn.Module], seed: int) -> nn.Module:
    parameters = inspect.signature(build).parameters
    if "seed" in parameters:
        return build(seed=seed)
    required = [
        p for p in parameters.values() if p.default is p.empty and p.kind < p.VAR_POSITIONAL
    ]
    return build(seed) if required else build()
