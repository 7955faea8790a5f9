"""Named intermediate features of any network, read without changing it.

A name is a module's, as ``named_modules`` gives it: ``"layer2"``, ``"layer2.0.conv1"``; ``""`` is the
whole network, so that its feature is the logits. What is done with the features lives elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

__all__ = ["reach", "taps"]


@contextmanager
def taps(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Inside, every ``model(x)`` fills a dictionary with the outputs of the named modules.

    Gradients flow through them; they are the tensors that the network itself goes on with. They stay in
    the dictionary until the next forward pass; the hooks are gone after the block. (Call ``backward``
    after the block where a network computes parts a second time to save memory.)

    Args:
        model: any network, torchvision's included.
        names: of its modules, each once.

    Raises:
        TypeError: names is not a list of strings, or a module returns anything but one tensor.
        ValueError: the network has no such module (the message lists those it has); or a module runs
            twice in one forward pass, or its output is changed in place by a later one, so that its
            feature would be another than it seems.

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
    """The features of one forward pass that ends at the last of the named modules.

    What lies above does not run at all: no time, no gradient, no step of its BatchNorm's statistics.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(5, 2))  # the last would not fit
    >>> reach(net, torch.zeros(5, 3), ["1"])["1"].shape
    torch.Size([5, 4])
    """

    def stop_when_full(features: dict[str, Tensor]) -> None:
        if len(features) == len(names):
            raise _Reached

    with _tapped(model, names, stop_when_full) as features:
        try:
            model(inputs)
        except _Reached:
            return features
    missing = [name for name in names if name not in features]
    raise ValueError(
        f"names must be modules that run in a forward pass, got {missing} which do not"
    )


class _Reached(BaseException):
    """All that was asked for is there; no ``except Exception`` of a network stops it."""


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
            if not isinstance(output, Tensor):
                raise TypeError(
                    f"the module {name!r} must give one tensor to be tapped, got "
                    f"{type(output).__name__}; tap a module inside it"
                )
            if name in features:
                raise ValueError(
                    f"the module {name!r} runs twice in one forward pass, so that its feature could be "
                    "either; tap another one"
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
        hooks.enter_context(_removed(model.register_forward_pre_hook(clear, prepend=True)))
        for name, module in modules.items():
            hooks.enter_context(_removed(module.register_forward_hook(note(name))))
        hooks.enter_context(_removed(model.register_forward_hook(check)))
        yield features


@contextmanager
def _removed(handle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _named(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    listed = isinstance(names, Sequence) and not isinstance(names, str)
    if not listed or not all(isinstance(name, str) for name in names):
        raise TypeError(f"names must be a list of module names, got {names!r}; one alone is [...]")
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"names must be at least one, each once, got {list(names)}")
    there = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        if name not in there:
            known = ", ".join(repr(known) for known in there if known)
            raise ValueError(f"the network has no module {name!r}; it has {known}")
    return {name: there[name] for name in names}


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version
