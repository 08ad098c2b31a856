"""Where a scene is rendered from: near the benchmark's camera mostly, from elsewhere for the
rest."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from irevla.envs.metaworld.tasks import CAMERA, CAMERA_POS
from irevla.envs.render import Camera, camera_of, looking

USUAL = 0.65  # share of the views that are the benchmark's, a little shaken or not at all ...
SHAKE = 0.01  # ... by this standard deviation, m and quaternion; 100 times as much in degrees
AROUND = 0.2  # share of those from around it; the others look at the table from anywhere
HALF_TURN = (0.0, 0.0, 0.0, 1.0)  # about the line of sight (quaternion w x y z)
CENTRE = (0.0, 0.68, 0.08)  # what cameras look at, m


@dataclass(frozen=True)
class View:
    """A camera, and whether its images are upside down, as the benchmark's are."""

    camera: Camera
    flipped: bool

    def flip(self, image: UInt8[np.ndarray, "S S 3"]) -> UInt8[np.ndarray, "S S 3"]:
        """Return the rendered image as it is shown."""
        return image[::-1].copy() if self.flipped else image

    def pixel(self, point: Float[np.ndarray, "3"]) -> tuple[float, float]:
        """Return column and row of a point of the world (m) in the shown image, 0..1 inside it.

        (-1, -1) where the point is behind the camera.
        """
        x, y, z = _rotation(self.camera.quat).T @ (point - np.array(self.camera.pos))
        if z > -1e-3:
            return -1.0, -1.0
        half = np.tan(np.radians(self.camera.fovy) / 2)
        column = 0.5 + x / (-z * half) / 2
        row = 0.5 - y / (-z * half) / 2
        return float(column), float(1 - row if self.flipped else row)


def usual_view(model: Any) -> View:
    """Return the benchmark's camera."""
    return View(camera_of(model, CAMERA, CAMERA_POS), True)


def random_view(model: Any, rng: np.random.Generator) -> View:
    """Return the benchmark's camera, one from around it, or one from anywhere before the table."""
    usual = usual_view(model).camera
    chance = rng.random()
    if chance < USUAL:
        return View(_shaken(usual, rng), True)
    if chance < USUAL + AROUND:
        return View(_around(usual, rng), True)
    return View(_anywhere(rng), False)


def _shaken(usual: Camera, rng: np.random.Generator) -> Camera:
    """Return the usual camera, moved a little or, half of the time, not at all."""
    shake = 0.0 if rng.random() < 0.5 else SHAKE
    pos = np.array(usual.pos) + shake * rng.standard_normal(3)
    quat = np.array(usual.quat) + shake * rng.standard_normal(4)
    fovy = usual.fovy + 100 * shake * rng.standard_normal()
    return _camera(pos, quat / np.linalg.norm(quat), fovy)


def _around(usual: Camera, rng: np.random.Generator) -> Camera:
    """Return a camera from within 0.18 m of the usual one in each direction."""
    pos = np.array(usual.pos) + rng.uniform(-0.18, 0.18, 3)
    quat = _times(looking(pos, _aim(rng)), np.array(HALF_TURN))
    return _camera(pos, quat, rng.uniform(42, 58))


def _anywhere(rng: np.random.Generator) -> Camera:
    """Return a camera from anywhere in front of the table."""
    angle = rng.uniform(-0.75, 0.75) * np.pi
    radius = rng.uniform(0.8, 1.15)
    height = rng.uniform(0.35, 0.95)
    pos = np.array([radius * np.sin(angle), CENTRE[1] + radius * np.cos(angle), height])
    return _camera(pos, looking(pos, _aim(rng)), rng.uniform(42, 58))


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
