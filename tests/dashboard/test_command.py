"""`skip-sideways dashboard`: arguments, ports, and a server that ends when told to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from app.dashboard import FIRST_PORT, choose_port, home_page, main

COMMAND = [sys.executable, "-c", "import sys; from app.dashboard import main; sys.exit(main(sys.argv[1:]))"]


@pytest.fixture
def taken_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for option in ("--port", "--host", "--tracking-uri", "--no-browser"):
        assert option in printed


def test_a_port_in_use_is_one_clear_error(taken_port, capsys):
    assert main(["--port", str(taken_port)]) == 2
    assert f"port {taken_port} is in use" in capsys.readouterr().err


def test_a_port_that_is_none_is_refused(capsys):
    assert main(["--port", "70000"]) == 2
    assert "1 to 65535" in capsys.readouterr().err


def test_other_machines_are_not_served(capsys):
    assert main(["--host", "0.0.0.0"]) == 2
    assert "127.0.0.1" in capsys.readouterr().err


def test_without_a_port_the_first_free_one_is_taken(monkeypatch):
    monkeypatch.setattr("app.dashboard.is_free", lambda host, port: port >= FIRST_PORT + 2)
    assert choose_port("127.0.0.1", None) == FIRST_PORT + 2
    monkeypatch.setattr("app.dashboard.is_free", lambda host, port: False)
    with pytest.raises(ValueError, match="all in use"):
        choose_port("127.0.0.1", None)


def test_the_page_is_found_from_anywhere():
    assert home_page().is_file()


# Runs `main`, but where it would serve only prints what another thread imported and what is not imported yet.
WATCHED = """
import sys, threading, time
class Watch:
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread() is not threading.main_thread():
            late.append(name)
        if name.startswith('pandas.core'):
            time.sleep(0.001)  # so that another thread would come between
late = []
sys.meta_path.insert(0, Watch())
sys.setswitchinterval(1e-5)
import app.dashboard
def serve(host, port, *, browser):
    missing = [name for name in app.dashboard.NEEDED if name not in sys.modules]
    print('late', late, 'missing', missing)
    before = set(sys.modules)
    from dashboard.runs import tracking_uri
    from dashboard import cached
    cached.open_store(tracking_uri()), __import__('pandas').DataFrame({'a': [1]}).style
    print('later', sorted(name for name in set(sys.modules) - before if name.startswith(('pandas', 'dashboard'))))
    return 0
app.dashboard.serve = serve
sys.exit(app.dashboard.main(sys.argv[1:]))
"""


def test_everything_is_imported_by_one_thread_before_anything_is_served(demo_db, free_port):
    """A thread beside the page's own imports left `pandas` half made: the first visit showed an ImportError."""
    arguments = ["--port", str(free_port), "--tracking-uri", f"sqlite:///{demo_db}"]
    done = subprocess.run([sys.executable, "-c", WATCHED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    assert done.stdout.splitlines()[-2:] == ["late [] missing []", "later []"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_on_loopback_and_ends_cleanly(how, tmp_path, free_port):
    arguments = ["--port", str(free_port), "--no-browser", "--tracking-uri", f"sqlite:///{tmp_path}/none.db"]
    server = subprocess.Popen(
        [*COMMAND, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(f"http://127.0.0.1:{free_port}/_stcore/health", server)
        server.send_signal(how)
        out, err = server.communicate(timeout=20)
    finally:
        server.kill()
        server.wait()
    assert server.returncode == 0, err
    assert f"Dashboard: http://127.0.0.1:{free_port}" in out
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []


def wait_for(url, server, seconds=40):
    """Wait until `url` answers; fail where the server ends first."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, server.stderr.read() if server.stderr else "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"{url} did not answer in {seconds} s")
