"""tools/thumbnails.py: the README's thumbnails show the notebooks' first pictures."""

import base64
import io
import re
from pathlib import Path

import nbformat
import pytest
import thumbnails
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def picture(colour, size=(1200, 300)):
    file = io.BytesIO()
    Image.new("RGBA", size, colour).save(file, "PNG")
    return file.getvalue()


def notebook_of(*bundles):
    outputs = [
        nbformat.v4.new_output("display_data", data, metadata=meta) for data, meta in bundles
    ]
    cells = [nbformat.v4.new_markdown_cell("# Why?"), nbformat.v4.new_code_cell(outputs=outputs)]
    return nbformat.v4.new_notebook(cells=cells)


def encoded(colour):
    return base64.b64encode(picture(colour)).decode()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_thumbnail_was_made_from_what_the_notebook_shows(path):
    """If this fails: make thumbnails."""
    thumbnail = ROOT / "docs" / "thumbnails" / f"{path.stem}.png"
    first = thumbnails.first_picture(nbformat.read(path, as_version=4))
    assert thumbnails.made_from(thumbnail) == first.source
    assert thumbnail.stat().st_size < 40_000


def test_the_readme_shows_the_thumbnail_of_every_notebook_and_no_other():
    images = re.findall(
        r'\[<img src="docs/thumbnails/(\w+)\.png" width="\d+" alt="([^"]{20,})">\]'
        r"\(notebooks/(\w+)\.ipynb\)",
        (ROOT / "README.md").read_text(),
    )
    names = [path.stem for path in NOTEBOOKS]
    assert [name for name, _, _ in images] == names == [target for _, _, target in images]
    assert sorted(path.stem for path in (ROOT / "docs" / "thumbnails").iterdir()) == names


def test_the_first_picture_comes_with_its_description():
    notebook = notebook_of(
        ({"text/plain": "1"}, {}),
        ({"image/png": encoded("red")}, {"image/png": {"alt": "Red"}}),
        ({"image/png": encoded("blue")}, {"image/png": {"alt": "Blue"}}),
    )
    assert thumbnails.first_picture(notebook) == thumbnails.Picture(picture("red"), "Red")


def test_a_picture_in_html_counts_and_one_inside_a_frame_does_not():
    inner = f"<img src='data:image/png;base64,{encoded('red')}'>"
    outer = f'<iframe srcdoc="{inner}"></iframe><img src="data:image/png;base64,{encoded("blue")}" alt="Blue">'
    found = thumbnails.first_picture(notebook_of(({"text/html": outer}, {})))
    assert found == thumbnails.Picture(picture("blue"), "Blue")


def test_a_notebook_without_a_picture_has_no_thumbnail():
    with pytest.raises(ValueError, match="must show a picture"):
        thumbnails.first_picture(notebook_of(({"text/plain": "1"}, {})))


def test_a_thumbnail_is_small_and_on_white_and_records_its_source(tmp_path):
    clear = thumbnails.Picture(picture((0, 0, 0, 0)), "Nothing")
    path = tmp_path / "small.png"
    path.write_bytes(thumbnails.thumbnail(clear))
    with Image.open(path) as image:
        assert image.size == (640, 160)
        assert image.convert("RGB").getpixel((9, 9)) == (255, 255, 255)
    assert thumbnails.made_from(path) == clear.source
    assert thumbnails.made_from(tmp_path / "none.png") is None


def test_only_changed_thumbnails_are_written_again(tmp_path):
    (tmp_path / "notebooks").mkdir()
    notebook = tmp_path / "notebooks" / "00_x.ipynb"
    target = tmp_path / "docs" / "thumbnails" / "00_x.png"
    nbformat.write(notebook_of(({"image/png": encoded("red")}, {})), notebook)
    thumbnails.main(tmp_path)
    written = target.stat().st_mtime_ns
    thumbnails.main(tmp_path)
    assert target.stat().st_mtime_ns == written
    nbformat.write(notebook_of(({"image/png": encoded("blue")}, {})), notebook)
    thumbnails.main(tmp_path)
    with Image.open(target) as image:
        assert image.convert("RGB").getpixel((9, 9)) == (0, 0, 255)
