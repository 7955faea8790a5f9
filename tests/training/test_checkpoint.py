"""Checkpoints: a resumed training is the one in one go, and another's file is refused."""

import math
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stateful import STORED, Attribute
from torch import nn
from training_helpers import (
    RICH,
    TINY,
    Altered,
    Guided,
    assert_resumes,
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
from kdlib.identity import weights_hash
from kdlib.training.checkpoint import identity_of


@pytest.mark.parametrize("at", [1, 4, 5])
@pytest.mark.parametrize(
    ("optimizer", "build"),
    [("sgd", normed), ("adam", normed), ("adam", lambda: net(dropout=0.3))],
    ids=["sgd, batch norm", "adam, batch norm", "adam, mlp"],
)
def test_a_resumed_training_is_bit_for_bit_the_one_in_one_go(small, tmp_path, optimizer, build, at):
    recipe = kd.Recipe(**RICH, optimizer=optimizer)
    assert_resumes(build, small, recipe, tmp_path / "run.pt", at)


@pytest.mark.parametrize("build", STORED.values(), ids=STORED)
def test_whatever_training_changes_in_a_network_is_in_the_checkpoint(
    small, tmp_path, build, recwarn
):
    recipe = replace(TINY, learning_rate=0.5, keep="best")
    assert_resumes(build, small, recipe, tmp_path / "run.pt", 2)
    assert not [warning for warning in recwarn if warning.category is UserWarning]


def test_a_compiled_network_and_the_plain_one_resume_each_others_checkpoints(small, tmp_path):
    whole, models = net(), [net(), net()]
    train(whole, small)
    for number, model in enumerate(models):
        begun, ended = (torch.compile(net(), backend="eager"), model)[:: 1 - 2 * number]
        path = tmp_path / f"{number}.pt"
        train(begun, small, checkpoint=path, on_epoch=stopping(2))
        train(ended, small, checkpoint=path)
        assert same(whole, ended)


def test_an_attribute_that_training_changes_is_warned_of(small, tmp_path):
    with pytest.warns(UserWarning, match="attribute of the network.*register it as a buffer"):
        train(Attribute(), small, checkpoint=tmp_path / "run.pt")

    class Counting(kd.CrossEntropy):
        calls = 0

        def __call__(self, student, batch):
            self.calls += 1
            return super().__call__(student, batch)

    with pytest.warns(UserWarning, match="attribute of the objective.*underscore") as warned:
        train(net(), small, objective=Counting(), checkpoint=tmp_path / "other.pt")
    assert len(warned) == 1


def test_an_extra_state_that_no_checkpoint_can_hold_is_refused_before_training(small, tmp_path):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return threading.Thread

        def set_extra_state(self, state):
            pass

    model, epochs = nn.Sequential(nn.Flatten(), Odd(784, 10)), []
    with pytest.raises(TypeError, match=r"'1\._extra_state' of the network.*numbers, strings"):
        train(model, small, checkpoint=tmp_path / "run.pt", on_epoch=epochs.append)
    assert not epochs and not list(tmp_path.iterdir())


@pytest.mark.parametrize("at", [1, 3])
def test_plateau_goes_on_after_an_interruption_with_the_rate_it_had(small, tmp_path, at):
    recipe = replace(TINY, epochs=5, schedule="plateau", learning_rate=0.5, momentum=0.5)
    whole, _ = assert_resumes(net, small, recipe, tmp_path / "run.pt", at)
    losses, constant = whole.frame["validation_loss"], net()
    assert not losses[:-1].is_monotonic_decreasing  # the rate did fall
    found = train(constant, small, replace(recipe, schedule="constant"), seed=2)
    assert found.frame["hard"].iloc[-1] != whole.frame["hard"].iloc[-1]


def test_the_best_epoch_before_an_interruption_is_still_the_best_after_it(small, tmp_path):
    recipe = replace(TINY, epochs=10, schedule="constant", keep="best")
    whole, _ = assert_resumes(
        normed, small, recipe, tmp_path / "run.pt", 8, lambda: Altered(worse_later)
    )
    assert whole.frame["validation_loss"].idxmin() + 1 < 8


def test_an_objectives_module_is_trained_and_resumed_with_the_student(small, tmp_path):
    starts = []

    class Noted(Guided):
        def prepare(self, student, split, recipe):
            super().prepare(student, split, recipe)
            starts.append(weights_hash(self.module))

    recipe = kd.Recipe(**RICH, optimizer="adam")
    whole, objectives = assert_resumes(normed, small, recipe, tmp_path / "run.pt", 2, Noted)
    one_go, first, second = (weights_hash(objective.module) for objective in objectives)
    assert starts[0] == starts[1] == starts[2]  # prepared in the seeded scope
    assert len({starts[0], first, second}) == 3
    assert second == one_go
    assert {"hard", "guided"} < set(whole.frame.columns)


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
    train(model, small, objective=plain(), checkpoint=path)  # the same network goes on
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
        ({"recipe": replace(TINY, momentum=0.8)}, "recipe"),
        ({"recipe": replace(TINY, max_gradient=1.0)}, "recipe"),
        ({"recipe": replace(TINY, augment=kd.data.shift(1))}, "recipe"),
        ({"seed": 1}, "seed"),
        ({"objective": kd.CrossEntropy()}, "objective"),
        ({"objective": 2 * kd.LogitMatching(net(5))}, "objective"),
        ({"objective": kd.LogitMatching(net(6))}, "objective"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_and_left_alone(small, tmp_path, change, named):
    def run(model=lambda: net(dropout=0.2), data=lambda data: data, **options):
        options = {"objective": kd.LogitMatching(net(5)), "checkpoint": path} | options
        return train(model(), data(small), **options)

    path = tmp_path / "run.pt"
    run(on_epoch=stopping(1))
    stored = path.read_bytes()
    with pytest.raises(ValueError, match=f"another training: its {named} is.*delete it"):
        run(**change)
    assert path.read_bytes() == stored
    assert run().frame["epoch"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("first", [True, False])
def test_a_checkpoint_of_other_frozen_layers_is_refused(small, tmp_path, first):
    networks = net(), net()
    networks[not first][-1].requires_grad_(False)
    train(networks[0], small, checkpoint=tmp_path / "run.pt", on_epoch=stopping(1))
    with pytest.raises(ValueError, match="another training: its frozen is"):
        train(networks[1], small, checkpoint=tmp_path / "run.pt")


def test_a_checkpoint_of_layers_held_in_eval_mode_is_not_one_of_frozen_layers_that_are_not(
    small, tmp_path
):
    def frozen(evaluated):
        model = normed()
        model[2].requires_grad_(False).train(not evaluated)
        return model

    path = tmp_path / "run.pt"
    train(frozen(True), small, checkpoint=path, on_epoch=stopping(1))
    with pytest.raises(ValueError, match=r"its frozen is .*in eval mode \['2'\]"):
        train(frozen(False), small, checkpoint=path)
    assert train(frozen(True), small, checkpoint=path).frame["epoch"].tolist() == [1, 2, 3]


def test_a_network_of_the_same_text_and_another_size_is_another(small):
    class Shifted(nn.Sequential):
        def __init__(self, n):
            super().__init__(*net())
            self.shift = nn.Parameter(torch.zeros(n))

    one, other = (
        identity_of(Shifted(n), kd.CrossEntropy(), small, TINY, 0)["network"] for n in (1, 10)
    )
    assert one != other


def test_a_damaged_or_foreign_checkpoint_is_refused_with_its_name(small, tmp_path):
    path, foreign = tmp_path / "run.pt", tmp_path / "foreign.pt"
    train(net(), small, checkpoint=path)
    whole = path.read_bytes()
    torch.save(net().state_dict(), foreign)
    for content in (b"", b"no checkpoint", whole[: len(whole) // 2], foreign.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(
            ValueError,
            match=r"checkpoint .*run\.pt is damaged or was not written by fit; delete it",
        ):
            train(net(), small, checkpoint=path)
        assert path.read_bytes() == content
    with pytest.raises(ValueError, match="is a folder"):
        train(net(), small, checkpoint=tmp_path)


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


def test_a_write_that_fails_leaves_the_earlier_checkpoint_whole(small, tmp_path, monkeypatch):
    path, save, rows = tmp_path / "run.pt", torch.save, []

    def full(state, file):
        if len(state["rows"]) > 1:
            file.write(b"half of it")
            raise OSError(28, "no space left on device")
        save(state, file)

    whole = net()
    with monkeypatch.context() as broken:
        broken.setattr(torch, "save", full)
        with pytest.warns(UserWarning, match=r"run\.pt could not be written \(no space") as warned:
            train(whole, small, checkpoint=path, on_epoch=rows.append)
    assert len(warned) == 1  # not once an epoch
    assert len(rows) == 3  # the training goes on
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    resumed, one_go = net(), net()
    assert train(resumed, small, checkpoint=path).frame["epoch"].tolist() == [1, 2, 3]
    train(one_go, small)
    assert same(resumed, one_go)
    assert same(whole, one_go)


def test_a_disk_that_has_room_again_gets_the_next_checkpoint(small, tmp_path, monkeypatch):
    path, save = tmp_path / "run.pt", torch.save

    def full(state, file):
        if len(state["rows"]) == 1:  # what torch itself raises where its writer meets a full disk
            raise RuntimeError("unexpected pos 2240 vs 2198") from OSError(28, "no space left")
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.warns(UserWarning, match=r"could not be written \(no space left\)"):
        train(net(), small, checkpoint=path)
    assert len(torch.load(path, weights_only=True)["rows"]) == 3


def read_only(monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("file/run.pt", "File exists|Not a directory"),
        ("file/deep/er/run.pt", "Not a directory"),
        ("n" * 300, "File name too long"),
        ("run.pt", "Read-only file system"),
    ],
)
def test_a_place_that_cannot_hold_a_checkpoint_is_refused_before_training(
    small, tmp_path, monkeypatch, place, why
):
    (tmp_path / "file").touch()
    if place == "run.pt":
        read_only(monkeypatch)
    objective = plain()
    message = rf"checkpoint must be a file that can be written, but .* cannot \(({why})\)"
    with pytest.raises(ValueError, match=message):
        train(net(), small, objective=objective, checkpoint=tmp_path / place)
    assert objective.calls == 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_name_may_be_as_long_as_the_system_allows(small, tmp_path):
    train(net(), small, checkpoint=tmp_path / ("n" * 250))
    assert [len(path.name) for path in tmp_path.iterdir()] == [250]


def test_a_checkpoint_in_a_read_only_folder_is_read_and_gone_on_from(small, tmp_path, monkeypatch):
    path, one_go, resumed = tmp_path / "run.pt", net(), net()
    train(net(), small, checkpoint=path, on_epoch=stopping(2))
    train(one_go, small)
    read_only(monkeypatch)
    with pytest.warns(UserWarning, match="Read-only file system"):
        history = train(resumed, small, checkpoint=path)
    assert len(history.frame) == 3
    assert same(resumed, one_go)


@pytest.mark.parametrize("kind", [str, Path], ids=["text", "path"])
def test_a_tilde_in_the_checkpoints_path_is_the_readers_home(small, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # written there, and found there
        history = train(net(), small, checkpoint=kind("~/runs/run.pt"))
    assert len(history.frame) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert (tmp_path / "home" / "runs" / "run.pt").is_file()


def test_the_checkpoint_before_a_loss_that_is_not_finite_survives(small, tmp_path):
    def blow_up(self, terms, student, batch):
        return {"hard": terms["hard"] * (math.nan if self.calls == 9 else 1)}

    path, resumed, one_go = tmp_path / "run.pt", net(), net()
    with pytest.raises(FloatingPointError, match="in epoch 3"):
        train(net(), small, TINY, Altered(blow_up), checkpoint=path)
    assert [row["epoch"] for row in torch.load(path, weights_only=True)["rows"]] == [1, 2]
    train(resumed, small, TINY, plain(), checkpoint=path)
    train(one_go, small, TINY, plain())
    assert same(resumed, one_go)


def test_going_on_with_a_network_of_another_start_is_warned_of(small, tmp_path, recwarn):
    path = tmp_path / "run.pt"
    train(net(1), small, checkpoint=path, on_epoch=stopping(1))
    train(net(1), small, checkpoint=path, on_epoch=stopping(2))
    with pytest.warns(UserWarning, match=r"replaced by those of run\.pt"):
        train(net(2), small, checkpoint=path)
    train(net(1), small, checkpoint=path)  # what the file began with has stayed
    assert not [w for w in recwarn if "replaced" in str(w.message)]
