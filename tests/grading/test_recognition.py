"""Known mistakes are recognised by what an answer does, however it is written."""

import itertools
import re

import pytest
import torch
from torch.nn import functional as F

from kdlib.course.exercises import hw1, hw2, hw3


def names(report):
    return sorted(mistake.name for mistake in report.mistakes)


def soft(student, teacher, temperature):
    """Without T², and a gradient reaches the teacher."""
    p = F.softmax(teacher / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    return F.kl_div(log_q, p, reduction="batchmean")


def both_terms_wrong(student, teacher, labels, temperature, alpha):
    hard = F.cross_entropy(student / temperature, labels)
    return alpha * soft(student, teacher.detach(), temperature) + (1 - alpha) * hard


def regressor_left_out(v, r, x, u):
    loss = (r(v(x)) - u).pow(2).sum() / (2 * len(x))
    slopes = torch.autograd.grad(loss, list(v.parameters()))
    with torch.no_grad():
        for weight, slope in zip(v.parameters(), slopes, strict=True):
            weight -= 0.01 * slope
    return loss.detach()


def gram_by_view(a, b):
    a = F.adaptive_max_pool2d(a, b.shape[2:]) if a.shape[3] > b.shape[3] else a
    b = F.adaptive_max_pool2d(b, a.shape[2:]) if b.shape[3] > a.shape[3] else b
    return torch.einsum("nixy,njxy->nij", a, b)


def a_norm_for_each_matrix(students, teachers):
    pairs = zip(students, teachers, strict=True)
    return sum(torch.linalg.matrix_norm(s - t.detach()) for s, t in pairs).mean()


def summed_and_attached(students, teachers):
    return sum((s - t).square().sum() for s, t in zip(students, teachers, strict=True))


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


def rows_shuffled(z, generator):
    rows = [row[torch.randperm(len(row), generator=generator)].float() for row in z]
    return torch.stack(rows)


def all_trained_on_labels_first(build, train, count):
    networks = [build(seed) for seed in range(count)]
    for network in networks:
        train(network, None)
    for teacher, student in itertools.pairwise(networks):
        train(student, teacher)
    return networks


@pytest.mark.parametrize(
    ("exercise", "answer", "known", "lost"),
    [
        (hw1.soften, lambda logits, T: logits.div_(T).softmax(-1), "logits_overwritten", 1),
        (hw1.hinton_loss, both_terms_wrong, "labels_at_temperature soft_term_without_t_squared", 2),
        (hw2.hint_loss, lambda r, u: (r - u.detach()).pow(2).mean() / 2, "mean_over_everything", 1),
        (hw2.hint_step, regressor_left_out, "regressor_not_in_the_optimizer", 1),
        (hw2.fsp_matrix, gram_by_view, "not_divided", 1),
        (hw2.fsp_loss, a_norm_for_each_matrix, "matrix_norms_not_squared", 1),
        (hw2.fsp_loss, summed_and_attached, "gradient_to_the_teacher summed_over_the_examples", 2),
        (hw2.two_stages, upper_part_added_later, "momentum_kept", 1),
        (hw3.permute_dark_knowledge, rows_shuffled, "rows_shuffled_whole", 1),
        (hw3.generations, all_trained_on_labels_first, "labels_first_then_the_teacher", 1),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_mistake_is_recognised_and_costs_its_own_points(exercise, answer, known, lost):
    report = exercise.check(answer)
    assert names(report) == known.split()
    assert report.points == report.out_of - lost
    assert all(f"Hint 1: {mistake.hints[0]}" in repr(report) for mistake in report.mistakes)


def test_of_two_mistakes_the_one_that_explains_more_comes_first():
    report = hw1.soft_target_loss.check(soft)
    assert report.mistakes[0].name == "t_squared_forgotten"
    assert "400 times too small" in report._repr_html_()


def test_of_two_mistakes_that_agree_within_the_tolerance_by_chance_the_closer_one_is_named():
    """The seed draws matrices of which half the squared norm is the sum of the columns' norms, to 2e-5."""
    halved = next(m.wrong for m in hw2.fsp_loss.mistakes if m.name == "halved_like_a_hint")
    source = hw2.fsp_loss.source(halved, may_borrow=True)
    report = hw2.fsp_loss.report(source, 3085, "ada")
    assert names(report) == ["halved_like_a_hint"]


def test_an_unknown_mistake_gets_no_hint():
    report = hw1.soft_target_loss.check(lambda s, t, T: (T * soft(s, t.detach(), T)) ** 2)
    assert report.points < report.out_of and not report.mistakes
    assert "Hint" not in repr(report) and "<details" not in report._repr_html_()


def test_a_report_on_a_stage_shows_the_change_and_the_expected_change():
    text = repr(hw2.two_stages.check(upper_part_added_later))
    assert "✗ The second stage starts from rest where the first has ended" in text
    assert re.search(r"with .*lower = a Sequential, .*steps = \[\d, \d\]", text)
    assert re.search(r"got +a change of lower by \[.*\]\n +expected +\[.*\]", text)
