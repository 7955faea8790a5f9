"""tools/animation.py: the README's animation shows the explorer as it is drawn now."""

import re
import shutil
import sys
from pathlib import Path

import animation
import nbformat
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
ANIMATION = ROOT / "docs" / "explorer.gif"


def test_it_shows_the_explorer_of_the_lesson_with_the_current_code():
    wanted = animation.hash_of(animation.explorer_of(ROOT))
    assert animation.made_from(ANIMATION) == wanted, (
        f"{ANIMATION.name} is missing or shows another explorer: run make animation"
    )


def test_it_loops_is_small_and_is_described_in_the_readme():
    with Image.open(ANIMATION) as image:
        assert image.n_frames > 20
        assert image.info["loop"] == 0
    assert ANIMATION.stat().st_size < 1_000_000
    shown = r'<img src="docs/explorer\.gif" width="\d+" alt="[^"]{40,}">'
    assert re.search(shown, (ROOT / "README.md").read_text())


def test_another_explorer_or_another_layout_is_noticed(tmp_path, monkeypatch):
    path = tmp_path / "small.gif"
    assert animation.made_from(path) is None
    path.write_bytes(animation.gif(squares(), animation.hash_of("an explorer")))
    assert animation.made_from(path) == animation.hash_of("an explorer")
    assert animation.made_from(path) != animation.hash_of("another explorer")
    monkeypatch.setattr(animation, "LAYOUT", ".kdlib { color: red }")
    assert animation.made_from(path) != animation.hash_of("an explorer")


def squares():
    """A square on white that moves once and then rests."""
    pictures = [Image.new("RGB", (60, 40), "white") for _ in range(3)]
    for picture, left in zip(pictures, (5, 30, 30), strict=True):
        picture.paste((1, 115, 178), (left, 10, left + 10, 20))
    return list(zip(pictures, (80, 240, 500), strict=True))


def test_equal_frames_are_merged_and_white_stays_white(tmp_path):
    path = tmp_path / "small.gif"
    path.write_bytes(animation.gif(squares(), "a hash"))
    with Image.open(path) as image:
        assert image.n_frames == 2
        assert image.info["duration"] == 80
        image.seek(1)
        assert image.info["duration"] == 740
        colours = {colour for _, colour in image.convert("RGB").getcolors()}
    assert colours == {(255, 255, 255), (0, 119, 170)}


@pytest.mark.parametrize(
    ("missing", "words"), [("playwright", "needs playwright"), ("browser", "needs Chromium")]
)
def test_without_chromium_or_playwright_it_says_so(monkeypatch, missing, words):
    if missing == "playwright":
        monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    else:
        pytest.importorskip("playwright.sync_api", reason="needs playwright")
        monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=words), animation.chromium():
        pass


def test_a_lesson_without_an_explorer_is_named(tmp_path):
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "notebooks" / "02_temperature.ipynb")
    with pytest.raises(SystemExit, match="must hold a saved temperature explorer; make lesson"):
        animation.main(tmp_path)
