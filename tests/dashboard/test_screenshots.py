"""The pictures for the documentation are of the server that the script started, never of another one."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dashboard import screenshots


@pytest.fixture
def another():
    """Return the port of a server that answers whatever is asked."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_another_server_on_the_port_is_not_taken_for_ours(another):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"]) as late:
        assert not screenshots.answers(f"http://127.0.0.1:{another}", late)


def test_a_port_that_is_taken_is_tried_no_more_than_a_few_times(another, monkeypatch):
    monkeypatch.setattr(screenshots, "free_port", lambda: another)
    monkeypatch.setattr(screenshots, "answers", lambda address, server: server.wait() == -1)
    with pytest.raises(RuntimeError, match="did not start in 3"), screenshots.served("sqlite:///none.db"):
        pytest.fail("photographed another server")
