"""``python -m kdlib.reproduce NAME``: run a protocol; stop it with Ctrl-C and restart it at any time."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import torch

from kdlib._console import say
from kdlib.reproduce import PROTOCOLS, run, ship


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m kdlib.reproduce", description=__doc__)
    parser.add_argument("name", choices=PROTOCOLS)
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the table")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=_count, default=1, help="number of parallel processes")
    where.add_argument("--dask", metavar="ADDRESS", help="address of a Dask cluster's scheduler")
    parser.add_argument("--only", nargs="+", default=(), help="experiments to run; all by default")
    parser.add_argument(
        "--protocol", help="short or paper, if the paper has both; short by default"
    )
    parser.add_argument(
        "--ship",
        action="store_true",
        help="copy the finished table into kdlib/reproduce/results and run nothing",
    )
    given = parser.parse_args(arguments)
    if given.ship:
        say(str(ship(given.name, given.out)))
        return
    started = time.perf_counter()
    with _executor(given.workers, given.dask) as executor:
        lines = run(
            given.name, given.out, executor=executor, only=given.only, protocol=given.protocol
        )
        for line in lines:
            say(f"{time.perf_counter() - started:6.0f} s  {line}")


@contextmanager
def _executor(workers: int, dask: str | None) -> Iterator[Executor | None]:
    """An executor for the settings, or None to measure in this process."""
    if dask:
        try:
            from distributed import Client
        except ModuleNotFoundError as error:
            raise SystemExit("--dask needs the extra: pip install 'kdlib[cluster]'") from error
        with Client(dask) as client:
            pool = client.get_executor(pure=False)
            try:
                yield pool
            finally:
                pool.shutdown(wait=False)
    elif workers > 1:
        threads = max(1, torch.get_num_threads() // workers)
        context = get_context("spawn")
        pool = ProcessPoolExecutor(workers, context, torch.set_num_threads, (threads,))
        try:
            yield pool
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    else:
        yield None


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


if __name__ == "__main__":
    main()
