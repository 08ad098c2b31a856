"""Whether what an arm says of itself can be believed."""

import math

from irevla.robot.driver import ArmState
from irevla.robot.pose import Pose, length, turn_between

FRAME_OFF = 0.005  # m that the end effector's frame may be away from the settings' ...
FRAME_TURN = 0.05  # ... and rad
JUMP = 0.06  # m that a hand may be away from where it was ...
JUMP_SPEED = 1.0  # ... and m/s since: more than any limit of speed allows
JUMP_TURN = 0.5  # rad, likewise ...
JUMP_SPIN = 5.0  # ... and rad/s


class StateCheck:
    """Looks at one state after another. `frame` is that of the fingertips, seen from the flange;
    `max_age` of a state in s."""

    def __init__(self, frame: Pose, max_age: float) -> None:
        self._frame = frame
        self._max_age = max_age
        self.forget()

    def forget(self) -> None:
        """The next state is the first one: the arm may have been moved, or restarted."""
        self._last: ArmState | None = None
        self._stamp = -math.inf  # of the newest state ...
        self._stamp_seen = 0.0  # ... and when it was first seen

    def problem(self, state: ArmState, now: float) -> str:
        """Return why `state`, read at `now` (s), cannot be believed; empty: it can."""
        timed = math.isfinite(state.stamp) and math.isfinite(state.received)
        if not (state.pose.sound and state.frame.sound and timed):
            return f"its state is not sound: {state}"
        if state.stamp < self._stamp:
            return f"its state is older ({state.stamp:.3f} s) than one before ({self._stamp:.3f} s)"
        wrong = self._wrong_frame(state.frame) or self._jump(state)
        if wrong:
            return wrong
        self._remember(state, now)
        age = now - self._stamp_seen
        return f"its state is {age:.2f} s old" if age > self._max_age else ""

    def _remember(self, state: ArmState, now: float) -> None:
        self._last = state
        if state.stamp > self._stamp:
            self._stamp = state.stamp
            self._stamp_seen = min(now, state.received)

    def _wrong_frame(self, frame: Pose) -> str:
        """The box holds the fingertips only where the arm means them by its end effector."""
        off = length(frame.position - self._frame.position)
        turned = length(turn_between(frame.quaternion, self._frame.quaternion))
        if off <= FRAME_OFF and turned <= FRAME_TURN:
            return ""
        return (
            f"its end effector is {frame.position.round(4).tolist()} m from the flange, turned by "
            f"{frame.yaw:.3f} rad, and the settings' `fingertips` are "
            f"{self._frame.position.round(4).tolist()} m and {self._frame.yaw:.3f} rad: set it in "
            "Desk, or them"
        )

    def _jump(self, state: ArmState) -> str:
        last = self._last
        if last is None:
            return ""
        since = max(0.0, state.received - last.received)
        way = length(state.pose.position - last.pose.position)
        turn = length(turn_between(last.pose.quaternion, state.pose.quaternion))
        if way <= JUMP + JUMP_SPEED * since and turn <= JUMP_TURN + JUMP_SPIN * since:
            return ""
        return f"its hand jumped by {100 * way:.1f} cm and {turn:.2f} rad within {since:.2f} s"
