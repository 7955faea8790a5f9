"""Protocols as lists of settings; ``python -m kdlib.reproduce NAME`` runs one and resumes it.

A setting is one line of a table: a way of teaching, the learning rates to try on validation, and the
seeds. Its rows are appended to a tidy CSV file in one piece, and a finished setting is not run again.
:func:`results` reads the tables that ship with the package.
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
