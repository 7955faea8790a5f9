"""Objectives: what a student is trained on, such as a loss bound to a teacher. ``fit`` minimises them."""

from kdlib.objectives.base import Batch, Loss, Objective, Outputs, Sum
from kdlib.objectives.features import FSP, Hint
from kdlib.objectives.logits import CWTM, DKPP, CrossEntropy, LogitMatching, SoftTargets

__all__ = [
    "CWTM",
    "DKPP",
    "FSP",
    "Batch",
    "CrossEntropy",
    "Hint",
    "LogitMatching",
    "Loss",
    "Objective",
    "Outputs",
    "SoftTargets",
    "Sum",
]
