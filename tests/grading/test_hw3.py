"""Homework 3: what its properties expect, networks that keep a diary, a student's own runs."""

import pytest
import torch
from scipy.stats import t, ttest_rel

import kdlib as kd
from kdlib.course.exercises import generations, hw3
from kdlib.course.exercises.generations import paired_runs
from kdlib.course.exercises.hw3.interval import STUDENTS_T
from kdlib.course.exercises.hw3.verdict import _five_pairs
from kdlib.course.exercises.material import seed_of
from kdlib.course.grading.exercise import Draw


def test_students_t_is_that_of_scipy():
    freedom = range(1, len(STUDENTS_T) + 1)
    assert list(STUDENTS_T) == pytest.approx(list(t.ppf(0.975, freedom)), rel=1e-5)


@pytest.mark.parametrize("ratio", [-9.0, -2.4, 2.05, 4.0])
def test_five_pairs_are_as_far_apart_as_is_asked(ratio):
    for seed in range(20):
        found = ttest_rel(*_five_pairs(Draw(seed, "test"), ratio)).statistic
        assert found == pytest.approx(ratio, rel=0.03)  # errors are whole numbers


def test_an_infinite_loss_earns_nothing():
    assert hw3.cwtm_loss.check(lambda student, *_: student.sum() + torch.inf).points == 0


def test_every_seed_begins_with_another_number():
    seeds = [*range(1000), 2**31, 2**31 + 1]
    assert len({generations.build(seed).initial.item() for seed in seeds}) == len(seeds)
    assert generations.build(3).initial == generations.build(3).initial != 0


def test_a_diary_records_its_teacher_and_the_teacher_stays_unchanged():
    teacher, student = generations.build(0), generations.build(1)
    generations.train(teacher, None)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    generations.train(student, teacher)
    assert teacher.state_dict() == before
    told = [float(x) for x in student.state_dict().values()]
    assert told == [student.initial.item(), 1, teacher.initial.item(), 1]
    assert float(teacher.taught_by) == 0


def test_a_pair_is_one_start_taught_by_the_teacher_and_by_the_labels():
    seed = seed_of("ada", "paired runs")
    data, recipe = generations._with_random_labels(seed), generations._RECIPE
    teacher = kd.models.mlp(32, depth=1, seed=seed)
    kd.fit(teacher, kd.CrossEntropy(), data, recipe, seed=seed, progress=False)
    for errors, objective in zip(
        paired_runs("ada"), (kd.SoftTargets(teacher, 1, 1), kd.CrossEntropy()), strict=True
    ):
        student = kd.models.mlp(32, depth=1, seed=seed + 1)
        kd.fit(student, objective, data, recipe, seed=seed + 1, progress=False)
        test = kd.data.Split(data.test.inputs.double(), data.test.labels, data.test.index)
        assert kd.evaluate(student, test).errors == errors[0]


def test_three_in_ten_labels_are_drawn_at_random_and_none_of_the_test():
    digits = kd.data.load("digits", device="cpu").limit(300)
    data = generations._with_random_labels(1)
    assert torch.equal(data.train.inputs, digits.train.inputs)
    assert torch.equal(data.test.labels, digits.test.labels)
    changed = (data.train.labels != digits.train.labels).double().mean()
    assert 0.2 < changed < 0.34  # 27 % are expected: a tenth of the draws hits the label


def test_a_gain_is_judged_by_the_students_own_runs():
    comparison = kd.paired(*paired_runs("bob"))
    answer = [comparison.difference, comparison.low, comparison.high]
    assert hw3.my_gain.check(answer, "Bob").passed
    assert not hw3.my_gain.check(answer, "ada").passed
    width = answer[2] - answer[1]
    for k in range(3):
        off = list(answer)
        off[k] += 0.02 * width
        assert not hw3.my_gain.check(off, "bob").passed
        off[k] -= 0.0125 * width
        assert hw3.my_gain.check(off, "bob").passed


@pytest.mark.parametrize(("seed", "student"), [(67, ""), (282, "ada")])
def test_a_gradient_of_another_function_is_not_right_by_luck(seed, student):
    """One step alone once missed it, or a teacher that was equally sure of all examples."""
    loss = hw3.cwtm_loss
    wrong = next(m.wrong for m in loss.mistakes if m.name == "gradient_of_another_function")
    assert not loss.report(loss.source(wrong, may_borrow=True), seed, student).passed
