"""What a policy makes of one fixed picture and sentence: does it act here as where it was saved?

Another version of a library, or another machine, may compute other latents from the same weights,
and nothing else would say so: the policy only succeeds less often.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from irevla.errors import UserError
from irevla.types import Features, Observation

FINGERPRINT = "fingerprint"  # its key in config.json; policies of version 0.1 have none
SEED = b"irevla-fingerprint-1"  # of the picture
SENTENCE = "open the drawer"
LIBRARIES = ("torch", "transformers")
VALUES = 8  # latents that are kept

EXACT = "cpu float32"
FINE = 1e-4
"""Allowed between two CPUs in float32, of the latents' size. Measured on all families and the small
VLM: other threads or kernels bring up to 2e-6; a wrong epsilon of the norms 3e-4 to 5e-3."""
COARSE = 0.1
"""Allowed where either side computed in bfloat16, as on CUDA: its roundings alone bring up to 3e-2
in models of two layers."""


@dataclass(frozen=True)
class Fingerprint:
    """A few values of h and the mean action, and what computed them."""

    latents: tuple[float, ...]  # evenly spread over the real tokens
    action: tuple[float, ...]  # the whole mean action, in [-1, 1]; empty: not known
    computed: str  # device and type, "cpu float32"
    versions: Mapping[str, str]  # library -> its version

    @staticmethod
    def of(features: Features, action: Float[Tensor, "1 A"], *, computed: str) -> "Fingerprint":
        """Return the fingerprint of what a policy made of `fixed_observation`."""
        h = features.tokens[0][features.mask[0]].flatten().float()
        places = torch.linspace(0, len(h) - 1, VALUES).long().to(h.device)
        values = h[places].tolist()
        return Fingerprint(tuple(values), tuple(action[0].tolist()), computed, _versions())

    def to_json(self) -> dict[str, Any]:
        """Return it as `read` takes it."""
        lists = {"latents": list(self.latents), "action": list(self.action)}
        return asdict(self) | lists

    @staticmethod
    def read(data: Any) -> "Fingerprint":
        """Return what `to_json` wrote. Raises `UserError` for anything else."""
        match data:
            case {
                "latents": [*latents],
                "action": [*action],
                "computed": str(computed),
                "versions": dict(versions),
            } if all(isinstance(value, float) for value in (*latents, *action)):
                return Fingerprint(tuple(latents), tuple(action), computed, versions)
        raise UserError("its fingerprint is damaged: save or download the policy again")


def fixed_observation(side: int, state_dim: int = 0, cameras: int = 1) -> Observation:
    """Return the one picture (noise, the same for ever) and sentence, and some state of the robot;
    `side` in pixels. Further cameras see further noise."""
    # Not by a generator of numpy or torch: those may change with the versions that are compared.
    noise = hashlib.shake_256(SEED).digest(3 * cameras * side * side)
    picture = np.frombuffer(noise, np.uint8).reshape(1, cameras * side, side, 3)
    state = np.linspace(-1, 1, state_dim, dtype=np.float32)[None]
    return Observation.of(picture, [SENTENCE], state)


def without_action(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a `config.json` whose fingerprint is true whatever the head is."""
    if FINGERPRINT not in described:
        return dict(described)
    return {**described, FINGERPRINT: {**described[FINGERPRINT], "action": []}}


def check_same(then: Fingerprint, now: Fingerprint) -> None:
    """Raise `UserError` where a policy makes other latents or actions than it did when saved."""
    gaps = {"latents": _gap(then.latents, now.latents) / (_size(then.latents) or 1.0)}
    if then.action:
        gaps["mean action"] = _gap(then.action, now.action)
    tolerance = FINE if then.computed == now.computed == EXACT else COARSE
    worst = max(gaps, key=lambda name: math.inf if math.isnan(gaps[name]) else gaps[name])
    if not gaps[worst] <= tolerance:  # so that NaN is refused
        raise UserError(
            f"it acts otherwise here: on one fixed picture its {worst} went {gaps[worst]:.2g} "
            f"away from what was saved ({tolerance:g} is allowed). Then: {_said(then)}; now: "
            f"{_said(now)}. Install those versions; or take it as it is, with "
            "VLAPolicy.from_pretrained(..., accept_difference=True), and save it anew"
        )


def _gap(then: Sequence[float], now: Sequence[float]) -> float:
    """Return the largest difference; a NaN that was one before is none."""
    old, new = np.array(then), np.array(now)
    if old.shape != new.shape:
        return math.inf
    same = (old == new) | (np.isnan(old) & np.isnan(new))
    with np.errstate(invalid="ignore"):  # inf - inf
        return float(np.where(same, 0.0, np.abs(old - new)).max(initial=0.0))


def _size(values: Sequence[float]) -> float:
    """Return the root of the mean square of what is finite."""
    finite = [value for value in values if math.isfinite(value)]
    return math.sqrt(sum(value**2 for value in finite) / max(1, len(finite)))


def _said(taken: Fingerprint) -> str:
    libraries = [f"{name} {taken.versions.get(name, 'not there')}" for name in LIBRARIES]
    return ", ".join([*libraries, taken.computed])


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
