"""The divergence of two softmaxes, exact also where it is tiny: what ``losses`` leaves out to be read."""

from __future__ import annotations

import torch
from torch import Tensor


def divergence(s: Tensor, t: Tensor, T: float | Tensor) -> Tensor:
    """``KL(softmax(t / T) || softmax(s / T))``, of the second from the first: ``(..., C)`` to ``(..., 1)``.

    With d = (s - t) / T the divergence is log E_p[exp d] - E_p[d], and centring d under p takes the
    second term away. What remains, log(1 + E_p[exp d - 1 - d]), has no cancellation; for large T it
    is E_p[d^2] / 2, which is how logit matching appears. A difference of two log-softmaxes, such as
    ``F.kl_div`` makes, would be all rounding there.
    """
    log_p = torch.log_softmax(t / T, dim=-1)  # (..., C)
    p = log_p.exp()
    d = (s - t) / T
    d = d - (p * d).sum(-1, keepdim=True)  # (..., C)
    log_q = log_p + d  # but for a constant
    # Where exp d would overflow the 1 + d beside it no longer counts.
    terms = torch.where(d < 60, p * _exp_minus_line(d.clamp(max=60)), log_q.clamp(max=60).exp())
    near = torch.log1p(terms.sum(-1, keepdim=True))  # (..., 1)
    far = torch.logsumexp(log_q, dim=-1, keepdim=True)  # where p exp d would overflow too
    return torch.where(log_q.amax(-1, keepdim=True) < 60, near, far)


def _exp_minus_line(d: Tensor) -> Tensor:
    """exp(d) - 1 - d, by its series where the difference would cancel."""
    series = d.square() / 2 * (1 + d / 3 * (1 + d / 4))
    return torch.where(d.abs() < torch.finfo(d.dtype).eps ** 0.25, series, torch.expm1(d) - d)
