"""Protocols as lists of settings: ``python -m kdlib.reproduce NAME`` runs one and can be resumed.

A setting is one line of a table: a way of teaching, the rates it is tried with on validation, and
its seeds. Its rows are appended whole to a tidy CSV file, and a finished setting is not run again.
The tables that travel with the package are read by :func:`results`.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from threading import Lock

import pandas as pd
import torch

from kdlib._files import write_whole
from kdlib.data import Data
from kdlib.stats import interval
from kdlib.training import autocast_dtype

__all__ = [
    "COLUMNS",
    "PROTOCOLS",
    "Published",
    "Row",
    "Setting",
    "against_the_paper",
    "measured",
    "recipe_hash",
    "results",
    "run",
    "settings",
]

PROTOCOLS = ("student", "hinton", "fitnets", "fsp", "ban", "ban_lm")
SHIPPED = Path(__file__).parent / "results"
_WHAT = ["experiment", "setting", "protocol", "recipe"]
COLUMNS = [
    *_WHAT,
    "teacher_seed",
    "student_seed",
    "metric",
    "value",
    "seconds",
    "hardware",
    "versions",
    "commit",
]


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        metric: what was measured, with its unit in the protocol's docstring.
        value: the number.
        student_seed, teacher_seed: of the networks; None where there is none.
        seconds: it took to train the network.
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
        experiment: which question it belongs to.
        setting: its name within the experiment.
        protocol: ``short``, ``paper``, or ``smoke`` for tests.
        recipe: a text with the protocol's version and what tells its numbers from others; its hash
            is in every row. What a text cannot tell, such as changed code, raises the version.
        run: measures it.
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
        what: it is, for a reader.
        value: the paper's, in the unit of the metric.
        experiment, setting, metric: of our rows; of a setting a seed all are meant.
    """

    what: str
    value: float
    experiment: str
    setting: str
    metric: str = "test_errors"


def tried(rates: Iterable[float], errors_at: Callable[[float], float]) -> dict[float, float]:
    """Errors on validation by learning rate, nan where the training diverged.

    Raises:
        FloatingPointError: all of them diverged.
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
    """The rate with the fewest errors, the first of equals."""
    return min(trials, key=lambda rate: math.inf if math.isnan(trials[rate]) else trials[rate])


def unwatched(data: Data) -> Data:
    """Nothing is looked at epoch by epoch."""
    return replace(data, validation=None, test=None)


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


def results(name: str) -> pd.DataFrame:
    """A table that travels with the package, made by ``python -m kdlib.reproduce NAME``.

    Columns: experiment, setting, protocol, recipe (a hash), teacher_seed, student_seed, metric,
    value, seconds, hardware, versions, commit.

    Raises:
        ValueError: there is no such table.

    >>> list(results("student").columns)[:4]
    ['experiment', 'setting', 'protocol', 'recipe']
    """
    there = sorted(path.stem for path in SHIPPED.glob("*.csv"))
    if name not in there:
        raise ValueError(f"name must be one of {', '.join(there)}, got {name!r}")
    return _read(SHIPPED / f"{name}.csv")


def measured(
    table: pd.DataFrame, experiment: str, setting: str, metric: str = "test_errors"
) -> list[float]:
    """One number a seed of a setting, in the order of the seeds; of a setting a seed all of them.

    Args:
        table: as :func:`results` gives it.
        experiment, setting, metric: of the rows.

    Raises:
        ValueError: the table has none; what it has is listed.

    >>> measured(results("hinton"), "students", "T = 20")
    [75.0, 82.0, 84.0, 76.0, 84.0]
    """
    rows = table
    for column, wanted in (("experiment", experiment), ("setting", setting), ("metric", metric)):
        names = rows[column].str.partition(", seed ")[0] if column == "setting" else rows[column]
        found = rows[(rows[column] == wanted) | (names == wanted)]
        if found.empty:
            there = ", ".join(repr(name) for name in dict.fromkeys(names))
            raise ValueError(f"{column} must be one of {there}, got {wanted!r}")
        rows = found
    return rows.sort_values(["student_seed", "teacher_seed"])["value"].tolist()


def against_the_paper(name: str, table: pd.DataFrame | None = None) -> pd.DataFrame:
    """The numbers that a paper prints, beside ours.

    One row a number: what (the index), paper, ours (the mean over seeds), low and high (its 95 %
    interval over them), n (how many). A paper's number of one run has no interval. Where a table has
    rows of both protocols, those of ``paper`` are taken.

    Args:
        name: of the protocol.
        table: its results; those that travel with the package if not given.

    Raises:
        ValueError: there is no such table, it is not a paper's, or it lacks one of the numbers.

    >>> list(against_the_paper("hinton").columns)
    ['paper', 'ours', 'low', 'high', 'n']
    """
    table = results(name) if table is None else table
    if {"short", "paper"} <= {*table["protocol"]}:
        table = table[table["protocol"] == "paper"]
    numbers = getattr(import_module(f"kdlib.reproduce.{name}"), "PAPER", ())
    if not numbers:
        raise ValueError(
            f"name must be a paper's protocol, got {name!r}; no paper printed its numbers"
        )
    rows = []
    for published in numbers:
        setting = table["setting"].str.partition(", seed ")[0]
        mine = (table["experiment"] == published.experiment) & (setting == published.setting)
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


def run(
    name: str,
    out: Path,
    *,
    executor: Executor | None = None,
    only: Sequence[str] = (),
    protocol: str | None = None,
) -> Iterator[str]:
    """Run every setting that ``out/NAME.csv`` does not hold yet; yields a line for each.

    Args:
        name: of the protocol.
        out: the folder of the table, written by this process alone.
        executor: what measures settings side by side: any of ``concurrent.futures``, or a cluster's;
            one after the other in this process if not given. Where it measures, this kdlib must be
            installed and ``KDLIB_PROFILE`` be the same.
        only: experiments to run; all if empty.
        protocol: ``short`` or ``paper`` where a paper has both; ``short`` if not given.

    Raises:
        ValueError: an unknown name, protocol or experiment, or a table of other columns.
        RuntimeError: settings failed where the executor measures; what was measured is kept.
    """
    path = out / f"{name}.csv"
    mine = _of_protocol(settings(name), protocol)
    todo = [s for s in mine if not only or s.experiment in only]
    if unknown := set(only) - {s.experiment for s in todo}:
        known = dict.fromkeys(s.experiment for s in mine)
        raise ValueError(f"only must name some of {', '.join(known)}, got {unknown.pop()!r}")
    finished = _finished(path)
    todo = [s for s in todo if s.key not in finished]
    there = len({s.key for s in mine} & finished)
    yield f"{path}: {there} settings are there, {len(todo)} to do"
    for setting, rows in _measured(name, todo, executor):
        _append(path, rows)
        yield f"{setting.experiment}: {setting.setting}"


def _of_protocol(all_of_them: list[Setting], protocol: str | None) -> list[Setting]:
    known = list(dict.fromkeys(s.protocol for s in all_of_them))
    if protocol is not None and protocol not in known:
        raise ValueError(f"protocol must be one of {', '.join(known)}, got {protocol!r}")
    return [s for s in all_of_them if s.protocol == (protocol or known[0])]


def ship(name: str, out: Path) -> Path:
    """Copy a table into the package, the rows of this code's settings in their order.

    Where there are two protocols, those are copied of which the table has any row.

    Raises:
        ValueError: a setting is missing, is there twice, or was run at smoke size.
    """
    path, parts = out / f"{name}.csv", []
    if not path.exists():
        raise ValueError(f"out must hold {name}.csv, got {out}; run the protocol first")
    table = _read(path)
    known = list(dict.fromkeys(s.protocol for s in settings(name)))
    there = {*table["protocol"]}.intersection(known) or known[:1]
    for setting in (s for s in settings(name) if s.protocol in there):
        if setting.protocol == "smoke":
            raise ValueError("KDLIB_PROFILE must not be smoke: its numbers mean nothing")
        rows = table[(table[_WHAT] == list(setting.key)).all(axis=1)]
        if rows.empty:
            raise ValueError(
                f"{setting.experiment}: {setting.setting} is not in {out}; run it first"
            )
        if rows.duplicated(["teacher_seed", "student_seed", "metric"]).any():
            raise ValueError(
                f"{setting.experiment}: {setting.setting} is in {path} more than once; keep the rows "
                "of one run"
            )
        parts.append(rows)
    target = SHIPPED / f"{name}.csv"
    write_whole(target, lambda part: pd.concat(parts).to_csv(part, index=False))
    return target


def _measured(
    name: str, todo: Sequence[Setting], executor: Executor | None
) -> Iterator[tuple[Setting, pd.DataFrame]]:
    commit = _commit()
    if executor is None:
        for setting in todo:
            yield setting, _measure(setting, commit)
        return
    tasks = {executor.submit(_measure_by_key, name, s.key, commit): s for s in todo}
    failures = []
    try:
        for task in as_completed(tasks):
            if task.exception() is None:
                yield tasks[task], task.result()
            else:  # what the others measure meanwhile is kept
                failures.append((tasks[task], task.exception()))
    finally:
        for task in tasks:
            task.cancel()
    if failures:
        setting, error = failures[0]
        raise RuntimeError(
            f"{setting.experiment}: {setting.setting} failed ({error}), as did {len(failures) - 1} "
            "more; what was measured is kept, and the next run does the rest"
        ) from error


_alone = Lock()  # a worker may have threads, and they share torch's generator


def _measure_by_key(name: str, key: tuple[str, str, str, str], commit: str) -> pd.DataFrame:
    with _alone:
        for setting in settings(name):
            if setting.key == key:
                return _measure(setting, commit)
    raise ValueError(
        f"{name} has no setting {key} where it is to be measured; kdlib and KDLIB_PROFILE must be the "
        "same there as here"
    )


def _measure(setting: Setting, commit: str) -> pd.DataFrame:
    rows = pd.DataFrame([vars(row) for row in setting.run()])
    facts = {"hardware": hardware(), "versions": _versions(), "commit": commit}
    return _typed(rows.assign(**dict(zip(_WHAT, setting.key, strict=True)), **facts))


def _append(path: Path, rows: pd.DataFrame) -> None:
    if tuple(rows[_WHAT].iloc[0]) in _finished(path):  # another run on this folder was faster
        return
    table = pd.concat([_read(path), rows]) if path.exists() else rows
    write_whole(path, lambda part: table.to_csv(part, index=False))


def _finished(path: Path) -> set[tuple[str, ...]]:
    if not path.exists():
        return set()
    return set(_read(path)[_WHAT].drop_duplicates().itertuples(index=False, name=None))


def _read(path: Path) -> pd.DataFrame:
    # As texts first: older pandas rounds what it parses, and a commit may look like a number.
    table = pd.read_csv(path, dtype=str)
    if list(table.columns) != COLUMNS:
        raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}; it is another table")
    return _typed(table)


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    seeds = {"teacher_seed": "Int64", "student_seed": "Int64"}
    return table[COLUMNS].astype(seeds | {"value": float, "seconds": float})


def hardware() -> str:
    """The GPU or processor, and the dtype of its matrix products under ``precision="auto"``."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    products = str(autocast_dtype("auto", device) or torch.float32).removeprefix("torch.")
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {products}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores, {products}"


def _versions() -> str:
    return (
        f"kdlib {version('kdlib')}, torch {torch.__version__}, python {platform.python_version()}"
    )


def _commit() -> str:
    """Of the checkout this code lies in, when the run began; ``-dirty`` where its files differ."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
