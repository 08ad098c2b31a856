"""Decisions at 10 Hz with the VLM here and on a server, over links of several delays and losses.
One JSON object a line, into FILE. Linux, as root, with Ray; stop it with Ctrl-C alone.

    python scripts/measure_link.py FILE

The links are made on this machine, with the system's TCP at both ends, and the server is a Ray node
beyond them. Two VLMs: the small one on images of 64 pixels, and one that sends and gets what BLIP-2
2.7B does, images of 224 pixels and 48 tokens of 2560 numbers, but computes little: one layer of
each tower, with random weights.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import tyro

from irevla.bench.blip2 import FULL, Sizes, model, processor
from irevla.bench.latency import CONFIG, run
from irevla.bench.link import HERE, THERE, bad_link
from irevla.config import Config, LoRAConfig, ModelConfig, RolloutsConfig
from irevla.errors import UserError
from irevla.storage.provenance import git_commit, machine

LINKS = ((0.0, 0.0), (0.001, 0.0), (0.01, 0.0), (0.01, 0.01), (0.02, 0.0), (0.02, 0.01))
"""Delay in either direction, in s, and the share of packets that are lost."""

SHALLOW = {"num_hidden_layers": 1}
TRAFFIC: Sizes = {name: {**sizes, **SHALLOW} for name, sizes in FULL.items()}
"""BLIP-2 2.7B as far as the link sees it."""


def configs(folder: Path) -> dict[str, Config]:
    """Return what is run of each VLM; one is written to `folder`."""
    torch.manual_seed(0)
    model(TRAFFIC, torch.device("cpu"), torch.float32).save_pretrained(folder)
    processor(224).save_pretrained(folder)
    vlm = ModelConfig(vlm=str(folder), lora=LoRAConfig(rank=16))
    large = replace(CONFIG, model=vlm, env=replace(CONFIG.env, image_size=224), device="cpu")
    return {"small": CONFIG, "sizes of BLIP-2 2.7B": large}


@contextmanager
def cluster(inside: list[str], folder: str) -> Iterator[RolloutsConfig]:
    """Be a Ray cluster of two nodes, of which one is a server at the other end of the link; yield
    what lets it encode."""
    node = f"{sys.executable} -m ray.scripts.scripts start --block --node-ip-address"
    head = f"{node} {HERE} --head --port 6379 --num-cpus 1 --include-dashboard false --temp-dir"
    server = f"{node} {THERE} --address {HERE}:6379 --num-cpus 2 --resources"
    with running([*head.split(), folder]), running([*inside, *server.split(), '{"server": 1}']):
        yield RolloutsConfig(
            encoder="ray", device="cpu", ray_address=f"{HERE}:6379", ray_resource="server"
        )


@contextmanager
def running(command: list[str]) -> Iterator[None]:
    """Run a node of Ray; return when it has started. In the end all of its processes end."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    ) as node:
        try:
            assert node.stdout is not None
            if not any("Ray runtime started" in line for line in node.stdout):
                raise UserError(f"no node: {' '.join(command)}")
            yield
        finally:
            node.terminate()  # Ray ends what it has started
            with suppress(subprocess.TimeoutExpired):
                node.wait(20)
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)


def measured(delay: float, loss: float, config: Config, decisions: int) -> dict[str, Any]:
    """Return the latencies of both ways over one link."""
    with ExitStack() as life:
        folder = life.enter_context(tempfile.TemporaryDirectory(prefix="ray", dir="/tmp"))
        inside = life.enter_context(bad_link(delay=delay, loss=loss))
        rollouts = life.enter_context(cluster(inside, folder))
        config = replace(config, rollouts=rollouts)
        return run(decisions=decisions, config=config, ways=("off", "server"))


def main(file: tyro.conf.Positional[Path], decisions: int = 150) -> None:
    """Measure each VLM over each link, and append to FILE."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled"  # nobody else is on this link
    tcp = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    with tempfile.TemporaryDirectory() as folder:
        for vlm, config in configs(Path(folder) / "blip2").items():
            for delay, loss in LINKS:
                found = measured(delay, loss, config, decisions)
                link = {"delay_ms": 1000 * delay, "loss": loss, "tcp": tcp}
                line = {"vlm": vlm, "link": link, **found}
                line |= {"machine": machine(), "git": git_commit()}
                with file.open("a") as lines:
                    lines.write(json.dumps(line) + "\n")
                total = found["server"]["total"]
                print(vlm, link, total, f"{found['server']['missed']} missed", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
