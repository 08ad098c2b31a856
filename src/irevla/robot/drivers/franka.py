"""The arm itself, through franky (libfranka): each command is an asynchronous Cartesian motion that
takes over from the one before, and the arm stays in control at its end.

Measured against franky-sim: a command returns within a millisecond; an arm that falls silent keeps
showing its last state for a second, until libfranka gives up. So its silence is found by the time
stamp, not by an error.
"""

import threading
from typing import Any

from irevla.errors import UserError
from irevla.robot.driver import ArmState, DriverError, Polled, now
from irevla.robot.limits import Cleared, Limits
from irevla.robot.pose import Pose

FINGER_SPEED = 0.1  # m/s
ANY_WIDTH = 0.1  # m: whatever the fingers close on is a grasp


class FrankyDriver:
    """The arm at the address `host`. `dynamics` (0 to 1) is the share of its own limits of
    acceleration and jerk that motions may use; their speed ends at the `limits`. `realtime` demands
    a kernel with PREEMPT_RT. `force`: of the fingers, N."""

    def __init__(
        self, host: str, *, limits: Limits, dynamics: float, realtime: bool, force: float
    ) -> None:
        import franky

        self._franky: Any = franky
        config = franky.RealtimeConfig.Enforce if realtime else franky.RealtimeConfig.Ignore
        try:
            self._robot: Any = franky.Robot(host, realtime_config=config)
            gripper = franky.Gripper(host)
        except (franky.Exception, RuntimeError) as error:
            raise UserError(
                f"no arm answers at {host} ({error}): switch FCI on in Desk, and close other "
                "sessions"
            ) from error
        self._robot.relative_dynamics_factor = franky.RelativeDynamicsFactor(
            1.0, dynamics, dynamics
        )
        for limit, most in (("translation", 1.25 * limits.speed), ("rotation", 1.25 * limits.spin)):
            setting = getattr(self._robot, f"{limit}_velocity_limit")
            setting.set(min(most, setting.max))
        self._broken = ""  # what ended the last motion
        self._moving = False
        self._fingers = _Fingers(
            gripper, force, errors=(franky.Exception, franky.GripperException, RuntimeError)
        )
        self._polled = Polled(self._read)

    def state(self) -> ArmState:
        """Return the newest state known."""
        return self._polled.newest()

    def send(self, target: Cleared) -> None:
        """Take over from the motion before."""
        franky = self._franky
        pose = target.pose
        goal = franky.Affine(pose.position, pose.quaternion)
        motion = franky.CartesianMotion(
            goal, franky.ReferenceType.Absolute, return_when_finished=False
        )
        self._call(self._robot.move, motion, asynchronous=True)
        self._moving = True

    def set_gripper(self, *, shut: bool) -> None:
        """Close with `force`, or open."""
        self._fingers.want(shut=shut)

    def hold(self) -> None:
        """Brake within the arm's limits, then leave control: its own controller keeps it there."""
        self._moving = False
        if self._robot.is_in_control:
            self._call(self._robot.move, self._franky.CartesianStopMotion(), asynchronous=True)
        else:
            self._call(self._robot.stop)

    def clear_fault(self) -> None:
        """libfranka's automatic error recovery."""
        self._broken = ""
        if not self._call(self._robot.recover_from_errors):
            raise DriverError("the arm's automatic error recovery did not succeed")

    def close(self) -> None:
        """Hang up: libfranka does so when its objects go."""
        self._polled.close()
        self._fingers.close()
        self._robot = None

    def _read(self) -> ArmState:
        state = self._call(lambda: self._robot.state)
        mode = state.robot_mode
        modes = self._franky.RobotMode
        reflex = "reflex" if mode == modes.Reflex else ""
        fault = str(state.current_errors).strip("[]") or reflex or self._ended()
        pose = Pose(state.O_T_EE.translation.reshape(3), state.O_T_EE.quaternion.reshape(4))
        held = mode in (modes.UserStopped, modes.Guiding)
        return ArmState(pose, state.time.to_sec(), now(), fault, held)

    def _ended(self) -> str:
        """Return what ended a motion that should still go on; empty where nothing did."""
        if self._moving and not self._broken:
            try:
                self._robot.poll_motion()
            except (self._franky.Exception, RuntimeError) as error:
                self._broken = str(error)
        return self._broken

    def _call(self, function: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except (self._franky.Exception, RuntimeError) as error:
            raise DriverError(f"{type(error).__name__}: {error}") from error


class _Fingers:
    """The hand, whose commands wait until they are done: in a thread, the newest wish wins."""

    def __init__(self, gripper: Any, force: float, *, errors: tuple[type[Exception], ...]) -> None:
        self._gripper = gripper
        self._force = force
        self._errors = errors
        self._wish: bool | None = None
        self._error = ""
        self._news = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arm-fingers", daemon=True)
        self._thread.start()

    def want(self, *, shut: bool) -> None:
        """Close or open, soon. Raises `DriverError` where the last wish failed."""
        if self._error:
            error = self._error
            self._error = ""
            raise DriverError(f"the gripper failed: {error}")
        self._wish = shut
        self._news.set()

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        self._news.set()
        self._thread.join(2.0)
        self._gripper = None

    def _run(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            if self._over.is_set():
                return
            try:
                if self._wish:
                    self._gripper.grasp(0.0, FINGER_SPEED, self._force, ANY_WIDTH, ANY_WIDTH)
                else:
                    self._gripper.open(FINGER_SPEED)
            except self._errors as error:
                self._error = str(error)
