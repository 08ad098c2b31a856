"""SAC whose learner is on another machine: the same result, whatever goes wrong on the way."""

import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from irevla.config import ComputeConfig
from irevla.data.replay import LatentEpisode
from irevla.errors import UserError
from irevla.models.files import WEIGHTS
from irevla.stages import sac_elsewhere, sac_trainer
from irevla.stages.sac_job import Learnt, Played, SACFolder, SACJob
from irevla.storage.share import Damaged, Share
from irevla.types import weights_hash
from remote_sac import CONFIG, STAGE, Folder, Robot, episode, robot, want

__all__ = ["robot", "want"]


def test_it_ends_as_here(robot: Robot, want: str) -> None:
    assert robot.learn() == want
    assert robot.updates == list(range(12)) and robot.learners == 1
    assert not list((robot.place / "jobs").iterdir()), "a job that is done is deleted"
    found = robot.run.checkpoints.newest(STAGE.folder)
    assert found is not None and found[1]["learner.json"]["updates"] == 12


def test_what_is_played_meanwhile_is_learnt_from(robot: Robot) -> None:
    with robot.learning() as (remote, _):
        remote.learn()
        robot.online.append(episode(robot.online, 7), seed=7, success=False)
        robot.online.append(episode(robot.online, 8), seed=8, success=True)
        remote.finish()
    assert remote.updates == 18 and robot.updates == list(range(18))


def test_the_newest_head_acts(robot: Robot) -> None:
    with robot.learning() as (remote, _):
        before = weights_hash(robot.policy.action_head)
        metrics = dict(remote.learn())
        noise, seen = torch.zeros(1, 2), robot.online.read(0).features[:1]
        while remote.updates < 12:
            metrics |= remote.learn()
        remote._courier.stop()
        action = remote.act(seen, noise=noise, chance=noise[:, 0])
        assert weights_hash(robot.policy.action_head) != before
        torch.testing.assert_close(action, robot.policy.action_head(seen))
    assert {"critic_loss", "anchor"} <= metrics.keys()


# --- Faults


@pytest.mark.parametrize("step", [0, 1, 5, 11])
def test_a_learner_that_is_killed_is_replaced(robot: Robot, want: str, step: int) -> None:
    robot.killed_at = [step, step]
    assert robot.learn() == want
    assert robot.learners == 3


def test_a_learner_that_is_killed_again_and_again_is_said_and_the_same_command_goes_on(
    robot: Robot, want: str
) -> None:
    robot.killed_at = [3, 3, 3, 3]
    with pytest.raises(UserError, match=r"was lost 4 times .* the same command goes on"):
        robot.learn()
    assert robot.learn() == want


def test_it_goes_on_from_its_checkpoint(
    robot: Robot, want: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sac_trainer, "SAVE", 4)
    robot.killed_at = [7]
    assert robot.learn() == want
    assert robot.updates == [*range(7), *range(4, 12)]


def lose(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run end with its learner lost after update 9, its last checkpoint being of 8."""
    monkeypatch.setattr(sac_trainer, "SAVE", 4)
    robot.killed_at = [9] * 4
    with pytest.raises(UserError, match="was lost"):
        robot.learn()


def test_a_run_that_was_stopped_goes_on_from_the_checkpoint_that_came_back(
    robot: Robot, want: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where the share is lost, from the one in the run."""
    lose(robot, monkeypatch)
    robot.place.rename(robot.root / "lost")
    robot.updates.clear()
    assert robot.learn() == want
    assert robot.updates == list(range(8, 12))


def test_a_result_that_arrives_twice_is_one(
    robot: Robot, want: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed once the result was there, and before anybody wrote that the stage is done."""
    monkeypatch.setattr(Folder, "drop", lambda self: None)
    assert robot.learn() == want
    robot.updates.clear()
    assert robot.learn() == want and robot.updates == []


def test_what_a_learner_before_said_is_no_word_of_this_one(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folder, "drop", lambda self: None)
    robot.learn()
    monkeypatch.setattr(sac_trainer.Trainer, "learn", lambda self: time.sleep(1))
    with robot.learning() as (remote, _):
        time.sleep(0.5)
        assert not remote._courier.heard


def test_an_episode_that_is_damaged_on_its_way_is_sent_again(robot: Robot, want: str) -> None:
    put = SACFolder.put_episode
    torn = []

    def damaged(self: SACFolder, played: LatentEpisode) -> str:
        name = put(self, played)
        if len(torn) < 3:
            torn.append(name)
            path = robot.latents / name
            path.write_bytes(path.read_bytes()[:-1] + b"!")
        return name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SACFolder, "put_episode", damaged)
        assert robot.learn() == want
    assert len(torn) == 3


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("which", ["head", "checkpoint", "learnt", "played"])
def test_what_a_learner_leaves_behind_is_damaged(
    robot: Robot, want: str, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """It is gone by then, and cannot say it again: another goes on."""
    done: list[str] = []
    learnt_of, bring = SACFolder.learnt, sac_elsewhere.Courier._bring

    # At the moment of looking: between a look of the test's own and the courier's it may all end.
    def looked(self: SACFolder) -> Learnt | None:
        learnt = learnt_of(self)
        if done or which == "played" or learnt is None or not learnt.over:
            return learnt
        done.append(which)
        time.sleep(0.3)  # it leaves meanwhile
        job = robot.folder.job_folder
        if which == "head":
            spoil(job / "actors" / learnt.actor)
        elif which == "checkpoint":
            spoil(job / "files" / self.progress().files["model.safetensors"])
        else:
            (job / "learnt.json").write_bytes(b"{")
        return learnt_of(self)

    def brought(self: sac_elsewhere.Courier) -> None:
        bring(self)
        if not done and which == "played" and self._said is not None and self._said.over:
            done.append(which)
            (robot.folder.job_folder / "played.json").write_bytes(b"{")

    monkeypatch.setattr(SACFolder, "learnt", looked)
    monkeypatch.setattr(sac_elsewhere.Courier, "_bring", brought)
    assert robot.learn() == want and done == [which]


def test_a_damaged_checkpoint_that_the_run_has_is_given_again(
    robot: Robot, want: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(robot, monkeypatch)
    files = robot.folder.progress().files
    spoil(robot.folder.job_folder / "files" / files["model.safetensors"])
    assert robot.learn() == want


def test_a_run_that_begins_anew_has_a_learner_of_its_own(
    robot: Robot, want: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(robot, monkeypatch)
    shutil.rmtree(robot.root / "run")
    robot.updates.clear()
    time.sleep(0.01)  # the clock of journals has milliseconds
    assert robot.learn() == want and robot.updates == list(range(12))


@pytest.mark.parametrize("other", [lambda weights: {}, lambda weights: widened(weights)])
def test_a_checkpoint_of_another_policy_never_gets_into_the_run(
    robot: Robot, want: str, monkeypatch: pytest.MonkeyPatch, other: Any
) -> None:
    monkeypatch.setattr(sac_trainer, "SAVE", 4)
    load = Folder.load

    def changed(self: Folder, files: dict[str, str]) -> dict[str, Any]:
        found = load(self, files)
        if threading.current_thread() is robot.courier:
            return {**found, WEIGHTS: other(found[WEIGHTS])}
        return found

    monkeypatch.setattr(Folder, "load", changed)
    with robot.learning() as (remote, _):
        robot.courier = remote._courier
        deadline = time.monotonic() + 20
        while not remote._courier.misses:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    found = robot.run.checkpoints.newest(STAGE.folder)
    assert found is not None and found[1]["learner.json"]["updates"] == 0
    monkeypatch.setattr(Folder, "load", load)
    assert robot.learn() == want


def widened(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([tensor, tensor]) for name, tensor in weights.items()}


def test_a_damaged_head_is_never_installed(robot: Robot) -> None:
    with robot.learning() as (remote, _):
        remote.learn()
        while remote.updates < 12:
            remote.learn()
    courier, folder = remote._courier, robot.folder
    courier.heads.clear()
    courier._last = None
    said = folder.learnt()
    assert said is not None
    path = folder.job_folder / "actors" / said.actor
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(Damaged, match="was not what its name says"):
        courier._exchange()
    folder.say_learnt(said, {"w": torch.zeros(3)})
    with pytest.raises(Damaged, match="is of another policy"):
        courier._exchange()
    assert not courier.heads


def test_a_learner_with_nothing_to_learn_is_not_silent(
    robot: Robot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sac_trainer, "SILENCE", 0.02)
    with robot.learning(episodes=1) as (remote, _):
        remote.learn()
        courier, words = remote._courier, []
        monkeypatch.setattr(sac_elsewhere, "SILENT", 2.0)
        until = time.monotonic() + 4.0
        while time.monotonic() < until:
            assert courier._last is not None
            words.append(courier._last.word)
            time.sleep(0.1)
        assert words[-1] > words[0], "all was learnt by then, and it goes on speaking"
    assert "has said nothing" not in caplog.text


def test_an_outage_is_said_as_it_begins_and_when_it_is_over(
    robot: Robot, want: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = Share.read
    failures = {"Courier": 20, "Process": 20}  # of each side

    def failing(self: Share, name: str, most: int) -> bytes | None:
        side = type(threading.current_thread()).__name__
        if failures.get(side):
            failures[side] -= 1
            raise UserError(f"{side}: connection reset")
        return read(self, name, most)

    monkeypatch.setattr(Share, "read", failing)
    assert robot.learn() == want
    assert not any(failures.values())
    said = sorted(record.getMessage().partition(" after ")[0] for record in caplog.records)
    begun = [f"{side}: connection reset (said once while it lasts)" for side in failures]
    assert said == [*begun, *["the share is in order again,"] * 2]


@pytest.mark.parametrize("word", range(5))
def test_a_share_out_of_reach_stops_neither_side(
    robot: Robot, want: str, monkeypatch: pytest.MonkeyPatch, word: int
) -> None:
    read = Share.read
    failures = iter(range(40))

    def flaky(self: Share, name: str, most: int) -> bytes | None:
        if robot.learners and threading.current_thread() is not threading.main_thread():
            number = next(failures, None)
            if number is not None and (number + word) % 5:
                raise UserError(f"{name}: connection reset; try again")
        return read(self, name, most)

    monkeypatch.setattr(Share, "read", flaky)
    assert robot.learn() == want


@pytest.mark.parametrize(
    "text",
    [
        b'{"demonstrations": ["../../x"], "online": [], "over": false}',
        b'{"demonstrations": [], "online": [], "over": 1}',
        b"[]",
        b"{",
    ],
)
def test_what_was_played_is_checked(robot: Robot, text: bytes) -> None:
    with robot.learning(episodes=1) as (remote, _):
        remote.learn()
    (robot.folder.job_folder / "played.json").write_bytes(text)
    with pytest.raises(Damaged):
        robot.folder.played()


@pytest.mark.parametrize(
    "change",
    [
        {"actor": "../x"},
        {"updates": "7"},
        {"over": 1},
        {"metrics": {"a": "b"}},
        {"word": 0.5},
        {"x": 1},
    ],
)
def test_what_was_learnt_is_checked(robot: Robot, change: dict[str, Any]) -> None:
    with robot.learning(episodes=1) as (remote, _):
        remote.learn()
    said = vars(Learnt(3, "0" * 64, 1, 1)) | {"metrics": {}} | change
    robot.folder.share.say(f"{robot.folder._root}/learnt.json", said)
    with pytest.raises(Damaged):
        robot.folder.learnt()


def test_a_job_is_what_was_submitted(robot: Robot) -> None:
    with robot.learning(episodes=1) as (remote, _):
        remote.learn()
        job = robot.folder.job
        assert SACJob.of_text(job.to_text().encode()) == job
        assert job.latents == robot.online.spec and job.sac == CONFIG.sac
        remote.finish()
    assert Played() == Played((), (), False)


def test_ppo_has_no_learner_elsewhere() -> None:
    with pytest.raises(UserError, match=r"compute.stage1 is for SAC's learner"):
        replace(CONFIG, rl="ppo", compute=ComputeConfig(stage1="torchrun"))
