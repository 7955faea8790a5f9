"""Homework 2, exercise 3: the FSP matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.course.exercises.claims import is_moving
from kdlib.course.exercises.layers import flow, pooled
from kdlib.course.grading.exercise import Answer, Ask, Draw, Exercise

fsp_matrix = Exercise(
    "fsp_matrix",
    "fsp_matrix(first, second) gives (N, C1, C2): the mean over all places of the products of "
    "channels; the larger maps are first max-pooled to the size of the smaller.",
    minutes=20,
)


@fsp_matrix.holds("For one channel each it is the mean over the places of their product")
def one_channel_each_is_a_mean_product(ask: Ask, draw: Draw) -> None:
    h, w = draw.integer(2, 3), draw.integer(4, 5)
    first, second = draw.normal(1, 1, h, w), draw.normal(1, 1, h, w)
    ask(first=first, second=second).should_be(flow(first, second))


@fsp_matrix.holds("Row i, column j is the flow from channel i alone to channel j alone")
def entries_are_flows_between_channels(ask: Ask, draw: Draw) -> None:
    first, second = draw.normal(1, 2, 2, 4), draw.normal(1, 3, 2, 4)
    entries = [
        _scales(ask, first[:, i : i + 1], second[:, j : j + 1]).value.reshape(-1)
        for i in range(2)
        for j in range(3)
    ]
    whole = ask(first=first, second=second)
    whole.should_be(torch.cat(entries).reshape(1, 2, 3))


@fsp_matrix.holds("Whichever map is larger is max-pooled to the size of the other")
def larger_maps_are_max_pooled(ask: Ask, draw: Draw) -> None:
    small, size = draw.normal(1, 2, 2, 3), (2, 3)
    for factor in (3, 2):
        large = draw.normal(1, 2, 2 * factor, 3 * factor)
        for pair in ((large, small), (small, large)):
            first, second = (pooled(maps, size) for maps in pair)
            at_one_size = _scales(ask, first, second)
            ask(first=pair[0], second=pair[1]).should_be(at_one_size.value)


@fsp_matrix.holds("Each example has its own matrix, whatever else is in the batch")
def each_example_has_its_own_matrix(ask: Ask, draw: Draw) -> None:
    n = draw.integer(2, 4)
    first, second = draw.normal(n, 2, 2, 4), draw.normal(n, 2, 2, 4)
    alone = [_scales(ask, first[k : k + 1], second[k : k + 1]).value for k in range(n)]
    ask(first=first, second=second).should_be(torch.cat(alone))


@fsp_matrix.holds("No intermediate tensor is much larger than the maps")
def memory_stays_small(ask: Ask, draw: Draw) -> None:
    first, second = draw.normal(1, 16, 8, 8), draw.normal(1, 16, 8, 8)
    _scales(ask, first, second)
    found = ask.largest(first=first, second=second)
    found.should(found.value <= 4 * first.numel(), f"at most {4 * first.numel():,}")


@fsp_matrix.holds("Gradients reach both maps")
def gradients_reach_both_maps(ask: Ask, draw: Draw) -> None:
    given = {"first": draw.normal(1, 2, 2, 3), "second": draw.normal(1, 2, 2, 3)}
    _scales(ask, **given)
    for of, maps in given.items():
        pull = ask.gradient(of, **given)
        pull.should(is_moving(pull.value, maps), "something other than zeros")


def _scales(ask: Ask, first: Tensor, second: Tensor) -> Answer:
    """Ask for the matrices, and fail unless they double when the first maps do."""
    once = ask(first=first, second=second)
    like = first.new_zeros(len(first), first.shape[1], second.shape[1])
    wanted = f"numbers, not all 0, of shape {tuple(like.shape)}"
    once.should(is_moving(once.value, like), wanted)
    ask(first=2 * first, second=second).should_be(2 * once.value)
    return once


def of_pooled(name: str, product: Callable) -> Callable:
    """A wrong answer: ``product(f1, f2)`` of maps of one size, (N, C1, h · w) and (N, C2, h · w)."""

    def answer(first, second):
        size = min(first.shape[2:], second.shape[2:])
        f1, f2 = (F.adaptive_max_pool2d(x, size).flatten(2) for x in (first, second))
        return product(f1, f2)

    answer.__name__ = name
    return answer


fsp_matrix.hint(
    "The matrix is too large by the number of places.",
    "What does the formula divide the sum by?",
    "Divide by h · w.",
)(of_pooled("not_divided", lambda f1, f2: torch.bmm(f1, f2.mT)))

fsp_matrix.hint(
    "It is right for one channel, but too small for more.",
    "Gram matrices of style transfer are divided by channels, too. What is this one divided by?",
    "Divide by h · w alone.",
)(
    of_pooled(
        "divided_as_in_style_transfer",
        lambda f1, f2: torch.bmm(f1, f2.mT) / (f1.shape[1] * f1.shape[2]),
    )
)

fsp_matrix.hint(
    "The matrix is divided by channels, not by places.",
    "After flatten(2) the axes are (example, channel, place). Which one is averaged?",
    "Divide by shape[2] of the flattened maps, which is h · w.",
)(of_pooled("divided_by_channels", lambda f1, f2: torch.bmm(f1, f2.mT) / f1.shape[1]))

fsp_matrix.hint(
    "Rows and columns have changed places.",
    "G has a row for each channel of the first layer.",
    "Multiply the first, (N, C1, places), by the second transposed, (N, places, C2).",
)(of_pooled("transposed", lambda f1, f2: torch.bmm(f2, f1.mT) / f1.shape[2]))


@fsp_matrix.hint(
    "For maps of one size it is right, and where one is larger it is too small.",
    "An average is smaller than a maximum. (Stretching the smaller map amounts to an average, too.)",
    "The paper takes the maximum: F.adaptive_max_pool2d.",
)
def average_pool(first, second):
    size = min(first.shape[2:], second.shape[2:])
    f1, f2 = (F.adaptive_avg_pool2d(x, size).flatten(2) for x in (first, second))
    return torch.bmm(f1, f2.transpose(1, 2)) / f1.shape[2]


@fsp_matrix.hint(
    "Where one map is larger, your numbers are not the paper's: how do you shrink it?",
    "Interpolation reads a few places and ignores the rest.",
    "Max-pool the larger map to the size of the smaller: F.adaptive_max_pool2d.",
)
def resized(first, second):
    size = tuple(min(first.shape[2:], second.shape[2:]))
    f1, f2 = (F.interpolate(x, size, mode="bilinear").flatten(2) for x in (first, second))
    return torch.bmm(f1, f2.transpose(1, 2)) / f1.shape[2]


@fsp_matrix.hint(
    "A larger first map is pooled, a larger second one is not.",
    "In most networks maps shrink on their way up. In which do they grow?",
    "Find the smaller size first, then pool whichever map is larger.",
)
def only_the_first_is_pooled(first, second):
    if first.shape[2] > second.shape[2]:
        first = F.adaptive_max_pool2d(first, second.shape[2:])
    f1, f2 = first.flatten(2), second.flatten(2)
    return torch.bmm(f1, f2.transpose(1, 2)) / f1.shape[2]


@fsp_matrix.hint(
    "A map of twice the height is pooled correctly, one of three times the height is not.",
    "Is there a 2 in your function that stands for how much larger a map is?",
    "F.adaptive_max_pool2d takes the size of its output.",
)
def halved_once(first, second):
    if first.shape[2] > second.shape[2]:
        first = F.max_pool2d(first, 2)
    if second.shape[2] > first.shape[2]:
        second = F.max_pool2d(second, 2)
    f1, f2 = first.flatten(2), second.flatten(2)
    return torch.bmm(f1, f2.transpose(1, 2)) / f1.shape[2]


fsp_matrix.hint(
    "Every example gets the same matrix.",
    "The paper compares teacher and student image by image: two images may have very different flows.",
    "Keep the first axis: the matrix is (N, C1, C2).",
)(
    of_pooled(
        "mean_over_the_batch",
        lambda f1, f2: (torch.bmm(f1, f2.mT) / f1.shape[2]).mean(0, keepdim=True),
    )
)

fsp_matrix.hint(
    "An example's matrix depends on how many others are in the batch.",
    "The loss divides by the batch size. Your matrix has divided by it already.",
    "The number of examples has no place in this function.",
)(of_pooled("batch_divided_inside", lambda f1, f2: torch.bmm(f1, f2.mT) / (f1.shape[2] * len(f1))))

fsp_matrix.hint(
    "The values are right, but 64 images of a real network would take half a gigabyte.",
    "You make all products, one for each place, before you add them up.",
    "A matrix product adds while it multiplies: torch.bmm, @, or einsum.",
)(of_pooled("broadcast_product", lambda f1, f2: (f1[:, :, None] * f2[:, None]).mean(3)))

fsp_matrix.hint(
    "The values are right, but no gradient comes through.",
    "The teacher's matrix needs none. This function serves the student, too.",
    "Leave no_grad and detach to the loss.",
)(of_pooled("without_gradients", lambda f1, f2: torch.bmm(f1, f2.mT).detach() / f1.shape[2]))


@fsp_matrix.hint(
    "Only one of the two layers is in your matrix.",
    "A Gram matrix relates the channels of one layer. This one relates two layers.",
    "Rows are channels of the first, columns of the second.",
)
def gram_matrix(first, second):
    f = first.flatten(2)
    return torch.bmm(f, f.transpose(1, 2)) / f.shape[2]


@fsp_matrix.answer
def batched_product(first, second):
    size = min(first.shape[2:], second.shape[2:])
    f1, f2 = (F.adaptive_max_pool2d(x, size).flatten(2) for x in (first, second))
    return torch.bmm(f1, f2.transpose(1, 2)) / f1.shape[2]
