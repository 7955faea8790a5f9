"""Specialists: networks for classes that a generalist confuses, combined with it at test time.

Hinton, Vinyals, Dean 2015, section 5: which classes belong together, the data and the initial weights
of a specialist, its dustbin's prior, and the probabilities that agree best with all networks. ``fit``
trains them like any other network.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Integral

import numpy as np
import torch
from torch import Tensor, nn

from kdlib._checks import some_classes, wide
from kdlib.data import Data, Split
from kdlib.seeding import seeded

__all__ = ["clusters", "combine", "dustbin_correction", "specialist_data", "specialist_of"]

TOLERANCE = 1e-9


def clusters(probabilities: Tensor, count: int, seed: int = 0) -> list[list[int]]:
    """Classes that the generalist tends to predict together: K-means on the columns of a covariance.

    Source: section 5.3, which takes the covariance of the generalist's predictions; it needs no labels.
    (The paper uses on-line K-means, we use scikit-learn's.)

    Args:
        probabilities: ``(N, C)``, the generalist's, preferably softened and for images that it was
            not trained on: if it is sure of every image, no two classes vary together, so each
            forms its own cluster.
        count: the number of clusters.
        seed: the seed of K-means.

    Returns:
        Clusters of class numbers, ordered by their lowest; each class is in one cluster.

    Raises:
        ValueError: probabilities has another shape, or count is not between 1 and the number of classes.

    >>> p = torch.tensor([[0.6, 0.4, 0, 0], [0.4, 0.6, 0, 0], [0, 0, 0.6, 0.4], [0, 0, 0.4, 0.6]])
    >>> clusters(p, 2)
    [[0, 1], [2, 3]]
    """
    from sklearn.cluster import KMeans

    if probabilities.ndim != 2 or len(probabilities) < 2:
        raise ValueError(
            f"probabilities must be (N, C) with N > 1, got shape {tuple(probabilities.shape)}"
        )
    classes = probabilities.shape[1]
    if not isinstance(count, Integral) or not 1 <= count <= classes:
        raise ValueError(f"count must be a whole number from 1 to {classes}, got {count!r}")
    covariance = np.cov(probabilities.detach().double().cpu().numpy(), rowvar=False)  # (C, C)
    places = KMeans(int(count), n_init=10, random_state=int(seed)).fit_predict(covariance)
    found = [np.flatnonzero(places == place).tolist() for place in np.unique(places)]
    return sorted(found)


def specialist_data(data: Data, classes: Iterable[int], seed: int = 0) -> Data:
    """The data for a specialist: all training images of ``classes``, and as many others at random.

    A label is the position in ``classes``; all other classes form the dustbin, the last label. Half of
    the training examples come from ``classes`` (section 5.1), or more if there are too few others.
    Validation and test keep all their images.

    Raises:
        TypeError: the training split is a text.
        ValueError: classes is empty, holds every class, names one twice or holds something that is not
            a class number; or data has no labels, no images of classes or no others.
    """
    classes = some_classes(classes, len(data.classes), once=True)
    if not isinstance(data.train, Split):
        raise TypeError(f"data must have samples to choose from, got {data.train!r}")
    if not data.train.labelled:
        raise ValueError("data must have labels to train a specialist on, and it has none")
    mine = torch.isin(data.train.labels, torch.tensor(classes, device=data.train.device))
    rest = (~mine).nonzero().squeeze(-1)
    if not 0 < len(rest) < len(mine):
        raise ValueError(f"data must have images of classes {classes} and of others to train on")
    draws = torch.Generator().manual_seed(int(seed))
    chosen = torch.randperm(len(rest), generator=draws)[: int(mine.sum())].to(rest.device)
    rows = torch.cat([mine.nonzero().squeeze(-1), rest[chosen]]).sort().values
    places = torch.full((len(data.classes),), len(classes), device=rest.device)
    places[classes] = torch.arange(len(classes), device=rest.device)

    def of(split):
        if split is None or not split.labelled:
            return split
        return replace(split, labels=places[split.labels])

    return replace(
        data,
        train=of(data.train.select(rows)),
        validation=of(data.validation),
        test=of(data.test),
        classes=(*(data.classes[k] for k in classes), "dustbin"),
    )


def specialist_of(generalist: nn.Module, classes: Sequence[int]) -> nn.Module:
    """A copy of the generalist with outputs for ``classes`` and a dustbin, ready for training.

    Its last Linear layer keeps the rows of ``classes``. The dustbin starts as the mean of the other
    rows, with the logarithm of their number added to its bias, as if these classes were equal. Source:
    section 5.1.

    Raises:
        TypeError: the network does not end in a Linear layer.
        ValueError: classes is invalid, as in :func:`specialist_data`.
    """
    name, head = [(n, m) for n, m in generalist.named_modules() if not list(m.children())][-1]
    if not isinstance(head, nn.Linear):
        raise TypeError(f"generalist must end in a Linear layer, got {type(head).__name__}")
    classes = some_classes(classes, head.out_features, once=True)
    others = [k for k in range(head.out_features) if k not in classes]
    with seeded(0):  # the new layer's random weights are overwritten below
        ours = nn.Linear(head.in_features, len(classes) + 1, bias=head.bias is not None)
    ours = ours.to(head.weight)
    with torch.no_grad():
        ours.weight.copy_(torch.cat([head.weight[classes], head.weight[others].mean(0)[None]]))
        if head.bias is not None:
            dustbin = head.bias[others].mean() + math.log(len(others))
            ours.bias.copy_(torch.cat([head.bias[classes], dustbin[None]]))
    if not name:  # the network is this one layer
        return ours
    specialist = copy.deepcopy(generalist)
    parent, _, last = name.rpartition(".")
    setattr(specialist.get_submodule(parent), last, ours)
    return specialist


def dustbin_correction(data: Data, special: Data) -> float:
    """The number to add to the dustbin's logit because the specialist saw its classes too often.

    ``log(s / (1 - s)) - log(r / (1 - r))`` with s the share of the special classes in the specialist's
    training set and r their natural share: Bayes' rule for the changed prior. Equivalently, it is the
    logarithm of the number of other images divided by the number that the specialist saw. If half of
    its images are special, it is ``log((1 - r) / r)``; section 5.1 has "the log of the proportion by
    which the specialist class is oversampled".

    Args:
        data: the data with all classes at their natural frequency.
        special: the specialist's data, from :func:`specialist_data`.
    """
    mine = int((special.train.labels < len(special.classes) - 1).sum())
    return math.log((len(data.train) - mine) / (len(special.train) - mine))


def combine(
    generalist: Tensor,
    specialists: Sequence[tuple[Sequence[int], Tensor]],
) -> Tensor:
    """The probabilities q that agree best with the generalist and with the specialists it calls.

    ``argmin over q of KL(p_g || q) + sum over the called m of KL(p_m || q)``: eq. 5. Each p_m is
    compared with q's probabilities of its classes and, for the dustbin, with q's sum over all others.
    A specialist is called for an image if the generalist's best class is one of its own (the paper's
    n = 1). If none is called, q is the generalist's.

    The paper uses gradient descent. Here each step splits every dustbin's probability among its classes
    in proportion to the present q and averages over all networks. This is the EM algorithm, so the sum
    never rises; it stops when no probability changes by more than 1e-9.

    Args:
        generalist: the generalist's logits, ``(N, C)``.
        specialists: each one's classes and logits ``(N, classes + 1)``, the dustbin last and its prior
            corrected (:func:`dustbin_correction`).

    Returns:
        ``(N, C)``, in float64.

    Raises:
        TypeError, ValueError: an argument is not floating-point logits, or the shapes do not match.

    >>> z = torch.tensor([[2.0, 2.0, 0.0]])  # the generalist cannot tell 0 from 1
    >>> combine(z, [([0, 1], torch.tensor([[3.0, 0.0, 0.0]]))]).argmax().item()
    0
    """
    log_p = _log_probabilities("generalist", generalist)  # (N, C)
    p_g, count = log_p.exp(), log_p.shape[1]
    called, said, inside = [], [], []  # (N, 1) bool; (N, C) and (N, 1); (C,) bool
    for classes, logits in specialists:
        classes = some_classes(classes, count, once=True)
        if logits.shape != (len(p_g), len(classes) + 1):
            raise ValueError(
                f"a specialist's logits must be {(len(p_g), len(classes) + 1)}: a row for each image, a "
                f"column for each class and the dustbin, got {tuple(logits.shape)}"
            )
        p_m = _log_probabilities("specialist", logits).exp()  # (N, classes + 1)
        mask = torch.zeros(count, dtype=torch.bool, device=p_g.device)
        mask[classes] = True
        own = torch.zeros_like(p_g)  # (N, C)
        own[:, classes] = p_m[:, :-1]
        called.append(mask[p_g.argmax(-1)].unsqueeze(-1))  # (N, 1)
        said.append((own, p_m[:, -1:]))
        inside.append(mask)
    voices = 1 + sum((c.double() for c in called), torch.zeros(len(p_g), 1).to(p_g))
    log_q, change = log_p, math.inf
    while change > TOLERANCE:
        total = p_g.clone()
        for c, (own, dustbin), mask in zip(called, said, inside, strict=True):
            others = log_q.masked_fill(mask, -math.inf).softmax(-1)  # (N, C), as q splits them now
            total += c * (own + dustbin * others)
        new = (total / voices).clamp(min=1e-300).log()
        change, log_q = float((new.exp() - log_q.exp()).abs().max()), new
    return log_q.exp()


def _log_probabilities(name: str, logits: Tensor) -> Tensor:
    log_p = wide(name, logits).double().log_softmax(-1)
    if log_p.ndim != 2:
        raise ValueError(f"{name} must be (N, C), got shape {tuple(logits.shape)}")
    if log_p.isnan().any():
        raise ValueError(f"{name} must be finite, got some that are not")
    return log_p
