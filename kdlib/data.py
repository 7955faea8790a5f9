"""Data sets that live on the device: float32 images, int64 labels, and an index that stays theirs.

A split yields its own batches; nothing here trains.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from http.client import HTTPException
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdlib.networks import tensors_hash
from kdlib.seeding import check_seed

__all__ = [
    "Augmentation",
    "Data",
    "Split",
    "crop",
    "flip",
    "from_arrays",
    "from_folder",
    "load",
    "shift",
]

_CLASSES = {
    "digits": "0 1 2 3 4 5 6 7 8 9",
    "mnist": "0 1 2 3 4 5 6 7 8 9",
    "fashion_mnist": "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle-boot",
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    "cifar100": """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge
        bus butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
        crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
        keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
        mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
        porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
        snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
        tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""",
}
# torchvision's class for a data set, and the folder it keeps it in
_TORCHVISION = {
    "mnist": ("MNIST", "MNIST/raw"),
    "fashion_mnist": ("FashionMNIST", "FashionMNIST/raw"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
}
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Samples on one device.

    Attributes:
        inputs: ``(N, ...)``, images ``(N, C, H, W)`` float32.
        labels: ``(N,)`` int64, or None.
        index: ``(N,)`` int64: which samples these are. Every selection keeps it, so that a table of
            logits by index fits whatever the order.

    Raises:
        TypeError: a tensor has the wrong dtype.
        ValueError: the split is empty, lengths differ, or a label or an index is negative.
    """

    inputs: Tensor
    labels: Tensor | None
    index: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, Tensor):
            raise TypeError(f"inputs must be a tensor, got {type(self.inputs).__name__}")
        if len(self.inputs) == 0:
            raise ValueError("inputs must hold at least one sample, got an empty split")
        for name in ("labels", "index"):
            values = getattr(self, name)
            if values is None and name == "labels":
                continue
            if not isinstance(values, Tensor) or values.dtype != torch.int64:
                found = values.dtype if isinstance(values, Tensor) else type(values).__name__
                raise TypeError(f"{name} must be an int64 tensor, got {found}")
            if values.shape != (len(self.inputs),):
                raise ValueError(
                    f"{name} must be one for each of the {len(self.inputs)} inputs, "
                    f"got shape {tuple(values.shape)}"
                )
            if int(values.min()) < 0:
                raise ValueError(f"{name} must not be negative, got {int(values.min())}")

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        kind = "labelled" if self.labels is not None else "unlabelled"
        shape = " x ".join(map(str, self.inputs.shape[1:]))
        return f"Split({len(self):,} {kind} samples of {shape} on {self.inputs.device})"

    @property
    def in_order(self) -> bool:
        """Whether samples follow one another, as a text's tokens do."""
        return False

    def steps(self, batch_size: int) -> int:
        """How many batches an epoch has: the incomplete last one is dropped unless it is all."""
        return max(1, len(self) // batch_size)

    def batches(
        self,
        batch_size: int,
        order: torch.Generator,
        augment: Augmentation | None,
        views: torch.Generator,
    ) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """One epoch in random order: inputs, labels and index of each batch."""
        device = self.inputs.device
        # Drawn on the CPU, so that the order is the same on every device.
        shuffled = torch.randperm(len(self), generator=order).to(
            device, non_blocking=device.type == "cuda"
        )
        for step in range(self.steps(batch_size)):
            rows = shuffled[step * batch_size : (step + 1) * batch_size]
            # index_select copies whole rows, on a CPU several times faster than self.inputs[rows].
            inputs = self.inputs.index_select(0, rows)
            if augment is not None:
                inputs = augment(inputs, views)
            labels = None if self.labels is None else self.labels.index_select(0, rows)
            yield inputs, labels, self.index.index_select(0, rows)

    def parts(self, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """All samples in their order, ``size`` at a time: inputs and labels."""
        for first in range(0, len(self), size):
            here = slice(first, first + size)
            yield self.inputs[here], None if self.labels is None else self.labels[here]

    def beginning(self, n: int, seed: int) -> Split:
        """``n`` samples, the classes as equal as can be; see :meth:`Data.limit`."""
        rows = _balanced_order(self, seed)[:n].sort().values
        return self.select(rows.to(self.inputs.device))

    def select(self, rows: Tensor) -> Split:
        """The samples at these rows (or where a mask is true); they keep their index."""
        labels = None if self.labels is None else self.labels[rows]
        return Split(self.inputs[rows], labels, self.index[rows])

    def only(self, classes: int | Iterable[int]) -> Split:
        """The samples of these classes: ``split.only([7, 8])``."""
        return self.select(self._of(classes))

    def without(self, classes: int | Iterable[int]) -> Split:
        """The samples of all other classes: ``split.without(3)``."""
        return self.select(~self._of(classes))

    def unlabelled(self) -> Split:
        """The same samples, their labels forgotten."""
        return replace(self, labels=None)

    def fingerprint(self) -> str:
        """A hash of the inputs, the labels and the index."""
        parts = {"inputs": self.inputs, "labels": self.labels, "index": self.index}
        return tensors_hash(parts)[:16]

    def _of(self, classes: int | Iterable[int]) -> Tensor:
        if self.labels is None:
            raise ValueError("classes cannot be selected: this split has no labels")
        classes = classes.tolist() if isinstance(classes, Tensor) else classes
        wanted = [classes] if isinstance(classes, Integral) else list(classes)
        present = set(self.labels.unique().tolist())
        for name in wanted:
            if name not in present:
                raise ValueError(
                    f"classes must be labels that occur in the split, got {name!r}; "
                    f"there are {sorted(present)}"
                )
        return torch.isin(self.labels, torch.tensor(wanted, device=self.labels.device))


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A data set in three parts. The test split is never used to choose anything.

    Attributes:
        train: what networks are trained on.
        validation: held out of training, for choosing settings; None where nothing is held out.
        test: for the last word; None where there is none.
        classes: their names, by label.
        name: the data set's.
    """

    train: Split
    validation: Split | None
    test: Split | None
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            split = getattr(self, part)
            if split is None or split.labels is None:
                continue
            if int(split.labels.max()) >= len(self.classes):
                raise ValueError(
                    f"labels of {part} must be below {len(self.classes)}, the number of classes, "
                    f"got {int(split.labels.max())}"
                )

    def __repr__(self) -> str:
        return (
            f"Data({self.name}: {_size(self.train)} training, {_size(self.validation)} validation "
            f"and {_size(self.test)} test samples of {len(self.classes)} classes "
            f"on {self.train.inputs.device})"
        )

    def limit(self, n: int, seed: int = 0) -> Data:
        """Keep ``n`` training samples, the classes as equal as can be; of a text the first n tokens.

        For one seed a smaller part lies within every larger one.

        Raises:
            ValueError: n is not from 1 to the number of training samples.
        """
        check_seed(seed)
        if not isinstance(n, Integral) or not 1 <= n <= len(self.train):
            raise ValueError(
                f"n must be a whole number from 1 to the {len(self.train):,} training samples, "
                f"got {n!r}"
            )
        return replace(self, train=self.train.beginning(n, seed))

    def fingerprint(self) -> str:
        """A hash of what training sees: the training and the validation split."""
        validation = "none" if self.validation is None else self.validation.fingerprint()
        return f"{self.train.fingerprint()}-{validation}"


def load(
    name: str,
    validation: int | None = None,
    device: torch.device | str | None = None,
    root: str | os.PathLike | None = None,
) -> Data:
    """A data set, normalised, split and on the device.

    Looked up in this order: ``root`` or the folder that the environment variable ``KDLIB_DATA``
    names, as ``NAME.npz`` (x_train, y_train, x_test, y_test, the form Keras uses) or in torchvision's
    own layout; then a download by torchvision into torch's cache folder. ``digits`` comes with
    scikit-learn, resized to 28 x 28.

    Images are put in an order that depends on their pixels alone, so that index and validation split
    mean the same whatever file or mirror they came from. They are normalised by mean and standard
    deviation per channel of all training images.

    Args:
        name: ``digits``, ``mnist``, ``fashion_mnist``, ``cifar10`` or ``cifar100``.
        validation: how many images to hold out of training: 5000 (digits: 300) if not given, 0 for
            none.
        device: where the tensors live: the GPU if there is one, if not given.
        root: a folder that holds data sets.

    Raises:
        ValueError: an unknown name, a damaged file, or more validation images than there are.
        FileNotFoundError: the data is not there and cannot be downloaded; says what to do.

    >>> load("digits", device="cpu")
    Data(digits: 1,137 training, 300 validation and 360 test samples of 10 classes on cpu)
    """
    if name not in _CLASSES:
        raise ValueError(f"name must be one of {', '.join(_CLASSES)}, got {name!r}")
    classes = tuple(_CLASSES[name].split())
    x_train, y_train, x_test, y_test = _read(name, len(classes), root)
    if validation is None:
        validation = 300 if name == "digits" else 5000
    train, test = _pixel_order(x_train, y_train), _pixel_order(x_test, y_test)
    arrays = x_train[train], y_train[train], x_test[test], y_test[test]
    held_out = np.arange(_checked_validation(validation, len(train)))
    return _assemble(*arrays, classes, name, held_out, device)


def from_arrays(
    x_train: np.ndarray | Tensor,
    y_train: np.ndarray | Tensor | None,
    x_test: np.ndarray | Tensor | None = None,
    y_test: np.ndarray | Tensor | None = None,
    *,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
    validation: int = 0,
    device: torch.device | str | None = None,
) -> Data:
    """Data of one's own; the given order is kept and a sample's index is its row.

    Args:
        x_train, x_test: uint8 images ``(N, H, W)`` or ``(N, H, W, C)``, normalised here by the
            training images; or floating-point inputs ``(N, ...)``, taken as they are, in float32.
        y_train, y_test: class numbers ``(N,)``, or None where there are none.
        classes: names by label; the numbers themselves if not given.
        name: what to call it.
        validation: how many training samples to hold out, chosen by a hash of their contents.
        device: the GPU if there is one, if not given.

    Raises:
        TypeError: arrays of another dtype.
        ValueError: lengths or shapes that do not fit, or labels that are no class numbers.

    >>> images, labels = np.random.default_rng(0).integers(0, 256, (20, 8, 8)), np.arange(20) % 2
    >>> from_arrays(images.astype("uint8"), labels, validation=5, device="cpu")
    Data(arrays: 15 training, 5 validation and no test samples of 2 classes on cpu)
    """
    x_train, y_train = _array(x_train, "x_train"), _labels(y_train, "y_train", x_train)
    if x_test is None and y_test is not None:
        raise ValueError("y_test must come with x_test, got labels without inputs")
    if x_test is not None:
        x_test, y_test = _array(x_test, "x_test"), _labels(y_test, "y_test", x_test)
        if x_test.shape[1:] != x_train.shape[1:] or x_test.dtype != x_train.dtype:
            raise ValueError(
                f"x_test must be like x_train, {x_train.dtype} {x_train.shape[1:]} each, "
                f"got {x_test.dtype} {x_test.shape[1:]}"
            )
    if classes is None:
        highest = max((int(y.max()) for y in (y_train, y_test) if y is not None), default=-1)
        classes = [str(label) for label in range(highest + 1)]
    order = _pixel_order(x_train, np.zeros(len(x_train), int) if y_train is None else y_train)
    held_out = order[: _checked_validation(validation, len(x_train))]
    return _assemble(x_train, y_train, x_test, y_test, tuple(classes), name, held_out, device)


def from_folder(
    folder: str | os.PathLike,
    *,
    size: int | None = None,
    validation: int = 0,
    device: torch.device | str | None = None,
) -> Data:
    """Images of one's own, in ``folder/train/CLASS/`` and, if there, ``folder/test/CLASS/``.

    Classes are the sub-folders of ``train`` in alphabetical order, samples the files in theirs; a
    sample's index is its place in that order. One channel if all images are grey, else three.

    Args:
        folder: the folder.
        size: every image is resized to size x size pixels; if not given they must be of one size.
        validation: how many training images to hold out.
        device: the GPU if there is one, if not given.

    Raises:
        FileNotFoundError: there is no ``train`` folder with classes and images in it.
        ValueError: images of several sizes and no ``size``, or a test class that train has not.
    """
    from torchvision.datasets import ImageFolder

    if size is not None:
        _checked_pixels(size, "size")
    folder = Path(folder)
    parts = {part: ImageFolder(str(folder / part)) for part in _parts(folder)}
    classes = parts["train"].classes
    for part in parts.values():
        if unknown := sorted(set(part.classes) - set(classes)):
            raise ValueError(f"classes of test must occur in train, got {unknown[0]!r}")
    paths = [path for files in parts.values() for path, _ in files.samples]
    mode = "L" if {_picture_mode(path) for path in paths} <= {"1", "L"} else "RGB"
    arrays = {}
    for part, files in parts.items():
        pictures = [_picture(path, mode, size) for path, _ in files.samples]
        for (path, _), picture in zip(files.samples, pictures, strict=True):
            if picture.shape != pictures[0].shape:
                raise ValueError(
                    f"size must be given where images differ: {Path(path).name} has "
                    f"{picture.shape[:2]} pixels, others {pictures[0].shape[:2]}"
                )
        numbers = [classes.index(files.classes[label]) for label in files.targets]
        arrays[part] = np.stack(pictures), np.array(numbers)
    return from_arrays(
        *arrays["train"],
        *arrays.get("test", (None, None)),
        classes=classes,
        name=folder.name,
        validation=validation,
        device=device,
    )


@dataclass(frozen=True)
class Augmentation:
    """Random views of images ``(N, C, H, W)``, drawn on their device, a draw for every image.

    Made by :func:`shift`, :func:`crop` and :func:`flip`; chained with ``+``.
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
    """Move each image by up to ``pixels`` in both directions; the edge is repeated."""
    return Augmentation((("shift", _checked_pixels(pixels)),))


def crop(pixels: int) -> Augmentation:
    """Pad each image by ``pixels`` on every side by reflection, then cut its size out of it."""
    return Augmentation((("crop", _checked_pixels(pixels)),))


def flip() -> Augmentation:
    """Mirror each image left to right with probability 1/2."""
    return Augmentation((("flip", 0),))


def _moved(images: Tensor, pixels: int, kind: str, generator: torch.Generator) -> Tensor:
    n, channels, height, width = images.shape
    if pixels >= min(height, width):
        raise ValueError(
            f"pixels must be smaller than the image, {height} x {width}, got {pixels} in {kind}"
        )
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
    heads = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    return torch.where(heads[:, None, None, None], images.flip(-1), images)


def _checked_pixels(pixels: int, name: str = "pixels") -> int:
    if not isinstance(pixels, Integral) or pixels < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {pixels!r}")
    return int(pixels)


def _read(name: str, classes: int, root: str | os.PathLike | None) -> Arrays:
    """uint8 images and int64 labels, from wherever the data set is."""
    if name == "digits":
        return _digits()
    root = root or os.environ.get("KDLIB_DATA")
    if root and (Path(root) / f"{name}.npz").exists():
        return _from_npz(Path(root) / f"{name}.npz", classes)
    if root and (Path(root) / _TORCHVISION[name][1]).exists():
        return _from_torchvision(name, Path(root))
    return _from_torchvision(name, _downloaded(name, root))


def _digits() -> Arrays:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = np.round(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    images = np.stack(
        [np.asarray(Image.fromarray(x).resize((28, 28), Image.Resampling.BILINEAR)) for x in small]
    )
    labels = digits.target.astype(np.int64)
    order = _pixel_order(small, labels)
    train, test = order[:-360], order[-360:]
    return images[train], labels[train], images[test], labels[test]


def _from_npz(path: Path, classes: int) -> Arrays:
    try:
        with np.load(path) as file:
            x_train, y_train, x_test, y_test = (
                file[key] for key in ("x_train", "y_train", "x_test", "y_test")
            )
    except Exception as error:  # a damaged file fails in many ways in there
        raise ValueError(
            f"{path} is damaged or lacks x_train, y_train, x_test or y_test ({error}); "
            "put a whole copy there or take it away"
        ) from error
    for part, images, labels in (("train", x_train, y_train), ("test", x_test, y_test)):
        if images.dtype != np.uint8 or len(images) == 0 or not _channels_last(images):
            raise ValueError(
                f"{path}: x_{part} must be uint8 images (N, H, W) or (N, H, W, C), "
                f"got {images.dtype} of shape {images.shape}"
            )
        if labels.dtype.kind not in "iu" or labels.size != len(images):
            raise ValueError(
                f"{path}: y_{part} must be {len(images)} whole class numbers, "
                f"got {labels.dtype} of shape {labels.shape}"
            )
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"{path}: y_{part} must be labels from 0 to {classes - 1}, "
                f"got {labels.min()} to {labels.max()}"
            )
    if x_test.shape[1:] != x_train.shape[1:]:
        raise ValueError(
            f"{path}: x_test must be like x_train, {x_train.shape[1:]} each, got {x_test.shape[1:]}"
        )
    return x_train, _flat(y_train), x_test, _flat(y_test)


def _from_torchvision(name: str, folder: Path) -> Arrays:
    import torchvision

    kind = getattr(torchvision.datasets, _TORCHVISION[name][0])
    try:
        train, test = kind(str(folder), train=True), kind(str(folder), train=False)
    except Exception as error:  # a short file fails in many ways in there
        raise ValueError(
            f"{folder / _TORCHVISION[name][1]} is damaged or incomplete ({error}); "
            "delete that folder and load again"
        ) from error
    return (
        np.asarray(train.data),
        _flat(np.asarray(train.targets)),
        np.asarray(test.data),
        _flat(np.asarray(test.targets)),
    )


def _downloaded(name: str, root: str | os.PathLike | None) -> Path:
    """The folder of a download that is there whole; made now if need be."""
    import torchvision

    target = Path(torch.hub.get_dir()) / "kdlib" / "data" / name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    patience = socket.getdefaulttimeout()
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        part = Path(folder) / name
        part.mkdir()
        try:
            socket.setdefaulttimeout(30)
            getattr(torchvision.datasets, _TORCHVISION[name][0])(str(part), download=True)
        except (OSError, RuntimeError, HTTPException) as error:
            place = f"the folder {root}" if root else "a folder that KDLIB_DATA names"
            raise FileNotFoundError(
                f"{name} could not be downloaded ({error}). Without internet, put {name}.npz (uint8 "
                f"x_train and x_test, y_train and y_test, the form Keras uses) into {place}, "
                'or use load("digits"), which needs no download'
            ) from error
        finally:
            socket.setdefaulttimeout(patience)
        try:
            part.rename(target)
        except OSError:
            if not target.exists():  # else another process was faster
                raise
    return target


def _pixel_order(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rows sorted by a hash of the pixels; equal images by label."""
    images = np.ascontiguousarray(images)
    hashes = [hashlib.blake2b(image, digest_size=8).digest() for image in images]
    return np.lexsort((labels, np.frombuffer(b"".join(hashes), dtype=">u8")))


def _balanced_order(split: Split, seed: int) -> Tensor:
    """All rows, class after class in turn, so that every beginning is as balanced as can be."""
    generator = torch.Generator().manual_seed(int(seed))
    shuffled = torch.randperm(len(split), generator=generator)
    if split.labels is None:
        return shuffled
    labels = split.labels.cpu()[shuffled]
    turn = torch.empty_like(labels)
    for label in labels.unique():
        mine = labels == label
        turn[mine] = torch.arange(int(mine.sum()))
    return shuffled[turn.sort(stable=True).indices]


def _assemble(
    x_train: np.ndarray,
    y_train: np.ndarray | None,
    x_test: np.ndarray | None,
    y_test: np.ndarray | None,
    classes: tuple[str, ...],
    name: str,
    held_out: np.ndarray,
    device: torch.device | str | None,
) -> Data:
    """Splits on the device; a sample's index is its row."""
    device = device_or_gpu(device)
    statistics = _mean_and_deviation(x_train) if x_train.dtype == np.uint8 else None

    def split(images: np.ndarray, labels: np.ndarray | None, rows: np.ndarray) -> Split:
        inputs = _inputs(images[rows], statistics, device)
        numbers = None if labels is None else torch.from_numpy(labels[rows]).to(device)
        return Split(inputs, numbers, torch.from_numpy(rows.astype(np.int64)).to(device))

    kept = np.setdiff1d(np.arange(len(x_train)), held_out)
    return Data(
        train=split(x_train, y_train, kept),
        validation=split(x_train, y_train, np.sort(held_out)) if len(held_out) else None,
        test=None if x_test is None else split(x_test, y_test, np.arange(len(x_test))),
        classes=classes,
        name=name,
    )


def _mean_and_deviation(images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Per channel, in pixel values, summed in integers: equal to the bit for any order."""
    channels = images.reshape(-1, images.shape[3] if images.ndim == 4 else 1)
    means, deviations = [], []
    for channel in channels.T:
        counts = np.bincount(channel, minlength=256).tolist()
        n = sum(counts)
        first = sum(value * count for value, count in enumerate(counts))
        second = sum(value * value * count for value, count in enumerate(counts))
        variance = (n * second - first * first) / (n * n)
        if variance == 0:
            raise ValueError("x_train must not be constant: a channel has one value only")
        means.append(first / n)
        deviations.append(variance**0.5)
    return torch.tensor(means), torch.tensor(deviations)


def _inputs(
    images: np.ndarray, statistics: tuple[Tensor, Tensor] | None, device: torch.device
) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    if statistics is None:
        return tensor.float().to(device)
    tensor = tensor.to(device)
    mean, deviation = (value.to(device).view(-1, 1, 1) for value in statistics)
    tensor = tensor.unsqueeze(1) if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)
    return tensor.float().sub_(mean).div_(deviation).contiguous()


def _channels_last(images: np.ndarray) -> bool:
    """Whether they can be (N, H, W) or (N, H, W, C)."""
    return images.ndim == 3 or (images.ndim == 4 and images.shape[3] <= 4)


def _array(values: np.ndarray | Tensor, name: str) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype == np.uint8 and not _channels_last(array):
        raise ValueError(
            f"{name} must be images (N, H, W) or (N, H, W, C) where it is uint8, "
            f"got shape {array.shape}"
        )
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise TypeError(f"{name} must be uint8 images or floating-point inputs, got {array.dtype}")
    if array.ndim < 2 or len(array) == 0:
        raise ValueError(f"{name} must be (N, ...) with at least one sample, got {array.shape}")
    return array


def _labels(values: np.ndarray | Tensor | None, name: str, inputs: object) -> np.ndarray | None:
    if values is None:
        return None
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be whole class numbers, got {array.dtype}")
    if array.size != len(inputs):
        raise ValueError(f"{name} must be {len(inputs)} labels, one each, got {array.size}")
    if array.min() < 0:
        raise ValueError(f"{name} must not be negative, got {array.min()}")
    return _flat(array)


def _picture(path: str, mode: str, size: int | None) -> np.ndarray:
    from PIL import Image, ImageOps

    with Image.open(path) as picture:
        picture = ImageOps.exif_transpose(picture).convert(mode)
        return np.asarray(picture if size is None else picture.resize((size, size)))


def _picture_mode(path: str) -> str:
    from PIL import Image

    with Image.open(path) as picture:
        if picture.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
            raise ValueError(
                f"{path} has pixels of kind {picture.mode!r}, which would be cut short; save it as "
                "8-bit grey or RGB"
            )
        return picture.mode


def _flat(labels: np.ndarray) -> np.ndarray:
    return labels.reshape(-1).astype(np.int64)


def _checked_validation(validation: int, available: int) -> int:
    if not isinstance(validation, Integral) or not 0 <= validation < available:
        raise ValueError(
            f"validation must be a whole number from 0 to {available - 1}, got {validation!r}; "
            "some of the training images must remain"
        )
    return int(validation)


def _parts(folder: Path) -> list[str]:
    if not (folder / "train").is_dir():
        raise FileNotFoundError(
            f"folder must hold train/CLASS/ with images, and there is no {folder / 'train'}"
        )
    return [part for part in ("train", "test") if (folder / part).is_dir()]


def device_or_gpu(device: torch.device | str | None) -> torch.device:
    return _default_device() if device is None else torch.device(device)


def _default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _size(split: Split | None) -> str:
    return "no" if split is None else f"{len(split):,}"
