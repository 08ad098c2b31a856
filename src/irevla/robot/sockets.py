"""Sockets on this machine, over which processes tell each other things about one arm."""

import socket
from pathlib import Path

from irevla.errors import UserError


def listening(path: Path, *, timeout: float) -> socket.socket:
    """Return a socket that takes messages at `path`, in the place of one that is there; it waits
    for `timeout` s at most. Raises `UserError` where none can be made."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.settimeout(timeout)
    try:
        made.bind(str(path))
    except OSError as error:
        made.close()
        raise UserError(
            f"the socket {path} cannot be made ({error.strerror}): choose a shorter, writable place"
        ) from error
    return made
