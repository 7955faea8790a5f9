"""One JupyterLab and one browser for all tests, which are skipped without a browser."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
KERNEL = ".jp-Notebook-ExecutionIndicator"


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address, its folder of notebooks, its environment."""

    address: str
    notebooks: Path
    environment: dict[str, str]

    def plant(self, name, notebook):
        """Put a notebook, or a notebook of these sources, into its folder."""
        if not isinstance(notebook, nbformat.NotebookNode):
            cells = [*map(nbformat.v4.new_code_cell, notebook)]
            notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata.kernelspec = {"display_name": "Python 3", "name": "python3"}
        nbformat.write(notebook, self.notebooks / f"{name}.ipynb")

    def trust(self, name):
        command = [sys.executable, "-m", "nbformat.sign", str(self.notebooks / f"{name}.ipynb")]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if BROWSER is None:
        pytest.skip("needs an installed Chromium")
    with playwright.sync_playwright() as p:
        arguments = ["--no-sandbox", "--disable-background-networking"]
        chromium = p.chromium.launch(executable_path=BROWSER, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def lab(browser, tmp_path_factory):
    """JupyterLab on a copy of the notebooks."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += ["--IdentityProvider.token="]
    own = {f"JUPYTER_{kind}_DIR": str(home / kind) for kind in ("CONFIG", "RUNTIME", "DATA")}
    own["JUPYTER_CONFIG_PATH"] = str(ROOT / "tools" / "lab")  # as make lab does
    own |= {"TORCH_HOME": str(home / "torch"), "KDLIB_PROFILE": "smoke", "HOME": str(home)}
    environment = os.environ | own
    output = {"stdout": (home / "log").open("w"), "stderr": subprocess.STDOUT}
    server = subprocess.Popen(command, cwd=home, env=environment, start_new_session=True, **output)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/api/status", server, home / "log")
        yield Lab(address, home / "notebooks", environment)
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


@pytest.fixture
def opened(lab, browser):
    """Opens a notebook and waits until its kernel is ready."""
    pages = []

    def open_it(name, **options):
        page = browser.new_page(viewport={"width": 1280, "height": 2000}, **options)
        pages.append(page)
        page.goto(f"{lab.address}/lab/tree/notebooks/{name}.ipynb?reset", timeout=120_000)
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
        # The saved outputs look like a finished run until this one has begun.
        busy = page.locator(f"{KERNEL}:not([data-status=idle])")
        busy.wait_for(timeout=120_000, state="attached")
        return page

    return open_and_run


@pytest.fixture
def outputs_settle():
    """Waits until nothing runs: the kernel idle and no prompt a star for three seconds."""

    def settle(page, seconds=240):
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

    return settle
