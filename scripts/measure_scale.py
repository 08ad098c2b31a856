"""One supervised stage computed here, by torchrun and on a Ray cluster of this machine: how long it
takes, what travels, and how far the weights are apart. One JSON object a line, into FILE.

    python scripts/measure_scale.py FILE

Stage 0 of the preset `pointmass`, in float32, one thread a process. Each way is taken twice in the
same share: the second time as another run, whose episodes are there already.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from irevla.config import ComputeConfig, Config
from irevla.data.episodes import EpisodeStore
from irevla.envs.suite import load_suite
from irevla.presets import find_preset
from irevla.rollout.demonstrations import collect_expert
from irevla.runs.run import open_run
from irevla.stages.start import new_policy
from irevla.stages.supervised import run_supervised
from irevla.storage.provenance import git_commit, machine
from irevla.storage.share import Share
from irevla.tasks import SFT, Category

SUITE = load_suite("pointmass")


def settings() -> Config:
    """Return what is computed."""
    preset = find_preset("pointmass")
    model = replace(preset.model, dtype="float32")
    return replace(preset, threads=1, device="cpu", model=model)


def learn(
    folder: Path, compute: ComputeConfig, expert: EpisodeStore
) -> tuple[float, dict[str, Tensor]]:
    """Return the seconds that stage 0 takes, and its weights."""
    with open_run(folder, replace(settings(), compute=compute)) as run:
        policy = new_policy(run, SUITE, SFT)
        start = time.monotonic()
        run_supervised(run, policy, SFT, "all", suite=SUITE, expert=expert)
        return time.monotonic() - start, dict(policy.state_dict())


@contextmanager
def sent() -> Iterator[list[int]]:
    """Yield the sizes of all files that this process writes to a share."""
    sizes: list[int] = []
    write = Share.write

    def noted(self: Share, name: str, content: bytes) -> None:
        sizes.append(len(content))
        write(self, name, content)

    Share.write = noted  # type: ignore[method-assign]
    try:
        yield sizes
    finally:
        Share.write = write  # type: ignore[method-assign]


def ways(root: Path) -> Iterator[tuple[str, ComputeConfig]]:
    """Yield each way twice, the cluster's last."""
    for processes in (1, 2):
        share = str(root / f"torchrun-{processes}")
        compute = ComputeConfig(stage0="torchrun", processes=processes, share=share)
        for time_ in ("first", "again"):
            yield f"torchrun, {time_}", compute
    if find_spec("ray") is None:
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(2):
        cluster.add_node(num_cpus=1, resources={"remote": 1})
    for processes in (1, 2):
        compute = ComputeConfig(
            stage0="ray",
            processes=processes,
            share=str(root / f"ray-{processes}"),
            ray_address=cluster.address,
            ray_resource="remote",
        )
        for time_ in ("first", "again"):
            yield f"ray, {time_}", compute
    cluster.shutdown()


def measure(root: Path) -> Iterator[dict[str, Any]]:
    """Yield one row for each way."""
    torch.set_num_threads(1)
    os.environ["IREVLA_CACHE"] = str(root / "cache")
    config = settings()
    tasks = SUITE.named(config.expert_tasks, Category.EXPERT)
    expert = collect_expert(
        SUITE, tasks, config.expert, env=config.env, seed=0, root=root / "expert"
    )
    expert.read()
    seconds, wanted = learn(root / "inline", ComputeConfig(), expert)
    about = {"git": git_commit(), "machine": machine(), "steps": config.sft.steps}
    yield {"way": "inline", "processes": 1, "seconds": seconds, "load": os.getloadavg()[0], **about}
    for number, (way, compute) in enumerate(ways(root)):
        with sent() as sizes:
            seconds, weights = learn(root / f"run-{number}", compute, expert)
        gaps = {name: float((weights[name] - wanted[name]).abs().max()) for name in wanted}
        keys = {name: gap for name, gap in gaps.items() if name.endswith("qkv.bias")}
        yield {
            "way": way,
            "processes": compute.processes,
            "seconds": seconds,
            "load": os.getloadavg()[0],
            "bytes_sent": sum(sizes),
            "difference": max(gap for name, gap in gaps.items() if name not in keys),
            "difference_of_key_biases": max(keys.values()),
            **about,
        }


def main(file: tyro.conf.Positional[Path]) -> None:
    """Measure every way into FILE."""
    with tempfile.TemporaryDirectory() as root, file.open("w") as out:
        for row in measure(Path(root)):
            out.write(json.dumps(row) + "\n")
            out.flush()
            print({name: row[name] for name in row if name not in ("git", "machine")})


if __name__ == "__main__":
    tyro.cli(main)
