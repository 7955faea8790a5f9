"""How much faster is kdlib than a plain PyTorch loop, at equal accuracy, and what limits it?

A student of 2 x 800 learns from a teacher of 2 x 1200 at T = 20, on 10,000 MNIST images, for 15 epochs in
batches of 128. The plain loop is the usual one: a torchvision data set with ToTensor and Normalize, a
DataLoader (with the number of workers that a trial finds fastest), a teacher pass on every batch,
``loss.item()`` in every step, float32. kdlib's time is all of ``fit``, the teacher's pass included.
Loading images into memory and scoring are left out on both sides. Both start from the same weights with
the same schedule and take turns in one process, seed by seed; images per second are medians over the
seeds, errors are paired by seed. Then a profile shows where the time of kdlib's epochs goes (the
profiler's own time counts as Python), and how near its matrix products come to the speed of large ones
here. The last line is the ratio of the speeds.

``python benchmarks/training.py [SEEDS [EPOCHS]]``
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import time
from datetime import date
from importlib.util import find_spec

import torch

for needed in ("torchvision", "safetensors", "tqdm", "scipy"):
    if find_spec(needed) is None:
        print(f"skipped: the benchmark of training needs {needed}")
        raise SystemExit

import torchvision
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

import kdlib as kd
from kdlib.reproduce import hardware
from kdlib.training import autocast_dtype

T, ALPHA, RATE, BATCH = 20.0, 0.9, 0.03, 128


class Images(torchvision.datasets.MNIST):
    """torchvision's data set, with the images that kdlib has loaded already."""

    def __init__(self, split: kd.data.Split) -> None:
        low, high = split.inputs.min(), split.inputs.max()
        self.data = ((split.inputs[:, 0] - low) / (high - low) * 255).round().byte().cpu()
        self.targets = split.labels.cpu()
        self.target_transform = None
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
        )


def plain(data, teacher, seed: int, epochs: int, workers: int) -> torch.nn.Module:
    """Train with the loop as it is usually written."""
    device = data.train.inputs.device
    loader = DataLoader(
        Images(data.train), BATCH, shuffle=True, drop_last=True, num_workers=workers,
        pin_memory=device.type == "cuda", persistent_workers=workers > 0,
    )  # fmt: skip
    student = kd.models.mlp(800, seed=seed).to(device)
    teacher.to(device).eval()
    optimizer = torch.optim.SGD(student.parameters(), RATE, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=epochs * len(loader), cycle_momentum=False
    )
    for _ in range(epochs):
        student.train()
        total = 0.0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            with torch.no_grad():
                targets = F.softmax(teacher(images) / T, dim=1)
            logits = student(images)
            soft = F.kl_div(F.log_softmax(logits / T, dim=1), targets, reduction="batchmean")
            loss = ALPHA * T**2 * soft + (1 - ALPHA) * F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.item()
    return student


def fitted(data, teacher, seed: int, epochs: int, precision: str) -> torch.nn.Module:
    student = kd.models.mlp(800, seed=seed)
    recipe = kd.Recipe(epochs=epochs, batch_size=BATCH, learning_rate=RATE, precision=precision)
    kd.fit(student, kd.SoftTargets(teacher, T, ALPHA), data, recipe, seed=seed, progress=False)
    return student


def seconds(work, data) -> tuple[float, object]:
    wait(data.train.inputs.device)
    started = time.perf_counter()
    result = work()
    wait(data.train.inputs.device)
    return time.perf_counter() - started, result


def wait(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def fastest_workers(data, teacher) -> int:
    """The number of workers with the fastest second epoch: starting them up does not count."""
    trials = {}
    plain(data, teacher, 0, 1, 0)  # warm
    for workers in [w for w in (0, 2, 4, 8) if w <= os.cpu_count()]:
        one, two = (
            seconds(lambda e=e, w=workers: plain(data, teacher, 0, e, w), data)[0] for e in (1, 2)
        )
        trials[workers] = two - one
    print("second epoch of the plain loop:", end=" ")
    print(", ".join(f"{took:.1f} s with {workers} workers" for workers, took in trials.items()))
    return min(trials, key=trials.get)


def compared(data, teacher, seeds: int, epochs: int) -> float:
    """Print both sides' speeds and errors; return the ratio of kdlib's speed to the plain loop's."""
    train = dataclasses.replace(data, validation=None)
    workers = fastest_workers(train, teacher)
    ways = {f"plain loop, {workers} workers": lambda s: plain(train, teacher, s, epochs, workers)}
    lower = autocast_dtype("auto", data.train.inputs.device)
    for precision in ["float32"] if lower is None else ["float32", "auto"]:
        dtype = "float32" if precision == "float32" else str(lower).removeprefix("torch.")
        ways[f"kdlib, {dtype}"] = lambda s, p=precision: fitted(train, teacher, s, epochs, p)
        fitted(train, teacher, 0, 1, precision)  # warm
    images = epochs * data.train.steps(BATCH) * BATCH
    speeds, errors = {name: [] for name in ways}, {name: [] for name in ways}
    for seed in range(1, seeds + 1):
        for name, way in ways.items():
            took, student = seconds(lambda way=way, seed=seed: way(seed), data)
            speeds[name].append(images / took)
            errors[name].append(kd.evaluate(student, data.test).errors)
    first = next(iter(ways))
    for name in ways:
        speed = statistics.median(speeds[name])
        line = f"{name:24} {speed:9,.0f} images/s   {statistics.mean(errors[name]):6.1f} errors"
        if name != first:
            ratio = speed / statistics.median(speeds[first])
            difference = kd.paired(errors[name], errors[first], lower_is_better=True)
            line += f"   {ratio:.2f} times; {difference}"
        print(line, flush=True)
    return ratio


KINDS = {
    "matrix products": ("mm", "addmm", "bmm"),
    "optimizer": ("_fused_sgd_",),
    "gathering batches": ("index_select",),
    "casts and copies": ("copy_",),
    "ReLU": ("clamp_min", "threshold_backward", "relu"),
}
REST = "loss, sums, the rest"


def profiled(data, teacher, epochs: int = 3) -> None:
    """Print where the time of an epoch goes."""
    data = dataclasses.replace(data, validation=None)
    device = data.train.inputs.device
    objective, student = kd.SoftTargets(teacher, T, ALPHA), kd.models.mlp(800)

    def fit(**changes):
        recipe = kd.Recipe(batch_size=BATCH, learning_rate=RATE, **changes)
        return kd.fit(student, objective, data, recipe, progress=False).frame["seconds"].sum()

    fit(epochs=1)  # makes the teacher's table, which later fits reuse
    with FlopCounterMode(display=False) as counter:
        fit(iterations=1)
    work = counter.get_total_flops() * epochs * data.train.steps(BATCH)
    unwatched = fit(epochs=epochs)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as record:
        wall = fit(epochs=epochs)
    spent = dict.fromkeys([*KINDS, REST], 0.0)
    for event in record.key_averages():
        if event.key.startswith("aten::"):
            on_gpu = device.type == "cuda"
            took = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            name = event.key.removeprefix("aten::")
            spent[next((kind for kind, names in KINDS.items() if name in names), REST)] += (
                took / 1e6
            )
    rest = "Python, autograd" if device.type == "cpu" else "waiting for Python"
    spent[rest] = wall - sum(spent.values())
    print(
        f"\nprofile of {epochs} epochs, {wall:.2f} s, and {unwatched:.2f} s without the profiler:"
    )
    for kind, took in spent.items():
        print(f"  {kind:24} {took / wall:5.0%}")
    best, reached = large_products(device), work / spent["matrix products"]
    print(
        f"  matrix products run at {reached / 1e9:,.0f} GFLOP/s, {reached / best:.0%} of the "
        f"{best / 1e9:,.0f} that large ones reach here; an epoch as a whole at "
        f"{work / unwatched / best:.0%}"
    )


def large_products(device: torch.device) -> float:
    """FLOP/s of square matrix products in the dtype that fit uses here, the better of two sizes."""
    dtype = autocast_dtype("auto", device) or torch.float32
    rates = []
    for size in (1024, 2048) if device.type == "cpu" else (4096, 8192):
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        times = []
        for _ in range(12):
            wait(device)
            started = time.perf_counter()
            a @ b
            wait(device)
            times.append(time.perf_counter() - started)
        rates.append(2 * size**3 / statistics.median(times))
    return max(rates)


def main(seeds: int = 5, epochs: int = 15) -> None:
    if seeds < 2:
        raise SystemExit(f"SEEDS must be at least 2, to pair errors, got {seeds}")
    try:
        whole = kd.data.load("mnist")
    except FileNotFoundError as error:
        print(f"skipped: {error}")
        return
    recipe = kd.Recipe(epochs=8, augment=kd.data.shift(2))
    teacher = kd.keep(
        lambda seed: kd.models.mlp(1200, dropout=0.5, seed=seed), kd.CrossEntropy(), whole, recipe
    )
    data = whole.limit(10_000)
    print(
        f"{date.today()}, {hardware()}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"{seeds} seeds, {epochs} epochs"
    )
    ratio = compared(data, teacher, seeds, epochs)
    if data.train.inputs.device.type != "mps":  # which the profiler does not support
        profiled(data, teacher)
    print(f"ratio: {ratio:.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
