"""fit: a training depends on its recipe and its seed, and on nothing else."""

import copy
import math
import os
import subprocess
import sys
from dataclasses import replace

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
    stopping,
    train,
    worse_later,
)

import kdlib as kd
from kdlib.data import Split
from kdlib.identity import weights_hash
from kdlib.objectives import Outputs


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


def test_on_epoch_gets_a_row_of_its_own(small):
    rows = []

    def spoil(row):
        rows.append(dict(row))
        row["hard"] = "spoiled"

    frame = train(net(), small, on_epoch=spoil).frame
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert frame["hard"].tolist() == [row["hard"] for row in rows]


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


def test_a_loss_that_is_not_finite_stops_training_with_the_rate_in_the_message(small):
    with pytest.raises(FloatingPointError, match=r"epoch 1 .*learning_rate 1e\+30 may be too high"):
        train(net(), small, replace(TINY, learning_rate=1e30, schedule="constant"))


def test_a_validation_loss_that_is_not_finite_stops_training(small):
    inputs = torch.full_like(small.validation.inputs, math.nan)
    data = replace(small, validation=replace(small.validation, inputs=inputs))
    with pytest.raises(FloatingPointError, match="validation_loss = nan"):
        train(net(), data)


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


@pytest.mark.parametrize("objective", [nn.CrossEntropyLoss(), kd.CrossEntropy, None])
def test_what_is_no_objective_is_refused(small, objective):
    with pytest.raises(TypeError, match="objective must be one such as"):
        kd.fit(net(), objective, small, kd.Recipe(epochs=1), progress=False)


def test_a_training_that_blew_up_leaves_the_network_in_eval_mode(small):
    model = net()
    with pytest.raises(FloatingPointError):
        recipe = kd.Recipe(epochs=9, learning_rate=1e9, schedule="constant")
        kd.fit(model, kd.CrossEntropy(), small, recipe, progress=False)
    assert not model.training


def test_a_training_interrupted_in_its_first_epoch_has_a_table_with_columns(small):
    class Impatient(kd.CrossEntropy):
        def __call__(self, student, batch):
            raise KeyboardInterrupt

    history = kd.fit(net(), Impatient(), small, kd.Recipe(epochs=1), progress=False)
    assert history.interrupted
    assert len(history.frame) == 0
    assert list(history.frame["epoch"]) == []


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


def test_the_first_batch_of_every_epoch_is_told_apart(small, tmp_path):
    seen, path = [], tmp_path / "run.pt"
    spy = Altered(lambda self, terms, student, batch: seen.append(batch.first) or terms)
    train(net(), small, TINY, spy, checkpoint=path, on_epoch=stopping(2))
    train(net(), small, TINY, spy, checkpoint=path)
    assert seen == [True, False, False, False] * 3
