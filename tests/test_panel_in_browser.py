"The panel of notebook 20 in a real browser: switch on places, generate, see. Needs Chromium and playwright."

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

import dde_kit as dde

ROOT = Path(__file__).parent.parent
CHROMIUM = next((c for c in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if c), None)

pytestmark = pytest.mark.skipif(
    "clevr-tiny/dde" not in dde.shipped(), reason="the weights of clevr-tiny are not shipped yet"
)


def the_panel_of_the_notebook():
    "A notebook of two cells: load the models, then the cell of notebook 20 that shows the panel."
    cells = json.loads((ROOT / "nbs/20_clevr.ipynb").read_text(encoding="utf-8"))["cells"]
    play = next(
        "".join(c["source"]) for c in cells if c["cell_type"] == "code" and "play = panel(" in "".join(c["source"])
    )
    load = (
        "from dde_kit.clevr import *\nfrom dde_kit.networks import load\nfrom fastcore.test import"
        " test_eq\nbase,dde,judge = (load(f'clevr-tiny/{k}') for k in ('base', 'dde', 'classifier'))"
    )
    cell = lambda i, s: dict(cell_type="code", id=f"c{i}", metadata={}, execution_count=None, outputs=[], source=s)
    return dict(
        nbformat=4,
        nbformat_minor=5,
        metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")),
        cells=[cell(0, load), cell(1, play)],
    )


@pytest.fixture
def lab(tmp_path):
    "JupyterLab on a free port, with the notebook in its folder; its address with a token."
    (tmp_path / "work").mkdir()
    (tmp_path / "work/panel.ipynb").write_text(json.dumps(the_panel_of_the_notebook()), encoding="utf-8")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token, env = (
        secrets.token_hex(16),
        os.environ | {f"JUPYTER_{k}_DIR": str(tmp_path / k) for k in ("CONFIG", "RUNTIME")} | {"OMP_NUM_THREADS": "1"},
    )
    with open(tmp_path / "lab.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                "--no-browser",
                "--allow-root",
                "--ip=127.0.0.1",
                f"--port={port}",
                "--ServerApp.port_retries=0",
                f"--IdentityProvider.token={token}",
                f"--ServerApp.root_dir={tmp_path / 'work'}",
                f"--LabApp.workspaces_dir={tmp_path / 'spaces'}",
                f"--LabApp.user_settings_dir={tmp_path / 'settings'}",
            ],
            env=env,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        for _ in range(240):
            if server.poll() is not None:
                pytest.fail("JupyterLab ended: " + (tmp_path / "lab.log").read_text(encoding="utf-8")[-2000:])
            try:
                if httpx.get(f"http://127.0.0.1:{port}/api/status", params=dict(token=token)).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        else:
            pytest.fail(
                "JupyterLab did not answer within two minutes: "
                + (tmp_path / "lab.log").read_text(encoding="utf-8")[-2000:]
            )
        yield f"http://127.0.0.1:{port}/lab/tree/panel.ipynb?reset&token={token}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_panel_in_jupyterlab(lab, tmp_path):
    browser_of = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    with browser_of.sync_playwright() as p:
        shots = os.environ.get("DDE_KIT_SHOTS")
        browser = p.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        page = browser.new_page(viewport=dict(width=1500, height=1200))
        page.set_default_timeout(240_000)
        page.goto(lab)
        page.locator(".jp-Notebook .jp-CodeCell").nth(1).wait_for()
        page.get_by_text("| Idle").wait_for()  # before the kernel is there, nothing runs
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        go = page.get_by_role("button", name="generate")
        try:
            go.wait_for()
        finally:
            shots and page.screenshot(path=Path(shots) / "lab.png")
        page.wait_for_function(
            "document.querySelectorAll('.jp-OutputArea-output img').length > 0"
        )  # what the cell itself generated
        places = page.locator(".widget-toggle-button")
        assert places.count() == 81 and page.locator(".widget-toggle-button.mod-active").count() == 3
        first = page.locator(".jp-OutputArea-output img").last.get_attribute("src")
        places.nth(0).click()
        page.get_by_text("4 of 5 places").wait_for()
        go.click()
        page.get_by_text(re.compile(r"\d of 4 places satisfied")).wait_for()
        page.wait_for_function(
            'was => [...document.querySelectorAll(".jp-OutputArea-output img")].at(-1).src != was', arg=first
        )
        if shots:
            page.screenshot(path=Path(shots) / "panel.png")
        browser.close()
