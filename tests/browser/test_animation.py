"""The README's moving picture: a hand drags, chooses, drags back, and ends where it began."""

import itertools

import animation
import numpy as np
import pytest
from PIL import ImageChops

import kdlib as kd

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.parametrize(("place", "other"), [(9, 5), (1, 5)])
def test_it_shows_two_images_at_both_temperatures_and_ends_as_it_began(
    browser, monkeypatch, place, other
):
    draw = np.random.default_rng(0)
    logits, images = draw.normal(0, 6, (40, 10)), draw.random((40, 8, 8))
    labels = draw.integers(0, 10, 40)
    explorer = kd.widgets.TemperatureExplorer(logits, images, labels, list("0123456789"))
    explorer.index = explorer._order[place]
    seen = []

    def release(hand, milliseconds, let_go=animation.Hand.release):
        let_go(hand, milliseconds)
        chosen = hand.explorer.locator(".thumbnail[aria-selected=true]")
        index = int(chosen.get_attribute("data-index"))
        seen.append((float(hand.explorer.locator(".readout").inner_text()), index))

    monkeypatch.setattr(animation.Hand, "release", release)
    own = browser.browser_type.launch(
        executable_path=animation.installed(), args=animation.ARGUMENTS
    )
    frames = animation.film(own, explorer.to_html())
    own.close()
    first, second = explorer._order[place], explorer._order[other]
    assert seen == [(20, first), (20, second), (1, second), (1, first)]
    pictures = [picture for picture, _ in frames]
    moved = [ImageChops.difference(*pair).getbbox() for pair in itertools.pairwise(pictures)]
    assert len(pictures) > 20 and all(moved)
    assert pictures[0].tobytes() == pictures[-1].tobytes()
