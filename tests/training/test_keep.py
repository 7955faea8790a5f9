"""keep: a training is done once, and loaded whenever the same one is asked for."""

import functools
import os
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from training_helpers import TINY, Altered, kept_files, modes, net, normed, plain, same, train

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
