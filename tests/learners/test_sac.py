"""SAC on buffers of latents of a toy: examples/sac_on_latents.py."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sac_on_latents as toy
import torch

from irevla.config import SACConfig
from irevla.data.buffers import Decisions
from irevla.data.read_replay import ReadReplay, sample_both
from irevla.data.replay import LatentEpisode, LatentReplay
from irevla.errors import UserError
from irevla.learners import sac as sac_module
from irevla.learners.sac import SAC
from irevla.models.heads import ActionHead
from irevla.storage import checkpoint
from irevla.types import Features, weights_hash

CONFIG = SACConfig(batch=32, utd=2, critics=4, warmup=0, alpha=0.01)
Buffers = tuple[LatentReplay, LatentReplay]


def new_head() -> ActionHead:
    torch.manual_seed(0)
    return ActionHead(width=toy.WIDTH, groups=4, hidden=32, action_dim=3)


def sac_for(config: SACConfig = CONFIG, *, seed: int = 0) -> SAC:
    return SAC(new_head(), config, seed=seed)


def random_episode(length: int, *, success: bool, fill: float | None = None) -> LatentEpisode:
    seen = toy.latents(2 * torch.rand(length, 2) - 1)
    rewards = torch.zeros(length)
    rewards[-1] = float(success)
    if fill is not None:
        rewards += fill
    return LatentEpisode(seen, 2 * torch.rand(length, 3) - 1, rewards)


@pytest.fixture
def buffers(tmp_path: Path) -> Buffers:
    demonstrations = toy.replay(tmp_path / "demonstrations")
    online = toy.replay(tmp_path / "online")
    for _ in range(3):
        demonstrations.append(random_episode(8, success=True))
        online.append(random_episode(8, success=False))
    return demonstrations, online


def read(sac: SAC, buffer: LatentReplay) -> ReadReplay:
    """All of a buffer as the critics see it."""
    seen = ReadReplay(buffer, sac.read, gamma=sac.config.gamma)
    seen.take_up(len(buffer.episodes))
    return seen


def batches(sac: SAC, buffers: Buffers) -> tuple[list[Decisions], Features]:
    """What an update is given: other samples in each, and the latents of the last."""
    generator = torch.Generator().manual_seed(sac.updates)
    config = sac.config
    both = [read(sac, buffer) for buffer in buffers]
    samples = [sample_both(*both, config.batch, generator) for _ in range(config.utd)]
    return [sample.decisions() for sample in samples], samples[-1].features()


def learn(sac: SAC, buffers: Buffers, *, updates: int = 1) -> dict[str, float]:
    """The metrics of the last update."""
    metrics: dict[str, float] = {}
    for _ in range(updates):
        metrics = sac.update(*batches(sac, buffers))
    return metrics


def everything(sac: SAC) -> list[str]:
    return [weights_hash(module) for module in (sac.actor, sac.critic, sac.reference)]


def test_the_warm_up_teaches_the_critics_and_leaves_the_actor_bit_for_bit(
    buffers: Buffers,
) -> None:
    sac = sac_for(replace(CONFIG, critic_lr=3e-3, warmup=61))
    actor, critic, _ = everything(sac)
    first = learn(sac, buffers)
    last = learn(sac, buffers, updates=60)
    assert everything(sac)[0] == actor and everything(sac)[1] != critic
    assert last["critic_loss"] < 0.5 * first["critic_loss"]
    assert "value" not in first and last["alpha"] == pytest.approx(CONFIG.alpha)
    reference = weights_hash(sac.reference)
    assert "value" in learn(sac, buffers)
    assert everything(sac)[0] != actor and weights_hash(sac.reference) == reference


def test_it_knows_whether_any_gradient_of_the_actor_was_more_than_zero(
    buffers: Buffers, monkeypatch: pytest.MonkeyPatch
) -> None:
    sac = sac_for(replace(CONFIG, warmup=1, anchor=0.0))
    value = sac_module.soft_value
    with monkeypatch.context() as patch:
        patch.setattr(sac_module, "soft_value", lambda *args, **kwargs: 0 * value(*args, **kwargs))
        learn(sac, buffers, updates=3)
    assert not sac.moved
    again = sac_for(replace(CONFIG, warmup=1, anchor=0.0))
    again.load_state(sac.state())
    assert not again.moved
    learn(again, buffers)
    assert again.moved and again.state()["learner.json"]["moved"]


def test_the_critics_are_fitted_to_returns(buffers: Buffers) -> None:
    """Of two successes seen by a far larger critic, each decision's value is its return."""
    sac = sac_for(replace(CONFIG, critic_lr=3e-3, warmup=10_000, gamma=0.5))
    learn(sac, buffers, updates=400)
    buffer = read(sac, buffers[0])
    shown = buffer.decisions(buffer.draw(200, torch.Generator().manual_seed(1)))
    motion, gripper = sac.actor.split(shown.actions)
    said = sac.critic(shown.h, motion).mean(0)
    said = said.gather(1, gripper[:, None]).squeeze(1)
    assert set(shown.returns.tolist()) == {0.5**k for k in range(8)}
    assert (said - shown.returns).abs().mean() < 0.1


def test_critics_begin_at_zero_so_their_first_loss_is_of_the_returns(buffers: Buffers) -> None:
    sac = sac_for(replace(CONFIG, utd=1, warmup=1, gamma=1.0))
    metrics = learn(sac, buffers)  # returns are 0 or 1
    assert metrics["critic_loss"] == pytest.approx(metrics["return"] / 2)


@pytest.mark.parametrize(("gripper_entropy", "rises"), [(1.0, True), (0.0, False)])
def test_the_grippers_temperature_is_tuned(
    buffers: Buffers, gripper_entropy: float, rises: bool
) -> None:
    sac = sac_for(replace(CONFIG, gripper_entropy=gripper_entropy))
    metrics = learn(sac, buffers, updates=5)
    assert (metrics["alpha"] > CONFIG.alpha) is rises


def test_without_a_gripper_there_is_nothing_to_tune(buffers: Buffers) -> None:
    sac = sac_for(replace(CONFIG, gripper=False))
    metrics = learn(sac, buffers, updates=3)
    assert metrics["gripper_entropy"] == 0
    assert metrics["alpha"] == pytest.approx(CONFIG.alpha)
    assert sac.critic.weights[-1].shape[-1] == 1


def test_the_anchor_holds_the_actor(buffers: Buffers) -> None:
    strayed = []
    for weight in (0.0, 10.0):
        sac = sac_for(replace(CONFIG, anchor=weight, lr=3e-3))
        strayed.append(learn(sac, buffers, updates=60)["anchor"])
    assert strayed[1] < 0.2 * strayed[0]


def test_the_actors_step_leaves_the_critics_alone(buffers: Buffers) -> None:
    sac = sac_for(replace(CONFIG, warmup=1))
    learn(sac, buffers)
    critic, reference = everything(sac)[1:3]
    decisions, features = batches(sac, buffers)
    sac._actor_step(decisions[-1], features)
    assert everything(sac)[1:3] == [critic, reference]
    parameters = [parameter for group in sac.groups.values() for parameter in group]
    assert all(parameter.grad is None for parameter in parameters)


def test_non_finite_gradients_are_skipped_and_counted(buffers: Buffers) -> None:
    sac = sac_for(replace(CONFIG, warmup=1))
    before = everything(sac)
    buffers[1].append(random_episode(200, success=False, fill=math.nan))
    metrics = learn(sac, buffers)
    assert metrics["skipped"] == CONFIG.utd and everything(sac) == before
    assert all(math.isfinite(value) for value in metrics.values())


def test_latents_of_nothing_but_nan_change_nothing(buffers: Buffers) -> None:
    sac = sac_for()
    before = everything(sac)
    whole = random_episode(400, success=False)
    blind = Features(whole.features.tokens * math.nan, whole.features.mask)
    buffers[1].append(replace(whole, features=blind))
    assert learn(sac, buffers)["skipped"] == CONFIG.utd + 1
    assert everything(sac) == before and sac.log_alpha.isfinite().all()


# --- Where its draws come from


@pytest.mark.parametrize("done", [0, 1, 2, 4])
def test_saved_and_loaded_after_any_update_it_ends_with_the_same_bits(
    buffers: Buffers, tmp_path: Path, done: int
) -> None:
    """Critics alone learn in the first two of five updates."""
    config = replace(CONFIG, warmup=2)
    sac = sac_for(config)
    learn(sac, buffers, updates=done)
    policy = {"policy.safetensors": sac.actor.head.state_dict()}
    checkpoint.save(tmp_path / "rl", {**sac.state(), **policy})
    metrics = [learn(sac, buffers) for _ in range(done, 5)]

    torch.rand(17)  # whatever torch's own generator did in between
    files = checkpoint.load(tmp_path / "rl")
    again = new_head()
    again.load_state_dict(files["policy.safetensors"])
    resumed = SAC(again, config, seed=0)
    resumed.load_state(files)
    assert resumed.updates == done
    reopened = (
        LatentReplay(buffers[0].root, buffers[0].spec),
        LatentReplay(buffers[1].root, buffers[1].spec),
    )
    assert [learn(resumed, reopened) for _ in range(done, 5)] == metrics
    assert everything(resumed) == everything(sac)
    assert torch.equal(resumed.log_alpha, sac.log_alpha)


def test_new_critics_are_of_the_seed_and_torchs_own_generator_is_left_alone() -> None:
    head = new_head()
    hashes = []
    for state, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(state)
        sac = SAC(copy.deepcopy(head), CONFIG, seed=seed)
        hashes.append((weights_hash(sac.critic), weights_hash(sac.actor)))
        after = torch.rand(4)
        torch.manual_seed(state)
        assert torch.equal(torch.rand(4), after)
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_seed_decides(buffers: Buffers) -> None:
    hashes = []
    for seed in (0, 0, 1):
        sac = sac_for(seed=seed)
        learn(sac, buffers)
        hashes.append(everything(sac))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch", 0, "positive"),
        ("batch", 33, "even"),
        ("gamma", 1.5, r"in \[0, 1\]"),
        ("anchor", -1.0, "negative"),
        ("std", 9.0, "std"),
    ],
)
def test_settings_that_cannot_be_are_told(name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SACConfig(**{name: value})
