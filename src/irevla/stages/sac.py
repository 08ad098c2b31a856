"""Stage 1 by soft actor-critic with demonstrations, as on a real arm (section V-D).

What earlier rounds have left in D_RL, and then successes of the policy as it is, are the
demonstration buffer; then it acts with exploration noise, and every episode goes to the online
buffer. Both are of latents, on disk.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from irevla.compute.device import threads
from irevla.config import Config
from irevla.data.episodes import EpisodeStore
from irevla.data.replay import LatentEpisode, LatentReplay, LatentSpec
from irevla.envs.suite import Authorization, Suite
from irevla.envs.vector import Job, VectorEnv
from irevla.errors import UserError
from irevla.learners.sac import SAC
from irevla.models.policy import VLAPolicy
from irevla.progress import bar
from irevla.rollout.actors import ExploringActor, MeanActor
from irevla.rollout.episodes import EpisodeRecorder, Outcome, in_order
from irevla.rollout.exploration import PinkNoise
from irevla.rollout.serve import Server
from irevla.runs.rl_progress import FILE, RLProgress
from irevla.runs.run import Run
from irevla.stages.async_learner import AsyncLearner
from irevla.stages.contract import check_learnt, complete, load_if_done, resume, save, still_to_play
from irevla.stages.learner import OnlineLearner, SACLearner
from irevla.stages.sac_elsewhere import RemoteLearner, submit_sac
from irevla.stages.sac_job import SACFolder
from irevla.stages.words import Words, taught
from irevla.tasks import Purpose, Stage, draw_seed, first_seed
from irevla.types import Episode, Features, Observation

BATCH = 64  # images of an encoding pass
LEG = 8  # zero-shot episodes between two choices of the words that the policy is told
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
    config = run.config.sac
    policy.eval()
    policy.trainable("head")
    acting = policy.hash()  # as the stage begins: what its episodes are marked with
    demonstrations = open_replay(run, policy, stage, "demonstrations", suite=suite)
    practice = open_replay(run, policy, stage, "online", suite=suite)
    recall_successes(policy, stage, online=online, store=demonstrations)
    collect_seed_successes(
        run,
        policy,
        stage.then("zero-shot"),
        suite=suite,
        store=demonstrations,
        failures=practice if config.keep_failures else None,
        online=online,
    )
    sac = SAC(policy.action_head, config, seed=run.draws(stage))
    learner = SACLearner(sac, demonstrations=demonstrations, online=practice)
    noise = PinkNoise(
        draw_seed(run.draws(stage), "explore"), decisions=run.config.env.for_training().horizon
    )
    progress = RLProgress(config)
    kept_images = online if run.config.harvest.from_training else None
    elsewhere = run.config.compute.stage1 != "inline"
    job = (
        submit_sac(run, policy, stage, practice.spec) if elsewhere else None
    )  # as the stage begins
    files = resume(run.checkpoints, policy, stage, learner)
    told = not files or FILE in files  # a learner elsewhere does not know how far acting is
    if told and _repeats(suite, run.config):  # what came after it is played again, to the same bits
        progress.load_files(files)
        practice.rewind(len(practice.episodes) - len(_practised(practice)) + progress.episodes)

    with (
        threads(1),
        bar(f"Stage 1: SAC on {stage.target}", config.steps) as advance,
        _learning(run, policy, stage, learner, job) as learning,
        _open(run, suite, Authorization(acting, learning=True)) as vec,
    ):
        learning.train_pending()
        _count(progress, practice)
        actor = ExploringActor(policy, noise, learning.act)
        server = Server(vec, actor, _recorder(run, acting, vec))
        dropped = progress.dropped
        while not progress.over:
            for outcome in _play_leg(run, stage, server, practice):
                shown = outcome.shown()
                if shown is not None:
                    demonstrations.append(shown, seed=outcome.job.seed, success=True, person=True)
                _keep(outcome, practice=practice, online=kept_images)
                _count(progress, practice)
                progress.dropped = dropped + vec.dropped
                metrics = learning.train_pending()
                metrics |= _of_episode(outcome, server, learning.updates, progress)
                run.metrics.log(stage.name, progress.decisions, **metrics)
                advance(progress.decisions, progress.note())
                if progress.over:
                    break
            if not progress.over and learning is learner:
                save(run.checkpoints, policy, stage, learner, **progress.files())
        advance(progress.decisions, f"success {progress.rate:.2f}; making the pending updates")
        learning.finish()
    check_learnt(stage, updates=learning.updates - config.warmup, moved=learning.moved)
    remark = vec.lost_note | _remark(progress)
    complete(run, policy, stage, **progress.facts(), **remark, updates=learning.updates)
    return policy


def _remark(progress: RLProgress) -> dict[str, str]:
    if not progress.hopeless:
        return {}
    note = (
        f"nothing succeeded in {progress.episodes} episodes: begin with a better policy, or "
        "allow more --sac.hopeless"
    )
    return {"note": note}


def _play_leg(
    run: Run,
    stage: Stage,
    server: Server[Outcome],
    practice: LatentReplay,
) -> Iterator[Outcome]:
    """Play so many whole episodes; when all of them have ended, there may be a checkpoint.

    Nothing is under way then, so that a run that goes on from it plays what one would that was
    never stopped.
    """
    first = first_seed(Purpose.RL, run.config.seed, round=stage.round)
    first = max([first, *(episode["seed"] + 1 for episode in _practised(practice))])
    seeds = range(first, first + run.config.sac.checkpoint_every)
    return server.play(Job(stage.task, seed) for seed in seeds)


def open_replay(
    run: Run, policy: VLAPolicy, stage: Stage, name: str, *, suite: Suite
) -> LatentReplay:
    """Return DIR/latents/TASK/NAME, whose latents are of the policy's VLM as it is now."""
    blank = torch.zeros(1, *run.config.env.image_shape, dtype=torch.uint8)
    with torch.no_grad():
        text = suite.task(stage.task).instruction
        latents = policy.encode(Observation(blank, (text,), torch.zeros(1, policy.state_dim)))
    _, tokens, width = latents.tokens.shape
    spec = LatentSpec(
        weights=policy.vlm_hash(),
        encoder=f"{policy.device.type} {policy.config.dtype}",
        suite=suite.name,
        tokens=tokens,
        width=width,
        action_dim=suite.action_dim,
        state_dim=policy.state_dim,
    )
    return LatentReplay(run.directory / "latents" / stage.target / name, spec)


def recall_successes(
    policy: VLAPolicy, stage: Stage, *, online: EpisodeStore, store: LatentReplay
) -> None:
    """Bring what earlier rounds left of this task in D_RL to `store`, in the latents of today.

    Where a harvest was disturbed, its actions are those that were meant, not those executed.
    """
    known = {episode["seed"] for episode in store.episodes}
    for index, info in enumerate(online.episodes):
        made = info.provenance
        if made.task == stage.task and _is_earlier(made.seed, stage) and made.seed not in known:
            store.append(_encoded(policy, online[index]), seed=made.seed, success=True)


def _is_earlier(seed: int, stage: Stage) -> bool:
    """Whether an episode of this seed was played in a round before that of `stage`."""
    return seed < first_seed(Purpose.EXPERT, 0, round=stage.round)


@torch.no_grad()
def _encoded(policy: VLAPolicy, episode: Episode) -> LatentEpisode:
    texts = [episode.instruction] * len(episode)
    seen = Observation.of(episode.images, texts, episode.state)
    parts = [policy.encode(seen[at : at + BATCH]).to("cpu") for at in range(0, len(seen), BATCH)]
    return LatentEpisode(
        Features.cat(parts), torch.from_numpy(episode.actions), torch.from_numpy(episode.rewards)
    )


def collect_seed_successes(
    run: Run,
    policy: VLAPolicy,
    stage: Stage,
    *,
    suite: Suite,
    store: LatentReplay,
    online: EpisodeStore,
    failures: LatentReplay | None = None,
) -> None:
    """Bring `store` to `sac.demonstrations` successes, by the policy as it is, without noise.

    Those of earlier rounds count. Those that fail go to `failures`, if it is there: they are
    encoded already. With `harvest.from_training` the new successes go to `online`, D_RL, too. Fewer
    are told; where there is none at all, `UserError`.
    """
    if run.journal.done(stage.name) is not None:
        return
    config = run.config.sac
    acting = policy.hash()
    first = first_seed(Purpose.ZERO_SHOT, run.config.seed, round=stage.round)
    jobs = [Job(stage.task, first + index) for index in range(config.attempts)]
    lengths = {episode["seed"]: episode["decisions"] for episode in store.episodes}
    done = {seed: length for seed, length in lengths.items() if not _is_earlier(seed, stage)}
    recalled = len(lengths) - len(done)
    wanted = config.demonstrations - recalled
    if wanted <= 0:
        run.journal.append(stage.name, tried=0, decisions=0, kept=0, recalled=recalled)
        return
    jobs, tried, decisions = still_to_play(suite, jobs, done, wanted=wanted)
    kept = tried  # of those that are not played again
    words = _words(run, suite, stage)
    kept_images = online if run.config.harvest.from_training else None
    with (
        threads(1),
        bar(f"Zero-shot successes of {stage.target}", wanted) as advance,
        _open(run, suite, Authorization(acting)) as vec,
    ):
        seen = kept_images is not None or words is not None
        recorder = EpisodeRecorder(vec, policy_hash=acting, images=seen, latents=True)
        server = Server(vec, MeanActor(policy, stored=True), recorder)
        for outcome in _tell(server, jobs, words):
            tried += 1
            decisions += outcome.length
            kept += outcome.success
            outcome = _as_of_the_task(policy, suite, outcome)
            if outcome.success and outcome.job.seed not in done:
                _keep(outcome, practice=store, online=kept_images)
                done[outcome.job.seed] = outcome.length
            elif failures is not None and not outcome.success:
                _keep_failure(outcome, failures)
            advance(kept, f"{kept} successes in {tried} episodes")
            if kept >= wanted:
                break
    if not kept + recalled:
        raise UserError(
            f"the policy solved {stage.task} in none of {tried} episodes, so that SAC has nothing "
            "to "
            "begin with: begin with a better policy, allow more --sac.attempts, or choose --rl ppo "
            "(with another --out)"
        )
    facts: dict[str, Any] = {"tried": tried, "decisions": decisions, "kept": kept}
    facts |= vec.lost_note
    if words is not None:
        facts["words"] = words.facts()
    if recalled:
        facts["recalled"] = recalled
    if kept < wanted:
        facts["note"] = f"only {kept} successes in {tried} episodes"
    run.journal.append(stage.name, **facts)


def _words(run: Run, suite: Suite, stage: Stage) -> Words | None:
    """Return what may be told; None: the task's own instruction alone."""
    if not run.config.sac.other_words:
        return None
    own = suite.task(stage.task).instruction
    others = taught(suite, suite.task_lists(run.config), stage)
    return Words(own, others, seed=run.draws(stage))


def _tell(server: Server[Outcome], jobs: Sequence[Job], words: Words | None) -> Iterator[Outcome]:
    """Play `jobs` in their order; what the policy is told depends on how those of earlier legs
    ended."""
    size = len(jobs) if words is None else LEG
    for start in range(0, len(jobs), max(1, size)):
        leg = list(jobs[start : start + size])
        if words is not None:
            leg = [replace(job, instruction=words.choose(job.seed)) for job in leg]
        for outcome in in_order(server.play(iter(leg)), leg, server.vec.given_up):
            if words is not None:
                words.note(outcome.job.instruction, success=outcome.success)
            yield outcome


def _as_of_the_task(policy: VLAPolicy, suite: Suite, outcome: Outcome) -> Outcome:
    """Return the outcome as if the policy had been told the task's own instruction: the latents are
    of that."""
    own = suite.task(outcome.job.task).instruction
    if outcome.job.instruction in ("", own):
        return outcome
    assert outcome.episode is not None
    episode = replace(outcome.episode, instruction=own)
    return replace(outcome, episode=episode, latents=_encoded(policy, episode))


def _learning(
    run: Run, policy: VLAPolicy, stage: Stage, learner: SACLearner, job: SACFolder | None
) -> AbstractContextManager[OnlineLearner]:
    """Return who learns: another machine, a process of its own, or `learner`, in turn."""
    if job is not None:
        return RemoteLearner(run, policy, stage, learner, job)
    return AsyncLearner(run, policy, stage, learner) if run.config.sac.async_learner else learner


def _repeats(suite: Suite, config: Config) -> bool:
    """Whether episodes can be played again to the same bits: not on a real arm, nor with two
    clocks."""
    alone = config.compute.stage1 == "inline" and not config.sac.async_learner
    return suite.real_arm is None and alone


def _open(run: Run, suite: Suite, who: Authorization) -> VectorEnv:
    """Return environments in which `who` may act; they have nothing to play yet."""
    return VectorEnv(suite, run.config.env.for_training(), iter(()), authorization=who)


def _recorder(run: Run, acting: str, vec: VectorEnv) -> EpisodeRecorder:
    images = run.config.harvest.from_training
    return EpisodeRecorder(vec, policy_hash=acting, images=images, latents=True)


def _keep(outcome: Outcome, *, practice: LatentReplay, online: EpisodeStore | None) -> None:
    """Append an episode to the buffer and, where there is one, a success to D_RL.

    D_RL comes first: a kill between the two must not lose the success.
    """
    assert outcome.latents is not None
    if online is not None and outcome.success:
        assert outcome.episode is not None
        if (outcome.job.task, outcome.job.seed) not in online.seeds():
            online.append(outcome.episode)
    practice.append(outcome.latents, seed=outcome.job.seed, success=outcome.success)


def _keep_failure(outcome: Outcome, failures: LatentReplay) -> None:
    """Append a failed zero-shot episode, once."""
    assert outcome.latents is not None
    if outcome.job.seed not in {episode["seed"] for episode in failures.episodes}:
        failures.append(outcome.latents, seed=outcome.job.seed, success=False, zero_shot=True)


def _practised(practice: LatentReplay) -> list[Mapping[str, Any]]:
    """Return the episodes of stage 1 itself: the buffer may begin with zero-shot ones."""
    return [episode for episode in practice.episodes if not episode.get("zero_shot")]


def _count(progress: RLProgress, practice: LatentReplay) -> None:
    """Take the counts from the online buffer: it is the truth about how far the stage has come."""
    practised = _practised(practice)
    successes = [bool(episode["success"]) for episode in practised]
    progress.episodes = len(successes)
    progress.successes = sum(successes)
    progress.decisions = sum(episode["decisions"] for episode in practised)
    progress.recent = successes[-progress.config.window :]


def _of_episode(
    outcome: Outcome, server: Server[Outcome], updates: int, progress: RLProgress
) -> dict[str, float]:
    """Return what is logged of an episode beside SAC's own metrics; seconds are of this process."""
    return {
        "success": float(outcome.success),
        "length": float(outcome.length),
        "episodes": 1.0,
        "updates": float(updates),
        "dropped": float(progress.dropped),
        "interventions": float(outcome.interventions),
        "intervention_decisions": float(0 if outcome.person is None else outcome.person.sum()),
        "latency_p99_seconds": float(np.percentile(server.latencies[-LATENCIES:], 99)),
        "env_seconds": server.env_seconds,
        "encode_seconds": server.encode_seconds,
    }
