"""fit: a training depends on its recipe and its seed, and on nothing else."""

import copy
import math
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from training_helpers import (
    RICH,
    TINY,
    Altered,
    Guided,
    modes,
    net,
    normed,
    plain,
    same,
    train,
    without_seconds,
    worse_later,
)

import kdlib as kd
from kdlib.data import Split
from kdlib.identity import weights_hash


def test_training_learns(small, digits):
    model = net()
    before = kd.evaluate(model, digits.test).accuracy
    history = train(model, small, replace(TINY, epochs=20))
    assert before < 0.3
    assert kd.evaluate(model, digits.test).accuracy > 0.75
    assert history.frame["hard"].iloc[-1] < 0.5 * history.frame["hard"].iloc[0]


def test_the_student_trains_in_train_mode_in_every_epoch_whatever_on_epoch_does(small):
    model, seen = normed(), []
    model.register_forward_pre_hook(
        lambda module, inputs: seen.append(modes(module)) if torch.is_grad_enabled() else None
    )
    train(model, small, on_epoch=lambda row: model.eval())
    assert len(seen) == 12
    assert all(all(mode) for mode in seen)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError("a broken distiller")])
def test_fit_ends_in_eval_mode_with_the_callers_generator_as_it_was(small, error):
    def stop(self, terms, student, batch):
        if error is not None and self.calls == 2:
            raise error
        return terms

    torch.manual_seed(5)
    before, model = torch.get_rng_state(), normed()
    try:
        train(model, replace(small, validation=None), TINY, Altered(stop))
    except RuntimeError as raised:
        assert raised is error
    else:
        assert not isinstance(error, RuntimeError)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(modes(model))


@pytest.mark.parametrize(("size", "batches"), [(60, [60] * 3), (200, [200]), (201, [200])])
def test_the_last_incomplete_batch_is_dropped_unless_it_is_the_only_one(small, size, batches):
    sizes = []
    spy = Altered(lambda self, terms, _, batch: sizes.append(len(batch.index)) or terms)
    train(net(), small, replace(TINY, epochs=1, batch_size=size), spy)
    assert sizes == batches


def test_iterations_cut_the_last_epoch_short_and_terms_are_means_over_an_epochs_steps(small):
    given, progress, first = [], [], []

    def note(self, terms, student, batch):
        terms = terms | {"extra": 0.1 * student.logits.square().mean()}
        given.append({name: term.item() for name, term in terms.items()})
        progress.append(batch.progress)
        first.append(batch.first)
        return terms

    frame = train(net(), small, replace(TINY, iterations=10, epochs=99), Altered(note)).frame
    assert frame["epoch"].tolist() == [1, 2, 3]
    assert frame["step"].tolist() == [4, 8, 10]
    assert progress == pytest.approx([step / 10 for step in range(10)])
    assert [step for step in range(10) if first[step]] == [0, 4, 8]
    for name in ("hard", "extra"):
        parts = given[:4], given[4:8], given[8:]
        expected = [np.mean([terms[name] for terms in part]) for part in parts]
        np.testing.assert_allclose(frame[name], expected, rtol=1e-6)


# Arguments

HINT = kd.Hint(net(2), hint="2", guided="2")
WATCHING = [replace(TINY, keep="best"), replace(TINY, schedule="plateau")]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "mlp"}, TypeError, "model must be a Module, got str"),
        ({"model": [net()]}, TypeError, "model must be a Module, got list"),
        ({"recipe": 10}, TypeError, "recipe must be a Recipe, got int"),
        ({"seed": 1.5}, TypeError, "seed must be a whole number, got 1.5"),
        ({"objective": None}, TypeError, "objective must be one such as"),
        ({"recipe": replace(TINY, precision="float16")}, ValueError, 'a CUDA GPU.*try "auto"'),
        (
            {"model": kd.models.mlp(4, classes=3), "objective": kd.LogitMatching(net())},
            ValueError,
            r"logits \(N, 10\), one for each class",
        ),
        *[
            ({"recipe": recipe, "objective": HINT}, ValueError, f"{name}.* that trains the logits")
            for recipe, name in zip(WATCHING, ('keep="best"', 'schedule="plateau"'), strict=True)
        ],
    ],
)
def test_fit_refuses_an_argument_by_name(small, change, error, message):
    good = {"model": net(), "objective": kd.CrossEntropy(), "data": small, "recipe": TINY}
    with pytest.raises(error, match=message):
        kd.fit(**(good | change), progress=False)


@pytest.mark.parametrize("recipe", WATCHING, ids=["best", "plateau"])
@pytest.mark.parametrize("kind", ["none", "unlabelled"])
def test_what_watches_the_validation_loss_needs_labels_there(small, recipe, kind):
    held_out = None if kind == "none" else small.validation.unlabelled()
    model = net()
    start = weights_hash(model)
    with pytest.raises(ValueError, match='needs a labelled validation.*keep="last"'):
        train(model, replace(small, validation=held_out), recipe)
    assert weights_hash(model) == start
    both = train(model, small, recipe, kd.CrossEntropy() + HINT)
    assert both.frame["epoch"].tolist() == [1, 2, 3]


def test_the_rate_is_the_recipes_else_the_objectives_else_the_optimizers(small):
    class Gentle(kd.CrossEntropy):
        default_rate = 0.004

    for objective, rate, expected in (
        (Gentle(), None, 0.004),
        (Gentle(), 0.2, 0.2),
        (kd.CrossEntropy(), None, 0.03),
    ):
        found, told = net(), net()
        recipe = replace(TINY, epochs=1)
        history = train(found, small, replace(recipe, learning_rate=rate), objective)
        train(told, small, replace(recipe, learning_rate=expected))
        assert history.learning_rate == expected
        assert f"learning_rate {expected:g}" in repr(history)
        assert same(found, told)


# Seeds


def test_a_fit_seed_gives_the_weights_and_another_gives_others(small):
    found = []
    for seed in (0, 0, 1):
        model = net(dropout=0.3)
        train(model, small, kd.Recipe(**RICH), seed=seed)
        torch.randn(100)
        found.append(weights_hash(model))
    assert found[0] == found[1] != found[2]


def teacher_and_student(noise):
    """The hashes of two networks, after other work and other draws."""
    random.seed(noise), np.random.seed(noise), torch.manual_seed(noise)
    torch.randn(noise)
    data = kd.data.load("digits", device="cpu").limit(200)
    recipe = kd.Recipe(epochs=2, batch_size=50, augment=kd.data.shift(2) + kd.data.flip())
    if noise > 100:
        train(kd.models.mlp(8, seed=5), data, recipe)
    teacher, student = kd.models.mlp(24, seed=3), kd.models.mlp(16, dropout=0.3, seed=4)
    train(teacher, data, recipe, seed=3)
    torch.rand(noise)
    train(student, data, recipe, kd.SoftTargets(teacher, temperature=4, alpha=0.5), seed=4)
    return [weights_hash(teacher), weights_hash(student)]


def test_the_same_seeds_give_the_same_weights_in_another_process_after_other_work():
    other = subprocess.run(
        [sys.executable, "-c", "import test_fit; print(*test_fit.teacher_and_student(1234))"],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONHASHSEED": "1234"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.split() == teacher_and_student(7)


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
    orders, views, kept = [], [], []

    def view(images, generator):
        views.append(torch.rand(3, generator=generator).tolist())
        return images

    spy = Altered(lambda self, terms, _, batch: orders.append(batch.index.tolist()) or terms)
    model = net(dropout=0.5)
    assert isinstance(model[3], nn.Dropout)
    model[3].register_forward_hook(
        lambda module, inputs, output: kept.append(output != 0) if module.training else None
    )
    train(model, small, replace(TINY, batch_size=200, augment=view), spy)
    assert all(sorted(order) == small.train.index.tolist() for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert views[0] != views[1] != views[2]
    assert (kept[0] != kept[1]).float().mean() > 0.2


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


def test_logits_follow_the_images_when_the_files_rows_are_shuffled(tmp_path):
    draws = np.random.default_rng(0)
    arrays = {
        "x_train": draws.integers(0, 256, (300, 28, 28)).astype(np.uint8),
        "y_train": np.arange(300) % 10,
        "x_test": draws.integers(0, 256, (20, 28, 28)).astype(np.uint8),
        "y_test": np.arange(20) % 10,
    }
    order = draws.permutation(300)
    loaded = []
    for folder, rows in (("a", np.arange(300)), ("b", order)):
        (tmp_path / folder).mkdir()
        contents = arrays | {name: arrays[name][rows] for name in ("x_train", "y_train")}
        np.savez(tmp_path / folder / "mnist.npz", **contents)
        data = kd.data.load("mnist", validation=50, device="cpu", root=tmp_path / folder)
        loaded.append(data.limit(150))
    teacher = net(9, width=24)
    table = torch.full((300, 10), math.nan)
    table[loaded[0].train.index] = kd.logits(teacher, loaded[0].train)
    students = net(), net()
    for student, data, source in zip(students, loaded, (teacher, table), strict=True):
        train(student, data, objective=kd.SoftTargets(source, temperature=3, alpha=0.9))
    for a, b in zip(students[0].parameters(), students[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# History


def test_history_is_a_tidy_table_with_one_row_an_epoch(small):
    model, scores = normed(), []
    history = train(
        model, small, on_epoch=lambda row: scores.append(kd.evaluate(model, small.validation))
    )
    frame = history.frame
    assert isinstance(frame, pd.DataFrame)
    validation = ["validation_loss", "validation_accuracy"]
    assert list(frame.columns) == ["epoch", "step", "seconds", "hard", *validation]
    assert frame["epoch"].tolist() == [1, 2, 3]
    assert frame["step"].tolist() == [4, 8, 12]
    assert (frame["seconds"] > 0).all()
    assert frame[validation].values.tolist() == [[s.loss, s.accuracy] for s in scores]
    assert len({score.loss for score in scores}) == 3
    assert not history.interrupted
    assert "finished after 3 epochs" in repr(history)


@pytest.mark.parametrize("kind", ["none", "unlabelled"])
def test_validation_changes_nothing_but_its_columns(small, kind):
    held_out = None if kind == "none" else small.validation.unlabelled()
    watched, alone = normed(), normed()
    train(watched, small)
    frame = train(alone, replace(small, validation=held_out)).frame
    assert same(watched, alone)
    assert frame[["validation_loss", "validation_accuracy"]].isna().all(axis=None)
    assert frame["hard"].notna().all()


def test_the_test_split_is_not_looked_at(small):
    labels = small.test.labels[torch.randperm(len(small.test), generator=torch.manual_seed(0))]
    poisoned = replace(small, test=Split(small.test.inputs.clone(), labels, small.test.index))
    poisoned.test.inputs.fill_(math.nan)
    found = []
    for data in (small, poisoned, replace(small, test=None)):
        model = net(dropout=0.3)
        frame = without_seconds(train(model, data, kd.Recipe(**RICH)))
        found.append((weights_hash(model), frame))
    assert found[0][0] == found[1][0] == found[2][0]
    for _, frame in found[1:]:
        pd.testing.assert_frame_equal(frame, found[0][1])


def test_on_epoch_gets_a_row_of_its_own(small):
    rows = []

    def spoil(row):
        rows.append(dict(row))
        row["hard"] = "spoiled"

    frame = train(net(), small, on_epoch=spoil).frame
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert frame["hard"].tolist() == [row["hard"] for row in rows]


def test_ctrl_c_before_the_first_epoch_is_over_leaves_an_empty_table_with_columns(small):
    def stop(self, terms, student, batch):
        raise KeyboardInterrupt

    history = train(net(), small, objective=Altered(stop))
    assert history.interrupted
    assert list(history.frame["epoch"]) == []
    assert "interrupted after 0 epochs" in repr(history)


# Keep the best


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


# What is not finite


def test_a_loss_that_is_not_finite_stops_training_with_the_rate_in_the_message(small):
    model = net()
    with pytest.raises(FloatingPointError, match=r"epoch 1 .*learning_rate 1e\+30 may be too high"):
        train(model, small, replace(TINY, learning_rate=1e30, schedule="constant"))
    assert not any(modes(model))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_noticed_at_the_epochs_end_over_finite_weights(small, value):
    def spoil(self, terms, student, batch):
        return {"hard": terms["hard"] + (value if self.calls == 5 else 0)}  # no gradient of it

    objective = Altered(spoil)
    with pytest.raises(FloatingPointError, match=rf"in epoch 2 \(hard = {value}\).*0\.03"):
        train(net(), replace(small, validation=None), TINY, objective)
    assert objective.calls == 8


def test_a_validation_loss_that_is_not_finite_stops_training(small):
    inputs = small.validation.inputs.clone()
    data = replace(small, validation=replace(small.validation, inputs=inputs))
    inputs.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="validation_loss = nan"):
        train(net(), data)


def with_nan(data, part, row):
    """The data as they are after a change in place, which no check at their making can see."""
    split = getattr(data, part)
    inputs = split.inputs.clone()
    changed = replace(data, **{part: replace(split, inputs=inputs)})
    inputs[row, 0, 3, 3] = math.inf
    return changed, int(split.index[row])


@pytest.mark.parametrize("rate", [0.03, 3e-8])
@pytest.mark.parametrize("part", ["train", "validation"])
def test_data_that_are_not_finite_are_named_and_not_the_rate(small, part, rate):
    data, index = with_nan(small, part, 7)
    recipe = replace(TINY, learning_rate=rate)
    cohort = lambda: kd.fit_cohort(
        lambda seed: net(seed), [kd.CrossEntropy()], data, recipe, [0], progress=False
    )
    for training in (lambda: train(net(), data, recipe), cohort):
        message = rf"row 7 of the {part} inputs \(index {index}\) holds NaN or infinity"
        with pytest.raises(FloatingPointError, match=message) as raised:
            training()
        assert "learning_rate" not in str(raised.value)


def test_views_that_are_not_finite_are_named_and_not_the_rate(small):
    def divided(images, generator):
        return images / torch.zeros(1)

    with pytest.raises(FloatingPointError, match="augment makes NaN or infinity") as raised:
        train(net(), small, replace(TINY, augment=divided))
    assert "learning_rate" not in str(raised.value)


def test_a_network_that_an_earlier_training_spoiled_is_named_and_not_the_rate(small):
    model = net()
    with torch.no_grad():
        model[3].weight[2, 2] = math.nan
    with pytest.raises(ValueError, match=r"start from finite weights, but '3\.weight' holds NaN"):
        train(model, small)


# What the caller froze


def freezing(model, *parts):
    for part in parts:
        model.get_submodule(part).requires_grad_(False).eval()
    return model


class Body(nn.Module):
    """Everything that moves in train mode, beside a head that trains."""

    def __init__(self):
        super().__init__()
        with kd.seeded(1):
            spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(784, 12))
            self.body = nn.Sequential(
                nn.Flatten(),
                spectral,
                nn.BatchNorm1d(12),
                nn.Dropout(0.5),
                nn.BatchNorm1d(12, affine=False),
            )
            self.head = nn.Linear(12, 10)
        self.seen = []

    def forward(self, x):
        features = self.body(x)
        if self.training:
            self.seen.append(self.body[3].training)
        return self.head(features.relu())


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"weight_decay": 0.1, "momentum": 0.9},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"keep": "best"},
        {"max_gradient": 0.1, "precision": "bfloat16"},
    ],
    ids=str,
)
def test_nothing_moves_in_a_body_that_the_caller_froze(small, change):
    model = Body()
    train(model, small)
    freezing(model, "body")
    model.body[1].parametrizations.weight.original.grad = torch.ones(12, 784)  # an earlier one
    before = {name: value.clone() for name, value in model.state_dict().items()}
    del model.seen[:]
    train(model, small, replace(TINY, **change))
    after = model.state_dict()
    for name, value in before.items():
        assert torch.equal(after[name], value) == name.startswith("body."), name
    assert model.seen
    assert not any(model.seen)


def test_one_frozen_layer_stays_while_the_layers_around_it_train(small):
    model = normed()
    freezing(model, "2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, small)
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert moved == {"1.weight", "1.bias", "4.weight", "4.bias"}


def test_eval_mode_alone_freezes_nothing_since_fit_ends_in_it(small):
    model = normed()
    train(model, small)
    before = model[2].running_mean.clone()
    train(model, small)
    assert not torch.equal(model[2].running_mean, before)


def test_every_student_of_a_cohort_keeps_what_its_builder_froze(small):
    build = lambda seed: freezing(normed(seed), "2")
    found = kd.fit_cohort(build, [kd.CrossEntropy()], small, TINY, [1, 2], progress=False)
    for seed, model in zip((1, 2), found.models, strict=True):
        assert torch.equal(model[2].running_mean, build(seed)[2].running_mean)
        alone = build(seed)
        train(alone, small, seed=seed)
        assert same(model, alone)


def test_a_part_of_the_objectives_module_that_was_frozen_stays(small):
    class Normed(Guided):
        def prepare(self, student, split, recipe):
            self.module = nn.Sequential(nn.BatchNorm1d(10), nn.Linear(10, 10))
            freezing(self.module, "0")

    objective = Normed()
    train(net(), small, objective=objective)
    assert objective.module[0].num_batches_tracked == 0
    assert torch.equal(objective.module[0].running_mean, torch.zeros(10))


@pytest.mark.parametrize("mode", [True, False])
def test_a_network_with_nothing_to_train_is_refused_unless_the_objective_has_something(small, mode):
    model, objective = net().requires_grad_(False).train(mode), Guided()
    for frozen, given in ((model, plain()), (nn.Flatten(), plain())):
        with pytest.raises(ValueError, match="no parameter that requires a gradient.*unfreezes"):
            train(frozen, small, objective=given)
        assert given.calls == 0
    before = [weights.clone() for weights in model.parameters()]
    train(model, small, objective=objective)  # a probe on its logits
    assert all(map(torch.equal, before, model.parameters()))


# The same seeds, whatever else the process draws


class Draws(nn.Module):
    """A network that drops its inputs by a generator that is not torch's."""

    def __init__(self, draw):
        super().__init__()
        with kd.seeded(0):
            self.layer = nn.Linear(784, 10)
        self.draw = draw

    def forward(self, x):
        kept = self.draw() > 0.4 if self.training else 1
        return self.layer(x.flatten(1) * kept)


@pytest.mark.parametrize("draw", [random.random, np.random.rand], ids=["random", "numpy"])
@pytest.mark.parametrize("where", ["network", "augment", "objective"])
def test_draws_from_random_and_numpy_follow_the_fit_seed(small, draw, where):
    def trained(seed):
        draw()
        model = Draws(draw if where == "network" else lambda: 1)
        recipe, objective = TINY, plain()
        if where == "augment":
            recipe = replace(TINY, augment=lambda images, generator: images * draw())
        if where == "objective":
            objective = Altered(lambda self, terms, *_: {"hard": terms["hard"] * draw()})
        train(model, small, recipe, objective, seed=seed)
        return model.layer.weight.detach()

    first, again, other = trained(0), trained(0), trained(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_two_trainings_in_threads_end_as_each_alone(small):
    def trained(seed, models):
        models[seed] = net(seed, dropout=0.5)
        train(models[seed], small, replace(TINY, epochs=6, batch_size=20), seed=seed)

    alone, together = {}, {}
    for seed in (0, 1):
        trained(seed, alone)
    threads = [threading.Thread(target=trained, args=(seed, together)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(same(alone[seed], together[seed]) for seed in (0, 1))


@pytest.mark.parametrize("default", ["dtype", "device"])
def test_the_callers_defaults_do_not_reach_the_training(small, default):
    def trained():
        model, objective = net(dropout=0.5), kd.SoftTargets(net(5), 4, 0.5) + Guided()
        train(model, small, objective=objective)
        return model, kd.evaluate(model, small.test)

    expected = trained()
    try:
        if default == "dtype":
            torch.set_default_dtype(torch.float64)
        else:
            torch.set_default_device("meta")
        found = trained()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert same(found[0], expected[0])
    assert found[1] == expected[1]


def test_weights_that_stop_being_finite_in_the_last_step_are_noticed(small):
    def poison(self, terms, student, batch):
        student.logits.register_hook(lambda gradient: gradient * math.nan)
        return terms

    data, recipe = replace(small, validation=None), kd.Recipe(iterations=1)
    with pytest.raises(FloatingPointError, match="weights stopped being finite"):
        train(net(), data, recipe, Altered(poison))


def test_what_a_forward_pass_makes_has_the_dtype_of_the_weights(small):
    class Rotated(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)) @ torch.eye(10)

    torch.set_default_dtype(torch.float64)
    try:
        for precision in ("float64", "float32"):
            train(
                Rotated(784, 10),
                replace(small, validation=None),
                replace(TINY, precision=precision),
            )
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
