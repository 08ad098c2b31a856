"""Stage 1 practises at starts whose outcome is least certain."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from breaking_suite import BREAKING, BROKEN
from torch import Tensor

from irevla.config import Config
from irevla.data.replay import LatentEpisode
from irevla.envs.suite import load_suite
from irevla.rollout.demonstrations import open_store
from irevla.runs.run import Run, open_run
from irevla.stages.keeping import open_kept
from irevla.stages.start import new_policy
from irevla.stages.starts import BEFORE, UNCHOSEN, Starts, least_certain
from irevla.tasks import SFT, Purpose, Stage, first_seed
from irevla.types import Features, Observation
from toys import SMALL_SAC

TASK = "left-disc-new"
STAGE = Stage("rl", TASK)
CONFIG = replace(
    SMALL_SAC,
    sac=replace(SMALL_SAC.sac, starts=4, checkpoint_every=8),
)
FIRST = first_seed(Purpose.RL, CONFIG.seed)


def first_token(features: Features) -> Tensor:
    return features.tokens[:, 0]


def starts_of(run: Run, config: Config, *, practised: int = 0) -> Starts:
    """The starts of a stage that has practised for so many episodes, of one decision each."""
    suite = load_suite("pointmass")
    policy = new_policy(run, suite, SFT, None).eval()
    online = open_store(suite, config.env, run.directory / "online", kind="online")
    kept = open_kept(run, policy, STAGE, suite=suite, online=online)
    spec = kept.practice.spec
    generator = torch.Generator().manual_seed(0)
    for number in range(practised):
        tokens = torch.randn(1, spec.tokens, spec.width, generator=generator)
        seen = Features(tokens, torch.ones(1, spec.tokens, dtype=torch.bool))
        episode = LatentEpisode(seen, torch.zeros(1, spec.action_dim), torch.zeros(1))
        kept.practice.append(episode, seed=FIRST + number, success=number % 2 == 0)
    return Starts(run, policy, STAGE, suite, kept, first_token)


def test_the_outcomes_of_those_that_look_alike_say_how_certain_one_is() -> None:
    """Below 1 all succeed, above 2 none, and between these every other one."""
    places = torch.arange(200) * 3 / 200
    success = (places < 1) | ((places < 2) & (torch.arange(200) % 2 == 0))
    looks = torch.tensor([[0.2, 2.8, 1.5], [1.6, 0.5, 2.9], [0.1, 0.2, 0.3]])[..., None]
    assert least_certain(looks, places[:, None], success.float()).tolist() == [2, 0, 0]


def test_one_that_nobody_could_see_comes_last() -> None:
    places = torch.tensor([0.0, 1.0])
    lost = torch.nan
    looks = torch.tensor([[lost, 0.2, 0.4], [0.1, lost, lost], [lost, lost, lost]])[..., None]
    assert least_certain(looks, places[:, None], torch.tensor([1.0, 1.0])).tolist() == [1, 0, 0]


def test_of_some_starts_one_is_played_and_every_fourth_as_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looks(self: Starts, seeds: Sequence[int]) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(len(seeds), self.policy.vlm.width, generator=generator)

    monkeypatch.setattr(Starts, "_looks", looks)  # a toy's starts all look alike
    with open_run(tmp_path / "run", CONFIG) as run:
        starts = starts_of(run, CONFIG, practised=BEFORE)
        seeds = starts.next_leg()
        again = starts.next_leg()
    groups = [FIRST + BEFORE + 4 * number for number in range(8)]
    assert again == seeds, "it hangs on what is kept alone, so that a run goes on as it would have"
    assert seeds[::UNCHOSEN] == groups[::UNCHOSEN]
    assert all(0 <= seed - group < 4 for seed, group in zip(seeds, groups, strict=True))
    assert seeds != groups


@pytest.mark.parametrize(("practised", "number"), [(BEFORE - 1, 4), (BEFORE, 1)])
def test_at_first_and_of_one_there_is_no_choice(
    tmp_path: Path, practised: int, number: int
) -> None:
    config = replace(CONFIG, sac=replace(CONFIG.sac, starts=number))
    with open_run(tmp_path / "run", config) as run:
        seeds = starts_of(run, config, practised=practised).next_leg()
    first = FIRST + practised
    assert seeds == list(range(first, first + 8 * number, number))


def test_a_start_is_looked_at_before_anything_moves(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", CONFIG) as run:
        starts = starts_of(run, CONFIG)
        seeds = [5, 6, 7, 8, 9]
        looks = starts._looks(seeds)
    env = starts.suite.make(TASK, CONFIG.env)
    images = np.stack([env.reset(seed=seed)[0] for seed in seeds])
    text = starts.suite.task(TASK).instruction
    with torch.no_grad():
        features = starts.policy.encode(Observation.of(images, [text] * 5))
    torch.testing.assert_close(looks, first_token(features), atol=2e-2, rtol=2e-2)
    assert not torch.equal(looks[0], looks[1])


def test_what_fails_while_it_is_looked_at_ends_no_run(tmp_path: Path) -> None:
    """Of so few, one is more than `env.lost_share` bears."""
    with open_run(tmp_path / "run", CONFIG) as run:
        starts = replace(starts_of(run, CONFIG), suite=BREAKING)
        looks = starts._looks([BROKEN - 2, BROKEN - 1, BROKEN])
    assert looks.isnan().any(1).tolist() == [False, False, True]
