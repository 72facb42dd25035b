"""`skip-sideways dashboard`: serve the pages over a tracking store on this machine only."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import socket
import sys
from pathlib import Path

FIRST_PORT = 8501
TRIED_PORTS = 50
LOOPBACK = ("127.0.0.1", "localhost", "::1")
NEEDED = (  # by the pages; mlflow and streamlit import much of it only when it is first used
    *("pandas", "pandas.io.formats.style", "pyarrow", "altair", "streamlit.web.cli"),
    *("mlflow", "mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store", "mlflow.exceptions", "sqlalchemy.exc"),
    *(f"dashboard.pages.{name}" for name in ("compare", "cost", "frames", "learning", "memory", "run", "sweep")),
    "dashboard.refresh",
)


def main(argv: list[str]) -> int:
    """Serve the dashboard until Ctrl-C; return the exit status (2 for an argument that cannot be served)."""
    arguments = build_parser().parse_args(argv)
    try:
        host = loopback(arguments.host)
        port = choose_port(host, arguments.port)
    except ValueError as error:
        print(f"skip-sideways dashboard: {error}", file=sys.stderr)
        return 2
    if arguments.tracking_uri:
        os.environ["MLFLOW_TRACKING_URI"] = arguments.tracking_uri
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    import_pages()
    shown = f"[{host}]" if ":" in host else host
    print(f"Dashboard: http://{shown}:{port}  (Ctrl-C ends it)", flush=True)
    return serve(host, port, browser=arguments.browser)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="skip-sideways dashboard", description=__doc__.partition(": ")[2])
    parser.add_argument("--port", type=int, help=f"port to serve on (default: the first free one from {FIRST_PORT})")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to serve on (default: %(default)s)")
    parser.add_argument(
        "--tracking-uri",
        help="MLflow store to read (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the current directory)",
    )
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="open no browser window")
    return parser


def loopback(host: str) -> str:
    """Return `host`; raise ValueError where it would show the page to other machines, which have no login to pass."""
    if host not in LOOPBACK:
        raise ValueError(
            f"--host {host} would serve to other machines; expected one of {', '.join(LOOPBACK)}. "
            f"To see the page from elsewhere: ssh -L {FIRST_PORT}:localhost:{FIRST_PORT} THIS_MACHINE"
        )
    return "127.0.0.1" if host == "localhost" else host


def choose_port(host: str, wanted: int | None) -> int:
    """Return `wanted` if it is free, or the first free port from FIRST_PORT where none is wanted; else ValueError."""
    if wanted is not None:
        if not 0 < wanted < 65536:
            raise ValueError(f"--port {wanted} is no port; expected 1 to 65535.")
        if not is_free(host, wanted):
            raise ValueError(f"port {wanted} is in use. Give another --port, or none to take the first free one.")
        return wanted
    for port in range(FIRST_PORT, FIRST_PORT + TRIED_PORTS):
        if is_free(host, port):
            return port
    raise ValueError(f"ports {FIRST_PORT} to {FIRST_PORT + TRIED_PORTS - 1} are all in use. Give a free one by --port.")


def is_free(host: str, port: int) -> bool:
    """Return whether this process may listen on the port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def serve(host: str, port: int, *, browser: bool) -> int:
    """Run Streamlit in this process, so that nothing outlives it; return when it is told to stop (SIGINT, SIGTERM)."""
    from streamlit.web import cli

    options = {
        "server.address": host,
        "server.port": port,
        "server.headless": not browser,
        "server.showEmailPrompt": False,
        "server.fileWatcherType": "none",  # watching would import every lazy module of torch
        "browser.serverAddress": host,
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "minimal",
        "logger.hideWelcomeMessage": True,
        "theme.base": "light",  # the rows' colours are chosen for white
        "theme.primaryColor": "#0072B2",
    }
    flags = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in options.items()]
    try:
        cli.main(["run", str(home_page()), *flags], standalone_mode=False)
    except KeyboardInterrupt:
        print()
    return 0


def import_pages() -> None:
    """Import what the pages need, in this thread and before anything is served.

    Two threads that import pandas or mlflow at once (a page beside this one, or two pages) meet half-made modules.
    """
    logging.disable(logging.WARNING)  # Streamlit warns of each cached function that no server is there yet
    try:
        for name in NEEDED:
            importlib.import_module(name)
    finally:
        logging.disable(logging.NOTSET)


def home_page() -> Path:
    """Return the script that Streamlit runs, found without importing it."""
    return Path(__file__).resolve().parent.parent / "dashboard" / "shell" / "Home.py"
