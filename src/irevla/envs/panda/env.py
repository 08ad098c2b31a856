"""One task of the Panda on a table as a gymnasium environment: images in, end-effector motions
out, sparse reward."""

import copy
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from irevla.config import EnvConfig
from irevla.envs import render  # first of all: it chooses the GL library

import mujoco  # isort: skip

from irevla.envs.franka import JOINTS, OPEN, Arm, Motion
from irevla.envs.panda.experts import SCRIPTS
from irevla.envs.panda.goals import DONE, Pose, Scene
from irevla.envs.panda.install import check
from irevla.envs.panda.scene import HAND, LINK, LINKS, POST, model_of
from irevla.envs.panda.tasks import (
    ACTION_DIM,
    CONTROL_HZ,
    REACH,
    SPECS,
    TURN,
    WRIST_SHARE,
    TableObject,
)
from irevla.envs.pixel_env import PixelEnv, mujoco_broke
from irevla.errors import unknown

HOME = (0.0, -0.2, 0.0, -2.4, 0.0, 0.63, 0.0)  # rad: the hand 25 cm above the table, fingers down
MOTION = Motion(reach=REACH, turn=TURN, period=0.1, posture=HOME)
POSTURE_NOISE = 0.12  # rad: half the range of each joint's start
SETTLE = 0.2  # s that things come to rest in, before an episode
CURL = 0.06  # rad: half the range of the bend between the cable's links
SIDE = (0.3, 0.5)  # rad: how far from the slot's line the cable starts, to one side or the other
TRIES = 1000  # to find free places
FINGERS = ("panda0_leftfinger", "panda0_rightfinger")


class PandaEnv(PixelEnv):
    """One task. Observation: the front view with the wrist's in its top left corner. Action, in
    [-1, 1]: `float32[7]`, displacement (4 cm) and rotation (0.25 rad) of the end effector along and
    around the axes of the world, and the gripper (positive closes). A decision is 0.1 s, where
    `action_repeat` is 2.
    """

    def __init__(
        self, task: str, config: EnvConfig | None = None, *, render_mode: str | None = None
    ) -> None:
        if task not in SPECS:
            raise unknown("task of panda-sim", task, SPECS)
        check()
        self._spec = SPECS[task]
        super().__init__(
            self._spec.task,
            config,
            action_dim=ACTION_DIM,
            control_hz=CONTROL_HZ,
            render_mode=render_mode,
        )
        self.model = copy.copy(model_of(task))  # its own: what stands on the table is moved in it
        self.data = mujoco.MjData(self.model)
        self._substeps = round(1 / (CONTROL_HZ * self.model.opt.timestep))
        self.arm = Arm(self.model, self.data, motion=MOTION)
        self._fingers = [self.model.body(name).id for name in FINGERS]
        self._target = self.model.body(self._spec.target).id
        self._goal = self.model.body(self._spec.goal or self._spec.target).id
        links = LINKS if self._spec.skill == "route" else 0
        self._links = [self.model.body(f"link{index}").id for index in range(links)]
        self._rest = 0.0  # height of the target at the start, m

    def _set_scene(self) -> None:
        model = self.model
        data = self.data
        mujoco.mj_resetData(model, data)
        found = places(self._spec.objects, self.np_random)
        for thing, (x, y, yaw) in zip(self._spec.objects, found, strict=True):
            self._put(thing.name, np.array([x, y]), yaw)
        if self._links:
            self._bend()
        data.qpos[:JOINTS] = HOME + self.np_random.uniform(-POSTURE_NOISE, POSTURE_NOISE, JOINTS)
        data.qpos[:JOINTS] = np.clip(data.qpos[:JOINTS], self.arm.low, self.arm.high)
        data.qpos[JOINTS : JOINTS + 2] = OPEN
        data.ctrl[:] = data.qpos[: JOINTS + 2]
        mujoco.mj_step(model, data, round(SETTLE / model.opt.timestep))
        mujoco.mj_forward(model, data)
        self._rest = float(data.xpos[self._target, 2])

    def _advance(self, action: Float32[np.ndarray, " A"]) -> bool:
        """Hold the action for `action_repeat` control steps or until success."""
        self.arm.drive(self.arm.velocities(action.astype(np.float64)))
        success = False
        for _ in range(self.config.action_repeat):
            mujoco.mj_step(self.model, self.data, self._substeps)
            mujoco.mj_forward(self.model, self.data)  # positions and contacts, of the present state
            success = self.success
            if success:
                break
        return success

    def _view(self, camera: str, size: int) -> UInt8[np.ndarray, "size size 3"]:
        image: np.ndarray = _plain(self.task.name, camera).draw(self.model, self.data, size=size)
        return image

    def _robot_state(self) -> Float32[np.ndarray, " S"]:
        return self.arm.state

    def _unstable(self) -> bool:
        return mujoco_broke(self.data)

    @property
    def success(self) -> bool:
        """Whether the task is done in the present state."""
        return DONE[self._spec.skill](self.scene())

    def scene(self) -> Scene:
        """What the task is about, in the present state."""
        data = self.data
        joint = self._spec.joint
        target = self._pose(self._target)
        return Scene(
            hand=Pose(self.arm.position, self.arm.rotation),
            target=target,
            goal=self._pose(self._goal),
            joint=float(data.joint(joint).qpos[0]) if joint else 0.0,
            rise=float(target.at[2]) - self._rest,
            held=bool(self._touched().all()),
            cable=np.array(data.xipos[self._links]).reshape(-1, 3),
        )

    def expert_action(self) -> Float32[np.ndarray, " A"]:
        """The scripted expert's clean action for the present state."""
        move = SCRIPTS[self._spec.skill](self.scene())
        action = self.arm.towards(move.to, move.facing, shut=move.shut)
        return action.clip(-1.0, 1.0).astype(np.float32)

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """The present scene, whether or not observations are drawn."""
        image: np.ndarray = _renderer(self.task.name).draw(self.model, self.data, size=size)
        return image

    def _pose(self, body: int) -> Pose:
        return Pose(np.array(self.data.xpos[body]), np.array(self.data.xmat[body]).reshape(3, 3))

    def _touched(self) -> Bool[np.ndarray, "2"]:
        """Which of the two fingers touches the target."""
        bodies = self.model.geom_bodyid[self.data.contact.geom]
        others = bodies[(bodies == self._target).any(axis=1)]
        return np.array([(others == finger).any() for finger in self._fingers])

    def _put(self, name: str, at: Float[np.ndarray, "2"], yaw: float) -> None:
        """Put a thing on the table, turned by `yaw` (rad) around the vertical."""
        model = self.model
        body = model.body(name)
        quat = [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
        if body.jntnum[0]:
            start = int(model.jnt_qposadr[body.jntadr[0]])
            self.data.qpos[start : start + 2] = at
            self.data.qpos[start + 3 : start + 7] = quat
        else:
            model.body_pos[body.id, :2] = at
            model.body_quat[body.id] = quat

    def _bend(self) -> None:
        """Lay the cable beside the slot."""
        random = self.np_random
        data = self.data
        data.joint("yaw0").qpos = random.choice([-1.0, 1.0]) * random.uniform(*SIDE)
        curl = random.uniform(-CURL, CURL)
        data.joint("pitch0").qpos = np.arcsin(POST / (LINKS * LINK))
        for index in range(1, LINKS):
            data.joint(f"yaw{index}").qpos = curl


def places(objects: Sequence[TableObject], random: np.random.Generator) -> Float[np.ndarray, "n 3"]:
    """Return random places (x, y in m, yaw in rad) for things, so that each has its room."""
    low = np.array([each.low for each in objects])
    high = np.array([each.high for each in objects])
    room = np.array([each.room for each in objects])
    for _ in range(TRIES):
        at = random.uniform(low, high)
        distances = np.linalg.norm(at[:, None] - at[None], axis=2)
        apart = distances - room[:, None] - room[None]
        if (apart[np.triu_indices(len(objects), 1)] >= 0).all():
            yaw = np.array([each.yaw + random.uniform(-each.turn, each.turn) for each in objects])
            return np.concatenate([at, yaw[:, None]], axis=1)
    raise AssertionError("the table is too small for the things on it")


@functools.cache
def _renderer(task: str) -> Any:
    """The light model of `task`, shared by all its environments in this process."""
    model = model_of(task)
    inset = render.Inset(HAND, render.camera_of(model, "wrist"), WRIST_SHARE)
    return render.Renderer(model, camera=render.camera_of(model, "front"), inset=inset)


@functools.cache
def _plain(task: str, camera: str) -> Any:
    """The same for one camera alone, without the other's view in its corner."""
    model = model_of(task)
    if camera == "front":
        return render.Renderer(model, camera=render.camera_of(model, camera))
    whole = render.Inset(HAND, render.camera_of(model, camera), 1.0)
    return render.Renderer(model, camera=render.camera_of(model, "front"), inset=whole)
