import copy
import math
import os
import subprocess
import sys
import warnings
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import kdlib as kd
from kdlib.losses import (
    cross_entropy,
    cwtm_loss,
    dkpp_loss,
    hinton_loss,
    logit_matching_loss,
    soft_target_loss,
)
from kdlib.objectives import Outputs

close = torch.testing.assert_close
once = kd.Recipe(epochs=1, precision="float32", batch_size=32)
shifted = kd.Recipe(epochs=1, precision="float32", batch_size=32, augment=kd.data.shift(2))


@pytest.fixture(scope="module")
def few(digits):
    return digits.limit(100)


def small(seed=0):
    return kd.models.mlp(16, depth=1, seed=seed)


def fussy(seed=0):
    """A teacher whose outputs depend on its mode, and whose buffers move in train mode."""
    with kd.seeded(seed):
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(784, 32),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(32, 10),
        ).train()


@torch.no_grad()
def fresh(teacher, inputs):
    """What the teacher says of these inputs in eval mode, its own state put back."""
    state = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    modes = [(module, module.training) for module in teacher.modules()]
    rows = teacher.eval()(inputs)
    for module, mode in modes:
        module.training = mode
    teacher.load_state_dict(state)
    return rows


def batch_of(split, rows, progress=0.0, inputs=None):
    labels = None if split.labels is None else split.labels[rows]
    inputs = split.inputs[rows] if inputs is None else inputs
    return kd.Batch(inputs, labels, split.index[rows], progress, torch.Generator())


def prepared(objective, data, recipe=once):
    objective.prepare(small(), data.train, recipe)
    return objective


def student_of(batch, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return Outputs(torch.randn(len(batch.inputs), 10, generator=generator) * 3)


class Spy:
    """An objective that lets another do its work and notes what it saw and said."""

    module = None
    key = "spy"

    def __init__(self, objective):
        self.objective, self.seen = objective, []
        self.prepare = objective.prepare

    def __call__(self, student, batch):
        terms = self.objective(student, batch)
        self.seen.append((student.logits.detach(), batch, terms))
        return terms


def assert_taught_by(teacher, spy, T=4):
    """Every soft term seen is the one with a fresh pass of the teacher over the very inputs."""
    assert spy.seen
    for logits, batch, terms in spy.seen:
        expected = soft_target_loss(logits, fresh(teacher, batch.inputs), T)
        close(terms["soft"].detach(), spy.objective.alpha * expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0, 0.3])
def test_cross_entropy_logs_the_hard_term(few, smoothing):
    batch = batch_of(few.train, torch.arange(7))
    student = student_of(batch)
    terms = prepared(kd.CrossEntropy(smoothing), few)(student, batch)
    assert list(terms) == ["hard"]
    close(terms["hard"], cross_entropy(student.logits, batch.labels, label_smoothing=smoothing))


@pytest.mark.parametrize("T, alpha", [(1, 0.5), (4, 0.9), (20, 1), (4, 0)])
def test_soft_targets_log_the_two_terms_of_the_hinton_loss(few, T, alpha):
    teacher, batch = small(), batch_of(few.train, torch.arange(7))
    student, taught = student_of(batch), fresh(teacher, batch.inputs)
    terms = prepared(kd.SoftTargets(teacher, T, alpha), few)(student, batch)
    assert list(terms) == ["soft", "hard"]
    close(terms["soft"], alpha * soft_target_loss(student.logits, taught, T))
    close(terms["hard"], (1 - alpha) * cross_entropy(student.logits, batch.labels))
    close(sum(terms.values()), hinton_loss(student.logits, taught, batch.labels, T, alpha))


def test_logit_matching_logs_the_logits_term(few):
    teacher, batch = small(), batch_of(few.train, torch.arange(7))
    student = student_of(batch)
    terms = prepared(kd.LogitMatching(teacher), few)(student, batch)
    assert list(terms) == ["logits"]
    close(terms["logits"], logit_matching_loss(student.logits, fresh(teacher, batch.inputs)))


def test_cwtm_and_dkpp_log_their_losses_and_dkpp_draws_from_the_batch(few):
    batch = batch_of(few.train, torch.arange(7))
    student, teacher = student_of(batch), small()
    v = teacher(batch.inputs).detach()
    terms = prepared(kd.CWTM(teacher), few)(student, batch)
    close(terms, {"cwtm": cwtm_loss(student.logits, v, batch.labels)})
    state = batch.generator.get_state()
    terms = prepared(kd.DKPP(teacher), few)(student, batch)
    again = torch.Generator().set_state(state)
    close(terms, {"dkpp": dkpp_loss(student.logits, v, again)})
    assert not torch.equal(batch.generator.get_state(), state)


def test_each_gives_the_terms_of_single_examples(few):
    teacher, batch = small(), batch_of(few.train, torch.arange(7))
    student = student_of(batch)
    for objective in (
        kd.CrossEntropy(0.1),
        kd.SoftTargets(teacher, 4, 0.9),
        kd.LogitMatching(teacher),
    ):
        prepared(objective, few)
        terms, each = objective(student, batch), objective.each(student, batch)
        assert list(terms) == list(each)
        for name, values in each.items():
            assert values.shape == (7,)
            close(values.sum() / 7, terms[name])
            for k in range(7):
                alone = batch_of(few.train, torch.tensor([k]))
                close(values[k], objective(Outputs(student.logits[k : k + 1]), alone)[name])


def test_temperature_and_alpha_may_be_one_an_example(few):
    teacher, batch = small(), batch_of(few.train, torch.arange(3))
    student, taught = student_of(batch), fresh(teacher, batch.inputs)
    T, alpha = torch.tensor([1.0, 4.0, 20.0]), torch.tensor([0.0, 0.5, 1.0])
    terms = prepared(kd.SoftTargets(teacher, T, alpha), few)(student, batch)
    expected = [
        hinton_loss(student.logits[i], taught[i], batch.labels[i], T[i].item(), alpha[i].item())
        for i in range(3)
    ]
    close(sum(terms.values()), sum(expected) / 3)


def test_gradient_reaches_the_student_and_is_not_zero(few):
    batch = batch_of(few.train, torch.arange(7))
    for objective, name in (
        (kd.SoftTargets(small(), 4, 1), "soft"),
        (kd.LogitMatching(small()), "logits"),
        (kd.CrossEntropy(), "hard"),
    ):
        student = student_of(batch)
        student.logits.requires_grad_()
        prepared(objective, few)(student, batch)[name].backward()
        assert student.logits.grad.abs().sum() > 0.01


def test_sums_scale_and_add_terms_of_equal_name(few):
    one, other = small(1), small(2)
    batch = batch_of(few.train, torch.arange(7))
    student = student_of(batch)
    parts = (
        kd.SoftTargets(one, 4, 0.9),
        kd.SoftTargets(other, 8, 0.5),
        kd.LogitMatching(one),
        kd.CrossEntropy(),
    )
    a, b, c, d = (prepared(part, few)(student, batch) for part in parts)
    total = parts[0] + 0.25 * parts[1] + parts[2] * 3 + (-1) * parts[3]
    terms = prepared(total, few)(student, batch)
    assert set(terms) == {"soft", "hard", "logits"}
    close(terms["soft"], a["soft"] + 0.25 * b["soft"])
    close(terms["hard"], a["hard"] + 0.25 * b["hard"] - d["hard"])
    close(terms["logits"], 3 * c["logits"])
    twice = prepared(2 * (parts[2] + parts[3]), few)(student, batch)
    close(twice["logits"], 2 * c["logits"])
    close(twice["hard"], 2 * d["hard"])
    assert prepared(0 * parts[3], few)(student, batch)["hard"] == 0


def test_a_weight_may_be_a_function_of_progress(few):
    objective = prepared((lambda progress: 4 - 3 * progress) * kd.CrossEntropy(), few)
    for progress in (0.0, 0.5, 0.9):
        batch = batch_of(few.train, torch.arange(7), progress)
        student = student_of(batch)
        hard = cross_entropy(student.logits, batch.labels)
        close(objective(student, batch)["hard"], (4 - 3 * progress) * hard)


def test_fit_tells_a_weight_how_far_it_is(few):
    seen = []

    def weight(progress):
        seen.append(progress)
        return 1.0

    kd.fit(
        small(), weight * kd.CrossEntropy(), few, kd.Recipe(epochs=2, batch_size=25), progress=False
    )
    assert list(dict.fromkeys(seen[-10:])) == [
        step / 8 for step in range(8)
    ]  # the last one logged, too


def test_a_sum_prepares_and_trains_all_its_parts(few):
    class WithModule(kd.CrossEntropy):
        def __init__(self):
            super().__init__()
            self.module, self.calls = nn.Linear(2, 2), 0

        def prepare(self, *arguments):
            self.calls += 1

    one, other = WithModule(), WithModule()
    total = prepared(one + 2 * (kd.CrossEntropy() + other), few)
    assert (one.calls, other.calls) == (1, 1)
    assert {id(p) for p in total.module.parameters()} == {
        id(p) for part in (one, other) for p in part.module.parameters()
    }
    assert (kd.CrossEntropy() + kd.CrossEntropy()).module is None


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_must_be_finite(weight):
    with pytest.raises(ValueError, match=f"weight must be finite, got {weight}"):
        weight * kd.CrossEntropy()


@pytest.mark.parametrize("weight", ["2", None, torch.tensor(2.0)])
def test_weights_must_be_numbers_or_functions(weight):
    with pytest.raises(TypeError, match="weight must be a number or a function of progress, got"):
        kd.CrossEntropy() * weight


def test_only_objectives_can_be_added():
    with pytest.raises(TypeError, match="unsupported operand"):
        kd.CrossEntropy() + 1


TABLE = torch.arange(20.0).reshape(2, 10)


def ramp(progress):
    return 4 - 3 * progress


def test_key_tells_every_number_and_teacher_apart():
    changed = small()
    with torch.no_grad():
        changed[-1].bias[3] += 1e-6
    counted = fussy()
    counted[2].running_mean[0] += 1e-3
    objectives = [
        kd.CrossEntropy(),
        kd.CrossEntropy(0.1),
        kd.SoftTargets(small(), 4, 0.9),
        kd.SoftTargets(small(), 4.000001, 0.9),
        kd.SoftTargets(small(), 4, 0.90001),
        kd.SoftTargets(small(), torch.tensor([4.0, 4.0]), 0.9),
        kd.SoftTargets(small(), torch.tensor([4.0, 5.0]), 0.9),
        kd.SoftTargets(small(), 4, torch.tensor([0.9, 0.8])),
        kd.SoftTargets(small(1), 4, 0.9),
        kd.SoftTargets(changed, 4, 0.9),
        kd.SoftTargets(fussy(), 4, 0.9),
        kd.SoftTargets(counted, 4, 0.9),
        kd.SoftTargets([small(), small(1)], 4, 0.9),
        kd.SoftTargets([small(), small(2)], 4, 0.9),
        kd.SoftTargets(TABLE, 4, 0.9),
        kd.SoftTargets(TABLE + 1e-3, 4, 0.9),
        kd.LogitMatching(small()),
        kd.LogitMatching(small(1)),
        kd.CWTM(small()),
        kd.CWTM(small(1)),
        kd.DKPP(small()),
        kd.DKPP(small(1)),
        2 * kd.CrossEntropy(),
        2.5 * kd.CrossEntropy(),
        kd.CrossEntropy() + kd.CrossEntropy(),
        kd.CrossEntropy() + 2 * kd.CrossEntropy(),
        ramp * kd.CrossEntropy(),
        (lambda progress: 4 - 2 * progress) * kd.CrossEntropy(),
        (lambda progress: 4 if progress < 1 else 1) * kd.CrossEntropy(),
    ]
    keys = [objective.key for objective in objectives]
    assert len(set(keys)) == len(keys)


def test_key_is_equal_where_the_training_is():
    pairs = [
        (kd.SoftTargets(small(), 4, 1), kd.SoftTargets(small(), 4.0, np.float64(1))),
        (kd.LogitMatching(TABLE), kd.LogitMatching(TABLE.clone())),
        (2 * kd.CrossEntropy(), np.float32(2) * kd.CrossEntropy()),
        ((lambda p: 4 - 3 * p) * kd.CrossEntropy(), (lambda p: 4 - 3 * p) * kd.CrossEntropy()),
    ]
    for one, other in pairs:
        assert one.key == other.key
    assert repr(pairs[0][0]) == pairs[0][0].key


def test_key_sees_a_teacher_change(few):
    teacher = small()
    objective = kd.SoftTargets(teacher, 4, 1)
    before = objective.key
    prepared(objective, few)
    assert objective.key == before
    with torch.no_grad():
        teacher[-1].weight[0, 0] += 1
    assert objective.key != before


def test_key_is_the_same_in_every_process():
    code = """
import kdlib as kd, torch
teacher = kd.models.mlp(16, depth=1, seed=0)
print((kd.SoftTargets(teacher, 4, 0.9) + (lambda p: 4 - 3 * p) * kd.LogitMatching(teacher)
       + 0.1 * kd.CrossEntropy()).key)"""
    environment = os.environ | {"PYTHONHASHSEED": "123"}
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    here = (
        kd.SoftTargets(small(), 4, 0.9)
        + (lambda p: 4 - 3 * p) * kd.LogitMatching(small())
        + 0.1 * kd.CrossEntropy()
    )
    assert other.stdout.strip() == here.key


def test_soft_targets_follow_the_sample_not_its_position(few):
    teacher = small()
    spy = Spy(kd.SoftTargets(teacher, 4, 0.9))
    split = few.train
    assert not torch.equal(split.index, torch.arange(len(split)))  # after limit, rows are no index
    kd.fit(small(1), spy, few, kd.Recipe(epochs=2, batch_size=32, precision="float32"), seed=1)
    assert_taught_by(teacher, spy)
    orders = [batch.index.tolist() for _, batch, _ in spy.seen]
    assert len(orders) == 6 and orders[0] != orders[3]


def test_a_table_of_logits_is_read_by_sample_index(few):
    split = few.train
    table = torch.randn(int(split.index.max()) + 1, 10, generator=torch.Generator().manual_seed(0))
    batch = batch_of(split, torch.tensor([40, 3, 99]))
    student, rows = student_of(batch), table[split.index[[40, 3, 99]]]
    soft = prepared(kd.SoftTargets(table, 4, 1), few)(student, batch)["soft"]
    close(soft, soft_target_loss(student.logits, rows, 4))
    logits = prepared(kd.LogitMatching(table), few)(student, batch)["logits"]
    close(logits, logit_matching_loss(student.logits, rows))


def test_one_objective_serves_any_number_of_fits_and_splits(few, digits):
    teacher = small()
    spy = Spy(kd.SoftTargets(teacher, 4, 0.9))
    wholly_other = digits.limit(80, seed=9)
    for data, recipe in ((few, once), (wholly_other, once), (few, shifted), (few, once)):
        spy.seen.clear()
        kd.fit(small(1), spy, data, recipe)
        assert_taught_by(teacher, spy)


def test_the_teacher_runs_once_an_image_where_views_are_fixed(few):
    teacher, rows = small(), []
    teacher.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    objective = kd.SoftTargets(teacher, 4, 0.9)
    three = kd.Recipe(epochs=3, batch_size=25)
    kd.fit(small(1), objective, few, three)
    assert sum(rows) == 100
    kd.fit(small(2), objective, few, three)
    assert sum(rows) == 100


@pytest.mark.parametrize("several", [False, True], ids=["one", "two"])
def test_with_augment_the_teacher_sees_the_very_view_of_the_student(few, several):
    networks = [fussy(0), fussy(1)] if several else [fussy(0)]
    teacher = networks if several else networks[0]
    spy = Spy(kd.LogitMatching(teacher))
    kd.fit(small(1), spy, few, kd.Recipe(epochs=2, batch_size=32, augment=kd.data.shift(2)))
    moved = 0
    for logits, batch, terms in spy.seen:
        rows = sum(fresh(network, batch.inputs) for network in networks) / len(networks)
        close(terms["logits"].detach(), logit_matching_loss(logits.float(), rows))
        unmoved = few.train.inputs[torch.searchsorted(few.train.index, batch.index)]
        moved += int((unmoved != batch.inputs).flatten(1).any(1).sum())
    assert moved > 100  # of 192: the views really differ from the images


def test_a_table_of_logits_is_refused_where_views_are_random(few):
    table = torch.zeros(2000, 10)
    for objective in (kd.SoftTargets(table, 4, 1), kd.LogitMatching(table)):
        with pytest.raises(ValueError, match="teacher must be a network where augment is set"):
            kd.fit(small(), objective, few, shifted)


def test_a_table_of_logits_is_refused_where_a_text_is_to_have_views():
    text = kd.text.from_texts("abcab" * 20, device="cpu")
    soft = kd.SoftTargets(torch.zeros(99, 3), 4, 1)
    with pytest.raises(ValueError, match="teacher must be a network where augment is set"):
        kd.fit(kd.models.lstm(3, width=4), soft, text, shifted)


@pytest.mark.parametrize("recipe", [once, shifted], ids=["fixed views", "random views"])
def test_parts_of_a_sum_that_are_one_objective_are_taught_the_same(few, recipe):
    """Of random views the teacher answers once, and of the next batch anew."""
    soft, passes = kd.SoftTargets(fussy(), 4, 0.9), []
    spy, whole, halves = Spy(soft), small(1), small(1)
    kd.fit(whole, spy, few, recipe, progress=False)
    assert_taught_by(fussy(), spy)
    kd.fit(halves, 0.5 * soft + 0.5 * soft, few, recipe, progress=False)
    close(dict(halves.named_parameters()), dict(whole.named_parameters()), rtol=0, atol=1e-6)
    if recipe is shifted:
        soft.prepare(small(), few.train, recipe)
        soft._source.answers.networks[0].register_forward_hook(lambda *call: passes.append(1))
        one, other = (batch_of(few.train, torch.arange(k, k + 7)) for k in (0, 7))
        for batch, so_far in ((one, 1), (one, 1), (other, 2), (one, 3)):
            close(soft._source(batch), fresh(fussy(), batch.inputs))
            assert len(passes) == so_far


def test_a_table_with_too_few_rows_is_refused(few):
    last = int(few.train.index.max())
    wording = f"every sample index of the training split, up to {last}: got {last} rows"
    with pytest.raises(ValueError, match=wording):
        kd.fit(small(), kd.LogitMatching(torch.zeros(last, 10)), few, once)
    kd.fit(small(), kd.LogitMatching(torch.zeros(last + 1, 10)), few, once)


def test_a_teacher_with_other_classes_is_refused(few):
    teacher = kd.models.mlp(16, classes=7)
    with pytest.raises(ValueError, match="it has 7, the student 10"):
        kd.fit(small(), kd.SoftTargets(teacher, 4, 1), few, once)


def test_a_teacher_changed_between_two_fits_is_noticed(few):
    teacher = fussy()
    spy = Spy(kd.SoftTargets(teacher, 4, 0.9))
    for recipe in (once, shifted, once):
        for change in (lambda: teacher[-1].weight, lambda: teacher[2].running_mean):
            kd.fit(small(1), spy, few, recipe)
            with torch.no_grad():
                change().add_(torch.randn(change().shape))
            spy.seen.clear()
            kd.fit(small(1), spy, few, recipe)
            assert_taught_by(teacher, spy)


@pytest.mark.parametrize("recipe", [once, shifted], ids=["cached", "live"])
def test_a_network_that_teaches_itself_teaches_what_it_was_at_the_start(few, recipe):
    network = small()
    start = copy.deepcopy(network)
    spy = Spy(kd.SoftTargets(network, 4, 0.5))
    kd.fit(network, spy, few, recipe)
    assert_taught_by(start, spy)
    assert spy.seen[-1][2]["soft"] > 1e-4


@pytest.mark.parametrize("T", [1, 4, 20])
@pytest.mark.parametrize("recipe", [once, shifted], ids=["cached", "live"])
def test_soft_targets_of_several_teachers_are_the_mean_of_their_probabilities(few, T, recipe):
    teachers = [small(0), small(1), small(2)]
    for scale, teacher in zip((30, 20, 1), teachers, strict=True):  # they disagree, some strongly
        with torch.no_grad():
            teacher[-1].weight.mul_(scale)
    batch = batch_of(few.train, torch.tensor([40, 3, 99]))
    student = student_of(batch)

    rows = [fresh(teacher, batch.inputs).double().numpy() for teacher in teachers]
    members = [np.exp(v / T) / np.exp(v / T).sum(-1, keepdims=True) for v in rows]
    p = np.mean(members, axis=0)
    z = student.logits.double().numpy() / T
    q = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    expected = T**2 * (p * np.log(p / q)).sum(-1).mean()

    soft = prepared(kd.SoftTargets(teachers, T, 1), few, recipe)(student, batch)["soft"]
    assert soft.item() == pytest.approx(expected, rel=1e-4)
    of_mean_logits = soft_target_loss(student.logits, torch.tensor(np.mean(rows, axis=0)), T)
    assert of_mean_logits.item() != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("recipe", [once, shifted], ids=["cached", "live"])
def test_logit_matching_of_several_teachers_is_to_the_mean_of_centred_logits(few, recipe):
    teachers = [small(0), small(1)]
    with torch.no_grad():
        teachers[1][-1].bias += 50
    batch = batch_of(few.train, torch.tensor([40, 3, 99]))
    student = student_of(batch)
    rows = [fresh(teacher, batch.inputs).double().numpy() for teacher in teachers]
    target = np.mean([v - v.mean(-1, keepdims=True) for v in rows], axis=0)
    z = student.logits.double().numpy()
    expected = ((z - z.mean(-1, keepdims=True) - target) ** 2).mean() / 2
    logits = prepared(kd.LogitMatching(teachers), few, recipe)(student, batch)["logits"]
    assert logits.item() == pytest.approx(expected, rel=1e-4)


def test_copies_of_one_teacher_teach_like_one(few):
    batch = batch_of(few.train, torch.arange(7))
    student = student_of(batch)
    for one, copies in (
        (kd.SoftTargets(small(), 4, 1), kd.SoftTargets([small()] * 3, 4, 1)),
        (kd.LogitMatching(small()), kd.LogitMatching((small(),))),
        (kd.CWTM(small()), kd.CWTM([small()] * 3)),
        (kd.DKPP(small()), kd.DKPP([small()] * 3)),
    ):
        state = batch.generator.get_state()
        expected = sum(prepared(one, few)(student, batch).values())
        batch.generator.set_state(state)
        close(sum(prepared(copies, few)(student, batch).values()), expected)


def teaching(taught):
    """Every objective on logits that has a teacher."""
    soft = kd.SoftTargets(taught, 4, 0.9) + kd.LogitMatching(taught)
    return soft + kd.CWTM(taught) + kd.DKPP(taught)


@pytest.mark.parametrize("recipe", [once, shifted], ids=["cached", "live"])
@pytest.mark.parametrize("several", [False, True], ids=["one", "two"])
def test_the_teacher_is_bit_identical_after_fit_and_the_student_is_not(few, recipe, several):
    teachers = [fussy(seed) for seed in ((0, 1) if several else (0,))]
    for teacher in teachers:
        teacher[1].bias.requires_grad_(False)
        teacher[3].eval()  # modes may differ from module to module
        teacher[-1].weight.grad = torch.ones(10, 32)

    def snapshot():
        return [
            (
                {name: t.clone() for name, t in teacher.state_dict().items()},
                [module.training for module in teacher.modules()],
                [p.requires_grad for p in teacher.parameters()],
                [None if p.grad is None else p.grad.clone() for p in teacher.parameters()],
            )
            for teacher in teachers
        ]

    before, student = snapshot(), small(1)
    start = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    taught = teachers if several else teachers[0]
    kd.fit(student, teaching(taught), few, recipe)
    for (state, *rest), (later, *later_rest) in zip(before, snapshot(), strict=True):
        assert state.keys() == later.keys()
        assert all(torch.equal(state[name], later[name]) for name in state)
        for one, other in zip(rest[:2], later_rest[:2], strict=True):
            assert one == other
        for one, other in zip(rest[2], later_rest[2], strict=True):
            assert (one is None and other is None) or torch.equal(one, other)
    assert not any(torch.equal(start[name], t) for name, t in student.state_dict().items())


@pytest.mark.parametrize("recipe", [once, shifted], ids=["cached", "live"])
def test_targets_are_those_of_eval_mode_whatever_mode_the_teacher_is_in(few, recipe):
    for mode in (True, False):
        teacher = fussy().train(mode)
        spy = Spy(kd.SoftTargets(teacher, 4, 0.9))
        kd.fit(small(1), spy, few, recipe)
        assert_taught_by(teacher, spy)


def test_a_student_comes_to_agree_with_its_teacher_without_any_label(few):
    teacher = small()
    with torch.no_grad():
        teacher[-1].weight.mul_(20)
        teacher[-1].bias -= fresh(teacher, few.train.inputs).mean(0)  # no class is its favourite
    images = few.train.inputs
    favourite = fresh(teacher, images).argmax(-1).bincount().max().item()  # of 100 images
    assert favourite < 30
    unlabelled = kd.data.Data(few.train.unlabelled(), None, None, few.classes, few.name)

    def agreement(student):
        return (fresh(student, images).argmax(-1) == fresh(teacher, images).argmax(-1)).sum().item()

    for objective in (kd.SoftTargets(teacher, 4, 1), kd.LogitMatching(teacher)):
        student = small(1)
        assert agreement(student) < 30
        kd.fit(student, objective, unlabelled, kd.Recipe(epochs=6, batch_size=20), progress=False)
        assert agreement(student) > 45


def test_without_labels_alpha_must_be_one(few):
    data = kd.data.Data(few.train.unlabelled(), None, None, few.classes, few.name)
    for alpha in (0.9, 0, torch.tensor([1.0, 0.9])):
        with pytest.raises(ValueError, match="alpha must be 1 where .* no labels, got"):
            kd.fit(small(), kd.SoftTargets(small(1), 4, alpha), data, once)
    for alpha in (1, torch.tensor(1.0)):
        history = kd.fit(small(), kd.SoftTargets(small(1), 4, alpha), data, once)
        assert history.frame["soft"].notna().all() and "hard" not in history.frame


def test_without_labels_cross_entropy_is_refused_alone_and_in_a_sum(few):
    data = kd.data.Data(few.train.unlabelled(), None, None, few.classes, few.name)
    with pytest.raises(ValueError, match="CWTM needs labels"):
        kd.fit(small(), kd.CWTM(small(1)), data, once)
    kd.fit(small(), kd.DKPP(small(1)), data, once)
    for objective in (kd.CrossEntropy(), kd.LogitMatching(small(1)) + 0.1 * kd.CrossEntropy()):
        with pytest.raises(ValueError, match="CrossEntropy needs labels"):
            kd.fit(small(), objective, data, once)
    kd.fit(small(), kd.LogitMatching(small(1)), data, once)


with_teacher = pytest.mark.parametrize(
    "build",
    [lambda teacher: kd.SoftTargets(teacher, 4, 0.9), kd.LogitMatching, kd.CWTM, kd.DKPP],
    ids=["SoftTargets", "LogitMatching", "CWTM", "DKPP"],
)


@with_teacher
@pytest.mark.parametrize(
    "teacher, found",
    [(None, "NoneType"), ("mlp", "str"), ([None], "NoneType"), (np.eye(3), "ndarray")]
    + [(kd.models.mlp, "function"), ([kd.models.mlp(2), torch.eye(3)], "Tensor")],
)
def test_a_teacher_must_be_networks_or_logits(build, teacher, found):
    wording = f"teacher must be a network, a list of networks or a tensor of logits .* got {found}"
    with pytest.raises(TypeError, match=wording):
        build(teacher)


@with_teacher
@pytest.mark.parametrize("table", [torch.zeros(4), torch.zeros(2, 3, 4), torch.eye(3).long()])
def test_a_table_must_hold_a_row_of_logits_a_sample(build, table):
    with pytest.raises(TypeError, match=r"must hold floating-point logits \(rows, C\)"):
        build(table)


def test_temperature_and_alpha_are_checked_where_the_objective_is_built():
    for T in (0, -1, float("nan"), torch.tensor([4.0, 0.0]), torch.tensor(float("inf"))):
        with pytest.raises(ValueError, match="temperature must be positive and finite, got"):
            kd.SoftTargets(TABLE, T, 0.9)
    for alpha in (-0.1, 1.1, torch.tensor([0.5, 1.5]), torch.tensor(float("nan"))):
        with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], got"):
            kd.SoftTargets(TABLE, 4, alpha)
    with pytest.raises(TypeError, match="temperature must be a number, got '4'"):
        kd.SoftTargets(TABLE, "4", 0.9)
    with pytest.raises(TypeError, match="alpha must be a number, got None"):
        kd.SoftTargets(TABLE, 4, None)


def test_several_teachers_take_one_temperature():
    with pytest.raises(TypeError, match="temperature must be one number where the teacher is a"):
        kd.SoftTargets([small(), small(1)], torch.tensor([1.0, 4.0]), 0.9)


def test_a_tensor_of_alphas_that_fits_no_batch_is_refused_in_words(few):
    objective = kd.SoftTargets(small(1), 4, torch.full((5,), 0.5))
    with pytest.raises(ValueError, match=r"alpha must be a number or broadcast .* \(32,\)"):
        kd.fit(small(), objective, few, once)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1])
def test_label_smoothing_must_be_a_fraction(smoothing):
    with pytest.raises(ValueError, match=rf"label_smoothing must be in \[0, 1\], got {smoothing}"):
        kd.CrossEntropy(smoothing)


@pytest.mark.parametrize("build", [lambda t: kd.SoftTargets(t, 4, 0.9), kd.LogitMatching])
def test_an_empty_list_and_a_module_list_are_no_teachers(build):
    with pytest.raises(ValueError, match="at least one network, got an empty list"):
        build([])
    with pytest.raises(TypeError, match="got ModuleList"):
        build(torch.nn.ModuleList([kd.models.mlp(4)]))


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_teacher_that_gives_no_finite_logits_is_refused_before_training(digits, value):
    few = digits.limit(20)
    table = torch.zeros(int(few.train.index.max()) + 1, 10)
    table[few.train.index[3], 5] = value
    with pytest.raises(ValueError, match=rf"finite logits.*1 samples.*{int(few.train.index[3])}"):
        kd.fit(kd.models.mlp(4), kd.SoftTargets(table, 4, 0.9), few, kd.Recipe(1), progress=False)


def test_an_objective_of_ones_own_can_be_added_on_either_side(digits):
    class Mine:
        key, module = "Mine", None

        def prepare(self, student, split, recipe):
            pass

        def __call__(self, student, batch):
            return {"mine": student.logits.square().mean()}

    for both in (Mine() + kd.CrossEntropy(), kd.CrossEntropy() + Mine()):
        recipe = kd.Recipe(epochs=1)
        history = kd.fit(kd.models.mlp(4), both, digits.limit(64), recipe, progress=False)
        assert {"mine", "hard"} <= set(history.frame)


# Objectives on features


def maps(seed=0, width=4, channels=1):
    """Maps (width, 28, 28), then (2 * width, 14, 14), then logits; buffers move in train mode."""
    with kd.seeded(seed):
        return nn.Sequential(
            OrderedDict(
                low=nn.Sequential(
                    nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
                ),
                high=nn.Sequential(
                    nn.Conv2d(width, 2 * width, 3, 2, padding=1), nn.BatchNorm2d(2 * width)
                ),
                top=nn.Conv2d(2 * width, 6, 3),
                norm=nn.BatchNorm2d(6),
                flat=nn.Flatten(),
                head=nn.Linear(6 * 12 * 12, 10),
            )
        )


LOW, FLOW = ("low", "low"), ("low", "high")
slow = replace(once, learning_rate=1e-4)  # the hint loss sums thousands of features
RECIPES = {"fixed views": slow, "random views": replace(slow, augment=kd.data.shift(2))}
every_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def hint(teacher=None, hint="low", guided="low", activation=None):
    teacher = maps(9, width=6) if teacher is None else teacher
    return kd.Hint(teacher, hint=hint, guided=guided, activation=activation)


def fsp(teacher=None, shuffle_seed=None):
    pairs = [(LOW, LOW), (FLOW, FLOW)]
    return kd.FSP(teacher or maps(9), pairs=pairs, shuffle_seed=shuffle_seed)


INSIDE = {"hint": hint, "fsp": fsp}
every_inside = pytest.mark.parametrize("make", INSIDE.values(), ids=INSIDE)


class Inside(Spy):
    """Sees the student's features, and what the objective takes for the teacher's."""

    def __init__(self, objective):
        super().__init__(objective)
        self.taps, self.targets = objective.taps, []

    @property
    def module(self):
        return self.objective.module

    def __call__(self, student, batch):
        self.targets.append((batch.inputs, self.objective._source(batch)))
        self.seen.append(student)
        return self.objective(student, batch)


@torch.no_grad()
def features_of(network, inputs, *names):
    """In eval mode, of a copy."""
    network = copy.deepcopy(network).eval()
    found = []
    for name in names:
        x = inputs
        for part, module in network.named_children():
            x = module(x)
            if part == name:
                break
        found.append(x)
    return found


@every_recipe
def test_hints_are_those_of_the_very_view_the_student_sees(few, recipe):
    teacher = maps(9, width=6).train()
    spy = Inside(hint(teacher, ["high", "low"], ["high", "low"]))
    kd.fit(maps(), spy, few, replace(recipe, epochs=2), progress=False)
    assert len(spy.targets) == 6
    for inputs, targets in spy.targets:
        for found, expected in zip(
            targets, features_of(teacher, inputs, "high", "low"), strict=True
        ):
            close(found, expected, rtol=1e-4, atol=1e-5)


@every_recipe
def test_fsp_targets_are_those_of_the_very_view_the_student_sees(few, recipe):
    teacher = maps(9).train()
    spy = Inside(fsp(teacher))
    kd.fit(maps(), spy, few, replace(recipe, epochs=2), progress=False)
    assert len(spy.targets) == 6
    for inputs, targets in spy.targets:
        low, high = features_of(teacher, inputs, "low", "high")
        for found, ends in zip(targets, ((low, low), (low, high)), strict=True):
            close(found, kd.fsp_matrix(*ends), rtol=1e-4, atol=1e-5)


@every_inside
@every_recipe
def test_alone_they_leave_everything_above_as_it_was_to_the_bit(few, make, recipe):
    student = maps()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    objective = make() if make is fsp else hint(None, "low", "high")
    recipe = replace(recipe, weight_decay=0.1, max_norm=0.01, epochs=2)
    with pytest.raises(ValueError, match="maps") if make is hint else nullcontext():
        kd.fit(student, objective, few, recipe, progress=False)
    if make is hint:  # 14 x 14 cannot guide 28 x 28
        objective = hint(None, "high", "low")
        kd.fit(student, objective, few, recipe, progress=False)
    moved = {n for n, t in student.state_dict().items() if not torch.equal(t, before[n])}
    assert {"low.0.weight", "low.1.running_mean", "low.1.num_batches_tracked"} <= moved
    assert moved.isdisjoint(n for n in before if n.startswith(("top", "norm", "head")))
    if make is hint:
        assert not any(name.startswith("high") for name in moved)


@every_inside
@every_recipe
def test_the_teacher_is_bit_identical_and_in_its_mode_afterwards(few, make, recipe):
    teacher = maps(9).train()
    before = copy.deepcopy(teacher.state_dict())
    kd.fit(maps(), make(teacher), few, recipe, progress=False)
    assert all(torch.equal(t, before[name]) for name, t in teacher.state_dict().items())
    assert all(module.training for module in teacher.modules())
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())


def test_the_regressor_learns_and_is_a_new_one_in_each_training(few):
    objective = hint()
    kd.fit(maps(), objective, few, slow, progress=False)
    first = copy.deepcopy(objective.module)
    objective.prepare(maps(), few.train, slow)
    assert not torch.equal(objective.module[0][0].weight, first[0][0].weight)
    with torch.random.fork_rng():
        kd.fit(maps(), objective, few, slow, progress=False)
    assert torch.equal(objective.module[0][0].weight, first[0][0].weight)


def test_the_hint_is_fixed_and_cannot_collapse(few):
    """With everything that is trained at zero the loss is half the hint's squared length."""
    teacher = maps(9, width=6)
    objective = hint(teacher)
    objective.prepare(maps(), few.train, slow)
    for parameter in objective.module.parameters():
        nn.init.zeros_(parameter)
    batch = batch_of(few.train, torch.arange(7))
    student = Outputs(None, {"low": torch.zeros(7, 4, 28, 28)})
    (low,) = features_of(teacher, batch.inputs, "low")
    close(objective(student, batch)["hint"], low.square().sum() / 2 / 7, rtol=1e-4, atol=1e-4)


def test_unequal_widths_and_sizes_get_the_papers_kernel(few):
    with kd.seeded(0):
        teacher = nn.Sequential(nn.Conv2d(1, 5, (6, 9), stride=2), nn.Tanh())  # 12 x 10
    objective = hint(teacher, hint="1", guided="high", activation="tanh")  # of 8 x 14 x 14
    objective.prepare(maps(), few.train, slow)
    convolution, last = objective.module[0]
    assert convolution.kernel_size == (3, 5) and convolution.padding == (0, 0)
    assert (convolution.in_channels, convolution.out_channels) == (8, 5)
    assert isinstance(last, nn.Tanh)


def test_flat_features_get_a_linear_regressor(few):
    teacher = fussy()
    objective = hint(teacher, hint="1", guided="1")  # before the ReLU: of either sign
    objective.prepare(small(), few.train, slow)
    assert [type(layer) for layer in objective.module[0]] == [nn.Linear]
    objective = hint(teacher, hint="3", guided="1", activation="relu")
    objective.prepare(small(), few.train, slow)
    assert [type(layer) for layer in objective.module[0]] == [nn.Linear, nn.ReLU]


@pytest.mark.parametrize(
    ("activation", "last"),
    [
        ("relu", nn.ReLU),
        ("tanh", nn.Tanh),
        (None, nn.Conv2d),
        (kd.models.Maxout(2), kd.models.Maxout),
        (nn.Sigmoid(), nn.Sigmoid),
    ],
)
def test_the_regressor_ends_with_the_activation_that_is_given(few, activation, last):
    objective = kd.Hint(maps(9), hint="low", guided="low", activation=activation)
    objective.prepare(maps(), few.train, slow)
    regressor = objective.module[0]
    assert isinstance(regressor[-1], last) and regressor[-1] is not activation
    assert regressor[0].out_channels == (
        8 if last is kd.models.Maxout else 4
    )  # two pieces a channel


def test_a_relu_is_the_default_and_hints_that_it_cannot_reach_are_told_of(few):
    teacher = maps(9)  # "high" ends with a BatchNorm: of either sign
    assert kd.Hint(teacher, hint="low", guided="low").activation == "relu"
    with pytest.warns(UserWarning, match=r"'high' goes down to -\d.*activation=None"):
        hint(teacher, "high", "high", "relu").prepare(maps(), few.train, slow)
    for name, activation in (("low", "relu"), ("high", None), ("high", "tanh")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            hint(teacher, name, name, activation).prepare(maps(), few.train, slow)


def test_another_activation_is_another_objective():
    teacher = maps(9)
    keys = {hint(teacher, activation=ends).key for ends in ("relu", "tanh", None, nn.Tanh())}
    assert len(keys) == 4


@pytest.mark.parametrize("activation", ["maxout", nn.ReLU, 3])
def test_an_activation_must_be_known_or_a_module(activation):
    with pytest.raises(
        TypeError, match="activation must be one of relu, leaky_relu.*None or a mod"
    ):
        hint(maps(9), activation=activation)


def test_several_hints_are_the_sum_of_one_by_one(few):
    teacher, student = maps(9), maps()
    both = hint(teacher, ["low", "high"], ["low", "high"])
    alone = [hint(teacher, name, name) for name in ("low", "high")]
    batch = batch_of(few.train, torch.arange(7))
    features = dict(
        zip(("low", "high"), features_of(student, batch.inputs, "low", "high"), strict=True)
    )
    for objective in (both, *alone):
        objective.prepare(student, few.train, slow)
    for one, regressor in zip(alone, both.module, strict=True):
        one.module = nn.ModuleList([regressor])
    found = both(Outputs(None, features), batch)["hint"]
    close(found, sum(one(Outputs(None, features), batch)["hint"] for one in alone))


def test_a_shuffled_fsp_permutes_each_layers_channels_by_its_own_order(few):
    teacher, batch = maps(9), batch_of(few.train, torch.arange(7))
    plain, first, again, other = (fsp(teacher, s) for s in (None, 3, 3, 4))
    for objective in (plain, first, again, other):
        objective.prepare(maps(), few.train, slow)
    low, high = (
        first._source.targets.order(name, torch.empty(1, n))
        for name, n in (("low", 4), ("high", 8))
    )
    ll, lh = plain._source(batch)
    close(first._source(batch)[0], ll[:, low][:, :, low])
    close(first._source(batch)[1], lh[:, low][:, :, high])
    close(again._source(batch), first._source(batch))
    assert not torch.equal(other._source(batch)[1], first._source(batch)[1])
    assert len({plain.key, first.key, other.key}) == 3 and first.key == again.key


def test_fsp_needs_equal_widths_and_says_where(few):
    with pytest.raises(ValueError, match=r"\('low', 'low'\) of the student.*\(4, 4\).*\(6, 6\)"):
        kd.fit(maps(), fsp(maps(9, width=6)), few, slow, progress=False)


def test_features_of_few_images_are_computed_once(few, monkeypatch):
    teacher, passes = maps(9), []
    teacher.low[0].register_forward_hook(lambda module, inputs, output: passes.append(len(output)))
    objective = fsp(teacher)
    for seed in (0, 1):
        kd.fit(maps(seed), objective, few, replace(slow, epochs=3), progress=False)
    assert sum(passes) <= 100 + 2  # and one image in each fit, for the shapes
    monkeypatch.setattr("kdlib.objectives.teachers._TABLE_BYTES", 1000)
    passes.clear()
    spy = Inside(fsp(teacher))
    kd.fit(maps(), spy, few, slow, progress=False)
    assert (
        sum(passes) == 1 + 3 * 32
    )  # for the shapes, then each batch once, however often it is asked
    inputs, (ll, _) = spy.targets[-1]
    (low,) = features_of(teacher, inputs, "low")
    close(ll, kd.fsp_matrix(low, low), rtol=1e-4, atol=1e-5)


def test_a_table_of_features_holds_the_splits_images_alone(digits):
    few = replace(digits, train=digits.train.select(torch.arange(500, 600)))
    objective = fsp()
    objective.prepare(maps(), few.train, slow)
    assert [len(table) for table in objective._source.answers.tables] == [100, 100]


def test_a_sum_asks_for_logits_where_one_part_needs_them():
    teacher = maps(9)
    both = kd.CrossEntropy() + 0.1 * hint(teacher)
    assert both.taps == ("", "low")
    assert (hint(teacher) + fsp(teacher)).taps == ("low", "high")
    assert (kd.CrossEntropy() + kd.LogitMatching(teacher)).taps == ()
    assert (kd.CrossEntropy() + 0.1 * hint(teacher) + fsp(teacher)).taps == ("", "low", "high")


def test_joint_training_is_one_forward_pass_and_logs_every_term(few):
    student, passes = maps(), []
    student.low.register_forward_hook(lambda *call: passes.append(student.training))
    objective = kd.CrossEntropy() + 0.5 * hint() + 0.1 * fsp()
    history = kd.fit(student, objective, few, slow, progress=False)
    assert sum(passes) == 3  # steps; what is not in train mode is the look at shapes and validation
    assert list(history.frame)[3:6] == ["hard", "hint", "fsp"]
    assert history.frame["validation_accuracy"].notna().all()


def test_weighted_parts_scale_their_terms(few):
    teacher, batch = maps(9), batch_of(few.train, torch.arange(7))
    features = dict(
        zip(("low", "high"), features_of(maps(), batch.inputs, "low", "high"), strict=True)
    )
    one = fsp(teacher)
    one.prepare(maps(), few.train, slow)
    student = Outputs(None, features)
    close((0.25 * one)(student, batch)["fsp"], 0.25 * one(student, batch)["fsp"])


@pytest.mark.parametrize("make", [lambda: hint(hint="1", guided="embedding"), fsp])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside labels"])
def test_hints_and_flows_are_of_images_and_refuse_a_text(make, beside):
    text = kd.text.from_texts("abcab" * 20, device="cpu", unroll=5)
    student = kd.models.lstm(3, width=4)
    objective = kd.CrossEntropy() + make() if beside else make()
    with pytest.raises(ValueError, match="are of images, and the training split is a text"):
        kd.fit(student, objective, text, once, progress=False)


def test_a_weight_that_changes_is_logged_with_its_values(few):
    """FitNets' second stage: lambda from 4 to 1, in the paper's weighting."""
    soft = kd.SoftTargets(small(), temperature=3, alpha=1)
    lam = lambda progress: 4 - 3 * progress
    objective = kd.CrossEntropy() + (lambda progress: lam(progress) / 9) * soft
    history = kd.fit(small(1), objective, few, replace(slow, epochs=4), progress=False)
    last_steps = [(3 * epoch - 1) / 12 for epoch in (1, 2, 3, 4)]
    assert history.frame["weight_SoftTargets"].tolist() == pytest.approx(
        [lam(progress) / 9 for progress in last_steps]
    )
    by_itself = kd.CrossEntropy() + (lambda progress: lam(progress)) * (1 / 9 * soft)
    again = kd.fit(small(1), by_itself, few, replace(slow, epochs=4), progress=False)
    assert again.frame["weight_SoftTargets"].tolist() == pytest.approx(
        history.frame["weight_SoftTargets"].tolist()
    )
    nested = (lambda progress: 2.0) * (0.5 * soft + objective)
    row = kd.fit(small(1), nested, few, slow, progress=False).frame.iloc[-1]
    assert row["weight_SoftTargets"] == 1 and row["weight_CrossEntropy"] == 2
    assert row["weight_SoftTargets_2"] == pytest.approx(2 * lam(2 / 3) / 9)
    history = kd.fit(small(1), kd.CrossEntropy() + 0.5 * soft, few, slow, progress=False)
    assert not any(name.startswith("weight") for name in history.frame)


def test_fitnets_weighting_is_its_formula(few):
    """CE(y, q) + lambda * H(p, q) at tau = 3 has the gradient of CE + lambda / 9 * T^2 KL."""
    batch = batch_of(few.train, torch.arange(7))
    teacher = small()
    z = student_of(batch).logits.double().requires_grad_()
    p = torch.softmax(fresh(teacher, batch.inputs).double() / 3, -1)
    entropy = -(p * torch.log_softmax(z / 3, -1)).sum(-1).mean()
    loss = nn.functional.cross_entropy(z, batch.labels) + 2.5 * entropy
    (expected,) = torch.autograd.grad(loss, z)
    objective = kd.CrossEntropy() + 2.5 / 9 * kd.SoftTargets(teacher, 3, 1)
    objective.prepare(small(), few.train, slow)
    terms = objective(Outputs(z), batch)
    terms["hard"] = terms["hard"] * 1
    (found,) = torch.autograd.grad(sum(terms.values()), z)
    close(found, expected, rtol=1e-4, atol=1e-6)


@every_inside
def test_checkpoints_hold_the_regressor_and_resume_to_the_same_weights(few, tmp_path, make):
    recipe = replace(slow, epochs=3)
    whole, resumed = maps(), maps()
    kd.fit(whole, make(), few, recipe, seed=5, progress=False)

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    path = tmp_path / "c.pt"
    kd.fit(resumed, make(), few, recipe, seed=5, progress=False, checkpoint=path, on_epoch=stop)
    with pytest.warns(UserWarning, match="are replaced"):
        kd.fit(resumed, make(), few, recipe, seed=5, progress=False, checkpoint=path)
    assert_equal(whole, resumed)


def assert_equal(one, other):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_validation_is_nan_where_no_logits_are_trained_and_best_is_refused(few):
    history = kd.fit(maps(), fsp(), few, slow, progress=False)
    assert history.frame[["validation_loss", "validation_accuracy"]].isna().all(axis=None)
    with pytest.raises(ValueError, match=r'keep="best" needs an objective.*low.*take keep="last"'):
        kd.fit(maps(), fsp(), few, replace(slow, keep="best"), progress=False)


def test_float64_and_bfloat16_students_have_hints_too(few):
    for precision in ("float64", "bfloat16"):
        recipe = replace(slow, precision=precision)
        for make in INSIDE.values():
            history = kd.fit(maps(), make(), few, recipe, progress=False)
            assert history.frame.iloc[-1, 3] > 0


def test_unlabelled_images_do(few):
    data = replace(few, train=few.train.unlabelled())
    for make in INSIDE.values():
        kd.fit(maps(), make(), data, slow, progress=False)


def test_a_cohort_of_objectives_on_features_is_what_fit_gives(few):
    cohort = kd.fit_cohort(lambda seed: maps(seed), [hint(), fsp()], few, slow, [1], progress=False)
    for model, make in zip(cohort.models, INSIDE.values(), strict=True):
        student = maps(1)
        kd.fit(student, make(), few, slow, seed=1, progress=False)
        assert_equal(student, model)


def test_keys_tell_teachers_layers_and_orders_apart():
    one, other = maps(9), maps(8)
    keys = [
        hint(one).key,
        hint(other).key,
        hint(one, "high").key,
        hint(one, "low", "high").key,
        hint(one, ["low", "high"], ["low", "high"]).key,
        fsp(one).key,
        fsp(other).key,
        kd.FSP(one, pairs=[(LOW, LOW)]).key,
    ]
    assert len(set(keys)) == len(keys)
    assert hint(maps(9)).key == hint(maps(9)).key


@every_inside
@every_recipe
def test_a_teacher_of_broken_features_is_refused(few, make, recipe):
    teacher = maps(9, width=6) if make is hint else maps(9)
    nn.init.constant_(teacher.low[0].weight, math.nan)
    with pytest.raises(ValueError, match="teacher must give finite features at low"):
        kd.fit(maps(), make(teacher), few, recipe, progress=False)


def test_another_activation_is_another_teacher(few):
    with kd.seeded(0):
        teacher = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    objective = hint(teacher, "1", "low")
    kd.fit(maps(), objective, few, slow, progress=False)
    before = objective.key
    teacher[1] = nn.Tanh()
    assert objective.key != before
    student = maps()
    kd.fit(student, objective, few, slow, progress=False)
    fresh_one = maps()
    kd.fit(fresh_one, hint(teacher, "1", "low"), few, slow, progress=False)
    assert_equal(student, fresh_one)


def test_a_cohorts_frame_holds_no_weights(few):
    objective = kd.CrossEntropy() + (lambda progress: 1 - progress) * hint()
    frame = kd.fit_cohort(
        lambda seed: maps(seed), [objective], few, slow, [1], progress=False
    ).frame
    assert list(frame)[-1] == "hint" and not any(name.startswith("weight") for name in frame)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: hint([maps(), maps()]), TypeError, "teacher must be one network.*list"),
        (lambda: fsp([maps()]), TypeError, "teacher must be one network.*list"),
        (lambda: hint(nn.ModuleList([maps()])), TypeError, "one network.*ModuleList"),
        (lambda: hint(torch.zeros(3, 10)), TypeError, "one network.*Tensor"),
        (lambda: hint(hint=["low", "high"]), ValueError, "as many layers as hint: 2, got 1"),
        (lambda: hint(hint=["low", "low"], guided=["low", "high"]), ValueError, "each once"),
        (lambda: hint(hint=[]), ValueError, "hint must name at least one layer"),
        (lambda: hint(guided=3), TypeError, "guided must be a layer's name or a list.*3"),
        (lambda: kd.FSP(maps(), pairs=[]), ValueError, "pairs must be at least one"),
        (lambda: kd.FSP(maps(), pairs=[("low", "high")]), TypeError, "pairs must be.*stem"),
        (lambda: kd.FSP(maps(), pairs=[LOW]), TypeError, "pairs must be"),
        (lambda: kd.FSP(maps(), pairs=3), TypeError, "pairs must be.*got 3"),
        (lambda: kd.FSP(maps(), pairs=[3]), TypeError, "pairs must be.*got 3"),
        (lambda: fsp(shuffle_seed=1.5), TypeError, "shuffle_seed must be a whole number"),
        (lambda: fsp(shuffle_seed=-1), ValueError, "shuffle_seed must be from 0"),
    ],
)
def test_bad_arguments_are_named_where_the_objective_is_built(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "objective, message",
    [
        (hint(hint="no"), "no module 'no'; it has 'low'"),
        (hint(guided="no"), "no module 'no'; it has 'low'"),
        (kd.FSP(maps(), pairs=[(("low", "no"), LOW)]), "no module 'no'"),
        (hint(hint="low", guided="high"), r"guided 'high' must be.*\(6, 28, 28\), got \(8, 14"),
        (hint(hint="low", guided="head"), r"guided 'head' must be flat where"),
        (kd.FSP(maps(), pairs=[(("low", "head"), LOW)]), r"maps \(N, C, H, W\)"),
    ],
)
def test_features_that_do_not_fit_are_refused_before_training(few, objective, message):
    student = maps()
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(ValueError, match=message):
        kd.fit(student, objective, few, slow, progress=False)
    assert all(torch.equal(t, before[name]) for name, t in student.state_dict().items())


@every_inside
def test_the_default_learning_rate_is_stable_on_features_alone(few, make):
    teacher, student = maps(9), maps()
    kd.fit(teacher, kd.CrossEntropy(), few, replace(once, epochs=3), progress=False)
    history = kd.fit(student, make(teacher), few, replace(once, epochs=4), progress=False)
    losses = history.frame.iloc[:, 3]
    assert losses.iloc[-1] < losses.iloc[0]
    given, by_name = maps(), maps()
    kd.fit(given, make(teacher), few, replace(once, learning_rate=0.001), progress=False)
    kd.fit(by_name, make(teacher), few, once, progress=False)
    assert_equal(given, by_name)


def test_beside_labels_the_default_learning_rate_is_the_usual_one(few):
    objective = kd.CrossEntropy() + 1e-4 * hint()
    usual, given = maps(), maps()
    kd.fit(usual, objective, few, once, progress=False)
    kd.fit(given, objective, few, replace(once, learning_rate=0.03), progress=False)
    assert_equal(usual, given)
