"""Faults planted one at a time into a copy of kdlib, each of which a test must notice: ``make mutations``.

``FAULTS`` lists for each public function of losses, objectives and training its file, the tests that answer
for it, and at least four faults: a text that stands once in the file, and what is written in its place.
``python tests/mutations.py NAME…`` plants those of some functions only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("kdlib", "tests", "tools", "notebooks", "pyproject.toml", "README.md", "docs")
LONGEST = 600  # seconds; a fault that never ends is not one that a test has noticed


class Planted(NamedTuple):
    """One fault: in which function, where, and what it changes."""

    function: str
    file: str
    tests: str
    old: str
    new: str

    def __str__(self) -> str:
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.function}: {old or 'nothing'}  ->  {new or 'nothing'}"


# function: (file in kdlib/, tests, [(what stands there, what is planted), ...])
FAULTS: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    # --- losses ---
    "soft_target_loss": (
        "losses.py",
        "tests/test_losses.py",
        [
            ("_reduce((T**2 * divergence(s, t, T))", "_reduce((T * divergence(s, t, T))"),
            ("divergence(s, t, T)).squeeze(-1)", "divergence(t, s, T)).squeeze(-1)"),
        ],
    ),
    # --- objectives ---
    # --- training ---
}


def planted() -> list[Planted]:
    return [
        Planted(function, file, tests, old, new)
        for function, (file, tests, faults) in FAULTS.items()
        for old, new in faults
    ]


def wrong_with(fault: Planted, text: str) -> str:
    """Why the fault cannot be planted into this file, "" where it can."""
    places = text.count(fault.old)
    return "" if places == 1 else f"{fault}: stands {places} times in {fault.file}, not once"


def copied() -> Path:
    copy = Path(tempfile.mkdtemp(prefix="mutations-"))
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


def tested(copy: Path, tests: str) -> tuple[int, str]:
    """pytest's exit status, and the first test that failed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:xdist"]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # a fault may be written within the second
    try:
        run = subprocess.run(
            [*command, *tests.split()],
            cwd=copy,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        return -1, f"more than {LONGEST} s"
    found = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", run.stdout, re.MULTILINE)
    return run.returncode, found.group(1) if found else run.stdout[-300:]


def caught(copy: Path, fault: Planted) -> tuple[bool, str]:
    path = copy / "kdlib" / fault.file
    whole = path.read_text()
    path.write_text(whole.replace(fault.old, fault.new))
    try:
        status, by = tested(copy, fault.tests)
    finally:
        path.write_text(whole)
    return status == 1 and "::" in by, by  # a file that cannot be imported is not a fault found


def main(names: list[str]) -> int:
    unknown = set(names) - set(FAULTS)
    if unknown:
        print(f"NAME must be one of {', '.join(FAULTS)}, got {', '.join(sorted(unknown))}")
        return 2
    faults = [f for f in planted() if not names or f.function in names]
    wrong = [wrong_with(f, (ROOT / "kdlib" / f.file).read_text()) for f in faults]
    if any(wrong):
        print("\n".join(filter(None, wrong)))
        return 2

    workers = os.cpu_count() or 1
    copies: SimpleQueue[Path] = SimpleQueue()
    everywhere = [copied() for _ in range(workers)]
    for copy in everywhere:
        copies.put(copy)

    def run(job):
        copy = copies.get()
        try:
            start = time.monotonic()
            return *job(copy), time.monotonic() - start
        finally:
            copies.put(copy)

    green = []
    try:
        with ThreadPoolExecutor(workers) as pool:
            sound = {f.tests for f in faults}
            for tests, (status, by, _) in zip(
                sound, pool.map(lambda t: run(lambda c: tested(c, t)), sound), strict=True
            ):
                if status:
                    print(f"without a fault {tests} must pass, but {by} fails")
                    return 2
            results = pool.map(lambda f: run(lambda c: caught(c, f)), faults)
            for k, (fault, (seen, by, seconds)) in enumerate(zip(faults, results, strict=True), 1):
                print(
                    f"[{k}/{len(faults)}] {'red  ' if seen else 'GREEN'} {fault}\n"
                    f"      {by} ({seconds:.0f} s)",
                    flush=True,
                )
                green += [] if seen else [fault]
    finally:
        for copy in everywhere:
            shutil.rmtree(copy, ignore_errors=True)
    print(f"\n{len(faults)} faults planted, {len(green)} not noticed")
    return bool(green)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
