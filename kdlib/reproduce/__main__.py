"""``python -m kdlib.reproduce NAME``: run a protocol; stop it with Ctrl-C, start it again at will."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from kdlib.reproduce import PROTOCOLS, run, ship


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m kdlib.reproduce", description=__doc__)
    parser.add_argument("name", choices=PROTOCOLS)
    parser.add_argument("--out", type=Path, default=Path("results"), help="the folder of the table")
    parser.add_argument("--workers", type=int, default=1, help="processes side by side")
    parser.add_argument("--only", nargs="+", default=(), help="experiments; all if not given")
    parser.add_argument(
        "--ship",
        action="store_true",
        help="copy the finished table into kdlib/results, run nothing",
    )
    given = parser.parse_args(arguments)
    if given.ship:
        print(ship(given.name, given.out))
        return
    started = time.perf_counter()
    for line in run(given.name, given.out, workers=given.workers, only=given.only):
        print(f"{time.perf_counter() - started:6.0f} s  {line}", flush=True)


if __name__ == "__main__":
    main()
