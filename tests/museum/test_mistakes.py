"""One check for every mistake of the museum: the right twin passes it, the wrong one does not."""

import copy
import inspect
import math
import pkgutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kdlib as kd
from kdlib.course import museum
from kdlib.course.grading.observe import observe
from kdlib.course.museum.check import check_test
from kdlib.course.museum.mistakes import MISTAKES
from kdlib.course.museum.story import stories_in
from kdlib.data import Split

CHECKS = {}


def catches(*names):
    """Note the check below as the one for these mistakes."""

    def note(check):
        CHECKS.update(dict.fromkeys(names, check))
        return check

    return note


every_mistake = pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)


@every_mistake
def test_its_check_passes_on_the_right_twin_and_fails_on_the_wrong_one(mistake):
    report = check_test(mistake.name, CHECKS[mistake.name])
    assert report.passed and not report.mistakes, report


@every_mistake
def test_a_wrong_twin_is_called_exactly_as_the_right_one(mistake):
    right, wrong = (
        [(p.name, p.kind, p.default) for p in inspect.signature(twin).parameters.values()]
        for twin in (mistake.right, mistake.wrong)
    )
    assert right == wrong


def test_every_mistake_has_a_check_a_symptom_and_a_source():
    assert sorted(mistake.name for mistake in MISTAKES) == sorted(CHECKS)
    for mistake in MISTAKES:
        assert mistake.name.islower()
        assert mistake.symptom.endswith(".")
        assert mistake.source.startswith("seen in public code") or " issue" in mistake.source


def test_no_theme_of_the_museum_is_left_out():
    names = (name for _, name, _ in pkgutil.iter_modules(museum.__path__, f"{museum.__name__}."))
    told = [story for name in names for story in stories_in(import_module(name))]
    assert {*told} == {*MISTAKES}


@catches("kl_averaged_over_classes", "t_squared_forgotten", "mse_of_probabilities")
@catches("temperature_on_one_side", "probabilities_as_kl_input", "log_probabilities_as_kl_target")
def it_is_t_squared_times_the_divergence_summed_over_classes(loss):
    student, teacher = logits(), logits(seed=1)
    for T in (1.0, 4.0, 20.0):
        q, p = softmax(student, T), softmax(teacher, T)
        expected = T**2 * (p * np.log(p / q)).sum(-1).mean()
        assert float(loss(student, teacher, T)) == pytest.approx(expected)
        slope = gradient(loss, student, teacher, T)
        np.testing.assert_allclose(slope, T * (q - p) / len(student), atol=1e-9)


@catches("t_squared_on_one_path", "both_sides_are_the_teacher", "alpha_reversed")
def alpha_weighs_the_divergence_and_the_rest_the_cross_entropy(loss):
    student, teacher, labels = logits(), logits(seed=1), torch.arange(6)
    q, p = softmax(student, 4), softmax(teacher, 4)
    soft = 16 * (p * np.log(p / q)).sum(-1).mean()
    hard = -np.log(softmax(student, 1))[range(6), range(6)].mean()
    for alpha in (0.0, 0.3, 1.0):
        expected = alpha * soft + (1 - alpha) * hard
        assert float(loss(student, teacher, labels, 4.0, alpha)) == pytest.approx(expected)


@catches("thresholded_targets")
def the_targets_are_the_teachers_probabilities(targets):
    for T in (1.0, 20.0):
        np.testing.assert_allclose(targets(logits(), T), softmax(logits(), T), atol=1e-6)


@catches("teacher_trained_at_temperature")
def the_best_teacher_is_the_same_at_every_temperature(loss):
    frequencies = torch.tensor([0.8, 0.1, 0.1], dtype=torch.float64)
    labels = torch.tensor([0] * 8 + [1, 2])
    for T in (1.0, 8.0):  # the loss is convex: its minimum is where the gradient is zero
        slope = gradient(lambda z, T=T: loss(z.expand(10, 3), labels, T), frequencies.log())
        assert float(slope.abs().max()) < 1e-9


@catches("softmax_before_cross_entropy")
def it_is_the_cross_entropy_of_the_logits(loss):
    student, labels = logits(), torch.arange(6)
    expected = -np.log(softmax(student, 1))[range(6), range(6)].mean()
    assert float(loss(student, labels)) == pytest.approx(expected)
    assert float(loss(torch.eye(10)[:6] * 50, labels)) < 1e-6


@catches("teacher_in_train_mode")
def asking_a_teacher_twice_gives_one_answer_and_changes_nothing(ask):
    teacher, before = network_and_state()
    first = ask(teacher, images(8))
    assert torch.equal(first, ask(teacher, images(8)))
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
    shift = kd.data.shift(2)
    assert_targets_of_their_inputs(lambda teacher, split: batches(teacher, split, shift, seed=0))


@catches("regressor_not_in_the_optimizer", "no_regressor")
def a_thin_student_and_its_regressor_learn_from_a_wide_hint(step):
    (guided, regressor), before = guided_and_regressor(), guided_and_regressor()
    inputs, hint = maps(8, 1), maps(8, 5, size=6)
    losses = [step(guided, regressor, inputs, hint) for _ in range(6)]
    assert losses[-1] < losses[0]
    for module, start in zip((guided, regressor), before, strict=True):
        assert not torch.equal(module.weight, start.weight)


@catches("regressor_on_the_teachers_side")
def a_student_that_sees_nothing_cannot_match_a_hint(reached):
    with kd.seeded(0):
        sees, blind, teacher = nn.Linear(6, 3), nn.Threshold(math.inf, 0.0), nn.Linear(6, 4)
    inputs = maps(50, 6).mean((2, 3))
    spread = teacher(inputs).var(0, correction=0).sum().item() / 2  # what knowing the mean leaves
    assert reached(nn.Sequential(sees, blind), teacher, inputs, 300) > 0.99 * spread


@catches("hint_trains_the_teacher")
def the_hint_is_a_constant(loss):
    guided, hint = (maps(3, 2, seed=seed).requires_grad_() for seed in (0, 1))
    loss(guided, hint).backward()
    torch.testing.assert_close(guided.grad, (guided - hint).detach() / 3)
    assert hint.grad is None


@catches("stacked_matrices", "column_norms_not_squared", "distance_of_the_whole_batch")
@catches("batch_divided_twice", "adapters_dropped_afterwards")
def it_is_the_squared_distance_of_the_matrices_of_each_image(loss):
    def matrix(first, second):
        pooled = nn.functional.max_pool2d(first, first.shape[-1] // second.shape[-1])
        return torch.einsum("nihw,njhw->nij", pooled, second) / second[0, 0].numel()

    student, teacher = pairs_of_maps(0), pairs_of_maps(1)
    gaps = [matrix(*s) - matrix(*t) for s, t in zip(student, teacher, strict=True)]
    expected = sum(gap.square().sum((1, 2)).mean() for gap in gaps)
    torch.testing.assert_close(loss(student, teacher), expected)


@catches("average_pool")
def the_larger_map_gives_its_maxima(matrix):
    large = torch.tensor([[1.0, 2, 0, 0], [3, 4, 0, 5], [0, 0, 1, 1], [0, -8, 1, 1]])[None, None]
    small = torch.tensor([[1.0, 10], [100, 1000]])[None, None]
    assert matrix(large, small).item() == (4 + 50 + 0 + 1000) / 4
    assert matrix(small, large).item() == (4 + 50 + 0 + 1000) / 4


@catches("broadcast_product")
def no_tensor_is_larger_than_the_arguments_and_the_result(matrix):
    first, second = maps(2, 16, size=8), maps(2, 32, size=8)
    seen = observe(matrix, {"first": first, "second": second}, size=True)
    torch.testing.assert_close(seen.value, torch.einsum("nihw,njhw->nij", first, second) / 64)
    assert seen.largest <= max(first.numel(), second.numel(), seen.value.numel())


@catches("weights_without_effect")
def a_weight_weighs_its_pair(loss):
    student, teacher = ([logits(7, seed)[None], logits(5, seed)[None]] for seed in (0, 1))
    alone = [float(loss(student, teacher, weights)) for weights in ((1, 0), (0, 1))]
    assert float(loss(student, teacher, (2, 50))) == pytest.approx(2 * alone[0] + 50 * alone[1])


@catches("logged_but_not_added")
def the_total_is_the_sum_of_the_logged_terms(build):
    total, terms = build(logits(), logits(seed=1), torch.arange(6), torch.tensor(0.7))
    assert set(terms) == {"fsp", "labels", "soft"}
    assert float(total) == pytest.approx(sum(map(float, terms.values())))


@catches("hints_trained_jointly", "classifier_decays")
def the_first_stage_leaves_the_layers_above(stage):
    teacher, ends = small_resnet(0), ("stem", "stage1")
    data = kd.data.load("digits", device="cpu").limit(32)
    for features in (
        kd.Hint(teacher, hint="stage1", guided="stage1"),
        kd.FSP(teacher, pairs=[(ends, ends)]),
    ):
        student, before = small_resnet(1), small_resnet(1).state_dict()
        stage(student, features, data, kd.Recipe(iterations=2, batch_size=16, weight_decay=0.01))
        after = student.state_dict()
        moved = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
        assert moved == {"stem", "stage1"}


@catches("momentum_kept")
def no_momentum_of_the_first_stage_reaches_the_second(train):
    steep, level = (lambda net, slope=slope: slope * net.weight.square().sum() for slope in (1, 0))
    once, twice = (guided_and_regressor()[0] for _ in range(2))
    train(once, [steep], 2)
    train(twice, [steep, level], 2)
    assert torch.equal(once.weight, twice.weight)


@catches("epochs_the_baseline_does_not_get")
def both_train_for_the_same_number_of_steps(students):
    data = kd.data.load("digits", device="cpu").limit(16)
    features = kd.Hint(small_resnet(0), hint="stem", guided="stem")
    for epochs in ((1, 2), (2, 1)):
        taught, alone = students(lambda: small_resnet(1), features, data, epochs)
        assert taught.stem[1].num_batches_tracked == alone.stem[1].num_batches_tracked > 0


@catches("taught_by_itself")
def a_generation_comes_closer_to_its_teacher(generation):
    student, teacher = small_mlp(1), small_mlp(0)
    data = kd.data.load("digits", device="cpu").limit(64)
    before = kd.fidelity(student, teacher, data.train).divergence
    taught = generation(student, teacher, data, kd.Recipe(epochs=20, batch_size=32))
    assert kd.fidelity(taught, teacher, data.train).divergence < before / 2


@catches("teacher_and_student_are_one")
def the_teacher_has_the_best_weights_and_the_student_the_initial_ones(hand_on):
    best, initial = small_mlp(0).state_dict(), small_mlp(1).state_dict()
    teacher, student = hand_on(small_mlp(2), best, initial)
    assert_unchanged(teacher, best)
    assert_unchanged(student, initial)


@catches("every_generation_begins_alike")
def every_generation_has_its_own_initial_weights(generations):
    data = kd.data.load("digits", device="cpu").limit(32)
    nets = generations(small_mlp, data, kd.Recipe(iterations=1, learning_rate=1e-6), 2)
    first, *others = (net[1].weight.detach() for net in nets)  # about the initial ones
    assert len(others) == 2
    torch.testing.assert_close(first, small_mlp(0)[1].weight, atol=1e-4, rtol=0)
    for a, b in ((first, others[0]), (first, others[1]), (others[0], others[1])):
        assert float((a - b).abs().mean()) > 0.01


@catches("teacher_chosen_by_test")
def a_poisoned_test_split_does_not_choose_the_teacher(choose):
    candidates = [constant(3.0, 0.0), constant(0.0, 3.0)]
    for best in (0, 1):
        labels = torch.full((4,), best)
        good, bad = (Split(torch.zeros(4, 1), y, torch.arange(4)) for y in (labels, 1 - labels))
        data = kd.data.Data(good, good, bad, ("a", "b"), "constant")
        assert choose(candidates, data) is candidates[best]


@catches("confidence_not_as_shares", "shares_averaged_again")
def cwtm_is_a_weighted_mean_of_the_examples_losses(loss):
    student, labels = logits(), torch.arange(6)
    own = -np.log(softmax(student, 1))[range(6), range(6)]
    surest = softmax(logits(seed=1), 1).max(-1)
    expected = (surest * own).sum() / surest.sum()
    assert float(loss(student, logits(seed=1), labels)) == pytest.approx(expected)
    twice = [torch.cat([x, x]) for x in (student, logits(seed=1), labels)]
    assert float(loss(*twice)) == pytest.approx(expected)


@catches("gradient_of_another_function")
def the_gradient_is_that_of_the_value(loss):
    teacher, labels = logits(seed=1), torch.arange(6)
    z = logits().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: 3 * loss(z, teacher, labels), z)


@catches("samples_permuted", "largest_added_to_all", "permuted_in_place")
def each_row_of_a_copy_keeps_its_entries_and_its_largest_in_place(permute):
    teacher = logits()
    found = permute(teacher, torch.Generator().manual_seed(0))
    assert torch.equal(teacher, logits())
    assert torch.equal(found.sort(-1).values, teacher.sort(-1).values)
    assert torch.equal(found.argmax(-1), teacher.argmax(-1))
    assert (found != teacher).any(-1).all()


@catches("label_kept_in_place")
def the_teachers_class_stays_even_where_it_is_wrong(permute):
    teacher = logits()
    for labels in (teacher.argmax(-1), teacher.argmin(-1)):
        found = permute(teacher, labels, torch.Generator().manual_seed(0))
        assert torch.equal(found.sort(-1).values, teacher.sort(-1).values)
        assert torch.equal(found.argmax(-1), teacher.argmax(-1))


@catches("raw_logits_as_targets")
def a_constant_added_to_the_logits_changes_nothing(loss):
    values = [
        float(loss(logits() + a, logits(seed=1) + b, torch.Generator().manual_seed(0)))
        for a, b in ((0, 0), (5, 0), (0, 5), (0, -5))
    ]
    assert values == pytest.approx([values[0]] * 4)
    assert values[0] > 0


@catches("logits_averaged")
def a_confident_network_has_one_vote(accuracy):
    nets = [constant(20.0, 0.0, 0.0), constant(0.0, 3.0, 0.0), constant(0.0, 3.0, 0.0)]
    # Of class 1: two thirds of 20 / 22, more than half.
    assert accuracy(nets, [(torch.zeros(4, 1), torch.ones(4, dtype=torch.int64))]) == 1


@catches("divided_by_batches", "outputs_by_batch")
def copies_of_a_network_are_as_good_as_one_in_batches_of_any_size_and_order(accuracy):
    inputs, labels = torch.eye(4).repeat(3, 1), torch.tensor([0, 1, 2, 0] * 3)
    for size in (1, 4, 5, 12):
        loader = list(zip(inputs.split(size), labels.split(size), strict=True))
        for copies in (1, 3):
            assert accuracy([nn.Identity()] * copies, loader) == pytest.approx(0.75)
    digits = TensorDataset(torch.eye(10).repeat(6, 1), torch.arange(10).repeat(6))
    shuffled = DataLoader(digits, 8, shuffle=True, generator=torch.Generator().manual_seed(0))
    assert accuracy([nn.Identity(), nn.Identity()], shuffled) == 1


@catches("as_the_folder_gives_them")
def generations_are_sorted_by_number(order):
    files = [Path("ban") / f"generation_{g}.pt" for g in (10, 2, 0, 1)]
    assert order(files) == [files[2], files[3], files[1], files[0]]


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
    """Each batch's targets are what the teacher outputs for its inputs."""
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
    """A small network with BatchNorm and dropout, in train mode as it is built."""
    with kd.seeded(0):
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 5)
        )
    return network, copy.deepcopy(network.state_dict())


def guided_and_regressor():
    """A guided layer from 1 to 3 channels, and a regressor from there to a hint of 5."""
    with kd.seeded(0):
        return nn.Conv2d(1, 3, 3), nn.Conv2d(3, 5, 1)


def small_resnet(seed):
    return kd.models.resnet(8, width=2, channels=1, seed=seed)


def small_mlp(seed):
    return kd.models.mlp(8, 1, seed=seed)


def constant(*logits):
    """A network with these logits for inputs of zeros."""
    net = nn.Linear(1, len(logits))
    nn.init.zeros_(net.weight)
    net.bias.data.copy_(torch.tensor(logits))
    return net


def maps(n, channels, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, size, size, generator=generator)


def pairs_of_maps(seed):
    """Two pairs of layers of different widths and sizes."""
    draws = [maps(3, 2, 4, seed), maps(3, 4, 4, seed + 10), maps(3, 8, 2, seed + 20)]
    return [(draws[0], draws[1]), (draws[1], draws[2])]


def images(n):
    return 3 * torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(n)) + 1


def logits(classes=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(6, classes, generator=generator, dtype=torch.float64)


def gradient(loss, student, *rest):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest), student)[0]


def softmax(z, T):
    e = np.exp(z.double().numpy() / T)
    return e / e.sum(-1, keepdims=True)
