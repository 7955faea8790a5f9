"""kdlib/reproduce/_stages.py, fitnets.py and fsp.py: every way is taught as its name says, on an equal budget."""

import math
import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kdlib as kd
from kdlib.objectives import Outputs
from kdlib.reproduce import Row, fitnets, fsp
from kdlib.reproduce import stages as shared
from kdlib.reproduce.settings import TRIAL_SEED, chosen
from kdlib.reproduce.stages import Stage, fitnets_targets, stages, taught
from kdlib.seeding import key

PROTOCOLS = {"fitnets": fitnets, "fsp": fsp}
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
CACHES = [
    cached
    for module in (*PROTOCOLS.values(), shared)
    for cached in vars(module).values()
    if hasattr(cached, "cache_clear") and cached.__module__ == module.__name__
]


@pytest.fixture(scope="module", autouse=True)
def smoke(one_thread):
    """Digits and a few steps, and nothing of it left in memory afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_PROFILE", "smoke")
        patch.setattr(shared, "load", partial(kd.data.load, device="cpu"))
        for cached in CACHES:
            cached.cache_clear()
        yield
    for cached in CACHES:
        cached.cache_clear()


@pytest.fixture
def lesson(monkeypatch):
    """What is run for the course: looked at here, never run."""
    monkeypatch.setenv("KDLIB_PROFILE", "lesson")


@pytest.fixture
def trainings(monkeypatch):
    """The trainings of students: objective's key, iterations, rate, seed and student. None is done."""
    seen = []

    def fit(student, objective, data, recipe, *, seed, progress):
        assert data.test is None
        seen.append((objective.key, recipe.iterations, recipe.learning_rate, seed, student))
        row = {"step": recipe.iterations, "seconds": 1.0, "validation_accuracy": math.nan}
        return kd.History(pd.DataFrame([row]))

    monkeypatch.setattr(shared, "fit", fit)
    return seen


def of_the_last_student(trainings):
    return [seen for seen in trainings if seen[-1] is trainings[-1][-1]]


def rows_of(protocol, experiment, name):
    (found,) = [s for s in protocol.settings() if (s.experiment, s.setting) == (experiment, name)]
    return list(found.run())


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
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert history["step"].tolist() == [3, 6, 7]
    assert history["soft"].notna().tolist() == [False, True, True]


def test_the_rate_of_the_fewest_validation_errors_is_taken():
    errors = {0.1: 30, 0.2: 10, 0.3: 20}
    rate, rows = chosen(tuple(errors), errors.get)
    assert rate == 0.2
    assert [(row.metric, row.value) for row in rows] == [
        ("validation_errors at 0.1", 30),
        ("validation_errors at 0.2", 10),
        ("validation_errors at 0.3", 20),
        ("learning_rate", 0.2),
    ]
    assert chosen((0.5,), None) == (0.5, [Row("learning_rate", 0.5)])


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
        batch = kd.Batch(
            split.inputs[rows], split.labels[rows], split.index[rows], progress, torch.Generator()
        )
        (found,) = torch.autograd.grad(sum(objective(Outputs(z), batch).values()), z)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@every_protocol
def test_settings_have_names_of_their_own_and_two_protocols(protocol, lesson):
    settings = protocol.settings()
    assert len({s.key for s in settings}) == len(settings)
    assert len({(s.protocol, s.experiment, s.setting) for s in settings}) == len(settings)
    assert list(dict.fromkeys(s.protocol for s in settings)) == ["short", "paper"]


@every_protocol
def test_smoke_has_settings_of_its_own(protocol):
    assert {s.protocol for s in protocol.settings()} == {"smoke"}


@every_protocol
def test_the_papers_numbers_have_settings_to_stand_beside(protocol, lesson):
    names = {(s.experiment, s.setting.partition(", seed ")[0]) for s in protocol.settings()}
    assert {(p.experiment, p.setting) for p in protocol.PAPER} <= names


@pytest.mark.parametrize(
    "protocol, experiment",
    [
        (fitnets, "mnist"),
        (fitnets, "layers"),
        (fitnets, "depth"),
        (fsp, "smaller"),
        (fsp, "faster"),
    ],
)
def test_every_way_of_an_experiment_has_the_same_budget(protocol, experiment, trainings):
    budgets = set()
    for setting in protocol.settings():
        if setting.experiment != experiment or re.match("(8|16|24) layers", setting.setting):
            continue
        trainings.clear()
        list(setting.run())
        students = {id(student): 0 for *_, seed, student in trainings if seed in (100, 101)}
        assert len(students) == 2
        for _, steps, _, _, student in trainings:
            if id(student) in students:
                students[id(student)] += steps
        budgets.update(students.values())
    assert len(budgets) == 1


def test_no_student_begins_as_its_teacher_did_and_trials_have_a_seed_of_their_own(lesson):
    for size in (fsp.SHORT, fsp.PAPER_SIZE, fsp.SMOKE, fitnets.SHORT, fitnets.PAPER_SIZE):
        of_groups = range(1000, 1000 + 3 * getattr(size, "groups", 0))
        assert not {*size.teachers} & {*size.students, *of_groups, TRIAL_SEED}
        assert TRIAL_SEED not in size.students


def test_what_a_way_is_trained_on_is_what_its_name_says(trainings):
    rows_of(fsp, "smaller", "hint then lambda")
    last = [text for text, *_ in of_the_last_student(trainings)]
    assert last[0].startswith("Hint(") and "stage2" in last[0]
    assert last[1].startswith("1.0 * (CrossEntropy") and "[0.444" in last[1]
    trainings.clear()
    rows_of(fsp, "smaller", "labels + fsp")
    assert {text.count("FSP(") * text.count("CrossEntropy") for text, *_ in trainings} == {1}
    assert trainings[0][0].count("0.01 * (FSP") == 1
    trainings.clear()
    rows_of(fsp, "faster", "hints then lambda")
    assert "('stage1', 'stage2', 'stage3')" in trainings[0][0]


@pytest.mark.parametrize(
    "experiment, name, end",
    [
        ("mnist", "hint then lambda", kd.models.Maxout),
        ("layers", "layer6 from layer3", kd.models.Maxout),
        ("depth", "8 layers; hint then labels", nn.ReLU),
    ],
)
def test_a_regressor_ends_with_the_non_linearity_of_its_hint(experiment, name, end):
    line, size = fitnets._lines()[experiment][name], fitnets.SMOKE
    teacher = fitnets._teacher(size, "maxout" if line.depth is None else fitnets.PLAIN, 0)
    hint = fitnets._objective("hint", teacher, line)
    hint.prepare(fitnets._student(line, 0), fitnets._few(size).train, kd.Recipe())
    of_hint = [type(module) for module in teacher.get_submodule(line.hint).modules()]
    assert end in of_hint
    assert type(hint.module[0][-1]) is end


def test_shuffled_students_each_have_an_order_of_their_own(trainings):
    rows_of(fsp, "faster", "fsp then labels; shuffled")
    orders = [
        re.search(r"shuffle_seed=(\w+)", text).group(1) for text, *_ in trainings if "FSP" in text
    ]
    assert orders == ["100", "101"]
    trainings.clear()
    rows_of(fsp, "faster", "fsp then labels")
    assert {
        re.search(r"shuffle_seed=(\w+)", text).group(1) for text, *_ in trainings if "FSP" in text
    } == {"None"}


def test_copied_students_begin_as_their_teacher(monkeypatch):
    begins = []
    monkeypatch.setattr(fsp, "taught", lambda student, *rest: begins.append(student) or None)
    size, line = fsp.SMOKE, fsp._same_lines()["labels; copied"]
    teacher = fsp._teacher(size, "teacher", 0)
    fsp._student(size, line, size.depth, 2, 0.1, 0, fsp._few(size), teacher)
    assert begins[0] is not teacher
    for one, other in zip(begins[0].parameters(), teacher.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_untrained_teacher_is_one(monkeypatch):
    untrained = fsp._teacher(fsp.SMOKE, "untrained", 1)
    born = kd.models.resnet(14, width=8, channels=1, seed=1)
    assert all(
        torch.equal(a, b) for a, b in zip(untrained.parameters(), born.parameters(), strict=True)
    )


def test_groups_of_three_share_what_their_name_says(trainings):
    rows = rows_of(fsp, "together", "fsp, one first stage")
    assert len(trainings) == 4  # one first stage, three second ones
    metrics = [row.metric for row in rows]
    assert metrics[:6] == [*["test_errors"] * 3, "test_errors of three", "correlation", "agreement"]
    assert all(-1 <= row.value <= 1 for row in rows if row.metric == "correlation")
    for name, count, orders in (
        ("fsp, a first stage each", 6, {"None"}),
        ("fsp, shuffled", 6, {"1000", "1001", "1002"}),
        ("labels", 3, set()),
    ):
        trainings.clear()
        rows_of(fsp, "together", name)
        assert len(trainings) == count
        found = {
            re.search(r"shuffle_seed=(\w+)", text).group(1)
            for text, *_ in trainings
            if "FSP" in text
        }
        assert found == orders
        assert sum(steps for _, steps, *_ in trainings) == 3 * fsp.SMOKE.small_steps


def test_the_correlation_of_errors_is_of_the_members_mistakes(digits):
    data = digits.limit(300)
    answers = [small(seed) for seed in (0, 1)]
    wrong = [
        (net(data.test.inputs).argmax(-1) != data.test.labels).double().numpy() for net in answers
    ]
    expected = np.corrcoef(*wrong)[0, 1]
    assert fsp._correlation(answers, data) == pytest.approx(expected)
    assert fsp._correlation([answers[0]] * 3, data) == pytest.approx(1)


def test_elsewhere_sees_a_few_vehicles_and_is_scored_on_vehicles(trainings):
    vehicles = fsp._vehicles(fsp.SMOKE)
    for split in (vehicles.train, vehicles.validation, vehicles.test):
        assert set(split.labels.tolist()) == set(fsp.VEHICLES)
    assert len(vehicles.train) == 100
    rows = rows_of(fsp, "elsewhere", "fsp then labels")
    assert {row.metric for row in rows} >= {"test_errors", "learning_rate"}
    teacher = rows_of(fsp, "elsewhere", "teacher, seed 0")
    assert [row.metric for row in teacher] == ["test_errors", "test_errors without animals"]


def test_rows_of_labels_name_no_teacher():
    labels = rows_of(fsp, "smaller", "labels")
    assert {row.teacher_seed for row in labels} == {None}
    taught_by = {
        row.teacher_seed for row in rows_of(fsp, "smaller", "soft") if row.student_seed == 101
    }
    assert taught_by == {1}


def test_the_hash_tells_what_shapes_the_numbers(lesson, monkeypatch):
    before = {s.key for s in fsp.settings()}
    for name, value in (("FSP_RATE", 0.5), ("JOINT", 0.5), ("VEHICLES", (0, 1))):
        monkeypatch.setattr(fsp, name, value)
        assert before.isdisjoint(s.key for s in fsp.settings())
        monkeypatch.undo()
        monkeypatch.setenv("KDLIB_PROFILE", "lesson")
    before = {s.key for s in fitnets.settings()}
    for name, value in (
        ("SECOND", {"maxout": 1, "2 x 800": 1}),
        ("JOINT", 0.5),
        ("TEACHER_RATE", 0.5),
    ):
        monkeypatch.setattr(fitnets, name, value)
        assert before.isdisjoint(s.key for s in fitnets.settings())
        monkeypatch.undo()
        monkeypatch.setenv("KDLIB_PROFILE", "lesson")


def test_the_paper_protocol_holds_nothing_out_and_tries_no_rates(lesson):
    assert fsp._rates(fsp.PAPER_SIZE, fsp._small_lines()["hint then lambda"]) == (1e-4,)
    assert fsp._rates(fsp.PAPER_SIZE, fsp._small_lines()["fsp then labels"]) == (1e-3,)
    assert fsp._rates(fsp.PAPER_SIZE, fsp._small_lines()["labels"]) == (0.1,)
    assert fsp.PAPER_SIZE.validation == fitnets.PAPER_SIZE.validation == 0


def test_plain_students_of_every_depth_have_a_middle_layer_to_guide():
    for depth in fitnets.DEPTHS:
        line = fitnets._lines()["depth"][f"{depth} layers; hint then labels"]
        student = fitnets._student(line, 0)
        assert isinstance(student.get_submodule(line.guided), nn.ReLU)
        assert sum(isinstance(m, nn.Linear) for m in student) == depth + 1


@pytest.mark.parametrize(
    "protocol, experiment, name",
    [
        (fsp, "smaller", "hint then soft"),
        (fsp, "faster", "fsp then labels; shuffled"),
        (fsp, "together", "fsp, one first stage"),
        (fsp, "elsewhere", "fsp then labels"),
        (fitnets, "mnist", "hint then lambda"),
        (fitnets, "depth", "8 layers; hint then labels"),
    ],
)
def test_a_setting_really_trains(protocol, experiment, name):
    rows = rows_of(protocol, experiment, name)
    errors = [row.value for row in rows if row.metric == "test_errors"]
    assert len(errors) >= 2 and all(0 < value <= 360 for value in errors)
    assert any(row.metric.startswith("validation_accuracy after") for row in rows) == (
        experiment == "faster"
    )
    again = rows_of(protocol, experiment, name)
    assert [row.value for row in again] == [row.value for row in rows]
