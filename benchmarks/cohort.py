"""How much faster is a cohort than training its students one by one?

12 temperatures x 10 seeds of 2 x 100 and of 2 x 30 units, 10,000 images of noise (their values do not
matter here), a teacher of 2 x 1200, 2 epochs. One by one means that every student has its own objective
and so its own teacher pass, then fit and evaluate. The third way trains one by one, too, but on a table
of the teacher's logits computed once: the cohort's gain over it comes from batched products, and from
not scoring the validation images after every epoch. The ways take turns in one process on one thread;
times are medians of processor time. The last line is the ratio of one by one to the cohort, for 2 x 30.

``python benchmarks/cohort.py [ROUNDS]``
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

import kdlib as kd

TEMPERATURES = np.geomspace(1, 20, 12)
SEEDS = range(10)


def noise(images: int = 10_000, held_out: int = 1_000) -> kd.data.Data:
    draws = np.random.default_rng(0)
    x = draws.standard_normal((images + 2 * held_out, 1, 28, 28), dtype=np.float32)
    y = draws.integers(0, 10, len(x))
    test = slice(images + held_out, None)
    rest = slice(0, images + held_out)
    return kd.data.from_arrays(
        x[rest], y[rest], x[test], y[test], validation=held_out, device="cpu"
    )


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def compared(width: int, data: kd.data.Data, rounds: int) -> float:
    teacher, recipe = kd.models.mlp(1200), kd.Recipe(epochs=2)

    def build(seed: int):
        return kd.models.mlp(width, seed=seed)

    def objectives(taught_by):
        return [kd.SoftTargets(taught_by, T, alpha=0.9) for T in TEMPERATURES]

    def one_by_one(taught_by=teacher):
        for place in range(len(TEMPERATURES)):
            for seed in SEEDS:
                student, objective = build(seed), objectives(taught_by)[place]
                kd.fit(student, objective, data, recipe, seed=seed, progress=False)
                for split in (data.validation, data.test):
                    kd.evaluate(student, split)

    def on_one_table():
        rows = kd.logits(teacher, data.train)
        table = torch.zeros(int(data.train.index.max()) + 1, rows.shape[-1])
        table[data.train.index] = rows
        one_by_one(table)

    def together():
        kd.fit_cohort(build, objectives(teacher), data, recipe, SEEDS, progress=False)

    ways = (together, one_by_one, on_one_table)
    times = [[seconds(way) for way in ways] for _ in range(rounds)]
    cohort, alone, table = (statistics.median(side) for side in zip(*times, strict=True))
    students = len(TEMPERATURES) * len(SEEDS)
    print(
        f"2 x {width:<4} {students} students: cohort {cohort:6.1f} s, one by one {alone:6.1f} s, "
        f"{alone / cohort:.1f} times; on one table {table:6.1f} s, {table / cohort:.1f} times",
        flush=True,
    )
    return alone / cohort


def main(rounds: int = 3) -> None:
    torch.set_num_threads(1)
    data = noise()
    kd.fit(kd.models.mlp(30), kd.CrossEntropy(), data, kd.Recipe(epochs=1), progress=False)  # warm
    ratios = {width: compared(width, data, rounds) for width in (100, 30)}
    print(f"ratio: {ratios[30]:.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
