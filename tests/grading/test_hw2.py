"""Homework 2: what its properties expect, a student's own maps, mistakes written in other ways."""

import copy
import re

import pytest
import torch
from torch.nn import functional as F

import kdlib as kd
from kdlib.course.exercises import hw2, layers
from kdlib.course.exercises.hw2.hint_step import _downhill, _step
from kdlib.course.exercises.hw2.two_stages import _stages
from kdlib.course.grading.exercise import Ask, Draw
from kdlib.course.grading.observe import observe


def names(report):
    return [mistake.name for mistake in report.mistakes]


# What is expected


@pytest.mark.parametrize("size", [(2, 3), (4, 9)])
def test_an_expected_flow_is_that_of_kdlib(size):
    draw = Draw(7, "test")
    first, second = draw.normal(3, 2, *size), draw.normal(3, 4, 2, 3)
    torch.testing.assert_close(layers.flow(first, second), kd.fsp_matrix(first, second))


def test_an_expected_step_is_down_the_gradient_of_the_hint_loss():
    given = _step(Draw(7, "test"))
    guided, regressor = given["guided"], given["regressor"]
    kd.hint_loss(regressor(guided(given["inputs"])), given["hint"]).backward()
    for network, step in zip((guided, regressor), _downhill(given), strict=True):
        slope = torch.cat([weight.grad.flatten() for weight in network.parameters()])
        torch.testing.assert_close(torch.from_numpy(step), -0.01 * slope)


@pytest.mark.parametrize("stage", [0, 1])
def test_an_expected_descent_is_that_of_torch(stage):
    given = _stages(Draw(7, "test"), (0, 0))
    parts = [copy.deepcopy(given[of]) for of in ("lower", "upper")][: stage + 1]
    loss = given["second_loss" if stage else "first_loss"]
    slope = (layers.of_first_loss, layers.of_second_loss)[stage]
    before = layers.row(*parts)
    weights = [weight for part in parts for weight in part.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        loss(*parts).backward()
        optimizer.step()
    expected = layers.descent(before, 5, lambda row: slope(row, loss))
    torch.testing.assert_close(
        torch.from_numpy(layers.row(*parts) - before), torch.from_numpy(expected)
    )


def test_old_gradients_arrive_with_the_network():
    network = layers.NetworkWithOldGradients(layers.linear(Draw(7, "test"), 2, 3))

    def gradients(network):
        return [weight.grad for weight in network.parameters()]

    first, second = observe(gradients, {"network": network}).value
    assert first.eq(1).all() and second.eq(1).all()


# A student's own teacher


def test_a_students_own_distance_is_the_fsp_loss_and_no_report_gives_it_away():
    teacher, new = (
        [kd.fsp_matrix(a, b), kd.fsp_matrix(b, c)] for a, b, c in layers.feature_maps("ada")
    )
    distance = kd.fsp_loss(new, teacher).item()
    check = hw2.my_flow_distance.check
    assert check(1.009 * distance, "ada").passed
    assert not check(1.011 * distance, "ada").passed
    text = repr(check(distance / 2, "ada", hints=3))
    assert not any(
        float(x) == pytest.approx(distance, rel=0.1) for x in re.findall(r"[\d.]*\d", text)
    )


# Mistakes written in other ways


def gram_by_view(a, b):
    a = F.adaptive_max_pool2d(a, b.shape[2:]) if a.shape[3] > b.shape[3] else a
    b = F.adaptive_max_pool2d(b, a.shape[2:]) if b.shape[3] > a.shape[3] else b
    return torch.einsum("nixy,njxy->nij", a, b)


def regressor_left_out(v, r, x, u):
    for weight in [*v.parameters(), *r.parameters()]:
        weight.grad = None
    loss = (r(v(x)) - u).pow(2).sum() / (2 * len(x))
    loss.backward()
    with torch.no_grad():
        for weight in v.parameters():
            weight -= 0.01 * weight.grad
    v.zero_grad()
    r.zero_grad()
    return loss.detach()


def cleared_after_the_step(v, r, x, u):
    optimizer = torch.optim.SGD([*v.parameters(), *r.parameters()], lr=0.01)
    loss = (r(v(x)) - u).pow(2).sum() / (2 * len(x))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def a_norm_for_each_matrix(students, teachers):
    norms = [
        torch.linalg.matrix_norm(s - t.detach()) for s, t in zip(students, teachers, strict=True)
    ]
    return sum(norms).mean()


def upper_part_added_later(low, up, first, second, steps):
    optimizer = torch.optim.SGD(low.parameters(), 0.1, 0.9, weight_decay=0.01)
    for _ in range(steps[0]):
        first(low).backward()
        optimizer.step()
        optimizer.zero_grad()
    optimizer.add_param_group({"params": list(up.parameters())})
    for _ in range(steps[1]):
        second(low, up).backward()
        optimizer.step()
        optimizer.zero_grad()
    return low, up


@pytest.mark.parametrize(
    ("exercise", "answer", "known"),
    [
        (hw2.hint_loss, lambda r, u: ((r - u.detach()) ** 2).mean() * 0.5, "mean_over_everything"),
        (hw2.hint_step, regressor_left_out, "regressor_not_in_the_optimizer"),
        (hw2.hint_step, cleared_after_the_step, "zero_grad_forgotten"),
        (hw2.fsp_matrix, gram_by_view, "not_divided"),
        (hw2.fsp_loss, a_norm_for_each_matrix, "matrix_norms_not_squared"),
        (hw2.two_stages, upper_part_added_later, "momentum_kept"),
    ],
)
def test_a_mistake_is_recognised_when_it_is_written_in_another_way(exercise, answer, known):
    report = exercise.check(answer)
    assert names(report) == [known]
    assert report.points == report.out_of - 1


def test_a_step_that_is_never_taken_is_one_mistake():
    def no_step(v, r, x, u):
        loss = (r(v(x)) - u).pow(2).sum() / (2 * len(x))
        loss.backward()
        return loss.item()

    report = hw2.hint_step.check(no_step)
    assert names(report) == ["nothing_moves"]
    assert report.points == 1  # for the loss that it gives back


def test_the_same_pair_in_float32_is_not_another_pair():
    assert hw2.same_flow.check(lambda a, b: (a.float(), b.float())).points == 0


def test_two_mistakes_are_both_named():
    def two(student_matrices, teacher_matrices):
        pairs = zip(student_matrices, teacher_matrices, strict=True)
        return sum((s - t).square().sum() for s, t in pairs)

    found = names(hw2.fsp_loss.check(two))
    assert sorted(found) == ["gradient_to_the_teacher", "summed_over_the_examples"]


def test_a_network_that_grows_does_not_crash_the_check():
    def grows(lower, upper, first_loss, second_loss, steps):
        lower.append(torch.nn.Linear(2, 2))

    assert hw2.two_stages.check(grows).points == 0


def test_an_orthogonal_mix_of_places_is_right_for_maps_of_one_size():
    def mixed(first, second):
        if first.shape[2:] != second.shape[2:]:
            return first, second
        mix = torch.linalg.qr(torch.randn(16, 16, dtype=first.dtype))[0]
        return tuple((x.flatten(2) @ mix).view_as(x) for x in (first, second))

    assert [r.failed is None for r in hw2.same_flow.check(mixed).results] == [True, True, False]


# What a report shows


def test_a_report_on_a_stage_shows_the_change_and_the_expected_change():
    text = repr(hw2.two_stages.check(upper_part_added_later))
    assert "✗ The second stage starts from rest where the first has ended" in text
    assert re.search(r"with .*lower = a Sequential, .*steps = \[\d, \d\]", text)
    assert re.search(r"got +a change of lower by \[.*\]\n +expected +\[.*\]", text)
    assert "Hint 1: The second stage begins with steps in the direction of the first." in text


def test_a_change_is_compared_without_the_value_returned_and_the_gradients_left():
    given = _step(Draw(7, "test"))
    ask = Ask(hw2.hint_step.source(cleared_after_the_step))
    layers.change(ask, "guided", **given)
    (seen,) = ask.seen
    assert seen.value is None and list(seen.after) == ["guided"]
    assert seen.after["guided"].shape == (6,)
