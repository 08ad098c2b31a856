"""Stage 1 by soft actor-critic with demonstrations, as on a real arm (section V-D).

The policy as it is first collects successes, the demonstration buffer; then it acts with SAC's
exploration noise, and every episode goes to the online buffer. Both are of latents, on disk, and
are the truth about how far the stage has come: what was played before an interruption is learnt
from after it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from irevla.collect import in_order
from irevla.data.episodes import EpisodeStore
from irevla.data.replay import LatentReplay, LatentSpec
from irevla.envs.base import admitted, find_task, load_suite
from irevla.envs.vector import Job, VectorEnv
from irevla.errors import UserError
from irevla.learners.ppo import converged
from irevla.learners.sac import SAC
from irevla.models.policy import VLAPolicy
from irevla.rollout import endless_jobs
from irevla.runs.progress import bar
from irevla.runs.run import Run
from irevla.runs.stage import RLProgress, finish, folder
from irevla.seeds import Purpose, first_seed
from irevla.setting import threads
from irevla.stage1.beside import Beside
from irevla.stage1.latents import LatentOutcome, LatentPlayer
from irevla.stage1.learner import Learner
from irevla.turn import Turn
from irevla.types import Features

LATENCIES = 1000  # decisions, the last ones, over which the latency is logged


def practise(run: Run, policy: VLAPolicy, turn: Turn, kept: EpisodeStore) -> VLAPolicy:
    """Line 5 of Algorithm 1 by SAC, on the policy's own head: 20 zero-shot successes, then RL until
    convergence.

    With `harvest.practice`, what succeeds in either goes to `kept`, D_RL.
    """
    stage, config = turn.stage("rl"), run.config.sac
    policy.trainable("head")
    demonstrations, online = (
        open_replay(run, policy, turn, name) for name in ("demonstrations", "online")
    )
    demonstrate(run, policy, turn, demonstrations, kept)
    sac = SAC(policy.action_head, config, generator=torch.Generator().manual_seed(run.config.seed))
    learner = Learner(run, policy, stage, sac=sac, demonstrations=demonstrations, online=online)
    learner.resume()
    progress = learner.progress
    # Seeds count decisions, which no episode outnumbers: after an interruption, only episodes not
    # yet played.
    first = first_seed(Purpose.RL, run.config.seed, round=turn.round)
    jobs = endless_jobs(turn.task, first + progress.decisions)
    env = admitted(run.config.suite, policy, run.config.env.practising(), learning=True)
    with (
        threads(1),
        bar(f"Stage 1: SAC on {turn.name}", config.steps) as advance,
        Beside(run, policy, turn, learner) if config.apart else learner as learning,
        VectorEnv(run.config.suite, env, jobs) as vec,
    ):
        learning.catch_up()
        player = LatentPlayer(
            vec,
            policy,
            learning.act,
            keep_images=run.config.harvest.practice,
            policy_hash=policy.hash(),
        )
        dropped = progress.dropped
        for outcomes in player:
            if progress.decisions >= config.steps or converged(progress.recent, config):
                break
            kept.extend(
                [
                    outcome.episode
                    for outcome in outcomes
                    if outcome.success and outcome.episode is not None
                ]
            )
            for outcome in outcomes:
                online.append(outcome.latents, seed=outcome.job.seed, success=outcome.success)
            progress.dropped = dropped + vec.dropped
            if outcomes:
                metrics = learning.catch_up()
                run.metrics.log(
                    stage, progress.decisions, **metrics, **of_episodes(outcomes, player, progress)
                )
                advance(
                    progress.decisions,
                    f"success {progress.rate:.2f} in the last {len(progress.recent)} episodes",
                )
        advance(progress.decisions, f"success {progress.rate:.2f}; learning what is still owed")
        learning.finish()
    reached = converged(progress.recent, config)
    finish(
        run, policy, stage, decisions=progress.decisions, converged=reached, dropped=progress.dropped,
        updates=progress.updates,
    )  # fmt: skip
    return policy


def open_replay(run: Run, policy: VLAPolicy, turn: Turn, name: str) -> LatentReplay:
    """DIR/latents/TURN/NAME, whose latents are of the policy's VLM as it is now."""
    suite, size = load_suite(run.config.suite), policy.image_size
    blank = policy.encode(
        np.zeros((1, size, size, 3), np.uint8), [find_task(suite, turn.task).instruction]
    )
    _, tokens, width = blank.tokens.shape
    spec = LatentSpec(policy.vlm_hash(), suite.name, tokens, width, suite.action_dim)
    return LatentReplay(run.directory / "latents" / folder(turn.name) / name, spec)


def demonstrate(
    run: Run, policy: VLAPolicy, turn: Turn, store: LatentReplay, kept: EpisodeStore
) -> None:
    """Bring `store` to `sac.demonstrations` successful zero-shot trajectories: the policy as it is,
    without noise.

    With `harvest.practice` they go to `kept`, D_RL, too. Fewer are told; where there is none at
    all, `UserError`.
    """
    event, config, task = turn.stage("zero-shot"), run.config.sac, turn.task
    if run.journal.done(event) is not None:
        return
    generator = torch.Generator().manual_seed(run.config.seed)
    first = first_seed(Purpose.ZERO_SHOT, run.config.seed, round=turn.round)
    jobs = [Job(task, first + index) for index in range(config.attempts)]
    have, tried, decisions = {episode["seed"] for episode in store.episodes}, 0, 0
    env = admitted(run.config.suite, policy, run.config.env.practising())
    with (
        threads(1),
        bar(f"Zero-shot successes of {turn.name}", config.demonstrations) as advance,
        VectorEnv(run.config.suite, env, iter(jobs)) as vec,
    ):

        def act(features: Features) -> Float[Tensor, "B A"]:
            return policy.decide(
                features, torch.rand(len(features), generator=generator).to(policy.device)
            )

        player = LatentPlayer(
            vec, policy, act, keep_images=run.config.harvest.practice, policy_hash=policy.hash()
        )
        played = (outcome for ended in player for outcome in ended)
        for outcome in in_order(played, jobs):
            if len(have) >= config.demonstrations:
                break
            tried, decisions = tried + 1, decisions + outcome.length
            if outcome.success and outcome.job.seed not in have:
                store.append(outcome.latents, seed=outcome.job.seed, success=True)
                kept.extend([outcome.episode] if outcome.episode is not None else [])
                have.add(outcome.job.seed)
            advance(len(have), f"{len(have)} successes in {tried} episodes")
    if not have:
        raise UserError(
            f"the policy solved {task} in none of {tried} episodes, so that SAC has nothing to begin with: "
            "begin with a better policy, allow more --sac.attempts, or choose --rl ppo (with another --out)"
        )
    lacking = (
        {}
        if len(have) == config.demonstrations
        else {"note": f"only {len(have)} successes in {tried} episodes"}
    )
    run.journal.append(event, tried=tried, decisions=decisions, kept=len(have), **lacking)


def of_episodes(
    outcomes: Sequence[LatentOutcome], player: LatentPlayer, progress: RLProgress
) -> dict[str, Any]:
    """What is logged of some episodes beside SAC's own metrics; seconds count from when the stage
    began or went on. The latency has what `sac.rate` holds back in it."""
    return {
        "success": float(np.mean([outcome.success for outcome in outcomes])),
        "length": float(np.mean([outcome.length for outcome in outcomes])),
        "episodes": len(outcomes),
        "updates": progress.updates,
        "dropped": progress.dropped,
        "latency_p99_seconds": float(np.percentile(player.latencies[-LATENCIES:], 99)),
        "env_seconds": player.env_seconds,
        "encode_seconds": player.encode_seconds,
    }
