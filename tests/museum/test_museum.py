"""The bug museum: readers' tests are judged by what they catch, and by what they leave alone."""

import inspect
import re
from pathlib import Path

import nbformat
import pytest
import torch
from test_mistakes import CHECKS, every_mistake, gradient, logits

import kdlib as kd
from kdlib.course.museum.check import _OTHERS, HINTS, catalogue, check_test, wrong_code
from kdlib.course.museum.mistakes import MISTAKES

CATCHES = CHECKS["t_squared_forgotten"]
z, v = logits(), logits(seed=1)


def test_every_room_has_hints_in_steps():
    assert set(HINTS) <= set(CHECKS)
    assert all(len(steps) >= 2 for steps in HINTS.values())


@every_mistake
def test_a_test_that_checks_nothing_has_not_caught_the_bug(mistake):
    report = check_test(mistake.name, lambda code: None)
    assert failing(report) == ["It fails on the bug"]
    assert [known.wrong for known in report.mistakes] == [mistake.wrong]


@pytest.mark.parametrize("right", _OTHERS, ids=lambda right: right.__name__)
def test_right_code_in_another_form_has_the_signature_of_the_right_twin(right):
    names = [list(inspect.signature(code).parameters) for code in (right, _OTHERS[right])]
    assert names[0] == names[1]


def test_a_test_that_always_fails_catches_nothing_and_is_shown_its_error():
    def always(loss):
        raise TypeError("no")

    report = check_test("t_squared_forgotten", always)
    assert failing(report) == [result.says for result in report.results]
    assert report.results[0].failed.got == 'TypeError: no (in "raise TypeError("no")")'
    assert not report.mistakes


def test_the_code_under_test_reveals_neither_name_nor_source():
    seen = []

    def curious(loss):
        name = loss.__name__, loss.__qualname__, loss.__module__, repr(loss).split(" at ")[0]
        seen.append(
            (*name, str(inspect.signature(loss)), inspect.unwrap(loss) is loss, loss.__doc__)
        )
        assert "kdlib" not in loss.__module__
        with pytest.raises(OSError):
            inspect.getsource(loss.__code__.replace(co_filename="nowhere.py"))
        assert "forgotten" not in inspect.getsource(loss)

    assert not check_test("t_squared_forgotten", curious).passed
    assert len(set(seen)) == 1


def test_a_test_that_accepts_one_form_of_right_code_only_fails():
    def to_the_last_bit(loss):
        assert gradient(loss, z / 10, v / 10, 16.0).norm() > 0.001
        for student, teacher in torch.randn(20, 2, 64, 10):
            assert loss(student, teacher, 4.0) == kd.soft_target_loss(student, teacher, 4.0)

    def one_draw(permute):
        expected = kd.permute_dark_knowledge(v, torch.Generator().manual_seed(0))
        assert torch.equal(permute(v, torch.Generator().manual_seed(0)), expected)

    assert "another way" in failing(check_test("t_squared_forgotten", to_the_last_bit))[0]
    assert "another way" in failing(check_test("samples_permuted", one_draw))[0]


def test_a_test_that_remembers_its_calls_fails():
    calls = []

    def counts(choose):
        calls.append(choose)
        assert len(calls) == 1

    report = check_test("chosen_by_test", counts)
    assert failing(report) == ["It passes on the right code once more"]


def test_every_call_has_the_same_seed_and_the_readers_own_random_numbers_go_on():
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


def test_what_a_test_returns_does_not_count():
    def by_return(choose):
        return choose([3, 1, 2], [5, 9, 4]) == (2, 9)

    for test in (by_return, lambda choose: None if by_return(choose) else False):
        report = check_test("chosen_by_test", test)
        assert "It fails on the bug" in failing(report)
        assert "only by raising" in repr(report)


def test_pytests_own_failures_count_as_raising():
    def with_pytest(loss):
        with pytest.raises(AssertionError):
            torch.testing.assert_close(loss(z, z, 4.0) + 1, loss(z, z, 4.0))
        if gradient(loss, z / 10, v / 10, 16.0).norm() < 0.01:
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


def test_a_bug_without_a_room_has_its_symptom_as_a_hint():
    (known,) = check_test("best_never_updated", lambda kept: None).mistakes
    assert known.hints == ("The best checkpoint is always the last one.",)


def test_an_unknown_bug_is_refused_with_the_nearest_names():
    with pytest.raises(ValueError, match="'t_squared'; near it .*t_squared_forgotten"):
        check_test("t_squared", CATCHES)
    with pytest.raises(ValueError, match="'zzz'$"):
        wrong_code("zzz")
    with pytest.raises(TypeError, match="test must be a function"):
        check_test("t_squared_forgotten", True)


@every_mistake
def test_the_wrong_code_can_be_read(mistake):
    code = wrong_code(mistake.name)
    compile(code, mistake.name, "exec")
    assert code.startswith(f"def {mistake.name}(")
    assert '"""' not in code and "@mistake" not in code
    assert code._repr_markdown_() == f"```python\n{code}\n```"


def test_the_wrong_code_comes_with_its_helpers():
    assert "def _batches(" in wrong_code("targets_by_position")
    assert "class _BackwardByHand(" in wrong_code("gradient_of_another_function")
    assert wrong_code("t_squared_forgotten").count("def ") == 1


def test_the_catalogue_has_a_row_for_every_mistake_in_their_order():
    table = catalogue()
    assert list(table.index) == [mistake.name for mistake in MISTAKES]
    assert table.loc["roles_swapped", "source"] == "keras-team/keras-io issue #257"
    assert table.notna().all(axis=None)


def failing(report):
    return [result.says for result in report.results if result.failed]


def test_a_puzzle_of_the_notebook_reveals_the_bug_that_it_has_shown():
    """The notebook finds its puzzles by their place in the catalogue, so as not to name them."""
    path = Path(__file__).resolve().parents[2] / "notebooks" / "09_bug_museum.ipynb"
    cells = {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}
    for puzzle in ("p1", "p2", "p3"):
        place = int(re.search(r"MISTAKES\[(\d+)\]", cells[puzzle].source)[1])
        (shown,) = cells[f"{puzzle}-code"].outputs
        assert f"def {MISTAKES[place].name}(" in shown.data["text/markdown"]
