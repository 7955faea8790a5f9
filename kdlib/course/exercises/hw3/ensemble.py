"""Homework 3, exercise 2: an ensemble."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.course.exercises.claims import is_like
from kdlib.course.exercises.material import softmax
from kdlib.course.grading.exercise import Ask, Draw, Exercise

ensemble = Exercise(
    "ensemble",
    "ensemble(logits) gives the (N, C) mean of the probabilities of several networks, from a list of "
    "their (N, C) logits.",
    minutes=10,
)


@ensemble.holds("An ensemble of copies answers as the one network does")
def copies_answer_like_one(ask: Ask, draw: Draw) -> None:
    z = draw.logits(draw.integer(3, 5))
    for copies in (1, 3):
        ask(logits=[z] * copies).should_be(softmax(z, 1))


@ensemble.holds("Each network counts the same, however sure it is")
def each_network_counts_the_same(ask: Ask, draw: Draw) -> None:
    networks = [draw.logits(2, 5, scale) for scale in (1.0, 3.0, 9.0)]
    alone = [ask(logits=[z]) for z in networks]
    for z, found in zip(networks, alone, strict=True):
        found.should(_is_telling(found.value, z), "a row of numbers above 0 for every image")
    together = sum(found.value.double() for found in alone) / 3
    for order in (networks, networks[::-1]):
        ask(logits=order).should_be(together)


@ensemble.holds("A thousand added to all logits changes nothing")
def common_shifts_change_nothing(ask: Ask, draw: Draw) -> None:
    networks = [draw.logits(2, 4), draw.logits(2, 4)]
    found = ask(logits=networks)
    found.should(_is_telling(found.value, networks[0]), "a row of numbers above 0 for every image")
    ask(logits=[z + 1000 for z in networks]).should_be(found.value)


def _is_telling(value: object, z: Tensor) -> bool:
    return is_like(value, z) and bool((value > 0).all()) and float(value.std()) > 0


@ensemble.hint(
    "A network with large logits decides for the others.",
    "Do you average before the softmax or after it? The paper averages output distributions.",
    "Softmax each network's logits, then take the mean over the networks.",
)
def logits_averaged(logits):
    return F.softmax(torch.stack(logits).mean(0), dim=-1)


@ensemble.hint(
    "Your rows sum to the number of networks.",
    "An ensemble of two copies should answer as one does.",
    "Divide the sum by len(logits), or stack them and take mean(0).",
)
def probabilities_summed(logits):
    return torch.stack([F.softmax(z, dim=-1) for z in logits]).sum(0)


@ensemble.hint(
    "Your rows do not sum to 1, but the columns of each network do.",
    "Over which axis does your softmax run? In a stack (networks, N, C) axis 1 is the images'.",
    "A softmax is taken over the classes, the last axis.",
)
def softmax_over_the_batch(logits):
    return F.softmax(torch.stack(logits), dim=1).mean(0)


@ensemble.hint(
    "Every class of every image gets the same probability.",
    "In a stack (networks, N, C) your softmax runs over the networks.",
    "Use dim=-1 for the softmax, and dim=0 for the mean.",
)
def softmax_over_the_networks(logits):
    return F.softmax(torch.stack(logits), dim=0).mean(0)


@ensemble.hint(
    "Your answer has a row for each network, not for each image.",
    "In a stack (networks, N, C), which axis is that of the networks?",
    "Take the mean over the first axis.",
)
def averaged_over_the_images(logits):
    return F.softmax(torch.stack(logits), dim=-1).mean(1)


@ensemble.hint(
    "You count votes: a network that is nearly undecided counts as much as one that is sure.",
    "The mean is of probabilities, not of first choices.",
    "Leave the argmax out.",
)
def majority_vote(logits):
    votes = torch.stack([F.one_hot(z.argmax(-1), z.shape[-1]) for z in logits])
    return votes.double().mean(0)


@ensemble.hint(
    "Copies of one network should not be surer than it is.",
    "A product of probabilities grows sharper with every network.",
    "The mean is the sum of the probabilities, divided by the number of networks.",
)
def product_normalised(logits):
    product = torch.ones_like(logits[0])
    for z in logits:
        product = product * F.softmax(z, dim=-1)
    return product / product.sum(-1, keepdim=True)


@ensemble.hint(
    "With three networks the last one counts more than the first.",
    "(a + b) / 2 is the mean of two. What does it become when c is averaged in after that?",
    "Sum all of them, and divide once by their number.",
)
def halved_again_and_again(logits):
    mean = F.softmax(logits[0], dim=-1)
    for z in logits[1:]:
        mean = (mean + F.softmax(z, dim=-1)) / 2
    return mean


@ensemble.hint(
    "Only one network answers, the last.",
    "Is something overwritten in your loop, or is there a return inside it?",
    "Add up the probabilities of all networks.",
)
def only_the_last_network(logits):
    for z in logits:
        mean = F.softmax(z, dim=-1)
    return mean


@ensemble.hint(
    "You return the classes that the ensemble predicts, not its probabilities.",
    "An ensemble can be a teacher, too, and then its probabilities are needed.",
    "Leave the argmax to the caller.",
)
def classes_not_probabilities(logits):
    return torch.stack([F.softmax(z, dim=-1) for z in logits]).mean(0).argmax(-1)


@ensemble.hint(
    "What you average are logits, and they stay logits: your rows do not sum to 1.",
    "Where does a softmax enter?",
    "Turn every network's logits into probabilities before you average.",
)
def no_softmax_at_all(logits):
    return torch.stack(logits).mean(0)


@ensemble.hint(
    "exp(1000) is inf for a computer, and inf / inf is nan.",
    "Subtracting a row's largest logit from all of its logits changes no probability.",
    "F.softmax does so itself.",
)
def exponentials_by_hand(logits):
    e = torch.stack(logits).exp()
    return (e / e.sum(-1, keepdim=True)).mean(0)


@ensemble.answer
def stacked(logits):
    return torch.stack(logits).softmax(-1).mean(0)
