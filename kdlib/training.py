"""The training core: fit, evaluate, keep. It knows objectives, never a particular loss.

What shapes a training is in its Recipe and its seed, and nothing else: order, views, dropout and an
objective's draws come from streams keyed by (seed, epoch), so that the same seeds give the same
weights whatever ran before, and a resume needs no generator state.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from kdlib._checks import fraction, positive, real, wide
from kdlib._files import write_whole
from kdlib.data import Augmentation, Data, Split
from kdlib.losses import cross_entropy
from kdlib.networks import answers, begin_text, evaluating, reading, weights_hash
from kdlib.objectives import Batch, Objective, Outputs, Sum, taps_of
from kdlib.seeding import check_seed, forked, key, reseed, seeded, stream
from kdlib.taps import reach

__all__ = ["Fidelity", "History", "Recipe", "Scores", "evaluate", "fidelity", "fit", "keep"]

_VALIDATION = ("validation_loss", "validation_accuracy")
_RATE_OF_FEATURES = 0.001  # 0.03 makes sums over thousands of features diverge
_CHOICES = {
    "optimizer": ("sgd", "adam", "adamw"),
    "schedule": ("one_cycle", "step", "constant", "wide_resnet", "plateau"),
    "precision": ("auto", "float32", "float64", "bfloat16", "float16"),
    "keep": ("last", "best"),
}


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes a training, its values checked when it is built.

    Attributes:
        epochs: passes over the training split.
        iterations: steps instead of epochs, as some papers count; the last epoch may be cut short.
        batch_size: samples a step; the incomplete last batch is dropped unless it is all there is.
        optimizer: ``sgd`` (Nesterov momentum), ``adam`` or ``adamw``.
        learning_rate: its peak; if not given 0.03 for sgd and 0.001 for adam and adamw. 0.03 under
            one_cycle is stable for T^2-weighted soft targets at T = 20. Where features alone are
            trained (a hint, FSP matrices), whose losses are sums over thousands of numbers, ``fit``
            takes 0.001 for sgd, too.
        momentum: of sgd; of adam and adamw the first beta.
        schedule: ``one_cycle`` (up for 30 % of the steps, then down to zero, both by a cosine),
            ``step`` (a tenth after one half and again after three quarters), ``wide_resnet`` (a fifth
            after 30, 60 and 80 %, as Zagoruyko and Komodakis 2016), ``plateau`` (a quarter after every
            epoch whose validation loss is no new lowest) or ``constant``.
        weight_decay: for all parameters.
        max_norm: the longest that the incoming weights of a linear layer's or a convolution's unit may
            be after a step; None for no limit.
        max_gradient: the longest that the gradient by all weights may be, else it is shortened to that;
            None for no limit.
        augment: random views of the training images, such as ``kd.data.shift(2)``.
        precision: of the matrix products; ``auto`` is bfloat16 where the hardware has it natively,
            float16 on older GPUs, else float32. The network's weights are turned into float32, or
            into float64 for ``float64``, and stay so.
        keep: the weights to end with: those of the ``last`` epoch, or of the ``best`` by validation
            loss.

    Raises:
        TypeError, ValueError: a value that cannot be meant, named with what would do.

    >>> Recipe(schedule="step", learning_rate=1).rate(0.6)
    0.1
    """

    epochs: int = 10
    iterations: int | None = None
    batch_size: int = 128
    optimizer: str = "sgd"
    learning_rate: float | None = None
    momentum: float = 0.9
    schedule: str = "one_cycle"
    weight_decay: float = 0.0
    max_norm: float | None = None
    max_gradient: float | None = None
    augment: Augmentation | None = None
    precision: str = "auto"
    keep: str = "last"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        for name in ("epochs", "iterations", "batch_size"):
            value = getattr(self, name)
            if value is None and name == "iterations":
                continue
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.learning_rate is not None:
            positive("learning_rate", self.learning_rate, "0.03 is the default of sgd")
        for name in ("max_norm", "max_gradient"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name), "None sets no limit")
        if real("weight_decay", self.weight_decay) < 0 or not math.isfinite(self.weight_decay):
            raise ValueError(f"weight_decay must be finite and at least 0, got {self.weight_decay}")
        if fraction("momentum", self.momentum, "0.9 is the default") == 1:
            raise ValueError("momentum must be below 1, got 1; 0.9 is the default")
        for field in fields(self):  # numpy's numbers as plain ones: a checkpoint holds no others
            value = getattr(self, field.name)
            if isinstance(value, Integral) and field.name in ("epochs", "iterations", "batch_size"):
                object.__setattr__(self, field.name, int(value))
            elif isinstance(value, Real):
                object.__setattr__(self, field.name, float(value))
        if self.augment is not None and not isinstance(self.augment, Augmentation):
            raise TypeError(
                f"augment must be made by kd.data.shift, crop or flip, got {self.augment!r}"
            )

    @property
    def peak_rate(self) -> float:
        """The highest learning rate of the training."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 0.03 if self.optimizer == "sgd" else 0.001

    def rate(self, progress: float) -> float:
        """The learning rate when this share of the training, in [0, 1), is done.

        Of ``plateau`` the peak: what validation makes of it is not known before.
        """
        if self.schedule in ("constant", "plateau"):
            return self.peak_rate
        if self.schedule == "wide_resnet":
            return self.peak_rate * 0.2 ** sum(progress >= share for share in (0.3, 0.6, 0.8))
        if self.schedule == "step":
            return self.peak_rate * 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
        if progress < 0.3:
            return self.peak_rate * (0.04 + 0.96 * _rise(progress / 0.3))
        return self.peak_rate * (1 - _rise((progress - 0.3) / 0.7))


@dataclass
class History:
    """What happened in a training.

    Attributes:
        frame: one row an epoch, counted from 1: epoch, step, seconds (training only), the mean of
            every term, ``weight_SoftTargets`` and the like where a weight is a function of progress
            (its value at the epoch's last step), validation_loss and validation_accuracy (nan without
            labelled validation, or where the objective does not train the logits).
        interrupted: whether it was stopped by hand before its end; the network is then as the
            last step left it, or with ``keep="best"`` as the best epoch did.
    """

    frame: pd.DataFrame
    interrupted: bool = False

    def __repr__(self) -> str:
        ended = "interrupted" if self.interrupted else "finished"
        return f"History({ended} after {len(self.frame)} epochs)\n{self.frame.tail(3)}"


@dataclass(frozen=True)
class Scores:
    """How good a network is on a split.

    Attributes:
        errors: how many samples it gets wrong.
        accuracy: the share it gets right, in [0, 1].
        loss: mean cross entropy with the labels, in nats, at T = 1.
        ece: expected calibration error in [0, 1]: the mean distance of confidence and accuracy
            over 15 equal bins of confidence, weighted by the samples in them.
    """

    errors: int
    accuracy: float
    loss: float
    ece: float

    @property
    def perplexity(self) -> float:
        """``exp(loss)``: as hard to guess as one of so many equally likely classes."""
        return math.exp(self.loss)


@dataclass(frozen=True)
class Fidelity:
    """How much a student answers as its teacher does.

    Attributes:
        agreement: the share of samples for which both name the same class, in [0, 1].
        divergence: the mean of KL(teacher || student) at T = 1, in nats.
    """

    agreement: float
    divergence: float


def fit(
    model: nn.Module,
    objective: Objective,
    data: Data,
    recipe: Recipe,
    *,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike | None = None,
    on_epoch: Callable[[dict], None] | None = None,
) -> History:
    """Train ``model`` in place on ``data.train``, on the data's device; it ends in eval mode.

    Args:
        model: the student, or a teacher: any network from inputs to logits ``(N, C)``.
        objective: what it is trained on.
        data: its test split is not looked at.
        recipe: how it is trained.
        seed: of the order, the views, the dropout and the objective's draws.
        progress: show a bar that leaves nothing behind.
        checkpoint: a file, written whole after every epoch; if it is there, training goes on from
            it to the very weights that it would have reached in one go (bit for bit on a CPU).
        on_epoch: called with each epoch's row after the checkpoint is written.

    Returns:
        The history, earlier rows included after a resume. Ctrl-C ends training early and is noted
        there.

    Warns:
        UserWarning: the checkpoint's weights replace others than those it began with.

    Raises:
        TypeError: an argument of another kind.
        ValueError: ``keep="best"`` without labelled validation, a checkpoint that is damaged or of
            another training, or whatever the objective refuses.
        FloatingPointError: the loss or the weights stopped being finite.

    >>> import kdlib as kd
    >>> data = kd.data.load("digits", device="cpu")
    >>> student = kd.models.mlp(30)
    >>> history = kd.fit(student, kd.CrossEntropy(), data, kd.Recipe(epochs=2), progress=False)
    >>> list(history.frame["epoch"]), history.interrupted
    ([1, 2], False)
    """
    _check_arguments(model, objective, data, recipe, seed)
    if recipe.learning_rate is None and not _asks_for_logits(objective):
        recipe = replace(recipe, learning_rate=_RATE_OF_FEATURES)
    split = data.train
    device = split.inputs.device
    with forked(), torch.enable_grad(), _autocast(device, None):
        reseed(key(seed, 0, "prepare"))
        model.to(device, _weights_dtype(recipe))
        saved = None if checkpoint is None else _Checkpoint(Path(checkpoint), model)
        objective.prepare(model, split, recipe)
        run = _Run(model, objective, data, recipe, seed)
        if saved is not None:
            saved.resume(run)
        interrupted = False
        try:
            with _bar(run.epochs, len(run.rows), progress) as advance:
                for epoch in range(len(run.rows) + 1, run.epochs + 1):
                    row = run.epoch(epoch)
                    if saved is not None:
                        saved.write(run)
                    advance(row)
                    if on_epoch is not None:
                        on_epoch(dict(row))
        except KeyboardInterrupt:
            interrupted = True
        finally:
            model.eval()
            begin_text(model, carry=False)
        run.finish()
    columns = None if run.rows else ["epoch", "step", "seconds", *_VALIDATION]
    return History(pd.DataFrame(run.rows, columns=columns), interrupted)


def evaluate(model: nn.Module | Sequence[nn.Module], split: Split) -> Scores:
    """Score a network, or several by the mean of their probabilities, at T = 1 in eval mode.

    Every module's mode is put back. A text is read whole, from left to right, as one row.

    Raises:
        TypeError: split is no Split.
        ValueError: it has no labels, or there is no model.

    >>> import kdlib as kd
    >>> scores = kd.evaluate(kd.models.mlp(30), kd.data.load("digits", device="cpu").test)
    >>> scores.errors == round((1 - scores.accuracy) * 360)
    True
    """
    _check_split(split)
    if split.labels is None:
        raise ValueError("split must have labels to be scored against, and it has none")
    losses, confidence, right = _by_part([_members("model", model)], split, _scored)
    errors = int((~right).sum())
    return Scores(
        errors=errors,
        accuracy=1 - errors / len(split),
        loss=losses.mean().item(),
        ece=_calibration_error(confidence, right),
    )


def fidelity(
    student: nn.Module | Sequence[nn.Module],
    teacher: nn.Module | Sequence[nn.Module],
    split: Split,
) -> Fidelity:
    """How much a student answers as its teacher does, right or wrong, at T = 1 in eval mode.

    Several networks answer by the mean of their probabilities. Needs no labels; every module's mode is
    put back. Source: Stanton et al. 2021, section 3.

    Raises:
        TypeError: split is no Split, or a network is none.
        ValueError: there is no network.

    >>> import kdlib as kd
    >>> same, test = kd.models.mlp(30), kd.data.load("digits", device="cpu").test
    >>> kd.fidelity(same, same, test)
    Fidelity(agreement=1.0, divergence=0.0)
    """
    _check_split(split)
    groups = [_members("student", student), _members("teacher", teacher)]
    agree, divergence = _by_part(groups, split, _compared)
    return Fidelity(int(agree.sum()) / len(split), divergence.mean().item())


def _check_split(split: Split) -> None:
    if not isinstance(split, Split):
        raise TypeError(
            f"split must be a Split such as data.test or data.validation, got {type(split).__name__}"
        )


def _members(name: str, model: nn.Module | Sequence[nn.Module]) -> list[nn.Module]:
    """A network, or several, as a list."""
    alone = isinstance(model, nn.Module) and not isinstance(model, nn.ModuleList)
    models = [model] if alone or not isinstance(model, Iterable) else list(model)
    if not models:
        raise ValueError(f"{name} must be a network or a list of at least one, got an empty list")
    for member in models:
        if not isinstance(member, nn.Module):
            raise TypeError(f"{name} must be a network or a list of networks, got {member!r}")
    return models


def _by_part(
    groups: Sequence[Sequence[nn.Module]], split: Split, summary: Callable[..., tuple[Tensor, ...]]
) -> list[Tensor]:
    """Numbers of each sample, of the log probabilities of groups of networks, a part at a time."""
    found, everyone = [], [model for group in groups for model in group]
    with evaluating(*everyone), reading(*everyone, in_order=split.in_order):
        for inputs, labels in split.parts(1000):
            # Once each, however often one is named: a recurrent network goes on with every call.
            said = {model: answers(model, inputs) for model in dict.fromkeys(everyone)}
            log_p = [_log_probabilities([said[m] for m in group], inputs) for group in groups]
            found.append(summary(*log_p, None if labels is None else labels.flatten()))
    return [torch.cat(column).cpu() for column in zip(*found, strict=True)]


def _log_probabilities(logits: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Of one network, or of the mean of several, ``(N, C)``."""
    members = [wide("logits", z).log_softmax(-1) for z in logits]
    mean = torch.stack(members).logsumexp(0) - math.log(len(members))
    return mean.flatten(0, -2).to(inputs.device)


def _scored(log_p: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    losses = cross_entropy(log_p, labels, reduction="none")
    confidence, predicted = log_p.exp().max(-1)
    return losses, confidence, predicted == labels


def _compared(log_q: Tensor, log_p: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    return log_q.argmax(-1) == log_p.argmax(-1), divergence


def keep(
    build: Callable[..., nn.Module],
    objective: Objective,
    data: Data,
    recipe: Recipe,
    seed: int = 0,
) -> nn.Module:
    """A trained network: the stored one if this very training was done before, else trained now.

    Stored in torch's cache folder under a hash of the network's start, the objective, the data, the
    recipe and the seed; says which it was. Of several processes that want the same network one
    trains it, and the others wait.

    Args:
        build: makes the network, from the seed (``lambda seed: kd.models.mlp(800, seed=seed)``, or
            any function with a parameter ``seed``) or from nothing.
        objective, data, recipe, seed: as for :func:`fit`.

    Raises:
        ValueError: the stored file is damaged.
        KeyboardInterrupt: training was stopped by hand; nothing is stored.
    """
    from filelock import FileLock

    check_seed(seed)
    with seeded(seed):
        model = _built(build, seed)
    _check_arguments(model, objective, data, recipe, seed)
    identity = _identity(model, objective, data, recipe, seed) | {"start": weights_hash(model)}
    name = hashlib.sha256(repr(sorted(identity.items())).encode()).hexdigest()[:16]
    path = Path(torch.hub.get_dir()) / "kdlib" / "kept" / f"{name}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                return _trained_and_stored(model, objective, data, recipe, seed, path)
    _load_kept(model.to(data.train.inputs.device, _weights_dtype(recipe)), path)
    print(f"loaded a network trained earlier ({path.stem})")
    return model.eval()


def _trained_and_stored(
    model: nn.Module, objective: Objective, data: Data, recipe: Recipe, seed: int, path: Path
) -> nn.Module:
    from safetensors.torch import save_model

    started = time.perf_counter()
    if fit(model, objective, data, recipe, seed=seed).interrupted:
        raise KeyboardInterrupt("training was interrupted; nothing is stored")
    metadata = {"weights": weights_hash(model)}
    write_whole(path, lambda part: save_model(model, str(part), metadata))
    print(f"trained in {time.perf_counter() - started:.0f} s and stored ({path.stem})")
    return model


class _Run:
    """One training under way: its weights, its optimizer and its rows."""

    def __init__(
        self, model: nn.Module, objective: Objective, data: Data, recipe: Recipe, seed: int
    ) -> None:
        self.model, self.objective, self.data = model, objective, data
        self.recipe, self.seed = recipe, seed
        self.device = data.train.inputs.device
        self.module = objective.module
        if self.module is not None:
            self.module.to(self.device, _weights_dtype(recipe))
        self.optimizer = _optimizer(recipe, self._trained().parameters(), self.device)
        self.autocast = autocast_dtype(recipe.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.autocast == torch.float16)
        self.steps = data.train.steps(recipe.batch_size)
        self.total = recipe.iterations or recipe.epochs * self.steps
        self.epochs = math.ceil(self.total / self.steps)
        self.rows: list[dict] = []
        self.best: dict[str, Tensor] | None = None

    def epoch(self, epoch: int) -> dict:
        started = time.perf_counter()
        self.rate_factor = self._rate_factor()
        self._trained().train()
        reseed(key(self.seed, epoch, "dropout"))
        draws = stream(self.seed, epoch, "objective", self.device)
        first = (epoch - 1) * self.steps
        steps = min(self.steps, self.total - first)
        sums: dict[str, Tensor] = {}
        batches = self.data.train.batches(
            self.recipe.batch_size,
            order=stream(self.seed, epoch, "order"),
            augment=self.recipe.augment,
            views=stream(self.seed, epoch, "views", self.device),
        )
        for step, samples in zip(range(first, first + steps), batches, strict=False):
            batch = Batch(*samples, step / self.total, draws, first=step == first)
            for name, term in self._step(batch).items():
                sums[name] = sums.get(name, 0) + term
        begin_text(self.model, carry=False)
        means = (torch.stack(list(sums.values())) / steps).tolist()  # waits for the device
        row = {"epoch": epoch, "step": first + steps, "seconds": time.perf_counter() - started}
        row |= dict(zip(sums, means, strict=True))
        row |= self.objective.weights if isinstance(self.objective, Sum) else {}
        row |= self._validation()
        self._check_finite(row, dict(zip(sums, means, strict=True)))
        self._note_best(row)
        self.rows.append(row)
        return row

    def _rate_factor(self) -> float:
        if self.recipe.schedule != "plateau":
            return 1.0
        losses = pd.Series([row["validation_loss"] for row in self.rows], dtype=float)
        return 0.25 ** int((losses >= losses.cummin().shift()).sum())

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        if batch.first:
            begin_text(self.model, carry=self.data.train.in_order)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate_factor * self.recipe.rate(batch.progress)
        self.optimizer.zero_grad(set_to_none=True)
        inputs = batch.inputs
        if inputs.is_floating_point():
            inputs = inputs.to(_weights_dtype(self.recipe))
        with _autocast(self.device, self.autocast):
            student = self._outputs(inputs)
        if student.logits is not None:
            self._check_classes(student.logits, batch)
        terms = self.objective(student, batch)
        self.scaler.scale(sum(terms.values())).backward()
        if self.recipe.max_gradient is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._trained().parameters(), self.recipe.max_gradient)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.recipe.max_norm is not None:
            _limit_norms(self.model, self.recipe.max_norm)
        return {name: term.detach() for name, term in terms.items()}

    def _outputs(self, inputs: Tensor) -> Outputs:
        names = taps_of(self.objective)
        if not names:
            return Outputs(self.model(inputs))
        features = reach(self.model, inputs, names)
        return Outputs(features.get(""), features)

    def _check_classes(self, logits: Tensor, batch: Batch) -> None:
        classes = len(self.data.classes)
        if logits.ndim < 2 or (batch.labels is not None and logits.shape[-1] < classes):
            raise ValueError(
                f"model must give logits (N, {classes}), one for each class of the data, "
                f"got shape {tuple(logits.shape)}"
            )

    def _validation(self) -> dict:
        split = self.data.validation
        if split is None or split.labels is None or not _asks_for_logits(self.objective):
            return dict.fromkeys(_VALIDATION, math.nan)
        scores = evaluate(self.model, split)
        return dict(zip(_VALIDATION, (scores.loss, scores.accuracy), strict=True))

    def _check_finite(self, row: dict, terms: dict[str, float]) -> None:
        labelled = self.data.validation is not None and self.data.validation.labels is not None
        if labelled and _asks_for_logits(self.objective):
            terms = terms | {"validation_loss": row["validation_loss"]}
        whole = [weights.isfinite().all() for weights in self._trained().parameters()]
        if all(math.isfinite(value) for value in terms.values()) and torch.stack(whole).all():
            return
        found = ", ".join(f"{name} = {value}" for name, value in terms.items())
        raise FloatingPointError(
            f"the loss or the weights stopped being finite in epoch {row['epoch']} ({found}); "
            f"learning_rate {self.recipe.peak_rate} may be too high: a tenth of it is a good next try"
        )

    def _note_best(self, row: dict) -> None:
        if self.recipe.keep != "best":
            return
        if row["validation_loss"] < min(
            (r["validation_loss"] for r in self.rows), default=math.inf
        ):
            self.best = {name: t.detach().clone() for name, t in self.model.state_dict().items()}

    def finish(self) -> None:
        if self.best is not None:
            self.model.load_state_dict(self.best)

    def identity(self) -> dict[str, str]:
        return _identity(self.model, self.objective, self.data, self.recipe, self.seed)

    def state(self) -> dict:
        return {
            "weights": self._trained().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rows": self.rows,
            "best": self.best,
        }

    def load(self, state: dict) -> None:
        self._trained().load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.rows, self.best = state["rows"], state["best"]

    def _trained(self) -> nn.ModuleList:
        return nn.ModuleList([self.model] if self.module is None else [self.model, self.module])


@contextmanager
def _bar(
    total: int, done: int, shown: bool, what: str = "epochs"
) -> Iterator[Callable[[dict], None]]:
    """A progress bar that is gone when it is done, from a saved notebook too."""
    if not shown:
        yield lambda row: None
        return
    from tqdm.auto import tqdm
    from tqdm.notebook import tqdm_notebook

    in_notebook = issubclass(tqdm, tqdm_notebook)
    options = {"display": False} if in_notebook else {}
    bar = tqdm(total=total, initial=done, desc=what, leave=False, **options)
    place = None
    if in_notebook:
        from IPython.display import display

        place = display(bar.container, display_id=True)
        bar.displayed = True

    def advance(row: dict) -> None:
        terms = {n: v for n, v in row.items() if n not in ("epoch", "step", "seconds")}
        bar.set_postfix({n: f"{v:.3g}" for n, v in terms.items() if not math.isnan(v)})
        bar.update()

    try:
        yield advance
    finally:
        bar.close()
        if place is not None:
            place.update({}, raw=True)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype of the matrix products, or None where they stay as the weights are.

    ``auto`` is bfloat16 where the hardware multiplies it natively (emulated it is slower than
    float32), float16 on GPUs that have only that, else float32.
    """
    if precision == "float16" and device.type != "cuda":
        raise ValueError(f'precision "float16" needs a CUDA GPU, got {device.type}; try "auto"')
    if precision == "float64" and device.type == "mps":
        raise ValueError('precision "float64" needs a CPU or a CUDA GPU, got mps; try "auto"')
    if precision in ("bfloat16", "float16"):
        return getattr(torch, precision)
    if precision != "auto":
        return None
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return torch.bfloat16 if major >= 8 else torch.float16 if major == 7 else None
    if device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return None


def _cpu_has_bfloat16() -> bool:
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if allowed not in ("", "ALL", "DEFAULT") and not any(
        name in allowed for name in ("BF16", "FP16", "AMX", "AVX10")
    ):
        return False
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _optimizer(recipe: Recipe, parameters, device: torch.device) -> torch.optim.Optimizer:
    shared = {
        "lr": recipe.peak_rate,
        "weight_decay": recipe.weight_decay,
        # One pass over the weights; and fused, a float16 scaler need not wait for the GPU.
        "fused": device.type in ("cuda", "cpu") or None,
    }
    if recipe.optimizer == "sgd":
        momentum = recipe.momentum
        return torch.optim.SGD(parameters, momentum=momentum, nesterov=momentum > 0, **shared)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, betas=(recipe.momentum, 0.999), **shared)


@torch.no_grad()
def _limit_norms(model: nn.Module, max_norm: float) -> None:
    """Shorten every trained unit's incoming weights to max_norm at most (Hinton et al. 2012)."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.weight.grad is not None:
            module.weight.copy_(torch.renorm(module.weight, p=2, dim=0, maxnorm=max_norm))


def _rise(x: float) -> float:
    return (1 - math.cos(math.pi * x)) / 2


def _calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    place = (confidence * bins).long().clamp(0, bins - 1)  # nan falls into some bin and stays nan
    gap = torch.zeros(bins, dtype=torch.float64)
    gap.index_add_(0, place, right.double() - confidence.double())
    return gap.abs().sum().item() / len(right)


def _check_arguments(
    model: nn.Module, objective: Objective, data: Data, recipe: Recipe, seed: int
) -> None:
    for name, value, kind in (
        ("model", model, nn.Module),
        ("data", data, Data),
        ("recipe", recipe, Recipe),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")
    if isinstance(objective, type) or not hasattr(objective, "prepare"):
        raise TypeError(
            f"objective must be one such as kd.CrossEntropy() or kd.SoftTargets(...), got {objective!r}"
        )
    check_seed(seed)
    watched = {
        'keep="best"': recipe.keep == "best",
        'schedule="plateau"': recipe.schedule == "plateau",
    }
    for name, wanted in watched.items():
        if wanted and (data.validation is None or data.validation.labels is None):
            raise ValueError(
                f"{name} needs a labelled validation split; load the data with validation=... or take "
                'keep="last" and another schedule'
            )
        if wanted and not _asks_for_logits(objective):
            raise ValueError(
                f"{name} needs an objective that trains the logits, and this one ends at "
                f'{list(taps_of(objective))}; take keep="last" and another schedule'
            )


def _asks_for_logits(objective: Objective) -> bool:
    names = taps_of(objective)
    return not names or "" in names


def _identity(
    model: nn.Module, objective: Objective, data: Data, recipe: Recipe, seed: int
) -> dict[str, str]:
    """What tells one training from another."""
    shapes = [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
    frozen = [name for name, weights in model.named_parameters() if not weights.requires_grad]
    return {
        "network": hashlib.sha256(f"{model!r} {shapes}".encode()).hexdigest()[:16],
        "objective": objective.key,
        "data": data.fingerprint(),
        "recipe": _recipe_text(recipe),
        "seed": str(seed),
    } | ({"frozen": repr(frozen)} if frozen else {})


def _recipe_text(recipe: Recipe) -> str:
    return repr({name: str(value) for name, value in changed(recipe).items()})


def changed(what: Any) -> dict[str, Any]:
    """A dataclass's fields that differ from their defaults, so that a new one leaves old texts valid."""
    values = ((field, getattr(what, field.name)) for field in fields(what))
    return {field.name: value for field, value in values if value != field.default}


def _built(build: Callable[..., nn.Module], seed: int) -> nn.Module:
    import inspect

    parameters = inspect.signature(build).parameters
    if "seed" in parameters:
        return build(seed=seed)
    required = [
        p for p in parameters.values() if p.default is p.empty and p.kind < p.VAR_POSITIONAL
    ]
    return build(seed) if required else build()


def _load_kept(model: nn.Module, path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_model

    try:
        with safe_open(path, "pt") as file:
            expected = file.metadata()["weights"]
        load_model(model, path)
    except Exception as error:  # a damaged file fails in many ways in there
        raise ValueError(f"{path} is damaged ({error}); delete it and it is made anew") from error
    if weights_hash(model) != expected:
        raise ValueError(f"{path} is damaged (its weights changed); delete it and it is made anew")


class _Checkpoint:
    """A training on disk: what it is, what it began with, and where it stands."""

    def __init__(self, path: Path, model: nn.Module) -> None:
        self.path = path
        self.start = weights_hash(model)
        self.identity: dict[str, str] = {}

    def write(self, run: _Run) -> None:
        state = {"identity": self.identity, "start": self.start} | run.state()
        write_whole(self.path, lambda part: torch.save(state, part))

    def resume(self, run: _Run) -> None:
        self.identity = run.identity()
        if self.path.is_dir():
            raise ValueError(f"checkpoint must be a file, and {self.path} is a folder")
        if not self.path.exists():
            return
        state = self._read()
        for name, value in self.identity.items():
            if state["identity"].get(name) != value:
                raise ValueError(
                    f"checkpoint {self.path} belongs to another training: its {name} is "
                    f"{state['identity'].get(name)}, here it is {value}; choose another file or "
                    "delete it"
                )
        if self.start != state["start"]:
            warnings.warn(
                f"the network's weights are replaced by those of {self.path.name}, which began with "
                "other ones; if this is another network, choose another checkpoint",
                stacklevel=3,
            )
        self.start = state["start"]
        run.load(state)

    def _read(self) -> dict:
        refusal = f"checkpoint {self.path} is damaged or none of fit's; delete it to start anew"
        try:
            with zipfile.ZipFile(self.path) as file:
                if file.testzip() is not None:  # torch.load checks no sums
                    raise ValueError(refusal)
            state = torch.load(self.path, weights_only=True, map_location="cpu")
        except Exception as error:  # a damaged file fails in many ways in there
            raise ValueError(refusal) from error
        if not isinstance(state, dict) or "identity" not in state:
            raise ValueError(refusal)
        return state


def _autocast(device: torch.device, dtype: torch.dtype | None):
    """Matrix products in dtype; None leaves them as the weights are, whatever the caller set."""
    if dtype is None and device.type == "mps":
        return nullcontext()  # older torch knows no autocast there
    # Cast weights are cached until the outermost autocast ends, which would hide every step but one.
    return torch.autocast(device.type, dtype, enabled=dtype is not None, cache_enabled=False)


def _weights_dtype(recipe: Recipe) -> torch.dtype:
    return torch.float64 if recipe.precision == "float64" else torch.float32
