"""Labels are what the hand did, and the flight recorder tells what an arm was told and said."""

import mmap
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import HASH, LIMITS, MIDDLE, FakeClock, FakeDriver, arm_of
from test_real_env import CONFIG, FORTH, FakeCamera, FakePerson

from irevla.envs.worker import EnvPool, Job, SharedBuffers
from irevla.errors import UserError
from irevla.robot import flight
from irevla.robot.cell import Cell
from irevla.robot.env import PandaRealEnv
from irevla.robot.flight import Flight, flights, read_flight, told
from irevla.robot.safe_arm import ArmFault, SafeArm
from irevla.robot.success import KeyDetector
from irevla.robot.suite import PANDA


def env_on(arm: SafeArm, clock: FakeClock) -> PandaRealEnv:
    person = FakePerson()
    cameras = {"front": FakeCamera(200), "wrist": FakeCamera(30)}
    cell = Cell(arm, MIDDLE, cameras, person, KeyDetector(person), clock, None)
    return PandaRealEnv("pick-carrot", CONFIG, cell=cell)


def slow_env() -> tuple[PandaRealEnv, FakeDriver]:
    """An arm that its limits let go a centimetre a decision, a quarter of a full action."""
    arm, driver, clock = arm_of(MIDDLE, limits=replace(LIMITS, speed=0.1))
    return env_on(arm, clock), driver


# --- labels


def test_a_label_is_the_way_that_the_hand_went() -> None:
    env, driver = slow_env()
    env.reset()
    began = driver.pose.position[0]
    done = np.array([env.step(FORTH)[-1]["action"] for _ in range(4)])
    went = driver.pose.position[0] - began
    assert went == pytest.approx(0.04, abs=1e-3), "16 cm were asked for"
    assert 0.04 * done[:, 0].sum() == pytest.approx(went, abs=1e-6)
    assert (done[:, 6] == 1).all() and np.abs(done[:, 1:6]).max() < 1e-6


def test_a_turn_that_was_not_reached_is_no_label_either() -> None:
    arm, _, clock = arm_of(MIDDLE, limits=replace(LIMITS, spin=1.0))
    env = env_on(arm, clock)
    env.reset()
    turn = np.array([0, 0, 0, 0, 0, 1, -1], np.float32)
    *_, info = env.step(turn)
    assert info["action"][5] == pytest.approx(0.1 / 0.25, abs=1e-3)


def test_a_fault_cuts_the_label_short() -> None:
    env, driver = slow_env()
    env.reset()
    env.step(FORTH)
    driver.reason = "cartesian_reflex"
    *_, truncated, info = env.step(FORTH)
    assert truncated and info["action"][0] == 0.0, "it did not move any more"


def test_what_a_person_shows_is_labelled_as_done() -> None:
    env, _ = slow_env()
    env.cell.teleop.hand = FORTH  # type: ignore[attr-defined]
    suite = replace(PANDA, make=lambda task, config: env, real_arm=None)
    size = {
        "n": 1,
        "image_size": CONFIG.image_size,
        "action_dim": 7,
        "state_dim": 0,
        "cameras": 1,
    }
    buffers = SharedBuffers.on(mmap.mmap(-1, SharedBuffers.nbytes(**size)), **size)
    pool = EnvPool(suite, CONFIG, buffers)
    pool.obey({"begin": [vars(Job("pick-carrot", 0))]})
    pool.obey({"step": [None], "expert": True})
    assert buffers.labels[0, 0] == pytest.approx(0.25, abs=1e-3)
    assert not buffers.person[0], "nobody took over: the person is the expert"
    pool.obey({"step": [None], "expert": False})
    assert buffers.person[0], "they took over from a policy"


# --- the flight recorder


def recorded(folder: Path) -> list[dict[str, Any]]:
    return [line for path in flights(folder) for line in read_flight(path)]


def test_a_flight_tells_what_was_told_said_and_done(tmp_path: Path) -> None:
    clock = FakeClock()
    driver = FakeDriver(clock, MIDDLE)
    driver.mend = lambda state: replace(state, width=0.04, wrench=(0.0, 0.0, -5.0, 0.0, 0.0, 0.0))
    arm = SafeArm(
        driver, LIMITS, clock=clock, announce=lambda text: None, flight=Flight(tmp_path, print)
    )
    arm.require(lambda: None)
    env = env_on(arm, clock)
    arm.authorize(HASH)
    env.reset()
    env.step(FORTH)
    arm.watch()
    arm.stop("a person pressed stop")
    arm.close()
    lines = recorded(tmp_path)
    kinds = [line["what"] for line in lines]
    for what in ("authorise", "episode", "fingers", "target", "decision", "state", "hold", "stop"):
        assert what in kinds, what
    target = next(line for line in reversed(lines) if line["what"] == "target")
    assert target["target"][0] == pytest.approx(MIDDLE.position[0] + 0.04, abs=1e-3)
    assert target["width"] == 0.04 and target["wrench"][2] == -5.0 and len(target["pose"]) == 7
    decision = next(line for line in lines if line["what"] == "decision")
    assert decision["asked"][0] == 1.0 and decision["done"][0] == pytest.approx(1.0, abs=1e-3)
    stop = next(line for line in lines if line["what"] == "stop")
    assert stop["reason"] == "a person pressed stop" and "pressed stop" in told(stop)
    assert kinds.index("hold", kinds.index("decision")) < kinds.index("stop"), "it holds first"


def test_it_is_bounded_over_all_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "PART", 1000)
    monkeypatch.setattr(flight, "KEPT", 3000)
    for _ in range(40):  # of sessions in which next to nothing happened
        (tmp_path / f"1999-{_:03}.jsonl").write_text("{}\n")
    recorder = Flight(tmp_path, print)
    for number in range(10):
        recorder.note("state", number=number)
    time.sleep(0.1)
    assert len(flights(tmp_path)) == 41, "they take no room, and push no flight out"
    for number in range(10, 200):
        recorder.note("state", number=number)
    recorder.close()
    assert sum(path.stat().st_size for path in flights(tmp_path)) <= 3000
    assert recorded(tmp_path)[-1]["number"] == 199, "the oldest go"


def test_a_session_without_a_motion_leaves_no_file(tmp_path: Path) -> None:
    recorder = Flight(tmp_path, print, limits={"speed": 0.1})
    recorder.close()
    assert not flights(tmp_path), "`irevla arm show` hides no flight from `irevla arm log`"
    recorder = Flight(tmp_path, print, limits={"speed": 0.1})
    recorder.note("hold")
    recorder.close()
    session, hold = recorded(tmp_path)
    assert session["what"] == "session" and session["limits"] == {"speed": 0.1}
    assert hold["what"] == "hold"


def test_a_full_disk_keeps_nothing_waiting_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    recorder = Flight(tmp_path, said.append)
    real, room = os.write, [False]

    def write(descriptor: int, data: bytes) -> int:
        if not room[0] and data[:1] in (b"{", b"\n"):
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    began = time.monotonic()
    for _ in range(3):
        recorder.note("hold")
    assert time.monotonic() - began < 0.1
    time.sleep(0.1)
    room[0] = True
    recorder.note("hold")
    recorder.close()
    missing, hold = recorded(tmp_path)
    assert (missing["what"], missing["lines"], hold["what"]) == ("missing", 3, "hold")
    assert len(said) == 1 and "No space left" in said[0]


def test_a_line_that_was_torn_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, real, cuts = Flight(tmp_path, print), os.write, [True]
    monkeypatch.setattr(
        os, "write", lambda file, data: real(file, data[:9] if cuts and cuts.pop() else data)
    )
    for reason in ("lost", "kept", "kept too"):
        recorder.note("stop", reason=reason)
    recorder.close()
    assert [line.get("reason") for line in recorded(tmp_path)] == [None, "kept", "kept too"]


def test_a_flight_can_be_read_by_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from test_settings import written

    from irevla.robot.commands import arm_command
    from irevla.robot.settings import read_settings

    path = written(tmp_path)
    with pytest.raises(UserError, match="no session has left anything"):
        arm_command("log", path)
    recorder = Flight(read_settings(path).flights, print)
    recorder.note("stop", reason="here")
    recorder.close()
    arm_command("log", path)
    assert 'stop      reason "here"' in capsys.readouterr().out
    with pytest.raises(UserError, match="takes no file"):
        arm_command("show", path, tmp_path / "x")
    with pytest.raises(UserError, match="cannot be read"):
        arm_command("log", path, tmp_path / "none")


# --- fingers, where the arm stops itself


@pytest.mark.parametrize("moving", [True, False])
def test_a_reflex_of_the_arm_stops_its_fingers(moving: bool) -> None:
    arm, driver, _ = arm_of()
    if moving:
        arm.step(np.array([0.01, 0, 0]), np.zeros(3), shut=True)
    else:
        arm.set_gripper(shut=True)
    driver.reason = "cartesian_reflex"
    arm.watch()
    assert driver.fingers_stopped == 1
    with pytest.raises(ArmFault):
        arm.state()
    assert driver.fingers_stopped == 1, "once"
