"""Actors of a cluster without a cluster: players in this process, which can be lost."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from irevla.compute.ray_actors import LONGEST, Lost, RayActors
from irevla.rollout.player import Player

LOST: list[tuple[int, int]] = []  # (actor, which message to it) at which it dies, once each


class Players(RayActors):
    """The actors that `RayActors` would start. What one is asked it does when it is listened to."""

    made: "list[Players]" = []  # noqa: RUF012  # all that were ever made
    spoil: Callable[[bytes], bytes] = staticmethod(lambda message: message)  # on the way there

    def __init__(self, kind: str, *, number: int, **settings: Any) -> None:
        assert kind == "irevla.rollout.player:Player"
        self.settings = settings
        self.players = [Player() for _ in range(number)]
        self.heard: list[list[bytes]] = [[] for _ in range(number)]  # by each, of all its lives
        self.closed = False
        Players.made.append(self)

    def __len__(self) -> int:
        return len(self.players)

    def ask(self, index: int, message: bytes) -> Any:
        return message

    def answer(self, index: int, asked: Any, *, most: float = LONGEST) -> bytes:
        self.heard[index].append(asked)
        answer = self.players[index].answer(type(self).spoil(asked))
        mark = (index, len(self.heard[index]))
        if mark in LOST:  # it has done it, and dies before it can tell
            LOST.remove(mark)
            raise Lost("died")
        return answer

    def ready(self, asked: Mapping[int, Any]) -> Sequence[int]:
        return [max(asked)]

    def replace(self, index: int) -> None:
        self.players[index].close()
        self.players[index] = Player()

    def close(self) -> None:
        self.closed = True
        for player in self.players:
            player.close()
