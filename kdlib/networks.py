"""Running and copying any network without changing it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kdlib._checks import sizes


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
    def at_once(self, batch_size: int | None = None) -> int: ...
    def parts(self, size: int) -> Iterator[tuple[Tensor, Tensor | None]]: ...
    def joined(self, answers: list[Tensor]) -> Tensor: ...


def at_once(inputs: Tensor, batch_size: int | None = None) -> int:
    """Inputs per forward pass: ``batch_size``, by default 1,000, or fewer if they are large.

    >>> at_once(torch.zeros(1, 3, 32, 32)), at_once(torch.zeros(1, 3, 224, 224))
    (1000, 26)
    """
    if batch_size is None:
        return max(1, min(1000, 4_000_000 // max(1, inputs[:1].numel())))
    sizes(batch_size=batch_size)
    return batch_size


def logits(model: nn.Module, inputs: Tensor | Readable, batch_size: int | None = None) -> Tensor:
    """The network's outputs for many inputs, in eval mode and without gradients.

    Args:
        model: any network; its weights, buffers and modes stay as they were.
        inputs: ``(N, ...)``, or a split, whose inputs are used; a text is read from left to right.
        batch_size: inputs per forward pass, for a text rows of ``unroll`` tokens; by default 1,000 inputs or
            tokens, or fewer if an input holds more than 4,000 numbers.

    Returns:
        Logits ``(N, C)`` on the inputs' device.

    >>> logits(nn.Linear(3, 2), torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    if isinstance(inputs, Tensor):
        parts = iter(inputs.split(at_once(inputs, batch_size)))
        reading, joined = carrying([model], carry=False), torch.cat
    elif isinstance(inputs, Readable):
        parts = (part for part, _ in inputs.parts(inputs.at_once(batch_size)))
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


def plain(model: nn.Module) -> nn.Module:
    """The network itself, if it is one that ``torch.compile`` returned."""
    return getattr(model, "_orig_mod", model)


def numbers_of(model: nn.Module) -> dict[str, Any]:
    """All parameters and buffers by name, and whatever else the state dict holds."""
    model = plain(model)
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),  # those outside the state dict, too
    }
    others = {name: x for name, x in model.state_dict().items() if name not in tensors}
    return tensors | others


def copied(numbers: dict[str, Any]) -> dict[str, Any]:
    """Copies of a network's numbers, which later training does not change."""
    return {
        name: x.detach().clone() if isinstance(x, Tensor) else copy.deepcopy(x)
        for name, x in numbers.items()
    }


@torch.no_grad()
def restore(model: nn.Module, numbers: Mapping[str, Any]) -> None:
    """Write such numbers into a network of the same code; buffers take the stored shapes.

    Raises:
        ValueError: parameters, or other parts of the state dict, have other names or shapes.
    """
    model = plain(model)
    there = numbers_of(model)
    buffers = _buffer_tables(model)
    for name, value in numbers.items():
        present, table = there.get(name), buffers.get(name)
        if table is not None and (present is None or present.shape != value.shape):
            table[name.rpartition(".")[2]] = value.detach().clone()
        elif isinstance(present, Tensor) and present.shape == value.shape:
            present.copy_(value)
        elif isinstance(present, Tensor) or name not in there:
            raise ValueError(f"the network has no {name!r} of shape {tuple(value.shape)}")
    if missing := [name for name in there if name not in numbers and name not in buffers]:
        raise ValueError(f"{missing[0]!r} of the network is not among the stored numbers")
    others = {name: x for name, x in numbers.items() if not isinstance(there.get(name, x), Tensor)}
    if others:
        model.load_state_dict(others, strict=False)


def _buffer_tables(model: nn.Module) -> dict[str, dict[str, Tensor | None]]:
    """The table in which each buffer stands, also those that are None at present."""
    return {
        f"{prefix}{'.' if prefix else ''}{name}": module._buffers
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name in module._buffers.keys()  # noqa: SIM118  a scripted module's table has no iterator
    }
