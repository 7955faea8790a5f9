"""What a teacher says of a batch: looked up by the sample's index, or computed on its views."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kdlib._checks import wide
from kdlib.networks import begin_text, frozen_copy, logits, tensors_hash, weights_hash
from kdlib.taps import reach, taps

if TYPE_CHECKING:
    from kdlib.data import Split
    from kdlib.objectives import Batch
    from kdlib.training import Recipe

Teacher = nn.Module | Sequence[nn.Module] | Tensor

_TABLE_BYTES = 2**30  # of features; what needs more is computed anew in every step


class TeacherLogits:
    """A teacher's logits for a batch: looked up by the sample's index, or computed on its views.

    Where every epoch shows an image unchanged the teacher runs once, and again only if it or the
    split has changed since. Where views are random it runs on the very view the student sees, and a
    text it reads beside the student, carrying its own state.
    """

    def __init__(self, teacher: Teacher, average: Callable[[Tensor], Tensor]) -> None:
        if isinstance(teacher, nn.ModuleList):
            raise TypeError(
                "teacher must be a network or a list, got ModuleList; list(...) of it does"
            )
        if isinstance(teacher, nn.Module):
            self.networks: list[nn.Module] = [teacher]
        elif isinstance(teacher, Tensor):
            if teacher.ndim != 2 or not teacher.is_floating_point():
                raise TypeError(
                    "teacher, as a tensor, must hold floating-point logits (rows, C) by sample "
                    f"index, got {teacher.dtype} of shape {tuple(teacher.shape)}"
                )
            self.networks = []
        elif isinstance(teacher, Sequence):
            if not teacher:
                raise ValueError("teacher must be at least one network, got an empty list")
            self.networks = list(teacher)
        else:
            self.networks = [teacher]
        for network in self.networks:
            if not isinstance(network, nn.Module):
                raise TypeError(
                    "teacher must be a network, a list of networks or a tensor of logits by "
                    f"sample index, got {type(network).__name__}"
                )
        self.teacher = teacher
        self.average = average
        self.live: list[nn.Module] = []
        self.said: tuple[Batch, Tensor] | None = None  # of the last batch, by the live ones
        self.in_order = False  # whether batch follows batch, as in a text
        self.table: Tensor | None = None
        self.table_of: tuple[str, str] | None = None

    def hash(self) -> str:
        if isinstance(self.teacher, Tensor):
            return tensors_hash({"logits": self.teacher})[:16]
        return "+".join(weights_hash(network)[:16] for network in self.networks)

    def prepare(self, split: Split, recipe: Recipe) -> None:
        device, self.said, self.in_order = split.inputs.device, None, split.in_order
        if recipe.augment is not None or (split.in_order and self.networks):
            if isinstance(self.teacher, Tensor):
                raise ValueError(
                    "teacher must be a network where augment is set: a tensor holds one row of "
                    f"logits an image, and {recipe.augment} shows another view in every epoch"
                )
            self.live = [frozen_copy(network, device).float() for network in self.networks]
            self.table = self.table_of = None
            return
        self.live = []
        if isinstance(self.teacher, Tensor):
            self.table = _finite(_rows_for(split, self.teacher), split)
            return
        source = (self.hash(), split.fingerprint())
        if self.table_of == source and self.table.device == device:
            return
        rows = self._combine([logits(frozen_copy(n, device), split) for n in self.networks])
        # A row that was not computed is never read, and would show as nan if it were.
        table = rows.new_full((int(split.index.max()) + 1, rows.shape[-1]), math.nan)
        table[split.index] = rows
        self.table, self.table_of = _finite(table, split), source

    def __call__(self, batch: Batch) -> Tensor:
        if not self.live:
            return self.table[batch.index]
        # Parts of a sum may share it, and a recurrent network goes on with every call.
        if self.said is None or self.said[0] is not batch:
            with torch.no_grad():
                if batch.first and self.in_order:
                    for network in self.live:
                        begin_text(network, carry=True)
                said = self._combine([network(batch.inputs) for network in self.live])
            self.said = batch, said
        return self.said[1]

    def _combine(self, members: list[Tensor]) -> Tensor:
        if not isinstance(self.teacher, Sequence):
            return members[0]
        return self.average(wide("teacher", torch.stack(members)))


class TeacherFeatures:
    """What a teacher's features say of a batch, a list of tensors: looked up by the sample's index, or
    computed on its views, by the rule of :class:`TeacherLogits`; also on its views where a table
    would be too large.
    """

    def __init__(
        self,
        teacher: nn.Module,
        names: Sequence[str],
        targets: Callable[[dict[str, Tensor]], list[Tensor]],
    ) -> None:
        if not isinstance(teacher, nn.Module) or isinstance(teacher, nn.ModuleList):
            raise TypeError(
                "teacher must be one network: features of several have nothing in common, got "
                f"{type(teacher).__name__}"
            )
        self.teacher, self.names, self.targets = teacher, names, targets
        self.live: nn.Module | None = None
        self.tables: list[Tensor] = []
        self.tables_of: tuple[str, str] | None = None
        self.place: Tensor | None = None  # row of a table by sample index
        self.sample: list[Tensor] = []  # of one image
        self.some: Tensor | None = None  # training images, where there is no table

    def hash(self) -> str:
        """Of the weights and of what is between them."""
        text = f"{weights_hash(self.teacher)} {self.teacher!r}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def prepare(self, split: Split, recipe: Recipe) -> None:
        if split.in_order:
            raise ValueError(
                "hints and FSP matrices are of images, and the training split is a text"
            )
        device = split.inputs.device
        self.live = frozen_copy(self.teacher, device).float()
        with torch.no_grad(), taps(self.live, self.names) as features:  # the whole way, as a check
            self.live(as_float(split.inputs[:1]))
        self.sample = self.targets(features)
        fits = sum(x.numel() * x.element_size() for x in self.sample) * len(split) <= _TABLE_BYTES
        if recipe.augment is not None or not fits:
            self.tables, self.tables_of = [], None
            self.some = split.inputs[:1000]
            self._check(self.sample)
            return
        source = (self.hash(), split.fingerprint())
        if self.tables_of != source or self.tables[0].device != device:
            self.tables = self._of_many(split.inputs)
            self._check(self.tables)
            self.tables_of = source
            self.place = torch.full((int(split.index.max()) + 1,), len(split), device=device)
            self.place[split.index] = torch.arange(len(split), device=device)
        self.live = None

    def __call__(self, batch: Batch) -> list[Tensor]:
        if self.live is None:
            rows = self.place[batch.index]
            return [table[rows] for table in self.tables]
        return self._of(batch.inputs)

    def never_negative(self, i: int) -> bool:
        """Of a target, over the training images, or a thousand of them where there is no table."""
        target = self.tables[i] if self.tables else self._of_many(self.some)[i]
        return bool(target.amin() >= 0)

    def _check(self, targets: list[Tensor]) -> None:
        if not all(target.isfinite().all() for target in targets):
            raise ValueError(
                f"teacher must give finite features at {', '.join(self.names)}, got others; is it "
                "trained?"
            )

    def _of_many(self, inputs: Tensor) -> list[Tensor]:
        parts = [self._of(some) for some in inputs.split(250)]
        return [torch.cat(rows) for rows in zip(*parts, strict=True)]

    @torch.no_grad()
    def _of(self, inputs: Tensor) -> list[Tensor]:
        return self.targets(reach(self.live, as_float(inputs), self.names))


def as_float(inputs: Tensor) -> Tensor:
    """Images in float32; tokens stay whole."""
    return inputs.float() if inputs.is_floating_point() else inputs


def _rows_for(split: Split, table: Tensor) -> Tensor:
    last = int(split.index.max())
    if last >= len(table):
        raise ValueError(
            f"teacher must have a row for every sample index of the training split, up to {last}: "
            f"got {len(table)} rows"
        )
    return table.detach().to(split.inputs.device)


def _finite(table: Tensor, split: Split) -> Tensor:
    rows = table[split.index].isfinite().all(-1)
    if not rows.all():
        raise ValueError(
            f"teacher must give finite logits, got others for {int((~rows).sum())} samples, the first "
            f"of index {int(split.index[~rows][0])}"
        )
    return table
