"""Soft actor-critic on latents, without a VLM or a simulator: python examples/sac_on_latents.py

A hand glides to a point and closes its gripper there. What it is shown are made-up latents; the
policy that it begins with imitates a demonstrator who aims beside the point. SAC starts from the
successes of that policy, as stage 1 does on a real arm (section V-D of the paper).
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from irevla.config import SACConfig
from irevla.data.replay import LatentEpisode, LatentReplay, LatentSpec
from irevla.learners.sac import SAC
from irevla.models.heads import ActionHead
from irevla.models.sac_actor import SoftActor
from irevla.stages.learner import SACLearner
from irevla.types import Features

WIDTH = 16  # d of the latents
SPEED = 0.2  # way of one decision at full speed
NEAR = 0.12  # distance from the point at which closing the gripper is a success
EARLY = 0.25  # distance at which the demonstrator closes it
ASIDE = torch.tensor([0.1, 0.05])  # what the demonstrator misses the point by
HORIZON = 20  # decisions

CONFIG = SACConfig(
    steps=700,
    updates_per_decision=1.0,
    batch=64,
    utd=2,
    critics=5,
    lr=1e-3,
    critic_lr=1e-3,
    gamma=0.9,
)


# --- The task


def latents(offset: Tensor) -> Features:
    """Return two tokens that show where the point is, seen from the hand."""
    waves = [wave(k * offset) for k in (1, 2, 4) for wave in (torch.sin, torch.cos)]
    shown = torch.cat(waves, 1)
    shown = F.pad(shown, (0, WIDTH - shown.shape[1]))
    tokens = torch.stack([shown, torch.zeros_like(shown)], 1)
    return Features(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))


def somewhere(count: int, generator: torch.Generator) -> Tensor:
    """Return points in [-1, 1]^2, seen from the hand."""
    return 2 * torch.rand(count, 2, generator=generator) - 1


def move(offset: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the offset after actions, which grippers closed (the end), and which on the point."""
    closed = actions[:, 2] > 0
    return offset - SPEED * actions[:, :2], closed, closed & (offset.norm(dim=1) < NEAR)


class Arm:
    """One hand that acts with noise, and keeps what it sees until its episode ends."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self._begin()

    def _begin(self) -> None:
        self.offset = somewhere(1, self.generator)
        self.seen: list[Features] = []
        self.actions: list[Tensor] = []

    def step(self, actor: SoftActor) -> LatentEpisode | None:
        """Make one decision; return the episode if it was the last."""
        self.seen.append(latents(self.offset))
        noise = torch.randn(1, 3, generator=self.generator)
        chance = torch.rand(1, generator=self.generator)
        action = actor.act(self.seen[-1], noise=noise, chance=chance)
        self.offset, closed, hit = move(self.offset, action)
        self.actions.append(action)
        if not closed and len(self.actions) < HORIZON:
            return None
        rewards = torch.zeros(len(self.actions))
        rewards[-1] = float(hit)
        actions = torch.cat(self.actions)
        episode = LatentEpisode(Features.cat(self.seen), actions, rewards)
        self._begin()
        return episode


def success_rate(actor: SoftActor, count: int = 200) -> float:
    """Return the success rate of the likeliest actions, from places that are always the same."""
    offset = somewhere(count, torch.Generator().manual_seed(1000))
    playing = torch.ones(count, dtype=torch.bool)
    won = torch.zeros(count, dtype=torch.bool)
    still, likeliest = torch.zeros(count, 3), torch.full((count,), 0.5)
    for _ in range(HORIZON):
        offset, closed, hit = move(
            offset, actor.act(latents(offset), noise=still, chance=likeliest)
        )
        won |= playing & hit
        playing &= ~closed
    return won.float().mean().item()


# --- Learning it


def demonstrator_head(generator: torch.Generator) -> ActionHead:
    """Stage 0: return an action head that imitates the demonstrator."""
    head = ActionHead(width=WIDTH, groups=4, hidden=64, action_dim=3)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(400):
        offset = 1.2 * somewhere(256, generator)
        way = offset + ASIDE
        gripper = (way.norm(dim=1, keepdim=True) < EARLY) * 2.0 - 1
        labels = torch.cat([(way / SPEED).clamp(-1, 1), gripper], 1)
        optimizer.zero_grad()
        F.mse_loss(head(latents(offset)), labels).backward()
        optimizer.step()
    return head


def replay(root: Path) -> LatentReplay:
    """Return a buffer on disk."""
    spec = LatentSpec(
        weights="0" * 64, encoder="toy", suite="toy", tokens=2, width=WIDTH, action_dim=3
    )
    return LatentReplay(root, spec)


def practise(root: Path, config: SACConfig = CONFIG, *, seed: int = 0) -> Iterator[SAC]:
    """Let SAC learn in `config.steps` decisions; yield it at first, and after each episode."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    sac = SAC(demonstrator_head(generator), config, seed=seed)
    yield sac

    demonstrations = replay(root / "demonstrations")  # successes of the imperfect policy itself
    arm = Arm(generator)
    while len(demonstrations.episodes) < config.demonstrations:
        episode = arm.step(sac.actor)
        if episode is not None and episode.rewards[-1] == 1:
            demonstrations.append(episode)

    online = replay(root / "online")
    learner = SACLearner(sac, demonstrations=demonstrations, online=online)
    while len(online) < config.steps:
        episode = arm.step(sac.actor)
        if episode is not None:
            online.append(episode)
            learner.take_up_all()
            while learner.pending_updates > 0:
                learner.update()
            yield sac


def main() -> None:
    """Print the success rate before, meanwhile and after."""
    torch.set_num_threads(1)  # its tensors are too small to share
    with tempfile.TemporaryDirectory() as folder:
        for episode, sac in enumerate(practise(Path(folder))):
            if episode % 20 == 0:
                print(f"success {success_rate(sac.actor):.2f} after {episode} episodes", flush=True)
        print(f"success {success_rate(sac.actor):.2f} at the end, {episode} episodes")


if __name__ == "__main__":
    main()
