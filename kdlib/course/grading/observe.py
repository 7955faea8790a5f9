"""Call an answer and record what it did, in a notebook and in the grader's child process alike.

An answer is called on copies, so it cannot spoil anything. Its value is reduced to plain things
(tensors, numbers, strings, lists and dictionaries of them), which can be sent and compared.
"""

from __future__ import annotations

import base64
import copyreg
import io
import json
import linecache
import math
import os
import pickle
import random
import sys
import sysconfig
import threading
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from numbers import Number
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdlib.seeding import seeded

KDLIB = __name__.partition(".")[0]
HOME = Path(sys.modules[KDLIB].__file__).resolve().parent
LIBRARIES = (
    str(HOME) + os.sep,
    str(Path(torch.__file__).parent) + os.sep,
    *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib")),
    "<frozen ",
)
# Modules whose functions would do the work of an answer, by the name that their frames report.
BORROWED = (
    f"{KDLIB}.losses",
    f"{KDLIB}._exact",
    f"{KDLIB}.objectives",
    f"{KDLIB}.stats",
    f"{KDLIB}.course.museum",
    *(f"{KDLIB}.course.exercises.hw{k}" for k in (1, 2, 3)),
    f"{KDLIB}.course.exercises.claims",
    f"{KDLIB}.course.exercises.material",
)
ANSWERS = HOME.parent / "tests" / "grading" / "right"  # other right answers, in a checkout
# Their files and folders, so that a copy loaded under another name is caught, too.
PLACES = tuple(
    str(place) + os.sep if place.is_dir() else f"{place}.py"
    for place in (*(HOME.joinpath(*room.split(".")[1:]) for room in BORROWED), ANSWERS)
)
# In ``layers`` only these two are answers; students are given the rest.
REFERENCES = {(f"{KDLIB}.course.exercises.layers", name) for name in ("flow", "pooled")}
UNWRITTEN = "Unwritten"  # the kind of error that a stub raises
NOT_WRITTEN = "not written yet"  # its message
MOST_NUMBERS = 1_000_000  # in one tensor of an answer
LONGEST = 1000  # entries of a list or a dictionary
LONGEST_LINE = 500  # characters of an error
DEEPEST = 8  # lists within lists
FORM = {
    "gradients": dict,
    "after": dict,
    "largest": int,
    "error": str,
    "kind": str,
    "borrowed": str,
}
REAL = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in REAL + WHOLE}


@dataclass(frozen=True)
class Seen:
    """What one call did.

    Attributes:
        value: the return value as plain things; a network as its state dict.
        gradients: of the value's sum with respect to the arguments asked for; None where no
            gradient arrives.
        after: the arguments asked for, as the call left them.
        largest: number of elements in the largest tensor that the call made.
        error: the exception in one line, "" if there was none.
        kind: the name of the exception's class; ``UNWRITTEN`` for a stub.
        borrowed: the kdlib function that the answer called instead of doing the work.
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
    allowed: Collection[Callable] = (),
) -> Seen:
    """Call ``function`` on copies of ``given``, in order; anything not callable is its own value.

    With ``size``, also measure the largest tensor that the call makes. Calling kdlib's functions in
    ``allowed`` does not count as borrowing.
    """
    given = unpacked(packed(dict(given)))
    for name in gradients:
        given[name].requires_grad_()
    watch = _Largest() if size else nullcontext()
    try:
        if not callable(function):
            return Seen(value=plain(function))
        # A function without arguments is a value in disguise: it cannot borrow a loss.
        with _alone(), _borrowing(allowed) if given else nullcontext([]) as borrowed:
            with watch:
                value = function(*given.values())
            found = _gradients(value, [given[name] for name in gradients]) if gradients else []
            seen = Seen(
                value=plain(value),
                gradients={name: plain(x) for name, x in zip(gradients, found, strict=True)},
                after={name: _left(given[name]) for name in after},
                largest=watch.numbers if size else 0,
            )
        return replace(seen, borrowed=borrowed[0] if borrowed else "")
    except Exception as error:  # noqa: BLE001  an answer may raise anything
        unwritten = _unwritten(error, function)
        if unwritten:
            return Seen(error=unwritten, kind=UNWRITTEN)
        return Seen(error=in_a_line(error), kind=type(error).__name__[:LONGEST_LINE])


@contextmanager
def _alone() -> Iterator[None]:
    """Seed all generators, turn gradients on, hide warnings; restore everything afterwards."""
    here, numpys = random.getstate(), np.random.get_state()
    try:
        with seeded(0), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the checks report mistakes in their own words
            random.seed(0)
            np.random.seed(0)
            yield
    finally:
        random.setstate(here)
        np.random.set_state(numpys)


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


def in_a_line(error: BaseException) -> str:
    """The error's class, its message and the answer's own line; no traceback, none of our paths."""
    message = message_of(error).splitlines()
    text = f"{type(error).__name__}: {message[0]}" if message else type(error).__name__
    frames = _frames(error)
    if frames:
        code = _line(frames[-1])
        text += f' (in "{code}")' if code else f" (in line {frames[-1].lineno})"
    return text.replace(str(HOME.parent) + os.sep, "")[:LONGEST_LINE]


def message_of(error: BaseException) -> str:
    try:
        return str(error).strip()
    except Exception:  # noqa: BLE001  the answer may have written the exception's class
        return ""


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Frames of the answer itself."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if not frame.filename.startswith(LIBRARIES)]


def _line(frame: traceback.FrameSummary) -> str:
    return frame.line or linecache.getline(frame.filename, frame.lineno).strip()


def _unwritten(error: BaseException, function: Any) -> str:
    """Say which stub was reached; "" for any other error (torch has NotImplementedErrors, too)."""
    if not isinstance(error, NotImplementedError):
        return ""
    frames = _frames(error)
    if message_of(error) and not (frames and "NotImplementedError" in _line(frames[-1])):
        return ""
    name = frames[-1].name if frames else ""
    if name in ("", getattr(function, "__name__", name)):
        return NOT_WRITTEN
    return f"it calls {name}, which is {NOT_WRITTEN}"


@contextmanager
def _borrowing(allowed: Collection[Callable] = ()) -> Iterator[list[str]]:
    """Collect the names of kdlib's own losses called inside, whatever the answer calls them.

    Calls that kdlib makes itself, in a training that an answer may start, do not count; nor does
    importing such a module, or making an objective for a training.
    """
    found: list[str] = []
    codes = {getattr(function, "__code__", None) for function in allowed}
    judged: dict[
        int, tuple[CodeType, bool]
    ] = {}  # judge each code once: imports make millions of calls

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        if id(code) not in judged:
            judged[id(code)] = code, code not in codes and _is_borrowed(frame)
        if not judged[id(code)][1]:
            return
        caller = _module(frame.f_back)
        from_outside = caller == __name__ or not within(caller, [KDLIB])
        if from_outside and code.co_name not in ("<module>", "__init__"):
            found.append(getattr(code, "co_qualname", code.co_name))

    before = sys.getprofile(), threading.getprofile()
    sys.setprofile(watch)
    threading.setprofile(watch)
    try:
        yield found
        if sys.getprofile() is not watch:  # whoever removes the watcher has something to hide
            found.append("sys.setprofile")
    finally:
        sys.setprofile(before[0])
        threading.setprofile(before[1])


def within(module: str, rooms: Sequence[str]) -> bool:
    """Whether a module is one of these or lies inside one of them."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def _is_borrowed(frame: FrameType) -> bool:
    """Judge by the module's name, or by the file if it was loaded again under another name."""
    code, home = frame.f_code, _module(frame)
    named = within(home, BORROWED) or (home, code.co_name) in REFERENCES
    return named or code.co_filename.startswith(PLACES)


def _module(frame: FrameType | None) -> str:
    """Name of the frame's module; "" if it only claims that name: a cell may set ``__name__``."""
    name = None if frame is None else frame.f_globals.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    return name if module is not None and vars(module) is frame.f_globals else ""


class _Largest(TorchDispatchMode):
    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                self.numbers = max(self.numbers, made.numel())
        return result


def plain(value: Any, depth: int = 0) -> Any:
    """Reduce a value to tensors, numbers, strings, lists and dictionaries; name anything else."""
    if isinstance(value, Tensor):
        return _plain_tensor(value)
    if isinstance(value, nn.Module):
        return plain(value.state_dict(), depth + 1)
    if isinstance(value, np.ndarray) and value.size > MOST_NUMBERS:
        return f"an array of {value.size:,} numbers"
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _whole(value)
    if isinstance(value, str | Path):
        return str(value)[:10_000]
    if isinstance(value, Number) and not isinstance(value, complex):
        return float(value)
    if depth < DEEPEST and isinstance(value, Mapping):
        return {str(key): plain(v, depth + 1) for key, v in list(value.items())[:LONGEST]}
    if depth < DEEPEST and isinstance(value, list | tuple):
        return [plain(v, depth + 1) for v in value[:LONGEST]]
    return f"a {type(value).__name__}"


def _plain_tensor(value: Tensor) -> Tensor | str:
    if value.numel() > MOST_NUMBERS:
        return f"a tensor of {value.numel():,} numbers"
    if value.is_meta:
        return "a meta tensor, without numbers"
    for kind, known in ((value.layout, (torch.strided,)), (value.dtype, DTYPES.values())):
        if kind not in known:
            return f"a {str(kind).removeprefix('torch.')} tensor"
    return value.detach().cpu().resolve_neg().clone().contiguous()


def _whole(value: int) -> int | float:
    """The integer itself, or a float if it does not fit into 64 bits."""
    try:
        return int(value) if abs(value) < 2**63 else float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def same(a: Any, b: Any, tolerance: float = 1e-4) -> bool:
    """Whether two plain values agree: numbers and tensors within a relative error, the rest exactly."""
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
    return torch.tensor(float(value), dtype=torch.float64) if _is_number(value) else None


def packed(value: Any) -> bytes:
    """Pickle what kdlib gives to an answer, generators too: for the child, or for a copy."""
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
    """Encode for the way from the child to the grader: JSON, a tensor as type, shape and bytes."""
    return json.dumps({name: _coded(getattr(seen, name)) for name in FORM | {"value": 0}}).encode()


def received(data: bytes) -> Seen:
    """Decode without running anything: a message holds only tensors and plain values."""
    found = json.loads(data)
    seen = Seen(**{name: _decoded(found[name]) for name in FORM | {"value": 0}})
    texts = seen.error, seen.kind, seen.borrowed
    if not all(isinstance(getattr(seen, name), kind) for name, kind in FORM.items()):
        raise TypeError("the message has the wrong form")
    if any(len(text) > LONGEST_LINE for text in texts):
        raise ValueError("the message is too large")
    return seen


def _coded(value: Any) -> Any:
    if isinstance(value, Tensor):
        numbers = value.flatten().view(torch.uint8).numpy().tobytes()
        shape = list(value.shape)
        return {"tensor": [str(value.dtype)[6:], shape, base64.b64encode(numbers).decode()]}
    if isinstance(value, dict):
        return {"dict": {key: _coded(v) for key, v in value.items()}}
    if isinstance(value, list):
        return [_coded(v) for v in value]
    return value


def _decoded(coded: Any, depth: int = 0) -> Any:
    """Refuse what is larger or deeper than :func:`plain` makes: the sender may be hostile."""
    if isinstance(coded, int) and not -(2**63) < coded < 2**63:
        raise ValueError("a number does not fit into 64 bits")
    if isinstance(coded, str):
        return writable(coded)
    if not isinstance(coded, list | dict):
        return coded
    inside = coded.get("dict") if isinstance(coded, dict) else coded
    if depth > DEEPEST + 2 or (inside is not None and len(inside) > LONGEST):
        raise ValueError("the message is too large")
    if isinstance(coded, list):
        return [_decoded(v, depth + 1) for v in coded]
    if inside is not None:
        return {writable(key): _decoded(v, depth + 1) for key, v in inside.items()}
    dtype, shape, numbers = coded["tensor"]
    data = bytearray(base64.b64decode(numbers, validate=True))
    if len(data) > 8 * MOST_NUMBERS:
        raise ValueError("a tensor is too large")
    made = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    made = made != 0 if dtype == "bool" else made.view(DTYPES[dtype])
    return made.reshape(shape)


def writable(text: str) -> str:
    """Replace half a surrogate pair, which JSON can hold but a file cannot, by a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def described(value: Any, depth: int = 0) -> str:
    """Describe a value in one line."""
    if isinstance(value, Tensor):
        return _described_tensor(value)
    if isinstance(value, bool) or value is None:
        return "nothing (None)" if value is None else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        inside = ", ".join(described(v, depth + 1) for v in value[:6] if depth < 3)
        return f"[{inside}{', …' if len(value) > 6 else '…' if value and not inside else ''}]"
    if isinstance(value, dict):
        parts = [(k, v) for k, v in list(value.items())[:4] if depth < 3]
        inside = ", ".join(f"{_in_one_line(k)}: {described(v, depth + 1)}" for k, v in parts)
        return f"{{{inside}{', …' if len(value) > 4 else '…' if value and not inside else ''}}}"
    if isinstance(value, nn.Module):
        return f"a {type(value).__name__}"
    if isinstance(value, torch.Generator):
        return "a generator"
    if callable(value):
        return f"the function {getattr(value, '__name__', type(value).__name__)}"
    return _in_one_line(value)


def _described_tensor(value: Tensor) -> str:
    value = value.detach()
    if value.dim() == 0:
        return f"{value.item():.6g}"
    shape = "×".join(map(str, value.shape))
    if value.numel() == 0:
        return f"an empty tensor ({shape})"
    if value.numel() > 12:
        first = ", ".join(f"{x:.4g}" for x in value.flatten()[:4].tolist())
        return f"a {shape} tensor beginning {first}, …"
    numbers = value.double() if value.is_floating_point() else value  # numpy has no bfloat16
    rounded = np.array2string(
        numbers.numpy(), precision=4, suppress_small=True, separator=", ", max_line_width=200
    )
    return _in_one_line(rounded)


def _in_one_line(value: Any) -> str:
    return " ".join(str(value).split())[:300]
