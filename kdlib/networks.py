"""What kdlib does with any network without changing it: run it, copy it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdlib.data.splits import Samples, Split


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


def logits(model: nn.Module, inputs: Tensor | Samples, batch_size: int = 1000) -> Tensor:
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
    if isinstance(inputs, Tensor):
        inputs = Split(inputs, None, torch.arange(len(inputs), device=inputs.device))
    if not isinstance(inputs, Samples):
        raise TypeError(
            f"inputs must be a tensor or a split such as data.test, got {type(inputs).__name__}"
        )
    with evaluating(model), inputs.reading(model):
        found = [answers(model, part) for part, _ in inputs.parts(batch_size)]
    return inputs.joined(found).to(inputs.device)


def answers(model: nn.Module, inputs: Tensor) -> Tensor:
    """A network's outputs, on its own device and in its own precision; tokens stay whole."""
    parameter = next(model.parameters(), inputs)
    dtype = parameter.dtype if inputs.is_floating_point() else inputs.dtype
    return model(inputs.to(parameter.device, dtype))


def as_float(inputs: Tensor) -> Tensor:
    """Images in float32; tokens stay whole."""
    return inputs.float() if inputs.is_floating_point() else inputs


def frozen_copy(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy in eval mode on the device, without gradients: whatever happens, the original stays."""
    return copy.deepcopy(model).to(device).eval().requires_grad_(False)
