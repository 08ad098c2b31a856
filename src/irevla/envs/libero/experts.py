"""The scripted expert: picks a thing up and puts it where the goal wants it. Each move is read off
the present state alone, so that a disturbed hand comes back.

Fingers close across a thing where it is narrow enough, and over the rim of what is wider (bowls,
plates, mugs). Goals that are no `(On thing place)` or `(In thing place)`, drawers, doors and knobs,
are left as they are; of several goals the first that is not reached comes next.
"""

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Bool, Float

Vector = Float[np.ndarray, "3"]
Cloud = Float[np.ndarray, "n 3"]

MOVES = ("on", "in")  # goals that are reached by putting things somewhere
REACH = 0.05  # m of a full action
TURN = 0.5  # rad
OPENING = 0.070  # m: what is wider is held by its rim
HOVER = 0.08  # m above a thing, before the fingers go down to it
ABOVE = 0.10  # m that a thing is carried above what may be in the way
NEAR = 0.012  # m
FINGER = 0.035  # m of a thing that may be between the fingers, above their tips' middle
LOWEST = 0.013  # m above what a thing stands on that the fingers' middle stays
RIM = 0.012  # m below its top where a rim is held
ANGLES = 24  # directions in which a thing's width is tried
POINTS = 400  # of a thing's surface
FINGERS = ("gripper0_leftfinger", "gripper0_rightfinger")


@dataclass(frozen=True)
class Grasp:
    """Where the fingers close."""

    at: Vector  # m, the middle between the fingertips
    yaw: float  # rad: the fingers open along (-sin yaw, cos yaw)


def _up(height: float) -> Vector:
    return np.array([0.0, 0.0, height])


def narrowest(cloud: Cloud) -> tuple[float, float]:
    """Return the direction (rad, from x) across which a thing is narrowest, seen from above, and
    its width there, m."""
    angles = np.arange(ANGLES) * np.pi / ANGLES
    across = np.stack([np.cos(angles), np.sin(angles)])
    widths = np.ptp(cloud[:, :2] @ across, axis=0)
    best = int(widths.argmin())
    return float(angles[best]), float(widths[best])


def grasp_of(cloud: Cloud, yaw: float) -> Grasp:
    """Return where to hold a thing, for a hand that is turned by `yaw`: by the smaller turn."""
    low, high = cloud[:, 2].min(), cloud[:, 2].max()
    height = max(low + LOWEST, high - FINGER, low + 0.3 * (high - low))
    height = min(height, max(low + LOWEST, high - RIM))
    band = cloud[np.abs(cloud[:, 2] - height) < 0.02]
    band = band if len(band) > 8 else cloud
    across, width = narrowest(band)
    if width <= OPENING:
        turn = (across - np.pi / 2 - yaw + np.pi / 2) % np.pi - np.pi / 2
        middle = (band[:, :2].min(axis=0) + band[:, :2].max(axis=0)) / 2
        return Grasp(np.array([*middle, height]), yaw + turn)
    return _rim(cloud, yaw)


def _rim(cloud: Cloud, yaw: float) -> Grasp:
    """The rim on the side along which the fingers open already; where there is a handle, the
    other."""
    high = cloud[:, 2].max()
    top = cloud[cloud[:, 2] > high - 0.015]
    along = np.array([-np.sin(yaw), np.cos(yaw)])
    middle = np.percentile(top[:, :2], [5, 95], axis=0).mean(axis=0)
    out = (top[:, :2] - middle) @ along
    side = -1.0 if out.max() > -out.min() + 0.01 else 1.0
    side = -1.0 if abs(out.max() + out.min()) <= 0.01 else side
    edge = np.abs(out[np.sign(out) == side]).max() - 0.006
    return Grasp(np.array([*(middle + side * edge * along), high - RIM]), yaw)


class Expert:
    """Acts in one simulation of one of LIBERO's problems."""

    def __init__(self, problem: Any, model: Any, data: Any) -> None:
        self._problem = problem
        self._model = model
        self._data = data
        self._hand = model.site("gripper0_grip_site").id
        self._fingers = [model.body(name).id for name in FINGERS]
        self._touching = [_with_parts(model, finger) for finger in self._fingers]
        self._clouds: dict[int, Cloud] = {}

    def action(self) -> Float[np.ndarray, "7"]:
        """Return the action for the present state."""
        goal = self._next_goal()
        if goal is None:
            return self._towards(self._position, self._yaw, shut=False)
        thing = self._problem.obj_body_id[goal[1]]
        cloud = self._cloud(thing)
        target = self._place(goal[2], goal[0])
        middle = (cloud.min(axis=0) + cloud.max(axis=0)) / 2
        beside = target[:2] - middle[:2]
        if self._held(thing):
            return self._carry(cloud, beside, float(target[2]))
        if np.linalg.norm(beside) < 0.04 and cloud[:, 2].min() < target[2] + 0.1:
            return self._towards(self._position + _up(HOVER), self._yaw, shut=False)
        return self._pick(cloud)

    def _next_goal(self) -> Any:
        for goal in self._problem.parsed_problem["goal_state"]:
            if goal[0] in MOVES and not self._problem._eval_predicate(goal):
                return goal
        return None

    # --- Moves

    def _pick(self, cloud: Cloud) -> Float[np.ndarray, "7"]:
        """Above it, down to it, and shut."""
        grasp = grasp_of(cloud, self._yaw)
        off = self._position - grasp.at
        beside = float(np.hypot(*off[:2]))
        askew = abs(grasp.yaw - self._yaw)
        if beside < NEAR and off[2] < NEAR:
            return self._towards(grasp.at, grasp.yaw, shut=True)
        if beside < NEAR + 0.15 * max(off[2], 0.0) and askew < 0.2:
            return self._towards(grasp.at, grasp.yaw, shut=False)
        clear = cloud[:, 2].max() + HOVER
        if self._position[2] < clear - 0.03 and beside > 2 * NEAR:
            return self._towards(self._position + _up(HOVER), grasp.yaw, shut=False)
        return self._towards(np.array([*grasp.at[:2], clear]), grasp.yaw, shut=False)

    def _carry(self, cloud: Cloud, beside: Float[np.ndarray, "2"], height: float) -> Any:
        """Up, across, down, and let go."""
        bottom = float(cloud[:, 2].min())
        far = float(np.linalg.norm(beside))
        hand = self._position
        over = hand + np.array([*beside, 0.0])
        if far < 1.5 * NEAR:
            if bottom < height + NEAR:
                return self._towards(hand, self._yaw, shut=False)
            return self._towards(over + _up(height - bottom), self._yaw, shut=True)
        travel = self._clear(height)
        if bottom < travel - 0.03 and far > 0.06:
            return self._towards(hand + _up(travel - bottom), self._yaw, shut=True)
        return self._towards(over + _up(max(travel - bottom, 0.0)), self._yaw, shut=True)

    def _clear(self, height: float) -> float:
        return max(height, self._table()) + ABOVE

    def _table(self) -> float:
        return float(self._problem.workspace_offset[2])

    # --- What is read of the state

    @property
    def _position(self) -> Vector:
        return np.array(self._data.site_xpos[self._hand])

    @property
    def _yaw(self) -> float:
        """How far the hand is turned around the vertical; at 0 the fingers open along y."""
        across = self._data.xmat[self._fingers[0]].reshape(3, 3)[:, 1]
        return float((np.arctan2(across[1], across[0])) % np.pi - np.pi / 2)

    def _held(self, thing: int) -> bool:
        bodies = self._model.geom_bodyid[self._data.contact.geom]
        roots = self._model.body_rootid[bodies]
        mine = (roots == self._model.body_rootid[thing]).any(axis=1)
        return all(np.isin(bodies[mine], finger).any() for finger in self._touching)

    def _cloud(self, thing: int) -> Cloud:
        """Points of the thing's surface, in the world."""
        if thing not in self._clouds:
            self._clouds[thing] = _points(self._model, thing)
        rotation = np.array(self._data.xmat[thing]).reshape(3, 3)
        placed: np.ndarray = self._clouds[thing] @ rotation.T + self._data.xpos[thing]
        return placed

    def _place(self, name: str, relation: str) -> Vector:
        """Where the thing's bottom is let go."""
        problem = self._problem
        if name in problem.object_sites_dict:
            at = np.array(self._data.site_xpos[self._model.site(name).id])
        else:
            at = np.array(self._data.xpos[problem.obj_body_id[name]])
        return at + _up(0.05 if relation == "in" else 0.02)

    def _towards(self, to: Vector, yaw: float, *, shut: bool) -> Float[np.ndarray, "7"]:
        """The action that leads to a position and a yaw, fingers down, as fast as may be."""
        shift = (to - self._position) / REACH
        shift = shift / max(1.0, np.abs(shift).max())
        points = self._data.site_xmat[self._hand].reshape(3, 3)[:, 2]
        turn = np.cross(points, [0.0, 0.0, -1.0])
        turn[2] += (yaw - self._yaw + np.pi / 2) % np.pi - np.pi / 2
        turned = (turn / TURN).clip(-1, 1)
        return np.concatenate([shift, turned, [1.0 if shut else -1.0]])


def _with_parts(model: Any, body: int) -> list[int]:
    """A body and all that hangs on it."""
    found = [body]
    for other in range(body + 1, model.nbody):  # children come after their parents
        if model.body_parentid[other] in found:
            found.append(other)
    return found


def _points(model: Any, body: int) -> Cloud:
    """Points of what is seen of a body and its parts, in its own frame; the same each time."""
    found = []
    for g in range(model.ngeom):
        if model.geom_bodyid[g] != body or model.geom_group[g] != 1:
            continue
        if model.geom_type[g] != mujoco.mjtGeom.mjGEOM_MESH:
            continue
        mesh = model.geom_dataid[g]
        start = model.mesh_vertadr[mesh]
        vertices = model.mesh_vert[start : start + model.mesh_vertnum[mesh]]
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, model.geom_quat[g])
        found.append(vertices @ rotation.reshape(3, 3).T + model.geom_pos[g])
    every = np.concatenate(found)
    chosen = np.random.default_rng(0).permutation(len(every))[:POINTS]
    extremes = np.concatenate([every.argmin(axis=0), every.argmax(axis=0)])
    return every[np.concatenate([chosen, extremes])].astype(np.float64)
