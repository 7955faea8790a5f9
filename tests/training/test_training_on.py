"""A finished training can be continued with more epochs where nothing in it depends on their number."""

import copy
from dataclasses import replace

import pandas as pd
import pytest
import torch
from training_helpers import (
    TINY,
    Altered,
    net,
    normed,
    plain,
    same,
    stopping,
    train,
    without_seconds,
    worse_later,
)

import kdlib as kd

STEADY = replace(TINY, schedule="constant")


def soft(teacher_seed=5):
    return kd.SoftTargets(net(teacher_seed), 4, 0.5) + 0.1 * kd.CrossEntropy()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("objective", [kd.CrossEntropy, soft], ids=["labels", "a sum"])
@pytest.mark.parametrize("stopped", [False, True], ids=["finished", "interrupted"])
def test_more_epochs_end_with_the_weights_and_the_history_of_the_longer_training(
    small, tmp_path, optimizer, objective, stopped
):
    path, recipe = tmp_path / "run.pt", replace(STEADY, optimizer=optimizer)
    options = {"checkpoint": path, "seed": 2}
    first = stopping(2) if stopped else None
    train(normed(), small, recipe, objective(), on_epoch=first, **options)
    one_go = normed()
    for epochs in (5, 6):  # and once more
        longer = normed()
        found = train(longer, small, replace(recipe, epochs=epochs), objective(), **options)
    expected = train(one_go, small, replace(recipe, epochs=6), objective(), seed=2)
    assert same(longer, one_go)
    pd.testing.assert_frame_equal(
        without_seconds(found), without_seconds(expected), check_exact=True
    )


def test_fewer_epochs_do_where_not_more_of_them_are_done(small, tmp_path):
    path, model, one_go = tmp_path / "run.pt", net(), net()
    train(net(), small, replace(STEADY, epochs=9), checkpoint=path, on_epoch=stopping(1))
    train(model, small, STEADY, checkpoint=path)
    train(one_go, small, STEADY)
    assert same(model, one_go)


class AtLast(kd.CrossEntropy):
    """Reads the progress in a way that ``changing_weights`` does not show."""

    def __call__(self, student, batch):
        return {"hard": super().__call__(student, batch)["hard"] * (1 + batch.progress)}


class ByACopy(AtLast):
    def __call__(self, student, batch):
        return super().__call__(student, copy.copy(batch))


fading = lambda progress: 1 - progress
CHANGES = {
    "schedule": (TINY, {"epochs": 4}, plain, 'schedule must be "constant", not "one_cycle"'),
    "keep": (
        replace(STEADY, keep="best"),
        {"epochs": 4},
        plain,
        'keep must be "last", not "best"',
    ),
    "weight": (
        STEADY,
        {"epochs": 4},
        lambda: fading * kd.CrossEntropy() + kd.SoftTargets(net(5), 4, 0.5),
        "no weight may depend on progress",
    ),
    "progress": (STEADY, {"epochs": 4}, AtLast, "objective must not read batch.progress"),
    "progress of a copy": (
        STEADY,
        {"epochs": 4},
        ByACopy,
        "objective must not read batch.progress",
    ),
    "altered": (
        STEADY,
        {"epochs": 4},
        lambda: Altered(worse_later),
        "objective must not read batch.progress",
    ),
    "fewer": (STEADY, {"epochs": 2}, plain, "epochs must be at least the 3 that are done"),
    "iterations": (STEADY, {"iterations": 20}, plain, "iterations must be None"),
    "more iterations": (
        replace(STEADY, iterations=8),
        {"iterations": 20},
        plain,
        "8 iterations, here it is 20 iterations; to train on, iterations must be None",
    ),
}


@pytest.mark.parametrize(("recipe", "change", "build", "message"), CHANGES.values(), ids=CHANGES)
def test_what_depends_on_the_number_of_epochs_is_refused_by_name_and_left_alone(
    small, tmp_path, recipe, change, build, message
):
    path = tmp_path / "run.pt"
    objective = build()
    train(net(), small, recipe, objective, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"belongs to a training of .*{message}.*another file"):
        train(net(), small, replace(recipe, **change), objective, checkpoint=path)
    assert path.read_bytes() == before


def test_the_progress_that_was_read_before_an_interruption_counts(small, tmp_path):
    path = tmp_path / "run.pt"

    class Once(kd.CrossEntropy):
        """Asks for the progress in the first epoch only."""

        def __call__(self, student, batch):
            if batch.first and self.asks:
                assert batch.progress == 0
            return super().__call__(student, batch)

    objective = Once()
    objective.asks = objective.key = "asks"
    train(net(), small, STEADY, objective, checkpoint=path, on_epoch=stopping(1))
    objective.asks = ""
    train(net(), small, STEADY, objective, checkpoint=path)
    with pytest.raises(ValueError, match=r"must not read batch\.progress"):
        train(net(), small, replace(STEADY, epochs=4), objective, checkpoint=path)


@pytest.mark.parametrize("change", [{"optimizer": "adam"}, {"learning_rate": 0.1}], ids=str)
def test_with_anything_else_changed_it_is_another_training(small, tmp_path, change):
    path = tmp_path / "run.pt"
    train(net(), small, STEADY, checkpoint=path)
    with pytest.raises(ValueError, match="belongs to another training: its recipe is"):
        train(net(), small, replace(STEADY, epochs=4, **change), checkpoint=path)


def test_a_file_that_does_not_say_whether_progress_was_read_is_not_continued(small, tmp_path):
    path = tmp_path / "run.pt"
    train(net(), small, STEADY, checkpoint=path)
    state = torch.load(path, weights_only=True)
    del state["progress_read"], state["length"]
    torch.save(state, path)
    train(net(), small, STEADY, checkpoint=path)  # the same training is
    with pytest.raises(ValueError, match="belongs to another training: its recipe is"):
        train(net(), small, replace(STEADY, epochs=4), checkpoint=path)
