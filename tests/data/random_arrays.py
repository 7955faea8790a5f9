"""Random images for the tests of data sets, and what should become of them."""

import hashlib

import numpy as np
import torch

import kdlib as kd

TRAIN, TEST = 120, 40


def arrays(channels=None, seed=0, side=6):
    """Draw images and labels; with several channels, each has its own level."""
    random = np.random.default_rng(seed)
    shape = (TRAIN + TEST, side, side) + (() if channels is None else (channels,))
    top = 200 if channels is None else np.array([60, 130, 250])[:channels]
    images = random.integers(0, top, shape).astype(np.uint8)
    labels = random.integers(0, 10, TRAIN + TEST)
    return {
        "x_train": images[:TRAIN],
        "y_train": labels[:TRAIN],
        "x_test": images[TRAIN:],
        "y_test": labels[TRAIN:],
    }


def shuffled(arrays, seed=1):
    random = np.random.default_rng(seed)
    result = {}
    for part in ("train", "test"):
        order = random.permutation(len(arrays[f"x_{part}"]))
        result |= {f"{xy}_{part}": arrays[f"{xy}_{part}"][order] for xy in "xy"}
    return result


def written(folder, arrays, name="mnist"):
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{name}.npz", **arrays)
    return folder


def load(folder, name="mnist", validation=20):
    return kd.data.load(name, validation=validation, device="cpu", root=folder)


def same(a, b):
    names = ("inputs", "labels", "index")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def by_pixels(images, labels):
    """Sort rows by a hash of the pixels, and equal images by label."""
    keys = [
        (hashlib.blake2b(image.tobytes(), digest_size=8).digest(), label)
        for image, label in zip(images, labels, strict=True)
    ]
    return sorted(range(len(keys)), key=keys.__getitem__)


def normalised(arrays):
    """Training and test images as ``(N, C, H, W)``, normalised by all training images."""
    train, test = (arrays[part].astype(np.float64) for part in ("x_train", "x_test"))
    train, test = (images.reshape(*images.shape[:3], -1) for images in (train, test))
    mean, deviation = train.mean((0, 1, 2)), train.std((0, 1, 2))
    return [((images - mean) / deviation).transpose(0, 3, 1, 2) for images in (train, test)]


def draw(seed=0):
    return torch.Generator().manual_seed(seed)
