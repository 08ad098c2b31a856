"""A run directory: what one run of Algorithm 1 reads and writes. The same command again finds it
and goes on."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from irevla.config import Config
from irevla.errors import UserError
from irevla.presets import differences, from_dict, to_dict
from irevla.runs.checkpoint import Checkpoints
from irevla.runs.journal import Journal, run_lock
from irevla.runs.metrics import Metrics


@dataclass(frozen=True)
class Run:
    """An open run: its settings and its files."""

    directory: Path
    config: Config
    journal: Journal
    metrics: Metrics
    checkpoints: Checkpoints

    def rows(self) -> list[dict[str, Any]]:
        """All rows of results so far, in the order in which they were measured."""
        return [
            row
            for record in self.journal
            if record["event"].startswith("evaluated ")
            for row in record["rows"]
        ]

    def write_results(self) -> None:
        """Write results.json anew from the journal; readers never see half a file."""
        write_atomically(
            self.directory / "results.json",
            json.dumps(
                {
                    "config": to_dict(self.config),
                    "git": git_commit(),
                    "machine": machine(),
                    "command": command(),
                    "rows": self.rows(),
                },
                indent=1,
            ),
        )


@contextmanager
def open_run(directory: Path, config: Config, *, tensorboard: bool = False) -> Iterator[Run]:
    """Open or create the directory of a run of Algorithm 1: see `open_directory`."""
    with open_directory(directory, config, tensorboard=tensorboard) as (
        journal,
        metrics,
        checkpoints,
    ):
        yield Run(directory, config, journal, metrics, checkpoints)


@contextmanager
def open_directory(
    directory: Path, config: Any, *, tensorboard: bool = False
) -> Iterator[tuple[Journal, Metrics, Checkpoints]]:
    """Open or create a directory for long work with the settings `config` (a dataclass), and hold
    its lock.

    `UserError` where the directory is foreign or unwritable, where another process runs in it, or
    where it was started with other settings.
    """
    known = directory / "config.yaml"
    try:
        if (
            not known.exists()
            and directory.exists()
            and any(path.name != ".lock" for path in directory.iterdir())
        ):
            raise UserError(
                f"{directory} is not empty and not a run of irevla; choose another --out"
            )
        directory.mkdir(parents=True, exist_ok=True)
        with run_lock(directory):
            if known.exists():
                _check_same(directory, config)
            else:
                write_atomically(known, yaml.safe_dump(to_dict(config), sort_keys=False))
            with Metrics(directory / "metrics.jsonl", tensorboard=tensorboard) as metrics:
                yield (
                    Journal(directory / "journal.jsonl"),
                    metrics,
                    Checkpoints(directory / "checkpoints"),
                )
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise UserError(
            f"cannot write to {error.filename or directory}: {error.strerror}; choose another --out"
        ) from error


def read_config(directory: Path) -> Config:
    """The settings that a run of Algorithm 1 was started with."""
    config: Config = _read(directory, Config)
    return config


def _read(directory: Path, kind: type[Any]) -> Any:
    return from_dict(_settings(directory), kind=kind)


def _settings(directory: Path) -> Mapping[str, Any]:
    path = directory / "config.yaml"
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{directory} is not a run of irevla: it has no config.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged; restore it or choose another --out") from error
    if not isinstance(data, Mapping):
        raise UserError(f"{path} is damaged; restore it or choose another --out")
    return data


def _check_same(directory: Path, config: Any) -> None:
    """A whole group of settings that is younger than the run does not count: nothing in the run
    asked for it."""
    data = _settings(directory)
    old = from_dict(data, kind=type(config))
    groups = [name for name, value in vars(old).items() if is_dataclass(value)]
    younger = {name: getattr(old, name) for name in groups if name not in data}
    changed = differences(old, replace(config, **younger))
    if changed:
        raise UserError(
            f"{directory} was started with other settings ({'; '.join(changed)}); "
            "give the same ones to resume, or another --out"
        )


def write_atomically(path: Path, text: str) -> None:
    """Replace a small text file: aside, fsync, rename."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def command() -> str:
    """The command line of this process, as a person would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def git_commit() -> str:
    """The commit of the source tree this runs from, "-dirty" where it was changed; empty for an
    installed package."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):  # no git, no repository
        return ""
    return described.stdout.strip()


def machine() -> dict[str, Any]:
    """What a number was measured on."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (
                line.split(":")[1].strip()
                for line in info.read_text().splitlines()
                if line.startswith("model name")
            ),
            cpu,
        )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
