"""Of SAC's last actors the best goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from irevla.envs.suite import load_suite
from irevla.evaluation.stats import _practice
from irevla.models.policy import VLAPolicy
from irevla.runs.run import Run, open_run
from irevla.stages.last_actors import LastActors, choose_actor
from irevla.stages.start import new_policy
from irevla.tasks import SFT, Stage
from toys import SMALL_SAC

TASK = "left-disc-new"
STAGE = Stage("rl", TASK)
CONFIG = replace(
    SMALL_SAC,
    sac=replace(SMALL_SAC.sac, trial=20, gripper=False),
)


def policy_of(run: Run) -> VLAPolicy:
    policy = new_policy(run, load_suite("pointmass"), SFT, None)
    return policy.eval()


def last_layer(policy: VLAPolicy) -> torch.nn.Linear:
    layer = policy.action_head.mlp[-1]
    assert isinstance(layer, torch.nn.Linear)
    return layer


def constant(policy: VLAPolicy, *action: float) -> VLAPolicy:
    """Let the policy do the same always."""
    with torch.no_grad():
        last = last_layer(policy)
        last.weight.zero_()
        last.bias.copy_(torch.tensor(action))
    return policy


def test_they_are_kept_with_a_checkpoint(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", CONFIG) as run:
        policy = policy_of(run)
    last = LastActors(2)
    for value in (1.0, 2.0, 3.0):
        last.add(constant(policy, value, 0.0).action_head)
    last_layer(policy).bias.data.zero_()  # it trains on: what was kept stays
    again = LastActors(2)
    again.load_files(last.files())
    biases = [head["mlp.2.bias"].tolist() for head in again.heads]
    assert biases == [[2.0, 0.0], [3.0, 0.0]]
    assert LastActors(2).files() == {}


@pytest.mark.parametrize("lost", [0, 1])
def test_the_best_of_them_goes_on(tmp_path: Path, lost: int) -> None:
    """Of equals the latest; all are tried in the same episodes."""
    with open_run(tmp_path / "run", CONFIG) as run:
        policy = policy_of(run)
        last = LastActors(2)
        *before, now = ((-1.0, 3.0), (-1.0, 3.0), (0.0, -3.0))[: 3 - lost]
        for action in before:
            last.add(constant(policy, *action).action_head)
        constant(policy, *now)
        facts = choose_actor(run, policy, STAGE, last, suite=load_suite("pointmass"))
    solved = facts["trial"]["solved"]
    assert solved[0] == solved[1] > 0 == sum(solved[2:])
    assert facts["trial"]["best"] == 1
    assert last_layer(policy).bias.tolist() == [-1.0, 3.0]
    assert facts["trial"]["decisions"] > 0


def test_with_one_there_is_no_choice(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", CONFIG) as run:
        policy = policy_of(run)
        last = LastActors(0)
        last.add(policy.action_head)
        assert last.files() == {}
        assert choose_actor(run, policy, STAGE, last, suite=load_suite("pointmass")) == {}


def test_its_time_counts_as_practice(tmp_path: Path) -> None:
    """What the arm moves for a trial is the robot's time."""
    journal = [
        {"event": "rl:a", "decisions": 10, "trial": {"decisions": 3}},
        {"event": "harvest:a", "decisions": 5},
    ]
    assert _practice(journal) == 18
