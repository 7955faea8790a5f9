"""Seeds: a scope for building networks, and streams of random numbers keyed by seed and epoch."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from numbers import Integral
from threading import RLock

import numpy as np
import torch

_alone = RLock()  # the generators and the default dtype belong to the process, not to a thread


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch, numpy and ``random`` draw from ``seed``; afterwards all is as the caller had it.

    New tensors are float32 on the CPU inside, whatever the caller's default dtype and default device, so
    that one seed gives one network. The generators belong to the whole process: while one thread is inside,
    another waits to enter.

    >>> with seeded(1):
    ...     first = torch.nn.Linear(3, 2)
    >>> with seeded(1):
    ...     second = torch.nn.Linear(3, 2)
    >>> torch.equal(first.weight, second.weight)
    True
    """
    check_seed(seed)
    with forked():
        reseed(seed)
        yield


@contextmanager
def forked() -> Iterator[None]:
    """Restore the caller's generators and defaults afterwards, whatever is drawn or set inside."""
    # Asking an unused GPU for its state would initialise it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with _alone, torch.random.fork_rng(devices=devices), _cpu():
        mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
        others = random.getstate(), np.random.get_state()
        dtype = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float32)
            yield
        finally:
            torch.set_default_dtype(dtype)
            random.setstate(others[0])
            np.random.set_state(others[1])
            if mps is not None:
                torch.mps.set_rng_state(mps)


def _cpu() -> AbstractContextManager:
    """Make the CPU the default device, at no cost where it is already."""
    on_cpu = torch.get_default_device() == torch.device("cpu")
    return nullcontext() if on_cpu else torch.device("cpu")


def reseed(seed: int) -> None:
    """Seed the generators that :func:`forked` restores, and no others."""
    seed = int(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # it takes no larger one
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def key(seed: int, epoch: int, purpose: str) -> int:
    """The seed of one stream; other seeds, epochs and purposes give unrelated ones."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def stream(
    seed: int, epoch: int, purpose: str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A separate generator for each purpose and epoch; resuming needs no generator state."""
    return torch.Generator(device).manual_seed(key(seed, epoch, purpose))


def check_seed(seed: int, name: str = "seed") -> None:
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise TypeError(f"{name} must be a whole number, got {seed!r}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"{name} must be from 0 to 2**63 - 1, got {seed}")
