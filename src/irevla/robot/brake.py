"""How an arm is held and stopped: first it holds, then somebody is told, and what did not arrive is
sent again. `SafeArm` decides when."""

from collections.abc import Callable
from typing import NoReturn, Protocol, runtime_checkable

from irevla.errors import UserError
from irevla.robot.driver import DriverError
from irevla.robot.flight import Flight
from irevla.robot.pose import Pose
from irevla.robot.stop_latch import StopLatch


class ArmStopped(UserError):
    """The arm is stopped, and stays so until a person releases it."""


@runtime_checkable
class Holds(Protocol):
    """What of a driver a stop needs. Each raises `DriverError`."""

    def hold(self) -> None:
        """Come to rest and stay."""
        ...

    def stop_gripper(self) -> None:
        """Stop fingers that move where they are."""
        ...


class Brake:
    """Holds an arm and its fingers, and remembers whether they heard it.

    With `dry_run` nothing is sent. `say` reaches whoever can be reached, and never fails.
    """

    def __init__(
        self,
        driver: Holds,
        stop_latch: StopLatch,
        *,
        flight: Flight,
        say: Callable[[str], None],
        dry_run: bool,
    ) -> None:
        self.target: Pose | None = None  # where the arm was sent, until it was told to hold
        self.holds = True  # it was told to hold after the last command, and heard it ...
        self.fingers_rest = True  # ... and its fingers to stop
        self._driver = driver
        self._stop_latch = stop_latch
        self._flight = flight
        self._say = say
        self._dry_run = dry_run
        self._alarms: set[str] = set()  # that were given since the last release
        self._over = False  # the arm was let go, and holds

    @property
    def stopped(self) -> str:
        """Why the arm is stopped; empty where it is not."""
        return self._stop_latch.reason

    def refuse_if_stopped(self) -> None:
        """Raise `ArmStopped` where it is."""
        if self.stopped:
            raise _refusal(self.stopped)

    def stop(self, reason: str) -> None:
        """Hold, and refuse every motion from now on.

        Nothing that can fail (a full disk, a dead terminal) stands before the hold, and what fails
        after it is said.
        """
        first = self._stop_latch.set(reason)
        self.halt()
        if first:
            self._tell()

    def fail(self, reason: str) -> NoReturn:
        """Stop, and raise `ArmStopped`."""
        self.stop(reason)
        raise _refusal(reason)

    def take_fault(self) -> None:
        """The arm has stopped itself; its fingers have not."""
        self.target = None
        self.holds = True
        if not self.fingers_rest:
            self.stop_fingers()

    def take_stop(self, reason: str) -> None:
        """A person has stopped the arm at itself: it stands, and takes no commands."""
        self.target = None
        self.holds = True
        if self._stop_latch.set(reason):
            self.stop_fingers()
            self._tell()

    def release(self) -> None:
        """A person has looked at the arm."""
        self._stop_latch.release()
        self._alarms.clear()

    def halt(self) -> None:
        """Hold, and stop the fingers as well."""
        self.hold()
        self.stop_fingers()

    def halt_again(self) -> None:
        """Where a hold, or the stop of another process, did not reach the arm or its fingers."""
        if not (self.holds and self.fingers_rest):
            self.halt()

    def let_go(self) -> None:
        """Whoever stops the arm from now on finds nobody to tell: it holds."""
        self._over = True

    def hold(self) -> None:
        """Without waiting for a command that is on its way: a silent arm must not keep others from
        stopping it."""
        self.target = None
        if self._dry_run or self._over:
            return
        try:
            self._driver.hold()
            self.holds = True
            self._flight.note("hold")
        except DriverError as error:
            self.holds = False  # the watchdog tries again
            if self._stop_latch.set(f"it could not be told to hold: {error}"):
                self._tell()
            self._alarm(f"the arm could not be told to hold ({error})")

    def stop_fingers(self) -> None:
        """Those that hold something go on holding it."""
        if self._dry_run or self._over:
            return
        try:
            self._driver.stop_gripper()
            self.fingers_rest = True
        except DriverError as error:
            self.fingers_rest = False  # the watchdog tries again
            self._alarm(f"the fingers could not be stopped ({error})")

    def _alarm(self, text: str) -> None:
        """Once: the watchdog tries again forty times a second."""
        if text not in self._alarms:
            self._alarms.add(text)
            self._say(f"{text}: PRESS THE EMERGENCY STOP")

    def _tell(self) -> None:
        """Tell everybody, once the arm holds. Fails in words alone."""
        self._flight.note("stop", reason=self.stopped)
        try:
            self._stop_latch.keep()
        except OSError as error:  # the session's mark stays, which is a stop for the next one
            self._say(f"the stop could not be written down ({error.strerror})")
        self._say(f"the arm is stopped: {self.stopped}")


def _refusal(reason: str) -> ArmStopped:
    return ArmStopped(f"the arm is stopped ({reason}): look at it, then `irevla arm release`")
