"""Protocols as lists of settings: ``python -m kdlib.reproduce NAME`` runs one and can be resumed.

A setting is one line of a table: a way of teaching, the rates it is tried with on validation, and
its seeds. Its rows are appended whole to a tidy CSV file, and a finished setting is not run again.
The tables that travel with the package are read by :func:`results`.
"""

from __future__ import annotations

from kdlib.reproduce.run import hardware, run
from kdlib.reproduce.settings import PROTOCOLS, Published, Row, Setting, recipe_hash, settings
from kdlib.reproduce.tables import COLUMNS, against_the_paper, measured, results, ship

__all__ = [
    "COLUMNS",
    "PROTOCOLS",
    "Published",
    "Row",
    "Setting",
    "against_the_paper",
    "hardware",
    "measured",
    "recipe_hash",
    "results",
    "run",
    "settings",
    "ship",
]
