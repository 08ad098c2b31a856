"""What several cameras see, as one sequence of tokens."""

import torch
from torch import Tensor, nn

from irevla.types import Features, Observation

MARK = 0.02  # deviation of new marks, as of new embeddings elsewhere; tokens are about 1


class Views(nn.Module):
    """The pictures of `cameras`, each read by the VLM with the same instruction, and their tokens
    joined. What is added to the tokens of a camera says whose they are.

    It belongs to what makes latents, as the VLM does: RL does not train it.
    """

    def __init__(self, cameras: tuple[str, ...], *, width: int) -> None:
        super().__init__()
        self.cameras = cameras
        if cameras:  # else there is nothing in the files
            self.marks = nn.Parameter(MARK * torch.randn(len(cameras), width))

    def apart(self, observation: Observation) -> Observation:
        """Return every picture as an observation of its own, those of one next to each other."""
        if not self.cameras:
            return observation
        side = observation.images.shape[2]
        texts = tuple(text for text in observation.instructions for _ in self.cameras)
        return Observation(observation.images.reshape(-1, side, side, 3), texts)

    def joined(self, h: Features) -> Features:
        """Return the latents of `apart` as one sequence for each observation."""
        if not self.cameras:
            return h
        count = len(self.cameras)
        _, m, d = h.tokens.shape
        tokens: Tensor = h.tokens.view(-1, count, m, d) + self.marks[:, None].to(h.tokens.dtype)
        return Features(tokens.reshape(-1, count * m, d), h.mask.reshape(-1, count * m))
