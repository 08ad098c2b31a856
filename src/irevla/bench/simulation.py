"""What PPO's rollouts by many actors come to, from what each step costs: a simulation.

A machine's cores are shared out evenly among whatever wants them. An actor serves its workers in
turn, as `rollout.serve` does: one is encoded while the others step. Synchronously, as irevla does
it, the learner waits for all actors and they for it; asynchronously, which irevla does not do, each
actor goes on with the newest head that it has, at most one rollout ahead of the learner.
"""

import heapq
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

TINY = 1e-12  # seconds that are none: rounding
DRAWS = 200  # of who is the slowest
ROUNDS = 40  # of the asynchronous way, of which the first half is left out


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes."""

    step: float  # seconds of a core for one decision of one environment
    encode: float  # seconds of a pass of the VLM, whatever is in it ...
    image: float  # ... and for each image
    act: float  # seconds of a worker's turn beside that: receiving, deciding, sending
    update: float  # seconds of learning from one decision, in all epochs
    pack: float  # seconds for each byte that an actor sends
    unpack: float  # seconds for each byte that the learner receives
    head: float  # bytes of a head
    decision: float  # bytes that come back of one decision
    latency: float  # seconds of an empty message there and back
    bandwidth: float  # bytes a second to and from the learner
    spread: float = 0.0  # standard deviation of an actor's rollouts, as a share of their mean


@dataclass(frozen=True)
class Layout:
    """Who plays where."""

    actors: int
    workers: int  # of each actor
    envs: int  # of each worker
    decisions: int  # of each environment in a rollout
    cores: int  # of a machine
    together: int = 1  # actors that share a machine
    gpu: bool = False  # whether encoding and learning leave the cores to others

    @property
    def batch(self) -> int:
        """Decisions of one rollout of all actors."""
        return self.actors * self.own

    @property
    def own(self) -> int:
        """Decisions of one rollout of one actor."""
        return self.workers * self.envs * self.decisions


@dataclass(frozen=True)
class Round:
    """One rollout of all actors and one update, on average."""

    seconds: float
    decisions_per_s: float
    idle: float  # share of the time in which an actor's VLM has nothing to encode
    staleness: float  # updates of the head between playing and learning, on average
    parts: dict[str, float]  # seconds of the round, by what they are spent on

    @property
    def bottleneck(self) -> str:
        """What takes most of the round."""
        return max(self.parts, key=lambda name: self.parts[name])

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**vars(self), "bottleneck": self.bottleneck}


def encoding_seconds(costs: Costs, layout: Layout) -> float:
    """Return how long the VLM of one actor is busy in a rollout."""
    turn = costs.encode + costs.image * layout.envs + costs.act
    return turn * layout.workers * layout.decisions


def rollout_seconds(costs: Costs, layout: Layout) -> float:
    """Return how long the actors that share one machine take for a rollout."""
    machine = _Machine(costs, layout)
    while machine.tasks:
        machine.go_on()
    return machine.now


class _Machine:
    """Some actors on one machine: who is at work, and how much of it is left."""

    def __init__(self, costs: Costs, layout: Layout) -> None:
        self.now = 0.0
        self.tasks: dict[tuple[int, int], float] = {}  # (actor, worker; -1: its VLM) -> seconds
        self._costs = costs
        self._layout = layout
        self._ready = [set(range(layout.workers)) for _ in range(layout.together)]
        self._served = [0] * layout.together  # turns so far
        for actor in range(layout.together):
            self._encode_next(actor)

    def go_on(self) -> None:
        """Go on to the next moment at which somebody is done."""
        on_cores = [key for key in self.tasks if not (self._layout.gpu and key[1] < 0)]
        rate = min(1.0, self._layout.cores / max(1, len(on_cores)))
        rates = {key: rate if key in on_cores else 1.0 for key in self.tasks}
        step = min(left / rates[key] for key, left in self.tasks.items())
        self.now += step
        for key in self.tasks:
            self.tasks[key] -= step * rates[key]
        for key in [key for key, left in self.tasks.items() if left <= TINY]:
            del self.tasks[key]
            self._finish(*key)

    def _finish(self, actor: int, worker: int) -> None:
        if worker < 0:
            turn = self._served[actor] % self._layout.workers
            self._served[actor] += 1
            self.tasks[actor, turn] = self._costs.step * self._layout.envs
        else:
            self._ready[actor].add(worker)
        self._encode_next(actor)

    def _encode_next(self, actor: int) -> None:
        layout = self._layout
        turn = self._served[actor] % layout.workers
        over = self._served[actor] == layout.workers * layout.decisions
        if over or turn not in self._ready[actor] or (actor, -1) in self.tasks:
            return
        self._ready[actor].remove(turn)
        costs = self._costs
        self.tasks[actor, -1] = costs.encode + costs.image * layout.envs + costs.act


def synchronous(costs: Costs, layout: Layout) -> Round:
    """Return what a round is where all wait for the slowest, and then for the learner."""
    playing = rollout_seconds(costs, layout)
    encoding = encoding_seconds(costs, layout)
    sent = layout.own * costs.decision
    there_and_back = layout.actors * (sent + costs.head) / costs.bandwidth + costs.latency
    parts = {
        "encoding": encoding,
        "environments": max(0.0, playing - encoding),
        "stragglers": playing * costs.spread * expected_largest(layout.actors),
        "network": there_and_back,
        "messages": sent * costs.pack + layout.actors * sent * costs.unpack,
        "learner": layout.batch * costs.update,
    }
    seconds = sum(parts.values())
    return Round(seconds, layout.batch / seconds, 1 - encoding / seconds, 0.0, parts)


def expected_largest(number: int) -> float:
    """Return what the largest of so many standard normal numbers is, on average."""
    if number == 1:
        return 0.0
    draws = np.random.default_rng(0).standard_normal((DRAWS, number))
    return float(draws.max(1).mean())


def asynchronous(costs: Costs, layout: Layout) -> Round:
    """Return what a round would be where actors go on with the newest head that they have.

    An update takes the oldest rollouts, as many as there are actors.
    """
    queue = _Learner(costs, layout)
    playing = rollout_seconds(costs, replace(layout, actors=1)) + layout.own * costs.decision * (
        costs.pack
    )
    rng = np.random.default_rng(0)

    def lasts() -> float:
        return playing * max(0.1, 1 + costs.spread * float(rng.standard_normal()))

    heap = [(lasts(), actor, 0) for actor in range(layout.actors)]
    heapq.heapify(heap)
    while len(queue.ends) < ROUNDS:
        done, actor, version = heapq.heappop(heap)
        begins = queue.take(done, version)
        heapq.heappush(heap, (begins + lasts(), actor, queue.version(begins)))
    half = ROUNDS // 2
    seconds = (queue.ends[-1] - queue.ends[half - 1]) / (ROUNDS - half)
    encoding = encoding_seconds(costs, layout)
    stale = float(np.mean(queue.staleness[half:]))
    parts = {"encoding": encoding, "learner": queue.update, "network": queue.transfer}
    parts["environments"] = max(0.0, playing - encoding)
    return Round(seconds, layout.batch / seconds, max(0.0, 1 - encoding / seconds), stale, parts)


class _Learner:
    """One link and one learner, which take what comes in turn."""

    def __init__(self, costs: Costs, layout: Layout) -> None:
        sent = layout.own * costs.decision
        self.update = layout.batch * costs.update + layout.actors * sent * costs.unpack
        self.transfer = layout.actors * (sent + costs.head) / costs.bandwidth
        self.ends: list[float] = []  # of each update
        self.staleness: list[float] = []  # of each update's rollouts, on average
        self._actors = layout.actors
        self._latency = costs.latency
        self._begun = 0.0  # when the last update began, or will
        self._link = 0.0  # when the link is free
        self._waiting: deque[int] = deque()  # versions of the heads that played them

    def take(self, done: float, version: int) -> float:
        """Take a rollout that was done at a time; return when its actor begins the next one."""
        self._link = max(self._link, done) + self.transfer / self._actors
        arrived = self._link + self._latency
        self._waiting.append(version)
        if len(self._waiting) == self._actors:
            self._begun = max([arrived, *self.ends[-1:]])
            now = self.version(self._begun)
            self.staleness.append(now - float(np.mean(self._waiting)))
            self._waiting.clear()
            self.ends.append(self._begun + self.update)
        return max(arrived, self._begun)

    def version(self, time: float) -> int:
        """Return how many updates are done by then."""
        return sum(end <= time for end in self.ends)
