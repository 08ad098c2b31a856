"""irevla as a library: preset, run, evaluate."""

from dataclasses import replace
from pathlib import Path

import pytest

import irevla
from irevla.config import EvalConfig, ExpertConfig, HarvestConfig, PPOConfig, SFTConfig
from irevla.errors import UserError

FEW = SFTConfig(steps=4, batch=16, validate_every=4, warmup=1)


def test_a_run_and_its_policy_evaluated(tmp_path: Path) -> None:
    config = irevla.preset(
        "pointmass",
        seed=1,
        threads=1,
        rl_tasks=("left-disc-new",),
        expert=ExpertConfig(episodes=2),
        sft=FEW,
        sl=FEW,
        ppo=PPOConfig(steps=64, rollout=8),
        harvest=HarvestConfig(episodes=1, attempts=2),
        eval=EvalConfig(episodes=1, interim=0, videos=False),
    )
    policy = irevla.run(config, out=tmp_path / "toy")
    assert (tmp_path / "toy" / "report.html").exists()
    again = irevla.run(config, out=str(tmp_path / "toy"))
    assert again.hash() == policy.hash()
    (row,) = irevla.evaluate(policy, "pointmass", tasks=["left-disc-new"], episodes=3)
    assert (row.task, row.episodes) == ("left-disc-new", 3)
    (saved,) = irevla.evaluate(tmp_path / "toy", "pointmass", tasks=["left-disc-new"], episodes=3)
    assert saved.successes == row.successes


def test_mistakes_get_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'pointmass'"):
        irevla.preset("pointmas")
    with pytest.raises(UserError, match="did you mean 'seed'"):
        irevla.preset("pointmass", sede=1)
    with pytest.raises(UserError, match="seed must be in"):
        irevla.preset("pointmass", seed=-1)
    with pytest.raises(AttributeError):
        _ = irevla.polycy


def test_a_preset_is_not_changed_by_what_is_made_of_it() -> None:
    before = irevla.preset("pointmass")
    irevla.preset("pointmass", seed=5)
    assert irevla.preset("pointmass") == before != replace(before, seed=5)
