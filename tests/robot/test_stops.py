"""A stop is the last word: it outlives its process, belongs to the arm, and needs neither a disk
nor a terminal."""

import errno
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fakes import STILL, arm_of

from irevla.errors import UserError
from irevla.robot.brake import ArmStopped
from irevla.robot.stop_latch import UNCLEAN, Session, StopLatch

FORTH = np.array([0.02, 0.0, 0.0])
HOLDER = """
import sys, time
from pathlib import Path
from irevla.robot.stop_latch import Session
session = Session(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.readline()
session.close()
"""


def holder(folder: Path) -> "subprocess.Popen[str]":
    """Another process that has the arm, until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "open\n"
    return process


def test_a_stop_is_still_there_in_the_next_session(tmp_path: Path) -> None:
    arm, _, _ = arm_of(session=Session(tmp_path))
    arm.stop("the hand hit the tray")
    arm.close()
    arm, driver, _ = arm_of(session=Session(tmp_path))
    with pytest.raises(ArmStopped, match="the hand hit the tray"):
        arm.step(STILL, STILL, shut=True)
    arm.release()
    arm.step(STILL, STILL, shut=True)
    arm.close()
    assert driver.sent and not StopLatch(tmp_path).reason


def test_after_a_session_that_was_killed_the_arm_is_stopped(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.kill()
    process.communicate()
    with pytest.raises(ArmStopped, match=UNCLEAN):
        arm_of(session=Session(tmp_path))[0].step(STILL, STILL, shut=True)


def test_two_sessions_at_once_are_refused_and_a_process_id_locks_nobody_out(tmp_path: Path) -> None:
    process = holder(tmp_path)
    with pytest.raises(UserError, match=f"{process.pid}.* already moves this arm"):
        Session(tmp_path)
    process.communicate("\n")
    Session(tmp_path).close()
    (tmp_path / "lock").write_text("1")  # alive, and no session of ours: the number was used again
    session = Session(tmp_path)
    assert session.stop_latch.reason == UNCLEAN
    session.close()


def test_of_many_processes_at_once_one_has_the_arm(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    said = [process.stdout.readline() for process in processes if process.stdout is not None]
    for process in processes:
        process.communicate("\n")
    assert said.count("open\n") == 1 and said.count("") == 3


def test_a_stop_that_another_process_latches_holds_the_arm(tmp_path: Path) -> None:
    """As `irevla arm keys` does it, where the session does not listen."""
    arm, driver, clock = arm_of(session=Session(tmp_path))
    arm.step(FORTH, STILL, shut=True)
    keys = StopLatch(tmp_path)
    keys.set("a person pressed stop")
    keys.keep()
    clock.time += arm.limits.period / 4
    arm.watch()
    assert driver.holds == 1 and driver.fingers_stopped == 1
    with pytest.raises(ArmStopped, match="a person pressed stop"):
        arm.step(FORTH, STILL, shut=True)
    assert len(driver.sent) == 1


def test_such_a_stop_ends_the_fingers_of_an_arm_that_stands(tmp_path: Path) -> None:
    arm, driver, _ = arm_of(session=Session(tmp_path))
    arm.step(STILL, STILL, shut=True)
    arm.hold()
    keys = StopLatch(tmp_path)
    keys.set("a person pressed stop")
    keys.keep()
    for _ in range(3):
        arm.watch()
    assert driver.fingers_stopped == 1


def test_an_arm_that_could_not_be_held_is_closed_twice_all_the_same() -> None:
    arm, driver, _ = arm_of()
    arm.step(FORTH, STILL, shut=True)
    driver.breaks = "UDP receive: Timeout"
    arm.close()
    assert driver.closed and driver.holds == 1 and driver.fingers_stopped
    arm.close()
    assert driver.holds == 1


def test_a_stop_of_an_arm_that_was_let_go_is_kept_and_alarms_nobody(tmp_path: Path) -> None:
    """SPACE, while the session closes its cameras."""
    said: list[str] = []
    arm, driver, _ = arm_of(session=Session(tmp_path))
    arm._announce = said.append
    arm.step(FORTH, STILL, shut=True)
    arm.close()
    arm.stop("a person pressed stop")
    assert StopLatch(tmp_path).reason == "a person pressed stop" and driver.holds == 1
    assert not any("EMERGENCY" in line for line in said)


def test_a_session_that_begins_stopped_commands_nothing(tmp_path: Path) -> None:
    keys = StopLatch(tmp_path)
    keys.set("a person pressed stop")
    keys.keep()
    arm, driver, _ = arm_of(session=Session(tmp_path))
    arm.watch()
    assert arm.stopped and not driver.holds and not driver.fingers_stopped


@pytest.mark.parametrize("why", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_full_disk_and_a_dead_terminal_keep_no_stop_from_the_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: int
) -> None:
    order: list[str] = []

    def dead(text: str) -> None:
        order.append("say")
        raise BrokenPipeError(errno.EPIPE, "broken pipe")

    def full(self: StopLatch) -> None:
        order.append("write")
        raise OSError(why, "no")

    arm, driver, _ = arm_of(session=Session(tmp_path))
    arm._announce = dead
    hold = driver.hold
    monkeypatch.setattr(driver, "hold", lambda: (order.append("hold"), hold())[1])
    arm.step(FORTH, STILL, shut=True)
    with monkeypatch.context() as patch:
        patch.setattr(StopLatch, "keep", full)
        arm.stop("a person pressed stop")
    assert order[0] == "hold" and driver.holds == 1
    with pytest.raises(ArmStopped, match="a person pressed stop"):
        arm.step(FORTH, STILL, shut=True)
    arm.close()
    assert StopLatch(tmp_path).record is None
    assert Session(tmp_path).stop_latch.reason == UNCLEAN  # the mark of the session tells of it


def test_a_hold_that_did_not_reach_the_arm_is_sent_again(tmp_path: Path) -> None:
    said: list[str] = []
    arm, driver, clock = arm_of()
    arm._announce = said.append
    arm.step(FORTH, STILL, shut=True)
    driver.breaks = "time-out"
    arm.stop("a person pressed stop")
    for _ in range(5):
        clock.time += arm.limits.period / 4
        arm.watch()
    assert driver.holds == 6 and "PRESS THE EMERGENCY STOP" in " ".join(said)
    driver.breaks = ""
    arm.watch()
    arm.watch()
    assert driver.holds == 7, "once it has reached the arm it is enough"


def test_a_watchdog_that_fails_holds_the_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    arm, driver, _ = arm_of()

    def broken() -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(arm, "watch", broken)
    arm.start_watchdog()
    assert arm._watchdog is not None
    end = time.monotonic() + 20
    while not driver.holds and time.monotonic() < end:
        time.sleep(0.01)
    assert arm._watchdog.is_alive() and "a fault of ours" in arm.stopped and driver.holds
    arm.close()


def test_where_a_stop_could_not_be_remembered_nothing_moves(tmp_path: Path) -> None:
    (tmp_path / "irevla").write_text("a file in the place of the folder")
    with pytest.raises(UserError, match="nothing moves") as told:
        Session(tmp_path / "irevla" / "arm")
    assert "\n" not in str(told.value)


def test_a_stop_that_was_half_written_is_a_stop(tmp_path: Path) -> None:
    (tmp_path / "stopped").write_text("")
    assert StopLatch(tmp_path).reason


def test_a_stop_that_comes_while_an_arm_is_moved_stops_its_fingers() -> None:
    arm, driver, _ = arm_of()
    arm.step(STILL, STILL, shut=True)
    arm.stop("a person pressed stop")
    assert driver.fingers_stopped == 1 and driver.gripper == [True]
    arm.release()
    arm.step(STILL, STILL, shut=True)
    assert driver.gripper == [True, True], "they are told again"
    arm.hold()
    arm.close()
    assert driver.fingers_stopped == 2, "nothing moves once the session is over"
