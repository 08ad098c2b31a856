"""Faults of every kind at any moment of hostile motions: from then on the arm rests within two
decisions, and nothing is sent any more."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from fakes import LIMITS, MIDDLE, STILL, FakeClock
from test_arm import FAULTS, PERIOD, Checking, wild, wild_arm

from irevla.errors import UserError
from irevla.robot.driver import FRANKA_HAND, ArmState, DriverError
from irevla.robot.limits import Cleared
from irevla.robot.pose import Pose
from irevla.robot.safe_arm import ArmFault, SafeArm

Break = Callable[[SafeArm, Checking, FakeClock], None]


def mending(mend: Callable[[ArmState], ArmState]) -> Break:
    """From now on its state is another."""
    return lambda arm, driver, clock: setattr(driver, "mend", mend)


def jumped(state: ArmState) -> ArmState:
    away = state.pose.position + np.array([0.0, 0.0, -0.12])
    return replace(state, pose=replace(state.pose, position=away))


def shifted_frame(state: ArmState) -> ArmState:
    return replace(state, frame=replace(FRANKA_HAND, position=np.zeros(3)))


def deaf(arm: SafeArm, driver: Checking, clock: FakeClock) -> None:
    def send(target: Cleared) -> None:
        raise DriverError("a command failed")

    driver.send = send  # type: ignore[method-assign]


def unseen(arm: SafeArm, driver: Checking, clock: FakeClock) -> None:
    def witness() -> None:
        raise UserError("nobody watches the arm")

    arm.require(witness)


KINDS: dict[str, Break] = {
    **{
        name: lambda arm, driver, clock, begin=begin: begin(driver, clock)  # type: ignore[misc]
        for name, (begin, _) in FAULTS.items()
    },
    "jump": mending(jumped),
    "another frame": mending(shifted_frame),
    "user stop": mending(lambda state: replace(state, held=True)),
    "reflex": mending(lambda state: replace(state, fault="cartesian_reflex")),
    "deaf": deaf,
    "unseen": unseen,
    "a stop": lambda arm, driver, clock: arm.stop("a person pressed stop"),
}


def hostile(arm: SafeArm, driver: Checking, clock: FakeClock, random: np.random.Generator) -> None:
    """Some time, and a motion of any kind."""
    clock.time += float(random.choice([0.0, 0.003, PERIOD / 4, PERIOD]))
    kind = random.random()
    with suppress(UserError, ArmFault):
        if kind < 0.8:
            arm.step(*wild(random), shut=bool(random.random() < 0.5))
        elif kind < 0.9:
            arm.set_gripper(shut=bool(random.random() < 0.5))
        else:
            place = random.uniform(LIMITS.low, LIMITS.high)
            driver_share, driver.share = driver.share, 1.0
            arm.approach(Pose(place, MIDDLE.quaternion))
            driver.share = driver_share


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_after_a_fault_nothing_moves(kind: str, count: int) -> None:
    for number in range(count):
        random = np.random.default_rng([number, sorted(KINDS).index(kind)])
        arm, driver, clock = wild_arm(random)
        for _ in range(int(random.integers(1, 20))):
            hostile(arm, driver, clock, random)
            if arm.stopped:
                arm.release()  # of what was not finite, say
        driver.pose = MIDDLE
        arm.release()
        clock.time += PERIOD
        arm.step(np.array([0.01, 0.0, 0.0]), STILL, shut=bool(random.random() < 0.5))
        assert arm.last_target is not None, "it moves"
        KINDS[kind](arm, driver, clock)
        fault_began = clock.time
        while clock.time < fault_began + 2 * PERIOD - PERIOD / 4:
            clock.time += PERIOD / 4
            arm.watch()
            if random.random() < 0.5:
                with suppress(UserError, ArmFault):
                    arm.step(*wild(random), shut=True)
        assert arm.last_target is None, "it rests"
        sent, gripper = driver.count, len(driver.gripper)
        for _ in range(20):
            arm.watch()
            hostile(arm, driver, clock, random)
        assert driver.count == sent and len(driver.gripper) == gripper
        assert arm.last_target is None
