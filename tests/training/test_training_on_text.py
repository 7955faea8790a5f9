"""Training, scores and teachers on a text, against an LSTM written out step by step."""

import contextlib
import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from training_helpers import TINY, Altered, assert_resumes, kept_files, modes, same, train

import kdlib as kd
from kdlib.identity import weights_hash

UNROLL = 7


READ = kd.Recipe(
    epochs=2, batch_size=5, learning_rate=0.5, momentum=0, schedule="constant", precision="float64"
)


@pytest.fixture(scope="module")
def text():
    """More test tokens than evaluate reads at once."""
    parts = [scribble(n, seed) for seed, n in enumerate((130, 60, 2300))]
    return kd.text.from_texts(*parts, device="cpu", unroll=UNROLL)


def scribble(n, seed):
    """Characters that depend on those before them."""
    random, found = np.random.default_rng(seed), [0, 1]
    while len(found) < n:
        found.append((found[-1] + 2 * found[-2] + int(random.random() < 0.3)) % 5)
    return "".join("abcde"[i] for i in found)


def reader(seed=1, **options):
    """A language model with weights so large that what it read long ago counts."""
    model = kd.models.lstm(5, **({"width": 6} | options), seed=seed)
    with torch.no_grad():
        for weights in model.parameters():
            weights *= 3
    return model


def weights_of(model):
    return {name: weights.detach().clone() for name, weights in model.named_parameters()}


def read(weights, tokens, state=None):
    """An LSTM's logits (N, L, C) and its state afterwards, step by step from its equations."""
    layers = sum("weight_hh" in name for name in weights)
    zero = torch.zeros(len(tokens), weights["embedding.weight"].shape[1])
    zero = zero.to(weights["embedding.weight"])
    state, logits = list(state or [(zero, zero)] * layers), []
    for step in range(tokens.shape[1]):
        x = weights["embedding.weight"][tokens[:, step]]
        for k in range(layers):
            (h, c), of = state[k], {n: weights[f"lstm.{n}_l{k}"] for n in LSTM}
            gates = x @ of["weight_ih"].T + of["bias_ih"] + h @ of["weight_hh"].T + of["bias_hh"]
            i, f, g, o = gates.chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            x = torch.sigmoid(o) * torch.tanh(c)
            state[k] = x, c
        logits.append(x @ weights["embedding.weight"].T + weights["head.bias"])
    return torch.stack(logits, 1), state


LSTM = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def surprise(logits, labels, *rest):
    return -torch.log_softmax(logits, -1).gather(-1, labels[..., None]).mean()


def trained_by_hand(model, split, loss=surprise, teachers=(), recipe=READ, carry=(True, True)):
    """Plain gradient descent over the text, row beside row, window after window."""
    weights = {n: w.double().requires_grad_() for n, w in weights_of(model).items()}
    taught = [weights_of(teacher) for teacher in teachers]
    tokens, row = [*split.inputs.tolist(), split.labels[-1].item()], len(split) // recipe.batch_size
    for _ in range(recipe.epochs):
        state, states = None, [None] * len(taught)
        for first in range(0, row - UNROLL + 1, UNROLL):
            starts = [line * row + first for line in range(recipe.batch_size)]
            place = torch.tensor([range(start, start + UNROLL) for start in starts])
            inputs, labels = torch.tensor(tokens)[place], torch.tensor(tokens)[place + 1]
            logits, state = read(weights, inputs, state if carry[0] else None)
            state = [(h.detach(), c.detach()) for h, c in state]
            said = [read(w, inputs, s) for w, s in zip(taught, states, strict=True)]
            if carry[1]:
                states = [after for _, after in said]
            loss(logits, labels, place, [z.double() for z, _ in said]).backward()
            with torch.no_grad():
                for w in weights.values():
                    w -= recipe.learning_rate * w.grad
                    w.grad = None
    return {name: w.detach() for name, w in weights.items()}


def farthest(model, weights):
    found = weights_of(model)
    assert found.keys() == weights.keys()
    return max((found[name] - weights[name]).abs().max().item() for name in weights)


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("layers", [1, 2])
def test_fit_reads_a_text_from_left_to_right_and_again_in_every_epoch(text, epochs, layers):
    recipe, model = replace(READ, epochs=epochs), reader(layers=layers)
    expected = trained_by_hand(model, text.train, recipe=recipe)
    forgetful = trained_by_hand(model, text.train, recipe=recipe, carry=(False, True))
    history = train(model, text, recipe)
    assert history.frame["step"].tolist() == [3 * (epoch + 1) for epoch in range(epochs)]
    assert farthest(model, expected) < 1e-12
    assert farthest(model, forgetful) > 1e-4


@pytest.mark.parametrize("how", [None, KeyboardInterrupt, RuntimeError, "scores"])
def test_a_language_model_has_forgotten_the_text_afterwards(text, how):
    model, tokens = reader(), torch.tensor([[0, 1, 2]])

    def stop(self, terms, student, batch):
        if self.calls == 2 and how:
            raise how
        return terms

    if how == "scores":
        kd.evaluate(model, text.validation)
        kd.fidelity(model, reader(2), text.validation)
    else:
        data = replace(text, validation=None)
        with pytest.raises(how) if how is RuntimeError else contextlib.nullcontext():
            train(model, data, READ, Altered(stop))
    expected = kd.models.lstm(5, width=6).to(next(model.parameters()).dtype)
    expected.load_state_dict(model.state_dict())
    for _ in range(2):
        assert torch.equal(model(tokens), expected(tokens))


def test_on_epoch_and_validation_find_a_model_that_reads_anew_and_change_nothing(text):
    watched, alone, seen = reader(), reader(), []
    look = lambda row: seen.extend(watched(torch.tensor([[3, 4]])) for _ in range(2))
    train(watched, text, READ, on_epoch=look)
    train(alone, replace(text, validation=None), READ)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3])
    assert same(watched, alone)


@pytest.mark.parametrize("taught", [False, True])
def test_a_resumed_reading_is_bit_for_bit_the_one_in_one_go(text, tmp_path, taught):
    recipe = replace(TINY, batch_size=5, optimizer="adam", max_gradient=0.5)
    objective = kd.SoftTargets(reader(9), 2, 0.5) if taught else kd.CrossEntropy()
    build = lambda: reader(dropout=0.3)
    assert_resumes(build, text, recipe, tmp_path / "run.pt", 2, lambda: objective)


def test_tied_weights_are_one_tensor_after_fit_a_resume_and_keep(text, tmp_path):
    recipe, path = replace(TINY, batch_size=5, keep="best"), tmp_path / "run.pt"
    fitted, resumed = reader(), reader()
    train(fitted, text, recipe, checkpoint=path)
    train(resumed, text, recipe, checkpoint=path)
    stored, loaded = (kd.keep(reader, kd.CrossEntropy(), text, recipe, seed=1) for _ in range(2))
    assert len(kept_files()) == 1
    train(double := reader(), text, READ)
    for model in (fitted, resumed, stored, loaded, double):
        assert model.head.weight is model.embedding.weight
    assert not same(fitted, reader())
    assert same(stored, loaded)
    assert same(fitted, resumed)


class LastPlace(nn.Module):
    """One class for a row of tokens, by a recurrent network that reads it."""

    def __init__(self):
        super().__init__()
        self.reader, self.begun = kd.models.lstm(4, width=3, seed=1), []
        self.reader.lstm.register_forward_pre_hook(
            lambda module, args: self.begun.append(args[1] is None)
        )

    def forward(self, tokens):
        return self.reader(tokens)[:, -1]


def test_rows_of_tokens_in_random_order_are_each_read_from_the_beginning():
    tokens = torch.randint(4, (2100, 3), generator=torch.Generator().manual_seed(0))
    split = kd.data.Split(tokens, tokens[:, 0], torch.arange(2100))
    rows = kd.data.Data(split, None, None, tuple("abcd"), "rows of tokens")
    model = LastPlace()
    with torch.no_grad():
        expected = model.eval()(tokens)
    loss = nn.functional.cross_entropy(expected, split.labels).item()
    assert kd.evaluate(model, split).loss == pytest.approx(loss)
    assert kd.fidelity(model, model, split).agreement == 1
    kd.fit(model, kd.CrossEntropy(), rows, kd.Recipe(epochs=1, batch_size=700), progress=False)
    assert model.begun == [True] * (1 + 3 + 3 + 3)


@pytest.mark.parametrize(
    "objective", [kd.CrossEntropy(), kd.SoftTargets(reader(), 1, 1)], ids=["labels", "teacher"]
)
def test_a_text_has_no_views_to_train_on(text, objective):
    with pytest.raises(ValueError, match=r"augment must be None for a text, got shift\(1\)"):
        train(reader(), text, replace(READ, augment=kd.data.shift(1)), objective)


def taught(teachers, T, alpha):
    """T squared times KL at T to the mean of the probabilities, and the labels beside it."""

    def loss(logits, labels, place, said):
        p = sum(torch.softmax(z / T, -1) for z in said) / len(said)
        log_q = torch.log_softmax(logits / T, -1)
        divergence = (p * (torch.log(p) - log_q)).sum(-1).mean()
        return alpha * T * T * divergence + (1 - alpha) * surprise(logits, labels)

    return loss


@pytest.mark.parametrize("members", [1, 2])
def test_a_teacher_reads_the_text_beside_the_student_with_a_state_of_its_own(text, members):
    teachers, student = [reader(seed).train() for seed in range(5, 5 + members)], reader(1)
    loss = taught(teachers, T=2, alpha=0.7)
    expected = trained_by_hand(student, text.train, loss, teachers)
    forgetful = trained_by_hand(student, text.train, loss, teachers, carry=(True, False))
    before = [weights_hash(teacher) for teacher in teachers]
    soft = kd.SoftTargets(teachers if members > 1 else teachers[0], temperature=2, alpha=0.7)
    for _ in range(2):  # one objective serves any number of fits
        train(student := reader(1), text, READ, soft)
        assert farthest(student, expected) < 1e-5  # the teacher computes in float32
        assert farthest(student, forgetful) > 1e-3
    assert [weights_hash(teacher) for teacher in teachers] == before
    assert all(all(modes(teacher)) for teacher in teachers)
    tokens = torch.tensor([[0, 1, 2]])
    assert torch.equal(teachers[0](tokens), teachers[0](tokens))


def test_parts_of_a_sum_that_share_a_teacher_let_it_read_once(text):
    teacher = reader(5)
    soft = kd.SoftTargets(teacher, 2, 1)
    once, twice, cohorts = reader(), reader(), []
    train(once, text, READ, soft)
    train(twice, text, READ, 0.5 * soft + 0.5 * soft)
    assert farthest(twice, weights_of(once)) < 1e-12
    both = lambda: 0.5 * kd.SoftTargets(teacher, 2, 1) + 0.5 * kd.LogitMatching(teacher)
    train(student := reader(), text, READ, both())
    cohorts = kd.fit_cohort(reader, [both()], text, READ, [1], progress=False)
    assert farthest(cohorts.models[0], weights_of(student)) < 1e-12


def test_a_table_of_logits_is_read_by_the_tokens_place(text):
    table = 2 * torch.randn(len(text.train), 5, generator=torch.Generator().manual_seed(0))

    def loss(logits, labels, place, said):
        return taught((), T=3, alpha=0.8)(logits, labels, place, [table[place].double()])

    student = reader()
    expected = trained_by_hand(student, text.train, loss)
    train(student, text, READ, kd.SoftTargets(table, 3, 0.8))
    assert farthest(student, expected) < 1e-6
    with pytest.raises(ValueError, match="a row for every sample index"):
        train(student, text, READ, kd.SoftTargets(table[:-1], 3, 0.8))


@pytest.mark.parametrize("objective", [kd.LogitMatching, kd.CWTM, kd.DKPP])
def test_every_objective_on_logits_works_on_a_text(text, objective):
    student, teacher = reader(), reader(5)
    frame = train(
        student, text, replace(READ, epochs=12, learning_rate=0.2), objective(teacher)
    ).frame
    assert frame.iloc[-1, 3] < frame.iloc[0, 3]


def whole_pass(model, split):
    """One long forward pass in float64: the log probabilities (N, C)."""
    weights = {name: w.double() for name, w in weights_of(model).items()}
    logits, _ = read(weights, split.inputs[None])
    return torch.log_softmax(logits[0], -1)


def test_perplexity_is_that_of_one_long_pass_over_the_whole_text(text):
    model, split = reader().double(), text.test
    assert len(split) > 2000
    log_p = whole_pass(model, split)
    loss = surprise(log_p, split.labels).item()
    scores = kd.evaluate(model, split)
    assert scores.loss == pytest.approx(loss, rel=1e-12)
    assert scores.perplexity == pytest.approx(math.exp(loss), rel=1e-12)
    assert scores.errors == int((log_p.argmax(-1) != split.labels).sum())
    assert kd.evaluate(model, split) == scores
    thirds = [slice(k * len(split) // 3, (k + 1) * len(split) // 3) for k in range(3)]
    fields = (split.inputs, split.labels, split.index)
    apart = [kd.evaluate(model, kd.text.Text(*(x[s] for x in fields))).loss for s in thirds]
    assert abs(np.mean(apart) - loss) > 1e-9  # it does matter where reading begins


def test_copies_of_a_language_model_score_as_one_even_if_they_are_the_same_object(text):
    model = reader().double()
    single = kd.evaluate(model, text.test)
    for many in ([copy.deepcopy(model) for _ in range(3)], [model] * 3):
        found = kd.evaluate(many, text.test)
        assert found.errors == single.errors
        assert found.loss == pytest.approx(single.loss, rel=1e-12)
        assert kd.fidelity(model, many, text.test).divergence == pytest.approx(0, abs=1e-12)
    assert kd.fidelity(model, model, text.test) == kd.Fidelity(1.0, 0.0)


def test_several_language_models_are_scored_and_compared_by_their_probabilities(text):
    models, split = [reader(seed).double() for seed in (1, 2)], text.test
    p, q = (whole_pass(model, split).exp() for model in models)
    mean = ((p + q) / 2).log()
    found = kd.evaluate(models, split)
    assert found.loss == pytest.approx(surprise(mean, split.labels).item(), rel=1e-12)
    compared = kd.fidelity(models[1], models[0], split)
    assert compared.divergence == pytest.approx((p * (p / q).log()).sum(1).mean().item(), rel=1e-9)
    assert compared.agreement == (p.argmax(1) == q.argmax(1)).double().mean().item()
