"""kdlib: learn knowledge distillation by doing it.

``import kdlib as kd`` is enough for every lesson.
"""

from importlib import import_module

from kdlib import data, losses, models, objectives, stats
from kdlib.class_subsets import omitted, specialists
from kdlib.data import text
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
    hinton_terms,
    logit_matching_loss,
    permute_dark_knowledge,
    soft_target_loss,
    soften,
)
from kdlib.networks import logits
from kdlib.objectives import (
    CWTM,
    DKPP,
    FSP,
    Batch,
    CrossEntropy,
    Hint,
    LogitMatching,
    Loss,
    Objective,
    Outputs,
    SoftTargets,
)
from kdlib.profiles import pick
from kdlib.recipe import Recipe
from kdlib.seeding import seeded
from kdlib.stats import Comparison, Interval, interval, paired
from kdlib.taps import taps
from kdlib.training import (
    Cohort,
    Fidelity,
    History,
    Scores,
    evaluate,
    fidelity,
    fit,
    fit_cohort,
    keep,
)

__version__ = "0.1.0"


# Imported at first use: matplotlib is slow to import, and only lessons need the rest.
_LATER = {
    "against_the_paper": "reproduce",
    "cohort": "training.cohort",
    "grading": "course.grading",
    "measured": "reproduce",
    "mistakes": "course.museum.mistakes",
    "plots": "course.plots",
    "predict": "course.predict",
    "results": "reproduce",
    "widgets": "course.widgets",
}


def __getattr__(name: str):
    if name not in _LATER:
        raise AttributeError(f"module 'kdlib' has no attribute {name!r}")
    module = import_module(f"kdlib.{_LATER[name]}")
    return getattr(module, name, module)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"_LATER", "import_module"})


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
    "Loss",
    "Objective",
    "Outputs",
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
    "hinton_terms",
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
