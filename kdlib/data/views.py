"""Random shifts, crops and mirror images of training images, computed on their device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdlib._checks import sizes

__all__ = ["Augmentation", "crop", "flip", "shift"]


@dataclass(frozen=True)
class Augmentation:
    """Random views of images ``(N, C, H, W)``, drawn for each image separately, on its device.

    :func:`shift`, :func:`crop` and :func:`flip` make them, and ``+`` chains them.
    """

    steps: tuple[tuple[str, int], ...]

    def __add__(self, other: Augmentation) -> Augmentation:
        if not isinstance(other, Augmentation):
            return NotImplemented
        return Augmentation(self.steps + other.steps)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if images.ndim != 4:
            raise ValueError(f"images must be (N, C, H, W), got shape {tuple(images.shape)}")
        for kind, pixels in self.steps:
            images = (
                _flipped(images, generator)
                if kind == "flip"
                else _moved(images, pixels, kind, generator)
            )
        return images

    def __str__(self) -> str:
        return " + ".join(f"{kind}({pixels or ''})" for kind, pixels in self.steps)


def shift(pixels: int) -> Augmentation:
    """Shift each image by up to ``pixels`` in both directions and repeat its edge."""
    return _moving("shift", pixels)


def crop(pixels: int) -> Augmentation:
    """Pad each image by reflection, ``pixels`` on every side, then crop it to its size."""
    return _moving("crop", pixels)


def flip() -> Augmentation:
    """Mirror each image left to right with probability 1/2."""
    return Augmentation((("flip", 0),))


def _moving(kind: str, pixels: int) -> Augmentation:
    sizes(pixels=pixels)
    return Augmentation(((kind, int(pixels)),))


def _moved(images: Tensor, pixels: int, kind: str, generator: torch.Generator) -> Tensor:
    n, channels, height, width = images.shape
    if pixels >= min(height, width):
        raise ValueError(
            f"pixels must be smaller than the image, {height} x {width}, got {pixels} in {kind}"
        )
    # (2, N, 1): a shift in rows and one in columns for each image
    draws = torch.randint(-pixels, pixels + 1, (2, n, 1), generator=generator, device=images.device)
    rows = _inside(torch.arange(height, device=images.device) + draws[0], height, kind)  # (N, H)
    columns = _inside(torch.arange(width, device=images.device) + draws[1], width, kind)  # (N, W)
    images = images.gather(2, rows[:, None, :, None].expand(n, channels, height, width))
    return images.gather(3, columns[:, None, None, :].expand(n, channels, height, width))


def _inside(position: Tensor, size: int, kind: str) -> Tensor:
    if kind == "shift":
        return position.clamp(0, size - 1)
    return (size - 1) - ((size - 1) - position.abs()).abs()  # reflected at both ends


def _flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    heads = torch.rand(len(images), generator=generator, device=images.device) < 0.5  # (N,)
    return torch.where(heads[:, None, None, None], images.flip(-1), images)
