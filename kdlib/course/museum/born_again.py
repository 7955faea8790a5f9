"""Bugs of born-again networks: generations of teachers and students, CWTM and DKPP."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib.course.museum.story import mistake
from kdlib.data import Data
from kdlib.losses import cwtm_loss, cwtm_weights, dkpp_loss, permute_dark_knowledge
from kdlib.objectives import CrossEntropy, SoftTargets
from kdlib.training import Recipe, evaluate, fit


def next_generation(
    student: nn.Module, teacher: nn.Module, data: Data, recipe: Recipe
) -> nn.Module:
    """Train the student on the soft targets of the generation before and on nothing else."""
    fit(student, SoftTargets(teacher, temperature=1, alpha=1), data, recipe, progress=False)
    return student


@mistake(
    next_generation,
    "The loss is 0 from the first step on, and the student keeps its initial weights.",
)
def taught_by_itself(
    student: nn.Module, teacher: nn.Module, data: Data, recipe: Recipe
) -> nn.Module:
    fit(student, SoftTargets(student, temperature=1, alpha=1), data, recipe, progress=False)
    return student


def handed_on(student: nn.Module, best: dict, initial: dict) -> tuple[nn.Module, nn.Module]:
    """The next teacher, with this generation's best weights, and a student with initial ones."""
    teacher = copy.deepcopy(student)
    teacher.load_state_dict(best)
    student.load_state_dict(initial)
    return teacher, student


@mistake(
    handed_on,
    "From the second generation on the teacher knows nothing: with the student's initial weights "
    "it lost its own.",
)
def teacher_and_student_are_one(
    student: nn.Module, best: dict, initial: dict
) -> tuple[nn.Module, nn.Module]:
    teacher = student  # a name, not a copy
    teacher.load_state_dict(best)
    student.load_state_dict(initial)
    return teacher, student


def generations(
    build: Callable[[int], nn.Module], data: Data, recipe: Recipe, count: int
) -> list[nn.Module]:
    """A network trained on labels, then ``count`` more, each taught by the one before."""
    nets = [build(0)]
    fit(nets[0], CrossEntropy(), data, recipe, progress=False)
    for seed in range(1, count + 1):
        nets.append(next_generation(build(seed), nets[-1], data, recipe))
    return nets


@mistake(
    generations,
    "Generations differ little from one another, and together they are hardly better than one.",
)
def every_generation_begins_alike(
    build: Callable[[int], nn.Module], data: Data, recipe: Recipe, count: int
) -> list[nn.Module]:
    return generations(lambda seed: build(0), data, recipe, count)


def next_teacher(candidates: Sequence[nn.Module], data: Data) -> nn.Module:
    """The checkpoint of a generation that teaches the next one."""
    return min(candidates, key=lambda net: evaluate(net, data.validation).loss)


@mistake(
    next_teacher,
    "The test accuracy is too good, and more so with every generation: what leaked into the "
    "teacher is taught on.",
)
def teacher_chosen_by_test(candidates: Sequence[nn.Module], data: Data) -> nn.Module:
    return min(candidates, key=lambda net: evaluate(net, data.test).loss)


@mistake(
    cwtm_loss,
    "A loss of about 180 instead of 2: it is a sum over the batch, and a rate that was good for "
    "one batch size diverges at another.",
)
def confidence_not_as_shares(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    surest = F.softmax(teacher, dim=-1).amax(-1)  # (N,), not over their sum
    return (surest * F.cross_entropy(student, labels, reduction="none")).sum()


@mistake(
    cwtm_loss,
    "The student hardly learns: weights that sum to 1 are divided by the size of the batch once "
    "more.",
)
def shares_averaged_again(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    losses = F.cross_entropy(student, labels, reduction="none")
    return (cwtm_weights(teacher) * losses).mean()


@mistake(
    cwtm_loss,
    "The student learns as from labels alone; a weight on the loss changes what is logged and "
    "nothing else.",
)
def gradient_of_another_function(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return _BackwardByHand.apply(student, teacher, labels)


class _BackwardByHand(torch.autograd.Function):
    @staticmethod
    def forward(context, student, teacher, labels):
        context.save_for_backward(student, labels)
        return cwtm_loss(student, teacher, labels)

    @staticmethod
    def backward(context, factor):  # which is not used either
        student, labels = context.saved_tensors
        y = F.one_hot(labels, student.shape[-1])
        return (F.softmax(student, dim=-1) - y) / len(student), None, None


@mistake(
    permute_dark_knowledge,
    "The student fails to converge: it is shown the targets of other images. It looks as if dark "
    "knowledge were all that counts.",
)
def samples_permuted(teacher: Tensor, generator: torch.Generator) -> Tensor:
    return teacher[torch.randperm(len(teacher), generator=generator)]


@mistake(
    permute_dark_knowledge,
    "The targets lose their largest class: what should be put back in its place is added to all.",
)
def largest_added_to_all(teacher: Tensor, generator: torch.Generator) -> Tensor:
    largest, place = teacher.max(-1, keepdim=True)
    rest = permute_dark_knowledge(teacher, generator).scatter(-1, place, 0.0)
    return rest + largest  # by broadcasting


@mistake(
    permute_dark_knowledge,
    "The teacher's stored logits are no longer its own: whoever reads them next gets permuted "
    "ones.",
)
def permuted_in_place(teacher: Tensor, generator: torch.Generator) -> Tensor:
    return teacher.copy_(permute_dark_knowledge(teacher, generator))


def permuted_targets(teacher: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """The targets that DKPP's student gets for a batch, whatever its labels."""
    return permute_dark_knowledge(teacher, generator)


@mistake(
    permuted_targets,
    "Where the teacher is wrong a class drawn at random gets its largest probability; and the "
    "control, which should know no labels, knows them.",
)
def label_kept_in_place(teacher: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    place = labels.unsqueeze(-1)
    lifted = permute_dark_knowledge(teacher.scatter(-1, place, math.inf), generator)
    return lifted.scatter(-1, place, teacher.gather(-1, place))


@mistake(
    dkpp_loss,
    "The loss may be negative and falls without end: logits are not a distribution.",
)
def raw_logits_as_targets(student: Tensor, teacher: Tensor, generator: torch.Generator) -> Tensor:
    targets = permute_dark_knowledge(teacher, generator)
    return -(targets * F.log_softmax(student, dim=-1)).sum(-1).mean()
