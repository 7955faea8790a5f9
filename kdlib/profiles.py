"""How much a notebook computes: ``lesson`` for readers, ``smoke`` for tests."""

from __future__ import annotations

import os
from typing import TypeVar

Value = TypeVar("Value")


def pick(*, smoke: Value, lesson: Value) -> Value:
    """The value of the profile that the environment variable ``KDLIB_PROFILE`` names.

    ``lesson`` is the default: at most five minutes a notebook on two cores. ``smoke`` takes seconds
    and the bundled digits; its numbers mean nothing.

    Raises:
        ValueError: ``KDLIB_PROFILE`` is neither.

    >>> pick(smoke="digits", lesson="mnist")
    'mnist'
    """
    name = os.environ.get("KDLIB_PROFILE") or "lesson"
    if name == "smoke":
        return smoke
    if name == "lesson":
        return lesson
    raise ValueError(f"KDLIB_PROFILE must be smoke or lesson, got {name!r}; unset it for lesson")
