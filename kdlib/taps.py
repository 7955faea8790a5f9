"""Intermediate features of any network by name, read without changing the network.

Names are those of ``named_modules``: ``"layer2"``, ``"layer2.0.conv1"``; ``""`` is the whole network, whose
feature is the logits. A compiled network has the names of the one that it was made from. What the
features are used for is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import torch
from torch import Tensor, nn

from kdlib.networks import answer_of, answers, plain

__all__ = ["reach", "taps"]


@contextmanager
def taps(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within the block, every ``model(x)`` fills a dictionary with the outputs of the named modules.

    Gradients flow through these features: they are the tensors that the network itself continues with. They
    stay in the dictionary until the next forward pass; the hooks are removed after the block. (If a network
    recomputes parts in the backward pass to save memory, call ``backward`` after the block.)

    Args:
        model: any network, torchvision's included, except TorchScript. A compiled one runs uncompiled
            within the block.
        names: names of its modules, each once.

    Raises:
        TypeError: names is not a list of strings, or a module does not return a single tensor.
        ValueError: the network has no such module (the message lists its modules), or it is TorchScript; a
            module runs twice in one forward pass; or a later module changes its output in place.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> with taps(net, ["1", ""]) as features:
    ...     logits = net(torch.zeros(5, 3))
    >>> features["1"].shape, features[""] is logits
    (torch.Size([5, 4]), True)
    """
    with _tapped(model, names, lambda features: None) as features:
        yield features


def reach(model: nn.Module, inputs: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """The features of one forward pass that stops at the last of the named modules.

    Modules above it do not run at all: they cost no time, and their BatchNorm statistics do not move.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(5, 2))  # the last would not fit
    >>> reach(net, torch.zeros(5, 3), ["1"])["1"].shape
    torch.Size([5, 4])
    """

    def stop_when_full(features: dict[str, Tensor]) -> None:
        if len(features) == len(names):
            raise _Reached

    with _tapped(model, names, stop_when_full) as features, suppress(_Reached):
        model(inputs)
    return _complete(features, names)


@torch.no_grad()
def features_of_all(model: nn.Module, inputs: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """The features of one whole forward pass without gradients, which checks the modules above them, too."""
    with taps(model, names) as features:
        answers(model, inputs)
    return _complete(features, names)


def _complete(features: dict[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    missing = [name for name in names if name not in features]
    if missing:
        raise ValueError(
            f"names must be modules that run in a forward pass, got {missing}, which do not"
        )
    return features


class _Reached(BaseException):
    """Stops a forward pass when all features are there; a network's ``except Exception`` does not catch it."""


@contextmanager
def _tapped(
    model: nn.Module, names: Sequence[str], noted: Callable[[dict[str, Tensor]], None]
) -> Iterator[dict[str, Tensor]]:
    features: dict[str, Tensor] = {}
    versions: dict[str, int] = {}

    def clear(module, inputs) -> None:
        features.clear()
        versions.clear()

    def note(name: str) -> Callable:
        def hook(module, inputs, output) -> None:
            if name == "":
                output = answer_of(output)
            if not isinstance(output, Tensor):
                raise TypeError(
                    f"the module {name!r} must return a single tensor, got "
                    f"{type(output).__name__}; tap a module inside it"
                )
            if name in features:
                raise ValueError(
                    f"the module {name!r} runs twice in one forward pass, so its feature is ambiguous; "
                    "tap another one"
                )
            features[name], versions[name] = output, _version(output)
            check()
            noted(features)

        return hook

    def check(*of_the_hook) -> None:
        for name, feature in features.items():
            if _version(feature) != versions[name]:
                raise ValueError(
                    f"the output of {name!r} is changed in place by a later module (such as "
                    "ReLU(inplace=True)); tap that one instead"
                )

    modules = _named(model, names)
    with ExitStack() as hooks:
        hooks.enter_context(_uncompiled(model))
        hooks.enter_context(_removed(model.register_forward_pre_hook(clear, prepend=True)))
        for name, module in modules.items():
            hooks.enter_context(_removed(module.register_forward_hook(note(name))))
        hooks.enter_context(_removed(model.register_forward_hook(check)))
        yield features


@contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Inside, compiled modules run as they were written: compiled code passes over hooks."""
    compiled = [
        m for m in model.modules() if plain(m) is not m or m._compiled_call_impl is not None
    ]
    if not compiled:
        yield
        return
    if not hasattr(torch.compiler, "set_stance"):
        raise ValueError(
            "features of a compiled network need torch 2.6 or newer; use the network as it was before "
            "torch.compile"
        )
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _removed(handle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _named(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    listed = isinstance(names, Sequence) and not isinstance(names, str)
    if not listed or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"names must be a list of module names, got {names!r}; a single one is [name]"
        )
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"names must be at least one, each once, got {list(names)}")
    there = {
        _as_written(name): plain(module)
        for name, module in plain(model).named_modules(remove_duplicate=False)
    }
    found = {}
    for name in names:
        written = _as_written(name)
        # What torch.compile and DataParallel put around a network may be named, but need not be.
        module = there.get(written, there.get(written.removeprefix("module.")))
        if module is None:
            known = ", ".join(repr(known) for known in there if known)
            raise ValueError(f"the network has no module {name!r}; it has {known}")
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(  # noqa: TRY004  as for any other network without such a feature
                f"the module {name!r} is TorchScript, which gives no features; tap the network that it was "
                "made from"
            )
        found[name] = module
    return found


def _as_written(name: str) -> str:
    """A module's name in the network before ``torch.compile``."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version
