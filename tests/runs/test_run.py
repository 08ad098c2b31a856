"""The run directory: what the same command finds there."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from irevla.config_io import to_dict
from irevla.errors import UserError
from irevla.presets import find_preset
from irevla.runs.run import CHANGED, open_run

TOY = find_preset("pointmass")


def begin(directory: Path, changes: Mapping[str, Any]) -> None:
    """Leave a run as if begun by an irevla with other settings."""
    with open_run(directory, TOY):
        pass
    settings = to_dict(TOY)
    settings["sac"] = {**settings["sac"], **changes}
    (directory / "config.yaml").write_text(yaml.safe_dump(settings))


def test_a_run_of_an_older_version_goes_on_and_says_what_is_gone(tmp_path: Path) -> None:
    begin(tmp_path, {"tau": 0.005, "starts": 4})
    for _ in range(2):
        with open_run(tmp_path, TOY) as run:
            told = [each["settings"] for each in run.journal if each["event"] == CHANGED]
        assert told == [["sac.starts: 4 -> gone", "sac.tau: 0.005 -> gone"]], "once"


def test_what_is_gone_is_no_leave_to_change_the_rest(tmp_path: Path) -> None:
    begin(tmp_path, {"tau": 0.005})
    other = replace(TOY, seed=1)
    with pytest.raises(UserError, match=r"seed: 0 -> 1"), open_run(tmp_path, other):
        pass


def test_a_setting_that_never_was_is_told_with_its_file(tmp_path: Path) -> None:
    begin(tmp_path, {"tao": 0.005})
    named = re.escape(str(tmp_path / "config.yaml"))
    named = f"{named}: unknown field 'sac.tao'"
    with pytest.raises(UserError, match=named), open_run(tmp_path, TOY):
        pass
