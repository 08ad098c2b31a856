"""A run directory: what one run of Algorithm 1 reads and writes. The same command again finds it
and goes on."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from irevla import config_io
from irevla.config import ComputeConfig, Config, RolloutsConfig
from irevla.errors import UserError
from irevla.progress import console
from irevla.storage.checkpoint import Checkpoints
from irevla.storage.disk import writing
from irevla.storage.journal import Journal, run_lock
from irevla.storage.metrics import Metrics
from irevla.storage.provenance import command, git_commit, is_clean, machine
from irevla.storage.read import Missing, read_json, read_yaml
from irevla.tasks import Stage, draw_seed

CONFIG, RESULTS, JOURNAL = "config.yaml", "results.json", "journal.jsonl"
FINISHED, CHANGED = "finished", "settings changed"  # events
MAY_CHANGE = (
    "threads",
    "workers",
    "env.workers",
    "env.envs_per_worker",
    "env.timeout",
    *(f"compute.{each.name}" for each in fields(ComputeConfig) if each.name != "pipeline"),
    *(f"rollouts.{each.name}" for each in fields(RolloutsConfig)),
)
"""Settings that a run may go on with another value of: the results are then of another order of
sums, or of episodes, and no worse."""


@dataclass(frozen=True)
class Run:
    """An open run: its settings and its files."""

    directory: Path
    config: Config
    journal: Journal
    metrics: Metrics
    checkpoints: Checkpoints

    def draws(self, stage: Stage) -> int:
        """Return the seed of all that is drawn in `stage`, but for episodes: see `draw_seed`."""
        return draw_seed(self.config.seed, stage.name)

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows of results so far, in the order in which they were measured."""
        measured = [record for record in self.journal if record["event"].startswith("evaluated ")]
        return [row for record in measured for row in record["rows"]]

    def code(self) -> str:
        """Return the commit that the results are of, whatever this tree has become since.

        Where the tree was changed or unknown in any evaluation, that one: see `is_clean`.
        """
        commits: list[str] = [each["git"] for each in self.journal if "git" in each]
        unclean = [commit for commit in commits if not is_clean(commit)]
        return [git_commit(), *commits, *unclean[:1]][-1]

    def pin(self, what: str, name: str, *, sha256: str) -> None:
        """Note in the journal what the run starts from: `what` is "policy", "dataset" or
        "description".

        Raises `UserError` where it is another one now.
        """
        event = f"pinned {what}"
        known = self.journal.done(event)
        if known is None:
            self.journal.append(event, name=name, sha256=sha256)
        elif known["sha256"] != sha256:
            raise UserError(
                f"the {what} {name} is not the one that {self.directory} was started from (sha256 "
                f"{sha256[:12]}, then {known['sha256'][:12]}): bring that back, or choose another "
                "--out"
            )

    def finish(self) -> None:
        """Note that nothing is left to do; results.json says what the journal knows."""
        if not is_finished(self.directory):
            self.journal.append(FINISHED)
        self.write_results()

    def write_results(self) -> None:
        """Write results.json anew from the journal; readers never see half a file."""
        results = {
            "config": config_io.to_dict(self.config),
            "git": self.code(),
            "machine": machine(),
            "command": command(),
            "rows": self.rows(),
        }
        with writing(self.directory / RESULTS) as aside:
            aside.write_text(json.dumps(results, indent=1))


@contextmanager
def open_run(directory: Path, config: Config, *, tensorboard: bool = False) -> Iterator[Run]:
    """Open or create the directory of a run of Algorithm 1: see `open_directory`."""
    with open_directory(directory, config, tensorboard=tensorboard) as files:
        journal, metrics, checkpoints = files
        if not journal.whole and any(checkpoints.root.glob("[!.]*")):
            raise UserError(
                f"{journal.path} is missing or empty, but {checkpoints.root} is not: restore it, "
                "or choose another --out"
            )
        run = Run(directory, config, journal, metrics, checkpoints)
        _check_whole(run)
        _note_changes(run)
        yield run


def is_finished(directory: Path) -> bool:
    """Return whether the run in `directory` has nothing left to do."""
    return Journal(directory / JOURNAL).done(FINISHED) is not None


def _check_whole(run: Run) -> None:
    """Raise `UserError` where results.json, which is written from the journal, has more rows.

    Then it is no journal of this run, or has lost lines; going on from it would begin again in
    silence. A results.json that is damaged says nothing, and is written anew.
    """
    path = run.directory / RESULTS
    try:
        rows = len(read_json(path)["rows"]) if path.exists() else 0
    except (UserError, LookupError, TypeError):
        return
    if rows > len(run.rows()):
        raise UserError(
            f"{run.journal.path} lacks what {path.name} has measured: restore it, or choose "
            "another --out"
        )


def _note_changes(run: Run) -> None:
    """Write down what was changed since the run was started, or since it was last resumed."""
    changed = _differences(run.directory, run.config) + config_io.gone(_settings(run.directory))
    known = run.journal.done(CHANGED)
    if changed == (known["settings"] if known else []):
        return
    what = "; ".join(changed) or "the settings that it was started with"
    note = f"went on with {what}: the same bits need the same change at the same place"
    console.print(note, soft_wrap=True)
    run.journal.append(CHANGED, settings=changed, note=note)


@contextmanager
def open_directory(
    directory: Path, config: Any, *, tensorboard: bool = False
) -> Iterator[tuple[Journal, Metrics, Checkpoints]]:
    """Open or create a directory for long work with the settings `config` (a dataclass); hold its
    lock.

    Raises `UserError` where the directory is foreign or unwritable, where another process runs in
    it, or where it was started with other settings.
    """
    known = directory / CONFIG
    try:
        _check_vacant(directory)
        directory.mkdir(parents=True, exist_ok=True)
        with run_lock(directory):
            if known.exists():
                _check_same(directory, config)
            else:
                with writing(known) as aside:
                    aside.write_text(yaml.safe_dump(config_io.to_dict(config), sort_keys=False))
            with Metrics(directory / "metrics.jsonl", tensorboard=tensorboard) as metrics:
                checkpoints = Checkpoints(directory / "checkpoints")
                yield Journal(directory / JOURNAL), metrics, checkpoints
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        place = error.filename or directory
        raise UserError(
            f"cannot write to {place}: {error.strerror}; choose another --out"
        ) from error


def read_config(directory: Path) -> Config:
    """Return the settings that a run of Algorithm 1 was started with."""
    settings = _settings(directory)
    try:
        return config_io.read_config(settings)
    except UserError as error:
        raise UserError(f"{directory / CONFIG}: {error}") from error


def _check_vacant(directory: Path) -> None:
    """Raise `UserError` where `directory` holds something that no run of irevla wrote."""
    if (directory / CONFIG).exists() or not directory.exists():
        return
    if any(not path.name.startswith((".lock", f".{CONFIG}")) for path in directory.iterdir()):
        raise UserError(f"{directory} is not empty and not a run of irevla; choose another --out")


def _settings(directory: Path) -> Mapping[str, Any]:
    path = directory / CONFIG
    try:
        return read_yaml(path, remedy="restore it or choose another --out")
    except Missing as error:
        raise UserError(f"{directory} is not a run of irevla: it has no {CONFIG}") from error


def _check_same(directory: Path, config: Any) -> None:
    """Raise `UserError` where the run was started with other settings than `MAY_CHANGE` allows."""
    found = _differences(directory, config)
    changed = [text for text in found if text.partition(":")[0] not in MAY_CHANGE]
    if changed:
        raise UserError(
            f"{directory} was started with other settings ({'; '.join(changed)}); "
            "give the same ones to resume, or another --out"
        )


def _differences(directory: Path, config: Any) -> list[str]:
    """Return in what `config` is not what the run was started with.

    A whole group of settings that is younger than the run does not count, for nothing asked for it;
    nor does a path that is written in another way.
    """
    data = _settings(directory)
    is_run = type(config) is Config
    old = read_config(directory) if is_run else config_io.from_dict(data, kind=type(config))
    groups = [name for name, value in vars(old).items() if is_dataclass(value)]
    younger = {name: getattr(old, name) for name in groups if name not in data}
    config = replace(config, **younger)
    return config_io.differences(old, _as_spelt(old, config) if is_run else config)


def _as_spelt(old: Config, new: Config) -> Config:
    """Return `new` with what it starts from written as in `old`, where it is the same place."""
    return replace(
        new,
        from_checkpoint=_spelt(old.from_checkpoint, new.from_checkpoint),
        expert=replace(new.expert, dataset=_spelt(old.expert.dataset, new.expert.dataset)),
        model=replace(new.model, vlm=_spelt(old.model.vlm, new.model.vlm)),
    )


def _spelt(old: str, new: str) -> str:
    same = old and new and os.path.realpath(old) == os.path.realpath(new)
    return old if same else new
