"""What a newcomer does after ``make lab``, in a real browser: Run All, drag a slider, make a guess."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="needs an installed Chromium"),
]

KERNEL = ".jp-Notebook-ExecutionIndicator"
PREDICTION = (
    'import kdlib as kd\nguess = kd.predict("Will it make more errors?", ["more", "fewer"])',
    'count = kd.predict("How many errors will it make?", range(0, 101))',
    'guess.reveal("fewer")\ncount.reveal(41)',
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a copy of the notebooks, without their outputs being touched."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    planted = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, PREDICTION)])
    planted.metadata.kernelspec = {"display_name": "Python 3", "name": "python3"}
    nbformat.write(planted, home / "notebooks" / "prediction.ipynb")
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [
        "--IdentityProvider.token=",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
    ]
    own = {f"JUPYTER_{kind}_DIR": str(home / kind) for kind in ("CONFIG", "RUNTIME")}
    own |= {"TORCH_HOME": str(home / "torch"), "KDLIB_PROFILE": "smoke", "HOME": str(home)}
    server = subprocess.Popen(
        command,
        cwd=home,
        env=os.environ | own,
        stdout=(home / "log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/api/status", server, home / "log")
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def wait_for(address, server, log):
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(address)
        except urllib.error.URLError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def opened(lab, browser):
    """Opens a notebook and waits until its kernel is ready."""
    pages = []

    def open_it(name):
        page = browser.new_page(viewport={"width": 1280, "height": 2000})
        pages.append(page)
        page.goto(f"{lab}/lab/tree/notebooks/{name}.ipynb?reset", timeout=120_000)
        page.locator(".jp-Notebook").wait_for(timeout=120_000)
        page.locator(f"{KERNEL}[data-status=idle]").wait_for(timeout=120_000, state="attached")
        page.wait_for_timeout(1000)
        return page

    yield open_it
    for page in pages:
        page.close()


@pytest.fixture
def run_all(opened):
    """Opens a notebook and clicks Run All Cells."""

    def open_and_run(name):
        page = opened(name)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        # What was saved looks like a finished run until this one has begun.
        page.locator(f"{KERNEL}:not([data-status=idle])").wait_for(
            timeout=120_000, state="attached"
        )
        return page

    return open_and_run


def outputs_settle(page, seconds=240):
    """No cell is waiting or running: for three seconds the kernel was idle and no prompt a star."""
    page.wait_for_function(
        """kernel => {
            const idle = document.querySelector(kernel).dataset.status === "idle";
            const stars = [...document.querySelectorAll(".jp-InputPrompt")]
                .some(prompt => prompt.textContent.includes("*"));
            if (!idle || stars || !window.idleSince) window.idleSince = Date.now();
            return Date.now() - window.idleSince > 3000;
        }""",
        arg=KERNEL,
        timeout=seconds * 1000,
    )
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert page.locator(".jp-RenderedText[data-mime-type*='error']").count() == 0


def bring_into_view(place):
    """Step up from the end where Run All leaves the page: old JupyterLabs hide what is out of view."""
    for _ in range(30):
        try:
            return place.scroll_into_view_if_needed(timeout=5_000)
        except playwright.TimeoutError:
            place.page.locator(".jp-WindowedPanel-outer").evaluate("e => e.scrollBy(0, -1500)")
    raise AssertionError("it never came into view")


def test_run_all_finishes_in_the_first_notebook(run_all):
    page = run_all("00_start_here")
    outputs_settle(page)
    page.get_by_text("soft targets against labels, errors:").first.wait_for()
    page.wait_for_function(
        "() => document.querySelectorAll('.jp-OutputArea img').length >= 4", timeout=30_000
    )


def test_the_slider_of_notebook_02_replaces_its_picture_in_place(run_all):
    page = run_all("02_temperature")
    outputs_settle(page)
    slider = page.locator(".widget-hslider").first
    bring_into_view(slider)
    cell = page.locator(".jp-CodeCell", has=page.locator(".widget-hslider"))
    picture = cell.locator("img")
    before, pictures = picture.first.get_attribute("src"), picture.count()
    track, handle = slider.bounding_box(), slider.locator(".noUi-handle").bounding_box()
    grip = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(*grip)
    page.mouse.down()
    page.mouse.move(track["x"] + 0.8 * track["width"], grip[1], steps=8)
    page.mouse.up()
    page.wait_for_function(
        "([cell, before]) => cell.querySelector('img').src !== before",
        arg=[cell.element_handle(), before],
        timeout=30_000,
    )
    assert picture.count() == pictures == 1
    readout = cell.locator(".widget-readout").first.inner_text()
    assert float(readout) > 4.0


def test_a_guess_made_by_mouse_and_keyboard_is_shown_beside_the_answer_and_stays(opened):
    page = opened("prediction")
    cells = page.locator(".jp-CodeCell")
    for place in (0, 1):
        cells.nth(place).locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
    fewer = cells.nth(0).get_by_role("radio", name="fewer")
    fewer.wait_for(timeout=120_000)
    assert page.get_by_role("radio", checked=True).count() == 0
    fewer.click()
    cells.nth(0).get_by_text("Noted.").wait_for()
    slider = cells.nth(1).get_by_role("slider")
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    cells.nth(1).get_by_text("Noted.").wait_for()
    cells.nth(2).locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    page.get_by_text("Your guess: fewer. Measured: fewer.").wait_for()
    page.get_by_text("Your guess: 5. Measured: 41.").wait_for()
    outputs_settle(page)
    assert fewer.is_checked() and fewer.is_disabled()
    assert cells.nth(0).locator(".jp-OutputArea-output").count() == 1  # no text beside the widget
