"""The one way to move an arm: every motion passes `SafeArm`, whoever asks for it.

What it promises is listed in `docs/real-robot.md`, with what it does not.
"""

import logging
import re
import threading
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from irevla.envs.suite import PERSON
from irevla.errors import UserError
from irevla.robot.brake import Brake
from irevla.robot.clock import Clock, WallClock
from irevla.robot.driver import FRANKA_HAND, ArmState, Driver, DriverError
from irevla.robot.flight import Flight, facts_of, numbers
from irevla.robot.limits import Limits, Refused
from irevla.robot.pose import Pose, Vector, length, shortened, turn_between
from irevla.robot.state_check import StateCheck
from irevla.robot.stop_latch import Session
from irevla.robot.watchdog import Watchdog

LATE = 1.5  # periods without a new command after which the arm is told to hold: it does within two
NEAR = 0.006  # m from a goal ...
NEAR_TURN = 0.06  # ... and rad: the arm is there ...
CLOSING = 1.0  # s after which fingers have closed ...
EMPTY = 0.004  # ... and m between them above which they hold something
HOMING = 20.0  # s that finding the fingers' ends may take
FINGERS = 2.0  # s that fingers may take for what they were told
RESTING = 3  # ... where it is seen there so many times in a row
PATIENCE = 30.0  # s that an approach may take
FULL_SPEED = float("inf")
REACHES_NOBODY = (OSError, ValueError)  # a terminal that is dead, or closed

Witness = Callable[[], None]
"""Raises `UserError` where a person or an image is missing without which the arm must not move."""

_log = logging.getLogger(__name__)


class ArmFault(Exception):
    """The arm has stopped itself (a collision, a limit of its joints). `recover` may clear it, so
    many times."""


class SafeArm:
    """An arm that is moved within its limits, on fresh states, by an authorised policy or person,
    or not at all; and only where its witness (`require`) sees all that must be there.

    Any violation holds the arm and stops it: every later motion raises `ArmStopped` until
    `release`. With `dry_run` everything is computed, checked and logged, and nothing is sent.
    """

    def __init__(
        self,
        driver: Driver,
        limits: Limits,
        *,
        clock: Clock | None = None,
        session: Session | None = None,
        frame: Pose = FRANKA_HAND,
        dry_run: bool = False,
        expected: str = "",
        announce: Callable[[str], None] = _log.warning,
        flight: Flight | None = None,
    ) -> None:
        self.limits = limits
        self.flight = flight or Flight(None, announce)
        self.dry_run = dry_run
        self.late_holds = 0  # how often no command came in time
        self.__driver = driver
        self._clock = clock or WallClock()
        self._session = session or Session(None)
        self._stop_latch = self._session.stop_latch
        self._brake = Brake(
            driver, self._stop_latch, flight=self.flight, say=self.say, dry_run=dry_run
        )
        self._states = StateCheck(frame, limits.max_age)
        self._witness: Witness = _nobody
        self._expected = expected
        self._announce = announce
        self._who = ""  # is authorised
        self._wire = threading.RLock()  # held while a command is on its way
        self._reading = threading.RLock()  # held while a state is read
        self._commanded = -float("inf")  # when the last command was sent
        self._shut: bool | None = None  # what the fingers were told; None: nothing yet
        self._fingers_told = -float("inf")  # when that was
        self._fault = ""  # that it had when it was last asked
        self._clears_episode = 0
        self._watchdog: Watchdog | None = None
        self._closed = False

    # --- who may move it

    def require(self, witness: Witness) -> None:
        """Ask `witness` before and during every motion. Until it is named nothing moves."""
        self._witness = witness

    def authorize(self, who: str, *, learning: bool = False) -> None:
        """Let `who` move the arm, a policy (its sha256) or a `PERSON`, and say which it is.

        With `learning`, what the policy becomes may move it too. Raises `UserError` for any other
        policy than the settings expect.
        """
        if who != PERSON and not re.fullmatch("[0-9a-f]{64}", who):
            raise UserError(
                f"a policy's sha256 (64 hexadecimal digits) or {PERSON!r} may move the arm, not "
                f"{who!r}"
            )
        if who != PERSON and self._expected and not who.startswith(self._expected):
            raise UserError(
                f"the policy {who[:16]} is not the one that the settings name "
                f"({self._expected[:16]}): load that one, "
                "or change `policy` in the settings once you know this one"
            )
        if learning and self._expected:
            raise UserError(
                f"the settings name one policy ({self._expected[:16]}), and this one changes as it "
                "learns: "
                "take `policy` out of the settings"
            )
        named = "a person" if who == PERSON else f"the policy {who}"
        later = ", and what it becomes as it learns" if learning else ""
        self._announce(f"the arm obeys {named}{later}{self._dry()}")
        self._who = who
        self.flight.note("authorise", who=who, learning=learning, dry_run=self.dry_run)

    def dismiss(self) -> None:
        """Nobody may move the arm any more, until somebody is authorised again."""
        self._who = ""
        self._brake.hold()

    @property
    def who(self) -> str:
        """Who may move it: a policy's sha256, "person", or empty: nobody."""
        return self._who

    @property
    def stopped(self) -> str:
        """Why the arm is stopped; empty where it is not."""
        return self._brake.stopped

    @property
    def last_target(self) -> Pose | None:
        """Where the arm was sent, until it was told to hold."""
        return self._brake.target

    def stop(self, reason: str) -> None:
        """Hold, and refuse every motion from now on."""
        self._brake.stop(reason)

    def release(self) -> None:
        """A person has looked at the arm, and lets it move again. Never call this from a
        program."""
        self._brake.release()
        self._clears_episode = 0
        self._states.forget()  # the arm may have been moved, or restarted
        self._forget()

    def say(self, text: str) -> None:
        """Say something, if anybody can be reached."""
        with suppress(*REACHES_NOBODY):
            self._announce(text)

    # --- motions: all of them end in `_move`

    def begin_episode(self) -> None:
        """Count cleared faults from zero again, as far as one episode goes."""
        self._clears_episode = 0

    def step(self, shift: Vector, turn: Vector, *, shut: bool, by_hand: bool = False) -> None:
        """Carry out one decision: move by `shift` (m) and `turn` (axis times angle, rad), along and
        around the axes of the base, and close or open the fingers. Unless it is `by_hand`, these do
        for the `dwell` at least what they were told last.

        Returns at once. Raises `ArmStopped`, `ArmFault`.
        """
        self._move(shift, turn, speed=FULL_SPEED)
        dwells = self._clock.now() - self._fingers_told < self.limits.dwell
        if by_hand or self._shut is None or not dwells:
            self.set_gripper(shut=shut)

    def approach(self, goal: Pose) -> None:
        """Go to a pose at the slow `pace`, straight, and wait until the arm is there.

        Raises `ArmStopped`.
        """
        if not goal.sound or self.limits.outside(goal.position) > 0:
            raise UserError(
                f"the pose {goal.position.tolist()} is not within the workspace: change the "
                "settings"
            )
        limits = self.limits
        spin = limits.pace_spin * limits.period
        began = self._clock.now()
        seen = 0  # there, so many times in a row
        while True:
            pose = self.state().pose
            seen = seen + 1 if _is_near(pose, goal) else 0
            if seen == RESTING:
                return
            base = limits.base(pose, self.last_target)
            shift = shortened(goal.position - base.position, limits.pace * limits.period)
            turn = shortened(turn_between(base.quaternion, goal.quaternion), spin)
            self._move(shift, turn, speed=limits.pace)
            if self.dry_run:
                return  # it will never be there
            if self._clock.now() - began > PATIENCE:
                self._brake.fail(f"the arm did not reach its start within {PATIENCE:g} s")
            self._clock.sleep(limits.period)

    def set_gripper(self, *, shut: bool) -> None:
        """Close or open the fingers, where they are not told so already.

        Returns at once. Raises `ArmStopped`, `ArmFault`.
        """
        self._require_leave()
        if shut == self._shut:
            return
        self.state()  # after a reflex they rest as well
        self._shut = shut
        self._fingers_told = self._clock.now()
        self.flight.note("fingers", shut=shut)
        if not self.dry_run:
            self._brake.fingers_rest = False
            self._wired(lambda: self.__driver.set_gripper(shut=shut))

    def home_gripper(self) -> None:
        """Let the fingers find their ends: until then their width is a guess. They close and open.

        Waits until they have. Raises `ArmStopped`, `ArmFault`.
        """
        self._require_leave()
        self.state()
        self.flight.note("homing")
        if self.dry_run:
            return
        self._brake.fingers_rest = False
        self._shut = None
        self._wired(self.__driver.home_gripper)
        end = self._clock.now() + HOMING
        while self._clock.now() < end:
            self._clock.sleep(self.limits.period / 2)
            self.state()
            self._require_leave()
            try:
                if not self.__driver.fingers_busy():
                    return
            except DriverError as error:
                self._brake.fail(f"the fingers found no ends: {error}")
        self._brake.fail(f"the fingers found no ends within {HOMING:g} s")

    def recover(self) -> None:
        """Clear a fault of the arm, if it has one.

        After the stated number of times, or where a person has stopped the arm, it stops for good
        instead. Raises `ArmStopped`.
        """
        self._require_leave()
        state = self._read()
        if not state.fault:
            return
        clears = self._stop_latch.clears
        in_episode = self._clears_episode >= self.limits.clears_per_episode
        if in_episode or clears >= self.limits.clears_per_run:
            self._brake.fail(
                f"{state.fault}, after {clears} faults were cleared: that is enough without a "
                "person"
            )
        self._clears_episode += 1
        self._count_clear(state.fault)
        self.flight.note("clear", fault=state.fault)
        self.say(f"clearing a fault ({state.fault}), the {clears + 1}. since the last release")
        self._forget()
        if not self.dry_run:
            self._wired(self.__driver.clear_fault)
            self._wait_until_sound()

    def hold(self) -> None:
        """Come to rest where it is; the next command moves it again."""
        self._brake.hold()

    # --- what it is like

    def state(self) -> ArmState:
        """Return the newest state, which is fresh, sound and without a fault.

        Raises `ArmStopped` (and stops), or `ArmFault`.
        """
        self._brake.refuse_if_stopped()
        state = self._read()
        if state.fault:
            self._stopped_itself(state)
            raise ArmFault(state.fault)
        self._fault = ""
        return state

    @property
    def shut(self) -> bool:
        """Whether the fingers were told to close."""
        return bool(self._shut)

    def holding(self) -> bool:
        """Whether something is between fingers that have closed, as far as it is known."""
        width = self.look().width
        closed = self._clock.now() - self._fingers_told > CLOSING
        return self.shut and closed and width is not None and width > EMPTY

    def look(self) -> ArmState:
        """Return the newest state, whatever it is, also of a stopped arm. Raises `DriverError`."""
        return self.__driver.state()

    def watch(self) -> None:
        """Hold where no command has come in time, and stop where the state is no longer sound.

        To be called once in a while.
        """
        if self.stopped:  # perhaps by another process, or a hold did not reach the arm
            self._brake.halt_again()
            return
        if self.last_target is None and not self._fingers_move():
            return
        try:
            self.flight.note("state", **facts_of(self.state()))
            self._ask_witness()
        except (UserError, ArmFault):  # held, or stopped by itself
            return
        late = self._clock.now() - self._commanded >= LATE * self.limits.period
        if late and self.last_target is not None:
            self._brake.hold()
            self.late_holds += 1

    def start_watchdog(self) -> None:
        """Call `watch` from a thread, four times in a period."""
        self._watchdog = Watchdog(self.watch, self.stop, self.limits.period / 4)
        self._watchdog.start()

    def close(self) -> None:
        """Hold and hang up. Safe to call again, also where the arm could not be told to hold."""
        if self._closed:
            return
        self._closed = True
        if self._watchdog is not None:
            self._watchdog.end()
        if not self._brake.holds:
            self._brake.hold()
        self._brake.stop_fingers()
        self.__driver.close()
        self._brake.let_go()
        self._session.close()
        self.flight.close()

    # --- the ways to the driver

    def _stopped_itself(self, state: ArmState) -> None:
        if self._fault != state.fault:
            self.flight.note("fault", **facts_of(state))
        self._fault = state.fault
        self._brake.take_fault()

    def _move(self, shift: Vector, turn: Vector, *, speed: float) -> None:
        with self._wire:
            self._require_leave()
            state = self.state()
            now = self._clock.now()
            try:
                cleared = self.limits.clear(
                    shift,
                    turn,
                    measured=state.pose,
                    last=self.last_target,
                    # Also after a hold: in turn with steps it would double the speed.
                    elapsed=now - self._commanded,
                    speed=speed,
                )
            except Refused as refused:
                self._brake.fail(str(refused))
            # Before it is sent: the watchdog sees a slow one.
            self._brake.target = cleared.pose
            self._commanded = now
            self.flight.note("target", target=numbers(cleared.pose), **facts_of(state))
            if self.dry_run:
                self.say(f"dry run: would go to {np.round(cleared.pose.position, 3).tolist()}")
                return
            self._brake.holds = False
            self._wired(lambda: self.__driver.send(cleared))
            # And after, where the watchdog told it to hold in between.
            self._brake.target = cleared.pose

    def _wired(self, command: Callable[[], None]) -> None:
        """Send, unless stopped; and hold once more where a stop came while the command was on its
        way."""
        with self._wire:
            self._brake.refuse_if_stopped()
            try:
                command()
            except DriverError as error:
                self._brake.fail(f"a command failed: {error}")
        if self.stopped:
            self._brake.halt()
            self._brake.refuse_if_stopped()

    def _fingers_move(self) -> bool:
        """Whether they may be on their way."""
        return not self._brake.fingers_rest and self._clock.now() - self._fingers_told < FINGERS

    def _read(self) -> ArmState:
        """Return the newest state, if it can be trusted.

        One thread at a time: two could see each other's stamps.
        """
        with self._reading:
            try:
                state = self.__driver.state()
            except DriverError as error:
                self._brake.fail(f"its state cannot be read: {error}")
            self._check(state, self._clock.now())
            return state

    def _check(self, state: ArmState, now: float) -> None:
        if state.held:
            self._brake.take_stop("a person stopped it, or holds its enabling device")
            self._brake.refuse_if_stopped()
        problem = self._states.problem(state, now)
        if problem:
            self._brake.fail(problem)

    def _require_leave(self) -> None:
        if not self._who:
            raise UserError(
                "nobody is authorised to move the arm: call suite.authorize with the policy's "
                "sha256, or name it as VectorEnv's `authorization`"
            )
        self._brake.refuse_if_stopped()
        self._ask_witness()

    def _ask_witness(self) -> None:
        try:
            self._witness()
        except UserError:
            self._brake.halt()
            self._shut = None  # they are told again, once somebody is there
            raise

    def _count_clear(self, fault: str) -> None:
        try:
            self._stop_latch.count_clear(fault)
        except OSError as error:
            self._brake.fail(f"{fault}, and its clearing cannot be written down ({error.strerror})")

    def _wait_until_sound(self) -> None:
        """A fault that was cleared is seen for a moment longer."""
        for _ in range(20):
            self._clock.sleep(self.limits.period / 2)
            if not self._read().fault:
                return
        self._brake.fail("its fault could not be cleared")

    def _forget(self) -> None:
        """Let the next motion start from where the arm is, and the fingers be told again."""
        self._brake.target = None
        self._shut = None

    def _dry(self) -> str:
        return "; dry run: nothing is sent" if self.dry_run else ""


def _nobody() -> None:
    raise UserError("nobody watches the arm: no witness was named")


def _is_near(pose: Pose, goal: Pose) -> bool:
    away = length(goal.position - pose.position)
    turned_off = length(turn_between(pose.quaternion, goal.quaternion))
    return away < NEAR and turned_off < NEAR_TURN
