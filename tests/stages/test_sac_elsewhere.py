"""SAC whose learner is on another machine: the same result, whatever goes wrong on the way."""

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from irevla.compute import engine
from irevla.config import ComputeConfig, Config, EnvConfig, ModelConfig, SACConfig
from irevla.data.replay import LatentEpisode, LatentReplay
from irevla.envs.suite import load_suite
from irevla.errors import UserError
from irevla.learners.sac import SAC
from irevla.models.policy import VLAPolicy
from irevla.runs.run import Run, open_run
from irevla.stages import sac_elsewhere, sac_trainer
from irevla.stages.contract import resume
from irevla.stages.keeping import open_replay
from irevla.stages.learner import SACLearner
from irevla.stages.sac_elsewhere import RemoteLearner, submit_sac
from irevla.stages.sac_job import Learnt, Played, SACFolder, SACJob
from irevla.stages.start import new_policy
from irevla.storage.share import Damaged, Share
from irevla.tasks import SFT, Stage
from irevla.types import Features, weights_hash

STAGE = Stage("rl", "left-disc-new")
POINTMASS = load_suite("pointmass")
CONFIG = Config(
    suite="pointmass",
    rl="sac",
    device="cpu",
    threads=1,
    expert_tasks=("left-disc",),
    rl_tasks=("left-disc-new",),
    env=EnvConfig(image_size=16, horizon=12),
    model=ModelConfig(vlm="tiny-random", width=16, layers=1, head_groups=4, head_hidden=8),
    sac=SACConfig(gripper=False, batch=8, utd=2, critics=2, warmup=2, updates_per_decision=0.5),
)


class Killed(BaseException):
    """As SIGKILL: nothing that the process would still do is done."""


class Robot:
    """A run in stage 1 whose learner is in a thread, but otherwise as on another machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.place = root / "share"
        self.killed_at: list[int] = []  # before these updates a learner is killed
        self.learners = 0  # that were started
        self.updates: list[int] = []  # in the order in which they were made

    @property
    def latents(self) -> Path:
        return self.folder.job_folder / "latents"

    @contextmanager
    def learning(self, *, episodes: int = 4) -> Iterator[tuple[Any, "Robot"]]:
        """As `run_sac` does it, with so many episodes in each buffer from the beginning."""
        compute = ComputeConfig(stage1="torchrun", share=str(self.place))
        with open_run(self.root / "run", replace(CONFIG, compute=compute)) as run:
            self.run = run
            if run.journal.done("begun") is None:
                run.journal.append("begun")  # as a run has, by then
            self.policy, learner = setting(run, episodes)
            self.online = learner._online
            self.folder = Folder.submit_as_begun(run, self.policy, self.online)
            resume(run.checkpoints, self.policy, STAGE, learner, silent=True)
            remote = RemoteLearner(run, self.policy, STAGE, learner, self.folder)
            with remote:
                yield remote, self

    def learn(self) -> str:
        """Learn from what there is; return the hash of the head."""
        with self.learning() as (remote, _):
            remote.train_pending()
            remote.finish()
            assert remote.moved
        return weights_hash(self.policy.action_head)


class Folder(SACFolder):
    @property
    def job_folder(self) -> Path:
        return Path(self.share.place.removeprefix("file://")) / self._root

    @classmethod
    def submit_as_begun(cls, run: Run, policy: VLAPolicy, latents: LatentReplay) -> "Folder":
        folder = submit_sac(run, policy, STAGE, latents.spec)
        return cls(folder.share, folder.name, SACJob.of_text)


def setting(run: Run, episodes: int) -> tuple[VLAPolicy, SACLearner]:
    """Return a policy, and SAC in turn, with so many episodes in each buffer."""
    policy = new_policy(run, POINTMASS, SFT).eval()
    policy.trainable("head")
    stores = {
        name: open_replay(run, policy, STAGE, name, suite=POINTMASS)
        for name in ("demonstrations", "online")
    }
    for number, store in enumerate(stores.values()):
        for seed in range(len(store.episodes), episodes):
            store.append(episode(store, 100 * number + seed), seed=seed, success=True)
    sac = SAC(policy.action_head, CONFIG.sac, seed=run.draws(STAGE))
    return policy, SACLearner(sac, **stores)


def episode(store: LatentReplay, seed: int) -> LatentEpisode:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(6, store.spec.tokens, store.spec.width, generator=generator)
    features = Features(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
    rewards = torch.zeros(6)
    rewards[-1] = 1.0
    return LatentEpisode(features, torch.rand(6, 2, generator=generator) * 2 - 1, rewards)


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Robot:
    made = Robot(tmp_path)
    monkeypatch.setenv("IREVLA_CACHE", str(tmp_path / "cache"))
    for module in (sac_elsewhere, sac_trainer):
        monkeypatch.setattr(module, "POLL", 0.01)
    update = SAC.update

    def watched(self: SAC, batches: Any) -> dict[str, float]:
        if made.killed_at and made.killed_at[0] == self.updates:
            made.killed_at.pop(0)
            raise Killed
        made.updates.append(self.updates)
        return update(self, batches)

    class Process(threading.Thread):
        def __init__(self, job: Sequence[str], log: Path) -> None:
            super().__init__(daemon=True)
            self.job, self.log = job, log
            self.status = 1
            self.over = False  # its engine was ended

        def run(self) -> None:
            try:
                sac_trainer.run(self.job)
                self.status = 0
            except Killed:
                pass
            except UserError as error:
                self.log.write_text(f"{engine.REFUSED}{error}\n")

        def poll(self) -> int | None:
            return None if self.is_alive() else self.status

    @contextmanager
    def started(
        settings: Sequence[str], module: str, job: Sequence[str], *, log: Path
    ) -> Iterator[Any]:
        assert module == sac_trainer.__name__
        made.learners += 1
        log.write_text("")
        process = Process(job, log)
        process.start()
        try:
            yield process
        finally:
            process.over = True
            process.join()

    exchange = sac_trainer.Trainer._exchange

    def ended(self: sac_trainer.Trainer) -> None:
        if getattr(threading.current_thread(), "over", False):
            raise Killed
        exchange(self)

    monkeypatch.setattr(SAC, "update", watched)
    monkeypatch.setattr(sac_trainer.Trainer, "_exchange", ended)
    monkeypatch.setattr(engine, "started", started)
    return made


@pytest.fixture(scope="module")
def want(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The head that SAC in turn ends with."""
    with open_run(tmp_path_factory.mktemp("inline"), CONFIG) as run:
        policy, learner = setting(run, 4)
        learner.finish()
    return weights_hash(policy.action_head)


def test_it_ends_as_here(robot: Robot, want: str) -> None:
    assert robot.learn() == want
    assert robot.updates == list(range(12)) and robot.learners == 1
    assert not list((robot.place / "jobs").iterdir()), "a job that is done is deleted"
    found = robot.run.checkpoints.newest(STAGE.folder)
    assert found is not None and found[1]["learner.json"]["updates"] == 12


def test_what_is_played_meanwhile_is_learnt_from(robot: Robot) -> None:
    with robot.learning() as (remote, _):
        remote.train_pending()
        robot.online.append(episode(robot.online, 7), seed=7, success=False)
        robot.online.append(episode(robot.online, 8), seed=8, success=True)
        remote.finish()
    assert remote.updates == 18 and robot.updates == list(range(18))


def test_the_newest_head_acts(robot: Robot) -> None:
    with robot.learning() as (remote, _):
        before = weights_hash(robot.policy.action_head)
        metrics = dict(remote.train_pending())
        noise, seen = torch.zeros(1, 2), robot.online.read(0).features[:1]
        while remote.updates < 12:
            metrics |= remote.train_pending()
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


def test_a_damaged_head_is_never_installed(robot: Robot) -> None:
    with robot.learning() as (remote, _):
        remote.train_pending()
        while remote.updates < 12:
            remote.train_pending()
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
        remote.train_pending()
        courier, words = remote._courier, []
        monkeypatch.setattr(sac_elsewhere, "SILENT", 2.0)
        until = time.monotonic() + 4.0
        while time.monotonic() < until:
            assert courier._last is not None
            words.append(courier._last.word)
            time.sleep(0.1)
        assert words[-1] > words[0], "all was learnt by then, and it goes on speaking"
    assert "has said nothing" not in caplog.text


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
        remote.train_pending()
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
        remote.train_pending()
    said = vars(Learnt(3, "0" * 64, 1, 1)) | {"metrics": {}} | change
    robot.folder.share.say(f"{robot.folder._root}/learnt.json", said)
    with pytest.raises(Damaged):
        robot.folder.learnt()


def test_a_job_is_what_was_submitted(robot: Robot) -> None:
    with robot.learning(episodes=1) as (remote, _):
        remote.train_pending()
        job = robot.folder.job
        assert SACJob.of_text(job.to_text().encode()) == job
        assert job.latents == robot.online.spec and job.sac == CONFIG.sac
        remote.finish()
    assert Played() == Played((), (), False)


def test_ppo_has_no_learner_elsewhere() -> None:
    with pytest.raises(UserError, match=r"compute.stage1 is for SAC's learner"):
        replace(CONFIG, rl="ppo", compute=ComputeConfig(stage1="torchrun"))
