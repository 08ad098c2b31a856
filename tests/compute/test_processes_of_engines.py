"""Processes that an engine has started, and how they find each other."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from irevla.compute import ray_cluster
from irevla.compute.processes import ENGINE

WAITS = "import time; from irevla.compute.processes import obey; obey(lambda words: time.sleep(60))"


def test_one_whose_engine_died_before_it_had_begun_leaves() -> None:
    """Its parent is then another process, which lives on."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    environment = {**os.environ, ENGINE: str(gone.pid)}
    assert (
        subprocess.run([sys.executable, "-c", WAITS], env=environment, timeout=30).returncode == 1
    )


def test_one_whose_engine_lives_does_what_it_is_asked() -> None:
    done = WAITS.replace("time.sleep(60)", "time.sleep(2)")
    environment = {**os.environ, ENGINE: str(os.getpid())}
    assert subprocess.run([sys.executable, "-c", done], env=environment, timeout=30).returncode == 0


def test_what_torch_unpickles_is_in_a_file_of_this_user(tmp_path: Path) -> None:
    """Not in a store on the network, which torch opens on all interfaces."""
    torchrun = pytest.importorskip("irevla.compute.torchrun")
    from torch.distributed.launcher.api import LaunchConfig
    from torch.distributed.run import config_from_args, parse_args

    arguments = [*torchrun.meeting(str(tmp_path)), "--nproc-per-node", "2", "script.py"]
    found, *_ = config_from_args(parse_args(arguments))
    assert isinstance(found, LaunchConfig)
    assert found.rdzv_backend == "c10d" and found.rdzv_configs["store_type"] == "file"
    assert found.rdzv_endpoint == f"{tmp_path}/meeting"
    assert (found.min_nodes, found.max_nodes, found.nproc_per_node) == (1, 1, 2)
    again, *_ = config_from_args(parse_args([*torchrun.meeting(str(tmp_path)), "script.py"]))
    assert found.run_id != again.run_id


# --- Whether a cluster answers


@contextmanager
def server(answer: bytes) -> Iterator[str]:
    """Answer one who calls, and hold the line."""
    over = threading.Event()

    def serve() -> None:
        link, _ = listener.accept()
        with link:
            link.sendall(answer)
            over.wait(20)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        thread.join()


def test_what_speaks_as_ray_does_is_asked_further() -> None:
    with server(bytes([0, 0, 0, ray_cluster.SETTINGS, 0, 0, 0, 0, 0])) as address:
        ray_cluster._check_answer(address)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n"])
def test_what_is_no_ray_is_seen_in_seconds(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr(ray_cluster, "WAIT", 0.5)
    with server(answer) as address, pytest.raises((OSError, ValueError)):
        ray_cluster._check_answer(f"ray://{address}")


def test_a_cluster_named_by_the_environment_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_cluster, "WAIT", 0.5)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ray_cluster.UserError, match="no Ray cluster answers"):
        ray_cluster.connect("auto")
