"""What the arm may be told: the limits, and the one function that turns a wish into a command. No
state, no I/O.

A driver takes `Cleared` commands alone, and only `Limits.clear` can make one.
"""

import math
from dataclasses import dataclass

import numpy as np

from irevla.errors import UserError
from irevla.robot.pose import Pose, Vector, length, shortened, turn_between, turned

Triple = tuple[float, float, float]
BRAKE = 0.5  # share of the way to a wall that one decision may go ...
CREEP = 0.005  # ... and m that it always may
_POSITIVE = (
    "tolerance", "step", "turn", "speed", "spin", "lead", "lead_turn", "tilt", "pace", "period",
)  # fmt: skip
_SEAL = object()  # whoever holds it may clear commands: this module alone


class Refused(Exception):
    """A wish that must not reach the arm; the text says why."""


@dataclass(frozen=True)
class Cleared:
    """A target that has passed every check. Made by `Limits.clear` alone."""

    pose: Pose
    seal: object

    def __post_init__(self) -> None:
        assert self.seal is _SEAL, "only Limits.clear makes commands"


@dataclass(frozen=True)
class Limits:
    """Lengths in m, angles in rad, times in s; the frame is that of the arm's base."""

    low: Triple  # corners of the box that the end effector stays in
    high: Triple
    tolerance: float = 0.02  # outside the box by more than this, only motions back are allowed
    step: float = 0.04  # longest way of one decision: a full action along one axis
    turn: float = 0.25  # largest turn of one decision
    speed: float = 0.4  # m/s, over the time since the last command
    spin: float = 2.5  # rad/s, likewise
    lead: float = 0.01  # how far the command may be ahead of the arm before it waits for it ...
    lead_turn: float = 0.05  # ... and its orientation
    tilt: float = 1.0  # largest angle between the fingers and straight down
    pace: float = 0.1  # m/s, of motions that no policy chooses: to the start
    period: float = 0.1  # of a decision
    max_age: float = (
        0.1  # of a state, before the arm is stopped; above 0.15, later than two periods
    )
    clears_per_episode: int = 1  # faults cleared without a person ...
    clears_per_run: int = 3  # ... before one must come

    def __post_init__(self) -> None:
        if not all(-2 < low < high < 2 for low, high in zip(self.low, self.high, strict=True)):
            raise UserError(
                f"the workspace from {self.low} to {self.high} is no box: low < high, within 2 m"
            )
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < 4:
                raise UserError(f"limits.{name} must be between 0 and 4, not {getattr(self, name)}")
        if not 0 < self.max_age <= 0.5:
            raise UserError(f"limits.max_age must be at most 0.5 s, not {self.max_age}")
        if min(self.clears_per_episode, self.clears_per_run) < 0:
            raise UserError("limits.clears_per_episode and clears_per_run must not be negative")

    def outside(self, position: Vector) -> float:
        """Return the distance to the box, m; 0 within."""
        return length(position - self._nearest(position))

    def base(self, measured: Pose, last: Pose | None) -> Pose:
        """Return what a motion starts from: the last target, but never far ahead of the arm.

        From the measured pose alone, an arm that sags a little under its load would sink with every
        decision.
        """
        if last is None:
            return measured
        lead = shortened(last.position - measured.position, self.lead)
        turn = shortened(turn_between(measured.quaternion, last.quaternion), self.lead_turn)
        return Pose(measured.position + lead, turned(measured.quaternion, turn))

    def clear(
        self,
        shift: Vector,
        turn: Vector,
        *,
        measured: Pose,
        last: Pose | None,
        elapsed: float,
        speed: float,
    ) -> Cleared:
        """Return the command for a motion of an arm at `measured`, `elapsed` s after the last.

        `shift` is in m along, `turn` in rad around the axes of the base; `speed`, in m/s, is the
        most. Raises `Refused`.
        """
        shaped = shift.shape == (3,) and turn.shape == (3,)
        if not shaped or not all(map(math.isfinite, [*shift.tolist(), *turn.tolist()])):
            raise Refused(f"the motion asked for is not finite: {shift} {turn}")
        if not measured.sound:
            raise Refused(f"the arm's own pose is not sound: {measured}")
        if not elapsed >= 0:
            raise Refused(f"time runs backwards: {elapsed} s since the last command")
        elapsed = min(elapsed, self.period)
        base = self.base(measured, last)
        reach = min(self.step, min(speed, self.speed) * elapsed)
        position = self._boxed(base.position + shortened(shift, reach), measured.position)
        quaternion = turned(base.quaternion, shortened(turn, min(self.turn, self.spin * elapsed)))
        target = Pose(position, quaternion)
        if target.tilt > max(self.tilt, base.tilt):  # further over than it may and than it is
            target = Pose(position, base.quaternion)
        self._verify(target, measured)
        return Cleared(target, _SEAL)

    def _nearest(self, position: Vector) -> Vector:
        nearest: Vector = np.minimum(np.maximum(position, self.low), self.high)
        return nearest

    def _braked(self, target: Vector, now: Vector) -> Vector:
        """Return a target at most a part of the way to each wall.

        A fast arm that is sent to the wall itself swings through it.
        """
        down = np.maximum(BRAKE * (now - np.array(self.low)), CREEP)
        up = np.maximum(BRAKE * (np.array(self.high) - now), CREEP)
        braked: Vector = np.minimum(np.maximum(target, now - down), now + up)
        return braked

    def _boxed(self, target: Vector, now: Vector) -> Vector:
        """Return the nearest point of the box; of an arm that is outside, one further in than it
        is."""
        out = self.outside(now)
        if out <= self.tolerance:
            return self._nearest(self._braked(target, now))
        low = np.minimum(self.low, now)
        high = np.maximum(self.high, now)
        target = np.minimum(np.maximum(target, low), high)
        if self.outside(target) > out - 1e-4:
            raise Refused(
                f"the hand is {100 * out:.1f} cm outside the workspace, and this motion does not "
                "lead back into it"
            )
        return target

    def _verify(self, target: Pose, measured: Pose) -> None:
        """Once more, in other words: what is wrong here is a fault above."""
        now = measured.position
        out = self.outside(now)
        allowed_out = 0.0 if out <= self.tolerance else out
        way = length(target.position - now)
        turn = length(turn_between(measured.quaternion, target.quaternion))
        problems = {
            "not sound": not target.sound,
            "too far": way > self.step + self.lead + 2 * self.tolerance,
            "turned too far": turn > self.turn + self.lead_turn + 1e-6,
            "outside the box": self.outside(target.position) > allowed_out,
        }
        wrong = [problem for problem, there in problems.items() if there]
        if wrong:
            raise Refused(f"the target {target} is {' and '.join(wrong)}")
