"""Running and copying any network without changing it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; every module's own mode is restored afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def begin_text(models: Iterable[nn.Module], carry: bool) -> None:
    """Reset recurrent parts; with ``carry`` they then keep their state from call to call."""
    for model in models:
        for module in model.modules():
            if hasattr(module, "begin_text"):
                module.begin_text(carry=carry)


@contextmanager
def carrying(models: Sequence[nn.Module], carry: bool = True) -> Iterator[None]:
    """Reset recurrent networks; inside, they keep state between calls unless ``carry=False``."""
    begin_text(models, carry)
    try:
        yield
    finally:
        begin_text(models, carry=False)


@runtime_checkable
class Readable(Protocol):
    """Data that can be read in parts: a split, or a text from left to right."""

    @property
    def device(self) -> torch.device: ...
    def reading(self, *models: nn.Module) -> AbstractContextManager[None]: ...
    def parts(self, size: int) -> Iterator[tuple[Tensor, Tensor | None]]: ...
    def joined(self, answers: list[Tensor]) -> Tensor: ...


def logits(model: nn.Module, inputs: Tensor | Readable, batch_size: int = 1000) -> Tensor:
    """The network's outputs for many inputs, in eval mode and without gradients.

    Args:
        model: any network; its weights, buffers and modes stay as they were.
        inputs: ``(N, ...)``, or a split, whose inputs are used; a text is read from left to right.
        batch_size: inputs per forward pass.

    Returns:
        Logits ``(N, C)`` on the inputs' device.

    >>> logits(nn.Linear(3, 2), torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    if isinstance(inputs, Tensor):
        parts = iter(inputs.split(batch_size))
        reading, joined = carrying([model], carry=False), torch.cat
    elif isinstance(inputs, Readable):
        parts = (part for part, _ in inputs.parts(batch_size))
        reading, joined = inputs.reading(model), inputs.joined
    else:
        raise TypeError(
            f"inputs must be a tensor or a split such as data.test, got {type(inputs).__name__}"
        )
    with evaluating(model), reading:
        found = [answers(model, part) for part in parts]
    return joined(found).to(inputs.device)


def answers(model: nn.Module, inputs: Tensor) -> Tensor:
    """A network's outputs, on its own device and in its own precision; tokens stay integers."""
    parameter = next(model.parameters(), inputs)  # without parameters, the inputs decide
    dtype = parameter.dtype if inputs.is_floating_point() else inputs.dtype
    return model(inputs.to(parameter.device, dtype))


def as_float(inputs: Tensor) -> Tensor:
    """Images in float32; tokens stay integers."""
    return inputs.float() if inputs.is_floating_point() else inputs


def frozen_copy(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy in eval mode on the device, without gradients; the original is left alone."""
    return copy.deepcopy(model).to(device).eval().requires_grad_(False)
