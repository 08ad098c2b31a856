"""A supervised stage as data, so that other processes can compute it, and what comes back of it.

Nothing in a job is run: it is settings, references to frames, and the files of a policy, all by
their sha256. In a share:

    episodes/SHA256         the images of an episode: see `data.shared_frames`
    jobs/ID/job.json        `Job`; ID is the sha256 of its text
    jobs/ID/progress.json   `Progress`: how far it is
    jobs/ID/failure.json    {"error": ...}: what is wrong, in one line, where it could not go on
    jobs/ID/files/SHA256    the files of the policy it begins with, and of its newest checkpoint

The same stage has the same ID whoever computes it and however often: it may be given out again, and
a result that arrives twice is one.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from socket import gethostname
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from irevla import config_io
from irevla.config import MixtureConfig, SFTConfig
from irevla.errors import UserError
from irevla.storage import checkpoint
from irevla.storage.checkpoint import Files
from irevla.storage.read import LARGEST_TEXT, parse_json, shaped
from irevla.storage.share import AGAIN, Damaged, Share
from irevla.tasks import Parts

FORMAT = "irevla-job-1"
NAMES = r"\w+\.(safetensors|json)"  # of the files of a checkpoint
SHARD = "shard"  # what a trainer is told beside a job, where it is to keep a part of the VLM
LARGEST_FILE = 1 << 38  # bytes of a policy's file


@dataclass(frozen=True)
class Job:
    """All that a supervised stage is made of."""

    parts: Parts
    seed: int  # of all draws
    sft: SFTConfig
    mixture: MixtureConfig
    words: tuple[str, ...]  # what augmentation puts in the place of others
    device: str  # as in the config
    threads: int  # of each process
    expert: Mapping[str, Any]  # D_e, as `put_frames` describes it
    online: Mapping[str, Any] | None  # D_RL
    policy: Mapping[str, str] = field(default_factory=dict)  # it begins with: file -> sha256

    def to_text(self) -> str:
        """Return it as JSON."""
        data = {**vars(self), "sft": config_io.to_dict(self.sft), "format": FORMAT}
        data["mixture"] = config_io.to_dict(self.mixture)
        return json.dumps(data, sort_keys=True, indent=1)

    def beginning_with(self, policy: Mapping[str, str]) -> "Job":
        """Return the same job of another policy."""
        return replace(self, policy=policy)

    @classmethod
    def of_text(cls, text: bytes) -> "Job":
        """Return the inverse of `to_text`. Raises `UserError` for anything else."""
        data = parse_json(text, "a job", remedy=AGAIN)
        with shaped("a job", remedy=AGAIN):
            if data.pop("format") != FORMAT:
                raise ValueError(f"it is not one of format {FORMAT!r}")
            sft = config_io.from_dict(data.pop("sft"), kind=SFTConfig, where="sft.")
            mixture = config_io.from_dict(data.pop("mixture"), kind=MixtureConfig)
            words = tuple(map(str, data.pop("words")))
            return cls(**data, sft=sft, mixture=mixture, words=words)


@runtime_checkable
class Described(Protocol):
    """A job as data: `Job`, or another kind of stage that is computed elsewhere."""

    @property
    def policy(self) -> Mapping[str, str]:
        """The policy that it begins with: file -> sha256."""
        ...

    def beginning_with(self, policy: Mapping[str, str]) -> "Described":
        """Return the same job of another policy."""
        ...

    def to_text(self) -> str:
        """Return it as JSON."""
        ...


J = TypeVar("J", bound=Described)


@dataclass(frozen=True)
class Progress:
    """How far a job is: its newest checkpoint, and the learning curves so far."""

    updates: int = 0  # gradient steps in the checkpoint
    files: Mapping[str, str] = field(default_factory=dict)  # of the checkpoint: file -> sha256
    rows: Sequence[Mapping[str, Any]] = ()  # points of the curves, "step" among the names

    def to_json(self) -> dict[str, Any]:
        """Return it as `read` takes it."""
        return {"updates": self.updates, "files": dict(self.files), "rows": list(self.rows)}

    @staticmethod
    def read(data: Any) -> "Progress":
        """Return what `to_json` wrote. Raises `Damaged` for anything else."""
        match data:
            case {"updates": int(updates), "files": dict(files), "rows": [*rows]}:
                named = all(re.fullmatch(NAMES, name) for name in files)
                hashed = all(re.fullmatch("[0-9a-f]{64}", str(each)) for each in files.values())
                if named and hashed and all(_is_point(row) for row in rows):
                    return Progress(updates, files, rows)
        raise Damaged(f"what a job says of its progress is damaged; {AGAIN}")


def _is_point(row: Any) -> bool:
    numbers = isinstance(row, dict) and all(type(each) in (int, float) for each in row.values())
    return numbers and type(row.get("step")) is int and not {"stage", "time"} & row.keys()


def submit(share: Share, job: Described, policy: Files) -> str:
    """Write a job that begins with `policy`; return its name. Where it is there already, it stays
    as far as it is.

    Raises `UserError` where that cannot be done.
    """
    contents = {name: checkpoint.encode(name, content) for name, content in policy.items()}
    hashes = {name: hashlib.sha256(each).hexdigest() for name, each in contents.items()}
    text = job.beginning_with(hashes).to_text().encode()
    root = _root(hashlib.sha256(text).hexdigest())
    there = share.sizes(f"{root}/files")
    for name, content in contents.items():
        if there.get(hashes[name]) != len(content):
            share.put(f"{root}/files", content)
    share.write(f"{root}/job.json", text)
    share.remove(f"{root}/failure.json")
    return root.rpartition("/")[2]


def _root(name: str) -> str:
    return f"jobs/{name}"


class JobFolder(Generic[J]):
    """The folder of one job in a share; `read` makes the job of its text."""

    def __init__(self, share: Share, name: str, read: Callable[[bytes], J]) -> None:
        self.share = share
        self.name = name
        self._read = read
        self._root = _root(name)
        self._files = f"{self._root}/files"

    @cached_property
    def job(self) -> J:
        """The job itself. Raises `UserError` where it is not the one of that name."""
        text = self.share.read(f"{self._root}/job.json", LARGEST_TEXT)
        if text is None:
            raise Damaged(
                f"job {self.name} is not in {self.share.place} on {gethostname()}: let "
                "compute.share name a place that all machines see"
            )
        if hashlib.sha256(text).hexdigest() != self.name:
            raise Damaged(f"job {self.name} in {self.share.place} is another; {AGAIN}")
        return self._read(text)

    def load(self, files: Mapping[str, str]) -> dict[str, Any]:
        """Return files of a checkpoint by their sha256. Raises `Damaged` unless all are whole."""
        return {name: self._file(name, sha256) for name, sha256 in files.items()}

    def _file(self, name: str, sha256: str) -> Any:
        content = self.share.get(self._files, sha256, most=LARGEST_FILE)
        return checkpoint.decode(Path(name), content)

    def progress(self) -> Progress:
        """Return how far the job is. Raises `Damaged` where that is not what was written."""
        said = self.share.hear(f"{self._root}/progress.json")
        return Progress() if said is None else Progress.read(said)

    def holds(self, updates: int, files: Files) -> bool:
        """Return whether the newest checkpoint there is this one, and all of it is there. Raises
        `Damaged` where what is said of it is not what was written."""
        progress = self.progress()
        own = {name: checkpoint.encode(name, content) for name, content in files.items()}
        names = {name: hashlib.sha256(content).hexdigest() for name, content in own.items()}
        there = self.share.sizes(self._files)
        whole = all(there.get(names[name]) == len(content) for name, content in own.items())
        return whole and (progress.updates, dict(progress.files)) == (updates, names)

    def publish(self, updates: int, rows: Sequence[Mapping[str, Any]], files: Files) -> Progress:
        """Write a checkpoint, and then that it is there; delete those before it."""
        contents = {name: checkpoint.encode(name, content) for name, content in files.items()}
        known = {name: self.share.put(self._files, each) for name, each in contents.items()}
        progress = Progress(updates, known, rows)
        self._say(progress)
        needed = {*known.values(), *self.job.policy.values()}
        for name in self.share.sizes(self._files).keys() - needed:
            self.share.remove(f"{self._files}/{name}")
        return progress

    def note(self, progress: Progress, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write points of the curves that follow the checkpoint of `progress`."""
        self._say(replace(progress, rows=rows))

    def _say(self, progress: Progress) -> None:
        self.share.say(f"{self._root}/progress.json", progress.to_json())

    def fail(self, reason: str) -> None:
        """Write down why the job cannot go on."""
        self.share.say(f"{self._root}/failure.json", {"error": reason})

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Write down what a user can mend of what goes wrong inside, and raise it."""
        try:
            yield
        except UserError as error:
            with suppress(UserError):  # where nothing can be written there, the engine's log has it
                self.fail(str(error))
            raise

    def failure(self) -> str:
        """Return why the job cannot go on; nothing where nobody said that."""
        match self.share.hear(f"{self._root}/failure.json"):
            case {"error": str(reason)}:
                return reason
        return ""

    def drop(self) -> None:
        """Delete the job: its result has been taken."""
        self.share.remove(self._root)
