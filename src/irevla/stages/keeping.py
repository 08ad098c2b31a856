"""What SAC's stage keeps of what is played, and takes up of earlier rounds.

There are two buffers of latents to learn from, successes as images for D_RL and, where rounds are
to come, all practice as images: stage 2 changes the VLM, so that each round has latents of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from irevla.data.episodes import EpisodeStore
from irevla.data.replay import LatentEpisode, LatentReplay, LatentSpec
from irevla.envs.suite import Authorization, Suite
from irevla.envs.vector import VectorEnv
from irevla.models.policy import VLAPolicy
from irevla.rollout.demonstrations import open_store
from irevla.rollout.episodes import EpisodeRecorder, Outcome
from irevla.runs.run import Run
from irevla.tasks import Purpose, Stage, first_seed
from irevla.types import Episode, Features, Observation

BATCH = 64  # images of an encoding pass


@dataclass(frozen=True)
class Kept:
    """Where the episodes of a stage go to."""

    demonstrations: LatentReplay  # one half of what SAC learns from: successes, a person's help
    practice: LatentReplay  # the other: the online buffer
    successes: EpisodeStore | None  # D_RL, where it is to have these successes
    all_practice: EpisodeStore | None  # of the online buffer, where rounds are to come

    @property
    def images(self) -> bool:
        """Whether images are kept at all."""
        return self.successes is not None or self.all_practice is not None

    @property
    def practised(self) -> list[Mapping[str, Any]]:
        """Return the episodes of stage 1 itself: the buffer may begin with others."""
        episodes = self.practice.episodes
        return [each for each in episodes if not (each.get("zero_shot") or each.get("earlier"))]

    def keep_practice(self, outcome: Outcome) -> None:
        """Keep an episode of stage 1."""
        self._keep(outcome, self.practice)

    def keep_success(self, outcome: Outcome) -> None:
        """Keep a zero-shot success."""
        self._keep(outcome, self.demonstrations)

    def keep_failure(self, outcome: Outcome) -> None:
        """Let a failed zero-shot episode begin the online buffer; it comes there once."""
        if outcome.job.seed not in {each["seed"] for each in self.practice.episodes}:
            self._keep(outcome, self.practice, zero_shot=True)

    def _keep(self, outcome: Outcome, buffer: LatentReplay, **facts: Any) -> None:
        """Append an episode to the `buffer` last: a kill before it must lose nothing."""
        assert outcome.latents is not None
        if outcome.success:
            _append_once(self.successes, outcome)
        if buffer is self.practice:
            _append_once(self.all_practice, outcome)
        if outcome.length != len(outcome.latents):  # where decisions are chunks
            facts["steps"] = outcome.length
        buffer.append(outcome.latents, seed=outcome.job.seed, success=outcome.success, **facts)


def _append_once(store: EpisodeStore | None, outcome: Outcome) -> None:
    if store is None:
        return
    assert outcome.episode is not None
    if (outcome.job.task, outcome.job.seed) not in store.seeds():
        store.append(outcome.episode)


def open_kept(
    run: Run, policy: VLAPolicy, stage: Stage, *, suite: Suite, online: EpisodeStore
) -> Kept:
    """Return where the episodes of `stage` go to; `online` is D_RL.

    What earlier rounds have left of its task is there already, in latents of today.
    """
    config = run.config
    demonstrations, practice = (
        open_replay(run, policy, stage, name, suite=suite) for name in ("demonstrations", "online")
    )
    images = None
    if config.rounds > 1:
        images = open_store(suite, config.env, run.directory / "practice", kind="practice")
        recall(policy, stage, images, practice, gamma=config.sac.gamma, earlier=True)
    to_come = images if stage.round < config.rounds else None
    recall(policy, stage, online, demonstrations, gamma=config.sac.gamma)
    successes = online if config.harvest.from_training else None
    return Kept(demonstrations, practice, successes, to_come)


def open_replay(
    run: Run, policy: VLAPolicy, stage: Stage, name: str, *, suite: Suite
) -> LatentReplay:
    """Return DIR/latents/TASK/NAME, whose latents are of the policy's VLM as it is now."""
    blank = torch.zeros(1, *run.config.env.image_shape, dtype=torch.uint8)
    with torch.no_grad():
        text = suite.task(stage.task).instruction
        latents = policy.encode(Observation(blank, (text,), torch.zeros(1, policy.state_dim)))
    _, tokens, width = latents.tokens.shape
    where = policy.device.type if policy.encoder is None else policy.encoder.device_type
    spec = LatentSpec(
        weights=policy.vlm_hash(),
        encoder=f"{where} {policy.config.dtype}",
        suite=suite.name,
        tokens=tokens,
        width=width,
        action_dim=policy.execute * suite.action_dim,
        state_dim=policy.state_dim,
    )
    return LatentReplay(run.directory / "latents" / stage.target / name, spec)


def recall(
    policy: VLAPolicy,
    stage: Stage,
    source: EpisodeStore,
    buffer: LatentReplay,
    *,
    gamma: float,
    **facts: Any,
) -> None:
    """Bring what earlier rounds left of the task in `source` to `buffer`, each episode once.

    Where a harvest was disturbed, its actions are those that were meant, not those executed.
    """
    known = {episode["seed"] for episode in buffer.episodes}
    for index, info in enumerate(source.episodes):
        made = info.provenance
        if made.task == stage.task and is_earlier(made.seed, stage) and made.seed not in known:
            latents = encoded(policy, source[index], gamma=gamma)
            buffer.append(latents, seed=made.seed, success=info.success, **facts)


def is_earlier(seed: int, stage: Stage) -> bool:
    """Whether an episode of this seed was played in a round before that of `stage`."""
    return seed < first_seed(Purpose.EXPERT, 0, round=stage.round)


@torch.no_grad()
def encoded(policy: VLAPolicy, episode: Episode, *, gamma: float) -> LatentEpisode:
    """Return an episode in the latents of the policy's VLM as it is now."""
    looks = slice(None, None, policy.execute)
    texts = [episode.instruction] * len(episode)
    seen = Observation.of(episode.images[looks], texts[looks], episode.state[looks])
    parts = [policy.encode(seen[at : at + BATCH]).to("cpu") for at in range(0, len(seen), BATCH)]
    return LatentEpisode.of_steps(
        Features.cat(parts),
        policy.action_scale.scaled(torch.from_numpy(episode.actions)),
        torch.from_numpy(episode.rewards),
        execute=policy.execute,
        gamma=gamma,
    )


def open_environments(run: Run, suite: Suite, who: Authorization) -> VectorEnv:
    """Return environments in which `who` may act; they have nothing to play yet."""
    return VectorEnv(suite, run.config.env.for_training(), iter(()), authorization=who)


def recorder(
    run: Run, policy: VLAPolicy, acting: str, vec: VectorEnv, *, images: bool
) -> EpisodeRecorder:
    """Return what records episodes in latents; they are marked with `acting`, a policy's hash."""
    return EpisodeRecorder(
        vec,
        policy_hash=acting,
        images=images,
        latents=True,
        execute=policy.execute,
        gamma=run.config.sac.gamma,
        scaled=policy.action_scale.scaled,
    )


def length(episode: Mapping[str, Any]) -> int:
    """Return the steps of an episode in a buffer."""
    return int(episode.get("steps", episode["decisions"]))


def lengths(episodes: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Return the seed of each episode, and its steps."""
    return {episode["seed"]: length(episode) for episode in episodes}
