"""The temperature explorer's Python side: what it accepts, what it keeps, and in which order."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import kdlib as kd
from kdlib.course.widgets import TemperatureExplorer

CLASSES = list("0123456789")
draws = np.random.default_rng


def given(**changed):
    """Arguments for five images of ten classes."""
    arguments = {
        "logits": draws(0).normal(0, 5, (5, 10)),
        "images": draws(1).random((5, 28, 28)),
        "labels": np.arange(5),
        "classes": CLASSES,
    }
    return arguments | changed


def kept_logits(explorer, name="_logits"):
    return np.frombuffer(getattr(explorer, name), np.float32).reshape(len(explorer._labels), -1)


def kept_pixels(explorer):
    return np.frombuffer(explorer._pixels, np.uint8).reshape(-1, *explorer._size)


def test_arrays_tensors_and_lists_give_the_same_explorer():
    arrays = given()
    tensors = {name: torch.tensor(arrays[name]) for name in ("logits", "images", "labels")}
    lists = {name: arrays[name].tolist() for name in tensors}
    wanted = TemperatureExplorer(**arrays).state()
    assert TemperatureExplorer(**(arrays | tensors)).state() == wanted
    assert TemperatureExplorer(**(arrays | lists)).state() == wanted


def test_logits_are_kept_in_float32_to_the_bit_even_with_a_gradient_or_of_half_precision():
    logits = draws(3).normal(0, 20, (5, 10)).astype(np.float32)
    explorer = TemperatureExplorer(**given(logits=logits, student_logits=logits[::-1]))
    assert np.array_equal(kept_logits(explorer), logits)
    assert np.array_equal(kept_logits(explorer, "_student_logits"), logits[::-1])
    assert TemperatureExplorer(**given())._student_logits == b""  # none was given
    half = torch.tensor(logits).bfloat16()
    explorer = TemperatureExplorer(**given(logits=half.clone().requires_grad_()))
    assert np.array_equal(kept_logits(explorer), half.float())


def test_images_are_sorted_by_the_teachers_entropy_and_the_most_uncertain_is_shown_first():
    logits = draws(4).normal(0, 8, (5, 10))
    explorer = TemperatureExplorer(**given(logits=logits))
    p = torch.tensor(logits).softmax(-1)
    wanted = torch.special.entr(p).sum(-1).argsort(descending=True).tolist()
    assert explorer._order == wanted
    assert explorer.index == wanted[0]


def test_an_entropy_too_small_for_an_exponential_is_still_sorted_without_warning():
    logits = np.array([[900.0, 0.0], [-900.0, 0.0], [1.0, 1.0]])
    explorer = TemperatureExplorer(logits, np.zeros((3, 4, 4), np.uint8), [0, 1, 0], ["cat", "dog"])
    assert explorer._order[0] == 2


def test_pixels_in_uint8_stay_as_they_are_and_without_contrast_become_zero():
    images = draws(0).integers(40, 90, (5, 28, 28)).astype(np.uint8)
    for these, kept in ((images, images), (np.full((5, 28, 28), 0.5), 0 * images)):
        found = kept_pixels(TemperatureExplorer(**given(images=these)))
        assert np.array_equal(found[:, 0], kept)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalised_pixels_are_restored(channels):
    images = draws(0).integers(0, 256, (5, channels, 16, 16))
    images[0, :, 0, :2] = 0, 255  # each channel spans its range in some image
    mean, spread = (np.arange(channels)[:, None, None] + shift for shift in (0.3, 0.5))
    normalised = ((images / 255 - mean) / spread).astype(np.float32)
    explorer = TemperatureExplorer(**given(images=normalised))
    assert explorer._size == [channels, 16, 16]
    assert np.array_equal(kept_pixels(explorer), images)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64])
def test_pixels_of_any_number_are_scaled(dtype):
    images = np.zeros((5, 4, 4), dtype)
    images[0, 0, 0] = 1 if dtype is bool else 100
    images[1, 0, 0] = 0 if dtype is bool else -100
    pixels = kept_pixels(TemperatureExplorer(**given(images=images)))
    assert (pixels.min(), pixels.max(), pixels[0, 0, 0, 0]) == (0, 255, 255)


def test_temperature_and_index_can_be_set_from_python_and_never_leave_their_range():
    explorer = TemperatureExplorer(**given())
    explorer.temperature, explorer.index = 20, 4
    assert (explorer.temperature, explorer.index) == (20.0, 4)
    for temperature in (0.24, 51, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature must be from 0.25 to 50, got"):
            explorer.temperature = temperature
    for index in (-1, 5):
        with pytest.raises(ValueError, match=f"index must be from 0 to 4, got {index}"):
            explorer.index = index
    assert (explorer.temperature, explorer.index) == (20.0, 4)


def test_observers_hear_what_a_reader_chose():
    explorer, heard = TemperatureExplorer(**given()), []
    explorer.observe(lambda change: heard.append(change.new), ["temperature", "index"])
    explorer.set_state({"temperature": 7.5})
    explorer.set_state({"index": 3})
    assert heard[0] == 7.5
    assert explorer.index == 3


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"logits": np.zeros(10)}, ValueError, r"logits must be \(N, C\).*got shape \(10,\)"),
        ({"logits": np.zeros((0, 10))}, ValueError, r"logits must be \(N, C\).*\(0, 10\)"),
        ({"logits": np.zeros((5, 1))}, ValueError, r"logits must be \(N, C\).*\(5, 1\)"),
        ({"logits": np.full((5, 10), np.nan)}, ValueError, "logits must be finite, got nan"),
        ({"logits": [["a"] * 10] * 5}, TypeError, "logits must be a tensor or an array of numbers"),
        ({"logits": [[1.0, 2.0], [1.0]]}, TypeError, "logits must be a tensor or an array"),
        ({"images": np.zeros((5, 28, 28, 3))}, ValueError, "images must be .*transpose"),
        ({"images": np.zeros((4, 28, 28))}, ValueError, "images must be one for .* 5 .* got 4"),
        ({"images": np.full((5, 2, 2), np.inf)}, ValueError, "images must be finite, got inf"),
        ({"labels": np.zeros(4, int)}, ValueError, "labels must be one for each of the 5"),
        ({"labels": np.zeros(5)}, TypeError, "labels must be whole numbers, got float64"),
        ({"labels": [0, 1, 2, 3, 10]}, ValueError, "labels must be .* from 0 to 9, got 10"),
        ({"labels": [0, 1, 2, 3, -1]}, ValueError, "labels must be .* from 0 to 9, got -1"),
        ({"classes": CLASSES[:9]}, ValueError, "classes must be one name .* 10 .* got 9"),
        ({"classes": "0123456789"}, TypeError, "classes must be a sequence of names"),
        ({"classes": range(10)}, TypeError, "classes must be a sequence of names"),
        ({"student_logits": np.zeros((5, 9))}, ValueError, r"student_logits must have .*\(5, 9\)"),
        ({"student_logits": np.zeros(5)}, ValueError, r"student_logits must be \(N, C\)"),
    ],
)
def test_arguments_that_it_cannot_show_are_refused(changed, error, words):
    with pytest.raises(error, match=words):
        TemperatureExplorer(**given(**changed))


def test_the_alt_text_of_its_still_picture_gives_the_likeliest_classes():
    explorer = TemperatureExplorer(**given())
    explorer.temperature, explorer.index = 2.0, 3
    assert explorer.picture().startswith(b"\x89PNG")
    z = given()["logits"][3] / 2
    soft = np.exp(z) / np.exp(z).sum()
    top = ", ".join(f"{CLASSES[k]}: {soft[k]:.2g}" for k in np.argsort(-soft)[:3])
    assert explorer.alt() == (
        f"An image of class 3 and the teacher's soft targets at temperature 2 ({top}); "
        f"entropy {-(soft * np.log(soft)).sum():.2f} nats."
    )


def test_in_colab_it_brings_its_own_widget_manager(monkeypatch):
    address = "https://example.org/manager.min.js"
    asked = []
    colab = SimpleNamespace(
        enable_custom_widget_manager=lambda: asked.append(True),
        _widgets=SimpleNamespace(_installed_url=address),
    )
    monkeypatch.setitem(sys.modules, "google.colab.output", colab)
    data, metadata = TemperatureExplorer(**given())._repr_mimebundle_()
    (view,) = metadata.values()
    assert asked and view == {"colab": {"custom_widget_manager": {"url": address}}}
    assert set(metadata) < set(data)


def test_the_inks_are_those_of_the_course():
    from kdlib.course.widgets._explorer import style_sheet

    for name in ("teacher", "student", "soft", "hard", "control"):
        assert f"--{name}: light-dark({kd.plots.COLOURS[name]}," in style_sheet()


def test_importing_the_library_loads_no_widget_and_no_plot_and_naming_an_explorer_does():
    source = """
import sys
import kdlib as kd
print({"anywidget", "ipywidgets", "IPython", "matplotlib"} & {*sys.modules})
kd.widgets
print("anywidget" in sys.modules)
kd.widgets.TemperatureExplorer
print("anywidget" in sys.modules, "matplotlib.pyplot" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["set()", "False", "True", "False"]
    assert {"DistillationExplorer", "Flipbook", "TemperatureExplorer"} <= {*kd.widgets.__all__}
    with pytest.raises(AttributeError, match="no attribute 'Explorer'"):
        kd.widgets.Explorer  # noqa: B018
