"""Datasets of others on the Hugging Face Hub: "owner/name", or "owner/name@revision"."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from irevla.config import is_folder
from irevla.data.dataset_files import read_info
from irevla.errors import UserError
from irevla.storage.hub import REPOSITORY, in_one_line, library

SETTINGS = ("meta/*", "meta/**")


def dataset_folder(name: str, cameras: Sequence[str] | None) -> Path:
    """Return the folder of a dataset: `name`, or what was fetched of that name on the Hub.

    First what is in it, so that nothing large is fetched of what is no LeRobotDataset; then its
    data, and the videos of `cameras`: of all, where none is named; None: no videos. Raises
    `UserError` where it cannot be had.
    """
    repo, _, revision = name.partition("@")
    if is_folder(name) or not REPOSITORY.fullmatch(repo):
        return Path(name)
    return _fetched(repo, revision, None if cameras is None else tuple(cameras))


@cache  # a run asks twice, and what was newest must not change in between
def _fetched(repo: str, revision: str, cameras: tuple[str, ...] | None) -> Path:
    hub = library(f"there is no folder {repo}; to look for it on the Hugging Face Hub")
    with in_one_line(f"there is no folder {repo}, and it cannot be had from the Hub"):

        def fetch(commit: str | None, patterns: Sequence[str]) -> Path:
            return Path(
                hub.snapshot_download(
                    repo, repo_type="dataset", revision=commit, allow_patterns=[*patterns]
                )
            )

        found = fetch(revision or None, SETTINGS)
        info = read_info(found)
        videos = [each for each in info.cameras if each.kind == "video"]
        if cameras is None:
            videos = []
        elif cameras:
            videos = [each for each in videos if {each.key, each.name} & {*cameras}]
        needed = info.paths.globs([each.key for each in videos])
        return fetch(found.name, [*SETTINGS, *needed])


def named(name: str) -> None:
    """Raise `UserError` unless `name` is a folder, or can be a dataset on the Hub."""
    if not is_folder(name) and not REPOSITORY.fullmatch(name.partition("@")[0]):
        raise UserError(
            f"no dataset {name}; name another folder as expert.dataset, OWNER/NAME on the Hub, or "
            "none to collect one"
        )
