"""The formulas of knowledge distillation as pure functions of tensors, written to be compared with the papers.

Notation: s and t are the logits of student and teacher, ``(..., C)``; T is the temperature;
``q = softmax(s / T)`` and ``p = softmax(t / T)`` are the soft targets of student and teacher; y are the
labels, ``(...)`` int64; alpha is the weight of the soft targets. There are at least two classes. Features
are ``(N, ...)``, feature maps ``(N, C, H, W)``. A loss is the mean over all leading dimensions; for
features, over the N examples. Gradients reach the student only: the teacher's tensors are constants.
Everything is computed in float32 or wider, whatever the dtype of the arguments. Nothing here knows about
networks, data or training.
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
    several_classes,
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

_NO_LABEL = torch.iinfo(torch.int32).min  # torch's default would silently skip labels of -100


def soften(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Soft targets: the softmax of logits z at a temperature T.

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
    z = wide("logits", logits)  # (..., C)
    T = temperature_of(temperature, z)  # a number, or (..., 1)
    return torch.softmax(z / T, dim=-1)  # (..., C)


def soft_target_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float | Tensor = 1.0,
    *,
    reduction: str = "mean",
) -> Tensor:
    """The divergence of the student's soft targets from the teacher's, both at the same temperature.

    ``T^2 * KL(p || q)`` with ``p = softmax(t / T)`` of the teacher's logits t and
    ``q = softmax(s / T)`` of the student's logits s, summed over the C classes. The gradient with
    respect to s is ``T * (q - p)`` for each example: the factor T^2 keeps its size comparable as T
    changes, and as T -> infinity it tends to the gradient of :func:`logit_matching_loss`. The loss is 0
    where p = q.

    Source: Hinton, Vinyals, Dean 2015, sections 2 and 2.1, eq. 2 to 4. The paper's cross entropy
    ``-sum_i p_i log q_i`` differs from this divergence by the entropy of p, which does not depend on the
    student: the gradients are equal.

    Args:
        student: logits ``(..., C)``; gradients reach these.
        teacher: logits ``(..., C)``, a constant.
        temperature: T > 0, a number or a tensor that broadcasts against the leading dimensions.
        reduction: ``"mean"`` over the leading dimensions, or ``"none"`` to keep them.

    Returns:
        A scalar, or ``(...)`` with ``reduction="none"``, in nats, float32 or wider.

    Raises:
        TypeError: student or teacher is not a floating-point tensor, or temperature is not a number.
        ValueError: shapes differ, there is one class, or the temperature is not positive and finite.

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
    # F.kl_div of two log-softmaxes would be mostly rounding error where T is large and p close to q.
    return _reduce((T**2 * divergence(s, t, T)).squeeze(-1), reduction)  # divergence: (..., 1)


def hinton_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float | Tensor,
    alpha: float | Tensor,
    *,
    reduction: str = "mean",
) -> Tensor:
    """The distillation loss: the soft-target loss and the cross entropy with the labels, weighted.

    ``alpha * T^2 * KL(p || q) + (1 - alpha) * CE(y, softmax(s))``: the first term is
    :func:`soft_target_loss`; the second uses the same student logits s at T = 1. :func:`hinton_terms`
    returns the two terms separately.

    Source: Hinton, Vinyals, Dean 2015, section 2: a weighted average, with "a considerably lower
    weight" on the labels. The paper prints no formula with alpha; here alpha weighs the soft targets.

    Args:
        student: logits ``(..., C)``; gradients reach these.
        teacher: logits ``(..., C)``, a constant.
        labels: class numbers ``(...)``, int64.
        temperature: T > 0, a number or a tensor that broadcasts against the leading dimensions.
        alpha: weight of the soft targets in [0, 1], a number or such a tensor.
        reduction: ``"mean"`` over the leading dimensions, or ``"none"`` to keep them.

    Returns:
        A scalar, or ``(...)`` with ``reduction="none"``, in nats, float32 or wider.

    Raises:
        TypeError: a tensor has the wrong dtype, or temperature or alpha is not a number.
        ValueError: shapes differ, there is one class, a label is not a class, or temperature or alpha is out
            of range.

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
    """The two weighted terms of :func:`hinton_loss`, before the mean.

    ``alpha * T^2 * KL(p || q)`` and ``(1 - alpha) * CE(y, softmax(s))``. Both :func:`hinton_loss`
    and :class:`kdlib.SoftTargets` take their terms from here; the only exceptions are protocols in
    ``kdlib.reproduce`` that follow another author's weighting.

    Source: Hinton, Vinyals, Dean 2015, section 2.

    Args:
        student, teacher, labels, temperature, alpha: as for :func:`hinton_loss`.

    Returns:
        The soft and the hard term, ``(...)`` each, in nats, float32 or wider.

    Raises:
        TypeError, ValueError: as for :func:`hinton_loss`.

    >>> teacher, student = torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([[3.0, 3.0, 0.0]])
    >>> hinton_terms(student, teacher, torch.tensor([0]), temperature=20, alpha=0.9)
    (tensor([0.3144]), tensor([0.0718]))
    """
    a = alpha_of(alpha, wide("student", student))  # a number, or (...)
    soft = soft_target_loss(student, teacher, temperature, reduction="none")  # (...)
    hard = cross_entropy(student, labels, reduction="none")  # (...)
    return a * soft, (1 - a) * hard


def logit_matching_loss(student: Tensor, teacher: Tensor, *, reduction: str = "mean") -> Tensor:
    """Half the mean squared difference of the logits, both zero-meaned over the classes.

    ``1/2 * mean_i ((s_i - mean s) - (t_i - mean t))^2``, the limit of :func:`soft_target_loss` as
    T -> infinity. The gradient with respect to s_i is ``((s_i - mean s) - (t_i - mean t)) / C``.

    Source: Hinton, Vinyals, Dean 2015, section 2.1, eq. 4. Ba and Caruana 2014 sum over the classes
    instead of taking the mean.

    Args:
        student: logits ``(..., C)``; gradients reach these.
        teacher: logits ``(..., C)``, a constant.
        reduction: ``"mean"`` over the leading dimensions, or ``"none"`` to keep them.

    Returns:
        A scalar, or ``(...)`` with ``reduction="none"``, in squared units of the logits.

    Raises:
        TypeError: student or teacher is not a floating-point tensor.
        ValueError: shapes differ, or there is one class.

    >>> teacher, student = torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([[3.0, 3.0, 0.0]])
    >>> logit_matching_loss(student, teacher)
    tensor(0.3333)
    """
    s, t = pair_of(student, teacher)  # (..., C)
    difference = s - t  # (..., C)
    centred = difference - difference.mean(-1, keepdim=True)  # (..., C)
    return _reduce(centred.square().mean(-1) / 2, reduction)


def hint_loss(guided: Tensor, hint: Tensor, *, reduction: str = "mean") -> Tensor:
    """Half the squared distance between the student's guided features and the teacher's hint.

    ``1/2 * ||u - r(v)||^2`` for each example, summed over all its features: u is the hint, v are the
    student's guided features, and r is a regressor that maps v to the shape of u.

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
    guided, hint = features_of(guided, hint)  # (N, ...)
    return _reduce((guided - hint).square().flatten(1).sum(-1) / 2, reduction)


def fsp_matrix(first: Tensor, second: Tensor) -> Tensor:
    """The FSP matrix (flow of solution procedure) of two layers: inner products of their channels.

    ``G_ij = sum_hw F1_i,hw * F2_j,hw / (H * W)`` for each example, summed over the H x W positions. Where
    the maps differ in size, the larger is max-pooled to the size of the smaller. Unlike a Gram matrix, G
    relates two layers: its rows are the channels of the first, its columns those of the second.

    Source: Yim et al. 2017, section 3.2, eq. 1. Where the larger size is not a multiple of the smaller,
    the pooling windows overlap, as in ``torch.nn.AdaptiveMaxPool2d``.

    Args:
        first: ``(N, C1, H1, W1)``.
        second: ``(N, C2, H2, W2)``.

    Returns:
        ``(N, C1, C2)``, float32 or wider; gradients reach both.

    Raises:
        TypeError: first or second is not a floating-point tensor.
        ValueError: they are not maps of the same examples, or one is taller and the other wider.

    >>> first = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> second = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[2.0, 2.0], [2.0, 2.0]]]])
    >>> fsp_matrix(first, second)
    tensor([[[1.2500, 5.0000]]])
    >>> fsp_matrix(first, torch.ones(1, 1, 1, 1))  # the largest of the four
    tensor([[[4.]]])
    """
    first, second = maps_of(first, second)
    size = min(first.shape[2:], second.shape[2:])  # H, W
    # (N, C1, H, W) and (N, C2, H, W)
    f1, f2 = (x if x.shape[2:] == size else F.adaptive_max_pool2d(x, size) for x in (first, second))
    with _without_autocast(f1.device.type):
        return f1.flatten(2) @ f2.flatten(2).mT / (size[0] * size[1])  # (N, C1, C2)


def fsp_loss(
    student_matrices: Sequence[Tensor],
    teacher_matrices: Sequence[Tensor],
    weights: Sequence[float] | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """The weighted sum of squared distances between the student's FSP matrices and the teacher's.

    ``sum_k weight_k * ||G_k^T - G_k^S||^2`` for each example, over the pairs of layers k; T and S mark
    teacher and student, and the norm is the Frobenius norm: the squares of all entries are summed.

    Source: Yim et al. 2017, section 3.3, eq. 2. The paper's weights are all equal; it does not print
    their value.

    Args:
        student_matrices: ``(N, C1, C2)`` for each pair of layers, from :func:`fsp_matrix`; C1 and C2 may
            differ from pair to pair. Gradients reach these.
        teacher_matrices: of the same shapes, constants.
        weights: one number per pair, at least 0; all 1 by default.
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
    pairs = matrices_of(student_matrices, teacher_matrices)  # (N, C1, C2) each
    weights = weights_of(weights, len(pairs))
    distances = [(s - t).square().sum((1, 2)) for s, t in pairs]  # (N,) each
    return _reduce(sum(w * d for w, d in zip(weights, distances, strict=True)), reduction)


class GradientTerms(NamedTuple):
    """The two parts of a gradient with respect to the student's logits, ``(..., C)`` each.

    Attributes:
        truth: the gradient on the labelled class, 0 on all others.
        dark: the gradient on all other classes, 0 on the labelled one.
    """

    truth: Tensor
    dark: Tensor


def gradient_terms(student: Tensor, teacher: Tensor, labels: Tensor) -> GradientTerms:
    """Split the gradient of soft targets at T = 1 into its ground-truth and dark-knowledge parts.

    ``q_y - p_y`` on the labelled class y and ``q_i - p_i`` on each other class i, with ``q = softmax(s)``
    of the student's logits and ``p = softmax(t)`` of the teacher's. Their sum is the gradient with respect
    to s of :func:`soft_target_loss` at T = 1, before the mean over examples.

    Source: Furlanello et al. 2018, section 3.2, eq. 7.

    Args:
        student, teacher: logits ``(..., C)``; both are treated as constants.
        labels: class numbers ``(...)``, int64.

    Raises:
        TypeError: a tensor has the wrong dtype.
        ValueError: shapes differ, there is one class, or on a CPU a label is not a class.

    >>> teacher, student = torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([[3.0, 3.0, 0.0]])
    >>> terms = gradient_terms(student, teacher, torch.tensor([0]))
    >>> terms.truth
    tensor([[-0.3790,  0.0000,  0.0000]])
    >>> terms.dark
    tensor([[0.0000, 0.3705, 0.0084]])
    """
    s, t = pair_of(student, teacher)  # (..., C)
    labels = labels_of(labels, s)  # (...)
    gradient = torch.softmax(s.detach(), -1) - torch.softmax(t, -1)  # (..., C)
    try:
        labelled = torch.zeros_like(s, dtype=torch.bool).scatter(-1, labels.unsqueeze(-1), True)
    except RuntimeError as error:  # torch checks the range of the labels on a CPU only
        raise no_class(labels, s) from error
    zero = torch.zeros_like(gradient)  # (..., C)
    return GradientTerms(
        torch.where(labelled, gradient, zero), torch.where(labelled, zero, gradient)
    )


def cwtm_weights(teacher: Tensor) -> Tensor:
    """The teacher's confidence in each example, as a share of the batch's total.

    ``w_n = max_i p_n,i / sum_m max_i p_m,i`` with ``p = softmax(t)``, whether or not the teacher is right.
    The weights sum to 1 over the batch.

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
    confidence = torch.softmax(wide("teacher", teacher).detach(), -1).amax(-1)  # (...)
    return confidence / confidence.sum()  # (...)


def cwtm_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy with the labels, each example weighted by the teacher's confidence in it.

    ``sum_n w_n * CE(y_n, softmax(s_n))`` with the weights of :func:`cwtm_weights`: the teacher decides how
    much each example counts, but reveals nothing about the other classes.

    Source: Furlanello et al. 2018, section 3.2, eq. 10 (confidence weighted by teacher max).

    Args:
        student: logits ``(..., C)``; gradients reach these.
        teacher: logits ``(..., C)``, a constant.
        labels: class numbers ``(...)``, int64.

    Returns:
        A scalar, in nats, float32 or wider.

    Raises:
        TypeError: a tensor has the wrong dtype.
        ValueError: shapes differ, there is one class, or on a CPU a label is not a class.

    >>> student = torch.tensor([[3.0, 3.0, 0.0], [1.0, 0.0, 0.0]])
    >>> teacher = torch.tensor([[4.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    >>> cwtm_loss(student, teacher, torch.tensor([0, 0]))
    tensor(0.6715)
    """
    s, t = pair_of(student, teacher)  # (..., C)
    return (cwtm_weights(t) * cross_entropy(s, labels, reduction="none")).sum()


def permute_dark_knowledge(teacher: Tensor, generator: torch.Generator) -> Tensor:
    """Permute the entries of each row at random, except the largest, which stays in its place.

    A row keeps its entries and hence its maximum, sum and entropy, but no longer shows which classes
    resemble each other. Every row gets a permutation of its own.

    Source: Furlanello et al. 2018, section 3.2, eq. 11 (dark knowledge with permuted predictions). The
    paper does not say how long a permutation is kept; here each call draws new ones.

    Args:
        teacher: logits or probabilities ``(..., C)``.
        generator: draws the permutations.

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
    order = draws.scatter(-1, largest, 2.0).argsort(-1)  # (..., C), random, but the largest last
    places = torch.zeros_like(draws).scatter(-1, largest, 1.0).argsort(dim=-1, stable=True)
    return t.scatter(-1, places, t.gather(-1, order))  # (..., C)


def dkpp_loss(student: Tensor, teacher: Tensor, generator: torch.Generator) -> Tensor:
    """The cross entropy with the teacher's soft targets at T = 1, all but the largest permuted.

    ``-sum_i p'_i log softmax(s)_i``, averaged over the examples; p' is ``softmax(t)`` permuted by
    :func:`permute_dark_knowledge`. It uses no labels and reveals nothing about which classes resemble
    each other.

    Source: Furlanello et al. 2018, section 3.2, eq. 11 (dark knowledge with permuted predictions).

    Args:
        student: logits ``(..., C)``; gradients reach these.
        teacher: logits ``(..., C)``, a constant.
        generator: draws the permutations.

    Returns:
        A scalar, in nats, float32 or wider.

    Raises:
        TypeError: student or teacher is not a floating-point tensor, or generator is not a torch.Generator.
        ValueError: shapes differ, or there is one class.

    >>> teacher, student = torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([[3.0, 3.0, 0.0]])
    >>> dkpp_loss(student, teacher, torch.Generator().manual_seed(0))
    tensor(0.7707)
    """
    s, t = pair_of(student, teacher)  # (..., C)
    targets = torch.softmax(permute_dark_knowledge(t, generator), -1)  # (..., C)
    return -(targets * torch.log_softmax(s, -1)).sum(-1).mean()


def cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """The cross entropy with the labels at T = 1, with the same checks as every loss here.

    ``-sum_i y_i log softmax(s)_i`` with y one-hot, or smoothed to ``(1 - e) * one-hot + e / C``.

    Args:
        logits: the student's logits s, ``(..., C)``; gradients reach these.
        labels: class numbers ``(...)``, int64.
        label_smoothing: e in [0, 1].
        reduction: ``"mean"`` over the leading dimensions, or ``"none"`` to keep them.

    Raises:
        TypeError: logits or labels have the wrong dtype.
        ValueError: shapes differ, there is one class, a label is not a class, or label_smoothing is out of
            range.

    >>> cross_entropy(torch.tensor([[3.0, 3.0, 0.0]]), torch.tensor([0]))
    tensor(0.7177)
    """
    s = several_classes("logits", wide("logits", logits))  # (..., C)
    labels = labels_of(labels, s)  # (...)
    fraction("label_smoothing", label_smoothing, "0 leaves the labels as they are")
    try:
        loss = F.cross_entropy(
            s.reshape(-1, s.shape[-1]),
            labels.reshape(-1),
            ignore_index=_NO_LABEL,
            label_smoothing=label_smoothing,
            reduction="none",
        )
    except IndexError as error:  # torch checks the range of the labels on a CPU only
        raise no_class(labels, s) from error
    return _reduce(loss.reshape(labels.shape), reduction)


def _without_autocast(device: str):
    """A context in which products keep the dtype of their factors, even within a caller's autocast."""
    available = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if available else nullcontext()


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return loss.mean()
    if reduction == "none":
        return loss
    raise ValueError(f'reduction must be "mean" or "none", got {reduction!r}')
