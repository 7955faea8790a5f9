"""Splits on one device, whose samples keep their index, and data sets of up to three splits.

A split yields its own batches; nothing here trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from numbers import Integral

import torch
from torch import Tensor, nn

from kdlib.identity import tensors_hash
from kdlib.networks import at_once, begin_text, carrying
from kdlib.recipe import Views
from kdlib.seeding import check_seed

__all__ = ["Data", "Samples", "Split"]


@dataclass(frozen=True, eq=False, repr=False)
class Samples:
    """Samples that a network reads: a :class:`Split` in any order, a ``Text`` from left to right.

    Training, scores and teachers use this interface and never ask which of the two it is; both add
    ``steps``, ``batches``, ``parts``, ``joined`` and ``beginning``.

    Attributes:
        inputs: ``(N, ...)``.
        labels: ``(N,)`` int64, or None.
        index: ``(N,)`` int64, the identity of each sample. Selections keep it, so that a table of
            logits can be looked up by index in any order.

    Raises:
        TypeError: a tensor has the wrong dtype.
        ValueError: the split is empty, lengths differ, or a label or an index is negative.
    """

    inputs: Tensor
    labels: Tensor | None
    index: Tensor

    # Whether a network's output for a sample depends on that sample alone: tables need this.
    stands_alone = True

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
                    f"{name} must hold one for each of the {len(self.inputs)} inputs, "
                    f"got shape {tuple(values.shape)}"
                )
            if int(values.min()) < 0:
                raise ValueError(f"{name} must not be negative, got {int(values.min())}")

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def device(self) -> torch.device:
        return self.inputs.device

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    def unlabelled(self) -> Samples:
        """The same samples without their labels."""
        return replace(self, labels=None)

    def fingerprint(self) -> str:
        """A hash of inputs, labels and index; computed again only if one of them has changed.

        It notices the changes that torch counts, but none made through ``.data`` or a numpy array
        that shares the tensor's memory.
        """
        parts = {"inputs": self.inputs, "labels": self.labels, "index": self.index}
        state = [(id(x), _version(x)) for x in parts.values() if x is not None]
        kept = vars(self).get("_fingerprint")  # beside the fields of the frozen dataclass
        if kept is None or kept[0] != state:
            kept = state, tensors_hash(parts)[:16]
            vars(self)["_fingerprint"] = kept
        return kept[1]

    def __getstate__(self) -> dict:
        """Leave the fingerprint out: its addresses are valid in this process only."""
        return {name: value for name, value in vars(self).items() if name != "_fingerprint"}

    def at_once(self, batch_size: int | None = None) -> int:
        """Samples per forward pass outside training: ``batch_size``, by default 1,000 or fewer large ones."""
        return at_once(self.inputs, batch_size)

    def begin(self, *models: nn.Module) -> None:
        """Reset recurrent networks, so that they read these samples from the beginning."""
        begin_text(models, carry=not self.stands_alone)

    def reading(self, *models: nn.Module) -> AbstractContextManager[None]:
        """Let recurrent networks keep their state from call to call for a text, not for a split."""
        return carrying(models, not self.stands_alone)


@dataclass(frozen=True, eq=False, repr=False)
class Split(Samples):
    """Samples whose order does not matter.

    Attributes:
        inputs: ``(N, ...)``, images ``(N, C, H, W)`` float32.
        labels: ``(N,)`` int64, or None.
        index: ``(N,)`` int64, the identity of each sample; selections keep it.
    """

    def __repr__(self) -> str:
        kind = "labelled" if self.labelled else "unlabelled"
        shape = " x ".join(map(str, self.inputs.shape[1:]))
        return f"Split({len(self):,} {kind} samples of {shape} on {self.device})"

    def steps(self, batch_size: int) -> int:
        """Batches in an epoch; an incomplete last one is dropped unless it is the only one."""
        return max(1, len(self) // batch_size)

    def batches(
        self,
        batch_size: int,
        order: torch.Generator,
        augment: Views | None,
        views: torch.Generator,
    ) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """Yield one epoch in random order: inputs, labels and index of each batch."""
        # Drawn on the CPU, so that the order is the same on every device.
        shuffled = torch.randperm(len(self), generator=order)  # (N,)
        shuffled = shuffled.to(self.device, non_blocking=self.device.type == "cuda")
        for step in range(self.steps(batch_size)):
            rows = shuffled[step * batch_size : (step + 1) * batch_size]  # (B,)
            # index_select copies whole rows: on a CPU several times faster than inputs[rows].
            inputs = self.inputs.index_select(0, rows)  # (B, ...)
            if augment is not None:
                inputs = _viewed(inputs, augment, views)
            labels = None if self.labels is None else self.labels.index_select(0, rows)
            yield inputs, labels, self.index.index_select(0, rows)

    def parts(self, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield all samples in order, ``size`` at a time: inputs and labels."""
        for first in range(0, len(self), size):
            here = slice(first, first + size)
            yield self.inputs[here], None if self.labels is None else self.labels[here]

    def joined(self, answers: list[Tensor]) -> Tensor:
        """Join a network's outputs for the parts: one row per sample."""
        return torch.cat(answers)

    def beginning(self, n: int, seed: int) -> Split:
        """Select ``n`` samples with balanced classes; see :meth:`Data.limit`."""
        return self.select(_balanced_order(self, seed)[:n].sort().values.to(self.device))

    def select(self, rows: Tensor) -> Split:
        """Select samples by row number or by mask; they keep their index."""
        labels = None if self.labels is None else self.labels[rows]
        return Split(self.inputs[rows], labels, self.index[rows])

    def only(self, classes: int | Iterable[int]) -> Split:
        """Select the samples of these classes: ``split.only([7, 8])``."""
        return self.select(self._of(classes))

    def without(self, classes: int | Iterable[int]) -> Split:
        """Select the samples of all other classes: ``split.without(3)``."""
        return self.select(~self._of(classes))

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
                    f"it has {sorted(present)}"
                )
        return torch.isin(self.labels, torch.tensor(wanted, device=self.device))


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A data set in three parts. The test split is never used to choose anything.

    Attributes:
        train: the samples to train on.
        validation: held out of training, to choose settings with; or None.
        test: for the final scores; or None.
        classes: names by label.
        name: name of the data set.

    Raises:
        ValueError: inputs of a ``Split`` are not finite, or a label has no class name.
    """

    train: Samples
    validation: Samples | None
    test: Samples | None
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            split = getattr(self, part)
            if isinstance(split, Split) and (row := _not_finite(split.inputs)) is not None:
                raise ValueError(
                    f"inputs of {part} must be finite, but the sample with index "
                    f"{int(split.index[row])} holds NaN or infinity; leave it out or fix it"
                )
            if self.labelled(part) and int(split.labels.max()) >= len(self.classes):
                raise ValueError(
                    f"labels of {part} must be below {len(self.classes)}, the number of classes, "
                    f"got {int(split.labels.max())}"
                )

    def __repr__(self) -> str:
        return (
            f"Data({self.name}: {_size(self.train)} training, {_size(self.validation)} validation "
            f"and {_size(self.test)} test samples of {len(self.classes)} classes "
            f"on {self.train.device})"
        )

    def labelled(self, part: str) -> bool:
        """Whether there is a split of this name and it has labels."""
        split = getattr(self, part)
        return split is not None and split.labelled

    def limit(self, n: int, seed: int = 0) -> Data:
        """Keep ``n`` training samples with balanced classes; of a text, the first n tokens.

        With the same seed, a smaller selection is part of every larger one.

        Raises:
            ValueError: n is not between 1 and the number of training samples.
        """
        check_seed(seed)
        if not isinstance(n, Integral) or not 1 <= n <= len(self.train):
            raise ValueError(
                f"n must be a whole number from 1 to the {len(self.train):,} training samples, "
                f"got {n!r}"
            )
        return replace(self, train=self.train.beginning(n, seed))

    def fingerprint(self) -> str:
        """A hash of the training and validation splits; training never sees the test split."""
        validation = "none" if self.validation is None else self.validation.fingerprint()
        return f"{self.train.fingerprint()}-{validation}"


def _balanced_order(split: Split, seed: int) -> Tensor:
    """Order the rows so that classes take turns: the first n are as balanced as possible."""
    generator = torch.Generator().manual_seed(int(seed))
    shuffled = torch.randperm(len(split), generator=generator)  # (N,)
    if split.labels is None:
        return shuffled
    labels = split.labels.cpu()[shuffled]
    turn = torch.empty_like(labels)  # (N,): how many of the same class come before
    for label in labels.unique():
        mine = labels == label
        turn[mine] = torch.arange(int(mine.sum()))
    return shuffled[turn.sort(stable=True).indices]


def device_or_gpu(device: torch.device | str | None) -> torch.device:
    """Return the device asked for, or by default the GPU if there is one."""
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _not_finite(inputs: Tensor) -> int | None:
    """The first row that holds NaN or infinity; None if all are finite."""
    if not inputs.is_floating_point():
        return None
    for first in range(0, len(inputs), 10_000):  # so that the mask takes little memory
        bad = ~inputs[first : first + 10_000].isfinite().flatten(1).all(1)  # (10_000,)
        if bad.any():
            return first + int(bad.int().argmax())
    return None


def _size(split: Samples | None) -> str:
    return "no" if split is None else f"{len(split):,}"


def _viewed(images: Tensor, augment: Views, generator: torch.Generator) -> Tensor:
    views = augment(images, generator)
    if not isinstance(views, Tensor):
        raise TypeError(
            f"augment must return a tensor, got {type(views).__name__} from {augment!r}"
        )
    if views.shape != images.shape or views.dtype != images.dtype:
        raise ValueError(
            f"augment must keep shape and dtype, {tuple(images.shape)} of {images.dtype}; "
            f"{augment!r} returned {tuple(views.shape)} of {views.dtype}"
        )
    return views


def _version(tensor: Tensor) -> object:
    """Count in-place changes of a tensor; inference tensors have no count, so each call differs."""
    return object() if tensor.is_inference() else tensor._version
