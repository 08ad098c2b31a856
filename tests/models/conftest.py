"""A tiny model of every family, made once."""

import copy
from pathlib import Path

import pytest
from vlm_families import Folders, Policies, policy_of, save

from irevla.models.policy import VLAPolicy


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The folder of a family's tiny model, written once."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = save(family, tmp_path_factory.mktemp(family))
        return made[family]

    return folder


@pytest.fixture(scope="session")
def policies(folders: Folders) -> Policies:
    """A family's policy with LoRA. Built once: a copy of it may be changed."""
    made: dict[str, VLAPolicy] = {}

    def policy(family: str) -> VLAPolicy:
        if family not in made:
            made[family] = policy_of(folders(family))
        processor = made[family].vlm.processor  # slow to copy, and never changed
        return copy.deepcopy(made[family], {id(processor): processor})

    return policy
