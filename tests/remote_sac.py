"""An arm in SAC's stage 1 whose learner is in a thread, but otherwise as on another machine."""

import threading
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
from irevla.stages.sac_job import SACFolder, SACJob
from irevla.stages.start import new_policy
from irevla.tasks import SFT, Stage
from irevla.types import Features, weights_hash
from storms import Killed

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


class Robot:
    """A run in stage 1 whose learner is in a thread, but otherwise as on another machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.place = root / "share"
        self.killed_at: list[int] = []  # before these updates a learner is killed
        self.learners = 0  # that were started
        self.courier: threading.Thread | None = None
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
            self.online = learner.stores[1]
            self.folder = Folder.submit_as_begun(run, self.policy, self.online)
            resume(run.checkpoints, self.policy, STAGE, learner, silent=True)
            remote = RemoteLearner(run, self.policy, STAGE, learner, self.folder)
            with remote:
                yield remote, self

    def learn(self) -> str:
        """Learn from what there is; return the hash of the head."""
        with self.learning() as (remote, _):
            remote.learn()
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

    def watched(self: SAC, batches: Any, features: Any) -> dict[str, float]:
        if made.killed_at and made.killed_at[0] == self.updates:
            made.killed_at.pop(0)
            raise Killed
        made.updates.append(self.updates)
        return update(self, batches, features)

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
        learner.take_up_all()
        while learner.pending_updates > 0:
            learner.update()
    return weights_hash(policy.action_head)
