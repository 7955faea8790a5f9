"""Predict first: nothing is guessed for the reader, and no guess can change after the answer."""

import sys

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import kdlib as kd
from kdlib.course import predict as prediction
from kdlib.course.predict import Prediction

QUESTION = "How many of the 360 digits will the student get wrong?"
FATE = ["more", "fewer", "no difference"]
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(autouse=True)
def fresh_kernel(monkeypatch):
    monkeypatch.setattr(prediction, "_asked", {})


@pytest.fixture
def said(capsys):
    """Returns what was printed since the last call."""
    return lambda: capsys.readouterr().out


def control(guess):
    return guess.widget.children[1]


def status(guess):
    return guess.widget.children[2].value


@pytest.mark.parametrize("choices", [FATE, range(101), range(5, 1, -2)])
def test_nothing_is_guessed_before_the_reader_acts(choices):
    guess = kd.predict(QUESTION, choices)
    assert guess.value is None
    assert status(guess).startswith("No guess yet")
    assert not control(guess).disabled


def test_no_radio_button_is_selected_until_one_is_clicked(said):
    guess = kd.predict(QUESTION, FATE)
    assert list(control(guess).options) == FATE
    assert control(guess).index is None
    for clicked in ("fewer", "more"):
        control(guess).value = clicked
        assert guess.value == clicked
        assert status(guess).startswith("Noted")
    said()
    guess.reveal("fewer")
    assert said() == "Your guess: more. Measured: fewer.\n"


def test_a_slider_guesses_each_number_of_its_range():
    guess = kd.predict(QUESTION, range(100, -1, -5))
    slider = control(guess)
    assert (slider.min, slider.max, slider.step) == (0, 100, 5)
    for number in [*range(5, 101, 5), 0]:  # back at its start, which is a guess by now
        slider.value = number
        assert guess.value == number


def test_a_number_typed_between_the_steps_is_undone():
    guess = kd.predict(QUESTION, range(0, 101, 5))
    control(guess).value = 3
    assert (guess.value, control(guess).value) == (None, 0)
    control(guess).value = 55
    control(guess).value = 57
    assert guess.value == control(guess).value == 55


def test_a_guess_can_be_written_in_code_and_the_widget_follows():
    count, fate = kd.predict(QUESTION, range(101)), kd.predict(QUESTION, FATE)
    count.value, fate.value = np.int64(55), "fewer"
    assert (count.value, type(count.value), fate.value) == (55, int, "fewer")
    assert (control(count).value, control(fate).value) == (55, "fewer")
    assert status(count).startswith("Noted")


@pytest.mark.parametrize(
    ("choices", "wrong", "wanted"),
    [
        (range(101), 101, "value must be a whole number from 0 to 100, got 101"),
        (range(101), 5.0, "got 5.0"),
        (range(101), True, "got True"),
        (range(101), "5", "got '5'"),
        (range(0, 101, 5), 7, "from 0 to 100 in steps of 5, got 7"),
        (FATE, "less", "value must be one of 'more', 'fewer', 'no difference', got 'less'"),
        (FATE, None, "got None"),
        (FATE, 0, "got 0"),
        (FATE, ..., "got Ellipsis"),
    ],
)
def test_a_guess_that_was_not_offered_is_refused(choices, wrong, wanted):
    guess = kd.predict(QUESTION, choices)
    with pytest.raises(ValueError, match=wanted.replace("(", r"\(")):
        guess.value = wrong
    assert guess.value is None


def test_the_guess_is_shown_beside_the_answer_and_cannot_change(said):
    guess = kd.predict(QUESTION, range(101))
    guess.value = 55
    said()
    guess.reveal(41)
    assert said() == "Your guess: 55. Measured: 41.\n"
    assert control(guess).disabled
    control(guess).value = 41  # a click that was still on its way
    assert guess.value == control(guess).value == 55
    with pytest.raises(ValueError, match="value stays 55 .* got 41; restart the kernel"):
        guess.value = 41
    guess.value = 55  # its cell run again
    guess.reveal(41)
    assert said() == "Your guess: 55. Measured: 41.\n"


@pytest.mark.parametrize("choices", [FATE, range(101)])
def test_without_a_guess_the_answer_says_so_and_no_guess_is_taken_any_more(choices, said):
    guess = kd.predict(QUESTION, choices)
    said()
    guess.reveal(41)
    assert said() == "Measured: 41 (you made no guess).\n"
    assert control(guess).disabled
    before = control(guess).value
    control(guess).value = choices[1]
    assert (guess.value, control(guess).value) == (None, before)
    assert "Run this cell again" in status(guess)
    with pytest.raises(ValueError, match="run the cell of the question again"):
        guess.value = choices[1]


def test_the_same_question_keeps_its_guess_and_another_has_its_own(said):
    first = kd.predict(QUESTION, FATE)
    first.value = "fewer"
    said()
    again = kd.predict(QUESTION, tuple(FATE))
    assert again.value == "fewer"
    assert "Your guess: fewer." in said()
    again.reveal("more")
    assert control(kd.predict(QUESTION, FATE)).disabled
    assert kd.predict(QUESTION, ["more", "fewer"]).value is None
    assert kd.predict("And the teacher?", FATE).value is None


def test_a_question_whose_answer_came_too_early_can_be_asked_again():
    missed = kd.predict(QUESTION, FATE)
    missed.reveal("fewer")
    guess = kd.predict(QUESTION, FATE)
    assert not control(guess).disabled
    guess.value = "more"
    assert kd.predict(QUESTION, FATE) is guess


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (41, "41"),
        (np.int64(41), "41"),
        (41.0, "41"),
        (167.6, "168"),
        (-167.6, "-168"),
        (12345.6, "12346"),
        (99.96, "100"),
        (2.345678, "2.35"),
        (0.00123456, "0.00123"),
        (np.float32(0.5), "0.5"),
        ("14 ± 3 fewer", "14 ± 3 fewer"),
    ],
)
def test_an_answer_is_readable(answer, shown, said):
    guess = Prediction(QUESTION, range(101))
    guess.reveal(answer)
    assert said() == f"Measured: {shown} (you made no guess).\n"


@pytest.mark.parametrize(
    ("answer", "error"),
    [(None, TypeError), (True, TypeError), ([41], TypeError), (" ", ValueError)],
)
def test_an_empty_answer_is_refused_and_locks_nothing(answer, error):
    guess = Prediction(QUESTION, range(101))
    with pytest.raises(error, match="answer must"):
        guess.reveal(answer)
    guess.value = 3


@pytest.mark.parametrize(
    ("question", "choices", "error", "words"),
    [
        (7, FATE, TypeError, "question must be a string, got 7"),
        ("  ", FATE, ValueError, "question must not be empty"),
        (QUESTION, "more", TypeError, "a range or a sequence of strings, got 'more'"),
        (QUESTION, {"more", "fewer"}, TypeError, "choices must be a range or a sequence"),
        (QUESTION, 100, TypeError, "got 100; range"),
        (QUESTION, [1, 2], TypeError, "choices must be strings, got 1 among them"),
        (QUESTION, ["more", ""], ValueError, "choices must not be empty"),
        (QUESTION, ["more", "more"], ValueError, "choices must all be different"),
        (QUESTION, ["more"], ValueError, "choices must be at least two"),
        (QUESTION, range(1), ValueError, "choices must be at least two, got range"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(question, choices, error, words):
    with pytest.raises(error, match=words):
        kd.predict(question, choices)


def test_the_widget_holds_the_question_as_text_and_a_description_of_each_control():
    guess = kd.predict("Is 1 < 2 & <b>bold</b>?", FATE)
    assert "Is 1 &lt; 2 &amp; &lt;b&gt;bold&lt;/b&gt;?" in guess.widget.children[0].value
    assert control(guess).description == control(kd.predict(QUESTION, range(9))).description
    assert control(guess).description == "Your guess"


def test_markdown_shows_the_question_as_written_and_its_formulas():
    escaped = prediction._escaped("a_b *c* `d` [e](f) < #1 at $T_s < 4$, not_so")
    assert escaped == r"a\_b \*c\* \`d\` \[e\](f) \< \#1 at $T_s < 4$, not\_so"


def test_in_a_notebook_a_question_is_one_output_for_pages_with_widgets_and_without():
    sources = (
        f"import kdlib as kd\nguess = kd.predict({QUESTION!r}, {FATE!r})",
        f"kd.predict({QUESTION!r}, range(0, 101));",
        "guess.reveal('fewer')",
        f"guess = kd.predict({QUESTION!r}, {FATE!r}); guess.value = 'more'",
        "guess.reveal('fewer')",
        "import sys; sys.modules['ipywidgets'] = None; kd.predict('Fewer?', ['yes', 'no']);",
    )
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=120, store_widget_state=False).execute()
    asked, number, revealed, _, late, without = (cell.outputs for cell in notebook.cells)
    (question,) = asked
    assert set(question.data) == {WIDGET, "text/markdown", "text/plain"}
    assert question.data["text/markdown"].startswith(f"**Predict first.** {QUESTION}\n\n- more\n")
    for page in ("text/markdown", "text/plain"):
        assert 'guess.value = "..."' in question.data[page]
        assert "a whole number from 0 to 100" in number[0].data[page]
    assert revealed[0].data["text/plain"] == "Measured: fewer (you made no guess)."
    (answer,) = late
    assert answer.data == {
        "text/plain": "Your guess: more. Measured: fewer.",
        "text/markdown": "Your guess: **more**. Measured: **fewer**.",
    }
    assert set(without[0].data) == {"text/markdown", "text/plain"}  # no ipywidgets, no view


def test_a_python_without_ipython_prints(monkeypatch, said):
    for name in ("IPython", "IPython.display", "ipywidgets"):
        monkeypatch.setitem(sys.modules, name, None)
    guess = kd.predict(QUESTION, FATE)
    assert said().startswith(f"Predict first. {QUESTION}\n  - more\n  - fewer\n")
    assert guess.widget is None
    guess.value = "fewer"
    guess.reveal(41)
    assert said() == "Your guess: fewer. Measured: 41.\n"
