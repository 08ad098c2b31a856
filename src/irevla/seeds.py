"""Which integers seed which episodes. Every purpose has a block of its own, so evaluation seeds can
never touch training."""

from enum import IntEnum

BLOCK = 100_000_000  # seeds per purpose
SHARE = 100_000  # seeds per run (or per evaluation seed) within a block
PURPOSES = 10  # at most; each later round of Algorithm 1 has as many blocks again


class Purpose(IntEnum):
    """What an episode is played for."""

    EXPERT = 0  # demonstrations for D_e
    RL = 1  # exploration in stage 1
    HARVEST = 2  # successes for D_RL
    BLIND = 3  # the demonstration that the blind baseline replays
    ZERO_SHOT = 4  # successes of the policy as it is, before SAC trains it
    EVALUATION = 9


def first_seed(purpose: Purpose, seed: int, *, round: int = 1) -> int:
    """The first episode seed of `purpose` for run (or evaluation) seed `seed` in 0..999 in a round
    of Algorithm 1; the next SHARE - 1 follow it."""
    assert 0 <= seed < BLOCK // SHARE
    return (purpose + PURPOSES * (round - 1)) * BLOCK + seed * SHARE
