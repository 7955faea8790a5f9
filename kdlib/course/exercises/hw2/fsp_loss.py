"""Homework 2, exercise 4: the distance between two flows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdlib.course.exercises.claims import is_finite, is_like, is_mean_of, is_positive
from kdlib.course.grading.exercise import Ask, Draw, Exercise

fsp_loss = Exercise(
    "fsp_loss",
    "fsp_loss(student_matrices, teacher_matrices) adds the squared distances of all pairs in two "
    "lists of (N, C1, C2) matrices and takes the mean over the examples.",
    minutes=15,
)


def _matrices(draw: Draw, n: int, *sizes: tuple[int, int]) -> list[Tensor]:
    return [draw.normal(n, *size) for size in sizes]


@fsp_loss.holds("For one pair and one example it is the sum of the squared differences")
def one_pair_is_a_sum_of_squares(ask: Ask, draw: Draw) -> None:
    for size in ((2, 3), (4, draw.integer(2, 3))):
        (s,), (t,) = _matrices(draw, 1, size), _matrices(draw, 1, size)
        ask(student_matrices=[s], teacher_matrices=[t]).should_be((s - t).square().sum())


@fsp_loss.holds("Pairs add up, whatever their sizes")
def pairs_add_up(ask: Ask, draw: Draw) -> None:
    sizes = (2, 2), (1, 3), (1, 2)
    s, t = _matrices(draw, 1, *sizes), _matrices(draw, 1, *sizes)
    alone = [ask(student_matrices=[a], teacher_matrices=[b]) for a, b in zip(s, t, strict=True)]
    for one in alone:
        one.should(is_positive(one.value) and is_finite(one.value), "a number above 0")
    together = ask(student_matrices=s, teacher_matrices=t)
    together.should_be(sum(float(one.value) for one in alone))


@fsp_loss.holds("The loss of a batch is the mean of its examples' losses")
def is_a_mean_over_the_batch(ask: Ask, draw: Draw) -> None:
    n = draw.integer(2, 4)
    (s,), (t,) = _matrices(draw, n, (2, 3)), _matrices(draw, n, (2, 3))
    alone = [
        ask(student_matrices=[s[k : k + 1]], teacher_matrices=[t[k : k + 1]]) for k in range(n)
    ]
    is_mean_of(ask(student_matrices=[s], teacher_matrices=[t]), alone)


@fsp_loss.holds("The teacher's matrices are constants: only the student's are pulled")
def teacher_is_a_constant(ask: Ask, draw: Draw) -> None:
    # A list of one pair, written as a tensor so that it can have a gradient.
    t, signs = draw.normal(1, 1, 2, 3), torch.tensor([[1.0, -1, 1], [-1, 1, -1]])
    given = {"student_matrices": t + signs * draw.normal(1, 1, 2, 3).abs(), "teacher_matrices": t}
    ask.gradient("teacher_matrices", **given).should_be(None)
    pull = ask.gradient("student_matrices", **given)
    good = is_like(pull.value, t) and torch.equal(pull.value.sign(), signs.expand_as(t).double())
    pull.should(good, "a pull that has the signs of student - teacher")


def summed(name: str, distance: Callable) -> Callable:
    """A wrong answer: the sum over the pairs of this ``distance(s, t)``, (N, C1, C2) each."""

    def answer(student_matrices, teacher_matrices):
        pairs = zip(student_matrices, teacher_matrices, strict=True)
        return sum(distance(s, t.detach()) for s, t in pairs)

    answer.__name__ = name
    return answer


fsp_loss.hint(
    "Halving the error halves your loss, where it should quarter it.",
    "A norm is a square root. The formula squares the norm of the whole matrix, not of its columns.",
    "Add up the squares of all entries; no root anywhere.",
)(summed("column_norms_not_squared", lambda s, t: (s - t).norm(dim=1).sum(-1).mean()))

fsp_loss.hint(
    "Twice the error gives twice your loss, where it should give four times as much.",
    "Each image has its own norm, as it should. What does the formula do with the norm?",
    "Square the norm of each image's difference, then take the mean over the images.",
)(summed("matrix_norms_not_squared", lambda s, t: (s - t).norm(dim=(1, 2)).mean()))

fsp_loss.hint(
    "One root is taken over the whole batch: the loss is neither squared nor a mean.",
    "A norm is a square root. What does the formula do with it, and is it one for each image?",
    "For each example the sum of the squared entries; then the mean over the examples.",
)(summed("distance_of_the_whole_batch", lambda s, t: (s - t).norm()))

fsp_loss.hint(
    "The loss is too small by the number of entries of a matrix.",
    "F.mse_loss takes a mean over everything. What does the formula do over i and j?",
    "Sum over the rows and columns, then take the mean over the examples.",
)(summed("mean_over_the_entries", lambda s, t: (s - t).square().mean()))

fsp_loss.hint(
    "The loss is half as large as it should be.",
    "Hints have a half before their square. Do flows?",
    "Leave the half out.",
)(summed("halved_like_a_hint", lambda s, t: (s - t).square().sum((1, 2)).mean() / 2))


@fsp_loss.hint(
    "Matrices of several sizes do not fit into one tensor.",
    "In most networks each stage is wider than the one before.",
    "Take one pair after the other and add up their distances.",
)
def stacked_matrices(student_matrices, teacher_matrices):
    student = torch.stack(list(student_matrices))  # (pairs, N, C1, C2)
    teacher = torch.stack(list(teacher_matrices)).detach()
    return (student - teacher).square().sum((0, 2, 3)).mean()


@fsp_loss.hint(
    "Two pairs of layers give no larger a loss than one.",
    "The formula has a sum over the pairs, each with the weight 1.",
    "Add up; do not divide by the number of pairs.",
)
def mean_over_the_pairs(student_matrices, teacher_matrices):
    pairs = zip(student_matrices, teacher_matrices, strict=True)
    distances = [(s - t.detach()).square().sum((1, 2)).mean() for s, t in pairs]
    return sum(distances) / len(distances)


@fsp_loss.hint(
    "Only one pair of layers counts, the last.",
    "What does your loop do with the distance of the pair before?",
    "Begin with 0 and add each pair's distance to it.",
)
def only_the_last_pair(student_matrices, teacher_matrices):
    for s, t in zip(student_matrices, teacher_matrices, strict=True):
        loss = (s - t.detach()).square().sum((1, 2)).mean()
    return loss


fsp_loss.hint(
    "The loss of a batch is too small by the number of its examples: you divide by it twice.",
    "What is divided by N before it is squared is divided by N².",
    "Square and sum first, then take one mean over the examples.",
)(summed("batch_divided_twice", lambda s, t: ((s - t) / len(s)).square().sum()))

fsp_loss.hint(
    "Your loss grows with the number of images in the batch.",
    "The formula has 1 / N before its sum over the examples.",
    "Take the mean over the examples.",
)(summed("summed_over_the_examples", lambda s, t: (s - t).square().sum()))

fsp_loss.hint(
    "Errors of two images cancel: you average the matrices before you compare them.",
    "The distance is taken image by image. Its mean is larger than the distance of the means.",
    "Subtract, square and sum first; take the mean over the examples last.",
)(summed("distance_of_the_means", lambda s, t: (s.mean(0) - t.mean(0)).square().sum()))


@fsp_loss.hint(
    "A gradient reaches the teacher's matrices: trained along, it would move towards the student.",
    "What comes from the teacher is a constant.",
    "Detach the teacher's matrix in each pair.",
)
def gradient_to_the_teacher(student_matrices, teacher_matrices):
    pairs = zip(student_matrices, teacher_matrices, strict=True)
    return sum((s - t).square().sum((1, 2)).mean() for s, t in pairs)


@fsp_loss.hint(
    "The value is right, but no gradient reaches the student's matrices.",
    "What cuts the path back to the student: item(), detach(), numpy() or no_grad()?",
    "Detach the teacher's matrices alone, and return the tensor itself.",
)
def a_flow_without_a_past(student_matrices, teacher_matrices):
    pairs = zip(student_matrices, teacher_matrices, strict=True)
    return sum((s - t).square().sum((1, 2)).mean() for s, t in pairs).item()


@fsp_loss.answer
def pair_after_pair(student_matrices, teacher_matrices):
    pairs = zip(student_matrices, teacher_matrices, strict=True)
    return sum((s - t.detach()).square().sum((1, 2)).mean() for s, t in pairs)
