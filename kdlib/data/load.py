"""The course's data sets: digits, MNIST, Fashion-MNIST, CIFAR, read from disk or downloaded."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch

from kdlib._files import reason
from kdlib.data.own import assemble, channels_last, checked_validation, flat, pixel_order
from kdlib.data.splits import Data

__all__ = ["load"]

_CLASSES = {
    "digits": "0 1 2 3 4 5 6 7 8 9",
    "mnist": "0 1 2 3 4 5 6 7 8 9",
    "fashion_mnist": "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle-boot",
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    "cifar100": """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge
        bus butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach
        couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house
        kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
        mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
        plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew
        skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
        telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree
        wolf woman worm""",
}
# torchvision's class for each data set, and the folder in which it keeps the files
_TORCHVISION = {
    "mnist": ("MNIST", "MNIST/raw"),
    "fashion_mnist": ("FashionMNIST", "FashionMNIST/raw"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
}
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def load(
    name: str,
    validation: int | None = None,
    device: torch.device | str | None = None,
    root: str | os.PathLike | None = None,
) -> Data:
    """Load a data set: normalised, split and on the device.

    It is looked for in ``root``, or else in the folder that the environment variable ``KDLIB_DATA``
    names: first as ``NAME.npz`` (x_train, y_train, x_test, y_test, as Keras stores it), then in
    torchvision's own layout. If it is in neither form, torchvision downloads it into torch's cache
    folder, from the first of its mirrors that delivers it whole. ``digits`` comes with scikit-learn
    and is resized to 28 x 28.

    Images are sorted by a hash of their pixels, so that the index and the validation split are the
    same for every file and mirror. Each channel is normalised by its mean and standard deviation
    over all training images.

    Args:
        name: ``digits``, ``mnist``, ``fashion_mnist``, ``cifar10`` or ``cifar100``.
        validation: how many training images to hold out; by default 5000 (digits: 300), 0 for none.
        device: device of the tensors; by default the GPU if there is one.
        root: a folder that holds data sets.

    Raises:
        ValueError: the name is unknown, the file is damaged, or validation would leave no training
            images.
        FileNotFoundError: the data is missing and no mirror delivers it; the message says why, and
            how to go on without internet.

    >>> load("digits", device="cpu")
    Data(digits: 1,137 training, 300 validation and 360 test samples of 10 classes on cpu)
    """
    if name not in _CLASSES:
        raise ValueError(f"name must be one of {', '.join(_CLASSES)}, got {name!r}")
    classes = tuple(_CLASSES[name].split())
    x_train, y_train, x_test, y_test = _read(name, len(classes), root)
    if validation is None:
        validation = 300 if name == "digits" else 5000
    train, test = pixel_order(x_train, y_train), pixel_order(x_test, y_test)
    arrays = x_train[train], y_train[train], x_test[test], y_test[test]
    held_out = np.arange(checked_validation(validation, len(train)))
    return assemble(*arrays, classes, name, held_out, device)


def _read(name: str, classes: int, root: str | os.PathLike | None) -> Arrays:
    """Return uint8 images and int64 labels from wherever the data set is."""
    if name == "digits":
        return _digits()
    if root := root or os.environ.get("KDLIB_DATA"):
        root = Path(root).expanduser()  # a notebook's %env leaves ~ as it is
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
    order = pixel_order(small, labels)  # (1797,)
    train, test = order[:-360], order[-360:]
    return images[train], labels[train], images[test], labels[test]


def _from_npz(path: Path, classes: int) -> Arrays:
    try:
        with np.load(path) as file:
            x_train, y_train, x_test, y_test = (
                file[key] for key in ("x_train", "y_train", "x_test", "y_test")
            )
    except Exception as error:  # numpy raises many kinds of error on a damaged file
        raise ValueError(
            f"{path} is damaged or lacks x_train, y_train, x_test or y_test ({error}); "
            "replace it with an intact copy or delete it"
        ) from error
    for part, images, labels in (("train", x_train, y_train), ("test", x_test, y_test)):
        if images.dtype != np.uint8 or len(images) == 0 or not channels_last(images):
            raise ValueError(
                f"{path}: x_{part} must be uint8 images (N, H, W) or (N, H, W, C), "
                f"got {images.dtype} of shape {images.shape}"
            )
        if labels.dtype.kind not in "iu" or labels.size != len(images):
            raise ValueError(
                f"{path}: y_{part} must hold {len(images)} integer labels, "
                f"got {labels.dtype} of shape {labels.shape}"
            )
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"{path}: y_{part} must hold labels from 0 to {classes - 1}, "
                f"got {labels.min()} to {labels.max()}"
            )
    if x_test.shape[1:] != x_train.shape[1:]:
        raise ValueError(
            f"{path}: x_test must have images of x_train's shape {x_train.shape[1:]}, "
            f"got {x_test.shape[1:]}"
        )
    return x_train, flat(y_train), x_test, flat(y_test)


def _from_torchvision(name: str, folder: Path) -> Arrays:
    import torchvision

    kind = getattr(torchvision.datasets, _TORCHVISION[name][0])
    try:
        train, test = kind(str(folder), train=True), kind(str(folder), train=False)
    except Exception as error:  # torchvision raises many kinds of error on a damaged file
        raise ValueError(
            f"{folder / _TORCHVISION[name][1]} is damaged or incomplete ({reason(error)}); "
            "delete that folder and load again"
        ) from error
    return (
        np.asarray(train.data),
        flat(np.asarray(train.targets)),
        np.asarray(test.data),
        flat(np.asarray(test.targets)),
    )


def _downloaded(name: str, root: str | os.PathLike | None) -> Path:
    """Return the folder of a complete download, downloading it first if needed."""
    target = Path(torch.hub.get_dir()) / "kdlib" / "data" / name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for mirror, kind in _mirrors(name):
        # Each mirror starts with an empty folder: torchvision trusts the files that it finds.
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            part = Path(folder) / name
            part.mkdir()
            try:
                _download(kind, part)
            except (OSError, RuntimeError, HTTPException) as error:
                failures.append(f"  {mirror}: {_reason(error)}")
                continue
            try:
                part.rename(target)
            except OSError:
                if not target.exists():  # if it does, another process was faster
                    raise
        return target
    # Not raised from the errors: their tracebacks would bury the message.
    raise FileNotFoundError(_ways_on(name, root, failures))


def _mirrors(name: str) -> Iterator[tuple[str, type]]:
    """Each address of a data set, with torchvision's class made to use only that one.

    torchvision itself tries its next mirror after some errors, but not after a timeout.
    """
    import torchvision

    kind = getattr(torchvision.datasets, _TORCHVISION[name][0])
    if not hasattr(kind, "mirrors"):
        yield kind.url, kind
        return
    for mirror in kind.mirrors:
        yield mirror, type(kind.__name__, (kind,), {"mirrors": [mirror]})


def _download(kind: type, folder: Path) -> None:
    patience = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(30)
        kind(str(folder), download=True)
    finally:
        socket.setdefaulttimeout(patience)


def _reason(error: Exception) -> str:
    """The last line of an error, without what urllib puts around it."""
    lines = str(error).split("\n")
    text = [line for line in lines if line.strip()] or [type(error).__name__]
    return text[-1].removeprefix("<urlopen error ").removesuffix(">")


def _ways_on(name: str, root: str | os.PathLike | None, failures: list[str]) -> str:
    file, raw = f"{name}.npz", _TORCHVISION[name][1]
    first = f"{root} has neither {file} nor {raw}, and " if root else ""
    into = f"{root}" if root else "a folder, and set KDLIB_DATA=/that/folder"
    return "\n".join(
        [
            f"{first}{name} could not be downloaded:",
            *failures,
            "Without internet there are two ways on:",
            f"  1. Put {file} (uint8 x_train and x_test, y_train and y_test), or torchvision's",
            f"     {raw}, into {into}.",
            "  2. Use scikit-learn's digits: for a lesson set KDLIB_PROFILE=smoke (a short run, whose",
            '     numbers mean nothing), in your own code call kd.data.load("digits").',
            "To set a variable, run export NAME=value in the shell before Jupyter starts, or",
            "%env NAME=value in a new first cell of the notebook; then run all cells again.",
        ]
    )
