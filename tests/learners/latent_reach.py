"""A toy arm in latents alone: glide to a point, close the gripper there. Its demonstrator aims
beside the point."""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from irevla.config import SACConfig
from irevla.data.replay import LatentEpisode, LatentReplay, LatentSpec
from irevla.learners.sac import SAC
from irevla.models.heads import ActionHead
from irevla.models.soft import SoftActor
from irevla.types import Features

WIDTH, SPEED, NEAR, HORIZON = 16, 0.2, 0.12, 20
EARLY = 0.25  # distance of its aim at which the demonstrator closes the gripper
ASIDE = torch.tensor([0.1, 0.05])  # what the demonstrator misses the point by

CONFIG = SACConfig(batch=64, utd=2, critics=5, lr=1e-3, critic_lr=1e-3, gamma=0.9, tau=0.02)


def latents(offset: Tensor) -> Features:
    """Two tokens that show where the point is, seen from the hand."""
    waves = torch.cat([wave(k * offset) for k in (1, 2, 4) for wave in (torch.sin, torch.cos)], 1)
    tokens = torch.stack(
        [F.pad(waves, (0, WIDTH - waves.shape[1])), torch.zeros(len(offset), WIDTH)], 1
    )
    return Features(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))


def somewhere(count: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(count, 2, generator=generator) - 1


def move(offset: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the point is then, whether the gripper closed, which ends the episode, and whether on
    the point."""
    closed = actions[:, 2] > 0
    return offset - SPEED * actions[:, :2], closed, closed & (offset.norm(dim=1) < NEAR)


def demonstrator_head(generator: torch.Generator) -> ActionHead:
    """An action head that imitates the demonstrator, as stage 0 does."""
    head = ActionHead(width=WIDTH, groups=4, hidden=64, action_dim=3)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(400):
        offset = somewhere(256, generator) * 1.2
        way = offset + ASIDE
        labels = torch.cat(
            [(way / SPEED).clamp(-1, 1), (way.norm(dim=1, keepdim=True) < EARLY) * 2.0 - 1], 1
        )
        optimizer.zero_grad()
        F.mse_loss(head(latents(offset)), labels).backward()
        optimizer.step()
    return head


def success_rate(actor: SoftActor, count: int = 200) -> float:
    """Of the likeliest actions, from fixed places."""
    offset = somewhere(count, torch.Generator().manual_seed(1000))
    playing, won = torch.ones(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)
    for _ in range(HORIZON):
        offset, closed, hit = move(offset, actor.act(latents(offset)))
        won |= playing & hit
        playing &= ~closed
    return won.float().mean().item()


class Arm:
    """One hand that acts, and keeps every observation's latent until its episode ends."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self._begin()

    def _begin(self) -> None:
        self.offset = somewhere(1, self.generator)
        self.seen = [latents(self.offset)]
        self.actions: list[Tensor] = []

    def step(self, actor: SoftActor) -> LatentEpisode | None:
        """One decision; the episode if it was the last."""
        action = actor.act(self.seen[-1], generator=self.generator)
        self.offset, closed, hit = move(self.offset, action)
        self.actions.append(action)
        if not closed:
            self.seen.append(latents(self.offset))
        if not closed and len(self.actions) < HORIZON:
            return None
        rewards = torch.zeros(len(self.actions))
        rewards[-1] = hit.float().item()
        episode = LatentEpisode(
            Features.cat(self.seen), torch.cat(self.actions), rewards, bool(closed)
        )
        self._begin()
        return episode


def replay(root: Path) -> LatentReplay:
    return LatentReplay(root, LatentSpec("0" * 64, "toy", 2, WIDTH, 3))


def demonstrations(
    actor: SoftActor, root: Path, generator: torch.Generator, count: int = 20
) -> LatentReplay:
    """Successes of the imperfect policy itself (section V-D)."""
    buffer, arm = replay(root), Arm(generator)
    while count > 0:
        episode = arm.step(actor)
        if episode is not None and episode.rewards[-1] == 1:
            buffer.append(episode)
            count -= 1
    return buffer


def practise(root: Path, config: SACConfig = CONFIG, *, seed: int) -> Iterator[SAC]:
    """Imitate, demonstrate, warm the critics up; then decide and learn in turn. Yields at first and
    after each."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    sac = SAC(demonstrator_head(generator), config, generator=generator)
    yield sac
    demonstrated, online = (
        demonstrations(sac.actor, root / "demonstrations", generator),
        replay(root / "online"),
    )
    for _ in range(config.warmup):
        sac.update(demonstrated, online, warmup=True)
    arm = Arm(generator)
    while True:
        if episode := arm.step(sac.actor):
            online.append(episode)
        sac.update(demonstrated, online, warmup=False)
        yield sac
