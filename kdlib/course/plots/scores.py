"""Pictures of scores: over epochs, over seeds, and paired seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from kdlib.course.plots.look import COLOURS
from kdlib.stats import Comparison, interval
from kdlib.training import History


def learning_curves(
    histories: Mapping[str, History | Sequence[History]],
    column: str = "validation_accuracy",
    ax: Axes | None = None,
    colours: Mapping[str, str] | None = None,
) -> Axes:
    """Draw one line for each training, labelled at its end.

    Several seeds of one training become a single line, their mean at each epoch, on a band from the
    smallest of them to the largest. The band is not a confidence interval.

    Args:
        histories: one history, or one for each seed, by the name to write beside the line.
        column: a column of ``History.frame``.
        ax: axes to draw on; new ones by default.
        colours: by name; the names of ``COLOURS`` have theirs.

    Raises:
        ValueError: a history lacks that column or has no epoch, or a name has no history or several of
            unequal length.
    """
    ax = ax or plt.subplots(figsize=(7, 4))[1]
    for name, runs in histories.items():
        curves = _by_epoch(name, [runs] if isinstance(runs, History) else runs, column)
        colour = (colours or COLOURS).get(name, COLOURS["ink"])
        ax.plot(
            curves.index, curves.mean(axis=1, skipna=False), color=colour, marker=".", label=name
        )
        if curves.shape[1] > 1:
            low, high = curves.min(axis=1), curves.max(axis=1)
            ax.fill_between(curves.index, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.set(xlabel="epoch", ylabel=column.replace("_", " "))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label_ends(ax)
    return ax


def paired_dots(
    scores: Mapping[str, Sequence[float]],
    ylabel: str,
    ax: Axes | None = None,
    colours: Mapping[str, str] | None = None,
) -> Axes:
    """Draw the scores of several treatments on the same seeds; a thin line joins those of each seed.

    Args:
        scores: one sequence for each treatment, with the seeds in the same order.
        ylabel: what is scored, with its unit.
        ax: axes to draw on; new ones by default.
        colours: by treatment.

    Raises:
        ValueError: the treatments differ in their number of seeds.
    """
    table = {name: np.asarray(values, dtype=float) for name, values in scores.items()}
    lengths = {len(values) for values in table.values()}
    if len(lengths) != 1:
        raise ValueError(f"scores must be equally many in every treatment, got {sorted(lengths)}")
    ax = ax or plt.subplots(figsize=(6, 4))[1]
    ax.plot(range(len(table)), np.stack(list(table.values())), color="#cccccc", linewidth=1)
    for place, (name, values) in enumerate(table.items()):
        colour = (colours or COLOURS).get(name, COLOURS["ink"])
        ax.plot([place] * len(values), values, "o", color=colour, alpha=0.8)
        ax.hlines(values.mean(), place - 0.18, place + 0.18, color=colour, linewidth=3)
        ax.annotate(
            f"{values.mean():,.0f}" if values.mean() >= 100 else f"{values.mean():.3g}",
            (place + 0.22, values.mean()),
            color=colour,
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    ax.set_xticks(range(len(table)), list(table))
    ax.set(ylabel=ylabel, xlim=(-0.5, len(table) - 0.3))
    return ax


def measurements(
    scores: Mapping[str, Sequence[float]],
    xlabel: str,
    ax: Axes | None = None,
    colours: Mapping[str, str] | None = None,
    paper: Mapping[str, float] | None = None,
) -> Axes:
    """Draw scores in rows: a dot for each seed; at the right their mean and its 95 % interval.

    Args:
        scores: one number for each seed, at least two, by name; drawn from top to bottom.
        xlabel: what is scored, with its unit.
        ax: axes to draw on; by default new ones, taller for more entries.
        colours: by name; the names of ``COLOURS`` have theirs.
        paper: a paper's own numbers by name, drawn as diamonds.

    Raises:
        ValueError: there is no entry, or one has fewer than two numbers.
    """
    if not scores:
        raise ValueError("scores must have at least one entry, got none")
    rows = len(scores)
    ax = ax or plt.subplots(figsize=(8, 1.1 + 0.36 * rows), layout="constrained")[1]
    for place, (name, values) in enumerate(scores.items()):
        colour = (colours or COLOURS).get(name, COLOURS["ink"])
        of_all = interval(values)
        ax.hlines(place, of_all.low, of_all.high, color=colour, linewidth=2, alpha=0.5)
        ax.plot(values, [place] * len(values), "o", color=colour, alpha=0.6)
        beside = {"transform": ax.get_yaxis_transform(), "va": "center"}
        ax.text(1.02, place, str(of_all), color=colour, **beside)
        if paper and name in paper:
            ax.plot(paper[name], place, "D", color=COLOURS["ink"], fillstyle="none", markersize=9)
    ax.set_yticks(range(rows), list(scores))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set(xlabel=xlabel, ylim=(rows - 0.5, -0.5))
    return ax


def paired_differences(
    comparisons: Mapping[str, Comparison],
    xlabel: str,
    ax: Axes | None = None,
    colours: Mapping[str, str] | None = None,
) -> Axes:
    """Draw paired comparisons in rows: each mean difference with its interval, and both in numbers.

    The sign is that of the Comparison, ``a - b``: right of the zero line ``a`` scored higher.

    Args:
        comparisons: made by :func:`kdlib.paired`, by name; drawn from top to bottom.
        xlabel: what differs from what, with its unit.
        ax: axes to draw on; by default new ones, taller for more entries.
        colours: by name; the names of ``COLOURS`` have theirs.

    Raises:
        TypeError: an entry is not a Comparison.
        ValueError: there is no entry.
    """
    if not comparisons:
        raise ValueError("comparisons must have at least one entry, got none")
    for name, comparison in comparisons.items():
        if not isinstance(comparison, Comparison):
            raise TypeError(
                f"comparisons must be made by kd.paired(a, b), got {comparison!r} for {name!r}"
            )
    width = np.median([c.high - c.low for c in comparisons.values()]) or 1.0
    decimals = int(np.clip(2.5 - np.log10(width), 0, 6))  # two or three digits of the width
    rows = len(comparisons)
    ax = ax or plt.subplots(figsize=(7, 1.1 + 0.36 * rows), layout="constrained")[1]
    ax.axvline(0, color="#999999", linewidth=1)
    for place, (name, c) in enumerate(comparisons.items()):
        colour = (colours or COLOURS).get(name, COLOURS["ink"])
        ax.hlines(place, c.low, c.high, color=colour, linewidth=2)
        ax.plot(c.difference, place, "o", color=colour)
        mean, low, high = (f"{x:+,.{decimals}f}" for x in (c.difference, c.low, c.high))
        beside = {"transform": ax.get_yaxis_transform(), "va": "center"}
        ax.text(1.02, place, f"{mean} [{low}, {high}]", color=colour, **beside)
    ax.set_yticks(range(rows), list(comparisons))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set(xlabel=xlabel, ylim=(rows - 0.5, -0.5))
    return ax


def _label_ends(ax: Axes) -> None:
    """Write each line's label at its end, far enough from its neighbour's to be legible."""
    low, high = ax.get_ylim()
    height = -np.inf
    for line in sorted(ax.lines, key=lambda line: line.get_ydata()[-1]):
        x, y = line.get_xdata()[-1], line.get_ydata()[-1]
        height = max(y, height + 0.06 * (high - low))
        text = ax.annotate(line.get_label(), (x, height), (6, 0), textcoords="offset points")
        text.set(color=line.get_color(), va="center", annotation_clip=False)


def _by_epoch(name: str, runs: Sequence[History], column: str) -> pd.DataFrame:
    """The column of each of these trainings: one row for each epoch, one column for each training."""
    frames = [history.frame for history in runs]
    if not frames:
        raise ValueError(f"histories must have at least one history of {name!r}, got none")
    for frame in frames:
        if column not in frame:
            raise ValueError(f"column must be one of {', '.join(frame.columns)}, got {column!r}")
    lengths = [len(frame) for frame in frames]
    if len(set(lengths)) != 1:
        raise ValueError(
            f"histories of {name!r} must be equally long to have a mean at each epoch, got {lengths} "
            "epochs; give those that differ names of their own"
        )
    if lengths[0] == 0:
        raise ValueError(f"histories of {name!r} must have at least one finished epoch, got none")
    return pd.concat([frame.set_index("epoch", drop=False)[column] for frame in frames], axis=1)
