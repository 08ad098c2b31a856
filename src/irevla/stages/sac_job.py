"""SAC's learner as data, so that another machine can be it, and what goes to and fro meanwhile.

In the folder of a job, beside what `stages.job` says of it:

    latents/SHA256   an episode, as the arm's side has encoded it
    played.json      `Played`: which of them there are, in their order
    actors/SHA256    the head, as the learner has it now
    learnt.json      `Learnt`: how far it is
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from irevla import config_io
from irevla.config import SACConfig
from irevla.data.replay import LatentEpisode, LatentSpec
from irevla.stages.job import JobFolder
from irevla.storage import checkpoint
from irevla.storage.read import parse_json, shaped
from irevla.storage.share import AGAIN, Damaged
from irevla.types import Features

FORMAT = "irevla-sac-1"
LARGEST = 1 << 34  # bytes of an episode or a head
TENSORS = Path("x.safetensors")  # as what both are written


@dataclass(frozen=True)
class SACJob:
    """All that SAC learns with, but for what is played."""

    sac: SACConfig
    seed: int  # of all draws
    latents: LatentSpec
    device: str  # as in the config
    threads: int
    begun: float  # when the run did: one that begins anew has a learner of its own
    policy: Mapping[str, str] = field(default_factory=dict)  # it begins with: file -> sha256

    def beginning_with(self, policy: Mapping[str, str]) -> "SACJob":
        """Return the same job of another policy."""
        return replace(self, policy=policy)

    def to_text(self) -> str:
        """Return it as JSON."""
        data = {**vars(self), "sac": config_io.to_dict(self.sac), "latents": asdict(self.latents)}
        return json.dumps({**data, "format": FORMAT}, sort_keys=True, indent=1)

    @classmethod
    def of_text(cls, text: bytes) -> "SACJob":
        """Return the inverse of `to_text`. Raises `UserError` for anything else."""
        data = parse_json(text, "a job", remedy=AGAIN)
        with shaped("a job", remedy=AGAIN):
            if data.pop("format") != FORMAT:
                raise ValueError(f"it is not one of format {FORMAT!r}")
            sac = config_io.from_dict(data.pop("sac"), kind=SACConfig, where="sac.")
            latents = LatentSpec(**data.pop("latents"))
            return cls(**data, sac=sac, latents=latents)


@dataclass(frozen=True)
class Played:
    """What the arm's side has played: the sha256 of each episode, in the order of its buffer."""

    demonstrations: tuple[str, ...] = ()
    online: tuple[str, ...] = ()
    over: bool = False  # there will be no more: learn what is pending, and leave


@dataclass(frozen=True)
class Learnt:
    """How far the learner is."""

    updates: int
    actor: str  # sha256 of the head after these
    demonstrations: int  # episodes that it has of each buffer
    online: int
    over: bool = False  # it has made all updates for what was played, and its checkpoint is there
    metrics: Mapping[str, float] = field(default_factory=dict)  # means since it last said something
    word: int = 0  # grows each time: one with nothing new to tell is alive all the same


class SACFolder(JobFolder[SACJob]):
    """The folder of one such job in a share."""

    def put_episode(self, episode: LatentEpisode) -> str:
        """Bring an episode there; return its sha256."""
        return self.share.put(f"{self._root}/latents", _pack(episode))

    def lacks(self, played: Played) -> bool:
        """Return whether any episode of `played` is not there (any more)."""
        return bool({*played.demonstrations, *played.online} - self._there())

    def _there(self) -> set[str]:
        return set(self.share.sizes(f"{self._root}/latents"))

    def get_episode(self, sha256: str) -> LatentEpisode:
        """Return an episode. Raises `Damaged` where it is not there, or not whole."""
        content = self.share.get(f"{self._root}/latents", sha256, most=LARGEST)
        with shaped("an episode of a job", remedy=AGAIN):
            return _unpack(checkpoint.decode(TENSORS, content))

    def say_played(self, played: Played) -> None:
        """Write down what there is to learn from."""
        self.share.say(f"{self._root}/played.json", asdict(played))

    def played(self) -> Played:
        """Return what there is to learn from. Raises `Damaged` where that is not what was said."""
        match self.share.hear(f"{self._root}/played.json"):
            case None:
                return Played()
            case {"demonstrations": [*shown], "online": [*online], "over": bool(over)}:
                if all(map(_is_hash, [*shown, *online])):
                    return Played(tuple(shown), tuple(online), over)
        raise Damaged(f"what a job says of what was played is damaged; {AGAIN}")

    def say_learnt(self, learnt: Learnt, actor: Mapping[str, Tensor]) -> None:
        """Write the head `actor`, and then that it is there; delete the one before it."""
        content = checkpoint.encode(TENSORS.name, actor)
        sha256 = self.share.put(f"{self._root}/actors", content)
        self.share.say(f"{self._root}/learnt.json", asdict(replace(learnt, actor=sha256)))
        for name in self.share.sizes(f"{self._root}/actors").keys() - {sha256}:
            self.share.remove(f"{self._root}/actors/{name}")

    def learnt(self) -> Learnt | None:
        """Return how far the learner is; None where it has said nothing yet."""
        said = self.share.hear(f"{self._root}/learnt.json")
        if said is None:
            return None
        try:
            learnt = Learnt(**said)
            numbers = [learnt.updates, learnt.demonstrations, learnt.online, learnt.word]
            metrics = dict(learnt.metrics).values()
            if (
                all(type(each) is int for each in numbers)
                and all(type(each) in (int, float) for each in metrics)
                and _is_hash(learnt.actor)
                and type(learnt.over) is bool
            ):
                return learnt
        except (TypeError, ValueError):
            pass
        raise Damaged(f"what a learner says of itself is damaged; {AGAIN}")

    def actor(self, learnt: Learnt) -> dict[str, Tensor]:
        """Return the head of that time. Raises `Damaged` where it is newer by now, or not whole."""
        content = self.share.get(f"{self._root}/actors", learnt.actor, most=LARGEST)
        tensors: dict[str, Tensor] = checkpoint.decode(TENSORS, content)
        return tensors


def _is_hash(text: Any) -> bool:
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text) is not None


def _pack(episode: LatentEpisode) -> bytes:
    features = episode.features
    tensors = {
        "tokens": features.tokens.to(torch.bfloat16),  # as the buffer has them
        "mask": features.mask,
        "state": features.state,
        "actions": episode.actions,
        "rewards": episode.rewards,
    }
    return checkpoint.encode(TENSORS.name, tensors)


def _unpack(tensors: Mapping[str, Tensor]) -> LatentEpisode:
    features = Features(tensors["tokens"].float(), tensors["mask"], tensors["state"])
    return LatentEpisode(features, tensors["actions"], tensors["rewards"])
