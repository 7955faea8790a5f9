"""kdlib/reproduce/stages.py, fitnets.py and fsp.py: every way is taught as its name says."""

import re

import numpy as np
import pytest
import torch
from protocols import TRIAL_SEED, numbers, rows_of, same_weights, some_batch
from torch import nn
from torch.nn import functional as F

import kdlib as kd
from kdlib.objectives import Outputs
from kdlib.reproduce import fitnets, fsp
from kdlib.reproduce.stages import Stage, fitnets_targets, stages, taught
from kdlib.seeding import key


def small(seed=0):
    return kd.models.mlp(8, depth=1, seed=seed)


def test_two_stages_share_the_steps_and_have_their_own_rates():
    assert stages("hint then labels", 10, 0.1, 0.3) == [
        Stage("hint", 5, 0.1),
        Stage("labels", 5, 0.3),
    ]
    assert stages("hint then labels", 100, 0.1, 0.3, share=0.2)[0].steps == 20
    assert stages("labels", 10, 0.1, 0.3) == [Stage("labels", 10, 0.1)]


def test_a_stage_begins_with_the_weights_of_the_one_before_and_an_optimizer_of_its_own(digits):
    plan = [Stage("labels", 3, 0.1), Stage("soft", 4, 0.01)]
    objectives = {"labels": kd.CrossEntropy(), "soft": kd.SoftTargets(small(5), 4, 0.9)}
    one, other = small(), small()
    data = digits.limit(300)
    history = taught(one, plan, objectives.get, data, kd.Recipe(batch_size=100), 2)
    for stage, seed in zip(plan, (2, key(2, 1, "stage")), strict=True):  # and an order of its own
        recipe = kd.Recipe(batch_size=100, iterations=stage.steps, learning_rate=stage.rate)
        kd.fit(other, objectives[stage.by], data, recipe, seed=seed, progress=False)
    assert same_weights(one, other)
    assert history["step"].tolist() == [3, 6, 7]
    assert history["soft"].notna().tolist() == [False, True, True]


def test_fitnets_targets_have_the_gradient_of_the_papers_loss(digits):
    """H(y, q) + lambda * H(p, q) at tau = 3, lambda = 4, 2.5 and 1 at the start, half way and the end."""
    teacher, split = small(5), digits.limit(300).train
    objective = fitnets_targets(teacher)
    objective.prepare(small(), split, kd.Recipe())
    z = torch.randn(20, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows = torch.arange(20)
    p = torch.softmax(teacher(split.inputs[rows]).detach() / 3, -1)
    for progress, weight in ((0, 4), (0.5, 2.5), (1, 1)):
        soft = -(p * torch.log_softmax(z / 3, -1)).sum(-1).mean()
        loss = F.cross_entropy(z, split.labels[rows]) + weight * soft
        (expected,) = torch.autograd.grad(loss, z)
        terms = objective(Outputs(z), some_batch(split, rows, progress))
        (found,) = torch.autograd.grad(sum(terms.values()), z)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_no_student_begins_as_its_teacher_did_and_trials_have_a_seed_of_their_own():
    for size in (fsp.SHORT, fsp.PAPER_SIZE, fsp.SMOKE, fitnets.SHORT, fitnets.PAPER_SIZE):
        of_groups = range(1000, 1000 + 3 * getattr(size, "groups", 0))
        assert not {*size.teachers} & {*size.students, *of_groups, TRIAL_SEED}
        assert TRIAL_SEED not in size.students


def test_the_papers_size_holds_nothing_out_and_tries_no_rates():
    assert fsp.PAPER_SIZE.validation == fitnets.PAPER_SIZE.validation == 0
    for name, rate in (("hint then lambda", 1e-4), ("fsp then labels", 1e-3), ("labels", 0.1)):
        assert fsp._rates(fsp.PAPER_SIZE, fsp._small_lines()[name]) == (rate,)


# What students are trained on


def shuffle_seeds(trainings):
    """What orders the pairs of each FSP objective, in the order of the trainings."""
    found = [re.search(r"FSP\(.*shuffle_seed=(\w+)", t.objective.key) for t in trainings]
    return [match[1] for match in found if match]


def test_a_way_is_trained_on_what_its_name_says(trainings):
    rows_of(fsp, "smaller", "hint then lambda")
    one, other = (t.objective.key for t in trainings if t.model is trainings[-1].model)
    assert one.startswith("Hint(") and "stage2" in one
    assert other.startswith("1.0 * (CrossEntropy") and "[0.444" in other
    trainings.clear()
    rows_of(fsp, "smaller", "labels + fsp")
    for training in trainings[1:]:
        text = training.objective.key
        assert text.count("FSP(") == text.count("CrossEntropy") == text.count("0.01 * (FSP") == 1
    trainings.clear()
    rows_of(fsp, "faster", "hints then lambda")
    assert "('stage1', 'stage2', 'stage3')" in trainings[0].objective.key


@pytest.mark.parametrize(
    "experiment, name, end",
    [
        ("mnist", "hint then lambda", kd.models.Maxout),
        ("layers", "layer6 from layer3", kd.models.Maxout),
        ("depth", "8 layers; hint then labels", nn.ReLU),
    ],
)
def test_a_regressor_ends_with_the_non_linearity_of_its_hint(trainings, experiment, name, end):
    rows_of(fitnets, experiment, name)
    hint, student, data = next(
        (t.objective, t.model, t.data) for t in trainings if t.objective.key.startswith("Hint(")
    )
    hint.prepare(student, data.train, kd.Recipe())
    layer = fitnets._lines()[experiment][name].hint
    assert end in map(type, hint.teacher.get_submodule(layer).modules())
    assert type(hint.module[0][-1]) is end


@pytest.mark.parametrize("depth", fitnets.DEPTHS)
def test_plain_students_of_every_depth_have_a_middle_layer_to_guide(depth):
    line = fitnets._lines()["depth"][f"{depth} layers; hint then labels"]
    student = fitnets._student(line, 0)
    assert isinstance(student.get_submodule(line.guided), nn.ReLU)
    assert sum(isinstance(m, nn.Linear) for m in student) == depth + 1


@pytest.mark.parametrize(
    "name, orders",
    [("fsp then labels; shuffled", ["100", "101"]), ("fsp then labels", ["None", "None"])],
)
def test_shuffled_students_each_have_an_order_of_their_own(trainings, name, orders):
    rows_of(fsp, "faster", name)
    assert shuffle_seeds(trainings) == orders


def test_copied_students_begin_as_their_teacher(trainings):
    rows_of(fsp, "faster", "labels; copied")
    teachers = {t.seed: t for t in trainings if t.by == "keep"}
    students = {t.seed: t for t in trainings if t.by == "fit"}
    for student, teacher in ((100, 0), (101, 1)):
        assert students[student].start == teachers[teacher].start
        assert students[student].model is not teachers[teacher].model


def test_the_untrained_teacher_is_one(trainings):
    rows_of(fsp, "smaller", "fsp then labels; untrained teacher")
    assert not any(t.by == "keep" for t in trainings)
    students = [t for t in trainings if t.seed in (100, 101)]
    assert len(students) == 2
    for student in students:
        born = kd.models.resnet(14, width=8, channels=1, seed=student.seed % 2)
        pairs = zip(student.objective.teacher.parameters(), born.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "name, count, orders",
    [
        ("fsp, one first stage", 1 + 3, ["None"]),
        ("fsp, a first stage each", 3 + 3, ["None"] * 3),
        ("fsp, shuffled", 3 + 3, ["1000", "1001", "1002"]),
        ("labels", 3, []),
    ],
)
def test_groups_of_three_share_what_their_name_says(trainings, name, count, orders):
    rows = rows_of(fsp, "together", name)
    stages = [t for t in trainings if t.by == "fit"]
    assert len(stages) == count
    assert shuffle_seeds(stages) == orders
    if count != 4:
        assert sum(t.recipe.iterations for t in stages) == 3 * fsp.SMOKE.small_steps
    metrics = [row.metric for row in rows]
    assert metrics == [*["test_errors"] * 3, "test_errors of three", "correlation", "agreement"]
    assert all(-1 <= correlation <= 1 for correlation in numbers(rows, "correlation"))


def test_the_correlation_of_errors_is_of_the_members_mistakes(digits):
    data = digits.limit(300)
    nets = [small(seed) for seed in (0, 1)]
    wrong = [
        (net(data.test.inputs).argmax(-1) != data.test.labels).double().numpy() for net in nets
    ]
    assert fsp._correlation(nets, data) == pytest.approx(np.corrcoef(*wrong)[0, 1])
    assert fsp._correlation([nets[0]] * 3, data) == pytest.approx(1)


def test_elsewhere_sees_a_few_vehicles_and_is_scored_on_vehicles(trainings):
    vehicles = fsp._vehicles(fsp.SMOKE)
    for split in (vehicles.train, vehicles.validation, vehicles.test):
        assert set(split.labels.tolist()) == set(fsp.VEHICLES)
    assert len(vehicles.train) == 100
    rows = rows_of(fsp, "elsewhere", "fsp then labels")
    assert {row.metric for row in rows} >= {"test_errors", "learning_rate"}
    seen = {t.data.train.fingerprint() for t in trainings if t.by == "fit"}
    assert seen == {vehicles.train.fingerprint()}
    teacher = rows_of(fsp, "elsewhere", "teacher, seed 0")
    assert [row.metric for row in teacher] == ["test_errors", "test_errors without animals"]


def test_rows_of_students_trained_on_labels_name_no_teacher(trainings):
    for protocol, experiment in ((fsp, "smaller"), (fitnets, "mnist")):
        assert {row.teacher_seed for row in rows_of(protocol, experiment, "labels")} == {None}
    soft = rows_of(fsp, "smaller", "soft")
    assert {row.teacher_seed for row in soft if row.student_seed == 101} == {1}
