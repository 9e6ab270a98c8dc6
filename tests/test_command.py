"""The frame of every command, in surroundings that others have made."""

import http.server
import os
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from erasediff.command import exit_code, past_proxies

REPOSITORY = Path(__file__).parents[1]
SAYS = "import sys; from erasediff.command import exit_code; sys.exit(exit_code('x', lambda: print({text!r})))"


def said(text, **environment):
    """Exit code and output of a command that prints a text."""
    done = subprocess.run(
        [sys.executable, "-c", SAYS.format(text=text)],
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        check=False,
    )
    assert done.stderr == b""
    return done.returncode, done.stdout


@pytest.mark.unit
def test_what_a_terminal_cannot_show_is_no_failure():
    assert said("0.97 ≥ 0.9 → é", PYTHONIOENCODING="latin-1") == (0, b"0.97 ? 0.9 ? \xe9\n")
    assert said("0.97 ≥ 0.9", PYTHONIOENCODING="utf-8") == (0, "0.97 ≥ 0.9\n".encode())


@pytest.mark.unit
@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_has_seen_enough_ends_a_command_quietly(lines):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", SAYS.format(text=1).replace("1", f"'x' * {lines}")],
        cwd=REPOSITORY,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.unit
def test_a_warning_is_one_line_without_the_place_in_the_code():
    says = SAYS.replace("print({text!r})", "__import__('warnings').warn('a is hardly\\nforgotten')")
    done = subprocess.run([sys.executable, "-c", says], cwd=REPOSITORY, capture_output=True, check=True)
    assert done.stderr == b"warning: a is hardly forgotten\n"


@pytest.mark.unit
def test_a_broken_pipe_elsewhere_is_told():
    def work():
        raise BrokenPipeError(32, "a socket")

    with pytest.raises(BrokenPipeError, match="a socket"):
        exit_code("x", work)


@pytest.mark.unit
def test_no_proxy_is_asked_for_a_server_of_this_machine(monkeypatch):
    class Well(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Well)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "intern.example")
    monkeypatch.delenv("no_proxy", raising=False)
    url = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(OSError):
        urllib.request.build_opener().open(url, timeout=5)
    past_proxies()
    assert urllib.request.build_opener().open(url, timeout=5).status == 200
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "intern.example,127.0.0.1,localhost,::1"
    server.shutdown()


@pytest.mark.unit
def test_without_a_proxy_nothing_is_set(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    past_proxies()
    assert not {"NO_PROXY", "no_proxy"} & set(os.environ)
