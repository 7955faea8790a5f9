"""Call an answer and write down what it did: the same code in a notebook and in the grader's child.

An answer is called on copies, so that it can spoil nothing. What it gives back is reduced to plain
things (tensors, numbers, texts, lists and dictionaries of them), which can be sent and compared.
"""

from __future__ import annotations

import copyreg
import io
import linecache
import math
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from numbers import Number
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdlib.seeding import seeded

HERE = Path(__file__).resolve().parent
KDLIB = str(HERE.parent) + os.sep
BORROWED = {
    *(
        str(HERE.parent / name)
        for name in ("losses.py", "objectives.py", "mistakes.py", "stats.py")
    ),
    *(str(HERE / f"hw{k}.py") for k in (1, 2, 3)),
}
MOST_NUMBERS = 1_000_000  # in one answer
DEEPEST = 8
FORM = {
    "gradients": dict,
    "after": dict,
    "largest": int,
    "error": str,
    "kind": str,
    "borrowed": str,
}


@dataclass(frozen=True)
class Seen:
    """What one call did.

    Attributes:
        value: what it returned, as plain things; a network as its state dict.
        gradients: of the sum of the value by the arguments asked for; None where none arrives.
        after: arguments asked for, as the call left them.
        largest: how many numbers the largest tensor had that the call made.
        error: the exception in a line, "" where there was none.
        kind: the name of the exception's class.
        borrowed: the function of kdlib that the answer called instead of doing the work.
    """

    value: Any = None
    gradients: dict[str, Tensor | None] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    largest: int = 0
    error: str = ""
    kind: str = ""
    borrowed: str = ""


def observe(
    function: Any,
    given: Mapping[str, Any],
    gradients: Sequence[str] = (),
    after: Sequence[str] = (),
    size: bool = False,
) -> Seen:
    """Call ``function`` on copies of ``given``, in their order; a value that is no function is itself.

    With ``size`` the largest tensor that the call makes is measured, too.
    """
    given = unpacked(packed(dict(given)))
    for name in gradients:
        given[name].requires_grad_()
    if not callable(function):
        return Seen(value=plain(function))
    try:
        watch = _Largest() if size else nullcontext()
        # What takes no arguments is a value in disguise: it cannot borrow a loss.
        with seeded(0), _borrowing() if given else nullcontext([]) as borrowed, watch:
            value = function(*given.values())
        found = {} if not gradients else _gradients(value, [given[name] for name in gradients])
        return Seen(
            value=plain(value),
            gradients=dict(zip(gradients, found, strict=True)) if gradients else {},
            after={name: _left(given[name]) for name in after},
            largest=watch.numbers if size else 0,
            borrowed=borrowed[0] if borrowed else "",
        )
    except Exception as error:  # noqa: BLE001  an answer may raise whatever it likes
        return Seen(error=_in_a_line(error), kind=type(error).__name__)


def _gradients(value: Any, by: list[Tensor]) -> list[Tensor | None]:
    parts = [x for x in tree_leaves(value) if isinstance(x, Tensor) and x.requires_grad]
    if not parts:
        return [None] * len(by)
    return list(torch.autograd.grad(sum(x.sum() for x in parts), by, allow_unused=True))


def _left(argument: Any) -> Any:
    if not isinstance(argument, nn.Module):
        return plain(argument)
    return {
        "state": plain(argument),
        "training": [module.training for module in argument.modules()],
        "gradients": {name: plain(p.grad) for name, p in argument.named_parameters()},
    }


def _in_a_line(error: BaseException) -> str:
    """Class, message, and the line of the answer that raised: no traceback of ours."""
    text = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    own = str(HERE.parent), str(Path(torch.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f for f in frames if not f.filename.startswith(own)]
    if lines:
        code = lines[-1].line or linecache.getline(lines[-1].filename, lines[-1].lineno).strip()
        text += f' (in "{code}")' if code else f" (in line {lines[-1].lineno})"
    return text[:500]


@contextmanager
def _borrowing() -> Iterator[list[str]]:
    """The names of kdlib's own losses that are called inside, by whatever name they go there.

    What kdlib calls itself, in a training that an answer may start, is not meant.
    """
    found: list[str] = []

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or frame.f_code.co_filename not in BORROWED:
            return
        caller = frame.f_back.f_code.co_filename if frame.f_back else ""
        if caller == __file__ or not caller.startswith(KDLIB):
            found.append(frame.f_code.co_name)

    before = sys.getprofile(), threading.getprofile()
    sys.setprofile(watch)
    threading.setprofile(watch)
    try:
        yield found
    finally:
        sys.setprofile(before[0])
        threading.setprofile(before[1])


class _Largest(TorchDispatchMode):
    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                self.numbers = max(self.numbers, made.numel())
        return result


def plain(value: Any, depth: int = 0) -> Any:
    """The value as tensors, numbers, texts, lists and dictionaries; anything else as a text."""
    if isinstance(value, Tensor):
        if value.numel() > MOST_NUMBERS:
            return f"a tensor of {value.numel():,} numbers"
        return value.detach().cpu().clone().contiguous()
    if isinstance(value, nn.Module):
        return plain(value.state_dict(), depth + 1)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str | Path):
        return str(value)[:10_000]
    if isinstance(value, Number) and not isinstance(value, complex):
        return float(value)
    if depth < DEEPEST and isinstance(value, Mapping):
        return {str(key): plain(v, depth + 1) for key, v in list(value.items())[:1000]}
    if depth < DEEPEST and isinstance(value, list | tuple):
        return [plain(v, depth + 1) for v in value[:1000]]
    return f"a {type(value).__name__}"


def same(a: Any, b: Any, tolerance: float = 1e-4) -> bool:
    """Whether two plain values agree: numbers and tensors up to a relative error, the rest exactly."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        a, b = _as_tensor(a), _as_tensor(b)
        if a is None or b is None or a.shape != b.shape:
            return False
        return torch.allclose(
            a.double(), b.double(), rtol=tolerance, atol=tolerance / 1e3, equal_nan=True
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k], tolerance) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if _is_number(a) and _is_number(b):
        close = math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance / 1e3)
        return close or (math.isnan(a) and math.isnan(b))
    return type(a) is type(b) and a == b


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    return torch.tensor(float(value)) if _is_number(value) else None


def packed(value: Any) -> bytes:
    """For the child, or for a copy: whatever kdlib gives to an answer, generators too."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream)
    pickler.dispatch_table = copyreg.dispatch_table | {torch.Generator: _packed_generator}
    pickler.dump(value)
    return stream.getvalue()


def unpacked(data: bytes) -> Any:
    return pickle.loads(data)


def _packed_generator(generator: torch.Generator) -> tuple[Callable, tuple]:
    return _generator, (generator.get_state(),)


def _generator(state: Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state)
    return generator


def sent(seen: Seen) -> bytes:
    """From the child to the grader."""
    stream = io.BytesIO()
    torch.save(asdict(seen), stream)
    return stream.getvalue()


def received(data: bytes) -> Seen:
    """Read without running anything: only tensors and plain values can be in it."""
    found = torch.load(io.BytesIO(data), weights_only=True)
    seen = Seen(**{name: found[name] for name in Seen.__dataclass_fields__})
    if not all(isinstance(getattr(seen, name), kind) for name, kind in FORM.items()):
        raise TypeError("a message of another form")
    return seen


def described(value: Any) -> str:
    """A value in a line, for a reader."""
    if isinstance(value, Tensor):
        if value.numel() == 1 and value.dim() == 0:
            return f"{value.item():.6g}"
        shape = "×".join(map(str, value.shape))
        if value.numel() == 0:
            return f"an empty tensor ({shape})"
        if value.numel() <= 12:
            rounded = np.array2string(
                value.numpy(), precision=4, suppress_small=True, separator=", ", max_line_width=200
            )
            return " ".join(rounded.split())
        first = ", ".join(f"{x:.4g}" for x in value.flatten()[:4].tolist())
        return f"a {shape} tensor beginning {first}, …"
    if isinstance(value, bool) or value is None:
        return "nothing (None)" if value is None else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        inside = ", ".join(described(v) for v in value[:6])
        return f"[{inside}{', …' if len(value) > 6 else ''}]"
    if isinstance(value, dict):
        inside = ", ".join(f"{k}: {described(v)}" for k, v in list(value.items())[:4])
        return f"{{{inside}{', …' if len(value) > 4 else ''}}}"
    if isinstance(value, nn.Module):
        return f"a {type(value).__name__}"
    if isinstance(value, torch.Generator):
        return "a generator"
    if callable(value):
        return f"the function {getattr(value, '__name__', type(value).__name__)}"
    return str(value)[:300]
