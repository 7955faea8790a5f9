"""Train, score, keep: ``fit``, ``evaluate``, ``keep``, and ``fit_cohort`` for many students at once."""

from kdlib.recipe import Recipe
from kdlib.training.cohort import Cohort, fit_cohort
from kdlib.training.fit import History, fit
from kdlib.training.keep import keep
from kdlib.training.scores import Fidelity, Scores, evaluate, fidelity
from kdlib.training.steps import autocast_dtype

__all__ = [
    "Cohort",
    "Fidelity",
    "History",
    "Recipe",
    "Scores",
    "autocast_dtype",
    "evaluate",
    "fidelity",
    "fit",
    "fit_cohort",
    "keep",
]
