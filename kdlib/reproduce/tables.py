"""Tidy tables of measured numbers: read them, compare them with a paper, ship them with the package.

Nothing is measured here.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pandas as pd

from kdlib._files import write_whole
from kdlib.reproduce.settings import settings
from kdlib.stats import interval

SHIPPED = Path(__file__).parent / "results"
KEY_COLUMNS = ["experiment", "setting", "protocol", "recipe"]  # a setting's key
COLUMNS = [
    *KEY_COLUMNS,
    "teacher_seed",
    "student_seed",
    "metric",
    "value",
    "seconds",
    "hardware",
    "versions",
    "commit",
]


def results(name: str) -> pd.DataFrame:
    """A table that ships with the package, made by ``python -m kdlib.reproduce NAME``.

    Columns: experiment, setting, protocol, recipe (a hash), teacher_seed, student_seed, metric,
    value, seconds, hardware, versions, commit.

    Raises:
        ValueError: no table has this name.

    >>> list(results("student").columns)[:4]
    ['experiment', 'setting', 'protocol', 'recipe']
    """
    there = sorted(path.stem for path in SHIPPED.glob("*.csv"))
    if name not in there:
        raise ValueError(f"name must be one of {', '.join(there)}, got {name!r}")
    return read(SHIPPED / f"{name}.csv")


def measured(
    table: pd.DataFrame, experiment: str, setting: str, metric: str = "test_errors"
) -> list[float]:
    """A setting's values, one per seed, in the order of the seeds.

    A setting's name without its ``, seed N`` stands for the settings with all seeds.

    Args:
        table: a table that :func:`results` returned.
        experiment, setting, metric: the rows to take.

    Raises:
        ValueError: the table has no such rows; the message lists what it has.

    >>> measured(results("hinton"), "students", "T = 20")
    [75.0, 82.0, 84.0, 76.0, 84.0]
    """
    rows = table
    for column, wanted in (("experiment", experiment), ("setting", setting), ("metric", metric)):
        names = _without_seed(rows) if column == "setting" else rows[column]
        found = rows[(rows[column] == wanted) | (names == wanted)]
        if found.empty:
            there = ", ".join(repr(name) for name in dict.fromkeys(names))
            raise ValueError(f"{column} must be one of {there}, got {wanted!r}")
        rows = found
    return rows.sort_values(["student_seed", "teacher_seed"])["value"].tolist()


def against_the_paper(name: str, table: pd.DataFrame | None = None) -> pd.DataFrame:
    """A paper's printed numbers beside ours.

    One row per number: what (the index), paper, ours (the mean over seeds), low and high (its 95 %
    interval), n (the number of seeds). The paper's number comes from one run and has no interval.
    If a table has rows from both protocols, those of ``paper`` count.

    Args:
        name: the protocol.
        table: its results; by default those that ship with the package.

    Raises:
        ValueError: there is no such table, the protocol is not a paper's, or the table lacks one of
            the numbers.

    >>> list(against_the_paper("hinton").columns)
    ['paper', 'ours', 'low', 'high', 'n']
    """
    table = results(name) if table is None else table
    if {"short", "paper"} <= {*table["protocol"]}:
        table = table[table["protocol"] == "paper"]
    numbers = getattr(import_module(f"kdlib.reproduce.{name}"), "PAPER", ())
    if not numbers:
        raise ValueError(
            f"name must be a paper's protocol, got {name!r}, which has no published numbers"
        )
    rows = []
    for published in numbers:
        of_setting = _without_seed(table) == published.setting
        mine = (table["experiment"] == published.experiment) & of_setting
        values = table.loc[mine & (table["metric"] == published.metric), "value"]
        if len(values) < 2:
            raise ValueError(
                f"table must have {published.metric} of {published.experiment}: {published.setting} "
                f"for at least two seeds, got {len(values)}"
            )
        ours = interval(values)
        rows.append((published.what, published.value, ours.mean, ours.low, ours.high, ours.n))
    columns = ["what", "paper", "ours", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns).set_index("what")


def ship(name: str, out: Path) -> Path:
    """Copy a table into the package: the rows of the current settings, in their order.

    If there are two protocols, ship each one that has a row in the table.

    Raises:
        ValueError: a setting is missing, occurs twice, or was run at smoke size.
    """
    path, parts = out.expanduser() / f"{name}.csv", []
    if not path.exists():
        raise ValueError(f"out must hold {name}.csv, got {out}; run the protocol first")
    table = read(path)
    known = list(dict.fromkeys(s.protocol for s in settings(name)))
    there = {*table["protocol"]}.intersection(known) or known[:1]
    for setting in (s for s in settings(name) if s.protocol in there):
        if setting.protocol == "smoke":
            raise ValueError("KDLIB_PROFILE must not be smoke: its numbers mean nothing")
        rows = table[(table[KEY_COLUMNS] == list(setting.key)).all(axis=1)]
        if rows.empty:
            raise ValueError(
                f"{setting.experiment}: {setting.setting} is not in {out}; run it first"
            )
        if rows.duplicated(["teacher_seed", "student_seed", "metric"]).any():
            raise ValueError(
                f"{setting.experiment}: {setting.setting} is in {path} more than once; keep only one "
                "run's rows"
            )
        parts.append(rows)
    target = SHIPPED / f"{name}.csv"
    write_whole(target, lambda part: pd.concat(parts).to_csv(part, index=False))
    return target


def read(path: Path) -> pd.DataFrame:
    """Read the table at a path.

    Raises:
        ValueError: its columns are not :data:`COLUMNS`.
    """
    # As strings first: older pandas rounds numbers, and a commit may look like one.
    table = pd.read_csv(path, dtype=str)
    if list(table.columns) != COLUMNS:
        raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}; it has others")
    return typed(table)


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns in order, seeds as integers and values as floats."""
    seeds = {"teacher_seed": "Int64", "student_seed": "Int64"}
    return table[COLUMNS].astype(seeds | {"value": float, "seconds": float})


def _without_seed(table: pd.DataFrame) -> pd.Series:
    """The settings' names without the seed: ``teacher, seed 0`` becomes ``teacher``."""
    return table["setting"].str.partition(", seed ")[0]
