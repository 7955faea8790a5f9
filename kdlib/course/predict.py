"""Predict first: the reader commits to a guess, which is later shown next to the answer.

A guess stays in the kernel; nothing is sent or written anywhere. No answer is judged.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import cached_property
from numbers import Integral, Real

__all__ = ["Prediction", "predict"]

_WIDGET = "application/vnd.jupyter.widget-view+json"
_asked: dict[tuple, Prediction] = {}


def predict(question: str, choices: Sequence[str] | range) -> Prediction:
    """Ask the reader for a guess before a result is shown.

    The same question with the same choices keeps its guess while the kernel lives, so its cell can
    run again.

    Args:
        question: plain text, formulas between dollar signs.
        choices: at least two short strings, all different, shown as radio buttons; or a range of
            whole numbers, shown as a slider.

    Raises:
        TypeError, ValueError: the question or the choices are of another kind.

    Example:
        >>> guess = predict("Will the student make more errors?", ["more", "fewer"])
        Predict first. Will the student make more errors?
          - more
          - fewer
        To answer in code, run guess.value = "..." with one of these in place of the dots.
        >>> guess.value = "fewer"
        >>> guess.reveal("14 fewer")
        Your guess: fewer. Measured: 14 fewer.
    """
    fresh = Prediction(question, choices)
    guess = _asked.get(fresh._key, fresh)
    if guess._missed:
        guess = fresh
    _asked[guess._key] = guess
    guess.show()
    return guess


class Prediction:
    """A question, and the guess made so far; :func:`predict` makes and shows it."""

    def __init__(self, question: str, choices: Sequence[str] | range) -> None:
        self.question = _checked_question(question)
        self.choices = _checked_choices(choices)
        self._value: str | int | None = None
        self._revealed = False

    def __repr__(self) -> str:
        return f"Prediction({self.question!r}, value={self._value!r})"

    @property
    def _key(self) -> tuple:
        """What makes two questions the same."""
        return self.question, self.choices

    @property
    def _missed(self) -> bool:
        """Whether the answer came before a guess."""
        return self._revealed and self._value is None

    @property
    def value(self) -> str | int | None:
        """The guess, or None until the reader has made one; setting it makes the guess.

        Raises:
            ValueError: the guess is not one of the choices, or the answer has already been shown.
        """
        return self._value

    @value.setter
    def value(self, guess: str | int) -> None:
        if not self._offers(guess):
            raise ValueError(f"value must be {self._wanted}, got {guess!r}")
        if self._revealed and guess != self._value:
            again = "run the cell of the question again" if self._missed else "restart the kernel"
            raise ValueError(
                f"value stays {self._value!r} once the answer has been shown, got {guess!r}; "
                f"{again} to guess again"
            )
        self._value = int(guess) if isinstance(self.choices, range) else guess
        self._refresh()

    def reveal(self, answer: float | str) -> None:
        """Show the answer next to the guess, which can then no longer be changed.

        Args:
            answer: a string, or a number, shown with three digits or without decimals.

        Raises:
            TypeError, ValueError: the answer is neither, or an empty string.
        """
        measured = _readable(answer)
        self._revealed = True
        self._refresh()
        if self._value is None:
            _display(
                f"Measured: {measured} (you made no guess).",
                f"Measured: **{_escaped(measured)}** (you made no guess).",
            )
        else:
            guess = str(self._value)
            _display(
                f"Your guess: {guess}. Measured: {measured}.",
                f"Your guess: **{_escaped(guess)}**. Measured: **{_escaped(measured)}**.",
            )

    def show(self) -> None:
        """Display the widget, and the same question as text for pages without widgets."""
        offered = [] if isinstance(self.choices, range) else self.choices
        plain = [f"Predict first. {self.question}", *(f"  - {choice}" for choice in offered)]
        marked = [f"**Predict first.** {_escaped(self.question)}"]
        if offered:
            marked.append("\n".join(f"- {_escaped(choice)}" for choice in offered))
        if self._value is None:
            code = 'guess.value = "..."' if offered else "guess.value = ..."
            place = "one of these" if offered else self._wanted
            hint = "To answer in code, run {} with {} in place of the dots."
            plain.append(hint.format(code, place))
            marked.append(f"*{hint.format(f'`{code}`', place)}*")
        else:
            plain.append(f"Your guess: {self._value}.")
            marked.append(f"Your guess: **{_escaped(str(self._value))}**.")
        _display("\n".join(plain), "\n\n".join(marked), self.widget)

    @cached_property
    def widget(self):
        """The question, its radio buttons or slider, and a status line; None without ipywidgets."""
        try:
            import ipywidgets
        except ImportError:
            return None
        question = ipywidgets.HTMLMath(
            '<div style="line-height: 1.5"><b>Predict first.</b> '
            f"{html.escape(self.question)}</div>"
        )
        # Without a tooltip the label's would read "null".
        shared = {"description": "Your guess", "tooltip": ""}
        if isinstance(self.choices, range):
            low, high = min(self.choices), max(self.choices)
            control = ipywidgets.IntSlider(
                low, min=low, max=high, step=abs(self.choices.step), **shared
            )
        else:
            control = ipywidgets.RadioButtons(options=self.choices, value=None, **shared)
        control.style.description_width = "initial"
        control.layout.width = "min(100%, 44rem)"  # a longer choice would run into the next
        control.observe(self._chosen, "value")
        return ipywidgets.VBox([question, control, ipywidgets.Label(self._status)])

    def _chosen(self, change) -> None:
        """Take the reader's choice; a click that arrives after the answer is undone."""
        if not self._revealed and self._offers(change["new"]):
            self._value = change["new"]
        self._refresh()

    def _refresh(self) -> None:
        """Let the widget show the guess and whether it can still be changed."""
        if self.widget is None:
            return
        _, control, status = self.widget.children
        unset = min(self.choices) if isinstance(self.choices, range) else None
        control.unobserve(self._chosen, "value")  # the reader did not do this
        control.value = unset if self._value is None else self._value
        control.observe(self._chosen, "value")
        control.disabled = self._revealed
        status.value = self._status

    def _offers(self, guess: object) -> bool:
        if isinstance(self.choices, range):
            whole = isinstance(guess, Integral) and not isinstance(guess, bool)
            return whole and int(guess) in self.choices
        return isinstance(guess, str) and guess in self.choices

    @property
    def _wanted(self) -> str:
        if not isinstance(self.choices, range):
            return "one of " + ", ".join(map(repr, self.choices))
        low, high, step = min(self.choices), max(self.choices), abs(self.choices.step)
        steps = "" if step == 1 else f" in steps of {step}"
        return f"a whole number from {low} to {high}{steps}"

    @property
    def _status(self) -> str:
        if self._missed:
            return "The answer was shown before you guessed. Run this cell again to guess."
        if self._revealed:
            return "The answer has been shown."
        if self._value is not None:
            return "Noted. You can change it until the answer is shown."
        if isinstance(self.choices, range):
            return f"No guess yet: move the slider to {self._wanted}."
        return "No guess yet: choose one."


def _checked_question(question: str) -> str:
    if not isinstance(question, str):
        raise TypeError(f"question must be a string, got {question!r}")
    if not question.strip():
        raise ValueError(
            f"question must not be empty, got {question!r}; ask about a result to come"
        )
    return question


def _checked_choices(choices: Sequence[str] | range) -> tuple[str, ...] | range:
    wanted = 'range(0, 101) or ["more", "fewer"] would do'
    if isinstance(choices, str) or not isinstance(choices, Sequence):
        raise TypeError(
            f"choices must be a range or a sequence of strings, got {choices!r}; {wanted}"
        )
    if not isinstance(choices, range):
        for choice in choices:
            if not isinstance(choice, str):
                raise TypeError(f"choices must be strings, got {choice!r} among them; {wanted}")
            if not choice.strip():
                raise ValueError(f"choices must not be empty, got {choice!r} among them; {wanted}")
        if len(set(choices)) < len(choices):
            raise ValueError(f"choices must all be different, got {choices!r}; {wanted}")
        choices = tuple(choices)
    if len(choices) < 2:
        raise ValueError(f"choices must be at least two, got {choices!r}; {wanted}")
    return choices


def _readable(answer: float | str) -> str:
    if isinstance(answer, str):
        if not answer.strip():
            raise ValueError(f"answer must not be empty, got {answer!r}; say what was measured")
        return answer
    if isinstance(answer, bool) or not isinstance(answer, Real):
        raise TypeError(
            f"answer must be a number or a string, got {answer!r}; float(answer) or str(answer) would do"
        )
    if isinstance(answer, Integral):
        return str(int(answer))
    number = float(answer)
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _escaped(text: str) -> str:
    """Plain text as Markdown; formulas stay as they are."""
    parts = re.split(r"(\$[^$]+\$)", text)
    parts[::2] = [re.sub(r"([\\`*_<>\[\]#|~])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def _display(plain: str, marked: str, widget=None) -> None:
    """Display one output that every page shows as well as it can; without IPython, print it."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        print(plain)
        return
    if get_ipython() is None:
        print(plain)
        return
    bundle = {"text/plain": plain, "text/markdown": marked}
    if widget is not None:
        bundle[_WIDGET] = widget._repr_mimebundle_()[_WIDGET]
    display(bundle, raw=True)
