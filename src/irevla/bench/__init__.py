"""The benchmarks: what costs most, measured against the usual way, both in one run."""

import importlib
import inspect
from typing import Any

from irevla.errors import UserError, unknown
from irevla.storage.provenance import git_commit, machine

BENCHMARKS = {
    "render": (
        "one 64 px image of a suite, ours against render_mode='rgb_array'",
        "irevla.bench.render",
    ),
    "rollout": (
        "decisions/s of data collection for PPO, ours against the stock environment",
        "irevla.bench.rollout",
    ),
    "ppo-update": (
        "one PPO update on cached latents, against re-encoding every minibatch",
        "irevla.bench.ppo_update",
    ),
    "latency": ("decisions at 10 Hz while SAC learns, against SAC idle", "irevla.bench.latency"),
    "encode": (
        "a VLM's forward pass, against the rate of a matrix product (MFU)",
        "irevla.bench.encode",
    ),
    "sft": (
        "a supervised step of a VLM, against the rate of a matrix product (MFU)",
        "irevla.bench.sft",
    ),
    "memory": (
        "what each stage keeps in memory, computed from the architecture",
        "irevla.bench.memory",
    ),
    "scale": (
        "PPO's rollouts by 1, 2 and 4 actors on Ray, and a simulation of 8 to 512 GPUs",
        "irevla.bench.scale",
    ),
}
"""Name -> what it measures, and the module whose `run` measures it."""


def run_benchmark(name: str, **options: Any) -> dict[str, Any]:
    """Run one benchmark; return its result with the machine and the commit.

    "ratio" is the headline figure. Raises `UserError` for an unknown benchmark and for an option
    that it does not have.
    """
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    _, module = BENCHMARKS[name]
    run = importlib.import_module(module).run
    for option in options.keys() - inspect.signature(run).parameters.keys():
        raise UserError(f"bench {name} has no --{option.replace('_', '-')}: leave it out")
    result: dict[str, Any] = run(**options)
    return {"benchmark": name, **result, "machine": machine(), "git": git_commit()}
