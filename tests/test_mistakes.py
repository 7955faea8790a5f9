"""Every mistake of the catalogue: one check that its right twin passes and that catches the wrong one."""

import copy
import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn

import kdlib as kd
from kdlib.data import Split
from kdlib.mistakes import MISTAKES

pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")

CHECKS = {}


def catches(*names):
    """The check below belongs to these mistakes."""

    def note(check):
        CHECKS.update(dict.fromkeys(names, check))
        return check

    return note


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_the_right_twin_passes_its_check(mistake):
    CHECKS[mistake.name](mistake.right)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_the_same_check_catches_the_wrong_twin(mistake):
    with pytest.raises(AssertionError):
        CHECKS[mistake.name](mistake.wrong)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_the_wrong_twin_is_called_exactly_as_the_right_one(mistake):
    right, wrong = (
        [(p.name, p.kind, p.default) for p in inspect.signature(twin).parameters.values()]
        for twin in (mistake.right, mistake.wrong)
    )
    assert right == wrong


def test_every_mistake_has_a_check_and_every_check_a_mistake():
    assert set(CHECKS) == {mistake.name for mistake in MISTAKES}


def test_names_are_unique_and_in_snake_case():
    names = [mistake.name for mistake in MISTAKES]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() and name.isidentifier() for name in names)


def test_every_mistake_has_a_symptom_and_a_source():
    for mistake in MISTAKES:
        assert mistake.symptom.endswith(".")
        assert mistake.source.startswith("seen in public code") or " issue" in mistake.source


@catches("kl_averaged_over_classes")
def the_classes_are_summed(loss):
    for classes in (3, 100):
        student, teacher = logits(classes), logits(classes, seed=1)
        assert float(loss(student, teacher, 4.0)) == pytest.approx(by_hand(student, teacher, 4))
    twice = loss(torch.cat([student, student], -1), torch.cat([teacher, teacher], -1), 4.0)
    assert float(twice) == pytest.approx(float(loss(student, teacher, 4.0)))


@catches("t_squared_forgotten")
def temperature_leaves_the_size_of_the_gradient(loss):
    student, teacher = 0.1 * logits(), 0.1 * logits(seed=1)
    sizes = [float(gradient(loss, student, teacher, T).norm()) for T in (4.0, 8.0, 16.0)]
    assert max(sizes) < 1.2 * min(sizes)


@catches("t_squared_on_one_path")
def the_loss_is_continuous_in_alpha(loss):
    arguments = logits(), logits(seed=1), torch.arange(6), 4.0
    for end, beside in ((0, 1e-9), (1, 1 - 1e-9)):
        assert float(loss(*arguments, end)) == pytest.approx(float(loss(*arguments, beside)))


@catches("mse_of_probabilities")
def the_gradient_is_t_times_the_difference_of_the_soft_targets(loss):
    student, teacher = logits(), logits(seed=1)
    for T in (1.0, 4.0, 20.0):
        expected = T * (softmax(student, T) - softmax(teacher, T)) / len(student)
        np.testing.assert_allclose(gradient(loss, student, teacher, T), expected, atol=1e-9)


@catches("thresholded_targets")
def the_targets_are_the_teachers_probabilities(targets):
    for T in (1.0, 20.0):
        np.testing.assert_allclose(targets(logits(), T), softmax(logits(), T), atol=1e-6)


@catches("temperature_on_one_side", "probabilities_as_kl_input", "log_probabilities_as_kl_target")
def it_is_zero_where_the_logits_agree_and_only_there(loss):
    for T in (2.0, 4.0, 20.0):
        assert abs(float(loss(logits(), logits(), T))) < 1e-9
        assert float(gradient(loss, logits(), logits(), T).abs().max()) < 1e-9
        assert float(loss(logits(), logits(seed=1), T)) > 0.01


@catches("teacher_trained_at_temperature")
def a_higher_temperature_gives_softer_targets(loss):
    labels = torch.tensor([0] * 8 + [1, 2])
    softness = {}
    for T in (1.0, 8.0):
        teacher = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        minimise(lambda z, T=T: loss(z.expand(10, 3), labels, T), teacher)  # to 0.8, 0.1, 0.1
        p = softmax(teacher.detach(), T)
        softness[T] = -(p * np.log(p)).sum()
    assert softness[1.0] == pytest.approx(0.639, abs=0.01)
    assert softness[8.0] > 1.05  # log 3 = 1.099 is the most there can be


@catches("softmax_before_cross_entropy")
def it_is_the_cross_entropy_of_the_logits(loss):
    student, labels = logits(), torch.arange(6)
    expected = -np.log(softmax(student, 1))[range(6), range(6)].mean()
    assert float(loss(student, labels)) == pytest.approx(expected)
    assert float(loss(torch.eye(10)[:6] * 50, labels)) < 1e-6


@catches("both_sides_are_the_teacher")
def the_soft_term_moves_the_student(loss):
    rest = logits(seed=1), torch.arange(6), 4.0
    assert float(gradient(loss, logits(), *rest, 1.0).norm()) > 0.1


@catches("alpha_reversed")
def alpha_weighs_the_teacher_and_the_rest_the_labels(loss):
    student, labels, others = logits(), torch.arange(6), torch.arange(6) + 1
    teachers = [logits(seed=1), logits(seed=2)]
    assert loss(student, teachers[0], labels, 4.0, 1.0) == loss(
        student, teachers[0], others, 4.0, 1.0
    )
    assert loss(student, teachers[0], labels, 4.0, 0.0) == loss(
        student, teachers[1], labels, 4.0, 0.0
    )


@catches("teacher_in_train_mode")
def asking_a_teacher_twice_gives_one_answer_and_changes_nothing(ask):
    teacher, before = network_and_state()
    first, second = ask(teacher, images(8)), ask(teacher, images(8))
    assert torch.equal(first, second)
    torch.testing.assert_close(first[:1], ask(teacher, images(8)[:1]))
    assert_unchanged(teacher, before)


@catches("shape_probe_in_train_mode")
def asking_for_a_shape_changes_no_buffer(shape_of):
    features = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.BatchNorm2d(3))
    before = copy.deepcopy(features.state_dict())
    assert shape_of(features, (1, 9, 7)) == (3, 4, 3)
    assert_unchanged(features, before)


@catches("evaluated_in_train_mode")
def scoring_is_repeatable_and_changes_nothing(count):
    model, before = network_and_state()
    labels = torch.arange(40) % 5
    found = copy.deepcopy(model).eval()(images(40)).argmax(-1)
    expected = sum(int(a) != int(b) for a, b in zip(found, labels, strict=True))
    assert count(model, images(40), labels) == expected
    assert_unchanged(model, before)


@catches("roles_swapped")
def only_the_student_moves(step):
    student, teacher = kd.models.mlp(4, 1, inputs=64), kd.models.mlp(32, 1, inputs=64)
    before = copy.deepcopy(student.state_dict()), copy.deepcopy(teacher.state_dict())
    assert math.isfinite(step(student, teacher, images(8), torch.arange(8)))
    assert_unchanged(teacher, before[1])
    assert all(not torch.equal(w, before[0][name]) for name, w in student.state_dict().items())


@catches("frozen_by_its_evaluation")
def every_epoch_trains_in_train_mode(train):
    model, _ = network_and_state()
    assert train(model, images(20), torch.arange(20) % 5, 3) == [True, True, True]
    assert int(model[1].num_batches_tracked) == 3


@catches("targets_by_position")
def cached_targets_follow_the_sample(batches):
    assert_targets_of_their_inputs(lambda teacher, split: batches(teacher, split, seed=0))


@catches("cached_despite_augmentation")
def targets_belong_to_the_view(batches):
    assert_targets_of_their_inputs(
        lambda teacher, split: batches(teacher, split, kd.data.shift(2), seed=0)
    )


@catches("chosen_by_test")
def the_test_scores_do_not_choose(choose):
    validation = [30, 20, 10, 15]
    assert choose(validation, [33, 22, 14, 12]) == (3, 14)
    assert choose(validation, [1, 1, 99, 1]) == (3, 99)


@catches("best_never_updated")
def a_worse_epoch_does_not_overwrite_a_better_one(kept):
    assert kept([0.5, 0.9, 0.7, 0.8]) == 2
    assert kept([0.5, 0.7, 0.9]) == 3


def assert_targets_of_their_inputs(batches):
    """Each batch's targets are what the teacher says when shown its inputs."""
    teacher, _ = network_and_state()
    everything = Split(images(60), torch.arange(60) % 5, torch.arange(60))
    split = everything.select(torch.arange(59, 10, -1))  # rows and index differ
    pairs = batches(teacher, split)
    assert len(pairs) == 3
    teacher.eval()
    for inputs, targets in pairs:
        torch.testing.assert_close(targets, teacher(inputs).detach())


def assert_unchanged(model, before):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def network_and_state():
    """A small network with BatchNorm and dropout, as it is born: in train mode."""
    with kd.seeded(0):
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 5)
        )
    return network, copy.deepcopy(network.state_dict())


def images(n):
    return 3 * torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(n)) + 1


def logits(classes=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(6, classes, generator=generator, dtype=torch.float64)


def gradient(loss, student, *rest):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest), student)[0]


def minimise(loss, z):
    optimizer = torch.optim.LBFGS([z], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(z)
        value.backward()
        return value

    optimizer.step(closure)


def softmax(z, T):
    e = np.exp(z.double().numpy() / T)
    return e / e.sum(-1, keepdims=True)


def by_hand(student, teacher, T):
    """T^2 times the mean over rows of the sum over classes of p log(p / q)."""
    q, p = softmax(student, T), softmax(teacher, T)
    return (
        T**2
        * sum(
            p[n, c] * math.log(p[n, c] / q[n, c]) for n in range(len(p)) for c in range(p.shape[1])
        )
        / len(p)
    )
