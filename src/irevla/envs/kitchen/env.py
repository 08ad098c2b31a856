"""One task of the kitchen as a gymnasium environment: images in, end-effector motions out, sparse
reward.

The kitchen is the one whose models gymnasium-robotics installs (`FrankaKitchen-v1`; Gupta et al.,
Relay Policy Learning, 2019). The environment is our own, for that one has no single tasks, no
gravity compensation (the hand sinks) and no randomness at the start, so that a blind policy would
do. Here the whole kitchen is shifted at random, and the arm starts in a random posture.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from irevla.config import EnvConfig
from irevla.envs import render  # first of all: it chooses the GL library

import mujoco  # isort: skip

from irevla.envs.franka import Arm, Motion, assets
from irevla.envs.kitchen.experts import Expert, Scene
from irevla.envs.kitchen.install import check
from irevla.envs.kitchen.tasks import ACTION_DIM, CAMERA_POS, CONTROL_HZ, LOOK_AT, SPECS
from irevla.envs.pixel_env import PixelEnv, mujoco_broke
from irevla.errors import unknown

# FrankaKitchen-v1's: seven joints (rad) and two fingers (m).
START = np.array([0.148388, -1.76, 1.84390, -2.47686, 0.260252, 0.712533, 1.595154, 0.04, 0.04])
MOTION = Motion(reach=0.06, turn=0.25, period=0.08, posture=(-0.6, -1.3, 1.5, -2.0, 0.0, 1.2, 1.4))
POSTURE_NOISE = 0.12  # rad: half the range of each joint's start
FURNITURE = "desk"  # the body that all furniture hangs on
KETTLE = "kettle"  # a body of its own: it is free


class KitchenEnv(PixelEnv):
    """One task. Action, in [-1, 1]: `float32[7]`, displacement (6 cm) and rotation (0.25 rad) of
    the end effector along and around the axes of the world, and the gripper (positive closes).
    """

    def __init__(
        self, task: str, config: EnvConfig | None = None, *, render_mode: str | None = None
    ) -> None:
        if task not in SPECS:
            raise unknown("task of kitchen", task, SPECS)
        super().__init__(
            SPECS[task].task,
            config,
            action_dim=ACTION_DIM,
            control_hz=CONTROL_HZ,
            render_mode=render_mode,
        )
        self._shared = model_of(task)
        self._furniture = self._shared.body(FURNITURE).id
        self._rest = _rest(task)
        self._place = self._rest  # where the kitchen is in this environment
        self.data = mujoco.MjData(self.model)
        self._substeps = round(1 / (CONTROL_HZ * self.model.opt.timestep))
        self.arm = Arm(self.model, self.data, motion=MOTION)
        self._joint = int(self.model.joint(SPECS[task].skill.joint).qposadr[0])
        self._expert = Expert(SPECS[task].script)

    @property
    def model(self) -> Any:
        """The task's model, with the kitchen where it is here: ask for it anew each time.

        All environments of a task share one, of 60 MB.
        """
        self._shared.body_pos[self._furniture] = self._place
        return self._shared

    def _set_scene(self) -> None:
        random = self.np_random
        data = self.data
        skill = SPECS[self.task.name].skill
        shift = random.uniform(skill.low, skill.high)
        self._place = self._rest + shift
        model = self.model
        mujoco.mj_resetData(model, data)
        kettle = int(model.joint(KETTLE).qposadr[0])
        data.qpos[kettle : kettle + 3] += shift
        data.qpos[:9] = START
        data.qpos[:7] += random.uniform(-POSTURE_NOISE, POSTURE_NOISE, 7)
        data.qpos[:7] = np.clip(data.qpos[:7], self.arm.low, self.arm.high)
        data.ctrl[:9] = data.qpos[:9]
        mujoco.mj_forward(model, data)
        self._expert = Expert(SPECS[self.task.name].script)

    def _advance(self, action: Float32[np.ndarray, " A"]) -> bool:
        """Hold the action for `action_repeat` control steps or until success."""
        self.arm.drive(self.arm.velocities(action.astype(np.float64)))
        success = False
        for _ in range(self.config.action_repeat):
            mujoco.mj_step(self.model, self.data, self._substeps)
            success = self.success
            if success:
                break
        mujoco.mj_forward(self.model, self.data)  # positions of sites, of the present state
        return success

    def _robot_state(self) -> Float32[np.ndarray, " S"]:
        return self.arm.state

    def _unstable(self) -> bool:
        return mujoco_broke(self.data)

    def show(self, qpos: Float[np.ndarray, "30"]) -> None:
        """Put the arm and the kitchen, which is not shifted, into a recorded state."""
        self._place = self._rest
        self.data.qpos[:] = qpos
        self.data.qvel[:] = 0.0
        mujoco.mj_forward(self.model, self.data)

    @property
    def progress(self) -> float:
        """How far the task's joint is from its rest, rad or m, with its sign."""
        return float(self.data.qpos[self._joint])

    @property
    def success(self) -> bool:
        """Whether the joint is past its goal: one-sided, further is as good."""
        goal = SPECS[self.task.name].skill.goal
        return bool(self.progress * np.sign(goal) >= abs(goal))

    def expert_action(self) -> Float32[np.ndarray, " A"]:
        """The scripted expert's clean action for the present state."""
        action = self._expert.action(self._scene(), self.arm, self._decisions)
        return action.clip(-1.0, 1.0).astype(np.float32)

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """The present scene, whether or not observations are drawn."""
        image: np.ndarray = _renderer(self.task.name).draw(self.model, self.data, size=size)
        return image

    def _scene(self) -> Scene:
        site = self.data.site(SPECS[self.task.name].skill.handle)
        body = self.model.site_bodyid[site.id]
        return Scene(
            np.array(site.xpos), np.array(self.data.xpos[body]), self.progress, self.arm.position
        )


# --- The model


def model_path() -> Path:
    """Where the installed gymnasium-robotics keeps the kitchen. `UserError` where there is none."""
    check()
    return assets() / "kitchen_assets" / "kitchen_env_model.xml"


@functools.cache
def model_of(task: str) -> Any:
    """The compiled model of `task`, shared by all its environments in this process: the place of
    the kitchen alone is changed in it."""
    spec = mujoco.MjSpec.from_file(str(model_path()))
    variant = SPECS[task].variant
    for body in spec.bodies:
        if body.name.startswith("panda0"):
            body.gravcomp = 1.0
    for material, rgb in variant.recolour.items():
        changed = spec.material(material)
        changed.rgba = [*rgb, 1.0]
        changed.textures = [""] * mujoco.mjtTextureRole.mjNTEXROLE
    for name, rgb in variant.painted.items():
        for geom in spec.body(name).geoms:
            if geom.group < 3:  # the others are for contact, and not drawn
                geom.material = ""
                geom.rgba = [*rgb, 1.0]
    for name, shift in variant.moved.items():
        moved = spec.body(name)
        moved.pos = np.array(moved.pos) + shift
    return spec.compile()


@functools.cache
def _rest(task: str) -> Float[np.ndarray, "3"]:
    """Return where the kitchen is in the model of `task`: asked for before anything moves it."""
    model = model_of(task)
    return np.array(model.body(FURNITURE).pos)


@functools.cache
def _renderer(task: str) -> Any:
    """The light model of `task`, shared by all its environments in this process."""
    w, x, y, z = render.looking(np.array(CAMERA_POS), np.array(LOOK_AT)).tolist()
    return render.Renderer(model_of(task), camera=render.Camera(CAMERA_POS, (w, x, y, z)))
