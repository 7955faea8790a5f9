"""Homework 2: what its properties expect, a student's own maps, odd answers."""

import copy
import re

import pytest
import torch

import kdlib as kd
from kdlib.course.exercises import hw2, layers
from kdlib.course.exercises.hw2.hint_step import _downhill, _step
from kdlib.course.exercises.hw2.two_stages import _stages
from kdlib.course.grading.exercise import Ask, Draw
from kdlib.course.grading.observe import observe


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
    gradients = observe(lambda net: [w.grad for w in net.parameters()], {"net": network})
    first, second = gradients.value
    assert first.eq(1).all() and second.eq(1).all()


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


def test_the_same_pair_in_float32_is_not_another_pair_and_a_network_that_grows_is_wrong():
    assert hw2.same_flow.check(lambda a, b: (a.float(), b.float())).points == 0
    grows = hw2.two_stages.check(lambda lower, *_: lower.append(torch.nn.Linear(2, 2)))
    assert grows.points == 0


def test_an_orthogonal_mix_of_places_is_right_for_maps_of_one_size():
    def mixed(first, second):
        if first.shape[2:] != second.shape[2:]:
            return first, second
        mix = torch.linalg.qr(torch.randn(16, 16, dtype=first.dtype))[0]
        return tuple((x.flatten(2) @ mix).view_as(x) for x in (first, second))

    assert [r.failed is None for r in hw2.same_flow.check(mixed).results] == [True, True, False]


def test_a_change_is_compared_without_the_value_returned_and_the_gradients_left():
    def answer(guided, regressor, inputs, hint):
        regressor(guided(inputs)).sum().backward()
        return 7.0

    ask = Ask(hw2.hint_step.source(answer))
    layers.change(ask, "guided", **_step(Draw(7, "test")))
    (seen,) = ask.seen
    assert seen.value is None and list(seen.after) == ["guided"]
    assert seen.after["guided"].shape == (6,)
