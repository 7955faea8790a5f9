"""A teacher's outputs for a batch: looked up by sample index, or computed on the batch's views.

``prepare`` decides once per fit which it will be. The answers are stored under the teacher's identity and the
split's fingerprint, so that all objectives with the same teacher share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from kdlib._checks import wide
from kdlib.data.splits import Samples
from kdlib.identity import Undescribed, network_hash, tensors_hash, weights_hash
from kdlib.networks import answers, as_float, check_initialised, check_members, frozen_copy, logits
from kdlib.recipe import Recipe
from kdlib.taps import features_of_all, reach

Teacher = nn.Module | Sequence[nn.Module] | Tensor
Combine = Callable[[list[Tensor]], Tensor]  # several networks' logits to one tensor of logits

_TABLE_BYTES = 2**30  # a larger table of features is not kept: they are computed in every step


class Asked(Protocol):
    """The part of a batch that a teacher needs."""

    inputs: Tensor
    index: Tensor
    first: bool


class LookedUp:
    """Answers computed once, tables ``(N, ...)``, and looked up by sample index."""

    asked: Sequence[nn.Module] = ()

    def __init__(self, tables: list[Tensor], split: Samples) -> None:
        self.tables = tables  # one row per sample of the split, in its order, so that none is empty
        # From sample index to row. An index that is not in the split maps past the last row: an error.
        self.row = torch.full((int(split.index.max()) + 1,), len(split), device=split.device)
        self.row[split.index] = torch.arange(len(split), device=split.device)

    def __call__(self, batch: Asked) -> list[Tensor]:
        rows = self.row[batch.index]  # (B,); for a cohort (members, B)
        return [table[rows] for table in self.tables]  # (B, ...) each


class Live:
    """Answers computed in every step, on the same views (or the same piece of text) that the student sees.

    ``answer`` returns a list of tensors for the networks and the inputs; it must not refer to the object that
    holds this one, so that both can be freed.
    """

    asked: Sequence[nn.Module] = ()

    def __init__(
        self,
        networks: list[nn.Module],
        answer: Callable[[list[nn.Module], Tensor], list[Tensor]],
        split: Samples,
    ) -> None:
        self.networks, self.answer, self.split = networks, answer, split
        self.last: tuple[Asked, list[Tensor]] | None = None

    def __call__(self, batch: Asked) -> list[Tensor]:
        # Computed once per batch: parts of a sum share it, and every call advances a recurrent network.
        if self.last is None or self.last[0] is not batch:
            if batch.first:
                self.split.begin(*self.networks)
            with torch.no_grad():
                self.last = batch, self.answer(self.networks, batch.inputs)
        return self.last[1]


_ANSWERS: WeakValueDictionary[tuple, LookedUp | Live] = WeakValueDictionary()


def _shared(
    networks: list[nn.Module], how: object, split: Samples, size: int | None, make: Callable
) -> LookedUp | Live:
    """Answers that exist already for this teacher, question and split, or new ones from ``make``.

    They live as long as some objective holds them. A table is computed ``size`` samples at a time; answers
    that are computed in every step have no size.
    """
    # Without a table the split's id is enough; its images need no hashing.
    of_split = id(split) if size is None else split.fingerprint()
    # The size belongs to it: it may change the last bit, which must not depend on what ran before.
    key = (*map(_who, networks), how, size, of_split, split.device)
    found = _ANSWERS.get(key)
    if found is None:
        found = _ANSWERS[key] = make(split)
        # Kept alive, so that no id in the key is used again for another network.
        found.asked = networks
    return found


def _who(network: nn.Module) -> object:
    """A key that is equal only for networks with equal outputs: their tensors, code and attributes.

    Where these cannot be described, the object itself.
    """
    # A hook may do anything and cannot be described reliably.
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    try:
        return (id(network), weights_hash(network)) if hooked else network_hash(network)
    except Undescribed:
        return id(network), weights_hash(network)


class TeacherLogits:
    """One teacher's logits for each batch, ``(N, C)``.

    Args:
        teacher: a network; a list of networks, which are averaged; or a tensor of logits ``(rows, C)`` by
            sample index.
        average: for a list, ``"probabilities"``, which gives T times the log of the mean probability at
            the temperature T of ``prepare``; or ``"centred logits"``.
    """

    def __init__(self, teacher: Teacher, average: str = "probabilities") -> None:
        self.networks = _networks(teacher)
        self.table = teacher if isinstance(teacher, Tensor) else None
        self.average = average
        self.is_list = isinstance(teacher, Sequence)
        self.answers: LookedUp | Live | None = None

    def identity(self) -> str:
        if self.table is not None:
            return tensors_hash({"logits": self.table})[:16]
        alone = "mean of " if self.is_list and len(self.networks) == 1 else ""
        return alone + "+".join(map(network_hash, self.networks))

    def prepare(self, split: Samples, recipe: Recipe, temperature: float | Tensor = 1.0) -> None:
        if self.table is not None:
            if recipe.augment is not None:
                raise ValueError(
                    "teacher must be a network where augment is set: a tensor holds one row of "
                    f"logits an image, and {recipe.augment} shows another view in every epoch"
                )
            self.answers = LookedUp([_rows_for(split, self.table)], split)
            return
        for network in self.networks:
            check_initialised("teacher", network)
        live = recipe.augment is not None or not split.stands_alone
        how, combine = "logits", _only
        if self.is_list and self.average == "centred logits":
            how, combine = self.average, _mean_centred
        elif self.is_list:
            how = f"mean probability at {float(temperature)}"
            combine = partial(_mean_probability, temperature=temperature)
        size = None if live else min(recipe.batch_size, split.at_once())
        make = partial(self._live, combine) if live else partial(self._looked_up, combine, size)
        self.answers = _shared(self.networks, how, split, size, make)

    def __call__(self, batch: Asked) -> Tensor:
        return self.answers(batch)[0]

    def __getstate__(self) -> dict:
        return vars(self) | {"answers": None}  # copies and pickles need neither them nor the split

    def _live(self, combine: Combine, split: Samples) -> Live:
        networks = [frozen_copy(network, split.device).float() for network in self.networks]
        return Live(networks, partial(_logits_now, combine), split)

    def _looked_up(self, combine: Combine, size: int, split: Samples) -> LookedUp:
        found = [
            logits(frozen_copy(network, split.device), split, size) for network in self.networks
        ]
        check_members("teacher", found, split.inputs)
        return LookedUp([_finite(combine(found), split)], split)


def _logits_now(combine: Combine, networks: list[nn.Module], inputs: Tensor) -> list[Tensor]:
    return [combine(_each_answer(networks, inputs))]


def _each_answer(networks: list[nn.Module], inputs: Tensor) -> list[Tensor]:
    """Several networks' logits ``(N, C)`` for the same inputs, with the same classes."""
    found = [answers(network, inputs) for network in networks]
    check_members("teacher", found, inputs)
    return found


def _only(members: list[Tensor]) -> Tensor:
    return members[0]


def _mean_centred(members: list[Tensor]) -> Tensor:
    stacked = wide("teacher", torch.stack(members))  # (K, N, C)
    return (stacked - stacked.mean(-1, keepdim=True)).mean(0)  # (N, C)


def _mean_probability(members: list[Tensor], temperature: float) -> Tensor:
    """Logits whose soft targets at T are the mean of the members' soft targets."""
    stacked = wide("teacher", torch.stack(members))  # (K, N, C)
    log_p = torch.log_softmax(stacked / temperature, dim=-1)  # (K, N, C)
    return temperature * (log_p.logsumexp(0) - math.log(len(members)))  # (N, C)


class TeacherFeatures:
    """Targets computed from one teacher's features for each batch, a list of tensors.

    They are looked up unless views are random or their table would need more than a gigabyte.

    Args:
        teacher: one network.
        names: the names of its modules.
        targets: computes the list of targets from the features by name.
        what: distinguishes these targets from others of the same teacher.
    """

    def __init__(
        self,
        teacher: nn.Module,
        names: Sequence[str],
        targets: Callable[[dict[str, Tensor]], list[Tensor]],
        what: str,
    ) -> None:
        if not isinstance(teacher, nn.Module) or isinstance(teacher, nn.ModuleList):
            raise TypeError(
                "teacher must be one network: features of several cannot be averaged, got "
                f"{type(teacher).__name__}"
            )
        self.teacher, self.names, self.targets, self.what = teacher, names, targets, what
        self.sample: list[Tensor] = []  # the targets of one image
        self.size = 1  # images in a forward pass
        self.answers: LookedUp | Live | None = None

    def identity(self) -> str:
        return network_hash(self.teacher)

    def prepare(self, split: Samples, recipe: Recipe) -> None:
        if not split.stands_alone:
            raise ValueError(
                "hints and FSP matrices are defined for images, but the training split is a text"
            )
        check_initialised("teacher", self.teacher)
        # A copy, since the teacher itself may be the student.
        network = frozen_copy(self.teacher, split.device).float()
        # The whole forward pass, not only up to the last name, as a check.
        features = features_of_all(network, as_float(split.inputs[:1]), self.names)
        self.sample = self.targets(features)
        self._check(self.sample)
        size = sum(x.numel() * x.element_size() for x in self.sample) * len(split)
        live = recipe.augment is not None or size > _TABLE_BYTES
        self.size = min(recipe.batch_size, split.at_once(), 250)  # features take more than logits
        make = partial(self._live if live else self._looked_up, network)
        at_once = None if live else self.size
        self.answers = _shared([self.teacher], self.what, split, at_once, make)

    def __call__(self, batch: Asked) -> list[Tensor]:
        return self.answers(batch)

    def __getstate__(self) -> dict:
        return vars(self) | {"answers": None}  # as in TeacherLogits

    def lowest(self, i: int) -> float:
        """The lowest value of target i on the training images, or on the first 1,000 if there is no table."""
        if isinstance(self.answers, LookedUp):
            return self.answers.tables[i].amin().item()
        network, images = self.answers.networks[0], self.answers.split.inputs[:1000]
        return min(targets[i].amin().item() for targets in self._in_parts(network, images))

    def _live(self, network: nn.Module, split: Samples) -> Live:
        return Live([network], self._now(), split)

    def _looked_up(self, network: nn.Module, split: Samples) -> LookedUp:
        parts = list(self._in_parts(network, split.inputs))
        tables = [torch.cat(rows) for rows in zip(*parts, strict=True)]
        self._check(tables)
        return LookedUp(tables, split)

    def _check(self, targets: list[Tensor]) -> None:
        if not all(target.isfinite().all() for target in targets):
            raise ValueError(
                f"teacher must give finite features at {', '.join(self.names)}, got NaN or infinity; is "
                "it trained?"
            )

    @torch.no_grad()
    def _in_parts(self, network: nn.Module, inputs: Tensor) -> Iterator[list[Tensor]]:
        for some in inputs.split(self.size):
            yield self._now()([network], some)

    def _now(self) -> Callable[[list[nn.Module], Tensor], list[Tensor]]:
        return partial(_targets_now, self.targets, self.names)


def _targets_now(
    targets: Callable[[dict[str, Tensor]], list[Tensor]],
    names: Sequence[str],
    networks: list[nn.Module],
    inputs: Tensor,
) -> list[Tensor]:
    return targets(reach(networks[0], as_float(inputs), names))


def _networks(teacher: Teacher) -> list[nn.Module]:
    """The teacher's networks; none if it is a tensor."""
    if isinstance(teacher, nn.ModuleList):
        raise TypeError("teacher must be a network or a list, got ModuleList; list(teacher) is one")
    if isinstance(teacher, Tensor):
        if teacher.ndim != 2 or not teacher.is_floating_point():
            raise TypeError(
                "teacher, as a tensor, must hold floating-point logits (rows, C) by sample "
                f"index, got {teacher.dtype} of shape {tuple(teacher.shape)}"
            )
        return []
    if isinstance(teacher, Sequence) and not teacher:
        raise ValueError("teacher must be at least one network, got an empty list")
    networks = list(teacher) if isinstance(teacher, Sequence) else [teacher]
    for network in networks:
        if not isinstance(network, nn.Module):
            raise TypeError(
                "teacher must be a network, a list of networks or a tensor of logits by "
                f"sample index, got {type(network).__name__}"
            )
    return networks


def _rows_for(split: Samples, table: Tensor) -> Tensor:
    """The table's rows for the split's samples, ``(N, C)``."""
    last = int(split.index.max())
    if last >= len(table):
        raise ValueError(
            f"teacher must have a row for every sample index of the training split, up to {last}: "
            f"got {len(table)} rows"
        )
    return _finite(table.detach().to(split.device)[split.index], split)


def _finite(rows: Tensor, split: Samples) -> Tensor:
    finite = rows.isfinite().flatten(1).all(1)  # (N,)
    if not finite.all():
        raise ValueError(
            f"teacher must give finite logits, got NaN or infinity for {int((~finite).sum())} samples, the "
            f"first with index {int(split.index[~finite][0])}"
        )
    return rows
