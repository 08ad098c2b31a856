"""Every example runs as a user runs it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from irevla.storage import disk

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
NEEDS = {
    "gym_aloha_transfer": "gym_aloha",
    "gym_hil_pick": "gym_hil",
    "gym_pusht_push": "gym_pusht",
}  # examples of packages that irevla does not need


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_and_says_something(
    path: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    monkeypatch.setenv(disk.CACHE, str(tmp_path_factory.mktemp("cache")))
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"
    if path.stem == "gym_aloha_transfer":
        assert "hands over 10 of 10" in done.stdout
    if path.stem == "gym_hil_pick":
        assert "picks up 10 of 10" in done.stdout
    if path.stem == "gym_pusht_push":
        assert "brings 10 of 10" in done.stdout
    if path.stem == "sac_on_latents":  # SAC solves it, from a demonstrator who mostly misses
        first, *_, last = [float(rate) for rate in re.findall(r"success ([\d.]+)", done.stdout)]
        assert 0.2 < first < 0.4 and last >= 0.9


def test_there_are_examples() -> None:
    names = {path.stem for path in EXAMPLES}
    yours = {"your_dataset", "your_env", "your_suite", "your_vlm"}
    assert {"quickstart", "sac_on_latents", *NEEDS} | yours <= names
