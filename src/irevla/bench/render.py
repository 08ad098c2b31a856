"""What one image of a suite costs, ours against the stock `render_mode="rgb_array"`, in the same
process on one core."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from irevla.config import EnvConfig
from irevla.envs.suite import TaskEnv, load_suite
from irevla.errors import UserError, unknown

SIZE = 64  # pixels, for both
STOCK_SHARE = 20  # one frame in so many is timed of the stock renderer: it is that much slower
WARM_UP = 3  # frames before the clock starts


@dataclass(frozen=True)
class Stock:
    """How a suite is rendered without us: by gymnasium's own off-screen renderer, at our size, with
    the model's settings."""

    task: str  # that is played, unless another is named
    renderer: Callable[[Any], Any]  # of an environment


def _metaworld(env: Any) -> Any:
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

    from irevla.envs.metaworld.tasks import CAMERA, CAMERA_POS

    inner = env._inner
    inner.model.cam_pos[inner.model.camera(CAMERA).id] = CAMERA_POS
    return MujocoRenderer(inner.model, inner.data, width=SIZE, height=SIZE, camera_name=CAMERA)


def _kitchen(env: Any) -> Any:
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

    from irevla.envs.kitchen.tasks import CAMERA_POS, LOOK_AT

    away = np.array(LOOK_AT) - np.array(CAMERA_POS)
    camera = {
        "distance": float(np.linalg.norm(away)),
        "azimuth": float(np.degrees(np.arctan2(away[1], away[0]))),
        "elevation": float(np.degrees(np.arcsin(away[2] / np.linalg.norm(away)))),
        "lookat": np.array(LOOK_AT),
    }
    return MujocoRenderer(env.model, env.data, width=SIZE, height=SIZE, default_cam_config=camera)


class _Panda:
    """Both cameras, each by a renderer of its own."""

    def __init__(self, env: Any) -> None:
        from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

        from irevla.envs.panda.tasks import WRIST_SHARE

        sides = {"front": SIZE, "wrist": round(WRIST_SHARE * SIZE)}
        self._cameras = [
            MujocoRenderer(env.model, env.data, width=side, height=side, camera_name=name)
            for name, side in sides.items()
        ]

    def render(self, mode: str) -> np.ndarray:
        """Return the wrist's image over the front's."""
        front, wrist = (np.array(camera.render(mode)) for camera in self._cameras)
        front[: len(wrist), : len(wrist)] = wrist
        return front

    def close(self) -> None:
        """Close both."""
        for camera in self._cameras:
            camera.close()  # type: ignore[no-untyped-call]


class _Libero:
    """The agent's view of the model with its textures, without what collides, as robosuite shows
    it."""

    def __init__(self, env: Any) -> None:
        import mujoco
        from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

        from irevla.envs.libero.stock import with_images
        from irevla.envs.libero.tasks import CAMERA

        self._env = env
        self._model = with_images(env._spec)
        self._model.site_rgba[:, 3] = 0.0
        self._data = mujoco.MjData(self._model)
        self._camera = MujocoRenderer(
            self._model, self._data, width=SIZE, height=SIZE, camera_name=CAMERA
        )
        self._camera._get_viewer("rgb_array").vopt.geomgroup[0] = 0

    def render(self, mode: str) -> Any:
        """Return the present state's image."""
        import mujoco

        env = self._env
        self._model.body_pos[:] = env.model.body_pos
        self._model.body_quat[:] = env.model.body_quat
        self._data.qpos[:] = env.data.qpos
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        return self._camera.render(mode)

    def close(self) -> None:
        """Close the renderer."""
        self._camera.close()  # type: ignore[no-untyped-call]


STOCKS = {
    "libero": Stock("spatial-0", _Libero),
    "metaworld": Stock("window-close", _metaworld),
    "kitchen": Stock("slide-door-open", _kitchen),
    "panda-sim": Stock("pick-red-block", _Panda),
}


def run(*, suite: str = "metaworld", task: str = "", frames: int = 300) -> dict[str, object]:
    """Return the median time of one frame, rendered after every decision, so that no two are alike.

    Only rendering is timed, not physics. "ratio" is stock time over ours. Raises `UserError` for an
    unknown suite or task, and where the simulator or GL is missing.
    """
    if suite not in STOCKS:
        raise unknown("suite with a stock renderer", suite, STOCKS)
    if frames < 1:
        raise UserError(f"frames must be positive, not {frames}")
    found = load_suite(suite)
    found.check()
    config = EnvConfig(image_size=SIZE)
    name = found.task(task or STOCKS[suite].task).name
    env = found.make(name, config).unwrapped
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
        "task": name,
        "frames": frames,
        "stock_frames": few,
        "image_size": SIZE,
        "settings": dict(found.render_settings(config)),
    }


def _median_ms(env: Any, render: Callable[[], np.ndarray], frames: int, horizon: int) -> float:
    times = []
    for frame in range(frames + WARM_UP):
        if frame % horizon == 0:
            env.reset(seed=frame)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env.step(env.expert_action())
        start = time.perf_counter()
        image = render()
        times.append(1e3 * (time.perf_counter() - start))
        assert image.shape == (SIZE, SIZE, 3) and image.std() > 1, "an empty image is no benchmark"
    return float(np.median(times[WARM_UP:]))
