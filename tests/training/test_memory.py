"""Outside training, too, no forward pass reads more samples than memory was made for."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from training_helpers import train

import kdlib as kd

TEN = kd.Recipe(epochs=1, batch_size=10, precision="float32")


class Counting(nn.Module):
    """A network that notes how many samples each pass in eval mode reads."""

    def __init__(self, inputs=784, sizes=None):
        super().__init__()
        with kd.seeded(0):
            self.low, self.head = nn.Linear(inputs, 4), nn.Linear(4, 10)
        self.sizes = [] if sizes is None else sizes

    def forward(self, x):
        if not self.training:
            self.sizes.append(len(x))
        return self.head(self.low(x.flatten(1)).relu())

    def __deepcopy__(self, memo):  # copies, such as a frozen teacher, note it in the same list
        copied = Counting(self.low.in_features, self.sizes)
        copied.load_state_dict(self.state_dict())
        return copied


def test_validation_reads_as_many_samples_as_a_step_of_the_training(small):
    model, recipe = Counting(), replace(TEN, epochs=2)
    history = train(model, small, recipe)
    assert max(model.sizes) == 10
    assert sum(model.sizes) == 2 * len(small.validation)
    last = kd.evaluate(model, small.validation)
    assert history.frame["validation_loss"].iloc[-1] == pytest.approx(last.loss, rel=1e-5)
    assert history.frame["validation_accuracy"].iloc[-1] == last.accuracy


def test_validation_never_reads_more_than_kdlib_reads_by_default(small):
    large = replace(small.train, inputs=small.train.inputs.repeat(1, 1, 10, 10))
    data, model = replace(small, train=large, validation=large), Counting(78_400)
    train(model, data, replace(TEN, batch_size=200))
    assert max(model.sizes) == 4_000_000 // 78_400


@pytest.mark.parametrize("dropout", [0.0, 0.1], ids=["stacked", "one by one"])
def test_a_cohort_is_scored_by_batches_of_the_recipe(small, monkeypatch, dropout):
    sizes, parts = [], kd.data.Split.parts
    note = lambda split, size: sizes.append(size) or parts(split, size)
    monkeypatch.setattr(kd.data.Split, "parts", note)
    build = lambda seed: kd.models.mlp(5, dropout=dropout, seed=seed)
    kd.fit_cohort(build, [kd.CrossEntropy()], small, TEN, [0], progress=False)
    assert set(sizes) == {10}


TEACHINGS = {
    "logits": lambda teacher: kd.SoftTargets(teacher, 4, 0.9),
    "several": lambda teacher: kd.SoftTargets([teacher, Counting()], 4, 0.9),
    "own loss": lambda teacher: kd.Loss(kd.logit_matching_loss, teacher),
}


@pytest.mark.parametrize("build", TEACHINGS.values(), ids=TEACHINGS)
def test_a_teachers_table_is_made_by_batches_of_the_recipe(small, build):
    teacher = Counting()
    train(kd.models.mlp(5), replace(small, validation=None), TEN, build(teacher))
    assert max(teacher.sizes) == 10
    assert sum(teacher.sizes) == len(small.train)


@pytest.mark.parametrize("augment", [None, kd.data.shift(1)], ids=["table", "live"])
def test_a_teachers_features_and_their_lowest_value_are_read_by_batches(small, augment):
    """A hint's activation is chosen by the lowest value of the teacher's features."""
    sizes = []

    class Low(nn.Sequential):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    with kd.seeded(0):
        teacher = Low(nn.Flatten(), nn.Linear(784, 6), nn.ReLU(), nn.Linear(6, 10))
    hint = kd.Hint(teacher, hint="2", guided="2")
    hint.prepare(kd.models.mlp(5), small.train, replace(TEN, augment=augment))
    assert max(sizes) <= 10
    assert sum(sizes) >= len(small.train)


def test_what_one_batch_size_computed_is_not_used_for_another(small):
    """Rounding may differ by it, and no training may depend on what ran before."""
    teacher = kd.models.mlp(5)
    hint = lambda: kd.Hint(teacher, hint="2", guided="2")
    for build in (lambda: kd.SoftTargets(teacher, 4, 0.9), hint):
        held = [build() for _ in range(3)]
        for objective, batch_size in zip(held, (10, 20, 10), strict=True):
            recipe = replace(TEN, batch_size=batch_size)
            objective.prepare(kd.models.mlp(5), small.train, recipe)
        first, other, again = (objective._source.answers for objective in held)
        assert first is again
        assert first is not other


ASKING = {
    "evaluate": lambda model, split, **size: kd.evaluate(model, split, **size).loss,
    "fidelity": lambda model, split, **size: (
        kd.fidelity(kd.models.mlp(5), model, split, **size).divergence
    ),
    "logits of a split": lambda model, split, **size: kd.logits(model, split, **size).sum().item(),
    "logits": lambda model, split, **size: kd.logits(model, split.inputs, **size).sum().item(),
}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_who_asks_for_scores_or_logits_may_say_how_many_at_once(digits, ask):
    model, split = Counting(), digits.train
    whole = ask(model, split)
    assert max(model.sizes) == 1000
    model.sizes.clear()
    assert ask(model, split, batch_size=7) == pytest.approx(whole, rel=1e-4)
    assert max(model.sizes) == 7
    for bad in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"batch_size must be .*, got {bad}"):
            ask(model, split, batch_size=bad)


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_large_inputs_are_read_fewer_at_a_time(ask):
    model, inputs = Counting(200_000), torch.zeros(45, 200_000)
    split = kd.data.Split(inputs, torch.zeros(45, dtype=torch.int64), torch.arange(45))
    if ask is ASKING["fidelity"]:
        kd.fidelity(model, model, split)
    else:
        ask(model, split)
    assert model.sizes == [20, 20, 5]


def test_a_text_is_read_by_as_many_tokens_as_a_step_of_the_training():
    sizes = []

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(30, 30)

        def forward(self, tokens):
            if not self.training:
                sizes.append(tokens.numel())
            return self.embedding(tokens)

    text = "the quick brown fox jumps over the lazy dog. " * 40
    data = kd.text.from_texts(text, text, device="cpu", unroll=6)
    train(Reader(), data, replace(TEN, batch_size=4))
    assert max(sizes) == 24
    assert sum(sizes) == len(data.validation)
    sizes.clear()
    kd.evaluate(Reader(), data.validation)
    assert max(sizes) == 1000
