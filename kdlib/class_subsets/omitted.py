"""Bias corrections for classes that are missing from the transfer set.

A student that never saw an example of some classes knows them from soft targets alone and predicts
them too rarely. One number, added to the biases of these classes, corrects that (Hinton, Vinyals,
Dean 2015, section 3). Nothing here trains.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from kdlib._checks import labels_of, no_class, real, some_classes, wide

__all__ = ["bias_by_errors", "bias_by_mass"]


def bias_by_errors(logits: Tensor, labels: Tensor, classes: int | Iterable[int]) -> float:
    """The number that, added to the logits of ``classes``, gives the fewest errors.

    ``argmin over b of sum_n [argmax_c (z_nc + b * [c in classes]) != y_n]``, exactly: an example
    changes sides where b passes the margin between its best other class and its best class among
    ``classes``. Of the intervals between margins that have the fewest errors, the widest is chosen
    and its middle returned.

    Args:
        logits: ``(N, C)``, for images that the student was not trained on.
        labels: ``(N,)`` int64; some must be in ``classes`` and some not.
        classes: one class or several; not all.

    Raises:
        TypeError, ValueError: an argument has the wrong type or shape; ``classes`` is empty or holds
            every class; or all labels are inside ``classes``, or all outside.

    >>> z = torch.tensor([[2.0, 0.0], [3.0, 1.0], [5.0, 1.0]])
    >>> bias_by_errors(z, torch.tensor([1, 1, 0]), classes=1)
    3.0
    """
    z, chosen = _checked(logits, classes)
    y = labels_of(labels, logits).to(z.device)
    if int(y.min()) < 0 or int(y.max()) >= len(chosen):
        raise no_class(y, z)
    of_chosen = chosen[y]
    if of_chosen.all() or not of_chosen.any():
        raise ValueError(
            "labels must have examples of classes and of others, got "
            f"{'only' if of_chosen.all() else 'none'} of {_names(chosen)}"
        )
    inside, outside = (z.masked_fill(mask, -torch.inf).max(-1) for mask in (~chosen, chosen))
    # Above its own margin an example changes sides.
    margins, order = (outside.values - inside.values).sort()
    change = (outside.indices == y).long() - (inside.indices == y).long()
    errors = torch.cat([change.new_zeros(1), change[order].cumsum(0)])  # (N + 1,), up to a constant
    ends = torch.cat([margins[:1] - 1, margins, margins[-1:] + 1])
    width = ends.diff()
    width = width.masked_fill(errors > errors[width > 0].min(), 0)
    best = int(width.argmax())
    return float(ends[best] + width[best] / 2)


def bias_by_mass(logits: Tensor, classes: int | Iterable[int], share: float) -> float:
    """The number that, added to the logits of ``classes``, gives them their share of probability.

    The b with ``mean over n of sum over c in classes of softmax(z_n + b * [c in classes])_c = share``.
    This needs images but no labels, only how common the classes are in use.

    Args:
        logits: ``(N, C)``, for images like those met in use.
        classes: one class or several; not all.
        share: the fraction of images in use that show these classes, in (0, 1).

    Raises:
        TypeError, ValueError: an argument has the wrong type or shape, or is out of range.

    >>> round(bias_by_mass(torch.zeros(1, 4), classes=3, share=0.5), 4)  # from a quarter to a half
    1.0986
    """
    from scipy.optimize import brentq

    z, chosen = _checked(logits, classes)
    if not 0 < real("share", share) < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}; one class of ten has 0.1")
    odds = z[:, chosen].logsumexp(-1) - z[:, ~chosen].logsumexp(-1)  # (N,)
    reach = float(odds.abs().max()) + 750  # beyond it the mass is 0 or 1
    return brentq(lambda b: torch.sigmoid(odds + b).mean().item() - share, -reach, reach)


def _checked(logits: Tensor, classes: int | Iterable[int]) -> tuple[Tensor, Tensor]:
    """Logits ``(N, C)`` in float64, and a mask of the chosen classes, ``(C,)``."""
    logits = wide("logits", logits).double()
    if logits.ndim != 2:
        raise ValueError(f"logits must be (N, C), got shape {tuple(logits.shape)}")
    if not logits.isfinite().all():
        raise ValueError("logits must be finite, got some that are not; did the student diverge?")
    mask = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    mask[some_classes(classes, len(mask), once=False)] = True
    return logits, mask


def _names(mask: Tensor) -> str:
    return ", ".join(str(number) for number in mask.nonzero().flatten().tolist())
