"""Stage 1 by soft actor-critic with demonstrations, as on a real arm (section V-D).

What earlier rounds have left of the task, and then successes of the policy as it is, are the
demonstration buffer (`zero_shot`); then it acts with exploration noise, and every episode goes to
the online buffer (`keeping`).
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from irevla.compute.device import threads
from irevla.config import Config
from irevla.data.episodes import EpisodeStore
from irevla.envs.suite import Authorization, Suite
from irevla.envs.vector import Job
from irevla.learners.optim import Means
from irevla.learners.sac import SAC
from irevla.models.policy import VLAPolicy
from irevla.progress import Advance, bar
from irevla.rollout.actors import ExploringActor
from irevla.rollout.encoder import encoder_of
from irevla.rollout.episodes import Outcome
from irevla.rollout.exploration import PinkNoise
from irevla.rollout.serve import Server
from irevla.runs.rl_progress import FILE, RLProgress
from irevla.runs.run import Run
from irevla.stages.async_learner import AsyncLearner
from irevla.stages.contract import check_learnt, complete, load_if_done, resume, save
from irevla.stages.keeping import Kept, length, open_environments, open_kept, recorder
from irevla.stages.learner import InStepLearner, OnlineLearner, SACLearner
from irevla.stages.sac_elsewhere import RemoteLearner, submit_sac
from irevla.stages.sac_job import SACFolder
from irevla.stages.zero_shot import collect_successes, found_nothing
from irevla.tasks import Purpose, Stage, draw_seed, first_seed

LATENCIES = 1000  # decisions, the last ones, over which the latency is logged


def run_sac(
    run: Run, policy: VLAPolicy, stage: Stage, *, suite: Suite, online: EpisodeStore
) -> VLAPolicy:
    """Let the action head learn by trial and error on the task of `stage`, line 5 of Algorithm 1.

    With `harvest.from_training`, what succeeds meanwhile goes to `online`, D_RL. Raises `UserError`
    where nothing was learnt.
    """
    if load_if_done(run, policy, stage):
        return policy
    policy.eval()
    policy.trainable("head")
    with encoder_of(run.config.rollouts, policy, stored=True):
        _run_sac(run, policy, stage, suite=suite, online=online)
    return policy


def _run_sac(
    run: Run, policy: VLAPolicy, stage: Stage, *, suite: Suite, online: EpisodeStore
) -> None:
    config = run.config.sac
    acting = policy.hash()  # as the stage begins: what its episodes are marked with
    kept = open_kept(run, policy, stage, suite=suite, online=online)
    collect_successes(run, policy, stage.then("zero-shot"), suite=suite, kept=kept)
    if found_nothing(run, stage):  # other tasks must not wait for this one
        complete(run, policy, stage, **RLProgress(config).facts(), updates=0)
        return
    sac = SAC(policy.action_head, config, seed=run.draws(stage), execute=policy.execute)
    learner = SACLearner(sac, demonstrations=kept.demonstrations, online=kept.practice)
    progress = RLProgress(config)
    job = None
    if run.config.compute.stage1 != "inline":
        job = submit_sac(run, policy, stage, kept.practice.spec)  # as the stage begins
    files = resume(run.checkpoints, policy, stage, learner)
    told = not files or FILE in files  # a learner elsewhere does not know how far acting is
    if told and _repeats(suite, run.config):  # what came after it is played again, to the same bits
        progress.load_files(files)
        before = len(kept.practice.episodes) - len(kept.practised)
        kept.practice.rewind(before + progress.episodes)
    with (
        threads(1),
        bar(f"Stage 1: SAC on {stage.target}", config.steps) as advance,
        _learning(run, policy, stage, learner, job, suite) as learning,
        open_environments(run, suite, Authorization(acting, learning=True)) as vec,
    ):
        learning.learn()
        learning.settle()
        _count(progress, kept)
        actor = ExploringActor(policy, _noise(run, policy, stage), learning.act)
        records = recorder(run, policy, acting, vec, images=kept.images)
        practise = _Practice(run, policy, stage, suite, kept, learning, progress, advance)
        for _ in practise.legs(Server(vec, actor, records)):
            if isinstance(learning, InStepLearner):
                save(run.checkpoints, policy, stage, learner, **progress.files())
        advance(progress.decisions, f"success {progress.rate:.2f}; making the pending updates")
        learning.finish()
    check_learnt(stage, updates=learning.updates - config.warmup, moved=learning.moved)
    remark = vec.lost_note | _remark(progress)
    complete(run, policy, stage, **progress.facts(), **remark, updates=learning.updates)


def _noise(run: Run, policy: VLAPolicy, stage: Stage) -> PinkNoise:
    return PinkNoise(
        draw_seed(run.draws(stage), "explore"),
        decisions=run.config.env.for_training().horizon,
        execute=policy.execute,
    )


def _remark(progress: RLProgress) -> dict[str, str]:
    if not progress.hopeless:
        return {}
    note = (
        f"nothing succeeded in {progress.episodes} episodes: begin with a better policy, or "
        "allow more --sac.hopeless"
    )
    return {"note": note}


@dataclass(frozen=True)
class _Practice:
    """Acting, and learning from it."""

    run: Run
    policy: VLAPolicy
    stage: Stage
    suite: Suite
    kept: Kept
    learning: OnlineLearner
    progress: RLProgress
    advance: Advance

    def legs(self, server: Server[Outcome]) -> Iterator[None]:
        """Play until the stage is over; yield between two legs, when no episode is under way."""
        progress = self.progress
        dropped = progress.dropped
        learnt: Mapping[str, float] = {}
        while not progress.over:
            for outcome in _play_leg(self.run, self.stage, server, self.kept, self.suite):
                if outcome.job.task != self.stage.task:
                    continue  # it put things back
                progress.dropped = dropped + server.vec.dropped
                learnt = self._learn(outcome, server)
                if progress.over:
                    break
            self._settle(learnt)
            if not progress.over:
                yield

    def _settle(self, learnt: Mapping[str, float]) -> None:
        """Learn from all that was played; with what was `learnt` last, that is one row."""
        means = Means()
        means.add(learnt)
        means.add(self.learning.settle())
        if metrics := means.take():
            self._log(metrics)

    def _learn(self, outcome: Outcome, server: Server[Outcome]) -> dict[str, float]:
        """Learn from an episode, and log it; return the metrics of the updates known of by now."""
        shown = outcome.shown()
        if shown is not None:
            seed = outcome.job.seed
            self.kept.demonstrations.append(shown, seed=seed, success=True, person=True)
        self.kept.keep_practice(outcome)
        _count(self.progress, self.kept)
        learnt = self.learning.learn()
        of_episode = _of_episode(outcome, server, self.progress) | _clipped(outcome, self.policy)
        self._log(learnt | of_episode)
        self.advance(self.progress.decisions, self.progress.note())
        return learnt

    def _log(self, metrics: Mapping[str, float]) -> None:
        updates = float(self.learning.updates)
        decisions = self.progress.decisions
        self.run.metrics.log(self.stage.name, decisions, updates=updates, **metrics)


def _play_leg(
    run: Run, stage: Stage, server: Server[Outcome], kept: Kept, suite: Suite
) -> Iterator[Outcome]:
    """Play so many whole episodes; when all of them have ended, there may be a checkpoint.

    Nothing is under way then, so that a run that goes on from it plays what one would that was
    never stopped. On a real arm each success of a task that another one undoes is followed by an
    episode of that, with the same policy: nothing is learnt from it.
    """
    first = first_seed(Purpose.RL, run.config.seed, round=stage.round)
    first = max([first, *(episode["seed"] + 1 for episode in kept.practised)])
    seeds = range(first, first + run.config.sac.checkpoint_every)
    jobs = (Job(stage.task, seed) for seed in seeds)
    partner = "" if suite.real_arm is None else suite.real_arm.partner(stage.task)
    return server.play(_and_back(jobs, partner, kept) if partner else jobs)


def _and_back(jobs: Iterator[Job], partner: str, kept: Kept) -> Iterator[Job]:
    """Yield the jobs, and after each that has succeeded one of the task that undoes it.

    A real arm asks for a job once the last episode is in the buffer.
    """
    for job in jobs:
        yield job
        last = kept.practised[-1] if kept.practised else {"seed": None}
        if last["seed"] == job.seed and last["success"]:
            yield Job(partner, job.seed)


def _learning(
    run: Run,
    policy: VLAPolicy,
    stage: Stage,
    learner: SACLearner,
    job: SACFolder | None,
    suite: Suite,
) -> AbstractContextManager[OnlineLearner]:
    """Return who learns: another machine, a process of its own, or a thread, in step.

    A real arm stands while a thread learns: the two would share Python's lock.
    """
    if job is not None:
        return RemoteLearner(run, policy, stage, learner, job)
    if run.config.sac.async_learner:
        return AsyncLearner(run, policy, stage, learner)
    env = suite.env_config(run.config.env)
    at_once = env.workers * env.envs_per_worker
    return InStepLearner(learner, lag=0 if suite.real_arm is not None else at_once)


def _repeats(suite: Suite, config: Config) -> bool:
    """Whether episodes can be played again to the same bits: not on a real arm, nor with two
    clocks."""
    alone = config.compute.stage1 == "inline" and not config.sac.async_learner
    return suite.real_arm is None and alone


def _count(progress: RLProgress, kept: Kept) -> None:
    """Take the counts from the online buffer: it is the truth about how far the stage has come."""
    practised = kept.practised
    successes = [bool(episode["success"]) for episode in practised]
    progress.episodes = len(successes)
    progress.successes = sum(successes)
    progress.decisions = sum(map(length, practised))
    progress.recent = successes[-progress.config.window :]


def _clipped(outcome: Outcome, policy: VLAPolicy) -> dict[str, float]:
    """Return how many numbers of an episode's actions are outside the policy's scale: a person may
    go there. Nothing where the suite's own is meant."""
    if policy.action_scale.kind == "suite":
        return {}
    return {"clipped": float(policy.action_scale.outside(torch.from_numpy(outcome.actions)).sum())}


def _of_episode(
    outcome: Outcome, server: Server[Outcome], progress: RLProgress
) -> dict[str, float]:
    """Return what is logged of an episode beside SAC's own metrics; seconds are of this process."""
    return {
        "success": float(outcome.success),
        "length": float(outcome.length),
        "episodes": 1.0,
        "dropped": float(progress.dropped),
        "interventions": float(outcome.interventions),
        "intervention_decisions": float(0 if outcome.person is None else outcome.person.sum()),
        "latency_p99_seconds": float(np.percentile(server.latencies[-LATENCIES:], 99)),
        "env_seconds": server.env_seconds,
        "encode_seconds": server.encode_seconds,
    }
