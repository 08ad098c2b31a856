"""Meta-World's own environments, made light: the same physics, starts and successes, bit by bit.

All environments of a task in a process share one model, of 20 MB, in which each has its bodies and
sites at other places. What nobody reads is left out: rewards, rotations of objects, contacts of
fingers. The one file that imports `metaworld`.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from irevla.envs.metaworld.tasks import SPECS, Handle, Variant

MOVED = ("body_pos", "site_pos", "eq_data")  # what an environment changes in its model
APART = 0.1  # m: fingers that are wide open, as Meta-World counts

Places = list[np.ndarray]


def stock(task: str) -> Any:
    """Meta-World's own environment of `task`: the variant applied, the start position drawn from
    its seed.

    `take()` comes before anything that reads or steps its model.
    """
    spec = SPECS[task]
    variant = spec.variant
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium's remarks on float64 spaces
        env: Any = _class_of(task)()
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


def expert(task: str) -> Any:
    """Return Meta-World's scripted expert of `task`."""
    from metaworld.policies import ENV_POLICY_MAP

    make: Any = ENV_POLICY_MAP[f"{SPECS[task].skill}-v3"]
    return make()


@functools.cache
def _class_of(task: str) -> Callable[[], Any]:
    from irevla.envs import render  # noqa: F401  first of all: it chooses the GL library

    from metaworld.env_dict import ALL_V3_ENVIRONMENTS  # isort: skip

    base = ALL_V3_ENVIRONMENTS[f"{SPECS[task].skill}-v3"]

    class Light(base):  # type: ignore[misc, valid-type]
        def _initialize_simulation(self) -> tuple[Any, Any]:
            import mujoco

            self._shared = _compiled(task, self.fullpath)
            self._places = self._shared.places()
            self.take()
            return self._shared.model, mujoco.MjData(self._shared.model)

        def take(self) -> None:
            """Put the bodies of the shared model to where they are in this environment."""
            self._shared.put(self._places)

        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            self.take()
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

        def step(self, action: np.ndarray) -> Any:
            """The stock step: physics, what experts see, and success; the reward is 0."""
            import mujoco

            self.take()
            self.set_xyz_action(action[:3])
            self.do_simulation([action[-1], -action[-1]], self.frame_skip)
            mujoco.mj_forward(self.model, self.data)
            space = self.sawyer_observation_space
            seen = np.clip(self._get_obs(), space.low, space.high)
            with _no_rewards():
                _, info = self.evaluate_state(seen, action)
            return seen, 0.0, False, False, info

        def _get_curr_obs_combined_no_goal(self) -> Float[np.ndarray, "18"]:
            """The hand, how far its fingers are apart, and where one object or two are."""
            data = self.data
            fingers = data.body("rightclaw").xpos - data.body("leftclaw").xpos
            objects = self._get_pos_objects()
            seen = np.zeros(18)
            seen[:3] = self.get_endeff_pos()
            seen[3] = min(float(np.linalg.norm(fingers)) / APART, 1.0)
            seen[4:7] = objects[:3]
            if len(objects) > 3:
                seen[11:14] = objects[3:]  # after the first one's rotation
            return seen

        def _gripper_caging_reward(self, *_: Any, **__: Any) -> float:
            return 0.0

        def touching_object(self, *_: Any) -> bool:
            return False

    return Light


@contextmanager
def _no_rewards() -> Iterator[None]:
    """Let what Meta-World computes of a reward, beside success, be 0."""
    from metaworld.utils import reward_utils

    utils: Any = reward_utils
    kept = (utils.tolerance, utils.hamacher_product)
    utils.tolerance = utils.hamacher_product = _nothing
    try:
        yield
    finally:
        utils.tolerance, utils.hamacher_product = kept


def _nothing(*_: Any, **__: Any) -> float:
    return 0.0


# --- The model of a task


class _Shared:
    """A model, and where its bodies are in the environment that has taken it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._fields = [getattr(model, name) for name in MOVED]
        self._compiled = [field.copy() for field in self._fields]
        self._taken = self.places()

    def places(self) -> Places:
        """Return the places of a new environment."""
        return [field.copy() for field in self._compiled]

    def put(self, places: Places) -> None:
        """Let `places` be what the model says; what it said goes back to whom it belongs."""
        if places is self._taken:
            return
        for field, left, new in zip(self._fields, self._taken, places, strict=True):
            left[:] = field
            field[:] = new
        self._taken = places


@functools.cache
def _compiled(task: str, path: str) -> _Shared:
    """Return the model of `task`, whose stock file is at `path`: compiled once in a process."""
    import mujoco

    variant = SPECS[task].variant
    if variant == Variant():
        return _Shared(mujoco.MjModel.from_xml_path(path))
    spec = mujoco.MjSpec.from_file(path)
    for material, rgb in variant.recolour.items():
        changed = spec.material(material)
        changed.rgba = [*rgb, 1.0]
        changed.textures = [""] * mujoco.mjtTextureRole.mjNTEXROLE
    if variant.handle:
        _reshape(spec, variant.handle)
    return _Shared(spec.compile())


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
