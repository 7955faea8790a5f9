"""kdlib/identity.py: equal code has equal texts, and whatever would train differently has another."""

import enum
import functools
import random
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kdlib as kd
from kdlib.identity import Undescribed, code_hash, described

# Every pair is defined twice by ``module``, as a reader's cell that is run again, or changed and run.


def module(source, name="cell"):
    made = types.ModuleType(name)
    exec(compile(source, f"<{name}>", "exec"), vars(made))  # noqa: S102
    return made


def f_of(source):
    return described(module(source).f)


SAME = {
    "the same": ("f = lambda x: 2 * x", "f = lambda x: 2 * x"),
    "other lines": ("def f(x):\n    return 2 * x", "\n\n\ndef f(x):\n\n    return 2 * x"),
    "a docstring": ("def f(x):\n    return None", 'def f(x):\n    "Words."\n    return None'),
    "another docstring inside": (
        'def f(x):\n    def g():\n        "One."\n        return x\n    return g()',
        'def f(x):\n    def g():\n        "Two."\n        return x\n    return g()',
    ),
    "the name": ("def f(x):\n    return x", "def g(x):\n    return x\nf = g"),
    "a global that is not read": ("a = 1\nf = lambda x: x", "a = 2\nf = lambda x: x"),
    "a set": ("f = lambda x: x in {1, 2, 3}", "f = lambda x: x in {3, 2, 1}"),
    "a global of an attribute's name": (
        "mean = 1\nf = lambda x: x.mean()",
        "mean = 2\nf = lambda x: x.mean()",
    ),
    "the order in a set": (
        "k = {int, str, float}\nf = lambda x: k",
        "k = {float, str, int}\nf = lambda x: k",
    ),
    "recursion": ("def f(x):\n    return f(x - 1)", "def f(x):\n    return f(x - 1)"),
}
OTHER = {
    "a constant": ("f = lambda x: 2 * x", "f = lambda x: 3 * x"),
    "a constant's kind": ("f = lambda x: 2 * x", "f = lambda x: 2.0 * x"),
    "an attribute": ("f = lambda x: x.sum()", "f = lambda x: x.mean()"),
    "a function of torch": (
        "import torch.nn.functional as F\nf = lambda x: F.relu(x)",
        "import torch.nn.functional as F\nf = lambda x: F.gelu(x)",
    ),
    "an operator": ("f = lambda x: x + 1", "f = lambda x: x - 1"),
    "a default": ("def f(x, T=4):\n    return x / T", "def f(x, T=8):\n    return x / T"),
    "a keyword's default": ("f = lambda x, *, T=4: x / T", "f = lambda x, *, T=8: x / T"),
    "the closure": (
        "def make(T):\n    return lambda x: x / T\nf = make(4)",
        "def make(T):\n    return lambda x: x / T\nf = make(8)",
    ),
    "a global": ("T = 4\nf = lambda x: x / T", "T = 8\nf = lambda x: x / T"),
    "a global in a nested function": (
        "T = 4\ndef f(x):\n    return (lambda: x / T)()",
        "T = 8\ndef f(x):\n    return (lambda: x / T)()",
    ),
    "a nested function": (
        "def f(x):\n    return (lambda: x + 1)()",
        "def f(x):\n    return (lambda: x + 2)()",
    ),
    "a comprehension": ("f = lambda x: [a + 1 for a in x]", "f = lambda x: [a + 2 for a in x]"),
    "a function that it calls": (
        "def g(x):\n    return x\ndef f(x):\n    return g(x)",
        "def g(x):\n    return -x\ndef f(x):\n    return g(x)",
    ),
    "a function that that one calls": (
        "h = lambda x: x\ng = lambda x: h(x)\nf = lambda x: g(x)",
        "h = lambda x: -x\ng = lambda x: h(x)\nf = lambda x: g(x)",
    ),
    "a tensor": (
        "import torch\nw = torch.ones(2)\nf = lambda x: x * w",
        "import torch\nw = torch.zeros(2)\nf = lambda x: x * w",
    ),
    "an array": (
        "import numpy as np\nw = np.ones(2)\nf = lambda x: x * w",
        "import numpy as np\nw = np.ones(2, 'f4')\nf = lambda x: x * w",
    ),
    "a dictionary": (
        "d = {'T': 4}\nf = lambda x: x / d['T']",
        "d = {'T': 8}\nf = lambda x: x / d['T']",
    ),
    "a partial": (
        "from functools import partial\nf = partial(max, 4)",
        "from functools import partial\nf = partial(max, 8)",
    ),
    "a decorator's argument": (
        "def by(k):\n    def wrap(g):\n        return lambda x: k * g(x)\n    return wrap\n@by(2)\ndef f(x): return x",
        "def by(k):\n    def wrap(g):\n        return lambda x: k * g(x)\n    return wrap\n@by(3)\ndef f(x): return x",
    ),
    "under a decorator of torch": (
        "import torch\n@torch.no_grad()\ndef f(x): return x",
        "import torch\n@torch.no_grad()\ndef f(x): return -x",
    ),
    "a method": (
        "class A:\n    def g(self, x): return x\nf = A().g",
        "class A:\n    def g(self, x): return -x\nf = A().g",
    ),
    "an attribute of the method's object": (
        "class A:\n    def __init__(self): self.T = 4\n    def g(self, x): return x\nf = A().g",
        "class A:\n    def __init__(self): self.T = 4.5\n    def g(self, x): return x\nf = A().g",
    ),
    "an inherited method": (
        "class B:\n    def h(self): return 1\nclass A(B):\n    def g(self): return self.h()\nf = A().g",
        "class B:\n    def h(self): return 2\nclass A(B):\n    def g(self): return self.h()\nf = A().g",
    ),
    "a property": (
        "class A:\n    @property\n    def T(self): return 4\nf = A()",
        "class A:\n    @property\n    def T(self): return 8\nf = A()",
    ),
    "a class's attribute": ("class A:\n    T = 4\nf = A()", "class A:\n    T = 8\nf = A()"),
    "a field of a dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    T: int\nf = A(4)",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    T: int\nf = A(8)",
    ),
    "a keyword of a call": ("f = lambda x: dict(a=x)", "f = lambda x: dict(b=x)"),
    "a comparison": ("f = lambda x: x < 1", "f = lambda x: x > 1"),
    "which variable a nested function sees": (
        "def f(a, b):\n    return (lambda: a)()",
        "def f(a, b):\n    return (lambda: b)()",
    ),
    "what a try is around": (
        "def f(x):\n    try:\n        a = x()\n        b = x()\n    except E:\n        pass",
        "def f(x):\n    try:\n        a = x()\n    except E:\n        pass\n    b = x()",
    ),
    "the order of arguments": ("f = lambda x, y: x - y", "f = lambda y, x: x - y"),
    "a cached function": (
        "import functools\n@functools.cache\ndef f(x): return 2 * x",
        "import functools\n@functools.cache\ndef f(x): return 3 * x",
    ),
    "what a C method is bound to": ("f = {'T': 4}.get", "f = {'T': 8}.get"),
    "an argument of a decorator of torch": (
        "import torch\ng = lambda x, y: x * y\nf = torch.func.grad(g, argnums=0)",
        "import torch\ng = lambda x, y: x * y\nf = torch.func.grad(g, argnums=1)",
    ),
    "a partial in a class": (
        "from functools import partial\nclass A:\n    loss = partial(max, 4)\nf = A()",
        "from functools import partial\nclass A:\n    loss = partial(max, 8)\nf = A()",
    ),
    "a member of an enumeration": (
        "import enum\nclass M(enum.Enum):\n    T = 4\nf = M.T",
        "import enum\nclass M(enum.Enum):\n    T = 8\nf = M.T",
    ),
    "an attribute of the function": (
        "def f(x): return x / f.T\nf.T = 4",
        "def f(x): return x / f.T\nf.T = 8",
    ),
    "an attribute of a module of torch": (
        "import torch\nf = torch.nn.CrossEntropyLoss()",
        "import torch\nf = torch.nn.CrossEntropyLoss(label_smoothing=0.5)",
    ),
    "an attribute of a module of one's own": (
        "import torch\nclass A(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n        self._T = 4\nf = A()",
        "import torch\nclass A(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n        self._T = 8\nf = A()",
    ),
    "a buffer outside the state dict": (
        "import torch\nf = torch.nn.Identity()\nf.register_buffer('T', torch.tensor(4.0), persistent=False)",
        "import torch\nf = torch.nn.Identity()\nf.register_buffer('T', torch.tensor(8.0), persistent=False)",
    ),
    "an autograd.Function": (
        "import torch\nclass G(torch.autograd.Function):\n    @staticmethod\n    def forward(ctx, x): return x\nf = G.apply",
        "import torch\nclass G(torch.autograd.Function):\n    @staticmethod\n    def forward(ctx, x): return -x\nf = G.apply",
    ),
    "a base's metaclass": (
        "class M(type):\n    def __call__(c): return 1\nclass A(metaclass=M): pass\nf = lambda: A()",
        "class M(type):\n    def __call__(c): return 2\nclass A(metaclass=M): pass\nf = lambda: A()",
    ),
    "one argument more": ("f = lambda x: 1", "f = lambda x, y: 1"),
    "any number of arguments": ("f = lambda x: 1", "f = lambda *x: 1"),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_what_does_the_same_has_one_text(one, other):
    assert f_of(one) == f_of(other)


@pytest.mark.parametrize(("one", "other"), OTHER.values(), ids=OTHER)
def test_what_differs_has_another_text(one, other):
    assert f_of(one) != f_of(other)
    assert f_of(one) == f_of(one) and f_of(other) == f_of(other)


def test_a_module_of_the_readers_own_counts_by_what_is_taken_from_it(tmp_path, monkeypatch):
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
def test_plain_things_have_texts_without_addresses(value):
    assert described(value) == described(value) and " at 0x" not in described(value)


def test_numbers_that_are_equal_but_of_another_kind_differ():
    assert len({described(x) for x in (1, 1.0, True, "1")}) == 4


def test_a_list_that_holds_itself_comes_to_an_end():
    loop = []
    loop.append(loop)
    assert described(loop) == "[<0>]"


def test_a_network_counts_by_its_weights_and_its_class():
    assert (
        described(kd.models.mlp(4))
        == described(kd.models.mlp(4))
        != described(kd.models.mlp(4, seed=1))
    )
    one, other = (
        module(
            f"import torch\nclass Net(torch.nn.Module):\n    def forward(self, x): return {k} * x"
        ).Net()
        for k in (2, 3)
    )
    assert described(one) != described(other)


def test_what_was_installed_goes_by_its_name():
    for function in (F.relu, kd.soft_target_loss, functools.reduce, torch.exp, len, np.mean):
        assert function.__name__ in described(function) and len(described(function)) < 200


def test_the_state_of_an_object_that_is_not_in_its_dict_counts():
    for make in (random.Random, lambda seed: torch.Generator().manual_seed(seed)):
        assert described(make(0)) != described(make(1)) and described(make(0)) == described(make(0))


def test_a_module_that_is_imported_inside_counts_by_its_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    texts = []
    for body in ("loss = 1", "loss = 2"):
        (tmp_path / "mine_inside.py").write_text(body)
        texts.append(f_of("def f(x):\n    from mine_inside import loss\n    return loss"))
    assert texts[0] != texts[1]


def test_a_submodule_that_is_imported_inside_counts_by_its_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_package").mkdir()
    (tmp_path / "mine_package" / "__init__.py").touch()
    texts = []
    for body in ("loss = 1", "loss = 2"):
        (tmp_path / "mine_package" / "parts.py").write_text(body)
        texts.append(f_of("def f(x):\n    from mine_package import parts\n    return parts.loss"))
    assert texts[0] != texts[1]


def deep(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [deep(2000), torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta"), nn.LazyLinear(3)],
)
def test_what_cannot_be_looked_at_is_undescribed_and_no_crash(value):
    with pytest.raises(Undescribed, match="cannot be described|has no text"):
        described(value)


@pytest.mark.parametrize("value", [threading.Lock(), (x for x in ()), sys.stdout.buffer])
def test_what_has_no_text_says_so(value):
    with pytest.raises(Undescribed, match="has no text that tells it from another"):
        described({"inside": [value]})


def test_the_text_is_the_same_in_every_process():
    code = """
import sys; sys.path.insert(0, "tests")
from test_identity import OTHER, module
from kdlib.identity import code_hash
print(*[code_hash(module(source).f) for pair in OTHER.values() for source in pair])"""
    here = [code_hash(module(source).f) for pair in OTHER.values() for source in pair]
    run = [sys.executable, "-c", code]
    root = str(__import__("pathlib").Path(__file__).resolve().parents[1])
    there = subprocess.run(
        run, capture_output=True, text=True, check=True, cwd=root, env={"PYTHONHASHSEED": "7"}
    )
    assert there.stdout.split() == here
