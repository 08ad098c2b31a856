"""A simulated arm on loopback for the tests: the process, its truth and its pictures."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from types import TracebackType

import numpy as np

from irevla.envs import render

import mujoco  # isort: skip

HAND = "robot0_hand"


class SimulatedArm:
    """`with SimulatedArm() as arm`: `arm.host` is what a driver connects to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("arm_server.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        hello = json.loads(self._process.stdout.readline())
        self.host: str = hello["host"]
        self._url = f"http://127.0.0.1:{hello['port']}/"
        self.model = mujoco.MjModel.from_xml_string(hello["scene"])
        self.data = mujoco.MjData(self.model)
        self.lock = threading.Lock()  # a camera and a person look at it from threads of their own

    def hand(self) -> np.ndarray:
        """Where the simulator's own fingertips are, m: not what the arm reports."""
        self._follow()
        hand = self.data.body(HAND)
        return hand.xpos + hand.xmat.reshape(3, 3) @ [0.0, 0.0, 0.1034]

    def fingers(self) -> float:
        """Between the simulator's fingers, m."""
        self._follow()
        return float(sum(self.data.joint(f"robot0_finger_joint{i}").qpos[0] for i in (1, 2)))

    def told(self) -> dict[str, list[float]]:
        """How it was told to react: thresholds of collisions, stiffness."""
        with urllib.request.urlopen(f"{self._url}told", timeout=5.0) as answer:
            told: dict[str, list[float]] = json.loads(answer.read())
        return told

    def freeze(self) -> None:
        """It hangs."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """It is gone."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """It is gone, and leaves nothing open."""
        self.kill()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    def _follow(self) -> None:
        with urllib.request.urlopen(self._url, timeout=5.0) as answer:
            qpos = json.loads(answer.read())
        with self.lock:
            self.data.qpos[:] = qpos
            mujoco.mj_forward(self.model, self.data)

    def __enter__(self) -> "SimulatedArm":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Seen:
    """The camera over the simulated table: pictures of the simulator's state, not of what the arm
    reports."""

    def __init__(
        self, arm: SimulatedArm, pos: tuple[float, float, float], at: tuple[float, float, float]
    ) -> None:
        quat = tuple(render.looking(np.array(pos), np.array(at)).tolist())
        self._arm = arm
        self._renderer = render.Renderer(arm.model, camera=render.Camera(pos, quat, 40.0))

    def read(self) -> np.ndarray:
        """uint8[128, 128, 3]"""
        self._arm._follow()
        with self._arm.lock:
            picture: np.ndarray = self._renderer.draw(self._arm.model, self._arm.data, size=128)
        return picture

    def check(self) -> None:
        """It is always of the present."""

    def close(self) -> None:
        """Nothing is open."""
