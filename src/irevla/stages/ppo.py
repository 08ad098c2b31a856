"""Stage 1 by PPO: online RL until convergence, equation (3). Line 4: pi^1 starts as pi^2, with a
new critic head; line 5: optimise."""

import torch

from irevla.compute.device import seeded, threads
from irevla.envs.suite import Authorization, Suite
from irevla.learners.ppo import PPO
from irevla.models.heads import CriticHead
from irevla.models.policy import VLAPolicy
from irevla.progress import bar, console
from irevla.rollout.practice import Practice, open_rollouts
from irevla.runs.rl_progress import RLProgress
from irevla.runs.run import Run
from irevla.stages.contract import check_learnt, complete, load_if_done, resume, save
from irevla.tasks import Parts, Purpose, Stage, draw_seed, first_seed


def run_ppo(run: Run, policy: VLAPolicy, stage: Stage, parts: Parts, *, suite: Suite) -> VLAPolicy:
    """Let `parts` of the policy learn by trial and error on the task of `stage`.

    Raises `UserError` where episodes succeeded and no gradient was other than exactly zero.
    """
    if load_if_done(run, policy, stage):
        return policy
    config = run.config.ppo
    draws = run.draws(stage)
    before = _copies(policy, parts)
    policy.eval()  # dropout off: the latents of an observation do not depend on chance
    acting = Authorization(policy.hash(), learning=True)
    policy.reset_exploration(config.std)
    with seeded(draw_seed(draws, "critic")):
        critic = CriticHead.mirror(policy.action_head)
    learner = PPO(policy, critic, config, parts=parts, seed=draws)
    progress = RLProgress(config)
    files = resume(run.checkpoints, policy, stage, learner)
    progress.load_files(files)

    practice = Practice(
        suite,
        run.config.env.for_training(),
        stage.task,
        first=first_seed(Purpose.RL, run.config.seed, round=stage.round),
        explore=draw_seed(draws, "explore"),
        gamma=config.gamma,
    )
    with (
        threads(1),
        bar(f"Stage 1: RL on {stage.target}", config.steps) as advance,
        open_rollouts(
            run.config.rollouts, policy, practice, live=learner.live, acting=acting, files=files
        ) as rollouts,
    ):
        while not progress.over:
            batch, stats = rollouts.collect(learner.critic, config.rollout)
            metrics = learner.update(batch)
            progress.add(
                decisions=stats.decisions, successes=stats.successes, dropped=stats.dropped
            )
            run.metrics.log(stage.name, progress.decisions, **metrics, **stats.metrics())
            advance(progress.decisions, progress.note())
            if learner.updates % config.checkpoint_every == 0:
                save(
                    run.checkpoints, policy, stage, learner, **progress.files(), **rollouts.state()
                )
    remark = _remark(learner, progress, stage)
    if progress.fell:
        remark = {"note": _fall(progress)}
        console.print(f"{stage.name}: {remark['note']}", style="yellow", soft_wrap=True)
        _restore(policy, before, parts)
    complete(run, policy, stage, **progress.facts(), **rollouts.lost_note | remark)
    return policy


def _copies(policy: VLAPolicy, parts: Parts) -> list[torch.Tensor]:
    """Return what stage 1 trains, as it is now."""
    return [parameter.detach().to("cpu", copy=True) for parameter in policy.trainable(parts)]


@torch.no_grad()
def _restore(policy: VLAPolicy, before: list[torch.Tensor], parts: Parts) -> None:
    for parameter, old in zip(policy.trainable(parts), before, strict=True):
        parameter.copy_(old)


def _fall(progress: RLProgress) -> str:
    """Return what is said where fewer episodes succeeded at the end than at the start."""
    return (
        f"success fell from {sum(progress.first)} to {sum(progress.recent)} of "
        f"{progress.config.window} episodes: the policy stays as it was before"
    )


def _remark(learner: PPO, progress: RLProgress, stage: Stage) -> dict[str, str]:
    """Return a note for the journal, and tell it, where nothing succeeded and so nothing was
    learnt: without any reward all advantages are alike, and other tasks must not wait for this one.

    Raises `UserError` where episodes did succeed, and still nothing was learnt.
    """
    updates = learner.updates - learner.config.warmup
    if learner.moved or progress.converged or (updates <= 0 and not progress.hopeless):
        return {}
    if progress.successes:
        check_learnt(stage, updates=updates, moved=learner.moved)
    more = "--ppo.hopeless" if progress.hopeless else "--ppo.steps"
    note = (
        f"nothing was learnt, for nothing succeeded in {progress.episodes} episodes: begin with a "
        f"better policy, or allow more {more}"
    )
    console.print(f"{stage.name}: {note}", style="yellow", soft_wrap=True)
    return {"note": note}
