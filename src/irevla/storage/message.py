"""Files of a checkpoint in one piece of bytes, for another process: JSON and safetensors, each with
its sha256. Nothing is unpickled."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from irevla.errors import UserError
from irevla.storage import checkpoint
from irevla.storage.checkpoint import Files
from irevla.storage.share import AGAIN, Damaged

NAME = r"\w+\.(safetensors|json)"
PREFIX = 8  # bytes that say how long the index is


def pack(files: Files) -> bytes:
    """Return `files` as `unpack` reads them: an index of names, sizes and sha256, then each."""
    contents = [(name, checkpoint.encode(name, content)) for name, content in files.items()]
    index = json.dumps(
        [[name, len(each), hashlib.sha256(each).hexdigest()] for name, each in contents]
    ).encode()
    parts = [len(index).to_bytes(PREFIX, "big"), index, *(each for _, each in contents)]
    return b"".join(parts)


def unpack(message: bytes) -> dict[str, Any]:
    """Return the inverse of `pack`. Raises `Damaged` for anything else."""
    try:
        start = PREFIX + int.from_bytes(message[:PREFIX], "big")
        files = {}
        for name, size, sha256 in json.loads(message[PREFIX:start]):
            content = message[start : start + size]
            if hashlib.sha256(content).hexdigest() != sha256 or not re.fullmatch(NAME, name):
                raise ValueError(f"{name} is not what was sent")
            files[name] = checkpoint.decode(Path(name), content)
            start += size
        if start != len(message):
            raise ValueError("it is of another length")
    except (ValueError, TypeError, RecursionError, UserError) as error:
        raise Damaged(f"a message of another process is damaged ({error}); {AGAIN}") from error
    return files
