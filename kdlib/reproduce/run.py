"""Run a protocol: measure each setting once, here or on workers, and append its rows in one piece."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, as_completed
from importlib.metadata import version
from pathlib import Path
from threading import Lock

import pandas as pd
import torch

from kdlib._files import check_place, reason, write_whole
from kdlib.reproduce.settings import Setting, settings
from kdlib.reproduce.tables import KEY_COLUMNS, read, typed
from kdlib.training import autocast_dtype


def run(
    name: str,
    out: Path,
    *,
    executor: Executor | None = None,
    only: Sequence[str] = (),
    protocol: str | None = None,
) -> Iterator[str]:
    """Run every setting that ``out/NAME.csv`` does not hold yet, and yield a line for each.

    Args:
        name: the protocol.
        out: the folder of the table; no other process may write to it.
        executor: measures settings in parallel: any of ``concurrent.futures``, or a cluster's. By
            default this process measures one after another. Workers need the same version of kdlib
            and the same ``KDLIB_PROFILE``.
        only: experiments to run; all if empty.
        protocol: ``short`` or ``paper`` if a paper has both; ``short`` by default.

    Raises:
        ValueError: the name, the protocol or an experiment is unknown, or the table has other columns.
        RuntimeError: some settings failed on the executor; the rows of the others are kept.
        OSError: the folder cannot be written; nothing was run. If it cannot be written later on, the run goes
            on, and the last line holds the rows that no file holds.
    """
    path = out.expanduser() / f"{name}.csv"
    mine = _of_protocol(settings(name), protocol)
    todo = [s for s in mine if not only or s.experiment in only]
    if unknown := set(only) - {s.experiment for s in todo}:
        known = dict.fromkeys(s.experiment for s in mine)
        raise ValueError(f"only must name some of {', '.join(known)}, got {unknown.pop()!r}")
    finished = _finished(path)
    todo = [s for s in todo if s.key not in finished]
    there = len({s.key for s in mine} & finished)
    yield f"{path}: {there} settings are there, {len(todo)} to do"
    if todo:
        _check_place(path)
    waiting: list[pd.DataFrame] = []  # rows that could not be written yet
    for setting, rows in _run_all(name, todo, executor):
        waiting.append(rows)
        yield f"{setting.experiment}: {setting.setting}{_append_all(path, waiting)}"
    if waiting:
        yield f"{path} does not hold these rows:\n{pd.concat(waiting).to_csv(index=False)}"


def _check_place(path: Path) -> None:
    try:
        check_place(path)
    except OSError as error:
        raise OSError(
            f"out must be a folder that can be written, but {path.parent} cannot ({reason(error)})"
        ) from error


def _append_all(path: Path, waiting: list[pd.DataFrame]) -> str:
    """Write the rows that wait, in their order; return what is to be said if that fails."""
    try:
        while waiting:
            _append(path, waiting[0])
            del waiting[0]
    except OSError as error:  # hours of measuring may stand in them
        return f" (not written yet: {reason(error)}; tried again after the next setting)"
    return ""


def _of_protocol(all_of_them: list[Setting], protocol: str | None) -> list[Setting]:
    known = list(dict.fromkeys(s.protocol for s in all_of_them))
    if protocol is not None and protocol not in known:
        raise ValueError(f"protocol must be one of {', '.join(known)}, got {protocol!r}")
    return [s for s in all_of_them if s.protocol == (protocol or known[0])]


def _run_all(
    name: str, todo: Sequence[Setting], executor: Executor | None
) -> Iterator[tuple[Setting, pd.DataFrame]]:
    commit = _commit()
    if executor is None:
        for setting in todo:
            yield setting, _run_one(setting, commit)
        return
    tasks = {executor.submit(_run_one_in_a_worker, name, s.key, commit): s for s in todo}
    failures = []
    try:
        for task in as_completed(tasks):
            if task.exception() is None:
                yield tasks[task], task.result()
            else:  # the others go on, and their rows are kept
                failures.append((tasks[task], task.exception()))
    finally:
        for task in tasks:
            task.cancel()
    if failures:
        setting, error = failures[0]
        raise RuntimeError(
            f"{setting.experiment}: {setting.setting} failed ({error}), as did {len(failures) - 1} "
            "more; the other settings' rows are kept, and the next run does the rest"
        ) from error


_alone = Lock()  # threads of one worker share torch's generator


def _run_one_in_a_worker(name: str, key: tuple[str, str, str, str], commit: str) -> pd.DataFrame:
    # A setting's function cannot be sent to another process, so we send its key.
    with _alone:
        for setting in settings(name):
            if setting.key == key:
                return _run_one(setting, commit)
    raise ValueError(
        f"{name} has no setting {key} on this worker; kdlib and KDLIB_PROFILE must match those of the "
        "process that asks"
    )


def _run_one(setting: Setting, commit: str) -> pd.DataFrame:
    rows = pd.DataFrame([vars(row) for row in setting.run()])
    facts = {"hardware": hardware(), "versions": _versions(), "commit": commit}
    return typed(rows.assign(**dict(zip(KEY_COLUMNS, setting.key, strict=True)), **facts))


def _append(path: Path, rows: pd.DataFrame) -> None:
    if tuple(rows[KEY_COLUMNS].iloc[0]) in _finished(path):  # another run has measured it meanwhile
        return
    table = pd.concat([read(path), rows]) if path.exists() else rows
    write_whole(path, lambda part: table.to_csv(part, index=False))


def _finished(path: Path) -> set[tuple[str, ...]]:
    """The keys of the settings that the table holds."""
    if not path.exists():
        return set()
    return set(read(path)[KEY_COLUMNS].drop_duplicates().itertuples(index=False, name=None))


def hardware() -> str:
    """The name of the GPU or CPU, and the dtype of matrix products under ``precision="auto"``."""
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
    """The commit of this code's checkout, with ``-dirty`` if any file differs from it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
