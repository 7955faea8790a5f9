"""Homework 1, exercise 2: the soft-target loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.course.exercises.claims import is_along, is_moving, is_number, left_alone, tells_apart
from kdlib.course.exercises.material import softmax
from kdlib.course.grading.exercise import Answer, Ask, Draw, Exercise
from kdlib.course.grading.observe import described
from kdlib.course.museum import mistakes

soft_target_loss = Exercise(
    "soft_target_loss",
    "soft_target_loss(student, teacher, temperature) gives T² · KL(p ‖ q), the mean over a batch of "
    "(N, C) logits.",
    minutes=20,
)


@soft_target_loss.holds("It is 0 where student and teacher agree, and only there")
def zero_only_where_both_agree(ask: Ask, draw: Draw) -> None:
    z, other = draw.logits(1), draw.logits(1)
    for T in (1.0, 4.0, 20.0):
        agreeing = ask(student=z, teacher=z, temperature=T)
        # In single precision it is not quite 0.
        agreeing.should(is_number(agreeing.value) and abs(float(agreeing.value)) < 1e-4, "0")
        apart = ask(student=z, teacher=other, temperature=T)
        away = is_number(apart.value) and abs(float(apart.value)) > 10 * abs(float(agreeing.value))
        apart.should(away, "a number other than 0")


@soft_target_loss.holds("At T = 1 it pulls one example's logits by q - p")
def pulls_by_q_minus_p_at_t_1(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(1), draw.logits(1)
    pull = softmax(s, 1) - softmax(t, 1)
    ask.gradient("student", student=s, teacher=t, temperature=1.0).should_be(pull)


@soft_target_loss.holds("For small logits a higher T does not change the size of the pull")
def pull_keeps_its_size_at_higher_t(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(1, scale=0.01), draw.logits(1, scale=0.01)
    first = ask.gradient("student", student=s, teacher=t, temperature=1.0)
    _pulls_up_and_down(first, s)
    for T in (4.0, draw.number(10, 30)):
        later = ask.gradient("student", student=s, teacher=t, temperature=T)
        later.should_be(first.value, tolerance=0.05)


@soft_target_loss.holds("At any T it pulls along q - p, both softened with that T")
def pulls_along_q_minus_p_at_any_t(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(1), draw.logits(1)
    for T in (4.0, draw.number(10, 30)):
        found = ask.gradient("student", student=s, teacher=t, temperature=T)
        wanted = softmax(s, T) - softmax(t, T)
        found.should(is_along(found.value, wanted), f"a multiple of {described(wanted)}")


@soft_target_loss.holds("It is the mean over the batch")
def is_a_mean_over_the_batch(ask: Ask, draw: Draw) -> None:
    n = draw.integer(2, 4)
    s, t = draw.logits(n), draw.logits(n)
    once = ask(student=s, teacher=t, temperature=2.0)
    tells_apart(once, ask(student=t, teacher=t, temperature=2.0))
    twice = ask(student=torch.cat([s, s]), teacher=torch.cat([t, t]), temperature=2.0)
    twice.should_be(once.value)


@soft_target_loss.holds("It is the sum over the classes, however many there are")
def is_a_sum_over_the_classes(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(1), draw.logits(1)
    once = ask.gradient("student", student=s, teacher=t, temperature=1.0)
    once.should(is_moving(once.value, s), "something other than zeros")
    # Each class is split into two halves, which together get the gradient of the whole.
    halves = [torch.cat([z, z], 1) for z in (s, t)]
    twice = ask.gradient("student", student=halves[0], teacher=halves[1], temperature=1.0)
    twice.should_be(torch.cat([once.value, once.value], 1) / 2)


@soft_target_loss.holds("Large logits give a finite loss, and larger ones a larger loss")
def large_logits_stay_finite(ask: Ask, draw: Draw) -> None:
    t = 1000 * draw.logits(2, 3)
    found = ask(student=-t, teacher=t, temperature=1.0)
    tells_apart(found, ask(student=t, teacher=t, temperature=1.0))
    # Both sides are certain, so the loss is a difference of two logits.
    twice = ask(student=-2 * t, teacher=2 * t, temperature=1.0)
    twice.should(
        is_number(twice.value)
        and math.isclose(float(twice.value), 2 * float(found.value), rel_tol=0.01),
        f"about twice {described(found.value)}, your loss for half these logits",
    )


@soft_target_loss.holds("The teacher is a constant: only the student is pulled")
def teacher_is_a_constant(ask: Ask, draw: Draw) -> None:
    given = {"student": draw.logits(3), "teacher": draw.logits(3), "temperature": 4.0}
    _pulls_up_and_down(ask.gradient("student", **given), given["student"])
    ask.gradient("teacher", **given).should_be(None)
    left_alone(ask, **given)


def _pulls_up_and_down(pull: Answer, z: Tensor) -> None:
    both = is_moving(pull.value, z) and bool(pull.value.min() < 0 < pull.value.max())
    pull.should(both, "some logits pulled up and others down")


def of_both(name: str, loss: Callable) -> Callable:
    """A wrong answer: ``loss(p, log_q, T)`` of soft targets and the student's log-probabilities, (N, C)."""

    def answer(student, teacher, temperature):
        p = F.softmax(teacher.detach() / temperature, dim=-1)
        log_q = F.log_softmax(student / temperature, dim=-1)
        return loss(p, log_q, temperature)

    answer.__name__ = name
    return answer


soft_target_loss.hint(
    "The loss is as many times too small as there are classes: is the mean taken over classes, too?",
    "F.kl_div has an argument for what it does with the terms. What does its default do?",
    'reduction="batchmean" sums over the classes and takes the mean over the batch.',
)(mistakes.kl_averaged_over_classes)

soft_target_loss.hint(
    "At T = 20 your loss is 400 times too small. What would make up for that at every T?",
    "Each logit is divided by T, once in the student's softmax and once in what it is compared with: "
    "the gradient shrinks as 1 / T².",
    "Multiply the loss by T².",
)(mistakes.t_squared_forgotten)

soft_target_loss.hint(
    "The gradient is not along q - p. Which distance do you measure?",
    "Where a softmax is flat, the gradient of a squared difference of probabilities vanishes.",
    "Use the Kullback-Leibler divergence, the sum over classes of p · log(p / q).",
)(mistakes.mse_of_probabilities)

soft_target_loss.hint(
    "At T = 1 all is well. At other temperatures the loss is not 0 where the logits agree.",
    "Count the divisions by T: how many softmaxes are there, and how many temperatures?",
    "Soften both sides with the same T.",
)(mistakes.temperature_on_one_side)

soft_target_loss.hint(
    "A divergence is never negative. Which space does F.kl_div want its first argument in?",
    "Its documentation calls the first argument log-probabilities.",
    "Give it F.log_softmax of the student.",
)(mistakes.probabilities_as_kl_input)

soft_target_loss.hint(
    "The loss is nan: the logarithm of something negative is taken.",
    "F.kl_div takes the logarithm of its second argument itself.",
    "Give it F.softmax of the teacher, or pass log_target=True.",
)(mistakes.log_probabilities_as_kl_target)


@soft_target_loss.hint(
    "Raising T changes nothing in your loss.",
    "Where does the temperature enter?",
    "Both softmaxes are of logits / T.",
)
def temperature_ignored(student, teacher, temperature):
    p = F.softmax(teacher.detach(), dim=-1)
    return F.kl_div(F.log_softmax(student, dim=-1), p, reduction="batchmean")


soft_target_loss.hint(
    "Everything is right but for a factor of 1.44 at every temperature.",
    "1 / log 2 = 1.44: which logarithm do you take?",
    "The natural one: the loss is in nats, not in bits.",
)(
    of_both(
        "in_bits",
        lambda p, log_q, T: T**2 * F.kl_div(log_q, p, reduction="batchmean") / math.log(2),
    )
)

soft_target_loss.hint(
    "The pull still becomes smaller as T grows, though more slowly than without any factor.",
    "Each logit is divided by T, once in the student's softmax and once in what it is compared with.",
    "T² makes up for both divisions.",
)(of_both("times_t_once", lambda p, log_q, T: T * F.kl_div(log_q, p, reduction="batchmean")))


@soft_target_loss.hint(
    "The pull is not q - p. Whose logarithm is weighted by whose probability?",
    "KL(p ‖ q) is not KL(q ‖ p): the teacher's probabilities are the weights.",
    "F.kl_div(log q, p): the student comes first, as a logarithm, the teacher second.",
)
def sides_swapped(student, teacher, temperature):
    log_p = F.log_softmax(teacher.detach() / temperature, dim=-1)
    q = F.softmax(student / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_p, q, reduction="batchmean")


soft_target_loss.hint(
    "The pull is right, and yet the loss is not 0 where both agree. What is left over?",
    "A cross entropy is the divergence plus the teacher's own entropy, which no student can lower.",
    "Subtract the entropy of p: the sum over classes of p · (log p - log q).",
)(of_both("cross_entropy_not_divergence", lambda p, log_q, T: -(T**2) * (p * log_q).sum(-1).mean()))

soft_target_loss.hint(
    "Doubling the batch doubles your loss.",
    "A learning rate good for one batch size should suit another: sum over the classes, and then?",
    'Take the mean over the examples; in F.kl_div it is reduction="batchmean".',
)(of_both("summed_over_the_batch", lambda p, log_q, T: T**2 * F.kl_div(log_q, p, reduction="sum")))

soft_target_loss.hint(
    "It is right for ten classes, but not for three.",
    "Is there a 10 in your function that stands for the number of classes?",
    "Sum over the last axis instead of undoing a mean.",
)(of_both("ten_classes_for_ever", lambda p, log_q, T: 10 * T**2 * F.kl_div(log_q, p)))


@soft_target_loss.hint(
    "Large logits give a loss of nan. What is the logarithm of 0?",
    "To a computer a probability of 1e-500 is 0, yet its logarithm is a plain number: -1151.",
    "Use F.log_softmax for the student; where p is 0, the term is 0, as in torch.xlogy.",
)
def logarithm_of_a_softmax(student, teacher, temperature):
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    q = F.softmax(student / temperature, dim=-1)
    return temperature**2 * (p * (p / q).log()).sum(-1).mean()


@soft_target_loss.hint(
    "A gradient reaches the teacher: trained along, it would move towards the student.",
    "The targets are constants, whichever network they came from.",
    "teacher.detach()",
)
def gradient_to_the_teacher(student, teacher, temperature):
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


soft_target_loss.hint(
    "The loss is too small twice over: by the number of classes, and by T².",
    "What does F.kl_div do with the terms by default? And how does a gradient shrink with T?",
    'reduction="batchmean", and the whole times T².',
)(of_both("averaged_and_without_t_squared", lambda p, log_q, T: F.kl_div(log_q, p)))


@soft_target_loss.hint(
    "No gradient reaches the student: what you return is cut off from the computation.",
    "item(), detach(), numpy() and no_grad() each cut the path back to the student.",
    "Return the tensor itself; only the teacher is detached.",
)
def a_number_without_a_past(student, teacher, temperature):
    p = F.softmax(teacher / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    return (temperature**2 * F.kl_div(log_q, p, reduction="batchmean")).item()


@soft_target_loss.hint(
    "With large logits your loss stops growing.",
    "Something keeps a logarithm from becoming infinite: what does it make of a probability of 1e-30?",
    "F.log_softmax needs no help: it never takes the logarithm of a probability.",
)
def epsilon_in_the_logarithm(student, teacher, temperature):
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    q = F.softmax(student / temperature, dim=-1)
    return temperature**2 * (p * torch.log((p + 1e-12) / (q + 1e-12))).sum(-1).mean()


@soft_target_loss.answer
def kl_form(student, teacher, temperature):
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
