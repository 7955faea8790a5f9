"""The flipbook's Python side: pictures of any kind, all of one size, each with its label."""

import io

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.image import imread

from kdlib.course.widgets import Flipbook

LABELS = ["epoch 1", "epoch 2", "epoch 3"]


def noise(count=3, size=(28, 28)):
    return np.random.default_rng(0).random((count, *size))


def pixels(picture):
    return np.rint(imread(io.BytesIO(picture))[..., :3] * 255).astype(int)


def test_figures_become_pictures_and_are_closed():
    before = plt.get_fignums()
    book = Flipbook([plt.figure(figsize=(4, 3)) for _ in LABELS], LABELS)
    assert plt.get_fignums() == before
    assert [pixels(frame).shape for frame in book._frames] == [(330, 440, 3)] * 3


def test_png_bytes_stay_as_they_are():
    frames = Flipbook(noise(), LABELS)._frames
    assert Flipbook(frames, LABELS)._frames == frames


def test_arrays_share_one_scale_and_high_values_are_dark():
    book = Flipbook([np.full((28, 28), value) for value in (0.0, 1.0, 2.0)], LABELS)
    assert [int(pixels(frame)[0, 0, 0]) for frame in book._frames] == [255, 127, 0]


def test_colours_of_uint8_stay_as_they_are_and_small_arrays_are_shown_larger():
    colour = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    first = pixels(Flipbook(colour, LABELS[:2])._frames[0])
    assert first.shape == (288, 288, 3)
    assert np.array_equal(first[::9, ::9], colour[0])


def test_the_frame_is_as_high_as_the_pictures_and_the_slider_together():
    book = Flipbook(np.zeros((3, 20, 40)), LABELS)
    ((width, height),) = book.heights_for(book.state(), book.picture())
    assert width == 0
    assert height.endswith("+ min(140px, (100cqw - 24px) * 0.5000))")


def test_the_still_picture_and_its_alt_text_are_those_of_the_open_page():
    book = Flipbook(noise(), LABELS)
    book.index = 2
    assert book.picture() == book._frames[2]
    assert book.alt() == "epoch 3: picture 3 of 3 of a flipbook."
    with pytest.raises(ValueError, match="index must be from 0 to 2, got 3"):
        book.index = 3


@pytest.mark.parametrize(
    ("frames", "labels", "error", "words"),
    [
        (noise(1), LABELS[:1], ValueError, "frames must be at least two pictures, got 1"),
        (noise(), LABELS[:2], ValueError, "labels must be one string for each of 3 frames, got 2"),
        (noise(), "abc", TypeError, "labels must be a sequence of strings"),
        (noise(), [1, 2, 3], TypeError, "labels must be a sequence of strings"),
        ([b"GIF89a..", b"GIF89a.."], LABELS[:2], ValueError, "frames must be PNG .* got b'GIF89a"),
        ([*noise(2), b"x"], LABELS, TypeError, "frames must all be of one kind, got bytes, nd"),
        (noise(3, (28, 28, 4)), LABELS, ValueError, r"frames must be \(H, W\).* \(28, 28, 4\)"),
        ([noise()[0], noise(1, (20, 28))[0]], LABELS[:2], ValueError, "frames .* of one size"),
        (["one", "two"], LABELS[:2], TypeError, "frames must be a tensor or an array of numbers"),
    ],
)
def test_frames_and_labels_that_it_cannot_show_are_refused(frames, labels, error, words):
    with pytest.raises(error, match=words):
        Flipbook(frames, labels)
