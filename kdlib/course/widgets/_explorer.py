"""The base of every explorer: a widget drawn by its own JavaScript, and its saved form."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import anywidget
import numpy as np

from kdlib.course.widgets._saved import saved_form

__all__ = ["Explorer", "module", "numbers", "png"]

HERE = Path(__file__).parent


@cache
def module(*parts: str) -> str:
    """An explorer's JavaScript: the shared part, then its own parts; it imports nothing."""
    return "\n".join((HERE / f"{part}.js").read_text("utf-8") for part in ("common", *parts))


@cache
def style_sheet() -> str:
    return (HERE / "explorer.css").read_text("utf-8")


class Explorer(anywidget.AnyWidget):
    """A widget whose state is all that its drawing needs; Python draws nothing while it is moved.

    A subclass gives its name, the heights of its frame, and a still picture.
    """

    _css = style_sheet()
    name: ClassVar[str]
    heights: ClassVar[Sequence[tuple[int, str]]]

    @classmethod
    def heights_for(cls, state: Mapping, picture: bytes) -> Sequence[tuple[int, str]]:
        """Heights of the frame for this state and this still picture; see `saved_form`."""
        return cls.heights

    def picture(self) -> bytes:
        """A still picture, PNG, for pages that cannot show the explorer."""
        raise NotImplementedError

    def alt(self) -> str:
        """What the picture shows, in words."""
        raise NotImplementedError

    def state(self) -> dict[str, object]:
        """The values that the JavaScript reads, by name."""
        shared = set(anywidget.AnyWidget.class_traits(sync=True)) | {
            "_esm",
            "_css",
            "_anywidget_id",
        }
        return {name: getattr(self, name) for name in self.traits(sync=True) if name not in shared}

    def to_html(self) -> str:
        """The saved form: it works without a kernel or a network, or else shows the picture."""
        state, picture = self.state(), self.picture()
        return saved_form(
            name=self.name,
            source=self._esm,
            style=self._css,
            state=state,
            heights=self.heights_for(state, picture),
            picture=picture,
            alt=self.alt(),
        )

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        return data | {"text/plain": self.alt(), "text/html": self.to_html()}, metadata


def png(figure) -> bytes:
    """A matplotlib figure as PNG, on white, so that it is readable on a dark page, too."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white")
    return buffer.getvalue()


def numbers(name: str, values) -> np.ndarray:
    """A tensor, an array or nested lists as an array of finite numbers.

    Raises:
        TypeError, ValueError: ``values`` is not numbers, or one of them is not finite.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise TypeError(f"{name} must be a tensor or an array of numbers, got {error}") from None
    if array.dtype.kind not in "iufb":
        raise TypeError(
            f"{name} must be a tensor or an array of numbers, got {type(values).__name__} of "
            f"{array.dtype}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    return array
