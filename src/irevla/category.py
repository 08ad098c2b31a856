"""The paper's groups of tasks. Apart from `types`, because worker processes of environments do
without torch."""

from enum import StrEnum


class Category(StrEnum):
    """The paper's three groups of tasks (section V-A)."""

    EXPERT = "expert"  # demonstrated in D_e
    RL = "rl"  # improved by online RL
    UNSEEN = "unseen"  # held out of all training
