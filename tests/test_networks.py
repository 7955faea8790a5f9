"""kdlib/networks.py: running, copying and hashing a network leaves it as it was."""

import copy

import pytest
import torch
from torch import nn

import kdlib as kd
from kdlib.identity import tensors_hash, weights_hash
from kdlib.networks import (
    answers,
    evaluating,
    frozen_copy,
)


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


def test_evaluating_switches_every_module_to_eval_and_puts_each_mode_back(net):
    before = modes(net)
    with evaluating(net):
        assert not any(modes(net))
        assert not torch.is_grad_enabled()
    assert modes(net) == before
    assert torch.is_grad_enabled()


def test_evaluating_puts_the_modes_of_several_networks_back_after_an_error(net):
    other = copy.deepcopy(net).eval()
    before = modes(net)
    with pytest.raises(KeyboardInterrupt), evaluating(net, other):
        raise KeyboardInterrupt
    assert modes(net) == before
    assert not any(modes(other))
    assert torch.is_grad_enabled()


def test_logits_are_those_of_one_pass_in_eval_mode_whatever_the_batch_size(net):
    inputs = torch.randn(11, 4, generator=torch.Generator().manual_seed(0))
    reference = copy.deepcopy(net).eval()(inputs).detach()
    for batch_size in (1, 4, 11, 1000):
        found = kd.logits(net, inputs, batch_size)
        assert not found.requires_grad
        torch.testing.assert_close(found, reference, rtol=1e-6, atol=1e-6)


def test_logits_leave_weights_buffers_and_modes_of_the_network_alone(net):
    state, before = copy.deepcopy(net.state_dict()), modes(net)
    kd.logits(net, torch.randn(8, 4), 3)
    assert modes(net) == before
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())


def test_logits_of_a_split_are_those_of_its_inputs(digits):
    net = kd.models.mlp(8)
    assert torch.equal(kd.logits(net, digits.test), kd.logits(net, digits.test.inputs))


def test_a_float64_network_takes_float32_inputs(net):
    inputs = torch.randn(5, 4)
    found = kd.logits(net.double(), inputs)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, net.eval()(inputs.double()))


def test_whole_numbers_such_as_tokens_reach_the_network_as_they_are():
    net = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
    tokens = torch.tensor([[1, 2, 3], [4, 5, 9]])
    torch.testing.assert_close(kd.logits(net, tokens), net(tokens).detach())


def test_a_network_without_parameters_can_be_asked_for_its_logits():
    inputs = torch.randn(5, 4)
    assert torch.equal(kd.logits(nn.Identity(), inputs, 2), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_answers_are_in_the_networks_precision_and_tokens_stay_whole(net, dtype):
    inputs, seen = torch.randn(5, 4), []
    net.to(dtype).eval().register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    assert answers(net, inputs).dtype == answers(net, inputs.double()).dtype == dtype
    assert seen == [dtype, dtype]
    reader = nn.Sequential(nn.Embedding(10, 4)).to(dtype)
    assert answers(reader, torch.tensor([3])).dtype == dtype


# Networks that read a text


class Counter(nn.Module):
    """Says how many tokens it has read, and notes how it was told to begin."""

    def __init__(self):
        super().__init__()
        self.told, self.read = [], 0

    def begin_text(self, carry):
        self.told.append(carry)
        self.read = 0

    def forward(self, tokens):
        start = self.read
        if self.told and self.told[-1]:
            self.read += tokens.shape[1]
        return torch.arange(start, start + tokens.shape[1]).expand(len(tokens), -1)[..., None]


def a_text():
    return kd.text.from_texts("abcabcabcab", device="cpu").train


def test_reading_reaches_every_part_that_can_and_passes_over_the_others():
    text, first, second = a_text(), Counter(), Counter()
    whole = nn.Sequential(nn.Linear(2, 2), nn.Sequential(first))
    text.begin(whole)
    assert first.told == [True]
    first.told.append(False)
    with text.reading(whole, second):
        assert (first.told[2:], second.told) == ([True], [True])
    assert (first.told[2:], second.told) == ([True, False], [True, False])


def test_networks_have_forgotten_the_text_after_an_error_too():
    first, second = Counter(), Counter()
    with pytest.raises(KeyboardInterrupt), a_text().reading(first, second):
        raise KeyboardInterrupt
    assert first.told == second.told == [True, False]


@pytest.mark.parametrize("size", [1, 4, 100])
def test_logits_of_a_text_are_read_in_one_go_whatever_the_batch_size(size):
    split = a_text()
    counter = Counter()
    for _ in range(2):
        found = kd.logits(counter, split, size)
        assert found.tolist() == [[place] for place in range(10)]
    assert counter.told == [True, False] * 2


def test_logits_of_rows_of_tokens_are_one_for_each_token():
    model, tokens = kd.models.lstm(9, width=4), torch.arange(6).view(3, 2)
    found = kd.logits(model, tokens)
    assert found.shape == (3, 2, 9)
    torch.testing.assert_close(found, model.eval()(tokens).detach())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_rows_of_tokens_go_not_on_where_the_batch_before_ended(size):
    model, tokens = kd.models.lstm(9, width=4, seed=1), torch.arange(10).view(5, 2) % 9
    expected = model.eval()(tokens).detach()
    torch.testing.assert_close(kd.logits(model, tokens, size), expected)
    split = kd.data.Split(tokens, tokens[:, 0], torch.arange(5))
    torch.testing.assert_close(kd.logits(model, split, size), expected)


def test_a_frozen_copy_answers_in_eval_mode_and_shares_nothing_with_the_original(net):
    state, before = copy.deepcopy(net.state_dict()), modes(net)
    twin = frozen_copy(net, torch.device("cpu"))
    assert not any(modes(twin))
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert modes(net) == before
    for tensor in twin.state_dict().values():
        tensor.zero_()
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())


def test_the_hash_changes_with_one_bit_of_one_weight_and_comes_back_with_it(net):
    before = weights_hash(net)
    assert weights_hash(copy.deepcopy(net)) == before
    with torch.no_grad():
        old = net[0].weight[0, 0].clone()
        net[0].weight[0, 0] = torch.nextafter(old, old + 1)
        assert weights_hash(net) != before
        net[0].weight[0, 0] = old
    assert weights_hash(net) == before


def test_the_hash_sees_buffers(net):
    before = weights_hash(net)
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
