"""Pictures: axes in, axes out. One colour has one meaning for the whole course."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from kdlib.losses import soften
from kdlib.training import History

__all__ = [
    "COLOURS",
    "TemperatureFigure",
    "gallery",
    "labelled_line",
    "learning_curves",
    "paired_dots",
    "show",
    "soft_target_bars",
    "style",
    "temperature_axis",
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
    histories: Mapping[str, History],
    column: str = "validation_accuracy",
    ax: Axes | None = None,
    colours: Mapping[str, str] | None = None,
) -> Axes:
    """One line a training, labelled at its end.

    Args:
        histories: by the name to write beside the line.
        column: of ``History.frame``.
        ax: where to draw; new ones if not given.
        colours: by name; names of ``COLOURS`` have theirs.

    Raises:
        ValueError: a history without that column.
    """
    ax = ax or plt.subplots(figsize=(7, 4))[1]
    for name, history in histories.items():
        if column not in history.frame:
            raise ValueError(
                f"column must be one of {', '.join(history.frame.columns)}, got {column!r}"
            )
        colour = (colours or COLOURS).get(name, COLOURS["ink"])
        ax.plot(history.frame["epoch"], history.frame[column], color=colour, marker=".", label=name)
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
    long = max(map(len, classes)) > 3
    ax.set_xticks(
        range(len(classes)), classes, rotation=45 if long else 0, ha="right" if long else "center"
    )
    ax.tick_params(axis="x", length=0)
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


class TemperatureFigure:
    """One figure that follows a slider: an image, its soft targets at T, and their entropy over T.

    :meth:`update` moves what is drawn and draws nothing anew.

    Args:
        logits: the teacher's, ``(N, C)``.
        images: ``(N, channels, H, W)``.
        labels: ``(N,)``.
        classes: their names.
    """

    temperatures = np.geomspace(0.25, 50, 60)

    def __init__(
        self, logits: Tensor, images: Tensor, labels: Tensor, classes: Sequence[str]
    ) -> None:
        self.logits, self.images = logits.detach().cpu(), images.detach().cpu()
        self.labels, self.classes = labels.cpu(), tuple(classes)
        self.figure, axes = plt.subplots(
            1, 4, figsize=(12.5, 3), width_ratios=(1, 1.6, 1.6, 1.5), constrained_layout=True
        )
        self._picture, self._bars, self._log_bars, self._entropy = axes
        self._artist = _draw_image(self._picture, self.images[0])
        start = soften(self.logits[0])
        soft_target_bars(start, self.classes, ax=self._bars)
        soft_target_bars(start, self.classes, ax=self._log_bars, log=True)
        self._bars.set_title("soft targets", color=COLOURS["teacher"])
        self._log_bars.set_title("the same, log scale", color=COLOURS["teacher"])
        grid = torch.as_tensor(self.temperatures, dtype=torch.float32)[:, None]
        self._curves = _entropy(soften(self.logits, grid))  # (temperatures, N)
        (self._curve,) = self._entropy.plot(self.temperatures, self._curves[:, 0], color="#999999")
        (self._mark,) = self._entropy.plot([1], [1], "o", color=COLOURS["teacher"], markersize=9)
        ceiling = np.log(len(self.classes))
        self._entropy.axhline(ceiling, color="#cccccc", linestyle=":")
        self._entropy.text(0.25, ceiling, "all classes alike", va="bottom", fontsize=9)
        temperature_axis(self._entropy).set(ylim=(0, ceiling * 1.15), title="entropy (nats)")
        self.update(0, 1.0)

    def update(self, index: int, temperature: float) -> Figure:
        """Show this image at this temperature.

        Raises:
            ValueError: there is no such image, or the temperature is not positive and finite.
        """
        if not 0 <= index < len(self.logits):
            raise ValueError(f"index must be from 0 to {len(self.logits) - 1}, got {index}")
        probabilities = soften(self.logits[index], temperature)
        label = int(self.labels[index])
        self._artist.set_data(_displayable(self.images[index]))
        self._picture.set_title(
            f"label: {self.classes[label]}", color=COLOURS["hard"], loc="center"
        )
        for axes in (self._bars, self._log_bars):
            for k, bar in enumerate(axes.patches):
                bar.set_height(float(probabilities[k]))
                bar.set_edgecolor(COLOURS["hard"] if k == label else "none")
        self._bars.set_title(f"soft targets at T = {temperature:.3g}", color=COLOURS["teacher"])
        self._curve.set_ydata(self._curves[:, index])
        self._mark.set_data([temperature], [float(_entropy(probabilities))])
        return self.figure

    def alt(self, index: int, temperature: float) -> str:
        """What the figure shows, in words."""
        probabilities = soften(self.logits[index], temperature)
        top = probabilities.topk(min(3, len(self.classes)))
        names = ", ".join(
            f"{self.classes[k]} {p:.2g}" for p, k in zip(*map(Tensor.tolist, top), strict=True)
        )
        label = self.classes[int(self.labels[index])]
        return (
            f"An image of class {label} and the teacher's soft targets at temperature "
            f"{temperature:.3g}: {names}; entropy {float(_entropy(probabilities)):.2f} nats."
        )

    def sliders(self, index: int = 0, temperature: float = 4.0):
        """Show the figure as an ordinary picture, and two sliders that replace it in place."""
        import ipywidgets
        from IPython.display import display

        bundle, metadata = _bundle(self.update(index, temperature), self.alt(index, temperature))
        plt.close(self.figure)
        handle = display(bundle, metadata=metadata, raw=True, display_id=True)
        low, high = np.log10([self.temperatures[0], self.temperatures[-1]])
        heat = ipywidgets.FloatLogSlider(
            temperature, min=low, max=high, step=0.01, description="temperature"
        )
        image = ipywidgets.IntSlider(index, min=0, max=len(self.logits) - 1, description="image")
        for slider in (heat, image):
            slider.style.description_width = "initial"
            slider.observe(lambda _: self.refresh(handle, image.value, heat.value), "value")
        return ipywidgets.HBox([heat, image])

    def refresh(self, handle, index: int, temperature: float) -> None:
        """Replace the picture behind the handle, in place."""
        bundle, metadata = _bundle(self.update(index, temperature), self.alt(index, temperature))
        handle.update(bundle, metadata=metadata, raw=True)


def _label_ends(ax: Axes) -> None:
    """Write each line's label at its end, far enough from its neighbour's to be read."""
    low, high = ax.get_ylim()
    height = -np.inf
    for line in sorted(ax.lines, key=lambda line: line.get_ydata()[-1]):
        x, y = line.get_xdata()[-1], line.get_ydata()[-1]
        height = max(y, height + 0.06 * (high - low))
        text = ax.annotate(line.get_label(), (x, height), (6, 0), textcoords="offset points")
        text.set(color=line.get_color(), va="center", annotation_clip=False)


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
