"""Your own data, from arrays, a folder of images or a torch Dataset; its order is kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdlib._checks import sizes
from kdlib.data.pictures import check_mode, is_grey, pictures_by_class, pixels, pixels_of_file
from kdlib.data.splits import Data, Split, device_or_gpu

__all__ = ["from_arrays", "from_dataset", "from_folder"]


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
    """Make a data set of your arrays; their order is kept, and a sample's index is its row.

    Args:
        x_train, x_test: uint8 images ``(N, H, W)`` or ``(N, H, W, C)``, which are normalised by the
            training images' statistics; floating-point inputs ``(N, ...)``, which are only cast to
            float32; or integers ``(N, L)``, the tokens of N texts of equal length.
        y_train, y_test: integer labels ``(N,)``, or None if there are none.
        classes: names by label; by default the numbers themselves.
        name: name of the data set.
        validation: how many training samples to hold out, chosen by a hash of their contents.
        device: by default the GPU if there is one.

    Raises:
        TypeError: an array has another dtype, or masked values.
        ValueError: lengths or shapes do not match, an input is not finite, or a token or a label is
            negative, or a label has no class name.

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
                f"x_test must have x_train's dtype and shape, {x_train.dtype} {x_train.shape[1:]}, "
                f"got {x_test.dtype} {x_test.shape[1:]}"
            )
    if classes is None:
        highest = max((int(y.max()) for y in (y_train, y_test) if y is not None), default=-1)
        classes = [str(label) for label in range(highest + 1)]
    order = pixel_order(x_train, np.zeros(len(x_train), int) if y_train is None else y_train)
    held_out = order[: checked_validation(validation, len(x_train))]
    return assemble(x_train, y_train, x_test, y_test, tuple(classes), name, held_out, device)


def from_folder(
    folder: str | os.PathLike,
    *,
    size: int | None = None,
    validation: int = 0,
    device: torch.device | str | None = None,
) -> Data:
    """Make a data set of the images in ``folder/train/CLASS/`` and, if any, ``folder/test/CLASS/``.

    The classes are the subfolders of ``train`` in alphabetical order, and the files of each are in
    alphabetical order, too; a sample's index is its place in this order. The images get one channel
    if all of them are grey, else three. Transparent ones are laid on white. Hidden files and folders,
    such as Jupyter's ``.ipynb_checkpoints``, do not count.

    Args:
        folder: the folder.
        size: every image is resized to size x size pixels; without it all must have the same size.
        validation: how many training images to hold out.
        device: by default the GPU if there is one.

    Raises:
        FileNotFoundError: there is no ``train`` folder with classes and images in it.
        ValueError: an image cannot be read, images differ in size and no ``size`` is given, or a test
            class is not in train.

    Warns:
        UserWarning: other files are passed over, or a folder ``val``.
    """
    if size is not None:
        sizes(size=size)
    folder = Path(folder).expanduser()
    parts = pictures_by_class(folder)
    classes = [*parts["train"]]
    everything = [path for part in parts.values() for paths in part.values() for path in paths]
    grey = {is_grey(path) for path in everything} == {True}  # a set, so that each file is checked
    arrays = {}
    for part, by_class in parts.items():
        images, labels = [], []
        for name, paths in by_class.items():
            for path in paths:
                images.append(pixels_of_file(path, grey, size))
                labels.append(classes.index(name))
                if images[-1].shape != images[0].shape:
                    raise ValueError(
                        f"size must be given where images differ: {path.name} has "
                        f"{images[-1].shape[:2]} pixels, others {images[0].shape[:2]}"
                    )
        arrays[part] = np.stack(images), np.array(labels)
    return from_arrays(
        *arrays["train"],
        *arrays.get("test", (None, None)),
        classes=classes,
        name=folder.name,
        validation=validation,
        device=device,
    )


def from_dataset(
    train: Dataset,
    test: Dataset | None = None,
    *,
    classes: Sequence[str] | None = None,
    name: str = "dataset",
    validation: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Data:
    """Make a data set of a torch ``Dataset`` of pairs (image, label), read once and in order.

    An image is a PIL image, a uint8 array ``(H, W)`` or ``(H, W, C)``, a uint8 tensor
    ``(C, H, W)``, or a floating-point tensor, which is not normalised. The dataset's own random
    transforms are drawn only once; use the recipe's ``augment`` for new random views in every
    epoch.

    Args:
        train, test: the datasets; pass a ``DataLoader``'s ``dataset``.
        classes: names by label; by default ``train.classes``, or else the numbers themselves.
        name: name of the data set.
        validation: how many training samples to hold out, chosen by a hash of their contents.
        device: by default the GPU if there is one.
        progress: show a bar while the samples are read, which takes time where they are files.

    Raises:
        TypeError: the dataset has no length, or its samples are not pairs (image, label).
        ValueError: a sample cannot be read, images differ in shape, ``test`` has other classes than
            ``train``, or :func:`from_arrays` refuses the arrays.

    >>> from torch.utils.data import TensorDataset
    >>> pairs = TensorDataset(torch.rand(20, 1, 8, 8), torch.arange(20) % 2)
    >>> from_dataset(pairs, validation=5, device="cpu")
    Data(dataset: 15 training, 5 validation and no test samples of 2 classes on cpu)
    """
    named = _classes(train)
    if named and _classes(test) and list(_classes(test)) != list(named):
        # Each folder numbers its own classes, so one more or less moves the labels of all others.
        raise ValueError(f"test must have train's classes, {named}, got {_classes(test)}")
    x_train, y_train = _pairs("train", train, progress)
    x_test, y_test = (None, None) if test is None else _pairs("test", test, progress)
    return from_arrays(
        x_train,
        y_train,
        x_test,
        y_test,
        classes=named if classes is None else classes,
        name=name,
        validation=validation,
        device=device,
    )


def _classes(dataset: Dataset) -> Sequence[str] | None:
    """Return its class names; a ``Subset`` has those of the whole dataset."""
    whole = getattr(dataset, "dataset", None)
    found = getattr(dataset, "classes", getattr(whole, "classes", None))
    return found if isinstance(found, (list, tuple)) else None


def _pairs(name: str, dataset: Dataset, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or not len(dataset):
        raise TypeError(
            f"{name} must be a dataset of (image, label) with a length above 0, got "
            f"{type(dataset).__name__}; pass a DataLoader's .dataset"
        )
    from tqdm.auto import trange

    images, labels = [], []
    for i in trange(len(dataset), desc=f"reading {name}", leave=False, disable=not progress):
        sample = _sample(name, dataset, i)
        if not isinstance(sample, (tuple, list)) or len(sample) != 2:
            found = type(sample).__name__
            found += f" of {len(sample)}" if isinstance(sample, (tuple, list)) else ""
            found += f" with {', '.join(map(repr, sample))}" if isinstance(sample, Mapping) else ""
            raise TypeError(
                f"{name} must hold pairs (image, label), got {found} for sample {i}; wrap it in a Dataset "
                "whose __getitem__ returns the pair"
            )
        images.append(_channels_last_image(sample[0]))
        label = sample[1]
        if isinstance(label, (Tensor, np.ndarray, np.generic)) and label.ndim == 0:
            label = label.item()
        if not isinstance(label, Integral):
            raise TypeError(f"{name}: the label of sample {i} must be an integer, got {label!r}")
        labels.append(int(label))
        if images[i].shape != images[0].shape:
            raise ValueError(
                f"{name} must hold images of one shape: sample {i} has {images[i].shape}, the "
                f"first {images[0].shape}; resize or convert them in the dataset's transform"
            )
    return np.stack(images), np.array(labels)


def _sample(name: str, dataset: Dataset, i: int) -> object:
    from PIL import Image

    try:
        sample = dataset[i]
        for part in sample if isinstance(sample, (tuple, list)) else ():
            if isinstance(part, Image.Image):
                part.load()  # Pillow reads a file's pixels only when they are needed
    except Exception as error:  # whatever the dataset, a transform or a damaged file raises
        raise ValueError(
            f"{name}: sample {i} cannot be read ({type(error).__name__}: {error}); leave it out, for "
            "instance with torch.utils.data.Subset, or fix it"
        ) from error
    return sample


def _channels_last_image(image: object) -> np.ndarray:
    """Turn an image into an array: PIL images into grey or RGB, uint8 tensors into (H, W, C)."""
    from PIL import Image

    if isinstance(image, Image.Image):
        check_mode(image.mode, "an image")
        return pixels(image, grey=image.mode in ("1", "L"))
    if not isinstance(image, Tensor):
        array = _as_numpy(image, "an image")
        if array.dtype.kind == "f" and array.ndim == 3:
            raise TypeError(
                "floating-point images must be tensors (C, H, W), got a numpy array of shape "
                f"{array.shape}; torchvision's ToTensor makes one"
            )
        return array
    array = _as_numpy(image, "an image")
    return np.moveaxis(array, 0, -1) if array.dtype == np.uint8 and array.ndim == 3 else array


def pixel_order(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sort the rows by a hash of the pixels, and equal images by label."""
    images = np.ascontiguousarray(images)
    hashes = [hashlib.blake2b(image, digest_size=8).digest() for image in images]
    return np.lexsort((labels, np.frombuffer(b"".join(hashes), dtype=">u8")))


def assemble(
    x_train: np.ndarray,
    y_train: np.ndarray | None,
    x_test: np.ndarray | None,
    y_test: np.ndarray | None,
    classes: tuple[str, ...],
    name: str,
    held_out: np.ndarray,
    device: torch.device | str | None,
) -> Data:
    """Put the splits on the device; a sample's index is its row."""
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
    """Mean and deviation of each channel, bit-identical for any order of the images."""
    channels = images.reshape(-1, images.shape[3] if images.ndim == 4 else 1)  # (N * H * W, C)
    means, deviations = [], []
    for channel in channels.T:
        # Python integers from a histogram: floating-point sums depend on the order of the images.
        counts = np.bincount(channel, minlength=256).tolist()
        n = sum(counts)
        first = sum(value * count for value, count in enumerate(counts))
        second = sum(value * value * count for value, count in enumerate(counts))
        variance = (n * second - first * first) / (n * n)
        if variance == 0:
            raise ValueError(
                "x_train must not be constant: one channel has the same value everywhere"
            )
        means.append(first / n)
        deviations.append(variance**0.5)
    return torch.tensor(means), torch.tensor(deviations)


def _inputs(
    images: np.ndarray, statistics: tuple[Tensor, Tensor] | None, device: torch.device
) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    if statistics is None:
        return (tensor.float() if tensor.is_floating_point() else tensor.long()).to(device)
    tensor = tensor.to(device)
    mean, deviation = (value.to(device).view(-1, 1, 1) for value in statistics)
    tensor = tensor.unsqueeze(1) if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)  # (N, C, H, W)
    return tensor.float().sub_(mean).div_(deviation).contiguous()  # (N, C, H, W)


def channels_last(images: np.ndarray) -> bool:
    """Whether the shape can be (N, H, W) or (N, H, W, C)."""
    return images.ndim == 3 or (images.ndim == 4 and images.shape[3] <= 4)


def _array(values: np.ndarray | Tensor, name: str) -> np.ndarray:
    if isinstance(values, (Dataset, DataLoader)):
        dataset = "dataset" if isinstance(values, Dataset) else "loader.dataset"
        raise TypeError(
            f"{name} must be an array or a tensor, got {type(values).__name__}; "
            f"kd.data.from_dataset({dataset}) reads it"
        )
    try:
        array = _as_numpy(values, name)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} must be one array, got rows that differ in shape") from error
    if array.dtype == np.uint8 and not channels_last(array):
        raise ValueError(
            f"{name} must be images (N, H, W) or (N, H, W, C) if it is uint8, "
            f"got shape {array.shape}"
        )
    tokens = array.dtype.kind in "iu" and array.ndim == 2
    if array.dtype != np.uint8 and array.dtype.kind != "f" and not tokens:
        raise TypeError(
            f"{name} must be uint8 images or floating-point inputs, or integer tokens (N, L), got "
            f"{array.dtype} of shape {array.shape}"
        )
    if tokens and array.size and array.min() < 0:
        raise ValueError(
            f"{name} must hold tokens from 0 up if it is integers (N, L), got {array.min()}; "
            ".astype('float32') makes a table of numbers"
        )
    if array.ndim < 2 or len(array) == 0:
        raise ValueError(f"{name} must be (N, ...) with at least one sample, got {array.shape}")
    return array


def _as_numpy(values: object, name: str) -> np.ndarray:
    """An array in this machine's byte order; numpy has no bfloat16 and no sparse tensors."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().to_dense()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if np.ma.is_masked(values):
        raise TypeError(f"{name} must not have masked values; leave them out or use .filled(value)")
    array = np.asarray(values)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _labels(values: np.ndarray | Tensor | None, name: str, inputs: object) -> np.ndarray | None:
    if values is None:
        return None
    array = _as_numpy(values, name)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got {array.dtype}; .astype(int) makes them")
    if array.size != len(inputs):
        raise ValueError(
            f"{name} must hold one label for each of the {len(inputs)} inputs, got {array.size}"
        )
    if array.min() < 0:
        raise ValueError(f"{name} must not be negative, got {array.min()}")
    return flat(array)


def flat(labels: np.ndarray) -> np.ndarray:
    return labels.reshape(-1).astype(np.int64)


def checked_validation(validation: int, available: int) -> int:
    if not isinstance(validation, Integral) or not 0 <= validation < available:
        raise ValueError(
            f"validation must be a whole number from 0 to {available - 1}, got {validation!r}; "
            "some of the training images must remain"
        )
    return int(validation)
