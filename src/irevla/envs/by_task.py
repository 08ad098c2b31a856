"""Which worker plays which tasks: to make a task costs as much as a few of its episodes, and its
memory in each worker that has made it."""

from collections import deque
from collections.abc import Iterable

from irevla.envs.worker import Job


class ByTask:
    """A finite number of jobs, of which each worker is given those of one task after the other: of
    one that no other worker plays, as long as there is such a task."""

    def __init__(self, jobs: Iterable[Job], workers: int) -> None:
        self.total = 0  # jobs
        self._left: dict[str, deque[Job]] = {}
        for job in jobs:
            self.total += 1
            self._left.setdefault(job.task, deque()).append(job)
        self._playing: list[str | None] = [None] * workers

    def next(self, worker: int) -> Job | None:
        """Return the next job of a worker; None where none is left."""
        if not self._left:
            return None
        task = self._playing[worker]
        if task not in self._left:
            task = self._playing[worker] = self._other()
        jobs = self._left[task]
        job = jobs.popleft()
        if not jobs:
            del self._left[task]
        return job

    def _other(self) -> str:
        """Return the first task that nobody plays, or else that of which most is left."""
        free = [task for task in self._left if task not in self._playing]
        return free[0] if free else max(self._left, key=lambda task: len(self._left[task]))
