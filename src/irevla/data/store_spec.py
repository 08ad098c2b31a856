"""What all episodes of a dataset have in common, in a file beside its info.json: written, read,
compared."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from irevla.data import lerobot
from irevla.data.lerobot import EpisodeInfo, Shape, Stats
from irevla.errors import UserError
from irevla.storage import disk
from irevla.storage.read import mapping, read_json, shaped

OURS = "meta/irevla.json"  # our own facts
SCHEMA = 1  # of them; another number is refused

Kind = Literal["expert", "online", "practice"]


@dataclass(frozen=True)
class StoreSpec:
    """What all episodes of a store have in common.

    Data that differ in any of it must not be mixed.
    """

    suite: str
    image_shape: Shape  # H, W, 3, of all cameras together
    action_dim: int
    fps: int  # decisions per second of simulated time, rounded
    render: Mapping[str, Any] = field(default_factory=dict)
    """What changes the image or the dynamics (JSON)."""
    kind: Kind = "expert"
    """D_e, D_RL, which takes successes only, or practice, which takes everything."""
    state_dim: int = 0  # S: numbers of the robot's state
    cameras: tuple[str, ...] = ()  # whose squares lie one below the other; empty: one, unnamed


def is_vacant(root: Path) -> bool:
    """Return whether there is nothing yet, or only what a kill during creation left.

    Raises `UserError` where there is something foreign.
    """
    if not root.exists():
        return True
    if not root.is_dir():
        raise UserError(f"{root} is a file, not a dataset; name another directory")
    if (root / lerobot.INFO_PATH).exists():
        return False
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    if any(
        not name.startswith(f"{disk.STAGING}/")
        for name in found - {lerobot.TASKS_PATH, lerobot.STATS_PATH, OURS}
    ):
        raise UserError(f"{root} exists and is no dataset of irevla; name another directory")
    return True


def is_ours(root: Path) -> bool:
    """Return whether irevla, of whatever version, wrote the dataset at `root`."""
    path = root / lerobot.INFO_PATH
    return path.exists() and _facts(root, read_json(path, remedy=lerobot.RESTORE)) is not None


def _facts(root: Path, info: Any) -> Any:
    """Return our own facts; None where there are none. Until version 0.2 info.json had them."""
    if (root / OURS).exists():
        return read_json(root / OURS, remedy=lerobot.RESTORE)
    return info.get("irevla") if isinstance(info, dict) else None


def create(root: Path, spec: StoreSpec) -> None:
    """Make an empty dataset. info.json comes last: before it, the directory counts as vacant."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create dataset {root}: {error.strerror}; name another directory"
        ) from error
    with disk.locked(root):
        if not is_vacant(root):
            return  # another process was faster
        tasks = (lerobot.TASKS_PATH, lerobot.to_bytes(lerobot.tasks_table([])))
        ours, info, stats = summary(spec, [], [], {})
        disk.replace(root, [tasks, stats, ours, info])


def summary(
    spec: StoreSpec,
    infos: Sequence[EpisodeInfo],
    instructions: Sequence[str],
    stats: Mapping[str, Stats],
) -> list[tuple[str, bytes]]:
    """Return our own facts, info.json and stats.json: all but the spec follows from the
    episodes."""
    ours = {
        "schema": SCHEMA,
        "kind": spec.kind,
        "suite": spec.suite,
        "render": dict(spec.render),
        "instructions": {info.provenance.task: info.instruction for info in infos},
        **({"cameras": list(spec.cameras)} if spec.cameras else {}),
    }
    info = lerobot.info_json(
        lerobot.features(spec.image_shape, spec.action_dim, spec.state_dim, spec.cameras),
        fps=spec.fps,
        episodes=len(infos),
        frames=sum(info.length for info in infos),
        tasks=len(instructions),
    )
    files = {OURS: ours, lerobot.INFO_PATH: info, lerobot.STATS_PATH: lerobot.stats_json(stats)}
    return [(name, lerobot.to_bytes(content)) for name, content in files.items()]


def read_spec(root: Path) -> StoreSpec:
    """Return what all episodes of the dataset at `root` have in common.

    Raises `UserError` where it is not ours, or says what cannot be.
    """
    info = read_json(root / lerobot.INFO_PATH, remedy=lerobot.RESTORE)
    ours = _facts(root, info)
    if not isinstance(ours, dict) or ours.get("schema") != SCHEMA:
        raise UserError(
            f"{root} is a dataset, but not one that this version of irevla made; name another "
            "directory"
        )
    with shaped(root / lerobot.INFO_PATH, remedy=lerobot.RESTORE):
        cameras = tuple(map(str, ours.get("cameras", ())))
        keys = lerobot.image_keys(cameras)
        (shape,) = {tuple(map(int, info["features"][key]["shape"])) for key in keys}
        height, width, channels = shape
        (action_dim,) = map(int, info["features"]["action"]["shape"])
        if not (0 < height <= 4096 and 0 < width <= 4096 and channels == 3):
            raise ValueError(f"pictures of {height} x {width} x {channels}")
        state_dim = 0
        if lerobot.STATE in info["features"]:
            (state_dim,) = map(int, info["features"][lerobot.STATE]["shape"])
        if not 0 <= state_dim <= 4096:
            raise ValueError(f"a state of {state_dim} numbers")
        if not 0 < action_dim <= 4096 or ours["kind"] not in get_args(Kind):
            raise ValueError(f"actions of {action_dim} dimensions, kind {ours['kind']}")
        return StoreSpec(
            suite=str(ours["suite"]),
            image_shape=(len(keys) * height, width, channels),
            action_dim=action_dim,
            fps=int(info["fps"]),
            state_dim=state_dim,
            cameras=cameras,
            render=mapping(ours["render"], "render"),
            kind=ours["kind"],
        )


def flat(spec: StoreSpec) -> dict[str, Any]:
    """Return a spec as "render.camera" -> value, as JSON gives it back (tuples are lists)."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(spec)))
    render = plain.pop("render")
    return plain | {f"render.{key}": value for key, value in render.items()}


def option(spec: StoreSpec, key: str) -> str:
    """Return the option of a run that asks for what `spec` has under `key` of `flat`; "" where none
    does."""
    if key == "cameras":
        return " ".join(["--env.cameras", *spec.cameras])
    if key == "state_dim":
        return "--env.state" if spec.state_dim else "--env.no-state"
    if key in ("image_shape", "render.image_size"):
        return f"--env.image-size {spec.image_shape[1]}"
    if key in ("fps", "render.action_repeat") and "action_repeat" in spec.render:
        return f"--env.action-repeat {spec.render['action_repeat']}"
    return ""
