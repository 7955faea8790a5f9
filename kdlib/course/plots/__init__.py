"""Pictures: axes in, axes out. Each colour has one meaning in the whole course.

``look`` holds colours, axes and alt texts, ``networks`` what networks predict, ``scores`` how well they do.
"""

from kdlib.course.plots.look import COLOURS, labelled_line, show, style, temperature_axis
from kdlib.course.plots.networks import (
    confusion_matrix,
    gallery,
    reliability_diagram,
    soft_target_bars,
    temperature_figure,
)
from kdlib.course.plots.scores import (
    learning_curves,
    measurements,
    paired_differences,
    paired_dots,
)

__all__ = [
    "COLOURS",
    "confusion_matrix",
    "gallery",
    "labelled_line",
    "learning_curves",
    "measurements",
    "paired_differences",
    "paired_dots",
    "reliability_diagram",
    "show",
    "soft_target_bars",
    "style",
    "temperature_axis",
    "temperature_figure",
]
