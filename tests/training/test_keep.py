"""keep: a training is done once, and loaded whenever the same one is asked for."""

import copy
import functools
import re
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from safetensors.torch import save
from stateful import STORED, Attribute, ExtraState, OutsideTheState
from torch import nn
from torch.nn import functional as F
from training_helpers import (
    TINY,
    Altered,
    kept_files,
    modes,
    net,
    normed,
    plain,
    same,
    stopping,
    train,
)

import kdlib as kd


def build(seed):
    return net(seed, dropout=0.2)


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


def kept(small, build=build, objective=None, data=lambda data: data, recipe=TINY, seed=3):
    return kd.keep(build, objective or kd.CrossEntropy(), data(small), recipe, seed=seed)


OTHERS = {
    "recipe": {"recipe": replace(TINY, learning_rate=0.02)},
    "keep": {"recipe": replace(TINY, keep="best")},
    "seed": {"seed": 4, "build": lambda seed: build(3)},
    "length": {"data": lambda data: data.limit(199)},
    "order": {"data": lambda d: replace(d, train=d.train.select(torch.arange(200).roll(1)))},
    "validation": {"data": lambda d: replace(d, validation=d.validation.select(slice(50)))},
    "objective": {"objective": kd.CrossEntropy(0.1)},
    "start": {"build": lambda seed: build(8)},
    "dropout": {"build": lambda seed: net(seed, dropout=0.3)},
    "width": {"build": lambda seed: net(seed, dropout=0.2, width=17)},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_keep_trains_anew_when_anything_is_another(small, capsys, other):
    kept(small)
    capsys.readouterr()
    kept(small, **other)
    assert "trained in" in capsys.readouterr().out
    assert len(kept_files()) == 2
    kept(small, **other), kept(small)
    assert capsys.readouterr().out.count("loaded") == 2


def test_keep_tells_a_network_with_frozen_layers_from_one_without(small, capsys):
    def frozen(seed):
        network = build(seed)
        network[-1].requires_grad_(False)
        return network

    begun = build(3)[-1].weight.clone()
    assert not torch.equal(kept(small)[-1].weight, begun)
    assert torch.equal(kept(small, build=frozen)[-1].weight, begun)
    assert "loaded" not in capsys.readouterr().out


class Acting(nn.Module):
    """A network whose layers and repr are the same for every activation and scale."""

    def __init__(self, act=F.relu, scale=1.0, seed=3):
        super().__init__()
        with kd.seeded(seed):
            self.first, self.second = nn.Linear(784, 16), nn.Linear(16, 10)
        self.act, self._scale = act, scale

    def forward(self, x):
        return self.second(self._scale * self.act(self.first(x.flatten(1))))


class Forgetful(Acting):
    def forward(self, x):
        return self.second(self._scale * self.first(x.flatten(1)))


def with_hook():
    model = Acting()
    model.first.register_forward_hook(lambda layer, given, answer: 2 * answer)
    return model


def with_method():
    model = Acting()
    model.forward = lambda x: Forgetful.forward(model, x)
    return model


def shared(copies):
    first = nn.Linear(16, 16)
    with torch.no_grad():
        first.weight.copy_(torch.eye(16))
    second = copy.deepcopy(first) if copies else first
    return nn.Sequential(*net(3)[:3], first, second, nn.Linear(16, 10))


def test_layers_that_are_shared_are_not_the_same_as_copies(small, capsys):
    kept(small, lambda: shared(False)), kept(small, lambda: shared(True))
    assert capsys.readouterr().out.count("stored") == 2


class Noting(Acting):
    """A network that notes features, and computes something once."""

    @functools.cached_property
    def sizes(self):
        return [16]

    def forward(self, x):
        self.feature = self.act(self.first(x.flatten(1)))[:, : self.sizes[0]]
        self.seen = x
        return self.second(self.feature)


def test_a_network_that_notes_its_features_is_kept_and_resumed(small, tmp_path, capsys):
    kept(small, Noting), kept(small, Noting)
    assert capsys.readouterr().out.count("loaded") == 1
    model, one_go = Noting(), Noting()
    train(model, small, checkpoint=tmp_path / "run.pt", on_epoch=stopping(1))
    train(model, small, checkpoint=tmp_path / "run.pt")
    train(one_go, small)
    assert same(model, one_go)


OF_OTHER_CODE = {
    "another activation": lambda: Acting(torch.sin),
    "another function of the reader": lambda: Acting(lambda x: x.relu() - 0.1),
    "another number": lambda: Acting(scale=2.0),
    "another forward": Forgetful,
    "a hook": with_hook,
    "a forward of its own": with_method,
}


@pytest.mark.parametrize("other", OF_OTHER_CODE.values(), ids=OF_OTHER_CODE)
def test_keep_trains_anew_where_only_the_networks_code_or_an_attribute_is_another(
    small, capsys, other
):
    kept(small, Acting)
    expected = other()
    train(expected, small, seed=3)
    assert same(kept(small, other), expected) and not same(kept(small, Acting), expected)
    assert same(kept(small, other), expected)
    assert capsys.readouterr().out.count("stored") == 2


@pytest.mark.parametrize("first", OF_OTHER_CODE, ids=OF_OTHER_CODE)
def test_a_checkpoint_of_a_network_of_other_code_is_refused(small, tmp_path, first):
    train(OF_OTHER_CODE[first](), small, checkpoint=tmp_path / "run.pt", on_epoch=stopping(1))
    with pytest.raises(ValueError, match="belongs to another training: its network"):
        train(Acting(), small, checkpoint=tmp_path / "run.pt")


WEIGHTS = {  # of the second part of a sum; alike at 0, 1/4, 1/2 and 3/4
    "a closure": lambda end: lambda p: 1.0 if p < end else 0.0,
    "a partial": lambda end: functools.partial(lambda end, p: float(p < end), end),
    "an object": lambda end: Until(end),
    "a method": lambda end: Until(end).at,
    "a curve of numpy's": lambda end: lambda p: float(np.interp(p, [0, end], [1, 0])),
}


class Until:
    def __init__(self, end):
        self._end = end

    def __call__(self, progress):
        return float(progress < self._end)

    at = __call__


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_change_at_other_times_are_other_trainings(small, weight):
    teacher = net(5)
    ends = (0.05, 0.1, 0.2)
    sums = [kd.CrossEntropy() + weight(end) * kd.LogitMatching(teacher) for end in ends]
    assert len({one.key for one in sums}) == 3
    assert sums[0].key == (kd.CrossEntropy() + weight(0.05) * kd.LogitMatching(teacher)).key


@pytest.mark.parametrize("make", STORED.values(), ids=STORED)
def test_a_network_is_kept_with_all_that_training_changed(small, capsys, make):
    recipe = replace(TINY, learning_rate=0.5)
    first, second = (kept(small, lambda: make(), recipe=recipe) for _ in range(2))
    assert torch.equal(kd.logits(first, small.test), kd.logits(second, small.test))
    known = "is not a dense tensor" if make is ExtraState else "loaded"
    assert capsys.readouterr().out.splitlines()[1].count(known) == 1


def test_a_network_whose_attributes_training_changes_is_returned_and_not_kept(small, capsys):
    trained = kept(small, Attribute)
    assert trained._count == 12 and not kept_files()
    assert "and not kept: training changes an attribute of the network" in capsys.readouterr().out


def test_the_best_epochs_network_is_given_back_with_its_buffers(small):
    model, recipe = OutsideTheState(), replace(TINY, epochs=6, learning_rate=0.5, keep="best")
    losses = train(model, small, recipe).frame["validation_loss"]
    assert losses.idxmin() < 5
    assert kd.evaluate(model, small.validation).loss == losses.min()


def test_keep_does_not_mind_another_test_split(small, capsys):
    kept(small)
    kept(small, data=lambda data: replace(data, test=None))
    assert capsys.readouterr().out.count("loaded") == 1


class Plain(nn.Sequential):
    """A network that knows no seed."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))


@pytest.mark.parametrize(
    ("builder", "start"),
    [
        (lambda seed: net(seed), lambda: net(3)),
        (lambda s: net(s), lambda: net(3)),
        (functools.partial(kd.models.mlp, 8), lambda: kd.models.mlp(8, seed=3)),
        (lambda width=8, seed=0: net(seed, width=width), lambda: net(3, width=8)),
        (lambda width=8: net(1, width=width), lambda: net(1, width=8)),
        (lambda: net(1), lambda: net(1)),
        (Plain, Plain),
    ],
)
def test_a_builder_gets_the_seed_if_it_takes_one_and_draws_from_it_anyway(
    small, capsys, builder, start
):
    with kd.seeded(3):
        expected = start()
    train(expected, small, replace(TINY, epochs=1), seed=3)
    for _ in range(2):
        torch.rand(3)
        assert same(kept(small, builder, recipe=replace(TINY, epochs=1)), expected)
    trained, loaded = capsys.readouterr().out.splitlines()
    assert trained.startswith("trained in")
    assert loaded.startswith("loaded")


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
        lambda whole: save({"weight": torch.zeros(3)}),
    ],
    ids=["empty", "short", "one bit", "foreign"],
)
def test_a_damaged_stored_network_is_refused_with_its_name(small, damage):
    kept(small)
    (path,) = kept_files()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"(?s)\.safetensors is damaged.*delete it"):
        kept(small)
    path.unlink()
    kept(small)


def test_what_another_process_trains_is_waited_for_and_loaded(small, capsys, monkeypatch):
    """The other process is a thread here that holds the same lock."""
    tried, asked, held = [], threading.Event(), threading.Event()

    def locked(self, terms, student, batch):
        (lock,) = kept_files(".lock")
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(lock, timeout=0).acquire()
        tried.append(lock)
        return terms

    objective = Altered(locked)
    first = kept(small, objective=objective)
    assert len(tried) == 12
    (path,) = kept_files()
    whole = path.read_bytes()
    path.unlink()

    def train_elsewhere():
        with filelock.FileLock(tried[0]):
            held.set()
            asked.wait(60)
            path.write_bytes(whole)

    class Asked(filelock.FileLock):
        def acquire(self, *arguments, **options):
            asked.set()
            return super().acquire(*arguments, **options)

    other = threading.Thread(target=train_elsewhere)
    other.start()
    held.wait(60)
    monkeypatch.setattr(filelock, "FileLock", Asked)
    second = kept(small, objective=objective)
    asked.set()
    other.join()
    assert len(tried) == 12
    assert same(first, second)
    assert capsys.readouterr().out.count("loaded") == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_training_that_does_not_end_stores_nothing_and_can_be_asked_for_again(
    small, capsys, error
):
    def stop(self, terms, student, batch):
        if self.calls == 6:
            raise error
        return terms

    objective = Altered(stop)
    with pytest.raises(error):
        kept(small, objective=objective)
    assert kept_files() == []
    kept(small, objective=objective)
    assert "trained in" in capsys.readouterr().out


def nowhere(monkeypatch, tmp_path, how):
    """Make torch's cache folder a place where nothing can be stored."""
    if how == "a file on the way":
        (tmp_path / "file").touch()
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file" / "home"))
        return "Not a directory|File exists"
    error = OSError(28, "No space left on device")
    if how == "no locks":
        error = NotImplementedError("this file system has no locks")

    class Refusing(filelock.FileLock):
        def acquire(self, *arguments, **options):
            raise error

    if how == "full afterwards":
        monkeypatch.setattr(tempfile, "mkdtemp", Refusing("unused").acquire)
    else:
        monkeypatch.setattr(filelock, "FileLock", Refusing)
    return re.escape(getattr(error, "strerror", None) or str(error))


@pytest.mark.parametrize("how", ["a file on the way", "full before", "no locks", "full afterwards"])
def test_what_cannot_be_stored_is_trained_and_returned_with_a_warning(
    small, tmp_path, monkeypatch, capsys, how
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    why = nowhere(monkeypatch, tmp_path, how)
    with pytest.warns(UserWarning, match=rf"could not be stored in .*kept \(({why})\).*TORCH_HOME"):
        model = kept(small)
    expected = build(3)
    train(expected, small, seed=3)
    assert same(model, expected)
    assert not any(modes(model))
    assert "and not kept" in capsys.readouterr().out
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] in ([], [""], [".lock"])


def test_half_a_stored_network_does_not_stay_behind(small, monkeypatch):
    import safetensors.torch

    def half(numbers, path, metadata):
        Path(path).write_bytes(b"half of it")
        raise safetensors.SafetensorError("I/O error: File too large")

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with pytest.warns(UserWarning, match="File too large.*TORCH_HOME"):
        kept(small)
    assert kept_files() == []
    monkeypatch.undo()


def test_an_error_of_the_training_is_not_taken_for_a_full_disk(small):
    def refuse(self, terms, student, batch):
        raise OSError("the reader's own file is missing")

    with pytest.raises(OSError, match="own file is missing"):
        kept(small, objective=Altered(refuse))


def test_a_network_in_a_read_only_cache_is_loaded(small, monkeypatch, capsys, recwarn):
    first = kept(small)
    nowhere(monkeypatch, None, "full before")
    assert same(kept(small), first)
    assert "loaded" in capsys.readouterr().out
    assert not [w for w in recwarn if "TORCH_HOME" in str(w.message)]


@pytest.mark.parametrize("frozen", [lambda net: net[1:3], lambda net: net[2]])
def test_a_body_that_was_frozen_in_eval_mode_is_another_than_one_in_train_mode(
    small, capsys, frozen
):
    def build(mode):
        network = normed(3)
        frozen(network).requires_grad_(False).train(mode)
        return network

    train_or_load = lambda mode: kd.keep(lambda: build(mode), kd.CrossEntropy(), small, TINY)
    one, other = train_or_load(False), train_or_load(True)
    assert capsys.readouterr().out.count("trained in") == 2
    assert torch.equal(one[2].running_mean, normed(3)[2].running_mean)
    assert not torch.equal(one[2].running_mean, other[2].running_mean)
