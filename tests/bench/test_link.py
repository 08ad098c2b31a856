"""A link is as late as it was asked to be, and loses what it was asked to lose."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from irevla.bench import link
from irevla.bench.link import THERE, bad_link, may_link
from irevla.errors import UserError

PORT = 5555
ECHO = f"""
import socket
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.bind(("{THERE}", {PORT}))
while True:
    echo.sendto(*echo.recvfrom(2000))
"""


@contextmanager
def echo(inside: list[str]) -> Iterator[socket.socket]:
    """What is sent comes back from the other end."""
    with (
        subprocess.Popen([*inside, sys.executable, "-c", ECHO]) as process,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
    ):
        here.connect((THERE, PORT))
        here.settimeout(0.5)
        while not came_back(here):  # it has not begun yet
            pass
        yield here
        process.kill()


def came_back(here: socket.socket) -> bool:
    try:
        here.send(b"?")
        return here.recv(2000) == b"?"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not may_link(), reason="needs root, and /dev/net/tun")
def test_packets_are_late() -> None:
    with bad_link(delay=0.05, loss=0.0) as inside, echo(inside) as here:
        seconds = []
        for _ in range(10):
            start = time.monotonic()
            assert came_back(here)
            seconds.append(time.monotonic() - start)
    assert 0.1 <= min(seconds) < 0.15


@pytest.mark.slow
@pytest.mark.skipif(not may_link(), reason="needs root, and /dev/net/tun")
def test_packets_are_lost() -> None:
    with bad_link(delay=0.0, loss=0.3) as inside, echo(inside) as here:
        here.settimeout(0.05)
        came = sum(came_back(here) for _ in range(200))
    assert 0.35 < came / 200 < 0.63  # there and back: 0.49


def test_who_may_not_make_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "may_link", lambda: False)
    with (
        pytest.raises(UserError, match="a bad link needs Linux, root"),
        bad_link(delay=0.0, loss=0.0),
    ):
        pass
