"""What is recorded of a call, how it is sent, and how a value is described in a line."""

import collections
import io
import json
import math
import pickle
import random
import types
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path

import numpy as np
import pytest
import torch
from answers import Touches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import kdlib as kd
from kdlib.course.grading.observe import (
    MOST_NUMBERS,
    Seen,
    described,
    observe,
    packed,
    plain,
    received,
    same,
    sent,
    unpacked,
)

# Sent and received

numbers = st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats()
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    numbers | texts,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(texts, inside, max_size=4),
    max_leaves=12,
)


def equal(a, b):
    """Whether types, order of keys and all bits agree; only the payload of nan may differ."""
    if isinstance(a, torch.Tensor):
        bits = [x.contiguous().flatten().view(torch.uint8) for x in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return type(a) is type(b) and a == b and repr(a) == repr(b)


@settings(deadline=None, max_examples=200)
@given(values)
def test_plain_values_arrive_as_they_were_sent(value):
    assert equal(received(sent(Seen(value=value))).value, value)


REAL = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
WHOLE = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", REAL + WHOLE, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (2, 3), (1, 2, 3, 4)])
def test_tensors_arrive_with_their_type_shape_and_bits(dtype, shape):
    x = (100 * torch.randn(shape)).to(dtype)
    if x.is_floating_point() and x.numel():
        x.flatten()[0] = torch.nan
    if x.dim() > 1:
        x = x.mT  # not contiguous in memory
    assert equal(received(sent(Seen(value=plain(x)))).value, x)


def test_every_field_arrives():
    seen = Seen(
        value=[torch.eye(2), {"tensor": 1, "dict": [None]}],
        gradients={"student": torch.ones(3), "teacher": None},
        after={"of": {"state": {"weight": torch.zeros(2)}}},
        largest=12,
        error="ValueError: ∞",
        kind="ValueError",
        borrowed="soft_target_loss",
    )
    found = received(sent(seen))
    assert all(equal(getattr(found, name), getattr(seen, name)) for name in vars(seen))
    found.value[0] += 1  # a tensor that arrived can be written into


def test_a_message_that_would_run_code_is_refused_and_nothing_runs(tmp_path):
    path, stream = tmp_path / "made", io.BytesIO()
    fields = vars(Seen()) | {"value": Touches(path)}
    torch.save(fields, stream)
    for data in (pickle.dumps(fields), stream.getvalue(), pickle.dumps(Touches(path), 0)):
        with pytest.raises(Exception):  # noqa: B017  the grader catches whatever it is
            received(data)
    assert not path.exists()
    pickle.loads(pickle.dumps(fields))
    assert path.exists()  # so the trap works


def message(**changes):
    return json.dumps(json.loads(sent(Seen())) | changes).encode()


def with_value(text):
    return message().replace(b'"value": null', b'"value": ' + text)


def with_tensor(dtype, shape, data="AAAAAAAAAAA="):
    return message(value={"tensor": [dtype, shape, data]})


OF_ANOTHER_FORM = {
    "nothing": b"",
    "not JSON": b"\x80\x04N.",
    "not an object": b"[1, 2]",
    "a field too few": json.dumps({"value": 1}).encode(),
    "an error that is a number": message(error=3),
    "a size that is a string": message(largest="9"),
    "a long error": message(error="x" * 10_000),
    "a number beyond 64 bits": message(value=10**400),
    "more digits than Python reads": with_value(b"9" * 5000),
    "a long list": message(value=[0] * 100_000),
    "a large dictionary": message(value={"dict": {str(k): 0 for k in range(5000)}}),
    "a deep list": with_value(b"[" * 200 + b"]" * 200),
    "a bottomless list": with_value(b"[" * 1_000_000 + b"]" * 1_000_000),
    "an unknown thing": message(value={"set": [1]}),
    "a dictionary that is a string": message(value={"dict": "text"}),
    "an unknown type": with_tensor("complex64", [1]),
    "a type that is not a string": with_tensor([], [1]),
    "numbers that do not fill the shape": with_tensor("int64", [2]),
    "a shape beyond all memory": with_tensor("uint8", [2**40], "AA=="),
    "numbers that are not base64": with_tensor("uint8", [1], "%%%%"),
    "a huge tensor": with_tensor("uint8", [9 * MOST_NUMBERS], "AAAA" * 3 * MOST_NUMBERS),
}


@pytest.mark.parametrize("data", OF_ANOTHER_FORM.values(), ids=OF_ANOTHER_FORM)
def test_a_message_of_another_form_is_refused(data):
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError, RuntimeError)):
        received(data)


def test_the_same_messages_in_good_form_are_read():
    assert received(message()) == Seen()
    assert received(with_value(b"[[1]]")).value == [[1]]
    assert received(with_tensor("int64", [1])).value.item() == 0


def test_half_a_character_is_replaced_so_that_a_file_can_hold_it():
    found = received(sent(Seen(value={"\ud800": ["\udfff"]}, error="\ud800")))
    assert found.value == {"?": ["?"]} and found.error == "?"


def test_an_unpacked_generator_draws_the_same_numbers_as_the_original():
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    copied = unpacked(packed({"generator": generator}))["generator"]
    first = torch.rand(1000, generator=copied)
    assert torch.equal(torch.rand(1000, generator=generator), first)


# Plain things

Point = collections.namedtuple("Point", "x y")
itself = [1]
itself.append(itself)
deep = json.loads("[" * 100 + "]" * 100)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (HTTPStatus.OK, 200),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.longdouble(0.5), 0.5),
        (np.arange(6).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
        (np.array(2.0), 2.0),
        (np.array([1j]), ["a complex"]),
        (np.zeros(MOST_NUMBERS + 1, np.int8), f"an array of {MOST_NUMBERS + 1:,} numbers"),
        (Point(1, "a"), [1, "a"]),
        (torch.Size([2, 3]), [2, 3]),
        (Path("a") / "b", str(Path("a") / "b")),
        (Decimal("0.5"), 0.5),
        (torch, "a module"),
        ({1, 2}, "a set"),
        (3j, "a complex"),
        ({1: (2.0, None)}, {"1": [2.0, None]}),
        (types.MappingProxyType({"a": True}), {"a": True}),
        ("x" * 20_000, "x" * 10_000),
        (10**400, math.inf),
        (-(10**400), -math.inf),
        (2**70, float(2**70)),
        (torch.zeros(1).expand(MOST_NUMBERS + 1), f"a tensor of {MOST_NUMBERS + 1:,} numbers"),
        (torch.zeros(2, dtype=torch.complex64), "a complex64 tensor"),
        (torch.eye(2).to_sparse(), "a sparse_coo tensor"),
        (torch.zeros(2, device="meta"), "a meta tensor, without numbers"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_become_plain(value, expected):
    found = plain(value)
    assert equal(found, expected)
    assert equal(received(sent(Seen(value=found))).value, expected)


def test_recursive_deep_and_long_lists_and_dictionaries_are_cut():
    for value in (itself, deep, {"a": itself}):
        found = plain(value)
        assert "a list" in json.dumps(found)
        assert received(sent(Seen(value=found))).value == found
    assert len(plain(list(range(5000)))) == len(plain(dict.fromkeys(range(5000)))) == 1000


def test_a_network_is_its_state_dict():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    found = plain({"net": net})["net"]
    assert list(found) == list(net.state_dict())
    assert equal(found["0.weight"], net[0].weight.detach())


def test_a_plain_tensor_is_a_detached_contiguous_copy():
    weight = nn.Parameter(torch.zeros(2, 3))
    for x in (weight, weight.T, weight * 2):
        found = plain(x)
        assert type(found) is torch.Tensor and not found.requires_grad and found.is_contiguous()
    found = plain(weight)
    with torch.no_grad():
        weight += 1
    assert found.sum() == 0


# Observing a call


def test_gradients_are_of_the_sum_of_all_returned_tensors():
    seen = observe(
        lambda a, b: {"first": a * b, "rest": [a.sum(), "text"]},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 5.0])},
        gradients=("a", "b"),
    )
    assert seen.gradients["a"].tolist() == [4, 6] and seen.gradients["b"].tolist() == [1, 2]
    assert not seen.value["first"].requires_grad


def test_a_gradient_is_none_where_none_arrives():
    a, b = torch.ones(2), torch.ones(2)
    seen = observe(lambda a, b: (a * b.detach()).sum(), {"a": a, "b": b}, gradients=("a", "b"))
    assert seen.gradients["a"].tolist() == [1, 1] and seen.gradients["b"] is None
    for forgets in (lambda a: a.sum().item(), lambda a: "text", lambda a: None):
        assert observe(forgets, {"a": a}, gradients=("a",)).gradients == {"a": None}


def test_gradients_are_there_inside_no_grad_too():
    def turns_them_off(a):
        torch.set_grad_enabled(False)
        return a.sum()

    given = {"a": torch.ones(2)}
    with torch.no_grad():
        assert observe(torch.sum, given, gradients=("a",)).gradients["a"].tolist() == [1, 1]
        assert not torch.is_grad_enabled()
    observe(turns_them_off, given)
    assert torch.is_grad_enabled()


def test_the_largest_tensor_of_a_call_is_measured_where_it_is_asked_for():
    def outer(a):
        return (a[:, None] * a[None]).sum(1)

    given = {"a": torch.ones(7)}
    assert observe(outer, given, size=True).largest == 49
    assert observe(torch.sum, given, size=True).largest == 1
    assert observe(outer, given).largest == 0


def test_arguments_are_copies_and_their_changes_are_recorded():
    def spoils(a, names, net):
        a += 1
        names.append("more")
        net.eval()
        net(a).sum().backward()
        net.weight.data.fill_(0)

    net = nn.Linear(2, 1)
    given = {"a": torch.zeros(2), "names": ["one"], "net": net}
    before = net.weight.clone()
    seen = observe(spoils, given, after=("a", "names", "net"))
    assert seen.after["a"].tolist() == [1, 1] and seen.after["names"] == ["one", "more"]
    assert seen.after["net"]["state"]["weight"].tolist() == [[0, 0]]
    assert seen.after["net"]["training"] == [False]
    assert seen.after["net"]["gradients"]["weight"].tolist() == [[1, 1]]
    assert given["a"].tolist() == [0, 0] and given["names"] == ["one"]
    assert net.training and net.weight.grad is None and torch.equal(net.weight, before)


def test_a_value_is_its_own_answer_and_arguments_keep_their_order():
    assert observe(3.5, {}).value == 3.5
    seen = observe(lambda *given: given, {"z": 1, "a": 2, "m": 3})
    assert seen.value == [1, 2, 3]


def drawn(x=None):
    return [torch.rand(1).item(), float(np.random.rand()), random.random()]


def test_every_call_draws_the_same_and_the_callers_generators_stay_as_they_were():
    def draws(x):
        torch.manual_seed(int(1000 * torch.rand(1)))
        np.random.seed(1)
        random.seed(1)
        raise ValueError(drawn())

    def seed():
        torch.manual_seed(5), np.random.seed(5), random.seed(5)

    seed()
    expected = drawn()
    seed()
    first = observe(drawn, {"x": 1}).value
    assert observe(draws, {"x": 1}).kind == "ValueError"
    assert drawn() == expected
    assert observe(drawn, {"x": 1}).value == first  # though the caller has drawn


class Disguised:
    @property
    def __class__(self):
        raise RuntimeError("hands off")


class Untouchable(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError("hands off")


def untouchable(x):
    return Untouchable(torch.zeros(2))


def test_objects_that_raise_when_looked_at_are_an_error_of_the_answer():
    text = 'RuntimeError: hands off (in "raise RuntimeError("hands off")")'
    for answer in (untouchable, Disguised(), lambda x: Disguised(), lambda x: [Disguised()]):
        assert observe(answer, {"x": 1}) == Seen(error=text, kind="RuntimeError")


# One line


def test_numbers_and_tensors_that_agree_are_the_same():
    nan = math.nan
    assert same(1.0, 1.00005) and not same(1.0, 1.001)
    assert same(0.0, 1e-8) and not same(0.0, 1e-6)
    assert same(nan, nan) and not same(nan, 0.0)
    assert same(math.inf, math.inf) and not same(math.inf, -math.inf)
    assert same(2, 2.0) and same(torch.tensor(2), 2.0) and same(3.0, torch.tensor(3.0))
    assert same(torch.tensor([nan, 1]), torch.tensor([nan, 1.00001], dtype=torch.float64))
    assert same(torch.tensor(1e300, dtype=torch.float64), 1e300)
    assert not same(torch.tensor(1e300, dtype=torch.float64), 1e301)


def test_booleans_are_not_numbers_and_shapes_must_agree():
    assert not same(True, 1) and not same(0, False) and same(True, True)
    assert not same(torch.ones(1), 1.0) and not same(torch.ones(2, 1), torch.ones(1, 2))
    assert not same(torch.ones(2), [1.0, 1.0])
    assert not same(None, 0.0) and not same("1", 1) and not same(torch.ones(()), None)


def test_lists_and_dictionaries_agree_part_by_part():
    a = {"x": [1.0, {"y": torch.ones(2)}], "z": None}
    assert same(a, {"z": None, "x": (1.00001, {"y": torch.ones(2)})})
    assert not same(a, {"z": None, "x": [1.0, {"y": torch.ones(3)}]})
    assert not same(a, {"x": a["x"]}) and not same([1, 2], [1]) and not same([], {})


SHOWN = [
    (None, "nothing (None)"),
    (True, "True"),
    (1 / 3, "0.333333"),
    (torch.tensor(2.5), "2.5"),
    (torch.tensor([[1.0, 2.0]]), "[[1., 2.]]"),
    (torch.tensor([1.5, 2.0], dtype=torch.bfloat16), "[1.5, 2. ]"),
    (torch.tensor([True, False]), "[ True, False]"),
    (torch.zeros(2, 0), "an empty tensor (2×0)"),
    (torch.arange(20).reshape(4, 5), "a 4×5 tensor beginning 0, 1, 2, 3, …"),
    (nn.Parameter(torch.ones(2)), "[1., 1.]"),
    ([1, "a", None], "[1, a, nothing (None)]"),
    (list(range(9)), "[0, 1, 2, 3, 4, 5, …]"),
    ({"a": 1, "b": [2.0]}, "{a: 1, b: [2]}"),
    ("two\nlines", "two lines"),
    (nn.Linear(1, 1), "a Linear"),
    (torch.Generator(), "a generator"),
    (kd.soft_target_loss, "the function soft_target_loss"),
]


@pytest.mark.parametrize(("value", "expected"), SHOWN)
def test_values_are_described(value, expected):
    assert described(value) == expected


@settings(deadline=None, max_examples=200)
@given(values)
def test_any_plain_value_is_described_in_one_line(value):
    for whole in (value, {"a\nb": [value]}):
        assert len(described(whole).splitlines()) <= 1


def test_a_description_stays_short_however_large_the_value():
    wide, branching = [["x" * 5000] * 1000] * 1000, "end"
    for _ in range(8):
        branching = [branching] * 9
    for value in (wide, branching, {"a": wide}, "x" * 9000):
        assert len(described(value)) < 20_000
