"""The parts of a training step, shared by ``fit`` and ``fit_cohort``: optimizer, precision, limits.

Nothing here knows a particular loss.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from kdlib.data.splits import Data
from kdlib.networks import plain
from kdlib.objectives.base import Batch
from kdlib.recipe import Recipe

__all__ = [
    "Stepper",
    "autocast",
    "autocast_dtype",
    "check_limit",
    "held",
    "limit_norms",
    "not_finite",
    "run_epoch",
    "trains",
    "weights_dtype",
]


class Stepper:
    """Trains the parameters of one module, one step at a time.

    Args:
        trained: the module; a student, with its regressors, or a stack of students.
        recipe: its optimizer, precision and limit of the gradient are used.
        device: where it trains.
    """

    def __init__(self, trained: nn.Module, recipe: Recipe, device: torch.device) -> None:
        self.trained, self.recipe, self.device = trained, recipe, device
        self.optimizer = _optimizer(recipe, trained.parameters(), device)
        self.products = autocast_dtype(recipe.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.products == torch.float16)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Clear old gradients; inside, the student's products have the recipe's precision."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.products):
            yield

    def descend(self, terms: dict[str, Tensor], rate: float) -> dict[str, Tensor]:
        """Step down the sum of all terms, numbers or one per student; return them detached."""
        # A scalar. A cohort's students are summed, too: their gradients do not mix.
        total = sum(terms.values()).sum()
        if not total.requires_grad:
            raise ValueError(
                f"the objective's terms ({', '.join(terms)}) must depend on the student's trained parameters, "
                "but none does; is there a detach() or a no_grad() on the way, or is that part frozen?"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scaler.scale(total).backward()
        if self.recipe.max_gradient is not None:
            self.scaler.unscale_(self.optimizer)  # the limit is for the true gradient
            nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.max_gradient)
        # With a float16 scaler, a step whose gradients overflowed is left out.
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {name: term.detach() for name, term in terms.items()}


def run_epoch(
    batches: Iterable[Batch], step: Callable[[Batch], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Take a step on each batch; return every term's mean, still on the device."""
    # Tensors: reading a number out would make the host wait for the GPU in every step.
    sums: dict[str, Tensor] = {}
    count = 0
    for batch in batches:
        count += 1
        for name, term in step(batch).items():
            sums[name] = sums.get(name, 0) + term
    return {name: total / count for name, total in sums.items()}


def held(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that the caller froze: in eval mode, with parameters of which none trains."""
    return {
        name: module
        for name, module in model.named_modules()
        if not module.training and any(True for _ in module.parameters()) and not trains(module)
    }


def trains(model: nn.Module) -> bool:
    return any(weights.requires_grad for weights in model.parameters())


def not_finite(
    what: str, epoch: int, recipe: Recipe, data: Data, found: str = "", views: str = ""
) -> FloatingPointError:
    """The error to raise when training has diverged, or when the data could not be trained on."""
    cause = not_finite_inputs(data) or views
    if not cause:
        cause = (
            f"learning_rate {recipe.peak_rate} may be too high: a tenth of it is a good next try"
        )
    return FloatingPointError(
        f"{what} stopped being finite in epoch {epoch}{found and f' ({found})'}; {cause}"
    )


def not_finite_inputs(data: Data) -> str:
    """The first sample that a network cannot learn from, in words; empty if all are finite."""
    for part in ("train", "validation"):
        split = getattr(data, part)
        if split is None or not split.inputs.is_floating_point():
            continue
        first = 0
        for inputs in split.inputs.split(split.at_once()):
            bad = ~inputs.isfinite().flatten(1).all(1)  # (N,)
            if bad.any():
                row = first + int(bad.int().argmax())
                index = int(split.index[row])
                return f"row {row} of the {part} inputs (index {index}) holds NaN or infinity"
            first += len(inputs)
    return ""


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LIMITED = {  # the weights into units, by layer
    (nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED): ("weight",),
    (nn.MultiheadAttention,): (
        "in_proj_weight",
        "q_proj_weight",
        "k_proj_weight",
        "v_proj_weight",
    ),
}
_UNLIMITED = {
    (nn.RNNBase, nn.RNNCellBase): "which is recurrent: several rows of weights lead into a unit",
    (torch.jit.ScriptModule,): "which is TorchScript",
}


def _into_units(layer: nn.Module) -> dict[str, Tensor | None]:
    """The weights into the layer's units by name, None where the layer has no such parameter."""
    # Looked up, not read: to read a weight under spectral_norm in train mode changes it.
    own = vars(layer)["_parameters"]
    names = [
        name for kinds, names in _LIMITED.items() if isinstance(layer, kinds) for name in names
    ]
    return {name: own.get(name) for name in names}


def check_limit(model: nn.Module) -> None:
    """Refuse the layers for which :func:`limit_norms` could not keep a limit."""
    for name, layer in plain(model).named_modules():
        why = [reason for kinds, reason in _UNLIMITED.items() if isinstance(layer, kinds)]
        if not why and not vars(layer)["_parameters"].keys() >= _into_units(layer).keys():
            why.append(
                "whose weight is computed from other parameters (weight_norm, spectral_norm, pruning "
                "and the like)"
            )
        if why and trains(layer):
            kind = getattr(layer, "original_name", type(layer).__name__)
            raise ValueError(
                f"max_norm cannot hold for the layer {name!r} ({kind}), {why[0]}; None sets no limit"
            )


@torch.no_grad()
def limit_norms(model: nn.Module, max_norm: float) -> None:
    """Shorten every trained unit's incoming weights to max_norm at most (Hinton et al. 2012)."""
    for layer in model.modules():
        # Units are dimension 0, in a transposed convolution dimension 1 of each group; all other
        # dimensions count as one row.
        transposed = isinstance(layer, _TRANSPOSED)
        for weight in _into_units(layer).values():
            if weight is None or weight.grad is None:
                continue
            for part in weight.chunk(layer.groups) if transposed else [weight]:
                part.copy_(torch.renorm(part, p=2, dim=int(transposed), maxnorm=max_norm))


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype of the matrix products, or None for that of the weights.

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
    # oneDNN, which computes the products, can be held to an older instruction set.
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
        # Fused: one pass over the weights, and a float16 scaler need not wait for the GPU.
        "fused": device.type in ("cuda", "cpu") or None,
    }
    if recipe.optimizer == "sgd":
        momentum = recipe.momentum
        return torch.optim.SGD(parameters, momentum=momentum, nesterov=momentum > 0, **shared)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, betas=(recipe.momentum, 0.999), **shared)


def autocast(device: torch.device, dtype: torch.dtype | None):
    """Compute matrix products in dtype, or as the weights are if None, whatever the caller set."""
    if dtype is None and device.type == "mps":
        return nullcontext()  # older versions of torch have no autocast there
    # A cache would keep the first step's weights until the outermost autocast ends.
    return torch.autocast(device.type, dtype, enabled=dtype is not None, cache_enabled=False)


def weights_dtype(recipe: Recipe) -> torch.dtype:
    return torch.float64 if recipe.precision == "float64" else torch.float32
