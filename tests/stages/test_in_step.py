"""SAC in a thread beside acting, in step with it."""

import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from irevla.envs.pointmass import POINTMASS
from irevla.envs.suite import RealArm
from irevla.learners.sac import SAC
from irevla.runs.run import open_run
from irevla.stages import sac as sac_stage
from irevla.stages.learner import InStepLearner
from irevla.types import weights_hash
from remote_sac import CONFIG, STAGE, episode, setting


def test_what_was_learnt_is_acted_upon_when_so_many_more_have_ended(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG) as run:
        policy, learner = setting(run, 2)
        online = learner.stores[1]
        acts: list[str] = []
        learnt = [weights_hash(policy.action_head)]
        with InStepLearner(learner, lag=2) as beside:
            for seed in range(10, 15):
                online.append(episode(online, seed), seed=seed, success=True)
                beside.learn()
                acts.append(weights_hash(beside._actor.head))
            beside.finish()
            assert weights_hash(beside._actor.head) == weights_hash(policy.action_head)
            assert beside.updates == learner.updates == len(online) // 2 and beside.moved

        again, in_turn = setting(run, 0)
        for episodes in range(3, 8):
            in_turn.take_up(2, episodes)
            while in_turn.pending_updates > 0:
                in_turn.update()
            learnt.append(weights_hash(again.action_head))
    assert acts == [learnt[0], learnt[0], *learnt[1:4]]
    assert learnt[-1] == weights_hash(policy.action_head) and len(set(learnt)) == 6


def test_what_goes_wrong_in_the_thread_is_raised_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: SAC, *args: object) -> dict[str, float]:
        raise torch.OutOfMemoryError("no memory")

    with open_run(tmp_path, CONFIG) as run:
        _, learner = setting(run, 2)
        monkeypatch.setattr(SAC, "update", fails)
        with pytest.raises(torch.OutOfMemoryError), InStepLearner(learner, lag=99) as beside:
            for _ in range(50):  # at once, not when its turn would come
                beside.learn()
                time.sleep(0.1)


def test_a_real_arm_waits_until_the_thread_has_learnt(tmp_path: Path) -> None:
    arm = replace(POINTMASS, real_arm=MagicMock(spec=RealArm, env_config=lambda env: env))
    with open_run(tmp_path, CONFIG) as run:
        policy, learner = setting(run, 2)
        lags = []
        for suite in (arm, POINTMASS):
            beside = sac_stage._learning(run, policy, STAGE, learner, None, suite)
            assert isinstance(beside, InStepLearner)
            lags.append(beside._lag)
    assert lags == [0, CONFIG.env.workers * CONFIG.env.envs_per_worker]
