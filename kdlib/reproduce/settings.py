"""What a protocol is made of: settings, the rows that they measure, and how a learning rate is chosen."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module

from kdlib.data import Data

PROTOCOLS = ("student", "hinton", "fitnets", "fsp", "ban", "ban_lm")
TRIAL_SEED = 99  # of the networks that try rates; no student and no teacher has it


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        metric: what was measured; the protocol's docstring gives its unit.
        value: the number.
        student_seed, teacher_seed: the networks' seeds; None where there is no such network.
        seconds: how long the network's training took.
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
        experiment: the question that it belongs to.
        setting: its name within the experiment.
        protocol: ``short``, ``paper``, or ``smoke`` for tests.
        recipe: a text with the protocol's version and everything that shapes the numbers; each row
            carries its hash. What a text cannot show, such as changed code, raises the version.
        run: measures it and returns its rows.
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
    """A number that a paper prints, and where ours stands in the table.

    Attributes:
        what: a label for the table.
        value: the paper's number, in the unit of the metric.
        experiment, setting, metric: which of our rows stand beside it. A setting's name without its
            ``, seed N`` stands for the settings of all seeds.
    """

    what: str
    value: float
    experiment: str
    setting: str
    metric: str = "test_errors"


def recipe_hash(recipe: str) -> str:
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def settings(name: str) -> list[Setting]:
    """The settings of a protocol, in the order in which they are run.

    Raises:
        ValueError: there is no such protocol.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"name must be one of {', '.join(PROTOCOLS)}, got {name!r}")
    return import_module(f"kdlib.reproduce.{name}").settings()


def tried(rates: Iterable[float], errors_at: Callable[[float], float]) -> dict[float, float]:
    """Validation errors for each learning rate, nan where the training diverged.

    Raises:
        FloatingPointError: the training diverged at every rate.
    """
    found = {}
    for rate in rates:
        try:
            found[rate] = errors_at(rate)
        except FloatingPointError:  # so this rate will not do
            found[rate] = math.nan
    if all(math.isnan(errors) for errors in found.values()):
        raise FloatingPointError(f"all rates diverged, got {tuple(found)}; smaller ones would do")
    return found


def best(trials: dict[float, float]) -> float:
    """The rate with the fewest errors; the first one where several are equal."""
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
    """The data without validation and test split, so that a training looks at neither."""
    return replace(data, validation=None, test=None)
