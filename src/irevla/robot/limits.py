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
CEILINGS = {  # beyond them no setting reaches: a person is beside the arm
    "tolerance": 0.05, "step": 0.08, "turn": 0.5, "speed": 0.5, "spin": 2.5, "lead": 0.03,
    "lead_turn": 0.2, "tilt": 1.6, "pace": 0.25, "period": 0.2, "max_age": 0.5,
    "dwell": 5.0,
}  # fmt: skip
MOST_CLEARS = 10
SPACE = ((-0.9, -0.9, -0.5), (0.9, 0.9, 1.2))  # m: where a Panda reaches
STRAIGHT = 1e-4  # m: the least way back into the box of a motion from outside it
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
    dwell: float = (
        0.5  # s that the fingers do what they were told before a decision turns them round
    )
    clears_per_episode: int = 1  # faults cleared without a person ...
    clears_per_run: int = 3  # ... since the last release, before one must come

    def __post_init__(self) -> None:
        least, most = SPACE
        corners = zip(least, self.low, self.high, most, strict=True)
        if not all(first <= low < high <= last for first, low, high, last in corners):
            raise UserError(
                f"the workspace from {self.low} to {self.high} is no box: low < high, from "
                f"{least} to {most} m at most"
            )
        for name, ceiling in CEILINGS.items():
            if not 0 < getattr(self, name) <= ceiling:
                raise UserError(
                    f"limits.{name} must be above 0, and {ceiling} at most, not "
                    f"{getattr(self, name)}"
                )
        for name in ("clears_per_episode", "clears_per_run"):
            if not 0 <= getattr(self, name) <= MOST_CLEARS:
                raise UserError(f"limits.{name} must be from 0 to {MOST_CLEARS}")

    @property
    def pace_spin(self) -> float:
        """Fastest turn at the `pace`, rad/s: it turns while it goes as a full decision does.

        Not by the share of `speed`: a careful `speed` would let it turn faster.
        """
        return min(self.spin, self.pace * self.turn / self.step)

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
        """Return the nearest point of the box; of an arm that is outside, one on the straight way
        back into it."""
        out = self.outside(now)
        if out <= self.tolerance:
            return self._nearest(self._braked(target, now))
        back = (self._nearest(now) - now) / out
        # Its sideways part would go on for ever, along the box.
        way = min(float(np.dot(target - now, back)), out)
        if way < STRAIGHT:
            raise Refused(
                f"the hand is {100 * out:.1f} cm outside the workspace, and this motion does not "
                "lead back into it"
            )
        straight: Vector = now + way * back
        return straight

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
