"""A stage 1 that made the policy worse does not get into stage 2."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from irevla import algorithm
from irevla.cli.main import main
from irevla.config import Config, EnvConfig, HarvestConfig, ModelConfig
from irevla.models.policy import VLAPolicy, build_policy
from irevla.runs.run import Run, open_run
from irevla.stages.giving_up import give_up_if_worse
from irevla.storage.journal import Journal
from irevla.tasks import Stage
from irevla.types import weights_hash

STAGE = Stage("rl", "left-disc-new")
MODEL = ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16)
CONFIG = Config(suite="pointmass", model=MODEL, env=EnvConfig(image_size=32), rl="sac")
SHORT = """
--device cpu --threads 1 --rl sac --sac.no-gripper --rl-tasks left-disc-new
--eval.episodes 4 --eval.interim 0 --eval.no-videos --expert.episodes 6 --sft.steps 400
--sft.validate-every 200 --sac.steps 200 --sac.demonstrations 2 --sac.attempts 20 --sac.warmup 5
--harvest.episodes 2 --harvest.attempts 30 --sl.steps 20 --sl.validate-every 10 --env.workers 1
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_run(tmp_path, CONFIG) as opened:
        yield opened


def played(run: Run, kind: Any, kept: int, tried: int, **facts: Any) -> None:
    run.journal.append(STAGE.then(kind).name, kept=kept, tried=tried, decisions=tried, **facts)


def judged(run: Run) -> tuple[str, str, str]:
    """The heads before stage 1, after it, and what stage 2 begins with."""
    policy: VLAPolicy = build_policy(MODEL, action_dim=2, image_size=32)
    before = copy.deepcopy(policy.action_head.state_dict())
    first = weights_hash(policy.action_head)
    with torch.no_grad():
        for parameter in policy.action_head.parameters():
            parameter += 1.0
    after = weights_hash(policy.action_head)
    give_up_if_worse(run, policy, STAGE, before)
    return first, after, weights_hash(policy.action_head)


def test_one_that_is_worse_beyond_noise_is_given_up(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    played(run, "zero-shot", 20, 26)
    played(run, "harvest", 0, 60)
    for _ in range(2):  # the second time as a run that goes on
        before, after, now = judged(run)
        assert now == before != after
    said = "stage 1 made left-disc-new worse, 20 of 26 episodes before and 0 of 60 after it"
    assert capsys.readouterr().err.count(said) == 1
    events = [record for record in run.journal if record["event"] == "given up rl:left-disc-new"]
    assert len(events) == 1 and said in events[0]["note"]


@pytest.mark.parametrize(
    ("first", "last"),
    [((20, 26), (15, 20)), ((20, 40), (15, 40)), ((20, 56), (30, 32)), ((0, 0), (0, 60))],
)
def test_noise_is_no_reason(run: Run, first: tuple[int, int], last: tuple[int, int]) -> None:
    played(run, "zero-shot", *first)
    played(run, "harvest", *last)
    _, after, now = judged(run)
    assert now == after


def test_what_cannot_be_compared_is_not(tmp_path: Path) -> None:
    """Words of other tasks, disturbed harvests, and PPO, which plays no zero-shot episodes."""
    noisy = replace(CONFIG, harvest=HarvestConfig(noise=0.5, burst=4))
    for number, (config, zero_shot, facts) in enumerate(
        ((CONFIG, True, {"words": []}), (noisy, True, {}), (CONFIG, False, {}))
    ):
        with open_run(tmp_path / str(number), config) as run:
            if zero_shot:
                played(run, "zero-shot", 20, 26, **facts)
            played(run, "harvest", 0, 60)
            _, after, now = judged(run)
            assert now == after


def test_a_run_goes_on_with_the_head_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    ran = algorithm.run_sac

    def spoilt(run: Run, policy: VLAPolicy, stage: Stage, **rest: Any) -> VLAPolicy:
        begun.append(weights_hash(policy.action_head))
        policy = ran(run, policy, stage, **rest)
        with torch.no_grad():  # it goes one way, wherever the goal is
            for parameter in policy.action_head.parameters():
                parameter += 3.0
        return policy

    judge = algorithm.give_up_if_worse

    def watched(run: Run, policy: VLAPolicy, *rest: Any) -> None:
        judge(run, policy, *rest)
        begun.append(weights_hash(policy.action_head))

    monkeypatch.setattr(algorithm, "run_sac", spoilt)
    monkeypatch.setattr(algorithm, "give_up_if_worse", watched)
    assert main(["run", "pointmass", "--out", str(tmp_path), *SHORT.split()]) == 0
    first, last = begun
    given_up = Journal(tmp_path / "journal.jsonl").done("given up rl:left-disc-new") is not None
    harvest = Journal(tmp_path / "journal.jsonl").done("harvest:left-disc-new")
    assert given_up == (first == last), harvest
    assert given_up, harvest
