"""`irevla bench render`: one picture of Meta-World, ours against the stock `render_mode="rgb_array"`, in the same
process on one core.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from irevla.config import EnvConfig
from irevla.envs import metaworld

SIZE = 64  # pixels, for both
STOCK_SHARE = 20  # the stock environment is timed on one frame in so many: it is that much slower, and more
WARM_UP = 3  # frames before the clock starts


def run(*, task: str = "window-close", frames: int = 300) -> dict[str, object]:
    """Median time of one frame, drawn after every control step, so that no two are alike. `ratio` is stock time over
    ours.

    Only drawing is timed, not physics. Raises `UserError` for an unknown task, and where Meta-World or GL is missing.
    """
    metaworld.METAWORLD.check()
    env = metaworld.MetaWorldEnv(task, EnvConfig(image_size=SIZE))
    env.draw = False
    ours = _median_ms(env, lambda: env.picture(SIZE), frames)
    inner = env._inner
    stock_renderer = _stock(inner)
    stock = _median_ms(env, lambda: np.asarray(stock_renderer.render("rgb_array")), max(5, frames // STOCK_SHARE))
    stock_renderer.close()
    return {
        "ratio": stock / ours,
        "ours_ms": ours,
        "stock_ms": stock,
        "task": task,
        "frames": frames,
        "stock_frames": max(5, frames // STOCK_SHARE),
        "image_size": SIZE,
        "settings": dict(metaworld.METAWORLD.render_settings(env.config)),
    }


def _stock(inner: Any) -> Any:
    """gymnasium's own off-screen renderer for `render_mode="rgb_array"`, at our size and with our camera."""
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

    inner.model.cam_pos[inner.model.camera(metaworld.CAMERA).id] = metaworld.CAMERA_POS
    return MujocoRenderer(inner.model, inner.data, width=SIZE, height=SIZE, camera_name=metaworld.CAMERA)


def _median_ms(env: metaworld.MetaWorldEnv, draw: Callable[[], np.ndarray], frames: int) -> float:
    times = []
    for frame in range(frames + WARM_UP):
        if frame % env.config.horizon == 0:
            env.reset(seed=frame)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env.step(env.expert_action())
        start = time.perf_counter()
        picture = draw()
        times.append(1e3 * (time.perf_counter() - start))
        assert picture.shape == (SIZE, SIZE, 3) and picture.std() > 1, "an empty picture would be no benchmark"
    return float(np.median(times[WARM_UP:]))
