"""Homework 1, soft targets: what an answer must do, and what goes wrong.

Each exercise has its properties first, then known mistakes with their hints, then right answers.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.course.exercises.material import (
    divergence,
    is_along,
    is_finite,
    is_like,
    is_moving,
    is_number,
    is_positive,
    same_number,
    softmax,
    teacher_logits,
)
from kdlib.course.grading.exercise import Answer, Ask, Draw, Exercise
from kdlib.course.grading.observe import described
from kdlib.course.museum import mistakes

# Exercise 1: soft targets

soften = Exercise(
    "soften",
    "soften(logits, temperature) gives the (N, C) soft targets of (N, C) logits.",
    minutes=10,
)


@soften.holds("Each row sums to 1")
def _(ask: Ask, draw: Draw) -> None:
    z = draw.logits(draw.integer(3, 6))
    for T in (1.0, 4.0):
        found = ask(logits=z, temperature=T)
        found.should(
            _rows_sum_to_one(found.value, z),
            f"{len(z)} rows that sum to 1, each largest where z is",
        )


@soften.holds("Within a row, log q_i - log q_j is (z_i - z_j) / T")
def _(ask: Ask, draw: Draw) -> None:
    z = draw.logits(draw.integer(2, 5))
    for T in (1.0, 4.0, draw.number(10, 30)):
        found = ask(logits=z, temperature=T)
        expected = softmax(z, T)
        found.should(_proportional(found.value, expected), f"rows proportional to exp(z / {T:.4g})")


@soften.holds("Large logits stay finite")
def _(ask: Ask, draw: Draw) -> None:
    z = torch.cat([1000 + draw.logits(1), draw.logits(1)])
    found = ask(logits=z, temperature=1.0)
    holds = _proportional(found.value, softmax(z, 1))
    found.should(holds, "rows proportional to exp(z), though exp(1000) is infinite")


@soften.holds("The logits that came are as they were")
def _(ask: Ask, draw: Draw) -> None:
    z = draw.logits(2)
    found = ask(logits=z, temperature=4.0)
    found.should(is_like(found.value, z) and bool((found.value > 0).all()), "numbers above 0")
    _left_alone(ask, logits=z, temperature=4.0)


def _left_alone(ask: Ask, **given: object) -> None:
    for name, argument in given.items():
        if isinstance(argument, Tensor):
            ask.after(name, **given).should_be(argument)


def _rows_sum_to_one(q: object, z: Tensor) -> bool:
    if not is_like(q, z) or not torch.equal(q.argmax(-1), z.argmax(-1)):
        return False
    return torch.allclose(q.double().sum(-1), torch.ones(len(z)).double())


def _proportional(q: object, expected: Tensor) -> bool:
    if not is_like(q, expected) or not bool((q > 0).all()):
        return False
    found = q.double() / q.double().max(-1, keepdim=True).values
    return torch.allclose(found, expected / expected.max(-1, keepdim=True).values, rtol=1e-4)


@soften.hint(
    "Within a row nothing changes when T does.",
    "Where does the temperature enter your function?",
    "The softmax is taken of z / T, not of z.",
)
def temperature_forgotten(logits: Tensor, temperature: float) -> Tensor:
    return F.softmax(logits, dim=-1)


@soften.hint(
    "A higher temperature should make the targets softer. Yours become harder.",
    "Compare the largest probability at T = 1 and at T = 4.",
    "Divide the logits by T instead of multiplying.",
)
def multiplied_by_temperature(logits: Tensor, temperature: float) -> Tensor:
    return F.softmax(logits * temperature, dim=-1)


@soften.hint(
    "Your rows do not sum to 1. What does?",
    "Look at the columns: over which axis does your softmax run?",
    "Classes are the last axis: dim=-1.",
)
def softmax_over_the_batch(logits: Tensor, temperature: float) -> Tensor:
    return F.softmax(logits / temperature, dim=0)


@soften.hint(
    "Your rows do not sum to 1. What does your whole tensor sum to?",
    "The sum in the denominator runs over one row's classes, not over all rows.",
    "sum(-1, keepdim=True) sums each row and lets the division broadcast.",
)
def normalised_over_everything(logits: Tensor, temperature: float) -> Tensor:
    scaled = logits / temperature
    e = (scaled - scaled.amax(-1, keepdim=True)).exp()
    return e / e.sum()


@soften.hint(
    "The probabilities are divided by T, not the logits: their sum is 1 / T.",
    "In the formula T stands inside the exponential.",
)
def probabilities_divided(logits: Tensor, temperature: float) -> Tensor:
    return F.softmax(logits, dim=-1) / temperature


@soften.hint(
    "exp(1000) is infinite, and infinite / infinite is no number.",
    "A constant may be added to all logits of a row without changing its softmax. Which one helps?",
    "Take away the row's largest logit before the exponential, or use torch's softmax.",
)
def exponentials_by_hand(logits: Tensor, temperature: float) -> Tensor:
    e = torch.exp(logits / temperature)
    return e / e.sum(-1, keepdim=True)


@soften.hint(
    "With a row of much larger logits beside it, a row becomes 0 / 0, which is no number.",
    "Which largest logit do you take away: that of the row, or that of the whole tensor?",
    "Each row for itself: amax(-1, keepdim=True).",
)
def shifted_by_the_largest_of_all(logits: Tensor, temperature: float) -> Tensor:
    e = torch.exp((logits - logits.max()) / temperature)
    return e / e.sum(-1, keepdim=True)


@soften.hint(
    "Logits above a bound have become equal.",
    "A softmax changes when a logit is cut off. By what change of a row does it stay the same?",
    "The row's largest logit should be taken away, not cut off.",
)
def logits_cut_off(logits: Tensor, temperature: float) -> Tensor:
    e = (logits / temperature).clamp(-50, 50).exp()
    return e / e.sum(-1, keepdim=True)


@soften.hint(
    "Your targets are right, and whoever called you finds other logits than before.",
    "In torch an operator with = and a method with _ at its end write into the tensor that came.",
    "Make a new tensor: logits / temperature.",
)
def logits_overwritten(logits: Tensor, temperature: float) -> Tensor:
    logits /= temperature
    return F.softmax(logits, dim=-1)


soften.hint(
    "Your targets know only which logits are positive.",
    "Something compares the logits with 0 before the softmax. The teacher's second thoughts are "
    "in the values.",
)(mistakes.thresholded_targets)


@soften.answer
def softmax_of_the_quotient(logits: Tensor, temperature: float) -> Tensor:
    return F.softmax(logits / temperature, dim=-1)


@soften.answer
def shifted_exponentials(z: Tensor, T: float) -> Tensor:
    scaled = z / T
    e = torch.exp(scaled - scaled.amax(dim=1, keepdim=True))
    return e / e.sum(dim=1, keepdim=True)


@soften.answer
def log_sum_exp(logits: Tensor, temperature: float) -> Tensor:
    scaled = logits / temperature
    return torch.exp(scaled - torch.logsumexp(scaled, dim=-1, keepdim=True))


@soften.answer
def row_by_row(logits: Tensor, temperature: float) -> Tensor:
    return torch.stack([torch.softmax(row / temperature, 0) for row in logits])


# Exercise 2: the soft-target loss

soft_target_loss = Exercise(
    "soft_target_loss",
    "soft_target_loss(student, teacher, temperature) gives T² · KL(p ‖ q), the mean over a batch of "
    "(N, C) logits.",
    minutes=20,
)


@soft_target_loss.holds("It is 0 where student and teacher agree, and only there")
def _(ask: Ask, draw: Draw) -> None:
    z, other = draw.logits(1), draw.logits(1)
    for T in (1.0, 4.0, 20.0):
        agreeing = ask(student=z, teacher=z, temperature=T)
        # A loss in single precision is not quite 0.
        agreeing.should(is_number(agreeing.value) and abs(float(agreeing.value)) < 1e-4, "0")
        apart = ask(student=z, teacher=other, temperature=T)
        away = is_number(apart.value) and abs(float(apart.value)) > 10 * abs(float(agreeing.value))
        apart.should(away, "another number than 0")


@soft_target_loss.holds("At T = 1 it pulls one example's logits by q - p")
def _(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(1), draw.logits(1)
    pull = softmax(s, 1) - softmax(t, 1)
    ask.gradient("student", student=s, teacher=t, temperature=1.0).should_be(pull)


@soft_target_loss.holds("A higher T leaves the size of the pull, where logits are small")
def _(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(1, scale=0.01), draw.logits(1, scale=0.01)
    first = ask.gradient("student", student=s, teacher=t, temperature=1.0)
    _pulls_up_and_down(first, s)
    for T in (4.0, draw.number(10, 30)):
        later = ask.gradient("student", student=s, teacher=t, temperature=T)
        later.should_be(first.value, tolerance=0.05)


@soft_target_loss.holds("At any T it pulls along q - p, both softened with that T")
def _(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(1), draw.logits(1)
    for T in (4.0, draw.number(10, 30)):
        found = ask.gradient("student", student=s, teacher=t, temperature=T)
        wanted = softmax(s, T) - softmax(t, T)
        found.should(is_along(found.value, wanted), f"a multiple of {described(wanted)}")


@soft_target_loss.holds("It is the mean over the batch")
def _(ask: Ask, draw: Draw) -> None:
    n = draw.integer(2, 4)
    s, t = draw.logits(n), draw.logits(n)
    once = ask(student=s, teacher=t, temperature=2.0)
    _tells_apart(once, ask(student=t, teacher=t, temperature=2.0))
    twice = ask(student=torch.cat([s, s]), teacher=torch.cat([t, t]), temperature=2.0)
    twice.should_be(once.value)


@soft_target_loss.holds("It is the sum over the classes, however many there are")
def _(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(1), draw.logits(1)
    once = ask.gradient("student", student=s, teacher=t, temperature=1.0)
    once.should(is_moving(once.value, s), "something other than zeros")
    # Each class in two halves: both together are pulled as the whole was.
    halves = [torch.cat([z, z], 1) for z in (s, t)]
    twice = ask.gradient("student", student=halves[0], teacher=halves[1], temperature=1.0)
    twice.should_be(torch.cat([once.value, once.value], 1) / 2)


@soft_target_loss.holds("Large logits give a finite loss, and larger ones a larger loss")
def _(ask: Ask, draw: Draw) -> None:
    t = 1000 * draw.logits(2, 3)
    found = ask(student=-t, teacher=t, temperature=1.0)
    _tells_apart(found, ask(student=t, teacher=t, temperature=1.0))
    # Both sides are sure: what is left of the loss is a difference of two logits.
    twice = ask(student=-2 * t, teacher=2 * t, temperature=1.0)
    twice.should(
        is_number(twice.value)
        and math.isclose(float(twice.value), 2 * float(found.value), rel_tol=0.01),
        f"about twice {described(found.value)}, your loss for half these logits",
    )


@soft_target_loss.holds("The teacher is a constant: only the student is pulled")
def _(ask: Ask, draw: Draw) -> None:
    given = {"student": draw.logits(3), "teacher": draw.logits(3), "temperature": 4.0}
    _pulls_up_and_down(ask.gradient("student", **given), given["student"])
    ask.gradient("teacher", **given).should_be(None)
    _left_alone(ask, **given)


def _pulls_up_and_down(pull: Answer, z: Tensor) -> None:
    both = is_moving(pull.value, z) and bool(pull.value.min() < 0 < pull.value.max())
    pull.should(both, "some logits pulled up and others down")


def _tells_apart(apart: Answer, agreeing: Answer) -> None:
    """Whether a loss says of two logits something else than where both agree."""
    apart.should(is_positive(apart.value) and is_finite(apart.value), "a finite number above 0")
    other = not same_number(agreeing.value, float(apart.value))
    agreeing.should(other, "another number than where the two differ")


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
    "A squared difference of probabilities is no divergence: where a softmax is flat its gradient "
    "vanishes.",
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
    "The loss is not a number: the logarithm of something negative is taken.",
    "F.kl_div takes the logarithm of its second argument by itself.",
    "Give it F.softmax of the teacher, or say log_target=True.",
)(mistakes.log_probabilities_as_kl_target)


@soft_target_loss.hint(
    "Raising T changes nothing in your loss.",
    "Where does the temperature enter?",
    "Both softmaxes are of logits / T.",
)
def temperature_ignored(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p = F.softmax(teacher.detach(), dim=-1)
    return F.kl_div(F.log_softmax(student, dim=-1), p, reduction="batchmean")


@soft_target_loss.hint(
    "Everything is right but for a factor of 1.44 at every temperature.",
    "1 / log 2 = 1.44: which logarithm do you take?",
    "The natural one. Bits are for looking at, nats for differentiating.",
)
def in_bits(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_p = F.log_softmax(teacher.detach() / temperature, dim=-1) / math.log(2)
    log_q = F.log_softmax(student / temperature, dim=-1) / math.log(2)
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    return temperature**2 * (p * (log_p - log_q)).sum(-1).mean()


@soft_target_loss.hint(
    "The pull still becomes smaller as T grows, though more slowly than without any factor.",
    "Each logit is divided by T, once in the student's softmax and once in what it is compared with.",
    "T² makes up for both divisions.",
)
def times_t_once(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    return temperature * F.kl_div(log_q, p, reduction="batchmean")


@soft_target_loss.hint(
    "The pull is not q - p. Whose logarithm is weighted by whose probability?",
    "KL(p ‖ q) is not KL(q ‖ p): the teacher's probabilities are the weights.",
    "F.kl_div(log q, p): the student comes first, as a logarithm, the teacher second.",
)
def sides_swapped(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_p = F.log_softmax(teacher.detach() / temperature, dim=-1)
    q = F.softmax(student / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_p, q, reduction="batchmean")


@soft_target_loss.hint(
    "The pull is right, and yet the loss is not 0 where both agree. What is left over?",
    "A cross entropy is the divergence plus the teacher's own entropy, which no student can lower.",
    "Take the entropy of p away: the sum over classes of p · (log p - log q).",
)
def cross_entropy_not_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    return -(temperature**2) * (p * log_q).sum(-1).mean()


@soft_target_loss.hint(
    "A batch twice as large has a loss twice as large.",
    "A rate that is good for one size of batch should be good for another: sum over the classes, and "
    "then?",
    'Take the mean over the examples; in F.kl_div it is reduction="batchmean".',
)
def summed_over_the_batch(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, p, reduction="sum")


@soft_target_loss.hint(
    "For ten classes it is right. For three it is not.",
    "Is there a 10 in your function that stands for the number of classes?",
    "Sum over the last axis instead of undoing a mean.",
)
def ten_classes_for_ever(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    return 10 * temperature**2 * F.kl_div(log_q, p, reduction="mean")


@soft_target_loss.hint(
    "Large logits give a loss that is no number. What is the logarithm of 0?",
    "A probability of 1e-500 is 0 for a computer, its logarithm is still a plain number: -1151.",
    "Use F.log_softmax for the student; where p is 0, its term is 0, as torch.xlogy knows.",
)
def logarithm_of_a_softmax(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    q = F.softmax(student / temperature, dim=-1)
    return temperature**2 * (p * (p / q).log()).sum(-1).mean()


@soft_target_loss.hint(
    "A gradient reaches the teacher: trained together, it would come to meet the student.",
    "The targets are numbers, whatever network they came from.",
    "teacher.detach()",
)
def gradient_to_the_teacher(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


@soft_target_loss.hint(
    "The loss is too small twice over: by the number of classes, and by T².",
    "What does F.kl_div do with the terms by default? And how does a gradient shrink with T?",
    'reduction="batchmean", and the whole times T².',
)
def averaged_and_without_t_squared(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    return F.kl_div(F.log_softmax(student / temperature, dim=-1), p, reduction="mean")


@soft_target_loss.hint(
    "No gradient reaches the student: what you return is a number that has forgotten its past.",
    "item(), detach(), numpy() and no_grad() each cut the thread that leads back to the student.",
    "Return the tensor itself; only the teacher is detached.",
)
def a_number_without_a_past(student: Tensor, teacher: Tensor, temperature: float) -> float:
    p = F.softmax(teacher / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    return (temperature**2 * F.kl_div(log_q, p, reduction="batchmean")).item()


@soft_target_loss.hint(
    "With large logits your loss stops growing.",
    "Something keeps a logarithm from becoming infinite: what does it make of a probability of 1e-30?",
    "F.log_softmax needs no help: it never takes the logarithm of a probability.",
)
def epsilon_in_the_logarithm(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    q = F.softmax(student / temperature, dim=-1)
    return temperature**2 * (p * torch.log((p + 1e-12) / (q + 1e-12))).sum(-1).mean()


@soft_target_loss.answer
def kl_form(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, p, reduction="batchmean")


@soft_target_loss.answer
def cross_entropy_form(s: Tensor, t: Tensor, T: float) -> Tensor:
    p = torch.softmax(t.detach() / T, dim=1)
    cross = -(p * F.log_softmax(s / T, dim=1)).sum(1)
    own = -torch.xlogy(p, p).sum(1)
    return ((cross - own) * T * T).mean()


@soft_target_loss.answer
def logarithms_on_both_sides(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_p = F.log_softmax(teacher / temperature, dim=-1).detach()
    log_q = F.log_softmax(student / temperature, dim=-1)
    kl = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)
    return kl.mean() * temperature**2


@soft_target_loss.answer
def log_sum_exp_by_hand(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    with torch.no_grad():
        t = teacher / temperature
        log_p = t - torch.logsumexp(t, 1, keepdim=True)
    s = student / temperature
    log_q = s - torch.logsumexp(s, 1, keepdim=True)
    return temperature**2 * torch.einsum("nc,nc->n", log_p.exp(), log_p - log_q).mean()


@soft_target_loss.answer
def one_example_at_a_time(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    total = 0
    for z, t in zip(student, teacher.detach(), strict=True):
        log_q = torch.log_softmax(z / temperature, 0)
        log_p = torch.log_softmax(t / temperature, 0)
        total = total + (log_p.exp() * (log_p - log_q)).sum()
    return temperature**2 * total / len(student)


# Exercise 3: the whole objective

hinton_loss = Exercise(
    "hinton_loss",
    "hinton_loss(student, teacher, labels, temperature, alpha) mixes the soft-target loss, by alpha, "
    "with the cross entropy of the labels.",
    minutes=15,
)


@hinton_loss.holds("alpha = 1 leaves the soft targets alone, with their T²")
def _(ask: Ask, draw: Draw) -> None:
    s, t, labels = draw.logits(4), draw.logits(4), draw.labels(4)
    for T in (1.0, 4.0):
        found = ask(student=s, teacher=t, labels=labels, temperature=T, alpha=1.0)
        found.should_be(divergence(s, t, T))


@hinton_loss.holds("alpha = 0 leaves the labels alone, at T = 1")
def _(ask: Ask, draw: Draw) -> None:
    s, t, labels = draw.logits(4), draw.logits(4), draw.labels(4)
    surprise = -softmax(s, 1)[torch.arange(4), labels].log().mean()
    for T in (1.0, 4.0):
        found = ask(student=s, teacher=t, labels=labels, temperature=T, alpha=0.0)
        found.should_be(surprise)


@hinton_loss.holds("In between it lies as far between the two as alpha says")
def _(ask: Ask, draw: Draw) -> None:
    s, t, labels = draw.logits(4), draw.logits(4), draw.labels(4)
    given = {"student": s, "teacher": t, "labels": labels, "temperature": 4.0}
    ends = [ask(**given, alpha=alpha) for alpha in (0.0, 1.0)]
    for end in ends:
        end.should(is_positive(end.value), "a number above 0")
    hard, soft = (float(end.value) for end in ends)
    ends[1].should(not same_number(hard, soft), "another number than for alpha = 0")
    for alpha in (0.25, draw.number(0.6, 0.95)):
        ask(**given, alpha=alpha).should_be((1 - alpha) * hard + alpha * soft)


@hinton_loss.holds("Its gradient goes to the student alone, and says what a small step will change")
def _(ask: Ask, draw: Draw) -> None:
    s, t, labels = draw.logits(4), draw.logits(4), draw.labels(4)
    for alpha in (0.25, 0.95):
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
            "what it says",
        )
        ask.gradient("teacher", student=s, **given).should_be(None)
    _left_alone(ask, student=s, **given)


hinton_loss.hint(
    "alpha = 0.9 leaves a tenth to the teacher. Who should get the nine tenths?",
    "In some papers and programs alpha weighs the labels. Which of the two does it weigh here?",
    "alpha · soft + (1 - alpha) · hard",
)(mistakes.alpha_reversed)

hinton_loss.hint(
    "With alpha = 1 the loss is 0 whatever the student says.",
    "Whom do you compare with whom?",
    "The soft-target loss is of the student's logits and the teacher's: not of the teacher's twice.",
)(mistakes.both_sides_are_the_teacher)

hinton_loss.hint(
    "alpha = 1 and alpha = 0.999999 are a factor of T² apart.",
    "Your function has two paths. Do they scale the soft term alike?",
    "One formula serves every alpha: alpha · T² · KL + (1 - alpha) · CE.",
)(mistakes.t_squared_on_one_path)


@hinton_loss.hint(
    "alpha = 1 should leave the soft targets alone, and the labels still count.",
    "What weighs your second term?",
    "The labels' weight is 1 - alpha.",
)
def labels_at_full_weight(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    soft = temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
    return alpha * soft + F.cross_entropy(student, labels)


@hinton_loss.hint(
    "alpha = 0 should be plain training, the same at every temperature. Yours depends on T.",
    "Labels are no soft targets: nothing needs softening to be compared with them.",
    "Give the cross entropy the student's logits as they are.",
)
def labels_at_temperature(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    soft = temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
    return alpha * soft + (1 - alpha) * F.cross_entropy(student / temperature, labels)


@hinton_loss.hint(
    "alpha = 0 should be plain cross entropy. Yours is flatter: it never falls below 1.46.",
    "F.cross_entropy takes a softmax by itself. How many are taken in all?",
    "Give the cross entropy logits, not probabilities.",
)
def softmax_twice(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    soft = temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
    return alpha * soft + (1 - alpha) * F.cross_entropy(F.softmax(student, dim=-1), labels)


@hinton_loss.hint(
    "alpha = 1 gives a loss that is T² too small.",
    "With T² forgotten, raising T turns distillation off as soon as labels are in the mix.",
    "Use your soft_target_loss, which has the factor.",
)
def soft_term_without_t_squared(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    soft = F.kl_div(log_q, p, reduction="batchmean")
    return alpha * soft + (1 - alpha) * F.cross_entropy(student, labels)


@hinton_loss.hint(
    "Both ends are right, and in between the loss is too small.",
    "At alpha = 0.5 each term should count half. What do yours count?",
    "Each weight is used once: alpha, and 1 - alpha.",
)
def weights_used_twice(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    soft = alpha * temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
    hard = (1 - alpha) * F.cross_entropy(student, labels)
    return alpha * soft + (1 - alpha) * hard


@hinton_loss.hint(
    "A gradient reaches the teacher, through the soft term.",
    "Labels cannot be trained, and neither should soft targets be.",
    "teacher.detach(), or your soft_target_loss, which has it.",
)
def teacher_pulled_too(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    p = F.softmax(teacher / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    soft = temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
    return alpha * soft + (1 - alpha) * F.cross_entropy(student, labels)


@hinton_loss.hint(
    "The number is right, and only the labels pull at the student.",
    "Whose logits are constants in the soft term?",
    "Detach the teacher, not the student.",
)
def student_detached(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student.detach() / temperature, dim=-1)
    soft = temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
    return alpha * soft + (1 - alpha) * F.cross_entropy(student, labels)


@hinton_loss.hint(
    "The number is right, and no gradient reaches the student.",
    "item(), detach(), numpy() and no_grad() each cut the thread that leads back to the student.",
    "Return the tensor itself; only the teacher is detached.",
)
def objective_as_a_number(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> float:
    p = F.softmax(teacher / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    soft = temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
    return (alpha * soft + (1 - alpha) * F.cross_entropy(student, labels)).item()


@hinton_loss.answer
def two_terms(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    soft = temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
    return alpha * soft + (1 - alpha) * F.cross_entropy(student, labels)


@hinton_loss.answer
def hard_term_by_hand(s: Tensor, t: Tensor, y: Tensor, T: float, a: float) -> Tensor:
    log_p, log_q = (torch.log_softmax(z / T, 1) for z in (t.detach(), s))
    soft = (log_p.exp() * (log_p - log_q)).sum(1).mean() * T**2
    hard = -torch.log_softmax(s, 1)[torch.arange(len(y)), y].mean()
    return hard + a * (soft - hard)


@hinton_loss.answer
def example_by_example(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    log_p = F.log_softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    soft = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)  # (N,)
    hard = F.cross_entropy(student, labels, reduction="none")  # (N,)
    return (alpha * temperature**2 * soft + (1 - alpha) * hard).mean()


@hinton_loss.answer
def labels_as_one_hot(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    p = torch.softmax(teacher.detach() / temperature, dim=1)
    own = torch.xlogy(p, p).sum(1).mean()
    soft = own - (p * torch.log_softmax(student / temperature, dim=1)).sum(1).mean()
    one_hot = F.one_hot(labels, student.shape[1]).to(student.dtype)
    hard = -(one_hot * torch.log_softmax(student, dim=1)).sum(1).mean()
    return sum(w * x for w, x in ((alpha * temperature**2, soft), (1 - alpha, hard)))


# Exercise 4: its gradient

soft_target_gradient = Exercise(
    "soft_target_gradient",
    "soft_target_gradient(student, teacher, temperature) gives the (N, C) gradient of the "
    "soft-target loss by the student's logits, as a formula.",
    minutes=15,
)


@soft_target_gradient.holds("At T = 1 and for one example it is q - p")
def _(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(1), draw.logits(1)
    found = ask(student=s, teacher=t, temperature=1.0)
    found.should_be(softmax(s, 1) - softmax(t, 1))


@soft_target_gradient.holds("A higher T leaves its size, where logits are small")
def _(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(1, scale=0.01), draw.logits(1, scale=0.01)
    first = ask(student=s, teacher=t, temperature=1.0)
    first.should(is_moving(first.value, s), "something other than zeros")
    ask(student=t, teacher=s, temperature=1.0).should_be(-first.value, tolerance=0.05)
    for T in (4.0, draw.number(10, 30)):
        ask(student=s, teacher=t, temperature=T).should_be(first.value, tolerance=0.05)


@soft_target_gradient.holds("At any T it is along q - p, both softened with that T")
def _(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(1), draw.logits(1)
    for T in (4.0, draw.number(10, 30)):
        found = ask(student=s, teacher=t, temperature=T)
        wanted = softmax(s, T) - softmax(t, T)
        found.should(is_along(found.value, wanted), f"a multiple of {described(wanted)}")


@soft_target_gradient.holds("In a batch twice as large each example counts half")
def _(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(2), draw.logits(2)
    once = ask(student=s, teacher=t, temperature=2.0)
    once.should(is_moving(once.value, s), "a tensor of the logits' shape, not all zeros")
    twice = ask(student=torch.cat([s, s]), teacher=torch.cat([t, t]), temperature=2.0)
    twice.should_be(torch.cat([once.value, once.value]) / 2)
    _left_alone(ask, student=s, teacher=t, temperature=2.0)


@soft_target_gradient.hint(
    "The sign is the other way round: a step against your gradient leads away from the teacher.",
    "Where the student gives a class too much, q > p, its logit must fall: the gradient is positive.",
    "q - p",
)
def sign_reversed(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    q, p = (F.softmax(z / temperature, dim=-1) for z in (student, teacher))
    return temperature * (p - q) / len(student)


@soft_target_gradient.hint(
    "The higher T, the smaller your gradient.",
    "The loss has a factor T², and the derivative of z / T by z gives 1 / T. What is left?",
    "One factor of T is left over; it stands before the difference.",
)
def without_the_factor(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    q, p = (F.softmax(z / temperature, dim=-1) for z in (student, teacher))
    return (q - p) / len(student)


@soft_target_gradient.hint(
    "Your derivative is that of KL. What stands before it in the loss?",
    "By the derivative of z / T your gradient shrinks as 1 / T. The factor T² of the loss is missing.",
    "T² / T = T stands before the difference.",
)
def derivative_of_kl_alone(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    q, p = (F.softmax(z / temperature, dim=-1) for z in (student, teacher))
    return (q - p) / (temperature * len(student))


@soft_target_gradient.hint(
    "The higher T, the larger your gradient.",
    "T² stands before the loss. What does the derivative of z / T by z leave of it?",
    "Of the two factors of T one is left.",
)
def with_both_factors(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    q, p = (F.softmax(z / temperature, dim=-1) for z in (student, teacher))
    return temperature**2 * (q - p) / len(student)


@soft_target_gradient.hint(
    "A batch twice as large leaves your rows as they are.",
    "The loss is a mean over N examples. How much does one of them move a mean?",
    "Divide by N, the number of rows.",
)
def of_a_sum(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    q, p = (F.softmax(z / temperature, dim=-1) for z in (student, teacher))
    return temperature * (q - p)


@soft_target_gradient.hint(
    "Even at T = 1 and for one example it is too small, by the number of classes.",
    "The loss is a sum over classes.",
    "Divide by N alone.",
)
def divided_by_classes(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    q, p = (F.softmax(z / temperature, dim=-1) for z in (student, teacher))
    return temperature * (q - p) / student.numel()


@soft_target_gradient.hint(
    "Raising T changes nothing in your gradient.",
    "Where does the temperature enter? In three places.",
    "q and p are both softened with T, and T stands before them.",
)
def temperature_left_out(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    q, p = (F.softmax(z, dim=-1) for z in (student, teacher))
    return (q - p) / len(student)


@soft_target_gradient.hint(
    "At T = 1 it is right. Which softmaxes are taken at which temperature?",
    "Both q and p are those of the loss, softened with T.",
)
def at_temperature_one(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    q, p = (F.softmax(z, dim=-1) for z in (student, teacher))
    return temperature * (q - p) / len(student)


@soft_target_gradient.answer
def the_formula(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    q, p = (F.softmax(z / temperature, dim=-1) for z in (student, teacher))
    return temperature * (q - p) / len(student)


@soft_target_gradient.answer
def by_autograd(s: Tensor, t: Tensor, T: float) -> Tensor:
    z = s.detach().clone().requires_grad_()
    p = torch.softmax(t / T, 1)
    loss = -(T**2) * (p * torch.log_softmax(z / T, 1)).sum(1).mean()
    return torch.autograd.grad(loss, z)[0]


@soft_target_gradient.answer
def through_the_jacobian(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    q, p = (torch.softmax(z / temperature, -1) for z in (student, teacher))
    jacobian = torch.diag_embed(q) - torch.einsum("ni,nj->nij", q, q)  # dq/dz times T
    by_q = -p / q  # of the divergence by q
    return temperature * torch.bmm(jacobian, by_q[:, :, None]).squeeze(-1) / student.shape[0]


@soft_target_gradient.answer
def row_after_row(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    rows = []
    for z, t in zip(student, teacher, strict=True):
        q = (z / temperature - torch.logsumexp(z / temperature, 0)).exp()
        p = (t / temperature - torch.logsumexp(t / temperature, 0)).exp()
        rows.append(temperature * (q - p))
    return torch.stack(rows) / len(rows)


# Exercise 5: the limit of high temperature

logit_matching_loss = Exercise(
    "logit_matching_loss",
    "logit_matching_loss(student, teacher) gives ½ · the mean over classes and batch of the squared "
    "difference of logits, each row first made to have mean 0.",
    minutes=15,
)


@logit_matching_loss.holds("A constant added to all logits of a row changes nothing")
def _(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(3), draw.logits(3)
    once = ask(student=s, teacher=t)
    _tells_apart(once, ask(student=s, teacher=s))
    for shifted in ((s + 5, t), (s, t - draw.number(1, 9)), (s + draw.normal(3, 1), t)):
        ask(student=shifted[0], teacher=shifted[1]).should_be(once.value)
    _left_alone(ask, student=s, teacher=t)


@logit_matching_loss.holds("For one example of mean 0 it is half the mean square, and pulls so")
def _(ask: Ask, draw: Draw) -> None:
    s, t = (z - z.mean(1, keepdim=True) for z in (draw.logits(1), draw.logits(1)))
    ask(student=s, teacher=t).should_be((s - t).square().mean() / 2)
    ask.gradient("student", student=s, teacher=t).should_be((s - t) / s.shape[1])


@logit_matching_loss.holds("It is the mean over the classes, however many there are")
def _(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(1, 5), draw.logits(1, 5)
    once = ask(student=s, teacher=t)
    _tells_apart(once, ask(student=s, teacher=s))
    twice = ask(student=torch.cat([s, s], 1), teacher=torch.cat([t, t], 1))
    twice.should_be(once.value)


@logit_matching_loss.holds("It is the mean over the batch")
def _(ask: Ask, draw: Draw) -> None:
    s, t = draw.logits(2), draw.logits(2)
    once = ask(student=s, teacher=t)
    _tells_apart(once, ask(student=s, teacher=s))
    twice = ask(student=torch.cat([s, s]), teacher=torch.cat([t, t]))
    twice.should_be(once.value)


@logit_matching_loss.hint(
    "A constant added to a row's logits changes your loss, though it changes no probability.",
    "Only differences between logits mean something to a softmax.",
    "Take each row's mean away, on both sides, before comparing.",
)
def not_centred(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().mean() / 2


@logit_matching_loss.hint(
    "The loss is twice as large as it should be.",
    "In the limit T² · KL becomes the sum over classes of (s - t)² / (2 C).",
    "Half of the mean square.",
)
def half_forgotten(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = (z - z.mean(-1, keepdim=True) for z in (student, teacher))
    return (s - t).square().mean()


@logit_matching_loss.hint(
    "The loss grows with the number of classes.",
    "In the limit each probability comes near 1 / C, and so does the factor before each class.",
    "Take the mean over the classes, not the sum.",
)
def summed_over_classes(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = (z - z.mean(-1, keepdim=True) for z in (student, teacher))
    return (s - t).square().sum(-1).mean() / 2


@logit_matching_loss.hint(
    "For ten classes it is right. For five it is not.",
    "Is there a number in your function that stands for ten classes?",
    "mean(-1) knows how many there are.",
)
def divided_by_twenty(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = (z - z.mean(-1, keepdim=True) for z in (student, teacher))
    return (s - t).square().sum(-1).mean() / 20


@logit_matching_loss.hint(
    "Twice the images, twice the loss.",
    "One more mean is missing.",
    "Take the mean over classes and examples.",
)
def summed_over_examples(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = (z - z.mean(-1, keepdim=True) for z in (student, teacher))
    return (s - t).square().mean(-1).sum() / 2


@logit_matching_loss.hint(
    "For one example the loss is 0 whatever the logits: its mean was taken away from itself.",
    "Over which axis is your mean 0?",
    "Each row for itself: mean(-1, keepdim=True).",
)
def centred_over_the_batch(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = (z - z.mean(0, keepdim=True) for z in (student, teacher))
    return (s - t).square().mean() / 2


@logit_matching_loss.hint(
    "It is the limit of something else: probabilities, not logits, are compared.",
    "Where T is large nothing needs a softmax.",
    "Compare the logits themselves, each row with mean 0.",
)
def probabilities_compared(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = (F.softmax(z, dim=-1) for z in (student, teacher))
    return (s - t).square().mean() / 2


@logit_matching_loss.hint(
    "The number is right, and no gradient reaches the student.",
    "item(), detach(), numpy() and no_grad() each cut the thread that leads back to the student.",
    "Return the tensor itself.",
)
def distance_as_a_number(student: Tensor, teacher: Tensor) -> float:
    s, t = (z - z.mean(-1, keepdim=True) for z in (student, teacher))
    return ((s - t).square().mean() / 2).item()


@logit_matching_loss.answer
def both_centred(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = (z - z.mean(-1, keepdim=True) for z in (student, teacher))
    return (s - t).square().mean() / 2


@logit_matching_loss.answer
def difference_centred(s: Tensor, t: Tensor) -> Tensor:
    gap = s - t
    return 0.5 * F.mse_loss(gap, gap.mean(dim=1, keepdim=True).expand_as(gap))


@logit_matching_loss.answer
def half_the_variance(student: Tensor, teacher: Tensor) -> Tensor:
    return 0.5 * (student - teacher).var(dim=1, unbiased=False).mean()


@logit_matching_loss.answer
def by_pairs_of_classes(student: Tensor, teacher: Tensor) -> Tensor:
    gap = student - teacher
    pairs = gap[:, :, None] - gap[:, None, :]  # (N, C, C)
    return torch.einsum("nij,nij->", pairs, pairs) / (4 * gap.shape[1] ** 2 * len(gap))


# Exercise 6: the choice of a temperature

choose_temperature = Exercise(
    "choose_temperature",
    "choose_temperature(temperatures, validation_errors, test_errors) gives the chosen temperature "
    "and the test errors to report for it. Errors are (temperatures, seeds).",
    minutes=10,
)


TWO_THINGS = "two things: a temperature, and test errors"


@choose_temperature.holds(
    "The temperature with the fewest validation errors, on average, is chosen"
)
def _(ask: Ask, draw: Draw) -> None:
    for _ in range(3):
        given = _runs(draw)
        found = ask(**given)
        found.should(is_number(found.value) or _is_pair(found.value), TWO_THINGS)
        chosen = found.value if is_number(found.value) else found.value[0]
        means = given["validation_errors"].mean(1)
        rows = [k for k, T in enumerate(given["temperatures"]) if same_number(chosen, T)]
        found.should(bool(rows), "one of the temperatures first")
        best, own = int(means.argmin()), rows[0]
        found.should(
            own == best,
            f"T = {given['temperatures'][best]:g}: its mean validation errors are {means[best]:.1f}, "
            f"yours {means[own]:.1f}",
        )


@choose_temperature.holds("What is reported is the mean of that temperature's test errors")
def _(ask: Ask, draw: Draw) -> None:
    for _ in range(3):
        given = _runs(draw)
        found = ask(**given)
        found.should(_is_pair(found.value), TWO_THINGS)
        chosen = [k for k, T in enumerate(given["temperatures"]) if same_number(found.value[0], T)]
        found.should(bool(chosen), "one of the temperatures first")
        expected = float(given["test_errors"][chosen[0]].mean())
        found.should(same_number(found.value[1], expected), f"the second to be {expected:.6g}")


def _runs(draw: Draw) -> dict[str, object]:
    """Seven temperatures, three seeds; the best by any other reading of the table is another one."""
    temperatures = [1.0, 2.0, 3.0, 4.0, 8.0, 12.0, 20.0]
    validation, test = (
        60 + torch.tensor([[draw.integer(0, 9) for _ in range(3)] for _ in range(7)]).double()
        for _ in range(2)
    )
    order = torch.randperm(7, generator=draw.generator()).tolist()
    best, luckiest, middle, safest, by_test, worst, _ = order
    validation[best] = torch.tensor([30.0, 45.0, 56.0])  # on average
    validation[luckiest] = torch.tensor([20.0, 70.0, 71.0])
    validation[middle] = torch.tensor([40.0, 41.0, 65.0])  # the best median
    validation[safest] = torch.tensor([50.0, 51.0, 52.0])  # the best of the worst seeds
    validation[worst] += 30
    test[best] = test[best, 0] + torch.tensor([7.0, 0.0, 2.0])
    test[by_test] = 30.0
    return {"temperatures": temperatures, "validation_errors": validation, "test_errors": test}


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        or (isinstance(value, Tensor) and value.shape == (2,))
    )


@choose_temperature.hint(
    "You chose by the test images: what you report is then too good.",
    "The test images stand for all that is still to come. What may choose is the validation split.",
    "Take the smallest mean of validation_errors.",
)
def chosen_by_test(
    temperatures: list[float], validation_errors: Tensor, test_errors: Tensor
) -> tuple[float, float]:
    best = int(test_errors.mean(1).argmin())
    return temperatures[best], float(test_errors[best].mean())


@choose_temperature.hint(
    "One lucky seed chose for you.",
    "Each row holds several students of the same temperature. What says most about the next one?",
    "Take the mean over the seeds before you compare.",
)
def chosen_by_the_luckiest(
    temperatures: list[float], validation_errors: Tensor, test_errors: Tensor
) -> tuple[float, float]:
    best = int(validation_errors.min(1).values.argmin())
    return temperatures[best], float(test_errors[best].mean())


@choose_temperature.hint(
    "The middle seed chose for you.",
    "A median does not see how bad the worst seed was. What is to be small on average?",
    "Take the mean over the seeds before you compare.",
)
def chosen_by_the_median(
    temperatures: list[float], validation_errors: Tensor, test_errors: Tensor
) -> tuple[float, float]:
    best = int(validation_errors.median(1).values.argmin())
    return temperatures[best], float(test_errors[best].mean())


@choose_temperature.hint(
    "The unluckiest seed of each temperature chose for you.",
    "One student of three says little about the next one, be it the best or the worst.",
    "Take the mean over the seeds before you compare.",
)
def chosen_by_the_unluckiest(
    temperatures: list[float], validation_errors: Tensor, test_errors: Tensor
) -> tuple[float, float]:
    best = int(validation_errors.max(1).values.argmin())
    return temperatures[best], float(test_errors[best].mean())


@choose_temperature.hint(
    "You chose the temperature that makes the most errors.",
    "These are errors, not accuracies.",
    "argmin",
)
def the_worst(
    temperatures: list[float], validation_errors: Tensor, test_errors: Tensor
) -> tuple[float, float]:
    best = int(validation_errors.mean(1).argmax())
    return temperatures[best], float(test_errors[best].mean())


@choose_temperature.hint(
    "You report the validation errors. They did the choosing, and are too good for that reason.",
    "Which images has nothing been chosen on?",
    "Report the mean of test_errors in the chosen row.",
)
def validation_reported(
    temperatures: list[float], validation_errors: Tensor, test_errors: Tensor
) -> tuple[float, float]:
    best = int(validation_errors.mean(1).argmin())
    return temperatures[best], float(validation_errors[best].mean())


@choose_temperature.hint(
    "The chosen temperature is right, and its best seed is reported.",
    "A reader will not have your luck.",
    "Report the mean over the seeds.",
)
def best_seed_reported(
    temperatures: list[float], validation_errors: Tensor, test_errors: Tensor
) -> tuple[float, float]:
    best = int(validation_errors.mean(1).argmin())
    return temperatures[best], float(test_errors[best].min())


@choose_temperature.answer
def smallest_mean(
    temperatures: list[float], validation_errors: Tensor, test_errors: Tensor
) -> tuple[float, float]:
    best = int(validation_errors.mean(1).argmin())
    return temperatures[best], float(test_errors[best].mean())


@choose_temperature.answer
def smallest_sum(temps: list[float], val: Tensor, test: Tensor) -> tuple[float, Tensor]:
    row = val.sum(dim=1).sort().indices[0]
    return temps[row], test.mean(dim=1)[row]


@choose_temperature.answer
def in_plain_python(
    temperatures: list[float], validation_errors: Tensor, test_errors: Tensor
) -> list[float]:
    rows = zip(temperatures, validation_errors.tolist(), test_errors.tolist(), strict=True)
    T, _, test = min(rows, key=lambda row: sum(row[1]))
    return [T, sum(test) / len(test)]


@choose_temperature.answer
def by_pandas(
    temperatures: list[float], validation_errors: Tensor, test_errors: Tensor
) -> tuple[float, float]:
    import pandas as pd

    frame = pd.DataFrame(
        {"validation": validation_errors.mean(1).numpy(), "test": test_errors.mean(1).numpy()},
        index=temperatures,
    )
    best = frame.validation.idxmin()
    return best, frame.test[best]


# Exercise 7: a teacher of one's own

my_temperature = Exercise(
    "my_temperature",
    "my_temperature is where the soft targets of your own teacher have a mean entropy of 1 bit.",
    minutes=10,
    personal=True,
)


@my_temperature.holds("There your teacher's targets have an entropy of 0.99 to 1.01 bits", 2)
def _(ask: Ask, draw: Draw) -> None:
    found = ask()
    found.should(is_number(found.value) and found.value > 0, "a positive number")
    bits = mean_bits(teacher_logits(draw.student), float(found.value))
    if abs(bits - 1) > 0.01:
        found.should(False, f"a temperature of 1 bit; there your teacher has {bits:.3f}")


def mean_bits(z: Tensor, temperature: float) -> float:
    p = softmax(z, temperature)
    return float(-torch.xlogy(p, p).sum(1).mean() / math.log(2))


def _where(entropy, wanted: float) -> float:
    """By halving; entropy grows with the temperature."""
    low, high = 1e-2, 1e3
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if entropy(middle) < wanted else (low, middle)
    return middle


@my_temperature.hint(
    "There the entropy is 1 nat. The question is about bits.",
    "One bit is log 2 = 0.693 nats: which logarithm did you take?",
    "Use log2, or divide by log 2.",
)
def one_nat(student: str) -> float:
    z = teacher_logits(student)
    return _where(lambda T: mean_bits(z, T) * math.log(2), 1)


@my_temperature.hint(
    "There the mean target has 1 bit, or comes nearest to it: you averaged first.",
    "The targets of a 3 and of a 7 may both be sharp, and their average is not.",
    "Take each image's entropy, then the mean.",
)
def entropy_of_the_mean(student: str) -> float:
    z = teacher_logits(student)

    def bits(T: float) -> float:
        p = softmax(z, T).mean(0)
        return float(-torch.xlogy(p, p).sum() / math.log(2))

    return _where(bits, 1)


@my_temperature.hint(
    "Your answer looks upside down.",
    "Did you multiply the logits where they should be divided?",
    "If T is your answer, try 1 / T.",
)
def upside_down(student: str) -> float:
    return 1 / halving(student)


@my_temperature.hint(
    "There the middle image has 1 bit, not the mean.",
    "A few images of high entropy pull a mean up, and a median not at all.",
    "Take the mean over the images.",
)
def of_the_median_image(student: str) -> float:
    z = teacher_logits(student)

    def bits(T: float) -> float:
        p = softmax(z, T)
        return float((-torch.xlogy(p, p).sum(1) / math.log(2)).median())

    return _where(bits, 1)


@my_temperature.answer
def halving(student: str) -> float:
    z = teacher_logits(student)
    return _where(lambda T: mean_bits(z, T), 1)


@my_temperature.answer
def on_a_fine_grid(student: str) -> float:
    z = teacher_logits(student)
    grid = np.geomspace(0.1, 50, 2000)
    return grid[np.argmin([abs(mean_bits(z, T) - 1) for T in grid])]


@my_temperature.answer
def by_a_root_finder(student: str) -> float:
    from scipy.optimize import brentq

    z = teacher_logits(student)
    return round(brentq(lambda T: mean_bits(z, T) - 1, 0.05, 100), 3)


@my_temperature.answer
def by_secants(student: str) -> Tensor:
    z, a, b = teacher_logits(student), 1.0, 3.0
    for _ in range(30):
        fa, fb = mean_bits(z, a) - 1, mean_bits(z, b) - 1
        if abs(fb - fa) < 1e-12:
            break
        a, b = b, min(max(b - fb * (b - a) / (fb - fa), 0.05), 100)
    return torch.tensor(b)


EXERCISES = (
    soften,
    soft_target_loss,
    hinton_loss,
    soft_target_gradient,
    logit_matching_loss,
    choose_temperature,
    my_temperature,
)
