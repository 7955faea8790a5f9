"""kdlib/training/: what shapes a training is in the recipe and the seed, and nothing else."""

import contextlib
import copy
import functools
import math
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import kdlib as kd
from kdlib.data import Split
from kdlib.identity import weights_hash
from kdlib.objectives import Outputs
from kdlib.training import autocast_dtype
from kdlib.training.checkpoint import recipe_text

TINY = kd.Recipe(epochs=3, batch_size=50, precision="float32")
RICH = {  # everything that has a state or a draw of its own
    "epochs": 5,
    "batch_size": 50,
    "augment": kd.data.shift(2),
    "keep": "best",
    "precision": "float32",
    "max_norm": 2.0,
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small(digits):
    return digits.limit(200)


def train(model, data, recipe=TINY, objective=None, **options):
    objective = kd.CrossEntropy() if objective is None else objective
    return kd.fit(model, objective, data, recipe, **({"progress": False} | options))


def net(seed=1, dropout=0.0, width=16):
    return kd.models.mlp(width, dropout=dropout, seed=seed)


def normed(seed=1):
    """A network with running statistics and dropout."""
    with kd.seeded(seed):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 10)
        )


def same(a, b):
    return weights_hash(a) == weights_hash(b)


def modes(model):
    return [module.training for module in model.modules()]


class Altered(kd.CrossEntropy):
    """Cross entropy whose terms, or whose calls, a test may meddle with."""

    def __init__(self, change):
        super().__init__()
        self.change, self.calls = change, 0

    @property
    def key(self):
        return "Altered()"

    def __call__(self, student, batch):
        self.calls += 1
        return self.change(self, super().__call__(student, batch), student, batch)


def plain():
    return Altered(lambda self, terms, student, batch: terms)


class Guided:
    """Cross entropy and a layer of its own, trained beside the student on its logits."""

    key = "Guided()"

    def __init__(self):
        self.module = None

    def prepare(self, student, split, recipe):
        self.module = nn.Linear(10, 10)

    def __call__(self, student, batch):
        entropy = nn.functional.cross_entropy
        return {
            "hard": entropy(student.logits, batch.labels),
            "guided": 0.5 * entropy(self.module(student.logits), batch.labels),
        }


# Recipe


@pytest.mark.parametrize(
    ("name", "value", "kind", "remedy"),
    [
        ("epochs", 0, ValueError, "at least 1"),
        ("epochs", 2.0, ValueError, "whole number of at least 1"),
        ("epochs", True, ValueError, "whole number"),
        ("epochs", None, ValueError, "whole number"),
        ("iterations", 0, ValueError, "at least 1"),
        ("iterations", 1.5, ValueError, "whole number"),
        ("batch_size", 0, ValueError, "at least 1"),
        ("batch_size", -5, ValueError, "at least 1"),
        ("optimizer", "rmsprop", ValueError, "sgd, adam, adamw"),
        ("learning_rate", 0, ValueError, "positive and finite.*0.03"),
        ("learning_rate", -0.1, ValueError, "positive and finite.*0.03"),
        ("learning_rate", math.inf, ValueError, "positive and finite.*0.03"),
        ("learning_rate", math.nan, ValueError, "positive and finite.*0.03"),
        ("learning_rate", "fast", TypeError, "a number"),
        ("momentum", 1, ValueError, "below 1.*0.9"),
        ("momentum", -0.1, ValueError, r"\[0, 1\].*0.9"),
        ("momentum", math.nan, ValueError, r"\[0, 1\].*0.9"),
        ("schedule", "cosine", ValueError, "one_cycle, step, constant, wide_resnet, plateau"),
        ("weight_decay", -1e-4, ValueError, "at least 0"),
        ("weight_decay", math.nan, ValueError, "at least 0"),
        ("weight_decay", math.inf, ValueError, "at least 0"),
        ("weight_decay", "0.1", TypeError, "a number"),
        ("max_norm", 0, ValueError, "positive.*None sets no limit"),
        ("max_norm", -3.0, ValueError, "positive.*None sets no limit"),
        ("max_gradient", 0, ValueError, "positive.*None sets no limit"),
        ("max_gradient", math.inf, ValueError, "positive.*None sets no limit"),
        ("augment", "shift", TypeError, "kd.data.shift, crop or flip"),
        ("augment", kd.data.shift, TypeError, "kd.data.shift, crop or flip"),
        ("precision", "float8", ValueError, "auto, float32, float64, bfloat16, float16"),
        ("keep", "first", ValueError, "last, best"),
    ],
)
def test_a_recipe_refuses_a_value_and_names_it_with_a_remedy(name, value, kind, remedy):
    with pytest.raises(kind, match=f"^{name} must be .*") as caught:
        kd.Recipe(**{name: value})
    found = f"{value!r}" if isinstance(value, str) else f"{value}"
    assert found in str(caught.value)
    caught.match(remedy)


def test_a_recipe_takes_numpys_numbers():
    kd.Recipe(epochs=np.int64(3), learning_rate=np.float32(0.1), momentum=np.float64(0))


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.03), ("adam", 0.001), ("adamw", 0.001)])
def test_the_default_rate_goes_with_the_optimizer(optimizer, rate):
    assert kd.Recipe(optimizer=optimizer).peak_rate == rate
    assert kd.Recipe(optimizer=optimizer, learning_rate=0.2).peak_rate == 0.2


def test_one_cycle_climbs_to_its_peak_and_falls_to_nothing():
    recipe = kd.Recipe(learning_rate=0.5)
    assert recipe.rate(0) == pytest.approx(0.02)
    assert recipe.rate(0.15) == pytest.approx((0.02 + 0.5) / 2)
    assert recipe.rate(0.3) == pytest.approx(0.5)
    assert recipe.rate(0.65) == pytest.approx(0.25)
    assert recipe.rate(0.9999) < 1e-6
    rates = [recipe.rate(step / 1000) for step in range(1000)]
    assert max(rates) == pytest.approx(0.5)
    assert rates[:301] == sorted(rates[:301])
    assert rates[300:] == sorted(rates[300:], reverse=True)


def test_step_takes_a_tenth_at_a_half_and_at_three_quarters_and_constant_stays():
    step = kd.Recipe(learning_rate=1.0, schedule="step")
    found = [step.rate(progress) for progress in (0, 0.499, 0.5, 0.749, 0.75, 0.999)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    constant = kd.Recipe(learning_rate=1.0, schedule="constant")
    assert {constant.rate(progress) for progress in (0, 0.3, 0.999)} == {1.0}


def test_wide_resnet_takes_a_fifth_after_30_60_and_80_percent():
    recipe = kd.Recipe(learning_rate=2.0, schedule="wide_resnet")
    found = [recipe.rate(progress) for progress in (0, 0.299, 0.3, 0.599, 0.6, 0.799, 0.8, 0.999)]
    assert found == pytest.approx([2, 2, 0.4, 0.4, 0.08, 0.08, 0.016, 0.016])


def test_what_a_recipe_does_not_change_is_not_in_its_text():
    """So that a new field leaves the checkpoints and kept networks of before valid."""
    assert recipe_text(kd.Recipe(epochs=3, max_gradient=None)) == "{'epochs': '3'}"
    assert recipe_text(kd.Recipe(max_gradient=0.25)) == "{'max_gradient': '0.25'}"


# What fit does to the weights


def softmax_gradient(weights, inputs, labels):
    """By the weights (C, D + 1), the last column a bias, of the mean cross entropy."""
    inputs = np.hstack([inputs, np.ones((len(inputs), 1))])
    z = inputs @ weights.T
    q = np.exp(z - z.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)
    q[np.arange(len(labels)), labels] -= 1
    return q.T @ inputs / len(labels)


@pytest.mark.parametrize("schedule", ["one_cycle", "step", "constant", "wide_resnet"])
def test_sgd_is_nesterov_momentum_with_the_rate_of_the_schedule(small, schedule):
    rate, decay, steps = 0.1, 0.01, 7
    recipe = kd.Recipe(
        epochs=steps,
        batch_size=200,
        learning_rate=rate,
        weight_decay=decay,
        schedule=schedule,
        precision="float64",
    )
    model = kd.models.mlp(1, depth=0, seed=2)
    weights = torch.cat([model[1].weight, model[1].bias[:, None]], 1).detach().double().numpy()
    inputs, labels = small.train.inputs.double().flatten(1).numpy(), small.train.labels.numpy()
    velocity = 0
    for step in range(steps):
        gradient = softmax_gradient(weights, inputs, labels) + decay * weights
        velocity = 0.9 * velocity + gradient
        weights = weights - recipe.rate(step / steps) * (gradient + 0.9 * velocity)
    train(model, small, recipe)
    assert model[1].weight.dtype == torch.float64
    np.testing.assert_allclose(model[1].weight.detach(), weights[:, :-1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(model[1].bias.detach(), weights[:, -1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_first_step_of_adam_moves_every_weight_by_the_rate(small, optimizer):
    recipe = kd.Recipe(
        iterations=1,
        optimizer=optimizer,
        learning_rate=0.01,
        schedule="constant",
        weight_decay=0.5,
        precision="float64",
    )
    model = kd.models.mlp(1, depth=0, seed=2)
    before = model[1].bias.detach().double().clone()
    train(model, small, recipe)
    moved = model[1].bias.detach() - before
    if optimizer == "adamw":  # its decay is apart from the gradient
        moved = moved + 0.01 * 0.5 * before
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.01), rtol=1e-4, atol=0)


def test_training_learns(small, digits):
    model = net()
    before = kd.evaluate(model, digits.test).accuracy
    history = train(model, small, replace(TINY, epochs=20))
    assert before < 0.3
    assert kd.evaluate(model, digits.test).accuracy > 0.75
    assert history.frame["hard"].iloc[-1] < 0.5 * history.frame["hard"].iloc[0]


def test_only_the_student_is_trained_and_the_teacher_stays_as_it_was(small):
    teacher = normed()
    teacher[3].eval()
    before, state = modes(teacher), weights_hash(teacher)
    for augment in (None, kd.data.shift(1)):
        student = net()
        start = weights_hash(student)
        objective = kd.SoftTargets(teacher, temperature=4, alpha=0.5)
        train(student, small, replace(TINY, augment=augment), objective)
        assert weights_hash(student) != start
        assert weights_hash(teacher) == state
        assert modes(teacher) == before
        assert all(p.grad is None and p.requires_grad for p in teacher.parameters())


def test_the_student_trains_in_train_mode_in_every_epoch_whatever_on_epoch_does(small):
    model, seen = normed(), []
    model.register_forward_pre_hook(
        lambda module, inputs: seen.append(modes(module)) if torch.is_grad_enabled() else None
    )
    train(model, small, on_epoch=lambda row: model.eval())
    assert len(seen) == 12
    assert all(all(mode) for mode in seen)


def test_fit_ends_in_eval_mode(small):
    model = normed().train()
    train(model, small)
    assert not any(modes(model))


def test_the_last_incomplete_batch_is_dropped_unless_it_is_all_there_is(small):
    for batch_size, expected in ((60, [60] * 3), (200, [200]), (201, [200])):
        objective, sizes = plain(), []
        objective.change = lambda self, terms, _, batch, sizes=sizes: (
            sizes.append(len(batch.index)) or terms
        )
        train(net(), small, replace(TINY, epochs=1, batch_size=batch_size), objective)
        assert sizes == expected


def test_iterations_count_steps_and_cut_the_last_epoch_short(small):
    objective, progress = plain(), []
    objective.change = lambda self, terms, _, batch: progress.append(batch.progress) or terms
    recipe = replace(TINY, iterations=10, epochs=99)
    frame = train(net(), small, recipe, objective).frame
    assert frame["epoch"].tolist() == [1, 2, 3]
    assert frame["step"].tolist() == [4, 8, 10]
    assert progress == pytest.approx([step / 10 for step in range(10)])


def test_a_cut_epochs_term_is_the_mean_over_the_steps_it_had(small):
    objective = plain()
    objective.change = lambda self, terms, *_: terms | {"count": 0 * terms["hard"] + self.calls}
    frame = train(net(), small, replace(TINY, iterations=5), objective).frame
    assert frame["count"].tolist() == pytest.approx([2.5, 5.0])


def test_an_epochs_terms_are_means_over_its_steps_of_what_the_objective_gave(small):
    given = []

    def note(self, terms, student, batch):
        terms = terms | {"extra": 0.1 * student.logits.square().mean()}
        given.append({name: term.item() for name, term in terms.items()})
        return terms

    frame = train(net(), small, TINY, Altered(note)).frame
    for name in ("hard", "extra"):
        expected = np.array([terms[name] for terms in given]).reshape(3, 4).mean(1)
        np.testing.assert_allclose(frame[name], expected, rtol=1e-6)


def test_every_term_is_minimised(small):
    def pull(self, terms, student, batch):
        return terms | {"size": 100 * student.logits.square().mean()}

    free, held = net(), net()
    train(free, small, replace(TINY, epochs=10))
    train(held, small, replace(TINY, epochs=10, learning_rate=1e-3), Altered(pull))
    size = [kd.logits(model, small.train).square().mean() for model in (free, held)]
    assert size[1] < 0.1 * size[0]


def test_max_norm_holds_for_every_layer_after_training(small):
    def longest(max_norm):
        model = net()
        train(model, small, replace(TINY, learning_rate=0.1, epochs=5, max_norm=max_norm))
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        assert len(linear) == 3
        return [layer.weight.norm(dim=1).max().item() for layer in linear]

    assert min(longest(None)) > 0.6
    assert max(longest(0.5)) == pytest.approx(0.5, abs=1e-5)
    assert longest(1e6) == longest(None)


def test_max_norm_leaves_shorter_rows_and_biases_as_they_are(small):
    limited, free = net(), net()
    with torch.no_grad():
        for model in (limited, free):
            model[1].weight[0] *= 100
    recipe = replace(TINY, learning_rate=1e-9, iterations=1, max_norm=5.0)
    train(limited, small, recipe)
    train(free, small, replace(recipe, max_norm=None))
    assert limited[1].weight[0].norm().item() == pytest.approx(5.0, abs=1e-5)
    assert torch.equal(limited[1].weight[1:], free[1].weight[1:])
    assert torch.equal(limited[1].bias, free[1].bias)


def test_max_gradient_shortens_the_gradient_by_all_weights_together_where_it_is_longer(small):
    limit, steps, rate = 3.0, 12, 0.05
    model = kd.models.mlp(1, depth=0, seed=2)
    weights = torch.cat([model[1].weight, model[1].bias[:, None]], 1).detach().double().numpy()
    inputs, labels = small.train.inputs.double().flatten(1).numpy(), small.train.labels.numpy()
    shortened = 0
    for _ in range(steps):
        gradient = softmax_gradient(weights, inputs, labels)
        length = np.sqrt((gradient**2).sum())
        if length > limit:
            gradient, shortened = gradient * limit / length, shortened + 1
        weights = weights - rate * gradient
    recipe = kd.Recipe(
        epochs=steps,
        batch_size=200,
        learning_rate=rate,
        momentum=0,
        schedule="constant",
        max_gradient=limit,
        precision="float64",
    )
    train(model, small, recipe)
    assert 0 < shortened < steps
    np.testing.assert_allclose(model[1].weight.detach(), weights[:, :-1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(model[1].bias.detach(), weights[:, -1], rtol=0, atol=1e-6)


def test_a_gradient_limit_that_is_never_reached_changes_nothing(small):
    free, limited = net(), net()
    train(free, small)
    train(limited, small, replace(TINY, max_gradient=1e6))
    assert same(free, limited)


def test_max_gradient_counts_the_objectives_module(small):
    class Beside(Guided):
        """Trains its layer hard, and the student as labels alone do."""

        def __call__(self, student, batch):
            entropy = nn.functional.cross_entropy
            beside = entropy(self.module(student.logits.detach()), batch.labels)
            return {"hard": entropy(student.logits, batch.labels), "beside": 100 * beside}

    recipe = replace(TINY, iterations=1, momentum=0.0, learning_rate=10.0, max_gradient=0.1)
    start, steps = net(), []
    for objective in (kd.CrossEntropy(), Beside()):
        model = net()
        train(model, small, recipe, objective)
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        steps.append(sum((a - b).square().sum() for a, b in pairs).sqrt().item())
    assert steps[0] == pytest.approx(recipe.rate(0) * 0.1, rel=1e-3)
    assert 0 < steps[1] < 0.2 * steps[0]


@pytest.mark.parametrize(("rate", "quarters"), [(0.1, 1), (0.2, 9)])
def test_plateau_takes_a_quarter_after_every_epoch_whose_validation_loss_is_no_new_lowest(
    small, rate, quarters
):
    """At 0.1 the second epoch alone is worse; at 0.2 none is ever as good as the first."""
    epochs, start = 10, kd.models.mlp(1, depth=0, seed=2)
    layer = start[1]
    weights = torch.cat([layer.weight, layer.bias[:, None]], 1).detach().double().numpy()
    parts = (small.train, small.validation)
    inputs, held_out = (part.inputs.double().flatten(1).numpy() for part in parts)
    labels, wanted = (part.labels.numpy() for part in parts)

    def loss(weights):
        z = held_out @ weights[:, :-1].T + weights[:, -1]
        return (np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), wanted]).mean()

    losses, now = [], rate
    for _ in range(epochs):
        weights = weights - now * softmax_gradient(weights, inputs, labels)
        if losses and loss(weights) >= min(losses):
            now /= 4
        losses.append(loss(weights))
    recipe = kd.Recipe(
        epochs=epochs,
        batch_size=200,
        learning_rate=rate,
        momentum=0,
        schedule="plateau",
        precision="float64",
    )
    history = train(start, small, recipe)
    assert now == rate / 4**quarters
    np.testing.assert_allclose(history.frame["validation_loss"], losses, rtol=1e-9)
    np.testing.assert_allclose(layer.weight.detach(), weights[:, :-1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(layer.bias.detach(), weights[:, -1], rtol=0, atol=1e-12)


def test_plateau_needs_labelled_validation_and_an_objective_that_trains_the_logits(small):
    recipe = replace(TINY, schedule="plateau")
    unlabelled = replace(small, validation=small.validation.unlabelled())
    for data in (replace(small, validation=None), unlabelled):
        with pytest.raises(
            ValueError, match='schedule="plateau" needs a labelled validation split'
        ):
            train(net(), data, recipe)
    hint = kd.Hint(net(2), hint="2", guided="2")
    with pytest.raises(ValueError, match='schedule="plateau" needs an objective that trains'):
        train(net(), small, recipe, hint)
    assert train(net(), small, recipe, kd.CrossEntropy() + hint).frame["epoch"].tolist() == [
        1,
        2,
        3,
    ]


def test_an_objective_that_raises_stops_the_training(small):
    def fail(self, terms, student, batch):
        raise RuntimeError("the distiller is broken")

    with pytest.raises(RuntimeError, match="the distiller is broken"):
        train(net(), small, TINY, Altered(fail))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "mlp"}, "model must be a Module, got str"),
        ({"model": [net()]}, "model must be a Module, got list"),
        ({"data": "digits"}, "data must be a Data, got str"),
        ({"recipe": 10}, "recipe must be a Recipe, got int"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
    ],
)
def test_fit_refuses_an_argument_of_another_kind(small, change, message):
    good = {"model": net(), "objective": kd.CrossEntropy(), "data": small, "recipe": TINY}
    with pytest.raises(TypeError, match=message):
        kd.fit(**(good | change), progress=False)


# Seeds


def test_a_fit_seed_gives_the_weights_and_another_gives_others(small):
    recipe = kd.Recipe(**RICH)
    found = []
    for seed in (0, 0, 1):
        model = net(dropout=0.3)
        train(model, small, recipe, seed=seed)
        torch.randn(100)
        found.append(weights_hash(model))
    assert found[0] == found[1] != found[2]


SCRIPT = """
import random, sys
import numpy, torch
import kdlib as kd
from kdlib.identity import weights_hash
torch.set_num_threads(1)
noise = int(sys.argv[1])
random.seed(noise), numpy.random.seed(noise), torch.manual_seed(noise)
torch.randn(noise)
data = kd.data.load("digits", device="cpu").limit(200)
recipe = kd.Recipe(epochs=2, batch_size=50, augment=kd.data.shift(2) + kd.data.flip())
if noise > 100:
    kd.fit(kd.models.mlp(8, seed=5), kd.CrossEntropy(), data, recipe, progress=False)
teacher = kd.models.mlp(24, seed=3)
kd.fit(teacher, kd.CrossEntropy(), data, recipe, seed=3, progress=False)
torch.rand(noise)
student = kd.models.mlp(16, dropout=0.3, seed=4)
soft = kd.SoftTargets(teacher, temperature=4, alpha=0.5)
kd.fit(student, soft, data, recipe, seed=4, progress=False)
print(weights_hash(teacher), weights_hash(student))
"""


def test_the_same_seeds_give_the_same_weights_in_two_processes_with_other_work_between():
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(noise)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": str(noise)},
        )
        for noise in (7, 1234)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(outputs[0].split()) == 2
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("how", ["to its end", "interrupted", "failing"])
def test_the_callers_generator_is_as_it_was(small, how):
    def stop(self, terms, student, batch):
        if how == "interrupted":
            raise KeyboardInterrupt
        if how == "failing":
            raise RuntimeError
        return terms

    torch.manual_seed(5)
    before = torch.get_rng_state()
    try:
        train(net(dropout=0.3), small, kd.Recipe(**RICH), Altered(stop))
    except RuntimeError:
        assert how == "failing"
    assert torch.equal(torch.get_rng_state(), before)


def test_an_objectives_draws_move_neither_order_views_nor_dropout(small):
    def observe(draws):
        seen, drawn = [], []

        def look(self, terms, student, batch):
            drawn.append(torch.rand(draws, generator=batch.generator))
            seen.append((batch.index, batch.inputs, student.logits.detach()))
            return terms

        model = net(dropout=0.5)
        train(model, small, kd.Recipe(**RICH), Altered(look))
        return model, seen, drawn

    (first, seen, _), (second, seen2, drawn) = observe(0), observe(3)
    assert same(first, second)
    for a, b in zip(seen, seen2, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert len({tuple(row.tolist()) for row in drawn}) == len(drawn) == 20


def test_every_epoch_has_an_order_views_and_dropout_of_its_own(small):
    orders, views, logits = [], {}, []

    def look(self, terms, student, batch):
        orders.append(batch.index.tolist())
        for row, index in zip(batch.inputs, batch.index.tolist(), strict=True):
            views.setdefault(index, []).append(row)
        logits.append(student.logits.detach())
        return terms

    train(net(), small, replace(TINY, batch_size=200, augment=kd.data.shift(2)), Altered(look))
    assert all(sorted(order) == small.train.index.tolist() for order in orders)
    assert orders[0] != orders[1] != orders[2]
    different = [not torch.equal(first, second) for first, second, _ in views.values()]
    assert np.mean(different) > 0.8


# History


def test_history_is_a_tidy_table_with_one_row_an_epoch(small):
    history = train(net(), small)
    frame = history.frame
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == [
        "epoch",
        "step",
        "seconds",
        "hard",
        "validation_loss",
        "validation_accuracy",
    ]
    assert frame["epoch"].tolist() == [1, 2, 3]
    assert frame["step"].tolist() == [4, 8, 12]
    assert (frame["seconds"] > 0).all()
    assert not history.interrupted
    assert "finished after 3 epochs" in repr(history)


def test_validation_columns_are_those_of_evaluate(small):
    model, scores = normed(), []
    history = train(
        model, small, on_epoch=lambda row: scores.append(kd.evaluate(model, small.validation))
    )
    assert history.frame["validation_loss"].tolist() == [score.loss for score in scores]
    assert history.frame["validation_accuracy"].tolist() == [score.accuracy for score in scores]
    assert len({score.loss for score in scores}) == 3


@pytest.mark.parametrize("kind", ["none", "unlabelled"])
def test_validation_columns_are_nan_without_labelled_validation(small, kind):
    held_out = None if kind == "none" else small.validation.unlabelled()
    frame = train(net(), replace(small, validation=held_out)).frame
    assert frame[["validation_loss", "validation_accuracy"]].isna().all(axis=None)
    assert frame["hard"].notna().all()


def test_the_validation_pass_does_not_change_what_is_learned(small):
    with_validation, without = normed(), normed()
    train(with_validation, small)
    train(without, replace(small, validation=None))
    assert same(with_validation, without)


def test_the_test_split_is_not_looked_at(small):
    labels = small.test.labels[torch.randperm(len(small.test), generator=torch.manual_seed(0))]
    poisoned = Split(torch.full_like(small.test.inputs, math.nan), labels, small.test.index)
    recipe = kd.Recipe(**RICH)
    found = []
    for data in (small, replace(small, test=poisoned), replace(small, test=None)):
        model = net(dropout=0.3)
        frame = train(model, data, recipe).frame.drop(columns="seconds")
        found.append((weights_hash(model), frame))
    assert found[0][0] == found[1][0] == found[2][0]
    for _, frame in found[1:]:
        pd.testing.assert_frame_equal(frame, found[0][1])


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"augment": kd.data.shift(2) + kd.data.flip()},
        {"max_norm": 2.0, "weight_decay": 0.01, "schedule": "step", "precision": "bfloat16"},
        {"max_gradient": 0.1, "schedule": "wide_resnet"},
    ],
    ids=str,
)
def test_the_steps_of_an_epoch_read_no_value_back(small, change):
    """What reads a value makes a GPU wait; it is seen on a CPU as well (but for Adam's counter)."""
    objective = kd.SoftTargets(net(0), 4, 0.9) + 0.1 * kd.LogitMatching(net(0))
    data, once = replace(small, validation=None), replace(TINY, **({"epochs": 1} | change))

    def values_read(batch_size):
        recipe = replace(once, batch_size=batch_size)
        with profile(activities=[ProfilerActivity.CPU]) as record:
            train(net(), data, recipe, objective)
        return sum(e.count for e in record.key_averages() if e.key == "aten::_local_scalar_dense")

    values_read(100)
    assert values_read(10) == values_read(100) > 0  # 20 steps, and 2


def test_on_epoch_gets_a_row_of_its_own(small):
    rows = []

    def spoil(row):
        rows.append(dict(row))
        row["hard"] = "spoiled"

    frame = train(net(), small, on_epoch=spoil).frame
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert frame["hard"].tolist() == [row["hard"] for row in rows]


# Keep the best


def worse_later(self, terms, student, batch):
    """Learning until 60 % are done, then the reverse."""
    return {"hard": terms["hard"] * (1.0 if batch.progress < 0.6 else -3.0)}


@pytest.mark.parametrize("interrupted", [False, True])
def test_keep_best_ends_with_the_weights_of_the_best_epoch(small, interrupted):
    states = {}

    def note(row):
        states[row["epoch"]] = copy.deepcopy(model.state_dict())
        if interrupted and row["epoch"] == 9:
            raise KeyboardInterrupt

    model = normed()
    recipe = replace(TINY, epochs=10, schedule="constant", keep="best")
    frame = train(model, small, recipe, Altered(worse_later), on_epoch=note).frame
    best = int(frame["epoch"][frame["validation_loss"].idxmin()])
    assert 1 < best < 9
    assert all(torch.equal(states[best][name], t) for name, t in model.state_dict().items())
    scores = kd.evaluate(model, small.validation)
    assert scores.loss == frame["validation_loss"].min() < frame["validation_loss"].iloc[-1]
    last = normed()
    train(last, small, replace(recipe, keep="last"), Altered(worse_later))
    assert kd.evaluate(last, small.validation).loss > 2 * scores.loss


@pytest.mark.parametrize("kind", ["none", "unlabelled"])
def test_keep_best_needs_labelled_validation(small, kind):
    held_out = None if kind == "none" else small.validation.unlabelled()
    model = net()
    start = weights_hash(model)
    with pytest.raises(ValueError, match='keep="best" needs a labelled validation.*keep="last"'):
        train(model, replace(small, validation=held_out), replace(TINY, keep="best"))
    assert weights_hash(model) == start


# Interruptions and checkpoints


def stopping(epoch):
    def stop(row):
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    return stop


def without_seconds(history):
    return history.frame.drop(columns="seconds")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("build", [lambda: net(dropout=0.3), normed], ids=["mlp", "batch norm"])
@pytest.mark.parametrize("at", [1, 4])
def test_a_resumed_training_is_bit_for_bit_the_one_in_one_go(small, tmp_path, optimizer, build, at):
    recipe = kd.Recipe(**RICH, optimizer=optimizer)
    one_go = build()
    whole = train(one_go, small, recipe, seed=2)
    path, parts = tmp_path / "run.pt", []
    first = train(build(), small, recipe, seed=2, checkpoint=path, on_epoch=stopping(at))
    assert first.interrupted
    assert first.frame["epoch"].tolist() == list(range(1, at + 1))
    torch.randn(100)
    resumed = build()
    second = train(
        resumed,
        small,
        recipe,
        seed=2,
        checkpoint=path,
        on_epoch=lambda row: parts.append(row["epoch"]),
    )
    assert not second.interrupted
    assert parts == list(range(at + 1, 6))
    assert second.frame["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert second.frame["step"].tolist() == [4, 8, 12, 16, 20]
    pd.testing.assert_frame_equal(without_seconds(second), without_seconds(whole), check_exact=True)
    assert same(resumed, one_go)


@pytest.mark.parametrize("at", [1, 3, 5])
def test_plateau_goes_on_after_an_interruption_with_the_rate_it_had(small, tmp_path, at):
    recipe = replace(TINY, epochs=6, schedule="plateau", learning_rate=0.5, momentum=0.5)
    one_go, resumed, constant, path = net(), net(), net(), tmp_path / "run.pt"
    losses = train(one_go, small, recipe).frame["validation_loss"]
    assert not losses[:-1].is_monotonic_decreasing  # the rate did fall
    train(net(), small, recipe, checkpoint=path, on_epoch=stopping(at))
    train(resumed, small, recipe, checkpoint=path)
    assert same(resumed, one_go)
    train(constant, small, replace(recipe, schedule="constant"))
    assert not same(constant, one_go)


def test_the_best_epoch_before_an_interruption_is_still_the_best_after_it(small, tmp_path):
    recipe = replace(TINY, epochs=10, schedule="constant", keep="best")
    one_go, resumed, path = normed(), normed(), tmp_path / "run.pt"
    whole = train(one_go, small, recipe, Altered(worse_later))
    best = int(whole.frame["validation_loss"].idxmin()) + 1
    train(
        normed(), small, recipe, Altered(worse_later), checkpoint=path, on_epoch=stopping(best + 1)
    )
    train(resumed, small, recipe, Altered(worse_later), checkpoint=path)
    assert same(resumed, one_go)


def test_a_finished_training_is_not_trained_again(small, tmp_path):
    path, first, second = tmp_path / "run.pt", net(), net()
    history = train(first, small, checkpoint=path)
    rows = []
    again = train(second, small, checkpoint=path, on_epoch=rows.append)
    assert rows == []
    assert same(first, second)
    pd.testing.assert_frame_equal(again.frame, history.frame)
    assert not any(modes(second))


@pytest.mark.filterwarnings("ignore:the network's weights are replaced")
def test_the_same_network_can_go_on_after_ctrl_c(small, tmp_path):
    path, model, one_go = tmp_path / "run.pt", net(dropout=0.3), net(dropout=0.3)
    recipe = replace(TINY, epochs=5)
    train(one_go, small, recipe)
    train(model, small, recipe, checkpoint=path, on_epoch=stopping(2))
    train(model, small, recipe, checkpoint=path)
    assert same(model, one_go)


@pytest.mark.filterwarnings("ignore:the network's weights are replaced")
def test_ctrl_c_in_the_middle_of_an_epoch_keeps_the_whole_epochs_before_it(small, tmp_path):
    def stop(self, terms, student, batch):
        if self.calls == 7:
            raise KeyboardInterrupt
        return terms

    path, model, one_go = tmp_path / "run.pt", normed(), normed()
    history = train(model, small, objective=Altered(stop), checkpoint=path)
    assert history.interrupted
    assert "interrupted after 1 epochs" in repr(history)
    assert history.frame["epoch"].tolist() == [1]
    assert not any(modes(model))
    train(model, small, objective=plain(), checkpoint=path)
    train(one_go, small, objective=plain())
    assert same(model, one_go)


def test_ctrl_c_before_the_first_epoch_is_over_leaves_an_empty_history(small):
    def stop(self, terms, student, batch):
        raise KeyboardInterrupt

    history = train(net(), small, objective=Altered(stop))
    assert history.interrupted
    assert len(history.frame) == 0
    repr(history)


def test_ctrl_c_in_on_epoch_keeps_that_epochs_row(small):
    history = train(net(), small, on_epoch=stopping(2))
    assert history.interrupted
    assert history.frame["epoch"].tolist() == [1, 2]


def test_on_epoch_is_called_after_the_checkpoint_is_written(small, tmp_path):
    path, stored = tmp_path / "deep" / "er" / "run.pt", []

    def look(row):
        stored.append(len(torch.load(path, weights_only=True)["rows"]))

    train(net(), small, checkpoint=str(path), on_epoch=look)
    assert stored == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": lambda: net(dropout=0.2, width=17)}, "network"),
        ({"model": lambda: net(dropout=0.3)}, "network"),
        ({"data": lambda data: data.limit(199)}, "data"),
        ({"data": lambda data: replace(data, train=data.train.unlabelled())}, "data"),
        ({"data": lambda data: replace(data, validation=None)}, "data"),
        ({"recipe": replace(TINY, learning_rate=0.02)}, "recipe"),
        ({"recipe": replace(TINY, epochs=4)}, "recipe"),
        ({"recipe": replace(TINY, max_gradient=1.0)}, "recipe"),
        ({"recipe": replace(TINY, augment=kd.data.shift(1))}, "recipe"),
        ({"seed": 1}, "seed"),
        ({"objective": kd.CrossEntropy(0.1)}, "objective"),
        ({"objective": 2 * kd.CrossEntropy()}, "objective"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_and_left_alone(small, tmp_path, change, named):
    path = tmp_path / "run.pt"
    train(net(dropout=0.2), small, checkpoint=path, on_epoch=stopping(1))
    stored = path.read_bytes()
    data = change.get("data", lambda data: data)(small)
    objective = change.get("objective", kd.CrossEntropy())
    if data.train.labels is None:
        objective = kd.LogitMatching(net())
        train_first = tmp_path / "other.pt"
        train(net(dropout=0.2), small, objective=objective, checkpoint=train_first)
        path, stored = train_first, train_first.read_bytes()
    with pytest.raises(ValueError, match=f"another training: its {named} is.*delete it"):
        train(
            change.get("model", lambda: net(dropout=0.2))(),
            data,
            change.get("recipe", TINY),
            objective,
            seed=change.get("seed", 0),
            checkpoint=path,
        )
    assert path.read_bytes() == stored


def test_a_checkpoint_of_another_teacher_is_refused(small, tmp_path):
    path = tmp_path / "run.pt"
    train(net(), small, objective=kd.SoftTargets(net(5), 4, 0.5), checkpoint=path)
    with pytest.raises(ValueError, match="its objective is"):
        train(net(), small, objective=kd.SoftTargets(net(6), 4, 0.5), checkpoint=path)
    train(net(), small, objective=kd.SoftTargets(net(5), 4, 0.5), checkpoint=path)


def test_a_damaged_or_foreign_checkpoint_is_refused_with_its_name(small, tmp_path):
    path, foreign = tmp_path / "run.pt", tmp_path / "foreign.pt"
    train(net(), small, checkpoint=path)
    whole = path.read_bytes()
    torch.save(net().state_dict(), foreign)
    short = whole[: len(whole) // 2]
    for content in (b"", b"no checkpoint", short, foreign.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"checkpoint .*run\.pt is damaged or none of fit's; delete it"
        ):
            train(net(), small, checkpoint=path)
        assert path.read_bytes() == content


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_earlier_checkpoint_whole(
    small, tmp_path, monkeypatch, error
):
    path, save, calls = tmp_path / "run.pt", torch.save, []

    def full(state, target):
        calls.append(target)
        if len(calls) == 2:
            target.write_bytes(b"half of it")
            raise error
        save(state, target)

    with monkeypatch.context() as broken:
        broken.setattr(torch, "save", full)
        if isinstance(error, OSError):
            with pytest.raises(OSError, match="no space left"):
                train(net(), small, checkpoint=path)
        else:
            assert train(net(), small, checkpoint=path).interrupted
    assert len(calls) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    resumed, one_go = net(), net()
    history = train(resumed, small, checkpoint=path)
    train(one_go, small)
    assert history.frame["epoch"].tolist() == [1, 2, 3]
    assert same(resumed, one_go)


# What is not finite


def test_a_loss_that_is_not_finite_stops_training_with_the_rate_in_the_message(small):
    with pytest.raises(FloatingPointError, match=r"epoch 1 .*learning_rate 1e\+30 may be too high"):
        train(net(), small, replace(TINY, learning_rate=1e30, schedule="constant"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_checkpoint_before_a_loss_that_is_not_finite_survives(small, tmp_path, value):
    path, calls = tmp_path / "run.pt", []

    def blow_up(self, terms, student, batch):
        calls.append(batch.progress)
        return {"hard": terms["hard"] * (value if self.calls == 9 else 1)}

    with pytest.raises(FloatingPointError, match=r"in epoch 3 \(hard = .*\).*0\.03"):
        train(net(), small, TINY, Altered(blow_up), checkpoint=path)
    assert len(calls) == 12  # looked at once, at the epoch's end
    rows = torch.load(path, weights_only=True)["rows"]
    assert [row["epoch"] for row in rows] == [1, 2]
    resumed, one_go = net(), net()
    train(resumed, small, TINY, plain(), checkpoint=path)
    train(one_go, small, TINY, plain())
    assert same(resumed, one_go)


def test_a_validation_loss_that_is_not_finite_stops_training(small):
    inputs = torch.full_like(small.validation.inputs, math.nan)
    data = replace(small, validation=replace(small.validation, inputs=inputs))
    with pytest.raises(FloatingPointError, match="validation_loss = nan"):
        train(net(), data)


# Objectives with a module


def test_an_objectives_module_is_trained_and_resumed_with_the_student(small, tmp_path):
    recipe = kd.Recipe(**RICH, optimizer="adam")
    whole, objective = net(dropout=0.3), Guided()
    train(whole, small, recipe, objective, seed=2)
    starts = []

    class Noted(Guided):
        def prepare(self, student, split, recipe):
            super().prepare(student, split, recipe)
            starts.append(copy.deepcopy(self.module))

    path, first, second = tmp_path / "run.pt", Noted(), Noted()
    resumed = net(dropout=0.3)
    train(net(dropout=0.3), small, recipe, first, seed=2, checkpoint=path, on_epoch=stopping(2))
    history = train(resumed, small, recipe, second, seed=2, checkpoint=path)
    assert same(starts[0], starts[1])  # prepared in the seeded scope
    assert not same(first.module, starts[0])
    assert not same(second.module, first.module)
    assert same(second.module, objective.module)
    assert same(resumed, whole)
    assert {"hard", "guided"} < set(history.frame.columns)


def test_prepare_draws_from_the_fit_seed_and_is_called_once(small):
    def start(seed, noise):
        objective, found = Guided(), []
        prepare = objective.prepare

        def noted(*arguments):
            prepare(*arguments)
            found.append(weights_hash(objective.module))

        objective.prepare = noted
        torch.manual_seed(noise)
        train(net(), small, replace(TINY, epochs=1), objective, seed=seed)
        assert len(found) == 1
        return found[0]

    assert start(0, 1) == start(0, 2) != start(1, 1)


# Teachers


def soft_oracle(teacher, student, temperature):
    """T^2 KL(teacher || student), mean over the batch."""
    log_p, log_q = ((z.double() / temperature).log_softmax(-1) for z in (teacher, student))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def batch_of(split, rows):
    part = split.select(rows)
    return kd.Batch(part.inputs, part.labels, part.index, 0.0, torch.Generator())


def test_cached_teacher_outputs_follow_the_sample_through_every_selection(digits):
    teacher = net(9, width=24)
    train(teacher, digits, replace(TINY, epochs=2))
    objective = kd.SoftTargets(teacher, temperature=3, alpha=1.0)
    parts = (
        digits.train,
        digits.limit(200).train,
        digits.limit(120, seed=4).train,
        digits.train.without([3, 4]).select(torch.arange(300, 0, -7)),
    )
    for split in parts:
        objective.prepare(net(), split, TINY)
        rows = torch.randperm(len(split), generator=torch.manual_seed(1))[:30]
        batch = batch_of(split, rows)
        student = torch.randn(30, 10)
        with torch.no_grad():
            fresh = teacher.eval()(batch.inputs)
        found = objective(Outputs(student), batch)["soft"].item()
        assert found == pytest.approx(soft_oracle(fresh, student, 3).item(), rel=1e-5)
        moved = batch_of(split, rows.roll(1))
        assert objective(Outputs(student), moved)["soft"].item() != pytest.approx(found, rel=1e-2)


def test_a_table_of_logits_fits_the_data_when_the_files_rows_are_shuffled(tmp_path):
    random = np.random.default_rng(0)
    arrays = {
        "x_train": random.integers(0, 256, (300, 28, 28)).astype(np.uint8),
        "y_train": np.arange(300) % 10,
        "x_test": random.integers(0, 256, (20, 28, 28)).astype(np.uint8),
        "y_test": np.arange(20) % 10,
    }
    order = random.permutation(300)
    shuffled = arrays | {name: arrays[name][order] for name in ("x_train", "y_train")}
    loaded = []
    for folder, contents in (("a", arrays), ("b", shuffled)):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "mnist.npz", **contents)
        loaded.append(
            kd.data.load("mnist", validation=50, device="cpu", root=tmp_path / folder).limit(150)
        )
    teacher = net(9, width=24)
    table = torch.full((300, 10), math.nan)
    table[loaded[0].train.index] = kd.logits(teacher, loaded[0].train)
    objective = kd.SoftTargets(table, temperature=3, alpha=1.0)
    objective.prepare(net(), loaded[1].train, TINY)
    batch = batch_of(loaded[1].train, torch.tensor([140, 3, 77, 20]))
    student = torch.randn(4, 10, generator=torch.manual_seed(0))
    expected = soft_oracle(kd.logits(teacher, batch.inputs), student, 3).item()
    found = objective(Outputs(student), batch)["soft"].item()
    assert found == pytest.approx(expected, rel=1e-5)
    students = net(), net()
    for student, data, source in zip(students, loaded, (teacher, table), strict=True):
        train(student, data, objective=kd.SoftTargets(source, temperature=3, alpha=0.5))
    for a, b in zip(students[0].parameters(), students[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_with_random_views_the_teacher_sees_the_very_view_of_the_student(small):
    seen = {"teacher": [], "student": []}
    models = {"teacher": net(9), "student": net(1)}
    for name, model in models.items():

        def note(module, inputs, name=name):
            if name == "teacher" or torch.is_grad_enabled():
                seen[name].append(inputs[0].clone())

        model.register_forward_pre_hook(note)
    objective = kd.SoftTargets(models["teacher"], temperature=3, alpha=0.5)
    train(models["student"], small, replace(TINY, augment=kd.data.shift(3)), objective)
    assert len(seen["student"]) == len(seen["teacher"]) == 12
    for mine, its in zip(seen["student"], seen["teacher"], strict=True):
        assert torch.equal(mine, its)
    originals = {row.numpy().tobytes() for row in small.train.inputs}
    assert sum(row.numpy().tobytes() in originals for row in seen["student"][0]) < 10


# Precision


def probed():
    """A network that notes the dtypes of its last layer's outputs in training."""
    model, seen = net(), []
    model[-1].register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype) if module.training else None
    )
    return model, seen


@pytest.mark.parametrize(
    ("precision", "products", "weights"),
    [
        ("float32", torch.float32, torch.float32),
        ("float64", torch.float64, torch.float64),
        ("bfloat16", torch.bfloat16, torch.float32),
    ],
)
def test_precision_is_that_of_the_matrix_products(small, precision, products, weights):
    model, seen = probed()
    frame = train(model, small, replace(TINY, precision=precision)).frame
    assert set(seen) == {products}
    assert {parameter.dtype for parameter in model.parameters()} == {weights}
    assert frame["hard"].iloc[-1] < frame["hard"].iloc[0]
    assert kd.evaluate(model, small.test).accuracy > 0.2


@pytest.mark.parametrize(
    ("kind", "capability", "expected"),
    [
        ("cuda", (12, 0), torch.bfloat16),
        ("cuda", (9, 0), torch.bfloat16),
        ("cuda", (8, 6), torch.bfloat16),
        ("cuda", (8, 0), torch.bfloat16),
        ("cuda", (7, 5), torch.float16),  # a T4
        ("cuda", (7, 0), torch.float16),
        ("cuda", (6, 1), None),
        ("mps", None, None),
    ],
)
def test_auto_is_what_a_gpu_multiplies_natively(monkeypatch, kind, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert autocast_dtype("auto", torch.device(kind)) == expected


@pytest.mark.parametrize(
    ("allowed", "flags", "expected"),
    [
        ("", "avx2 avx512f avx512_bf16 amx_bf16", torch.bfloat16),
        ("ALL", "avx2 avx512f avx512_bf16", torch.bfloat16),
        ("AVX512_CORE_BF16", "avx2 avx512f avx512_bf16", torch.bfloat16),
        ("avx512_core_amx", "avx2 avx512f avx512_bf16 amx_bf16", torch.bfloat16),
        ("AVX2", "avx2 avx512f avx512_bf16", None),
        ("AVX512_CORE_VNNI", "avx2 avx512f avx512_bf16", None),
        ("", "avx2 fma", None),
        ("ALL", "avx2 avx512f", None),
        ("", None, None),  # no such file: Windows and macOS
    ],
)
def test_auto_asks_the_processor_and_what_onednn_may_use(monkeypatch, allowed, flags, expected):
    def read_text(path):
        if flags is None:
            raise FileNotFoundError(path)
        return f"processor: 0\nflags: {flags}\n"

    monkeypatch.setattr("kdlib.training.steps.Path.read_text", read_text)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert autocast_dtype("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_a_precision_that_is_named_is_taken_or_refused_by_name(kind):
    device = torch.device(kind)
    assert autocast_dtype("float32", device) is None
    if kind == "mps":
        with pytest.raises(ValueError, match='"float64" needs a CPU or a CUDA GPU, got mps'):
            autocast_dtype("float64", device)
    else:
        assert autocast_dtype("float64", device) is None
    assert autocast_dtype("bfloat16", device) == torch.bfloat16
    if kind == "cuda":
        assert autocast_dtype("float16", device) == torch.float16
    else:
        with pytest.raises(ValueError, match=f'"float16" needs a CUDA GPU, got {kind}'):
            autocast_dtype("float16", device)


def test_auto_takes_bfloat16_only_where_the_processor_has_it(small, monkeypatch):
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("kdlib.training.steps._cpu_has_bfloat16", lambda native=native: native)
        model, seen = probed()
        train(model, small, replace(TINY, precision="auto"))
        assert set(seen) == {expected}


def test_float16_on_a_cpu_is_refused_with_a_way_out(small):
    with pytest.raises(ValueError, match='"float16" needs a CUDA GPU, got cpu; try "auto"'):
        train(net(), small, replace(TINY, precision="float16"))


# evaluate


def calibration_oracle(p, labels, bins=15):
    confidence, right = p.max(1), p.argmax(1) == labels
    total = 0.0
    for b in range(bins):
        inside = (confidence >= b / bins) & ((confidence < (b + 1) / bins) | (b == bins - 1))
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def probabilities(model, split):
    with torch.no_grad():
        z = copy.deepcopy(model).eval().double()(split.inputs.double()).numpy()
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("epochs", [1, 20])
def test_scores_are_those_of_the_mean_probabilities(small, digits, members, epochs):
    from sklearn.metrics import accuracy_score, log_loss

    models = [net(seed) for seed in range(members)]
    for seed, model in enumerate(models):
        train(model, small, replace(TINY, epochs=epochs), seed=seed)
    labels = digits.test.labels.numpy()
    p = np.mean([probabilities(model, digits.test) for model in models], axis=0)
    scores = kd.evaluate(models if members > 1 else models[0], digits.test)
    assert scores.accuracy == pytest.approx(accuracy_score(labels, p.argmax(1)))
    assert scores.errors == int((p.argmax(1) != labels).sum())
    assert isinstance(scores.errors, int)
    assert scores.loss == pytest.approx(log_loss(labels, p, labels=range(10)), rel=1e-5)
    assert scores.ece == pytest.approx(calibration_oracle(p, labels), rel=1e-4)
    assert scores.ece > 0.01


def fixed(logits):
    """A network that answers with these logits, and the split that asks for them."""
    model = nn.Linear(1, 1)
    model.forward = lambda inputs: logits[inputs.long().flatten()]
    n = len(logits)
    return model, Split(torch.arange(n).float()[:, None], torch.zeros(n).long(), torch.arange(n))


def test_calibration_error_of_a_network_that_is_right_as_often_as_it_is_sure():
    p = torch.tensor([0.75, 0.25])
    model, split = fixed(torch.stack([p.log(), p.log(), p.log(), p.flip(0).log()]))
    assert kd.evaluate(model, split).ece == pytest.approx(0, abs=1e-6)
    sure = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    model, split = fixed(sure)
    assert kd.evaluate(model, split).ece == pytest.approx(0.5)
    assert kd.evaluate(model, split).loss == pytest.approx(50)


def test_a_list_of_copies_scores_as_the_single_network(small, digits):
    model = net()
    train(model, small)
    single = kd.evaluate(model, digits.test)
    for k in (1, 4):
        many = kd.evaluate([copy.deepcopy(model) for _ in range(k)], digits.test)
        assert many.errors == single.errors
        assert many.accuracy == single.accuracy
        assert many.loss == pytest.approx(single.loss, rel=1e-6)
        assert many.ece == pytest.approx(single.ece, rel=1e-4)


def test_perplexity_is_the_exponential_of_the_loss(small):
    scores = kd.evaluate(net(), small.test)
    assert scores.perplexity == pytest.approx(math.exp(scores.loss))
    model, split = fixed(torch.zeros(3, 7))
    assert kd.evaluate(model, split).perplexity == pytest.approx(7)


def test_a_list_is_scored_by_its_probabilities_not_its_logits():
    first, split = fixed(torch.tensor([[9.0, 0.0]]))
    second, _ = fixed(torch.tensor([[-1.0, 0.0]]))
    third, _ = fixed(torch.tensor([[-30.0, 0.0]]))
    p = np.mean([1 / (1 + math.exp(-z)) for z in (9, -1, -30)])
    assert kd.evaluate([first, second, third], split).loss == pytest.approx(-math.log(p), rel=1e-5)


def test_evaluate_puts_every_modules_mode_back_and_moves_no_buffer(digits):
    first, second = normed(1).train(), normed(2).train()
    first[2].eval()
    before = [(modes(model), weights_hash(model)) for model in (first, second)]
    scores = kd.evaluate([first, second], digits.test)
    assert [(modes(model), weights_hash(model)) for model in (first, second)] == before
    assert scores == kd.evaluate([first, second], digits.test)  # no dropout
    assert scores == kd.evaluate([first.eval(), second.eval()], digits.test)


def test_evaluate_refuses_what_cannot_be_scored(digits):
    with pytest.raises(TypeError, match="split must be a Split such as data.test.*got Data"):
        kd.evaluate(net(), digits)
    with pytest.raises(ValueError, match="split must have labels"):
        kd.evaluate(net(), digits.test.unlabelled())
    with pytest.raises(ValueError, match="at least one, got an empty list"):
        kd.evaluate([], digits.test)


# fidelity


def log_probabilities(models, split):
    """Of the mean of their probabilities, in numpy's float64."""
    return np.log(np.mean([probabilities(model, split) for model in models], axis=0))


@pytest.mark.parametrize("students", [1, 3])
@pytest.mark.parametrize("teachers", [1, 2])
def test_fidelity_is_of_the_mean_probabilities_from_teacher_to_student(
    small, digits, students, teachers
):
    pupils, taught = ([net(9 * k + n) for n in range(k)] for k in (students, teachers))
    for seed, model in enumerate([*pupils, *taught]):
        train(model, small, replace(TINY, epochs=2 + 4 * seed), seed=seed)
    log_q, log_p = (log_probabilities(models, digits.test) for models in (pupils, taught))
    found = kd.fidelity(
        pupils if students > 1 else pupils[0], taught if teachers > 1 else taught[0], digits.test
    )
    assert found.agreement == (log_p.argmax(1) == log_q.argmax(1)).mean()
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(1).mean()
    assert found.divergence == pytest.approx(divergence, rel=1e-4)
    assert 0 < found.agreement < 1
    back = (np.exp(log_q) * (log_q - log_p)).sum(1).mean()
    assert abs(divergence - back) > 0.01  # its direction matters
    assert (type(found.agreement), type(found.divergence)) == (float, float)


def test_fidelity_to_a_list_is_to_its_probabilities_not_its_logits():
    student, split = fixed(torch.tensor([[1.0, 0.0]]))
    first, second, third = (fixed(torch.tensor([[z, 0.0]]))[0] for z in (9.0, -1.0, -30.0))
    p = np.mean([1 / (1 + math.exp(-z)) for z in (9, -1, -30)])  # the mean logit says the other
    q = 1 / (1 + math.exp(-1))
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    found = kd.fidelity(student, [first, second, third], split)
    assert found.divergence == pytest.approx(expected, rel=1e-4)


def test_agreement_is_with_the_teacher_and_not_with_the_labels():
    student, split = fixed(torch.tensor([[0.0, 9.0], [0.0, 9.0], [9.0, 0.0], [9.0, 0.0]]))
    teacher, _ = fixed(torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]))
    assert kd.fidelity(student, teacher, split).agreement == 0.75
    assert kd.evaluate(student, split).accuracy == 0.5


def test_fidelity_at_logits_of_a_thousand_is_finite():
    student, split = fixed(torch.tensor([[1000.0, -1000.0], [-1000.0, 1000.0]]))
    teacher, _ = fixed(torch.tensor([[-1000.0, 1000.0], [-1000.0, 1000.0]]))
    assert kd.fidelity(student, teacher, split) == kd.Fidelity(0.5, 1000.0)
    assert kd.fidelity(student, student, split) == kd.Fidelity(1.0, 0.0)


def test_fidelity_needs_no_labels(digits):
    student, teacher = net(1), net(2)
    labelled = kd.fidelity(student, teacher, digits.test)
    assert kd.fidelity(student, teacher, digits.test.unlabelled()) == labelled
    assert labelled.divergence > 0


def test_fidelity_puts_every_modules_mode_back_and_moves_no_buffer(digits):
    nets = [normed(seed).train() for seed in (1, 2, 3)]
    nets[0][2].eval()
    before = [(modes(model), weights_hash(model)) for model in nets]
    student, *teachers = nets
    found = kd.fidelity(student, teachers, digits.test)
    assert [(modes(model), weights_hash(model)) for model in nets] == before
    assert found == kd.fidelity(student.eval(), [t.eval() for t in teachers], digits.test)


def test_fidelity_refuses_what_cannot_be_compared_and_says_which(digits):
    with pytest.raises(TypeError, match="split must be a Split such as data.test.*got Data"):
        kd.fidelity(net(), net(), digits)
    good, test = net(), digits.test
    for name, place in (("student", 0), ("teacher", 1)):
        for bad, error, message in (
            ([], ValueError, "must be a network or a list of at least one, got an empty list"),
            (3, TypeError, "must be a network or a list of networks, got 3"),
            ([good, "other"], TypeError, "must be a network or a list of networks, got 'other'"),
        ):
            pair = [good, good]
            pair[place] = bad
            with pytest.raises(error, match=f"{name} {message}"):
                kd.fidelity(*pair, test)


# keep


def build(seed):
    return net(seed, dropout=0.2)


def kept_files():
    """The stored networks, without the locks beside them."""
    folder = Path(torch.hub.get_dir()) / "kdlib" / "kept"
    return sorted(path.name for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize("make", [build, lambda seed: normed(seed)], ids=["mlp", "batch norm"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_keep_trains_once_and_loads_the_same_weights_the_second_time(
    small, capsys, make, precision
):
    recipe = replace(TINY, precision=precision)
    objective = plain()
    first = kd.keep(make, objective, small, recipe, seed=3)
    assert "trained in" in capsys.readouterr().out
    assert objective.calls == 12
    second = kd.keep(make, objective, small, recipe, seed=3)
    assert "loaded a network trained earlier" in capsys.readouterr().out
    assert objective.calls == 12
    assert second is not first
    assert same(first, second)
    assert not any(modes(first) + modes(second))
    expected = make(3)
    train(expected, small, recipe, plain(), seed=3)
    assert same(first, expected)
    assert len(kept_files()) == 1


@dataclass
class Kept:
    """The arguments of keep, one of them another."""

    build: object = build
    objective: object = None
    data: object = None
    recipe: object = TINY
    seed: int = 3

    def made(self, small):
        data = small if self.data is None else self.data(small)
        objective = kd.CrossEntropy() if self.objective is None else self.objective
        return kd.keep(self.build, objective, data, self.recipe, seed=self.seed)


@pytest.mark.parametrize(
    "other",
    [
        Kept(recipe=replace(TINY, learning_rate=0.02)),
        Kept(recipe=replace(TINY, keep="best")),
        Kept(seed=4, build=lambda seed: build(3)),
        Kept(data=lambda data: data.limit(199)),
        Kept(data=lambda data: replace(data, train=data.train.select(torch.arange(200).roll(1)))),
        Kept(data=lambda data: replace(data, validation=data.validation.select(slice(50)))),
        Kept(objective=kd.CrossEntropy(0.1)),
        Kept(build=lambda seed: build(8)),
        Kept(build=lambda seed: net(seed, dropout=0.3)),
        Kept(build=lambda seed: net(seed, dropout=0.2, width=17)),
    ],
    ids=[
        "recipe",
        "keep",
        "seed",
        "length",
        "order",
        "validation",
        "objective",
        "start",
        "dropout",
        "width",
    ],
)
def test_keep_trains_anew_when_anything_is_another(small, capsys, other):
    Kept().made(small)
    capsys.readouterr()
    other.made(small)
    assert "trained in" in capsys.readouterr().out
    assert len(kept_files()) == 2
    other.made(small), Kept().made(small)
    assert capsys.readouterr().out.count("loaded") == 2


def test_keep_tells_a_network_with_frozen_layers_from_one_without(small, capsys):
    def frozen(seed):
        network = net(seed)
        network[-1].requires_grad_(False)
        return network

    begun = net(3)[-1].weight.clone()
    assert not torch.equal(Kept().made(small)[-1].weight, begun)
    assert torch.equal(Kept(build=frozen).made(small)[-1].weight, begun)
    assert "loaded" not in capsys.readouterr().out


def test_keep_does_not_mind_another_test_split(small, capsys):
    Kept().made(small)
    Kept(data=lambda data: replace(data, test=None)).made(small)
    assert capsys.readouterr().out.count("loaded") == 1


def test_keep_calls_a_builder_without_arguments_as_it_is(small, capsys):
    first = kd.keep(lambda: build(3), kd.CrossEntropy(), small, TINY, seed=3)
    second = kd.keep(build, kd.CrossEntropy(), small, TINY, seed=3)
    assert same(first, second)
    assert capsys.readouterr().out.count("loaded") == 1


@pytest.mark.parametrize("damage", ["short", "foreign", "empty"])
def test_a_damaged_stored_network_is_refused_with_its_name(small, damage):
    Kept().made(small)
    path = os.path.join(torch.hub.get_dir(), "kdlib", "kept", kept_files()[0])
    with open(path, "rb") as file:
        whole = file.read()
    if damage == "foreign":
        from safetensors.torch import save

        content = save({"weight": torch.zeros(3)})
    else:
        content = whole[: len(whole) // 2] if damage == "short" else b""
    with open(path, "wb") as file:
        file.write(content)
    with pytest.raises(ValueError, match=r"(?s)\.safetensors is damaged.*delete it"):
        Kept().made(small)
    os.remove(path)
    Kept().made(small)


ASKING = """
import sys, time
from pathlib import Path
import torch
import kdlib as kd
from kdlib.identity import weights_hash
torch.set_num_threads(1)
folder, name, other = Path(sys.argv[1]), *sys.argv[2:]

def wait_for(path):
    while not path.exists():
        time.sleep(0.01)

class Slow(kd.CrossEntropy):
    key = "Slow()"  # its code reads name and other, which differ

    def prepare(self, student, split, recipe):  # once in a training, and none is over before both ask
        (folder / f"{name} trains").touch()
        wait_for(folder / f"{other} asks")
        time.sleep(1)
        super().prepare(student, split, recipe)

data = kd.data.load("digits", device="cpu").limit(100)
(folder / f"{name} is ready").touch()
wait_for(folder / f"{other} is ready")
(folder / f"{name} asks").touch()
model = kd.keep(lambda seed: kd.models.mlp(8, seed=seed), Slow(), data, kd.Recipe(epochs=1), seed=3)
print(weights_hash(model))
"""


def test_of_two_processes_that_ask_for_one_network_at_once_one_trains_it(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ASKING, str(tmp_path), *names],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for names in (("one", "other"), ("other", "one"))
    ]
    try:
        said = [process.communicate(timeout=300)[0].splitlines() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    assert len(list(tmp_path.glob("* trains"))) == 1
    loaded, trained = sorted(said)
    assert loaded[0].startswith("loaded a network trained earlier")
    assert trained[0].startswith("trained in")
    assert loaded[1] == trained[1]
    assert len(kept_files()) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_network_whose_training_failed_can_be_asked_for_again(small, error, capsys):
    def stop(self, terms, student, batch):
        if self.calls == 6:
            raise error
        return terms

    objective = Altered(stop)
    with pytest.raises(error):
        kd.keep(build, objective, small, TINY)
    kd.keep(build, objective, small, TINY)
    assert "trained in" in capsys.readouterr().out


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_training_that_does_not_end_stores_nothing(small, error):
    def stop(self, terms, student, batch):
        if self.calls == 6:
            raise error
        return terms

    with pytest.raises(error):
        kd.keep(build, Altered(stop), small, TINY)
    assert kept_files() == []


def test_a_checkpoint_with_a_few_changed_bytes_is_refused(small, tmp_path):
    path, model = tmp_path / "run.pt", net()
    train(model, small, checkpoint=path)
    whole, expected, refused = path.read_bytes(), weights_hash(model), 0
    for place in range(0, len(whole) - 50, len(whole) // 20):
        changed = bytearray(whole)
        changed[place : place + 50] = bytes(255 - byte for byte in whole[place : place + 50])
        path.write_bytes(changed)
        again = net()
        try:
            train(again, small, checkpoint=path)
        except ValueError:
            refused += 1
        else:  # padding between the parts of the file: nothing that counts has changed
            assert weights_hash(again) == expected
    assert refused > 10


def test_going_on_with_a_network_of_another_start_is_said(small, tmp_path, recwarn):
    path = tmp_path / "run.pt"
    train(kd.models.mlp(16, seed=1), small, checkpoint=path)
    train(kd.models.mlp(16, seed=1), small, checkpoint=path)
    assert not [w for w in recwarn if "replaced" in str(w.message)]
    with pytest.warns(UserWarning, match=r"replaced by those of run\.pt"):
        train(kd.models.mlp(16, seed=2), small, checkpoint=path)


@pytest.mark.parametrize(
    "build",
    [
        lambda seed: kd.models.mlp(8, seed=seed),
        lambda s: kd.models.mlp(8, seed=s),
        functools.partial(kd.models.mlp, 8),
        lambda width=8, seed=0: kd.models.mlp(width, seed=seed),
    ],
)
def test_keep_gives_its_seed_to_the_builder(small, build, capsys):
    recipe = kd.Recipe(epochs=1, precision="float32")
    kept = kd.keep(build, kd.CrossEntropy(), small, recipe, seed=3)
    alone = kd.models.mlp(8, seed=3)
    kd.fit(alone, kd.CrossEntropy(), small, recipe, seed=3, progress=False)
    assert torch.equal(kept[1].weight, alone[1].weight)


@pytest.mark.parametrize("objective", [nn.CrossEntropyLoss(), kd.CrossEntropy, None])
def test_what_is_no_objective_is_refused(small, objective):
    with pytest.raises(TypeError, match="objective must be one such as"):
        kd.fit(net(), objective, small, kd.Recipe(epochs=1), progress=False)


def test_a_network_of_float64_can_be_trained_in_float32_afterwards(small):
    model = net()
    for precision, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        recipe = kd.Recipe(epochs=1, precision=precision)
        kd.fit(model, kd.CrossEntropy(), small, recipe, progress=False)
        assert {p.dtype for p in model.parameters()} == {dtype}


def test_a_training_that_blew_up_leaves_the_network_in_eval_mode(small):
    model = net()
    with pytest.raises(FloatingPointError):
        recipe = kd.Recipe(epochs=9, learning_rate=1e9, schedule="constant")
        kd.fit(model, kd.CrossEntropy(), small, recipe, progress=False)
    assert not model.training


def test_a_network_with_too_few_classes_cannot_be_scored(small):
    with pytest.raises(ValueError, match="labels must be class numbers from 0 to 2, got 9"):
        kd.evaluate(kd.models.mlp(4, classes=3), small.test)


def test_numbers_of_numpy_make_the_same_recipe_and_a_checkpoint_that_can_be_read(small, tmp_path):
    numpys = kd.Recipe(
        epochs=np.int64(2),
        batch_size=np.int64(64),
        learning_rate=np.float64(0.01),
        momentum=np.float32(0.5),
        weight_decay=np.float32(0.25),
        max_norm=np.int64(3),
    )
    plain = kd.Recipe(
        epochs=2, batch_size=64, learning_rate=0.01, momentum=0.5, weight_decay=0.25, max_norm=3
    )
    assert repr(numpys) == repr(plain)
    first, again = net(), net()
    for model in (first, again):
        kd.fit(
            model, kd.CrossEntropy(), small, numpys, progress=False, checkpoint=tmp_path / "run.pt"
        )
    assert weights_hash(first) == weights_hash(again)


class Plain(nn.Sequential):
    """A network that knows no seed."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))


def test_keep_finds_again_what_a_builder_without_a_seed_made(small, capsys):
    for _ in range(2):
        torch.rand(3)
        kd.keep(Plain, kd.CrossEntropy(), small, kd.Recipe(epochs=1), seed=5)
    trained, loaded = capsys.readouterr().out.splitlines()
    assert trained.startswith("trained in")
    assert loaded.startswith("loaded")


def test_max_norm_leaves_frozen_layers_alone(small):
    model = net()
    model[1].requires_grad_(False)
    before = model[1].weight.clone()
    recipe = kd.Recipe(epochs=1, max_norm=0.1)
    kd.fit(model, kd.CrossEntropy(), small, recipe, progress=False)
    assert torch.equal(model[1].weight, before)
    assert (model[-1].weight.norm(dim=1) <= 0.1 + 1e-6).all()


def test_a_training_interrupted_in_its_first_epoch_has_a_table_with_columns(small):
    class Impatient(kd.CrossEntropy):
        def __call__(self, student, batch):
            raise KeyboardInterrupt

    history = kd.fit(net(), Impatient(), small, kd.Recipe(epochs=1), progress=False)
    assert history.interrupted
    assert len(history.frame) == 0
    assert list(history.frame["epoch"]) == []


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_the_caller_has_switched_on_does_not_reach_the_training(small, precision):
    recipe, hashes = kd.Recipe(epochs=20, precision=precision), set()
    for switch in (
        contextlib.nullcontext(),
        torch.no_grad(),
        torch.autocast("cpu", torch.bfloat16),
    ):
        model = net()
        with switch:
            history = kd.fit(model, kd.CrossEntropy(), small, recipe, progress=False)
        hashes.add(weights_hash(model))
        assert history.frame["hard"].iloc[-1] < 0.9 * history.frame["hard"].iloc[0]
    assert len(hashes) == 1


def test_a_network_with_too_few_classes_is_refused_at_the_first_step(small):
    short = kd.models.mlp(4, classes=3)
    with pytest.raises(ValueError, match=r"logits \(N, 10\), one for each class"):
        kd.fit(short, kd.LogitMatching(short), small, kd.Recipe(epochs=1), progress=False)


def test_weights_that_stop_being_finite_in_the_last_step_are_noticed(small):
    class Poison(kd.CrossEntropy):
        def __call__(self, student, batch):
            student.logits.register_hook(lambda gradient: gradient * math.nan)
            return super().__call__(student, batch)

    data = replace(small, validation=None)
    recipe = kd.Recipe(iterations=1)
    with pytest.raises(FloatingPointError, match="weights stopped being finite"):
        kd.fit(net(), Poison(), data, recipe, progress=False)


def test_a_folder_is_no_checkpoint(small, tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        train(net(), small, checkpoint=tmp_path)


# A text

UNROLL = 7
READ = kd.Recipe(
    epochs=2,
    batch_size=5,
    learning_rate=0.5,
    momentum=0,
    schedule="constant",
    precision="float64",
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
    """Of weights so large that what was read long ago counts."""
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


def trained_by_hand(model, split, loss=surprise, teachers=(), recipe=READ, carry=True):
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
            logits, state = read(weights, inputs, state if carry else None)
            state = [(h.detach(), c.detach()) for h, c in state]
            said = [read(w, inputs, s) for w, s in zip(taught, states, strict=True)]
            if carry:
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
    forgetful = trained_by_hand(model, text.train, recipe=recipe, carry=False)
    history = train(model, text, recipe)
    assert history.frame["step"].tolist() == [3 * (epoch + 1) for epoch in range(epochs)]
    assert farthest(model, expected) < 1e-12
    assert farthest(model, forgetful) > 1e-4


def test_a_language_model_learns_to_look_back():
    """After one a comes an a or a b: only who remembers the token before can tell."""
    data = kd.text.from_texts("aab" * 100, test="aab" * 50, device="cpu", unroll=UNROLL)
    model = kd.models.lstm(2, width=8)
    recipe = replace(TINY, epochs=20, batch_size=5, optimizer="adam", learning_rate=0.03)
    train(model, data, recipe)
    assert kd.text.ngram_loss(data, 2) > 0.4
    assert kd.evaluate(model, data.test).loss < 0.1


@pytest.mark.parametrize("how", ["fit", "interrupted", "error", "evaluate", "logits", "fidelity"])
def test_a_language_model_has_forgotten_the_text_afterwards(text, how):
    model, tokens = reader(), torch.tensor([[0, 1, 2]])

    def stop(self, terms, student, batch):
        if self.calls == 2 and how != "fit":
            raise KeyboardInterrupt if how == "interrupted" else RuntimeError
        return terms

    if how == "evaluate":
        kd.evaluate(model, text.validation)
    elif how == "logits":
        kd.logits(model, text.validation)
    elif how == "fidelity":
        kd.fidelity(model, reader(2), text.validation)
    else:
        data = replace(text, validation=None)
        with pytest.raises(RuntimeError) if how == "error" else contextlib.nullcontext():
            train(model, data, READ, Altered(stop))
    expected = kd.models.lstm(5, width=6).to(next(model.parameters()).dtype)
    expected.load_state_dict(model.state_dict())
    for _ in range(2):
        assert torch.equal(model(tokens), expected(tokens))


def test_on_epoch_finds_a_language_model_that_reads_anew(text):
    model, seen = reader(), []
    train(
        model,
        replace(text, validation=None),
        READ,
        on_epoch=lambda row: seen.extend(model(torch.tensor([[3, 4]])) for _ in range(2)),
    )
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3])


def test_the_validation_of_a_text_does_not_change_what_is_learned(text):
    with_it, without = reader(), reader()
    train(with_it, text, READ)
    train(without, replace(text, validation=None), READ)
    assert same(with_it, without)


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("at", [1, 2])
def test_a_resumed_reading_is_bit_for_bit_the_one_in_one_go(text, tmp_path, at, taught):
    recipe = replace(TINY, batch_size=5, optimizer="adam", max_gradient=0.5)
    objective = kd.SoftTargets(reader(9), 2, 0.5) if taught else kd.CrossEntropy()
    one_go, resumed, path = reader(dropout=0.3), reader(dropout=0.3), tmp_path / "run.pt"
    whole = train(one_go, text, recipe, objective)
    train(reader(dropout=0.3), text, recipe, objective, checkpoint=path, on_epoch=stopping(at))
    parts = train(resumed, text, recipe, objective, checkpoint=path)
    pd.testing.assert_frame_equal(without_seconds(parts), without_seconds(whole), check_exact=True)
    assert same(resumed, one_go)


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


def test_the_first_batch_of_every_epoch_is_told_apart(small, tmp_path):
    seen, path = [], tmp_path / "run.pt"
    spy = Altered(lambda self, terms, student, batch: seen.append(batch.first) or terms)
    train(net(), small, TINY, spy, checkpoint=path, on_epoch=stopping(2))
    train(net(), small, TINY, spy, checkpoint=path)
    assert seen == [True, False, False, False] * 3


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


# Teachers of a text


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
    forgetful = trained_by_hand(student, text.train, loss, teachers, carry=False)
    before = [weights_hash(teacher) for teacher in teachers]
    soft = kd.SoftTargets(teachers if members > 1 else teachers[0], temperature=2, alpha=0.7)
    for _ in range(2):  # one objective serves any number of fits
        train(student := reader(1), text, READ, soft)
        assert farthest(student, expected) < 1e-5  # the teacher speaks float32
        assert farthest(student, forgetful) > 1e-3
    assert [weights_hash(teacher) for teacher in teachers] == before
    assert all(all(modes(teacher)) for teacher in teachers)
    tokens = torch.tensor([[0, 1, 2]])
    assert torch.equal(teachers[0](tokens), teachers[0](tokens))


def test_a_teacher_that_forgot_what_it_read_would_teach_otherwise(text):
    teacher, student = reader(5), reader(1)
    loss = taught([teacher], T=2, alpha=1)
    expected = trained_by_hand(student, text.train, loss, [teacher])

    def stateless(logits, labels, place, said):
        inputs = text.train.inputs[place]
        return loss(logits, labels, place, [read(weights_of(teacher), inputs)[0].double()])

    other = trained_by_hand(student, text.train, stateless, [teacher])
    train(student, text, READ, kd.SoftTargets(teacher, 2, 1))
    assert farthest(student, expected) < 1e-5
    assert farthest(student, other) > 1e-3


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


# Scores on a text


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
    apart = [kd.evaluate(model, part).loss for part in thirds(split)]
    assert abs(np.mean(apart) - loss) > 1e-9  # it does matter where reading begins


def thirds(split):
    cut = len(split) // 3
    for first in range(0, 3 * cut, cut):
        here = slice(first, first + cut)
        yield kd.text.Text(split.inputs[here], split.labels[here], split.index[here])


@pytest.mark.parametrize("size", [1, 7, 1000, 10_000])
def test_logits_of_a_text_are_the_same_for_any_part_size(text, size):
    model, split = reader().double(), text.validation if size == 1 else text.test
    found = kd.logits(model, split, size)
    assert found.shape == (len(split), 5)
    log_p = torch.log_softmax(found, -1)
    torch.testing.assert_close(log_p, whole_pass(model, split), rtol=0, atol=1e-12)
    assert surprise(log_p, split.labels).item() == pytest.approx(
        kd.evaluate(model, split).loss, rel=1e-12
    )


def test_copies_of_a_language_model_score_as_one_also_where_they_are_the_same_network(text):
    model = reader().double()
    single = kd.evaluate(model, text.test)
    for many in ([copy.deepcopy(model) for _ in range(3)], [model] * 3):
        found = kd.evaluate(many, text.test)
        assert found.errors == single.errors
        assert found.loss == pytest.approx(single.loss, rel=1e-12)
    assert kd.fidelity(model, model, text.test) == kd.Fidelity(1.0, 0.0)
    assert kd.fidelity(model, copy.deepcopy(model), text.test) == kd.Fidelity(1.0, 0.0)


def test_several_language_models_are_scored_and_compared_by_their_probabilities(text):
    models, split = [reader(seed).double() for seed in (1, 2)], text.test
    p, q = (whole_pass(model, split).exp() for model in models)
    mean = ((p + q) / 2).log()
    found = kd.evaluate(models, split)
    assert found.loss == pytest.approx(surprise(mean, split.labels).item(), rel=1e-12)
    compared = kd.fidelity(models[1], models[0], split)
    assert compared.divergence == pytest.approx((p * (p / q).log()).sum(1).mean().item(), rel=1e-9)
    assert compared.agreement == (p.argmax(1) == q.argmax(1)).double().mean().item()
