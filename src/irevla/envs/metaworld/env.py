"""Meta-World behind `Suite`: images in, 4-d actions out, sparse reward. The one file that imports
`metaworld`.

Physics is the stock environment's, bit by bit; only the image is rendered from a light model
(`render`). `reset(seed=s)` gives the same episode in any process and after any other episodes: the
stock reset settles everything twice over, once its random start position is seeded.
"""

import copy
import functools
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float32, UInt8

from irevla.config import EnvConfig
from irevla.envs.metaworld.tasks import (
    ACTION_DIM,
    CAMERA,
    CAMERA_POS,
    CONTROL_HZ,
    SPECS,
    Handle,
    Variant,
)
from irevla.envs.pixel_env import PixelEnv, mujoco_broke
from irevla.errors import UserError, unknown

FIXED = (
    "tablelink",
    "RetainingWall",
    "base",
    "controller_box",
    "pedestal_feet",
    "torso",
    "pedestal",
    "right_arm_base_link",
)
PATH_LENGTH = 500  # control steps after which the stock environment refuses to go on


class MetaWorldEnv(PixelEnv):
    """One task. Action: `float32[4]` in [-1, 1], the hand's displacement and the grip."""

    def __init__(
        self, task: str, config: EnvConfig | None = None, *, render_mode: str | None = None
    ) -> None:
        if task not in SPECS:
            raise unknown("task of metaworld", task, SPECS)
        config = config or EnvConfig()
        if config.horizon * config.action_repeat > PATH_LENGTH:
            asked = f"env.horizon {config.horizon} x env.action_repeat {config.action_repeat}"
            raise UserError(
                f"{asked} is over Meta-World's {PATH_LENGTH} control steps: lower one of them"
            )
        super().__init__(
            SPECS[task].task,
            config,
            action_dim=ACTION_DIM,
            control_hz=CONTROL_HZ,
            render_mode=render_mode,
        )
        self._inner = stock(task)
        self._policy = _policy(SPECS[task].skill)
        self._state = np.zeros(39)

    def _set_scene(self) -> None:
        self._inner.seed(int(self.np_random.integers(2**31)))
        self._state, _ = self._inner.reset()
        self._policy = _policy(SPECS[self.task.name].skill)

    def _advance(self, action: Float32[np.ndarray, "4"]) -> bool:
        """Hold the action for `action_repeat` control steps or until success."""
        for _ in range(self.config.action_repeat):
            self._state, _, _, _, info = self._inner.step(action)
            if info["success"]:
                return True
        return False

    def _robot_state(self) -> Float32[np.ndarray, "4"]:
        return self._state[:4].astype(np.float32)

    def _unstable(self) -> bool:
        return mujoco_broke(self._inner.data)

    def expert_action(self) -> Float32[np.ndarray, "4"]:
        """The scripted expert's clean action for the present state."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # every expert asks for more than 1, and is told so
            action: np.ndarray = self._policy.get_action(self._state)
        return action.clip(-1.0, 1.0).astype(np.float32)

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """The present scene, whether or not observations are drawn."""
        inner = self._inner
        goals = [
            (inner.model.site(name).id, position) for name, position in inner._target_site_config
        ]
        renderer = _renderer(self.task.name)
        upside_down: np.ndarray = renderer.draw(inner.model, inner.data, size=size, sites=goals)
        return upside_down[::-1].copy()  # so hangs the stock camera


# --- The stock environment


def stock(task: str) -> Any:
    """Meta-World's own environment of `task`: the variant applied, the start position drawn from
    its seed."""
    from irevla.envs import render  # noqa: F401  first of all: it chooses the GL library

    from metaworld.env_dict import ALL_V3_ENVIRONMENTS  # isort: skip

    spec = SPECS[task]
    base = ALL_V3_ENVIRONMENTS[f"{spec.skill}-v3"]
    variant = spec.variant

    class Compiled(base):  # type: ignore[misc, valid-type]
        def _initialize_simulation(self) -> tuple[Any, Any]:
            import mujoco

            model = copy.copy(_compiled(task, self.fullpath))  # its own: bodies are moved in it
            return model, mujoco.MjData(model)

        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            self._settles = False
            return super().reset(seed, options)

        def reset_model(self) -> Any:
            seen = super().reset_model()
            self._settles = True
            return seen

        def _reset_hand(self, steps: int = 50) -> None:
            """Let the hand come to rest: only the second time that the stock reset asks for it.

            All that comes of the first is the place that it draws.
            """
            if self._settles:
                super()._reset_hand(steps)
            else:
                self.init_tcp = self.tcp_center

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium's remarks on float64 spaces
        env: Any = Compiled()
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    env._set_task_called = True
    env._partially_observable = False  # the experts must know their goal; else half of them fail
    vars(env).pop("sawyer_observation_space", None)  # cached, with a goal clipped to 0
    if variant.low is not None and variant.high is not None:
        space: Any = env._random_reset_space
        low = np.array(space.low)
        high = np.array(space.high)
        low[:3] = variant.low  # what follows the object's position, if anything, is the goal's
        high[:3] = variant.high
        env._random_reset_space = gym.spaces.Box(low, high, dtype=np.float64)
    return env


def _policy(skill: str) -> Any:
    from metaworld.policies import ENV_POLICY_MAP

    make: Any = ENV_POLICY_MAP[f"{skill}-v3"]
    return make()


# --- Variants


@functools.cache
def _compiled(task: str, path: str) -> Any:
    """Return the model of `task`, whose stock file is at `path`: compiled once in a process."""
    import mujoco

    variant = SPECS[task].variant
    if variant == Variant():
        return mujoco.MjModel.from_xml_path(path)
    spec = mujoco.MjSpec.from_file(path)
    for material, rgb in variant.recolour.items():
        changed = spec.material(material)
        changed.rgba = [*rgb, 1.0]
        changed.textures = [""] * mujoco.mjtTextureRole.mjNTEXROLE
    if variant.handle:
        _reshape(spec, variant.handle)
    return spec.compile()


def _reshape(spec: Any, handle: Handle) -> None:
    """Change the handle's collision geoms, and draw twins of them. Their group stays: Meta-World
    takes inertia from groups 4 and 5.
    """
    import mujoco

    kinds = {"capsule": mujoco.mjtGeom.mjGEOM_CAPSULE, "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER}
    chosen = {kinds[name] for name in handle.kinds}
    body = spec.body(handle.body)
    for geom in list(body.geoms):
        if geom.group != 4 and (geom.type in chosen or geom.meshname in handle.hidden):
            # Hidden, not deleted: the environment asks for some by name.
            geom.rgba = [0.5, 0.5, 0.5, 0.0]
        if geom.group != 4 or geom.type not in chosen:
            continue
        radius = geom.size[0] * handle.thickness
        half = geom.size[1]
        if handle.boxy:
            half += geom.size[0] if geom.type == kinds["capsule"] else 0.0
            geom.type = mujoco.mjtGeom.mjGEOM_BOX
        geom.size = [radius, radius, half] if handle.boxy else [radius, half, 0.0]
        twin = body.add_geom(
            type=geom.type,
            size=geom.size,
            pos=geom.pos,
            quat=geom.quat,
            rgba=[*handle.colour, 1.0],
            group=1,
        )
        twin.alt.type = geom.alt.type
        twin.alt.euler = geom.alt.euler
        twin.contype = 0
        twin.conaffinity = 0
        twin.mass = 0.0


@functools.cache
def _renderer(task: str) -> Any:
    """The light model of `task`, shared by all its environments in this process."""
    from irevla.envs import render

    model = stock(task).model
    return render.Renderer(model, camera=render.camera_of(model, CAMERA, CAMERA_POS), fixed=FIXED)
