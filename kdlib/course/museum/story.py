"""A bug and its story: a decorator right above the bug tells its symptom and where it was seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Mistake:
    """A bug, its right twin, and its story.

    Attributes:
        name: short, in snake_case.
        right: the correct code.
        wrong: the bug; it takes the arguments of ``right`` and returns the same kind of result.
        symptom: what a user of the code notices.
        source: where it was seen; a project is named only if its own public issue reports the bug.
    """

    name: str
    right: Callable
    wrong: Callable
    symptom: str
    source: str


def mistake(
    right: Callable, symptom: str, source: str = "seen in public code"
) -> Callable[[Callable], Callable]:
    """Tell the story of the function below; the function itself is returned unchanged."""

    def tell(wrong: Callable) -> Callable:
        wrong.story = Mistake(wrong.__name__, right, wrong, symptom, source)
        return wrong

    return tell


def stories_in(theme: ModuleType) -> list[Mistake]:
    """The mistakes of one theme, in the order of its file."""
    stories = (getattr(thing, "story", None) for thing in vars(theme).values())
    return [story for story in stories if isinstance(story, Mistake)]
