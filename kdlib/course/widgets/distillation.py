"""Drag temperature and alpha over students that were really trained; distillation.js draws it."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral

import pandas as pd
import traitlets

from kdlib.course.widgets._explorer import Explorer, module, png
from kdlib.stats import paired

__all__ = ["DistillationExplorer"]

_KEY = ["temperature", "alpha", "seed"]
_SETTING = r"^T = (?P<temperature>[\d.]+), alpha = (?P<alpha>[\d.]+)$"


class DistillationExplorer(Explorer):
    """Drag temperature and alpha over a measured grid: errors with their interval, and the loss terms.

    The loss is ``alpha * T² * KL + (1 - alpha) * CE``. Each setting shows every student's test errors,
    their mean with its 95 % interval (Student's t over the seeds), and the difference from students
    trained on labels alone (alpha = 0), paired by seed. Nothing is interpolated between settings.

    Args:
        table: one experiment of ``kd.results("student")``, or one row for each student, as in
            ``kd.fit_cohort(...).frame``, with the columns ``temperature``, ``alpha``, ``seed``,
            ``test_errors`` and, where known, ``test_loss`` (in nats) and the loss terms ``soft`` and
            ``hard``. Every temperature is combined with every alpha above 0, all with the same
            seeds; at alpha = 0 one temperature is enough.
        test_images: the number of test images; adds the accuracy with its interval.

    Attributes:
        temperature, alpha: the setting chosen, one of those measured.

    Raises:
        TypeError, ValueError: a table of another form or of several experiments, a missing setting,
            unequal seeds or fewer than two; fewer test images than errors; a setting that was not
            measured.

    Example:
        >>> from kdlib.reproduce import results
        >>> table = results("student")
        >>> explorer = DistillationExplorer(table[table.experiment == "grid 30"], test_images=10_000)
        >>> explorer.temperature = 20
    """

    _esm = module("distillation")
    name = "distillation explorer"

    temperature = traitlets.Float().tag(sync=True)
    alpha = traitlets.Float().tag(sync=True)
    _cells = traitlets.List().tag(sync=True)
    _temperatures = traitlets.List().tag(sync=True)
    _alphas = traitlets.List().tag(sync=True)
    _test_images = traitlets.Int(allow_none=True).tag(sync=True)

    def __init__(self, table: pd.DataFrame, test_images: int | None = None) -> None:
        students = _students(table)
        if test_images is not None:
            _check_test_images(test_images, int(students["test_errors"].max()))
        temperatures = sorted(students["temperature"].unique().tolist())
        alphas = sorted(students["alpha"].unique().tolist())
        super().__init__(
            temperature=temperatures[len(temperatures) // 2],
            alpha=alphas[len(alphas) // 2],
            _cells=_cells(students, temperatures, alphas),
            _temperatures=temperatures,
            _alphas=alphas,
            _test_images=None if test_images is None else int(test_images),
        )

    @traitlets.validate("temperature")
    def _temperature_was_measured(self, proposal) -> float:
        return _measured("temperature", proposal.value, self._temperatures)

    @traitlets.validate("alpha")
    def _alpha_was_measured(self, proposal) -> float:
        return _measured("alpha", proposal.value, self._alphas)

    @classmethod
    def heights_for(cls, state: Mapping, picture: bytes) -> tuple[tuple[int, str], ...]:
        rows = len(state["_alphas"])
        return ((0, f"{810 + 44 * rows}px"), (720, f"{max(590, 240 + 44 * rows)}px"))

    @property
    def cell(self) -> dict[str, object]:
        """What was measured at the chosen setting."""
        return next(
            cell
            for cell in self._cells
            if cell["alpha"] == self.alpha
            and self.alpha * (cell["temperature"] - self.temperature) == 0
        )

    def picture(self) -> bytes:
        import seaborn as sns
        from matplotlib import pyplot as plt

        from kdlib.course.plots import COLOURS

        labels, *others = self._cells
        means = (
            pd.DataFrame(others)
            .pivot_table("mean", "alpha", "temperature")
            .sort_index(ascending=False)
        )
        means.columns = [f"{T:g}" for T in means.columns]
        figure, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
        shades = sns.light_palette(COLOURS["soft"], reverse=True, as_cmap=True)
        sns.heatmap(means, annot=True, fmt=".0f", cmap=shades, cbar=False, linewidths=3, ax=ax)
        title = f"mean test errors; labels only, alpha = 0: {labels['mean']:.0f}"
        ax.set(title=title, xlabel="temperature")
        plt.close(figure)
        return png(figure)

    def alt(self) -> str:
        cell = self.cell
        return (
            f"Test errors of students by temperature and alpha; at T = {self.temperature:g} and "
            f"alpha = {self.alpha:g} they are {cell['mean']:.0f} on average "
            f"[{cell['low']:.0f}, {cell['high']:.0f}], n = {len(cell['errors'])}."
        )


def _check_test_images(test_images: int, most_errors: int) -> None:
    if not isinstance(test_images, Integral) or isinstance(test_images, bool):
        raise TypeError(
            f"test_images must be a whole number, got {test_images!r}; len(data.test) is one"
        )
    if test_images < max(most_errors, 1):
        raise ValueError(
            f"test_images must be at least the {most_errors} errors of a student, got {test_images}; "
            "len(data.test) would do"
        )


def _students(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each student."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            f"table must be a pandas table of students, got {type(table).__name__}; an experiment of "
            'kd.results("student") or cohort.frame would do'
        )
    students = _of_results(table) if "metric" in table else table
    if missing := [name for name in (*_KEY, "test_errors") if name not in students]:
        raise ValueError(
            f"table must have the column {missing[0]}, got {', '.join(students.columns)}"
        )
    if students[[*_KEY, "test_errors"]].isna().any(axis=None):
        raise ValueError(
            "table must have temperature, alpha, seed and test_errors in every row, got nan"
        )
    if not len(students) or not (students["alpha"] == 0).any():
        raise ValueError(
            "table must have students of alpha = 0, trained on labels alone, to compare with"
        )
    if not (students["alpha"] != 0).any():
        raise ValueError(
            "table must have students of an alpha above 0, got those of alpha = 0 alone"
        )
    return students


def _of_results(table: pd.DataFrame) -> pd.DataFrame:
    table = table.reset_index(drop=True)
    settings = table["setting"].str.extract(_SETTING).astype(float)
    rows = table.join(settings)[settings["alpha"].notna() & table["student_seed"].notna()]
    experiments = rows["experiment"].unique().tolist()
    if len(experiments) != 1:
        raise ValueError(
            "table must be one experiment whose settings are like 'T = 4, alpha = 0.9', got "
            f"{' and '.join(experiments) or 'none'}; "
            'table[table.experiment == "grid 30"] chooses one'
        )
    rows = rows[rows["metric"].isin(["test_errors", "test_loss"])].rename(
        columns={"student_seed": "seed"}
    )
    if rows.duplicated([*_KEY, "metric"]).any():
        raise ValueError("table must hold each student once, got one twice; keep one protocol")
    return rows.pivot(index=_KEY, columns="metric", values="value").reset_index()


def _cells(students: pd.DataFrame, temperatures: list[float], alphas: list[float]) -> list[dict]:
    """One cell for each setting; at alpha = 0, without soft targets, all temperatures share one."""
    without = students[students["alpha"] == 0]
    labels = without[without["temperature"] == without["temperature"].min()].set_index("seed")
    cells = [_cell(labels, labels)]
    for alpha in alphas[1:]:
        for T in temperatures:
            there = (students["alpha"] == alpha) & (students["temperature"] == T)
            if not there.any():
                raise ValueError(
                    f"table must have every setting, got none of T = {T:g}, alpha = {alpha:g}"
                )
            cells.append(_cell(students[there].set_index("seed"), labels))
    return cells


def _cell(own: pd.DataFrame, labels: pd.DataFrame) -> dict[str, object]:
    where = f"T = {own['temperature'].iloc[0]:g}, alpha = {own['alpha'].iloc[0]:g}"
    if len(own) < 2 or sorted(own.index) != sorted(labels.index):
        raise ValueError(
            f"table must have the same seeds in every setting, at least two, got {sorted(own.index)} "
            f"at {where} and {sorted(labels.index)} at alpha = 0"
        )
    errors = own["test_errors"].sort_index()
    against = paired(errors, labels["test_errors"].sort_index(), lower_is_better=True)
    return {
        "temperature": float(own["temperature"].iloc[0]),
        "alpha": float(own["alpha"].iloc[0]),
        "errors": errors.tolist(),
        **_interval(errors),
        "against": vars(against),
        "loss": _interval(own["test_loss"]) if "test_loss" in own else None,
        "terms": _terms(own),
    }


def _terms(own: pd.DataFrame) -> dict[str, float] | None:
    if not {"soft", "hard"} <= {*own} or own[["soft", "hard"]].isna().any(axis=None):
        return None
    return own[["soft", "hard"]].mean().to_dict()


def _interval(values: pd.Series) -> dict[str, float]:
    """Mean and 95 % interval: the paired difference from zero."""
    found = paired(values, [0] * len(values))
    return {"mean": found.difference, "low": found.low, "high": found.high}


def _measured(name: str, value: float, there: list[float]) -> float:
    if value not in there:
        raise ValueError(
            f"{name} must be one of {', '.join(f'{x:g}' for x in there)}, got {value!r}"
        )
    return value
