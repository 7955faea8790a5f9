"""Faults planted one at a time into a copy of kdlib, each of which a test must notice: ``make mutations``.

``FAULTS`` lists for each public function of losses, objectives and training its file, the tests that answer
for it, and at least four faults: a text that stands once in the file, and what is written in its place.
``python tests/mutations.py NAME...`` plants those of some functions only.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("kdlib", "tests", "tools", "pyproject.toml")
LONGEST = 600  # seconds; a fault that never ends is not one that a test has noticed


class Planted(NamedTuple):
    """One fault: in which function, where, and what it changes."""

    function: str
    file: str
    tests: str
    old: str
    new: str

    def __str__(self) -> str:
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.function}: {old or 'nothing'}  ->  {new or 'nothing'}"


# function: (file in kdlib/, tests, [(what stands there, what is planted), ...])
FAULTS: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    # --- losses ---
    "soften": (
        "losses.py",
        "tests/test_losses.py",
        [
            ("torch.softmax(z / T, dim=-1)", "torch.softmax(z, dim=-1)"),
            ("torch.softmax(z / T, dim=-1)", "torch.softmax(z * T, dim=-1)"),
            ("torch.softmax(z / T, dim=-1)", "torch.softmax(z / T, dim=0)"),
            ("torch.softmax(z / T, dim=-1)", "torch.softmax(z > 0, dim=-1, dtype=z.dtype)"),
            ('z = wide("logits", logits)', "z = logits"),
        ],
    ),
    "soft_target_loss": (
        "losses.py",
        "tests/test_losses.py",
        [
            ("_reduce((T**2 * divergence(s, t, T))", "_reduce((T * divergence(s, t, T))"),
            ("_reduce((T**2 * divergence(s, t, T))", "_reduce((divergence(s, t, T))"),
            ("divergence(s, t, T)).squeeze(-1)", "divergence(t, s, T)).squeeze(-1)"),
            ("divergence(s, t, T)).squeeze(-1)", "divergence(t, t, T)).squeeze(-1)"),
            ("divergence(s, t, T)).squeeze(-1)", "divergence(s * T, t, T)).squeeze(-1)"),
            (
                "divergence(s, t, T)).squeeze(-1)",
                "divergence(s, t, T)).squeeze(-1) / s.shape[-1]",
            ),
            (
                "divergence(s, t, T)).squeeze(-1)",
                "(torch.softmax(s / T, -1) - torch.softmax(t / T, -1)).square()).sum(-1)",
            ),
            (
                "divergence(s, t, T)).squeeze(-1)",
                "F.kl_div((s / T).log_softmax(-1), (t / T).softmax(-1), reduction='none')).sum(-1)",
            ),
            (
                "s, t = pair_of(student, teacher)  # (..., C)\n    T =",
                's, t = wide("student", student), wide("teacher", teacher)\n    T =',
            ),
        ],
    ),
    "hinton_loss": (
        "losses.py",
        "tests/test_losses.py",
        [
            ("_reduce(soft + hard, reduction)", "_reduce(soft, reduction)"),
            ("_reduce(soft + hard, reduction)", "_reduce((soft + hard) / 2, reduction)"),
            ("_reduce(soft + hard, reduction)", "(soft + hard).mean()"),
            ("hard = hinton_terms(student, teacher,", "hard = hinton_terms(teacher, student,"),
            (
                "hinton_terms(student, teacher, labels, temperature, alpha)\n",
                "hinton_terms(student, teacher, labels, temperature, 1 - alpha)\n",
            ),
        ],
    ),
    "hinton_terms": (
        "losses.py",
        "tests/test_losses.py",
        [
            ("return a * soft, (1 - a) * hard", "return (1 - a) * soft, a * hard"),
            ("return a * soft, (1 - a) * hard", "return a * soft, hard"),
            ("return a * soft, (1 - a) * hard", "return a * soft / temperature**2, (1 - a) * hard"),
            ("hard = cross_entropy(student,", "hard = cross_entropy(student / temperature,"),
            ("hard = cross_entropy(student,", "hard = cross_entropy(teacher,"),
            ("hard = cross_entropy(student,", "hard = cross_entropy(student.softmax(-1),"),
            ('alpha_of(alpha, wide("student", student))', "alpha_of(alpha, student)"),
        ],
    ),
    "logit_matching_loss": (
        "losses.py",
        "tests/test_losses.py",
        [
            ("centred.square().mean(-1) / 2", "centred.square().mean(-1)"),
            ("centred.square().mean(-1) / 2", "centred.square().sum(-1) / 2"),
            ("centred.square().mean(-1) / 2", "centred.abs().mean(-1) / 2"),
            ("difference - difference.mean(-1, keepdim=True)", "difference"),
            ("difference.mean(-1, keepdim=True)", "difference.mean(0, keepdim=True)"),
            ("difference = s - t", "difference = s - wide('teacher', teacher)"),
        ],
    ),
    "hint_loss": (
        "losses.py",
        "tests/test_losses.py",
        [
            (
                "(guided - hint).square().flatten(1).sum(-1) / 2",
                "(guided - hint).square().flatten(1).sum(-1)",
            ),
            (
                "(guided - hint).square().flatten(1).sum(-1) / 2",
                "(guided - hint).square().flatten(1).mean(-1) / 2",
            ),
            (
                "(guided - hint).square().flatten(1).sum(-1) / 2",
                "(guided - hint).flatten(1).norm(dim=-1)",
            ),
            ("(guided - hint).square()", "(guided - hint).abs()"),
            ("guided, hint = features_of(guided, hint)", "guided, _ = features_of(guided, hint)"),
        ],
    ),
    "fsp_matrix": (
        "losses.py",
        "tests/test_losses.py",
        [
            ("F.adaptive_max_pool2d(x, size)", "F.adaptive_avg_pool2d(x, size)"),
            ("F.adaptive_max_pool2d(x, size)", "F.interpolate(x, size)"),
            ("/ (size[0] * size[1])", "/ size[0]"),
            ("/ (size[0] * size[1])", "/ (size[0] * size[1] * len(f1))"),
            ("size = min(first", "size = max(first"),
            ("@ f2.flatten(2).mT", "@ f1.flatten(2).mT"),
            ("with _without_autocast(f1.device.type):", "with nullcontext():"),
        ],
    ),
    "fsp_loss": (
        "losses.py",
        "tests/test_losses.py",
        [
            ("(s - t).square().sum((1, 2)) for", "(s - t).square().sum((1, 2)).sqrt() for"),
            ("(s - t).square().sum((1, 2)) for", "(s - t).square().mean((1, 2)) for"),
            ("(s - t).square().sum((1, 2)) for", "(s - t).square().sum((1, 2)) / len(s) for"),
            ("sum(w * d for w, d", "sum(d for w, d"),
            ("sum(w * d for w, d", "max(w * d for w, d"),
            (
                "pairs = matrices_of(student_matrices, teacher_matrices)",
                "pairs = list(zip(student_matrices, teacher_matrices))",
            ),
        ],
    ),
    "gradient_terms": (
        "losses.py",
        "tests/test_losses.py",
        [
            (
                "torch.softmax(s.detach(), -1) - torch.softmax(t, -1)",
                "torch.softmax(t, -1) - torch.softmax(s.detach(), -1)",
            ),
            (
                "torch.softmax(s.detach(), -1) - torch.softmax(t, -1)",
                "(torch.softmax(s.detach(), -1) - torch.softmax(t, -1)) / len(s)",
            ),
            (
                "torch.softmax(s.detach(), -1) - torch.softmax(t, -1)",
                "torch.softmax(s, -1) - torch.softmax(t, -1)",
            ),
            (
                "scatter(-1, labels.unsqueeze(-1), True)",
                "scatter(-1, t.argmax(-1, keepdim=True), True)",
            ),
            ("torch.where(labelled, zero, gradient)", "gradient"),
            (
                "torch.where(labelled, gradient, zero), torch.where(labelled, zero, gradient)",
                "torch.where(labelled, zero, gradient), torch.where(labelled, gradient, zero)",
            ),
        ],
    ),
    "cwtm_weights": (
        "losses.py",
        "tests/test_losses.py",
        [
            ("return confidence / confidence.sum()", "return confidence"),
            (
                "return confidence / confidence.sum()",
                "return confidence / confidence.sum(-1, keepdim=True)",
            ),
            ("return confidence / confidence.sum()", "return confidence / confidence.mean()"),
            (
                'torch.softmax(wide("teacher", teacher).detach(), -1)',
                'wide("teacher", teacher).detach()',
            ),
            ('(wide("teacher", teacher).detach(), -1)', '(wide("teacher", teacher), -1)'),
        ],
    ),
    "cwtm_loss": (
        "losses.py",
        "tests/test_losses.py",
        [
            ('(s, labels, reduction="none")).sum()', '(s, labels, reduction="none")).mean()'),
            (
                "(cwtm_weights(t) * cross_entropy(s, labels,",
                "(cwtm_weights(s) * cross_entropy(s, labels,",
            ),
            (
                "(cwtm_weights(t) * cross_entropy(s, labels,",
                "(cwtm_weights(t) * cross_entropy(s, t.argmax(-1),",
            ),
            ("(cwtm_weights(t) * cross_entropy(s, labels,", "(cross_entropy(s, labels,"),
        ],
    ),
    "permute_dark_knowledge": (
        "losses.py",
        "tests/test_losses.py",
        [
            ("draws.scatter(-1, largest, 2.0).argsort(-1)", "draws.argsort(-1)"),
            ("return t.scatter(-1, places, t.gather(-1, order))", "return t.gather(-1, order)"),
            (
                "return t.scatter(-1, places, t.gather(-1, order))",
                "return t[torch.randperm(len(t), generator=generator)]",
            ),
            ("largest = t.argmax(-1, keepdim=True)", "largest = t.argmin(-1, keepdim=True)"),
            (
                "torch.rand(t.shape, generator=generator, device=generator.device)",
                "torch.rand(t.shape, device=generator.device)",
            ),
            (
                "torch.rand(t.shape, generator=generator, device=generator.device)",
                "torch.rand(t.shape[-1], generator=generator, device=generator.device).expand(t.shape)",
            ),
            (
                "torch.rand(t.shape, generator=generator, device=generator.device)",
                "torch.rand(t.shape, generator=torch.Generator().manual_seed(0))",
            ),
            ('t = wide("teacher", teacher).detach()', 't = wide("teacher", teacher)'),
        ],
    ),
    "dkpp_loss": (
        "losses.py",
        "tests/test_losses.py",
        [
            ("torch.softmax(permute_dark_knowledge(t, generator), -1)", "torch.softmax(t, -1)"),
            (
                "torch.softmax(permute_dark_knowledge(t, generator), -1)",
                "permute_dark_knowledge(t, generator)",
            ),
            (
                "torch.softmax(permute_dark_knowledge(t, generator), -1)",
                "torch.softmax(permute_dark_knowledge(s, generator), -1)",
            ),
            (
                "(targets * torch.log_softmax(s, -1)).sum(-1).mean()",
                "(targets * torch.log_softmax(s, -1)).mean()",
            ),
            (
                "(targets * torch.log_softmax(s, -1)).sum(-1).mean()",
                "(targets * torch.log_softmax(s, -1)).sum()",
            ),
            ("(targets * torch.log_softmax(s, -1))", "(targets * torch.softmax(s, -1))"),
        ],
    ),
    "cross_entropy": (
        "losses.py",
        "tests/test_losses.py tests/test_checks.py",
        [
            ("_NO_LABEL = torch.iinfo(torch.int32).min", "_NO_LABEL = -100"),
            ("s.reshape(-1, s.shape[-1]),", "s.softmax(-1).reshape(-1, s.shape[-1]),"),
            ("            label_smoothing=label_smoothing,\n", ""),
            ("_reduce(loss.reshape(labels.shape), reduction)", "loss.mean()"),
            ("_reduce(loss.reshape(labels.shape), reduction)", "_reduce(loss, reduction)"),
            ('wide("logits", logits))  # (..., C)\n    labels', "logits)\n    labels"),
            ('s = several_classes("logits", wide("logits", logits))', 's = wide("logits", logits)'),
        ],
    ),
    "divergence": (
        "_exact.py",
        "tests/test_losses.py",
        [
            ("d = (s - t) / T\n    d =", "d = s - t\n    d ="),
            ("    d = d - (p * d).sum(-1, keepdim=True)  # (..., C)\n", ""),
            ("p * _exp_minus_line(d.clamp(max=60))", "p * _exp_minus_line(d)"),
            ("torch.where(d < 60, ", "torch.where(d < math.inf, "),
            ("torch.where(log_q.amax(-1, keepdim=True) < 60, near, far)", "near"),
            ("torch.where(log_q.amax(-1, keepdim=True) < 60, near, far)", "far"),
            (
                "torch.where(d.abs() < torch.finfo(d.dtype).eps ** 0.25, series, torch.expm1(d) - d)",
                "torch.expm1(d) - d",
            ),
        ],
    ),
    "checks": (
        "_checks.py",
        "tests/test_checks.py tests/test_losses.py",
        [
            ("if not 0 < number < math.inf:", "if not 0 <= number < math.inf:"),
            ("if not 0 < number < math.inf:", "if not 0 < number:"),
            ("if not 0 <= number <= 1:", "if not 0 < number < 1:"),
            ("if not 0 <= number <= 1:", "if number < 0 or number > 1:"),
            ("if s.shape != t.shape:", "if s.shape[0] != t.shape[0]:"),
            ("labels.dtype != torch.int64", "labels.is_floating_point()"),
            ("(h1 - h2) * (w1 - w2) < 0", "(h1 - h2) * (w1 - w2) > 0"),
            ("low if low < 0 else high}", "high}"),
            ("return value.to(logits)", "return value"),
            ("once and len(set(numbers)) < len(numbers)", "once and len(numbers) < 1"),
        ],
    ),
    "required_arguments": (
        "_checks.py",
        "tests/objectives/test_base.py",
        [
            ("p.default is p.empty and p.kind < p.KEYWORD_ONLY]", "p.kind < p.KEYWORD_ONLY]"),
        ],
    ),
    # --- objectives ---
    "CrossEntropy": (
        "objectives/logits.py",
        "tests/objectives/test_logits.py",
        [
            (", label_smoothing=smoothing, reduction=", ", reduction="),
            ("        _need_labels(self, split)\n\n", "        pass\n\n"),
            ('return {"hard": loss}', 'return {"hard": loss.mean()}'),
            ("s, smoothing = student.logits,", "s, smoothing = student.logits.detach(),"),
            ('fraction("label_smoothing", label_smoothing, remedy)', "label_smoothing"),
        ],
    ),
    "SoftTargets": (
        "objectives/logits.py",
        "tests/objectives/test_logits.py tests/objectives/test_teachers.py",
        [
            ("hinton_terms(s, t, batch.labels,", "hinton_terms(t, s, batch.labels,"),
            (
                "batch.labels, self.temperature, self.alpha)",
                "batch.labels, self.temperature, 1 - self.alpha)",
            ),
            ("batch.labels, self.temperature, self.alpha)", "batch.labels, 1.0, self.alpha)"),
            ('return {"soft": soft, "hard": hard}', 'return {"soft": soft}'),
            ('return {"soft": soft, "hard": hard}', 'return {"soft": hard, "hard": soft}'),
            (
                'soft_target_loss(s, t, self.temperature, reduction="none")',
                'soft_target_loss(s, t, reduction="none")',
            ),
            (
                'soft_target_loss(s, t, self.temperature, reduction="none")',
                'soft_target_loss(s, t, self.temperature, reduction="none") / self.temperature**2',
            ),
            (
                "if not split.labelled and labels_used:",
                "if not split.labelled and self.alpha == 0:",
            ),
            ('getattr(self, "temperature", 1.0)', "1.0"),
            ('average = "probabilities"', 'average = "centred logits"'),
        ],
    ),
    "LogitMatching": (
        "objectives/logits.py",
        "tests/objectives/test_logits.py tests/objectives/test_teachers.py",
        [
            ('average = "centred logits"', 'average = "probabilities"'),
            (
                "logit_matching_loss(student.logits, self._source(batch),",
                "logit_matching_loss(self._source(batch), student.logits,",
            ),
            ("loss = logit_matching_loss(", "loss = soft_target_loss("),
            ('return {"logits": loss}', 'return {"logits": 2 * loss}'),
            ('return {"logits": loss}', 'return {"logits": loss.mean()}'),
        ],
    ),
    "CWTM": (
        "objectives/logits.py",
        "tests/objectives/test_logits.py",
        [
            (
                "self._source(batch), batch.labels)}",
                "self._source(batch), self._source(batch).argmax(-1))}",
            ),
            (
                "cwtm_loss(student.logits, self._source(batch),",
                "cwtm_loss(student.logits, student.logits,",
            ),
            (
                "cwtm_loss(student.logits, self._source(batch), batch.labels)",
                "cross_entropy(student.logits, batch.labels)",
            ),
            ("        _need_labels(self, split)\n        super()", "        super()"),
        ],
    ),
    "DKPP": (
        "objectives/logits.py",
        "tests/objectives/test_logits.py",
        [
            ("self._source(batch), batch.generator)", "self._source(batch), torch.Generator())"),
            (
                "self._source(batch), batch.generator)",
                "self._source(batch), torch.default_generator)",
            ),
            (
                "dkpp_loss(student.logits, self._source(batch), batch.generator)",
                "soft_target_loss(student.logits, self._source(batch))",
            ),
            (
                "dkpp_loss(student.logits, self._source(batch),",
                "dkpp_loss(self._source(batch), student.logits,",
            ),
        ],
    ),
    "Hint": (
        "objectives/features.py",
        "tests/objectives/test_features.py",
        [
            (
                "guided[name], hint, self._end())\n",
                "guided[name], hint, self._end()).requires_grad_(False)\n",
            ),
            ("self.module = nn.ModuleList(", "self.module = self.module or nn.ModuleList("),
            ("hint_loss(regressor(guided), hint,", "hint_loss(hint, regressor(guided),"),
            ("total = total + hint_loss(", "total = hint_loss("),
            ('return {"hint": total.mean()}', 'return {"hint": total.sum()}'),
            ("guided = student[name].to(", "guided = student[name].detach().to("),
            (
                "nn.Sequential(layer) if last is None else nn.Sequential(layer, last)",
                "nn.Sequential(layer)",
            ),
            (
                "kernel = tuple(g - h + 1 for g, h in zip(size, target,",
                "kernel = tuple(g - h + 1 for g, h in zip(size[::-1], target[::-1],",
            ),
            ("return copy.deepcopy(self.activation)", "return self.activation"),
            ("with evaluating(student):", "if True:"),
            ('None if "" in taps else 0.001', "None"),
            (
                "if (lowest := self._source.lowest(i)) < 0:",
                "if (lowest := self._source.lowest(0)) < -1e9:",
            ),
            ('ends = "" if self.activation == "relu" else f", activation={ends}"', 'ends = ""'),
            ("partial(_named, names=self.hints)", "partial(_named, names=self.hints[::-1])"),
        ],
    ),
    "FSP": (
        "objectives/features.py",
        "tests/objectives/test_features.py",
        [
            ("[student for student, _ in self.pairs]", "[teacher for _, teacher in self.pairs]"),
            ("[teacher for _, teacher in self.pairs]", "[student for student, _ in self.pairs]"),
            ("if ours != target.shape[1:]:", "if len(ours) != 2:"),
            ("x[:, self.order(name, x)]", "x"),
            ("torch.randperm(x.shape[1], generator=draws)", "torch.randperm(x.shape[1])"),
            ('f"channels of {name}"', '"channels"'),
            ('what = f"fsp {self._of_teacher} {shuffle_seed}"', 'what = f"fsp {self._of_teacher}"'),
            ('f"shuffle_seed={self.shuffle_seed}"', '""'),
            ("fsp_loss(matrices, self._source(batch))", "fsp_loss(self._source(batch), matrices)"),
        ],
    ),
    "Loss": (
        "objectives/base.py",
        "tests/objectives/test_base.py",
        [
            ("logits.flatten(0, -2).clone() for", "logits.flatten(0, -2) for"),
            ("logits.flatten(0, -2).clone() for", "logits.clone() for"),
            ("copy.deepcopy(self.function) if", "self.function if"),
            ('[wide("student", student.logits)]', "[student.logits]"),
            ("code={code_hash(self.function)}", "code="),
            ("or self._needs == 3)", "and self._needs == 3)"),
            ("teacher={self._source.identity()}, ", ""),
            ("if self._needs not in allowed:", "if self._needs is None:"),
            ("return {self.name: function(", "return {'loss': function("),
        ],
    ),
    "Objective": (
        "objectives/base.py",
        "tests/objectives/test_base.py",
        [
            ("Sum(((1.0, self), (1.0, other)))", "Sum(((1.0, self),))"),
            ("Sum(((1.0, other), (1.0, self)))", "Sum(((1.0, other),))"),
            ("return Sum(((weight, self),))", "return Sum(((1.0, self),))"),
            ('f"code={code_hash(kind)}" if is_own(kind) else ""', '""'),
            ('if n[0] != "_" and n not in', "if n not in"),
            ("own = [_settings_text(objective)] if is_own(kind) else []", "own = []"),
            ("return value if isinstance(value, Objective) else _Adapted(value)", "return value"),
        ],
    ),
    "Sum": (
        "objectives/base.py",
        "tests/objectives/test_base.py tests/objectives/test_features.py tests/objectives/test_logits.py",
        [
            ("total[name] = total.get(name, 0) + factor * term", "total[name] = factor * term"),
            ("total.get(name, 0) + factor * term", "total.get(name, 0) + term"),
            ("factor = weight(batch.progress)", "factor = weight(0.0)"),
            ('for name in tapped or ("",)]', "for name in tapped]"),
            (
                "return nn.ModuleList(modules) if modules else None",
                "return modules[0] if modules else None",
            ),
            (
                "return None if None in rates else min(rates)",
                "return min(filter(None, rates), default=None)",
            ),
            (
                "return None if None in rates else min(rates)",
                "return None if None in rates else max(rates)",
            ),
            ("return lambda progress: _at(outer, progress) * _at(inner, progress)", "return outer"),
            (
                "            part.prepare(student, split, recipe)\n",
                "            try:\n                part.prepare(student, split, recipe)\n            except Exception:\n                pass\n",
            ),
            ("checked_terms(part, part(student, batch)).items()", "part(student, batch).items()"),
        ],
    ),
    "teachers": (
        "objectives/teachers.py",
        "tests/objectives/test_teachers.py tests/objectives/test_logits.py tests/training/test_training_on_text.py",
        [
            ("rows = self.row[batch.index]", "rows = torch.arange(len(batch.index))"),
            ("rows = self.row[batch.index]", "rows = batch.index % len(self.tables[0])"),
            ("self.row[split.index] =", "self.row[split.index.flip(0)] ="),
            (".to(split.device)[split.index], split)", ".to(split.device)[: len(split)], split)"),
            (
                "live = recipe.augment is not None or not split.stands_alone",
                "live = not split.stands_alone",
            ),
            ("live = recipe.augment is not None or size", "live = size"),
            (
                "for network in self.networks]\n        return Live",
                "for network in self.networks]\n        [n.train() for n in networks]\n        return Live",
            ),
            (
                "networks = [frozen_copy(network, split.device).float() for network in self.networks]",
                "networks = list(self.networks)",
            ),
            ("network = frozen_copy(self.teacher, split.device).float()", "network = self.teacher"),
            ("if self.last is None or self.last[0] is not batch:", "if self.last is None:"),
            ("if self.last is None or self.last[0] is not batch:", "if True:"),
            ("if batch.first:", "if False:"),
            ("of_split = id(split) if size is None else split.fingerprint()", "of_split = size"),
            ("how, size, of_split", "how, size is None, of_split"),
            ("key = (*map(_who, networks), how,", "key = (*map(_who, networks),"),
            ("key = (*map(_who, networks), how,", "key = (*map(id, networks), how,"),
            ("if hooked else network_hash(network)", "if False else weights_hash(network)"),
            (
                "combine = partial(_mean_probability, temperature=temperature)",
                "combine = _mean_centred",
            ),
            ('how = f"mean probability at {float(temperature)}"', 'how = "mean probability"'),
            (
                "torch.log_softmax(stacked / temperature, dim=-1)",
                "torch.log_softmax(stacked, dim=-1)",
            ),
            ("return temperature * (log_p", "return (log_p"),
            (
                "LookedUp([_finite(combine(found), split)], split)",
                "LookedUp([combine(found)], split)",
            ),
            (
                "if recipe.augment is not None:\n                raise",
                "if False:\n                raise",
            ),
            (
                'alone = "mean of " if self.is_list and len(self.networks) == 1 else ""',
                'alone = ""',
            ),
            ("size > _TABLE_BYTES", "False"),
        ],
    ),
    # --- training ---
    "evaluate": (
        "training/scores.py",
        "tests/training/test_scores.py tests/training/test_training_on_text.py",
        [
            ("errors = int((~right).sum())", "errors = int(right.sum())"),
            ("in split.parts(", "in list(split.parts(1000))[:1] or ("),
            ("loss=losses.mean()", "loss=losses.sum()"),
            ("with evaluating(*everyone), split", "with torch.no_grad(), split"),
            (
                "(torch.stack(members).logsumexp(0) - math.log(len(members)))",
                "torch.stack(members).mean(0)",
            ),
            ("bins: int = 15", "bins: int = 10"),
            ("gap.abs().sum()", "gap.sum().abs()"),
            ("for model in dict.fromkeys(everyone)}", "for model in everyone}"),
            ("split.reading(*everyone):", "split.reading(everyone[0]):"),
            ("math.exp(self.loss)", "2**self.loss"),
        ],
    ),
    "fidelity": (
        "training/scores.py",
        "tests/training/test_scores.py",
        [
            ("(log_p.exp() * (log_p - log_q))", "(log_q.exp() * (log_q - log_p))"),
            ("- log_q)).sum(-1)", "- log_q)).mean(-1)"),
            ("log_q.argmax(-1) == log_p.argmax(-1)", "log_q.argmax(-1) != log_p.argmax(-1)"),
            ("divergence.mean().item()", "divergence.max().item()"),
            ("[found[model] for model in group] for", "[found[group[0]]] for"),
            ('_members("teacher", teacher)]', '_members("student", teacher)]'),
        ],
    ),
    "fit": (
        "training/fit.py",
        "tests/training/test_fit.py",
        [
            ('order=stream(self.seed, epoch, "order")', 'order=stream(self.seed, 1, "order")'),
            ("views=stream(self.seed, epoch,", "views=stream(self.seed, 1,"),
            ('reseed(key(self.seed, epoch, "dropout"))', 'reseed(key(0, 1, "dropout"))'),
            ('reseed(key(seed, 0, "prepare"))', "pass"),
            ("self.trained.train()", "pass"),
            ("in self.held.values():", "in ():"),
            ("if not trains(self.trained):", "if False:"),
            ("            model.eval()", "            pass"),
            ("evaluate(self.model, split,", "evaluate(self.model, self.data.test,"),
            ("copied(numbers_of(self.model))", "numbers_of(self.model)"),
            ("if self.best is not None:", "if self.best is None:"),
            ('if row["validation_loss"] < min(', 'if row["validation_loss"] > min('),
            ("first=step == first", "first=step == 0"),
            ("min(epoch * self.steps, self.total)", "epoch * self.steps"),
            ("all(math.isfinite(value) for value in terms.values()) and ", ""),
            (" and torch.stack(whole).all():", ":"),
            ('terms = terms | {"validation_loss": row["validation_loss"]}', "pass"),
            ("step / self.total, draws", "step / self.steps, draws"),
            ("range(first, self.total), batches", "range(first, first + self.steps), batches"),
            ("interrupted = True", "interrupted = False"),
            ("on_epoch(dict(row))", "on_epoch(row)"),
            ('"interrupted" if self.interrupted else "finished"', '"finished"'),
            ("with forked(), torch.enable_grad()", "with torch.enable_grad()"),
            ("learning_rate=objective.default_rate)", "learning_rate=None)"),
        ],
    ),
    "steps of fit": (
        "training/fit.py",
        "tests/training/test_steps.py",
        [
            ("factor * self.recipe.rate(batch.progress)", "self.recipe.rate(batch.progress)"),
            ("0.25 ** sum(", "0.5 ** sum("),
            ("lowest = accumulate(losses, min)", "lowest = losses"),
            (
                "        terms = checked_terms(self.objective, self.objective(student, batch))",
                (
                    "        with autocast(self.device, self.stepper.products):\n"
                    "            terms = checked_terms(self.objective, self.objective(student, batch))"
                ),
            ),
        ],
    ),
    "run_epoch": (
        "training/steps.py",
        "tests/training/test_fit.py",
        [("total / count for", "total for")],
    ),
    "Stepper": (
        "training/steps.py",
        "tests/training/test_steps.py",
        [
            ("self.optimizer.zero_grad(set_to_none=True)", "pass"),
            ("sum(terms.values()).sum()", "next(iter(terms.values())).sum()"),
            ('group["lr"] = rate', "pass"),
            ("nesterov=momentum > 0", "nesterov=False"),
            ("self.scaler.unscale_(self.optimizer)", "pass"),
            ("self.scaler.scale(total).backward()", "total.backward()"),
            ("nn.utils.clip_grad_norm_(", "nn.utils.clip_grad_value_("),
            ("(self.trained.parameters(), self.rec", "(self.trained[0].parameters(), self.rec"),
            ("dim=int(transposed)", "dim=int(not transposed)"),
            ("nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED", "nn.Conv2d"),
            ("if weight is None or weight.grad is None:", "if weight is None:"),
            ("weight.chunk(layer.groups) if transposed else [weight]", "[weight]"),
            ("if why and trains(layer):", "if why:"),
            ('"weight_decay": recipe.weight_decay', '"weight_decay": 0.0'),
            ("betas=(recipe.momentum, 0.999)", "betas=(0.9, 0.999)"),
            ('recipe.optimizer == "adam" else', 'recipe.optimizer != "adam" else'),
            ("enabled=dtype is not None, cache_enabled=False", "enabled=dtype is not None"),
            ("enabled=dtype is not None,", "enabled=True,"),
        ],
    ),
    "autocast_dtype": (
        "training/steps.py",
        "tests/training/test_steps.py",
        [
            ("torch.bfloat16 if major >= 8", "torch.bfloat16 if major > 8"),
            ("torch.float16 if major == 7 else None", "torch.float16"),
            ('if precision == "float16" and device.type != "cuda"', "if False"),
            ('if precision == "float64" and device.type == "mps"', "if False"),
            ('if precision in ("bfloat16", "float16")', 'if precision in ("bfloat16",)'),
            ('"avx512_bf16" in', '"avx512f" in'),
            ('"ONEDNN_MAX_CPU_ISA", "").upper()', '"ONEDNN_MAX_CPU_ISA", "")'),
            (
                "    except OSError:\n        return False",
                "    except OSError:\n        return True",
            ),
        ],
    ),
    "Checkpoint": (
        "training/checkpoint.py",
        "tests/training/test_checkpoint.py",
        [
            ('"data": data.fingerprint(),', ""),
            ('"recipe": recipe_text(recipe),', ""),
            ('"seed": str(seed),', ""),
            ('"objective": objective_key,', ""),
            ("network = structure_hash(model)", "network = repr(model)"),
            ("if changed := changes(self.identity, run.identity()):", "if changed := 0:"),
            ("_check_storable(numbers_of(model))", "pass"),
            ("in self.identity | stored:", "in self.identity:"),
            ("if self.start != state", "if self.start == state"),
            ('self.start = state["start"]', "pass"),
            ("file.testzip() is not None", "False"),
            ("if path.is_dir():", "if False:"),
            (
                "if not path.exists():\n            check_place(path)",
                "if False:\n            check_place(path)",
            ),
            ("os.path.expanduser(path)", "path"),
            ('"identity" not in state', "False"),
            (
                "write_whole(self.path, partial(_save, state))",
                "_save(state, self.path)",
            ),
        ],
    ),
    "resume": (
        "training/fit.py",
        "tests/training/test_checkpoint.py",
        [
            ('self.stepper.optimizer.load_state_dict(state["optimizer"])', "pass"),
            ('self.rows, self.best = state["rows"], state["best"]', 'self.rows = state["rows"]'),
            ("restore(part, numbers)", "pass"),
            ("len(run.rows) + 1, run.epochs + 1", "1, run.epochs + 1"),
            ("first = (epoch - 1) * self.steps", "first = 0"),
            ("[model] if module is None else [model, module]", "[model]"),
        ],
    ),
    "keep": (
        "training/keep.py",
        "tests/training/test_keep.py",
        [
            ('identity | {"start": network_hash(model)}', "identity"),
            ("with seeded(seed):", "with seeded(0):"),
            (
                "objective, data, recipe, seed=seed).interrupted",
                "objective, data, recipe).interrupted",
            ),
            ('raise KeyboardInterrupt("training was', 'print("training was'),
            ("return model.eval()", "return model"),
            ("        if not there:", "        if True:"),
            ("there = path.exists()  #", "pass  #"),
            ("except (OSError, SafetensorError)", "except SafetensorError"),
            ("except (OSError, NotImplementedError)", "except PermissionError"),
            ("if weights_hash(model) != expected:", "if False:"),
            ("model.to(data.train.device, weights_dtype(recipe))", "model"),
            ("return build(seed) if required else build()", "return build()"),
            ('if "seed" in parameters:', "if False:"),
            ("p.default is p.empty and ", ""),
            ("sorted(started_as.items())", "sorted(started_as)"),
        ],
    ),
    "fit_cohort": (
        "training/cohort.py",
        "tests/training/test_cohort.py",
        [
            (
                "values.repeat_interleave(self.objectives, 0)",
                "values.repeat(self.objectives, *[1] * (values.ndim - 1))",
            ),
            ('stream(seed, epoch, "order") for seed', 'stream(0, epoch, "order") for seed'),
            ("trained[places[o], stack.seeds[s]]", "trained[places[-1 - o], stack.seeds[s]]"),
            ("t.mean(-1)", "t.sum(-1)"),
            (".repeat(len(stack.seeds), 1)", ".repeat_interleave(len(stack.seeds), 0)"),
            ("step / total, draws", "step / steps, draws"),
            ("layer.bias.copy_(bias[member, :, 0])", "layer.bias.copy_(bias[0, :, 0])"),
            ('_check_finite(finite, "the loss', '(finite, "the loss'),
            ("isfinite().flatten(1).all(1) for p in", "isfinite().all().expand(len(p)) for p in"),
            ("wrong = wrong + (", "wrong = ("),
            ("split = getattr(data, name)\n", "split = data.test\n"),
            ("students.append(model.eval())", "students.append(model)"),
            (" or recipe.max_gradient is not None", ""),
            (' or recipe.schedule == "plateau"', ""),
            ("or _hooked(model)", ""),
            ("if p.requires_grad]:", "]:"),
            ("model = copy.deepcopy(start)", "model = start"),
            ("recipe.rate(batch.progress)", "recipe.peak_rate"),
            ("if len(starts) < len(seeds):", "if False:"),
            ("with seeded(seed):", "with seeded(0):"),
            ("if history.interrupted:", "if False:"),
            ("return id(objective.teacher)", "return 0"),
        ],
    ),
    "Recipe": (
        "recipe.py",
        "tests/test_recipe.py",
        [
            ("(0.04 + 0.96 *", "(0.1 + 0.9 *"),
            ("(progress - 0.3) / 0.7", "progress - 0.3"),
            ("progress >= 0.75", "progress > 0.75"),
            ("0.2 ** sum", "0.1 ** sum"),
            ("math.ceil(total / steps)", "total // steps"),
            ('"max_gradient": "None sets no limit",', ""),
            ('if numbers["momentum"] == 1:', "if False:"),
            ('numbers["weight_decay"] < math.inf', 'numbers["weight_decay"]'),
            ('"adam": 0.001', '"adam": 0.03'),
            ("if value != field.default}", "}"),
            ("object.__setattr__(self, name, value)", "pass"),
            ("_check_views(self.augment)", "pass"),
        ],
    ),
}


def planted() -> list[Planted]:
    return [
        Planted(function, file, tests, old, new)
        for function, (file, tests, faults) in FAULTS.items()
        for old, new in faults
    ]


def wrong_with(fault: Planted, text: str) -> str:
    """Why the fault cannot be planted into this file, "" where it can."""
    places = text.count(fault.old)
    return "" if places == 1 else f"{fault}: stands {places} times in {fault.file}, not once"


class First:
    """A pytest plugin that notes the first test that failed."""

    name = ""

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.name = self.name or report.nodeid


def tested(tests: str, fault: Planted | None) -> tuple[int, str, float]:
    """Run tests in a copy, in this process: pytest's exit status, the first that failed, seconds."""
    start, first = time.monotonic(), First()
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = Path(folder)
        for name in COPIED:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "vendor")
                shutil.copytree(ROOT / name, copy / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, copy / name)
        if fault:
            path = copy / "kdlib" / fault.file
            path.write_text(path.read_text().replace(fault.old, fault.new))
        os.chdir(copy)
        sys.path.insert(0, folder)
        os.environ["PYTHONPATH"] = folder  # for the processes that tests start
        signal.signal(signal.SIGALRM, lambda *_: pytest.exit(f"more than {LONGEST} s"))
        signal.alarm(LONGEST)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            options = ["-x", "-q", "--assert=plain", "-p", "no:xdist", "-p", "no:nbval"]
            status = pytest.main([*options, *tests.split()], [first])
        signal.alarm(0)
        os.chdir(ROOT)
    return int(status), first.name, time.monotonic() - start


def main(names: list[str]) -> int:
    if unknown := set(names) - set(FAULTS):
        print(f"NAME must be one of {', '.join(FAULTS)}, got {', '.join(sorted(unknown))}")
        return 2
    faults = [f for f in planted() if not names or f.function in names]
    wrong = [wrong_with(f, (ROOT / "kdlib" / f.file).read_text()) for f in faults]
    if any(wrong):
        print("\n".join(filter(None, wrong)))
        return 2

    os.environ["OMP_NUM_THREADS"] = "1"
    sys.dont_write_bytecode = True
    for name in ("pandas", "scipy.stats", "sklearn.datasets", "torch"):
        import_module(name)  # once, not in every process
    green = []
    # Every run gets a process of its own, in which kdlib has not been imported.
    with multiprocessing.get_context("fork").Pool(maxtasksperchild=1) as pool:
        sound = list(dict.fromkeys(f.tests for f in faults))
        for tests, (status, by, _) in zip(
            sound, pool.starmap(tested, [(t, None) for t in sound], chunksize=1), strict=True
        ):
            if status:
                print(f"without a fault {tests} must pass, but ends with {status}: {by}")
                return 2
        runs = [pool.apply_async(tested, (f.tests, f)) for f in faults]
        for k, (fault, run) in enumerate(zip(faults, runs, strict=True), 1):
            status, by, seconds = run.get()
            seen = status == 1 and "::" in by  # a file that cannot be imported is not a fault found
            verdict = "red  " if seen else "GREEN"
            print(f"[{k}/{len(faults)}] {verdict} {fault}", flush=True)
            print(f"      {by or f'pytest ended with {status}'} ({seconds:.0f} s)", flush=True)
            green += [] if seen else [fault]
    print(f"\n{len(faults)} faults planted, {len(green)} not noticed")
    return bool(green)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
