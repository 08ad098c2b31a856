"""Algorithm 1 of the paper: iterative RL for VLA models (iRe-VLA).

`run_algorithm` is the paper's box, line by line. Every call is one step of it: it is skipped where
the journal says that it is done, and goes on from its newest checkpoint where it was interrupted.
"""

import copy

from irevla.config import METHODS
from irevla.envs.processes import workers_outlive_stages
from irevla.evaluation.in_run import baselines, evaluate_stage, videos
from irevla.models.policy import VLAPolicy
from irevla.rollout.demonstrations import open_store
from irevla.rollout.fleet import fleet_outlives_stages
from irevla.runs.run import Run
from irevla.stages.giving_up import give_up_if_worse
from irevla.stages.harvest import run_harvest
from irevla.stages.pipeline import SecondStages
from irevla.stages.ppo import run_ppo
from irevla.stages.preflight import preflight
from irevla.stages.sac import run_sac
from irevla.stages.start import expert_dataset, new_policy, pin_tasks, starting_policy
from irevla.stages.supervised import run_supervised
from irevla.tasks import SFT, Stage


@workers_outlive_stages()
@fleet_outlives_stages()
def run_algorithm(run: Run) -> VLAPolicy:
    """Run Algorithm 1, or the baseline that `config.method` names; return the policy.

    Safe to interrupt anywhere; the same call goes on. Raises `UserError` for what a user can mend.
    """
    config = run.config
    method = METHODS[config.method]
    suite, tasks = preflight(config)
    pin_tasks(run, suite, tasks)
    expert = expert_dataset(run, suite, tasks)  # D_e
    baselines(run, suite, tasks, expert)

    # Stage 0: pi^0, by supervised learning on D_e (equation 2)
    if config.from_checkpoint:
        policy = starting_policy(run, suite)
    else:
        policy = new_policy(run, suite, SFT, expert)
        if method.sft:
            policy = run_supervised(run, policy, SFT, "all", suite=suite, expert=expert)
    evaluate_stage(run, policy, suite, tasks, SFT)

    # Line 1: D_RL <- {}
    online = open_store(suite, config.env, run.directory / "online", kind="online")
    learns = method.rl != "none" or method.sl != "none"
    rounds = range(1, config.rounds + 1) if learns else ()
    turns = [Stage("rl", task, number) for number in rounds for task in tasks.rl]
    with SecondStages(run, method.sl, suite=suite, expert=expert, online=online) as second:
        for stage in turns:  # line 2: for T_i
            last = stage == turns[-1]
            if not method.sft:
                policy = new_policy(run, suite, stage, expert)

            # Stage 1, lines 4 and 5: online RL until convergence (equation 3)
            before = copy.deepcopy(policy.action_head.state_dict())
            if method.rl != "none":
                if config.rl == "sac":
                    policy = run_sac(run, policy, stage, suite=suite, online=online)
                else:
                    policy = run_ppo(run, policy, stage, method.rl, suite=suite)
                # Whether more is to come of this policy: else it is evaluated in full.
                more = method.sft and not (last and method.sl == "none")
                evaluate_stage(run, policy, suite, tasks, stage, interim=more)

            if method.sl != "none":
                if method.harvest:  # line 6
                    run_harvest(run, policy, stage.then("harvest"), suite=suite, online=online)
                    give_up_if_worse(run, policy, stage, before)

                # Stage 2, lines 8 and 9: supervised learning on D_e + D_RL (equation 4)
                stage_2 = stage.then("sl")
                for done in second.learn(policy, stage_2, last=last):
                    interim = not last or done != stage_2
                    evaluate_stage(run, policy, suite, tasks, done, interim=interim)

    videos(run, policy, suite, tasks)
    return policy
