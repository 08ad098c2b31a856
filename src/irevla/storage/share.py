"""A place that several machines see: a folder, or anything that fsspec reads by a URI.

It holds files by their sha256, which are checked whenever they are read, and small JSON documents.
Nothing has its name before it is whole.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

from irevla.errors import UserError
from irevla.storage.disk import cache_dir, remedy
from irevla.storage.read import LARGEST_TEXT, parse_json

AGAIN = "give the same command again"

_log = logging.getLogger(__name__)


class Damaged(UserError):
    """A file of a share that is not what was put there, or is gone. The message names it."""


class Outage:
    """What a share does not let us do, where that is tried again and again: one line says so as it
    begins, and one when it is over."""

    def __init__(self) -> None:
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """How long it has lasted; 0 where there is none."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    @contextmanager
    def told(self) -> Iterator[None]:
        """Raise what is raised within; say where an outage begins or is over."""
        try:
            yield
        except UserError as error:
            if self._since is None:
                self._since = time.monotonic()
                _log.warning("%s (said once while it lasts)", error)
            raise
        if self._since is not None:
            _log.warning("the share is in order again, after %.0f s", self.seconds)
            self._since = None


class Share:
    """The place `place`: a folder, or a URI such as s3://bucket/folder.

    Raises `UserError` where there is nothing to read such a URI with. Credentials are those that
    fsspec's own library finds in the environment: `place` must have none.
    """

    def __init__(self, place: str) -> None:
        try:
            # Other machines write there too: a listing that is kept would hide what they bring.
            self._fs, self._root = fsspec.core.url_to_fs(place, use_listings_cache=False)
        except Exception as error:  # each kind of URI has faults of its own
            raise UserError(
                f"compute.share {place!r} cannot be used: {_line(error)}; name a folder that all "
                "machines see, or install what that kind of URI needs"
            ) from error
        self.place: str = self._fs.unstrip_protocol(self._root)  # whole, for other processes
        self._is_near = isinstance(self._fs, LocalFileSystem)

    def put(self, folder: str, content: bytes) -> str:
        """Write a file; return the sha256 that is its name."""
        name = hashlib.sha256(content).hexdigest()
        self.write(f"{folder}/{name}", content)
        return name

    def get(self, folder: str, sha256: str, *, most: int) -> bytes:
        """Return the file of that name, of at most `most` bytes.

        Raises `Damaged` where it is gone or another: then it is deleted, so that whoever has it
        puts it there again.
        """
        name = f"{folder}/{sha256}"
        content = self.read(name, most)
        if content is None:
            raise Damaged(f"{self.place}/{name} is missing; {AGAIN}")
        if hashlib.sha256(content).hexdigest() != sha256:
            self.remove(name)
            raise Damaged(
                f"{self.place}/{name} was not what its name says, and is deleted; {AGAIN}"
            )
        return content

    def get_once(self, folder: str, sha256: str, *, most: int) -> bytes:
        """Return the same, and keep a copy on this machine where the place is not a folder."""
        if self._is_near:
            return self.get(folder, sha256, most=most)
        near = Share(str(cache_dir("share")))
        with suppress(Damaged):
            return near.get(folder, sha256, most=most)
        content = self.get(folder, sha256, most=most)
        near.put(folder, content)
        return content

    def say(self, name: str, document: Any) -> None:
        """Write a JSON document, in the place of an older one."""
        self.write(name, json.dumps(document).encode())

    def hear(self, name: str) -> Any:
        """Return a JSON document; None where there is none. Raises `Damaged` where it is torn."""
        content = self.read(name, LARGEST_TEXT)
        if content is None:
            return None
        try:
            return parse_json(content, f"{self.place}/{name}", remedy=AGAIN)
        except UserError as error:
            self.remove(name)
            raise Damaged(str(error)) from error

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the files in a folder, and the bytes of each; nothing where there is none."""
        with self._told(folder):
            try:
                found = self._fs.ls(self._path(folder), detail=True, refresh=True)
            except FileNotFoundError:
                return {}
            return {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in found}

    def remove(self, name: str) -> None:
        """Delete a file or a folder with all that is in it, if it is there."""
        with self._told(name), suppress(FileNotFoundError):
            self._fs.rm(self._path(name), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def write(self, name: str, content: bytes) -> None:
        """Write a file aside, then give it its name: however it ends, there is no half one."""
        path = self._path(name)
        aside = f"{path}.{uuid4().hex}.part"
        with self._told(name):
            self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            try:
                with self._fs.open(aside, "wb") as file:
                    file.write(content)
                self._fs.mv(aside, path)
            except Exception:
                with suppress(Exception):
                    self._fs.rm(aside)
                raise

    def read(self, name: str, most: int) -> bytes | None:
        """Return a file of at most `most` bytes; None where there is none."""
        path = self._path(name)
        with self._told(name):
            try:
                if self._fs.size(path) > most:
                    raise Damaged(f"{self.place}/{name} is too large to be ours; delete it")
                content: bytes = self._fs.cat_file(path)
            except FileNotFoundError:
                return None
        return content

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Say in one line what the place does not let us do.

        Libraries for buckets raise errors of many kinds: without credentials, or a network.
        """
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            reason = getattr(error, "strerror", None) or _line(error)
            advice = remedy(error) if isinstance(error, OSError) else AGAIN
            raise UserError(f"{self.place}/{name}: {reason}; {advice}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
