"""The look of the course: colours that mean the same in every lesson, axes, alt texts."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_INKS = sns.color_palette("colorblind").as_hex()
# Safe for colour-blind readers, and the same in every lesson.
COLOURS = {
    "teacher": _INKS[0],
    "student": _INKS[1],
    "soft": _INKS[2],
    "hard": _INKS[3],
    "control": _INKS[7],
    "ink": "#333333",
}


def style() -> None:
    """Set the look of the course: white paper (readable on a dark page too), few lines, no boxes."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        rc={
            "figure.facecolor": "white",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 12,
            "axes.titlelocation": "left",
            "figure.constrained_layout.use": True,
            "text.color": COLOURS["ink"],
        },
    )


def show(figure: Figure, alt: str) -> None:
    """Show a finished figure once, with a text that describes it.

    Args:
        figure: closed afterwards, so that it is not shown a second time.
        alt: for readers who cannot see it, and for pages made from the notebook.
    """
    from IPython.display import display

    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110, facecolor="white")
    plt.close(figure)
    bundle = {"image/png": png.getvalue(), "text/plain": alt}
    display(bundle, metadata={"image/png": {"alt": alt}}, raw=True)


def labelled_line(
    ax: Axes, x: Sequence[float], y: Sequence[float], name: str, colour: str, marker: str = ""
) -> None:
    """Draw a line with its name at its end, where the eye already is."""
    x, y = list(x), list(y)
    ax.plot(x, y, color=colour, marker=marker)
    ax.annotate(name, (x[-1], y[-1]), (6, 0), textcoords="offset points", color=colour, va="center")


def temperature_axis(ax: Axes) -> Axes:
    """Make the x axis logarithmic, with plain numbers from 0.25 to 50, the range of the sliders."""
    ax.set(xscale="log", xlabel="temperature")
    ax.set_xticks([0.25, 1, 4, 20, 50], ["¼", "1", "4", "20", "50"])
    ax.minorticks_off()
    return ax
