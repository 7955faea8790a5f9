"""Lines on standard output that never stop the work they report on."""

from __future__ import annotations

import os
import sys


def say(line: str = "") -> None:
    """Print a line: escapes stand for what the output cannot encode, and a closed output stops nothing."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except (OSError, ValueError):  # a pipe closed by its reader, a full disk, a closed file
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  for the lines to come
