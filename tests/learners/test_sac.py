import copy
import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import latent_reach as toy
import pytest
import torch
from torch import nn

from irevla.config import SACConfig
from irevla.data.buffers import Transitions
from irevla.data.replay import LatentEpisode, LatentReplay
from irevla.errors import UserError
from irevla.learners.sac import SAC
from irevla.models.heads import ActionHead
from irevla.storage import checkpoint
from irevla.types import Features, weights_hash

CONFIG = SACConfig(batch=32, utd=2, critics=4)


def sac_for(config: SACConfig = CONFIG, *, seed: int = 0) -> SAC:
    torch.manual_seed(0)
    head = ActionHead(width=toy.WIDTH, groups=4, hidden=32, action_dim=3)
    return SAC(head, config, generator=torch.Generator().manual_seed(seed))


def random_episode(length: int, *, terminated: bool, fill: float | None = None) -> LatentEpisode:
    seen = toy.latents(2 * torch.rand(length + (not terminated), 2) - 1)
    rewards = torch.zeros(length)
    rewards[-1] = float(terminated)
    return LatentEpisode(
        seen, 2 * torch.rand(length, 3) - 1, rewards if fill is None else rewards + fill, terminated
    )


@pytest.fixture
def buffers(tmp_path: Path) -> tuple[LatentReplay, LatentReplay]:
    demonstrations, online = (
        toy.replay(tmp_path / "demonstrations"),
        toy.replay(tmp_path / "online"),
    )
    for _ in range(3):
        demonstrations.append(random_episode(8, terminated=True))
        online.append(random_episode(8, terminated=False))
    return demonstrations, online


def transitions(*, terminated: list[bool]) -> Transitions:
    count = len(terminated)
    return Transitions(
        toy.latents(torch.zeros(count, 2)),
        torch.zeros(count, 3),
        torch.ones(count),
        torch.tensor(terminated),
        toy.latents(torch.rand(count, 2)),
    )


def everything(sac: SAC) -> list[str]:
    return [weights_hash(module) for module in (sac.actor, sac.critic, sac.target, sac.reference)]


@pytest.mark.timeout(600)  # half a minute on an idle core
def test_sac_solves_a_sparse_task_from_an_imperfect_demonstrator(tmp_path: Path) -> None:
    practice = toy.practise(tmp_path, seed=0)
    before = toy.success_rate(next(practice).actor)
    *_, sac = islice(practice, 900)
    assert 0.2 < before < 0.4
    assert toy.success_rate(sac.actor) >= 0.9


def test_the_warm_up_teaches_the_critics_and_leaves_the_actor_bit_for_bit(buffers: Any) -> None:
    sac = sac_for(replace(CONFIG, critic_lr=3e-3))
    actor, critic, _, _ = everything(sac)
    first = sac.update(*buffers, warmup=True)
    for _ in range(60):
        last = sac.update(*buffers, warmup=True)
    assert everything(sac)[0] == actor and everything(sac)[1] != critic
    assert last["critic_loss"] < 0.5 * first["critic_loss"]
    assert "value" not in first and last["alpha"] == pytest.approx(CONFIG.alpha)
    reference = weights_hash(sac.reference)
    sac.update(*buffers, warmup=False)
    assert everything(sac)[0] != actor and weights_hash(sac.reference) == reference


def test_the_first_targets_are_rewards(buffers: Any) -> None:
    metrics = sac_for(replace(CONFIG, utd=1)).update(*buffers, warmup=True)
    assert metrics["critic_loss"] == pytest.approx(
        metrics["target"] / 2
    )  # Q = 0, and rewards are 0 or 1


def test_a_truncated_step_bootstraps_and_a_terminated_one_never_does() -> None:
    sac = sac_for(replace(CONFIG, gamma=0.5))
    nn.init.constant_(sac.target.biases[-1], 3.0)
    targets = sac._targets(transitions(terminated=[False, True, False]))
    torch.testing.assert_close(targets, torch.tensor([2.5, 1.0, 2.5]))


def test_the_target_is_the_minimum_of_the_few_critics_drawn() -> None:
    sac = sac_for(replace(CONFIG, gamma=1.0, critics=10, subset=2))
    sac.target.biases[-1].data += torch.arange(10.0)[:, None, None]
    batch, lowest = transitions(terminated=[False]), []
    for _ in range(200):
        twin = torch.Generator()
        twin.set_state(sac.generator.get_state())
        torch.randn(1, 2, generator=twin)  # the motion's noise
        members = torch.randperm(10, generator=twin)[:2]
        target = sac._targets(batch).item() - 1
        assert target == pytest.approx(members.min().item(), abs=1e-5)
        lowest.append(target)
    assert max(lowest) > 5  # not always of all


def test_entropy_counts_in_the_targets_only_where_asked() -> None:
    plain, soft = (sac_for(replace(CONFIG, backup_entropy=on, alpha=0.5)) for on in (False, True))
    batch = transitions(terminated=[False] * 50)
    torch.testing.assert_close(plain._targets(batch), torch.ones(50))
    _, _, log_prob, gripper = sac_for()._draw(batch.next_features)
    entropy = -log_prob - (gripper.exp() * gripper).sum(-1)
    torch.testing.assert_close(soft._targets(batch), 1 + CONFIG.gamma * 0.5 * entropy)


@pytest.mark.parametrize(
    ("entropy", "gripper_entropy", "rises"), [(2.0, 1.0, True), (-9.0, 0.0, False)]
)
def test_temperatures_are_tuned(
    buffers: Any, entropy: float, gripper_entropy: float, rises: bool
) -> None:
    sac = sac_for(replace(CONFIG, entropy=entropy, gripper_entropy=gripper_entropy))
    for _ in range(5):
        metrics = sac.update(*buffers, warmup=False)
    assert (metrics["alpha"] > CONFIG.alpha) is rises
    assert (metrics["gripper_alpha"] > CONFIG.alpha) is rises


def test_without_a_gripper_it_is_plain_sac(buffers: Any) -> None:
    sac = sac_for(replace(CONFIG, gripper=False))
    for _ in range(3):
        metrics = sac.update(*buffers, warmup=False)
    assert metrics["gripper_entropy"] == 0 and metrics["gripper_alpha"] == pytest.approx(
        CONFIG.alpha
    )
    assert metrics["alpha"] != pytest.approx(CONFIG.alpha)
    assert sac.critic.weights[-1].shape[-1] == 1


def test_the_anchor_holds_the_actor(buffers: Any) -> None:
    strayed = []
    for weight in (0.0, 10.0):
        sac = sac_for(replace(CONFIG, anchor=weight, lr=3e-3))
        for _ in range(60):
            metrics = sac.update(*buffers, warmup=False)
        strayed.append(metrics["anchor"])
    assert strayed[1] < 0.2 * strayed[0]


def test_the_slow_copy_follows_by_tau(buffers: Any) -> None:
    sac = sac_for(replace(CONFIG, utd=1, tau=0.25))
    sac.update(*buffers, warmup=True)
    before = copy.deepcopy(sac.target)
    sac.update(*buffers, warmup=True)
    for slow, was, fast in zip(
        sac.target.parameters(), before.parameters(), sac.critic.parameters(), strict=True
    ):
        assert not torch.equal(slow, was)
        torch.testing.assert_close(slow, 0.75 * was + 0.25 * fast)


def test_the_actors_step_leaves_the_critics_alone(buffers: Any) -> None:
    sac = sac_for()
    sac.update(*buffers, warmup=True)
    critic, target = everything(sac)[1:3]
    sac._actor_step(buffers[0].sample(32, sac.generator))
    assert everything(sac)[1:3] == [critic, target]
    assert all(parameter.grad is None for side in sac.sides.values() for parameter in side)


def test_non_finite_gradients_are_skipped_and_counted(buffers: Any) -> None:
    sac = sac_for()
    before = everything(sac)
    buffers[1].append(random_episode(200, terminated=False, fill=math.nan))
    metrics = sac.update(*buffers, warmup=True)
    assert metrics["skipped"] == CONFIG.utd and everything(sac) == before
    assert all(math.isfinite(value) for value in metrics.values())


def test_latents_of_nothing_but_nan_change_nothing(buffers: Any) -> None:
    sac = sac_for()
    before = everything(sac)
    whole = random_episode(400, terminated=False)
    buffers[1].append(
        replace(whole, features=Features(whole.features.tokens * math.nan, whole.features.mask))
    )
    assert sac.update(*buffers, warmup=False)["skipped"] == CONFIG.utd + 1
    assert everything(sac) == before and sac.log_alpha.isfinite().all()


def test_learning_goes_on_bit_for_bit_from_its_state(buffers: Any, tmp_path: Path) -> None:
    sac = sac_for()
    for warmup in (True, False):
        sac.update(*buffers, warmup=warmup)
    checkpoint.save(
        tmp_path / "rl", {**sac.state(), "policy.safetensors": sac.actor.head.state_dict()}
    )
    metrics = [sac.update(*buffers, warmup=False) for _ in range(2)]

    files = checkpoint.load(tmp_path / "rl")
    again = ActionHead(width=toy.WIDTH, groups=4, hidden=32, action_dim=3)
    again.load_state_dict(files["policy.safetensors"])
    resumed = SAC(again, CONFIG, generator=torch.Generator())
    resumed.load_state(files)
    reopened = [LatentReplay(buffer.root, buffer.spec) for buffer in buffers]
    assert [resumed.update(*reopened, warmup=False) for _ in range(2)] == metrics
    assert everything(resumed) == everything(sac)
    assert torch.equal(resumed.log_alpha, sac.log_alpha)


def test_the_generator_decides(buffers: Any) -> None:
    hashes = []
    for seed in (0, 0, 1):
        sac = sac_for(seed=seed)
        sac.update(*buffers, warmup=False)
        hashes.append(everything(sac))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch", 0, "positive"),
        ("batch", 33, "even"),
        ("gamma", 1.5, r"in \[0, 1\]"),
        ("anchor", -1.0, "negative"),
        ("subset", 11, "only 10"),
        ("std", 9.0, "std"),
    ],
)
def test_settings_that_cannot_be_are_told(name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SACConfig(**{name: value})
