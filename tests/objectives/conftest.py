import pytest
import torch


@pytest.fixture(scope="session")
def few(digits):
    """100 images, whose rows are not their sample indices."""
    return digits.limit(100)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """An empty cache, and how many networks are stored in it."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return lambda: len(list(tmp_path.rglob("*.safetensors")))
