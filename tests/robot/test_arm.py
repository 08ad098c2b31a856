"""The safety layer: whatever is asked for, and whatever the arm says, nothing leaves the limits and
faults hold it."""

import ast
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import DOWN, LIMITS, MIDDLE, STILL, FakeClock, FakeDriver, arm_of, at

import irevla.robot
from irevla.errors import UserError
from irevla.robot.brake import ArmStopped
from irevla.robot.driver import ArmState
from irevla.robot.limits import CEILINGS, Cleared, Limits
from irevla.robot.pose import Pose, length, turn_between, turned
from irevla.robot.safe_arm import ArmFault, SafeArm

PERIOD = LIMITS.period
HASH = "ab" * 32
LEFT = np.array([0.0, 0.04, 0.0])
AWFUL = (np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324, 1e30, -1e9, 0.0, -0.0, 1.0, -1.0, 40.0)
NO_ROTATION = Pose(MIDDLE.position, DOWN * 0)


def distance(position: np.ndarray) -> float:
    """To the box."""
    return float(np.linalg.norm(position - np.clip(position, LIMITS.low, LIMITS.high)))


def wild(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A motion that a broken policy could ask for."""
    size = 10.0 ** random.uniform(-4, 3)
    motion = random.standard_normal(6) * size
    if random.random() < 0.3:
        motion[random.random(6) < 0.5] = AWFUL[int(random.integers(len(AWFUL)))]
    return motion[:3], motion[3:]


# --- whatever is asked for


class Checking(FakeDriver):
    """Asserts at every command that it may be sent, from where the arm is."""

    count = 0

    def send(self, target: Cleared) -> None:
        pose, now = target.pose, self.pose
        assert np.isfinite([*pose.position, *pose.quaternion]).all()
        out, after = distance(now.position), distance(pose.position)
        assert after == 0 or (out > LIMITS.tolerance and after < out)
        assert (
            length(pose.position - now.position)
            <= LIMITS.step + LIMITS.lead + LIMITS.tolerance + 1e-9
        )
        assert (
            length(turn_between(now.quaternion, pose.quaternion))
            <= LIMITS.turn + LIMITS.lead_turn + 1e-6
        )
        assert pose.tilt <= max(LIMITS.tilt, now.tilt) + LIMITS.lead_turn + 1e-6
        self.count += 1
        super().send(target)
        if len(self.sent) > 3:
            self.sent.pop(0)


def wild_arm(random: np.random.Generator) -> tuple[SafeArm, Checking, FakeClock]:
    clock = FakeClock()
    driver = Checking(clock, share=float(random.uniform(0.2, 1.0)))
    arm = SafeArm(driver, LIMITS, clock=clock, announce=lambda text: None)
    arm.require(lambda: None)
    arm.authorize(HASH)
    return arm, driver, clock


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("motions", [4_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_motions_of_every_kind_stay_within_the_limits(motions: int) -> None:
    """Steps, approaches, recoveries and grips in a random order, from states within and
    without."""
    random = np.random.default_rng(0)
    arm, driver, clock = wild_arm(random)
    asked = refused = 0
    while asked < motions:
        clock.time += float(random.choice([0.0, 0.003, 0.05, 0.1, 0.1, 0.1, 0.4]))
        kind = random.random()
        try:
            if kind < 0.95:
                asked += 1
                arm.step(*wild(random), shut=bool(random.random() < 0.5))
            elif kind < 0.96:
                goal = (
                    random.uniform(-0.2, 1.0, 3)
                    if random.random() < 0.3
                    else random.uniform(LIMITS.low, LIMITS.high)
                )
                before = driver.count
                arm.approach(Pose(goal, turned(DOWN, random.uniform(-0.3, 0.3, 3))))
                asked += driver.count - before
            elif kind < 0.97:
                driver.reason = "reflex" if random.random() < 0.5 else ""
                arm.recover()
            elif kind < 0.98:
                arm.watch()
            else:  # somebody pushed the arm
                driver.pose = Pose(
                    random.uniform(np.array(LIMITS.low) - 0.05, np.array(LIMITS.high) + 0.05),
                    turned(DOWN, random.uniform(-0.5, 0.5, 3)),
                )
        except (ArmStopped, ArmFault):
            refused += 1
            driver.reason = ""
            arm.release()
        except UserError:  # a goal outside
            pass
    assert driver.count > motions / 2 and refused > motions / 20


def test_commands_far_too_often_move_no_faster() -> None:
    arm, driver, clock = arm_of(share=0.0)  # an arm that has not begun to move
    for _ in range(1000):
        clock.time += 1e-4
        arm.step(np.array([1.0, 0.0, 0.0]), STILL, shut=False)
    assert length(driver.sent[-1].position - MIDDLE.position) <= LIMITS.step + LIMITS.lead + 1e-9
    arm, driver, clock = arm_of()
    for _ in range(1000):
        clock.time += 1e-4
        arm.step(np.array([-1.0, 0.0, 0.0]), STILL, shut=False)
    assert length(driver.pose.position - MIDDLE.position) <= LIMITS.speed * (0.1 + PERIOD) + 1e-9


def test_a_full_action_goes_its_way_and_a_small_one_unchanged() -> None:
    arm, driver, clock = arm_of()
    arm.step(np.array([0.04, 0.0, 0.0]), np.array([0.0, 0.0, 0.25]), shut=True)
    assert np.allclose(driver.pose.position, [0.54, 0.0, 0.25]) and driver.gripper == [True]
    assert np.allclose(turn_between(DOWN, driver.pose.quaternion), [0.0, 0.0, 0.25])
    clock.time += PERIOD
    arm.step(np.array([0.0, -0.01, 0.02]), STILL, shut=True)
    assert np.allclose(driver.pose.position, [0.54, -0.01, 0.27]) and driver.gripper == [True]


def test_an_arm_that_sags_does_not_sink() -> None:
    """It stays 4 mm below every target, as a soft arm with a load does: without a motion it must
    not go down."""
    arm, driver, clock = arm_of()
    driver.mend = lambda state: replace(
        state, pose=Pose(state.pose.position - np.array([0, 0, 0.004]), state.pose.quaternion)
    )
    for _ in range(100):
        arm.step(STILL, STILL, shut=False)
        clock.time += PERIOD
    assert driver.pose.position[2] > 0.24


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stops_the_arm(bad: float) -> None:
    for shift, turn in ((np.array([0, bad, 0]), STILL), (STILL, np.array([bad, 0, 0]))):
        arm, driver, _ = arm_of()
        with pytest.raises(ArmStopped, match="not finite"):
            arm.step(shift, turn, shut=False)
        assert not driver.sent and not driver.gripper and driver.holds == 1


def test_from_outside_the_only_way_is_back() -> None:
    away, back = np.array([-0.03, 0.0, 0.0]), np.array([0.03, 0.0, 0.0])
    arm, driver, clock = arm_of(at(0.25, 0.0, 0.25))
    with pytest.raises(ArmStopped, match=r"5\.0 cm outside"):
        arm.step(away, STILL, shut=False)
    assert not driver.sent
    arm.release()
    for _ in range(4):
        arm.step(back, STILL, shut=False)
        clock.time += PERIOD
    assert distance(driver.pose.position) == 0 and np.all(
        np.diff([pose.position[0] for pose in driver.sent]) > 0
    )


def test_a_wall_is_approached_ever_more_slowly() -> None:
    arm, driver, clock = arm_of()
    for _ in range(20):
        arm.step(np.array([0.04, 0.0, 0.0]), STILL, shut=False)
        clock.time += PERIOD
    way = np.diff([0.5, *(pose.position[0] for pose in driver.sent)])
    assert way[0] == pytest.approx(0.04) and (np.diff(way) < 1e-9).all()
    assert driver.pose.position[0] == pytest.approx(0.7)  # and reached


def test_the_fingers_tilt_no_further_than_they_may() -> None:
    arm, driver, clock = arm_of()
    for _ in range(20):
        arm.step(STILL, np.array([0.25, 0.0, 0.0]), shut=False)
        clock.time += PERIOD
    assert LIMITS.tilt - 0.25 <= driver.pose.tilt <= LIMITS.tilt
    arm.step(STILL, np.array([-0.25, 0.0, 0.0]), shut=False)
    assert driver.pose.tilt < LIMITS.tilt - 0.2


def test_an_approach_is_slow_straight_and_within() -> None:
    arm, driver, clock = arm_of(at(0.6, -0.2, 0.05))
    began = clock.time
    arm.approach(MIDDLE)
    assert length(driver.pose.position - MIDDLE.position) < 0.01
    way = np.diff([pose.position for pose in driver.sent], axis=0)
    assert np.linalg.norm(way, axis=1).max() <= LIMITS.pace * PERIOD + 1e-9
    assert (
        clock.time - began
        >= 0.9 * length(MIDDLE.position - np.array([0.6, -0.2, 0.05])) / LIMITS.pace
    )


def test_an_approach_that_does_not_arrive_stops() -> None:
    arm, driver, _ = arm_of(at(0.6, -0.2, 0.05), share=0.0)
    with pytest.raises(ArmStopped, match="did not reach its start within 30 s"):
        arm.approach(MIDDLE)
    assert driver.holds


def test_an_approach_to_a_place_outside_is_refused() -> None:
    arm, driver, _ = arm_of()
    with pytest.raises(UserError, match="not within the workspace"):
        arm.approach(at(0.5, 0.0, 0.9))
    assert not driver.sent


@pytest.mark.parametrize("speed", [0.4, 0.1, 0.05])
def test_a_careful_speed_turns_no_faster_on_the_way_to_the_start(speed: float) -> None:
    turned_over = Pose(np.array([0.5, 0.0, 0.2]), np.array([0.7071, 0.7071, 0.0, 0.0]))
    arm, driver, _ = arm_of(turned_over, limits=replace(LIMITS, speed=speed))
    arm.approach(MIDDLE)
    poses = [turned_over, *driver.sent]
    pairs = itertools.pairwise(poses)
    turns = [length(turn_between(a.quaternion, b.quaternion)) for a, b in pairs]
    assert max(turns) <= 0.0626 + 1e-6  # 0.25 rad in 4 cm, at 0.1 m/s


def test_hold_and_step_in_turn_are_no_faster_than_steps() -> None:
    arm, driver, clock = arm_of()
    for _ in range(6):
        arm.step(LEFT, STILL, shut=False)
        arm.hold()
        clock.time += PERIOD / 2
    way = length(driver.pose.position - MIDDLE.position)
    assert way <= LIMITS.speed * (5 * PERIOD / 2 + PERIOD) + 1e-9


def test_from_outside_it_does_not_go_sideways() -> None:
    arm, driver, clock = arm_of(at(0.25, 0.0, 0.25))
    for _ in range(200):
        try:
            arm.step(np.array([0.0005, 0.04, 0.0]), STILL, shut=False)
        except ArmStopped:
            break
        clock.time += PERIOD
        if driver.pose.position[0] > LIMITS.low[0] - LIMITS.tolerance:
            break
    assert abs(driver.pose.position[1]) < 1e-9 and driver.pose.position[0] > 0.25


# --- whatever the arm says. Each fault begins while the arm moves; the watchdog alone looks, as no
# command comes.


def frozen(clock: FakeClock) -> Callable[[ArmState], ArmState]:
    began = clock.time
    return lambda state: replace(state, stamp=began, received=clock.time)


FAULTS: dict[str, tuple[Callable[[FakeDriver, FakeClock], None], str]] = {
    "gone": (
        lambda driver, clock: setattr(driver, "breaks", "connection refused"),
        "connection refused",
    ),
    "hung": (lambda driver, clock: setattr(driver, "mend", frozen(clock)), "s old"),
    "nan": (
        lambda driver, clock: setattr(
            driver,
            "mend",
            lambda state: replace(state, pose=Pose(np.array([np.nan, 0, 0.2]), DOWN)),
        ),
        "not sound",
    ),
    "no rotation": (
        lambda driver, clock: setattr(
            driver, "mend", lambda state: replace(state, pose=NO_ROTATION)
        ),
        "not sound",
    ),
    "nan stamp": (
        lambda driver, clock: setattr(
            driver, "mend", lambda state: replace(state, stamp=float("nan"))
        ),
        "not sound",
    ),
    "old": (
        lambda driver, clock: setattr(driver, "mend", lambda state: replace(state, stamp=5.0)),
        "older",
    ),
    "late": (
        lambda driver, clock: setattr(
            driver, "mend", lambda state: replace(state, received=state.received - 0.15)
        ),
        "s old",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stepping", [True, False], ids=["commands go on", "no command comes"])
def test_a_fault_holds_the_arm_within_two_periods_and_latches(fault: str, stepping: bool) -> None:
    break_it, words = FAULTS[fault]
    arm, driver, clock = arm_of()
    for _ in range(3):
        arm.step(np.array([0.01, 0.0, 0.0]), STILL, shut=False)
        clock.time += PERIOD
    sent, began = len(driver.sent), clock.time
    arm.step(np.array([0.01, 0.0, 0.0]), STILL, shut=False)
    break_it(driver, clock)
    while not driver.holds and clock.time < began + 1:
        clock.time += PERIOD / 4
        arm.watch()
        if stepping and not arm.stopped:
            try:
                arm.step(np.array([0.01, 0.0, 0.0]), STILL, shut=False)
            except ArmStopped:
                break
    assert driver.held_at[0] - began <= 2 * PERIOD and words in arm.stopped
    last = len(driver.sent)
    assert last - sent <= (9 if stepping else 1)
    for motion in (
        lambda: arm.step(STILL, STILL, shut=True),
        lambda: arm.approach(MIDDLE),
        lambda: arm.set_gripper(shut=True),
        arm.recover,
    ):
        with pytest.raises(ArmStopped, match="irevla arm release"):
            motion()
    assert len(driver.sent) == last and not driver.cleared and True not in driver.gripper


def test_an_arm_that_stops_itself_moves_only_after_recovery() -> None:
    arm, driver, clock = arm_of()
    arm.step(np.array([0.02, 0.0, 0.0]), STILL, shut=True)
    driver.reason = "cartesian_reflex"
    clock.time += PERIOD / 4
    arm.watch()
    assert arm.last_target is None and not arm.stopped
    for motion in (lambda: arm.step(STILL, STILL, shut=True), lambda: arm.approach(MIDDLE)):
        with pytest.raises(ArmFault, match="cartesian_reflex"):
            motion()
    assert len(driver.sent) == 1
    arm.recover()
    arm.step(STILL, STILL, shut=True)
    assert len(driver.sent) == 2 and driver.cleared == 1


def test_a_fault_that_stays_is_not_cleared_again_and_again() -> None:
    arm, driver, _ = arm_of()
    driver.mend = lambda state: replace(state, fault="joint_limit")
    with pytest.raises(ArmStopped, match="could not be cleared"):
        arm.recover()
    assert driver.cleared == 1


def test_an_arm_that_a_person_stopped_is_left_alone() -> None:
    arm, driver, clock = arm_of()
    arm.step(STILL, STILL, shut=True)
    driver.mend = lambda state: replace(state, held=True, fault="user stop")
    clock.time += PERIOD / 4
    arm.watch()
    for motion in (lambda: arm.step(STILL, STILL, shut=True), arm.recover):
        with pytest.raises(ArmStopped, match="a person stopped it"):
            motion()
    assert not driver.cleared and len(driver.sent) == 1 and driver.fingers_stopped


def test_without_a_command_in_time_the_arm_holds_and_goes_on_with_the_next() -> None:
    arm, driver, clock = arm_of()
    arm.step(np.array([0.02, 0.0, 0.0]), STILL, shut=False)
    began = clock.time
    for _ in range(12):
        clock.time += PERIOD / 4
        arm.watch()
    assert driver.holds == 1 and driver.held_at[0] - began <= 2 * PERIOD and not arm.stopped
    arm.step(np.array([0.02, 0.0, 0.0]), STILL, shut=False)
    assert len(driver.sent) == 2 and driver.gripper == [False]


def test_a_command_that_fails_stops() -> None:
    arm, driver, _ = arm_of()
    real = driver.state
    driver.state = lambda: (
        setattr(driver, "breaks", ""),
        real(),
        setattr(driver, "breaks", "time-out"),
    )[1]  # type: ignore[method-assign,func-returns-value,assignment]
    with pytest.raises(ArmStopped, match="a command failed: time-out"):
        arm.step(np.array([0.02, 0.0, 0.0]), STILL, shut=False)
    assert arm.stopped and not driver.sent


def test_a_stop_while_a_command_is_on_its_way_is_the_last_word() -> None:
    arm, driver, _ = arm_of()
    real = driver.send
    driver.send = lambda target: (arm.stop("a person said so"), real(target))[1]  # type: ignore[method-assign,func-returns-value]
    with pytest.raises(ArmStopped, match="a person said so"):
        arm.step(np.array([0.02, 0.0, 0.0]), STILL, shut=False)
    assert driver.holds == 2  # at once, and once more after the command


def test_faults_are_cleared_so_often_and_no_more() -> None:
    arm, driver, _ = arm_of()

    def fault() -> None:
        driver.reason = "cartesian_reflex"
        arm.recover()

    fault()
    with pytest.raises(ArmStopped, match="enough without a person"):
        fault()
    arm.release()
    driver.reason = ""
    for _ in range(LIMITS.clears_per_run):
        arm.begin_episode()
        fault()
    arm.begin_episode()
    with pytest.raises(ArmStopped, match="after 3 faults"):
        fault()
    assert driver.cleared == 1 + LIMITS.clears_per_run


def test_a_dry_run_checks_everything_and_sends_nothing() -> None:
    arm, driver, clock = arm_of(dry_run=True)
    for _ in range(5):
        arm.step(np.array([0.02, 0.0, 0.0]), STILL, shut=True)
        clock.time += PERIOD
    arm.approach(at(0.6, 0.1, 0.3))
    driver.reason = "cartesian_reflex"
    arm.recover()
    assert arm.last_target is None and not driver.gripper
    driver.reason = ""
    with pytest.raises(ArmStopped, match="not finite"):
        arm.step(np.array([np.nan, 0.0, 0.0]), STILL, shut=True)
    arm.close()
    assert not driver.sent and not driver.holds and not driver.cleared and driver.closed


# --- who may move it


def test_nothing_moves_before_the_policy_is_known() -> None:
    clock = FakeClock()
    driver, said = FakeDriver(clock), []
    arm = SafeArm(driver, LIMITS, clock=clock, expected=HASH[:8], announce=said.append)
    for motion in (
        lambda: arm.step(STILL, STILL, shut=True),
        lambda: arm.approach(at(0.4, 0.0, 0.3)),
        lambda: arm.set_gripper(shut=True),
        arm.recover,
    ):
        with pytest.raises(UserError, match="nobody is authorised"):
            motion()
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        arm.authorize("latest")
    with pytest.raises(UserError, match="not the one that the settings name"):
        arm.authorize("cd" * 32)
    with pytest.raises(UserError, match="nobody is authorised"):
        arm.step(STILL, STILL, shut=True)
    assert not driver.sent and not driver.gripper and not said
    arm.authorize(HASH)
    with pytest.raises(UserError, match="nobody watches"):
        arm.step(STILL, STILL, shut=True)
    assert not driver.sent and not driver.gripper
    arm.require(lambda: None)
    arm.step(STILL, STILL, shut=True)
    assert HASH in said[0] and driver.sent


def test_a_policy_that_learns_is_named_as_such_and_refused_where_one_is_pinned() -> None:
    said: list[str] = []
    clock = FakeClock()
    arm = SafeArm(FakeDriver(clock), LIMITS, clock=clock, announce=said.append)
    arm.authorize(HASH, learning=True)
    assert arm.who == HASH and HASH in said[0] and "as it learns" in said[0]
    picky = SafeArm(FakeDriver(clock), LIMITS, clock=clock, expected=HASH[:8], announce=said.append)
    with pytest.raises(UserError, match="take `policy` out"):
        picky.authorize(HASH, learning=True)
    assert not picky.who


def test_only_the_limits_make_commands() -> None:
    with pytest.raises(AssertionError, match=r"only Limits\.clear"):
        Cleared(MIDDLE, object())


def test_no_other_module_reaches_a_driver() -> None:
    """`send` and the like are called in `safe_arm.py` alone."""
    root = Path(irevla.robot.__file__).parent
    calls = {"send", "clear_fault"}
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in calls:
                assert path.name == "safe_arm.py", f"{path}:{node.lineno} calls {node.attr}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"low": (0.7, -0.3, 0.0)}, "no box"),
        ({"speed": 0.0}, "limits.speed"),
        ({"step": float("nan")}, "limits.step"),
        ({"max_age": 1.0}, "limits.max_age"),
        *(({name: 1.01 * most}, f"limits.{name}") for name, most in CEILINGS.items()),
        ({"clears_per_run": 1000}, "clears_per"),
        ({"high": (0.7, 0.3, 1.5)}, "no box"),
        ({"clears_per_run": -1}, "clears_per"),
    ],
)
def test_limits_that_are_none_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Limits(**{"low": LIMITS.low, "high": LIMITS.high, **change})  # type: ignore[arg-type]
