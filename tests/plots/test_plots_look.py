"""The look: colours, axes, and a figure shown with its alt text."""

import matplotlib.pyplot as plt

from kdlib import plots


def test_every_meaning_has_a_colour_of_its_own():
    assert len(set(plots.COLOURS.values())) == len(plots.COLOURS)


def test_a_figure_is_shown_once_with_its_alt_text(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append((a, k)))
    plots.show(plt.figure(), "a text")
    (((bundle,), options),) = shown
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["text/plain"] == "a text"
    assert options["metadata"]["image/png"]["alt"] == "a text"
    assert not plt.get_fignums()


def test_a_line_has_its_name_at_its_end():
    axes = plt.subplots()[1]
    plots.labelled_line(axes, [1, 2, 3], [5, 4, 6], "student", plots.COLOURS["student"])
    (line,), (text,) = axes.lines, axes.texts
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 2, 3], [5, 4, 6])
    assert (text.get_text(), text.xy) == ("student", (3, 6))
    assert line.get_color() == text.get_color() == plots.COLOURS["student"]


def test_the_temperature_axis_is_logarithmic_with_plain_numbers():
    axes = plots.temperature_axis(plt.subplots()[1])
    axes.figure.draw_without_rendering()
    assert axes.get_xscale() == "log"
    ticks = {
        p: t.get_text() for p, t in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    }
    assert ticks == {0.25: "¼", 1: "1", 4: "4", 20: "20", 50: "50"}


def test_every_public_picture_keeps_its_name():
    names = """
        COLOURS confusion_matrix gallery labelled_line learning_curves measurements
        paired_differences paired_dots reliability_diagram show soft_target_bars style
        temperature_axis temperature_figure
    """
    assert sorted(plots.__all__) == names.split()
    assert all(hasattr(plots, name) for name in plots.__all__)
