"""What several tests share."""

import os
from pathlib import Path

import pytest
import torch

import kdlib as kd

collect_ignore_glob = ["*/conftest.py"]  # they hold no doctests, and their names are all alike

# Tests share the cores among themselves, and networks this small are slower on several.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or fills the user's cache folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))


@pytest.fixture(scope="session")
def digits():
    return kd.data.load("digits", device="cpu")


@pytest.fixture(scope="session")
def real_data():
    """A folder with real data sets; the test is skipped where there is none."""
    root = os.environ.get("KDLIB_DATA")
    if not root or not (Path(root) / "mnist.npz").exists():
        pytest.skip("needs real data: set KDLIB_DATA to a folder with mnist.npz")
    return Path(root)
