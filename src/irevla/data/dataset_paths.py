"""Where the files of a LeRobotDataset are: the patterns that meta/info.json states.

They are somebody else's, and so none may lead out of the dataset's folder.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from irevla.data.lerobot import DATA_PATH

FIELD = re.compile(r"\{(video_key(?=\})|(?!video_key)\w+)(?::0\dd)?\}")  # "{file_index:03d}"
LONGEST = 200  # characters


@dataclass(frozen=True)
class Paths:
    """Patterns of the names of files, below the dataset's folder."""

    data: str
    video: str

    def globs(self, cameras: list[str]) -> list[str]:
        """Return what matches the data files, and the videos of the cameras of these keys."""
        videos = [self.video.replace("{video_key}", key) for key in cameras]
        return [FIELD.sub("*", pattern) for pattern in (self.data, *videos)]


PATHS_3 = Paths(
    data=DATA_PATH,
    video="videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
)
PATHS_2 = Paths(
    data="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    video="videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
)


def read_paths(info: Mapping[str, Any], usual: Paths) -> Paths:
    """Return the patterns in info.json; those that are `usual` where it has none.

    Raises what `shaped` understands where one asks for other numbers than the usual one, or leads
    out of the folder.
    """
    return Paths(
        data=_checked(info.get("data_path") or usual.data, usual.data),
        video=_checked(info.get("video_path") or usual.video, usual.video),
    )


def _checked(pattern: str, usual: str) -> str:
    fixed = FIELD.sub("", pattern)
    inside = not any(part[0] in "./" for part in PurePosixPath(pattern).parts)
    known = set(FIELD.findall(pattern)) <= set(FIELD.findall(usual))
    if not (inside and known) or set(fixed) & set("{}\\\0") or len(pattern) > LONGEST:
        raise ValueError(f"files called {pattern!r:.{LONGEST}}")
    return pattern
