"""Figures are drawn without a screen and closed after each test."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest


@pytest.fixture(autouse=True)
def no_figure_left():
    yield
    plt.close("all")
