"""irevla as a library: preset, run, evaluate."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import irevla
from irevla.config import EvalConfig, ExpertConfig, HarvestConfig, PPOConfig, SFTConfig
from irevla.data.buffers import RolloutBatch
from irevla.errors import UserError
from irevla.learners.ppo import PPO
from irevla.storage.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("coarse_plots")
FEW = SFTConfig(steps=4, batch=16, validate_every=4, warmup=1)


TOY = irevla.preset(
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


def test_a_run_and_its_policy_evaluated(tmp_path: Path) -> None:
    config = TOY
    policy = irevla.run(config, out=tmp_path / "toy")
    assert (tmp_path / "toy" / "report.html").exists()
    again = irevla.run(config, out=str(tmp_path / "toy"))
    assert again.hash() == policy.hash()
    (row,) = irevla.evaluate(policy, "pointmass", tasks=["left-disc-new"], episodes=3)
    assert (row.task, row.episodes) == ("left-disc-new", 3)
    (saved,) = irevla.evaluate(tmp_path / "toy", "pointmass", tasks=["left-disc-new"], episodes=3)
    assert saved.successes == row.successes


def test_a_finished_run_outlives_what_it_started_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own command opens it, from any directory that the source is named from."""
    monkeypatch.chdir(tmp_path)
    irevla.run(replace(TOY, method="sft"), out="first")
    given = replace(
        TOY,
        from_checkpoint="first",
        expert=replace(TOY.expert, dataset="first/expert"),
    )
    policy = irevla.run(given, out="second")
    whole = replace(
        given,
        from_checkpoint=str(tmp_path / "first"),
        expert=replace(TOY.expert, dataset=str(tmp_path / "first" / "expert")),
    )
    assert irevla.run(whole, out="second").hash() == policy.hash()
    shutil.rmtree("first")
    assert irevla.run(given, out="second").hash() == policy.hash()
    with pytest.raises(UserError, match="started with other settings"):
        irevla.run(replace(given, seed=2), out="second")
    with pytest.raises(UserError, match="no folder first"):
        irevla.run(given, out="third")


def test_a_run_goes_on_with_other_workers_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the midst of stage 1: what was under way is lost, and nothing else."""
    config = replace(TOY, ppo=replace(TOY.ppo, steps=512, checkpoint_every=1))
    update = PPO.update

    def interrupted(self: PPO, batch: RolloutBatch) -> dict[str, float]:
        if self.updates == 3:
            raise KeyboardInterrupt
        return update(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PPO, "update", interrupted)
        irevla.run(config, out=tmp_path)
    env = replace(config.env, workers=config.env.workers + 1)
    irevla.run(replace(config, env=env, threads=2), out=tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "went on with threads: 1 -&gt; 2; env.workers: 2 -&gt; 3" in page
    steps = [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl") if "return" in row]
    assert steps == sorted(set(steps)) and steps[-1] >= 512


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
