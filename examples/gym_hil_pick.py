"""gym-hil's Panda picks up a cube that lies anywhere within 20 x 30 cm: pip install gym-hil;
python examples/gym_hil_pick.py. To train, see results/gym/README.md.

The simulation, its controller and its success are gym-hil's. Ours are the drawing (the package's
own takes 1.5 s a step without a GPU, this 2 ms), the colour of the cube, and a scripted expert.
"""

from collections.abc import Sequence
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from irevla.config import EnvConfig
from irevla.envs.render import Inset, Renderer, camera_of  # before MuJoCo, for its GL library
from irevla.envs.suite import load_suite

import mujoco  # isort: skip
from gym_hil import wrap_env  # isort: skip

SIZE = 64  # side of an image, pixels
STEP = 0.025  # how far the hand goes in a step at most, m
ABOVE = np.array([0, 0, 0.08])  # from where the hand goes down to the cube, m
SHUT = 255  # what gym-hil calls a closed gripper


@cache
def panda() -> Any:
    """The simulation of the package, whose model takes a second or two: one for a process."""
    name = "gym_hil:gym_hil/PandaPickCubeBase-v0"
    made = gym.make(name, random_block_position=True, physics_dt=0.005).unwrapped
    made.close()  # its renderer
    return made


@cache
def renderer(colour: tuple[float, ...]) -> Renderer:
    """Draws what the camera in front sees, and the one at the wrist in a corner."""
    model = panda().model
    model.geom("block").rgba[:3] = colour
    wrist = Inset("attachment", camera_of(model, "handcam_rgb"), share=0.5)
    return Renderer(model, camera=camera_of(model, "front"), inset=wrist)


class PickCube(gym.Wrapper[Any, Any, Any, Any]):
    """The environment of the package, drawn light. Observation: an image and the arm's state."""

    def __init__(self, colour: Sequence[float] = (0.6, 0.3, 0.6)) -> None:
        self._sim = copy(panda())
        self._sim._data = mujoco.MjData(self._sim.model)
        super().__init__(wrap_env(self._sim, reset_delay_seconds=0.0))
        self._renderer = renderer(tuple(colour))
        image = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        state = self._sim.observation_space["agent_pos"]
        self.observation_space = gym.spaces.Dict({"image": image, "state": state})

    def reset(self, **keywords: Any) -> tuple[Any, dict[str, Any]]:
        """Put the cube somewhere."""
        seen, info = self.env.reset(**keywords)
        return self._observation(seen), info

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Move the hand by at most 2.5 cm, and open (0) or close (2) the gripper."""
        seen, *ended = self.env.step(action)
        return self._observation(seen), *ended

    def _observation(self, seen: Any) -> dict[str, np.ndarray]:
        image = self._renderer.draw(self._sim.model, self._sim.data, size=SIZE)
        return {"image": image, "state": seen["agent_pos"]}


def expert(env: gym.Env[Any, Any]) -> np.ndarray:
    """Return the next action: above the cube, down to it, close, up."""
    sim: Any = env.unwrapped
    cube = sim.data.sensor("block_pos").data
    away = cube - sim.data.sensor("2f85/pinch_pos").data
    beside = np.linalg.norm(away[:2])
    if beside < 0.015 and away[2] > -0.01:
        up = sim.get_gripper_pose()[0] > 0.95 * SHUT
        return np.array([0, 0, up, 2], np.float32)
    move = (cube + ABOVE * (beside > 0.02) - sim.data.mocap_pos[0]) / STEP
    return np.append(move.clip(-1, 1), 0).astype(np.float32)


gym.register("PickCube-v0", entry_point=PickCube)

if __name__ == "__main__":
    suite = load_suite(f"gym:{Path(__file__).with_suffix('.yaml')}")
    env: Any = suite.make("pick", EnvConfig(action_repeat=1, horizon=40)).unwrapped
    solved = 0
    for seed in range(10):
        env.reset(seed=seed)
        solved += any(env.step(env.expert_action())[4]["success"] for _ in range(40))
    print(f"the scripted expert picks up {solved} of 10 cubes")
