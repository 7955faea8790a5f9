"""What kdlib does with any network without changing it: run it, copy it, hash it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; every module's own mode is put back afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def logits(model: nn.Module, inputs, batch_size: int = 1000) -> Tensor:
    """The network's outputs for many inputs, in eval mode and without gradients.

    Args:
        model: any network; its weights, buffers and modes are as before afterwards.
        inputs: ``(N, ...)``, or a ``Split`` whose inputs are taken.
        batch_size: how many go through at once.

    Returns:
        Logits ``(N, C)`` on the inputs' device.

    >>> logits(nn.Linear(3, 2), torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    inputs = getattr(inputs, "inputs", inputs)
    if not isinstance(inputs, Tensor):
        raise TypeError(
            f"inputs must be a tensor or a split such as data.test, got {type(inputs).__name__}"
        )
    parameter = next(model.parameters(), inputs)
    dtype = parameter.dtype if inputs.is_floating_point() else inputs.dtype  # tokens stay whole
    with evaluating(model):
        parts = [model(part.to(parameter.device, dtype)) for part in inputs.split(batch_size)]
    return torch.cat(parts).to(inputs.device)


def frozen_copy(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy in eval mode on the device, without gradients: whatever happens, the original stays."""
    return copy.deepcopy(model).to(device).eval().requires_grad_(False)


def weights_hash(model: nn.Module) -> str:
    """A hash of every weight and buffer with its name."""
    return tensors_hash(model.state_dict())


def tensors_hash(tensors: dict[str, Tensor | None]) -> str:
    """A hash of names, dtypes, shapes and bytes; where the tensors live does not matter."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        if tensor is None:
            digest.update(f"{name} none;".encode())
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
