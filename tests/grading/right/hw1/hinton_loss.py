"""Other right answers to hinton_loss."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def hard_term_by_hand(s, t, y, T, a):
    log_p, log_q = (torch.log_softmax(z / T, 1) for z in (t.detach(), s))
    soft = (log_p.exp() * (log_p - log_q)).sum(1).mean() * T**2
    hard = -torch.log_softmax(s, 1)[torch.arange(len(y)), y].mean()
    return hard + a * (soft - hard)


def example_by_example(student, teacher, labels, temperature, alpha):
    log_p = F.log_softmax(teacher.detach() / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    soft = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)  # (N,)
    hard = F.cross_entropy(student, labels, reduction="none")  # (N,)
    return (alpha * temperature**2 * soft + (1 - alpha) * hard).mean()


def labels_as_one_hot(student, teacher, labels, temperature, alpha):
    p = torch.softmax(teacher.detach() / temperature, dim=1)
    own = torch.xlogy(p, p).sum(1).mean()
    soft = own - (p * torch.log_softmax(student / temperature, dim=1)).sum(1).mean()
    one_hot = F.one_hot(labels, student.shape[1]).to(student.dtype)
    hard = -(one_hot * torch.log_softmax(student, dim=1)).sum(1).mean()
    return sum(w * x for w, x in ((alpha * temperature**2, soft), (1 - alpha, hard)))
