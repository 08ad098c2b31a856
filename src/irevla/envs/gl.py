"""Which GL library MuJoCo draws with. It is settled when mujoco, or dm_control, is imported."""

import os
import sys
from pathlib import Path


def choose() -> None:
    """Name one that needs no display, unless MUJOCO_GL names one."""
    os.environ.setdefault("MUJOCO_GL", "egl" if Path("/dev/nvidia0").exists() else "osmesa")
    # llvmpipe's own threads cost more than they bring at these sizes.
    os.environ.setdefault("LP_NUM_THREADS", "0")


def choose_without_display() -> None:
    """The same for code of others, which finds its own library where there is a display."""
    shown = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform == "linux" and not shown:
        choose()
