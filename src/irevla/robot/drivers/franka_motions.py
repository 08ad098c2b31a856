"""How an arm behind libfranka follows targets: along trajectories of its own controllers, or pulled
by a spring (franky's Cartesian impedance), whose force a setting ends."""

from typing import Any, Protocol

import numpy as np

from irevla.robot.limits import Limits
from irevla.robot.pose import Pose
from irevla.robot.settings import Compliance

BRAKING = 0.02  # s in which a spring's pull becomes a brake: 1.3 cm on loopback, at 0.18 m/s
POSTURE = 10.0  # Nm/rad with which the elbow stays where it was, as far as the hand lets it ...
POSTURE_TORQUE = 5.0  # ... and Nm, at most


class Motions(Protocol):
    """A way to follow targets. All of its motions are of one type: an arm changes none midway."""

    def follow(self, robot: Any, target: Pose) -> None:
        """Go to `target` from now on; returns at once."""
        ...

    def brake(self, robot: Any) -> None:
        """Come to rest, of an arm that is in control; returns at once."""
        ...


class Trajectories:
    """Each target is an asynchronous Cartesian motion that takes over from the one before.

    `dynamics` (0 to 1) is the share of the arm's acceleration and jerk that motions may use; their
    speed ends at the `limits`, and a stop may use all of them.
    """

    def __init__(self, franky: Any, robot: Any, *, limits: Limits, dynamics: float) -> None:
        self._franky = franky
        # For motions alone: a careful arm must not brake carefully when it is stopped.
        self._dynamics = franky.RelativeDynamicsFactor(1.0, dynamics, dynamics)
        for limit, most in (("translation", 1.25 * limits.speed), ("rotation", 1.25 * limits.spin)):
            setting = getattr(robot, f"{limit}_velocity_limit")
            setting.set(min(most, setting.max))

    def follow(self, robot: Any, target: Pose) -> None:
        """Take over from the motion before."""
        franky = self._franky
        motion = franky.CartesianMotion(
            franky.Affine(target.position, target.quaternion),
            franky.ReferenceType.Absolute,
            relative_dynamics_factor=self._dynamics,
            return_when_finished=False,
        )
        robot.move(motion, asynchronous=True)

    def brake(self, robot: Any) -> None:
        """By all that the arm has; then its own controller keeps it there."""
        robot.move(self._franky.CartesianStopMotion(), asynchronous=True)


class Impedance:
    """One motion that goes on, and whose target moves: the hand is pulled to it by a spring, over
    `clip` (m) at most, however far it is."""

    def __init__(self, franky: Any, compliance: Compliance) -> None:
        self._franky = franky
        self._compliance = compliance
        self._motion: Any = None  # None: it was told to brake

    def follow(self, robot: Any, target: Pose) -> None:
        """Move the target, or begin at where the arm is."""
        franky = self._franky
        affine = franky.Affine(target.position, target.quaternion)
        motion = self._motion
        if motion is not None and robot.is_in_control:
            motion.set_reference(franky.CartesianReference(affine))
            return
        motion = self._begun(robot)
        motion.set_reference(franky.CartesianReference(affine))
        self._motion = motion
        robot.move(motion, asynchronous=True)

    def brake(self, robot: Any) -> None:
        """The spring lets go, and the joints are damped until they rest; then the arm's own
        controller keeps it there."""
        self._motion = None
        robot.move(self._franky.TorqueStopMotion(ramp_duration=BRAKING), asynchronous=True)

    def _begun(self, robot: Any) -> Any:
        soft = self._compliance
        posture = self._franky.PostureTask(robot.state.q, POSTURE, max_torque=POSTURE_TORQUE)
        return self._franky.CartesianImpedanceTrackingMotion(
            translational_stiffness=soft.stiffness,
            rotational_stiffness=soft.turn_stiffness,
            translational_error_clip=np.full(3, soft.clip),
            rotational_error_clip=np.full(3, soft.turn_clip),
            posture_task=posture,
        )
