"""Homework 3, born again: what an answer must do, and what goes wrong.

Each exercise has its properties first, then known mistakes with their hints, then right answers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.course.exercises import generations as diaries
from kdlib.course.exercises.generations import paired_runs
from kdlib.course.exercises.material import (
    is_finite,
    is_like,
    is_moving,
    is_number,
    is_positive,
    softmax,
)
from kdlib.course.grading.exercise import Answer, Ask, Draw, Exercise
from kdlib.course.grading.observe import same
from kdlib.course.museum import mistakes

# Exercise 1: generations

generations = Exercise(
    "generations",
    "generations(build, train, count) gives the list of networks, the first trained on labels, each "
    "later one taught by the one before.",
    minutes=15,
)


@generations.holds("There are as many networks as asked for")
def _(ask: Ask, draw: Draw) -> None:
    for count in (1, 2, draw.integer(4, 6)):
        family = _family(ask, count, least=1)
        family.should(len(family.value) == count, f"a list of {_trained(count)}")


@generations.holds("Each begins with a seed of its own")
def _(ask: Ask, draw: Draw) -> None:
    family = _family(ask, draw.integer(4, 5))
    born = {float(network["initial"]) for network in family.value}
    family.should(len(born) == len(family.value), "another initial number in each of them")


@generations.holds("The first is taught by the labels")
def _(ask: Ask, draw: Draw) -> None:
    family = _family(ask, draw.integer(4, 5))
    first = family.value[0]
    by_labels = float(first["lessons"]) > 0 and float(first["taught_by"]) == 0
    family.should(by_labels, "the first of them to be taught_by 0, the labels")


@generations.holds("Each later one is taught by the one before it, when that has been trained")
def _(ask: Ask, draw: Draw) -> None:
    family = _family(ask, draw.integer(4, 5))
    for k, (teacher, student) in enumerate(itertools.pairwise(family.value), start=2):
        its_own = float(student["taught_by"]) == float(teacher["initial"])
        family.should(
            its_own and float(student["teacher_lessons"]) > 0,
            f"number {k} taught_by {float(teacher['initial']):.0f}, with teacher_lessons above 0",
        )


@generations.holds("Each is trained once, and then left alone")
def _(ask: Ask, draw: Draw) -> None:
    family = _family(ask, draw.integer(4, 5))
    lessons = [float(network["lessons"]) for network in family.value]
    family.should(set(lessons) == {1.0}, "one lesson in each of them")


def _family(ask: Ask, count: int, least: int = 3) -> Answer:
    found = ask(build=diaries.build, train=diaries.train, count=count)
    family = found.value
    shown = isinstance(family, list) and all(isinstance(x, dict) for x in family)
    trained = (
        shown and len(family) >= least and "lessons" in family[-1] and family[-1]["lessons"] > 0
    )
    found.should(bool(trained), f"a list of {_trained(count)}")
    return found


def _trained(count: int) -> str:
    return f"{count} trained network{'s' if count > 1 else ''}"


@generations.hint(
    "There is one network too many.",
    "count says how many networks there are, the first one included.",
    "After the first, count - 1 are left to be born again.",
)
def one_too_many(build, train, count: int) -> list:
    networks = [build(0)]
    train(networks[0], None)
    for seed in range(1, count + 1):
        networks.append(build(seed))
        train(networks[-1], networks[-2])
    return networks


@generations.hint(
    "There is one network too few.",
    "Where does your range begin, and is its end included?",
    "range(1, count) has count - 1 numbers: those that come after the first network.",
)
def one_too_few(build, train, count: int) -> list:
    networks = [build(0)]
    train(networks[0], None)
    for seed in range(1, count - 1):
        networks.append(build(seed))
        train(networks[-1], networks[-2])
    return networks


@generations.hint(
    "All networks begin alike.",
    "What do you give to build? Generations of one start hardly differ, and together they are "
    "hardly better than one.",
    "Another seed for every network: its number will do.",
)
def every_generation_begins_alike(build, train, count: int) -> list:
    networks = [build(0)]
    train(networks[0], None)
    for _ in range(1, count):
        networks.append(build(0))
        train(networks[-1], networks[-2])
    return networks


@generations.hint(
    "Your first network has a teacher. Who taught that one?",
    "A network fresh from build knows nothing that it could teach.",
    "Train the first network with None in the teacher's place.",
)
def an_untrained_teacher_first(build, train, count: int) -> list:
    teacher, networks = build(0), []
    for seed in range(1, count + 1):
        student = build(seed)
        train(student, teacher)
        networks.append(student)
        teacher = student
    return networks


@generations.hint(
    "The first network of your list was taught by another network.",
    "Is the one that learned from labels in your list?",
    "It is the first generation: it counts, and comes first.",
)
def only_the_born_again(build, train, count: int) -> list:
    networks = [build(0)]
    train(networks[0], None)
    for seed in range(1, count + 1):
        networks.append(build(seed))
        train(networks[-1], networks[-2])
    return networks[1:]


@generations.hint(
    "From the third network on the teacher is the wrong one.",
    "Whom do you give to train as a teacher, the first network or the last one before?",
    "networks[-1], before the new one joins the list; or let teacher be the student when it is done.",
)
def all_taught_by_the_first(build, train, count: int) -> list:
    teacher = build(0)
    train(teacher, None)
    networks = [teacher]
    for seed in range(1, count):
        student = build(seed)
        train(student, teacher)
        networks.append(student)
    return networks


@generations.hint(
    "All your networks are taught by labels: they are independent, not generations.",
    "What is the second argument of train for?",
    "Only the first gets None there; every other one gets the network before it.",
)
def all_taught_by_labels(build, train, count: int) -> list:
    networks = []
    for seed in range(count):
        networks.append(build(seed))
        train(networks[-1], None)
    return networks


@generations.hint(
    "Your later networks are their own teachers: each is taught by its own initial number.",
    "Who is the last of your list at the moment when you call train? A loss against oneself is 0.",
    "Choose the teacher before the new network joins the list.",
)
def taught_by_itself(build, train, count: int) -> list:
    networks = [build(0)]
    train(networks[0], None)
    for seed in range(1, count):
        networks.append(build(seed))
        train(networks[-1], networks[-1])
    return networks


@generations.hint(
    "All entries of your list are the same: is it one network, many times?",
    "A second name for a network is no copy. What happens to the teacher when the student gets new "
    "weights?",
    "Let build make a new network for every generation, and leave the old one as it is.",
)
def teacher_and_student_are_one(build, train, count: int) -> list:
    student = build(0)
    train(student, None)
    networks = [student]
    for seed in range(1, count):
        teacher = student
        student.load_state_dict(build(seed).state_dict())
        train(student, teacher)
        networks.append(student)
    return networks


@generations.hint(
    "All entries of your list are the same, and it was trained again and again.",
    "How often do you call build?",
    "Call it inside the loop, with a new seed: a born-again network begins from nothing.",
)
def one_network_for_all(build, train, count: int) -> list:
    network = build(0)
    train(network, None)
    networks = [network]
    for _ in range(1, count):
        train(network, networks[-1])
        networks.append(network)
    return networks


@generations.hint(
    "Your later networks begin where their teachers ended, lessons included.",
    "Born again means from nothing: only what the teacher says is handed on, not its weights.",
    "Take a new network from build instead of a copy of the teacher.",
)
def begun_from_the_teachers_weights(build, train, count: int) -> list:
    import copy

    networks = [build(0)]
    train(networks[0], None)
    for _ in range(1, count):
        student = copy.deepcopy(networks[-1])
        train(student, networks[-1])
        networks.append(student)
    return networks


@generations.hint(
    "Each network had several lessons.",
    "One call of train is a whole training, with all its epochs.",
    "Call it once for each network.",
)
def trained_several_times(build, train, count: int) -> list:
    networks, teacher = [], None
    for seed in range(count):
        student = build(seed)
        for _ in range(3):
            train(student, teacher)
        networks.append(student)
        teacher = student
    return networks


@generations.hint(
    "Your later networks had two lessons: the last from the teacher. Who gave the first?",
    "A network that is born again learns from its teacher alone.",
    "Only the first network is trained on labels: train(network, None) once in all.",
)
def labels_first_then_the_teacher(build, train, count: int) -> list:
    networks = []
    for seed in range(count):
        student = build(seed)
        train(student, None)
        if networks:
            train(student, networks[-1])
        networks.append(student)
    return networks


@generations.hint(
    "Your teachers are the right ones, and none of them had learned anything when it taught.",
    "build gives a new network, also for a seed that it was given before. And in which order do you "
    "train?",
    "Teach with the trained network itself, the last in the list, oldest first.",
)
def untrained_teachers(build, train, count: int) -> list:
    networks = [build(0)]
    train(networks[0], None)
    for seed in range(1, count):
        student = build(seed)
        train(student, build(seed - 1))
        networks.append(student)
    return networks


@generations.hint(
    "Your first network was never trained, and taught all the same.",
    "What does a list of one network look like? Who learns from labels?",
    "train(networks[0], None), before the others come.",
)
def first_never_trained(build, train, count: int) -> list:
    networks = [build(0)]
    for seed in range(1, count):
        student = build(seed)
        train(student, networks[-1])
        networks.append(student)
    return networks


@generations.hint(
    "Your list begins with the last generation.",
    "The network taught by labels should come first.",
    "append puts a new one at the end.",
)
def newest_first(build, train, count: int) -> list:
    networks, teacher = [], None
    for seed in range(count):
        student = build(seed)
        train(student, teacher)
        networks.insert(0, student)
        teacher = student
    return networks


@generations.hint(
    "You give back one network.",
    "The ensemble will need all generations.",
    "Collect them in a list, and return the list.",
)
def only_the_last(build, train, count: int) -> object:
    teacher = None
    for seed in range(count):
        student = build(seed)
        train(student, teacher)
        teacher = student
    return student


@generations.hint(
    "Your last network was never trained.",
    "Which of its two arguments does train change?",
    "The student comes first, its teacher second.",
)
def student_and_teacher_swapped(build, train, count: int) -> list:
    networks = [build(0)]
    train(networks[0], None)
    for seed in range(1, count):
        student = build(seed)
        train(networks[-1], student)
        networks.append(student)
    return networks


@generations.answer
def a_loop(build, train, count: int) -> list:
    networks = [build(0)]
    train(networks[0], None)
    for seed in range(1, count):
        student = build(seed)
        train(student, networks[-1])
        networks.append(student)
    return networks


@generations.answer
def none_as_the_first_teacher(make, fit, n: int) -> tuple:
    family, teacher = [], None
    for k in range(n):
        child = make(100 + k)
        fit(child, teacher)
        family.append(child)
        teacher = child
    return tuple(family)


@generations.answer
def by_recursion(build, train, count: int) -> list:
    def born(k):
        before = born(k - 1) if k > 1 else []
        network = build(k)
        train(network, before[-1] if before else None)
        return [*before, network]

    return born(count)


@generations.answer
def all_built_first(build, train, count: int) -> list:
    networks = [build(seed) for seed in reversed(range(count))]
    for student, teacher in zip(networks, [None, *networks], strict=False):
        train(student, teacher)
    return networks


@generations.answer
def with_frozen_copies(build, train, count: int) -> list:
    import copy

    networks, teacher = [], None
    for seed in torch.randperm(1000)[:count].tolist():
        student = build(seed)
        train(student, teacher)
        teacher = copy.deepcopy(student).eval().requires_grad_(False)
        networks.append(student)
    return networks


@generations.answer
def accumulated(build, train, count: int) -> list:
    import itertools

    def grow(teacher, seed):
        student = build(seed)
        train(student, teacher)
        return student

    return list(itertools.accumulate([None, *range(count)], grow))[1:]


# Exercise 2: an ensemble

ensemble = Exercise(
    "ensemble",
    "ensemble(logits) gives the (N, C) mean of the probabilities of several networks, from a list of "
    "their (N, C) logits.",
    minutes=10,
)


@ensemble.holds("An ensemble of copies answers as the one network does")
def _(ask: Ask, draw: Draw) -> None:
    z = draw.logits(draw.integer(3, 5))
    for copies in (1, 3):
        ask(logits=[z] * copies).should_be(softmax(z, 1))


@ensemble.holds("Each network counts the same, however sure it is")
def _(ask: Ask, draw: Draw) -> None:
    networks = [draw.logits(2, 5, scale) for scale in (1.0, 3.0, 9.0)]
    alone = [ask(logits=[z]) for z in networks]
    for z, found in zip(networks, alone, strict=True):
        found.should(_is_telling(found.value, z), "a row for every image, of numbers above 0")
    together = sum(found.value.double() for found in alone) / 3
    for order in (networks, networks[::-1]):
        ask(logits=order).should_be(together)


@ensemble.holds("A thousand added to all logits changes nothing")
def _(ask: Ask, draw: Draw) -> None:
    networks = [draw.logits(2, 4), draw.logits(2, 4)]
    found = ask(logits=networks)
    found.should(_is_telling(found.value, networks[0]), "a row for every image, of numbers above 0")
    ask(logits=[z + 1000 for z in networks]).should_be(found.value)


def _is_telling(value: object, z: Tensor) -> bool:
    return is_like(value, z) and bool((value > 0).all()) and float(value.std()) > 0


@ensemble.hint(
    "A network with large logits decides for the others.",
    "Do you average before the softmax or after it? The paper averages output distributions.",
    "Softmax each network's logits, then take the mean over the networks.",
)
def logits_averaged(logits: list) -> Tensor:
    return F.softmax(torch.stack(logits).mean(0), dim=-1)


@ensemble.hint(
    "Your rows sum to the number of networks.",
    "An ensemble of two copies should answer as one does.",
    "Divide the sum by len(logits), or stack them and take mean(0).",
)
def probabilities_summed(logits: list) -> Tensor:
    return torch.stack([F.softmax(z, dim=-1) for z in logits]).sum(0)


@ensemble.hint(
    "Your rows do not sum to 1, and the columns of each network do.",
    "Over which axis does your softmax run? In a stack (networks, N, C) the axis 1 is that of images.",
    "A softmax is taken over the classes, the last axis.",
)
def softmax_over_the_batch(logits: list) -> Tensor:
    return F.softmax(torch.stack(logits), dim=1).mean(0)


@ensemble.hint(
    "Every class of every image gets the same.",
    "In a stack (networks, N, C) your softmax runs over the networks.",
    "Say dim=-1 for the softmax, and dim=0 for the mean.",
)
def softmax_over_the_networks(logits: list) -> Tensor:
    return F.softmax(torch.stack(logits), dim=0).mean(0)


@ensemble.hint(
    "Your answer has a row for each network, not for each image.",
    "In a stack (networks, N, C), which axis is that of the networks?",
    "Take the mean over the first axis.",
)
def averaged_over_the_images(logits: list) -> Tensor:
    return F.softmax(torch.stack(logits), dim=-1).mean(1)


@ensemble.hint(
    "You count votes: a network that is nearly undecided counts as one that is sure.",
    "The mean is of probabilities, not of first choices.",
    "Leave the argmax out.",
)
def majority_vote(logits: list) -> Tensor:
    votes = torch.stack([F.one_hot(z.argmax(-1), z.shape[-1]) for z in logits])
    return votes.double().mean(0)


@ensemble.hint(
    "Copies of one network should not be surer than it is.",
    "A product of probabilities grows sharper with every network.",
    "The mean is a sum of probabilities, divided by their number.",
)
def product_normalised(logits: list) -> Tensor:
    product = torch.ones_like(logits[0])
    for z in logits:
        product = product * F.softmax(z, dim=-1)
    return product / product.sum(-1, keepdim=True)


@ensemble.hint(
    "With three networks the last one counts more than the first.",
    "(a + b) / 2 is the mean of two. What does it become when c is averaged in after that?",
    "Sum all of them, and divide once by their number.",
)
def halved_again_and_again(logits: list) -> Tensor:
    mean = F.softmax(logits[0], dim=-1)
    for z in logits[1:]:
        mean = (mean + F.softmax(z, dim=-1)) / 2
    return mean


@ensemble.hint(
    "Only one network answers, the last.",
    "Is something overwritten in your loop, or a return inside it?",
    "Add up the probabilities of all networks.",
)
def only_the_last_network(logits: list) -> Tensor:
    for z in logits:
        mean = F.softmax(z, dim=-1)
    return mean


@ensemble.hint(
    "You give the classes that the ensemble names, not its probabilities.",
    "An ensemble can be a teacher, too, and then its doubts are wanted.",
    "Leave the argmax to whoever asks.",
)
def classes_not_probabilities(logits: list) -> Tensor:
    return torch.stack([F.softmax(z, dim=-1) for z in logits]).mean(0).argmax(-1)


@ensemble.hint(
    "What you average are logits, and they stay logits: your rows do not sum to 1.",
    "Where does a softmax enter?",
    "Turn every network's logits into probabilities before you average.",
)
def no_softmax_at_all(logits: list) -> Tensor:
    return torch.stack(logits).mean(0)


@ensemble.hint(
    "exp(1000) is inf for a computer, and inf / inf is nan.",
    "Taking a row's largest logit away from all of its logits changes no probability.",
    "F.softmax does so by itself.",
)
def exponentials_by_hand(logits: list) -> Tensor:
    e = torch.stack(logits).exp()
    return (e / e.sum(-1, keepdim=True)).mean(0)


@ensemble.answer
def stacked(logits: list) -> Tensor:
    return torch.stack(logits).softmax(-1).mean(0)


@ensemble.answer
def summed_and_divided(zs: list) -> Tensor:
    total = 0
    for z in zs:
        total = total + F.softmax(z, dim=1)
    return total / len(zs)


@ensemble.answer
def by_einsum(logits: list) -> Tensor:
    z = torch.stack(tuple(logits))
    log_p = z - torch.logsumexp(z, dim=2, keepdim=True)
    weights = torch.full((len(logits),), 1 / len(logits), dtype=z.dtype)
    return torch.einsum("k,knc->nc", weights, log_p.exp())


@ensemble.answer
def a_mean_that_is_moved(logits: list) -> Tensor:
    mean = torch.softmax(logits[0], -1)
    for k, z in enumerate(logits[1:], start=2):
        mean = mean + (torch.softmax(z, -1) - mean) / k
    return mean


@ensemble.answer
def in_numpy(logits: list) -> Tensor:
    z = np.stack([x.numpy() for x in logits])
    e = np.exp(z - z.max(-1, keepdims=True))
    return torch.from_numpy((e / e.sum(-1, keepdims=True)).mean(0))


# Exercise 3: confidence weighted by teacher max

cwtm_loss = Exercise(
    "cwtm_loss",
    "cwtm_loss(student, teacher, labels) gives the labels' cross entropy, each example weighted by the "
    "teacher's largest probability over the batch's sum of these.",
    minutes=15,
)


@cwtm_loss.holds("The weights sum to 1: examples that are alike have their cross entropy as loss")
def _(ask: Ask, draw: Draw) -> None:
    z, label = draw.logits(1, 4), draw.labels(1, 4)
    loss = -softmax(z, 1)[0, label].log()[0]
    for n in (1, 3):
        teacher = draw.logits(n, 4, scale=1.0)
        teacher[0, label] += 3  # the first of them is right
        ask(student=z.repeat(n, 1), teacher=teacher, labels=label.repeat(n)).should_be(loss)


@cwtm_loss.holds("An example counts as the teacher's largest probability for it does")
def _(ask: Ask, draw: Draw) -> None:
    z, label = draw.logits(1, 5), draw.labels(1, 5)
    teacher = torch.cat([draw.logits(1, 5, scale=0.5), draw.logits(1, 5, scale=1.5)])
    teacher[:, label] -= 2  # it names others than the label
    sure = 40 * F.one_hot(label, 5).double()  # of no loss: the other example is left alone
    first = ask(student=torch.cat([z, sure]), teacher=teacher, labels=label.repeat(2))
    first.should(is_finite(first.value) and is_positive(first.value), "a number above 0")
    surest = softmax(teacher, 1).max(-1).values
    second = ask(student=torch.cat([sure, z]), teacher=teacher, labels=label.repeat(2))
    second.should_be(float(first.value) * surest[1] / surest[0])


@cwtm_loss.holds("Its gradient is the gradient of what it returns")
def _(ask: Ask, draw: Draw) -> None:
    z, step = draw.logits(3, 4), draw.normal(3, 4)
    given = {"teacher": draw.logits(3, 4), "labels": draw.labels(3, 4)}
    _minds_its_arguments(ask, {"student": z, **given}, draw)
    pull = ask.gradient("student", student=z, **given)
    pull.should(is_moving(pull.value, z), "something other than zeros")
    size = 1e-2  # large enough for a loss in float32
    ends = [ask(student=z + side * size * step, **given) for side in (1, -1)]
    slope = (float(ends[0].value) - float(ends[1].value)) / (2 * size)
    told = float((pull.value.double() * step).sum())
    pull.should(
        math.isclose(slope, told, rel_tol=1e-3, abs_tol=1e-3),
        f"one that fits the loss: along a random line that rises by {slope:.5g} a step, by your "
        f"gradient it would be {told:.5g}",
    )


@cwtm_loss.holds("The teacher is a constant: only the student is pulled")
def _(ask: Ask, draw: Draw) -> None:
    given = {"student": draw.logits(3, 4), "teacher": draw.logits(3, 4)}
    given["labels"] = draw.labels(3, 4)
    _minds_its_arguments(ask, given, draw)
    pull = ask.gradient("student", **given)
    pull.should(is_moving(pull.value, given["student"]), "something other than zeros")
    ask.gradient("teacher", **given).should_be(None)


@cwtm_loss.holds("Large logits give a finite loss")
def _(ask: Ask, draw: Draw) -> None:
    label = draw.labels(1)
    teacher = 1000 * F.one_hot(label, 10).double()
    student = 1000 * F.one_hot((label + draw.integer(1, 9)) % 10, 10).double()
    ask(student=student + draw.integer(1, 9), teacher=teacher, labels=label).should_be(1000.0)


def _minds_its_arguments(ask: Ask, given: dict[str, Tensor], draw: Draw) -> None:
    found = ask(**given)
    found.should(is_finite(found.value) and is_positive(found.value), "a number above 0")
    others = {"teacher": draw.logits(3, 4), "labels": (given["labels"] + 1) % 4}
    other = ask(student=given["student"], **others)
    other.should(
        not same(other.value, found.value), "another loss than with other labels and teacher"
    )


cwtm_loss.hint(
    "For a single example the loss should be its cross entropy, however sure the teacher is.",
    "In the paper a weight is a share: the largest probability over the sum of the largest "
    "probabilities in the batch.",
    "Divide the weights by their sum; and they are constants, so detach the teacher.",
)(mistakes.confidence_not_as_shares)


@cwtm_loss.hint(
    "Three examples that are alike have a third of the loss that they should have.",
    "Your weights sum to 1 already. What does a mean do to such a sum?",
    "Sum weight times cross entropy; no mean.",
)
def shares_averaged_again(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    surest = F.softmax(teacher.detach(), dim=-1).amax(-1)
    losses = F.cross_entropy(student, labels, reduction="none")
    return (surest / surest.sum() * losses).mean()


@cwtm_loss.hint(
    "The less sure the teacher is of a batch, the smaller is your loss.",
    "A weight is a share of the batch: where does a batch's sum of weights enter?",
    "Divide by the sum of the largest probabilities, not by the number of examples.",
)
def confidence_averaged(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    surest = F.softmax(teacher.detach(), dim=-1).amax(-1)
    return (surest * F.cross_entropy(student, labels, reduction="none")).mean()


@cwtm_loss.hint(
    "For a single example all is well. Three that are alike have another loss than one.",
    "What do your weights sum to? You divide by the largest of them.",
    "Divide by their sum, and sum.",
)
def over_the_largest_of_the_batch(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    surest = F.softmax(teacher.detach(), dim=-1).amax(-1)
    losses = F.cross_entropy(student, labels, reduction="none")
    return (surest / surest.max() * losses).mean()


@cwtm_loss.hint(
    "The weights are not the teacher's largest probabilities. Which of them did you take?",
    "The probability of the label is the paper's first idea; CWTM needs no label for its weights.",
    "amax(-1) of the teacher's softmax, right or wrong.",
)
def weighted_by_the_label(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    p = F.softmax(teacher.detach(), dim=-1).gather(-1, labels[:, None])[:, 0]
    return (p / p.sum() * F.cross_entropy(student, labels, reduction="none")).sum()


@cwtm_loss.hint(
    "Your weights compare logits. A teacher may have large logits for all classes and be unsure.",
    "Confidence is a probability.",
    "Take the softmax of the teacher's logits, then the largest of each row.",
)
def largest_logit(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    surest = teacher.detach().amax(-1)
    return (surest / surest.sum() * F.cross_entropy(student, labels, reduction="none")).sum()


@cwtm_loss.hint(
    "Your weights sum to 1, and are not in the ratio of the teacher's largest probabilities.",
    "You take a softmax over the batch. A share is a number over the sum of all.",
    "Divide the largest probabilities by their sum; the only softmax is over the classes.",
)
def softmax_of_the_weights(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    surest = F.softmax(teacher.detach(), dim=-1).amax(-1)
    weights = F.softmax(surest, dim=0)
    return (weights * F.cross_entropy(student, labels, reduction="none")).sum()


@cwtm_loss.hint(
    "The weights are those of a softmax over the wrong axis.",
    "A teacher's row, its ten classes, should sum to 1.",
    "dim=-1 for the softmax, and for the maximum.",
)
def softmax_down_the_columns(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    surest = F.softmax(teacher.detach(), dim=0).amax(-1)
    return (surest / surest.sum() * F.cross_entropy(student, labels, reduction="none")).sum()


@cwtm_loss.hint(
    "How sure the teacher is changes nothing.",
    "Whose confidence are your weights?",
    "Take the softmax of the teacher's logits, not of the student's.",
)
def the_students_confidence(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    surest = F.softmax(student, dim=-1).amax(-1)
    return (surest / surest.sum() * F.cross_entropy(student, labels, reduction="none")).sum()


@cwtm_loss.hint(
    "Every example counts the same: it is the plain cross entropy.",
    "Where does the teacher enter?",
    "Weigh each example by the teacher's largest probability, as a share of the batch.",
)
def the_teacher_ignored(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(student, labels)


@cwtm_loss.hint(
    "Where the teacher is wrong an example does not count at all.",
    "The paper's weight is the largest probability, right or wrong.",
    "Leave out what compares the teacher's class with the label.",
)
def only_where_the_teacher_is_right(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    surest, named = F.softmax(teacher.detach(), dim=-1).max(-1)
    surest = surest * (named == labels)
    return (surest / surest.sum() * F.cross_entropy(student, labels, reduction="none")).sum()


@cwtm_loss.hint(
    "The loss of a single example depends on more than its label.",
    "The dark knowledge is still there: what is weighted is a cross entropy with all of p.",
    "Weigh the cross entropy of the labels.",
)
def dark_knowledge_left_in(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    p = F.softmax(teacher.detach(), dim=-1)
    surest = p.amax(-1)
    losses = -(p * F.log_softmax(student, dim=-1)).sum(-1)
    return (surest / surest.sum() * losses).sum()


@cwtm_loss.hint(
    "The loss of a single example is the cross entropy of another class than its label.",
    "What the student is compared with is the class that the teacher names.",
    "Use the labels for the cross entropy, and the teacher for the weights alone.",
)
def the_teachers_class_as_label(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    surest, named = F.softmax(teacher.detach(), dim=-1).max(-1)
    return (surest / surest.sum() * F.cross_entropy(student, named, reduction="none")).sum()


@cwtm_loss.hint(
    "The value is right, and the gradient belongs to another function.",
    "A backward written by hand must be the derivative of the forward, weights and all. Does "
    "autograd need help here?",
    "Return the sum of weight times cross entropy, and let autograd do the rest.",
)
def gradient_of_another_function(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    class ByHand(torch.autograd.Function):
        @staticmethod
        def forward(context, student, teacher, labels):
            context.save_for_backward(student, labels)
            surest = F.softmax(teacher, dim=-1).amax(-1)
            losses = F.cross_entropy(student, labels, reduction="none")
            return (surest / surest.sum() * losses).sum()

        @staticmethod
        def backward(context, factor):
            student, labels = context.saved_tensors
            y = F.one_hot(labels, student.shape[-1])
            return (F.softmax(student, dim=-1) - y) / len(student), None, None

    return ByHand.apply(student, teacher, labels)


@cwtm_loss.hint(
    "A gradient reaches the teacher: it would learn to be unsure of what is hard.",
    "The weights are numbers, whatever network they came from.",
    "Take them from teacher.detach().",
)
def gradient_to_the_teacher(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    surest = F.softmax(teacher, dim=-1).amax(-1)
    return (surest / surest.sum() * F.cross_entropy(student, labels, reduction="none")).sum()


@cwtm_loss.hint(
    "No gradient reaches the student: you return a plain number.",
    "Which call cuts the thread back to the student: item(), detach(), numpy(), no_grad()?",
    "Return the tensor; only the teacher's part needs no gradient.",
)
def a_number_without_a_past(student: Tensor, teacher: Tensor, labels: Tensor) -> float:
    surest = F.softmax(teacher, dim=-1).amax(-1)
    return (surest / surest.sum() * F.cross_entropy(student, labels, reduction="none")).sum().item()


@cwtm_loss.hint(
    "Large logits give a loss that is infinite. What is the logarithm of 0?",
    "A probability of 1e-500 is 0 for a computer; its logarithm is a plain number, -1151.",
    "F.log_softmax, or F.cross_entropy of the logits.",
)
def logarithm_of_a_softmax(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    surest = F.softmax(teacher.detach(), dim=-1).amax(-1)
    losses = -F.softmax(student, dim=-1).log()[torch.arange(len(labels)), labels]
    return (surest / surest.sum() * losses).sum()


@cwtm_loss.answer
def shares_times_cross_entropy(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    surest = F.softmax(teacher.detach(), dim=-1).amax(-1)
    return (surest / surest.sum() * F.cross_entropy(student, labels, reduction="none")).sum()


@cwtm_loss.answer
def a_dot_product(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        w = torch.exp(torch.log_softmax(t, 1).max(1).values)
    log_q = torch.log_softmax(s, 1)[torch.arange(len(y)), y]
    return -torch.dot(w, log_q) / w.sum()


@cwtm_loss.answer
def one_hot_and_einsum(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    c = torch.softmax(teacher, -1).max(-1)[0].detach()
    y = F.one_hot(labels, student.shape[-1]).to(student.dtype)
    log_q = student - torch.logsumexp(student, -1, keepdim=True)
    return -torch.einsum("n,nc,nc->", c / c.sum(), y, log_q)


@cwtm_loss.answer
def example_after_example(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    total, weight = 0, 0
    for z, t, label in zip(student, teacher.detach(), labels, strict=True):
        surest = float(torch.softmax(t, 0).max())
        total = total + surest * (torch.logsumexp(z, 0) - z[label])
        weight += surest
    return total / weight


@cwtm_loss.answer
def by_nll_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    # The largest probability is 1 over the sum of exp(z - max z).
    t = teacher.detach()
    surest = 1 / (t - t.amax(1, keepdim=True)).exp().sum(1)
    losses = F.nll_loss(F.log_softmax(student, 1), labels, reduction="none")
    return (surest * losses).sum().div(surest.sum())


# Exercise 4: dark knowledge with permuted predictions

permute_dark_knowledge = Exercise(
    "permute_dark_knowledge",
    "permute_dark_knowledge(teacher, generator) gives the (N, C) logits with each row's largest entry "
    "in its place and all others in a random order.",
    minutes=15,
)


@permute_dark_knowledge.holds("Each row keeps its entries")
def _(ask: Ask, draw: Draw) -> None:
    for teacher, found in _permuted(ask, draw):
        kept = same(found.value.sort(-1).values, teacher.sort(-1).values)
        found.should(kept, "in each row the same six numbers, in some order")


@permute_dark_knowledge.holds("The largest of a row stays where it was")
def _(ask: Ask, draw: Draw) -> None:
    for teacher, found in _permuted(ask, draw):
        largest = teacher.argmax(-1, keepdim=True)
        stays = torch.equal(found.value.argmax(-1, keepdim=True), largest)
        stays = stays and same(found.value.gather(-1, largest), teacher.gather(-1, largest))
        found.should(stays, f"the largest in the columns {largest[:, 0].tolist()}")


@permute_dark_knowledge.holds("Each row has an order of its own")
def _(ask: Ask, draw: Draw) -> None:
    teacher = draw.logits(1).repeat(8, 1)
    found = ask(teacher=teacher, generator=draw.generator())
    found.should(_of_its_entries(found.value, teacher), "the teacher's entries, in some order")
    alike = same(found.value, found.value[:1].expand(8, -1))
    found.should(not alike, "not eight rows in the same order")


@permute_dark_knowledge.holds("Every order of the others may come")
def _(ask: Ask, draw: Draw) -> None:
    row = torch.tensor([[3.0, 1.0, -1.0, -2.0]]).double() + draw.normal(1, 4) / 10
    row = row.roll(draw.integer(0, 3), dims=1)
    others = torch.arange(4) != row.argmax()
    orders = set()
    for teacher in [row] * 30 + [row.repeat(60, 1)]:
        found = ask(teacher=teacher, generator=draw.generator())
        found.should(_of_its_entries(found.value, teacher), "the teacher's entries, in some order")
        orders |= {tuple(x) for x in found.value[:, others].tolist()}
    found.should(
        len(orders) >= 5,  # chance may leave one out
        f"the six orders of the three smaller ones to come up in 31 calls; {len(orders)} did",
    )


@permute_dark_knowledge.holds("The order comes from the generator, as it stands")
def _(ask: Ask, draw: Draw) -> None:
    teacher, seed = draw.logits(6), draw.integer(0, 10**6)

    def generator(seed: int, drawn: int = 0) -> torch.Generator:
        made = torch.Generator().manual_seed(seed)
        torch.rand(drawn, generator=made)
        return made

    first = ask(teacher=teacher, generator=generator(seed))
    first.should(_of_its_entries(first.value, teacher), "the teacher's entries, in some order")
    ask(teacher=teacher, generator=generator(seed)).should_be(first.value)
    for other, what in (
        (generator(seed + 1), "of another seed"),
        (generator(seed, 1000), "of which a thousand numbers have been drawn"),
    ):
        found = ask(teacher=teacher, generator=other)
        found.should(not same(found.value, first.value), f"another order, by a generator {what}")


@permute_dark_knowledge.holds("The teacher's own tensor stays as it is")
def _(ask: Ask, draw: Draw) -> None:
    teacher, generator = draw.logits(4), draw.generator()
    found = ask(teacher=teacher, generator=generator)
    of_it = _has_moved(found.value, teacher) and _of_its_entries(found.value, teacher)
    found.should(of_it, "the teacher's entries, in other places than before")
    ask.after("teacher", teacher=teacher, generator=generator).should_be(teacher)


def _permuted(ask: Ask, draw: Draw) -> list[tuple[Tensor, Answer]]:
    """Small batches, so that a reader sees them whole, and several: now and then an order stays."""
    batches = [draw.logits(2, 6) for _ in range(3)]
    found = [ask(teacher=teacher, generator=draw.generator()) for teacher in batches]
    for teacher, answer in zip(batches, found, strict=True):
        answer.should(is_like(answer.value, teacher), "a tensor of the same shape")
    moved = [_has_moved(x.value, teacher) for teacher, x in zip(batches, found, strict=True)]
    found[-1].should(any(moved), "entries in other places than before")
    return list(zip(batches, found, strict=True))


def _of_its_entries(value: object, teacher: Tensor) -> bool:
    """Whether all are numbers of the teacher's, up to the rounding of float32."""
    if not is_like(value, teacher):
        return False
    apart = (value.double().reshape(-1, 1) - teacher.reshape(1, -1)).abs()
    return bool((apart.amin(1) < 1e-5).all())


def _has_moved(value: object, teacher: Tensor) -> bool:
    return is_like(value, teacher) and not same(value, teacher)


permute_dark_knowledge.hint(
    "Your rows have other entries than before: they are whole rows of other images.",
    "randperm(len(teacher)) is an order of the images. What should be put in another order?",
    "Within each row, permute the classes; the images stay where they are.",
)(mistakes.samples_permuted)


@permute_dark_knowledge.hint(
    "The largest entry moved with the others.",
    "Its place says which class the teacher names: that is to stay.",
    "Find each row's argmax, and permute the entries that are left.",
)
def all_entries_permuted(teacher: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.rand(teacher.shape, generator=generator).argsort(-1)
    return teacher.gather(-1, order)


@permute_dark_knowledge.hint(
    "The largest entry does not stay in its place: each row is shuffled as a whole.",
    "randperm of all classes moves every class. Which one should take no part?",
    "Leave the argmax out, and shuffle the C - 1 others among their own places.",
)
def rows_shuffled_whole(teacher: Tensor, generator: torch.Generator) -> Tensor:
    rows = [row[torch.randperm(len(row), generator=generator)] for row in teacher]
    return torch.stack(rows)


@permute_dark_knowledge.hint(
    "The largest is in its place, and in many rows it is there twice while another entry is gone.",
    "You permute all entries and then write the largest over whatever has come to its place.",
    "Permute only the others, so that the place of the largest is never taken.",
)
def largest_written_over(teacher: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.rand(teacher.shape, generator=generator).argsort(-1)
    largest, place = teacher.max(-1, keepdim=True)
    return teacher.gather(-1, order).scatter(-1, place, largest)


@permute_dark_knowledge.hint(
    "Your rows do not have their own entries any more: something is added to all of them.",
    "What broadcasts when a (N, 1) tensor of the largest is added to (N, C)?",
    "Put the largest back in its one place, with scatter or a mask.",
)
def largest_added_to_all(teacher: Tensor, generator: torch.Generator) -> Tensor:
    largest, place = teacher.max(-1, keepdim=True)
    rest = teacher.clone()
    for row, k in zip(rest, place[:, 0].tolist(), strict=True):
        others = torch.tensor([c for c in range(len(row)) if c != k])
        row[others] = row[others[torch.randperm(len(others), generator=generator)]]
        row[k] = 0
    return rest + largest


@permute_dark_knowledge.hint(
    "In many rows an entry is there twice and another one is gone.",
    "randint draws with replacement.",
    "randperm(n) has each of 0 to n - 1 once.",
)
def drawn_with_replacement(teacher: Tensor, generator: torch.Generator) -> Tensor:
    permuted = teacher.clone()
    for row in permuted:
        others = torch.tensor([c for c in range(len(row)) if c != row.argmax()])
        row[others] = row[others[torch.randint(len(others), others.shape, generator=generator)]]
    return permuted


@permute_dark_knowledge.hint(
    "All rows are in the same order.",
    "How many permutations do you draw for a batch?",
    "One for each row.",
)
def one_order_for_all(teacher: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(teacher.shape[-1] - 1, generator=generator)
    permuted = teacher.clone()
    for row in permuted:
        others = torch.tensor([c for c in range(len(row)) if c != row.argmax()])
        row[others] = row[others[order]]
    return permuted


@permute_dark_knowledge.hint(
    "Some orders never come: the others keep their order, as on a ring.",
    "Rolled along by a random number, neighbours stay neighbours.",
    "torch.randperm gives every order the same chance.",
)
def rolled_along(teacher: Tensor, generator: torch.Generator) -> Tensor:
    permuted = teacher.clone()
    for row in permuted:
        others = torch.tensor([c for c in range(len(row)) if c != row.argmax()])
        shift = int(torch.randint(len(others), (1,), generator=generator))
        row[others] = row[others.roll(shift)]
    return permuted


@permute_dark_knowledge.hint(
    "Some orders never come: nearly all entries stay where they are.",
    "You exchange two entries of each row, and leave the others.",
    "Give every order the same chance, with torch.randperm.",
)
def two_exchanged(teacher: Tensor, generator: torch.Generator) -> Tensor:
    permuted = teacher.clone()
    for row in permuted:
        others = torch.tensor([c for c in range(len(row)) if c != row.argmax()])
        i, j = others[torch.randperm(len(others), generator=generator)[:2]].tolist()
        row[[i, j]] = row[[j, i]]
    return permuted


@permute_dark_knowledge.hint(
    "Every call gives the same order: nothing is random.",
    "Backwards, or sorted, is one order of many.",
    "Draw a permutation for each row, from the generator.",
)
def turned_round(teacher: Tensor, generator: torch.Generator) -> Tensor:
    permuted = teacher.clone()
    for row in permuted:
        others = torch.tensor([c for c in range(len(row)) if c != row.argmax()])
        row[others] = row[others].flip(0)
    return permuted


@permute_dark_knowledge.hint(
    "Another generator gives the same order.",
    "Where do your random numbers come from, if not from it?",
    "Pass it on: torch.randperm(n, generator=generator).",
)
def the_generator_ignored(teacher: Tensor, generator: torch.Generator) -> Tensor:
    permuted = teacher.clone()
    for row in permuted:
        others = torch.tensor([c for c in range(len(row)) if c != row.argmax()])
        row[others] = row[others[torch.randperm(len(others))]]
    return permuted


@permute_dark_knowledge.hint(
    "The order is the same for generators of one seed, whatever was drawn from them before.",
    "In training you would get the same permutation in every step. What sets the generator back?",
    "Draw from the generator as it stands; do not seed it, and make no new one.",
)
def begun_anew_each_time(teacher: Tensor, generator: torch.Generator) -> Tensor:
    generator = torch.Generator().manual_seed(generator.initial_seed())
    permuted = teacher.clone()
    for row in permuted:
        others = torch.tensor([c for c in range(len(row)) if c != row.argmax()])
        row[others] = row[others[torch.randperm(len(others), generator=generator)]]
    return permuted


@permute_dark_knowledge.hint(
    "Afterwards the teacher's own logits are permuted.",
    "Whoever reads them next finds no trace of what resembles what.",
    "Write into teacher.clone().",
)
def permuted_in_place(teacher: Tensor, generator: torch.Generator) -> Tensor:
    for row in teacher:
        others = torch.tensor([c for c in range(len(row)) if c != row.argmax()])
        row[others] = row[others[torch.randperm(len(others), generator=generator)]]
    return teacher


@permute_dark_knowledge.hint(
    "The others of a row are all the same.",
    "Their mean keeps the sum, and loses the rest: that is label smoothing of the row's own strength.",
    "Permute them instead: the entries stay, the places change.",
)
def spread_evenly(teacher: Tensor, generator: torch.Generator) -> Tensor:
    largest, place = teacher.max(-1, keepdim=True)
    mean = (teacher.sum(-1, keepdim=True) - largest) / (teacher.shape[-1] - 1)
    return mean.expand_as(teacher).scatter(-1, place, largest)


@permute_dark_knowledge.answer
def row_by_row(teacher: Tensor, generator: torch.Generator) -> Tensor:
    permuted = teacher.clone()
    for row in permuted:
        others = torch.tensor([c for c in range(len(row)) if c != row.argmax()])
        row[others] = row[others[torch.randperm(len(others), generator=generator)]]
    return permuted


@permute_dark_knowledge.answer
def by_sorting_random_numbers(v: Tensor, g: torch.Generator) -> Tensor:
    top = v.argmax(-1, keepdim=True)
    keys = torch.rand(v.shape, generator=g).scatter(-1, top, 2.0)
    order = keys.argsort(-1)  # the others at random, the largest last
    places = torch.zeros(v.shape).scatter(-1, top, 1.0).argsort(dim=-1, stable=True)
    return torch.empty_like(v).scatter(-1, places, v.gather(-1, order))


@permute_dark_knowledge.answer
def largest_swapped_out_and_back(teacher: Tensor, generator: torch.Generator) -> Tensor:
    rows = []
    for t in teacher:
        k, n = int(t.argmax()), len(t)
        rest = torch.cat([t[:k], t[k + 1 :]])[torch.randperm(n - 1, generator=generator)]
        rows.append(torch.cat([rest[:k], t[k : k + 1], rest[k:]]))
    return torch.stack(rows)


@permute_dark_knowledge.answer
def by_a_mask(teacher: Tensor, generator: torch.Generator) -> Tensor:
    n, classes = teacher.shape
    others = torch.arange(classes) != teacher.argmax(1, keepdim=True)  # (N, C)
    rest = teacher[others].view(n, classes - 1)
    order = torch.rand(n, classes - 1, generator=generator).argsort(1)
    result = teacher.clone()
    result[others] = rest.gather(1, order).flatten()
    return result


@permute_dark_knowledge.answer
def fisher_yates(teacher: Tensor, generator: torch.Generator) -> Tensor:
    rows = [list(row) for row in teacher.tolist()]
    for row in rows:
        top = row.index(max(row))
        places = [c for c in range(len(row)) if c != top]
        for i in range(len(places) - 1, 0, -1):
            j = int(torch.randint(i + 1, (1,), generator=generator))
            a, b = places[i], places[j]
            row[a], row[b] = row[b], row[a]
    return torch.tensor(rows, dtype=teacher.dtype)


# Exercise 5: an interval

interval = Exercise(
    "interval",
    "interval(a, b) gives the mean of a - b over pairs of runs, and the low and the high end of its "
    "95 % interval by Student's t.",
    minutes=15,
)


@interval.holds("First comes the mean of a - b")
def _(ask: Ask, draw: Draw) -> None:
    for n in (3, draw.integer(6, 12)):
        a, b = _errors(draw, n)
        found = ask(a=a, b=b)
        three = _three(found.value)
        mean = float((a - b).mean())
        right = three is not None and math.isclose(three[0], mean, rel_tol=1e-4)
        found.should(right, f"three numbers, the first {mean:.6g}")


@interval.holds("The ends lie around it, the low one first, equally far")
def _(ask: Ask, draw: Draw) -> None:
    found = _telling(ask, *_errors(draw, 5))
    mean, low, high = _three(found.value)
    around = low < mean < high and math.isclose(high - mean, mean - low, rel_tol=1e-4)
    found.should(around, "three numbers: the mean, one below it, one as far above it")


@interval.holds("They are t · s / √n away from it, with t of n - 1 degrees of freedom")
def _(ask: Ask, draw: Draw) -> None:
    for n in (5, 3, draw.integer(10, 20)):
        a, b = _errors(draw, n)
        found = ask(a=a, b=b)
        three = _three(found.value)
        reach = _STUDENT[n - 2] * float((a - b).numpy().std(ddof=1)) / math.sqrt(n)
        right = three is not None and math.isclose(
            abs(three[2] - three[1]), 2 * reach, rel_tol=2e-3
        )
        found.should(right, f"three numbers, the ends {2 * reach:.4g} apart, for {n} pairs")


@interval.holds("What both of a pair have in common makes it no wider")
def _(ask: Ask, draw: Draw) -> None:
    a, b = _errors(draw, 6)
    alone = _three(_telling(ask, a, b).value)
    common = (100 * draw.normal(6)).round()
    shared = ask(a=a + common, b=b + common)
    told = ", ".join(f"{x:.6g}" for x in alone)
    shared.should(
        same(_three(shared.value), alone), f"{told}, as without what every pair has in common"
    )


# The 97.5 % quantile of Student's t for 1, 2, 3 … degrees of freedom.
_STUDENT = (
    *(12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814),
    *(2.20099, 2.17881, 2.16037, 2.14479, 2.13145, 2.11991, 2.10982, 2.10092, 2.09302, 2.08596),
)


def _errors(draw: Draw, n: int) -> tuple[Tensor, Tensor]:
    """Of n pairs; those of b are all alike, so that paired or not the interval is the same."""
    b = torch.full((n,), float(draw.integer(300, 400)), dtype=torch.float64)
    return b + (draw.number(20, 60) + 30 * draw.normal(n)).round(), b


def _three(value: object) -> list[float] | None:
    if isinstance(value, Tensor) and value.shape == (3,):
        value = value.tolist()
    if not isinstance(value, list) or len(value) != 3 or not all(map(is_number, value)):
        return None
    three = [float(x) for x in value]
    return three if all(map(math.isfinite, three)) else None


def _telling(ask: Ask, a: Tensor, b: Tensor) -> Answer:
    """Three numbers, and other ones for other errors."""
    found, other = ask(a=a, b=b), ask(a=a * 3, b=b * 3)
    for answer in (found, other):
        answer.should(_three(answer.value) is not None, "three numbers: the mean, low, high")
    other.should(not same(other.value, found.value), "other numbers than for a third of the errors")
    return found


@interval.hint(
    "The sign of everything is reversed: your differences are b - a.",
    "The mean should be above 0 where a has more errors.",
    "a - b",
)
def b_minus_a(a: Tensor, b: Tensor) -> tuple:
    from scipy.stats import t

    d = b - a
    reach = t.ppf(0.975, len(d) - 1) * d.std() / len(d) ** 0.5
    return d.mean(), d.mean() - reach, d.mean() + reach


@interval.hint(
    "The interval is too narrow, the more so the fewer pairs there are.",
    "1.96 belongs to the normal distribution, and to a standard deviation that is known. Yours is "
    "guessed from a few differences.",
    "Take t from scipy.stats.t.ppf(0.975, n - 1).",
)
def normal_instead_of_t(a: Tensor, b: Tensor) -> tuple:
    d = a - b
    reach = 1.96 * d.std() / len(d) ** 0.5
    return d.mean(), d.mean() - reach, d.mean() + reach


@interval.hint(
    "The interval is too wide, the more so the more pairs there are.",
    "Does it become narrower when there are more pairs? A standard deviation does not.",
    "Divide s by the root of n: that is how far a mean of n may be off.",
)
def deviation_instead_of_error(a: Tensor, b: Tensor) -> tuple:
    from scipy.stats import t

    d = a - b
    reach = t.ppf(0.975, len(d) - 1) * d.std()
    return d.mean(), d.mean() - reach, d.mean() + reach


@interval.hint(
    "The interval is a little too narrow; with three pairs by a factor of 1.22.",
    "Does your standard deviation divide by n or by n - 1? numpy's std divides by n.",
    "std(ddof=1) in numpy, std() in torch.",
)
def divided_by_n(a: Tensor, b: Tensor) -> tuple:
    from scipy.stats import t

    d = (a - b).numpy()
    reach = t.ppf(0.975, len(d) - 1) * d.std() / len(d) ** 0.5
    return d.mean(), d.mean() - reach, d.mean() + reach


@interval.hint(
    "The interval is a little too narrow: t is that of one pair more.",
    "The mean was taken from the same n differences, and uses one of them up.",
    "n - 1 degrees of freedom.",
)
def degrees_of_freedom_n(a: Tensor, b: Tensor) -> tuple:
    from scipy.stats import t

    d = a - b
    reach = t.ppf(0.975, len(d)) * d.std() / len(d) ** 0.5
    return d.mean(), d.mean() - reach, d.mean() + reach


@interval.hint(
    "The interval is too narrow: it holds 90 %.",
    "5 % are left out in all. How much of that at each end?",
    "ppf(0.975, n - 1) leaves 2.5 % out above, and as much below.",
)
def five_percent_at_each_end(a: Tensor, b: Tensor) -> tuple:
    from scipy.stats import t

    d = a - b
    reach = t.ppf(0.95, len(d) - 1) * d.std() / len(d) ** 0.5
    return d.mean(), d.mean() - reach, d.mean() + reach


@interval.hint(
    "For five pairs it is right, for others it is not.",
    "Is there a 2.776 in your function?",
    "t depends on n: scipy.stats.t.ppf(0.975, n - 1).",
)
def five_pairs_for_ever(a: Tensor, b: Tensor) -> tuple:
    d = a - b
    reach = 2.77645 * d.std() / len(d) ** 0.5
    return d.mean(), d.mean() - reach, d.mean() + reach


@interval.hint(
    "What both runs of a pair have in common makes your interval wider.",
    "Do you look at the spread of a and of b, or at that of their differences? A hard seed is hard "
    "for both.",
    "Take a - b first; everything else is about these n numbers.",
)
def unpaired(a: Tensor, b: Tensor) -> tuple:
    from scipy.stats import t

    n, mean = len(a), a.mean() - b.mean()
    u, v = a.var() / n, b.var() / n
    freedom = (u + v) ** 2 / (u**2 / (n - 1) + v**2 / (n - 1))
    reach = t.ppf(0.975, float(freedom)) * (u + v).sqrt()
    return mean, mean - reach, mean + reach


@interval.hint(
    "Your interval grows with what both runs of a pair have in common, and is very wide.",
    "You add the reach of two intervals, one for a and one for b.",
    "Take a - b first, and one interval of these n numbers.",
)
def two_intervals_added(a: Tensor, b: Tensor) -> tuple:
    from scipy.stats import t

    n, mean = len(a), a.mean() - b.mean()
    reach = t.ppf(0.975, n - 1) * (a.std() + b.std()) / n**0.5
    return mean, mean - reach, mean + reach


@interval.hint(
    "The ends come in the wrong order.",
    "The low end is the mean minus something.",
    "mean, low, high",
)
def high_end_first(a: Tensor, b: Tensor) -> tuple:
    from scipy.stats import t

    d = a - b
    reach = t.ppf(0.975, len(d) - 1) * d.std() / len(d) ** 0.5
    return d.mean(), d.mean() + reach, d.mean() - reach


@interval.hint(
    "Your ends lie around 0, not around the mean.",
    "How far an end is from the mean is not yet where it is.",
    "low is the mean minus that, high the mean plus that.",
)
def around_zero(a: Tensor, b: Tensor) -> tuple:
    from scipy.stats import t

    d = a - b
    reach = t.ppf(0.975, len(d) - 1) * d.std() / len(d) ** 0.5
    return d.mean(), -reach, reach


@interval.hint(
    "Your ends are the smallest and the largest difference.",
    "The interval is where the mean of many such pairs may be, not where the next pair may be.",
    "mean ± t · s / √n",
)
def from_smallest_to_largest(a: Tensor, b: Tensor) -> tuple:
    d = a - b
    return d.mean(), d.min(), d.max()


@interval.hint(
    "Your ends are quantiles of the differences.",
    "The interval is where the mean may be. With a hundred pairs it should be narrow, and the "
    "differences would still be as scattered.",
    "The mean minus t · s / √n, and the mean plus that.",
)
def quantiles_of_the_differences(a: Tensor, b: Tensor) -> tuple:
    d = a - b
    return d.mean(), d.quantile(0.025), d.quantile(0.975)


@interval.answer
def students_t(a: Tensor, b: Tensor) -> tuple:
    from scipy.stats import t

    d = a - b
    reach = t.ppf(0.975, len(d) - 1) * d.std() / len(d) ** 0.5
    return d.mean(), d.mean() - reach, d.mean() + reach


@interval.answer
def one_sample_test(a: Tensor, b: Tensor) -> tuple:
    from scipy import stats

    d = (a - b).numpy()
    found = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    return d.mean(), found.low, found.high


@interval.answer
def related_samples(x: Tensor, y: Tensor) -> list:
    from scipy import stats

    ends = stats.ttest_rel(x.tolist(), y.tolist()).confidence_interval()
    return [(ends.low + ends.high) / 2, *ends]


@interval.answer
def scaled_distribution(a: Tensor, b: Tensor) -> np.ndarray:
    from scipy import stats

    d = np.asarray(a) - np.asarray(b)
    ends = stats.t.interval(0.95, d.size - 1, loc=d.mean(), scale=stats.sem(d))
    return np.array([d.mean(), *ends])


@interval.answer
def by_a_table(a: Tensor, b: Tensor) -> tuple:
    table = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179]
    table += [2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064]
    d = [float(x) - float(y) for x, y in zip(a, b, strict=True)]
    n, mean = len(d), sum(d) / len(d)
    s = math.sqrt(sum((x - mean) ** 2 for x in d) / (n - 1))
    return mean, mean - table[n - 2] * s / n**0.5, mean + table[n - 2] * s / n**0.5


@interval.answer
def by_integration(a: Tensor, b: Tensor) -> Tensor:
    d, n = a - b, len(a)
    x = torch.linspace(0, 20, 20_001, dtype=torch.float64)
    density = (1 + x**2 / (n - 1)) ** (-n / 2)
    norm = math.gamma(n / 2) / math.gamma((n - 1) / 2) / math.sqrt((n - 1) * math.pi)
    share = norm * torch.cumulative_trapezoid(density, x)
    t = x[1 + torch.searchsorted(share, 0.475)]
    return d.mean() + torch.stack([-t * 0, -t, t]) * d.std() / n**0.5


# Exercise 6: a verdict

verdict = Exercise(
    "verdict",
    'verdict(a, b) says of the errors a, beside b, "better", "worse" or "no difference seen".',
    minutes=10,
)

BETTER, WORSE, NEITHER = "better", "worse", "no difference seen"


@verdict.holds("Clearly fewer errors are better, clearly more are worse")
def _(ask: Ask, draw: Draw) -> None:
    for t, expected in ((-4.0, BETTER), (4.0, WORSE), (-9.0, BETTER), (9.0, WORSE)):
        a, b = _five_pairs(draw, t)
        ask(a=a, b=b).should_be(expected)


@verdict.holds("Where the interval holds 0, no difference is seen, however few the pairs")
def _(ask: Ask, draw: Draw) -> None:
    for t in (-9.0, 9.0):
        found = ask(a=(pairs := _five_pairs(draw, t))[0], b=pairs[1])
        found.should(found.value in (BETTER, WORSE), f'"{BETTER}" or "{WORSE}": 0 is far outside')
    a, b = _five_pairs(draw, 0.0)
    lucky = torch.tensor([8.0, 6.0, 7.0, -60.0, -20.0]).double()
    for d in (lucky, -lucky):  # three of five pairs say one thing, the mean another
        ask(a=b + d, b=b).should_be(NEITHER)
    for t in (2.05, -2.05, 2.4, -2.4):
        a, b = _five_pairs(draw, t)
        ask(a=a, b=b).should_be(NEITHER)


@verdict.holds("What both of a pair have in common hides no difference")
def _(ask: Ask, draw: Draw) -> None:
    a, b = _five_pairs(draw, -9.0)
    common = torch.tensor([-260.0, -120.0, 10.0, 130.0, 240.0]).double()[
        torch.randperm(5, generator=draw.generator())
    ]
    one, other = ask(a=a + common, b=b + common), ask(a=b + common, b=a + common)
    for found in (one, other):
        found.should(found.value in (BETTER, WORSE), f'"{BETTER}" or "{WORSE}"')
    other.should(one.value != other.value, "the other verdict when a and b change places")


def _five_pairs(draw: Draw, t: float) -> tuple[Tensor, Tensor]:
    """Errors with this ratio of the mean difference to its standard error; those of b are alike."""
    d = draw.normal(5)
    d = 40 * (d - d.mean()) / d.std() + 40 * t / math.sqrt(5)
    b = torch.full((5,), float(draw.integer(500, 600)), dtype=torch.float64)
    return b + d.round(), b


@verdict.hint(
    "You call better what is worse.",
    "What is counted here are errors.",
    "Fewer errors in a: the whole interval of a - b lies below 0.",
)
def more_is_better(a: Tensor, b: Tensor) -> str:
    from scipy.stats import t

    d = a - b
    reach = t.ppf(0.975, len(d) - 1) * d.std() / len(d) ** 0.5
    if d.mean() - reach > 0:
        return "better"
    return "worse" if d.mean() + reach < 0 else "no difference seen"


@verdict.hint(
    "You see a difference in everything.",
    "Two means are never quite equal, also where nothing differs but the seed.",
    "Look at the interval: is 0 in it?",
)
def by_the_mean_alone(a: Tensor, b: Tensor) -> str:
    difference = (a - b).mean()
    return "better" if difference < 0 else "worse" if difference > 0 else "no difference seen"


@verdict.hint(
    "You count how many pairs are won.",
    "Three of five is what a coin does; and how much was won or lost does not count at all.",
    "Take the interval of the differences instead of counting.",
)
def by_the_number_of_wins(a: Tensor, b: Tensor) -> str:
    wins, losses = int((a < b).sum()), int((a > b).sum())
    return "better" if wins > losses else "worse" if losses > wins else "no difference seen"


@verdict.hint(
    "With five pairs you are too sure.",
    "Which quantile does your interval take? 1.96 is for very many pairs.",
    "Use your own interval(a, b), with Student's t.",
)
def by_a_normal_interval(a: Tensor, b: Tensor) -> str:
    d = a - b
    reach = 1.96 * d.std() / len(d) ** 0.5
    if d.mean() + reach < 0:
        return "better"
    return "worse" if d.mean() - reach > 0 else "no difference seen"


@verdict.hint(
    "With five pairs you are a little too sure.",
    "Does your interval leave 5 % out at each end, or 2.5 %?",
    "Before the experiment nobody knows which of the two will be better: use your own interval(a, b).",
)
def by_one_side(a: Tensor, b: Tensor) -> str:
    from scipy.stats import t

    d = a - b
    reach = t.ppf(0.95, len(d) - 1) * d.std() / len(d) ** 0.5
    if d.mean() + reach < 0:
        return "better"
    return "worse" if d.mean() - reach > 0 else "no difference seen"


@verdict.hint(
    "A clear difference is missed.",
    "Your interval does not become narrower when there are more pairs.",
    "Use the standard error, s / √n, not s.",
)
def by_the_deviation(a: Tensor, b: Tensor) -> str:
    from scipy.stats import t

    d = a - b
    reach = t.ppf(0.975, len(d) - 1) * d.std()
    if d.mean() + reach < 0:
        return "better"
    return "worse" if d.mean() - reach > 0 else "no difference seen"


@verdict.hint(
    "Where seeds differ much, you miss what is the same in every pair.",
    "Do you compare a's interval with b's? That two intervals overlap does not say that their "
    "difference may be 0.",
    "One interval, of the differences a - b.",
)
def by_overlapping_intervals(a: Tensor, b: Tensor) -> str:
    from scipy.stats import t

    reach = [t.ppf(0.975, len(x) - 1) * x.std() / len(x) ** 0.5 for x in (a, b)]
    if a.mean() + reach[0] < b.mean() - reach[1]:
        return "better"
    return "worse" if a.mean() - reach[0] > b.mean() + reach[1] else "no difference seen"


@verdict.answer
def by_students_interval(a: Tensor, b: Tensor) -> str:
    from scipy.stats import t

    d = a - b
    reach = t.ppf(0.975, len(d) - 1) * d.std() / len(d) ** 0.5
    if d.mean() + reach < 0:
        return "better"
    return "worse" if d.mean() - reach > 0 else "no difference seen"


@verdict.answer
def by_p_value(a: Tensor, b: Tensor) -> str:
    from scipy import stats

    if stats.ttest_rel(a.numpy(), b.numpy()).pvalue >= 0.05:
        return "no difference seen"
    return "better" if a.sum() < b.sum() else "worse"


@verdict.answer
def by_t_statistic(a: Tensor, b: Tensor) -> str:
    from scipy.special import stdtrit

    d = np.asarray(b - a)
    ratio = d.mean() * math.sqrt(len(d)) / d.std(ddof=1)
    limit = stdtrit(len(d) - 1, 0.975)
    return ["worse", "no difference seen", "better"][int(ratio > limit) - int(ratio < -limit) + 1]


@verdict.answer
def by_both_sides(a: Tensor, b: Tensor) -> str:
    from scipy.stats import ttest_rel

    for side, word in (("less", "better"), ("greater", "worse")):
        if ttest_rel(a, b, alternative=side).pvalue < 0.025:
            return word
    return "no difference seen"


# Exercise 7: runs of one's own

my_gain = Exercise(
    "my_gain",
    "my_gain is the mean of your own pairs, born again minus labels, with the low and the high end of "
    "its 95 % interval.",
    minutes=10,
    personal=True,
)


@my_gain.holds("It is the interval of your own paired runs, to 1 % of its width", points=2)
def _(ask: Ask, draw: Draw) -> None:
    d = np.subtract(*(errors.numpy() for errors in paired_runs(draw.student)))
    reach = _STUDENT[len(d) - 2] * d.std(ddof=1) / math.sqrt(len(d))
    found = ask()
    three = _three(found.value)
    found.should(three is not None, "three numbers: the mean, low, high")
    near = 0.02 * reach
    found.should(
        abs(three[0] - d.mean()) <= near,
        "first the mean of your five differences, errors of the born again minus those of labels",
    )
    ends = abs(three[1] - d.mean() + reach) <= near and abs(three[2] - d.mean() - reach) <= near
    found.should(ends, "the ends of Student's interval of your five differences")


def _own(student: str, function: Callable) -> list[float]:
    return [float(x) for x in function(*paired_runs(student))]


@my_gain.hint(
    "The sign is reversed: saved errors are below 0 here.",
    "Which of the two comes first, in the pair of tensors and in your difference?",
    "interval(born_again, labels)",
)
def labels_minus_born_again(student: str) -> list[float]:
    return _own(student, b_minus_a)


@my_gain.hint(
    "The mean is right, and the interval is too narrow.",
    "Is it 1.96 or Student's t? With five pairs it is 2.776.",
    "Use your own interval(a, b).",
)
def with_a_normal_interval(student: str) -> list[float]:
    return _own(student, normal_instead_of_t)


@my_gain.hint(
    "The mean is right, and the ends are not.",
    "Do you look at the differences, or at both groups for themselves?",
    "Both networks of a pair began alike: use your own interval(a, b).",
)
def with_an_unpaired_interval(student: str) -> list[float]:
    return _own(student, unpaired)


@my_gain.hint(
    "These are not counts of errors. Are they percents?",
    "There are 360 test images.",
    "Leave the errors as they are.",
)
def in_percent(student: str) -> list[float]:
    return [x / 3.6 for x in _own(student, students_t)]


@my_gain.hint(
    "You looked at the pair with the largest gain.",
    "Five pairs were run, and all of them count.",
    "The mean of all five differences, and its interval.",
)
def the_best_pair(student: str) -> list[float]:
    a, b = paired_runs(student)
    best = float((a - b).min())
    return [best, *_own(student, students_t)[1:]]


@my_gain.answer
def my_students_t(student: str) -> list[float]:
    return _own(student, students_t)


@my_gain.answer
def my_one_sample_test(student: str) -> list[float]:
    return _own(student, one_sample_test)


@my_gain.answer
def my_table(student: str) -> tuple:
    return by_a_table(*paired_runs(student))


@my_gain.answer
def my_rounded_numbers(student: str) -> Tensor:
    return torch.tensor([round(x, 1) for x in _own(student, by_integration)])


EXERCISES = (
    generations,
    ensemble,
    cwtm_loss,
    permute_dark_knowledge,
    interval,
    verdict,
    my_gain,
)
