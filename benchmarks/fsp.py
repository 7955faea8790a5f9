"""How much faster is the FSP term as one batched product, and how much less memory does it need?

The three pairs of layers of a ResNet-32 on 64 images of 32 x 32 pixels: random maps of the student and of
the teacher are brought to one size by the same max pool and turned into matrices and the loss, then the
gradients flow back to the student's maps. One side is kdlib's ``fsp_matrix``; the other forms the
broadcast product of 64 x C1 x C2 x H W numbers and averages it, as public code does. Then each side takes
a whole step of the first stage: a ResNet-32's pass up to its third stage, the term, gradients, SGD; the
teacher's maps are given there, too. Both sides take turns in one process on one thread; times are medians
of processor time (of wall time on a GPU). Memory is the peak beyond what was held before, as the
allocator reports it; since both sides need the gradients of the maps, the ratio is given with and without
them. The last line is how many times faster the FSP term is.

``python benchmarks/fsp.py [ROUNDS [IMAGES]]``
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import kdlib as kd
from kdlib.course.museum.mistakes import broadcast_product
from kdlib.losses import fsp_loss, fsp_matrix
from kdlib.taps import reach

LAYERS = {"stem": (16, 32), "stage1": (16, 32), "stage2": (32, 16), "stage3": (64, 8)}
PAIRS = [("stem", "stage1"), ("stage1", "stage2"), ("stage2", "stage3")]
WAYS = {"kdlib": fsp_matrix, "broadcast product": broadcast_product}

Matrix = Callable[[Tensor, Tensor], Tensor]
Maps = dict[str, Tensor]


def random_maps(seed: int, images: int = 64, device: str = "cpu") -> Maps:
    draws = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(images, channels, size, size, generator=draws).to(device)
        for name, (channels, size) in LAYERS.items()
    }


def term(matrix: Matrix, student: Maps, teacher: Maps) -> Tensor:
    ours, theirs = (
        [matrix(maps[first], maps[second]) for first, second in PAIRS]
        for maps in (student, teacher)
    )
    return fsp_loss(ours, theirs)


def gradients(matrix: Matrix, student: Maps, teacher: Maps) -> tuple[Tensor, ...]:
    """Gradients of the term with respect to the student's maps."""
    leaves = {name: maps.detach().requires_grad_() for name, maps in student.items()}
    return torch.autograd.grad(term(matrix, leaves, teacher), leaves.values())


class Step:
    """A training step of the first stage, each time it is called."""

    def __init__(self, matrix: Matrix, teacher: Maps) -> None:
        self.matrix, self.teacher = matrix, teacher
        images, _, height, _ = teacher["stem"].shape
        device = teacher["stem"].device
        draws = torch.Generator().manual_seed(2)
        self.inputs = torch.randn(images, 3, height, height, generator=draws).to(device)
        self.student = kd.models.resnet(32).to(device)
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=1e-4, momentum=0.9)

    def __call__(self) -> None:
        term(self.matrix, reach(self.student, self.inputs, list(LAYERS)), self.teacher).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def seconds(work: Callable[[], object], device: str) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    wait(device)
    started = clock()
    work()
    wait(device)
    return clock() - started


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def memory(work: Callable[[], object], device: str) -> tuple[float, float]:
    """The peak of memory in MiB beyond what was held before, and the part that the result holds."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = work()
        most, left = (
            torch.cuda.max_memory_allocated() - before,
            torch.cuda.memory_allocated() - before,
        )
    else:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            result = work()
        held = list(accumulate(allocations(record), initial=0))
        most, left = max(held), held[-1]
    del result
    return most / 2**20, left / 2**20


def allocations(record: profile) -> list[int]:
    """Bytes allocated, negative if freed, in order of time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    events = sorted((e for e in events if e["name"] == "[memory]"), key=lambda event: event["ts"])
    return [event["args"]["Bytes"] for event in events]


def compared(
    what: str, works: dict[str, Callable[[], object]], rounds: int, device: str
) -> dict[str, float]:
    """Print a line for each side; return how many times better the first is than the second."""
    for work in works.values():
        work()  # warm
    times = [[seconds(work, device) for work in works.values()] for _ in range(rounds)]
    took = [statistics.median(side) for side in zip(*times, strict=True)]
    held = [memory(work, device) for work in works.values()]
    for name, time_, (most, left) in zip(works, took, held, strict=True):
        gradients = f", {left:.1f} of them gradients" if left else ""
        print(f"{what:21} {name:17} {1e3 * time_:7.1f} ms {most:6.1f} MiB{gradients}")
    ratios = {
        "time": took[1] / took[0],
        "memory": held[1][0] / held[0][0],
        "beyond": (held[1][0] - held[1][1]) / (held[0][0] - held[0][1]),
    }
    beyond = f", {ratios['beyond']:.1f} times beyond the gradients" if held[0][1] else ""
    print(f"  {ratios['time']:.1f} times faster, {ratios['memory']:.1f} times less memory{beyond}")
    return ratios


def main(rounds: int = 15, images: int = 64) -> None:
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    student, teacher = (random_maps(seed, images, device) for seed in (0, 1))
    terms = {name: lambda way=way: gradients(way, student, teacher) for name, way in WAYS.items()}
    steps = {name: Step(way, teacher) for name, way in WAYS.items()}
    ratios = compared("FSP term", terms, rounds, device)
    compared("whole step of stage 1", steps, max(rounds // 3, 1), device)
    print(f"ratio: {ratios['time']:.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
