"""An arm behind SERL's robot server (HTTP; https://github.com/rail-berkeley/serl), whose impedance
controller follows the last pose that was posted.

`/jointreset` is never called: it moves the joints with no box around the hand. The server tells no
time and no faults. Of the first, its silence is found by readings that do not change any more (a
real arm's do, in their last digits); the second shows as an arm that does not move.
"""

import http.client
import json
import math
import urllib.parse
from typing import Any

import numpy as np

from irevla.errors import UserError
from irevla.robot.driver import FRANKA_HAND, ArmState, DriverError, Polled, now
from irevla.robot.kinematics import flange_pose
from irevla.robot.limits import Cleared
from irevla.robot.pose import Pose, length, seen_from
from irevla.robot.settings import SERL_PORT, Compliance

TORN = 0.002  # m between the frames of two readings: one of them is of two moments


class SerlDriver:
    """The arm behind the server at `url`; every request ends after `timeout` s."""

    def __init__(self, url: str, *, timeout: float, compliance: Compliance | None = None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise UserError(f"host must be the robot server's http://HOST:PORT, not {url!r}")
        self._host = parts.hostname
        self._port = parts.port or SERL_PORT
        self._timeout = timeout
        self._last: list[float] = []  # pose and joints
        self._seen: Pose | None = None  # the frame of the last reading ...
        self._frame = FRANKA_HAND  # ... and the last one on which two agreed
        self._changes = 0
        try:
            self._polled = Polled(self._read)
        except DriverError as error:
            raise UserError(
                f"no robot server answers at {url} ({error}): start it, then try again"
            ) from error
        if compliance is not None:
            self._comply(compliance)

    def state(self) -> ArmState:
        """Return the newest state known."""
        return self._polled.newest()

    def send(self, target: Cleared) -> None:
        """Post the pose."""
        self._post_pose(target.pose)

    def set_gripper(self, *, shut: bool) -> None:
        """Close or open."""
        self._post("close_gripper" if shut else "open_gripper")

    def home_gripper(self) -> None:
        """The server knows no such thing."""

    def fingers_busy(self) -> bool:
        """They are not known to be."""
        return False

    def stop_gripper(self) -> None:
        """The server has no way: its fingers finish what they were told.

        Its /move_gripper would be another motion, in a unit that differs from hand to hand.
        """

    def hold(self) -> None:
        """Post the pose where the arm was last seen: the controller pulls it there and no
        further."""
        pose = self._polled.newest().pose
        if not pose.sound:
            raise DriverError("it is not known where the arm is")
        self._post_pose(pose)

    def clear_fault(self) -> None:
        """The server's error recovery."""
        self._post("clearerr")

    def close(self) -> None:
        """Hang up."""
        self._polled.close()

    def _comply(self, compliance: Compliance) -> None:
        try:
            self._post("update_param", parameters(compliance))
        except DriverError as error:
            self.close()
            raise UserError(
                f"the robot server takes no compliance ({error}): take it out of the settings"
            ) from error

    def _post_pose(self, pose: Pose) -> None:
        self._post("pose", {"arr": [*pose.position.tolist(), *pose.quaternion.tolist()]})

    def _read(self) -> ArmState:
        answer = self._post("getstate")
        try:
            found = json.loads(answer)
            pose = np.array(found["pose"], np.float64)
            joints = np.array(found["q"], np.float64)
        except (ValueError, KeyError, TypeError) as error:
            raise DriverError(
                f"the robot server's state cannot be understood: {error!r}"
            ) from error
        for name, numbers in (("pose", pose), ("q", joints)):
            if numbers.shape != (7,):
                raise DriverError(
                    f"the robot server's {name} has {numbers.size} numbers instead of 7"
                )
        read = [*pose.tolist(), *joints.tolist()]
        self._changes += read != self._last  # of the arm: fingers that move do not make it fresh
        self._last = read
        hand = Pose(pose[:3], pose[3:])
        frame = self._seen_frame(hand, joints)
        width = _finite(found.get("gripper_pos"), 1)
        wrench = _finite([found.get("force"), found.get("torque")], 6)
        return ArmState(
            hand,
            frame,
            float(self._changes),
            now(),
            width=None if width is None else width[0],
            wrench=wrench,
        )

    def _seen_frame(self, hand: Pose, joints: np.ndarray) -> Pose:
        """Return what the server takes for the fingertips, seen from the flange.

        It answers while it reads: pose and joints may be of two moments. So a frame counts once two
        readings agree on it.
        """
        frame = seen_from(flange_pose(joints), hand) if hand.sound else hand
        before = self._seen or frame
        self._seen = frame
        if not length(frame.position - before.position) > TORN:  # nan: at once
            self._frame = frame
        return self._frame

    def _post(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """Send one request, by a connection of its own: the server may have closed an idle one."""
        line = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        try:
            line.request(
                "POST", f"/{path}", json.dumps(body or {}), {"Content-Type": "application/json"}
            )
            answer = line.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise DriverError(f"/{path}: {error or type(error).__name__}") from error
        finally:
            line.close()
        if answer.status != 200:
            raise DriverError(f"/{path}: the robot server answers {answer.status} {answer.reason}")
        return content


def parameters(compliance: Compliance) -> dict[str, float]:
    """Return it as SERL's controller calls it, damped as at its own stiffness."""
    clips = {
        f"{kind}_clip_{sign}{axis}": clip
        for kind, clip in (("translational", compliance.clip), ("rotational", compliance.turn_clip))
        for sign in ("", "neg_")
        for axis in "xyz"
    }
    return {
        "translational_stiffness": compliance.stiffness,
        "translational_damping": 89.0 * math.sqrt(compliance.stiffness / 2000.0),
        "rotational_stiffness": compliance.turn_stiffness,
        "rotational_damping": 7.0 * math.sqrt(compliance.turn_stiffness / 150.0),
        "translational_Ki": 0.0,
        "rotational_Ki": 0.0,
        **clips,
    }


def _finite(value: Any, count: int) -> tuple[float, ...] | None:
    """Return so many numbers; None where they are something else: nothing hangs on them."""
    try:
        numbers = np.array(value, np.float64).reshape(-1)
    except (ValueError, TypeError):
        return None
    if len(numbers) != count or not np.isfinite(numbers).all():
        return None
    return tuple(numbers.tolist())
