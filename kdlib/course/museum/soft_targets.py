"""Bugs of the loss: the soft term, its temperature and reduction, and the weights of both terms."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kdlib.course.museum.story import mistake
from kdlib.losses import cross_entropy, hinton_loss, soft_target_loss, soften


def soft_term(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return soft_target_loss(student, teacher, temperature)


@mistake(
    soft_term,
    "The soft term is C times too small, so that extreme alpha and T look best.",
    "haitongli/knowledge-distillation-pytorch issue #2; GMvandeVen/continual-learning issue #5",
)
def kl_averaged_over_classes(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_q = F.log_softmax(student / temperature, dim=-1)
    p = F.softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, p)  # by default the mean over batch and classes


@mistake(
    soft_term,
    "Raising T turns distillation off: at T = 20 the soft gradient is 400 times too small.",
)
def t_squared_forgotten(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_q = F.log_softmax(student / temperature, dim=-1)
    p = F.softmax(teacher / temperature, dim=-1)
    return F.kl_div(log_q, p, reduction="batchmean")


def both_terms(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    return hinton_loss(student, teacher, labels, temperature, alpha)


@mistake(both_terms, "With alpha = 1 the loss is T^2 times smaller than with alpha = 0.999999.")
def t_squared_on_one_path(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    log_q = F.log_softmax(student / temperature, dim=-1)
    soft = F.kl_div(log_q, F.softmax(teacher / temperature, dim=-1), reduction="batchmean")
    if alpha == 1:
        return soft
    return alpha * temperature**2 * soft + (1 - alpha) * F.cross_entropy(student, labels)


@mistake(
    soft_term,
    "At high T the gradient is about 2 / C^2 of the right one, a fiftieth for ten classes: "
    "the student learns from the labels alone.",
)
def mse_of_probabilities(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    q = F.softmax(student / temperature, dim=-1)
    p = F.softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.mse_loss(q, p)


@mistake(soften, "Flat targets whatever the teacher thinks: the softmax sees only zeros and ones.")
def thresholded_targets(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Twin of :func:`kdlib.losses.soften`, for a tensor that was exported as "predictions"."""
    return F.softmax((logits > 0).float() / temperature, dim=-1)


@mistake(
    soft_term,
    "The loss is not 0 where the logits agree: the student is drawn to logits T times as large "
    "as the teacher's, and becomes overconfident.",
    "lancopku/DynamicKD issue #1",
)
def temperature_on_one_side(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_q = F.log_softmax(student / temperature, dim=-1)
    p = F.softmax(teacher, dim=-1)
    return temperature**2 * F.kl_div(log_q, p, reduction="batchmean")


def loss_of_the_teacher(teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The loss that trains a teacher: at T = 1, whatever temperature its targets get later."""
    return cross_entropy(teacher, labels)


@mistake(
    loss_of_the_teacher,
    "T seems to do nothing: the teacher's logits have grown T times, and softening them gives "
    "back the targets of T = 1.",
)
def teacher_trained_at_temperature(teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    return cross_entropy(teacher / temperature, labels)


def hard_term(student: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(student, labels)


@mistake(
    hard_term,
    "Flat gradients, and a loss that stays above 1.46 for ten classes however sure and right "
    "the student is.",
)
def softmax_before_cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.softmax(student, dim=-1), labels)


@mistake(
    soft_term,
    "The loss is negative, and is lowest when the student bets all on the teacher's top class.",
    "microsoft/ProDA issue #43",
)
def probabilities_as_kl_input(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    q = F.softmax(student / temperature, dim=-1)
    p = F.softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(q, p, reduction="batchmean")


@mistake(
    soft_term,
    "The loss is nan: kl_div takes the logarithm of a logarithm.",
    "DeepFakeIL/DFIL issue #16",
)
def log_probabilities_as_kl_target(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_q = F.log_softmax(student / temperature, dim=-1)
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean")


@mistake(
    both_terms,
    "The soft term is 0 in every step; the student learns from the labels alone.",
    "labmlai/annotated_deep_learning_paper_implementations issue #66",
)
def both_sides_are_the_teacher(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    soft = soft_target_loss(teacher, teacher, temperature)
    return alpha * soft + (1 - alpha) * cross_entropy(student, labels)


@mistake(
    both_terms,
    "A value copied from elsewhere reverses the mix: alpha = 0.9 leaves a tenth to the teacher.",
    "seen in public code: in some projects alpha weighs the soft targets, in others the labels",
)
def alpha_reversed(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    soft = soft_target_loss(student, teacher, temperature)
    return alpha * cross_entropy(student, labels) + (1 - alpha) * soft
