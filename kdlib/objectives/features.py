"""Objectives on features: hints with their regressors (Romero et al. 2015) and FSP matrices (Yim et al. 2017)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from kdlib.data.splits import Samples
from kdlib.identity import code_hash
from kdlib.losses import fsp_loss, fsp_matrix, hint_loss
from kdlib.networks import evaluating
from kdlib.objectives.base import Batch, Objective, Outputs
from kdlib.objectives.teachers import TeacherFeatures
from kdlib.recipe import Recipe
from kdlib.seeding import check_seed, stream
from kdlib.taps import features_of_all

__all__ = ["FSP", "Hint"]

_ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def _rate(taps: Sequence[str]) -> float | None:
    """The default learning rate; None, the optimizer's own, if the whole network is among the taps."""
    return None if "" in taps else 0.001  # at 0.03 sums over thousands of features diverge


class Hint(Objective):
    """Hints: the student's features are pulled towards the teacher's; logged as ``hint``.

    ``1/2 * ||u - r(v)||^2`` summed over the pairs of layers: u is the teacher's hint, v are the student's
    guided features, and r is a regressor that is trained with the student and dropped afterwards; see
    :func:`kdlib.losses.hint_loss`. Used alone, as in the first stage of FitNets, it trains the student up
    to the guided layer; everything above stays bit-identical. For feature maps r is one convolution
    without padding, with the kernel ``guided size - hint size + 1``; for flat features it is linear. It
    ends with ``activation``, which should be that of the hint layer. Needs no labels. The sum over
    features makes gradients large, so ``fit``'s default learning rate is smaller here; Yim et al. 2017
    use 1e-4. Source: Romero et al. 2015, section 2.2.

    Args:
        teacher: one network; it is not modified. With fixed views its hints are computed only once, if
            they fit into a gigabyte, and kept as long as the objective.
        hint: a layer of the teacher, or several.
        guided: a layer of the student, or as many as there are hints.
        activation: the non-linearity at the end of each regressor: "relu", "leaky_relu", "elu", "gelu",
            "silu", "tanh" or "sigmoid"; None for none; or a module, such as the teacher's own Maxout.

    Attributes:
        module: the regressors of the last training, a ModuleList in the order of the pairs.

    Raises:
        TypeError: the teacher is not a network, a name is not a string, or the activation is unknown.
        ValueError: the numbers of layers differ, a layer does not exist, or no regressor fits the shapes.

    Warns:
        UserWarning: hints have negative values, which the activation cannot produce.

    >>> import kdlib as kd
    >>> teacher, student = kd.models.mlp(40, seed=0), kd.models.mlp(20, seed=1)
    >>> hint = Hint(teacher, hint="2", guided="2")
    >>> data = kd.data.load("digits", device="cpu").limit(200)
    >>> history = kd.fit(student, hint, data, kd.Recipe(epochs=1), progress=False)
    >>> hint.module[0]
    Sequential(
      (0): Linear(in_features=20, out_features=40, bias=True)
      (1): ReLU()
    )
    """

    @property
    def default_rate(self) -> float | None:
        return _rate(self.taps)

    def __init__(
        self,
        teacher: nn.Module,
        *,
        hint: str | Sequence[str],
        guided: str | Sequence[str],
        activation: str | nn.Module | None = "relu",
    ) -> None:
        self.hints, self.taps = _layers("hint", hint), _layers("guided", guided)
        if len(self.hints) != len(self.taps):
            raise ValueError(
                f"guided must name as many layers as hint: {len(self.hints)}, got {len(self.taps)}"
            )
        known = activation is None or isinstance(activation, (str, nn.Module))
        if not known or (isinstance(activation, str) and activation not in _ACTIVATIONS):
            raise TypeError(
                f"activation must be one of {', '.join(_ACTIVATIONS)}, None or a module, got "
                f"{activation!r}"
            )
        self.teacher, self.activation = teacher, activation
        self._source = TeacherFeatures(
            teacher, self.hints, partial(_named, names=self.hints), f"hint {self.hints}"
        )

    def settings(self) -> str:
        ends = self.activation
        ends = code_hash(ends) if isinstance(ends, nn.Module) else repr(ends)
        ends = "" if self.activation == "relu" else f", activation={ends}"
        return f"teacher={self._source.identity()}, hint={self.hints}, guided={self.taps}{ends}"

    def prepare(self, student: nn.Module, split: Samples, recipe: Recipe) -> None:
        self._source.prepare(split, recipe)
        if self.activation in ("relu", "sigmoid"):
            self._warn_of_reach()
        guided = _features_of_one(student, split, self.taps)
        self.module = nn.ModuleList(
            _regressor(f"guided {name!r}", guided[name], hint, self._end())
            for name, hint in zip(self.taps, self._source.sample, strict=True)
        )

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        total = 0
        for name, regressor, hint in zip(self.taps, self.module, self._source(batch), strict=True):
            guided = student[name].to(next(regressor.parameters()).dtype)  # (N, ...)
            total = total + hint_loss(regressor(guided), hint, reduction="none")  # (N,)
        return {"hint": total.mean()}

    def _end(self) -> nn.Module | None:
        if isinstance(self.activation, str):
            return _ACTIVATIONS[self.activation]()
        return copy.deepcopy(self.activation)

    def _warn_of_reach(self) -> None:
        for i, name in enumerate(self.hints):
            if (lowest := self._source.lowest(i)) < 0:
                warnings.warn(
                    f'the regressor ends with "{self.activation}", which is never negative, and the hint '
                    f"{name!r} goes down to {lowest:.3g}; activation=None ends it without one",
                    stacklevel=4,
                )


class FSP(Objective):
    """FSP matrices: the student's are pulled towards the teacher's; logged as ``fsp``.

    The squared distance between the FSP matrices of student and teacher, summed over the pairs of layers;
    see :func:`kdlib.losses.fsp_matrix` and :func:`kdlib.losses.fsp_loss`. There is no regressor: the
    layers of a pair must have equal widths in both networks. Used alone, as in the first stage of Yim et
    al., it trains the student up to the highest layer named; everything above stays bit-identical. Needs
    no labels. Source: Yim et al. 2017, sections 3.2 to 3.4.

    Args:
        teacher: one network; it is not modified.
        pairs: for each matrix the student's two layers and the teacher's two layers:
            ``[(("stem", "stage1"), ("stem", "stage1")), ...]``.
        shuffle_seed: seed of one random permutation of the channels for each of the teacher's layers,
            applied to the rows and columns of its matrices; None for none. Students trained on different
            permutations differ more, which helps their ensemble (section 4.1).

    Raises:
        TypeError: the teacher is not a network, or pairs do not consist of names.
        ValueError: there is no pair, a layer does not exist, or the matrices differ in size.

    >>> import kdlib as kd
    >>> teacher, student = kd.models.resnet(14, channels=1), kd.models.resnet(8, channels=1, seed=1)
    >>> ends = ("stem", "stage1")
    >>> fsp = FSP(teacher, pairs=[(ends, ends)])
    >>> data = kd.data.load("digits", device="cpu").limit(200)
    >>> list(kd.fit(student, fsp, data, kd.Recipe(epochs=1), progress=False).frame)[3]
    'fsp'
    """

    @property
    def default_rate(self) -> float | None:
        return _rate(self.taps)

    def __init__(
        self,
        teacher: nn.Module,
        *,
        pairs: Sequence[tuple[tuple[str, str], tuple[str, str]]],
        shuffle_seed: int | None = None,
    ) -> None:
        self.pairs = _checked_pairs(pairs)
        if shuffle_seed is not None:
            check_seed(shuffle_seed, "shuffle_seed")
        self.teacher, self.shuffle_seed = teacher, shuffle_seed
        self._of_student = [student for student, _ in self.pairs]
        self._of_teacher = [teacher for _, teacher in self.pairs]
        self.taps = _each_once(self._of_student)
        matrices = _Matrices(self._of_teacher, shuffle_seed)
        what = f"fsp {self._of_teacher} {shuffle_seed}"
        self._source = TeacherFeatures(teacher, _each_once(self._of_teacher), matrices, what)

    def settings(self) -> str:
        return (
            f"teacher={self._source.identity()}, pairs={self.pairs}, "
            f"shuffle_seed={self.shuffle_seed}"
        )

    def prepare(self, student: nn.Module, split: Samples, recipe: Recipe) -> None:
        self._source.prepare(split, recipe)
        features = _features_of_one(student, split, self.taps)
        for (first, second), target in zip(self._of_student, self._source.sample, strict=True):
            ours = fsp_matrix(features[first], features[second]).shape[1:]
            if ours != target.shape[1:]:
                raise ValueError(
                    f"pairs must have equal widths in both networks: ({first!r}, {second!r}) of the "
                    f"student gives a matrix of {tuple(ours)}, the teacher's is "
                    f"{tuple(target.shape[1:])}; FSP has no regressor"
                )

    def __call__(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        matrices = _matrices(student.features, self._of_student)  # (N, C1, C2) each
        return {"fsp": fsp_loss(matrices, self._source(batch))}


class _Matrices:
    """The FSP matrices of a teacher's features, with the channels permuted if there is a seed."""

    def __init__(self, pairs: Sequence[tuple[str, str]], shuffle_seed: int | None) -> None:
        self.pairs, self.shuffle_seed = pairs, shuffle_seed
        self.orders: dict[str, Tensor] = {}

    def __call__(self, features: dict[str, Tensor]) -> list[Tensor]:
        if self.shuffle_seed is not None:
            # (N, C, H, W) each, the channels C permuted
            features = {name: x[:, self.order(name, x)] for name, x in features.items()}
        return _matrices(features, self.pairs)

    def order(self, name: str, x: Tensor) -> Tensor:
        if name not in self.orders:  # moved to the device once, not in every step
            draws = stream(self.shuffle_seed, 0, f"channels of {name}")
            self.orders[name] = torch.randperm(x.shape[1], generator=draws)
        self.orders[name] = self.orders[name].to(x.device)
        return self.orders[name]


def _named(features: dict[str, Tensor], names: Sequence[str]) -> list[Tensor]:
    return [features[name] for name in names]


def _features_of_one(student: nn.Module, split: Samples, names: Sequence[str]) -> dict[str, Tensor]:
    """The student's features of one image, in eval mode; only their shapes are used."""
    with evaluating(student):
        return features_of_all(student, split.inputs[:1], names)


def _regressor(name: str, guided: Tensor, hint: Tensor, last: nn.Module | None) -> nn.Sequential:
    """A regressor from the guided layer's shape to the hint's, ending with ``last``."""
    (_, inputs, *size), (_, outputs, *target) = guided.shape, hint.shape
    outputs *= getattr(last, "pieces", 1)  # a Maxout takes that many channels in for each one out
    if not size and not target:
        layer: nn.Module = nn.Linear(inputs, outputs)
    elif len(size) == len(target) == 2 and all(g >= h for g, h in zip(size, target, strict=True)):
        # No padding, as in Romero et al., section 2.2: this kernel makes the output as large as the hint.
        kernel = tuple(g - h + 1 for g, h in zip(size, target, strict=True))
        layer = nn.Conv2d(inputs, outputs, kernel)
    else:
        raise ValueError(
            f"{name} must be flat where the hint is, or maps (C, H, W) at least as large as the hint's: "
            f"the hint is {tuple(hint.shape[1:])}, got {tuple(guided.shape[1:])}"
        )
    return nn.Sequential(layer) if last is None else nn.Sequential(layer, last)


def _matrices(features: dict[str, Tensor], pairs: Sequence[tuple[str, str]]) -> list[Tensor]:
    return [fsp_matrix(features[first], features[second]) for first, second in pairs]


def _layers(name: str, names: str | Sequence[str]) -> tuple[str, ...]:
    layers = (names,) if isinstance(names, str) or not isinstance(names, Sequence) else tuple(names)
    if not all(isinstance(layer, str) for layer in layers):
        raise TypeError(f"{name} must be a layer's name or a list of names, got {names!r}")
    if not layers or len(set(layers)) < len(layers):
        raise ValueError(f"{name} must name at least one layer, each once, got {names!r}")
    return layers


def _checked_pairs(pairs) -> tuple[tuple[tuple[str, str], tuple[str, str]], ...]:
    form = (
        '[(("stem", "stage1"), ("stem", "stage1")), ...]: the student\'s two layers, the teacher\'s'
    )
    checked = []
    if not isinstance(pairs, Sequence):
        raise TypeError(f"pairs must be {form}, got {pairs!r}")
    for pair in pairs:
        of_both = pair if isinstance(pair, Sequence) else ()
        ends = [tuple(end) if isinstance(end, (tuple, list)) else () for end in of_both]
        if len(ends) != 2 or not all(
            len(end) == 2 and all(isinstance(n, str) for n in end) for end in ends
        ):
            raise TypeError(f"pairs must be {form}, got {pair!r}")
        checked.append(tuple(ends))
    if not checked:
        raise ValueError(f"pairs must be at least one, {form}, got none")
    return tuple(checked)


def _each_once(pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for pair in pairs for name in pair))
