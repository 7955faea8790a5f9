"""kdlib: learn knowledge distillation by doing it.

``import kdlib as kd`` is enough for every lesson.
"""

from kdlib import data, losses, models, objectives, omitted, specialists, stats, text
from kdlib._networks import logits
from kdlib.cohort import Cohort, fit_cohort
from kdlib.losses import (
    GradientTerms,
    cwtm_loss,
    cwtm_weights,
    dkpp_loss,
    fsp_loss,
    fsp_matrix,
    gradient_terms,
    hint_loss,
    hinton_loss,
    logit_matching_loss,
    permute_dark_knowledge,
    soft_target_loss,
    soften,
)
from kdlib.objectives import CWTM, DKPP, FSP, Batch, CrossEntropy, Hint, LogitMatching, SoftTargets
from kdlib.profiles import pick
from kdlib.seeding import seeded
from kdlib.stats import Comparison, Interval, interval, paired
from kdlib.taps import taps
from kdlib.training import Fidelity, History, Recipe, Scores, evaluate, fidelity, fit, keep

__version__ = "0.1.0"


def __getattr__(name: str):
    """matplotlib and its friends are loaded when first used, not by ``import kdlib``."""
    import importlib

    if name in ("grading", "mistakes", "plots", "widgets"):
        return importlib.import_module(f"kdlib.{name}")
    if name == "predict":
        return importlib.import_module("kdlib.widgets").predict
    if name in ("against_the_paper", "measured", "results"):
        return getattr(importlib.import_module("kdlib.reproduce"), name)
    raise AttributeError(f"module 'kdlib' has no attribute {name!r}")


__all__ = [
    "CWTM",
    "DKPP",
    "FSP",
    "Batch",
    "Cohort",
    "Comparison",
    "CrossEntropy",
    "Fidelity",
    "GradientTerms",
    "Hint",
    "History",
    "Interval",
    "LogitMatching",
    "Recipe",
    "Scores",
    "SoftTargets",
    "against_the_paper",
    "cwtm_loss",
    "cwtm_weights",
    "data",
    "dkpp_loss",
    "evaluate",
    "fidelity",
    "fit",
    "fit_cohort",
    "fsp_loss",
    "fsp_matrix",
    "gradient_terms",
    "grading",
    "hint_loss",
    "hinton_loss",
    "interval",
    "keep",
    "logit_matching_loss",
    "logits",
    "losses",
    "measured",
    "mistakes",
    "models",
    "objectives",
    "omitted",
    "paired",
    "permute_dark_knowledge",
    "pick",
    "plots",
    "predict",
    "results",
    "seeded",
    "soft_target_loss",
    "soften",
    "specialists",
    "stats",
    "taps",
    "text",
    "widgets",
]
