"""Homework 1: what its properties expect, a student's own teacher."""

import pytest
import torch

import kdlib as kd
from kdlib.course.exercises import hw1, material
from kdlib.course.exercises.hw1.choose_temperature import _runs
from kdlib.course.exercises.hw1.my_temperature import halving, mean_bits
from kdlib.course.grading.exercise import Draw


@pytest.mark.parametrize("T", [1.0, 4.0, 20.0])
def test_the_expected_softmax_and_divergence_are_those_of_kdlib(T):
    student, teacher = (Draw(1, of).logits(5) for of in ("student", "teacher"))
    torch.testing.assert_close(material.softmax(student, T), kd.soften(student, T))
    expected = kd.soft_target_loss(student, teacher, T)
    torch.testing.assert_close(material.divergence(student, teacher, T), expected)


@pytest.mark.parametrize("seed", range(20))
def test_each_wrong_reading_of_the_runs_chooses_another_temperature(seed):
    given = _runs(Draw(seed, "runs"))
    assert len(given["temperatures"]) == 7
    validation, test = given["validation_errors"], given["test_errors"]  # (7, 3) each
    readings = (validation.mean(1), validation.min(1).values, validation.median(1).values)
    readings += validation.max(1).values, test.mean(1), -validation.mean(1)
    best = [int(reading.argmin()) for reading in readings]
    assert len(set(best)) == len(best)
    assert len({*test[best[0]].tolist(), float(test[best[0]].mean())}) == 4


@pytest.mark.parametrize("seed", [16, 17, 22, 26])
def test_large_logits_are_drawn_so_that_a_right_loss_is_never_zero(seed):
    """Both sides once happened to have the same winners with these seeds."""
    loss = hw1.soft_target_loss
    assert loss.report(loss.source(loss.right, may_borrow=True), seed).passed


def test_the_two_terms_of_the_whole_objective_are_drawn_apart():
    """Both happened to be 6.15 with this seed, and a right answer lost its points."""
    loss = hw1.hinton_loss
    assert loss.report(loss.source(loss.right, may_borrow=True), 96).passed


def test_half_a_gradient_is_not_right_by_luck():
    """The gradients of the two terms are at right angles in the first case of this seed."""
    loss = hw1.hinton_loss
    half = next(m.wrong for m in loss.mistakes if m.name == "student_detached")
    assert not loss.report(loss.source(half, may_borrow=True), 7278, "ada").passed


def test_without_a_name_a_personal_check_asks_for_one():
    for nobody in ("", "  ", None):
        report = hw1.my_temperature.check(lambda: 3.0, nobody)
        assert "say in student_id who you are" in repr(report)
        assert report.points == 0 and not report.passed


def test_a_temperature_is_judged_by_the_students_own_teacher():
    mine = halving("ada")
    assert mean_bits(material.teacher_logits("ada"), mine) == pytest.approx(1)
    assert hw1.my_temperature.check(mine, "ada").passed
    assert hw1.my_temperature.check(lambda: mine, " Ada ").passed
    assert not hw1.my_temperature.check(mine, "adam").passed
    (known,) = hw1.my_temperature.check(1 / mine, "ada").mistakes
    assert known.name == "upside_down"
    assert not hw1.my_temperature.check(1 / mine, "bob").mistakes
