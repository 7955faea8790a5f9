"""A progress bar that leaves nothing behind, in a saved notebook either."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(
    total: int, done: int, shown: bool, what: str = "epochs"
) -> Iterator[Callable[[dict], None]]:
    """A progress bar that is gone when it is done, from a saved notebook too."""
    if not shown:
        yield lambda row: None
        return
    from tqdm.auto import tqdm
    from tqdm.notebook import tqdm_notebook

    in_notebook = issubclass(tqdm, tqdm_notebook)
    options = {"display": False} if in_notebook else {}
    shown_bar = tqdm(total=total, initial=done, desc=what, leave=False, **options)
    place = None
    if in_notebook:
        from IPython.display import display

        place = display(shown_bar.container, display_id=True)
        shown_bar.displayed = True

    def advance(row: dict) -> None:
        terms = {n: v for n, v in row.items() if n not in ("epoch", "step", "seconds")}
        shown_bar.set_postfix({n: f"{v:.3g}" for n, v in terms.items() if not math.isnan(v)})
        shown_bar.update()

    try:
        yield advance
    finally:
        shown_bar.close()
        if place is not None:
            place.update({}, raw=True)
