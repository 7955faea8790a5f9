"""Checkpoints: a resumed training is the one in one go, and another's file is refused."""

import copy
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
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
    without_seconds,
    worse_later,
)

import kdlib as kd
from kdlib.identity import weights_hash


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


def test_a_folder_is_no_checkpoint(small, tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        train(net(), small, checkpoint=tmp_path)
