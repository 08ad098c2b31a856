"""Demonstrations that others recorded, as a suite's expert dataset D_e."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from irevla.data.camera import check_images, decode, find_camera
from irevla.data.dataset import Dataset, RecordedEpisode, same_rate
from irevla.data.dataset_files import Camera
from irevla.data.episodes import LARGEST_ACTION, Frames
from irevla.data.frame_cache import cached
from irevla.data.lerobot import STATE, views
from irevla.errors import UserError, printable
from irevla.progress import bar
from irevla.tasks import plain

DECODING = 1  # version of how images come out; raise it when they change: caches are made again
SHOWN = 5  # instructions that a message lists


@dataclass(frozen=True)
class Wanted:
    """What a suite's D_e must be."""

    suite: str
    instructions: Mapping[str, str]  # of the expert tasks, by name
    low: Float32[np.ndarray, " A"]  # the action that the suite calls -1, as it is recorded
    high: Float32[np.ndarray, " A"]  # and the one that it calls 1
    fps: float  # decisions per second
    image_size: int  # side of the square image, pixels
    cameras: tuple[str, ...] = ()  # that the policy sees; empty: one, whatever it is called
    displacements: int = 0  # so many of an action's first numbers add up from frame to frame
    state_dim: int = 0  # S: how many numbers of the robot's state the policy is told


class Demonstrated:
    """The episodes of a LeRobotDataset that demonstrate the tasks of `wanted`.

    Every `stride`-th frame is a decision, with the action recorded there; `camera` is one by name,
    or "" for the only one. An instruction is the task's, whatever its case, spaces and full stop;
    episodes of other tasks and those that failed are left out, and `notes` says so. Raises
    `UserError` with the remedy for what does not fit; no image is decoded before `read`.
    """

    def __init__(self, root: Path, wanted: Wanted, *, camera: str, stride: int) -> None:
        self.root = root
        self.notes: list[str] = []
        self._wanted = wanted
        self._stride = stride
        self._dataset = Dataset(root)
        self._check_dimensions()
        self._check_state()
        self._cameras = self._find_cameras(camera)
        self._check_rate()
        for each in self._cameras:
            check_images(self._dataset, each)
        self._tasks = self._chosen()
        self._actions = self._scaled()
        self._frames: Frames | None = None

    def __len__(self) -> int:
        return len(self._episodes)

    def counts(self) -> dict[str, int]:
        """Return the number of episodes of each task."""
        return {task: len(episodes) for task, episodes in self._tasks.items()}

    def hash(self) -> str:
        """Return the sha256 of the dataset's files, and of what is taken from them."""
        return self._key

    def read(self) -> Frames:
        """Return all frames; images are decoded once and for all runs, into a cache on disk.

        Raises `UserError` that names what is broken, and where the disk has no room for them.
        """
        if self._frames is None:
            self._frames = self._read()
        return self._frames

    @property
    def _episodes(self) -> list[RecordedEpisode]:
        """Every episode, task by task."""
        return [episode for episodes in self._tasks.values() for episode in episodes]

    @cached_property
    def _key(self) -> str:
        """The hash of all that images and actions depend on."""
        facts = {
            "decoding": DECODING,
            "dataset": self._dataset.hash(self._cameras[0]),
            "camera": self._cameras[0].key,
            **({"others": self._others()} if len(self._cameras) > 1 else {}),
            "stride": self._stride,
            "image_size": self._wanted.image_size,
            **({"state": True} if self._wanted.state_dim else {}),
            "actions": [self._wanted.low.tolist(), self._wanted.high.tolist()],
            "tasks": {
                task: [episode.index for episode in episodes]
                for task, episodes in self._tasks.items()
            },
        }
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _others(self) -> list[list[str]]:
        """Return what identifies the images of the cameras after the first."""
        return [[each.key, self._dataset.hash(each)] for each in self._cameras[1:]]

    def _find_cameras(self, name: str) -> list[Camera]:
        """Return the cameras that the policy sees. Raises `UserError` where one is not there."""
        wanted = self._wanted.cameras
        if not wanted:
            return [find_camera(self._dataset, name)]
        if name:
            raise UserError("leave expert.camera out: env.cameras says what the policy sees")
        return [find_camera(self._dataset, each) for each in wanted]

    def _read(self) -> Frames:
        lengths = [len(range(0, episode.length, self._stride)) for episode in self._episodes]
        size = self._wanted.image_size
        high = len(self._cameras) * size
        images = cached(self._key, (sum(lengths), high, size, 3), self._decode)
        tasks = tuple(self._tasks)
        numbers = [tasks.index(task) for task in tasks for _ in self._tasks[task]]
        task = np.repeat(np.array(numbers, np.int64), lengths)
        return Frames(
            images=images,
            actions=np.concatenate(self._actions),
            state=np.concatenate([self._state(episode) for episode in self._episodes]),
            instruction=task,
            task=task,
            episode=np.repeat(np.arange(len(lengths)), lengths),
            instructions=tuple(self._wanted.instructions[name] for name in tasks),
            tasks=tasks,
        )

    def _decode(self, out: np.ndarray) -> None:
        total = len(out) * len(self._cameras)
        with bar(f"Images of {self.root}", total) as advance:
            for number, camera in enumerate(self._cameras):
                before = number * len(out)
                decode(
                    self._dataset,
                    camera,
                    self._episodes,
                    self._stride,
                    views(out, len(self._cameras))[number],
                    lambda done, before=before: advance(before + done, f"{before + done} images"),  # type: ignore[misc]
                )

    # ------------------------------------------------------------------ what fits

    def _check_dimensions(self) -> None:
        found = self._dataset.actions.shape[1]
        wanted = len(self._wanted.low)
        if found != wanted:
            raise UserError(
                f"dataset {self.root} has actions of {found} dimensions, and {self._wanted.suite} "
                f"takes {wanted}: name a dataset that was recorded with it"
            )

    def _check_state(self) -> None:
        """Raise `UserError` unless what the policy is told of the robot is recorded."""
        wanted = self._wanted.state_dim
        if not wanted:
            return
        state = self._dataset.state
        if state is None or state.shape[1] != wanted:
            found = "no vector" if state is None else f"{state.shape[1]} numbers"
            raise UserError(
                f"dataset {self.root} has {found} in {STATE}, and {self._wanted.suite} says "
                f"{wanted} numbers of its robot: --env.no-state, or name a dataset that was "
                "recorded with it"
            )
        if not np.isfinite(state).all():
            frame = int(np.argwhere(~np.isfinite(state))[0, 0])
            raise UserError(
                f"dataset {self.root}: {STATE} is not finite in frame {frame}; --env.no-state, or "
                "take that episode out with LeRobot's lerobot-edit-dataset"
            )

    def _state(self, episode: RecordedEpisode) -> Float32[np.ndarray, "_ S"]:
        """Return what the robot said of itself with each image of an episode."""
        state = self._dataset.state if self._wanted.state_dim else None
        if state is None:
            return np.zeros((len(range(0, episode.length, self._stride)), 0), np.float32)
        return state[episode.frames][:: self._stride]

    def _check_rate(self) -> None:
        """Raise `UserError` unless the suite decides as often as the dataset does at the stride."""
        fps = self._dataset.info.fps
        wanted = self._wanted.fps
        if not same_rate(fps / self._stride, wanted):
            stride = max(1, round(fps / wanted))
            fits = same_rate(fps / stride, wanted)
            remedy = f"--expert.stride {stride}" if fits else "no stride makes one of the other"
            raise UserError(
                f"dataset {self.root} has {fps} frames a second, {fps / self._stride:.3g} at "
                f"stride {self._stride}, and {self._wanted.suite} decides {wanted:.3g} times a "
                f"second: {remedy}, or another --env.action-repeat"
            )
        if self._stride > 1:
            summed = ", displacements of all of them added up" if self._wanted.displacements else ""
            self.notes.append(f"a decision is one frame in {self._stride}{summed}")

    def _chosen(self) -> dict[str, list[RecordedEpisode]]:
        """Return the episodes of each expert task that are worth imitating."""
        tasks = self._by_instruction()
        chosen: dict[str, list[RecordedEpisode]] = {task: [] for task in tasks.values()}
        failed = 0
        others: Counter[str] = Counter()
        for episode in self._dataset.episodes:
            task = tasks.get(plain(episode.instruction))
            if task is None:
                others[episode.instruction] += 1
            elif episode.success is False:
                failed += 1
            else:
                chosen[task].append(episode)
        for task, episodes in chosen.items():
            if not episodes:
                raise self._lacks(task, list(others))
        self._note_success(failed)
        if others:
            self.notes.append(
                f"episodes of other tasks, left out: {others.total()} ({_listed(list(others))})"
            )
        return chosen

    def _by_instruction(self) -> dict[str, str]:
        """Return the task of each instruction. Raises `UserError` where one has several."""
        tasks: dict[str, str] = {}
        for task, instruction in self._wanted.instructions.items():
            twin = tasks.setdefault(plain(instruction), task)
            if twin != task:
                raise UserError(
                    f"{twin} and {task} have one instruction ({instruction!r}), which is all that "
                    f"tells the tasks of {self.root} apart: name one of them in --expert-tasks"
                )
        return tasks

    def _lacks(self, task: str, others: Sequence[str]) -> UserError:
        instruction = self._wanted.instructions[task]
        return UserError(
            f"dataset {self.root} has no successful episode of {task} ({instruction!r}), but of "
            f"{_listed(others) or 'no other task'}: choose --expert-tasks, or give the task the "
            "dataset's instruction"
        )

    def _note_success(self, failed: int) -> None:
        if not self._dataset.info.has_success:
            self.notes.append("success is not recorded: every episode counts as a demonstration")
        elif failed:
            self.notes.append(f"episodes that failed, left out: {failed}")

    def _scaled(self) -> list[Float32[np.ndarray, "_ A"]]:
        """Return the actions of each episode, from the suite's own scale to [-1, 1].

        Raises `UserError` for what is not finite or outside.
        """
        low = self._wanted.low
        high = self._wanted.high
        scaled = []
        for episode in self._episodes:
            # What is so far outside that it overflows is refused as all that is outside.
            with np.errstate(over="ignore"):
                recorded = self._of_decisions(self._dataset.actions[episode.frames])
                actions = (2 * (recorded - low) / (high - low) - 1).astype(np.float32)
            self._check_actions(episode, recorded, actions)
            scaled.append(np.clip(actions, -1, 1))
        return scaled

    def _of_decisions(self, frames: Float32[np.ndarray, "T A"]) -> Float32[np.ndarray, "_ A"]:
        """Return the action of each decision: that of its first frame, but displacements are the
        sum of those of all its frames."""
        starts = np.arange(0, len(frames), self._stride)
        actions = frames[starts]
        adding = self._wanted.displacements
        actions[:, :adding] = np.add.reduceat(frames[:, :adding], starts, axis=0)
        return actions

    def _check_actions(
        self, episode: RecordedEpisode, recorded: np.ndarray, actions: np.ndarray
    ) -> None:
        inside = np.abs(actions) <= LARGEST_ACTION  # NaN is not
        if inside.all():
            return
        frame, dimension = np.argwhere(~inside)[0].tolist()
        value = float(recorded[frame, dimension])
        where = f"episode {episode.index}, frame {frame * self._stride}, dimension {dimension}"
        if not np.isfinite(value):
            raise UserError(
                f"dataset {self.root}: an action is {value} ({where}); take that episode out with "
                "LeRobot's lerobot-edit-dataset, or name another dataset"
            )
        low = self._wanted.low[dimension]
        high = self._wanted.high[dimension]
        raise UserError(
            f"dataset {self.root}: an action is {value:.4g} ({where}), and {self._wanted.suite} "
            f"takes {low:.4g} to {high:.4g}: scale them, or name a dataset that was recorded with "
            "it"
        )


def _listed(instructions: Sequence[str]) -> str:
    """Return some of the instructions, and how many more there are."""
    names = ", ".join(repr(printable(text)) for text in instructions[:SHOWN])
    more = len(instructions) - SHOWN
    return f"{names} and {more} more" if more > 0 else names
