"""gym-aloha's two arms hand over a cube: pip install -c constraints.txt gym-aloha;
python examples/gym_aloha_transfer.py. To train, see docs/add-an-environment.md.

The simulation, its joint targets and its success are gym-aloha's. Ours are the drawing (the package
draws three images of 640 x 480 at each step, whether or not somebody looks), and a scripted expert:
waypoints of both hands by the clock, which inverse kinematics turns into joints.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from irevla.config import EnvConfig
from irevla.envs.render import Camera, Renderer  # before MuJoCo, for its GL library
from irevla.envs.suite import load_suite

import mujoco  # isort: skip
import gym_aloha  # noqa: F401  # isort: skip

SIZE = 64  # side of an image, pixels
TOP = Camera((0.0, 0.55, 0.85), (1.0, 0.0, 0.0, 0.0), fovy=65.0)  # the package's, a little nearer
DT = 0.02  # s of a step
AHEAD = 4  # steps from now to where the expert sends the hands
PINCH = np.array([0.14, 0.0, 0.0])  # between the fingers, seen from the hand, m
ARM = {"left": 0, "right": 8}  # where the joints of each begin, in qpos, qvel and ctrl
LEVEL, DOWN = (-0.1, 0.0), (1.0, 0.0)  # pitch and roll of a hand, rad
ROLLED = (-0.1, np.pi / 2)


def meeting(x: float = 0.0, z: float = 0.0) -> np.ndarray:
    """Return where the hands meet, or a place near it, m."""
    return np.array([x, 0.5, 0.25 + z])


def waypoints(cube: np.ndarray) -> dict[str, list[tuple[Any, ...]]]:
    """Return for each hand: step, place (m), pitch and roll, gripper (1: open)."""
    above, at = np.array([*cube, 0.1]), np.array([*cube, 0.02])
    beside, there = meeting(-0.1, -0.02), meeting(0.02, -0.02)
    return {
        "left": [
            (0, np.array([-0.178, 0.5, 0.309]), LEVEL, 0),
            (100, beside, ROLLED, 1),
            (220, beside, ROLLED, 1),
            (260, there, ROLLED, 1),
            (310, there, ROLLED, 0),
            (360, beside, LEVEL, 0),
        ],
        "right": [
            (0, np.array([0.178, 0.5, 0.309]), LEVEL, 0),
            (90, above, DOWN, 1),
            (130, at, DOWN, 1),
            (170, at, DOWN, 0),
            (200, meeting(0.05), DOWN, 0),
            (220, meeting(), DOWN, 0),
            (310, meeting(), DOWN, 1),
            (360, meeting(0.1), DOWN, 1),
        ],
    }


class Transfer(gym.Wrapper[Any, Any, Any, Any]):
    """The environment of the package, drawn light. Observation: an image and the arms' joints."""

    def __init__(self, colour: Sequence[float] = (1.0, 0.0, 0.0)) -> None:
        super().__init__(gym.make("gym_aloha/AlohaTransferCube-v0").unwrapped)
        inner: Any = self.unwrapped
        inner._env.task.get_observation = lambda physics: {}
        inner._format_raw_obs = lambda raw: self._observation()
        self._task = inner._env.task
        self._physics = inner._env.physics
        model = self._physics.model.ptr
        model.geom("red_box").rgba[:3] = colour
        self._renderer = Renderer(model, camera=TOP)
        image = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        state = gym.spaces.Box(-np.inf, np.inf, (14,), np.float64)
        self.observation_space = gym.spaces.Dict({"image": image, "state": state})

    def reset(self, **keywords: Any) -> tuple[Any, dict[str, Any]]:
        """Put the cube somewhere."""
        seen = self.env.reset(**keywords)
        self.unwrapped.cube = self._physics.data.qpos[16:18].copy()  # type: ignore[attr-defined]
        return seen

    def _observation(self) -> dict[str, np.ndarray]:
        physics = self._physics
        upside_down = self._renderer.draw(physics.model.ptr, physics.data.ptr, size=SIZE)
        return {"image": upside_down[::-1].copy(), "state": self._task.get_qpos(physics)}


def expert(env: gym.Env[Any, Any]) -> np.ndarray:
    """Return the next joint targets, left arm first, each with its gripper."""
    inner: Any = env.unwrapped
    physics = inner._env.physics
    step = physics.time() / DT + AHEAD
    action: list[float] = []
    for side, points in waypoints(inner.cube).items():
        when = [point[0] for point in points]
        after = min(int(np.searchsorted(when, step)), len(points) - 1)
        share = min(1.0, (step - when[after - 1]) / (when[after] - when[after - 1]))
        ends = zip(points[after - 1][1:], points[after][1:], strict=True)
        place, turned, grip = (start + share * np.subtract(end, start) for start, end in ends)
        action += [*joints(physics, side, place, *turned), grip]
    return np.array(action, np.float32)


def joints(physics: Any, side: str, place: np.ndarray, pitch: float, roll: float) -> np.ndarray:
    """Return the joints of an arm that bring its fingers to a place, near its present targets.

    Waist, shoulder and elbow do; the wrist keeps the pitch, and the forearm is never rolled.
    """
    model = physics.model.ptr
    data = mujoco.MjData(model)
    data.qpos[:] = physics.data.qpos
    first = ARM[side]
    arm = data.qpos[first : first + 6]
    arm[:3] = physics.data.ctrl[first : first + 3]
    arm[3], arm[5] = 0.0, roll
    body = model.body(f"vx300s_{side}/gripper_link").id
    jacobian = np.zeros((3, model.nv))
    for _ in range(10):
        arm[4] = pitch - arm[1] - arm[2]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        fingers = data.xpos[body] + data.xmat[body].reshape(3, 3) @ PINCH
        mujoco.mj_jac(model, data, jacobian, None, fingers, body)
        moves = jacobian[:, first : first + 3] - jacobian[:, [first + 4]] * [0, 1, 1]
        damped = moves @ moves.T + 1e-5 * np.eye(3)
        arm[:3] += moves.T @ np.linalg.solve(damped, place - fingers)
    return arm.copy()


gym.register("AlohaTransfer-v0", entry_point=Transfer)

if __name__ == "__main__":
    suite = load_suite(f"gym:{Path(__file__).with_suffix('.yaml')}")
    env: Any = suite.make("transfer", EnvConfig(action_repeat=4, horizon=100)).unwrapped
    solved = 0
    for seed in range(10):
        env.reset(seed=seed)
        solved += any(env.step(env.expert_action())[4]["success"] for _ in range(100))
    print(f"the scripted expert hands over {solved} of 10 cubes")
