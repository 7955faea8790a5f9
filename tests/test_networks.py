"""kdlib/networks.py: running, copying and hashing a network leaves it as it was."""

import contextlib
import copy

import pytest
import torch
from torch import nn

import kdlib as kd
from kdlib.identity import tensors_hash, weights_hash
from kdlib.networks import answers, evaluating, frozen_copy


@pytest.fixture
def net():
    """BatchNorm and dropout, each in a mode of its own."""
    with kd.seeded(3):
        net = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 3)
        )
    net.train()
    net[3].eval()
    return net


def modes(net):
    return [module.training for module in net.modules()]


def unchanged(net, before, state):
    assert modes(net) == before
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_evaluating_switches_every_module_to_eval_and_puts_each_mode_back(net, error):
    other = copy.deepcopy(net).eval()
    before = modes(net)
    with pytest.raises(error) if error else contextlib.nullcontext(), evaluating(net, other):
        assert not any(modes(net) + modes(other))
        assert not torch.is_grad_enabled()
        if error:
            raise error
    assert modes(net) == before
    assert not any(modes(other))
    assert torch.is_grad_enabled()


def test_logits_are_those_of_one_pass_in_eval_mode_whatever_the_batch_size(net):
    inputs = torch.randn(11, 4, generator=torch.Generator().manual_seed(0))
    reference = copy.deepcopy(net).eval()(inputs).detach()
    before, state = modes(net), copy.deepcopy(net.state_dict())
    for batch_size in (1, 4, 11, 1000):
        found = kd.logits(net, inputs, batch_size)
        assert not found.requires_grad
        torch.testing.assert_close(found, reference, rtol=1e-6, atol=1e-6)
    unchanged(net, before, state)


def test_a_network_without_parameters_can_be_asked_for_its_logits():
    inputs = torch.randn(5, 4)
    assert torch.equal(kd.logits(nn.Identity(), inputs, 2), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_answers_are_in_the_networks_precision_and_tokens_stay_whole(net, dtype):
    inputs, seen = torch.randn(5, 4), []
    net.to(dtype).eval().register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    assert answers(net, inputs).dtype == answers(net, inputs.double()).dtype == dtype
    assert seen == [dtype, dtype]
    torch.testing.assert_close(kd.logits(net, inputs), net(inputs.to(dtype)).detach())
    reader = nn.Sequential(nn.Embedding(10, 4)).to(dtype)
    assert answers(reader, torch.tensor([3])).dtype == dtype


# Networks that read a text


class Counter(nn.Module):
    """Outputs how many tokens it has read, and records every call of begin_text."""

    def __init__(self):
        super().__init__()
        self.begun, self.read = [], 0

    def begin_text(self, carry):
        self.begun.append(carry)
        self.read = 0

    def forward(self, tokens):
        start = self.read
        if self.begun and self.begun[-1]:
            self.read += tokens.shape[1]
        return torch.arange(start, start + tokens.shape[1]).expand(len(tokens), -1)[..., None]


def a_text():
    return kd.text.from_texts("abcabcabcab", device="cpu").train


def test_reading_reaches_every_recurrent_part_and_no_other():
    text, first, second = a_text(), Counter(), Counter()
    whole = nn.Sequential(nn.Linear(2, 2), nn.Sequential(first))
    text.begin(whole)
    assert first.begun == [True]
    with text.reading(whole, second):
        assert (first.begun[1:], second.begun) == ([True], [True])
    assert (first.begun[1:], second.begun) == ([True, False], [True, False])
    with pytest.raises(KeyboardInterrupt), text.reading(whole, second):
        raise KeyboardInterrupt
    assert (first.begun[3:], second.begun[2:]) == ([True, False], [True, False])


@pytest.mark.parametrize("size", [1, 4, 100])
def test_logits_of_a_text_are_read_in_one_go_whatever_the_batch_size(size):
    split = a_text()
    counter = Counter()
    for _ in range(2):
        found = kd.logits(counter, split, size)
        assert found.tolist() == [[place] for place in range(10)]
    assert counter.begun == [True, False] * 2


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_batch_of_rows_of_tokens_is_read_from_the_beginning(size):
    model, tokens = kd.models.lstm(9, width=4, seed=1), torch.arange(10).view(5, 2) % 9
    expected = model.eval()(tokens).detach()
    assert expected.shape == (5, 2, 9)  # one row of logits for each token
    torch.testing.assert_close(kd.logits(model, tokens, size), expected)
    split = kd.data.Split(tokens, tokens[:, 0], torch.arange(5))
    torch.testing.assert_close(kd.logits(model, split, size), expected)


def test_a_frozen_copy_answers_in_eval_mode_and_shares_nothing_with_the_original(net):
    state, before = copy.deepcopy(net.state_dict()), modes(net)
    twin = frozen_copy(net, torch.device("cpu"))
    assert not any(modes(twin))
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())
    for tensor in twin.state_dict().values():
        tensor.zero_()
    unchanged(net, before, state)


def test_the_hash_changes_with_one_bit_of_one_weight_and_with_a_buffer(net):
    before = weights_hash(net)
    assert weights_hash(copy.deepcopy(net)) == before
    with torch.no_grad():
        old = net[0].weight[0, 0].clone()
        net[0].weight[0, 0] = torch.nextafter(old, old + 1)
        assert weights_hash(net) != before
        net[0].weight[0, 0] = old
    assert weights_hash(net) == before
    net[1].running_mean += 1
    assert weights_hash(net) != before


@pytest.mark.parametrize(
    "other",
    [
        {"b": torch.zeros(4)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(4, dtype=torch.int32)},
        {"a": torch.zeros(5)},
        {"a": None},
        {},
        {"a": torch.zeros(4), "c": torch.zeros(0)},
    ],
    ids=["name", "shape", "dtype", "length", "none", "nothing", "one more"],
)
def test_the_hash_tells_names_shapes_dtypes_and_missing_tensors_apart(other):
    assert tensors_hash({"a": torch.zeros(4)}) != tensors_hash(other)


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float64, torch.int64])
def test_the_hash_takes_every_dtype_and_does_not_mind_the_strides(dtype):
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    assert tensors_hash({"a": tensor}) == tensors_hash({"a": tensor.t().contiguous().t()})
    assert tensors_hash({"a": torch.tensor(1).to(dtype)}) != tensors_hash(
        {"a": torch.tensor(0).to(dtype)}
    )
