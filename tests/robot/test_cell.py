"""Who may move the arm of a process: nobody before it is told, then whom it was told of alone."""

import mmap
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes import HASH, STILL, FakeDriver
from person import AtTheKeys
from test_real_env import FakeCamera
from test_settings import written

from irevla.config import EnvConfig, ExpertConfig
from irevla.envs.suite import Authorization
from irevla.envs.worker import EnvPool, Job, SharedBuffers
from irevla.errors import UserError
from irevla.presets import find_preset
from irevla.robot import cell
from irevla.robot.commands import arm_command
from irevla.robot.settings import FILE, read_settings
from irevla.robot.stop_latch import StopLatch
from irevla.robot.suite import PANDA
from irevla.rollout.demonstrations import collect_expert

LEFT = np.array([0.0, 0.01, 0.0])


class Now:
    """The clock on the wall, for a driver of the tests."""

    @property
    def time(self) -> float:
        return time.monotonic()


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    """What the settings' driver would be, in a process that nobody has told anything."""
    driver = FakeDriver(Now())  # type: ignore[arg-type]
    process = cell._ThisProcess()
    monkeypatch.setattr(cell, "_this_process", process)
    monkeypatch.setattr(cell, "_driver", lambda settings: driver.opened())
    monkeypatch.setattr(cell, "open_camera", lambda name, settings: FakeCamera(0))
    monkeypatch.setenv(FILE, str(written(tmp_path, policy="", dry_run=False)))
    yield driver
    for opened in process.cells.values():
        opened.close()


def opened(folder: Path) -> cell.Cell:
    return cell.cell_of(folder / "arm.yaml")


def move(arm: cell.SafeArm) -> None:
    arm.step(LEFT, STILL, shut=True)


def test_nobody_moves_the_arm_of_a_process_that_was_told_nothing(
    driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IREVLA_POLICY_HASH", HASH)  # as in version 0.1: nobody listens to it
    with pytest.raises(UserError, match="nobody is authorised"):
        move(opened(tmp_path).arm)
    assert not driver.sent and not driver.gripper


def test_who_is_authorized_moves_the_arm_whether_it_is_opened_before_or_later(
    driver: FakeDriver, tmp_path: Path
) -> None:
    PANDA.authorize(Authorization(HASH))
    arm = opened(tmp_path).arm
    assert arm.who == HASH
    with AtTheKeys(tmp_path / "arm.yaml"):
        opened(tmp_path).await_person()
        move(arm)
    assert len(driver.sent) == 1
    PANDA.authorize(Authorization("cd" * 32, learning=True))
    assert arm.who == "cd" * 32 and opened(tmp_path).arm is arm


def test_another_policy_than_the_settings_name_is_refused_and_nothing_stays_open(
    driver: FakeDriver, tmp_path: Path
) -> None:
    written(tmp_path, policy=HASH[:8], dry_run=False)
    PANDA.authorize(Authorization("cd" * 32))
    with pytest.raises(UserError, match="not the one that the settings name"):
        opened(tmp_path)
    assert driver.closed and not StopLatch(read_settings(tmp_path / "arm.yaml").folder).reason
    PANDA.authorize(Authorization(HASH))
    arm = opened(tmp_path).arm
    with pytest.raises(UserError, match="not the one that the settings name"):
        PANDA.authorize(Authorization("cd" * 32))
    assert arm.who == HASH and not driver.sent
    assert isinstance(cell._this_process.who, Authorization)
    assert cell._this_process.who.policy == HASH


def test_noise_is_refused_where_a_person_is_beside_the_arm(
    driver: FakeDriver, tmp_path: Path
) -> None:
    config = EnvConfig(image_size=64, workers=1, envs_per_worker=1, timeout=600.0)
    with pytest.raises(UserError, match=r"--expert\.noisy-fraction 0"):
        collect_expert(
            PANDA, ["pick-carrot"], ExpertConfig(), env=config, seed=0, root=tmp_path / "shown"
        )
    # What `irevla collect panda` begins with.
    assert find_preset("panda").expert.noisy_fraction == 0
    size = {"n": 1, "image_size": 64, "action_dim": 7, "state_dim": 0, "cameras": 1}
    memory = mmap.mmap(-1, SharedBuffers.nbytes(**size))
    pool = EnvPool(PANDA, config, SharedBuffers.on(memory, **size))
    with pytest.raises(UserError, match="which noise would shake"):
        pool.obey({"begin": [vars(Job("pick-carrot", 0, noise=0.3))]})
    assert not driver.sent


def test_the_settings_of_the_arm_are_those_of_one_worker_with_time() -> None:
    config = PANDA.env_config(EnvConfig(workers=4, envs_per_worker=2, timeout=1.0))
    assert (config.workers, config.envs_per_worker, config.timeout) == (1, 1, 600.0)
    assert PANDA.env_config(EnvConfig(timeout=900.0)).timeout == 900.0


def test_without_a_classifier_a_worker_loads_no_torch() -> None:
    code = "import sys, irevla.robot.cell, irevla.robot.env; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_a_person_who_agrees_moves_the_arm_to_its_start(
    answer: str, driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`irevla arm home`; a policy that was authorized before has nothing to do with it."""
    monkeypatch.setattr("builtins.input", lambda question: answer)
    with AtTheKeys(tmp_path / "arm.yaml"):
        arm_command("home", tmp_path / "arm.yaml")
    assert bool(driver.sent) == (answer == "yes") and driver.closed
    assert cell._this_process.who is None


def test_a_classifier_that_is_not_there_is_said_and_nothing_stays_open(
    driver: FakeDriver, tmp_path: Path
) -> None:
    written(tmp_path, policy="", judge="classifier", classifier="carrot")
    with pytest.raises(UserError, match="carrot"):
        opened(tmp_path)
    settings = read_settings(tmp_path / "arm.yaml")
    assert driver.closed and not StopLatch(settings.folder).reason
    assert not settings.keys.exists()
