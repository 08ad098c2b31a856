"""What a key means: a tap, a key that is held, the fingers, and how long a wish lasts."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes import LIMITS
from test_real_env import FORTH, STILL, env_of

from irevla.robot.teleop import HELD, TAP, KeyTeleop

PERIOD = LIMITS.period


class Typed:
    """Keys that come at times of our choice."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = 1000.0
        self.teleop = KeyTeleop(folder / "keys", lambda reason: None)
        monkeypatch.setattr("irevla.robot.teleop.time.monotonic", lambda: self.time)

    def press(self, key: str) -> None:
        self.teleop._take(key.encode())

    def hold(self, key: str, seconds: float) -> None:
        """As a keyboard sends it: once, after half a second again, and then 30 times a second."""
        self.press(key)
        end = self.time + seconds
        self.time += 0.5
        while self.time < end:
            self.press(key)
            self.time += 0.033

    def decisions(self, number: int, *, shut: bool = False) -> list[np.ndarray | None]:
        found = []
        for _ in range(number):
            found.append(self.teleop.action(shut=shut))
            self.time += PERIOD
        return found


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Typed]:
    with monkeypatch.context() as patch:
        typed = Typed(tmp_path, patch)
        yield typed
    typed.teleop.close()


def test_a_tap_is_one_small_step(typed: Typed) -> None:
    typed.press("w")
    first, *rest = typed.decisions(10)
    assert first is not None and first[0] == pytest.approx(TAP) and rest == [None] * 9
    typed.press("w")
    typed.time += 0.25
    typed.press("s")  # another key, and not that key held
    action = typed.decisions(1)[0]
    assert action is not None and abs(action[0]) == pytest.approx(TAP)


def test_a_key_that_is_held_goes_on_and_ends_soon_after_it_is_let_go(typed: Typed) -> None:
    typed.hold("a", 1.5)
    action, *rest = typed.decisions(5)
    assert action is not None and action[1] == 1.0
    assert rest[-3:] == [None] * 3, f"let go for {HELD} s"


@pytest.mark.parametrize("shut", [True, False])
def test_who_takes_over_finds_the_fingers_as_they_are(typed: Typed, shut: bool) -> None:
    typed.press("w")
    action = typed.decisions(1, shut=shut)[0]
    assert action is not None and (action[6] > 0) == shut
    typed.press("g")
    changed = typed.decisions(1, shut=shut)[0]
    assert changed is not None and (changed[6] > 0) != shut
    for _ in range(20):  # once, however long it is held
        typed.time += 0.033
        typed.press("g")
        assert typed.teleop.action(shut=not shut) is None


def test_a_wish_does_not_outlive_its_episode(typed: Typed) -> None:
    for key in ("g", "w", "y"):
        typed.press(key)
    typed.teleop.wait_ready("put things in place", patience=0.0)
    assert typed.decisions(1) == [None] and typed.teleop.verdict() is None
    typed.press("w")
    typed.time += 1.0  # nobody decided meanwhile
    assert typed.decisions(1) == [None]


def test_taking_over_keeps_what_the_policy_holds() -> None:
    env, person, _, _ = env_of()
    asked: list[bool] = []

    def action(*, shut: bool) -> np.ndarray | None:
        asked.append(shut)
        return None

    env.reset()
    person.action = action  # type: ignore[method-assign]
    env.step(STILL)
    env.step(FORTH)  # which shuts them
    env.step(FORTH)
    assert asked == [False, False, True]
