"""Pictures of what networks predict: soft targets, confusions, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch import Tensor

from kdlib.course.plots.look import COLOURS, temperature_axis
from kdlib.losses import soften


def soft_target_bars(
    probabilities: Tensor | Sequence[float],
    classes: Sequence[str],
    label: int | None = None,
    ax: Axes | None = None,
    log: bool = False,
    colour: str = COLOURS["teacher"],
) -> Axes:
    """Draw a distribution over the classes as bars, the labelled class outlined in the labels' colour.

    Args:
        probabilities: ``(C,)``.
        classes: C names.
        label: the true class.
        ax: axes to draw on; new ones by default.
        log: use a logarithmic scale down to 1e-9, which shows the small probabilities.
        colour: of the bars.

    Raises:
        ValueError: there is not one probability for each class.
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
    """Draw images in a row, each above the teacher's probabilities for it.

    Args:
        images: ``(N, C, H, W)`` with 1 or 3 channels, on any scale.
        probabilities: ``(N, classes)``.
        labels: ``(N,)``.
        classes: their names.
        log: see :func:`soft_target_bars`.
        title: of the whole row.

    Raises:
        ValueError: images, probabilities and labels differ in number.
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


def temperature_figure(
    logits: Tensor,
    image: Tensor,
    label: int,
    classes: Sequence[str],
    temperature: float,
    student_logits: Tensor | None = None,
) -> Figure:
    """Draw an image, its soft targets at temperature T on two scales, and their entropy over T.

    With more than twelve classes, only the eleven likeliest and the labelled one have bars.

    Args:
        logits: the teacher's for this image, ``(C,)``.
        image: ``(channels, H, W)`` with 1 or 3 channels, on any scale.
        label: the true class.
        classes: C names.
        temperature: positive and finite.
        student_logits: ``(C,)``; draws a student's probabilities at T as dots over the bars.

    Raises:
        TypeError, ValueError: :func:`kdlib.soften` refuses the logits or the temperature, or there is
            not one logit for each class.
    """
    logits = logits.detach().cpu()
    probabilities = soften(logits, temperature)  # (C,)
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
    grid = torch.logspace(*np.log10([0.25, 50]), 60)  # (60,)
    curve.plot(grid, _entropy(soften(logits, grid[:, None])), color="#999999")  # (60, C) softened
    curve.plot([temperature], [_entropy(probabilities)], "o", color=COLOURS["teacher"], ms=9)
    ceiling = np.log(len(classes))
    curve.axhline(ceiling, color="#cccccc", linestyle=":")
    curve.text(0.25, ceiling, "all classes alike", va="bottom", fontsize=9)
    temperature_axis(curve).set(ylim=(0, ceiling * 1.15), title="entropy (nats)")
    return figure


def confusion_matrix(
    predicted: Tensor, labels: Tensor, classes: Sequence[str], ax: Axes | None = None
) -> Axes:
    """Draw how many samples of each labelled class (row) were predicted as each class (column).

    Only the errors are coloured, by the square root of their count. The right answers on the diagonal
    would outshine them; their counts are grey. A cell without samples is empty.

    Args:
        predicted: the predicted classes, ``(N,)`` int64, such as ``probabilities.argmax(-1)``.
        labels: ``(N,)`` int64.
        classes: C names.
        ax: axes to draw on; by default new ones, larger for more classes.

    Raises:
        TypeError: predicted or labels is not an int64 tensor.
        ValueError: one of them is not one class number for each sample, or their lengths differ.
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
    """Draw a network's accuracy against its confidence: does it know how often it is right?

    Samples are sorted into bins of equal width by their confidence, the probability of the predicted
    class. Each bin with samples has a dot: their mean confidence and the share predicted correctly,
    with its 95 % interval (Wilson). On the diagonal both agree; below it the network is
    overconfident. The strip on top counts each bin's samples on a logarithmic scale. The number is the
    expected calibration error over these bins,
    ``ECE = sum over bins of n_bin / N * |accuracy - confidence|``;
    with 15 bins it equals that of :func:`kdlib.evaluate`.

    Call it again with the same axes to add another network.

    Source: Guo, Pleiss, Sun, Weinberger 2017, section 2, eq. 3.

    Args:
        probabilities: ``(N, C)``; each row sums to 1.
        labels: ``(N,)`` int64.
        ax: axes to draw on; new ones by default.
        bins: their number.
        colour: of the dots; by default that of ``name`` in ``COLOURS``.
        name: written above the ECE.

    Raises:
        TypeError: probabilities is not a tensor, or labels is not an int64 tensor.
        ValueError: a row of probabilities is not a distribution, labels are not one class number for
            each sample, or bins is below 1.
    """
    probabilities = _distributions(probabilities)
    labels = _class_numbers("labels", labels, probabilities.shape[1])
    _check_equally_many("probabilities", probabilities, labels)
    if not isinstance(bins, Integral) or bins < 1:
        raise ValueError(f"bins must be a whole number of at least 1, got {bins!r}; 15 is usual")
    ax = ax or plt.subplots(figsize=(6, 5.5), layout="constrained")[1]
    colour = colour or COLOURS.get(name, COLOURS["ink"])
    table = _calibration(probabilities, labels, bins)  # a row for each bin with samples
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


def _class_numbers(name: str, values: Tensor, classes: int) -> Tensor:
    """``values`` (N,) on the CPU, each from 0 to classes - 1."""
    if not isinstance(values, Tensor) or values.dtype != torch.int64:
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(
            f"{name} must be an int64 tensor (N,) of class numbers, got {kind}; "
            "probabilities.argmax(-1) gives them"
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
    """``probabilities`` (N, C) on the CPU in float32 or wider, each row a distribution."""
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
    sums = probabilities.sum(-1)  # (N,)
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
    """For each bin with samples: n, hits, confidence, accuracy and its interval (low, high)."""
    from scipy.stats import binomtest

    confidence, predicted = probabilities.max(-1)  # (N,) each
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
    """The strip of counts above these axes; the first call draws it and all else that is fixed."""
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
    """An image (C, H, W) on any scale, as matplotlib wants it: in [0, 1], channels last."""
    image = image.detach().float().cpu()
    low, high = image.amin((-2, -1), keepdim=True), image.amax((-2, -1), keepdim=True)
    image = (image - low) / (high - low).clamp(min=1e-12)
    return (image[0] if len(image) == 1 else image.permute(1, 2, 0)).numpy()
