import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from irevla.bench import ppo_update
from irevla.config import ModelConfig, PPOConfig
from irevla.data.buffers import RolloutBatch
from irevla.learners.losses import gaussian_log_prob
from irevla.learners.ppo import PPO
from irevla.models.heads import ActionHead, CriticHead
from irevla.models.policy import VLAPolicy, build_policy
from irevla.storage import checkpoint
from irevla.tasks import Parts
from irevla.types import Features, Observation, tensors_hash, weights_hash
from toys import ToyPolicy

CONFIG = PPOConfig(minibatch=64, lr=3e-3, critic_lr=3e-3, gamma=0.9, warmup=0)


class HeadOnly(ToyPolicy):
    """A policy without eyes: latents in, actions out."""

    def __init__(self, *, width: int = 8, action_dim: int = 1) -> None:
        self.action_head = ActionHead(width=width, groups=2, hidden=32, action_dim=action_dim)
        self.log_std = nn.Parameter(torch.full((action_dim,), math.log(0.3)))

    def trainable(self, parts: Parts) -> list[nn.Parameter]:
        assert parts == "head"
        return [self.log_std, *self.action_head.parameters()]

    def hash(self) -> str:
        return tensors_hash(self.files()["policy.safetensors"])

    def files(self) -> dict[str, Any]:
        head = self.action_head.state_dict()
        return {"policy.safetensors": {**head, "log_std": self.log_std.detach()}}

    def load_files(self, files: Mapping[str, Any]) -> None:
        weights = dict(files["policy.safetensors"])
        self.log_std.data.copy_(weights.pop("log_std"))
        self.action_head.load_state_dict(weights)

    def mean(self, features: Features) -> Tensor:
        actions: Tensor = self.action_head(features)
        return actions

    def encode(self, observation: Observation) -> Features:
        raise AssertionError("cached latents need no encoder")


def latents(context: Tensor) -> Features:
    """Two tokens of width 8 that show a number in [-1, 1] for each sample."""
    waves = torch.cat(
        [torch.cos(k * context[:, None]) for k in range(4)]
        + [torch.sin(k * context[:, None]) for k in range(1, 5)],
        1,
    )
    tokens = torch.stack([waves, torch.zeros_like(waves)], 1)
    return Features(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))


def ppo_for(policy: Any, config: PPOConfig = CONFIG, **options: Any) -> PPO:
    torch.manual_seed(0)
    critic = CriticHead.mirror(policy.action_head)
    return PPO(policy, critic, config, **{"parts": "head", "seed": 0} | options)


@torch.no_grad()
def sample(policy: Any, features: Features) -> tuple[Tensor, Tensor]:
    mean = policy.mean(features)
    actions = mean + torch.randn_like(mean) * policy.log_std.exp()
    return actions, gaussian_log_prob(actions, mean=mean, log_std=policy.log_std)


def one_step(ppo: PPO, count: int = 512) -> RolloutBatch:
    """A contextual bandit: the action should equal the number shown, within 0.2; every episode is
    one step."""
    context = 2 * torch.rand(count) - 1
    features = latents(context)
    actions, log_probs = sample(ppo.policy, features)
    with torch.no_grad():
        values = ppo.critic(features)
    ends = torch.ones(1, count, dtype=torch.bool)
    return RolloutBatch(
        features=features,
        actions=actions[None],
        log_probs=log_probs[None],
        values=values[None],
        next_values=torch.zeros(1, count),
        rewards=((actions[:, 0] - context).abs() < 0.2).float()[None],
        terminated=ends,
        truncated=~ends,
        valid=ends,
    )


def chain(
    ppo: PPO, *, steps: int = 64, envs: int = 8, horizon: int = 12
) -> tuple[RolloutBatch, float]:
    """Walk from [-0.1, 0.5] past 0.5 in `horizon` steps of at most 0.2: reward 1 there, and the
    end."""
    place, age = 0.6 * torch.rand(envs) - 0.1, torch.zeros(envs)
    columns: dict[str, list[Tensor]] = {}
    for _ in range(steps):
        features = latents(place)
        actions, log_probs = sample(ppo.policy, features)
        place, age = place + 0.2 * actions[:, 0].clamp(-1, 1), age + 1
        terminated, truncated = place > 0.5, (age >= horizon) & (place <= 0.5)
        with torch.no_grad():
            values, next_values = ppo.critic(features), ppo.critic(latents(place))
        row = {
            "tokens": features.tokens,
            "actions": actions,
            "log_probs": log_probs,
            "values": values,
            "next_values": next_values,
            "rewards": terminated.float(),
            "terminated": terminated,
            "truncated": truncated,
        }
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
        ends = terminated | truncated
        place, age = (
            torch.where(ends, 0.6 * torch.rand(envs) - 0.1, place),
            torch.where(ends, 0, age),
        )
    stacked = {name: torch.stack(values) for name, values in columns.items()}
    tokens = stacked.pop("tokens").flatten(0, 1)
    features = Features(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
    valid = torch.ones(steps, envs, dtype=torch.bool)
    finished = (stacked["terminated"] | stacked["truncated"]).sum()
    return RolloutBatch(features=features, valid=valid, **stacked), float(
        stacked["terminated"].sum() / finished
    )


def test_ppo_solves_a_bandit_that_shows_its_answer() -> None:
    ppo = ppo_for(HeadOnly(), replace(CONFIG, warmup=2))
    before = one_step(ppo).rewards.mean()
    for _ in range(40):
        metrics = ppo.update(one_step(ppo))
    with torch.no_grad():
        context = torch.linspace(-0.9, 0.9, 50)
        error = (ppo.policy.mean(latents(context))[:, 0] - context).abs().mean()
    assert before < 0.35 and error < 0.12
    assert metrics["return"] > 0.6


def test_ppo_solves_a_chain_with_a_sparse_reward_and_a_horizon() -> None:
    ppo = ppo_for(HeadOnly(), replace(CONFIG, warmup=2))
    first = chain(ppo)[1]
    for _ in range(20):
        batch, success = chain(ppo)
        metrics = ppo.update(batch)
    assert first < 0.8 and success > 0.95
    assert metrics["explained_variance"] > 0.3


def test_the_warm_up_teaches_the_critic_and_leaves_the_policy_bit_for_bit() -> None:
    ppo = ppo_for(HeadOnly(), replace(CONFIG, warmup=11))
    policy = ppo.policy.hash()
    critic = weights_hash(ppo.critic)
    batch = one_step(ppo)
    first = ppo.update(batch)
    for _ in range(10):
        last = ppo.update(batch)
    assert ppo.policy.hash() == policy
    assert weights_hash(ppo.critic) != critic
    assert last["value_loss"] < 0.95 * first["value_loss"]
    assert "kl" not in first
    ppo.update(batch)
    assert ppo.policy.hash() != policy


def test_the_first_step_has_ratio_one() -> None:
    ppo = ppo_for(HeadOnly(), replace(CONFIG, epochs=1, minibatch=512))
    metrics = ppo.update(one_step(ppo))
    assert metrics["kl"] == pytest.approx(0, abs=1e-6) and metrics["clip_fraction"] == 0
    assert metrics["actor_loss"] == pytest.approx(
        0, abs=1e-6
    )  # normalised advantages have mean zero


class Noisy(HeadOnly):
    """As if dropout had been left on: the same latents give other actions each time."""

    def mean(self, features: Features) -> Tensor:
        actions = super().mean(features)
        return actions + 0.02 * torch.randn_like(actions)


@pytest.mark.parametrize("parts", ["head", "all"])
def test_before_any_step_nothing_has_moved(parts: Parts) -> None:
    policy = vla()
    ppo = ppo_for(policy, replace(CONFIG, minibatch=16, warmup=1), parts=parts)
    assert "first_kl" not in ppo.update(observed(policy, ppo.critic)), (
        "nothing moves in the warm-up"
    )
    metrics = [ppo.update(observed(policy, ppo.critic)) for _ in range(3)]
    assert all(0 <= each["first_kl"] < 1e-6 for each in metrics)
    assert all(each["kl"] > 1e-5 for each in metrics), "later steps do move it"


def test_latents_that_are_not_those_acted_on_show_in_the_first_kl() -> None:
    ppo = ppo_for(Noisy())
    assert ppo.update(one_step(ppo))["first_kl"] > 1e-3
    policy = vla()
    ppo = ppo_for(policy)
    batch = observed(policy, ppo.critic)
    coarse = Features(batch.features.tokens.bfloat16().float(), batch.features.mask)
    assert ppo.update(replace(batch, features=coarse))["first_kl"] > 1e-6


def test_it_knows_whether_any_gradient_was_more_than_zero() -> None:
    config = replace(CONFIG, warmup=1)
    ppo = ppo_for(HeadOnly(), config)
    batch = one_step(ppo)
    hopeless = replace(batch, rewards=torch.zeros_like(batch.rewards))
    before = ppo.policy.hash()
    for _ in range(3):
        ppo.update(hopeless)
    assert not ppo.moved and ppo.policy.hash() == before
    kept = ppo.state()
    ppo.update(batch)
    assert ppo.moved
    again = ppo_for(HeadOnly(), config)
    for files, moved in ((kept, False), (ppo.state(), True)):
        again.load_state(files)
        assert again.moved is moved
    again.load_state({**kept, "learner.json": {"updates": 3}})  # of version 0.1
    assert again.moved


def test_it_stops_when_the_policy_has_moved_too_far() -> None:
    ppo = ppo_for(HeadOnly(), replace(CONFIG, lr=0.05, target_kl=0.01, epochs=20))
    assert ppo.update(one_step(ppo))["epochs"] < 20
    careful = ppo_for(HeadOnly(), replace(CONFIG, lr=1e-6, target_kl=0.01, epochs=20))
    assert careful.update(one_step(careful))["epochs"] == 20


def test_non_finite_gradients_are_skipped_and_counted() -> None:
    ppo = ppo_for(HeadOnly(), replace(CONFIG, epochs=1, minibatch=128))
    batch = one_step(ppo)
    batch.log_probs[0, 0] = math.nan  # one of the four minibatches
    metrics = ppo.update(batch)
    assert metrics["skipped"] == 1
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(parameter.isfinite().all() for group in ppo.groups.values() for parameter in group)


def test_a_rollout_of_nothing_but_nan_changes_nothing() -> None:
    ppo = ppo_for(HeadOnly())
    before = ppo.policy.hash()
    batch = one_step(ppo)
    batch.rewards.fill_(math.nan)
    assert ppo.update(batch)["skipped"] == 8 * CONFIG.epochs
    assert ppo.policy.hash() == before


def test_invalid_steps_teach_nothing() -> None:
    """What a dropped episode holds makes no difference to any weight."""
    hashes = []
    for fill in (0.0, 7.0):
        torch.manual_seed(0)
        ppo = ppo_for(HeadOnly())
        batch = one_step(ppo)
        batch.valid[0, :100] = False
        batch.rewards[0, :100] = batch.values[0, :100] = fill
        batch.actions[0, :100] = fill
        batch.features.tokens[:100] = fill
        ppo.update(batch)
        hashes.append((ppo.policy.hash(), weights_hash(ppo.critic)))
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("done", [0, 1, 2, 4])
def test_saved_and_loaded_after_any_update_it_ends_with_the_same_bits(
    tmp_path: Path, done: int
) -> None:
    """The critic alone learns in the first two of five updates."""
    config = replace(CONFIG, warmup=2)
    policy = HeadOnly()
    ppo = ppo_for(policy, config)
    for _ in range(done):
        ppo.update(one_step(ppo))
    rest = [one_step(ppo) for _ in range(done, 5)]
    checkpoint.save(tmp_path / "rl", {**ppo.state(), **policy.files()})
    metrics = [ppo.update(batch) for batch in rest]

    torch.rand(17)  # whatever torch's own generator did in between
    files = checkpoint.load(tmp_path / "rl")
    again = HeadOnly()
    again.load_files(files)
    resumed = PPO(again, CriticHead.mirror(again.action_head), config, parts="head", seed=0)
    resumed.load_state(files)
    assert resumed.updates == done
    assert [resumed.update(batch) for batch in rest] == metrics
    assert again.hash() == policy.hash()
    assert weights_hash(resumed.critic) == weights_hash(ppo.critic)


def test_the_seed_decides_and_torchs_own_generator_does_not() -> None:
    batch = one_step(ppo_for(HeadOnly()))
    start = HeadOnly()
    hashes = []
    for state, seed in ((1, 0), (2, 0), (2, 1)):
        ppo = ppo_for(copy.deepcopy(start), seed=seed)
        torch.manual_seed(state)
        ppo.update(batch)
        hashes.append(ppo.policy.hash())
    assert hashes[0] == hashes[1] != hashes[2]


# --- with a VLM


def vla() -> VLAPolicy:
    return build_policy(
        ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
        action_dim=2,
        image_size=32,
    )


def observed(policy: VLAPolicy, critic: nn.Module, count: int = 64) -> RolloutBatch:
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    texts = tuple(["open the door", "press the button"][i % 2] for i in range(count))
    observations = Observation.of(images, texts)
    with torch.no_grad():
        features = policy.encode(observations)
        values = critic(features).view(-1, 4)
    actions, log_probs = sample(policy, features)
    success = torch.rand(count // 4, 4) < 0.3
    return RolloutBatch(
        features=features,
        actions=actions.view(-1, 4, 2),
        log_probs=log_probs.view(-1, 4),
        values=values,
        next_values=values.roll(-1, 0),
        rewards=success.float(),
        terminated=success,
        truncated=torch.zeros_like(success),
        valid=torch.ones_like(success),
        observations=observations,
    )


class LiveHead(VLAPolicy):
    """Trains its head alone where all of it is asked for: so the encoder is live, and frozen."""

    def trainable(self, parts: Parts) -> list[nn.Parameter]:
        return super().trainable("head")


def test_a_live_encoder_with_a_frozen_vlm_gives_the_same_losses_and_weights_as_the_cache() -> None:
    start = vla()
    metrics = []
    weights = []
    for parts in ("head", "all"):
        policy = copy.deepcopy(start)
        policy.__class__ = LiveHead
        ppo = ppo_for(policy, replace(CONFIG, minibatch=16), parts=parts)
        assert ppo.live is (parts == "all")
        metrics.append(ppo.update(observed(policy, ppo.critic)))
        weights.append({name: value.clone() for name, value in policy.state_dict().items()})
        assert weights_hash(policy.vlm) == weights_hash(start.vlm)
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-5)
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-4, rtol=1e-4)


def test_end_to_end_trains_the_vlm_too_but_not_in_the_warm_up() -> None:
    policy = vla()
    ppo = ppo_for(policy, replace(CONFIG, warmup=1), parts="all")
    batch = observed(policy, ppo.critic)
    before = policy.hash()
    ppo.update(batch)
    assert policy.hash() == before
    vlm = weights_hash(policy.vlm)
    ppo.update(batch)
    assert weights_hash(policy.vlm) != vlm


def test_an_update_on_cached_latents_never_looks_at_an_image() -> None:
    policy = vla()
    ppo = ppo_for(policy)
    batch = replace(observed(policy, ppo.critic), observations=None)
    ppo.update(batch)
    with pytest.raises(AssertionError, match="needs the rollout's observations"):
        ppo_for(policy, parts="all").update(batch)


def test_the_benchmark_counts_one_forward_against_five_and_equal_losses() -> None:
    result = ppo_update.run(samples=64, repeats=1)
    assert result["forwards_cached"] == 1 and result["forwards_reencode"] == 5
    assert result["loss_difference"] < 1e-5
    assert result["ratio"] > 1
