"""The append-only store of latents that SAC learns from: each image is encoded once.

records.bin has one record of fixed size per decision, with the latents that it was made on; it is
mapped, not read into memory. episodes.jsonl is the commit: an episode whose line is there is there
for good, with its checksum; what a kill left in records.bin after the last of them is cut off by
the next append. header.json says whose latents these are.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from irevla.errors import UserError
from irevla.storage import disk
from irevla.storage.journal import Journal, read_lines, whole_lines
from irevla.storage.read import mapping, read_json, shaped
from irevla.types import Features

ANEW = "restore it, or delete its folder to begin anew"
HEADER, RECORDS, EPISODES = "header.json", "records.bin", "episodes.jsonl"
FACTS = {"decisions", "crc32"}  # of each episode
FORMAT = 4  # of the files; another number is refused


@dataclass(frozen=True)
class LatentSpec:
    """What all records of a store have in common.

    Latents of other weights, another encoder or another suite must not be mixed.
    """

    weights: str  # sha256 of the frozen weights that made the latents
    encoder: str  # where they were made, in which type: "cpu float32"
    suite: str
    tokens: int  # m: shorter latents are padded, longer ones refused
    width: int  # d
    action_dim: int
    state_dim: int = 0  # S

    def record(self) -> np.dtype[Any]:
        """Return the type of a decision and what was seen before it.

        It is aligned, so that bfloat16 can be viewed in place.
        """
        fields = [
            ("tokens", np.uint16, (self.tokens, self.width)),  # the bits of bfloat16
            ("mask", np.bool_, (self.tokens,)),
            ("state", np.float32, (self.state_dim,)),
            ("action", np.float32, (self.action_dim,)),
            ("reward", np.float32),
        ]
        return np.dtype(fields, align=True)


@dataclass(frozen=True)
class LatentEpisode:
    """`T` decisions, with what was seen before each; a decision is a chunk of `n` actions."""

    features: Features  # T x m x d
    actions: Float[Tensor, "T nA"]  # as executed, in [-1, 1]
    rewards: Float[Tensor, " T"]  # of a chunk: discounted to its beginning

    def __post_init__(self) -> None:
        assert len(self.actions) > 0
        assert len(self.features) == len(self.actions) == len(self.rewards)

    def __len__(self) -> int:
        return len(self.actions)

    @staticmethod
    def of_steps(
        features: Features,
        actions: Float[Tensor, "steps A"],
        rewards: Float[Tensor, " steps"],
        *,
        execute: int,
        gamma: float,
    ) -> "LatentEpisode":
        """Return an episode that was seen at every `execute`-th step, and played at each.

        In the last chunk, where the episode ended sooner, its last action is held.
        """
        missing = -len(actions) % execute
        held = torch.cat([actions, actions[-1:].expand(missing, -1)])
        # r_t + gamma r_{t+1} + gamma^2 r_{t+2} + ...
        discounts = torch.tensor([gamma**step for step in range(execute)])
        chunks = torch.nn.functional.pad(rewards, (0, missing)).view(-1, execute)
        return LatentEpisode(features, held.view(len(chunks), -1), (chunks * discounts).sum(1))

    def since(self, start: int) -> "LatentEpisode":
        """Return the part from decision `start` on."""
        return LatentEpisode(self.features[start:], self.actions[start:], self.rewards[start:])


class LatentReplay:
    """The episodes of latents under `root`, which is made where there is nothing.

    Raises `UserError` where `root` is something else, was made with another `spec` (the message
    says in what), or is damaged: all of it is read once, to compare checksums.
    """

    def __init__(self, root: Path, spec: LatentSpec) -> None:
        self.root = root
        self.spec = spec
        self._record = spec.record()
        self._journal = Journal(root / EPISODES)
        if not (root / HEADER).exists():
            _create(root, spec)
        _check_header(root, spec)
        self._refresh()
        self._verify()

    def __len__(self) -> int:
        """Return how many decisions it holds."""
        return int(self._ends[-1])

    @property
    def episodes(self) -> Sequence[Mapping[str, Any]]:
        """Return what is written down of each episode, in the order in which they came."""
        return self._episodes

    def append(self, episode: LatentEpisode, **facts: Any) -> None:
        """Add an episode, wholly or not at all, with `facts` about it (JSON). It is on disk then.

        Raises `UserError` where it has more tokens than the store was made for, and where the disk
        is full.
        """
        content = self._records(episode).tobytes()
        with disk.locked(self.root):
            self._refresh()  # another process may have come first
            try:
                disk.extend(self.root / RECORDS, self._size, content)
                crc32 = zlib.crc32(content)
                self._journal.append("episode", decisions=len(episode), crc32=crc32, **facts)
            except OSError as error:
                raise UserError(
                    f"cannot write to {self.root}: {error.strerror}; {disk.remedy(error)}"
                ) from error
            self._refresh()

    def read(self, index: int) -> LatentEpisode:
        """Return an episode, as it was appended."""
        part = np.arange(self._ends[index], self._ends[index + 1])
        actions, rewards = self._map["action"][part], self._map["reward"][part]
        return LatentEpisode(
            self.features(part), torch.from_numpy(actions), torch.from_numpy(rewards)
        )

    def rewind(self, episodes: int) -> None:
        """Keep the first `episodes` of it: the rest will be played again, to the same bits."""
        if episodes < len(self._episodes):
            with disk.locked(self.root):
                self._journal.rewind(episodes)
                self._refresh()

    def refresh(self) -> None:
        """Take up what another process has appended."""
        if whole_lines(self.root / EPISODES) != self._journal_size:
            self._refresh()

    def features(self, index: Int64[np.ndarray, " n"]) -> Features:
        """Return what was seen before some decisions, counted over all episodes; on the CPU."""
        bits = torch.from_numpy(self._map["tokens"][index])
        mask = torch.from_numpy(self._map["mask"][index])
        state = torch.from_numpy(self._map["state"][index])
        return Features(bits.view(torch.bfloat16).float(), mask, state)

    def _records(self, episode: LatentEpisode) -> np.ndarray:
        features = episode.features.to("cpu")
        spec = self.spec
        if features.tokens.shape[1] > spec.tokens:
            features = _unpadded(features)
        decisions, m, width = features.tokens.shape
        if m > spec.tokens:
            raise UserError(
                f"{self.root} holds {spec.tokens} tokens, not {m}: make another with room for so "
                "many"
            )
        assert (width, episode.actions.shape[1]) == (spec.width, spec.action_dim)
        assert features.state.shape[1] == spec.state_dim
        records = np.zeros(decisions, self._record)
        tokens = features.tokens.detach().to(torch.bfloat16).contiguous()
        records["tokens"][:, :m] = tokens.view(torch.uint16).numpy()
        records["mask"][:, :m] = features.mask.numpy()
        records["state"] = features.state.detach().numpy()
        records["action"] = episode.actions.cpu().numpy()
        records["reward"] = episode.rewards.cpu().numpy()
        return records

    def _refresh(self) -> None:
        """Map what is committed."""
        self._journal_size = whole_lines(self.root / EPISODES)
        self._episodes = read_lines(self.root / EPISODES, facts=FACTS)
        sizes = [episode["decisions"] for episode in self._episodes]
        if not all(type(size) is int and size > 0 for size in sizes):
            raise UserError(f"{self.root / EPISODES} is damaged; {ANEW}")
        self._ends: Int64[np.ndarray, " E"] = np.cumsum([0, *sizes])
        self._size = len(self) * self._record.itemsize
        if (self.root / RECORDS).stat().st_size < self._size:
            raise UserError(
                f"{self.root / RECORDS} is cut short: restore it, or delete {self.root} to begin "
                "anew"
            )
        if self._size:
            self._map: Any = np.memmap(self.root / RECORDS, self._record, "r", shape=(len(self),))

    def _verify(self) -> None:
        with (self.root / RECORDS).open("rb") as file:
            for number, episode in enumerate(self._episodes):
                content = file.read(episode["decisions"] * self._record.itemsize)
                if zlib.crc32(content) != episode["crc32"]:
                    raise UserError(
                        f"episode {number} in {self.root / RECORDS} is corrupt: restore the file, "
                        f"or delete {self.root} to begin anew"
                    )


def _unpadded(features: Features) -> Features:
    """Return each decision's tokens without gaps: in a batch with longer instructions they are
    padded, those of several cameras between one and the next."""
    first = features.mask.int().argsort(dim=1, descending=True, stable=True)
    most = int(features.mask.sum(1).max())
    first = first[:, :most]
    rows = torch.arange(len(features))[:, None]
    return Features(features.tokens[rows, first], features.mask[rows, first], features.state)


def _create(root: Path, spec: LatentSpec) -> None:
    unfinished = {disk.STAGING, RECORDS}  # what a kill in here leaves
    if root.exists() and (
        not root.is_dir() or any(path.name not in unfinished for path in root.iterdir())
    ):
        raise UserError(f"{root} holds something else than latents: name another directory")
    root.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"format": FORMAT, **asdict(spec)}, indent=1) + "\n"
    disk.replace(root, [(RECORDS, b""), (HEADER, header.encode())])


def reopen(root: Path) -> LatentReplay:
    """Return the store that is at `root`, whosever latents it holds."""
    header = read_json(root / HEADER, remedy=ANEW)
    with shaped(root / HEADER, remedy=ANEW):
        spec = LatentSpec(**{field.name: header[field.name] for field in fields(LatentSpec)})
        spec.record()  # for what it raises
    return LatentReplay(root, spec)


def _check_header(root: Path, spec: LatentSpec) -> None:
    header = read_json(root / HEADER, remedy=ANEW)
    with shaped(root / HEADER, remedy=ANEW):
        found = mapping(header, "the header")
    for name, wanted in {"format": FORMAT, **asdict(spec)}.items():
        if name == "encoder" and found.get(name) != wanted:
            raise UserError(
                f"the latents in {root} were made on {found.get(name)!r}, and would be made on "
                f"{wanted!r} now: let the VLM be there again until this stage is over "
                "(rollouts.encoder, rollouts.device, device)"
            )
        if found.get(name) != wanted:
            raise UserError(
                f"the latents in {root} were made with {name} = {found.get(name)!r}, but "
                f"{wanted!r} is wanted; name another directory, or delete this one to encode anew"
            )
