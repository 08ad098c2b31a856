"""Sockets on this machine, over which processes tell each other things about one arm."""

import socket
from pathlib import Path

from irevla.errors import UserError


def listening(path: Path, *, timeout: float) -> socket.socket:
    """Return a socket that takes messages at `path`, in the place of one that is left there; it
    waits for `timeout` s at most. Raises `UserError` where none can be made, or another listens."""
    if _is_heard(path):
        raise UserError(
            f"another process listens at {path}, as a second one of the same command would: end it "
            "first"
        )
    if path.is_socket():
        path.unlink()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.settimeout(timeout)
    try:
        made.bind(str(path))
    except OSError as error:
        made.close()
        raise UserError(
            f"the socket {path} cannot be made ({error.strerror or error}): choose a shorter, "
            "writable place"
        ) from error
    return made


def _is_heard(path: Path) -> bool:
    """Return whether a process takes messages there; one that has ended leaves its file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
