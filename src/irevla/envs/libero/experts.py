"""The scripted expert: picks a thing up and puts it where the goal wants it. Each move is read off
the present state alone, so that a disturbed hand comes back.

Fingers close across a thing where it is narrow enough, and over the rim of what is wider (bowls,
plates, mugs). Goals that are no `(On thing place)` or `(In thing place)`, drawers, doors and knobs,
are left as they are; of several goals the first that is not reached comes next.
"""

from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float

from irevla.envs.libero.grasps import Cloud, Vector, best, turn

Action = Float[np.ndarray, "7"]

MOVES = ("on", "in")  # goals that are reached by putting things somewhere
REACH = 0.05  # m of a full action
TURN = 0.5  # rad
HOVER = 0.06  # m above a thing, before the fingers go down to it
ABOVE = 0.10  # m that a thing is carried above what may be in the way
NEAR = 0.012  # m
CLOSING = 2.5  # times as near is near enough for fingers that close already
POINTS = 800  # of the surface of each part of a thing
ASIDE = 0.18  # m: what is further away is in nobody's way
ROBOT = ("robot0_", "gripper0_", "mount0_")  # how the names of its bodies begin
WIDE = 0.074  # m between open fingers: things may still lean on one
FINGER_JOINTS = ("gripper0_finger_joint1", "gripper0_finger_joint2")
FINGERS = ("gripper0_leftfinger", "gripper0_rightfinger")


def _up(height: float) -> Vector:
    return np.array([0.0, 0.0, height])


class Expert:
    """Acts in one simulation of one of LIBERO's problems. `clouds`: points of the surfaces of
    bodies, in their own frames; all experts of a model share what they have found."""

    def __init__(self, problem: Any, model: Any, data: Any, clouds: dict[int, Cloud]) -> None:
        self._problem = problem
        self._model = model
        self._data = data
        self._hand = model.site("gripper0_grip_site").id
        self._fingers = [model.body(name).id for name in FINGERS]
        self._touching = [_with_parts(model, finger) for finger in self._fingers]
        self._base = model.body("robot0_base").pos.copy()
        self._clouds = clouds
        self._bodies = [
            body for body in range(1, model.nbody) if not model.body(body).name.startswith(ROBOT)
        ]

    def action(self) -> Action:
        """Return the action for the present state."""
        goal = self._next_goal()
        if goal is None:
            return self._towards(self._position, self._yaw, shut=False)
        thing = self._problem.obj_body_id[goal[1]]
        cloud = self._cloud(thing)
        target: np.ndarray = self._place(goal[2], goal[0], float(np.ptp(cloud[:, 2])))
        middle = (cloud.min(axis=0) + cloud.max(axis=0)) / 2
        beside: np.ndarray = target[:2] - middle[:2]
        if all(self._touched(thing)):
            return self._carry(cloud, beside, float(target[2]))
        if np.linalg.norm(beside) < 0.04 and cloud[:, 2].min() < target[2] + 0.1:
            let_go = self._opening > WIDE or not any(self._touched(thing))
            rise = HOVER if let_go else 0.0
            return self._towards(self._position + _up(rise), self._yaw, shut=False)
        return self._pick(thing, cloud)

    def _next_goal(self) -> Any:
        for goal in self._problem.parsed_problem["goal_state"]:
            if goal[0] in MOVES and not self._problem._eval_predicate(goal):
                return goal
        return None

    # --- Moves

    def _pick(self, thing: int, cloud: Cloud) -> Action:
        """Above it, down to it, and shut."""
        grasp = best(cloud, self._others(thing), self._position, self._yaw, self._base)
        off = self._position - grasp.at
        beside = float(np.hypot(*off[:2]))
        askew = abs(turn(self._yaw, grasp.yaw))
        near = NEAR if self._opening > WIDE else CLOSING * NEAR
        if beside < near and off[2] < near:
            return self._towards(grasp.at, grasp.yaw, shut=True)
        if beside < NEAR + 0.15 * max(off[2], 0.0) and askew < 0.2:
            return self._towards(grasp.at, grasp.yaw, shut=False)
        clear = cloud[:, 2].max() + HOVER
        if self._position[2] < clear - 0.03 and beside > 2 * NEAR:
            return self._towards(self._position + _up(HOVER), grasp.yaw, shut=False)
        return self._towards(np.array([*grasp.at[:2], clear]), grasp.yaw, shut=False)

    def _carry(self, cloud: Cloud, beside: Float[np.ndarray, "2"], height: float) -> Action:
        """Up, across, down, and let go."""
        bottom = float(cloud[:, 2].min())
        far = float(np.linalg.norm(beside))
        hand = self._position
        over = hand + np.array([*beside, 0.0])
        if far < 1.5 * NEAR + 0.1 * max(bottom - height, 0.0):
            if bottom < height + NEAR:
                return self._towards(hand, self._yaw, shut=False)
            return self._towards(over + _up(height - bottom), self._yaw, shut=True)
        rise = self._clear(height) - bottom
        if rise > 0.03 and far > 0.06:
            return self._towards(hand + _up(rise), self._yaw, shut=True)
        return self._towards(
            over + _up(rise if far < 0.2 else max(rise, 0.0)), self._yaw, shut=True
        )

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

    @property
    def _opening(self) -> float:
        """Between the fingers, m."""
        fingers = [self._data.joint(name).qpos[0] for name in FINGER_JOINTS]
        return float(abs(fingers[0] - fingers[1]))

    def _touched(self, thing: int) -> tuple[bool, ...]:
        """Which of the two fingers touches a thing."""
        bodies = self._model.geom_bodyid[self._data.contact.geom]
        roots = self._model.body_rootid[bodies]
        mine = (roots == self._model.body_rootid[thing]).any(axis=1)
        return tuple(bool(np.isin(bodies[mine], finger).any()) for finger in self._touching)

    def _cloud(self, body: int) -> Cloud:
        """Points of a body's surface, in the world."""
        if body not in self._clouds:
            self._clouds[body] = _points(self._model, body)
        rotation = np.array(self._data.xmat[body]).reshape(3, 3)
        placed: np.ndarray = self._clouds[body] @ rotation.T + self._data.xpos[body]
        return placed

    def _others(self, thing: int) -> Cloud:
        """Points of all that may be in the way of a hand at the thing."""
        at = self._data.xpos[thing, :2]
        found = [np.zeros((0, 3))]
        for body in self._bodies:
            if self._model.body_rootid[body] != self._model.body_rootid[thing]:
                cloud = self._cloud(body)
                found.append(cloud[(np.abs(cloud[:, :2] - at) < ASIDE).all(axis=1)])
        return np.concatenate(found)

    def _place(self, name: str, relation: str, tall: float) -> Vector:
        """Where the bottom of a thing is let go that is so tall (m)."""
        problem = self._problem
        if name in problem.object_sites_dict:
            at = np.array(self._data.site_xpos[self._model.site(name).id])
        else:
            at = np.array(self._data.xpos[problem.obj_body_id[name]])
        drop = max(0.02, 0.07 - tall / 2) if relation == "in" else 0.02
        place: np.ndarray = at + _up(drop)
        return place

    def _towards(self, to: Vector, yaw: float, *, shut: bool) -> Action:
        """The action that leads to a position and a yaw, fingers down, as fast as may be."""
        shift = (to - self._position) / REACH
        shift = shift / max(1.0, np.abs(shift).max())
        points = self._data.site_xmat[self._hand].reshape(3, 3)[:, 2]
        tilt = np.cross(points, [0.0, 0.0, -1.0])
        turned = ((tilt + _up(turn(self._yaw, yaw))) / TURN).clip(-1, 1)
        return np.concatenate([shift, turned, [1.0 if shut else -1.0]])


def _with_parts(model: Any, body: int) -> list[int]:
    """A body and all that hangs on it."""
    found = [body]
    for other in range(body + 1, model.nbody):  # children come after their parents
        if model.body_parentid[other] in found:
            found.append(other)
    return found


def _points(model: Any, body: int) -> Cloud:
    """Points all over what is seen of a body, in its own frame; the same each time."""
    random = np.random.default_rng(0)
    found = [np.zeros((0, 3))]
    for g in range(model.ngeom):
        if model.geom_bodyid[g] != body or model.geom_group[g] != 1:
            continue
        if model.geom_type[g] == mujoco.mjtGeom.mjGEOM_MESH:
            points = _on_mesh(model, int(model.geom_dataid[g]), random)
        elif model.geom_type[g] == mujoco.mjtGeom.mjGEOM_BOX:
            points = _on_box(model.geom_size[g], random)
        else:
            continue
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, model.geom_quat[g])
        found.append(points @ rotation.reshape(3, 3).T + model.geom_pos[g])
    return np.concatenate(found)


def _on_mesh(model: Any, mesh: int, random: np.random.Generator) -> Cloud:
    start = model.mesh_vertadr[mesh]
    vertices = model.mesh_vert[start : start + model.mesh_vertnum[mesh]].astype(np.float64)
    start = model.mesh_faceadr[mesh]
    corners = vertices[model.mesh_face[start : start + model.mesh_facenum[mesh]]]
    sides = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(sides, axis=1)
    chosen = random.choice(len(area), POINTS, p=area / area.sum())
    weights = random.dirichlet([1.0, 1.0, 1.0], POINTS)
    inside = np.einsum("nc,ncd->nd", weights, corners[chosen])
    ends = np.concatenate([vertices.argmin(axis=0), vertices.argmax(axis=0)])
    return np.concatenate([inside, vertices[ends]])


def _on_box(size: Vector, random: np.random.Generator) -> Cloud:
    points = random.uniform(-1.0, 1.0, (POINTS, 3))
    axis = random.integers(3, size=POINTS)
    points[np.arange(POINTS), axis] = np.sign(points[np.arange(POINTS), axis])
    scaled: np.ndarray = points * size
    return scaled
