"""`irevla bench render`: one picture of a suite, ours against the stock `render_mode="rgb_array"`,
in the same process on one core.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from irevla.config import EnvConfig
from irevla.envs.base import TaskEnv, find_task, load_suite
from irevla.errors import UserError, unknown

SIZE = 64  # pixels, for both
STOCK_SHARE = (
    20  # the stock environment is timed on one frame in so many: it is that much slower, and more
)
WARM_UP = 3  # frames before the clock starts


@dataclass(frozen=True)
class Stock:
    """How a suite is drawn without us: gymnasium's own off-screen renderer, at our size, with the
    model's settings."""

    task: str  # that is played, unless another is named
    renderer: Callable[[Any], Any]  # of an environment


def _metaworld(env: Any) -> Any:
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

    from irevla.envs import metaworld

    inner = env._inner
    inner.model.cam_pos[inner.model.camera(metaworld.CAMERA).id] = metaworld.CAMERA_POS
    return MujocoRenderer(
        inner.model, inner.data, width=SIZE, height=SIZE, camera_name=metaworld.CAMERA
    )


def _kitchen(env: Any) -> Any:
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

    from irevla.envs.kitchen.suite import CAMERA_POS, LOOK_AT

    away = np.array(LOOK_AT) - np.array(CAMERA_POS)
    camera = {
        "distance": float(np.linalg.norm(away)),
        "azimuth": float(np.degrees(np.arctan2(away[1], away[0]))),
        "elevation": float(np.degrees(np.arcsin(away[2] / np.linalg.norm(away)))),
        "lookat": np.array(LOOK_AT),
    }
    return MujocoRenderer(env.model, env.data, width=SIZE, height=SIZE, default_cam_config=camera)


class _Panda:
    """Both views, each by a renderer of its own."""

    def __init__(self, env: Any) -> None:
        from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

        from irevla.envs.panda.suite import WRIST_SHARE

        sides = {"front": SIZE, "wrist": round(WRIST_SHARE * SIZE)}
        self._views = [
            MujocoRenderer(env.model, env.data, width=side, height=side, camera_name=name)
            for name, side in sides.items()
        ]

    def render(self, mode: str) -> np.ndarray:
        """The wrist's view over the front's."""
        front, wrist = (np.array(view.render(mode)) for view in self._views)
        front[: len(wrist), : len(wrist)] = wrist
        return front

    def close(self) -> None:
        """Close both."""
        for view in self._views:
            view.close()  # type: ignore[no-untyped-call]


STOCKS = {
    "metaworld": Stock("window-close", _metaworld),
    "kitchen": Stock("slide-door-open", _kitchen),
    "panda-sim": Stock("pick-red-block", _Panda),
}


def run(*, suite: str = "metaworld", task: str = "", frames: int = 300) -> dict[str, object]:
    """Median time of one frame, drawn after every decision, so that no two are alike. `ratio` is
    stock time over ours.

    Only drawing is timed, not physics. Raises `UserError` for an unknown suite or task, and where
    the simulator or GL is missing.
    """
    if suite not in STOCKS:
        raise unknown("suite with a stock renderer", suite, STOCKS)
    if frames < 1:
        raise UserError(f"frames must be positive, not {frames}")
    domain, config = load_suite(suite), EnvConfig(image_size=SIZE)
    domain.check()
    env = domain.make(find_task(domain, task or STOCKS[suite].task).name, config).unwrapped
    assert isinstance(env, TaskEnv)
    env.draw = False
    ours = _median_ms(env, lambda: env.picture(SIZE), frames, config.horizon)
    renderer = STOCKS[suite].renderer(env)
    few = max(5, frames // STOCK_SHARE)
    stock = _median_ms(env, lambda: np.asarray(renderer.render("rgb_array")), few, config.horizon)
    renderer.close()
    return {
        "ratio": stock / ours,
        "ours_ms": ours,
        "stock_ms": stock,
        "suite": suite,
        "task": env.task.name,
        "frames": frames,
        "stock_frames": few,
        "image_size": SIZE,
        "settings": dict(domain.render_settings(config)),
    }


def _median_ms(env: Any, draw: Callable[[], np.ndarray], frames: int, horizon: int) -> float:
    times = []
    for frame in range(frames + WARM_UP):
        if frame % horizon == 0:
            env.reset(seed=frame)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env.step(env.expert_action())
        start = time.perf_counter()
        picture = draw()
        times.append(1e3 * (time.perf_counter() - start))
        assert picture.shape == (SIZE, SIZE, 3) and picture.std() > 1, (
            "an empty picture would be no benchmark"
        )
    return float(np.median(times[WARM_UP:]))
