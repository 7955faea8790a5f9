"""What the tests of training share."""

from pathlib import Path

import pandas as pd
import torch
from torch import nn

import kdlib as kd
from kdlib.identity import weights_hash

TINY = kd.Recipe(epochs=3, batch_size=50, precision="float32")


RICH = {  # everything that has a state or a draw of its own
    "epochs": 5,
    "batch_size": 50,
    "augment": kd.data.shift(2),
    "keep": "best",
    "precision": "float32",
    "max_norm": 2.0,
}


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


def worse_later(self, terms, student, batch):
    """Learning until 60 % are done, then the reverse."""
    return {"hard": terms["hard"] * (1.0 if batch.progress < 0.6 else -3.0)}


def stopping(epoch):
    def stop(row):
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    return stop


def without_seconds(history):
    return history.frame.drop(columns="seconds")


def assert_resumes(build, data, recipe, path, at, objective=kd.CrossEntropy):
    """Interrupted after epoch ``at`` and resumed, a training is bit for bit the one in one go."""
    one_go, model, later = build(), build(), []
    objectives = [objective() for _ in range(3)]
    whole = train(one_go, data, recipe, objectives[0], seed=2)
    options = {"seed": 2, "checkpoint": path}
    begun = train(build(), data, recipe, objectives[1], on_epoch=stopping(at), **options)
    assert begun.interrupted
    assert begun.frame["epoch"].tolist() == list(range(1, at + 1))
    torch.randn(100)
    note = lambda row: later.append(row["epoch"])
    resumed = train(model, data, recipe, objectives[2], on_epoch=note, **options)
    assert not resumed.interrupted
    assert later == list(range(at + 1, recipe.epochs + 1))
    pd.testing.assert_frame_equal(resumed.frame[:at], begun.frame)
    pd.testing.assert_frame_equal(
        without_seconds(resumed), without_seconds(whole), check_exact=True
    )
    assert same(model, one_go)
    assert not any(modes(model))
    return whole, objectives


def kept_files(suffix=".safetensors"):
    return sorted((Path(torch.hub.get_dir()) / "kdlib" / "kept").glob(f"*{suffix}"))
