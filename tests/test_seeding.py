import random
import threading
from itertools import product

import numpy as np
import pytest
import torch

import kdlib as kd
from kdlib import seeding


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_seeded_puts_the_callers_generator_back(error):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    try:
        with kd.seeded(1):
            torch.rand(100)
            if error is not None:
                raise error
    except RuntimeError:
        assert error is RuntimeError
    assert torch.equal(torch.get_rng_state(), before)


DRAWS = {  # every generator of the process that a network may draw from
    "torch": lambda: torch.rand(3).tolist(),
    "random": lambda: [random.random() for _ in range(3)],
    "shuffle": lambda: random.sample(range(1000), 3),
    "numpy": lambda: np.random.rand(3).tolist(),
    "normal": lambda: np.random.standard_normal(3).tolist(),  # numpy keeps every second one
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_seeded_seeds_every_generator_and_gives_it_back(draw):
    for start in (random.seed, np.random.seed, torch.manual_seed):
        start(5)
    np.random.standard_normal()
    first, states = draw(), (random.getstate(), np.random.get_state(), torch.get_rng_state())
    drawn = []
    for seed in (1, 1, 2):
        with kd.seeded(seed):
            drawn.append(draw())
    assert drawn[0] == drawn[1] != drawn[2]
    after = random.getstate(), np.random.get_state(), torch.get_rng_state()
    assert str(after) == str(states)
    assert draw() != first


@pytest.mark.parametrize(
    "change",
    [
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_dtype(torch.bfloat16),
        lambda: torch.set_default_device("meta"),
    ],
    ids=["float64", "bfloat16", "device"],
)
def test_a_seed_gives_one_network_whatever_the_callers_defaults(change):
    expected = kd.models.mlp(5, seed=3).state_dict()
    try:
        change()
        defaults = torch.get_default_dtype(), torch.get_default_device()
        built = kd.models.mlp(5, seed=3).state_dict()
        assert (torch.get_default_dtype(), torch.get_default_device()) == defaults
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    for name, value in expected.items():
        assert torch.equal(built[name], value)
        assert (built[name].dtype, built[name].device) == (value.dtype, value.device)


def test_a_default_that_is_set_inside_ends_with_the_scope():
    with kd.seeded(1):
        torch.set_default_dtype(torch.float64)
    assert torch.get_default_dtype() == torch.float32


def test_a_second_thread_waits_while_one_is_inside_and_scopes_nest():
    entered, drawn = threading.Event(), []

    def other():
        entered.set()
        with kd.seeded(2):
            drawn.append("other")

    thread = threading.Thread(target=other)
    with kd.seeded(1):
        thread.start()
        entered.wait(60)
        with kd.seeded(1):  # its own thread may
            drawn.append("inner")
        thread.join(0.05)
        drawn.append("outer")
    thread.join(60)
    assert drawn == ["inner", "outer", "other"]


def test_seeded_takes_what_torch_takes_for_that_seed():
    with kd.seeded(np.int64(3)):
        drawn = torch.rand(4)
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(3)))


def test_streams_differ_by_seed_by_epoch_and_by_purpose():
    keys = list(product((0, 1, 11), (0, 1, 11), ("order", "views", "dropout")))
    draws = {tuple(torch.rand(2, generator=seeding.stream(*key)).tolist()) for key in keys}
    assert len(draws) == len(keys) == 27


def test_a_stream_is_the_same_whenever_it_is_asked_for_and_moves_no_other_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = torch.rand(4, generator=seeding.stream(3, 2, "order"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(torch.rand(4, generator=seeding.stream(3, 2, "order")), first)


def test_keys_never_change_or_a_checkpoint_would_resume_as_another_training():
    assert seeding.key(3, 2, "order") == 2369348395987745614


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [(seed, TypeError, f"a whole number, got {seed!r}") for seed in (1.0, "1", None, True)]
    + [(seed, ValueError, rf"from 0 to 2\*\*63 - 1, got {seed}") for seed in (-1, 2**63)],
)
def test_a_seed_is_a_whole_number_of_63_bits(seed, error, message):
    for use in (kd.seeded(seed).__enter__, lambda: seeding.check_seed(seed)):
        with pytest.raises(error, match=f"seed must be {message}"):
            use()


def test_the_largest_seed_works():
    with kd.seeded(2**63 - 1):
        assert torch.rand(1).isfinite()
    assert torch.rand(1, generator=seeding.stream(2**63 - 1, 1, "order")).isfinite()
