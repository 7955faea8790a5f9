"""A progress bar that leaves nothing behind, not even in a saved notebook."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(
    total: int, done: int, shown: bool, what: str = "epochs"
) -> Iterator[Callable[[dict], None]]:
    """Show a bar and yield the function that advances it by a row; at the end the bar is removed."""
    if not shown:
        yield lambda row: None
        return
    from tqdm.auto import tqdm
    from tqdm.notebook import tqdm_notebook

    in_notebook = issubclass(tqdm, tqdm_notebook)
    options = {"display": False} if in_notebook else {}
    shown_bar = tqdm(total=total, initial=done, desc=what, leave=False, **options)
    # tqdm would leave an empty widget in the saved cell, so the display is ours, to be blanked.
    place = None
    if in_notebook:
        from IPython.display import display

        place = display(shown_bar.container, display_id=True)
        shown_bar.displayed = True

    def advance(row: dict) -> None:
        terms = {n: v for n, v in row.items() if n not in ("epoch", "step", "seconds")}
        # nan stands for "not measured", a validation loss without labels for one.
        shown_bar.set_postfix({n: f"{v:.3g}" for n, v in terms.items() if not math.isnan(v)})
        shown_bar.update()

    try:
        yield advance
    finally:
        shown_bar.close()
        if place is not None:
            place.update({}, raw=True)
