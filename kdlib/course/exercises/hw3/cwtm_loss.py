"""Homework 3, exercise 3: confidence weighted by teacher max (CWTM)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.course.exercises.claims import is_finite, is_moving, is_positive
from kdlib.course.exercises.material import softmax
from kdlib.course.grading.exercise import Ask, Draw, Exercise
from kdlib.course.grading.observe import same
from kdlib.course.museum import mistakes

cwtm_loss = Exercise(
    "cwtm_loss",
    "cwtm_loss(student, teacher, labels) gives the labels' cross entropy, each example weighted by the "
    "teacher's largest probability over the batch's sum of these.",
    minutes=15,
)


@cwtm_loss.holds("The weights sum to 1: the loss of equal examples is their cross entropy")
def weights_sum_to_one(ask: Ask, draw: Draw) -> None:
    z, label = draw.logits(1, 4), draw.labels(1, 4)
    loss = -softmax(z, 1)[0, label].log()[0]
    for n in (1, 3):
        teacher = draw.logits(n, 4, scale=1.0)
        teacher[0, label] += 3  # the first row predicts the label
        ask(student=z.repeat(n, 1), teacher=teacher, labels=label.repeat(n)).should_be(loss)


@cwtm_loss.holds("Each example counts in proportion to the teacher's largest probability for it")
def weights_are_the_teachers_confidence(ask: Ask, draw: Draw) -> None:
    z, label = draw.logits(1, 5), draw.labels(1, 5)
    sure = 40 * F.one_hot(label, 5).double()  # its loss is 0, so that only the other example counts
    teacher = torch.cat([draw.logits(1, 5, scale=0.5), draw.logits(1, 5, scale=1.5)])
    teacher[:, label] -= 2  # it predicts another class than the label
    first = ask(student=torch.cat([z, sure]), teacher=teacher, labels=label.repeat(2))
    first.should(is_finite(first.value) and is_positive(first.value), "a number above 0")
    surest = softmax(teacher, 1).max(-1).values
    second = ask(student=torch.cat([sure, z]), teacher=teacher, labels=label.repeat(2))
    second.should_be(float(first.value) * surest[1] / surest[0])


@cwtm_loss.holds("Its gradient is the gradient of what it returns")
def gradient_fits_the_loss(ask: Ask, draw: Draw) -> None:
    z = draw.logits(3, 4)
    sure = torch.tensor(
        [[0.2], [1.0], [3.0]]
    )  # of equal confidence, no weights would be right, too
    given = {"teacher": sure * draw.logits(3, 4, scale=1.0), "labels": draw.labels(3, 4)}
    _minds_its_arguments(ask, {"student": z, **given}, draw)
    pull = ask.gradient("student", student=z, **given)
    pull.should(is_moving(pull.value, z), "something other than zeros")
    size = 1e-2  # large enough for a loss in float32
    for _ in range(3):  # along a single step a wrong gradient may be right by chance
        step = draw.normal(3, 4)
        ends = [ask(student=z + side * size * step, **given) for side in (1, -1)]
        slope = (float(ends[0].value) - float(ends[1].value)) / (2 * size)
        told = float((pull.value.double() * step).sum())
        pull.should(
            math.isclose(slope, told, rel_tol=1e-3, abs_tol=1e-3),
            f"one that fits the loss: a random step changes the loss by {slope:.5g}, by your "
            f"gradient it would be {told:.5g}",
        )


@cwtm_loss.holds("The teacher is a constant: only the student is pulled")
def teacher_is_a_constant(ask: Ask, draw: Draw) -> None:
    given = {"student": draw.logits(3, 4), "teacher": draw.logits(3, 4)}
    given["labels"] = draw.labels(3, 4)
    _minds_its_arguments(ask, given, draw)
    pull = ask.gradient("student", **given)
    pull.should(is_moving(pull.value, given["student"]), "something other than zeros")
    ask.gradient("teacher", **given).should_be(None)


@cwtm_loss.holds("Large logits give a finite loss")
def large_logits_stay_finite(ask: Ask, draw: Draw) -> None:
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
        not same(other.value, found.value),
        "a loss other than with other labels and another teacher",
    )


def weighted(name: str, loss: Callable) -> Callable:
    """A wrong answer: ``loss(w, ce)`` of the teacher's largest probabilities and the cross entropies, (N,)."""

    def answer(student, teacher, labels):
        surest = F.softmax(teacher.detach(), dim=-1).amax(-1)
        return loss(surest, F.cross_entropy(student, labels, reduction="none"))

    answer.__name__ = name
    return answer


cwtm_loss.hint(
    "For a single example the loss should be its cross entropy, however sure the teacher is.",
    "In the paper a weight is a share: the largest probability over the sum of the largest "
    "probabilities in the batch.",
    "Divide the weights by their sum; and they are constants, so detach the teacher.",
)(mistakes.confidence_not_as_shares)

cwtm_loss.hint(
    "Three equal examples have a third of the loss that they should have.",
    "Your weights sum to 1 already. What does a mean do to such a sum?",
    "Sum weight times cross entropy; no mean.",
)(weighted("shares_averaged_again", lambda w, ce: (w / w.sum() * ce).mean()))

cwtm_loss.hint(
    "The less sure the teacher is of a batch, the smaller your loss.",
    "A weight is a share of the batch: where does a batch's sum of weights enter?",
    "Divide by the sum of the largest probabilities, not by the number of examples.",
)(weighted("confidence_averaged", lambda w, ce: (w * ce).mean()))

cwtm_loss.hint(
    "A single example is right, but three equal ones have another loss than one.",
    "What do your weights sum to? You divide by the largest of them.",
    "Divide them by their sum, then add up weight times cross entropy.",
)(weighted("over_the_largest_of_the_batch", lambda w, ce: (w / w.max() * ce).mean()))


@cwtm_loss.hint(
    "The weights are not the teacher's largest probabilities. Which probability did you take?",
    "The probability of the label is the paper's first idea; CWTM needs no label for its weights.",
    "amax(-1) of the teacher's softmax, right or wrong.",
)
def weighted_by_the_label(student, teacher, labels):
    p = F.softmax(teacher.detach(), dim=-1).gather(-1, labels[:, None])[:, 0]
    return (p / p.sum() * F.cross_entropy(student, labels, reduction="none")).sum()


@cwtm_loss.hint(
    "Your weights compare logits. A teacher may have large logits for all classes and be unsure.",
    "Confidence is a probability.",
    "Take the softmax of the teacher's logits, then the largest of each row.",
)
def largest_logit(student, teacher, labels):
    surest = teacher.detach().amax(-1)
    return (surest / surest.sum() * F.cross_entropy(student, labels, reduction="none")).sum()


cwtm_loss.hint(
    "Your weights sum to 1, but are not in the ratio of the teacher's largest probabilities.",
    "You take a softmax over the batch. A share is a number divided by the sum of all.",
    "Divide the largest probabilities by their sum; the only softmax is over the classes.",
)(weighted("softmax_of_the_weights", lambda w, ce: (F.softmax(w, dim=0) * ce).sum()))


@cwtm_loss.hint(
    "The weights are those of a softmax over the wrong axis.",
    "A teacher's row, its ten classes, should sum to 1.",
    "dim=-1 for the softmax, and for the maximum.",
)
def softmax_down_the_columns(student, teacher, labels):
    surest = F.softmax(teacher.detach(), dim=0).amax(-1)
    return (surest / surest.sum() * F.cross_entropy(student, labels, reduction="none")).sum()


@cwtm_loss.hint(
    "How sure the teacher is makes no difference.",
    "Whose confidence are your weights?",
    "Take the softmax of the teacher's logits, not of the student's.",
)
def the_students_confidence(student, teacher, labels):
    surest = F.softmax(student, dim=-1).amax(-1)
    return (surest / surest.sum() * F.cross_entropy(student, labels, reduction="none")).sum()


@cwtm_loss.hint(
    "Every example counts the same: it is the plain cross entropy.",
    "Where does the teacher enter?",
    "Weigh each example by the teacher's largest probability, as a share of the batch.",
)
def the_teacher_ignored(student, teacher, labels):
    return F.cross_entropy(student, labels)


@cwtm_loss.hint(
    "Where the teacher is wrong an example does not count at all.",
    "The paper's weight is the largest probability, right or wrong.",
    "Leave out what compares the teacher's class with the label.",
)
def only_where_the_teacher_is_right(student, teacher, labels):
    surest, named = F.softmax(teacher.detach(), dim=-1).max(-1)
    surest = surest * (named == labels)
    return (surest / surest.sum() * F.cross_entropy(student, labels, reduction="none")).sum()


@cwtm_loss.hint(
    "The loss of a single example depends on more than its label.",
    "The dark knowledge is still there: what is weighted is a cross entropy with all of p.",
    "Weigh the cross entropy of the labels.",
)
def dark_knowledge_left_in(student, teacher, labels):
    p = F.softmax(teacher.detach(), dim=-1)
    surest = p.amax(-1)
    losses = -(p * F.log_softmax(student, dim=-1)).sum(-1)
    return (surest / surest.sum() * losses).sum()


@cwtm_loss.hint(
    "The loss of a single example is the cross entropy of another class than its label.",
    "The student is compared with the class that the teacher predicts.",
    "Use the labels for the cross entropy, and the teacher for the weights alone.",
)
def the_teachers_class_as_label(student, teacher, labels):
    surest, named = F.softmax(teacher.detach(), dim=-1).max(-1)
    return (surest / surest.sum() * F.cross_entropy(student, named, reduction="none")).sum()


@cwtm_loss.hint(
    "The value is right, but the gradient belongs to another function.",
    "A backward written by hand must be the derivative of the forward, weights and all. Does "
    "autograd need help here?",
    "Return the sum of weight times cross entropy, and let autograd do the rest.",
)
def gradient_of_another_function(student, teacher, labels):
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
    "The weights are constants, whichever network they came from.",
    "Take them from teacher.detach().",
)
def gradient_to_the_teacher(student, teacher, labels):
    surest = F.softmax(teacher, dim=-1).amax(-1)
    return (surest / surest.sum() * F.cross_entropy(student, labels, reduction="none")).sum()


cwtm_loss.hint(
    "No gradient reaches the student: you return a plain number.",
    "Which call cuts the path back to the student: item(), detach(), numpy(), no_grad()?",
    "Return the tensor; only the teacher's part needs no gradient.",
)(weighted("a_number_without_a_past", lambda w, ce: (w / w.sum() * ce).sum().item()))


@cwtm_loss.hint(
    "Large logits give a loss that is infinite. What is the logarithm of 0?",
    "To a computer a probability of 1e-500 is 0, yet its logarithm is a plain number: -1151.",
    "F.log_softmax, or F.cross_entropy of the logits.",
)
def logarithm_of_a_softmax(student, teacher, labels):
    surest = F.softmax(teacher.detach(), dim=-1).amax(-1)
    losses = -F.softmax(student, dim=-1).log()[torch.arange(len(labels)), labels]
    return (surest / surest.sum() * losses).sum()


@cwtm_loss.answer
def shares_times_cross_entropy(student, teacher, labels):
    surest = F.softmax(teacher.detach(), dim=-1).amax(-1)
    return (surest / surest.sum() * F.cross_entropy(student, labels, reduction="none")).sum()
