"""A reader's pictures: which files of a folder they are, and their pixels. Nothing here makes a data set."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kdlib._files import reason

__all__ = ["check_mode", "is_grey", "pictures_by_class", "pixels", "pixels_of_file"]

# Read where the installed Pillow can open them; of an animation the first picture.
_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp", ".avif", ".tif", ".tiff")
_ENDINGS += (".ppm", ".pgm", ".pbm")
_OF_OTHER_PROGRAMS = {"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"}
_VALIDATION = ("val", "valid", "validation", "dev")
_GREY, _COLOURED = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def pictures_by_class(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """The pictures of ``train`` and, if there is one, ``test``, by class, both in alphabetical order.

    Hidden files and folders are passed over, and so are those that other programs leave behind.

    Raises:
        FileNotFoundError: there is no ``train`` folder, it has no classes, or a class has no picture.
        ValueError: a class of ``test`` is not in ``train``.

    Warns:
        UserWarning: other files are passed over, or a folder of validation pictures.
    """
    if not (folder / "train").is_dir():
        raise FileNotFoundError(
            f"folder must hold train/CLASS/ with images, but there is no {folder / 'train'}"
        )
    parts, others = {}, Counter()
    for part in ("train", "test"):
        if (folder / part).is_dir():
            classes = [path for path in _visible(folder / part) if path.is_dir()]
            parts[part] = {path.name: _pictures(path, others) for path in classes}
            others.update(_ending(path) for path in _visible(folder / part) if path.is_file())
    for part, found in parts.items():
        if not found:
            raise FileNotFoundError(
                f"folder must hold {part}/CLASS/ with images, but {folder / part} has no subfolder"
            )
        for name, pictures in found.items():
            if not pictures:
                raise FileNotFoundError(
                    f"folder must have images in every class, but {folder / part / name} has none that "
                    f"can be read ({' '.join(_endings())})"
                )
        if unknown := sorted(found.keys() - parts["train"].keys()):
            raise ValueError(f"classes of test must occur in train, got {unknown[0]!r}")
    _warn_of(folder, others)
    return parts


def _warn_of(folder: Path, others: Counter) -> None:
    if others:
        kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
        files = "1 file" if others.total() == 1 else f"{others.total()} files"
        warnings.warn(
            f"{folder}: passed over {files} that cannot be read as images: {kinds}", stacklevel=4
        )
    if beside := [path.name for path in _visible(folder) if path.name in _VALIDATION]:
        warnings.warn(
            f"{folder}: passed over {beside[0]}/; validation=N holds N images of train/ out of training",
            stacklevel=4,
        )


def _pictures(folder: Path, others: Counter, above: tuple[Path, ...] = ()) -> list[Path]:
    """All pictures below a folder, behind links, too; other files are counted by their endings."""
    found, above = [], (*above, folder.resolve())
    for path in sorted(_visible(folder), key=Path.is_dir):  # a folder's files before its subfolders
        if path.is_dir():
            # A link to a folder above would show the same pictures again and again.
            found += [] if path.resolve() in above else _pictures(path, others, above)
        elif path.suffix.lower() in _endings():
            found.append(path)
        else:
            others[_ending(path)] += 1
    return found


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not _is_hidden(path.name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _OF_OTHER_PROGRAMS


def _ending(path: Path) -> str:
    return path.suffix.lower() or "without an ending"


def _endings() -> list[str]:
    from PIL import Image

    opened = Image.registered_extensions()
    return [ending for ending in _ENDINGS if opened.get(ending) in Image.OPEN]


def is_grey(path: Path) -> bool:
    with _opened(path) as picture:
        mode = picture.mode
    check_mode(mode, path)
    return mode in _GREY


def pixels_of_file(path: Path, grey: bool, size: int | None) -> np.ndarray:
    """A file's pixels ``(H, W)`` or ``(H, W, 3)``, turned as its camera says and resized to ``size``.

    Raises:
        ValueError: the file cannot be read.
    """
    from PIL import ImageOps

    with _opened(path) as picture:
        return pixels(ImageOps.exif_transpose(picture), grey, size)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Pillow's picture of a file; whatever reading it raises inside names the file."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            yield picture
    except Exception as error:  # a damaged file raises errors of many types
        raise ValueError(
            f"{path} cannot be read as an image ({reason(error)}); replace it with an "
            "intact copy or delete it"
        ) from error


def pixels(picture: Any, grey: bool, size: int | None = None) -> np.ndarray:
    """The pixels of Pillow's ``picture``, laid on white where it is transparent."""
    from PIL import Image

    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        # Transparent pixels have no colour of their own: ink on them would be black on black.
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("L" if grey else "RGB")
    return np.asarray(picture if size is None else picture.resize((size, size)))


def check_mode(mode: str, where: object) -> None:
    if mode not in _GREY + _COLOURED:
        raise ValueError(
            f"{where} has pixels of mode {mode!r}, which would be truncated; "
            "save it as 8-bit grey or RGB"
        )
