"""Homework 2, exercise 6: what a flow leaves free."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.course.exercises.claims import is_like
from kdlib.course.exercises.layers import flow
from kdlib.course.grading.exercise import Answer, Ask, Draw, Exercise
from kdlib.course.grading.observe import same

same_flow = Exercise(
    "same_flow",
    "same_flow(first, second) gives two other maps of the same shapes, in that order, whose FSP matrices "
    "are the same.",
    minutes=10,
)


@same_flow.holds("For maps of one size the new pair has the same FSP matrices", 2)
def flow_stays_the_same(ask: Ask, draw: Draw) -> None:
    first, second = draw.normal(2, 3, 4, 4), draw.normal(2, 5, 4, 4)
    found = ask(first=first, second=second)
    a, b = _another_pair(found, first, second)
    matrices, wanted = flow(a, b), flow(first, second)
    apart = float((matrices - wanted).abs().max())
    kept = torch.allclose(matrices, wanted, rtol=1e-4, atol=1e-6)
    found.should(kept, f"their FSP matrices; an entry of yours is off by {apart:.3g}")


@same_flow.holds("Every channel of both maps changes, and the flow keeps its strength", 0.5)
def every_channel_changes(ask: Ask, draw: Draw) -> None:
    first, second = draw.normal(2, 3, 4, 4), draw.normal(2, 5, 4, 4)
    found = ask(first=first, second=second)
    for name, new, old in zip(
        ("first", "second"), _pair(found, first, second), (first, second), strict=True
    ):
        kept = int(((new - old).abs().amax((2, 3)) < 1e-6).sum())
        found.should(
            not kept, f"a {name} map with every channel changed; {kept} of yours are as before"
        )
    _as_strong(found, first, second)


@same_flow.holds("A larger first map keeps the strength of its flow, too", 0.5)
def larger_first_maps_keep_their_strength(ask: Ask, draw: Draw) -> None:
    first, second = draw.normal(2, 3, 4, 6), draw.normal(2, 5, 2, 3)
    found = ask(first=first, second=second)
    _another_pair(found, first, second)
    _as_strong(found, first, second)


def _pair(found: Answer, first: Tensor, second: Tensor) -> list[Tensor]:
    """The new maps; fail unless they have the shapes of the old ones."""
    value = found.value
    good = (
        isinstance(value, list)
        and len(value) == 2
        and all(is_like(new, old) for new, old in zip(value, (first, second), strict=True))
    )
    found.should(good, f"two tensors of shapes {tuple(first.shape)} and {tuple(second.shape)}")
    return [new.double() for new in value]


def _another_pair(found: Answer, first: Tensor, second: Tensor) -> list[Tensor]:
    pair = _pair(found, first, second)
    found.should(not same(pair, [first, second]), "a pair other than the one passed in")
    return pair


def _as_strong(found: Answer, first: Tensor, second: Tensor) -> None:
    """Fail unless the matrices have the same norm; their entries are another property's business."""
    before = flow(first, second).norm()
    after = flow(*_pair(found, first, second)).norm()
    share = float(after / before)
    found.should(
        math.isclose(share, 1, rel_tol=1e-4),
        f"FSP matrices of the same norm; that of yours is {share:.3g} times as large",
    )


@same_flow.hint(
    "That is the pair you were given.",
    "The matrix is a sum over places. How can both maps' places change and leave it the same?",
    "Put both maps' places in another order, the same one in both: a mirror will do.",
)
def nothing_changed(first, second):
    return first.clone(), second.clone()


@same_flow.hint(
    "The flow has changed: its rows and columns are in another order.",
    "Each channel has a row or a column of its own. Each place only adds a term to a sum.",
    "Reorder places, not channels.",
)
def channels_reordered(first, second):
    return first.roll(1, dims=1), second.roll(1, dims=1)


@same_flow.hint(
    "Only one of the maps has changed, and the flow with it.",
    "A product of two channels is taken at one and the same place.",
    "What you do to the places of the first map, do to those of the second.",
)
def places_of_one_map(first, second):
    return first.flip(-1), second


@same_flow.hint(
    "You reordered the places of both maps, each in its own way.",
    "Two numbers that met at one place before should meet at one place again.",
    "Draw one order, and use it for both.",
)
def places_in_two_orders(first, second):
    return first.flip(-1), second.flip(-2)


@same_flow.hint(
    "The flow is four times as large.",
    "Each product has one factor from each map. If one grows, what must the other do?",
    "If one map is doubled, halve the other.",
)
def both_doubled(first, second):
    return 2 * first, 2 * second


@same_flow.hint(
    "The flow is the same, but so is the first map.",
    "What is orthogonal to the first map may be added to the second. But what changes both?",
    "Change the places of both alike, or scale one up and the other down.",
)
def only_the_second_changed(first, second):
    seen = F.adaptive_max_pool2d(first, second.shape[2:]).flatten(2)
    basis = torch.linalg.qr(seen.mT)[0]  # (N, places, C1)
    more = torch.ones_like(second).flatten(2)
    return first, second + (more - more @ basis @ basis.mT).view_as(second)


@same_flow.hint(
    "For maps of one size it is right. A larger one is max-pooled: what is the largest of -1 and -2?",
    "The maximum of the negatives is not the negative of the maximum.",
    "Find a change that commutes with a maximum over blocks: a mirror, or a positive factor.",
)
def signs_flipped(first, second):
    return -first, -second


@same_flow.hint(
    "For maps of one size it is right. A larger first map has other places than the second.",
    "Blocks of places are max-pooled. Reorder those as you reorder the second's places.",
    "Mirror both maps: blocks stay blocks.",
)
def one_order_for_both(first, second):
    order = torch.randperm(first[0, 0].numel())
    return tuple(x.flatten(2)[:, :, order].view_as(x) for x in (first, second))


@same_flow.answer
def mirrored(first, second):
    return first.flip(-1), second.flip(-1)
