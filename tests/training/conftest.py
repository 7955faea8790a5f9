"""Fixtures for the tests of training."""

import pytest


@pytest.fixture(scope="module")
def small(digits):
    """200 training images: four batches of 50."""
    return digits.limit(200)
