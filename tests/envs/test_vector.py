import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Pipe
from pathlib import Path

import numpy as np
import pytest
from breaking_suite import BREAKING, BROKEN

from irevla.config import EnvConfig
from irevla.envs.suite import Authorization, load_suite
from irevla.envs.vector import Job, StepResult, VectorEnv, _failures
from irevla.envs.worker import Disturbance
from irevla.errors import UserError
from irevla.rollout.actors import ScriptedExpert
from irevla.rollout.episodes import EpisodeRecorder, in_order
from irevla.rollout.serve import Server

SCRIPTED = load_suite("scripted_suite:SCRIPTED")
REAL = load_suite("scripted_suite:REAL")
POINTMASS = load_suite("pointmass")
CONFIG = EnvConfig(image_size=16, horizon=3, workers=1, envs_per_worker=2, timeout=20.0)


def zeros(vec: VectorEnv) -> np.ndarray:
    return np.zeros((vec.n, vec.action_dim), np.float32)


def walk(vec: VectorEnv, *, worker: int = 0) -> Iterator[StepResult]:
    """What one worker shows, step by step, until it has no more jobs."""
    while True:
        result = vec.recv(worker)
        yield result
        if not result.playing.any():
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
    assert [result.jobs for result in later] == [
        (jobs[0], jobs[1]),
        (jobs[2], jobs[1]),
        (jobs[2], None),
        (None, None),
    ]
    assert [result.step.tolist() for result in later] == [[1, 1], [0, 2], [1, 0], [0, 0]]
    assert [result.ended.tolist() for result in later] == [
        [False, False],
        [True, False],
        [False, True],
        [True, False],
    ]
    assert [result.previous for result in later][1:3] == [(jobs[0], jobs[1]), (jobs[2], jobs[1])]


def test_terminated_truncated_and_success_stay_three_fields() -> None:
    with VectorEnv(
        SCRIPTED, CONFIG, iter([Job("mixed", 0), Job("mixed", 1), Job("mixed", 4)])
    ) as vec:
        result = list(walk(vec))
    assert [s.terminated.tolist() for s in result[2:4]] == [[True, False], [False, False]]
    assert [s.success.tolist() for s in result[2:4]] == [[True, False], [False, False]]
    assert [s.truncated.tolist() for s in result[2:4]] == [[False, False], [False, True]]
    assert [s.rewards.tolist() for s in result[2:4]] == [[1, 0], [0, 0]]
    ended = result[2]
    assert ended.final_images[0, 0, :2, 0].tolist() == [0, 2]  # seed 0 after two decisions
    assert ended.images[0, 0, :2, 0].tolist() == [4, 0]  # already seed 4 before its first
    assert result[3].final_images[1, 0, :2, 0].tolist() == [1, 3]


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
            result = vec.recv(0)
            assert result.labels.tolist() == [[0.5, -0.25], [0, 0]]
            return result.images[0, 1, 0, :2].tolist()

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
        result = vec.recv(0)
    assert result.labels.tolist() == [[0.5, -0.25], [0.5, -0.25]]
    disturbed, calm = result.images[:, 1, 0, :2].tolist()
    assert disturbed != [150, 75] and calm == [150, 75]


def test_noise_in_bursts_lasts_and_pauses() -> None:
    noise = Disturbance(Job("timeout", 3, noise=0.5, burst=4))
    draws = np.stack([noise.sample(7) for _ in range(400)]).reshape(100, 4, 7)
    assert (draws == draws[:, :1]).all(), "the same throughout a burst"
    loud = draws[draws[:, 0].any(axis=1), 0]
    assert 0.2 < len(loud) / len(draws) < 0.4 and 0.45 < loud.std() < 0.55
    assert len(np.unique(loud[:, 0])) == len(loud)


def test_actions_are_clipped_and_labels_are_what_was_done() -> None:
    with VectorEnv(SCRIPTED, CONFIG, iter([Job("timeout", 0), Job("timeout", 1)])) as vec:
        vec.recv(0)
        vec.send(0, np.array([[5, 0.1], [-0.2, -9]], np.float32))
        result = vec.recv(0)
    assert result.images[:, 1, 0, :2].tolist() == [[200, 110], [80, 0]]
    assert np.allclose(result.labels, [[1, 0.1], [-0.2, -1]])


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_where_somebody_takes_over_labels_are_theirs_and_the_success_too(noise: float) -> None:
    jobs = [Job("taken-over", 0, noise=noise), Job("win", 1), Job("timeout", 2), Job("timeout", 3)]
    with VectorEnv(SCRIPTED, CONFIG, iter(jobs)) as vec:
        vec.recv(0)
        vec.send(0, np.array([[1, 1], [1, 1]], np.float32))
        result = vec.recv(0)
        assert np.allclose(result.labels, [[-0.5, 0.5], [1, 1]])
        vec.send(0, np.array([[1, 1], [1, 1]], np.float32))
        result = vec.recv(0)
    assert (
        result.terminated.all()
        and result.rewards.tolist() == [1, 1]
        and result.success.tolist() == [False, True]
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
        with pytest.raises(UserError, match="not finite"):
            vec.send(0, np.full((2, 2), np.nan, np.float32))


def test_draw_off_reaches_the_environment_and_comes_back_on() -> None:
    jobs = [Job("win", 9, draw=False), Job("win", 9)]
    with VectorEnv(
        SCRIPTED, EnvConfig(image_size=16, horizon=3, workers=1, envs_per_worker=1), iter(jobs)
    ) as vec:
        images = [result.images.any() for result in walk(vec)]
    assert images == [False, False, True, True, False]


def test_killed_workers_are_replaced_again_and_again() -> None:
    jobs = [Job("timeout", seed) for seed in range(8)]
    finished, kills = [], 0
    with VectorEnv(SCRIPTED, CONFIG, iter(jobs), max_retries=1) as vec:
        for result in walk(vec):
            finished += [
                job for job, ended in zip(result.previous, result.ended, strict=True) if ended
            ]
            if result.lost.any():
                assert result.lost.all() and result.jobs == result.previous  # the same episodes ...
                assert (
                    not result.step.any() and not result.images[:, 0, 1].any()
                )  # ... from their beginning
            if kills < 3 and result.step[0] == 1 and len(finished) == 2 * kills:
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
    assert [bool(result.lost.any()) for result in seen[1]] == [False, True, False, False, False]


def test_close_with_a_hung_worker_returns_and_leaves_nobody() -> None:
    vec = VectorEnv(SCRIPTED, CONFIG, iter([Job("hang", 0)]))
    vec.recv(0)
    vec.send(0, zeros(vec))
    start, pids = time.monotonic(), vec.pids
    vec.close()
    vec.close()  # again is fine
    assert time.monotonic() - start < 5
    assert not any(map(alive, pids))


def test_an_exception_is_retried_then_told_with_one_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with VectorEnv(SCRIPTED, CONFIG, iter([Job("raise", 0)]), max_retries=2) as vec:
        vec.recv(0)
        for _ in range(2):
            vec.send(0, zeros(vec))
            assert vec.recv(0).lost.tolist() == [True, False]
        vec.send(0, zeros(vec))
        with pytest.raises(
            UserError,
            match=r"raise \(scripted\), seed 0, failed 3 times, each time as the worker raised "
            r"ArithmeticError: the arm went through the table; mend it$",
        ):
            vec.recv(0)
    assert caplog.text.count("Traceback") == 1
    assert caplog.text.count("ArithmeticError: the arm went through") == 2


def test_who_fails_in_several_ways_may_be_borne() -> None:
    same = ["raised ValueError: no light"] * 3
    assert _failures(same).endswith("no light; mend it")
    for other in ("raised ValueError: no table", "gave no answer for 60 s"):
        assert "4 times, at last: the worker" in _failures([*same, other])
        assert _failures([*same, other]).endswith("--env.lost-share")
    assert _failures(["gave no answer for 60 s"] * 4).endswith("--env.lost-share")


def test_a_share_of_lost_episodes_is_borne() -> None:
    """The one that fails is given up; those beside it, which are lost with it, are played."""
    jobs = [Job("timeout", 0), Job("raise", 1), *(Job("timeout", seed) for seed in range(2, 9))]
    config = replace(CONFIG, envs_per_worker=3, lost_share=0.3)
    with VectorEnv(SCRIPTED, config, iter(jobs), max_retries=1) as vec:
        server = Server(vec, ScriptedExpert(), EpisodeRecorder(vec))
        played = [outcome.job for outcome in in_order(server.serve(), jobs, vec.given_up)]
        assert vec.given_up == [jobs[1]] and vec.dropped == 2 * 3
        assert "1 episodes are missing" in vec.lost_note["note"]
    assert played == [job for job in jobs if job != jobs[1]]


def test_one_whose_start_fails_does_not_take_the_one_before_along() -> None:
    jobs = [Job("left-disc", seed) for seed in range(BROKEN - 2, BROKEN + 2)]
    config = EnvConfig(image_size=16, horizon=2, workers=1, envs_per_worker=1, lost_share=0.5)
    with VectorEnv(BREAKING, config, iter(jobs), max_retries=1) as vec:
        server = Server(vec, ScriptedExpert(), EpisodeRecorder(vec))
        played = [outcome.job.seed for outcome in server.serve()]
        assert [job.seed for job in vec.given_up] == [BROKEN]
    assert played == [BROKEN - 2, BROKEN - 1, BROKEN + 1]


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
            UserError, match=r"seed 0, failed 2 times, at last: the worker died \(exit status 7\)"
        ),
    ):
        vec.recv(0)


def test_unknown_names_are_told_before_any_worker_starts() -> None:
    with pytest.raises(UserError, match="did you mean 'pointmass'"):
        load_suite("pointmas")
    with pytest.raises(UserError, match="did you mean 'left-disc'"):
        VectorEnv(POINTMASS, CONFIG, iter([Job("left-disk", 0)]))


# --- further jobs, and episodes that go on in another process


def shown(vec: VectorEnv) -> list[list[np.ndarray]]:
    """All that the workers show to their last jobs' ends."""
    found = []
    for worker in range(vec.workers):
        for result in walk(vec, worker=worker):
            told = (result.images, result.step, result.rewards, result.terminated, result.truncated)
            jobs = np.array([str(job) for job in result.jobs])
            found.append([*told, result.final_images[result.ended], jobs])
    return found


def numbered(task: str, *seeds: int) -> list[Job]:
    return [Job(task, seed) for seed in seeds]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (numbered("mixed", 0, 1, 2, 3, 4, 5, 6), numbered("mixed", 7, 8, 9, 10, 11)),
        (numbered("mixed", 0, 1, 2, 3), numbered("win", 7)),  # fewer than slots
        (numbered("mixed", 0), numbered("timeout", 7, 8, 9, 10, 11)),  # one worker had nothing
        ([], numbered("mixed", 7, 8, 9, 10, 11)),
    ],
)
def test_further_jobs_play_as_in_a_fresh_one(first: list[Job], second: list[Job]) -> None:
    config = EnvConfig(image_size=16, horizon=3, workers=2, envs_per_worker=2, timeout=20.0)
    with VectorEnv(SCRIPTED, config, iter(second)) as fresh:
        expected = shown(fresh)
    with VectorEnv(SCRIPTED, config, iter(first)) as used:
        shown(used)
        pids = used.pids
        used.play(iter(second))
        found = shown(used)
        assert used.pids[: len(pids)] == pids or not pids
    np.testing.assert_equal(found, expected)


def test_further_jobs_wait_for_the_first() -> None:
    with VectorEnv(SCRIPTED, CONFIG, iter(numbered("mixed", 0))) as vec:
        vec.recv(0)
        with pytest.raises(AssertionError, match="under way"):
            vec.play(iter(numbered("mixed", 1)))


@pytest.mark.parametrize("actor", ["policy", "expert"])
def test_what_was_under_way_goes_on_in_another_process(actor: str) -> None:
    jobs = [Job("mixed", seed, noise=0.3, burst=2) for seed in range(9)]

    def choice(vec: VectorEnv) -> np.ndarray | None:
        return None if actor == "expert" else zeros(vec) + 0.25

    with VectorEnv(SCRIPTED, CONFIG, iter(jobs)) as vec:
        for _ in range(3):
            vec.recv(0)
            vec.send(0, choice(vec))
        before = vec.recv(0)
        state = json.loads(json.dumps(vec.state()))
        vec.send(0, choice(vec))
        expected = vec.recv(0)
    assert before.step.max() > 0
    with VectorEnv(SCRIPTED, CONFIG, iter(jobs), state=state) as vec:
        again = vec.recv(0)
        assert again.jobs == before.jobs and again.previous == (None, None)
        assert np.array_equal(again.images, before.images)
        assert np.array_equal(again.step, before.step)
        assert not again.rewards.any() and not again.ended.any()
        vec.send(0, choice(vec))
        found = vec.recv(0)
    assert found.jobs == expected.jobs and found.previous == expected.previous
    assert np.array_equal(found.images, expected.images)
    assert np.array_equal(found.ended, expected.ended)
    ended = found.ended
    assert np.array_equal(found.final_images[ended], expected.final_images[ended])


def test_there_is_no_state_amid_a_step() -> None:
    with VectorEnv(SCRIPTED, CONFIG, iter(numbered("mixed", 0))) as vec:
        with pytest.raises(AssertionError, match="at a step"):
            vec.state()
        vec.recv(0)
        vec.state()


# --- who may act


def test_who_may_act_reaches_the_worker_in_its_greeting_alone() -> None:
    before = dict(os.environ)

    def told(authorization: Authorization | None) -> list[int]:
        jobs = iter([Job("win", 0)])
        with VectorEnv(REAL, CONFIG, jobs, authorization=authorization) as vec:
            assert (vec.workers, vec.n) == (1, 1)  # as a real arm has it
            return vec.recv(0).images[0, 0, 2:4, 0].tolist()

    assert told(None) == [0, 0]
    assert told(Authorization("5ecc0de")) == [1, 0]
    assert told(Authorization("5ecc0de", learning=True)) == [2, 0]
    assert dict(os.environ) == before


PARENT = """
import sys, time
from irevla.config import EnvConfig
from irevla.envs.suite import Authorization, load_suite
from irevla.envs.vector import Job, VectorEnv
import numpy as np
config = EnvConfig(image_size=16, horizon=3, workers=2, envs_per_worker=1)
suite = load_suite("scripted_suite:SCRIPTED")
vec = VectorEnv(suite, config, iter([Job("win", 0), Job("hang", 1)]))
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
