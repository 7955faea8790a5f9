"""Training in one stage or two, and scoring: the parts that several protocols share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import pandas as pd
from torch import nn

from kdlib.data import Data, load
from kdlib.objectives import CrossEntropy, Objective, SoftTargets
from kdlib.seeding import key
from kdlib.training import History, Recipe, evaluate, fidelity, fit

Networks = nn.Module | Sequence[nn.Module]


@dataclass(frozen=True)
class Stage:
    """One training of a student: its objective, its number of steps and its peak learning rate."""

    by: str
    steps: int
    rate: float


@cache
def images(name: str, size) -> Data:
    """A data set with ``size.validation`` images held out; a few digits at smoke size."""
    if size.name == "smoke":
        return load("digits").limit(size.images)
    return load(name, validation=size.validation)


@cache
def some_images(name: str, size) -> Data:
    """The part of a data set that students see."""
    data = images(name, size)
    return data if size.images is None else data.limit(size.images)


def stages(way: str, steps: int, first: float, second: float, share: float = 0.5) -> list[Stage]:
    """The stages of a way; of two, as in ``"hint then labels"``, the first has ``share`` of the steps."""
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
    """Train in place, stage by stage, each stage with its own optimizer, order and views.

    Returns one history for all stages. It has validation scores if data has a validation split; the
    test split is never used.
    """
    parts, before, data = [], 0, replace(data, test=None)
    for place, stage in enumerate(plan):
        own = replace(recipe, iterations=stage.steps, learning_rate=stage.rate)
        of_stage = seed if place == 0 else key(seed, place, "stage")
        history = fit_to_the_end(student, objective(stage.by), data, own, of_stage)
        parts.append(history.frame.assign(step=history.frame["step"] + before))
        before += stage.steps
    return pd.concat(parts)


def fit_to_the_end(
    student: nn.Module, objective: Objective, data: Data, recipe: Recipe, seed: int
) -> History:
    """Train in place.

    Raises:
        KeyboardInterrupt: training was interrupted, and a half-trained network must not be measured.
    """
    history = fit(student, objective, data, recipe, seed=seed, progress=False)
    if history.interrupted:
        raise KeyboardInterrupt
    return history


def scores(
    student: Networks, teacher: Networks | None, data: Data, *, more: bool = False
) -> Iterator[tuple[str, float]]:
    """A network's errors and loss on the test images, and its fidelity to its teacher if it has one.

    ``more`` adds the calibration error and, if images are held out, the errors on them.
    """
    test = evaluate(student, data.test)
    yield from (("test_errors", test.errors), ("test_loss", test.loss))
    if more:
        yield "test_ece", test.ece
        if data.validation is not None:
            yield "validation_errors", evaluate(student, data.validation).errors
    if teacher is not None:
        likeness = fidelity(student, teacher, data.test)
        yield from (("agreement", likeness.agreement), ("divergence", likeness.divergence))


def objective_of(
    by: str, teacher: nn.Module | None, inside: Mapping[str, Callable[[], Objective]], joint: float
) -> Objective:
    """The objective with a stage's name: one of ``inside``, or a common one; ``a + b`` is a sum.

    Args:
        by: ``labels``, ``soft`` (T = 4, labels with weight 0.1), ``lambda``, or a name in ``inside``.
        teacher: gives the soft targets.
        inside: functions that make objectives on features, by name.
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

    We divide by 9 because kdlib's soft term has the factor tau^2 and the paper's does not. Source:
    Romero et al. 2015, eq. 2 and section 3.1.
    """
    soft = SoftTargets(teacher, temperature=3, alpha=1)
    return CrossEntropy() + (lambda progress: (4 - 3 * progress) / 9) * soft
