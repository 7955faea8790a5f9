"""Homework 3: what its properties expect, networks that keep a diary, runs of one's own."""

import pytest
import torch
from answers import known_answers
from scipy.stats import t, ttest_rel

import kdlib as kd
from kdlib.course.exercises import generations, hw3
from kdlib.course.exercises.generations import paired_runs
from kdlib.course.exercises.hw3.interval import STUDENTS_T
from kdlib.course.exercises.hw3.verdict import _five_pairs
from kdlib.course.exercises.material import seed_of
from kdlib.course.grading.exercise import Draw

pytestmark = pytest.mark.usefixtures("one_thread")


# What is expected


def interval_by_kdlib(a, b):
    comparison = kd.paired(a, b)
    return comparison.difference, comparison.low, comparison.high


def verdict_by_kdlib(a, b):
    return kd.paired(a, b, lower_is_better=True).verdict


@pytest.mark.parametrize(
    ("exercise", "own"),
    [
        (hw3.cwtm_loss, kd.cwtm_loss),
        (hw3.permute_dark_knowledge, kd.permute_dark_knowledge),
        (hw3.interval, interval_by_kdlib),
        (hw3.verdict, verdict_by_kdlib),
    ],
)
def test_kdlibs_own_function_is_right_and_earns_nothing(exercise, own):
    for seed in range(3):
        assert exercise.report(exercise.source(own, may_borrow=True), seed).passed
    refused = exercise.check(own)
    assert refused.points == 0
    assert "kdlib's own" in refused.note


def test_students_t_is_that_of_scipy():
    freedom = range(1, len(STUDENTS_T) + 1)
    assert list(STUDENTS_T) == pytest.approx(list(t.ppf(0.975, freedom)), rel=1e-5)


@pytest.mark.parametrize("ratio", [-9.0, -2.4, 2.05, 4.0])
def test_five_pairs_are_as_far_apart_as_is_asked(ratio):
    for seed in range(20):
        found = ttest_rel(*_five_pairs(Draw(seed, "test"), ratio)).statistic
        assert found == pytest.approx(ratio, rel=0.03)  # errors are whole numbers


def in_float32(function):
    def answer(*given):
        return function(*(x.float() if _is_real(x) else x for x in given))

    return answer


def _is_real(x):
    return isinstance(x, torch.Tensor) and x.is_floating_point()


@pytest.mark.parametrize("exercise", [hw3.cwtm_loss, hw3.permute_dark_knowledge, hw3.interval])
def test_float32_is_exact_enough(exercise):
    for own in map(in_float32, known_answers("hw3", exercise, "right")):
        for seed in range(3):
            assert exercise.report(exercise.source(own, may_borrow=True), seed).passed


def test_an_infinite_loss_earns_nothing():
    assert hw3.cwtm_loss.check(lambda student, *_: student.sum() + torch.inf).points == 0


def test_rows_shuffled_in_other_words_are_recognised():
    def shuffled(z, generator):
        result = torch.zeros(z.shape)
        for k in range(len(z)):
            result[k] = z[k, torch.randperm(z.shape[1], generator=generator)]
        return result

    (known,) = hw3.permute_dark_knowledge.check(shuffled).mistakes
    assert known.name == "rows_shuffled_whole"


# Networks that keep a diary


def test_every_seed_begins_with_another_number():
    seeds = [*range(1000), 2**31, 2**31 + 1]
    assert len({generations.build(seed).initial.item() for seed in seeds}) == len(seeds)
    assert generations.build(3).initial == generations.build(3).initial != 0


def test_a_diary_tells_who_taught_and_the_teacher_stays_as_it_is():
    teacher, student = generations.build(0), generations.build(1)
    generations.train(teacher, None)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    generations.train(student, teacher)
    assert teacher.state_dict() == before
    told = [float(x) for x in student.state_dict().values()]
    assert told == [student.initial.item(), 1, teacher.initial.item(), 1]
    assert float(teacher.taught_by) == 0


def test_a_first_network_that_was_never_trained_is_no_teacher():
    def answer(build, train, count):
        networks = [build(0)]
        for seed in range(1, count):
            networks.append(build(seed))
            train(networks[-1], networks[-2])
        return networks

    lost = [result.says for result in hw3.generations.check(answer).results if result.failed]
    assert any("when that has been trained" in says for says in lost)


def youngest_trained_first(build, train, count):
    networks = [build(seed) for seed in range(count)]
    for k in reversed(range(count)):
        train(networks[k], networks[k - 1] if k else None)
    return networks


def all_trained_on_labels_first(build, train, count):
    networks = [build(seed) for seed in range(count)]
    for network in networks:
        train(network, None)
    for k in range(1, count):
        train(networks[k], networks[k - 1])
    return networks


@pytest.mark.parametrize(
    ("answer", "known"),
    [
        (youngest_trained_first, "untrained_teachers"),
        (all_trained_on_labels_first, "labels_first_then_the_teacher"),
    ],
)
def test_a_wrong_upbringing_is_recognised_in_other_words(answer, known):
    report = hw3.generations.check(answer)
    assert [mistake.name for mistake in report.mistakes] == [known]
    assert report.points == report.out_of - 1


# Runs of one's own


def test_runs_follow_from_the_name_whatever_its_capitals_and_spaces():
    mine, hers, his = (torch.stack(paired_runs(name)) for name in (" Ada ", "ada", "bob"))
    assert mine.shape == (2, 5)
    assert torch.equal(mine, hers)
    assert not torch.equal(mine, his)


def test_who_writes_into_the_runs_spoils_nothing():
    before = torch.stack(paired_runs("ada"))
    for errors in paired_runs("ada"):
        errors.zero_()
    assert torch.equal(torch.stack(paired_runs("ada")), before)


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


def test_a_gain_is_graded_by_the_runs_of_ones_own():
    answer = list(interval_by_kdlib(*paired_runs("bob")))
    assert hw3.my_gain.check(answer, "Bob").passed
    assert not hw3.my_gain.check(answer, "ada").passed
    width = answer[2] - answer[1]
    for k in range(3):
        off = list(answer)
        off[k] += 0.02 * width
        assert not hw3.my_gain.check(off, "bob").passed
        off[k] -= 0.0125 * width
        assert hw3.my_gain.check(off, "bob").passed
