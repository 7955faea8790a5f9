"""evaluate and fidelity, against scikit-learn and numpy in float64."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
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


def test_a_network_with_too_few_classes_cannot_be_scored(small):
    with pytest.raises(ValueError, match="labels must be class numbers from 0 to 2, got 9"):
        kd.evaluate(kd.models.mlp(4, classes=3), small.test)
