"""Where a scene is seen from: near the benchmark's camera most of the time, from elsewhere for the
rest."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from irevla.envs.metaworld import CAMERA, CAMERA_POS
from irevla.envs.render import Camera, camera_of, looking

USUAL = 0.65  # share of the views that are the benchmark's, a little shaken or not at all ...
AROUND = 0.2  # ... that are from around it; the others look at the table from anywhere
CENTRE = (0.0, 0.68, 0.08)  # what cameras look at, m


@dataclass(frozen=True)
class View:
    """A camera, and whether its pictures hang upside down, as the benchmark's do."""

    camera: Camera
    flipped: bool

    def hang(self, picture: UInt8[np.ndarray, "S S 3"]) -> UInt8[np.ndarray, "S S 3"]:
        """The drawn picture as it is shown."""
        return picture[::-1].copy() if self.flipped else picture

    def pixel(self, point: Float[np.ndarray, "3"]) -> tuple[float, float]:
        """Column and row of a point of the world (m) in the shown picture, 0..1 inside it; (-1, -1)
        behind us."""
        x, y, z = _rotation(self.camera.quat).T @ (point - np.array(self.camera.pos))
        if z > -1e-3:
            return -1.0, -1.0
        half = np.tan(np.radians(self.camera.fovy) / 2)
        column, row = 0.5 + x / (-z * half) / 2, 0.5 - y / (-z * half) / 2
        return float(column), float(1 - row if self.flipped else row)


def usual_view(model: Any) -> View:
    """The benchmark's camera."""
    return View(camera_of(model, CAMERA, CAMERA_POS), True)


def random_view(model: Any, rng: np.random.Generator) -> View:
    """The benchmark's camera, one from around it, or one from anywhere in front of the table."""
    usual = usual_view(model).camera
    chance = rng.random()
    if chance < USUAL:
        shake = 0.0 if rng.random() < 0.5 else 0.01
        pos = np.array(usual.pos) + shake * rng.standard_normal(3)
        quat = np.array(usual.quat) + shake * rng.standard_normal(4)
        return View(
            _camera(
                pos, quat / np.linalg.norm(quat), usual.fovy + 100 * shake * rng.standard_normal()
            ),
            True,
        )
    if chance < USUAL + AROUND:
        pos = np.array(usual.pos) + rng.uniform(-0.18, 0.18, 3)
        flip = np.array([0.0, 0.0, 0.0, 1.0])  # half a turn about the line of sight
        return View(_camera(pos, _times(looking(pos, _aim(rng)), flip), rng.uniform(42, 58)), True)
    angle, radius, height = (
        rng.uniform(-0.75, 0.75) * np.pi,
        rng.uniform(0.8, 1.15),
        rng.uniform(0.35, 0.95),
    )
    pos = np.array([radius * np.sin(angle), CENTRE[1] + radius * np.cos(angle), height])
    return View(_camera(pos, looking(pos, _aim(rng)), rng.uniform(42, 58)), False)


def _aim(rng: np.random.Generator) -> np.ndarray:
    return np.asarray(np.array(CENTRE) + rng.uniform(-0.08, 0.08, 3))


def _camera(pos: np.ndarray, quat: np.ndarray, fovy: float) -> Camera:
    w, x, y, z = quat.tolist()
    return Camera((float(pos[0]), float(pos[1]), float(pos[2])), (w, x, y, z), float(fovy))


def _times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    import mujoco

    product = np.zeros(4)
    mujoco.mju_mulQuat(product, a, b)
    return product


def _rotation(quat: tuple[float, float, float, float]) -> np.ndarray:
    import mujoco

    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, np.array(quat))
    return matrix.reshape(3, 3)
