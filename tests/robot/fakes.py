"""An arm that obeys at once and remembers everything, and a clock that tests turn."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from irevla.robot.driver import FRANKA_HAND, ArmState, DriverError
from irevla.robot.home import Home
from irevla.robot.limits import Cleared, Limits
from irevla.robot.pose import Pose
from irevla.robot.safe_arm import SafeArm

LIMITS = Limits(low=(0.3, -0.3, 0.02), high=(0.7, 0.3, 0.5))
DOWN = np.array([1.0, 0.0, 0.0, 0.0])  # fingers down
MIDDLE = Home(np.array([0.5, 0.0, 0.25]), DOWN)
STILL = np.zeros(3)
HASH = "ab" * 32


class FakeClock:
    def __init__(self) -> None:
        self.time = 100.0
        self.asleep: Callable[[], None] = lambda: None  # what happens meanwhile

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += max(0.0, seconds)
        self.asleep()


class FakeDriver:
    """Goes a share of the way to each target at once; `fault` scripts what its state is."""

    def __init__(self, clock: FakeClock, pose: Pose = MIDDLE, *, share: float = 1.0) -> None:
        self.clock, self.pose, self.share = clock, pose, share
        self.sent: list[Pose] = []
        self.gripper: list[bool] = []
        self.fingers_stopped = self.homed = 0
        self.busy_until = 0.0
        self.holds = self.cleared = 0
        self.held_at: list[float] = []
        self.mend: Callable[[ArmState], ArmState] = lambda state: state
        self.breaks: str = ""  # what every call fails with
        self.reason = ""  # the fault it has
        self.closed = False

    def state(self) -> ArmState:
        self._break()
        now = self.clock.time
        return self.mend(ArmState(self.pose, FRANKA_HAND, now, now, self.reason))

    def send(self, target: Cleared) -> None:
        self._break()
        self.sent.append(target.pose)
        way = self.share * (target.pose.position - self.pose.position)
        self.pose = Pose(
            self.pose.position + way, target.pose.quaternion if self.share else self.pose.quaternion
        )

    def set_gripper(self, *, shut: bool) -> None:
        self._break()
        self.gripper.append(shut)

    def home_gripper(self) -> None:
        self._break()
        self.homed += 1

    def fingers_busy(self) -> bool:
        self._break()
        return self.clock.time < self.busy_until

    def stop_gripper(self) -> None:
        self.fingers_stopped += 1
        self._break()

    def hold(self) -> None:
        self.holds += 1
        self.held_at.append(self.clock.time)
        self._break()

    def clear_fault(self) -> None:
        self.cleared += 1
        self.reason = ""

    def close(self) -> None:
        self.closed = True

    def opened(self) -> "FakeDriver":
        """For one session after another."""
        self.closed = False
        return self

    def _break(self) -> None:
        assert not self.closed, "it was hung up"
        if self.breaks:
            raise DriverError(self.breaks)


def arm_of(
    pose: Pose = MIDDLE, *, limits: Limits = LIMITS, share: float = 1.0, **options: object
) -> tuple[SafeArm, FakeDriver, FakeClock]:
    """An arm that a policy may move."""
    clock = FakeClock()
    driver = FakeDriver(clock, pose, share=share)
    arm = SafeArm(driver, limits, clock=clock, announce=lambda text: None, **options)  # type: ignore[arg-type]
    arm.require(lambda: None)
    arm.authorize(HASH)
    return arm, driver, clock


def at(x: float, y: float, z: float) -> Pose:
    return replace(MIDDLE, position=np.array([x, y, z]))
