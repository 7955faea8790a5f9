"""The formulas of knowledge distillation, as pure functions of tensors, to be held against the papers.

Logits are ``(..., C)``: s the student's, t the teacher's; T is the temperature, p and q are the soft
targets of teacher and student. Labels are ``(...)`` int64; a loss is the mean over all leading dimensions.
Features are ``(N, ...)``, maps ``(N, C, H, W)``; a loss is the mean over the N examples.
Gradients reach the student only: what comes from the teacher is a constant. Everything is computed
in float32 or wider, whatever comes in. Nothing here knows of networks, data or training.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib._checks import (
    alpha_of,
    features_of,
    fraction,
    labels_of,
    maps_of,
    matrices_of,
    no_class,
    pair_of,
    temperature_of,
    weights_of,
    wide,
)
from kdlib._exact import divergence

__all__ = [
    "GradientTerms",
    "cross_entropy",
    "cwtm_loss",
    "cwtm_weights",
    "dkpp_loss",
    "fsp_loss",
    "fsp_matrix",
    "gradient_terms",
    "hint_loss",
    "hinton_loss",
    "hinton_terms",
    "logit_matching_loss",
    "permute_dark_knowledge",
    "soft_target_loss",
    "soften",
]

_NO_LABEL = torch.iinfo(torch.int32).min  # torch's own, -100, would be passed over in silence


def soften(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Soft targets: the softmax of the logits at a temperature.

    ``q_i = exp(z_i / T) / sum_j exp(z_j / T)``

    Source: Hinton, Vinyals, Dean 2015, section 2, eq. 1.

    Args:
        logits: ``(..., C)``, any floating dtype.
        temperature: T > 0, a number or a tensor that broadcasts against the leading dimensions.

    Returns:
        Probabilities ``(..., C)``, float32 or wider.

    Raises:
        TypeError: logits is not a floating-point tensor, or temperature is not a number.
        ValueError: the temperature is not positive and finite, or does not broadcast.

    >>> logits = torch.tensor([4.0, 2.0, 0.0])
    >>> soften(logits)
    tensor([0.8668, 0.1173, 0.0159])
    >>> soften(logits, temperature=4)
    tensor([0.5065, 0.3072, 0.1863])
    """
    z = wide("logits", logits)
    T = temperature_of(temperature, z)
    return torch.softmax(z / T, dim=-1)


def soft_target_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float | Tensor = 1.0,
    *,
    reduction: str = "mean",
) -> Tensor:
    """How far the student's soft targets are from the teacher's, at the same temperature in both.

    ``T^2 * KL(p || q)`` with ``p = softmax(t / T)`` of the teacher's logits t and
    ``q = softmax(s / T)`` of the student's logits s, summed over the C classes. Its gradient with
    respect to s is ``T * (q - p)``: the factor T^2 keeps it the same size when T changes, and for
    T -> infinity it becomes that of :func:`logit_matching_loss`. The value is 0 where both agree.

    Source: Hinton, Vinyals, Dean 2015, section 2 and 2.1, eq. 2 to 4. The paper's cross entropy
    ``-sum_i p_i log q_i`` differs from this divergence by the entropy of p, which no weight of the
    student moves: the gradients are equal.

    Args:
        student: logits ``(..., C)``; gradients reach these.
        teacher: logits ``(..., C)``, a constant.
        temperature: T > 0, a number or a tensor that broadcasts against the leading dimensions.
        reduction: ``"mean"`` over the leading dimensions, or ``"none"`` to keep them.

    Returns:
        A scalar, or ``(...)`` with ``reduction="none"``, in nats, float32 or wider.

    Raises:
        TypeError: student or teacher is not a floating-point tensor, or temperature is not a number.
        ValueError: shapes differ, or the temperature is not positive and finite.

    >>> teacher, student = torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([[3.0, 3.0, 0.0]])
    >>> soft_target_loss(student, teacher)
    tensor(0.3243)
    >>> soft_target_loss(student, teacher, temperature=20)
    tensor(0.3493)
    >>> soft_target_loss(teacher, teacher, temperature=20)
    tensor(0.)
    """
    s, t = pair_of(student, teacher)  # (..., C)
    T = temperature_of(temperature, s)  # a number, or (..., 1)
    # F.kl_div of two log-softmaxes is all rounding where T is large and the divergence small.
    return _reduce((T**2 * divergence(s, t, T)).squeeze(-1), reduction)


def hinton_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float | Tensor,
    alpha: float | Tensor,
    *,
    reduction: str = "mean",
) -> Tensor:
    """What a distilled student minimises: soft targets and labels, weighted.

    ``alpha * T^2 * KL(p || q) + (1 - alpha) * CE(labels, softmax(s))``: the first term as in
    :func:`soft_target_loss`, the second at T = 1 on the same student logits s. The two terms alone are
    :func:`hinton_terms`.

    Source: Hinton, Vinyals, Dean 2015, section 2: a weighted average, with "a considerably lower
    weight" on the labels. The paper prints no formula with alpha; here alpha weighs the soft targets.

    Args:
        student: logits ``(..., C)``; gradients reach these.
        teacher: logits ``(..., C)``, a constant.
        labels: class numbers ``(...)``, int64.
        temperature: T > 0, a number or a tensor that broadcasts against the leading dimensions.
        alpha: weight of the soft targets in [0, 1], a number or a tensor likewise.
        reduction: ``"mean"`` over the leading dimensions, or ``"none"`` to keep them.

    Returns:
        A scalar, or ``(...)`` with ``reduction="none"``, in nats, float32 or wider.

    Raises:
        TypeError: a tensor has the wrong dtype, or temperature or alpha is not a number.
        ValueError: shapes differ, a label is not a class, or temperature or alpha is out of range.

    >>> teacher, student = torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([[3.0, 3.0, 0.0]])
    >>> hinton_loss(student, teacher, torch.tensor([0]), temperature=20, alpha=0.9)
    tensor(0.3862)
    """
    soft, hard = hinton_terms(student, teacher, labels, temperature, alpha)
    return _reduce(soft + hard, reduction)


def hinton_terms(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float | Tensor,
    alpha: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """The two terms of :func:`hinton_loss`, weighted, before the mean.

    ``alpha * T^2 * KL(p || q)`` and ``(1 - alpha) * CE(labels, softmax(s))``. Loss and objective both take
    them from here: nothing else weighs soft against hard, but for protocols that repeat a formula of
    others (``kdlib.reproduce``).

    Source: Hinton, Vinyals, Dean 2015, section 2.

    Args:
        student, teacher, labels, temperature, alpha: as for :func:`hinton_loss`.

    Returns:
        The soft and the hard term, ``(...)`` each, in nats, float32 or wider.

    Raises:
        TypeError, ValueError: as :func:`hinton_loss`.

    >>> teacher, student = torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([[3.0, 3.0, 0.0]])
    >>> hinton_terms(student, teacher, torch.tensor([0]), temperature=20, alpha=0.9)
    (tensor([0.3144]), tensor([0.0718]))
    """
    a = alpha_of(alpha, wide("student", student))  # a number, or (...)
    soft = soft_target_loss(student, teacher, temperature, reduction="none")  # (...)
    hard = cross_entropy(student, labels, reduction="none")  # (...)
    return a * soft, (1 - a) * hard


def logit_matching_loss(student: Tensor, teacher: Tensor, *, reduction: str = "mean") -> Tensor:
    """The squared distance of the logits, each zero-meaned over the classes.

    ``1/2 * mean_i ((s_i - mean s) - (t_i - mean t))^2``, the limit of :func:`soft_target_loss` for
    T -> infinity. Its gradient with respect to s_i is ``((s_i - mean s) - (t_i - mean t)) / C``.

    Source: Hinton, Vinyals, Dean 2015, section 2.1, eq. 4; Ba and Caruana 2014 sum over the classes.

    Args:
        student: logits ``(..., C)``; gradients reach these.
        teacher: logits ``(..., C)``, a constant.
        reduction: ``"mean"`` over the leading dimensions, or ``"none"`` to keep them.

    Returns:
        A scalar, or ``(...)`` with ``reduction="none"``, in squared units of the logits.

    Raises:
        TypeError: student or teacher is not a floating-point tensor.
        ValueError: shapes differ.

    >>> teacher, student = torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([[3.0, 3.0, 0.0]])
    >>> logit_matching_loss(student, teacher)
    tensor(0.3333)
    """
    s, t = pair_of(student, teacher)
    difference = s - t  # (..., C)
    centred = difference - difference.mean(-1, keepdim=True)
    return _reduce(centred.square().mean(-1) / 2, reduction)


def hint_loss(guided: Tensor, hint: Tensor, *, reduction: str = "mean") -> Tensor:
    """How far the student's guided features are from the teacher's hint.

    ``1/2 * ||u - r(v)||^2``, the squared differences summed over all of an example's features: u is the
    hint, and r a regressor that has brought the student's features v to the hint's shape.

    Source: Romero et al. 2015 (FitNets), section 2.2, eq. 3.

    Args:
        guided: r(v), ``(N, ...)``; gradients reach these.
        hint: u, of the same shape, a constant.
        reduction: ``"mean"`` over the N examples, or ``"none"`` to keep them.

    Returns:
        A scalar, or ``(N,)`` with ``reduction="none"``, in squared units of the features.

    Raises:
        TypeError: guided or hint is not a floating-point tensor.
        ValueError: shapes differ.

    >>> hint_loss(torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[1.0, 2.0, 0.0]]))
    tensor(4.)
    """
    guided, hint = features_of(guided, hint)
    return _reduce((guided - hint).square().flatten(1).sum(-1) / 2, reduction)


def fsp_matrix(first: Tensor, second: Tensor) -> Tensor:
    """The flow of solution procedure between two layers: products of their channels.

    ``G_ij = sum_st F1_i,st * F2_j,st / (H * W)`` for each example, summed over the H x W places s, t.
    Where the maps differ in size, the larger is max-pooled to the smaller. Unlike a Gram matrix, it relates
    two layers: rows are channels of the first, columns of the second.

    Source: Yim et al. 2017, section 3.2, eq. 1. Where neither size is a multiple of the other the
    windows of the pool overlap, as those of ``torch.nn.AdaptiveMaxPool2d`` do.

    Args:
        first: ``(N, C1, H1, W1)``.
        second: ``(N, C2, H2, W2)``.

    Returns:
        ``(N, C1, C2)``, float32 or wider; gradients reach both.

    Raises:
        TypeError: first or second is not a floating-point tensor.
        ValueError: they are not maps of the same examples, or neither is the smaller.

    >>> first = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> second = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[2.0, 2.0], [2.0, 2.0]]]])
    >>> fsp_matrix(first, second)
    tensor([[[1.2500, 5.0000]]])
    >>> fsp_matrix(first, torch.ones(1, 1, 1, 1))  # the largest of the four
    tensor([[[4.]]])
    """
    first, second = maps_of(first, second)
    size = min(first.shape[2:], second.shape[2:])
    f1, f2 = (x if x.shape[2:] == size else F.adaptive_max_pool2d(x, size) for x in (first, second))
    with _not_narrowed(f1):
        return f1.flatten(2) @ f2.flatten(2).mT / (size[0] * size[1])  # (N, C1, C2)


def fsp_loss(
    student_matrices: Sequence[Tensor],
    teacher_matrices: Sequence[Tensor],
    weights: Sequence[float] | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """How far the student's FSP matrices are from the teacher's.

    ``sum_i weight_i * ||G_i^T - G_i^S||^2`` for each example, over the pairs of layers i: the squared
    Frobenius norm, so all entries' squares are summed.

    Source: Yim et al. 2017, section 3.3, eq. 2; the paper's weights are equal, of a value it does not
    print.

    Args:
        student_matrices: ``(N, C1, C2)`` for each pair of layers, from :func:`fsp_matrix`; pairs may
            differ in their channels. Gradients reach these.
        teacher_matrices: of the same shapes, constants.
        weights: one number for each pair, at least 0; 1 each if not given.
        reduction: ``"mean"`` over the N examples, or ``"none"`` to keep them.

    Returns:
        A scalar, or ``(N,)`` with ``reduction="none"``, in the features' units to the fourth power.

    Raises:
        TypeError: matrices are not lists of floating-point tensors, or a weight is not a number.
        ValueError: lengths or shapes differ, or a weight is negative or not finite.

    >>> student, teacher = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[1.0, 4.0]]])
    >>> fsp_loss([student, student], [teacher, student])
    tensor(4.)
    >>> fsp_loss([student], [teacher], weights=[0.5])
    tensor(2.)
    """
    pairs = matrices_of(student_matrices, teacher_matrices)
    weights = weights_of(weights, len(pairs))
    distances = [(s - t).square().sum((1, 2)) for s, t in pairs]  # (N,) each
    return _reduce(sum(w * d for w, d in zip(weights, distances, strict=True)), reduction)


class GradientTerms(NamedTuple):
    """The two parts of a gradient with respect to the student's logits, ``(..., C)`` each, per example.

    Attributes:
        truth: on the labelled class, zero elsewhere.
        dark: on all other classes, zero there.
    """

    truth: Tensor
    dark: Tensor


def gradient_terms(student: Tensor, teacher: Tensor, labels: Tensor) -> GradientTerms:
    """Split the gradient of soft targets at T = 1 into its ground-truth and dark-knowledge parts.

    ``q_* - p_*`` on the labelled class, ``q_i - p_i`` on the others, with ``q = softmax(s)`` of the
    student's logits and ``p = softmax(t)`` of the teacher's. Their sum is the gradient with respect to s
    of :func:`soft_target_loss` at T = 1, before the mean over examples.

    Source: Furlanello et al. 2018, section 3.2, eq. 7.

    Args:
        student, teacher: logits ``(..., C)``; nothing here has a gradient of its own.
        labels: class numbers ``(...)``, int64.

    Raises:
        TypeError: a tensor has the wrong dtype.
        ValueError: shapes differ, or on a CPU a label is not a class.

    >>> teacher, student = torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([[3.0, 3.0, 0.0]])
    >>> terms = gradient_terms(student, teacher, torch.tensor([0]))
    >>> terms.truth
    tensor([[-0.3790,  0.0000,  0.0000]])
    >>> terms.dark
    tensor([[0.0000, 0.3705, 0.0084]])
    """
    s, t = pair_of(student, teacher)
    labels = labels_of(labels, s)
    gradient = torch.softmax(s.detach(), -1) - torch.softmax(t, -1)  # (..., C)
    try:
        labelled = torch.zeros_like(s, dtype=torch.bool).scatter(-1, labels.unsqueeze(-1), True)
    except RuntimeError as error:  # torch looks at every label on a CPU, and nowhere else
        raise no_class(labels, s) from error
    zero = torch.zeros_like(gradient)
    return GradientTerms(
        torch.where(labelled, gradient, zero), torch.where(labelled, zero, gradient)
    )


def cwtm_weights(teacher: Tensor) -> Tensor:
    """How sure the teacher is of each example, as shares of the batch.

    ``w_n = max_i p_n,i / sum_m max_i p_m,i`` with ``p = softmax(t)``, whether the teacher is right or
    not. They sum to 1 over the batch.

    Source: Furlanello et al. 2018, section 3.2, eq. 10 (confidence weighted by teacher max).

    Args:
        teacher: logits ``(..., C)``; all leading dimensions are the batch.

    Returns:
        ``(...)``, float32 or wider, a constant.

    Raises:
        TypeError: teacher is not a floating-point tensor.

    >>> cwtm_weights(torch.tensor([[4.0, 2.0, 0.0], [0.0, 0.0, 0.0]]))
    tensor([0.7223, 0.2777])
    """
    surest = torch.softmax(wide("teacher", teacher).detach(), -1).amax(-1)  # (...)
    return surest / surest.sum()


def cwtm_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """The labels' cross entropy, each example weighted by how sure the teacher is of it.

    ``sum_n w_n * CE(y_n, softmax(s_n))`` with the weights of :func:`cwtm_weights`: the teacher decides
    which examples count, and adds nothing about the other classes.

    Source: Furlanello et al. 2018, section 3.2, eq. 10 (confidence weighted by teacher max).

    Args:
        student: logits ``(..., C)``; gradients reach these.
        teacher: logits ``(..., C)``, a constant.
        labels: class numbers ``(...)``, int64.

    Returns:
        A scalar, in nats, float32 or wider.

    Raises:
        TypeError: a tensor has the wrong dtype.
        ValueError: shapes differ, or on a CPU a label is not a class.

    >>> student = torch.tensor([[3.0, 3.0, 0.0], [1.0, 0.0, 0.0]])
    >>> teacher = torch.tensor([[4.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    >>> cwtm_loss(student, teacher, torch.tensor([0, 0]))
    tensor(0.6715)
    """
    s, t = pair_of(student, teacher)
    return (cwtm_weights(t) * cross_entropy(s, labels, reduction="none")).sum()


def permute_dark_knowledge(teacher: Tensor, generator: torch.Generator) -> Tensor:
    """Each row with its largest entry in its place, and all others in a random order.

    The row keeps its entries, hence maximum, entropy and sum; which class resembles which is lost.
    Each row has an order of its own.

    Source: Furlanello et al. 2018, section 3.2, eq. 11 (dark knowledge with permuted predictions). The
    paper does not say how long an order is kept; here each call draws new ones.

    Args:
        teacher: logits or probabilities ``(..., C)``.
        generator: what the orders are drawn from.

    Returns:
        ``(..., C)``, float32 or wider, a constant.

    Raises:
        TypeError: teacher is not a floating-point tensor, or generator is not a torch.Generator.

    >>> row = torch.tensor([1.0, 4.0, 2.0, 3.0])
    >>> permute_dark_knowledge(row, torch.Generator().manual_seed(0))
    tensor([2., 4., 3., 1.])
    """
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    t = wide("teacher", teacher).detach()  # (..., C)
    largest = t.argmax(-1, keepdim=True)  # (..., 1)
    draws = torch.rand(t.shape, generator=generator, device=generator.device).to(t.device)
    order = draws.scatter(-1, largest, 2.0).argsort(-1)  # the others at random, the largest last
    places = torch.zeros_like(draws).scatter(-1, largest, 1.0).argsort(dim=-1, stable=True)
    return t.scatter(-1, places, t.gather(-1, order))


def dkpp_loss(student: Tensor, teacher: Tensor, generator: torch.Generator) -> Tensor:
    """The cross entropy with the teacher's soft targets at T = 1, all but the largest permuted.

    ``-sum_i p'_i log softmax(s)_i``, the mean over examples, with p' by
    :func:`permute_dark_knowledge`: no labels, and no knowledge of what resembles what.

    Source: Furlanello et al. 2018, section 3.2, eq. 11 (dark knowledge with permuted predictions).

    Args:
        student: logits ``(..., C)``; gradients reach these.
        teacher: logits ``(..., C)``, a constant.
        generator: what the orders are drawn from.

    Returns:
        A scalar, in nats, float32 or wider.

    Raises:
        TypeError: student or teacher is not a floating-point tensor, or generator is not a torch.Generator.
        ValueError: shapes differ.

    >>> teacher, student = torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([[3.0, 3.0, 0.0]])
    >>> dkpp_loss(student, teacher, torch.Generator().manual_seed(0))
    tensor(0.7707)
    """
    s, t = pair_of(student, teacher)
    targets = torch.softmax(permute_dark_knowledge(t, generator), -1)  # (..., C)
    return -(targets * torch.log_softmax(s, -1)).sum(-1).mean()


def cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """The cross entropy with the labels at T = 1, under the checks that every loss here makes.

    ``-sum_i y_i log softmax(z)_i`` with ``y`` one-hot, or ``(1 - e) * one-hot + e / C`` smoothed.

    Args:
        logits: ``(..., C)``.
        labels: class numbers ``(...)``, int64.
        label_smoothing: e in [0, 1].
        reduction: ``"mean"`` over the leading dimensions, or ``"none"`` to keep them.

    Raises:
        TypeError: logits or labels have the wrong dtype.
        ValueError: shapes differ, a label is not a class, or label_smoothing is out of range.

    >>> cross_entropy(torch.tensor([[3.0, 3.0, 0.0]]), torch.tensor([0]))
    tensor(0.7177)
    """
    z = wide("logits", logits)
    labels = labels_of(labels, z)
    fraction("label_smoothing", label_smoothing, "0 leaves the labels as they are")
    try:
        loss = F.cross_entropy(
            z.reshape(-1, z.shape[-1]),
            labels.reshape(-1),
            ignore_index=_NO_LABEL,
            label_smoothing=label_smoothing,
            reduction="none",
        )
    except IndexError as error:  # torch looks at every label on a CPU, and nowhere else
        raise no_class(labels, z) from error
    return _reduce(loss.reshape(labels.shape), reduction)


def _not_narrowed(tensor: Tensor):
    """Products keep their operands' dtype, also within a caller's autocast."""
    kind = tensor.device.type
    return (
        torch.autocast(kind, enabled=False)
        if torch.amp.is_autocast_available(kind)
        else nullcontext()
    )


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return loss.mean()
    if reduction == "none":
        return loss
    raise ValueError(f'reduction must be "mean" or "none", got {reduction!r}')
