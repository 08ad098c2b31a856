"""What a way to talk to an arm must offer. `SafeArm` is its only user: nothing else may command an
arm."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from irevla.robot.limits import Cleared
from irevla.robot.pose import Pose

FRANKA_HAND = Pose(
    np.array([0.0, 0.0, 0.1034]),
    np.array([0.0, 0.0, -math.sin(math.pi / 8), math.cos(math.pi / 8)]),
)
"""The fingertips of Franka's own hand, seen from the flange: 10.34 cm on, turned by -45 degrees."""


class DriverError(Exception):
    """The arm, or the way to it, failed; the text says how."""


@dataclass(frozen=True)
class ArmState:
    """What the arm last said of itself."""

    pose: Pose  # of the end effector
    frame: Pose  # of the end effector, seen from the flange: what the arm takes for fingertips
    stamp: float  # s, by the arm's own clock (or a count that grows with every new state)
    received: float  # s, when it came, by the clock of `SafeArm` (`time.monotonic`)
    fault: str = ""  # what the arm stopped itself for; empty: nothing
    held: bool = False  # by a person (user stop, enabling device): never cleared by a program
    width: float | None = None  # m between the fingers; None: it is not known
    wrench: tuple[float, ...] | None = None  # N and Nm upon the hand; None: it is not known


@runtime_checkable
class Driver(Protocol):
    """A way to an arm. No call waits longer than a few tenths of a second; each raises
    `DriverError`."""

    def state(self) -> ArmState:
        """Return the newest state known; at once, even where the arm has fallen silent (then an old
        one)."""
        ...

    def send(self, target: Cleared) -> None:
        """Go there now, in the place of what was sent before; returns at once."""
        ...

    def set_gripper(self, *, shut: bool) -> None:
        """Close or open the fingers; returns at once."""
        ...

    def home_gripper(self) -> None:
        """Let the fingers find their ends, where they need that; returns at once."""
        ...

    def fingers_busy(self) -> bool:
        """Return whether they are still at it. Raises `DriverError` where it failed."""
        ...

    def stop_gripper(self) -> None:
        """Stop fingers that move where they are; what they hold, they hold. Returns at once."""
        ...

    def hold(self) -> None:
        """Come to rest and stay."""
        ...

    def clear_fault(self) -> None:
        """Make the arm ready again after a fault. Nothing moves."""
        ...

    def close(self) -> None:
        """Hang up. The arm stays where it is."""
        ...


class Polled:
    """The newest state of an arm whose `read` may wait: read in a thread, so that whoever asks does
    not."""

    def __init__(self, read: Callable[[], ArmState], *, interval: float = 0.02) -> None:
        self._read = read
        self._interval = interval
        self._state: ArmState = read()  # the first one in the caller's thread, with its error
        self._error: DriverError | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arm-state", daemon=True)
        self._thread.start()

    def newest(self) -> ArmState:
        """Return the last one read. Raises `DriverError` where reading has failed since."""
        if self._error is not None:
            raise self._error
        return self._state

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._over.wait(self._interval):
            try:
                self._state = self._read()
                self._error = None
            except DriverError as error:
                self._error = error


def now() -> float:
    """Return the time by the clock of `ArmState.received`, s."""
    return time.monotonic()
