"""benchmarks/: both sides of a comparison see the same images and learn."""

import importlib.util
from pathlib import Path

import pytest
import torch

import kdlib as kd

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def training():
    path = ROOT / "benchmarks" / "training.py"
    specification = importlib.util.spec_from_file_location("benchmark_of_training", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def small(real_data):
    return kd.data.load("mnist", device="cpu", root=real_data).limit(2_000)


def test_the_plain_loop_sees_the_images_that_kdlib_sees(training, small):
    images, labels = zip(*training.Images(small.train), strict=True)
    assert list(labels) == small.train.labels.tolist()
    # Their mean and deviation have four digits.
    torch.testing.assert_close(torch.stack(images), small.train.inputs, atol=2e-3, rtol=0)


def test_both_sides_start_alike_and_learn(training, small):
    teacher = kd.models.mlp(100, seed=0)
    kd.fit(teacher, kd.CrossEntropy(), small, kd.Recipe(epochs=5), progress=False)
    right = kd.evaluate(teacher, small.test).accuracy
    assert right > 0.8
    for student in (
        training.plain(small, teacher, seed=1, epochs=3, workers=0),
        training.fitted(small, teacher, seed=1, epochs=3, precision="float32"),
    ):
        assert kd.evaluate(student, small.test).accuracy > right - 0.05


def test_one_seed_cannot_be_paired_and_is_refused_before_anything_runs(training):
    with pytest.raises(SystemExit, match="at least 2"):
        training.main(1)
