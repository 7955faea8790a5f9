"""The KL divergence of two softmaxes, accurate even where it is tiny; here so that ``losses`` stays readable."""

from __future__ import annotations

import torch
from torch import Tensor


def divergence(s: Tensor, t: Tensor, T: float | Tensor) -> Tensor:
    """``KL(softmax(t / T) || softmax(s / T))``, of shape ``(..., 1)`` for logits ``(..., C)``.

    With d = (s - t) / T the divergence is log E_p[exp d] - E_p[d], and subtracting its mean under p
    from d removes the second term. What remains, log(1 + E_p[exp d - 1 - d]), suffers no
    cancellation; for large T it tends to E_p[d^2] / 2, which becomes logit matching. The difference
    of two log-softmaxes, as in ``F.kl_div``, would be mostly rounding error there.
    """
    log_p = torch.log_softmax(t / T, dim=-1)  # (..., C)
    p = log_p.exp()
    d = (s - t) / T
    d = d - (p * d).sum(-1, keepdim=True)  # (..., C)
    log_q = log_p + d  # (..., C), up to a constant
    # Where exp d would overflow, 1 + d is negligible beside it.
    terms = torch.where(d < 60, p * _exp_minus_line(d.clamp(max=60)), log_q.clamp(max=60).exp())
    near = torch.log1p(terms.sum(-1, keepdim=True))  # (..., 1)
    far = torch.logsumexp(log_q, dim=-1, keepdim=True)  # where even p exp d would overflow
    return torch.where(log_q.amax(-1, keepdim=True) < 60, near, far)


def _exp_minus_line(d: Tensor) -> Tensor:
    """exp(d) - 1 - d, from its series where the subtraction would cancel the leading digits."""
    series = d.square() / 2 * (1 + d / 3 * (1 + d / 4))
    return torch.where(d.abs() < torch.finfo(d.dtype).eps ** 0.25, series, torch.expm1(d) - d)
