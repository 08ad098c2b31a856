import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Pipe
from pathlib import Path

import numpy as np
import pytest

from irevla.config import EnvConfig
from irevla.envs.suite import load_suite
from irevla.envs.vector import Job, StepResult, VectorEnv
from irevla.envs.worker import Disturbance
from irevla.errors import UserError

SCRIPTED = load_suite("scripted_suite:SCRIPTED")
POINTMASS = load_suite("pointmass")
CONFIG = EnvConfig(image_size=16, horizon=3, workers=1, envs_per_worker=2, timeout=20.0)


def zeros(vec: VectorEnv) -> np.ndarray:
    return np.zeros((vec.n, vec.action_dim), np.float32)


def walk(vec: VectorEnv, *, worker: int = 0) -> Iterator[StepResult]:
    """What one worker shows, step by step, until it has no more jobs."""
    while True:
        slots = vec.recv(worker)
        yield slots
        if not slots.playing.any():
            return
        vec.send(worker, zeros(vec))


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def gone_within(pids: list[int], *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


def test_jobs_in_order_with_auto_reset_and_idle_slots() -> None:
    jobs = [
        Job("mixed", seed) for seed in (0, 1, 2)
    ]  # even: success at decision 2; odd: truncated at 3
    with VectorEnv(SCRIPTED, CONFIG, iter(jobs)) as vec:
        first, *later = walk(vec)
    assert first.jobs == (jobs[0], jobs[1]) and first.previous == (None, None)
    assert not first.ended.any() and not first.rewards.any()
    assert [slots.jobs for slots in later] == [
        (jobs[0], jobs[1]),
        (jobs[2], jobs[1]),
        (jobs[2], None),
        (None, None),
    ]
    assert [slots.step.tolist() for slots in later] == [[1, 1], [0, 2], [1, 0], [0, 0]]
    assert [slots.ended.tolist() for slots in later] == [
        [False, False],
        [True, False],
        [False, True],
        [True, False],
    ]
    assert [slots.previous for slots in later][1:3] == [(jobs[0], jobs[1]), (jobs[2], jobs[1])]


def test_terminated_truncated_and_success_stay_three_fields() -> None:
    with VectorEnv(
        SCRIPTED, CONFIG, iter([Job("mixed", 0), Job("mixed", 1), Job("mixed", 4)])
    ) as vec:
        slots = list(walk(vec))
    assert [s.terminated.tolist() for s in slots[2:4]] == [[True, False], [False, False]]
    assert [s.success.tolist() for s in slots[2:4]] == [[True, False], [False, False]]
    assert [s.truncated.tolist() for s in slots[2:4]] == [[False, False], [False, True]]
    assert [s.rewards.tolist() for s in slots[2:4]] == [[1, 0], [0, 0]]
    ended = slots[2]
    assert ended.final_images[0, 0, :2, 0].tolist() == [0, 2]  # seed 0 after two decisions
    assert ended.images[0, 0, :2, 0].tolist() == [4, 0]  # already seed 4 before its first
    assert slots[3].final_images[1, 0, :2, 0].tolist() == [1, 3]


def test_few_jobs_are_spread_over_the_workers_and_the_rest_stays_idle() -> None:
    config = EnvConfig(image_size=16, horizon=3, workers=3, envs_per_worker=2, timeout=20.0)
    with VectorEnv(SCRIPTED, config, iter([Job("win", 5), Job("win", 6)])) as vec:
        assert len(vec.pids) == 2  # nothing to do, no process
        assert [vec.recv(worker).playing.tolist() for worker in range(3)] == [
            [True, False],
            [True, False],
            [False, False],
        ]


def test_expert_labels_are_clean_and_noise_is_seeded_by_the_job() -> None:
    def executed(noise: float, seed: int) -> list[int]:
        with VectorEnv(SCRIPTED, CONFIG, iter([Job("timeout", seed, noise=noise)])) as vec:
            vec.recv(0)
            vec.send(0, None)
            slots = vec.recv(0)
            assert slots.labels.tolist() == [[0.5, -0.25], [0, 0]]
            return slots.images[0, 1, 0, :2].tolist()

    assert executed(0.0, 1) == [150, 75]
    noisy = executed(0.3, 1)
    assert noisy != [150, 75] and noisy == executed(0.3, 1) and noisy != executed(0.3, 2)
    assert max(executed(50.0, 1)) <= 200  # clipped


def test_a_policys_labels_are_clean_of_the_jobs_noise() -> None:
    with VectorEnv(
        SCRIPTED, CONFIG, iter([Job("timeout", 1, noise=0.3), Job("timeout", 2)])
    ) as vec:
        vec.recv(0)
        vec.send(0, np.array([[0.5, -0.25], [0.5, -0.25]], np.float32))
        slots = vec.recv(0)
    assert slots.labels.tolist() == [[0.5, -0.25], [0.5, -0.25]]
    disturbed, calm = slots.images[:, 1, 0, :2].tolist()
    assert disturbed != [150, 75] and calm == [150, 75]


def test_noise_in_bursts_lasts_and_pauses() -> None:
    noise = Disturbance(Job("timeout", 3, noise=0.5, burst=4))
    draws = np.stack([noise.draw(7) for _ in range(400)]).reshape(100, 4, 7)
    assert (draws == draws[:, :1]).all(), "the same throughout a burst"
    loud = draws[draws[:, 0].any(axis=1), 0]
    assert 0.2 < len(loud) / len(draws) < 0.4 and 0.45 < loud.std() < 0.55
    assert len(np.unique(loud[:, 0])) == len(loud)


def test_actions_are_clipped_and_labels_are_what_was_done() -> None:
    with VectorEnv(SCRIPTED, CONFIG, iter([Job("timeout", 0), Job("timeout", 1)])) as vec:
        vec.recv(0)
        vec.send(0, np.array([[5, 0.1], [-0.2, -9]], np.float32))
        slots = vec.recv(0)
    assert slots.images[:, 1, 0, :2].tolist() == [[200, 110], [80, 0]]
    assert np.allclose(slots.labels, [[1, 0.1], [-0.2, -1]])


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_where_somebody_takes_over_labels_are_theirs_and_the_success_too(noise: float) -> None:
    jobs = [Job("taken-over", 0, noise=noise), Job("win", 1), Job("timeout", 2), Job("timeout", 3)]
    with VectorEnv(SCRIPTED, CONFIG, iter(jobs)) as vec:
        vec.recv(0)
        vec.send(0, np.array([[1, 1], [1, 1]], np.float32))
        slots = vec.recv(0)
        assert np.allclose(slots.labels, [[-0.5, 0.5], [1, 1]])
        vec.send(0, np.array([[1, 1], [1, 1]], np.float32))
        slots = vec.recv(0)
    assert (
        slots.terminated.all()
        and slots.rewards.tolist() == [1, 1]
        and slots.success.tolist() == [False, True]
    )


def test_a_person_who_is_the_expert_succeeds() -> None:
    with VectorEnv(SCRIPTED, CONFIG, iter([Job("taken-over", 0), Job("win", 1)])) as vec:
        for _ in range(2):
            vec.recv(0)
            vec.send(0, None)
        assert vec.recv(0).success.all()


def test_not_a_number_is_never_sent() -> None:
    with VectorEnv(SCRIPTED, CONFIG, iter([Job("win", 0)])) as vec:
        vec.recv(0)
        with pytest.raises(AssertionError, match="not finite"):
            vec.send(0, np.full((2, 2), np.nan, np.float32))


def test_draw_off_reaches_the_environment_and_comes_back_on() -> None:
    jobs = [Job("win", 9, draw=False), Job("win", 9)]
    with VectorEnv(
        SCRIPTED, EnvConfig(image_size=16, horizon=3, workers=1, envs_per_worker=1), iter(jobs)
    ) as vec:
        pictures = [slots.images.any() for slots in walk(vec)]
    assert pictures == [False, False, True, True, False]


def test_killed_workers_are_replaced_again_and_again() -> None:
    jobs = [Job("timeout", seed) for seed in range(8)]
    finished, kills = [], 0
    with VectorEnv(SCRIPTED, CONFIG, iter(jobs), max_retries=1) as vec:
        for slots in walk(vec):
            finished += [
                job for job, ended in zip(slots.previous, slots.ended, strict=True) if ended
            ]
            if slots.lost.any():
                assert slots.lost.all() and slots.jobs == slots.previous  # the same episodes ...
                assert (
                    not slots.step.any() and not slots.images[:, 0, 1].any()
                )  # ... from their beginning
            if kills < 3 and slots.step[0] == 1 and len(finished) == 2 * kills:
                os.kill(vec.pids[0], signal.SIGKILL)
                kills += 1
        assert vec.dropped == 2 * kills == 6
    assert finished == jobs


def test_a_hung_worker_is_replaced_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IREVLA_TEST_FLAG", str(tmp_path / "hung"))
    config = EnvConfig(image_size=16, horizon=3, workers=2, envs_per_worker=1, timeout=0.5)
    with VectorEnv(SCRIPTED, config, iter([Job("timeout", 0), Job("hang-once", 1)])) as vec:
        pids = vec.pids
        seen = {worker: list(walk(vec, worker=worker)) for worker in range(2)}
        assert vec.pids[0] == pids[0] and vec.pids[1] != pids[1]
        assert not alive(pids[1])
        assert vec.dropped == 1
    assert [bool(slots.lost.any()) for slots in seen[1]] == [False, True, False, False, False]


def test_close_with_a_hung_worker_returns_and_leaves_nobody() -> None:
    vec = VectorEnv(SCRIPTED, CONFIG, iter([Job("hang", 0)]))
    vec.recv(0)
    vec.send(0, zeros(vec))
    start, pids = time.monotonic(), vec.pids
    vec.close()
    vec.close()  # again is fine
    assert time.monotonic() - start < 5
    assert not any(map(alive, pids))


def test_an_exception_is_retried_then_told_with_its_traceback() -> None:
    with VectorEnv(SCRIPTED, CONFIG, iter([Job("raise", 0)]), max_retries=1) as vec:
        vec.recv(0)
        vec.send(0, zeros(vec))
        assert vec.recv(0).lost.tolist() == [True, False]
        vec.send(0, zeros(vec))
        with pytest.raises(
            RuntimeError, match=r"(?s)seed=0.*lost 2 times.*ArithmeticError: the arm went through"
        ):
            vec.recv(0)


def test_a_users_error_is_told_at_once() -> None:
    with VectorEnv(SCRIPTED, CONFIG, iter([Job("user-error", 0)])) as vec:
        vec.recv(0)
        vec.send(0, zeros(vec))
        with pytest.raises(UserError, match="the table is missing; bring one"):
            vec.recv(0)


def test_a_worker_that_dies_in_reset_gives_up_after_the_retries() -> None:
    with (
        VectorEnv(SCRIPTED, CONFIG, iter([Job("reset-dies", 0)]), max_retries=1) as vec,
        pytest.raises(
            RuntimeError, match=r"lost 2 times in a row; the last worker died \(exit status 7\)"
        ),
    ):
        vec.recv(0)


def test_unknown_names_are_told_before_any_worker_starts() -> None:
    with pytest.raises(UserError, match="did you mean 'pointmass'"):
        VectorEnv(load_suite("pointmas"), CONFIG, iter([]))
    with pytest.raises(UserError, match="did you mean 'left-disc'"):
        VectorEnv(POINTMASS, CONFIG, iter([Job("left-disk", 0)]))


PARENT = """
import sys, time
from irevla.config import EnvConfig
from irevla.envs.suite import load_suite
from irevla.envs.vector import Job, VectorEnv
import numpy as np
config = EnvConfig(image_size=16, horizon=3, workers=2, envs_per_worker=1)
jobs = iter([Job("win", 0), Job("hang", 1)])
vec = VectorEnv(load_suite("scripted_suite:SCRIPTED"), config, jobs)
for worker in range(2):
    vec.recv(worker)
vec.send(1, np.zeros((1, 2), np.float32))  # hangs
print(*vec.pids, flush=True)
time.sleep(1000)
"""


def test_no_orphans_when_the_driver_is_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    for pid in pids:
        os.kill(pid, signal.SIGINT)  # Ctrl-C is the driver's business
    assert not gone_within(pids, seconds=0.3)
    parent.kill()
    parent.communicate()
    assert gone_within(pids, seconds=4)


def test_a_worker_has_no_torch_and_one_thread() -> None:
    script = "import irevla.envs.worker, irevla.envs.pointmass, sys, json;"
    script += "print(json.dumps('torch' in sys.modules))"
    assert json.loads(subprocess.check_output([sys.executable, "-c", script])) is False
    with VectorEnv(POINTMASS, CONFIG, iter([Job("left-disc", 0)])) as vec:
        vec.recv(0)
        environment = Path(f"/proc/{vec.pids[0]}/environ").read_bytes().split(b"\0")
    assert b"OMP_NUM_THREADS=1" in environment and b"LP_NUM_THREADS=0" in environment


def test_a_worker_whose_driver_left_before_the_first_word_says_nothing() -> None:
    """Ctrl-C just after the start."""
    mine, theirs = Pipe()
    with tempfile.TemporaryFile() as memory:
        files = (theirs.fileno(), memory.fileno())
        argv = [sys.executable, "-m", "irevla.envs.worker", str(os.getpid()), *map(str, files)]
        worker = subprocess.Popen(argv, pass_fds=files, stderr=subprocess.PIPE)
        theirs.close()
        mine.close()
        _, said = worker.communicate(timeout=60)
    assert worker.returncode == 0 and said == b""
