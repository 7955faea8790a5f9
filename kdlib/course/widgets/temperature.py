"""The temperature explorer: drag T over a teacher's real soft targets; its drawing is in JavaScript."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import traitlets

from kdlib._checks import real
from kdlib.course.widgets._explorer import Explorer, module, numbers, png

__all__ = ["TemperatureExplorer"]

COLDEST, HOTTEST = 0.25, 50.0


class TemperatureExplorer(Explorer):
    """Drag the temperature and see what it does to the soft targets of an image.

    An image, its soft targets softmax(z / T) as bars beside the label, their entropy over T in nats,
    and over T the norm of the soft loss's gradient with respect to the student's logits: T · (q - p)
    with the factor T², (q - p) / T without it. Images are sorted by the teacher's entropy at T = 1.
    Everything is computed and drawn in the browser; ``temperature`` and ``index`` follow when the
    reader lets go, and can be set from Python.

    Args:
        logits: the teacher's, ``(N, C)``.
        images: ``(N, H, W)``, ``(N, 1, H, W)`` or ``(N, 3, H, W)``; uint8 is kept, other numbers
            are scaled, each channel from its lowest value in all images to its highest.
        labels: ``(N,)`` class numbers.
        classes: C names.
        student_logits: ``(N, C)``; adds the student's bars. Without them the gradient is that of an
            untrained student, whose logits are all equal.

    Attributes:
        temperature: from 0.25 to 50.
        index: the image shown, a row of ``images``.

    Raises:
        TypeError, ValueError: an argument is not numbers, has another shape, or is not finite; a
            temperature or index is out of range.

    Example:
        >>> import numpy as np
        >>> logits = np.array([[4.0, 0.0, -2.0], [1.0, 2.0, 0.5]])
        >>> explorer = TemperatureExplorer(logits, np.zeros((2, 8, 8)), [0, 1], ["cat", "dog", "car"])
        >>> explorer.temperature, explorer.index
        (4.0, 1)
        >>> explorer.temperature = 20
    """

    _esm = module("temperature", "temperature_curves")
    name = "temperature explorer"
    heights = ((0, "1470px"), (640, "970px"), (1040, "660px"))

    temperature = traitlets.Float(4.0).tag(sync=True)
    index = traitlets.Int(0).tag(sync=True)
    classes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _logits = traitlets.Bytes().tag(sync=True)  # float32, row by row
    _student_logits = traitlets.Bytes().tag(sync=True)
    _pixels = traitlets.Bytes().tag(sync=True)
    _size = traitlets.List().tag(sync=True)  # channels, height, width
    _labels = traitlets.List().tag(sync=True)
    _order = traitlets.List().tag(sync=True)

    def __init__(self, logits, images, labels, classes: Sequence[str], student_logits=None) -> None:
        logits = _checked_logits("logits", logits)
        classes = _checked_classes(classes, logits.shape[1])
        pixels = quantised(_checked_images(images, len(logits)))
        student = (
            None if student_logits is None else _checked_logits("student_logits", student_logits)
        )
        if student is not None and student.shape != logits.shape:
            raise ValueError(
                f"student_logits must have the shape {logits.shape} of logits, got {student.shape}; "
                "both belong to the same images"
            )
        order = np.argsort(-entropy(logits), kind="stable").tolist()
        super().__init__(
            classes=classes,
            index=order[0],
            _logits=logits.tobytes(),
            _student_logits=b"" if student is None else student.tobytes(),
            _pixels=pixels.tobytes(),
            _size=list(pixels.shape[1:]),
            _labels=_checked_labels(labels, logits),
            _order=order,
        )

    @traitlets.validate("temperature")
    def _temperature_in_range(self, proposal) -> float:
        if not COLDEST <= real("temperature", proposal.value) <= HOTTEST:
            raise ValueError(f"temperature must be from 0.25 to 50, got {proposal.value}")
        return proposal.value

    @traitlets.validate("index")
    def _index_in_range(self, proposal) -> int:
        if not 0 <= proposal.value < len(self._labels):
            raise ValueError(
                f"index must be from 0 to {len(self._labels) - 1}, got {proposal.value}"
            )
        return proposal.value

    def picture(self) -> bytes:
        import torch
        from matplotlib import pyplot as plt

        from kdlib.course.plots import temperature_figure

        n = self.index
        pixels = np.frombuffer(self._pixels, np.uint8).reshape(-1, *self._size)[n]
        figure = temperature_figure(
            torch.tensor(self._of_image(self._logits)),
            torch.tensor(pixels),
            self._labels[n],
            self.classes,
            self.temperature,
            torch.tensor(self._of_image(self._student_logits)) if self._student_logits else None,
        )
        plt.close(figure)
        return png(figure)

    def alt(self) -> str:
        logits = self._of_image(self._logits).astype(float) / self.temperature
        soft = np.exp(logits - logits.max())
        soft /= soft.sum()
        top = ", ".join(f"{self.classes[k]}: {soft[k]:.2g}" for k in np.argsort(-soft)[:3])
        return (
            f"An image of class {self.classes[self._labels[self.index]]} and the teacher's soft targets "
            f"at temperature {self.temperature:.3g} ({top}); "
            f"entropy {entropy(logits[None])[0]:.2f} nats."
        )

    def _of_image(self, logits: bytes) -> np.ndarray:
        return np.frombuffer(logits, np.float32).reshape(len(self._labels), -1)[self.index]


def entropy(logits: np.ndarray) -> np.ndarray:
    """Entropy of each row's softmax at T = 1, in nats."""
    shifted = logits.astype(float) - logits.max(-1, keepdims=True)
    partition = np.exp(shifted).sum(-1)
    return np.log(partition) - (np.exp(shifted) * shifted).sum(-1) / partition


def quantised(images: np.ndarray) -> np.ndarray:
    """Images (N, channels, H, W) in uint8; those that are uint8 already stay as they are."""
    if images.dtype == np.uint8:
        return images
    images = images.astype(float)
    low = images.min((0, 2, 3), keepdims=True)
    span = images.max((0, 2, 3), keepdims=True) - low
    return np.rint((images - low) / np.where(span > 0, span, 1) * 255).astype(np.uint8)


def _checked_logits(name: str, logits) -> np.ndarray:
    logits = numbers(name, logits)
    if logits.ndim != 2 or logits.shape[0] < 1 or logits.shape[1] < 2:
        raise ValueError(
            f"{name} must be (N, C), a row for each of at least one image, a column for each of at "
            f"least two classes, got shape {logits.shape}"
        )
    return np.ascontiguousarray(logits, np.float32)


def _checked_images(images, count: int) -> np.ndarray:
    images = numbers("images", images)
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f"images must be (N, H, W), (N, 1, H, W) or (N, 3, H, W), got shape {images.shape}; "
            "images.transpose(0, 3, 1, 2) moves the channels from last place to second"
        )
    if len(images) != count:
        raise ValueError(
            f"images must be one for each of the {count} rows of logits, got {len(images)}; give both "
            "for the same test images"
        )
    return np.ascontiguousarray(images)


def _checked_labels(labels, logits: np.ndarray) -> list[int]:
    labels = numbers("labels", labels)
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"labels must be whole numbers, got {labels.dtype}; labels.astype(int) would do"
        )
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels must be one for each of the {len(logits)} rows of logits, got shape {labels.shape}"
        )
    outside = labels[(labels < 0) | (labels >= logits.shape[1])]
    if len(outside):
        raise ValueError(
            f"labels must be class numbers from 0 to {logits.shape[1] - 1}, got {outside[0]}"
        )
    return labels.tolist()


def _checked_classes(classes: Sequence[str], count: int) -> list[str]:
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise TypeError(
            f"classes must be a sequence of names, got {classes!r}; list(map(str, ...)) would do"
        )
    if len(classes) != count:
        raise ValueError(
            f"classes must be one name for each of the {count} columns of logits, got {len(classes)}"
        )
    return list(classes)
