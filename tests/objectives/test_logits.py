import numpy as np
import pytest
import torch
from teaching import batch_of, close, fresh, fussy, prepared, small, student_of, trained
from torch import nn

import kdlib as kd
from kdlib.losses import cross_entropy
from kdlib.objectives import Outputs

TEACHER = small()
TABLE = torch.arange(20.0).reshape(2, 10)


@pytest.fixture(scope="module")
def batch(few):
    return batch_of(few.train, torch.arange(7))


@pytest.fixture(scope="module")
def student(batch):
    return student_of(batch)


@pytest.fixture(scope="module")
def taught(batch):
    return fresh(TEACHER, batch.inputs)


@pytest.fixture(scope="module")
def unlabelled(few):
    return kd.data.Data(few.train.unlabelled(), None, None, few.classes, few.name)


def test_each_objective_logs_its_loss_by_name(few, batch, student, taught):
    s, y = student.logits, batch.labels
    for objective, expected in (
        (kd.CrossEntropy(), {"hard": cross_entropy(s, y)}),
        (kd.CrossEntropy(0.3), {"hard": cross_entropy(s, y, label_smoothing=0.3)}),
        (kd.LogitMatching(TEACHER), {"logits": kd.logit_matching_loss(s, taught)}),
        (kd.CWTM(TEACHER), {"cwtm": kd.cwtm_loss(s, taught, y)}),
    ):
        close(prepared(objective, few)(student, batch), expected)


@pytest.mark.parametrize(
    "T, alpha",
    [(1, 0.5), (4, 0.9), (20, 1), (4, 0), (torch.linspace(1, 20, 7), torch.linspace(0, 1, 7))],
)
def test_soft_targets_log_the_two_terms_of_the_hinton_loss(few, batch, student, taught, T, alpha):
    s, y = student.logits, batch.labels
    terms = prepared(kd.SoftTargets(TEACHER, T, alpha), few)(student, batch)
    assert list(terms) == ["soft", "hard"]
    close(terms["soft"], (alpha * kd.soft_target_loss(s, taught, T, reduction="none")).mean())
    close(terms["hard"], ((1 - alpha) * cross_entropy(s, y, reduction="none")).mean())
    close(sum(terms.values()), kd.hinton_loss(s, taught, y, T, alpha))


@pytest.mark.parametrize("T", [1, 4])
def test_soft_targets_without_labels_are_the_soft_term_alone(unlabelled, student, taught, T):
    batch = batch_of(unlabelled.train, torch.arange(7))
    terms = prepared(kd.SoftTargets(TEACHER, T, 1), unlabelled)(student, batch)
    close(terms, {"soft": kd.soft_target_loss(student.logits, taught, T)})


def test_dkpp_draws_its_permutations_from_the_batch(few, batch, student, taught):
    objective, state = prepared(kd.DKPP(TEACHER), few), batch.generator.get_state()
    for _ in range(2):
        again = torch.Generator().set_state(batch.generator.get_state())
        expected = kd.dkpp_loss(student.logits, taught, again)
        close(objective(student, batch), {"dkpp": expected})
    assert not torch.equal(batch.generator.get_state(), state)


def test_each_returns_the_terms_of_single_examples(few, batch, student):
    for objective in (
        kd.CrossEntropy(0.1),
        kd.SoftTargets(TEACHER, 4, 0.9),
        kd.LogitMatching(TEACHER),
    ):
        prepared(objective, few)
        terms, each = objective(student, batch), objective.each(student, batch)
        assert list(terms) == list(each)
        for name, values in each.items():
            assert values.shape == (7,)
            close(values.mean(), terms[name])
            for k in range(7):
                alone = batch_of(few.train, torch.tensor([k]))
                close(values[k], objective(Outputs(student.logits[k : k + 1]), alone)[name])


def test_fitnets_weighting_is_its_formula(few, batch, taught):
    """CE(y, q) + lambda * H(p, q) at tau = 3 has the gradient of CE + lambda / 9 * T^2 KL."""
    s = student_of(batch).logits.double().requires_grad_()
    p = torch.softmax(taught.double() / 3, -1)
    entropy = -(p * torch.log_softmax(s / 3, -1)).sum(-1).mean()
    (expected,) = torch.autograd.grad(
        nn.functional.cross_entropy(s, batch.labels) + 2.5 * entropy, s
    )
    objective = prepared(kd.CrossEntropy() + 2.5 / 9 * kd.SoftTargets(TEACHER, 3, 1), few)
    (found,) = torch.autograd.grad(sum(objective(Outputs(s), batch).values()), s)
    close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_student_comes_to_agree_with_its_teacher_without_any_label(unlabelled):
    teacher, images = small(), unlabelled.train.inputs
    with torch.no_grad():
        teacher[-1].weight.mul_(20)
        teacher[-1].bias -= fresh(teacher, images).mean(0)  # no class is its favourite
    predicted = fresh(teacher, images).argmax(-1)
    assert predicted.bincount().max() < 30  # of 100 images

    def agreement(student):
        return (fresh(student, images).argmax(-1) == predicted).sum().item()

    assert agreement(small(1)) < 30
    for objective in (kd.SoftTargets(teacher, 4, 1), kd.LogitMatching(teacher)):
        recipe = kd.Recipe(epochs=6, batch_size=20)
        assert agreement(trained(objective, unlabelled, recipe, small(1))[0]) > 45


# Labels and arguments


def test_without_labels_alpha_must_be_one(unlabelled):
    for alpha, text in ((0.9, "0.9"), (0, "0.0"), (torch.tensor([1.0, 0.5]), r"\[1.0, 0.5\]")):
        wording = f"alpha must be 1 where .* no labels, got {text}"
        with pytest.raises(ValueError, match=wording):
            prepared(kd.SoftTargets(TEACHER, 4, alpha), unlabelled)
    prepared(kd.SoftTargets(TEACHER, 4, torch.tensor(1.0)), unlabelled)


def test_objectives_on_labels_refuse_an_unlabelled_split_alone_and_in_a_sum(unlabelled):
    for objective in (
        kd.CrossEntropy(),
        kd.CWTM(TEACHER),
        kd.LogitMatching(TEACHER) + 0.1 * kd.CrossEntropy(),
    ):
        with pytest.raises(ValueError, match=r"(CrossEntropy|CWTM) needs labels"):
            trained(objective, unlabelled)
    for objective in (kd.LogitMatching(TEACHER), kd.DKPP(TEACHER)):
        assert "hard" not in trained(objective, unlabelled)[1].frame


def test_numbers_are_checked_where_the_objective_is_built():
    for smoothing in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\], got"):
            kd.CrossEntropy(smoothing)
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
    with pytest.raises(TypeError, match="temperature must be one number where the teacher is a"):
        kd.SoftTargets([small(), small(1)], torch.tensor([1.0, 4.0]), 0.9)


# Keys


def test_keys_differ_by_every_number_and_teacher():
    changed, counted = small(), fussy()
    with torch.no_grad():
        changed[-1].bias[3] += 1e-6
    counted[2].running_mean[0] += 1e-3
    soft = [(4, 0.9), (4.000001, 0.9), (4, 0.90001), (4, torch.tensor([0.9, 0.8]))]
    soft += [(torch.tensor([4.0, 4.0]), 0.9), (torch.tensor([4.0, 5.0]), 0.9)]
    teachers = [small(1), changed, fussy(), counted, TABLE, TABLE + 1e-3, [small()]]
    teachers += [[small(), small(1)], [small(), small(2)]]
    objectives = [
        *(kd.SoftTargets(TEACHER, *numbers) for numbers in soft),
        *(kd.SoftTargets(teacher, 4, 0.9) for teacher in teachers),
        *(kind(small(k)) for kind in (kd.LogitMatching, kd.CWTM, kd.DKPP) for k in (0, 1)),
        kd.CrossEntropy(),
        kd.CrossEntropy(0.1),
        2 * kd.CrossEntropy(),
        2.5 * kd.CrossEntropy(),
        kd.CrossEntropy() + kd.CrossEntropy(),
        kd.CrossEntropy() + 2 * kd.CrossEntropy(),
        (lambda progress: 4 - 3 * progress) * kd.CrossEntropy(),
        (lambda progress: 4 - 2 * progress) * kd.CrossEntropy(),
        (lambda progress: 4 if progress < 1 else 1) * kd.CrossEntropy(),
        (lambda progress: 5 if progress * 4 % 1 else 4 - 3 * progress) * kd.CrossEntropy(),
    ]
    keys = [objective.key for objective in objectives]
    assert len(set(keys)) == len(keys)


def test_keys_are_equal_where_the_training_is():
    for one, other in (
        (kd.SoftTargets(small(), 4, 1), kd.SoftTargets(small(), 4.0, np.float64(1))),
        (kd.LogitMatching(TABLE), kd.LogitMatching(TABLE.clone())),
        (2 * kd.CrossEntropy(), np.float32(2) * kd.CrossEntropy()),
        ((lambda p: 4 - 3 * p) * kd.CrossEntropy(), (lambda p: 4 - 3 * p) * kd.CrossEntropy()),
    ):
        assert repr(one) == one.key == other.key


def test_a_key_changes_with_the_teacher_and_not_with_prepare(few):
    teacher = small()
    objective = kd.SoftTargets(teacher, 4, 1)
    before = objective.key
    assert prepared(objective, few).key == before
    with torch.no_grad():
        teacher[-1].weight[0, 0] += 1
    assert objective.key != before
