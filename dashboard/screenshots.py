"""Photographs every page of the dashboard for the documentation, by a headless Chromium at two widths.

    python -m dashboard.screenshots --tracking-uri sqlite:////path/to/mlflow.db --output docs/dashboard

It serves the store itself on this machine and ends its server and browser when it is done. `--page frames?k=4` chooses
a page and what it shows; without any, every page as it opens.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

PAGES = ("compare", "cost", "frames", "learning", "memory", "run", "sweep")
WIDTHS_PX = (1280, 390)
HEIGHT_PX = 900
MOST_PX = 4000  # of a page's height
START_S = 60.0
SETTLE_S = 1.0
MEASURED = 6  # times at most that the height of a page is measured
STARTS = 3
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync")
_IDLE = "document.querySelector('.stApp')?.dataset.testScriptState === 'notRunning'"  # charts are drawn after it


def main(argv: list[str] | None = None) -> int:
    """Write the pictures; return the exit status."""
    options = _parser().parse_args(argv)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"screenshots: no browser among {', '.join(BROWSERS)}: apt-get install chromium", file=sys.stderr)
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    with served(options.tracking_uri) as address:
        for path in photograph(address, options.page or PAGES, options.width or WIDTHS_PX, options.output, browser):
            print(path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dashboard.screenshots", description=__doc__.partition("\n")[0])
    parser.add_argument("--tracking-uri", required=True, help="MLflow store whose runs to show")
    parser.add_argument("--output", type=Path, required=True, help="folder for PAGE-WIDTH.png")
    parser.add_argument("--page", action="append", help=f"page with its parameters (default: each of {PAGES})")
    parser.add_argument("--width", type=int, action="append", help=f"in px (default: {WIDTHS_PX})")
    return parser


@contextmanager
def served(uri: str) -> Iterator[str]:
    """Serve a store while the block runs and give its address. RuntimeError where the server ends before the block.

    The port is one that the kernel gives: two that start at once would both find the first free one of a list, and
    the one that comes too late would photograph the other's pages.
    """
    command = [sys.executable, "-c", "import sys; from app.dashboard import main; sys.exit(main(sys.argv[1:]))"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")])),
    }
    for _ in range(STARTS):
        port = free_port()
        arguments = ["--port", str(port), "--no-browser", "--tracking-uri", uri]
        server = subprocess.Popen([*command, *arguments], env=environment, stdout=subprocess.DEVNULL)
        try:
            if not answers(f"http://127.0.0.1:{port}/_stcore/health", server):
                continue
            yield f"http://127.0.0.1:{port}"
            if server.poll() is not None:
                raise RuntimeError("The dashboard ended while it was photographed; the pictures may be of another one.")
            return
        finally:
            server.kill()
            server.wait()
    raise RuntimeError(f"The dashboard did not start in {STARTS} attempts.")


def free_port() -> int:
    """Return a port that was free a moment ago, another one each time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(address: str, server: subprocess.Popen[bytes]) -> bool:
    """Return whether the server answers within START_S and is alive then; what answers for a dead one is another."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=1).close()
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
            continue
        time.sleep(SETTLE_S)  # one that finds its port taken ends within this time
        return server.poll() is None
    return False


def photograph(
    address: str, pages: list[str] | tuple[str, ...], widths_px: list[int] | tuple[int, ...], output: Path, browser: str
) -> Iterator[Path]:
    """Yield each picture written: the whole page, at most MOST_PX high."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, headless=True, args=list(FLAGS))
        try:
            for width_px in widths_px:
                for page in pages:
                    window = chromium.new_page(viewport={"width": width_px, "height": HEIGHT_PX})
                    name = page.partition("?")[0]
                    window.goto(f"{address}/{'' if page == 'compare' else page}")
                    settle(window)
                    path = output / f"{name}-{width_px}.png"
                    window.screenshot(path=path)
                    window.close()
                    yield path
        finally:
            chromium.close()


def settle(window: Page) -> None:
    """Wait until the page is drawn, then make the window as high as its content."""
    window.wait_for_selector("h1", timeout=60_000)
    height = 0
    for _ in range(MEASURED):  # charts come one after the other, and each makes the page higher
        _wait_idle(window)
        content = int(window.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight"))
        if content <= height:
            return
        height = content
        window.set_viewport_size({"width": window.viewport_size["width"], "height": min(height, MOST_PX)})  # type: ignore[index]


def _wait_idle(window: Page) -> None:
    window.wait_for_timeout(500)
    window.wait_for_function(_IDLE, timeout=60_000)
    window.wait_for_timeout(1500)


if __name__ == "__main__":
    sys.exit(main())
