"""Homework 1, exercise 3: the whole objective."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.course.exercises.claims import is_moving, is_positive, left_alone, same_number
from kdlib.course.exercises.material import divergence, softmax
from kdlib.course.grading.exercise import Ask, Draw, Exercise
from kdlib.course.museum import mistakes

hinton_loss = Exercise(
    "hinton_loss",
    "hinton_loss(student, teacher, labels, temperature, alpha) adds alpha times the soft-target "
    "loss and 1 - alpha times the cross entropy of the labels.",
    minutes=15,
)


@hinton_loss.holds("At alpha = 1 only the soft targets count, with their T²")
def alpha_1_is_soft_targets_alone(ask: Ask, draw: Draw) -> None:
    s, t, labels = draw.logits(4), draw.logits(4), draw.labels(4)
    for T in (1.0, 4.0):
        found = ask(student=s, teacher=t, labels=labels, temperature=T, alpha=1.0)
        found.should_be(divergence(s, t, T))


@hinton_loss.holds("At alpha = 0 only the labels count, at T = 1")
def alpha_0_is_labels_alone(ask: Ask, draw: Draw) -> None:
    s, t, labels = draw.logits(4), draw.logits(4), draw.labels(4)
    for T in (1.0, 4.0):
        found = ask(student=s, teacher=t, labels=labels, temperature=T, alpha=0.0)
        found.should_be(_surprise(s, labels))


@hinton_loss.holds("In between, alpha mixes the two linearly")
def alpha_mixes_linearly(ask: Ask, draw: Draw) -> None:
    s, t, labels = draw.logits(4), draw.logits(4), draw.labels(4)
    while math.isclose(_surprise(s, labels), divergence(s, t, 4.0), rel_tol=0.05):
        labels = draw.labels(
            4
        )  # the two terms must differ, or every mixture of them looks the same
    given = {"student": s, "teacher": t, "labels": labels, "temperature": 4.0}
    ends = [ask(**given, alpha=alpha) for alpha in (0.0, 1.0)]
    for end in ends:
        end.should(is_positive(end.value), "a number above 0")
    hard, soft = (float(end.value) for end in ends)
    ends[1].should(not same_number(hard, soft), "a number other than for alpha = 0")
    for alpha in (0.25, draw.number(0.6, 0.95)):
        ask(**given, alpha=alpha).should_be((1 - alpha) * hard + alpha * soft)


@hinton_loss.holds("Its gradient is that of the whole loss, and reaches the student only")
def gradient_is_whole_and_the_students(ask: Ask, draw: Draw) -> None:
    for alpha in (0.25, 0.95):
        # Drawn twice: where the two terms' gradients are at right angles, one alone passes.
        s, t, labels = draw.logits(4), draw.logits(4), draw.labels(4)
        given = {"teacher": t, "labels": labels, "temperature": 4.0, "alpha": alpha}
        pull = ask.gradient("student", student=s, **given)
        pull.should(is_moving(pull.value, s), "a tensor of the logits' shape, not all zeros")
        step = 0.05 * pull.value.double()
        before, after = (ask(student=s + side * step, **given) for side in (-1, 1))
        change = (float(after.value) - float(before.value)) / 0.1
        promised = float(pull.value.double().square().sum())
        pull.should(
            math.isclose(change, promised, rel_tol=0.02),
            f"the whole gradient: a step along it changes the loss by {change / promised:.3g} times "
            "what it predicts",
        )
        ask.gradient("teacher", student=s, **given).should_be(None)
    left_alone(ask, student=s, **given)


def _surprise(z: Tensor, labels: Tensor) -> Tensor:
    return -softmax(z, 1)[torch.arange(len(z)), labels].log().mean()


hinton_loss.hint(
    "alpha = 0.9 leaves a tenth to the teacher. Who should get the nine tenths?",
    "In some papers and programs alpha weighs the labels. Which of the two does it weigh here?",
    "alpha · soft + (1 - alpha) · hard",
)(mistakes.alpha_reversed)

hinton_loss.hint(
    "With alpha = 1 the loss is 0 whatever the student predicts.",
    "Whose logits do you compare with whose?",
    "Compare the student's logits with the teacher's, not the teacher's with themselves.",
)(mistakes.both_sides_are_the_teacher)

hinton_loss.hint(
    "At alpha = 1 and at alpha = 0.999999 your losses differ by a factor of T².",
    "Your function has two branches. Do they scale the soft term alike?",
    "One formula serves every alpha: alpha · T² · KL + (1 - alpha) · CE.",
)(mistakes.t_squared_on_one_path)


def of_soft_term(name: str, loss: Callable) -> Callable:
    """A wrong answer: ``loss(soft, s, y, T, a)`` of a right soft term, logits, labels, T and alpha."""

    def answer(student, teacher, labels, temperature, alpha):
        p = F.softmax(teacher.detach() / temperature, dim=-1)
        log_q = F.log_softmax(student / temperature, dim=-1)
        soft = temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
        return loss(soft, student, labels, temperature, alpha)

    answer.__name__ = name
    return answer


hinton_loss.hint(
    "At alpha = 1 only the soft targets should count. In yours the labels still do.",
    "What weight does your second term have?",
    "The labels' weight is 1 - alpha.",
)(of_soft_term("labels_at_full_weight", lambda soft, s, y, T, a: a * soft + F.cross_entropy(s, y)))

hinton_loss.hint(
    "alpha = 0 should be plain training, the same at every temperature. Yours depends on T.",
    "Labels are not soft targets: nothing needs softening to be compared with them.",
    "Give the cross entropy the student's logits as they are.",
)(
    of_soft_term(
        "labels_at_temperature",
        lambda soft, s, y, T, a: a * soft + (1 - a) * F.cross_entropy(s / T, y),
    )
)

hinton_loss.hint(
    "alpha = 0 should be plain cross entropy. Yours is flatter: it never falls below 1.46.",
    "F.cross_entropy takes a softmax itself. How many do you take in all?",
    "Give the cross entropy logits, not probabilities.",
)(
    of_soft_term(
        "softmax_twice",
        lambda soft, s, y, T, a: a * soft + (1 - a) * F.cross_entropy(F.softmax(s, dim=-1), y),
    )
)


@hinton_loss.hint(
    "alpha = 1 gives a loss that is T² too small.",
    "Without T², raising T turns distillation off as soon as labels are in the mix.",
    "Use your soft_target_loss, which has the factor.",
)
def soft_term_without_t_squared(student, teacher, labels, temperature, alpha):
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    soft = F.kl_div(log_q, p, reduction="batchmean")
    return alpha * soft + (1 - alpha) * F.cross_entropy(student, labels)


hinton_loss.hint(
    "Both ends are right, but in between the loss is too small.",
    "At alpha = 0.5 each term should count half. What do yours count?",
    "Each weight is used once: alpha, and 1 - alpha.",
)(
    of_soft_term(
        "weights_used_twice",
        lambda soft, s, y, T, a: a**2 * soft + (1 - a) ** 2 * F.cross_entropy(s, y),
    )
)


@hinton_loss.hint(
    "A gradient reaches the teacher, through the soft term.",
    "Labels cannot be trained, and neither should soft targets be.",
    "Use teacher.detach(), or your soft_target_loss, which has it.",
)
def teacher_pulled_too(student, teacher, labels, temperature, alpha):
    p = F.softmax(teacher / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    soft = temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
    return alpha * soft + (1 - alpha) * F.cross_entropy(student, labels)


@hinton_loss.hint(
    "The value is right, but only the labels pull at the student.",
    "Whose logits should be constants in the soft term?",
    "Detach the teacher, not the student.",
)
def student_detached(student, teacher, labels, temperature, alpha):
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student.detach() / temperature, dim=-1)
    soft = temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
    return alpha * soft + (1 - alpha) * F.cross_entropy(student, labels)


@hinton_loss.hint(
    "The value is right, but no gradient reaches the student.",
    "item(), detach(), numpy() and no_grad() each cut the path back to the student.",
    "Return the tensor itself; only the teacher is detached.",
)
def objective_as_a_number(student, teacher, labels, temperature, alpha):
    p = F.softmax(teacher / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    soft = temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
    return (alpha * soft + (1 - alpha) * F.cross_entropy(student, labels)).item()


@hinton_loss.answer
def two_terms(student, teacher, labels, temperature, alpha):
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    soft = temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
    return alpha * soft + (1 - alpha) * F.cross_entropy(student, labels)
