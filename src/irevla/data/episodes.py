"""The append-only store of episodes: D_e and D_RL on disk, each a LeRobotDataset v3 that official
readers can open.

Every `extend` adds one data file and one file of meta/episodes, both complete before they get their
names. The second is the commit: an episode whose row is there is there for good, one whose row is
missing never was. So a kill at any moment, or a full disk, costs the episodes of the running call
at most. info.json and stats.json follow the commit and are repaired on opening.
"""

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64, UInt8

from irevla.data import lerobot
from irevla.data.lerobot import EpisodeInfo, Stats
from irevla.data.store_spec import StoreSpec, create, flat, is_vacant, option, read_spec, summary
from irevla.errors import UserError
from irevla.storage import disk
from irevla.storage.mapped import mapped
from irevla.storage.read import read_json, shaped
from irevla.types import NO_STATE, Episode

LARGEST_ACTION = 1.001  # rounding apart


@dataclass(frozen=True)
class Frames:
    """All frames of a store; `instruction`, `task` and `episode` are indices."""

    images: UInt8[np.ndarray, "N H W 3"]  # in a mapped file, which memory need not hold
    actions: Float32[np.ndarray, "N A"]
    instruction: Int64[np.ndarray, " N"]  # into `instructions`
    task: Int64[np.ndarray, " N"]  # into `tasks`
    episode: Int64[np.ndarray, " N"]  # of the store; never changes as it grows
    instructions: tuple[str, ...]
    tasks: tuple[str, ...]
    # The robot's; S is 0 where it is not asked.
    state: Float32[np.ndarray, "_ S"] = field(default_factory=lambda: NO_STATE)

    def __post_init__(self) -> None:
        if self.state is NO_STATE:
            object.__setattr__(self, "state", np.zeros((len(self), 0), np.float32))

    def __len__(self) -> int:
        return len(self.actions)

    def first(self, episodes: int) -> "Frames":
        """Return those of the first so many episodes, as a store had them that had no more."""
        end = int((self.episode < episodes).sum())
        if end == len(self):
            return self
        return Frames(
            images=self.images[:end],
            actions=self.actions[:end],
            state=self.state[:end],
            instruction=self.instruction[:end],
            task=self.task[:end],
            episode=self.episode[:end],
            instructions=self.instructions[: int(self.instruction[:end].max()) + 1],
            tasks=self.tasks[: int(self.task[:end].max()) + 1],
        )


@runtime_checkable
class ExpertDataset(Protocol):
    """D_e, whoever recorded it."""

    def __len__(self) -> int:
        """Return the number of episodes."""
        ...

    def counts(self) -> dict[str, int]:
        """Return the number of episodes of each task."""
        ...

    def hash(self) -> str:
        """Return the sha256 of all that is learnt from: what a run is pinned to."""
        ...

    def read(self) -> Frames:
        """Return all frames; images are decoded once."""
        ...


class EpisodeStore:
    """The episodes under `root`.

    With a `spec` the store is created where there is none; without, it must be there.
    Raises `UserError` where `root` is something else, is damaged, or differs from `spec` (the
    message says in what).
    """

    def __init__(self, root: Path, spec: StoreSpec | None = None) -> None:
        self.root = root
        if is_vacant(root):
            if spec is None:
                raise UserError(
                    f"there is no dataset in {root}; collect one there, or name another directory"
                )
            create(root, spec)
        self.spec = read_spec(root)
        if spec is not None:
            self.require(spec)
        self._episodes: list[EpisodeInfo]
        self._files: int  # pairs of data and episode files
        self._instructions: list[str]  # the position is the task_index
        self._stats: dict[str, Stats] | None  # of all episodes; None: not read yet
        self._frames: Frames | None = None  # of the first `_decoded` episodes
        self._decoded = 0
        # Before the rows, or a writer may come between.
        info = read_json(root / lerobot.INFO_PATH, remedy=lerobot.RESTORE)
        with shaped(root / lerobot.INFO_PATH, remedy=lerobot.RESTORE):
            promised = int(info["total_episodes"])
        self._load()
        self._repair(promised)

    # ------------------------------------------------------------------ reading

    @property
    def episodes(self) -> tuple[EpisodeInfo, ...]:
        """Return what is known of each episode without its frames, in order of arrival."""
        return tuple(self._episodes)

    def __len__(self) -> int:
        return len(self._episodes)

    def counts(self) -> dict[str, int]:
        """Return the number of episodes of each task."""
        return dict(Counter(info.provenance.task for info in self._episodes))

    def seeds(self) -> set[tuple[str, int]]:
        """Return (task, seed) of every episode."""
        return {(info.provenance.task, info.provenance.seed) for info in self._episodes}

    def hash(self) -> str:
        """Return the sha256 over the data of all episodes: what a run is pinned to."""
        digest = hashlib.sha256()
        for sha256 in dict.fromkeys(info.sha256 for info in self._episodes):
            digest.update(sha256.encode())
        return digest.hexdigest()

    def require(self, spec: StoreSpec) -> None:
        """Raise `UserError` with the first difference unless the store was made with `spec`."""
        mine = flat(self.spec)
        theirs = flat(spec)
        different = [
            key for key in sorted(mine.keys() | theirs.keys()) if mine.get(key) != theirs.get(key)
        ]
        if not different:
            return
        options = {key: option(self.spec, key) for key in different}
        # What no option mends comes first.
        key = min(different, key=lambda each: options[each] != "")
        remedy = "use the settings it was made with"
        if options[key]:
            remedy = f"say {' '.join(dict.fromkeys(options.values()))}"
        raise UserError(
            f"dataset {self.root} was made with {key} = {mine.get(key)!r}, but "
            f"{theirs.get(key)!r} is wanted; {remedy}, or name another directory"
        )

    def __getitem__(self, index: int) -> Episode:
        info = self._episodes[index]
        return next(self._read_file([info]))

    def __iter__(self) -> Iterator[Episode]:
        for infos in self._by_file():
            yield from self._read_file(infos)

    def read(self) -> Frames:
        """Return all frames; they are decoded once, as long as no episode is added.

        The images take 12 kB each at 64 pixels of the disk, beside the store while they are used.
        Raises `UserError` that names what is corrupt, and where the disk has no room for them.
        """
        if self._frames is None or self._decoded != len(self):
            self._frames = self._read()
            self._decoded = len(self)
        return self._frames

    def _read(self) -> Frames:
        total = sum(self._check_length(infos) for infos in self._by_file())
        images = mapped((total, *self.spec.image_shape), beside=self.root)
        actions = np.empty((total, self.spec.action_dim), np.float32)
        state = np.empty((total, self.spec.state_dim), np.float32)
        for infos in self._by_file():
            first = infos[0].start
            stop = infos[-1].start + infos[-1].length
            columns = self._decode(infos, images[first:stop])
            actions[first:stop] = columns["action"]
            state[first:stop] = columns[lerobot.STATE]
        tasks = tuple(dict.fromkeys(info.provenance.task for info in self._episodes))
        lengths = [info.length for info in self._episodes]

        def per_frame(values: list[int]) -> np.ndarray:
            return np.repeat(np.array(values, np.int64), lengths)

        instructions = [self._instructions.index(info.instruction) for info in self._episodes]
        return Frames(
            images=images,
            actions=actions,
            state=state,
            instruction=per_frame(instructions),
            task=per_frame([tasks.index(info.provenance.task) for info in self._episodes]),
            episode=per_frame([info.index for info in self._episodes]),
            instructions=tuple(self._instructions),
            tasks=tasks,
        )

    def _by_file(self) -> Iterator[list[EpisodeInfo]]:
        for number in range(self._files):
            yield self._in_file(number)

    def _read_file(self, infos: Sequence[EpisodeInfo]) -> Iterator[Episode]:
        """Yield the episodes `infos`, which lie next to each other in one data file."""
        self._check_length(infos)
        frames = sum(info.length for info in infos)
        images = np.empty((frames, *self.spec.image_shape), np.uint8)
        columns = self._decode(infos, images)
        first = infos[0].start
        for info in infos:
            part = slice(info.start - first, info.start - first + info.length)
            yield Episode(
                images[part].copy(),
                columns["action"][part].copy(),
                columns["next.reward"][part].copy(),
                info.instruction,
                info.success,
                provenance=info.provenance,
                state=columns[lerobot.STATE][part].copy(),
            )

    def _in_file(self, number: int) -> list[EpisodeInfo]:
        return [info for info in self._episodes if info.file == number]

    def _check_length(self, infos: Sequence[EpisodeInfo]) -> int:
        """Return how many frames the data file of `infos` has, as its foot and our rows say.

        Raises `UserError` where they differ, before anything of that size is made room for.
        """
        in_file = self._in_file(infos[0].file)
        frames = sum(info.length for info in in_file)
        path = self.root / lerobot.file_path(lerobot.DATA_PATH, infos[0].file)
        where = f"{_numbers(in_file)} of {self.root} ({path.relative_to(self.root)})"
        found = lerobot.count_rows(path, where=where)
        if found != frames:
            raise UserError(
                f"{where}: the file is corrupt, it has {found} frames, not {frames}; "
                f"{lerobot.RESTORE}"
            )
        return frames

    def _decode(
        self, infos: Sequence[EpisodeInfo], images: UInt8[np.ndarray, "N H W 3"]
    ) -> dict[str, np.ndarray]:
        """Decode the pictures of `infos`, neighbours in one data file, into `images`; return
        actions, rewards and the robot's states."""
        path = self.root / lerobot.file_path(lerobot.DATA_PATH, infos[0].file)
        in_file = self._in_file(infos[0].file)
        table = lerobot.read_table(
            path,
            columns=[*lerobot.image_keys(self.spec.cameras), *self._numbers_read()],
            sha256=infos[0].sha256,
            where=f"{_numbers(in_file)} of {self.root} ({path.relative_to(self.root)})",
        ).combine_chunks()
        with shaped(path, remedy=lerobot.RESTORE):
            pictures, columns = self._columns(table)
        first = infos[0].start - in_file[0].start
        for pngs, out in zip(pictures, lerobot.views(images, len(pictures)), strict=True):
            offset = 0
            for info in infos:
                part = slice(offset, offset + info.length)
                where = f"{_numbers([info])} of {self.root} ({path.relative_to(self.root)})"
                own = pngs[first + offset : first + offset + info.length]
                lerobot.decode_pngs(own, out[part], where=where)
                offset += info.length
        return {name: values[first : first + len(images)] for name, values in columns.items()}

    def _columns(self, table: pa.Table) -> tuple[list[list[bytes]], dict[str, np.ndarray]]:
        """Return the PNGs of each camera, the actions, the rewards and the robot's states of a data
        file.

        Raises what `shaped` understands where they are not what all stores have.
        """
        numbers = lerobot.read_as(table, self._numbers_read())
        columns = {name: _numeric(numbers[name]) for name in numbers.column_names}
        columns["action"] = columns["action"].reshape(len(table), -1)
        state = columns.get(lerobot.STATE, np.zeros(0, np.float32))
        columns[lerobot.STATE] = state.reshape(len(table), self.spec.state_dim)
        for name, values in columns.items():
            if not np.isfinite(values).all():
                frame = int(np.argwhere(~np.isfinite(values.reshape(len(table), -1)))[0, 0])
                raise ValueError(f"{name} is not finite in frame {frame}")
        largest = float(np.abs(columns["action"]).max(initial=0.0))
        if largest > LARGEST_ACTION:
            raise ValueError(f"an action of {largest:.3g}, and all suites take -1..1: scale them")
        pictures = []
        for key in lerobot.image_keys(self.spec.cameras):
            pngs = table[key].combine_chunks().field("bytes")
            if pngs.null_count or len(pngs) != len(table):
                raise ValueError("pictures are missing")
            pictures.append(pngs.to_pylist())
        return pictures, columns

    def _numbers_read(self) -> dict[str, pa.DataType]:
        """Return the columns of numbers that are read, with their types."""
        sizes = {lerobot.STATE: self.spec.state_dim, "action": self.spec.action_dim}
        vectors = {
            name: pa.float32() if size == 1 else pa.list_(pa.float32(), size)
            for name, size in sizes.items()
            if size
        }
        return {**vectors, "next.reward": pa.float32()}

    # ------------------------------------------------------------------ writing

    def append(self, episode: Episode) -> None:
        """Add one episode: wholly or, if this raises or the process dies, not at all."""
        self.extend([episode])

    def extend(self, episodes: Sequence[Episode]) -> None:
        """Add several episodes at once, in one pair of files: all of them or none.

        Raises `UserError` where the disk is full or not writable; nothing is lost then, and the
        call can be repeated.
        """
        for episode in episodes:
            self._check(episode)
        if not episodes:
            return
        with disk.locked(self.root):
            if len(_episode_files(self.root)) != self._files:
                self._load()  # another process has added some
            infos, stats, files = self._prepare(episodes)
            disk.replace(self.root, files)
            self._episodes += infos
            self._files += 1
            self._stats = stats
            self._instructions = _instructions(self._instructions, episodes)

    def _check(self, episode: Episode) -> None:
        assert episode.images.shape[1:] == tuple(self.spec.image_shape), episode.images.shape
        assert episode.actions.shape[1] == self.spec.action_dim, episode.actions.shape
        assert episode.state.shape[1] == self.spec.state_dim, episode.state.shape
        assert all(
            np.isfinite(each).all() for each in (episode.actions, episode.rewards, episode.state)
        )
        assert episode.provenance.suite == self.spec.suite, episode.provenance
        assert episode.success or self.spec.kind != "online", "failures never go to an online store"

    def _prepare(
        self, episodes: Sequence[Episode]
    ) -> tuple[list[EpisodeInfo], dict[str, Stats], list[tuple[str, bytes]]]:
        """Return what `episodes` add, and the files that say so, in the order to write them in."""
        spec = self.spec
        schema = lerobot.features(spec.image_shape, spec.action_dim, spec.state_dim, spec.cameras)
        instructions = _instructions(self._instructions, episodes)
        index = len(self._episodes)
        start = sum(info.length for info in self._episodes)
        columns: list[dict[str, np.ndarray]] = []
        for episode in episodes:
            task_index = instructions.index(episode.instruction)
            columns.append(
                lerobot.episode_columns(
                    episode,
                    index=index + len(columns),
                    start=start,
                    task_index=task_index,
                    fps=self.spec.fps,
                )
            )
            start += len(episode)
        parts = [
            lerobot.episode_stats(episode, part, spec.cameras)
            for episode, part in zip(episodes, columns, strict=True)
        ]
        stats = lerobot.merge_stats([self._merged_stats(), *parts] if self._episodes else parts)
        data = lerobot.to_bytes(lerobot.data_table(episodes, columns, schema))
        infos = [
            self._info(episode, part, hashlib.sha256(data).hexdigest())
            for episode, part in zip(episodes, columns, strict=True)
        ]
        rows = lerobot.to_bytes(lerobot.episodes_table(infos, parts))
        files = [
            (lerobot.file_path(lerobot.DATA_PATH, self._files), data),
            (lerobot.TASKS_PATH, lerobot.to_bytes(lerobot.tasks_table(instructions))),
            (lerobot.file_path(lerobot.EPISODES_PATH, self._files), rows),  # the commit
            *summary(self.spec, [*self._episodes, *infos], instructions, stats),
        ]
        return infos, stats, files

    def _info(
        self, episode: Episode, columns: Mapping[str, np.ndarray], sha256: str
    ) -> EpisodeInfo:
        return EpisodeInfo(
            index=int(columns["episode_index"][0]),
            length=len(episode),
            start=int(columns["index"][0]),
            file=self._files,
            sha256=sha256,
            instruction=episode.instruction,
            success=episode.success,
            total_reward=float(episode.rewards.sum(dtype=np.float64)),
            provenance=episode.provenance,
        )

    # ------------------------------------------------------------------ opening

    def _load(self) -> None:
        """Read which episodes are there. The files must be numbered without a gap and agree with
        each other."""
        paths = _episode_files(self.root)
        self._episodes = []
        for path in paths:
            with shaped(path, remedy=lerobot.RESTORE):
                self._episodes += lerobot.read_episodes(lerobot.read_table(path))
        self._files = len(paths)
        self._stats = None
        tasks = self.root / lerobot.TASKS_PATH
        with shaped(tasks, remedy=lerobot.RESTORE):
            self._instructions = lerobot.read_tasks(lerobot.read_table(tasks))
        missing = {info.instruction for info in self._episodes} - set(self._instructions)
        numbered = [info.index for info in self._episodes] == list(range(len(self._episodes)))
        if (
            missing
            or not numbered
            or {info.file for info in self._episodes} != set(range(self._files))
        ):
            raise UserError(
                f"dataset {self.root}: the files under meta/ do not fit together; {lerobot.RESTORE}"
            )
        self._check_rows()
        for number in range(self._files):
            path = self.root / lerobot.file_path(lerobot.DATA_PATH, number)
            infos = self._in_file(number)
            if not path.is_file():
                raise UserError(
                    f"{_numbers(infos)} of {self.root}: {path} is missing; {lerobot.RESTORE}"
                )

    def _check_rows(self) -> None:
        """Raise `UserError` for rows that no store of ours has, and for a doubled episode."""
        start = 0
        seen = set()
        for info in self._episodes:
            made = info.provenance
            if (
                info.length < 1
                or info.start != start
                or not re.fullmatch("[0-9a-f]{64}", info.sha256)
            ):
                raise UserError(
                    f"dataset {self.root}: what meta/ says of episode {info.index} cannot be "
                    f"(length {info.length}, start {info.start}, sha256 {info.sha256!r}); "
                    f"{lerobot.RESTORE}"
                )
            if (made.task, made.seed) in seen:
                raise UserError(
                    f"dataset {self.root} has the episode of {made.task}, seed {made.seed}, twice: "
                    "two collections wrote to it; collect anew"
                )
            start += info.length
            seen.add((made.task, made.seed))

    def _merged_stats(self) -> dict[str, Stats]:
        """Folded file by file in order, as `extend` does: so an interrupted store ends with the
        very same bits."""
        if self._stats is None:
            self._stats = {}
            for path in _episode_files(self.root):
                with shaped(path, remedy=lerobot.RESTORE):
                    parts = lerobot.read_stats(lerobot.read_table(path))
                    before = [self._stats] if self._stats else []
                    self._stats = lerobot.merge_stats([*before, *parts])
        return self._stats

    def _repair(self, promised: int) -> None:
        """Finish what a kill interrupted after the commit and delete what it left before; not while
        someone writes."""
        if promised > len(self):  # info.json is written last and can only be behind
            raise UserError(
                f"dataset {self.root}: of {promised} episodes {len(self)} are left; "
                f"{lerobot.RESTORE}"
            )
        orphan = self.root / lerobot.file_path(lerobot.DATA_PATH, self._files)
        leftovers = [path for path in (self.root / disk.STAGING, orphan) if path.exists()]
        behind = promised < len(self) or not (self.root / lerobot.STATS_PATH).exists()
        if not (leftovers or behind) or not os.access(self.root, os.W_OK):
            return
        with disk.locked(self.root, wait=False) as mine:
            if not mine:
                return
            self._load()
            (self.root / lerobot.file_path(lerobot.DATA_PATH, self._files)).unlink(missing_ok=True)
            shutil.rmtree(self.root / disk.STAGING, ignore_errors=True)
            disk.replace(
                self.root,
                summary(self.spec, self._episodes, self._instructions, self._merged_stats()),
            )


def _instructions(known: Sequence[str], episodes: Sequence[Episode]) -> list[str]:
    """Return every instruction once, in order of appearance: its place is the task_index."""
    return list(dict.fromkeys([*known, *(episode.instruction for episode in episodes)]))


def _numbers(infos: Sequence[EpisodeInfo]) -> str:
    first = infos[0].index
    last = infos[-1].index
    return f"episode {first}" if first == last else f"episodes {first} to {last}"


def _numeric(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        return np.asarray(array.flatten()).reshape(len(array), -1)
    return np.asarray(array)


def _episode_files(root: Path) -> list[Path]:
    return sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet"))
