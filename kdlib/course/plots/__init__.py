"""Pictures: axes in, axes out. One colour has one meaning for the whole course."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from numbers import Integral

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from torch import Tensor

from kdlib.losses import soften
from kdlib.stats import Comparison, interval
from kdlib.training import History

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

_INKS = sns.color_palette("colorblind").as_hex()
# Colour-blind safe, and the same in every lesson.
COLOURS = {
    "teacher": _INKS[0],
    "student": _INKS[1],
    "soft": _INKS[2],
    "hard": _INKS[3],
    "control": _INKS[7],
    "ink": "#333333",
}


def style() -> None:
    """The look of the course: white paper (readable on a dark page too), few lines, no boxes."""
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
    """Show a finished figure once, with a text that says what it shows.

    Args:
        figure: closed afterwards, so that it is not shown a second time.
        alt: for readers who cannot see it, and for pages made from the notebook.
    """
    from IPython.display import display

    bundle, metadata = _bundle(figure, alt)
    plt.close(figure)
    display(bundle, metadata=metadata, raw=True)


def learning_curves(
    histories: Mapping[str, History | Sequence[History]],
    column: str = "validation_accuracy",
    ax: Axes | None = None,
    colours: Mapping[str, str] | None = None,
) -> Axes:
    """One line a training, labelled at its end.

    Several seeds of a training are one line too: their mean at each epoch, on a band from the
    smallest of them to the largest. The band is no confidence interval.

    Args:
        histories: by the name to write beside the line, one or several (one a seed).
        column: of ``History.frame``.
        ax: where to draw; new ones if not given.
        colours: by name; names of ``COLOURS`` have theirs.

    Raises:
        ValueError: a history without that column or any epoch, or under one name none at all or
            several of unequal length.
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


def labelled_line(
    ax: Axes, x: Sequence[float], y: Sequence[float], name: str, colour: str, marker: str = ""
) -> None:
    """A line with its name written at its end, where the eye already is."""
    x, y = list(x), list(y)
    ax.plot(x, y, color=colour, marker=marker)
    ax.annotate(name, (x[-1], y[-1]), (6, 0), textcoords="offset points", color=colour, va="center")


def temperature_axis(ax: Axes) -> Axes:
    """A logarithmic x axis from 0.25 to 50, the range of the sliders, with plain numbers."""
    ax.set(xscale="log", xlabel="temperature")
    ax.set_xticks([0.25, 1, 4, 20, 50], ["¼", "1", "4", "20", "50"])
    ax.minorticks_off()
    return ax


def soft_target_bars(
    probabilities: Tensor | Sequence[float],
    classes: Sequence[str],
    label: int | None = None,
    ax: Axes | None = None,
    log: bool = False,
    colour: str = COLOURS["teacher"],
) -> Axes:
    """A distribution over the classes as bars; the labelled class is outlined in the labels' colour.

    Args:
        probabilities: ``(C,)``.
        classes: C names.
        label: the true class.
        ax: where to draw; new ones if not given.
        log: a logarithmic scale down to 1e-9, where the small probabilities can be seen.
        colour: of the bars.

    Raises:
        ValueError: other than one probability a class.
    """
    probabilities = torch.as_tensor(probabilities, dtype=torch.float64).detach().cpu().numpy()
    if probabilities.shape != (len(classes),):
        raise ValueError(
            f"probabilities must be one for each of the {len(classes)} classes, "
            f"got shape {probabilities.shape}"
        )
    ax = ax or plt.subplots(figsize=(5, 3))[1]
    edges = [COLOURS["hard"] if k == label else "none" for k in range(len(classes))]
    ax.bar(range(len(classes)), probabilities, color=colour, edgecolor=edges, linewidth=2.5)
    _class_ticks(ax, range(len(classes)), classes)
    if log:
        ax.set(yscale="log", ylim=(1e-9, 2))
        ax.set_yticks([1, 1e-3, 1e-6, 1e-9])
    else:
        ax.set(ylim=(0, 1))
    return ax


def gallery(
    images: Tensor,
    probabilities: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    log: bool = False,
    title: str = "",
) -> Figure:
    """Images in a row, each above the teacher's probabilities for it.

    Args:
        images: ``(N, C, H, W)`` with 1 or 3 channels, on any scale.
        probabilities: ``(N, classes)``.
        labels: ``(N,)``.
        classes: their names.
        log: see :func:`soft_target_bars`.
        title: of the whole row.

    Raises:
        ValueError: lengths that differ.
    """
    if not len(images) == len(probabilities) == len(labels):
        raise ValueError(
            f"images, probabilities and labels must be equally many, got {len(images)}, "
            f"{len(probabilities)} and {len(labels)}"
        )
    columns = len(images)
    figure, axes = plt.subplots(
        2, columns, figsize=(2.3 * columns, 3.8), height_ratios=(1.4, 1), squeeze=False
    )
    for k, (picture, bars) in enumerate(axes.T):
        _draw_image(picture, images[k])
        label = int(labels[k])
        picture.set_title(f"label: {classes[label]}", color=COLOURS["hard"], loc="center")
        soft_target_bars(probabilities[k].cpu(), classes, label, bars, log)
        bars.tick_params(labelsize=8)
        if k:
            bars.set_yticklabels([])
    axes[1, 0].set_ylabel("probability")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure


def paired_dots(
    scores: Mapping[str, Sequence[float]],
    ylabel: str,
    ax: Axes | None = None,
    colours: Mapping[str, str] | None = None,
) -> Axes:
    """Scores of several treatments on the same seeds, a thin line joining each seed's.

    Args:
        scores: one sequence a treatment, seed by seed in the same order.
        ylabel: what is scored, with its unit.
        ax: where to draw; new ones if not given.
        colours: by treatment.

    Raises:
        ValueError: treatments with unequal numbers of seeds.
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
    """Scores below each other: a dot a seed, their mean and its 95 % interval in numbers at the right.

    Args:
        scores: one number a seed, at least two, by name, drawn from top to bottom.
        xlabel: what is scored, with its unit.
        ax: where to draw; new ones, the higher the more entries, if not given.
        colours: by name; names of ``COLOURS`` have theirs.
        paper: a paper's own numbers by name, drawn as diamonds.

    Raises:
        ValueError: no entry, or one of fewer than two numbers.
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
    """Paired comparisons below each other: each mean difference, its interval, and both in numbers.

    The sign is the Comparison's, ``a - b``: right of the zero line ``a`` scored higher.

    Args:
        comparisons: of :func:`kdlib.paired`, by name, drawn from top to bottom.
        xlabel: what differs from what, with its unit.
        ax: where to draw; new ones, the higher the more entries, if not given.
        colours: by name; names of ``COLOURS`` have theirs.

    Raises:
        TypeError: an entry that is no Comparison.
        ValueError: no entry.
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


def confusion_matrix(
    predicted: Tensor, labels: Tensor, classes: Sequence[str], ax: Axes | None = None
) -> Axes:
    """How many samples of each labelled class (a row) were answered as each class (a column).

    Only the errors are coloured, by the square root of their count; the right answers, on the
    diagonal, would outshine them and are written in grey. Cells of no sample are empty.

    Args:
        predicted: the classes answered, ``(N,)`` int64, such as ``probabilities.argmax(-1)``.
        labels: ``(N,)`` int64.
        classes: C names.
        ax: where to draw; new ones, the larger the more classes, if not given.

    Raises:
        TypeError: predicted or labels are no int64 tensor.
        ValueError: they are not one class number a sample, or differ in length.
    """
    from sklearn import metrics

    predicted = _class_numbers("predicted", predicted, len(classes))
    labels = _class_numbers("labels", labels, len(classes))
    _check_equally_many("predicted", predicted, labels)
    counts = metrics.confusion_matrix(labels, predicted, labels=range(len(classes)))  # (C, C)
    right = np.eye(len(classes), dtype=bool)
    limits = {"vmin": 0, "vmax": counts[~right].max(initial=0)}
    size = 1.2 + 0.5 * len(classes)
    ax = ax or plt.subplots(figsize=(size, size), layout="constrained")[1]
    sns.heatmap(
        counts,
        mask=right | (counts == 0),
        **limits,
        norm=PowerNorm(0.5, **limits),  # so that a single error is seen beside a hundred
        cmap="Purples",
        annot=True,
        fmt="d",
        square=True,
        cbar=False,
        ax=ax,
    )
    centred = {"ha": "center", "va": "center"}
    for k in np.flatnonzero(counts.diagonal()):
        ax.text(k + 0.5, k + 0.5, counts[k, k], color="#777777", size="small", **centred)
    borders = range(len(classes) + 1)
    for lines in (ax.hlines, ax.vlines):
        lines(borders, 0, len(classes), color="#e5e5e5", linewidth=1, clip_on=False)
    middles = np.arange(len(classes)) + 0.5
    _class_ticks(ax, middles, classes)
    ax.set_yticks(middles, classes, rotation=0)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("answer")
    ax.set_ylabel("label", color=COLOURS["hard"])
    return ax


def reliability_diagram(
    probabilities: Tensor,
    labels: Tensor,
    ax: Axes | None = None,
    bins: int = 15,
    colour: str | None = None,
    name: str | None = None,
) -> Axes:
    """Does a network know how often it is right? Its accuracy against its confidence.

    Samples are put into equal bins by confidence, the probability of the answer. A dot is a bin that
    has samples: their mean confidence and the share of them answered right, with its 95 % interval
    (Wilson). On the diagonal both agree; below it the network is overconfident. The strip on top
    counts each bin's samples on a logarithmic scale. The number is the expected calibration error
    of these bins, with 15 that of :func:`kdlib.evaluate`:
    ``ECE = sum over bins of n_bin / N * |accuracy - confidence|``.

    Call it again with the same axes to lay another network beside the first.

    Source: Guo, Pleiss, Sun, Weinberger 2017, section 2, eq. 3.

    Args:
        probabilities: ``(N, C)``, rows that sum to 1.
        labels: ``(N,)`` int64.
        ax: where to draw; new ones if not given.
        bins: how many.
        colour: of the dots; if not given that of the name in ``COLOURS``.
        name: written in front of the ECE.

    Raises:
        TypeError: probabilities are no tensor, or labels no int64 one.
        ValueError: probabilities that are none, labels that are not one class a sample, or no bins.
    """
    probabilities = _distributions(probabilities)
    labels = _class_numbers("labels", labels, probabilities.shape[1])
    _check_equally_many("probabilities", probabilities, labels)
    if not isinstance(bins, Integral) or bins < 1:
        raise ValueError(f"bins must be a whole number of at least 1, got {bins!r}; 15 is usual")
    ax = ax or plt.subplots(figsize=(6, 5.5), layout="constrained")[1]
    colour = colour or COLOURS.get(name, COLOURS["ink"])
    table = _calibration(probabilities, labels, bins)
    ax.vlines(table["confidence"], table["low"], table["high"], color=colour, alpha=0.5)
    ax.plot(table["confidence"], table["accuracy"], "o", color=colour, clip_on=False)
    strip = _reliability_strip(ax)
    counts = table["n"].reindex(range(bins), fill_value=0)
    strip.stairs(counts, np.linspace(0, 1, bins + 1), color=colour, linewidth=1.5)
    strip.set_ylim(top=max(strip.get_ylim()[1], 2 * len(labels)))
    gap = (table["accuracy"] - table["confidence"]).abs()
    ece = f"ECE {(table['n'] * gap).sum() / len(labels):.4f}"
    text = f"{name}\n{ece}" if name else ece
    lines = 1.4 + 2.9 * (len(ax.texts) - 1)  # below the diagonal's name and the earlier ones
    offset = {"xytext": (0.5, -lines), "textcoords": "offset fontsize"}
    ax.annotate(text, (1, 1), xycoords="axes fraction", color=colour, va="top", **offset)
    return ax


def temperature_figure(
    logits: Tensor,
    image: Tensor,
    label: int,
    classes: Sequence[str],
    temperature: float,
    student_logits: Tensor | None = None,
) -> Figure:
    """An image, its soft targets at T on two scales, and their entropy over T.

    Of more than twelve classes the eleven likeliest and the labelled one have bars.

    Args:
        logits: the teacher's for this image, ``(C,)``.
        image: ``(channels, H, W)`` with 1 or 3 channels, on any scale.
        label: the true class.
        classes: C names.
        temperature: positive and finite.
        student_logits: ``(C,)``; a student's probabilities at T are dots over the bars.

    Raises:
        TypeError, ValueError: logits or a temperature that :func:`kdlib.soften` refuses, or other than one
            logit a class.
    """
    logits = logits.detach().cpu()
    probabilities = soften(logits, temperature)
    figure, (picture, bars, log_bars, curve) = plt.subplots(
        1, 4, figsize=(12.5, 3), width_ratios=(1, 1.6, 1.6, 1.5), layout="constrained"
    )
    _draw_image(picture, image)
    picture.set_title(f"label: {classes[label]}", color=COLOURS["hard"], loc="center")
    shown = torch.arange(len(classes))
    if len(classes) > 12:
        others = probabilities.argsort(descending=True, stable=True)
        shown = torch.cat([others[others != label][:11], torch.tensor([label])])
    names, place = [classes[k] for k in shown], shown.tolist().index(label)
    soft_target_bars(probabilities[shown], names, place, bars)
    soft_target_bars(probabilities[shown], names, place, log_bars, log=True)
    if student_logits is not None:
        dots = soften(student_logits.detach().cpu(), temperature)[shown]
        for ax in (bars, log_bars):
            ax.plot(dots, "o", color=COLOURS["student"])
        bars.text(
            0.98,
            0.95,
            "dots: student",
            color=COLOURS["student"],
            ha="right",
            transform=bars.transAxes,
        )
    bars.set_title(f"soft targets at T = {temperature:.3g}", color=COLOURS["teacher"])
    log_bars.set_title("the same, log scale", color=COLOURS["teacher"])
    grid = torch.logspace(*np.log10([0.25, 50]), 60)
    curve.plot(grid, _entropy(soften(logits, grid[:, None])), color="#999999")
    curve.plot([temperature], [_entropy(probabilities)], "o", color=COLOURS["teacher"], ms=9)
    ceiling = np.log(len(classes))
    curve.axhline(ceiling, color="#cccccc", linestyle=":")
    curve.text(0.25, ceiling, "all classes alike", va="bottom", fontsize=9)
    temperature_axis(curve).set(ylim=(0, ceiling * 1.15), title="entropy (nats)")
    return figure


def _label_ends(ax: Axes) -> None:
    """Write each line's label at its end, far enough from its neighbour's to be read."""
    low, high = ax.get_ylim()
    height = -np.inf
    for line in sorted(ax.lines, key=lambda line: line.get_ydata()[-1]):
        x, y = line.get_xdata()[-1], line.get_ydata()[-1]
        height = max(y, height + 0.06 * (high - low))
        text = ax.annotate(line.get_label(), (x, height), (6, 0), textcoords="offset points")
        text.set(color=line.get_color(), va="center", annotation_clip=False)


def _by_epoch(name: str, runs: Sequence[History], column: str) -> pd.DataFrame:
    """The column of each of these trainings: a row an epoch, a column a training."""
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


def _class_numbers(name: str, values: Tensor, classes: int) -> Tensor:
    """(N,) on the CPU, each from 0 to classes - 1."""
    if not isinstance(values, Tensor) or values.dtype != torch.int64:
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(
            f"{name} must be an int64 tensor (N,) of class numbers, got {kind}; "
            "probabilities.argmax(-1) are some"
        )
    values = values.detach().cpu()
    if values.ndim != 1 or not len(values):
        raise ValueError(
            f"{name} must be one class number for each of at least one sample, "
            f"got shape {tuple(values.shape)}"
        )
    outside = values[(values < 0) | (values >= classes)]
    if len(outside):
        raise ValueError(
            f"{name} must be class numbers from 0 to {classes - 1}, got {int(outside[0])}"
        )
    return values


def _distributions(probabilities: Tensor) -> Tensor:
    """(N, C) on the CPU in float32 or wider, each row a distribution."""
    if not isinstance(probabilities, Tensor):
        raise TypeError(
            f"probabilities must be a tensor (N, C), got {type(probabilities).__name__}; "
            "kd.soften(logits) gives one"
        )
    probabilities = probabilities.detach().cpu()
    probabilities = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
    if probabilities.ndim != 2 or not probabilities.numel():
        raise ValueError(
            "probabilities must be (N, C), a row for each of at least one sample, "
            f"got shape {tuple(probabilities.shape)}"
        )
    sums = probabilities.sum(-1)
    bad = ~((sums - 1).abs() < 0.01) | (probabilities < 0).any(-1)  # nan is bad too
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            "probabilities must be at least 0 and sum to 1 in every row, got a sum of "
            f"{float(sums[row]):.4g} and a smallest of {float(probabilities[row].min()):.4g} in row "
            f"{row}; kd.soften(logits) turns logits into probabilities"
        )
    return probabilities


def _check_equally_many(name: str, values: Tensor, labels: Tensor) -> None:
    if len(values) != len(labels):
        raise ValueError(
            f"{name} and labels must be equally many, got {len(values)} and {len(labels)}"
        )


def _calibration(probabilities: Tensor, labels: Tensor, bins: int) -> pd.DataFrame:
    """Of each bin that has samples: n, hits, confidence, accuracy and its interval (low, high)."""
    from scipy.stats import binomtest

    confidence, predicted = probabilities.max(-1)
    samples = pd.DataFrame(
        {
            "bin": (confidence * bins).long().clamp(0, bins - 1).numpy(),  # as in kd.evaluate
            "confidence": confidence.double().numpy(),
            "right": (predicted == labels).numpy(),
        }
    )
    table = samples.groupby("bin").agg(
        n=("right", "size"),
        hits=("right", "sum"),
        confidence=("confidence", "mean"),
        accuracy=("right", "mean"),
    )
    intervals = [
        binomtest(hits, n).proportion_ci(method="wilson")
        for n, hits in zip(table["n"], table["hits"], strict=True)
    ]
    return table.assign(low=[i.low for i in intervals], high=[i.high for i in intervals])


def _reliability_strip(ax: Axes) -> Axes:
    """The strip of counts above these axes; made, with all else that is drawn once, if not there."""
    for child in ax.child_axes:
        if child.get_label() == "samples":
            return child
    ax.plot([0, 1], [0, 1], color="#bbbbbb", linestyle=":", zorder=0)
    ax.annotate(
        "calibrated", (1, 1), (6, 0), textcoords="offset points", color="#777777", va="center"
    )
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    strip = ax.inset_axes((0, 1.05, 1, 0.18), sharex=ax, label="samples")
    strip.set(yscale="log", ylabel="samples", ylim=(0.5, 200))
    strip.yaxis.set(major_locator=LogLocator(100), major_formatter="{x:,.0f}")
    strip.tick_params(labelbottom=False)
    strip.minorticks_off()
    return strip


def _class_ticks(ax: Axes, places: Sequence[float], classes: Sequence[str]) -> None:
    long = max(map(len, classes)) > 3
    ax.set_xticks(places, classes, rotation=45 if long else 0, ha="right" if long else "center")
    ax.tick_params(axis="x", length=0)


def _entropy(probabilities: Tensor) -> Tensor:
    return -torch.xlogy(probabilities, probabilities).sum(-1)


def _draw_image(ax: Axes, image: Tensor):
    ax.set_axis_off()
    return ax.imshow(_displayable(image), cmap="gray_r", vmin=0, vmax=1)


def _displayable(image: Tensor) -> np.ndarray:
    """(C, H, W) on any scale, as matplotlib wants it: in [0, 1], channels last."""
    image = image.detach().float().cpu()
    low, high = image.amin((-2, -1), keepdim=True), image.amax((-2, -1), keepdim=True)
    image = (image - low) / (high - low).clamp(min=1e-12)
    return (image[0] if len(image) == 1 else image.permute(1, 2, 0)).numpy()


def _bundle(figure: Figure, alt: str) -> tuple[dict, dict]:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white")
    return {"image/png": buffer.getvalue(), "text/plain": alt}, {"image/png": {"alt": alt}}
