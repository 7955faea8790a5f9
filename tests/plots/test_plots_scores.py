"""Pictures of scores: what is drawn is what was given."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from kdlib import interval, paired, plots
from kdlib.training import History

SHOWN = "validation_accuracy"


def history(*accuracies):
    epochs = range(1, len(accuracies) + 1)
    return History(pd.DataFrame({"epoch": epochs, SHOWN: accuracies}))


def test_learning_curves_follow_the_frames_and_carry_their_names():
    axes = plots.learning_curves({"hard": history(0.5, 0.8), "mine": history(0.4, 0.9)})
    drawn = [line.get_ydata() for line in axes.lines]
    assert [list(y) for y in drawn] == [[0.5, 0.8], [0.4, 0.9]]
    assert {text.get_text() for text in axes.texts} == {"hard", "mine"}
    assert axes.lines[0].get_color() == plots.COLOURS["hard"]


def test_the_names_of_curves_with_the_same_end_can_be_read():
    axes = plots.learning_curves({name: history(0.5, 0.8) for name in ("a", "b", "c")})
    heights = sorted(text.xy[1] for text in axes.texts)
    low, high = axes.get_ylim()
    assert min(np.diff(heights)) > 0.05 * (high - low)


def test_several_seeds_are_drawn_as_their_mean_on_a_band_from_smallest_to_largest():
    seeds = [history(0.5, 0.8, 0.9), history(0.1, 0.9, 0.9), history(0.0, 0.7, 0.9)]
    axes = plots.learning_curves({"soft": seeds, "hard": history(0.2, 0.4, 0.6)})
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2, 3]] * 2
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.2, 0.8, 0.9])
    np.testing.assert_allclose(axes.lines[1].get_ydata(), [0.2, 0.4, 0.6])
    (band,) = axes.collections  # none for a single history
    corners = band.get_paths()[0].vertices
    for epoch, low, high in [(1, 0.0, 0.5), (2, 0.7, 0.9), (3, 0.9, 0.9)]:
        heights = corners[corners[:, 0] == epoch, 1]
        assert (heights.min(), heights.max()) == (low, high)
    assert to_hex(band.get_facecolor()[0]) == plots.COLOURS["soft"]


def test_a_missing_value_of_one_seed_is_not_averaged_away():
    axes = plots.learning_curves({"soft": [history(0.5, 0.8), history(0.1, np.nan)]})
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.3, np.nan])


@pytest.mark.parametrize(
    ("runs", "column", "message"),
    [
        ([history(1, 2), history(1)], SHOWN, r"'mine' .* equally long .* got \[2, 1\] epoch"),
        ([], SHOWN, "at least one history of 'mine', got none"),
        ([history(0.5), history(0.4)], "accuracy", f"column must be one of epoch, {SHOWN}, got"),
        (history(0.5), "accuracy", f"column must be one of epoch, {SHOWN}, got"),
        (history(), SHOWN, "'mine' .* at least one finished epoch, got none"),
    ],
)
def test_histories_without_a_common_column_of_one_length_are_refused(runs, column, message):
    with pytest.raises(ValueError, match=message):
        plots.learning_curves({"fine": history(0.5), "mine": runs}, column)


def test_paired_dots_join_the_seeds_and_mark_the_means():
    axes = plots.paired_dots({"hard": [3, 5], "soft": [1, 2]}, "errors")
    joined = [list(line.get_ydata()) for line in axes.lines[:2]]
    assert joined == [[3, 1], [5, 2]]
    assert [text.get_text() for text in axes.texts] == ["4", "1.5"]
    with pytest.raises(ValueError, match=r"equally many in every treatment, got \[1, 2\]"):
        plots.paired_dots({"hard": [3, 5], "soft": [1]}, "errors")


@pytest.fixture
def comparisons():
    return {
        "soft": paired([5, 9, 4], [30, 27, 29]),
        "control": paired([33, 26, 30], [30, 27, 29]),
        "mine": paired([35, 39, 41], [30, 27, 29]),
    }


def test_paired_differences_are_drawn_and_written_from_top_to_bottom(comparisons):
    axes = plots.paired_differences(comparisons, "errors")
    zero, *dots = axes.lines
    assert list(zero.get_xdata()) == [0, 0]
    for place, found in enumerate(comparisons.values()):
        low, mean, high = found.low, found.difference, found.high
        assert dots[place].get_data() == ([mean], [place])
        ((start, end),) = axes.collections[place].get_segments()
        np.testing.assert_allclose([*start, *end], [low, place, high, place])
        text = axes.texts[place]
        assert text.get_text() == f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
        assert text.get_position()[1] == place
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["soft", "control", "mine"]
    assert axes.get_xlabel() == "errors"
    bottom, top = axes.get_ylim()
    assert bottom > top  # the first entry is the highest


def test_paired_differences_have_the_colours_of_their_names(comparisons):
    names = ("soft", "control", "mine")
    dots = plots.paired_differences(comparisons, "errors").lines[1:]
    inks = [plots.COLOURS[name] for name in ("soft", "control", "ink")]
    assert [dot.get_color() for dot in dots] == inks
    axes = plots.paired_differences(comparisons, "errors", colours=dict.fromkeys(names, "#123456"))
    assert {text.get_color() for text in axes.texts} == {"#123456"}


@pytest.mark.parametrize(
    ("scale", "text"),
    [
        (1, "+22.0 [+15.3, +28.8]"),
        (100, "+2,204 [+1,526, +2,882]"),
        (0.01, "+0.220 [+0.153, +0.288]"),
        (0, "+0.00 [+0.00, +0.00]"),
    ],
)
def test_differences_have_as_many_digits_as_their_intervals_allow(scale, text):
    comparison = paired(scale * np.array([19.04, 24.38, 22.70]), [0, 0, 0])
    axes = plots.paired_differences({"soft": comparison}, "errors")
    assert [written.get_text() for written in axes.texts] == [text]


def test_few_or_many_differences_can_be_read(comparisons):
    for n in (2, 15):
        many = {f"treatment {k}": comparisons["soft"] for k in range(n)}
        axes = plots.paired_differences(many, "errors more than with labels")
        axes.figure.draw_without_rendering()
        page = axes.figure.bbox
        for texts in (axes.texts, axes.get_yticklabels()):
            boxes = [text.get_window_extent() for text in texts]
            assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in boxes)
            assert all(page.y0 <= box.y0 and box.y1 <= page.y1 for box in boxes)
            assert all(a.y0 > b.y1 for a, b in pairwise(boxes))


def test_only_comparisons_can_be_drawn():
    with pytest.raises(TypeError, match=r"made by kd.paired\(a, b\), got \[1, 2\] for 'soft'"):
        plots.paired_differences({"soft": [1, 2]}, "errors")
    with pytest.raises(ValueError, match="at least one entry, got none"):
        plots.paired_differences({}, "errors")


def test_measurements_show_each_seed_their_interval_and_the_papers_number():
    scores = {"labels": [3.0, 4.0, 8.0], "hint": [1.0, 2.0]}
    ax = plots.measurements(scores, "errors", paper={"hint": 1.5})
    drawn = [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in ax.lines]
    assert drawn == [([3, 4, 8], [0, 0, 0]), ([1, 2], [1, 1]), ([1.5], [1])]
    assert [text.get_text() for text in ax.texts] == [str(interval(v)) for v in scores.values()]
    for lines, values in zip(ax.collections, scores.values(), strict=True):
        (((low, _), (high, _)),) = lines.get_segments()
        assert (low, high) == pytest.approx((interval(values).low, interval(values).high))
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(scores)
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top


@pytest.mark.parametrize("scores, message", [({}, "at least one entry"), ({"a": [1.0]}, "two")])
def test_measurements_need_two_numbers_each(scores, message):
    with pytest.raises(ValueError, match=message):
        plots.measurements(scores, "errors")
