"""The arm itself, through franky (libfranka). How it follows commands is in `franka_motions.py`.

Measured against franky-sim: a command returns within a millisecond; an arm that falls silent keeps
showing its last state for a second, until libfranka gives up. So its silence is found by the time
stamp, not by an error.
"""

import threading
from typing import Any

from irevla.errors import UserError
from irevla.robot.driver import ArmState, DriverError, Polled, now
from irevla.robot.drivers.franka_motions import Impedance, Motions, Trajectories
from irevla.robot.limits import Cleared, Limits
from irevla.robot.pose import Pose
from irevla.robot.settings import IMPEDANCE, Collision, Compliance

SHUT, OPEN, HOME = "shut", "open", "home"  # what the fingers may be wished to do
FINGER_SPEED = 0.1  # m/s
ON_ITS_WAY = 0.1  # s until a command that was given has reached the hand
LOOK = 0.05  # s between two looks at the width ...
LOOK_ENDS = 1.5  # ... and that the last one may take
ANY_WIDTH = 0.1  # m: whatever the fingers close on is a grasp


class FrankyDriver:
    """The arm at the address `host`. `realtime` demands a kernel with PREEMPT_RT. `force`: of the
    fingers, N."""

    def __init__(
        self,
        host: str,
        *,
        limits: Limits,
        dynamics: float,
        realtime: bool,
        force: float,
        collision: Collision,
        compliance: Compliance | None,
    ) -> None:
        import franky

        self._franky: Any = franky
        modes = franky.ControllerMode
        spring = compliance is not None and compliance.motion == IMPEDANCE
        soft = None
        if compliance is not None and not spring:
            soft = [compliance.stiffness] * 3 + [compliance.turn_stiffness] * 3
        config = franky.RealtimeConfig.Enforce if realtime else franky.RealtimeConfig.Ignore
        try:
            self._robot: Any = franky.Robot(
                host,
                realtime_config=config,
                default_torque_threshold=collision.torque,
                default_force_threshold=collision.force,
                controller_mode=modes.JointImpedance if soft is None else modes.CartesianImpedance,
            )
            if soft is not None:
                self._robot.set_cartesian_impedance(soft)
            gripper = franky.Gripper(host)
        except franky.RealtimeException as error:
            raise UserError(
                f"{error} Install a PREEMPT_RT kernel, or, for a simulator alone, say realtime: "
                "false"
            ) from error
        except (franky.Exception, RuntimeError) as error:
            raise UserError(
                f"no arm answers at {host} ({error}): switch FCI on in Desk, and close other "
                "sessions"
            ) from error
        self._motions: Motions
        if compliance is not None and spring:
            self._motions = Impedance(franky, compliance)
        else:
            self._motions = Trajectories(franky, self._robot, limits=limits, dynamics=dynamics)
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
        self._call(self._motions.follow, self._connected, target.pose)
        self._moving = True

    def set_gripper(self, *, shut: bool) -> None:
        """Close with `force`, or open."""
        self._fingers.want(SHUT if shut else OPEN)

    def home_gripper(self) -> None:
        """libfranka's homing."""
        self._fingers.want(HOME)

    def fingers_busy(self) -> bool:
        """Return whether a command of theirs is under way."""
        return self._fingers.busy()

    def stop_gripper(self) -> None:
        """Stop fingers that are on their way."""
        self._fingers.stop()

    def hold(self) -> None:
        """Brake, then leave control: the arm's own controller keeps it there."""
        self._moving = False
        robot = self._connected
        if robot.is_in_control:
            self._call(self._motions.brake, robot)
        else:
            self._call(robot.stop)

    def clear_fault(self) -> None:
        """libfranka's automatic error recovery."""
        self._broken = ""
        if not self._call(self._connected.recover_from_errors):
            raise DriverError("the arm's automatic error recovery did not succeed")

    def close(self) -> None:
        """Hang up: libfranka does so when its objects go."""
        self._polled.close()
        self._fingers.close()
        self._robot = None

    @property
    def _connected(self) -> Any:
        """The arm; a thread that a silent one kept waiting may ask for it too late."""
        if self._robot is None:
            raise DriverError("it was hung up")
        return self._robot

    def _read(self) -> ArmState:
        robot = self._connected
        state = self._call(lambda: robot.state)
        mode = state.robot_mode
        modes = self._franky.RobotMode
        reflex = "reflex" if mode == modes.Reflex else ""
        fault = str(state.current_errors).strip("[]") or reflex or self._ended(robot)
        pose = _pose(state.O_T_EE)
        frame = _pose(state.F_T_EE)
        held = mode in (modes.UserStopped, modes.Guiding)
        wrench = tuple(state.O_F_ext_hat_K.reshape(6).tolist())
        stamp = state.time.to_sec()
        return ArmState(pose, frame, stamp, now(), fault, held, self._fingers.width, wrench)

    def _ended(self, robot: Any) -> str:
        """Return what ended a motion that should still go on; empty where nothing did."""
        if self._moving and not self._broken:
            try:
                robot.poll_motion()
            except (self._franky.Exception, RuntimeError) as error:
                self._broken = str(error)
        return self._broken

    def _call(self, function: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except (self._franky.Exception, RuntimeError) as error:
            raise DriverError(f"{type(error).__name__}: {error}") from error


def _pose(affine: Any) -> Pose:
    return Pose(affine.translation.reshape(3), affine.quaternion.reshape(4))


class _Fingers:
    """The hand, whose commands wait until they are done: each has a thread of its own, and what is
    wished meanwhile comes after it, the newest alone."""

    def __init__(self, gripper: Any, force: float, *, errors: tuple[type[Exception], ...]) -> None:
        self._gripper = gripper
        self._force = force
        self._errors = errors
        self._lock = threading.Lock()
        self._wish = ""  # SHUT, OPEN or HOME, next
        self._moving: threading.Thread | None = None  # whose command is under way
        self._error = ""
        self.width = self._width_of(gripper)  # m; None: it is not known
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, name="arm-width", daemon=True)
        self._watch.start()

    def want(self, wish: str) -> None:
        """Close, open or find their ends, soon. Raises `DriverError` where the last wish failed."""
        with self._lock:
            self._raise()
            self._wish = wish
            if self._moving is None:
                self._begin()

    def busy(self) -> bool:
        """Return whether a command is under way. Raises `DriverError` where the last one failed."""
        with self._lock:
            self._raise()
            return self._moving is not None

    def _raise(self) -> None:
        error = self._error
        self._error = ""
        if error:
            raise DriverError(f"the gripper failed: {error}")

    def stop(self) -> None:
        """Drop the wish, and stop fingers that move: not those that hold something by now.

        Raises `DriverError`.
        """
        with self._lock:
            self._wish = ""
            command = self._moving
            self._moving = None  # what was stopped may never answer
            gripper = self._gripper  # which another thread may hang up meanwhile
        if command is None:
            return
        if gripper is None:
            raise DriverError("the gripper was hung up")
        try:
            gripper.stop()
            command.join(ON_ITS_WAY)
            if command.is_alive():  # perhaps the stop came first
                gripper.stop()
        except self._errors as error:
            raise DriverError(f"the gripper cannot be stopped: {error}") from error

    def close(self) -> None:
        """Hang up."""
        self._over.set()
        self._watch.join(LOOK_ENDS)
        self._gripper = None

    def _look(self) -> None:
        """Follow the width: asking for it waits, for as long as the hand is silent."""
        gripper = self._gripper
        while not self._over.wait(LOOK):
            self.width = self._width_of(gripper)

    def _width_of(self, gripper: Any) -> float | None:
        try:
            return float(gripper.state.width)  # `gripper.width` stops all threads
        except self._errors:
            return None

    def _begin(self) -> None:
        wish = self._wish
        self._wish = ""
        self._moving = threading.Thread(
            target=self._run, args=(wish,), name="arm-fingers", daemon=True
        )
        self._moving.start()

    def _run(self, wish: str) -> None:
        error = ""
        try:
            if wish == HOME:
                self._gripper.homing()
            elif wish == SHUT:
                self._gripper.grasp(0.0, FINGER_SPEED, self._force, ANY_WIDTH, ANY_WIDTH)
            else:
                self._gripper.open(FINGER_SPEED)
        except self._errors as failure:
            error = str(failure)
        with self._lock:
            if self._moving is not threading.current_thread():  # stopped
                return
            self._error = error
            self._moving = None
            if self._wish:
                self._begin()
