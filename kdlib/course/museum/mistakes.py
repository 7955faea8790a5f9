"""Real bugs of distillation code, each beside its right twin: for the tests, the grader, the museum.

A wrong twin takes what the right one takes and gives the same kind of result, so that either can be
put in the other's place. Networks come as they are born, in train mode: what forgets ``eval()`` is
only wrong there. The right twins are kdlib's own functions, or a few lines around them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib.data import Augmentation, Data, Split
from kdlib.losses import (
    cross_entropy,
    cwtm_loss,
    cwtm_weights,
    dkpp_loss,
    fsp_loss,
    fsp_matrix,
    hint_loss,
    hinton_loss,
    permute_dark_knowledge,
    soft_target_loss,
    soften,
)
from kdlib.networks import logits
from kdlib.objectives import CrossEntropy, Objective, SoftTargets
from kdlib.seeding import stream
from kdlib.training import History, Recipe, evaluate, fit

__all__ = ["MISTAKES", "Mistake"]


@dataclass(frozen=True)
class Mistake:
    """A bug and its cure.

    Attributes:
        name: short, in snake_case.
        right: does it well.
        wrong: called exactly as ``right``, and wrong.
        symptom: what one sees.
        source: where it was seen; a project only where its own public issue tells of it.
    """

    name: str
    right: Callable
    wrong: Callable
    symptom: str
    source: str


# The soft-target loss


def soft_term(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return soft_target_loss(student, teacher, temperature)


def kl_averaged_over_classes(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_q = F.log_softmax(student / temperature, dim=-1)
    p = F.softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, p)  # by default the mean over batch and classes


def t_squared_forgotten(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_q = F.log_softmax(student / temperature, dim=-1)
    p = F.softmax(teacher / temperature, dim=-1)
    return F.kl_div(log_q, p, reduction="batchmean")


def mse_of_probabilities(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    q = F.softmax(student / temperature, dim=-1)
    p = F.softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.mse_loss(q, p)


def temperature_on_one_side(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_q = F.log_softmax(student / temperature, dim=-1)
    p = F.softmax(teacher, dim=-1)
    return temperature**2 * F.kl_div(log_q, p, reduction="batchmean")


def probabilities_as_kl_input(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    q = F.softmax(student / temperature, dim=-1)
    p = F.softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(q, p, reduction="batchmean")


def log_probabilities_as_kl_target(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_q = F.log_softmax(student / temperature, dim=-1)
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean")


def thresholded_targets(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The twin of :func:`kdlib.losses.soften`, on a tensor that was exported as "predictions"."""
    return F.softmax((logits > 0).float() / temperature, dim=-1)


# Both terms, and the labels


def both_terms(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    return hinton_loss(student, teacher, labels, temperature, alpha)


def t_squared_on_one_path(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    log_q = F.log_softmax(student / temperature, dim=-1)
    soft = F.kl_div(log_q, F.softmax(teacher / temperature, dim=-1), reduction="batchmean")
    if alpha == 1:
        return soft
    return alpha * temperature**2 * soft + (1 - alpha) * F.cross_entropy(student, labels)


def both_sides_are_the_teacher(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    soft = soft_target_loss(teacher, teacher, temperature)
    return alpha * soft + (1 - alpha) * cross_entropy(student, labels)


def alpha_reversed(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    soft = soft_target_loss(student, teacher, temperature)
    return alpha * cross_entropy(student, labels) + (1 - alpha) * soft


def hard_term(student: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(student, labels)


def softmax_before_cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.softmax(student, dim=-1), labels)


def loss_of_the_teacher(teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """What a teacher is trained on: T = 1, whatever temperature its targets will have later."""
    return cross_entropy(teacher, labels)


def teacher_trained_at_temperature(teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    return cross_entropy(teacher / temperature, labels)


# The state of networks


def logits_of_the_teacher(teacher: nn.Module, inputs: Tensor) -> Tensor:
    return logits(teacher, inputs)


def teacher_in_train_mode(teacher: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():  # stops gradients, neither dropout nor BatchNorm's statistics
        return teacher(inputs)


def feature_shape(network: nn.Module, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(logits(network, torch.zeros(1, *image_shape)).shape[1:])


def shape_probe_in_train_mode(network: nn.Module, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    noise = torch.randn(1, *image_shape, device=next(network.parameters()).device)
    with torch.no_grad():
        return tuple(network(noise).shape[1:])


def count_errors(model: nn.Module, inputs: Tensor, labels: Tensor) -> int:
    rows = torch.arange(len(inputs), device=inputs.device)
    return evaluate(model, Split(inputs, labels, rows)).errors


def evaluated_in_train_mode(model: nn.Module, inputs: Tensor, labels: Tensor) -> int:
    with torch.no_grad():
        return int((model(inputs).argmax(-1) != labels).sum())


def distillation_step(
    student: nn.Module, teacher: nn.Module, inputs: Tensor, labels: Tensor
) -> float:
    """One step of the student on soft targets; the loss before it."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    loss = hinton_loss(student(inputs), logits(teacher, inputs), labels, temperature=4, alpha=0.9)
    _step(optimizer, loss)
    return loss.item()


def roles_swapped(student: nn.Module, teacher: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    return distillation_step(student=teacher, teacher=student, inputs=inputs, labels=labels)


def modes_in_training(model: nn.Module, inputs: Tensor, labels: Tensor, epochs: int) -> list[bool]:
    """Train for a step an epoch, with an evaluation after each; whether each began in train mode."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    modes = []
    for _ in range(epochs):
        model.train()
        modes.append(model.training)
        _step(optimizer, cross_entropy(model(inputs), labels))
        count_errors(model, inputs, labels)
    return modes


def frozen_by_its_evaluation(
    model: nn.Module, inputs: Tensor, labels: Tensor, epochs: int
) -> list[bool]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    modes = []
    model.train()
    for _ in range(epochs):
        modes.append(model.training)
        _step(optimizer, cross_entropy(model(inputs), labels))
        model.eval()
        with torch.no_grad():
            model(inputs)
    return modes


# Cached targets


def targets_by_index(teacher: nn.Module, split: Split, seed: int) -> list[tuple[Tensor, Tensor]]:
    """The second epoch's batches: inputs, and the teacher's logits from a table made before."""
    table = _logits_by_index(teacher, split)
    return [(inputs, table[index]) for inputs, _, index in _batches(split, seed, epoch=2)]


def targets_by_position(teacher: nn.Module, split: Split, seed: int) -> list[tuple[Tensor, Tensor]]:
    cached = [logits(teacher, inputs) for inputs, _, _ in _batches(split, seed, epoch=1)]
    return [(inputs, cached[i]) for i, (inputs, _, _) in enumerate(_batches(split, seed, epoch=2))]


def targets_of_the_view(
    teacher: nn.Module, split: Split, augment: Augmentation, seed: int
) -> list[tuple[Tensor, Tensor]]:
    """An epoch's batches: random views, and the teacher's logits for them."""
    batches = _batches(split, seed, epoch=1, augment=augment)
    return [(views, logits(teacher, views)) for views, _, _ in batches]


def cached_despite_augmentation(
    teacher: nn.Module, split: Split, augment: Augmentation, seed: int
) -> list[tuple[Tensor, Tensor]]:
    table = _logits_by_index(teacher, split)
    batches = _batches(split, seed, epoch=1, augment=augment)
    return [(views, table[index]) for views, _, index in batches]


# Hints


def hint_step(guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor) -> float:
    """One step of the student up to its guided layer, and of the regressor; the loss before it."""
    trained = [*guided.parameters(), *regressor.parameters()]
    loss = hint_loss(regressor(guided(inputs)), hint)
    _step(torch.optim.SGD(trained, lr=0.01), loss)
    return loss.item()


def regressor_not_in_the_optimizer(
    guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor
) -> float:
    loss = hint_loss(regressor(guided(inputs)), hint)
    _step(torch.optim.SGD(guided.parameters(), lr=0.01), loss)
    return loss.item()


def no_regressor(guided: nn.Module, regressor: nn.Module, inputs: Tensor, hint: Tensor) -> float:
    loss = hint_loss(guided(inputs), hint)
    _step(torch.optim.SGD(guided.parameters(), lr=0.01), loss)
    return loss.item()


def hint_loss_reached(guided: nn.Module, hint: nn.Module, inputs: Tensor, steps: int) -> float:
    """Train the student's guided layer and a regressor on a teacher's hint, both layers flat."""
    target = logits(hint, inputs)
    regressor = nn.Linear(guided(inputs).shape[1], target.shape[1])
    optimizer = torch.optim.SGD([*guided.parameters(), *regressor.parameters()], lr=0.05)
    for _ in range(steps):
        loss = hint_loss(regressor(guided(inputs)), target)
        _step(optimizer, loss)
    return loss.item()


def regressor_on_the_teachers_side(
    guided: nn.Module, hint: nn.Module, inputs: Tensor, steps: int
) -> float:
    features = logits(hint, inputs)
    regressor = nn.Linear(features.shape[1], guided(inputs).shape[1])
    optimizer = torch.optim.SGD([*guided.parameters(), *regressor.parameters()], lr=0.05)
    for _ in range(steps):  # both sides can go to zero
        loss = (guided(inputs) - regressor(features)).square().sum(-1).mean() / 2
        _step(optimizer, loss)
    return loss.item()


def hint_term(guided: Tensor, hint: Tensor) -> Tensor:
    return hint_loss(guided, hint)


def hint_trains_the_teacher(guided: Tensor, hint: Tensor) -> Tensor:
    return (guided - hint).square().flatten(1).sum(-1).mean() / 2


# FSP matrices

Maps = Sequence[tuple[Tensor, Tensor]]  # of the two layers of each pair, (N, C, H, W)


def fsp_term(student: Maps, teacher: Maps) -> Tensor:
    return fsp_loss(
        [fsp_matrix(*pair) for pair in student], [fsp_matrix(*pair) for pair in teacher]
    )


def stacked_matrices(student: Maps, teacher: Maps) -> Tensor:
    return torch.stack(_differences(student, teacher)).square().sum((0, 2, 3)).mean()


def column_norms_not_squared(student: Maps, teacher: Maps) -> Tensor:
    return sum(d.norm(dim=1).sum(-1).mean() for d in _differences(student, teacher))


def distance_of_the_whole_batch(student: Maps, teacher: Maps) -> Tensor:
    return sum(d.norm() for d in _differences(student, teacher))


def batch_divided_twice(student: Maps, teacher: Maps) -> Tensor:
    return sum((d / len(d)).square().sum() for d in _differences(student, teacher))


def adapters_dropped_afterwards(student: Maps, teacher: Maps) -> Tensor:
    adapted = [tuple(_adapter(x.shape[1])(x) for x in pair) for pair in student]
    return fsp_term(adapted, teacher)  # it trains the adapters too; here they are as born


def average_pool(first: Tensor, second: Tensor) -> Tensor:
    f1, f2 = _at_one_size(first, second, F.adaptive_avg_pool2d)
    return f1 @ f2.mT / f1.shape[2]


def broadcast_product(first: Tensor, second: Tensor) -> Tensor:
    f1, f2 = _at_one_size(first, second, F.adaptive_max_pool2d)
    return (f1[:, :, None] * f2[:, None]).mean(3)  # of (N, C1, C2, H * W)


def weighted_fsp(
    student: Sequence[Tensor], teacher: Sequence[Tensor], weights: Sequence[float]
) -> Tensor:
    """The FSP loss of matrices, pair by pair."""
    return fsp_loss(student, teacher, weights)


def weights_without_effect(
    student: Sequence[Tensor], teacher: Sequence[Tensor], weights: Sequence[float]
) -> Tensor:
    return fsp_loss(student, teacher)


def total_and_terms(
    student: Tensor, teacher: Tensor, labels: Tensor, fsp: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """What is minimised, and what is logged, of logits and an FSP loss."""
    soft = soft_target_loss(student, teacher, temperature=4)
    terms = {"fsp": fsp, "labels": cross_entropy(student, labels), "soft": soft}
    return sum(terms.values()), terms


def logged_but_not_added(
    student: Tensor, teacher: Tensor, labels: Tensor, fsp: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    terms = {"fsp": fsp, "labels": cross_entropy(student, labels)}
    total = sum(terms.values())
    terms["soft"] = soft_target_loss(student, teacher, temperature=4)
    return total, terms


# Two stages


def first_stage(student: nn.Module, features: Objective, data: Data, recipe: Recipe) -> History:
    """Train the student on its features alone: a Hint or FSP."""
    return fit(student, features, data, recipe, progress=False)


def hints_trained_jointly(
    student: nn.Module, features: Objective, data: Data, recipe: Recipe
) -> History:
    return fit(student, CrossEntropy() + features, data, recipe, progress=False)


def classifier_decays(
    student: nn.Module, features: Objective, data: Data, recipe: Recipe
) -> History:
    # A gradient of zero is a gradient: the optimizer of all weights takes its decay off them.
    return fit(student, 0.0 * CrossEntropy() + features, data, recipe, progress=False)


def both_stages(
    student: nn.Module, losses: Sequence[Callable[[nn.Module], Tensor]], steps: int
) -> None:
    """Train on one loss after the other, so many steps on each."""
    for loss in losses:
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
        for _ in range(steps):
            _step(optimizer, loss(student))


def momentum_kept(
    student: nn.Module, losses: Sequence[Callable[[nn.Module], Tensor]], steps: int
) -> None:
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    for loss in losses:
        for _ in range(steps):
            _step(optimizer, loss(student))


def taught_and_alone(
    build: Callable[[], nn.Module], features: Objective, data: Data, epochs: tuple[int, int]
) -> tuple[nn.Module, nn.Module]:
    """A student of two stages, on features and on labels, and its baseline, on labels alone."""
    taught, alone = build(), build()
    for objective, stage in zip((features, CrossEntropy()), epochs, strict=True):
        fit(taught, objective, data, Recipe(epochs=stage), progress=False)
    fit(alone, CrossEntropy(), data, Recipe(epochs=sum(epochs)), progress=False)
    return taught, alone


def epochs_the_baseline_does_not_get(
    build: Callable[[], nn.Module], features: Objective, data: Data, epochs: tuple[int, int]
) -> tuple[nn.Module, nn.Module]:
    taught, alone = build(), build()
    for objective, stage in zip((features, CrossEntropy()), epochs, strict=True):
        fit(taught, objective, data, Recipe(epochs=stage), progress=False)
    fit(alone, CrossEntropy(), data, Recipe(epochs=epochs[1]), progress=False)
    return taught, alone


# Born again


def next_generation(
    student: nn.Module, teacher: nn.Module, data: Data, recipe: Recipe
) -> nn.Module:
    """The student, taught by the generation before and by nothing else."""
    fit(student, SoftTargets(teacher, temperature=1, alpha=1), data, recipe, progress=False)
    return student


def taught_by_itself(
    student: nn.Module, teacher: nn.Module, data: Data, recipe: Recipe
) -> nn.Module:
    fit(student, SoftTargets(student, temperature=1, alpha=1), data, recipe, progress=False)
    return student


def handed_on(student: nn.Module, best: dict, initial: dict) -> tuple[nn.Module, nn.Module]:
    """The next teacher, with the best weights of this generation, and a student with initial ones."""
    teacher = copy.deepcopy(student)
    teacher.load_state_dict(best)
    student.load_state_dict(initial)
    return teacher, student


def teacher_and_student_are_one(
    student: nn.Module, best: dict, initial: dict
) -> tuple[nn.Module, nn.Module]:
    teacher = student  # a name, not a copy
    teacher.load_state_dict(best)
    student.load_state_dict(initial)
    return teacher, student


def generations(
    build: Callable[[int], nn.Module], data: Data, recipe: Recipe, count: int
) -> list[nn.Module]:
    """A network taught by labels, built of seed 0, and so many that each learn from the one before."""
    nets = [build(0)]
    fit(nets[0], CrossEntropy(), data, recipe, progress=False)
    for seed in range(1, count + 1):
        nets.append(next_generation(build(seed), nets[-1], data, recipe))
    return nets


def every_generation_begins_alike(
    build: Callable[[int], nn.Module], data: Data, recipe: Recipe, count: int
) -> list[nn.Module]:
    return generations(lambda seed: build(0), data, recipe, count)


def next_teacher(candidates: Sequence[nn.Module], data: Data) -> nn.Module:
    """Of a generation's checkpoints the one that teaches the next."""
    return min(candidates, key=lambda net: evaluate(net, data.validation).loss)


def teacher_chosen_by_test(candidates: Sequence[nn.Module], data: Data) -> nn.Module:
    return min(candidates, key=lambda net: evaluate(net, data.test).loss)


def confidence_not_as_shares(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    surest = F.softmax(teacher, dim=-1).amax(-1)  # (N,), not over their sum
    return (surest * F.cross_entropy(student, labels, reduction="none")).sum()


def shares_averaged_again(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    losses = F.cross_entropy(student, labels, reduction="none")
    return (cwtm_weights(teacher) * losses).mean()


def gradient_of_another_function(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return _BackwardByHand.apply(student, teacher, labels)


class _BackwardByHand(torch.autograd.Function):
    @staticmethod
    def forward(context, student, teacher, labels):
        context.save_for_backward(student, labels)
        return cwtm_loss(student, teacher, labels)

    @staticmethod
    def backward(context, factor):  # which is not used either
        student, labels = context.saved_tensors
        y = F.one_hot(labels, student.shape[-1])
        return (F.softmax(student, dim=-1) - y) / len(student), None, None


def samples_permuted(teacher: Tensor, generator: torch.Generator) -> Tensor:
    return teacher[torch.randperm(len(teacher), generator=generator)]


def largest_added_to_all(teacher: Tensor, generator: torch.Generator) -> Tensor:
    largest, place = teacher.max(-1, keepdim=True)
    rest = permute_dark_knowledge(teacher, generator).scatter(-1, place, 0.0)
    return rest + largest  # by broadcasting


def permuted_in_place(teacher: Tensor, generator: torch.Generator) -> Tensor:
    return teacher.copy_(permute_dark_knowledge(teacher, generator))


def permuted_targets(teacher: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """What DKPP's student is shown of a batch: the labels change nothing."""
    return permute_dark_knowledge(teacher, generator)


def label_kept_in_place(teacher: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    place = labels.unsqueeze(-1)
    lifted = permute_dark_knowledge(teacher.scatter(-1, place, math.inf), generator)
    return lifted.scatter(-1, place, teacher.gather(-1, place))


def raw_logits_as_targets(student: Tensor, teacher: Tensor, generator: torch.Generator) -> Tensor:
    targets = permute_dark_knowledge(teacher, generator)
    return -(targets * F.log_softmax(student, dim=-1)).sum(-1).mean()


# Ensembles

Loader = Iterable[tuple[Tensor, Tensor]]  # inputs and labels, batch by batch


def accuracy_together(nets: Sequence[nn.Module], loader: Loader) -> float:
    """Of the mean of their probabilities, whatever the loader's batches and order."""
    inputs, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    return evaluate(nets, Split(inputs, labels, torch.arange(len(labels)))).accuracy


def logits_averaged(nets: Sequence[nn.Module], loader: Loader) -> float:
    inputs, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    mean = torch.stack([logits(net, inputs) for net in nets]).mean(0)
    return (mean.argmax(-1) == labels).double().mean().item()


def divided_by_batches(nets: Sequence[nn.Module], loader: Loader) -> float:
    right = [(_mean_probability(nets, inputs).argmax(-1) == y).sum() for inputs, y in loader]
    return float(sum(right)) / len(right)


def outputs_by_batch(nets: Sequence[nn.Module], loader: Loader) -> float:
    cached = [[soften(logits(net, inputs)) for inputs, _ in loader] for net in nets]
    means = [torch.stack(batch).mean(0) for batch in zip(*cached, strict=True)]
    right = [mean.argmax(-1) == labels for mean, (_, labels) in zip(means, loader, strict=True)]
    return torch.cat(right).double().mean().item()


def by_generation(found: Sequence[Path]) -> list[Path]:
    """Files such as ``generation_2.pt``, as a folder gives them, in the order of their training."""
    return sorted(found, key=lambda path: int(path.stem.rpartition("_")[2]))


def as_the_folder_gives_them(found: Sequence[Path]) -> list[Path]:
    return list(found)


# The choice of an epoch


def chosen_by_validation(
    validation_errors: Sequence[int], test_errors: Sequence[int]
) -> tuple[int, int]:
    """The chosen epoch, counted from 1, and the test errors to report."""
    best = min(range(len(validation_errors)), key=lambda epoch: validation_errors[epoch])
    return best + 1, test_errors[best]


def chosen_by_test(validation_errors: Sequence[int], test_errors: Sequence[int]) -> tuple[int, int]:
    best = min(range(len(test_errors)), key=lambda epoch: test_errors[epoch])
    return best + 1, test_errors[best]


def epoch_kept(accuracies: Sequence[float]) -> int:
    """The epoch, counted from 1, whose weights are in the file of the best at the end."""
    best, kept = -math.inf, 0
    for epoch, accuracy in enumerate(accuracies, start=1):
        if accuracy > best:
            best, kept = accuracy, epoch
    return kept


def best_never_updated(accuracies: Sequence[float]) -> int:
    best, kept = -math.inf, 0
    for epoch, accuracy in enumerate(accuracies, start=1):
        if accuracy > best:
            kept = epoch
    return kept


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _differences(student: Maps, teacher: Maps) -> list[Tensor]:
    pairs = zip(student, teacher, strict=True)
    return [fsp_matrix(*s) - fsp_matrix(*t).detach() for s, t in pairs]  # (N, C1, C2) each


def _mean_probability(nets: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    return torch.stack([soften(logits(net, inputs)) for net in nets]).mean(0)


def _adapter(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))


def _at_one_size(first: Tensor, second: Tensor, pool: Callable) -> tuple[Tensor, Tensor]:
    size = min(first.shape[2:], second.shape[2:])
    f1, f2 = (x if x.shape[2:] == size else pool(x, size) for x in (first, second))
    return f1.flatten(2), f2.flatten(2)  # (N, C, H * W)


def _batches(split: Split, seed: int, epoch: int, augment: Augmentation | None = None) -> Iterator:
    views = stream(seed, epoch, "views", split.device)
    return split.batches(16, stream(seed, epoch, "order"), augment, views)


def _logits_by_index(teacher: nn.Module, split: Split) -> Tensor:
    rows = logits(teacher, split)
    table = rows.new_full((int(split.index.max()) + 1, rows.shape[-1]), math.nan)
    table[split.index] = rows
    return table


def _mistake(
    wrong: Callable, right: Callable, symptom: str, source: str = "seen in public code"
) -> Mistake:
    return Mistake(wrong.__name__, right, wrong, symptom, source)


MISTAKES: tuple[Mistake, ...] = (
    _mistake(
        kl_averaged_over_classes,
        soft_term,
        "The soft term is C times too small, so that extreme alpha and T look best.",
        "haitongli/knowledge-distillation-pytorch issue #2; GMvandeVen/continual-learning issue #5",
    ),
    _mistake(
        t_squared_forgotten,
        soft_term,
        "Raising T turns distillation off: at T = 20 the soft gradient is 400 times too small.",
    ),
    _mistake(
        t_squared_on_one_path,
        both_terms,
        "With alpha = 1 the loss is T^2 times smaller than with alpha = 0.999999.",
    ),
    _mistake(
        mse_of_probabilities,
        soft_term,
        "At high T the gradient is about 2 / C^2 of the right one, a fiftieth for ten classes: "
        "the student learns from the labels alone.",
    ),
    _mistake(
        thresholded_targets,
        soften,
        "Flat targets whatever the teacher thinks: the softmax sees only zeros and ones.",
    ),
    _mistake(
        temperature_on_one_side,
        soft_term,
        "The loss is not 0 where the logits agree: the student is drawn to logits T times as large "
        "as the teacher's, and becomes overconfident.",
        "lancopku/DynamicKD issue #1",
    ),
    _mistake(
        teacher_trained_at_temperature,
        loss_of_the_teacher,
        "T seems to do nothing: the teacher's logits have grown T times, and softening them gives "
        "back the targets of T = 1.",
    ),
    _mistake(
        softmax_before_cross_entropy,
        hard_term,
        "Flat gradients, and a loss that stays above 1.46 for ten classes however sure and right "
        "the student is.",
    ),
    _mistake(
        probabilities_as_kl_input,
        soft_term,
        "The loss is negative, and is lowest when the student bets all on the teacher's top class.",
        "microsoft/ProDA issue #43",
    ),
    _mistake(
        log_probabilities_as_kl_target,
        soft_term,
        "The loss is nan: kl_div takes the logarithm of what is one already.",
        "DeepFakeIL/DFIL issue #16",
    ),
    _mistake(
        both_sides_are_the_teacher,
        both_terms,
        "The soft term is 0 in every step; the student learns from the labels alone.",
        "labmlai/annotated_deep_learning_paper_implementations issue #66",
    ),
    _mistake(
        alpha_reversed,
        both_terms,
        "A value copied from elsewhere reverses the mix: alpha = 0.9 leaves a tenth to the teacher.",
        "seen in public code: in some projects alpha weighs the soft targets, in others the labels",
    ),
    _mistake(
        teacher_in_train_mode,
        logits_of_the_teacher,
        "An image's targets depend on dropout and on the rest of its batch. The teacher's accuracy "
        "is not what it was, though no gradient reached it.",
    ),
    _mistake(
        shape_probe_in_train_mode,
        feature_shape,
        "A teacher is a little worse, but only under methods that look at its features: one image "
        "of noise went into BatchNorm's statistics.",
    ),
    _mistake(
        evaluated_in_train_mode,
        count_errors,
        "Dropout's noise is in the scores, and BatchNorm has learned from the test images.",
    ),
    _mistake(
        roles_swapped,
        distillation_step,
        "The student seems to beat its teacher: the large network is trained, the small one frozen.",
        "keras-team/keras-io issue #257",
    ),
    _mistake(
        frozen_by_its_evaluation,
        modes_in_training,
        "From the second epoch on BatchNorm's statistics stand still and dropout is off.",
    ),
    _mistake(
        targets_by_position,
        targets_by_index,
        "Soft targets act as label noise: the larger alpha, the worse the student.",
        "haitongli/knowledge-distillation-pytorch issues #4 and #9",
    ),
    _mistake(
        cached_despite_augmentation,
        targets_of_the_view,
        "Nothing fails; the targets belong to another view than the one the student sees.",
        "haitongli/knowledge-distillation-pytorch issue #23",
    ),
    _mistake(
        regressor_not_in_the_optimizer,
        hint_step,
        "The hint loss stops falling early: the student must please a random map that never learns.",
    ),
    _mistake(
        no_regressor,
        hint_step,
        "An error of shapes as soon as the student is thinner than its teacher; where widths are "
        "equal, features are matched channel by channel, which nothing asks for.",
    ),
    _mistake(
        regressor_on_the_teachers_side,
        hint_loss_reached,
        "The hint loss falls to 0 and the student has learned nothing: target and features both "
        "went to zero.",
    ),
    _mistake(
        hint_trains_the_teacher,
        hint_term,
        "The hint loss is near 0 after a few epochs: the teacher came to meet the student, and is no "
        "longer the teacher it was.",
        "beopst/dcn.tf issue #1",
    ),
    _mistake(
        stacked_matrices,
        fsp_term,
        "An error, unless all pairs of layers have the same widths.",
    ),
    _mistake(
        column_norms_not_squared,
        fsp_term,
        "Halving the error halves the loss where it should quarter it: a weight from a paper means "
        "something else, and small errors are pulled at as hard as large ones.",
    ),
    _mistake(
        distance_of_the_whole_batch,
        fsp_term,
        "A weight that was good for one batch size is not for another; halving the error does not "
        "quarter the loss.",
    ),
    _mistake(
        batch_divided_twice,
        fsp_term,
        "The term is as many times too small as there are images in a batch.",
    ),
    _mistake(
        adapters_dropped_afterwards,
        fsp_term,
        "The loss is small and the student's own matrices are not the teacher's: the adapters match, "
        "and are deleted.",
    ),
    _mistake(
        average_pool,
        fsp_matrix,
        "The matrices are not the paper's, smaller by what an average loses against a maximum.",
        "seen in public code; a departure from the paper rather than an error",
    ),
    _mistake(
        broadcast_product,
        fsp_matrix,
        "Out of memory: half a gigabyte for one product of 64 images, 64 and 128 channels, 16 x 16 "
        "places. The values are right.",
    ),
    _mistake(
        weights_without_effect,
        weighted_fsp,
        "A sweep of the weight gives the same curve for every value.",
    ),
    _mistake(
        logged_but_not_added,
        total_and_terms,
        "A curve of the term is drawn, and does not fall: nothing minimises it.",
    ),
    _mistake(
        hints_trained_jointly,
        first_stage,
        "A student with hints is worse than with soft targets alone, and the hints need a large "
        "weight: labels pull at the layers that the hints should have prepared.",
        "megvii-research/mdistiller issue #29; a departure from the paper rather than an error",
    ),
    _mistake(
        classifier_decays,
        first_stage,
        "The classifier shrinks in the first stage, though its gradient is 0 in every step.",
    ),
    _mistake(
        momentum_kept,
        both_stages,
        "The second stage begins with steps in the direction of the first.",
    ),
    _mistake(
        epochs_the_baseline_does_not_get,
        taught_and_alone,
        "A gain that may be no more than longer training.",
    ),
    _mistake(
        taught_by_itself,
        next_generation,
        "The loss is 0 from the first step on, and the student stays as it was born.",
    ),
    _mistake(
        teacher_and_student_are_one,
        handed_on,
        "From the second generation on the teacher knows nothing: with the student's initial weights it "
        "lost its own.",
    ),
    _mistake(
        every_generation_begins_alike,
        generations,
        "Generations differ little from one another, and together they are hardly better than one.",
    ),
    _mistake(
        teacher_chosen_by_test,
        next_teacher,
        "The test accuracy is too good, and more so with every generation: what leaked into the teacher "
        "is taught on.",
    ),
    _mistake(
        confidence_not_as_shares,
        cwtm_loss,
        "A loss of about 180 instead of 2: it is a sum over the batch, and a rate that was good for one "
        "batch size diverges at another.",
    ),
    _mistake(
        shares_averaged_again,
        cwtm_loss,
        "The student hardly learns: weights that sum to 1 are divided by the size of the batch once "
        "more.",
    ),
    _mistake(
        gradient_of_another_function,
        cwtm_loss,
        "The student learns as from labels alone; a weight on the loss changes what is logged and "
        "nothing else.",
    ),
    _mistake(
        samples_permuted,
        permute_dark_knowledge,
        "The student fails to converge: it is shown the targets of other images. It looks as if dark "
        "knowledge were all that counts.",
    ),
    _mistake(
        largest_added_to_all,
        permute_dark_knowledge,
        "The targets lose their largest class: what should be put back in its place is added to all.",
    ),
    _mistake(
        permuted_in_place,
        permute_dark_knowledge,
        "The teacher's stored logits are no longer its own: whoever reads them next gets permuted ones.",
    ),
    _mistake(
        label_kept_in_place,
        permuted_targets,
        "Where the teacher is wrong a class drawn at random gets its largest probability; and the "
        "control, which should know no labels, knows them.",
    ),
    _mistake(
        raw_logits_as_targets,
        dkpp_loss,
        "The loss may be negative and falls without end: logits are no distribution.",
    ),
    _mistake(
        logits_averaged,
        accuracy_together,
        "One network with large logits decides for all: other answers than those of the mean "
        "probability.",
        "seen in public code; a departure from the paper rather than an error",
    ),
    _mistake(
        divided_by_batches,
        accuracy_together,
        "An accuracy above 1, as large as the batches are.",
    ),
    _mistake(
        outputs_by_batch,
        accuracy_together,
        "An ensemble at the level of chance, of good networks: each read the shuffled images in an "
        "order of its own.",
    ),
    _mistake(
        as_the_folder_gives_them,
        by_generation,
        'Numbers stand beside the wrong names: "generations 0 and 1" may be any two.',
    ),
    _mistake(
        chosen_by_test,
        chosen_by_validation,
        "The reported accuracy is too good, the more so the more epochs and settings were tried.",
    ),
    _mistake(
        best_never_updated,
        epoch_kept,
        "The best checkpoint is always the last one.",
    ),
)
