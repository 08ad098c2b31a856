"""The benchmarks: what costs most, measured against the usual way, both in one run."""

import importlib
from typing import Any

from irevla.errors import unknown
from irevla.runs.run import git_commit, machine

BENCHMARKS = {
    "render": ("one 64 px Meta-World frame, ours against render_mode='rgb_array'", "irevla.bench.render"),
    "rollout": ("decisions/s of data collection for PPO, ours against the stock environment", "irevla.bench.rollout"),
    "ppo-update": ("one PPO update on cached latents, against re-encoding every minibatch", "irevla.bench.ppo_update"),
}


def run_benchmark(name: str) -> dict[str, Any]:
    """Run one benchmark; its result with the machine and the commit. "ratio" is the headline figure."""
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    result: dict[str, Any] = importlib.import_module(BENCHMARKS[name][1]).run()
    return {"benchmark": name, **result, "machine": machine(), "git": git_commit()}
