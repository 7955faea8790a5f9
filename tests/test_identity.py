"""kdlib/identity.py: equal code has equal texts, and whatever would train differently has another."""

import copy
import enum
import functools
import os
import random
import re
import subprocess
import sys
import threading
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kdlib as kd
from kdlib.identity import (
    Undescribed,
    code_hash,
    described,
    network_hash,
    structure_hash,
    weights_hash,
)

# Two cells of a notebook that differ in what stands between the marks, «one|other».
SAME = {
    "the same": "f = lambda x: 2 * x",
    "other lines": "«|\n\n»def f(x):\n«|\n»    return 2 * x",
    "a docstring": 'def f(x):\n    «|"Words."\n    »return None',
    "another docstring inside": (
        'def f(x):\n    def g():\n        "«One.|Two.»"\n        return x\n    return g()'
    ),
    "the name": "def «f|g»(x):\n    return x\n«|f = g»",
    "a global that is not read": "a = «1|2»\nf = lambda x: x",
    "a set": "f = lambda x: x in {«1, 2, 3|3, 2, 1»}",
    "a global of an attribute's name": "mean = «1|2»\nf = lambda x: x.mean()",
    "the order in a set": "k = {«int, str, float|float, str, int»}\nf = lambda x: k",
    "recursion": "def f(x):\n    return f(x - 1)",
}
OTHER = {
    "a constant": "f = lambda x: «2|3» * x",
    "a constant's type": "f = lambda x: «2|2.0» * x",
    "an attribute": "f = lambda x: x.«sum|mean»()",
    "a function of torch": "f = lambda x: F.«relu|gelu»(x)",
    "an operator": "f = lambda x: x «+|-» 1",
    "a default": "def f(x, T=«4|8»):\n    return x / T",
    "a keyword's default": "f = lambda x, *, T=«4|8»: x / T",
    "the closure": "def make(T):\n    return lambda x: x / T\nf = make(«4|8»)",
    "a global": "T = «4|8»\nf = lambda x: x / T",
    "a global in a nested function": "T = «4|8»\ndef f(x):\n    return (lambda: x / T)()",
    "a nested function": "def f(x):\n    return (lambda: x + «1|2»)()",
    "a comprehension": "f = lambda x: [a + «1|2» for a in x]",
    "a function that it calls": "g = lambda x: «|-»x\nf = lambda x: g(x)",
    "a function that a called one calls": (
        "h = lambda x: «|-»x\ng = lambda x: h(x)\nf = lambda x: g(x)"
    ),
    "a tensor": "w = torch.«ones|zeros»(2)\nf = lambda x: x * w",
    "an array": "w = np.ones(2«|, 'f4'»)\nf = lambda x: x * w",
    "a dictionary": "d = {'T': «4|8»}\nf = lambda x: x / d['T']",
    "a partial": "f = partial(max, «4|8»)",
    "a decorator's argument": (
        "def by(k):\n    def wrap(g):\n        return lambda x: k * g(x)\n    return wrap\n"
        "@by(«2|3»)\ndef f(x): return x"
    ),
    "a function under a decorator of torch": "@torch.no_grad()\ndef f(x): return «|-»x",
    "a method": "class A:\n    def g(self, x): return «|-»x\nf = A().g",
    "an attribute of the method's object": (
        "class A:\n    def __init__(self): self.T = «4|4.5»\n    def g(self, x): return x\nf = A().g"
    ),
    "an inherited method": (
        "class B:\n    def h(self): return «1|2»\n"
        "class A(B):\n    def g(self): return self.h()\nf = A().g"
    ),
    "a property": "class A:\n    @property\n    def T(self): return «4|8»\nf = A()",
    "a class's attribute": "class A:\n    T = «4|8»\nf = A()",
    "a field of a dataclass": "@dataclass\nclass A:\n    T: int\nf = A(«4|8»)",
    "a keyword of a call": "f = lambda x: dict(«a|b»=x)",
    "a comparison": "f = lambda x: x «<|>» 1",
    "which variable a nested function sees": "def f(a, b):\n    return (lambda: «a|b»)()",
    "what a try covers": (
        "def f(x):\n    try:\n        a = x()\n    «    b = x()\n    |»except E:\n        pass«|\n    b = x()»"
    ),
    "the order of arguments": "f = lambda «x, y|y, x»: x - y",
    "a cached function": "@functools.cache\ndef f(x): return «2|3» * x",
    "what a C method is bound to": "f = {'T': «4|8»}.get",
    "an argument of a decorator of torch": (
        "g = lambda x, y: x * y\nf = torch.func.grad(g, argnums=«0|1»)"
    ),
    "a partial in a class": "class A:\n    loss = partial(max, «4|8»)\nf = A()",
    "a member of an enumeration": "class M(enum.Enum):\n    T = «4|8»\nf = M.T",
    "an attribute of the function": "def f(x): return x / f.T\nf.T = «4|8»",
    "an attribute of a module of torch": "f = torch.nn.CrossEntropyLoss(«|label_smoothing=0.5»)",
    "an attribute of a module of the reader's": (
        "class A(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self._T = «4|8»\nf = A()"
    ),
    "a buffer outside the state dict": (
        "f = torch.nn.Identity()\nf.register_buffer('T', torch.tensor(«4.0|8.0»), persistent=False)"
    ),
    "an autograd.Function": (
        "class G(torch.autograd.Function):\n    @staticmethod\n"
        "    def forward(ctx, x): return «|-»x\nf = G.apply"
    ),
    "a base's metaclass": (
        "class M(type):\n    def __call__(c): return «1|2»\n"
        "class A(metaclass=M): pass\nf = lambda: A()"
    ),
    "one argument more": "f = lambda x«|, y»: 1",
    "any number of arguments": "f = lambda «|*»x: 1",
}


def module(source, name="cell"):
    made = types.ModuleType(name)
    vars(made).update(F=F, dataclass=dataclass, enum=enum, functools=functools, np=np, torch=torch)
    made.partial = functools.partial
    exec(compile(source, f"<{name}>", "exec"), vars(made))  # noqa: S102
    return made


def f_of(source):
    return described(module(source).f)


def both(template):
    """The two cells of a template."""
    return [re.sub("«(.*?)\\|(.*?)»", rf"\{k}", template, flags=re.DOTALL) for k in (1, 2)]


@pytest.mark.parametrize("template", SAME.values(), ids=SAME)
def test_equivalent_code_has_one_text(template):
    one, other = map(f_of, both(template))
    assert one == other


@pytest.mark.parametrize("template", OTHER.values(), ids=OTHER)
def test_different_code_has_another_text(template):
    one, other = both(template)
    assert one != other and f_of(one) != f_of(other)
    assert f_of(one) == f_of(one) and f_of(other) == f_of(other)


def test_a_module_of_the_reader_counts_by_what_the_code_takes_from_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    texts = []
    for body in ("taken = lambda x: x", "taken = lambda x: -x", "taken = lambda x: x\nother = 3"):
        (tmp_path / "mine_to_read.py").write_text(body)
        mine = module(body, "mine_to_read")
        mine.__file__ = str(tmp_path / "mine_to_read.py")
        cell = module("f = lambda x: mine.taken(x)")
        cell.mine = mine
        texts.append(described(cell.f))
    assert texts[0] == texts[2] != texts[1]


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    "value",
    [None, 1, 1.5, "x", (1, (2,)), [1], {2, 1}, {"a": 1}, torch.float32, Colour.RED, np.float64(3)],
)
def test_plain_values_have_texts_without_addresses(value):
    assert described(value) == described(value) and " at 0x" not in described(value)


def test_equal_numbers_of_different_types_differ():
    assert len({described(x) for x in (1, 1.0, True, "1")}) == 4


def test_a_list_that_contains_itself_can_be_described():
    loop = []
    loop.append(loop)
    assert described(loop) == "[<0>]"


def test_a_network_counts_by_its_weights_and_its_class():
    texts = [described(kd.models.mlp(4, seed=seed)) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    source = "class f(torch.nn.Module):\n    def forward(self, x): return «2|3» * x"
    one, other = (described(module(cell).f()) for cell in both(source))
    assert one != other


class Scaled(nn.Module):
    """A linear layer times a number, the number being an attribute that no repr shows."""

    def __init__(self, scale: float = 2.0, seed: int = 0):
        super().__init__()
        with kd.seeded(seed):
            self.linear = nn.Linear(3, 2)
        self.scale = scale

    def forward(self, x):
        return self.scale * self.linear(x)


class Shifted(Scaled):
    def forward(self, x):
        return self.scale * self.linear(x) + 1


class Lambda(nn.Module):
    """A layer whose repr shows the address of a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)

    def extra_repr(self):
        return f"{self.function}"


def quantised(network):
    return torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)


def per_channel(network):
    int8 = torch.quantize_per_channel(
        network.linear.weight.detach(), torch.rand(2) * 0 + 0.1, torch.zeros(2), 0, torch.qint8
    )
    network.register_buffer("int8", int8)
    return network


def with_parameter(network):
    network.unused = nn.Parameter(torch.ones(2))
    nn.utils.parametrize.register_parametrization(network, "unused", nn.Identity())
    return network


KINDS = {
    "plain": lambda network: network,
    "in a Sequential": nn.Sequential,
    "compiled": lambda network: torch.compile(network, backend="eager"),
    "traced": lambda network: torch.jit.trace(network, torch.zeros(1, 3)),
    "scripted": torch.jit.script,
    "with a scripted part": lambda network: nn.Sequential(nn.ReLU(), torch.jit.script(network)),
    "a graph": torch.fx.symbolic_trace,
    "quantised": quantised,
    "quantised by channel": per_channel,
    "parametrized": with_parameter,  # torch makes it a class of its own
    "with a lambda": lambda network: nn.Sequential(Lambda(lambda x: 2 * x), network),
    "which holds its layers in a list": lambda network: (
        setattr(network, "layers", [network.linear]) or network
    ),
}
MADE = {
    "code": lambda: Shifted(),
    "an attribute": lambda: Scaled(3.0),
    "weights": lambda: Scaled(seed=1),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_network_of_any_kind_counts_by_its_code_attributes_and_weights(kind):
    here, again = kind(Scaled()), kind(Scaled())
    assert network_hash(here) == network_hash(again)
    assert structure_hash(here) == structure_hash(again)
    for change, make in MADE.items():
        assert network_hash(kind(make())) != network_hash(here), change
        assert (structure_hash(kind(make())) != structure_hash(here)) == (change != "weights")
        assert (weights_hash(kind(make())) != weights_hash(here)) == (change == "weights")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_neither_its_mode_nor_a_copy_gives_a_network_another_identity(kind):
    network = kind(Scaled())
    before = network_hash(network)
    network.train(not network.training)
    assert network_hash(network) == before == network_hash(copy.deepcopy(network))


def test_a_hook_counts_by_its_code_and_not_by_what_it_has_noted():
    texts = []
    for factor in (2, 2, 3):
        network, noted = Scaled(), []
        exec(  # noqa: S102
            f"def hook(layer, given, answer):\n    noted.append(answer)\n    return {factor} * answer",
            scope := {"noted": noted},
        )
        network.linear.register_forward_hook(scope["hook"])
        for _ in range(factor):
            network(torch.ones(1, 3))
        texts.append(network_hash(network))
    assert texts[0] == texts[1] != texts[2]
    assert network_hash(Scaled()) not in texts


class Times:
    def __init__(self, factor):
        self.factor = factor

    def hook(self, layer, given, answer):
        return self.factor * answer

    def other(self, layer, given, answer):
        return -answer


HOOKS = {
    "a closure": lambda k: lambda layer, given, answer: k * answer,
    "a partial": lambda k: functools.partial(lambda k, layer, given, answer: k * answer, k),
    "a method": lambda k: getattr(Times(0), "hook" if k == 1 else "other"),
}


@pytest.mark.parametrize("make", HOOKS.values(), ids=HOOKS)
def test_a_hook_counts_by_what_it_reads(make):
    found = []
    for k in (1, 1, 50):
        network = Scaled()
        network.linear.register_forward_hook(make(k))
        found.append((network_hash(network), structure_hash(network)))
    assert found[0] == found[1] and not {*found[0]} & {*found[2]}


def test_a_sparse_buffer_counts_by_its_values():
    found = []
    for value in (1.0, 1.0, 2.0):
        network = Scaled()
        network.register_buffer("edges", (value * torch.eye(3)).to_sparse(), persistent=False)
        found.append(network_hash(network))
    assert found[0] == found[1] != found[2]


def test_a_compiled_network_is_the_plain_one():
    for compiled in (KINDS["compiled"](Scaled()), Scaled()):
        compiled.compile(backend="eager")
        compiled(torch.ones(1, 3))
        for hash_of in (network_hash, structure_hash, weights_hash):
            assert hash_of(compiled) == hash_of(Scaled())


def test_installed_code_is_described_by_its_name():
    for function in (F.relu, kd.soft_target_loss, functools.reduce, torch.exp, len, np.mean):
        assert function.__name__ in described(function) and len(described(function)) < 200


def test_an_objects_state_outside_its_dict_counts():
    for make in (random.Random, lambda seed: torch.Generator().manual_seed(seed)):
        assert described(make(0)) != described(make(1)) and described(make(0)) == described(make(0))


@pytest.mark.parametrize(
    ("file", "statement", "read"),
    [
        ("mine_inside.py", "from mine_inside import loss", "loss"),
        ("mine_package/parts.py", "from mine_package import parts", "parts.loss"),
    ],
    ids=["module", "submodule"],
)
def test_what_a_function_imports_counts_by_its_file(tmp_path, monkeypatch, file, statement, read):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_package").mkdir()
    (tmp_path / "mine_package" / "__init__.py").touch()
    texts = []
    for body in ("loss = 1", "loss = 2"):
        (tmp_path / file).write_text(body)
        texts.append(f_of(f"def f(x):\n    {statement}\n    return {read}"))
    assert texts[0] != texts[1]


DEEP = functools.reduce(lambda inside, _: [inside], range(2000), [])


@pytest.mark.parametrize(
    "value",
    [DEEP, torch.ones(2, device="meta"), nn.LazyLinear(3)],
)
def test_a_value_that_cannot_be_inspected_is_undescribed(value):
    with pytest.raises(Undescribed, match="cannot be described|has no text"):
        described(value)


def test_a_lazy_network_is_undescribed_in_plain_words():
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    for hash_of in (network_hash, structure_hash):
        with pytest.raises(
            Undescribed, match=r"layer '1' \(LazyLinear\) has none yet; run the network"
        ):
            hash_of(lazy)


@pytest.mark.parametrize("value", [threading.Lock(), (x for x in ()), sys.stdout.buffer])
def test_a_value_without_a_text_is_undescribed(value):
    with pytest.raises(Undescribed, match="has no text that distinguishes it from others"):
        described({"inside": [value]})


def hashes():
    """The hashes of all cells and networks, and the key of an objective with a teacher, a function and numbers."""
    teacher = kd.models.mlp(16, depth=1, seed=0)
    total = kd.SoftTargets(teacher, 4, 0.9) + (lambda p: 4 - 3 * p) * kd.LogitMatching(teacher)
    cells = (cell for template in OTHER.values() for cell in both(template))
    networks = [network_hash(kind(make())) for kind in KINDS.values() for make in MADE.values()]
    key = (total + 0.1 * kd.CrossEntropy()).key
    return [*(code_hash(module(cell).f) for cell in cells), *networks, key]


def test_texts_and_keys_are_the_same_in_every_process():
    code = "import sys; sys.path.insert(0, 'tests'); import test_identity as t; print(t.hashes())"
    there = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    assert there.stdout.strip() == str(hashes())
