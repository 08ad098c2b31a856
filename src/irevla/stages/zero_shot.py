"""The first half of what SAC learns from: successes of the policy as it is (section V-D)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from irevla.compute.device import threads
from irevla.envs.suite import Authorization, Suite
from irevla.envs.vector import Job
from irevla.models.policy import VLAPolicy
from irevla.progress import bar, console
from irevla.rollout.actors import MeanActor
from irevla.rollout.episodes import Outcome, in_order
from irevla.rollout.serve import Server
from irevla.runs.run import Run
from irevla.stages.contract import note_failure, still_to_play
from irevla.stages.keeping import Kept, encoded, is_earlier, lengths, open_environments, recorder
from irevla.stages.words import Words, taught
from irevla.tasks import Purpose, Stage, first_seed

LEG = 8  # episodes between two choices of the words that the policy is told


def collect_successes(
    run: Run, policy: VLAPolicy, stage: Stage, *, suite: Suite, kept: Kept
) -> None:
    """Bring the demonstration buffer to `sac.demonstrations` successes, by the policy as it is,
    without noise.

    Those of earlier rounds count. With `sac.keep_failures` those that fail begin the online buffer:
    they are encoded already. Fewer are told, and none too. A buffer that was deleted, since it was
    damaged, is made again.
    """
    if run.journal.done(stage.name) is not None and kept.demonstrations.episodes:
        return
    if found_nothing(run, stage):
        return
    known = lengths(kept.demonstrations.episodes)
    done = {seed: steps for seed, steps in known.items() if not is_earlier(seed, stage)}
    recalled = len(known) - len(done)
    wanted = run.config.sac.demonstrations - recalled
    if wanted <= 0:
        run.journal.append(stage.name, tried=0, decisions=0, kept=0, recalled=recalled)
        return
    facts = _play(run, policy, stage, suite=suite, kept=kept, done=done, wanted=wanted)
    if recalled:
        facts["recalled"] = recalled
    if facts["kept"] < wanted:
        facts["note"] = f"only {facts['kept']} successes in {facts['tried']} episodes"
    if not facts["kept"] + recalled:
        facts["note"] = (
            f"the policy solved {stage.task} in none of {facts['tried']} episodes, so that SAC has "
            "nothing to begin with: begin with a better policy, allow more --sac.attempts, or "
            "choose --rl ppo (with another --out)"
        )
        console.print(f"{stage.name}: {facts['note']}", style="yellow", soft_wrap=True)
    run.journal.append(stage.name, **facts)


def found_nothing(run: Run, stage: Stage) -> bool:
    """Whether the zero-shot episodes of a turn were played, and none has ever succeeded."""
    record = run.journal.done(stage.then("zero-shot").name)
    return record is not None and not record["kept"] + record.get("recalled", 0)


def _play(
    run: Run,
    policy: VLAPolicy,
    stage: Stage,
    *,
    suite: Suite,
    kept: Kept,
    done: dict[int, int],
    wanted: int,
) -> dict[str, Any]:
    """Play until `wanted` have succeeded; return what the journal says of it.

    `done` has the seeds and the steps of those that an attempt before has brought.
    """
    config = run.config.sac
    first = first_seed(Purpose.ZERO_SHOT, run.config.seed, round=stage.round)
    jobs = [Job(stage.task, first + index) for index in range(config.attempts)]
    jobs, tried, solved, decisions = still_to_play(run, suite, stage, jobs, done, wanted=wanted)
    words = _words(run, suite, stage)
    acting = policy.hash()
    with (
        threads(1),
        bar(f"Zero-shot successes of {stage.target}", wanted) as advance,
        open_environments(run, suite, Authorization(acting)) as vec,
    ):
        records = recorder(run, policy, acting, vec, images=kept.images or words is not None)
        server = Server(vec, MeanActor(policy, stored=True), records)
        for outcome in _tell(server, jobs, words):
            tried += 1
            decisions += outcome.length
            solved += outcome.success
            outcome = _as_of_the_task(policy, suite, outcome, gamma=config.gamma)
            if outcome.success and outcome.job.seed not in done:
                kept.keep_success(outcome)
            elif not outcome.success:
                if config.keep_failures:
                    kept.keep_failure(outcome)
                note_failure(run, suite, stage, outcome)
            advance(solved, f"{solved} successes in {tried} episodes")
            if solved >= wanted:
                break
    facts: dict[str, Any] = {"tried": tried, "decisions": decisions, "kept": solved}
    facts |= vec.lost_note
    return facts if words is None else {**facts, "words": words.facts()}


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


def _as_of_the_task(policy: VLAPolicy, suite: Suite, outcome: Outcome, *, gamma: float) -> Outcome:
    """Return the outcome as if the policy had been told the task's own instruction: the latents are
    of that."""
    own = suite.task(outcome.job.task).instruction
    if outcome.job.instruction in ("", own):
        return outcome
    assert outcome.episode is not None
    episode = replace(outcome.episode, instruction=own)
    return replace(outcome, episode=episode, latents=encoded(policy, episode, gamma=gamma))
