"""Each worker keeps to tasks of its own, and every job is played once."""

from dataclasses import replace

from irevla.config import EnvConfig
from irevla.envs.by_task import ByTask
from irevla.envs.suite import load_suite
from irevla.envs.vector import Job, VectorEnv
from irevla.rollout.actors import ScriptedExpert
from irevla.rollout.episodes import EpisodeRecorder
from irevla.rollout.serve import Server

SUITE = load_suite("scripted_suite:SCRIPTED")


def numbered(task: str, episodes: int) -> list[Job]:
    return [Job(task, seed) for seed in range(episodes)]


def test_a_worker_goes_on_with_a_task_of_its_own() -> None:
    jobs = numbered("a", 3) + numbered("b", 2) + numbered("c", 2)
    handing = ByTask(jobs, 2)
    turns = [handing.next(worker) for worker in (0, 1, 0, 1, 1, 0, 1)]
    told = [(job.task, job.seed) for job in turns if job]
    assert told == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("c", 0), ("a", 2), ("c", 1)]
    assert handing.next(0) is None and handing.next(1) is None


def test_where_no_task_is_free_a_worker_helps_where_most_is_left() -> None:
    handing = ByTask(numbered("a", 2) + numbered("b", 5), 3)
    told = [job.task for job in (handing.next(worker) for worker in (0, 1, 2, 2, 0, 0)) if job]
    assert told == ["a", "b", "b", "b", "a", "b"]


def test_the_same_episodes_are_played_in_whatever_order() -> None:
    jobs = numbered("mixed", 5) + numbered("win", 3) + numbered("timeout", 4)
    config = EnvConfig(image_size=16, horizon=3, workers=2, envs_per_worker=2)
    played = []
    for by_task in (False, True):
        with VectorEnv(SUITE, config, iter(jobs), by_task=by_task) as vec:
            outcomes = list(Server(vec, ScriptedExpert(), EpisodeRecorder(vec)).serve())
        assert len(outcomes) == len(jobs)
        played.append({(o.job.task, o.job.seed): (o.success, o.length) for o in outcomes})
    assert played[0] == played[1]


def test_a_task_is_made_in_one_worker() -> None:
    jobs = numbered("win", 6) + numbered("timeout", 6)
    config = EnvConfig(image_size=16, horizon=3, workers=2, envs_per_worker=2)
    seen: dict[str, set[int]] = {}
    with VectorEnv(SUITE, config, iter(jobs), by_task=True) as vec:
        for worker in range(vec.workers):
            result = vec.recv(worker)
            for job in result.jobs:
                seen.setdefault(job.task if job else "", set()).add(worker)
            vec.send(worker, None)
    assert seen == {"win": {0}, "timeout": {1}}


def test_what_is_given_up_is_a_share_of_all_jobs() -> None:
    """Whatever comes first: by task, one that fails is begun with the first."""
    jobs = numbered("win", 160) + numbered("reset-dies", 1)
    config = EnvConfig(image_size=16, horizon=3, workers=2, envs_per_worker=4, lost_share=0.02)
    with VectorEnv(SUITE, config, iter(jobs), by_task=True, max_retries=1) as vec:
        outcomes = list(Server(vec, ScriptedExpert(), EpisodeRecorder(vec)).serve())
    seen = {(outcome.job.task, outcome.job.seed) for outcome in outcomes}
    assert len(outcomes) == len(seen) == len(jobs) - len(vec.given_up) and vec.dropped > 0
    assert Job("reset-dies", 0) in [replace(job, instruction="") for job in vec.given_up]
