"""Running and copying any network without changing it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import UninitializedTensorMixin
from torch.overrides import TorchFunctionMode

from kdlib._checks import sizes


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; every module's own mode is restored afterwards."""
    for model in models:
        check_initialised("model", model)
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            in_eval_mode(model)
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def in_eval_mode(model: nn.Module) -> nn.Module:
    """The network itself, in eval mode; one from ``torch.export`` has a single mode and stays in it."""
    try:
        return model.eval()
    except NotImplementedError:
        return model


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
        model: any network that returns logits, alone, as ``.logits`` or as ``["logits"]``; its weights,
            buffers and modes stay as they were.
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
    # Integers among the weights say nothing about the inputs; without weights these stay as they are.
    parameter = next((p for p in model.parameters() if p.is_floating_point()), inputs)
    dtype = parameter.dtype if inputs.is_floating_point() else inputs.dtype
    return answer_of(model(inputs.to(parameter.device, dtype)))


def answer_of(output: Any) -> Tensor:
    """The logits in what a network returned: a tensor, its attribute ``logits`` or its entry ``"logits"``.

    Raises:
        TypeError: it is something else; the message says how to wrap the network.
    """
    found = output
    if not isinstance(found, Tensor):
        found = getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        found = output.get("logits")
    if isinstance(found, Tensor):
        return found
    raise TypeError(
        f"a network must return a tensor of logits, or have it as .logits or ['logits'], got {_kind(output)}; "
        "wrap it in an nn.Module whose forward picks the logits out: return self.network(x)[0], for one"
    )


def check_rows(who: str, answer: Tensor, inputs: Tensor) -> None:
    """Refuse an answer whose last dimension is not the classes."""
    shape = tuple(answer.shape)
    if answer.ndim < 2:
        raise ValueError(
            f"{who} must give logits (N, C), one row for each sample, got shape {shape}"
        )
    # Signals (N, c, L) answered by (N, C, L): the places are last, as they are in the inputs. Where both
    # shapes are equal, (N, L, c) may have been answered by (N, L, C), which is right.
    pair = answer.ndim == inputs.ndim == 3 and inputs.is_floating_point()
    signals = pair and answer.shape[2] == inputs.shape[2] and answer.shape[1] != inputs.shape[1]
    if answer.ndim > 3 or signals:
        raise ValueError(
            f"{who} must give logits (N, C) or (N, places, C), the classes last, got maps of shape {shape}; "
            "return maps.movedim(1, -1).flatten(1, -2) from its forward"
        )


def check_members(who: str, answers: Sequence[Tensor], inputs: Tensor) -> None:
    """Refuse answers of several networks for the same inputs whose places or classes are not the same."""
    for answer in answers:
        check_rows(who, answer, inputs)
    shapes = list(dict.fromkeys(tuple(answer.shape) for answer in answers))
    if len(shapes) > 1:
        raise ValueError(
            f"{who} must be networks of the same classes, got logits of shapes {shapes}"
        )


def _kind(output: Any) -> str:
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"a {kind} with {', '.join(map(repr, output)) or 'nothing in it'}"
    if isinstance(output, (tuple, list)):
        return f"a {kind} of {', '.join(type(part).__name__ for part in output) or 'nothing'}"
    return f"a {kind}"


def as_float(inputs: Tensor) -> Tensor:
    """Images in float32; tokens stay integers."""
    return inputs.float() if inputs.is_floating_point() else inputs


def frozen_copy(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy in eval mode on the device, without gradients; the original is left alone."""
    try:
        with torch.no_grad(), _WithoutGraphs():
            frozen = copy.deepcopy(plain(model))
    except Exception as error:  # a module may hold anything, and copying it raise anything
        raise TypeError(
            f"teacher must be a network that copy.deepcopy can copy, got {type(model).__name__} ({error}); "
            "pass its logits by sample index instead: table[data.train.index] = kd.logits(teacher, data.train)"
        ) from error
    frozen = in_eval_mode(frozen.to(device))
    for weights in frozen.parameters():  # a scripted network has no requires_grad_
        weights.requires_grad_(False)
    return frozen


class _WithoutGraphs(TorchFunctionMode):
    """Inside, tensors that a network has computed and kept are copied without how they were computed."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        if function is Tensor.__deepcopy__ and not arguments[0].is_leaf:
            tensor, memo = arguments
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return function(*arguments, **(options or {}))


def check_initialised(who: str, model: nn.Module) -> None:
    """Refuse a network with lazy layers that have no weights yet."""
    numbers = (*model.named_parameters(), *model.named_buffers())
    lazy = [name for name, x in numbers if isinstance(x, UninitializedTensorMixin)]
    if lazy:
        layer = lazy[0].rpartition(".")[0]
        kind = type(model.get_submodule(layer)).__name__
        raise ValueError(
            f"{who} must have its weights, but the layer {layer!r} ({kind}) has none yet; run the network "
            "once on a few inputs, such as data.train.inputs[:2]"
        )


def check_trainable(model: nn.Module) -> None:
    """Refuse a student without weights or without a train mode."""
    check_initialised("model", model)
    graphs = (m for m in model.modules() if isinstance(m, torch.fx.GraphModule))
    if any("train" in vars(graph) for graph in graphs):  # torch.export's, which raises
        raise TypeError(
            "model must have a train mode, and a network from torch.export has none; train the network that it "
            "was exported from"
        )


def plain(model: nn.Module) -> nn.Module:
    """The network itself, without what ``torch.compile`` or ``DataParallel`` put around it."""
    model = getattr(model, "_orig_mod", model)
    parallel = isinstance(model, (nn.DataParallel, DistributedDataParallel))
    return plain(model.module) if parallel else model


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
        # An expanded buffer, whose places share their memory, cannot be written into.
        if table is not None and (
            present is None or present.shape != value.shape or _shares_places(present)
        ):
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


def _shares_places(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_quantized and 0 in tensor.stride()


def _buffer_tables(model: nn.Module) -> dict[str, dict[str, Tensor | None]]:
    """The table in which each buffer stands, also those that are None at present."""
    return {
        f"{prefix}{'.' if prefix else ''}{name}": module._buffers
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name in module._buffers.keys()  # noqa: SIM118  a scripted module's table has no iterator
    }
