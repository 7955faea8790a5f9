"""Identities: hashes of tensors, of a network's weights and code, and of a function's code.

Equal values have equal identities in every process and on every device; memory addresses, docstrings and line
numbers do not count.
"""

from __future__ import annotations

import copyreg
import dis
import enum
import functools
import hashlib
import importlib.util
import inspect
import io
import pickletools
import re
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdlib.networks import check_initialised, evaluating, numbers_of, plain


def weights_hash(model: nn.Module) -> str:
    """A hash of what :func:`kdlib.networks.numbers_of` gives: all weights and buffers, by name."""
    return _hash(_Description().numbers(plain(model)))


def network_hash(model: nn.Module) -> str:
    """A short hash of a network's weights, buffers, code and attributes: equal only for equal outputs.

    Raises:
        Undescribed: an attribute of it has no identifying text.
    """
    return code_hash(model)


def structure_hash(model: nn.Module) -> str:
    """The same without the values of weights and buffers: their names and the weights' shapes count.

    Raises:
        Undescribed: an attribute of it has no identifying text.
    """
    return _hash(_described(model, lambda text: text.network(model, values=False)))[:16]


def tensors_hash(tensors: Mapping[str, Tensor | None]) -> str:
    """A hash of names, dtypes, shapes and bytes; the tensors' device does not matter."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        if tensor is None:
            digest.update(f"{name} none;".encode())
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        for part in _dense(tensor.detach().cpu()):
            digest.update(part.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _dense(tensor: Tensor) -> list[Tensor]:
    """Tensors whose bytes hold the values of one, which may be quantised."""
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        return [tensor.indices(), tensor.values()]
    if not tensor.is_quantized:
        return [tensor.resolve_conj().resolve_neg()]
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        steps = [torch.tensor([tensor.q_scale(), tensor.q_zero_point()], dtype=torch.float64)]
    else:
        steps = [tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()]
    return [tensor.int_repr(), *steps]


def code_hash(value: Any) -> str:
    """A short hash of :func:`described`."""
    return _hash(described(value))[:16]


def described(value: Any) -> str:
    """A text that identifies a value; for the reader's own functions and classes, by their code.

    A function is described by its instructions with their constants and names, its nested
    functions, defaults, closure and attributes, and the globals that it reads; the reader's own
    functions among these are described in the same way. Whatever comes with Python or was installed
    is described by its name, so that an upgrade changes nothing. Code that behaves differently has
    a different text. Equal code may also have different texts, if the Python version or the layout
    of a statement differs.

    Raises:
        Undescribed: something in it has no identifying text, such as a lock or an open file.

    >>> described(lambda x: 2 * x) == described(lambda x: 2 * x) != described(lambda x: 3 * x)
    True
    """
    return _described(value, lambda text: text.of(value))


def is_own(kind: type) -> bool:
    """Whether a class is the reader's own: not from kdlib, an installed package or Python."""
    return _is_own_module(kind.__module__)


def _described(value: Any, how: Callable[[_Description], str]) -> str:
    try:
        return how(_Description())
    except Undescribed:
        raise
    except Exception as error:  # inspecting a value may raise anything, or recurse too deeply
        reason = f"{type(error).__name__}: {error}"
        raise Undescribed(f"a {type(value).__name__} cannot be described ({reason})") from error


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Undescribed(TypeError):
    """A value that no text can distinguish from others of its type."""


_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, type(...))
_OF_TORCH = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format)
_IN_C = (
    BuiltinFunctionType,
    MethodDescriptorType,
    WrapperDescriptorType,
    MethodWrapperType,
    ClassMethodDescriptorType,
    GetSetDescriptorType,
    type(functools.lru_cache(abs)),
)
_METHODS = (FunctionType, classmethod, staticmethod, property, functools.partial, _IN_C[-1])
# Its tables of parameters, modules and hooks, its mode, and whether it is compiled.
_OF_EVERY_MODULE = {*vars(nn.Module()), "_compiled_call_impl", "_is_torch_compile"}
_OF_ONE_PROCESS = "_original_object_hash"  # of transformers' GenerationConfig
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_INSTALLED = {"site-packages", "dist-packages"}
_STANDARD = Path(sysconfig.get_path("stdlib"))
_KDLIB = Path(__file__).parent


class _Description:
    """A description in progress; a value that occurs again is described by its number."""

    def __init__(self) -> None:
        # By id, with the value itself, so that its id is not used again.
        self.met: dict[int, tuple[int, Any]] = {}
        # Likewise the modules and numbers of a network: an attribute or a hook may lead back to them.
        self.parts: dict[int, tuple[str, Any]] = {}
        self.in_hook = False

    def of(self, value: Any) -> str:
        if isinstance(value, enum.Enum):
            return f"{type(value).__qualname__}.{value.name}={self.of(value.value)}"
        if type(value) in _PLAIN or isinstance(value, _OF_TORCH):
            return repr(value)
        if type(value) is tuple:  # equal tuples may be one object here and two in another process
            return f"({', '.join(map(self.of, value))})"
        # Each element of a set on its own, since their order differs from process to process.
        if type(value) in (set, frozenset):
            return f"{{{', '.join(sorted(_Description().of(part) for part in value))}}}"
        if id(value) in self.parts:
            return f"<part {self.parts[id(value)][0]!r}>"
        if id(value) in self.met:
            return f"<{self.met[id(value)][0]}>"
        self.met[id(value)] = len(self.met), value
        return self._first_met(value)

    def _first_met(self, value: Any) -> str:
        if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
            digest = hashlib.sha256(value.tobytes()).hexdigest()
            return f"array({value.dtype}, {value.shape}, {digest})"
        if isinstance(value, Tensor):
            return f"tensor({tensors_hash({'': value})})"
        if self.in_hook and type(value) in (list, dict):
            return f"a {type(value).__name__}"
        if type(value) is list:
            return f"[{', '.join(map(self.of, value))}]"
        if type(value) is dict:
            items = [(k, v) for k, v in value.items() if k != _OF_ONE_PROCESS]
            return f"{{{', '.join(f'{self.of(k)}: {self.of(v)}' for k, v in items)}}}"
        if isinstance(value, functools.partial):
            return f"partial({self.of((value.func, value.args, value.keywords))})"
        if isinstance(value, MethodType):
            return f"method({self.of((value.__func__, value.__self__))})"
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, ModuleType):
            return _module_text(value.__name__)
        if isinstance(value, nn.Module):
            return self.network(value)
        return self._in_c(value) if isinstance(value, _IN_C) else self._object(value)

    def network(self, network: nn.Module, values: bool = True) -> str:
        """All numbers, or only names and shapes, and each module's class, hooks and plain attributes."""
        network = plain(network)
        check_initialised("network", network)
        for name, part in (*network.named_modules(), *numbers_of(network).items()):
            self.parts.setdefault(id(part), (name, part))
        parts = [self.numbers(network) if values else self._shapes(network)]
        scripted = None  # how the names of a scripted module's parts begin
        for name, module in network.named_modules(remove_duplicate=False):
            if isinstance(module, torch.jit.ScriptModule):
                if scripted is None or not name.startswith(scripted):
                    parts.append(f"{name!r}: {_script_text(module)}")
                    scripted = name and f"{name}."
                continue
            first = self.parts[id(module)][0]
            if first != name:
                parts.append(f"{name!r} is {first!r}")
                continue
            attributes = self.of(_attributes(module, values))
            parts.append(f"{name!r}: {self.of(type(module))} {attributes}")
            parts += [self._hook(hook) for hooks in _HOOKS for hook in vars(module)[hooks].values()]
            if isinstance(module, torch.fx.GraphModule):  # its class is written anew for each graph
                parts.append(module.code)
        return f"network({', '.join(parts)})"

    def numbers(self, network: nn.Module) -> str:
        found = numbers_of(network)
        tensors = {name: x for name, x in found.items() if isinstance(x, Tensor)}
        others = {name: x for name, x in found.items() if not isinstance(x, Tensor)}
        return tensors_hash(tensors) + (self.of(others) if others else "")

    def _shapes(self, network: nn.Module) -> str:
        weights = network.named_parameters(remove_duplicate=False)
        # A weight that several modules share is one, by its first name.
        shapes = [(n, self.parts.get(id(x), (n,))[0], tuple(x.shape)) for n, x in weights]
        modules = network.named_modules(remove_duplicate=False)
        buffers = [(name, *module._buffers.keys()) for name, module in modules]
        return f"{shapes} {buffers}"

    def _hook(self, hook: Any) -> str:
        """A hook by its code and what it reads, but not by what it has noted in lists and attributes."""
        self.in_hook = True
        try:
            return self.of(hook)
        finally:
            self.in_hook = False

    def _in_c(self, value: Any) -> str:
        """A function written in C: its name, and what it is bound to or wraps."""
        bound = getattr(value, "__self__", None)
        bound = None if isinstance(bound, ModuleType) else bound
        inside = self.of((bound, getattr(value, "__wrapped__", None)))
        return f"{getattr(value, '__module__', None)}.{value.__qualname__}{inside}"

    def _object(self, value: Any) -> str:
        """An object by its pickled parts, so that state outside ``__dict__`` counts, too."""
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
        except Exception as error:  # a class may raise anything here
            kind = type(value).__name__
            raise Undescribed(f"a {kind} has no text that distinguishes it from others") from error
        if isinstance(reduced, str):
            return f"{type(value).__module__}.{reduced}"
        parts = [list(part) if hasattr(part, "__next__") else part for part in reduced]
        return f"object({self.of(tuple(parts))})"

    def _function(self, function: FunctionType) -> str:
        code = function.__code__
        # A library's decorator: its closure holds the reader's function that it decorates.
        if not _is_own(code.co_filename):
            return f"{function.__module__}.{function.__qualname__}({self._closure(function)})"
        codes = [*_nested(code)]
        read = {name for part in codes for name in _globals_read(part)}
        taken = {name for part in codes for name in part.co_names}
        parts = [
            self._code(code),
            self.of(function.__defaults__),
            self.of(function.__kwdefaults__),
            self._closure(function),
            self.of({k: v for k, v in vars(function).items() if k != "__wrapped__"}),
            *(
                f"{name}={self._read(function.__globals__[name], taken)}"
                for name in sorted(read)
                if name in function.__globals__
            ),
            *(_module_text(name) for part in codes for name in _imports(part)),
        ]
        return f"function({', '.join(parts)})"

    def _closure(self, function: FunctionType) -> str:
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        return ", ".join(f"{name}={self._cell(cell)}" for name, cell in cells)

    def _cell(self, cell: Any) -> str:
        try:
            value = cell.cell_contents
        except ValueError:  # a name that is assigned later
            return "empty"
        return self.of(value)

    def _read(self, value: Any, taken: set[str]) -> str:
        """A global; for one of the reader's modules, the names that the code may read from it."""
        if not isinstance(value, ModuleType) or not _is_own_module(value.__name__):
            return self.of(value)
        there = [name for name in sorted(taken) if name in vars(value)]
        return f"{value.__name__}({', '.join(f'{n}={self.of(vars(value)[n])}' for n in there)})"

    def _code(self, code: CodeType) -> str:
        """The instructions, with constants and names by value instead of by position in a table."""
        kind = (
            code.co_argcount,
            code.co_posonlyargcount,
            code.co_kwonlyargcount,
            code.co_flags & 0x2C,
        )
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        shared = code.co_cellvars, code.co_freevars  # with nested functions
        steps = []
        for step in dis.get_instructions(code):
            if step.opcode in dis.hasconst:
                # From the table, since dis does not resolve all constants.
                constant = code.co_consts[step.arg]
                inside = isinstance(constant, CodeType)
                steps.append((step.opname, self._code(constant) if inside else self.of(constant)))
            elif step.opcode in dis.hasname:
                steps.append((step.opname, step.argval))
            elif step.opname not in ("EXTENDED_ARG", "NOP"):
                steps.append((step.opname, step.arg))
        caught = getattr(code, "co_exceptiontable", b"")  # which instructions a try covers
        return f"code({kind}, {arguments}, {shared}, {steps}, {caught})"

    def _class(self, kind: type) -> str:
        if not is_own(kind):
            # Parametrizing a module makes such a class, with the reader's own among its bases.
            bases = [base for base in kind.__mro__ if is_own(base)]
            return f"{kind.__module__}.{kind.__qualname__}{self.of(bases) if bases else ''}"
        members = {
            name: _code_of(member)
            for name, member in sorted(vars(kind).items())
            if isinstance(member, _METHODS)
            or not (name.startswith(("__", "_abc_")) or inspect.isdatadescriptor(member))
        }
        made_of = (type(kind), kind.__bases__)
        return f"class {kind.__qualname__}({self.of(made_of)}: {self.of(members)})"


def _attributes(module: nn.Module, tensors: bool) -> dict[str, Any]:
    """What distinguishes a module from others of its class, besides its numbers and modules.

    Without ``tensors``, those that a forward pass may leave behind do not count.
    """
    kind = type(module)
    values = {
        name: x
        for name, x in vars(module).items()
        if name not in _OF_EVERY_MODULE
        and not isinstance(getattr(kind, name, None), functools.cached_property)
    }
    if isinstance(module, torch.fx.GraphModule):  # all but constants is in its code
        return {name: x for name, x in values.items() if isinstance(x, Tensor)}
    if is_own(type(module)):
        # A tensor that requires a gradient is computed from the parameters, not a setting.
        return {
            n: x
            for n, x in values.items()
            if not isinstance(x, Tensor) or (tensors and not x.requires_grad)
        }
    return {n: x for n, x in values.items() if n[0] != "_" and not isinstance(x, Tensor)}


def _script_text(network: torch.jit.ScriptModule) -> str:
    """The code, constants and attributes of a scripted or traced network, as they would be saved."""
    # Names of types are numbered by what else this process has loaded.
    mangled = re.compile(r"\.?___torch_mangle_\d+")
    saved = io.BytesIO()
    with evaluating(network):  # the mode would be saved, too
        torch.jit.save(network, saved)
    texts = []
    with zipfile.ZipFile(saved) as archive:
        for path in archive.namelist():
            if path.endswith(".py"):
                lines = mangled.sub("", archive.read(path).decode()).split("\n")
                # Constants come first, in the order of a set.
                texts.append(str(sorted(lines, key=lambda x: x if ": Final[" in x else "~")))
            elif path.endswith(("/data.pkl", "/constants.pkl")):
                steps = ((step.name, x) for step, x, _ in pickletools.genops(archive.read(path)))
                # What is noted for later use depends on how often this process refers to it.
                kept = [step for step in steps if step[0][-3:] not in ("PUT", "GET")]
                texts.append(mangled.sub("", repr(kept)))
            elif "/constants/" in path:
                texts.append(hashlib.sha256(archive.read(path)).hexdigest())
    return repr(sorted(texts))


def _code_of(member: Any) -> Any:
    """The functions behind a method, property and the like."""
    if isinstance(member, (classmethod, staticmethod)):
        return member.__func__
    if isinstance(member, property):
        return member.fget, member.fset
    return member.func if isinstance(member, functools.cached_property) else member


def _module_text(name: str) -> str:
    """A module by its name; one of the reader's also by its file."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):
        spec = None
    if spec is None or not spec.has_location or not _is_own(spec.origin):
        return name
    return f"{name}({hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()})"


def _is_own_module(name: str) -> bool:
    """Whether a module is one of the reader's notebooks or files."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return name not in sys.builtin_module_names and (file is None or _is_own(file))


def _is_own(file: str) -> bool:
    """Whether code is the reader's own: not from kdlib, an installed package or Python."""
    path = Path(file)
    if _INSTALLED & {*path.parts} or "<frozen" in file:
        return False
    return not path.is_relative_to(_KDLIB) and not path.is_relative_to(_STANDARD)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _globals_read(code: CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval


def _imports(code: CodeType) -> Iterator[str]:
    """Modules that code imports when it runs, including ``losses`` in ``from mine import losses``."""
    module = ""
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            module = step.argval
            yield module
        elif step.opname == "IMPORT_FROM":
            yield f"{module}.{step.argval}"
