"""A slider over pictures that were made beforehand; flipbook.js draws it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import traitlets

from kdlib.course.widgets._explorer import Explorer, module, numbers, png

__all__ = ["Flipbook"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SMALLEST = 280  # pixels; smaller arrays are shown larger, each value a square


class Flipbook(Explorer):
    """Leaf through pictures of layers, training steps or generations with a slider.

    Args:
        frames: matplotlib figures (closed here), PNG as bytes, or arrays ``(H, W)`` or ``(H, W, 3)``;
            at least two, all of one size. Arrays of uint8 stay as they are, other numbers are scaled
            from the lowest of all frames to the highest; grey is dark on white, as in the figures.
        labels: a string for each frame, shown above it and read out by screen readers.

    Attributes:
        index: the picture shown, counted from 0.

    Raises:
        TypeError, ValueError: frames of another kind or of several sizes, labels that are not one
            string for each frame, or an index out of range.

    Example:
        >>> import numpy as np
        >>> noise = np.random.default_rng(0).random((3, 28, 28))
        >>> book = Flipbook(noise, ["first epoch", "second epoch", "third epoch"])
        >>> book.index = 2
    """

    _esm = module("flipbook")
    name = "flipbook"

    index = traitlets.Int(0).tag(sync=True)
    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _frames = traitlets.List(traitlets.Bytes()).tag(sync=True)  # PNG

    def __init__(self, frames: Sequence, labels: Sequence[str]) -> None:
        pictures = _pictures(frames)
        _common_size(pictures)
        super().__init__(labels=_checked_labels(labels, len(pictures)), _frames=pictures)

    @classmethod
    def heights_for(cls, state: Mapping, picture: bytes) -> tuple[tuple[int, str]]:
        width, height = _common_size([picture])
        return ((0, f"calc(106px + min({height}px, (100cqw - 24px) * {height / width:.4f}))"),)

    @traitlets.validate("index")
    def _index_in_range(self, proposal) -> int:
        if not 0 <= proposal.value < len(self._frames):
            raise ValueError(
                f"index must be from 0 to {len(self._frames) - 1}, got {proposal.value}"
            )
        return proposal.value

    def picture(self) -> bytes:
        return self._frames[self.index]

    def alt(self) -> str:
        count = len(self.labels)
        return f"{self.labels[self.index]}: picture {self.index + 1} of {count} of a flipbook."


def _pictures(frames: Sequence) -> list[bytes]:
    frames = list(frames)
    if len(frames) < 2:
        raise ValueError(f"frames must be at least two pictures, got {len(frames)}")
    if all(isinstance(frame, bytes) for frame in frames):
        return [_checked_png(frame) for frame in frames]
    if all(hasattr(frame, "savefig") for frame in frames):
        return [_closed(figure) for figure in frames]
    if any(isinstance(frame, bytes) or hasattr(frame, "savefig") for frame in frames):
        kinds = ", ".join(sorted({type(frame).__name__ for frame in frames}))
        raise TypeError(f"frames must all be of one kind, got {kinds}")
    return _drawn([numbers("frames", frame) for frame in frames])


def _checked_png(frame: bytes) -> bytes:
    if not frame.startswith(_SIGNATURE):
        raise ValueError(f"frames must be PNG where they are bytes, got {frame[:8]!r} at the start")
    return frame


def _closed(figure) -> bytes:
    from matplotlib import pyplot as plt

    picture = png(figure)
    plt.close(figure)
    return picture


def _drawn(arrays: list[np.ndarray]) -> list[bytes]:
    for array in arrays:
        if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)) or array.size == 0:
            raise ValueError(f"frames must be (H, W) or (H, W, 3), got shape {array.shape}")
    low = min(array.min() for array in arrays)
    high = max(array.max() for array in arrays)
    return [_array_png(_grey_levels(array, low, high)) for array in arrays]


def _grey_levels(array: np.ndarray, low: float, high: float) -> np.ndarray:
    if array.dtype != np.uint8:
        span = float(high) - float(low) or 1.0
        array = np.rint((array - float(low)) / span * 255).astype(np.uint8)
    return 255 - array if array.ndim == 2 else array


def _array_png(array: np.ndarray) -> bytes:
    from matplotlib.image import imsave

    times = -(-_SMALLEST // max(array.shape[:2]))
    array = array.repeat(times, axis=0).repeat(times, axis=1)
    buffer = io.BytesIO()
    imsave(buffer, array, format="png", cmap="gray", vmin=0, vmax=255)
    return buffer.getvalue()


def _common_size(pictures: list[bytes]) -> tuple[int, int]:
    """Width and height in pixels, read from the header of the PNG."""
    sizes = sorted({tuple(np.frombuffer(p[16:24], ">u4").tolist()) for p in pictures})
    if len(sizes) > 1:
        raise ValueError(
            "frames must all be of one size, so that nothing jumps, got "
            f"{' and '.join(f'{w} x {h}' for w, h in sizes[:2])} pixels; one figsize for all would do"
        )
    return sizes[0]


def _checked_labels(labels: Sequence[str], count: int) -> list[str]:
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise TypeError(f"labels must be a sequence of strings, got {labels!r}")
    if len(labels) != count:
        raise ValueError(f"labels must be one string for each of {count} frames, got {len(labels)}")
    return list(labels)
