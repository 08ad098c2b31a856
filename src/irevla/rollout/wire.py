"""Rollouts and episodes as files, which `storage.message` makes bytes of, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irevla.envs.vector import Job
from irevla.rollout.batches import Columns, Final, Finished, RolloutStats
from irevla.rollout.episodes import Outcome
from irevla.storage.checkpoint import Files
from irevla.types import Episode, Features, Observation, Provenance

FLAT = (
    "places",
    "listed",
    "actions",
    "log_probs",
    "rewards",
    "terminated",
    "truncated",
    "valid",
    "steps",
)


def jobs_to_json(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Return jobs as JSON."""
    return [asdict(job) for job in jobs]


def jobs_of_json(data: Sequence[Mapping[str, Any]]) -> list[Job]:
    """Return the inverse of `jobs_to_json`."""
    return [Job(**each) for each in data]


def rollout_to_files(columns: Columns, stats: RolloutStats) -> dict[str, Any]:
    """Return a rollout as files; what was seen in it is left out."""
    tensors = {name: getattr(columns, name).contiguous() for name in FLAT}
    tensors |= _tensors(columns.features, "features")
    for number, final in enumerate(columns.finals):
        tensors |= {f"final-{number}.where": final.where}
        tensors |= _tensors(final.features, f"final-{number}")
    return {
        "columns.safetensors": tensors,
        "stats.json": {**asdict(stats), "finals": len(columns.finals)},
    }


def rollout_of_files(files: Files) -> tuple[Columns, RolloutStats]:
    """Return the inverse of `rollout_to_files`."""
    tensors = files["columns.safetensors"]
    stats = dict(files["stats.json"])
    numbers = range(stats.pop("finals"))
    finals = tuple(
        Final(tensors[f"final-{number}.where"], _features(tensors, f"final-{number}"))
        for number in numbers
    )
    finished = tuple(
        Finished(Job(**each["job"]), each["success"], each["length"])
        for each in stats.pop("finished")
    )
    flat = {name: tensors[name] for name in FLAT}
    columns = Columns(features=_features(tensors, "features"), finals=finals, **flat)
    return columns, RolloutStats(finished=finished, **stats)


def observation_to_files(observation: Observation) -> dict[str, Any]:
    """Return what is seen as files."""
    tensors = {"images": observation.images.cpu().contiguous(), "state": observation.state.cpu()}
    return {"seen.safetensors": tensors, "told.json": {"instructions": observation.instructions}}


def observation_of_files(files: Files) -> Observation:
    """Return the inverse of `observation_to_files`."""
    tensors = files["seen.safetensors"]
    instructions = tuple(files["told.json"]["instructions"])
    return Observation(tensors["images"], instructions, tensors["state"])


def features_to_files(features: Features) -> dict[str, Any]:
    """Return latents as files: in bfloat16 where that loses nothing, as of those that are kept."""
    rounded = features.rounded()
    lossless = torch.equal(rounded.tokens.float(), features.tokens)
    return {"latents.safetensors": _tensors(rounded if lossless else features, "latents")}


def features_of_files(files: Files, device: torch.device) -> Features:
    """Return the inverse of `features_to_files`, on a device, in float32."""
    return _features(files["latents.safetensors"], "latents").to(device).float()


def _tensors(features: Features, name: str) -> dict[str, Tensor]:
    return {
        f"{name}.tokens": features.tokens,
        f"{name}.mask": features.mask,
        f"{name}.state": features.state,
    }


def _features(tensors: Mapping[str, Tensor], name: str) -> Features:
    return Features(*(tensors[f"{name}.{part}"] for part in ("tokens", "mask", "state")))


def outcome_to_files(outcome: Outcome) -> dict[str, Any]:
    """Return an episode as files; latents are left out."""
    arrays = {"actions": outcome.actions}
    told: dict[str, Any] = {"job": asdict(outcome.job), "success": outcome.success}
    episode = outcome.episode
    if episode is not None:
        arrays |= {"images": episode.images, "rewards": episode.rewards, "state": episode.state}
        told |= {"made": asdict(episode.provenance), "instruction": episode.instruction}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in arrays.items()}
    return {"outcome.json": told, "outcome.safetensors": tensors}


def outcome_of_files(files: Files) -> Outcome:
    """Return the inverse of `outcome_to_files`."""
    told = files["outcome.json"]
    arrays = {name: each.numpy() for name, each in files["outcome.safetensors"].items()}
    actions = arrays["actions"]
    success = told["success"]
    episode = None
    if "made" in told:
        made = Provenance(**told["made"])
        episode = Episode(
            arrays["images"],
            actions,
            arrays["rewards"],
            told["instruction"],
            success,
            made,
            arrays["state"],
        )
    return Outcome(Job(**told["job"]), success, actions, episode)
