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


def begin_text(model: nn.Module, carry: bool) -> None:
    """Let its recurrent parts forget what they read and, if so wished, go on from call to call."""
    for module in model.modules():
        if hasattr(module, "begin_text"):
            module.begin_text(carry=carry)


@contextmanager
def reading(*models: nn.Module, in_order: bool = True) -> Iterator[None]:
    """Inside, recurrent networks read one text from its beginning, call after call.

    Where inputs are not in order, rows have nothing to do with those of the call before, and each call
    begins anew.
    """
    for model in models:
        begin_text(model, carry=in_order)
    try:
        yield
    finally:
        for model in models:
            begin_text(model, carry=False)


def logits(model: nn.Module, inputs, batch_size: int = 1000) -> Tensor:
    """The network's outputs for many inputs, in eval mode and without gradients.

    Args:
        model: any network; its weights, buffers and modes are as before afterwards.
        inputs: ``(N, ...)``, or a ``Split`` whose inputs are taken, a text's from left to right.
        batch_size: how many go through at once.

    Returns:
        Logits ``(N, C)`` on the inputs' device.

    >>> logits(nn.Linear(3, 2), torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    whole = getattr(inputs, "inputs", inputs)
    if not isinstance(whole, Tensor):
        raise TypeError(
            f"inputs must be a tensor or a split such as data.test, got {type(inputs).__name__}"
        )
    in_order = getattr(inputs, "in_order", False)
    parts = (part for part, _ in inputs.parts(batch_size)) if in_order else whole.split(batch_size)
    with evaluating(model), reading(model, in_order=in_order):
        found = torch.cat([answers(model, part) for part in parts], dim=1 if in_order else 0)
    return (found.flatten(0, 1) if in_order else found).to(whole.device)


def answers(model: nn.Module, inputs: Tensor) -> Tensor:
    """What a network says, on its own device and in its own precision; tokens stay whole."""
    parameter = next(model.parameters(), inputs)
    dtype = parameter.dtype if inputs.is_floating_point() else inputs.dtype
    return model(inputs.to(parameter.device, dtype))


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
