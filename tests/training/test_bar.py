"""The progress bar: what it shows, and that nothing of it stays."""

import math

import pytest
from tqdm.notebook import tqdm_notebook

from kdlib.training.bar import bar

ROW = {"epoch": 2, "step": 8, "seconds": 0.1, "hard": 0.51234, "validation_loss": math.nan}


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_bar_shows_the_terms_that_are_numbers_and_is_wiped_out(capsys, error):
    try:
        with bar(3, 1, True) as advance:
            advance(ROW)
            if error is not None:
                raise error
    except KeyboardInterrupt:
        assert error is KeyboardInterrupt
    out, shown = capsys.readouterr()
    assert out == ""
    assert "epochs: " in shown and "1/3" in shown and "hard=0.512" in shown
    assert not any(word in shown for word in ("nan", "step", "seconds"))
    assert shown.endswith(" \r")  # the line is blank


def test_in_a_notebook_the_bars_output_is_blanked(monkeypatch):
    shown, blanked = [], []

    class Place:
        def update(self, *what, **how):
            blanked.append((what, how))

    def display(what, display_id):
        shown.append(what)
        return Place()

    monkeypatch.setattr("tqdm.auto.tqdm", tqdm_notebook)
    monkeypatch.setattr("IPython.display.display", display)
    with bar(3, 0, True) as advance:
        advance(ROW)
        assert "hard=0.512" in repr(shown[0])
        assert blanked == []
    assert len(shown) == 1
    assert blanked == [(({},), {"raw": True})]
