"""Which commit a number is of."""

import shutil
import subprocess
from pathlib import Path

import pytest

import irevla.storage.provenance as provenance


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_a_commit_is_that_of_irevla_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed in the folder of somebody's project, it has none: not the project's."""
    git(tmp_path, "init")
    (tmp_path / ".gitignore").write_text("installed\n")
    copies = [tmp_path / name / "provenance.py" for name in ("installed", "source")]
    for copy in copies:
        copy.parent.mkdir()
        shutil.copy(provenance.__file__, copy)
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-m", "a project")
    found = []
    for copy in copies:
        monkeypatch.setattr(provenance, "__file__", str(copy))
        found.append(provenance.git_commit())
    assert found == ["", git(tmp_path, "rev-parse", "--short=12", "HEAD")]
    copies[1].write_text("")
    assert provenance.git_commit() == found[1] + "-dirty"
