"""What the robot says of itself, as heads read it: each number in deviations from its mean in
D_e."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

FAR = 10.0  # deviations beyond which a number counts as so many: it was never demonstrated
STILL = 1e-6  # a deviation below which a number counts as constant, and is only shifted


class StateScale(nn.Module):
    """Mean and standard deviation of each of `S` numbers; no parameters, but part of the files."""

    mean: Tensor
    std: Tensor

    def __init__(self, state_dim: int) -> None:
        super().__init__()
        if state_dim:  # else there is nothing in the files
            self.register_buffer("mean", torch.zeros(state_dim))
            self.register_buffer("std", torch.ones(state_dim))
        self.state_dim = state_dim

    def fit(self, state: Float[Tensor, "N S"]) -> None:
        """Take the scale from demonstrations."""
        std, mean = torch.std_mean(state.double(), 0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std < STILL, 1.0, std))

    def forward(self, state: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
        """Return the state in deviations from the mean."""
        if not self.state_dim:
            return state
        return ((state - self.mean) / self.std).clamp(-FAR, FAR)
