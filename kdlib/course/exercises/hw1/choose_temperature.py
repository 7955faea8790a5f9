"""Homework 1, exercise 6: the choice of a temperature."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdlib.course.exercises.claims import is_number, same_number
from kdlib.course.grading.exercise import Ask, Draw, Exercise

choose_temperature = Exercise(
    "choose_temperature",
    "choose_temperature(temperatures, validation_errors, test_errors) gives the chosen temperature "
    "and the test errors to report for it. Errors are (temperatures, seeds).",
    minutes=10,
)


TWO_THINGS = "two things: a temperature, and test errors"


@choose_temperature.holds(
    "The temperature with the fewest validation errors, on average, is chosen"
)
def fewest_mean_validation_errors_win(ask: Ask, draw: Draw) -> None:
    for _ in range(3):
        given = _runs(draw)
        found = ask(**given)
        found.should(is_number(found.value) or _is_pair(found.value), TWO_THINGS)
        chosen = found.value if is_number(found.value) else found.value[0]
        means = given["validation_errors"].mean(1)
        rows = [k for k, T in enumerate(given["temperatures"]) if same_number(chosen, T)]
        found.should(bool(rows), "one of the given temperatures first")
        best, own = int(means.argmin()), rows[0]
        found.should(
            own == best,
            f"T = {given['temperatures'][best]:g}: its mean validation errors are {means[best]:.1f}, "
            f"yours {means[own]:.1f}",
        )


@choose_temperature.holds("What is reported is the mean of that temperature's test errors")
def mean_test_errors_are_reported(ask: Ask, draw: Draw) -> None:
    for _ in range(3):
        given = _runs(draw)
        found = ask(**given)
        found.should(_is_pair(found.value), TWO_THINGS)
        chosen = [k for k, T in enumerate(given["temperatures"]) if same_number(found.value[0], T)]
        found.should(bool(chosen), "one of the given temperatures first")
        expected = float(given["test_errors"][chosen[0]].mean())
        found.should(same_number(found.value[1], expected), f"the second to be {expected:.6g}")


def _runs(draw: Draw) -> dict[str, object]:
    """Seven temperatures, three seeds; every wrong reading of the tables chooses another row."""
    temperatures = [1.0, 2.0, 3.0, 4.0, 8.0, 12.0, 20.0]
    validation, test = (
        60 + torch.tensor([[draw.integer(0, 9) for _ in range(3)] for _ in range(7)]).double()
        for _ in range(2)
    )
    order = torch.randperm(7, generator=draw.generator()).tolist()
    best, luckiest, middle, safest, by_test, worst, _ = order
    validation[best] = torch.tensor([30.0, 45.0, 56.0])  # on average
    validation[luckiest] = torch.tensor([20.0, 70.0, 71.0])
    validation[middle] = torch.tensor([40.0, 41.0, 65.0])  # the best median
    validation[safest] = torch.tensor([50.0, 51.0, 52.0])  # the best of the worst seeds
    validation[worst] += 30
    test[best] = test[best, 0] + torch.tensor([7.0, 0.0, 2.0])
    test[by_test] = 30.0
    return {"temperatures": temperatures, "validation_errors": validation, "test_errors": test}


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        or (isinstance(value, Tensor) and value.shape == (2,))
    )


def chosen(
    name: str,
    best: Callable = lambda v, t: v.mean(1).argmin(),
    reported: Callable = lambda v, t: t.mean(1),
) -> Callable:
    """A wrong answer: it chooses another ``best`` row, or other errors are ``reported``."""

    def answer(temperatures, validation_errors, test_errors):
        row = int(best(validation_errors, test_errors))
        return temperatures[row], float(reported(validation_errors, test_errors)[row])

    answer.__name__ = name
    return answer


choose_temperature.hint(
    "You chose by the test errors, so the errors you report are too good to be true.",
    "The test images stand for images not seen yet. The validation split is for choosing.",
    "Take the smallest mean of validation_errors.",
)(chosen("chosen_by_test", lambda v, t: t.mean(1).argmin()))

choose_temperature.hint(
    "You chose by the luckiest seed of each temperature.",
    "Each row holds students trained at one temperature. What says most about the next student?",
    "Take the mean over the seeds before you compare.",
)(chosen("chosen_by_the_luckiest", lambda v, t: v.min(1).values.argmin()))

choose_temperature.hint(
    "You chose by the middle seed of each temperature.",
    "A median does not see how bad the worst seed was. What should be small on average?",
    "Take the mean over the seeds before you compare.",
)(chosen("chosen_by_the_median", lambda v, t: v.median(1).values.argmin()))

choose_temperature.hint(
    "You chose by the unluckiest seed of each temperature.",
    "One student in three says little about the next, whether it is the best or the worst.",
    "Take the mean over the seeds before you compare.",
)(chosen("chosen_by_the_unluckiest", lambda v, t: v.max(1).values.argmin()))

choose_temperature.hint(
    "You chose the temperature that makes the most errors.",
    "These are errors, not accuracies.",
    "argmin",
)(chosen("the_worst", lambda v, t: v.mean(1).argmax()))

choose_temperature.hint(
    "You report the validation errors. They decided the choice, so they are too good.",
    "Which images played no part in the choice?",
    "Report the mean of test_errors in the chosen row.",
)(chosen("validation_reported", reported=lambda v, t: v.mean(1)))

choose_temperature.hint(
    "The chosen temperature is right, but you report its best seed.",
    "A reader will not have your luck.",
    "Report the mean over the seeds.",
)(chosen("best_seed_reported", reported=lambda v, t: t.min(1).values))


@choose_temperature.answer
def smallest_mean(temperatures, validation_errors, test_errors):
    best = int(validation_errors.mean(1).argmin())
    return temperatures[best], float(test_errors[best].mean())
