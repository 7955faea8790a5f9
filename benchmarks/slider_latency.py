"""How long after a move of the slider is the new picture painted, and how many frames are dropped?

The temperature explorer beside the usual notebook widget: ``interact``, a slider of ipywidgets, and a
function that draws with matplotlib inline. Both show one teacher's digit in four panels: the image,
its soft targets, their entropy over T, and the size of the gradient over T with and without T². The
function computes its curves once, and draws as few ticks as the explorer. The third row is the browser's
own floor: a bare range input that writes its value. All are live cells of one JupyterLab page in a
headless Chromium; the browser itself moves the mouse. The sides take turns, a drag of 20 moves each.

Latency: each move waits until the one before is painted, and a random part of a frame more. Latency lasts
from the mouse's move (the event's ``timeStamp``, so waiting for the next frame counts) to the first task
after the frame of the new picture, when its layout and paint are done; "in the page" starts when the page
receives the move. What the compositor does later is left out. Dropped frames: the mouse is dragged to and
fro at 125 moves a second, so that every frame has something new to show; of the frames at 60 a second from
the first move to the last, those without a new picture are dropped. Over all drags: frames without any
picture, and how often the output's height changed. The last line is the ratio of the 95th percentiles.

``python benchmarks/slider_latency.py [MOVES]``
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
PACKAGES = ("playwright", "jupyterlab", "ipywidgets", "nbformat")
MISSING = [name for name in PACKAGES if find_spec(name) is None]
if BROWSER is None:
    MISSING.append("an installed Chromium")
if MISSING:
    print(f"skipped: the benchmark of sliders needs {', '.join(MISSING)}")
    raise SystemExit

import nbformat
import numpy as np
import pandas as pd
from playwright.async_api import async_playwright

from kdlib.reproduce import hardware

FRAME = 1000 / 60  # milliseconds
BLOCK = 20  # moves in a drag
FIRST, LOW, HIGH = 0.523, 0.1, 0.9  # of the slider's length; the first is T = 4

TEACHER = """
import kdlib as kd

data = kd.data.load("digits", device="cpu")
teacher = kd.models.mlp(100)
kd.fit(teacher, kd.CrossEntropy(), data, kd.Recipe(epochs=5), progress=False)
test, logits = data.test, kd.logits(teacher, data.test)
"""

EXPLORER = """
explorer = kd.widgets.TemperatureExplorer(logits, test.inputs, test.labels, data.classes)
explorer
"""

INTERACT = """
import matplotlib.pyplot as plt
import numpy as np
from ipywidgets import FloatLogSlider, interact
from scipy.special import entr, softmax

n = explorer.index
z, label = logits[n].double().numpy(), int(test.labels[n])
temperatures = np.geomspace(0.25, 50, 121)
p = softmax(z / temperatures[:, None], axis=1)
entropies = entr(p).sum(1)
gaps = np.linalg.norm(p - 1 / len(z), axis=1)

@interact(T=FloatLogSlider(value=4, min=np.log10(0.25), max=np.log10(50), step=0.01))
def show(T):
    p = softmax(z / T)
    gap = np.linalg.norm(p - 1 / len(z))
    figure, (image, bars, entropy, gradient) = plt.subplots(1, 4, figsize=(13, 3))
    image.imshow(test.inputs[n, 0], cmap="gray_r")
    image.set_title(f"label {data.classes[label]}")
    image.axis("off")
    kd.plots.soft_target_bars(p, data.classes, label, bars)
    bars.set_title(f"soft targets at T = {T:.3g}")
    entropy.plot(temperatures, entropies)
    entropy.plot(T, entr(p).sum(), "o")
    entropy.set_title("entropy in nats")
    gradient.plot(temperatures, gaps * temperatures, label="with T²")
    gradient.plot(temperatures, gaps / temperatures, label="without")
    gradient.plot([T, T], [gap * T, gap / T], "o")
    gradient.set(yscale="log", title="size of the gradient")
    gradient.legend()
    for axes in (entropy, gradient):
        kd.plots.temperature_axis(axes)
    plt.show()
"""

BARE = """
from IPython.display import HTML

HTML('''<input type="range" min="-1.386" max="3.912" step="any" value="1.386" style="width: 600px"
    oninput="this.nextElementSibling.value = Math.exp(this.value).toPrecision(3)"><output>4</output>''')
"""

# The cell of each, its track, and how far inside the track's ends the middle of the handle stops.
SIDES = {
    "TemperatureExplorer": (1, "input[type=range]", 12),
    "interact, matplotlib": (2, ".noUi-base", 0),
    "a bare range input": (3, "input[type=range]", 8),
}
OURS, USUAL, FLOOR = SIDES

SETTINGS = {
    "@jupyterlab/notebook-extension:tracker": {
        "windowingMode": "none"
    },  # every cell stays in the page
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"},  # nothing lies over it
}

RUN_ALL = """async () => {
    await jupyterapp.restored;
    await jupyterapp.shell.currentWidget.sessionContext.ready;
    await jupyterapp.commands.execute("notebook:run-all-cells");
}"""

# A callback of a frame runs before its layout and paint. The frame is over when a message sent there
# arrives, or when the next frame begins.
WATCH = """() => {
    let area, seen, before;

    window.watch = cell => {
        area = document.querySelectorAll(".jp-CodeCell")[cell].querySelector(".jp-Cell-outputArea");
        before = picture();
        window.log = {moves: [], frames: [], painted: false, last: performance.now()};
    };
    // A number's text or an image's source; null if it is missing, the old one if it lags behind.
    function picture() {
        const node = area.querySelector("output, img");
        const input = area.querySelector("input[type=range]");
        if (!node || node.complete === false) return null;
        // The explorer takes what is nearly 1 for T = 1; a move goes further than that.
        if (input && Math.abs(Math.log(node.value) - input.value) > 0.06) return before;
        return node.value ?? node.getAttribute("src");
    }
    function over() {
        if (seen === undefined) return;
        const fresh = seen !== null && seen !== before, now = performance.now();
        log.frames.push([now, fresh, seen === null, area.offsetHeight]);
        if (fresh) before = seen, log.painted = true, log.last = now;
        seen = undefined;
    }
    const message = new MessageChannel();
    message.port1.onmessage = over;
    requestAnimationFrame(function frame() {
        requestAnimationFrame(frame);
        over();
        if (!area) return;
        seen = picture();
        message.port2.postMessage(null);
    });
    addEventListener("pointermove", event => {
        if (!area) return;
        log.painted = false;
        log.moves.push([event.timeStamp, performance.now()]);
    }, true);
}"""
IDLE = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
SETTLED = f"performance.now() - log.last > 300 && document.querySelector('{IDLE}') !== null"


@contextlib.contextmanager
def lab():
    """The address of the notebook in a JupyterLab of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as home:
        cells = map(nbformat.v4.new_code_cell, (TEACHER, EXPLORER, INTERACT, BARE))
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        notebook = nbformat.v4.new_notebook(cells=list(cells), metadata=kernel)
        nbformat.write(notebook, f"{home}/sliders.ipynb")
        settings = Path(home, "CONFIG", "labconfig", "default_setting_overrides.json")
        settings.parent.mkdir(parents=True)
        settings.write_text(json.dumps(SETTINGS))
        folders = {
            f"JUPYTER_{kind}_DIR": f"{home}/{kind}" for kind in ("CONFIG", "RUNTIME", "DATA")
        }
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
             "--expose-app-in-browser", "--IdentityProvider.token=",
             f"--ServerApp.port={address.split(':')[-1]}"],
            cwd=home, env=os.environ | folders, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_for(f"{address}/api/status")
            yield f"{address}/lab/tree/sliders.ipynb?reset"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def wait_for(address: str) -> None:
    for _ in range(240):
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(address)
        time.sleep(0.5)
    raise SystemExit(f"JupyterLab does not answer at {address}")


@contextlib.asynccontextmanager
async def opened(address: str):
    """Open the notebook's page and run its cells."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = await chromium.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(120_000)
        await page.goto(address)
        await page.locator(".jp-Notebook").wait_for()
        await asyncio.wait_for(page.evaluate(RUN_ALL), 240)
        for shown in (".readout", "img", "output:not(.readout)"):
            await page.locator(f".jp-Cell-outputArea {shown}").wait_for()
        await page.evaluate(WATCH)
        yield page
        await chromium.close()


async def drag(page, side: str, shares, quick: bool = False) -> dict:
    """Drag the handle through these shares of its track; return the summary of what was seen."""
    cell, track, inset = SIDES[side]
    track = page.locator(".jp-CodeCell").nth(cell).locator(track)
    await track.scroll_into_view_if_needed()
    box = await track.bounding_box()
    y = box["y"] + box["height"] / 2
    start, *places = box["x"] + inset + np.array(shares) * (box["width"] - 2 * inset)

    await page.mouse.move(start, y)
    await page.mouse.down()
    await page.evaluate(f"watch({cell})")
    await page.wait_for_function(SETTLED)
    await page.evaluate(f"watch({cell})")
    await (move_quickly if quick else move_one_by_one)(page, places, y)
    await page.mouse.up()
    await page.wait_for_function(SETTLED)
    return {"side": side, "quick": quick} | summary(**await page.evaluate("log"))


async def move_one_by_one(page, places, y: float) -> None:
    for x in places:
        await page.mouse.move(x, y)
        await page.wait_for_function("log.painted")
        await page.wait_for_timeout(FRAME + random.uniform(0, FRAME))


async def move_quickly(page, places, y: float, seconds: float = 1 / 125) -> None:
    """Move at a fixed rate, as a mouse does, without waiting for the page."""
    began, moves = time.perf_counter(), []
    for k, x in enumerate(places):
        await asyncio.sleep(began + k * seconds - time.perf_counter())
        moves.append(asyncio.create_task(page.mouse.move(x, y)))
    await asyncio.gather(*moves)


def summary(moves, frames, **_) -> dict:
    """Summarize one drag; latencies are milliseconds from each received move to the next picture."""
    sent, heard = np.array(moves).T
    times, fresh, blank, heights = np.array(frames, dtype=float).T
    painted = times[fresh == 1]
    shown = np.append(painted, np.nan)[np.searchsorted(painted, heard, side="right")]
    in_time = (painted > heard[0]) & (painted <= heard[-1] + FRAME)
    return {
        "latency": shown - sent,
        "in_page": shown - heard,
        "frames": round((heard[-1] - heard[0]) / FRAME) + 1,
        "pictures": in_time.sum(),
        "blank": int(blank.sum()),
        "heights": np.count_nonzero(np.diff(heights)),
        "interval": np.median(np.diff(times)),
    }


async def measured(moves: int) -> pd.DataFrame:
    """One row per drag: for each block and side a slow drag there, then a quick one to and fro."""
    to_and_fro = [
        *np.linspace(HIGH, LOW, 41),
        *np.linspace(LOW, HIGH, 41),
        *np.linspace(HIGH, LOW, 41),
    ]
    drags = []
    with lab() as address:
        async with opened(address) as page:
            for side in SIDES:  # warm
                await drag(page, side, np.linspace(FIRST, LOW, 6))
            for first in range(0, moves, BLOCK):
                there = np.linspace(LOW, HIGH, min(BLOCK, moves - first) + 1)
                for side in SIDES:
                    drags.append(await drag(page, side, there))
                    drags.append(await drag(page, side, to_and_fro, quick=True))
    return pd.DataFrame(drags)


def report(drags: pd.DataFrame) -> None:
    """Print the table, and last how many times longer the usual widget's 95th percentile is."""
    rows = {}
    for side, of_side in drags.groupby("side", sort=False):
        slow, quick = of_side[~of_side["quick"]], of_side[of_side["quick"]]
        row = {("", "moves"): np.isfinite(np.concatenate([*slow["latency"]])).sum()}
        for name, start in (("latency", "from the mouse"), ("in_page", "in the page")):
            times = np.concatenate([*slow[name]])
            row |= {(start, "median"): np.median(times), (start, "95 %"): np.percentile(times, 95)}
        dropped = 1 - quick["pictures"].sum() / quick["frames"].sum()
        row |= {
            ("frames", "dropped"): f"{dropped:.0%}",
            ("frames", "blank"): of_side["blank"].sum(),
        }
        rows[side] = row | {("height", "changes"): of_side["heights"].sum()}
    table = pd.DataFrame(rows).T
    print(table.to_string(float_format="{:.1f}".format))
    print(f"milliseconds; a frame is {drags['interval'].median():.1f}, at 60 a second {FRAME:.1f}")
    slowest = table["from the mouse", "95 %"]
    print(f"ratio: {slowest[USUAL] / slowest[OURS]:.1f}")


def main(moves: int = 200) -> None:
    if moves < 1:
        raise SystemExit(f"MOVES must be at least 1, got {moves}")
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("jupyterlab", "ipywidgets", "matplotlib")
    )
    print(f"{date.today()}, {hardware()}, {versions}; {moves} moves", flush=True)
    report(asyncio.run(measured(moves)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
