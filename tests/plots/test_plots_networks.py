"""Pictures of networks: what is drawn is what they predict."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from kdlib import evaluate, plots, soften
from kdlib.data import Split

CLASSES = tuple("0123456789")


@pytest.fixture
def teacher_logits():
    return 5 * torch.randn(4, 10, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def images():
    return torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def softmax_by_hand(z, T):
    e = np.exp((z - z.max()) / T)
    return e / e.sum()


def heights(axes):
    return [bar.get_height() for bar in axes.patches]


def outlined(axes):
    return [k for k, bar in enumerate(axes.patches) if bar.get_edgecolor()[3] > 0]


@pytest.mark.parametrize("temperature", [*np.geomspace(0.25, 50, 9), 1.0, 1e-2, 1e4])
def test_soft_targets_are_drawn_at_their_temperature(images, teacher_logits, temperature):
    logits = teacher_logits[int(10 * temperature) % 4]
    figure = plots.temperature_figure(logits, images[0], 3, CLASSES, float(temperature))
    expected = softmax_by_hand(logits.double().numpy(), temperature)
    for axes in figure.axes[1:3]:
        np.testing.assert_allclose(heights(axes), expected, atol=1e-6)
    curve, mark, _ = figure.axes[3].lines
    (x,), (y,) = mark.get_data()
    positive = expected[expected > 0]
    assert x == pytest.approx(temperature)
    assert y == pytest.approx(-(positive * np.log(positive)).sum(), abs=1e-5)
    if 0.25 <= temperature <= 50:
        on_the_curve = np.interp(np.log(x), np.log(curve.get_xdata()), curve.get_ydata())
        assert on_the_curve == pytest.approx(y, abs=2e-3)
    assert f"{temperature:.3g}" in figure.axes[1].get_title()


def test_the_label_of_the_image_is_marked(images, teacher_logits):
    figure = plots.temperature_figure(teacher_logits[2], images[2], 9, CLASSES, 4.0)
    assert "9" in figure.axes[0].get_title(loc="center")
    assert outlined(figure.axes[1]) == [9]
    low, high = images[2].min(), images[2].max()
    shown = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(shown, ((images[2] - low) / (high - low))[0], atol=1e-6)


def test_a_students_soft_targets_are_dots_over_the_bars(images, teacher_logits):
    student = teacher_logits[1]
    figure = plots.temperature_figure(teacher_logits[0], images[0], 3, CLASSES, 4.0, student)
    for axes in figure.axes[1:3]:
        (dots,) = axes.lines
        expected = softmax_by_hand(student.double().numpy(), 4.0)
        np.testing.assert_allclose(dots.get_ydata(), expected, atol=1e-6)


def test_of_many_classes_the_likeliest_and_the_labelled_one_are_drawn(images):
    logits = torch.randn(100, generator=torch.Generator().manual_seed(0))
    label = int(logits.argmin())
    names = [f"class {k}" for k in range(100)]
    axes = plots.temperature_figure(logits, images[0], label, names, 2.0).axes[1]
    shown = [text.get_text() for text in axes.get_xticklabels()]
    likeliest = logits.argsort(descending=True)[:11].tolist()
    assert shown == [names[k] for k in [*likeliest, label]]
    soft = softmax_by_hand(logits.double().numpy(), 2.0)
    np.testing.assert_allclose(heights(axes), soft[[*likeliest, label]], atol=1e-6)
    assert outlined(axes) == [11]


@pytest.mark.parametrize("temperature", [0.0, np.nan])
def test_an_impossible_temperature_is_refused(images, teacher_logits, temperature):
    with pytest.raises(ValueError, match="temperature must be"):
        plots.temperature_figure(teacher_logits[0], images[0], 0, CLASSES, temperature)


def test_bars_are_the_probabilities_with_the_label_outlined():
    given = [0.7, 0.2, 0.1]
    axes = plots.soft_target_bars(given, ["cat", "dog", "cow"], label=1)
    assert heights(axes) == given
    assert outlined(axes) == [1]
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
        np.testing.assert_allclose(heights(axes), probabilities[k], rtol=1e-6)
    with pytest.raises(ValueError, match="equally many"):
        plots.gallery(images, probabilities[:2], labels, CLASSES)


def cells(axes):
    """The text of each cell, by (row, column)."""
    written = {}
    for text in axes.texts:
        x, y = text.get_position()
        assert (round(y - 0.5), round(x - 0.5)) not in written
        written[round(y - 0.5), round(x - 0.5)] = text
    return written


def test_a_confusion_matrix_counts_labels_in_rows_and_predictions_in_columns():
    draw = torch.Generator().manual_seed(0)
    names = ["hen", "cat", "dog", "cow", "horse"]  # no hen occurs
    labels, predicted = torch.randint(1, 5, (2, 60), generator=draw)
    predicted[labels == 2] = 1
    axes = plots.confusion_matrix(predicted, labels, names)
    expected = Counter(zip(labels.tolist(), predicted.tolist(), strict=True))
    assert {cell: int(text.get_text()) for cell, text in cells(axes).items()} == expected
    assert (2, 2) not in expected
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == names
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("answer", "label")
    bottom, top = axes.get_ylim()
    assert bottom > top  # the first row is the highest


def test_only_the_errors_of_a_confusion_matrix_are_coloured():
    labels = torch.tensor([0] * 50 + [1] * 40 + [2] * 30)
    predicted = labels.clone()
    predicted[:36], predicted[60] = 2, 0
    axes = plots.confusion_matrix(predicted, labels, "012")
    mesh = axes.collections[0]
    axes.figure.draw_without_rendering()
    inks = mesh.get_facecolors().reshape(3, 3, 4)
    coloured = {(int(row), int(column)) for row, column in np.argwhere(inks[..., 3] > 0)}
    assert coloured == {(0, 2), (1, 0)}
    thirty_six, one = inks[0, 2, :3].sum(), inks[1, 0, :3].sum()
    assert thirty_six < one < 2.85  # more is darker, and one error is not white
    assert {cells(axes)[k, k].get_color() for k in range(3)} == {"#777777"}


@pytest.mark.filterwarnings("error")
def test_a_confusion_matrix_without_errors_is_a_diagonal_of_counts():
    axes = plots.confusion_matrix(torch.arange(10), torch.arange(10), CLASSES)
    counts = {cell: text.get_text() for cell, text in cells(axes).items()}
    assert counts == {(k, k): "1" for k in range(10)}


@pytest.mark.parametrize(
    ("predicted", "labels", "error", "message"),
    [
        (torch.rand(3, 10), [0, 1, 2], TypeError, "predicted must be an int64 .* torch.float32"),
        ([0, 1, 2], [0.0, 1.0, 2.0], TypeError, "labels must be an int64 .* got torch.float32"),
        ([[0], [1]], [0, 1], ValueError, r"predicted must be one class .* got shape \(2, 1\)"),
        ([0, 1], [0, 10], ValueError, "labels must be class numbers from 0 to 9, got 10"),
        ([0, -1], [0, 1], ValueError, "predicted must be class numbers from 0 to 9, got -1"),
        ([0, 1], [0, 1, 2], ValueError, "predicted and labels must be equally many, got 2 and 3"),
    ],
)
def test_a_confusion_matrix_needs_class_numbers(predicted, labels, error, message):
    with pytest.raises(error, match=message):
        plots.confusion_matrix(torch.as_tensor(predicted), torch.as_tensor(labels), CLASSES)


@pytest.fixture
def answers():
    """A split of logits, often right and often overconfident, and their labels."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (2000,), generator=draw)
    logits = torch.randn(2000, 10, generator=draw)
    logits[torch.arange(2000), labels] += 2.5
    return Split(2 * logits, labels, torch.arange(2000))


def bins_by_hand(split, bins):
    """Confidence, accuracy and n of each bin that has samples."""
    members = {}
    for z, label in zip(split.inputs.double().numpy(), split.labels.tolist(), strict=True):
        p = softmax_by_hand(z, 1)
        sample = p.max(), p.argmax() == label
        members.setdefault(min(int(p.max() * bins), bins - 1), []).append(sample)
    return {k: (*np.mean(samples, 0), len(samples)) for k, samples in sorted(members.items())}


def wilson_by_hand(share, n, z=1.959964):
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    margin = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return middle - margin, middle + margin


@pytest.mark.parametrize("bins", [15, 4])
def test_a_reliability_diagram_shows_each_bin_with_its_interval_and_count(answers, bins):
    axes = plots.reliability_diagram(soften(answers.inputs), answers.labels, bins=bins)
    expected = bins_by_hand(answers, bins)
    diagonal, dots = sorted(axes.lines, key=lambda line: line.get_linestyle() == "None")
    np.testing.assert_array_equal(diagonal.get_data(), [[0, 1], [0, 1]])
    drawn = np.transpose(dots.get_data())
    np.testing.assert_allclose(drawn, [(c, a) for c, a, _ in expected.values()], atol=1e-5)
    bars = axes.collections[0].get_segments()
    for bar, (confidence, accuracy, n) in zip(bars, expected.values(), strict=True):
        np.testing.assert_allclose(bar[:, 0], confidence, atol=1e-5)
        np.testing.assert_allclose(bar[:, 1], wilson_by_hand(accuracy, n), atol=1e-5)
    (strip,) = axes.child_axes
    (steps,) = strip.patches
    counts, edges, _ = steps.get_data()
    assert list(counts) == [expected.get(k, (0, 0, 0))[2] for k in range(bins)]
    np.testing.assert_allclose(edges, np.arange(bins + 1) / bins)
    assert strip.get_yscale() == "log"
    assert strip.get_ylim()[1] > 2000


def test_bins_without_samples_are_left_out():
    probabilities = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.55, 0.45]])
    axes = plots.reliability_diagram(probabilities, torch.tensor([0, 0, 0]))
    (dots,) = [line for line in axes.lines if line.get_linestyle() == "None"]
    np.testing.assert_allclose(dots.get_data(), [[0.55, 1], [1, 0.5]])
    (steps,) = axes.child_axes[0].patches
    assert {k: n for k, n in enumerate(steps.get_data().values) if n} == {8: 1, 14: 2}


def test_a_reliability_diagram_states_the_error_that_evaluate_finds(answers):
    scores = evaluate(torch.nn.Identity(), answers)
    axes = plots.reliability_diagram(soften(answers.inputs), answers.labels, name="teacher")
    assert scores.ece > 0.01
    assert axes.texts[-1].get_text() == f"teacher\nECE {scores.ece:.4f}"


@pytest.mark.parametrize("given", [[[0.5, 0.5]], None, "0.5"])
def test_values_that_are_not_tensors_are_refused(given):
    labels = torch.tensor([0])
    kind = type(given).__name__
    with pytest.raises(TypeError, match=rf"probabilities must be a tensor .* got {kind}"):
        plots.reliability_diagram(given, labels)
    with pytest.raises(TypeError, match=rf"labels must be an int64 tensor .* got {kind}"):
        plots.confusion_matrix(labels, given, CLASSES)


def test_two_networks_share_a_reliability_diagram(answers):
    axes = plots.reliability_diagram(soften(answers.inputs), answers.labels, name="teacher")
    cooler = {"ax": axes, "colour": "#123456", "name": "cooler"}
    assert plots.reliability_diagram(soften(answers.inputs, 4), answers.labels, **cooler) is axes
    (strip,) = axes.child_axes
    assert len(strip.patches) == 2
    names = [text.get_text().split("\n")[0] for text in axes.texts]
    assert names == ["calibrated", "teacher", "cooler"]
    assert [text.get_color() for text in axes.texts[1:]] == [plots.COLOURS["teacher"], "#123456"]
    assert len(axes.lines) == 3  # one diagonal
    axes.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert all(a.y0 > b.y1 for a, b in pairwise(boxes))
    assert max(box.x1 for box in boxes) <= axes.figure.bbox.x1


@pytest.mark.parametrize(
    ("probabilities", "labels", "bins", "error", "message"),
    [
        ([[3.0, 1.0]], [0], 15, ValueError, r"got a sum of 4 .* row 0; kd.soften\(logits\)"),
        ([[0.5, 0.5], [1.5, -0.5]], [0, 1], 15, ValueError, "a smallest of -0.5 in row 1"),
        ([[0.5, float("nan")]], [0], 15, ValueError, "got a sum of nan"),
        ([0.5, 0.5], [0], 15, ValueError, r"must be \(N, C\).* got shape \(2,\)"),
        ([[0.5, 0.5]], [2], 15, ValueError, "labels must be class numbers from 0 to 1, got 2"),
        ([[0.5, 0.5]], [0.0], 15, TypeError, "labels must be an int64"),
        ([[0.5, 0.5]], [0, 1], 15, ValueError, "probabilities and labels must be equally many"),
        ([[0.5, 0.5]], [0], 0, ValueError, "bins must be a whole number of at least 1, got 0"),
        ([[0.5, 0.5]], [0], 1.5, ValueError, "bins must be a whole number .* got 1.5"),
    ],
)
def test_a_reliability_diagram_needs_probabilities(probabilities, labels, bins, error, message):
    with pytest.raises(error, match=message):
        plots.reliability_diagram(torch.tensor(probabilities), torch.tensor(labels), bins=bins)
