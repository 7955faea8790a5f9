"""Students taught in one stage or two: what the protocols of FitNets and of FSP share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from torch import nn

from kdlib.data import Data
from kdlib.objectives import CrossEntropy, Objective, SoftTargets
from kdlib.reproduce import Row, best, tried
from kdlib.training import Recipe, evaluate, fidelity, fit

TRIAL_SEED = 99


@dataclass(frozen=True)
class Stage:
    """One training of a student: by what, how long, and its peak learning rate."""

    by: str
    steps: int
    rate: float


def stages(way: str, steps: int, first: float, second: float) -> list[Stage]:
    """Of ``"hint then labels"``, or of one stage alone; two share the steps equally."""
    names = way.split(" then ")
    rates = (first, second)[: len(names)]
    return [
        Stage(by, max(1, steps // len(names)), rate) for by, rate in zip(names, rates, strict=True)
    ]


def taught(
    student: nn.Module,
    plan: Sequence[Stage],
    objective: Callable[[str], Objective],
    data: Data,
    recipe: Recipe,
    seed: int,
) -> pd.DataFrame:
    """Train in place, stage by stage, each with an optimizer of its own; one history of them all."""
    parts, before = [], 0
    for stage in plan:
        own = replace(recipe, iterations=stage.steps, learning_rate=stage.rate)
        history = fit(student, objective(stage.by), data, own, seed=seed, progress=False)
        if history.interrupted:
            raise KeyboardInterrupt
        parts.append(history.frame.assign(step=history.frame["step"] + before))
        before += stage.steps
    return pd.concat(parts)


def chosen(rates: Sequence[float], errors_at: Callable[[float], int]) -> Iterator[Row]:
    """Rows of the trials, where there is more than one rate; the last is the rate taken."""
    rate = rates[0]
    if len(rates) > 1:
        trials = tried(rates, errors_at)
        for each, errors in trials.items():
            yield Row(f"validation_errors at {each:g}", errors, TRIAL_SEED)
        rate = best(trials)
    yield Row("learning_rate", rate)


def scores(
    student: nn.Module, teacher: nn.Module | None, data: Data
) -> Iterator[tuple[str, float]]:
    """Of a trained student on the test images, beside its teacher where it has one."""
    test = evaluate(student, data.test)
    yield from (("test_errors", test.errors), ("test_loss", test.loss))
    if teacher is not None:
        likeness = fidelity(student, teacher, data.test)
        yield from (("agreement", likeness.agreement), ("divergence", likeness.divergence))


def fitnets_targets(teacher: nn.Module) -> Objective:
    """FitNets' second stage: ``H(y, q) + lambda * H(p, q)`` at tau = 3, lambda from 4 down to 1.

    The paper's soft term has no factor tau^2, kdlib's has: hence a ninth. Source: Romero et al. 2015,
    eq. 2 and section 3.1.
    """
    soft = SoftTargets(teacher, temperature=3, alpha=1)
    return CrossEntropy() + (lambda progress: (4 - 3 * progress) / 9) * soft
