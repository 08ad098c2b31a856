"""Where a number comes from: the code's commit, the machine, the command."""

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any


def command() -> str:
    """Return the command line of this process, as a person would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def git_commit() -> str:
    """Return the commit of the source tree this runs from, "-dirty" where it was changed.

    Empty for an installed package, and for a tree that is not irevla's own.
    """
    here = Path(__file__)
    try:
        # Installed inside somebody's project, it would get that project's commit.
        _git("ls-files", "--error-unmatch", here.name, folder=here.parent)
        return _git(
            "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*", folder=here.parent
        )
    except (OSError, subprocess.SubprocessError):  # no git, no repository, not of it
        return ""


def _git(*words: str, folder: Path) -> str:
    done = subprocess.run(
        ["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def is_clean(git: str) -> bool:
    """Return whether `git`, from `git_commit`, names a commit that anyone can check out."""
    return bool(git) and not git.endswith("-dirty")


def machine() -> dict[str, Any]:
    """Return what a number was measured on."""
    import torch

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()
