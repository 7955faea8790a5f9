"""benchmarks/: both sides do the same work and learn alike; every move of a slider is painted."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kdlib as kd
from kdlib.taps import reach

ROOT = Path(__file__).resolve().parents[1]


def benchmark(name):
    path = ROOT / "benchmarks" / f"{name}.py"
    specification = importlib.util.spec_from_file_location(f"benchmark_of_{name}", path)
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except SystemExit:
        pytest.skip(f"the benchmark {name} needs what is not installed")
    return module


training = pytest.fixture(scope="module")(lambda: benchmark("training"))
sliders = pytest.fixture(scope="module")(lambda: benchmark("slider_latency"))
fsp = pytest.fixture(scope="module")(lambda: benchmark("fsp"))


@pytest.fixture(scope="module")
def small(real_data):
    return kd.data.load("mnist", device="cpu", root=real_data).limit(2_000)


def test_the_plain_loop_sees_the_images_that_kdlib_sees(training, small):
    images, labels = zip(*training.Images(small.train), strict=True)
    assert list(labels) == small.train.labels.tolist()
    # The plain loop's mean and deviation have four digits.
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


def test_one_seed_is_refused_before_anything_runs(training):
    with pytest.raises(SystemExit, match="at least 2"):
        training.main(1)


def test_both_ways_give_the_same_fsp_term_and_gradient(fsp):
    student, teacher = fsp.random_maps(0, images=2), fsp.random_maps(1, images=2)
    losses = [fsp.term(way, student, teacher) for way in fsp.WAYS.values()]
    torch.testing.assert_close(*losses)
    assert losses[0] > 1
    ours, theirs = (fsp.gradients(way, student, teacher) for way in fsp.WAYS.values())
    assert [gradient.shape for gradient in ours] == [maps.shape for maps in student.values()]
    torch.testing.assert_close(ours, theirs)


def test_the_maps_of_the_fsp_term_have_the_sizes_of_a_resnet_32(fsp):
    features = reach(kd.models.resnet(32), torch.zeros(2, 3, 32, 32), list(fsp.LAYERS))
    sizes = {name: maps.shape for name, maps in features.items()}
    assert sizes == {name: maps.shape for name, maps in fsp.random_maps(0, images=2).items()}


def test_both_ways_take_the_same_step_up_to_the_third_stage(fsp):
    start, ends = kd.models.resnet(32).state_dict(), []
    for way in fsp.WAYS.values():
        step = fsp.Step(way, fsp.random_maps(1, images=2))
        step()
        ends.append(step.student.state_dict())
    moved = {name.split(".")[0] for name in start if not torch.equal(start[name], ends[0][name])}
    assert moved == set(fsp.LAYERS)
    torch.testing.assert_close(*ends)


def test_memory_counts_the_peak_and_what_is_left(fsp):
    def work():
        for _ in range(3):
            torch.zeros(2**20)  # 4 MiB, given back each time
        return torch.zeros(2**18)

    assert fsp.memory(work, "cpu") == pytest.approx((4, 1), abs=0.01)


def test_one_side_holds_the_broadcast_product(fsp):
    maps = fsp.random_maps(0, images=2)
    most, left = fsp.memory(lambda: fsp.gradients(fsp.WAYS["broadcast product"], maps, maps), "cpu")
    assert left == pytest.approx(sum(m.numel() for m in maps.values()) * 4 / 2**20, abs=0.01)
    assert most > 2 * 16 * 16 * 32 * 32 * 4 / 2**20


def test_the_fsp_benchmark_ends_with_its_ratio(fsp, capsys):
    fsp.main(1, 2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert re.fullmatch(r"ratio: \d+\.\d", lines[-1])


def test_latency_lasts_from_a_move_to_the_next_picture_and_other_frames_are_dropped(sliders):
    moves = [(95, 100), (195, 200)]  # sent, heard
    frames = [  # over, a new picture, no picture, height
        (90, True, False, 10),
        (110, False, True, 10),
        (130, True, False, 12),
        (150, False, False, 12),
        (210, True, False, 10),
        (230, True, False, 10),
    ]
    seen = sliders.summary(moves, frames)
    assert seen["latency"].tolist() == [35, 15]
    assert seen["in_page"].tolist() == [30, 10]
    assert seen["frames"] == 7  # of a sixtieth of a second, from 100 to 200
    assert seen["pictures"] == 2  # the first is older, the last too late
    assert (seen["blank"], seen["heights"], seen["interval"]) == (1, 2, 20)


@pytest.mark.slow
@pytest.mark.browser
def test_every_move_of_every_slider_is_painted(sliders):
    command = [sys.executable, ROOT / "benchmarks" / "slider_latency.py", "4"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    for side in sliders.SIDES:
        (row,) = [line.removeprefix(side) for line in lines if line.startswith(side)]
        moves, *latencies = map(float, row.split()[:5])
        assert moves == 4
        assert min(latencies) > 0
    assert re.fullmatch(r"ratio: \d+\.\d", lines[-1])
