"""A policy in environments of its own, in another process: what lives in each actor of a cluster.

It obeys messages (`storage.message`), each a "command.json" with files beside it:

- policy: take all weights; the VLM is loaded once, and then only what changes of it; answered with
  the kind of device that it is on;
- head: take the weights that stage 1 changes;
- rollouts: open environments that play one task for ever, or go on with what was under way;
- collect: take a head, play so many decisions; answered with latents, never images;
- encode: answered with the latents of what is seen by somebody else, who acts;
- episodes: open environments for some jobs;
- next: answered with the next episode that has ended, or that all have.

A head is installed only if its sha256 is the one that was told, and wholly or not at all.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch

from irevla.compute.device import find_device, threads
from irevla.config import EnvConfig
from irevla.envs.processes import workers_outlive_stages
from irevla.envs.suite import load_suite
from irevla.envs.vector import VectorEnv
from irevla.errors import UserError
from irevla.models.files import CONFIG, parse
from irevla.models.fingerprint import FINGERPRINT, check_same
from irevla.models.policy import VLAPolicy
from irevla.rollout.actors import GaussianActor, MeanActor
from irevla.rollout.batches import Collector, RolloutRecorder
from irevla.rollout.episodes import EpisodeRecorder, Outcome, endless_jobs
from irevla.rollout.exploration import PinkNoise
from irevla.rollout.serve import Server
from irevla.rollout.wire import (
    features_to_files,
    jobs_of_json,
    jobs_to_json,
    observation_of_files,
    outcome_to_files,
    rollout_to_files,
)
from irevla.storage.checkpoint import Files
from irevla.storage.message import pack, unpack
from irevla.types import tensors_hash

COMMAND = "command.json"
HEAD = "head.safetensors"
SELF = "irevla.rollout.player:Player"  # what a cluster's process is told to make


class Player:
    """Obeys one message after the other, with one thread of torch."""

    def __init__(self) -> None:
        self._described: dict[str, Any] = {}  # the policy, but for its weights
        self._policy: VLAPolicy | None = None
        self._life = ExitStack()
        self._life.enter_context(workers_outlive_stages())
        self._envs = ExitStack()
        self._vec: VectorEnv | None = None
        self._collector: Collector | None = None
        self._server: Server[Any] | None = None
        self._episodes: Iterator[Outcome] = iter(())

    def answer(self, message: bytes) -> bytes:
        """Obey one message. Raises `UserError` for what a user can mend."""
        files = unpack(message)
        command = files.pop(COMMAND)
        do = command.pop("do")
        obeys: dict[str, Callable[..., Files | None]] = {
            "policy": self._take_policy,
            "head": self._take_head,
            "rollouts": self._open_rollouts,
            "collect": self._collect,
            "encode": self._encode,
            "episodes": self._open_episodes,
            "next": self._next,
        }
        with threads(1):
            return pack(obeys[do](files, **command) or {})

    def close(self) -> None:
        """Close all environments."""
        self._envs.close()
        self._life.close()

    @property
    def _acting(self) -> VLAPolicy:
        assert self._policy is not None, "a policy comes first"
        return self._policy

    def _take_policy(self, files: Files, *, device: str) -> Files:
        self._load(files, device)
        return {"told.json": {"device": self._acting.device.type}}

    def _load(self, files: Files, device: str) -> None:
        described = {name: files[CONFIG][name] for name in files[CONFIG] if name != FINGERPRINT}
        if self._policy is None or described != self._described:
            self._policy = VLAPolicy.from_files(files, device=find_device(device))
            self._described = described
            return
        self._policy.load_files(files)
        known = parse(files).fingerprint
        if known is not None:
            check_same(known, self._policy.fingerprint())

    def _take_head(self, files: Files, *, head: str) -> None:
        if tensors_hash(files[HEAD]) != head:
            raise UserError(
                f"a head came that is not the one announced (sha256 {head[:12]}), and is not "
                "used; give the same command again"
            )
        self._acting.load_head(files[HEAD])

    @torch.no_grad()
    def _encode(self, files: Files, *, stored: bool) -> Files:
        features = self._acting.encode(observation_of_files(files))
        return features_to_files(features.rounded().float() if stored else features)

    def _open(self, suite: str, env: dict[str, Any], jobs: Any, *, state: Any = None) -> VectorEnv:
        """Close the environments that were open, and return others."""
        self._envs.close()
        config = EnvConfig(**{**env, "cameras": tuple(env["cameras"])})
        self._vec = VectorEnv(load_suite(suite), config, jobs, state=state)
        return self._envs.enter_context(self._vec)

    def _open_rollouts(
        self,
        files: Files,
        *,
        suite: str,
        env: dict[str, Any],
        task: str,
        first: int,
        step: int,
        explore: int,
    ) -> None:
        jobs = endless_jobs(task, first, step=step)
        vec = self._open(suite, env, jobs, state=files.get("episodes.json"))
        noise = PinkNoise(explore, decisions=vec.config.horizon)
        server = Server(vec, GaussianActor(self._acting, noise), RolloutRecorder(vec))
        if vec.resumed:
            server.resume(dict(files))
        self._server = server
        self._collector = Collector(server)

    def _collect(self, files: Files, *, head: str, steps: int) -> Files:
        assert self._collector is not None and self._server is not None, "rollouts come first"
        assert self._vec is not None
        self._take_head(files, head=head)
        columns, stats = self._collector.play(steps)
        told = {"head": head, "given_up": jobs_to_json(self._vec.given_up)}
        return {"told.json": told, **rollout_to_files(columns, stats), **self._server.state()}

    def _open_episodes(
        self, files: Files, *, suite: str, env: dict[str, Any], jobs: Any, images: bool, policy: str
    ) -> None:
        vec = self._open(suite, env, iter(jobs_of_json(jobs)))
        recorder = EpisodeRecorder(vec, policy_hash=policy, images=images)
        self._episodes = Server(vec, MeanActor(self._acting), recorder).serve()

    def _next(self, files: Files) -> Files:
        assert self._vec is not None, "episodes come first"
        outcome = next(self._episodes, None)
        given_up = jobs_to_json(self._vec.given_up)
        told = {"over": outcome is None, "given_up": given_up, "dropped": self._vec.dropped}
        return {"told.json": told, **({} if outcome is None else outcome_to_files(outcome))}
