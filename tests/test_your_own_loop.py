"""docs/your_own_loop.md: every block runs, and its gradients are those of the formula in plain torch.

The oracle is F.kl_div, in float64. Teachers come in training mode, with dropout and BatchNorm: a block that
forgets eval mode gets other logits and moves the teacher's statistics.
"""

import copy
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import kdlib as kd

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/your_own_loop.md").read_text(encoding="utf-8")
BLOCKS = {
    section.partition("\n")[0]: re.findall(r"(?ms)^```(?:python)?\n(.*?)^```", section)
    for section in PAGE.split("\n## ")
}
RATE, CLASSES, IMAGES = 0.1, 5, 8
close = torch.testing.assert_close


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def run(section, **given):
    """Run the section's block on the given names and return all names."""
    names = {"torch": torch, "kd": kd} | given
    exec(compile(BLOCKS[section][0], f"the block of {section!r}", "exec"), names)  # noqa: S102
    return names


def linear_student():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def unruly_teacher():
    """A network whose logits in training mode differ from those in eval mode."""
    layers = nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, CLASSES)
    return nn.Sequential(nn.Flatten(), *layers)


def setting(student=linear_student, teacher=unruly_teacher, shape=(IMAGES, 3, 2, 2)):
    torch.manual_seed(0)
    x, y = torch.randn(shape), torch.randint(CLASSES, shape[:1])
    return student(), teacher(), x, y


def distillation(s, t, y):
    """0.9 * T^2 * KL(p || q) + 0.1 * CE at T = 4, the mean over the batch."""
    log_q, log_p = torch.log_softmax(s / 4, -1), torch.log_softmax(t / 4, -1)
    soft = 16 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return 0.9 * soft + 0.1 * F.cross_entropy(s, y)


def expected(student, teacher, x, y):
    """The gradients of the whole batch, computed on copies."""
    student, teacher = copy.deepcopy(student), copy.deepcopy(teacher).eval()
    loss = distillation(student(x), teacher(x).detach(), y)
    return torch.autograd.grad(loss, [*student.parameters()])


class Watched:
    """Copies from before the training, to be compared with what is there afterwards."""

    def __init__(self, student, teacher):
        self.networks, self.before = (student, teacher), copy.deepcopy((student, teacher))

    def moved_by(self, gradients):
        """One step of SGD along the gradients; the teacher's weights and statistics stay."""
        (student, teacher), (old, old_teacher) = self.networks, self.before
        close(teacher.state_dict(), old_teacher.state_dict(), rtol=0, atol=0)
        pairs = zip(student.parameters(), old.parameters(), strict=True)
        close([(then - now).detach() / RATE for now, then in pairs], [*gradients])


def parts(x, y, sizes=(5, 3)):
    return [*zip(x.split(sizes), y.split(sizes), strict=True)]


def optimizer_of(student):
    return torch.optim.SGD(student.parameters(), lr=RATE)


def test_every_block_of_the_page_is_run_here():
    source = Path(__file__).read_text(encoding="utf-8")
    for section, blocks in BLOCKS.items():
        allowed = 2 if section == "Several processes" else 1  # a script and its command
        assert not blocks or (len(blocks) == allowed and f'"{section}"' in source), section


def test_the_one_line_is_the_formula():
    student, teacher, x, y = setting()
    s, t = student(x), teacher.eval()(x).detach()
    title = "# kdlib's losses in your own training loop"
    close(run(title, student_logits=s, teacher_logits=t, labels=y)["loss"], distillation(s, t, y))


def test_a_plain_loop():
    student, teacher, x, y = setting()
    watched, gradients = Watched(student, teacher), expected(student, teacher, x, y)
    loader = DataLoader(TensorDataset(x, y), batch_size=IMAGES)
    names = {"student": student, "teacher": teacher, "optimizer": optimizer_of(student)}
    run("A plain loop", loader=loader, **names)
    watched.moved_by(gradients)


def test_a_hint_from_a_layer():
    from torchvision.models import resnet18, resnet50

    networks = [partial(make, num_classes=CLASSES) for make in (resnet18, resnet50)]
    student, teacher, x, y = setting(*networks, shape=(4, 3, 32, 32))
    watched, (ours, theirs) = Watched(student, teacher), copy.deepcopy((student, teacher))
    section = "A hint from a layer"
    regressor = run(section, student=student, teacher=teacher, loader=[(x, y)])["regressor"]
    found = [p.grad.clone() for p in regressor.parameters()]
    with torch.no_grad():
        for p in regressor.parameters():  # back to where the step began, if there was one
            p += RATE * p.grad
        t, u = theirs.eval()(x), up_to_layer2(theirs)(x)  # (N, C), (N, 512, 4, 4)
    hint = (u - regressor(up_to_layer2(ours)(x))).square().mean() / 2
    trained = [*ours.parameters(), *regressor.parameters()]
    gradients = torch.autograd.grad(distillation(ours(x), t, y) + hint, trained)
    watched.moved_by(gradients[:-2])
    close(found, [*gradients[-2:]])


def up_to_layer2(resnet):
    return nn.Sequential(*[*resnet.children()][:6])


@pytest.mark.slow
def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning")
    student, teacher, x, y = setting()
    watched, gradients = Watched(student, teacher), expected(student, teacher, x, y)
    module = run("Lightning")["Distillation"](student, teacher)
    options = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = lightning.Trainer(
        max_steps=1, accelerator="cpu", devices=1, default_root_dir=tmp_path, **options
    )
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=IMAGES))
    watched.moved_by(gradients)


class Answering(nn.Module):
    """A network called as Hugging Face's are."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixel_values, labels=None, **kwargs):
        from transformers.modeling_outputs import ImageClassifierOutput

        return ImageClassifierOutput(logits=self.network(pixel_values))


@pytest.mark.slow
def test_the_trainer_of_hugging_face_over_two_accumulated_batches(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    student, teacher, x, y = setting()
    watched, gradients = Watched(student, teacher), expected(student, teacher, x, y)
    data = [{"pixel_values": image, "labels": label} for image, label in zip(x, y, strict=True)]
    arguments = transformers.TrainingArguments(
        tmp_path,
        max_steps=1,
        per_device_train_batch_size=IMAGES // 2,
        gradient_accumulation_steps=2,
        max_grad_norm=0,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = run("Hugging Face's Trainer")["DistillationTrainer"](
        Answering(student),
        arguments,
        teacher=Answering(teacher),
        train_dataset=data,
        optimizers=(optimizer_of(student), None),
    )
    trainer.train()
    watched.moved_by(gradients)
    losses = trainer.evaluate(data)["eval_loss"]
    close(losses, distillation(student(x), teacher(x), y).item(), rtol=1e-5, atol=0)


MINE = """
import atexit, os, torch
from test_your_own_loop import parts, setting
from torch.utils.data import DataLoader, TensorDataset

torch.set_default_dtype(torch.float64)
rank = int(os.environ["RANK"])
student, teacher, x, y = setting()
loader = {loader}
parameters = [*student.parameters()]

@atexit.register
def leave():
    torch.save([p.grad for p in parameters], f"gradients{{rank}}.pt")
    os._exit(0)  # gloo's threads now and then abort a Python that is shutting down
"""


@pytest.mark.slow
@pytest.mark.parametrize("equal", [True, False], ids=["equal shares", "unequal shares"])
def test_two_processes(tmp_path, equal):
    pytest.importorskip("accelerate")
    script, command = BLOCKS["Several processes"]
    loader = "DataLoader(TensorDataset(x, y), batch_size=4)"
    if not equal:
        loader = "[parts(x, y)[rank]]"
        lines = [f"processes, total = 2, {IMAGES}", *BLOCKS["Unequal shares"][0].splitlines()]
        script = re.sub(r"(?m)^    loss = .*$", "\n".join(f"    {x}" for x in lines), script)
    (tmp_path / "train.py").write_text(script)
    (tmp_path / "mine.py").write_text(MINE.format(loader=loader))
    added = {
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    subprocess.run(shlex.split(command), cwd=tmp_path, env=os.environ | added, check=True)
    files = [tmp_path / f"gradients{rank}.pt" for rank in (0, 1)]
    first, second = (torch.load(file, weights_only=True) for file in files)
    close(first, second, rtol=0, atol=0)
    close(first, [*expected(*setting())])


def test_unequal_parts_of_one_step():
    student, teacher, x, y = setting()
    gradients = expected(student, teacher, x, y)
    means = [expected(student, teacher, *part) for part in parts(x, y)]
    with pytest.raises(AssertionError, match="not close"):
        close([sum(pair) / 2 for pair in zip(*means, strict=True)], [*gradients])
    for part, labels in parts(x, y):
        with torch.no_grad():
            t = teacher.eval()(part)
        names = {"student": student, "x": part, "t": t, "y": labels}
        run("Unequal shares", total=IMAGES, processes=1, **names)["loss"].backward()
    close([p.grad for p in student.parameters()], [*gradients])


def test_answers_of_fixed_images_follow_them_in_any_order():
    student, teacher, x, y = setting()
    watched = Watched(student, teacher)
    names = {"images": x, "labels": y, "student": student, "teacher": teacher}
    section = "Fixed images: ask the teacher once"
    run(section, **names)["loss"].backward()
    close([p.grad for p in student.parameters()], [*expected(student, teacher, x, y)])
    watched.moved_by([torch.zeros_like(p) for p in student.parameters()])
    assert teacher.training


def test_a_wrong_argument_raises_an_error():
    s, t, y = torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, -100])
    with pytest.raises(ValueError, match="class numbers from 0 to 2, got -100"):
        kd.hinton_loss(s, t, y, temperature=4, alpha=0.9)
    with pytest.raises(TypeError, match="student must be a floating-point tensor"):
        kd.hinton_loss({"logits": s}, t, y.abs(), temperature=4, alpha=0.9)


def test_a_loss_is_wide_under_autocast_and_compiles_whole():
    s, t = torch.randn(2, IMAGES, CLASSES, dtype=torch.bfloat16)
    y = torch.arange(IMAGES) % CLASSES

    def both(s, t):
        return kd.hinton_loss(s, t, y, temperature=4, alpha=0.9) + kd.hint_loss(s, t)

    whole = torch.compile(both, backend="eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = both(s, t), whole(s, t)
    close(found, (both(s.float(), t.float()),) * 2)


def test_taps_of_a_compiled_network_are_opened_before_its_first_call():
    student, _, x, _ = setting()
    compiled = torch.compile(student, backend="eager")
    with kd.taps(student, ["1"]) as features:
        compiled(x)
    assert features["1"].shape == (IMAGES, 8)
