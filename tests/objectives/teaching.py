"""Networks, batches and spies that the tests of the objectives share."""

import copy
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn

import kdlib as kd
from kdlib.losses import soft_target_loss
from kdlib.objectives import Outputs

close = torch.testing.assert_close
ONCE = kd.Recipe(epochs=1, precision="float32", batch_size=32)
SHIFTED = replace(ONCE, augment=kd.data.shift(2))
every_view = pytest.mark.parametrize("recipe", [ONCE, SHIFTED], ids=["fixed views", "random views"])


def small(seed=0):
    return kd.models.mlp(16, depth=1, seed=seed)


def fussy(seed=0):
    """A network whose outputs depend on its mode, and whose buffers move in train mode."""
    with kd.seeded(seed):
        layers = [nn.Linear(784, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5)]
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(32, 10)).train()


def maps(seed=0, width=4):
    """Maps (width, 28, 28), then (2 * width, 14, 14), then logits; buffers move in train mode."""
    with kd.seeded(seed):
        low = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        high = nn.Conv2d(width, 2 * width, 3, 2, padding=1), nn.BatchNorm2d(2 * width)
        return nn.Sequential(
            OrderedDict(
                low=low,
                high=nn.Sequential(*high),
                top=nn.Conv2d(2 * width, 6, 3),
                norm=nn.BatchNorm2d(6),
                flat=nn.Flatten(),
                head=nn.Linear(6 * 12 * 12, 10),
            )
        )


@torch.no_grad()
def fresh(teacher, inputs):
    """The outputs of a copy of the teacher, in eval mode."""
    return copy.deepcopy(teacher).eval()(inputs)


@torch.no_grad()
def features_of(network, inputs, *names):
    """The same for features, by running one module after another."""
    features, x = {}, inputs
    for name, module in copy.deepcopy(network).eval().named_children():
        features[name] = x = module(x)
    return {name: features[name] for name in names}


def batch_of(split, rows, progress=0.0):
    labels = None if split.labels is None else split.labels[rows]
    return kd.Batch(split.inputs[rows], labels, split.index[rows], progress, torch.Generator())


def student_of(batch, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return Outputs(torch.randn(len(batch.inputs), 10, generator=generator) * 3)


def prepared(objective, data, recipe=ONCE, student=None):
    objective.prepare(student or small(), data.train, recipe)
    return objective


def trained(objective, data, recipe=ONCE, student=None, **options):
    student = student or small()
    return student, kd.fit(student, objective, data, recipe, progress=False, **options)


class Spy:
    """Lets another objective do its work, and records its arguments, terms and targets."""

    key = "spy"

    def __init__(self, objective):
        self.objective, self.seen = objective, []
        self.prepare, self.taps = objective.prepare, objective.taps

    @property
    def module(self):
        return self.objective.module

    def __call__(self, student, batch):
        terms = self.objective(student, batch)
        logits = None if student.logits is None else student.logits.detach()
        self.seen.append((logits, batch, terms, self.objective._source(batch)))
        return terms


def assert_taught_by(teacher, spy, T=4):
    """Every soft term seen is the one with a fresh pass of the teacher over the same inputs."""
    assert spy.seen
    for logits, batch, terms, _ in spy.seen:
        expected = soft_target_loss(logits, fresh(teacher, batch.inputs), T)
        close(terms["soft"].detach(), spy.objective.alpha * expected, rtol=1e-4, atol=1e-5)


def state_of(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_equal(one, other):
    close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
