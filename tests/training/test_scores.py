"""evaluate and fidelity, against scikit-learn and numpy in float64."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch import nn
from training_helpers import TINY, modes, net, normed, train

import kdlib as kd
from kdlib.data import Split
from kdlib.identity import weights_hash


def calibration_oracle(p, labels, bins=15):
    confidence, right = p.max(1), p.argmax(1) == labels
    total = 0.0
    for b in range(bins):
        inside = (confidence >= b / bins) & ((confidence < (b + 1) / bins) | (b == bins - 1))
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def mean_probabilities(models, split):
    """(N, C), in float64."""
    with torch.no_grad():
        z = [copy.deepcopy(m).eval().double()(split.inputs.double()).numpy() for m in models]
    p = [np.exp(one - one.max(1, keepdims=True)) for one in z]
    return np.mean([one / one.sum(1, keepdims=True) for one in p], axis=0)


@pytest.fixture(scope="module")
def trained(small):
    """Five networks, each trained for longer than the one before."""
    models = [net(seed) for seed in range(5)]
    for seed, model in enumerate(models):
        train(model, small, replace(TINY, epochs=1 + 4 * seed), seed=seed)
    return models


@pytest.mark.parametrize("members", [0, slice(4, 5), slice(0, 3)], ids=str)
def test_scores_are_those_of_the_mean_probabilities(trained, digits, members):
    asked, split = trained[members], digits.train
    models = asked if isinstance(asked, list) else [asked]
    assert len(split) > 1000  # more than are read at once
    labels, p = split.labels.numpy(), mean_probabilities(models, split)
    scores = kd.evaluate(asked, split)
    assert scores.accuracy == pytest.approx(accuracy_score(labels, p.argmax(1)))
    assert scores.errors == int((p.argmax(1) != labels).sum())
    assert isinstance(scores.errors, int)
    assert scores.loss == pytest.approx(log_loss(labels, p, labels=range(10)), rel=1e-5)
    assert scores.perplexity == pytest.approx(math.exp(scores.loss))
    assert scores.ece == pytest.approx(calibration_oracle(p, labels), rel=1e-4)
    assert scores.ece > 0.01


def fixed(*logits):
    """A network that answers with these logits (N, C), and the split that asks for them."""
    logits, model = torch.tensor(logits), nn.Linear(1, 1)
    model.forward = lambda inputs: logits[inputs.long().flatten()]
    n = len(logits)
    return model, Split(torch.arange(n).float()[:, None], torch.zeros(n).long(), torch.arange(n))


def test_calibration_error_is_0_for_a_network_that_is_right_as_often_as_it_is_confident():
    often = [math.log(0.75), math.log(0.25)]
    assert kd.evaluate(*fixed(often, often, often, often[::-1])).ece == pytest.approx(0, abs=1e-6)
    sure = kd.evaluate(*fixed([100.0, 0.0], [0.0, 100.0]))
    assert sure.ece == pytest.approx(0.5)
    assert sure.loss == pytest.approx(50)
    assert kd.evaluate(*fixed([0.0] * 7)).perplexity == pytest.approx(7)


def test_every_modules_mode_is_put_back_and_no_buffer_moves(digits):
    models = [normed(seed).train() for seed in (1, 2, 3)]
    models[0][2].eval()
    before = [(modes(model), weights_hash(model)) for model in models]

    def results():
        student, *teachers = models
        return kd.evaluate(models, digits.test), kd.fidelity(student, teachers, digits.test)

    found = results()
    assert [(modes(model), weights_hash(model)) for model in models] == before
    assert results() == found  # no dropout
    for model in models:
        model.eval()
    assert results() == found


def test_evaluate_refuses_what_cannot_be_scored(digits):
    with pytest.raises(ValueError, match="split must have labels"):
        kd.evaluate(net(), digits.test.unlabelled())
    with pytest.raises(ValueError, match="labels must be class numbers from 0 to 2, got 9"):
        kd.evaluate(kd.models.mlp(4, classes=3), digits.test)


@pytest.mark.parametrize("students", [1, 3])
@pytest.mark.parametrize("teachers", [1, 2])
def test_fidelity_goes_from_the_teachers_to_the_students_mean_probabilities(
    trained, digits, students, teachers
):
    pupils, taught = trained[:students], trained[-teachers:]
    q, p = (mean_probabilities(models, digits.test) for models in (pupils, taught))
    found = kd.fidelity(
        pupils if students > 1 else pupils[0], taught if teachers > 1 else taught[0], digits.test
    )
    assert found.agreement == (p.argmax(1) == q.argmax(1)).mean()
    divergence, back = (p * np.log(p / q)).sum(1).mean(), (q * np.log(q / p)).sum(1).mean()
    assert found.divergence == pytest.approx(divergence, rel=1e-4)
    assert 0 < found.agreement < 1
    assert abs(divergence - back) > 0.01  # its direction matters
    assert (type(found.agreement), type(found.divergence)) == (float, float)
    unlabelled = digits.test.unlabelled()
    assert kd.fidelity(pupils, taught, unlabelled) == kd.fidelity(pupils, taught, digits.test)


def test_fidelity_at_logits_of_a_thousand_is_finite():
    student, split = fixed([1000.0, -1000.0], [-1000.0, 1000.0])
    teacher, _ = fixed([-1000.0, 1000.0], [-1000.0, 1000.0])
    assert kd.fidelity(student, teacher, split) == kd.Fidelity(0.5, 1000.0)
    assert kd.fidelity(student, student, split) == kd.Fidelity(1.0, 0.0)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ([], ValueError, "must be a network or a list of at least one, got an empty list"),
        (3, TypeError, "must be a network or a list of networks, got 3"),
        ([net(), "other"], TypeError, "must be a network or a list of networks, got 'other'"),
    ],
)
def test_what_is_not_a_network_is_refused_by_name(digits, bad, error, message):
    for name, call in (
        ("model", lambda: kd.evaluate(bad, digits.test)),
        ("student", lambda: kd.fidelity(bad, net(), digits.test)),
        ("teacher", lambda: kd.fidelity(net(), bad, digits.test)),
    ):
        with pytest.raises(error, match=f"{name} {message}"):
            call()


def test_what_is_not_a_split_is_refused(digits):
    for call in (lambda: kd.evaluate(net(), digits), lambda: kd.fidelity(net(), net(), digits)):
        with pytest.raises(TypeError, match="split must be a Split such as data.test.*got Data"):
            call()
