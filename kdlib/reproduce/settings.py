"""The parts of a protocol: settings, the rows that they measure, and the choice of a learning rate."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module

from kdlib.data import Data

PROTOCOLS = ("student", "hinton", "fitnets", "fsp", "ban", "ban_lm")
TRIAL_SEED = 99  # for the networks that try rates; no student or teacher uses it


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        metric: what was measured; the protocol's docstring gives its unit.
        value: the number.
        student_seed, teacher_seed: the networks' seeds; None if there is no such network.
        seconds: the duration of the network's training.
    """

    metric: str
    value: float
    student_seed: int | None = None
    teacher_seed: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Setting:
    """One line of a protocol.

    Attributes:
        experiment: the question that the setting helps to answer.
        setting: its name within the experiment.
        protocol: ``short``, ``paper``, or ``smoke`` for tests.
        recipe: a text with the protocol's version and everything that affects the numbers; each row
            carries its hash. For a change that the text does not show, such as new code, raise the
            version.
        run: trains and measures, and returns the rows.
    """

    experiment: str
    setting: str
    protocol: str
    recipe: str
    run: Callable[[], Iterable[Row]]

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.experiment, self.setting, self.protocol, recipe_hash(self.recipe)


@dataclass(frozen=True)
class Published:
    """A number printed in a paper, and the place of ours in the table.

    Attributes:
        what: a label for the table.
        value: the paper's number, in the unit of the metric.
        experiment, setting, metric: our rows to compare with it. A setting's name without its
            ``, seed N`` stands for the settings with all seeds.
    """

    what: str
    value: float
    experiment: str
    setting: str
    metric: str = "test_errors"


def recipe_hash(recipe: str) -> str:
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def settings(name: str) -> list[Setting]:
    """The settings of a protocol, in the order in which they run.

    Raises:
        ValueError: no protocol has this name.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"name must be one of {', '.join(PROTOCOLS)}, got {name!r}")
    return import_module(f"kdlib.reproduce.{name}").settings()


def tried(rates: Iterable[float], errors_at: Callable[[float], float]) -> dict[float, float]:
    """Validation errors for each learning rate, nan if the training diverged.

    Raises:
        FloatingPointError: the training diverged at every rate.
    """
    found = {}
    for rate in rates:
        try:
            found[rate] = errors_at(rate)
        except FloatingPointError:  # this rate is ruled out
            found[rate] = math.nan
    if all(math.isnan(errors) for errors in found.values()):
        raise FloatingPointError(f"all rates diverged, got {tuple(found)}; try smaller ones")
    return found


def best(trials: dict[float, float]) -> float:
    """The rate with the fewest errors; the first one of a tie."""
    return min(trials, key=lambda rate: math.inf if math.isnan(trials[rate]) else trials[rate])


def chosen(rates: Sequence[float], errors_at: Callable[[float], float]) -> tuple[float, list[Row]]:
    """The rate with the fewest validation errors, and the rows that report the choice.

    A single rate is taken without a trial.
    """
    rate, rows = rates[0], []
    if len(rates) > 1:
        trials = tried(rates, errors_at)
        rows = [Row(f"validation_errors at {r:g}", e, TRIAL_SEED) for r, e in trials.items()]
        rate = best(trials)
    return rate, [*rows, Row("learning_rate", rate)]


def unwatched(data: Data) -> Data:
    """The data without its validation and test splits, so that training can look at neither."""
    return replace(data, validation=None, test=None)
