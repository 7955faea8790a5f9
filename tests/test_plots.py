"""Pictures: what is drawn is what was given. Sliders' callbacks are swept over their whole range."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from kdlib import plots
from kdlib.training import History

CLASSES = tuple("0123456789")


@pytest.fixture(autouse=True)
def no_figure_left():
    yield
    plt.close("all")


@pytest.fixture
def teacher_logits():
    return 5 * torch.randn(4, 10, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def temperature_figure(teacher_logits):
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    return plots.TemperatureFigure(teacher_logits, images, torch.tensor([0, 3, 9, 5]), CLASSES)


def softmax_by_hand(z, T):
    e = np.exp((z - z.max()) / T)
    return e / e.sum()


@pytest.mark.parametrize("temperature", [*np.geomspace(0.25, 50, 9), 1.0, 1e-2, 1e4])
@pytest.mark.parametrize("index", range(4))
def test_the_slider_shows_the_softmax_at_its_temperature(
    temperature_figure, teacher_logits, index, temperature
):
    figure = temperature_figure.update(index, float(temperature))
    expected = softmax_by_hand(teacher_logits[index].double().numpy(), temperature)
    for axes in figure.axes[1:3]:
        heights = [bar.get_height() for bar in axes.patches]
        np.testing.assert_allclose(heights, expected, atol=1e-6)
    (x,), (y,) = figure.axes[3].lines[1].get_data()
    positive = expected[expected > 0]
    assert x == pytest.approx(temperature)
    assert y == pytest.approx(-(positive * np.log(positive)).sum(), abs=1e-5)
    assert f"{temperature:.3g}" in figure.axes[1].get_title()


def test_the_slider_marks_the_label_of_the_image_shown(temperature_figure):
    figure = temperature_figure.update(2, 4.0)
    assert "9" in figure.axes[0].get_title(loc="center")
    outlined = [k for k, bar in enumerate(figure.axes[1].patches) if bar.get_edgecolor()[3] > 0]
    assert outlined == [9]
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown.min(), 0, atol=1e-6)
    assert not np.array_equal(
        np.asarray(shown), np.asarray(temperature_figure.update(1, 4.0).axes[0].images[0]._A)
    )


def test_the_slider_draws_nothing_anew(temperature_figure):
    before = [id(a) for axes in temperature_figure.figure.axes for a in axes.get_children()]
    temperature_figure.update(3, 20.0)
    after = [id(a) for axes in temperature_figure.figure.axes for a in axes.get_children()]
    assert before == after


@pytest.mark.parametrize(("index", "temperature"), [(-1, 1.0), (4, 1.0), (0, 0.0), (0, np.nan)])
def test_the_slider_refuses_what_it_cannot_show(temperature_figure, index, temperature):
    with pytest.raises(ValueError, match="index must be|temperature must be"):
        temperature_figure.update(index, temperature)


def test_the_picture_is_told_in_words(temperature_figure, teacher_logits):
    top = int(teacher_logits[1].argmax())
    assert temperature_figure.alt(1, 1.0).startswith("An image of class 3")
    assert f": {top} " in temperature_figure.alt(1, 1.0)


def test_bars_are_the_probabilities_with_the_label_outlined():
    given = [0.7, 0.2, 0.1]
    axes = plots.soft_target_bars(given, ["cat", "dog", "cow"], label=1)
    assert [bar.get_height() for bar in axes.patches] == given
    outlined = [k for k, bar in enumerate(axes.patches) if bar.get_edgecolor()[3] > 0]
    assert outlined == [1]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["cat", "dog", "cow"]
    assert plots.soft_target_bars(given, ["cat", "dog", "cow"], log=True).get_yscale() == "log"
    with pytest.raises(ValueError, match="one for each of the 2 classes"):
        plots.soft_target_bars(given, ["cat", "dog"])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_gallery_has_an_image_above_its_probabilities(channels):
    images, labels = torch.randn(3, channels, 8, 8), torch.tensor([2, 0, 1])
    probabilities = torch.softmax(torch.randn(3, 10), -1)
    figure = plots.gallery(images, probabilities, labels, CLASSES)
    pictures, bars = figure.axes[:3], figure.axes[3:]
    assert [axes.get_title(loc="center") for axes in pictures] == [f"label: {k}" for k in (2, 0, 1)]
    for k, axes in enumerate(bars):
        heights = [bar.get_height() for bar in axes.patches]
        np.testing.assert_allclose(heights, probabilities[k], rtol=1e-6)
    with pytest.raises(ValueError, match="equally many"):
        plots.gallery(images, probabilities[:2], labels, CLASSES)


def history(*accuracies):
    epochs = range(1, len(accuracies) + 1)
    return History(pd.DataFrame({"epoch": epochs, "validation_accuracy": accuracies}))


def test_learning_curves_follow_the_frames_and_carry_their_names():
    axes = plots.learning_curves({"hard": history(0.5, 0.8), "mine": history(0.4, 0.9)})
    drawn = [line.get_ydata() for line in axes.lines]
    assert [list(y) for y in drawn] == [[0.5, 0.8], [0.4, 0.9]]
    assert {text.get_text() for text in axes.texts} == {"hard", "mine"}
    assert axes.lines[0].get_color() == plots.COLOURS["hard"]
    with pytest.raises(ValueError, match="column must be one of epoch, validation_accuracy"):
        plots.learning_curves({"hard": history(0.5)}, column="accuracy")


def test_the_names_of_curves_that_end_alike_can_be_read():
    axes = plots.learning_curves({name: history(0.5, 0.8) for name in ("a", "b", "c")})
    heights = sorted(text.xy[1] for text in axes.texts)
    low, high = axes.get_ylim()
    assert min(np.diff(heights)) > 0.05 * (high - low)


def test_paired_dots_join_the_seeds_and_mark_the_means():
    axes = plots.paired_dots({"hard": [3, 5], "soft": [1, 2]}, "errors")
    joined = [list(line.get_ydata()) for line in axes.lines[:2]]
    assert joined == [[3, 1], [5, 2]]
    assert [text.get_text() for text in axes.texts] == ["4", "1.5"]
    with pytest.raises(ValueError, match=r"equally many in every treatment, got \[1, 2\]"):
        plots.paired_dots({"hard": [3, 5], "soft": [1]}, "errors")


def test_every_meaning_has_a_colour_of_its_own():
    assert len(set(plots.COLOURS.values())) == len(plots.COLOURS)


def test_a_figure_is_shown_once_with_its_text(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append((a, k)))
    plots.show(plt.figure(), "a text")
    (((bundle,), options),) = shown
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["text/plain"] == "a text"
    assert options["metadata"]["image/png"]["alt"] == "a text"
    assert not plt.get_fignums()
