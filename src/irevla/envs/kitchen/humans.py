"""Human demonstrations of the kitchen, for those who have them: Minari's D4RL sets and R3M's
pickles.

Both hold the joints of the arm and of the kitchen at 12.5 Hz. A recording is cut to what leads to a
task's success; of each state our own image is rendered, and each label is the motion of the hand to
the next state.
"""

import io
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from irevla.config import EnvConfig
from irevla.envs.franka import OPEN, Motion, rotation_vector
from irevla.envs.kitchen.env import KitchenEnv, model_of
from irevla.envs.kitchen.tasks import SKILLS, Skill
from irevla.errors import UserError
from irevla.types import NO_STATE, Episode, Provenance

ROBOT = slice(0, 9)  # of qpos
# Of an observation: qpos and qvel of the robot (9 + 9), then of the kitchen (21 + 20).
MINARI_WIDTH = 59
# Where, in qpos, the nine joints stand that R3M's observations hold.
R3M_OBJECTS = (9, 11, 13, 15, 17, 19, 20, 21, 22)
# What a hand moves: these, and the kettle; burners and lamp follow their switches.
HANDLED = (*R3M_OBJECTS, 23, 24, 25)
MOVING = 0.01  # rad (or m) in a step: noise in the recordings is less
SHORTEST = 5  # states of a demonstration
HARMLESS = {  # all that arrays in a pickle consist of
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
}

States = Float[np.ndarray, "_ 30"]


def demonstrations(
    path: Path, tasks: Sequence[str], config: EnvConfig, most: int
) -> Iterator[Episode]:
    """Demonstrations of each of `tasks` in the file or folder `path`, at most so many of each,
    drawn one by one.

    Raises `UserError` where there are none of a task (it says of which there are), and for files
    that cannot be read.
    """
    foreign = sorted(set(tasks) - set(SKILLS))
    if foreign:
        raise UserError(
            f"people never showed {', '.join(foreign)}: choose among {', '.join(SKILLS)}"
        )
    pieces: dict[str, list[tuple[int, States]]] = {task: [] for task in SKILLS}
    for number, states in enumerate(recordings(path)):
        for task, skill in SKILLS.items():
            piece = cut(states, skill, config.horizon)
            if piece is not None:
                pieces[task].append((number, piece))
    lacking = [task for task in tasks if not pieces[task]]
    if lacking:
        known = [f"{task} ({len(found)})" for task, found in pieces.items() if found]
        there = ", ".join(known) or "none of ours"
        raise UserError(
            f"{path} shows no {', no '.join(lacking)}; it has {there}: choose --tasks among them"
        )
    return (
        _episode(task, piece, config, number)
        for task in tasks
        for number, piece in pieces[task][:most]
    )


def cut(states: States, skill: Skill, longest: int) -> States | None:
    """What leads to the success of `skill`: from where nothing else moves any more (but `longest`
    decisions at most) to the first state past its goal. None where there is no success."""
    joint = JOINT_INDEX[skill.joint]
    past = states[:, joint] * np.sign(skill.goal) >= abs(skill.goal)
    if not past.any() or past[0]:
        return None
    end = int(past.argmax())
    others = [index for index in HANDLED if index != joint]
    moved = np.flatnonzero(
        (np.abs(np.diff(states[: end + 1, others], axis=0)) > MOVING).any(axis=1)
    )
    start = max(int(moved[-1]) + 1 if len(moved) else 0, end - longest)
    return states[start : end + 1] if end + 1 - start >= SHORTEST else None


JOINT_INDEX: Mapping[str, int] = {
    "knob_Joint_1": 9,
    "light_switch": 17,
    "slide_cabinet": 19,
    "left_hinge_cabinet": 20,
    "microwave": 22,
}
"""Where in qpos the tasks' joints stand, in FrankaKitchen-v1 and so in both kinds of files."""


def _episode(task: str, states: States, config: EnvConfig, number: int) -> Episode:
    env = KitchenEnv(task, config)
    images = []
    hands = []
    own = []
    for state in states:
        env.show(state)
        images.append(env.picture(config.image_size))
        hands.append((env.arm.position, env.arm.rotation))
        own.append(env.arm.state)
    actions = [
        _action(here, there, fingers, env.arm.motion)
        for here, there, fingers in zip(hands, hands[1:], states[1:, 7:9], strict=False)
    ]
    rewards = np.zeros(len(actions), np.float32)
    rewards[-1] = 1.0
    who = Provenance("kitchen", task, number, "human")
    told = np.stack(own[:-1]) if config.state else NO_STATE
    return Episode(
        np.stack(images[:-1]), np.stack(actions), rewards, SKILLS[task].instruction, True, who, told
    )


def _action(
    here: tuple[np.ndarray, np.ndarray],
    there: tuple[np.ndarray, np.ndarray],
    fingers: Float[np.ndarray, "2"],
    motion: Motion,
) -> Float32[np.ndarray, "7"]:
    """The action that moves the hand from one pose to another in a decision."""
    shift = (there[0] - here[0]) / motion.reach
    turn = rotation_vector(there[1] @ here[1].T) / motion.turn
    gripper = 1.0 if fingers.mean() < OPEN / 2 else -1.0
    return np.concatenate([shift, turn, [gripper]]).clip(-1, 1).astype(np.float32)


# --- files


def recordings(path: Path) -> Iterator[States]:
    """The states of every recording in a file, or in all files that are known in a folder."""
    files = [path]
    if not path.is_file():
        files = sorted(file for file in path.rglob("*") if file.suffix in READERS)
    if not files:
        raise UserError(
            f"{path} holds no demonstrations: neither main_data.hdf5 (Minari) nor *.pickle (R3M)"
        )
    for file in files:
        if file.suffix not in READERS:
            raise UserError(f"{file} is of no kind that is known here: {', '.join(READERS)}")
        yield from READERS[file.suffix](file)


def read_minari(path: Path) -> Iterator[States]:
    """The episodes of a Minari dataset of FrankaKitchen-v1 (`main_data.hdf5`)."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise UserError(
            "Minari's files need the package 'h5py': pip install 'irevla[kitchen]'"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            for name in sorted(file, key=lambda key: int(key.rpartition("_")[2])):
                seen = np.asarray(file[name]["observations"]["observation"], np.float64)
                _check(seen, MINARI_WIDTH, path)
                yield np.concatenate([seen[:, :9], seen[:, 18:39]], axis=1)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is no Minari dataset of FrankaKitchen-v1 that can be read ({error})"
        ) from error


def read_r3m(path: Path) -> Iterator[States]:
    """The paths of one of R3M's pickles, of which nothing is run: it may hold arrays and plain
    containers alone."""
    try:
        paths = _Arrays(io.BytesIO(path.read_bytes())).load()
        observations = [np.asarray(one["observations"], np.float64) for one in paths]
    except UserError as error:
        raise UserError(f"{path} is refused: {error}") from error
    except (
        pickle.UnpicklingError,
        OSError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise UserError(
            f"{path} is not one of R3M's pickles ({error or type(error).__name__})"
        ) from error
    for seen in observations:
        _check(seen, len(R3M_OBJECTS) + 9, path)
        # At rest, but for what the file says.
        states = np.tile(model_of("knob-on").qpos0, (len(seen), 1))
        states[:, ROBOT] = seen[:, ROBOT]
        states[:, R3M_OBJECTS] = seen[:, 9 : 9 + len(R3M_OBJECTS)]
        yield states


READERS: Mapping[str, Callable[[Path], Iterator[States]]] = {
    ".hdf5": read_minari,
    ".pickle": read_r3m,
    ".pkl": read_r3m,
}
"""Suffix -> reader."""


class _Arrays(pickle.Unpickler):
    """An unpickler that knows how arrays are made, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise UserError(
                f"it holds more than arrays ({module}.{name}), and loading it could run foreign "
                "code"
            )
        current = module.replace("numpy.core", "numpy._core")  # where numpy 2 has it
        return super().find_class(current, name)


def _check(seen: np.ndarray, width: int, path: Path) -> None:
    if seen.ndim != 2 or seen.shape[1] < width or not np.isfinite(seen).all():
        raise UserError(
            f"{path} has observations {list(seen.shape)}; those of the kitchen are [T, {width}], "
            "finite"
        )
