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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from socket import gethostname
from typing import Any

from irevla import config_io
from irevla.config import MixtureConfig, SFTConfig
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

    @staticmethod
    def of_text(text: bytes) -> "Job":
        """Return the inverse of `to_text`. Raises `UserError` for anything else."""
        data = parse_json(text, "a job", remedy=AGAIN)
        with shaped("a job", remedy=AGAIN):
            if data.pop("format") != FORMAT:
                raise ValueError(f"it is not one of format {FORMAT!r}")
            sft = config_io.from_dict(data.pop("sft"), kind=SFTConfig, where="sft.")
            mixture = config_io.from_dict(data.pop("mixture"), kind=MixtureConfig)
            words = tuple(map(str, data.pop("words")))
            return Job(**data, sft=sft, mixture=mixture, words=words)


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


class JobFolder:
    """The folder of one job in a share."""

    def __init__(self, share: Share, name: str) -> None:
        self.share = share
        self.name = name
        self._root = f"jobs/{name}"
        self._files = f"{self._root}/files"

    @staticmethod
    def submit(share: Share, job: Job, policy: Files) -> "JobFolder":
        """Write a job that begins with `policy`. Where it is there already, it stays as far as it
        is.

        Raises `UserError` where that cannot be done.
        """
        contents = {name: checkpoint.encode(name, content) for name, content in policy.items()}
        hashes = {name: hashlib.sha256(each).hexdigest() for name, each in contents.items()}
        text = replace(job, policy=hashes).to_text().encode()
        folder = JobFolder(share, hashlib.sha256(text).hexdigest())
        there = share.sizes(folder._files)
        for name, content in contents.items():
            if there.get(hashes[name]) != len(content):
                share.put(folder._files, content)
        share.write(f"{folder._root}/job.json", text)
        share.remove(f"{folder._root}/failure.json")
        return folder

    @cached_property
    def job(self) -> Job:
        """The job itself. Raises `UserError` where it is not the one of that name."""
        text = self.share.read(f"{self._root}/job.json", LARGEST_TEXT)
        if text is None:
            raise Damaged(
                f"job {self.name} is not in {self.share.place} on {gethostname()}: let "
                "compute.share name a place that all machines see"
            )
        if hashlib.sha256(text).hexdigest() != self.name:
            raise Damaged(f"job {self.name} in {self.share.place} is another; {AGAIN}")
        return Job.of_text(text)

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

    def failure(self) -> str:
        """Return why the job cannot go on; nothing where nobody said that."""
        match self.share.hear(f"{self._root}/failure.json"):
            case {"error": str(reason)}:
                return reason
        return ""

    def drop(self) -> None:
        """Delete the job: its result has been taken."""
        self.share.remove(self._root)
