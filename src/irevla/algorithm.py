"""Algorithm 1 of the paper: iterative RL for VLA models (iRe-VLA).

`run_algorithm` is the paper's box, line by line. Each stage below it is one step of the box: it is
skipped where the journal says that it is done, and it goes on from its newest checkpoint where it
was interrupted.
"""

import dataclasses
import math
import os
from collections.abc import Mapping

import torch

from irevla.collect import harvest, open_store
from irevla.config import METHODS, Method, SFTConfig
from irevla.data.episodes import EpisodeStore
from irevla.data.mixture import Mixture
from irevla.envs.base import Suite, admitted
from irevla.envs.vector import VectorEnv
from irevla.learners.ppo import PPO, converged
from irevla.learners.sft import fit
from irevla.models.heads import CriticHead
from irevla.models.policy import VLAPolicy
from irevla.rollout import Collector, endless_jobs
from irevla.runs.progress import bar
from irevla.runs.run import Run
from irevla.runs.stage import RLProgress, finish, folder, recall
from irevla.seeds import Purpose, first_seed
from irevla.setting import (
    baselines,
    check,
    expert_dataset,
    new_policy,
    of_rollout,
    starting_policy,
    strange_words,
    test,
    threads,
    videos,
)
from irevla.stage1.sac import practise
from irevla.turn import Turn


def run_algorithm(run: Run) -> None:
    """Algorithm 1, or the baseline that `config.method` names. Safe to interrupt anywhere; the same
    call goes on."""
    config, method = run.config, METHODS[run.config.method]
    suite, tasks = check(config)

    expert = expert_dataset(run, tasks)  # D_e
    baselines(run, tasks)
    policy = stage0(run, suite, expert, method)  # pi^0
    test(run, policy, tasks, "sft", config.eval.episodes)
    online = open_store(
        suite, config.env, run.directory / "online", online=True
    )  # line 1: D_RL <- {}
    turns = [Turn(task, number) for number in range(1, config.rounds + 1) for task in tasks.rl]
    for turn in turns if method.rl != "none" else ():  # line 2
        policy = stage1(run, policy, turn, method, online)  # lines 4, 5
        test(run, policy, tasks, turn.stage("rl"), config.eval.interim)
        collect_successes(run, policy, turn, online)  # line 6
        policy = stage2(run, policy, turn, method, expert=expert, online=online)  # lines 8, 9
        test(
            run,
            policy,
            tasks,
            turn.stage("sl"),
            config.eval.episodes if turn == turns[-1] else config.eval.interim,
        )
    videos(run, policy, tasks)


def stage0(run: Run, suite: Suite, expert: EpisodeStore, method: Method) -> VLAPolicy:
    """Stage 0: supervised fine-tuning on D_e, equation (2). Skipped where a policy to start from is
    given."""
    config = run.config
    if config.from_checkpoint:
        return starting_policy(config, suite)
    policy = new_policy(run, suite)
    if method.sft and not recall(run, policy, "sft"):
        mixture = Mixture(expert.read(), validation=config.sft.validation)
        supervise(run, policy, "sft", config.sft, mixture=mixture, part="all")
    return policy


def stage1(
    run: Run, policy: VLAPolicy, turn: Turn, method: Method, online: EpisodeStore
) -> VLAPolicy:
    """Stage 1: online RL until convergence, equation (3). Line 4: pi^1 starts as pi^2, with a new
    critic head.

    By PPO, or as on a real arm by SAC.
    """
    stage, config = turn.stage("rl"), run.config.ppo
    if recall(run, policy, stage):
        return policy
    if run.config.rl == "sac":
        return practise(run, policy, turn, online)
    assert method.rl != "none"
    policy.reset_exploration(config.std)
    generator, progress = torch.Generator().manual_seed(run.config.seed), RLProgress(config.window)
    ppo = PPO(
        policy, CriticHead.mirror(policy.action_head), config, part=method.rl, generator=generator
    )
    if learner := progress.resume(run, policy, stage):
        ppo.load_state(learner)
    # Seeds count decisions, which no episode outnumbers: after an interruption, only episodes not
    # yet played.
    first = first_seed(Purpose.RL, run.config.seed, round=turn.round)
    jobs = endless_jobs(turn.task, first + progress.decisions)
    env = admitted(run.config.suite, policy, run.config.env.practising(), learning=True)
    with (
        VectorEnv(run.config.suite, env, jobs) as vec,
        bar(f"Stage 1: RL on {turn.name}", config.steps) as advance,
        threads(1),
    ):
        collector = Collector(vec, generator=generator, keep_observations=ppo.live)
        while progress.decisions < config.steps and not converged(progress.recent, config):
            batch, stats = collector.collect(policy, ppo.critic, config.rollout)
            metrics = ppo.update(batch, warmup=progress.updates < config.warmup)
            progress.add(
                decisions=stats.decisions,
                successes=[outcome.success for outcome in stats.finished],
                dropped=stats.dropped,
            )
            run.metrics.log(stage, progress.decisions, **metrics, **of_rollout(stats, policy))
            advance(
                progress.decisions,
                f"success {progress.rate:.2f} in the last {len(progress.recent)} episodes",
            )
            if progress.updates % config.checkpoint_every == 0:
                progress.save(run, policy, stage, learner=ppo.state())
    reached = converged(progress.recent, config)
    finish(
        run,
        policy,
        stage,
        decisions=progress.decisions,
        converged=reached,
        dropped=progress.dropped,
    )
    return policy


def collect_successes(run: Run, policy: VLAPolicy, turn: Turn, online: EpisodeStore) -> None:
    """Line 6: D_RL <- D_RL + x_i."""
    event = turn.stage("harvest")
    if run.journal.done(event) is None:
        with threads(1):
            harvested = harvest(policy, turn, run.config, store=online)
        run.journal.append(event, **harvested._asdict())


def stage2(
    run: Run,
    policy: VLAPolicy,
    turn: Turn,
    method: Method,
    *,
    expert: EpisodeStore,
    online: EpisodeStore,
) -> VLAPolicy:
    """Stage 2: supervised learning of everything on D_e + D_RL, equation (4), from the weights of
    stage 1 (line 8)."""
    stage, config = turn.stage("sl"), run.config.sl
    if method.sl != "none" and not recall(run, policy, stage):
        frames = online.read() if len(online) else None
        mixture = Mixture(
            expert.read(),
            frames,
            config.online_share,
            validation=config.validation,
            discount=config.discount,
        )
        supervise(run, policy, stage, config, mixture=mixture, part=method.sl)
    return policy


def supervise(
    run: Run, policy: VLAPolicy, stage: str, config: SFTConfig, *, mixture: Mixture, part: str
) -> None:
    """Supervised learning as stage 0 or 2, with progress and checkpoints."""
    title = (
        "Stage 0: supervised fine-tuning"
        if stage == "sft"
        else f"Stage 2: supervised learning, {stage}"
    )
    with bar(title, config.steps) as advance, threads(run.config.threads or os.cpu_count() or 1):
        losses: dict[str, float] = {}

        def log(step: int, metrics: Mapping[str, float]) -> None:
            run.metrics.log(stage, step, **metrics)
            losses.update(metrics)

        result = fit(
            policy, mixture, config, seed=run.config.seed, trainable=part, words=strange_words(run.config.suite),
            name=folder(stage), checkpoints=run.checkpoints, log=log,
            on_step=lambda done, total: advance(done, f"loss {losses.get('loss', math.nan):.4f}"),
        )  # fmt: skip
        advance(
            config.steps,
            f"loss {result.train_loss or math.nan:.4f}, validation {result.best_loss or math.nan:.4f}",
        )
    finish(run, policy, stage, **dataclasses.asdict(result))
