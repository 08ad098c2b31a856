"""The VLM on a server, the rest of the policy here: an image goes there, its latents come back.

For a small computer beside an arm that has no GPU. What the head decides, and what is kept, are the
same as with a VLM here; each decision takes as much longer as its image and latents travel.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from irevla.config import RolloutsConfig
from irevla.models.policy import VLAPolicy
from irevla.rollout.fleet import Fleet, command, hired
from irevla.rollout.wire import features_of_files, observation_to_files
from irevla.storage.message import pack
from irevla.types import Features, Observation

LOOK = 300.0  # seconds for an image


@contextmanager
def encoder_of(
    config: RolloutsConfig, policy: VLAPolicy, *, stored: bool = False
) -> Iterator[None]:
    """Let the VLM that `config` asks for encode what `policy` sees; inside of another such, that.

    The VLM there is this policy's, by its sha256, as it is now. `stored`: latents come as they are
    stored, in half of the bytes, and no others may be wanted. Raises `UserError` where there is no
    such cluster, and where the server is lost again and again.
    """
    if config.encoder == "local" or policy.encoder is not None:
        yield
        return
    with hired(config, workers=1) as fleet:
        fleet.install(policy)
        policy.encoder = RemoteEncoder(fleet, policy, stored=stored)
        try:
            yield
        finally:
            policy.encoder = None


class RemoteEncoder:
    """The VLM of the only actor of a fleet. One that is lost is replaced, and asked again."""

    def __init__(self, fleet: Fleet, policy: VLAPolicy, *, stored: bool) -> None:
        self._fleet = fleet
        self._policy = policy
        self._stored = stored

    @property
    def device_type(self) -> str:
        """What it computes on."""
        return self._fleet.device_type

    def __call__(self, observation: Observation) -> Features:
        """Return h of an observation, without gradients."""
        seen = observation_to_files(observation)
        asking = pack(command("encode", seen, stored=self._stored))
        answer = self._fleet.answer(0, self._fleet.ask(0, asking), again=asking, most=LOOK)
        return features_of_files(answer, self._policy.device)
