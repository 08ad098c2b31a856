"""Who acts in the environments."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from irevla.envs.vector import StepResult
from irevla.rollout.exploration import PinkNoise
from irevla.rollout.serve import Choice, View
from irevla.types import Features, Observation, Policy


@runtime_checkable
class Decide(Protocol):
    """What to do, given latents, standard normal noise and numbers drawn from [0, 1): actions in
    [-1, 1]."""

    def __call__(
        self, features: Features, *, noise: Float[Tensor, "B nA"], chance: Float[Tensor, "B n"]
    ) -> Float[Tensor, "B nA"]:
        """Return the actions."""
        ...


class ScriptedExpert:
    """The expert that the environments bring along. It looks at their state, not at images."""

    def encode(self, observation: Observation) -> None:
        """The expert needs no latents."""

    def act(self, view: View) -> Choice:
        """Leave it to the environments."""
        return Choice(None)


class BlindReplay:
    """The baseline that sees nothing: it replays demonstrations of each task, in turn from episode
    to episode, and holds the last action."""

    def __init__(self, demonstrations: Mapping[str, Sequence[Float32[np.ndarray, "_ A"]]]) -> None:
        self._demonstrations = demonstrations

    def encode(self, observation: Observation) -> None:
        """It sees nothing."""

    def act(self, view: View) -> Choice:
        """Return the demonstrated actions at each slot's step."""
        result = view.asked
        actions = []
        for job, step in zip(result.jobs, result.step.tolist(), strict=True):
            if job is not None:
                shown = self._demonstrations[job.task]
                demonstration = shown[job.seed % len(shown)]
                actions.append(demonstration[min(step, len(demonstration) - 1)])
        return Choice(torch.from_numpy(np.stack(actions)))


class MeanActor:
    """A policy without exploration noise. What its gripper draws is settled by episode and step.

    Where its latents are `stored`, it acts on what is stored.
    """

    def __init__(self, policy: Policy, *, stored: bool = False) -> None:
        self._policy = policy
        self._stored = stored

    def encode(self, observation: Observation) -> Features:
        """Return the VLM's latents."""
        features = self._policy.encode(observation)
        return features.rounded().float() if self._stored else features

    def act(self, view: View) -> Choice:
        """Return what the policy decides."""
        assert view.features is not None
        chance = chances(view.asked, self._policy.execute).to(self._policy.device)
        return Choice(self._policy.native(self._policy.decide(view.features, chance)))


class GaussianActor:
    """A policy with PPO's exploration noise: a ~ N(mean(h), exp(log_std)).

    The noise is pink along an episode; each action for itself is drawn from that Gaussian. Where
    the latents are `kept` to learn from, it acts on them as they are kept.
    """

    def __init__(self, policy: Policy, noise: PinkNoise, *, kept: bool = True) -> None:
        self._policy = policy
        self._noise = noise
        self._kept = kept

    def encode(self, observation: Observation) -> Features:
        """Return the VLM's latents."""
        features = self._policy.encode(observation)
        return features.rounded() if self._kept else features

    def act(self, view: View) -> Choice:
        """Return drawn actions and their log-probabilities, summed over the dimensions of all."""
        assert view.features is not None
        dimensions = len(self._policy.log_std)
        noise = self._noise.at(view.asked, dimensions=dimensions).to(self._policy.device)
        std = self._policy.log_std.exp().repeat(self._policy.execute)
        mean = self._policy.mean(view.features.float())[:, : len(std)]
        # Unchecked: that takes longer than the rest. An action that is not finite is never sent.
        gaussian = torch.distributions.Normal(mean, std, validate_args=False)
        actions = mean + gaussian.stddev * noise
        log_probs = gaussian.log_prob(actions).sum(-1)  # type: ignore[no-untyped-call]
        return Choice(self._policy.native(actions), log_probs, drawn=actions)


class ExploringActor:
    """Whoever decides on stored latents, noise and chances, behind a policy's VLM: SAC's actor.

    The noise is pink along an episode; what the gripper draws is settled by episode and step.
    """

    def __init__(self, policy: Policy, noise: PinkNoise, decide: Decide) -> None:
        self._policy = policy
        self._noise = noise
        self._decide = decide

    def encode(self, observation: Observation) -> Features:
        """Return the VLM's latents as they are stored."""
        return self._policy.encode(observation).rounded().float()

    def act(self, view: View) -> Choice:
        """Return what is decided."""
        assert view.features is not None
        noise = self._noise.at(view.asked, dimensions=view.result.labels.shape[1])
        chance = chances(view.asked, self._policy.execute)
        decided = self._decide(view.features, noise=noise, chance=chance)
        return Choice(self._policy.native(decided))


def chances(result: StepResult, execute: int) -> Float[Tensor, "k n"]:
    """Return a number in [0, 1) for each slot that plays and each of the `execute` steps from
    there, settled by the episode's seed and the step."""
    numbers = [
        [chance(job.seed, step + ahead) for ahead in range(execute)]
        for job, step in zip(result.jobs, result.step.tolist(), strict=True)
        if job is not None
    ]
    return torch.tensor(numbers, dtype=torch.float32)


def chance(seed: int, step: int) -> float:
    """Return what settles the draws of step `step` of the episode of `seed`: uniform in [0, 1)."""
    return float(np.random.default_rng([seed, 2, step]).random())
