"""SAC where there is neither VLM nor environment: the head of a saved policy, and two buffers."""

from collections.abc import Mapping
from typing import Any

import torch

from irevla.config import SACConfig
from irevla.data.replay import LatentReplay
from irevla.learners.sac import SAC
from irevla.models.files import CONFIG, NAMES, WEIGHTS, parse
from irevla.models.fingerprint import without_action
from irevla.models.heads import ActionHead
from irevla.stages.learner import SACLearner


class Learning:
    """SAC of the head in `files`, a policy's or a checkpoint's, on `device`.

    From a checkpoint it goes on where that was saved. Draws are of `seed`.
    """

    def __init__(
        self,
        files: Mapping[str, Any],
        config: SACConfig,
        *,
        seed: int,
        device: torch.device,
        demonstrations: LatentReplay,
        online: LatentReplay,
    ) -> None:
        saved = parse(files)
        self.head = ActionHead(
            width=online.spec.width,
            groups=saved.model.head_groups,
            hidden=saved.model.head_hidden,
            action_dim=saved.action_dim,
            state_dim=saved.state_dim,
        ).to(device)
        self.policy = PolicyFiles(files, self.head)
        sac = SAC(self.head, config, seed=seed)
        self.learner = SACLearner(sac, demonstrations=demonstrations, online=online)
        if "learner.json" in files:
            self.learner.load_state(files)


class PolicyFiles:
    """A policy without its VLM: the files it was saved in, and a head that learns."""

    def __init__(self, files: Mapping[str, Any], head: ActionHead) -> None:
        self._files = files
        self._head = head
        self.load_files(files)

    def files(self) -> dict[str, Any]:
        """Return those that the policy was saved in, with the head as it is now."""
        head = {f"action_head.{name}": value for name, value in self._head.state_dict().items()}
        policy = {name: value for name, value in self._files.items() if name in NAMES}
        described = without_action(self._files[CONFIG])  # the head is another by now
        return {**policy, CONFIG: described, WEIGHTS: {**self._files[WEIGHTS], **head}}

    def load_files(self, files: Mapping[str, Any]) -> None:
        """Take the head's weights."""
        prefix = "action_head."
        weights = files[WEIGHTS].items()
        self._head.load_state_dict(
            {name.removeprefix(prefix): v for name, v in weights if name.startswith(prefix)}
        )
