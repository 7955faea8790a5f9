"""Write a small picture of every notebook for the README, taken from the notebook's own outputs.

``python tools/thumbnails.py``, or ``make thumbnails``; ``make lesson`` does it too. A thumbnail holds the
hash of the picture that it was made from and is written again only if that has changed, because
another version of Pillow may compress the same picture to other bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from PIL import Image, PngImagePlugin

ROOT = Path(__file__).resolve().parent.parent
SIZE = (640, 384)  # at most
KINDS = ("image/png", "image/jpeg")
EMBEDDED = re.compile(r"data:image/(?:png|jpeg|webp);base64,")


@dataclass(frozen=True)
class Picture:
    """A picture in an output, and its description for those who cannot see it."""

    data: bytes
    alt: str

    @property
    def source(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def first_picture(notebook: nbformat.NotebookNode) -> Picture:
    """The first picture in the outputs, including those inside HTML.

    Raises:
        ValueError: the notebook shows no picture.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for picture in _pictures(output):
                return picture
    raise ValueError("notebook must show a picture to have a thumbnail, got none in its outputs")


def thumbnail(picture: Picture) -> bytes:
    """The picture scaled down, as a PNG on white, with the hash of what it was made from."""
    image = Image.open(io.BytesIO(picture.data)).convert("RGBA")
    paper = Image.new("RGBA", image.size, "white")
    small = Image.alpha_composite(paper, image).convert("RGB")
    small.thumbnail(SIZE, Image.Resampling.LANCZOS)
    note = PngImagePlugin.PngInfo()
    note.add_text("source", picture.source)
    file = io.BytesIO()
    small.quantize(64).save(file, "PNG", optimize=True, pnginfo=note)
    return file.getvalue()


def made_from(path: Path) -> str | None:
    """The hash of the picture that a thumbnail was made from; None if there is no thumbnail."""
    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.info.get("source")


def _pictures(output: nbformat.NotebookNode) -> Iterator[Picture]:
    data = output.get("data", {})
    for kind in KINDS:
        if kind in data:
            alt = output.metadata.get(kind, {}).get("alt", "")
            yield Picture(base64.b64decode(data[kind]), alt)
    for image in BeautifulSoup(data.get("text/html", ""), "html.parser")("img", src=EMBEDDED):
        yield Picture(base64.b64decode(image["src"].partition(",")[2]), image.get("alt", ""))


def main(root: Path = ROOT) -> None:
    folder = root / "docs" / "thumbnails"
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        picture = first_picture(nbformat.read(path, as_version=4))
        target = folder / f"{path.stem}.png"
        if made_from(target) != picture.source:
            target.write_bytes(thumbnail(picture))
            print(f"wrote {target.relative_to(root)}")


if __name__ == "__main__":
    main()
