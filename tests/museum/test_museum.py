"""The bug museum: readers' tests are judged by what they catch, and by what they leave alone."""

import copy
import inspect
import re
from pathlib import Path

import nbformat
import pytest
import torch
from test_mistakes import CHECKS
from torch import nn

import kdlib as kd
from kdlib.course.museum.check import _OTHERS, HINTS, catalogue, check_test, wrong_code
from kdlib.course.museum.mistakes import MISTAKES

pytestmark = pytest.mark.usefixtures("one_thread")

SOLUTIONS = {}


def solves(name):
    def note(test):
        SOLUTIONS[name] = test
        return test

    return note


@solves("t_squared_forgotten")
def gradients_are_of_one_size(loss):
    sizes = [gradient_size(loss, z / 10, v / 10, T) for T in (4.0, 8.0, 16.0)]
    assert max(sizes) < 1.2 * min(sizes)


@solves("kl_averaged_over_classes")
def every_class_twice_changes_nothing(loss):
    once = loss(z, v, 4.0)
    twice = loss(torch.cat([z, z], 1), torch.cat([v, v], 1), 4.0)
    torch.testing.assert_close(once, twice)


@solves("both_sides_are_the_teacher")
def soft_targets_alone_move_the_student(loss):
    assert gradient_size(loss, z, v, labels, 4.0, 1.0) > 0


@solves("roles_swapped")
def the_teacher_stays(step):
    student, teacher = (kd.models.mlp(width, 1, inputs=9) for width in (4, 8))
    before = copy.deepcopy(teacher.state_dict())
    step(student, teacher, torch.randn(6, 1, 3, 3), labels)
    assert all(torch.equal(w, before[name]) for name, w in teacher.state_dict().items())


@solves("teacher_in_train_mode")
def the_same_question_has_the_same_answer(ask):
    teacher, inputs = network(), torch.randn(20, 6)
    torch.testing.assert_close(ask(teacher, inputs), ask(teacher, inputs))


@solves("evaluated_in_train_mode")
def scoring_leaves_no_trace(count):
    model = network()
    before = copy.deepcopy(model.state_dict())
    count(model, torch.randn(20, 6), torch.arange(20) % 4)
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())


@solves("targets_by_position")
def targets_are_what_the_teacher_says(batches):
    split = kd.data.Split(torch.randn(40, 6), torch.arange(40) % 4, torch.arange(40))
    teacher = network()
    for inputs, targets in batches(teacher, split, 0):
        torch.testing.assert_close(targets, kd.logits(teacher, inputs))


@solves("cached_despite_augmentation")
def targets_are_what_the_teacher_says_of_the_view(batches):
    teacher = kd.models.mlp(8, 1, inputs=64)
    split = kd.data.Split(torch.randn(40, 1, 8, 8), torch.arange(40) % 10, torch.arange(40))
    for views, targets in batches(teacher, split, kd.data.shift(2), 0):
        torch.testing.assert_close(targets, kd.logits(teacher, views))


@solves("hint_trains_the_teacher")
def the_hint_gets_no_gradient(loss):
    guided, hint = (torch.randn(3, 5, requires_grad=True) for _ in range(2))
    loss(guided, hint).backward()
    assert guided.grad.abs().sum() > 0
    assert hint.grad is None or hint.grad.abs().sum() == 0


@solves("batch_divided_twice")
def every_image_twice_changes_nothing(loss):
    maps = [[(torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4))] for _ in range(2)]
    doubled = [[tuple(torch.cat([x, x]) for x in pair) for pair in side] for side in maps]
    torch.testing.assert_close(loss(*maps), loss(*doubled))


@solves("samples_permuted")
def rows_stay_their_own(permute):
    found = permute(v, torch.Generator().manual_seed(0))
    assert torch.equal(found.sort(-1).values, v.sort(-1).values)
    assert torch.equal(found.argmax(-1), v.argmax(-1))


@solves("chosen_by_test")
def the_test_errors_are_reported_and_choose_nothing(choose):
    assert choose([3, 1, 2], [5, 9, 4]) == (2, 9)


@pytest.mark.parametrize("name", SOLUTIONS)
def test_a_test_that_catches_the_bug_passes(name):
    report = check_test(name, SOLUTIONS[name])
    assert report.passed, report
    assert not report.mistakes


def test_every_room_has_a_solution_and_hints():
    assert set(SOLUTIONS) == set(HINTS)
    assert all(len(steps) >= 2 for steps in HINTS.values())


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_every_mistake_of_the_catalogue_can_be_graded(mistake):
    report = check_test(mistake.name, CHECKS[mistake.name])
    assert report.passed, report


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_test_that_says_nothing_has_not_caught_the_bug(mistake):
    report = check_test(mistake.name, lambda code: None)
    assert failing(report) == ["It fails on the bug"]
    assert [known.wrong for known in report.mistakes] == [mistake.wrong]


@pytest.mark.parametrize("right", _OTHERS, ids=lambda right: right.__name__)
def test_right_code_of_another_form_is_called_as_the_right_twin(right):
    names = [list(inspect.signature(code).parameters) for code in (right, _OTHERS[right])]
    assert names[0] == names[1]


def test_a_test_that_always_fails_is_no_test():
    def always(loss):
        raise AssertionError("no")

    report = check_test("t_squared_forgotten", always)
    assert failing(report) == [result.says for result in report.results]
    assert 'AssertionError: no (in "raise AssertionError("no")")' in repr(report)
    assert not report.mistakes


def test_a_test_that_raises_on_both_for_another_reason_is_told_what_it_raised():
    report = check_test("hint_trains_the_teacher", lambda loss: loss(z))
    assert "It passes on the right code" in failing(report)
    assert "It fails on the bug" in failing(report)
    assert "TypeError" in report.results[0].failed.got


def test_the_code_under_test_does_not_tell_its_name():
    seen = []

    def curious(loss):
        seen.append(
            (loss.__name__, loss.__qualname__, loss.__module__, repr(loss).split(" at ")[0])
        )
        seen.append((str(inspect.signature(loss)), inspect.unwrap(loss) is loss, loss.__doc__))
        assert "kdlib" not in loss.__module__
        with pytest.raises(OSError):
            inspect.getsource(loss.__code__.replace(co_filename="nowhere.py"))
        assert "forgotten" not in inspect.getsource(loss)

    assert not check_test("t_squared_forgotten", curious).passed
    assert len(set(seen[::2])) == len(set(seen[1::2])) == 1


def test_a_test_that_wants_one_form_of_the_code_is_found_out():
    def to_the_last_bit(loss):
        assert gradient_size(loss, z / 10, v / 10, 16.0) > 0.001
        for student, teacher in torch.randn(20, 2, 64, 10):
            assert loss(student, teacher, 4.0) == kd.soft_target_loss(student, teacher, 4.0)

    def one_draw(permute):
        expected = kd.permute_dark_knowledge(v, torch.Generator().manual_seed(0))
        assert torch.equal(permute(v, torch.Generator().manual_seed(0)), expected)

    assert "another way" in failing(check_test("t_squared_forgotten", to_the_last_bit))[0]
    assert "another way" in failing(check_test("samples_permuted", one_draw))[0]


def test_a_test_that_remembers_its_calls_is_found_out():
    calls = []

    def counts(choose):
        calls.append(choose)
        assert len(calls) == 1

    assert failing(check_test("chosen_by_test", counts)) == [
        "It passes on the right code once more"
    ]


def test_random_numbers_begin_afresh_and_the_readers_own_go_on():
    draws = []
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    check_test("chosen_by_test", lambda choose: draws.append(torch.rand(1).item()))
    assert len(draws) == 3 and len(set(draws)) == 1
    assert torch.equal(torch.rand(1), expected)


def test_a_stub_is_not_written_yet():
    def stub(loss):
        raise NotImplementedError

    report = check_test("t_squared_forgotten", stub)
    assert repr(report) == "t_squared_forgotten: not written yet"
    assert not report.passed and report.points == 0


def test_what_a_test_returns_says_nothing():
    def by_return(choose):
        return choose([3, 1, 2], [5, 9, 4]) == (2, 9)

    def none_or_false(choose):
        return None if choose([3, 1, 2], [5, 9, 4]) == (2, 9) else False

    for test in (by_return, none_or_false):
        report = check_test("chosen_by_test", test)
        assert "It fails on the bug" in failing(report)
        assert "only by raising" in repr(report)


def test_pytests_own_failures_count_as_raising():
    def with_pytest(loss):
        with pytest.raises(AssertionError):
            torch.testing.assert_close(loss(z, z, 4.0) + 1, loss(z, z, 4.0))
        if gradient_size(loss, z / 10, v / 10, 16.0) < 0.01:
            pytest.fail("far too small")

    assert check_test("t_squared_forgotten", with_pytest).passed


def test_hints_come_in_steps():
    def of_zeros(loss):
        assert loss(z, z, 4.0).abs() < 1e-9

    first, second = HINTS["t_squared_forgotten"]
    text = repr(check_test("t_squared_forgotten", of_zeros))
    assert first in text and second not in text
    assert second in repr(check_test("t_squared_forgotten", of_zeros, hints=2))
    assert second in check_test("t_squared_forgotten", of_zeros)._repr_html_()


def test_a_bug_without_a_room_has_its_symptom_for_a_hint():
    (known,) = check_test("best_never_updated", lambda kept: None).mistakes
    assert known.hints == ("The best checkpoint is always the last one.",)


def test_an_unknown_bug_is_refused_with_those_of_a_like_name():
    with pytest.raises(ValueError, match="'t_squared'; near it .*t_squared_forgotten"):
        check_test("t_squared", SOLUTIONS["t_squared_forgotten"])
    with pytest.raises(ValueError, match="'zzz'$"):
        wrong_code("zzz")
    with pytest.raises(TypeError, match="test must be a function"):
        check_test("t_squared_forgotten", True)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_the_wrong_code_can_be_read(mistake):
    code = wrong_code(mistake.name)
    compile(code, mistake.name, "exec")
    assert code.startswith(f"def {mistake.name}(") and '"""' not in code
    assert code._repr_markdown_() == f"```python\n{code}\n```"


def test_the_wrong_code_comes_with_its_helpers():
    assert "def _batches(" in wrong_code("targets_by_position")
    assert "class _BackwardByHand(" in wrong_code("gradient_of_another_function")
    assert wrong_code("t_squared_forgotten").count("def ") == 1


def test_the_catalogue_has_a_row_for_every_mistake():
    table = catalogue()
    assert list(table.index) == [mistake.name for mistake in MISTAKES]
    assert table.loc["roles_swapped", "source"] == "keras-team/keras-io issue #257"
    assert table.notna().all(axis=None)


def failing(report):
    return [result.says for result in report.results if result.failed]


def gradient_size(loss, student, *rest):
    student = student.clone().requires_grad_()
    return float(torch.autograd.grad(loss(student, *rest), student)[0].norm())


def network():
    """In train mode, with what differs there."""
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))


z, v = (
    torch.randn(6, 10, generator=torch.Generator().manual_seed(k), dtype=torch.float64) * 3
    for k in range(2)
)
labels = torch.arange(6)


def test_a_puzzle_reveals_the_bug_that_it_has_shown():
    """The notebook finds its puzzles by their place in the catalogue, so as not to name them."""
    path = Path(__file__).resolve().parents[2] / "notebooks" / "09_bug_museum.ipynb"
    cells = {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}
    for puzzle in ("p1", "p2", "p3"):
        place = int(re.search(r"MISTAKES\[(\d+)\]", cells[puzzle].source)[1])
        (shown,) = cells[f"{puzzle}-code"].outputs
        assert f"def {MISTAKES[place].name}(" in shown.data["text/markdown"]
