"""Line 6 of Algorithm 1: D_RL <- D_RL + x_i, successful trajectories of the converged policy."""

from irevla.compute.device import threads
from irevla.config import METHODS, Config
from irevla.data.episodes import EpisodeStore
from irevla.envs.suite import Suite
from irevla.envs.vector import Job
from irevla.models.policy import VLAPolicy
from irevla.progress import bar
from irevla.rollout.actors import MeanActor
from irevla.rollout.episodes import in_order
from irevla.rollout.played import open_episodes
from irevla.runs.run import Run
from irevla.stages.contract import note_failure, still_to_play
from irevla.stages.zero_shot import found_nothing
from irevla.tasks import SHARE, Purpose, Stage, first_seed


def run_harvest(
    run: Run, policy: VLAPolicy, stage: Stage, *, suite: Suite, online: EpisodeStore
) -> None:
    """Play until `harvest.episodes` successes of this stage are in D_RL; failures never are.

    The policy's own actions are the labels; with `harvest.noise` what is executed is disturbed, so
    that D_RL shows how to come back, as the expert's demonstrations do (DART, Laskey et al. 2017).
    Ends after `harvest.attempts` episodes at the latest. Where there is no stage 1, all successes
    within `ppo.steps` or `sac.steps` decisions come first (the control "self-imitation").
    """
    if run.journal.done(stage.name) is not None:
        return
    if found_nothing(run, stage):  # the policy is as it was then
        run.journal.append(stage.name, tried=0, decisions=0, kept=0)
        return
    config = run.config.harvest
    practice = _practice(run.config)
    policy.eval()
    first = first_seed(Purpose.HARVEST, run.config.seed, round=stage.round)
    seeds = range(first, first + min(SHARE, config.attempts + practice))
    jobs = [Job(stage.task, seed, noise=config.noise, burst=config.burst) for seed in seeds]
    done = {
        info.provenance.seed: info.length
        for info in online.episodes
        if info.provenance.task == stage.task and info.provenance.seed in seeds
    }
    wanted = config.episodes
    jobs, tried, kept, decisions = still_to_play(
        run, suite, stage, jobs, done, wanted=wanted + practice
    )
    left = config.attempts
    with (
        threads(1),
        bar(f"Harvest of {stage.target}", practice or wanted) as advance,
        open_episodes(
            run.config.rollouts,
            MeanActor(policy),
            policy,
            suite,
            run.config.env.for_training(),
            jobs,
            images=True,
        ) as episodes,
    ):
        for outcome in in_order(episodes, jobs, episodes.given_up):
            practising = decisions < practice
            tried += 1
            decisions += outcome.length
            kept += outcome.success
            if outcome.success and outcome.job.seed not in done:
                assert outcome.episode is not None
                online.append(outcome.episode)
                done[outcome.job.seed] = outcome.length
            elif not outcome.success:
                note_failure(run, suite, stage, outcome)
            wanted += practising and outcome.success
            left -= not practising
            advance(decisions if practice else kept, f"{kept} successes in {tried} episodes")
            if decisions >= practice and (kept >= wanted or not left):
                break
    facts = {"tried": tried, "decisions": decisions, "kept": kept}
    run.journal.append(stage.name, **facts, **episodes.facts)


def _practice(config: Config) -> int:
    """Return the decisions that take the place of a stage 1 which there is not."""
    if METHODS[config.method].rl != "none":
        return 0
    return config.sac.steps if config.rl == "sac" else config.ppo.steps
