"""Students taught in one stage or two: what the protocols of FitNets and of FSP share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import pandas as pd
from torch import nn

from kdlib.data import Data, load
from kdlib.objectives import CrossEntropy, Objective, SoftTargets
from kdlib.reproduce import Row, best, tried
from kdlib.seeding import key
from kdlib.training import Recipe, evaluate, fidelity, fit

TRIAL_SEED = 99


@dataclass(frozen=True)
class Stage:
    """One training of a student: by what, how long, and its peak learning rate."""

    by: str
    steps: int
    rate: float


@cache
def images(name: str, size) -> Data:
    """A data set with so many images held out as the size says; for tests some digits."""
    if size.name == "smoke":
        return load("digits").limit(size.images)
    return load(name, validation=size.validation)


@cache
def some_images(name: str, size) -> Data:
    """Those of them that students see."""
    data = images(name, size)
    return data if size.images is None else data.limit(size.images)


def stages(way: str, steps: int, first: float, second: float, share: float = 0.5) -> list[Stage]:
    """Of ``"hint then labels"``, where the first has that share of the steps, or of one stage alone."""
    names = way.split(" then ")
    if len(names) == 1:
        return [Stage(way, steps, first)]
    here = max(1, round(share * steps))
    return [Stage(names[0], here, first), Stage(names[1], max(1, steps - here), second)]


def taught(
    student: nn.Module,
    plan: Sequence[Stage],
    objective: Callable[[str], Objective],
    data: Data,
    recipe: Recipe,
    seed: int,
) -> pd.DataFrame:
    """Train in place, stage by stage, each with an optimizer, an order and views of its own.

    One history of them all. Validation is looked at if data has one, and never the test split.
    """
    parts, before, data = [], 0, replace(data, test=None)
    for place, stage in enumerate(plan):
        own = replace(recipe, iterations=stage.steps, learning_rate=stage.rate)
        of_stage = seed if place == 0 else key(seed, place, "stage")
        history = fit(student, objective(stage.by), data, own, seed=of_stage, progress=False)
        if history.interrupted:
            raise KeyboardInterrupt
        parts.append(history.frame.assign(step=history.frame["step"] + before))
        before += stage.steps
    return pd.concat(parts)


def chosen(rates: Sequence[float], errors_at: Callable[[float], int]) -> tuple[float, list[Row]]:
    """The rate with the fewest validation errors, and rows that say so; of one rate that one."""
    rate, rows = rates[0], []
    if len(rates) > 1:
        trials = tried(rates, errors_at)
        rows = [Row(f"validation_errors at {r:g}", e, TRIAL_SEED) for r, e in trials.items()]
        rate = best(trials)
    return rate, [*rows, Row("learning_rate", rate)]


def scores(
    student: nn.Module, teacher: nn.Module | None, data: Data
) -> Iterator[tuple[str, float]]:
    """Of a trained student on the test images, beside its teacher where it has one."""
    test = evaluate(student, data.test)
    yield from (("test_errors", test.errors), ("test_loss", test.loss))
    if teacher is not None:
        likeness = fidelity(student, teacher, data.test)
        yield from (("agreement", likeness.agreement), ("divergence", likeness.divergence))


def objective_of(
    by: str, teacher: nn.Module | None, inside: Mapping[str, Callable[[], Objective]], joint: float
) -> Objective:
    """What a stage's name says: one of ``inside``, or of what all protocols know; ``a + b`` is both.

    Args:
        by: ``labels``, ``soft`` (T = 4, a tenth of labels), ``lambda``, or a name in ``inside``.
        teacher: of the soft targets.
        inside: makes an objective on features, by name.
        joint: the weight of b in ``a + b``.
    """
    if by in inside:
        return inside[by]()
    if by == "soft":
        return SoftTargets(teacher, temperature=4, alpha=0.9)
    if by == "lambda":
        return fitnets_targets(teacher)
    if by == "labels":
        return CrossEntropy()
    one, other = by.split(" + ")
    return objective_of(one, teacher, inside, joint) + joint * objective_of(
        other, teacher, inside, joint
    )


def fitnets_targets(teacher: nn.Module) -> Objective:
    """FitNets' second stage: ``H(y, q) + lambda * H(p, q)`` at tau = 3, lambda from 4 down to 1.

    The paper's soft term has no factor tau^2, kdlib's has: hence a ninth. Source: Romero et al. 2015,
    eq. 2 and section 3.1.
    """
    soft = SoftTargets(teacher, temperature=3, alpha=1)
    return CrossEntropy() + (lambda progress: (4 - 3 * progress) / 9) * soft
