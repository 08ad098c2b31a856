"""Does learning delay acting? Decisions at a fixed rate, with SAC idle, in a process of its own,
and in a thread.

The toy suite stands for the arm: its worker shows a picture when it has done what it was told. A
decision begins at its beat, with that picture, and is missed where the action is not sent before
the next beat.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from irevla.config import Config, EnvConfig, SACConfig
from irevla.data.replay import LatentEpisode
from irevla.envs.vector import VectorEnv
from irevla.learners.sac import SAC
from irevla.models.build import build_policy
from irevla.models.policy import VLAPolicy
from irevla.rollout import endless_jobs
from irevla.runs.run import Run, open_run
from irevla.setting import threads
from irevla.stage1.beside import Beside
from irevla.stage1.latents import Decide
from irevla.stage1.learner import Learner
from irevla.stage1.sac import open_replay
from irevla.turn import Turn
from irevla.types import Features

TURN, ALWAYS = Turn("left-disc"), 1e6  # updates per decision: there is always something to learn
WARM_UP = 10  # decisions before the clock starts
PARTS = ("encode", "act", "send", "total")
CONFIG = Config(
    suite="pointmass",
    rl="sac",
    env=EnvConfig(workers=1, envs_per_worker=1),
    sac=SACConfig(gripper=False, apart=True, updates_per_decision=ALWAYS),
)


def run(*, decisions: int = 300, hz: float = 10.0, config: Config = CONFIG) -> dict[str, Any]:
    """`decisions` at `hz` in each way; "ratio" is the 99th percentile of the whole latency while
    SAC learns in its own process, over that while it does not learn."""
    ways = {"off": _off, "apart": _apart, "thread": _thread}
    with tempfile.TemporaryDirectory() as folder, threads(1):
        found = {}
        for name, way in ways.items():
            with open_run(Path(folder) / name, config) as opened:
                torch.manual_seed(0)
                policy = build_policy(
                    config.model, action_dim=2, image_size=config.env.image_size
                ).eval()
                found[name] = measure(
                    policy, _learner(opened, policy), way, opened, decisions=decisions, hz=hz
                )
    ratio = found["apart"]["total"]["p99_ms"] / found["off"]["total"]["p99_ms"]
    settings = {
        "decisions": decisions,
        "hz": hz,
        "vlm": config.model.vlm,
        "image_size": config.env.image_size,
    }
    return {
        "ratio": ratio,
        **found,
        "settings": {**settings, "batch": config.sac.batch, "utd": config.sac.utd},
    }


Way = Callable[[Run, VLAPolicy, Learner], AbstractContextManager[Decide]]


def measure(
    policy: VLAPolicy, learner: Learner, way: Way, opened: Run, *, decisions: int, hz: float
) -> dict[str, Any]:
    """Latencies of each part of a decision, how many were missed, and how many updates there were
    beside them."""
    jobs = endless_jobs(TURN.task, 0)
    with (
        way(opened, policy, learner) as act,
        VectorEnv(opened.config.suite, opened.config.env, jobs) as vec,
    ):
        keep_time(vec, policy, act, decisions=WARM_UP, hz=hz)
        before, start = _updates(learner), time.perf_counter()
        seconds = keep_time(vec, policy, act, decisions=decisions, hz=hz)
        updates, elapsed = _updates(learner) - before, time.perf_counter() - start
    return {
        "decisions": decisions,
        "missed": int((seconds[:, -1] > 1 / hz).sum()),
        "updates_per_s": updates / elapsed,
        **{name: _summary(column) for name, column in zip(PARTS, seconds.T, strict=True)},
    }


@torch.no_grad()
def keep_time(
    vec: VectorEnv, policy: VLAPolicy, act: Decide, *, decisions: int, hz: float
) -> Float[np.ndarray, "decisions 4"]:
    """Decide at each beat; seconds of each of `PARTS`, the last from the beat to the action's
    sending."""
    seconds, beat = np.zeros((decisions, len(PARTS))), time.perf_counter()
    for row in seconds:
        slots = vec.recv(0)
        beat = max(beat + 1 / hz, time.perf_counter())  # after a missed one, anew
        time.sleep(max(0.0, beat - time.perf_counter()))
        marks = [time.perf_counter()]
        features = policy.encode(slots.images, vec.instructions(slots.jobs))
        marks.append(time.perf_counter())
        actions = act(features)
        marks.append(time.perf_counter())
        vec.send(0, actions.float().cpu().numpy())
        marks.append(time.perf_counter())
        row[:] = [*np.diff(marks), marks[-1] - beat]
    return seconds


def _summary(seconds: Float[np.ndarray, " n"]) -> dict[str, float]:
    median, late = np.percentile(1000 * seconds, (50, 99))
    return {"median_ms": float(median), "p99_ms": float(late)}


def _learner(opened: Run, policy: VLAPolicy) -> Learner:
    """SAC with buffers of random latents: speed does not depend on the values."""
    stores = [open_replay(opened, policy, TURN, name) for name in ("demonstrations", "online")]
    for store in stores:
        spec, length = store.spec, 40
        seen = torch.randn(length + 1, spec.tokens, spec.width)
        features = Features(seen, torch.ones(seen.shape[:2], dtype=torch.bool))
        actions = 2 * torch.rand(length, spec.action_dim) - 1
        for seed in range(20):
            store.append(
                LatentEpisode(features, actions, torch.zeros(length), False),
                seed=seed,
                success=False,
            )
    sac = SAC(policy.action_head, opened.config.sac, generator=torch.Generator().manual_seed(0))
    learner = Learner(
        opened, policy, TURN.stage("rl"), sac=sac, demonstrations=stores[0], online=stores[1]
    )
    learner.count()
    return learner


def _updates(learner: Learner) -> int:
    return learner.progress.updates


def _off(opened: Run, policy: VLAPolicy, learner: Learner) -> AbstractContextManager[Decide]:
    return nullcontext(learner.act)


@contextmanager
def _apart(opened: Run, policy: VLAPolicy, learner: Learner) -> Iterator[Decide]:
    """As a run with `sac.apart`: what the learner says is heard before each decision, which takes
    the newest actor."""
    with Beside(opened, policy, TURN, learner) as beside:

        def act(features: Features) -> torch.Tensor:
            beside.catch_up()
            return beside.act(features)

        yield act


@contextmanager
def _thread(opened: Run, policy: VLAPolicy, learner: Learner) -> Iterator[Decide]:
    """The usual short cut: a thread of the same process."""
    over = threading.Event()

    def learn() -> None:
        torch.set_num_threads(1)
        while not over.is_set():
            learner.update()

    thread = threading.Thread(target=learn, daemon=True)
    thread.start()
    try:
        yield learner.act
    finally:
        over.set()
        thread.join()
