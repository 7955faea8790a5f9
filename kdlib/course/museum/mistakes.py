"""Real bugs of distillation code, each beside its right twin: all themes gathered under one name.

The right twins are kdlib's own functions, or a few lines around them. A wrong twin can stand
wherever its right one does: it takes the same arguments and returns the same kind of result.
Networks come in train mode, as they are built; code that forgets ``eval()`` is wrong only there.
"""

from kdlib.course.museum import born_again, evaluation, features, pairing, soft_targets, state
from kdlib.course.museum.born_again import *
from kdlib.course.museum.evaluation import *
from kdlib.course.museum.features import *
from kdlib.course.museum.pairing import *
from kdlib.course.museum.soft_targets import *
from kdlib.course.museum.state import *
from kdlib.course.museum.story import Mistake, stories_in

__all__ = ["MISTAKES", "Mistake"]

# The catalogue lists them in this order, and lessons find them by their number.
_THEMES = (soft_targets, state, pairing, features, born_again, evaluation)
MISTAKES: tuple[Mistake, ...] = tuple(story for theme in _THEMES for story in stories_in(theme))
